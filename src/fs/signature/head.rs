//! What is recognised at the start of a device.

use std::io;

use super::{
    BCACHE_MAGIC, BCACHEFS_MAGIC, HEAD_BYTES, Signature, Span, hfs_plus, md1, nilfs2, ntfs_boot,
    zfs_uberblocks,
};
use crate::disk::DiskRead;

/// Looks whether something is there, and where.
type Test = fn(&Span) -> Option<u64>;

/// Name, owner, test.
const KNOWN: &[(&str, &str, Test)] = &[
    ("XFS", "xfs_growfs, xfs_repair", xfs),
    ("btrfs", "btrfs", btrfs),
    ("NTFS", "ntfsresize, Windows", |s| {
        ntfs_boot(s, 0).then_some(0)
    }),
    ("ReFS", "Windows", |s| {
        (s.is(3, b"ReFS\0\0\0\0") && s.is(16, b"FSRS")).then_some(0)
    }),
    ("exFAT", "exfatprogs", |s| {
        (s.is(3, b"EXFAT   ") && s.is(11, &[0; 53]) && s.is(510, &[0x55, 0xaa])).then_some(0)
    }),
    ("FAT", "fatresize", fat),
    ("swap space", "mkswap", swap),
    (
        "hibernated system",
        "the system that was hibernated",
        hibernated,
    ),
    ("LUKS", "cryptsetup", luks),
    ("LVM2 physical volume", "pvresize, LVM", lvm2),
    ("Linux RAID superblock (md 1.1)", "mdadm", |s| {
        md1(s, 0).then_some(0)
    }),
    ("Linux RAID superblock (md 1.2)", "mdadm", |s| {
        md1(s, 4096).then_some(4096)
    }),
    ("F2FS", "resize.f2fs", f2fs),
    ("bcache", "bcache-tools", |s| {
        (s.is(4096 + 24, BCACHE_MAGIC) && s.le64(4096 + 8) == Some(8)).then_some(4096)
    }),
    ("bcachefs", "bcachefs", |s| {
        // Older ones carry the magic of bcache.
        let magic = s.is(4096 + 24, BCACHEFS_MAGIC) || s.is(4096 + 24, BCACHE_MAGIC);
        (magic && s.le64(4096 + 104) == Some(8)).then_some(4096)
    }),
    ("ZFS label", "zpool", |s| {
        (zfs_uberblocks(s, 0) + zfs_uberblocks(s, 256 << 10) >= 2).then_some(0)
    }),
    ("ReiserFS", "reiserfsprogs", reiserfs),
    ("JFS", "jfsutils", jfs),
    ("NILFS2", "nilfs-resize", |s| {
        nilfs2(s, 1024).then_some(1024)
    }),
    ("UDF", "udftools", udf),
    ("ISO 9660", "the program that made the image", |s| {
        let kind = s.u8(0x8000)?;
        (s.is(0x8001, b"CD001\x01") && (kind < 4 || kind == 255)).then_some(0x8000)
    }),
    ("SquashFS", "mksquashfs", squashfs),
    ("EROFS", "mkfs.erofs", |s| {
        let block = s.u8(1024 + 12)?;
        (s.le32(1024) == Some(0xe0f5_e1e2) && (9..=16).contains(&block)).then_some(1024)
    }),
    ("APFS", "macOS", |s| {
        let block = s.le32(36)?;
        (s.is(32, b"NXSB") && block.is_power_of_two() && (4096..=65536).contains(&block))
            .then_some(0)
    }),
    ("HFS+", "macOS", |s| hfs_plus(s, 1024).then_some(1024)),
    ("HFS", "macOS", hfs),
    ("GFS2", "gfs2_grow", |s| {
        (s.be32(0x10000) == Some(0x0116_1970) && s.be32(0x10004) == Some(1)).then_some(0x10000)
    }),
    ("OCFS2", "tunefs.ocfs2", |s| {
        [1024, 2048, 4096, 8192]
            .into_iter()
            .find(|&at| s.is(at, b"OCFSV2"))
    }),
    ("Stratis", "stratis", |s| {
        let places = [512u64, 9 * 512];
        places
            .into_iter()
            .find(|&at| s.is(at + 4, b"!Stra0tis\x86\xff\x02^\x41rh"))
    }),
    ("VDO", "LVM, vdo", |s| s.is(0, b"dmvdo001").then_some(0)),
    ("Ceph BlueStore", "ceph-bluestore-tool", |s| {
        s.is(0, b"bluestore block device").then_some(0)
    }),
    ("dm-verity hash device", "veritysetup", |s| {
        (s.is(0, b"verity\0\0") && s.le32(8) == Some(1)).then_some(0)
    }),
    ("dm-integrity device", "integritysetup", |s| {
        s.is(0, b"integrt\0").then_some(0)
    }),
    ("device-mapper snapshot", "LVM, dmsetup", |s| {
        (s.is(0, b"SnAp") && s.le32(4)? <= 1 && s.le32(8) == Some(1)).then_some(0)
    }),
    ("Oracle ASM disk", "oracleasm", |s| {
        s.is(32, b"ORCLDISK").then_some(0)
    }),
    // The kernel's block/partitions/ldm.h: the first of three, sector 6.
    ("Windows dynamic disk", "Windows, ldmtool", |s| {
        s.is(6 * 512, b"PRIVHEAD").then_some(6 * 512)
    }),
];

