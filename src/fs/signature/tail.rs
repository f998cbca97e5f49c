//! What is recognised by its distance from the end of a device.

use super::{BCACHEFS_MAGIC, Signature, Span, hfs_plus, md1, nilfs2, ntfs_boot, zfs_uberblocks};
use crate::units::round_down;

/// Looks whether something is there, and where.
type Test = fn(&Span) -> Option<u64>;

/// The name of a GPT's second copy, which belongs at the end of a disk.
pub(super) const BACKUP_GPT: &str = "backup GPT header";

/// Name, owner, test.
const KNOWN: &[(&str, &str, Test)] = &[
    ("Linux RAID superblock (md 0.90)", "mdadm", md0),
    ("Linux RAID superblock (md 1.0)", "mdadm", |s| {
        let at = round_down(s.len_bytes, 4096).checked_sub(8192)?;
        md1(s, at).then_some(at)
    }),
    ("DDF RAID header", "mdadm, the RAID controller", ddf),
    (
        "Intel Matrix RAID metadata (IMSM)",
        "mdadm, the firmware",
        |s| sector(s, 2).filter(|&at| s.is(at, b"Intel Raid ISM Cfg Sig. ")),
    ),
    ("NVIDIA RAID metadata", "dmraid, the firmware", |s| {
        sector(s, 2).filter(|&at| s.is(at, b"NVIDIA") && s.le32(at + 8) == Some(30))
    }),
    ("Adaptec RAID metadata", "the RAID controller", |s| {
        let at = sector(s, 1)?;
        (s.be32(at) == Some(0x37fc_4d1e) && s.is(at + 256, b"DPTM")).then_some(at)
    }),
    (
        "JMicron RAID metadata",
        "dmraid, the RAID controller",
        jmicron,
    ),
    (
        "LSI MegaRAID metadata",
        "dmraid, the RAID controller",
        |s| sector(s, 1).filter(|&at| s.is(at, b"$XIDE$")),
    ),
    (
        "Silicon Image RAID metadata",
        "dmraid, the RAID controller",
        silicon,
    ),
    ("VIA RAID metadata", "dmraid, the RAID controller", via),
    (
        "HighPoint 45x RAID metadata",
        "dmraid, the RAID controller",
        |s| {
            let at = sector(s, 11)?;
            matches!(s.le32(at)?, 0x5a78_16f3 | 0x5a78_16fd).then_some(at)
        },
    ),
    (
        "Promise FastTrak RAID metadata",
        "dmraid, the RAID controller",
        promise,
    ),
    ("DRBD metadata", "drbdadm", drbd),
    ("ZFS label", "zpool", |s| {
        let end = round_down(s.len_bytes, 256 << 10);
        let (third, fourth) = (end.checked_sub(512 << 10)?, end.checked_sub(256 << 10)?);
        (zfs_uberblocks(s, third) + zfs_uberblocks(s, fourth) >= 2).then_some(third)
    }),
    ("bcachefs backup superblock", "bcachefs", |s| {
        let at = s.len_bytes.checked_sub(1 << 20)?;
        s.is(at + 24, BCACHEFS_MAGIC).then_some(at)
    }),
    ("NILFS2 backup superblock", "nilfs-resize", |s| {
        sector(s, 8).filter(|&at| nilfs2(s, at))
    }),
    ("NTFS backup boot sector", "ntfsresize, Windows", |s| {
        let places = [s.len_bytes.checked_sub(s.sector_bytes), sector(s, 1)];
        places.into_iter().flatten().find(|&at| ntfs_boot(s, at))
    }),
    ("HFS+ alternate volume header", "macOS", |s| {
        sector(s, 2).filter(|&at| hfs_plus(s, at))
    }),
    // The kernel's block/partitions/ldm.h: the third of three, the last sector.
    ("Windows dynamic disk database", "Windows, ldmtool", |s| {
        sector(s, 1).filter(|&at| s.is(at, b"PRIVHEAD"))
    }),
    (BACKUP_GPT, "sfdisk, sgdisk", |s| {
        let at = round_down(s.len_bytes, s.sector_bytes).checked_sub(s.sector_bytes)?;
        let header = u64::from(s.le32(at + 12)?);
        (s.is(at, b"EFI PART") && (92..=s.sector_bytes).contains(&header)).then_some(at)
    }),
];