pub(super) fn search(part: &dyn DiskRead) -> io::Result<Vec<Signature>> {
    let span = Span::read(part, 0, HEAD_BYTES)?;
    let signature = |name, owner_tool, offset| Signature {
        name,
        offset,
        at_end: false,
        owner_tool,
    };
    let mut found: Vec<Signature> = KNOWN
        .iter()
        .filter_map(|&(name, owner, test)| Some(signature(name, owner, test(&span)?)))
        .collect();
    if let Some(offset) = bitlocker(part, &span)? {
        found.push(signature("BitLocker", "Windows, manage-bde", offset));
    }
    if !found.iter().any(|s| s.name == "LUKS")
        && let Some(offset) = luks2_backup(part)?
    {
        found.push(signature("LUKS2 backup header", "cryptsetup", offset));
    }
    Ok(found)
}

fn xfs(s: &Span) -> Option<u64> {
    let block = s.be32(4)?;
    let version = s.be16(100)? & 0xf;
    let fits = block.is_power_of_two() && (512..=65536).contains(&block);
    (s.is(0, b"XFSB") && fits && (1..=5).contains(&version)).then_some(0)
}

fn btrfs(s: &Span) -> Option<u64> {
    const AT: u64 = 64 << 10;
    (s.is(AT + 0x40, b"_BHRfS_M") && s.le64(AT + 0x30) == Some(AT)).then_some(AT)
}

/// FAT12, FAT16 and FAT32, also those without a name in the boot sector.
fn fat(s: &Span) -> Option<u64> {
    let sector = s.le16(11)?;
    let cluster = s.u8(13)?;
    let media = s.u8(21)?;
    let small_total = u32::from(s.le16(19)?);
    let small_fat = u32::from(s.le16(22)?);
    let total = if small_total == 0 {
        s.le32(32)?
    } else {
        small_total
    };
    let fat = if small_fat == 0 {
        s.le32(36)?
    } else {
        small_fat
    };
    let jump = s.is(0, &[0xe9]) || (s.is(0, &[0xeb]) && s.is(2, &[0x90]));
    let fits = u64::from(total) * u64::from(sector) <= s.len_bytes;
    let named = s.is(0x36, b"FAT") || s.is(0x52, b"FAT32   ") || s.is(0x36, b"MSDOS");
    let numbers = sector.is_power_of_two()
        && (512..=4096).contains(&sector)
        && cluster.is_power_of_two()
        && s.le16(14)? != 0
        && (1..=2).contains(&s.u8(16)?)
        && (media >= 0xf8 || media == 0xf0)
        && fat != 0
        && total > fat;
    // OS/2 puts such a sector before its other file systems.
    let other = s.is(0x36, b"JFS     ") || s.is(0x36, b"HPFS    ");
    (numbers && !other && (named || (jump && fits && s.is(510, &[0x55, 0xaa])))).then_some(0)
}

/// The last bytes of the first page, for each size of page.
const PAGE_ENDS: [u64; 5] = [0xff6, 0x1ff6, 0x3ff6, 0x7ff6, 0xfff6];

fn swap(s: &Span) -> Option<u64> {
    let new = |at: &u64| {
        let version = s.array::<4>(1024);
        s.is(*at, b"SWAPSPACE2")
            && (version == Some([1, 0, 0, 0]) || version == Some([0, 0, 0, 1]))
            && s.le32(1028).is_some_and(|pages| pages != 0)
    };
    PAGE_ENDS
        .into_iter()
        .find(|at| new(at) || s.is(*at, b"SWAP-SPACE"))
}

/// A system that was suspended to its swap space: to change anything below it destroys it.
fn hibernated(s: &Span) -> Option<u64> {
    let names: [&[u8]; 4] = [b"S1SUSPEND", b"S2SUSPEND", b"ULSUSPEND", b"LINHIB0001"];
    if s.is(0, b"\xed\xc3\x02\xe9\x98\x56\xe5\x0c") {
        return Some(0);
    }
    PAGE_ENDS
        .into_iter()
        .find(|&at| names.iter().any(|name| s.is(at, name)))
}

fn luks(s: &Span) -> Option<u64> {
    let version = s.be16(6)?;
    (s.is(0, b"LUKS\xba\xbe") && (1..=2).contains(&version)).then_some(0)
}

/// The second header of a LUKS2 device whose first is gone; it names its own place.
fn luks2_backup(part: &dyn DiskRead) -> io::Result<Option<u64>> {
    for at in (14..=22).map(|power| 1u64 << power) {
        let s = Span::read(part, at, 512)?;
        if s.is(at, b"SKUL\xba\xbe") && s.be16(at + 6) == Some(2) && s.be64(at + 256) == Some(at) {
            return Ok(Some(at));
        }
    }
    Ok(None)
}

/// The label is in one of the first four sectors, and names its own.
fn lvm2(s: &Span) -> Option<u64> {
    let own = |sector: &u64| {
        let at = sector * 512;
        s.is(at, b"LABELONE") && s.le64(at + 8) == Some(*sector) && s.is(at + 24, b"LVM2 001")
    };
    (0..4).find(own).map(|sector| sector * 512)
}

fn f2fs(s: &Span) -> Option<u64> {
    let own = |at: &u64| {
        s.le32(*at) == Some(0xf2f5_2010)
            && s.le32(at + 8).is_some_and(|log| (9..=16).contains(&log))
            && s.le32(at + 16).is_some_and(|log| (12..=16).contains(&log))
    };
    [0x400, 0x1400].into_iter().find(own)
}

/// BitLocker looks like NTFS or FAT32; its metadata, farther back, settle it.
fn bitlocker(part: &dyn DiskRead, s: &Span) -> io::Result<Option<u64>> {
    let metadata_at = if s.is(0, b"\xeb\x52\x90-FVE-FS-") {
        return Ok(Some(0));
    } else if s.is(0, b"\xeb\x58\x90-FVE-FS-") {
        s.le64(176)
    } else if s.is(0, b"\xeb\x58\x90MSWIN4.1") {
        s.le64(440)
    } else {
        None
    };
    match metadata_at {
        Some(at) if at != 0 && at < s.len_bytes => {
            Ok(Span::read(part, at, 8)?.is(at, b"-FVE-FS-").then_some(0))
        }
        _ => Ok(None),
    }
}

fn reiserfs(s: &Span) -> Option<u64> {
    let places: [(u64, u64, &[u8]); 6] = [
        (8 << 10, 0x34, b"ReIsErFs"),
        (8 << 10, 20, b"ReIsErFs"),
        (64 << 10, 0x34, b"ReIsErFs"),
        (64 << 10, 0x34, b"ReIsEr2Fs"),
        (64 << 10, 0x34, b"ReIsEr3Fs"),
        (64 << 10, 0, b"ReIsEr4"),
    ];
    let found = places
        .into_iter()
        .find(|&(at, inside, magic)| s.is(at + inside, magic));
    found.map(|(at, ..)| at)
}

fn jfs(s: &Span) -> Option<u64> {
    const AT: u64 = 32 << 10;
    let block = s.le32(AT + 16)?;
    let log = u32::from(s.le16(AT + 20)?);
    (s.is(AT, b"JFS1") && 1u32.checked_shl(log) == Some(block)).then_some(AT)
}

/// The volume recognition sequence begins at 32 KiB, in steps of 2 KiB.
fn udf(s: &Span) -> Option<u64> {
    let places = (0..64u64).map(|i| 0x8000 + i * 2048);
    let mut found = places.filter(|&at| s.is(at, b"\0NSR02\x01") || s.is(at, b"\0NSR03\x01"));
    found.next()
}

fn squashfs(s: &Span) -> Option<u64> {
    let little = s.is(0, b"hsqs") && (1..=4).contains(&s.le16(28)?);
    let big = s.is(0, b"sqsh") && (1..=4).contains(&s.be16(28)?);
    (little || big).then_some(0)
}

/// The old HFS: the magic has two bytes, so the sizes are looked at as well.
fn hfs(s: &Span) -> Option<u64> {
    const AT: u64 = 1024;
    let block = s.be32(AT + 20)?;
    let name = s.u8(AT + 36)?;
    let fits = block != 0
        && block.is_multiple_of(512)
        && s.be16(AT + 18)? != 0
        && s.be16(AT + 14)? == 3
        && (1..=27).contains(&name);
    (s.is(AT, b"BD") && fits).then_some(AT)
}