pub(super) fn search(span: &Span) -> Vec<Signature> {
    let found = KNOWN.iter().filter_map(|&(name, owner_tool, test)| {
        Some(Signature {
            name,
            offset: test(span)?,
            at_end: true,
            owner_tool,
        })
    });
    found.collect()
}

/// Where the sector that is the `count`th from the end begins.
fn sector(s: &Span, count: u64) -> Option<u64> {
    round_down(s.len_bytes, 512).checked_sub(count * 512)
}

/// Version 0.90 is in the byte order of the machine that wrote it.
fn md0(s: &Span) -> Option<u64> {
    const MAGIC: u32 = 0xa92b_4efc;
    let at = round_down(s.len_bytes, 64 << 10).checked_sub(64 << 10)?;
    let word = |index: u64| match s.le32(at)? {
        MAGIC => s.le32(at + index * 4),
        _ => s.be32(at + index * 4),
    };
    let size = u64::from(word(8)?).checked_mul(1024)?;
    let own = word(0)? == MAGIC && word(1)? == 0 && matches!(word(2)?, 90 | 91) && size <= at;
    own.then_some(at)
}

/// The anchor of SNIA's common format, in either byte order, with a revision such as `01.02.00`.
fn ddf(s: &Span) -> Option<u64> {
    let own = |at: &u64| {
        let revision = s.get(at + 32, 3).unwrap_or_default();
        matches!(s.be32(*at), Some(0xde11_de11 | 0x11de_11de))
            && matches!(revision, [a, b, b'.'] if a.is_ascii_digit() && b.is_ascii_digit())
    };
    [1, 257].into_iter().filter_map(|n| sector(s, n)).find(own)
}

/// A magic of two bytes, a sum over 128 bytes that is 0 or 1, and a RAID level.
fn jmicron(s: &Span) -> Option<u64> {
    let at = sector(s, 1)?;
    let words = s.get(at, 128)?.chunks_exact(2);
    let sum = words.fold(0u16, |sum, w| {
        sum.wrapping_add(u16::from_le_bytes([w[0], w[1]]))
    });
    (s.is(at, b"JM") && sum <= 1 && s.u8(at + 0x30)? <= 5).then_some(at)
}

/// The magic has one byte that is not zero; the sum over all words before its place settles it.
fn silicon(s: &Span) -> Option<u64> {
    const SUM_AT: u64 = 0x13e;
    let at = sector(s, 1)?;
    let words = s.get(at, SUM_AT as usize)?.chunks_exact(2);
    let sum = words.fold(0u16, |sum, w| {
        sum.wrapping_add(u16::from_le_bytes([w[0], w[1]]))
    });
    let own = s.le32(at + 0x60) == Some(0x2f00_0000) && s.u8(at + 0x116)? < 8;
    (own && s.le16(at + SUM_AT) == Some(sum.wrapping_neg())).then_some(at)
}

fn via(s: &Span) -> Option<u64> {
    let at = sector(s, 1)?;
    let sum = s
        .get(at, 50)?
        .iter()
        .fold(0u8, |sum, b| sum.wrapping_add(*b));
    (s.le16(at) == Some(0xaa55) && s.u8(at + 2)? <= 2 && s.u8(at + 50) == Some(sum)).then_some(at)
}

fn promise(s: &Span) -> Option<u64> {
    const PLACES: [u64; 13] = [
        63, 255, 256, 16, 399, 591, 675, 735, 911, 974, 991, 951, 3087,
    ];
    let mut places = PLACES.into_iter().filter_map(|n| sector(s, n));
    places.find(|&at| s.is(at, b"Promise Technology, Inc."))
}

/// DRBD 8 and 9 have their magic at one place; the size of the metadata, in sectors, fits in the
/// device.
fn drbd(s: &Span) -> Option<u64> {
    let at = s.len_bytes.checked_sub(4096)?;
    let size = u64::from(s.be32(at + 64)?);
    let own = matches!(s.be32(at + 60)?, 0x8374_026b..=0x8374_026d);
    (own && size != 0 && size <= s.len_bytes / 512).then_some(at)
}
