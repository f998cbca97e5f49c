use super::*;
use crate::disk::MemoryDisk;

/// What makes up one signature: the device's length, and each run of bytes that it needs. Places
/// below zero are counted from the end.
struct Sample {
    name: &'static str,
    len: u64,
    needs: Vec<(i64, Vec<u8>)>,
}

const LEN: u64 = 8 << 20;

fn sample(name: &'static str, needs: &[(i64, &[u8])]) -> Sample {
    Sample {
        name,
        len: LEN,
        needs: needs
            .iter()
            .map(|(at, bytes)| (*at, bytes.to_vec()))
            .collect(),
    }
}

fn le32(value: u32) -> Vec<u8> {
    value.to_le_bytes().to_vec()
}

fn le64(value: u64) -> Vec<u8> {
    value.to_le_bytes().to_vec()
}

impl Sample {
    /// The device, without the run `left_out`.
    fn build(&self, left_out: Option<usize>) -> Vec<u8> {
        let mut device = vec![0; self.len as usize];
        for (i, (at, bytes)) in self.needs.iter().enumerate() {
            if Some(i) != left_out {
                put(&mut device, *at, bytes);
            }
        }
        device
    }

    fn offset(at: i64, len: u64) -> u64 {
        len.checked_add_signed(at)
            .filter(|_| at < 0)
            .unwrap_or(at as u64)
    }
}

fn put(device: &mut [u8], at: i64, bytes: &[u8]) {
    let at = Sample::offset(at, device.len() as u64) as usize;
    device[at..at + bytes.len()].copy_from_slice(bytes);
}

fn names(device: Vec<u8>) -> Vec<&'static str> {
    let found = signatures(&MemoryDisk::fixed(device)).unwrap();
    found.iter().map(|s| s.name).collect()
}

fn at_the_start() -> Vec<Sample> {
    let k = 1024;
    vec![
        sample(
            "XFS",
            &[(0, b"XFSB"), (4, &[0, 0, 0x10, 0]), (100, &[0xb4, 0xa5])],
        ),
        sample(
            "btrfs",
            &[
                (64 * k + 0x40, b"_BHRfS_M"),
                (64 * k + 0x30, &le64(64 << 10)),
            ],
        ),
        sample(
            "NTFS",
            &[
                (3, b"NTFS    "),
                (11, &[0, 2]),
                (13, &[8]),
                (510, &[0x55, 0xaa]),
            ],
        ),
        sample("ReFS", &[(3, b"ReFS"), (16, b"FSRS")]),
        sample("exFAT", &[(3, b"EXFAT   "), (510, &[0x55, 0xaa])]),
        sample("FAT", &fat_fields(&[(0x52, b"FAT32   ")])),
        sample(
            "FAT",
            &fat_fields(&[(0, &[0xeb, 0x3c, 0x90]), (510, &[0x55, 0xaa])]),
        ),
        sample(
            "swap space",
            &[(0xff6, b"SWAPSPACE2"), (1024, &[1]), (1028, &[255])],
        ),
        sample(
            "swap space",
            &[(0xfff6, b"SWAPSPACE2"), (1027, &[1]), (1028, &[255])],
        ),
        sample("hibernated system", &[(0xff6, b"S1SUSPEND")]),
        sample("LUKS", &[(0, b"LUKS\xba\xbe"), (7, &[2])]),
        sample(
            "LUKS2 backup header",
            &[
                (0x8000, b"SKUL\xba\xbe"),
                (0x8007, &[2]),
                (0x8000 + 256 + 6, &[0x80]),
            ],
        ),
        sample(
            "LVM2 physical volume",
            &[(512, b"LABELONE"), (520, &[1]), (536, b"LVM2 001")],
        ),
        sample(
            "Linux RAID superblock (md 1.2)",
            &[(4096, &le32(0xa92b_4efc)), (4100, &[1]), (4096 + 144, &[8])],
        ),
        sample(
            "Linux RAID superblock (md 1.1)",
            &[(0, &le32(0xa92b_4efc)), (4, &[1])],
        ),
        sample(
            "F2FS",
            &[(0x400, &le32(0xf2f5_2010)), (0x408, &[9]), (0x410, &[12])],
        ),
        sample("bcache", &[(4096 + 24, BCACHE_MAGIC), (4096 + 8, &[8])]),
        sample(
            "bcachefs",
            &[(4096 + 24, BCACHEFS_MAGIC), (4096 + 104, &[8])],
        ),
        sample(
            "ZFS label",
            &[
                (132 * k, &le64(0x00ba_b10c)),
                (388 * k, &0x00ba_b10cu64.to_be_bytes()),
            ],
        ),
        sample("ReiserFS", &[(64 * k + 0x34, b"ReIsEr2Fs")]),
        sample(
            "JFS",
            &[
                (32 * k, b"JFS1"),
                (32 * k + 16, &le32(4096)),
                (32 * k + 20, &[12]),
            ],
        ),
        sample("UDF", &[(34 * k, b"\0NSR02\x01")]),
        sample("ISO 9660", &[(32 * k, b"\x01CD001\x01")]),
        sample("SquashFS", &[(0, b"hsqs"), (28, &[4])]),
        sample("EROFS", &[(k, &le32(0xe0f5_e1e2)), (k + 12, &[12])]),
        sample("APFS", &[(32, b"NXSB"), (36, &le32(4096))]),
        sample("HFS+", &[(k, b"H+\0\x04"), (k + 40, &[0, 0, 0x10, 0])]),
        sample(
            "HFS",
            &[
                (k, b"BD"),
                (k + 14, &[0, 3]),
                (k + 18, &[1, 0]),
                (k + 22, &[2]),
                (k + 36, &[5]),
            ],
        ),
        sample(
            "GFS2",
            &[(64 * k, &[1, 0x16, 0x19, 0x70]), (64 * k + 7, &[1])],
        ),
        sample("OCFS2", &[(4096, b"OCFSV2")]),
        sample("Stratis", &[(516, b"!Stra0tis\x86\xff\x02^\x41rh")]),
        sample("VDO", &[(0, b"dmvdo001")]),
        sample("Ceph BlueStore", &[(0, b"bluestore block device\n")]),
        sample("dm-verity hash device", &[(0, b"verity\0\0"), (8, &[1])]),
        sample("dm-integrity device", &[(0, b"integrt\0")]),
        sample("device-mapper snapshot", &[(0, b"SnAp"), (8, &[1])]),
        sample("Oracle ASM disk", &[(32, b"ORCLDISK")]),
        sample("Windows dynamic disk", &[(3072, b"PRIVHEAD")]),
        sample("BitLocker", &[(0, b"\xeb\x52\x90-FVE-FS-")]),
        sample(
            "BitLocker",
            &[
                (0, b"\xeb\x58\x90MSWIN4.1"),
                (440, &le64(0x2_0000)),
                (0x2_0000, b"-FVE-FS-"),
            ],
        ),
    ]
}

fn fat_fields<'a>(more: &[(i64, &'a [u8])]) -> Vec<(i64, &'a [u8])> {
    let mut fields: Vec<(i64, &[u8])> = vec![
        (12, &[2]),
        (13, &[4]),
        (14, &[1]),
        (16, &[2]),
        (21, &[0xf8]),
        (22, &[16]),
        (32, &[0, 0x20]),
    ];
    fields.extend(more);
    fields
}

fn at_the_end() -> Vec<Sample> {
    let md10_at = LEN - 8192;
    let mut samples = vec![
        sample(
            "Linux RAID superblock (md 0.90)",
            &[(-65536, &le32(0xa92b_4efc)), (-65536 + 8, &[90])],
        ),
        sample(
            "Linux RAID superblock (md 0.90)",
            &[
                (-65536, &0xa92b_4efcu32.to_be_bytes()),
                (-65536 + 11, &[91]),
            ],
        ),
        sample(
            "Linux RAID superblock (md 1.0)",
            &[
                (-8192, &le32(0xa92b_4efc)),
                (-8192 + 4, &[1]),
                (-8192 + 144, &le64(md10_at / 512)),
            ],
        ),
        sample(
            "DDF RAID header",
            &[(-512, &[0xde, 0x11, 0xde, 0x11]), (-480, b"01.02.00")],
        ),
        sample(
            "DDF RAID header",
            &[
                (-257 * 512, &[0x11, 0xde, 0x11, 0xde]),
                (-257 * 512 + 32, b"02.00.00"),
            ],
        ),
        sample(
            "Intel Matrix RAID metadata (IMSM)",
            &[(-1024, b"Intel Raid ISM Cfg Sig. 1.3")],
        ),
        sample(
            "NVIDIA RAID metadata",
            &[(-1024, b"NVIDIA  "), (-1024 + 8, &[30])],
        ),
        sample(
            "Adaptec RAID metadata",
            &[(-512, &[0x37, 0xfc, 0x4d, 0x1e]), (-256, b"DPTM")],
        ),
        sample("LSI MegaRAID metadata", &[(-512, b"$XIDE$")]),
        sample(
            "HighPoint 45x RAID metadata",
            &[(-11 * 512, &le32(0x5a78_16f3))],
        ),
        sample(
            "DRBD metadata",
            &[(-4096 + 60, &[0x83, 0x74, 0x02, 0x6d]), (-4096 + 67, &[8])],
        ),
        sample(
            "ZFS label",
            &[
                (-384 * 1024, &le64(0x00ba_b10c)),
                (-128 * 1024, &le64(0x00ba_b10c)),
            ],
        ),
        sample(
            "bcachefs backup superblock",
            &[(-(1 << 20) + 24, BCACHEFS_MAGIC)],
        ),
        sample(
            "NTFS backup boot sector",
            &[
                (-509, b"NTFS    "),
                (-501, &[0, 2]),
                (-499, &[8]),
                (-2, &[0x55, 0xaa]),
            ],
        ),
        sample(
            "HFS+ alternate volume header",
            &[(-1024, b"HX\0\x05"), (-1024 + 40, &[0, 0, 0x10, 0])],
        ),
        sample("Windows dynamic disk database", &[(-512, b"PRIVHEAD")]),
        sample(
            "backup GPT header",
            &[(-512, b"EFI PART"), (-500, &le32(92))],
        ),
    ];
    for sectors in [
        63, 255, 256, 16, 399, 591, 675, 735, 911, 974, 991, 951, 3087,
    ] {
        samples.push(sample(
            "Promise FastTrak RAID metadata",
            &[(-sectors * 512, b"Promise Technology, Inc.")],
        ));
    }
    // Those with a sum over fields that are made up here.
    let mut jmicron = [0u8; 128];
    jmicron[..4].copy_from_slice(b"JM\x01\x00");
    jmicron[0x30] = 1;
    let sum = jmicron.chunks(2).fold(0u16, |s, w| {
        s.wrapping_add(u16::from_le_bytes([w[0], w[1]]))
    });
    let fix = sum.wrapping_neg().to_le_bytes();
    samples.push(sample(
        "JMicron RAID metadata",
        &[(-512, b"JM\x01"), (-512 + 4, &fix), (-512 + 0x30, &[1])],
    ));
    let silicon = 0x2f00u16.wrapping_add(0x0101).wrapping_neg().to_le_bytes();
    samples.push(sample(
        "Silicon Image RAID metadata",
        &[
            (-512 + 0x63, &[0x2f]),
            (-512 + 2, &[1, 1]),
            (-512 + 0x13e, &silicon),
        ],
    ));
    let via = 0x55u8.wrapping_add(0xaa).wrapping_add(1).wrapping_add(7);
    samples.push(sample(
        "VIA RAID metadata",
        &[
            (-512, &[0x55, 0xaa, 1]),
            (-512 + 9, &[7]),
            (-512 + 50, &[via]),
        ],
    ));
    samples
}

/// A superblock of NILFS2 with a checksum that fits.
fn nilfs2_block() -> Vec<u8> {
    let mut block = vec![0u8; 280];
    block[0] = 2;
    block[6..8].copy_from_slice(&[0x34, 0x34]);
    block[8..10].copy_from_slice(&280u16.to_le_bytes());
    block[12..16].copy_from_slice(&le32(0x1234_5678));
    block[100] = 77;
    let sum = crc_kernel(0x1234_5678, &block);
    block[16..20].copy_from_slice(&le32(sum));
    block
}

/// The kernel's `crc32_le`, bit by bit.
fn crc_kernel(seed: u32, bytes: &[u8]) -> u32 {
    bytes.iter().fold(seed, |mut crc, byte| {
        crc ^= u32::from(*byte);
        for _ in 0..8 {
            crc = (crc >> 1) ^ if crc & 1 == 1 { 0xedb8_8320 } else { 0 };
        }
        crc
    })
}

#[test]
fn each_is_recognised_alone_and_needs_all_of_its_fields() {
    for (at_end, samples) in [(false, at_the_start()), (true, at_the_end())] {
        for sample in samples {
            let disk = MemoryDisk::fixed(sample.build(None));
            let found = signatures(&disk).unwrap();
            let [only] = &found[..] else {
                panic!("{}: {found:?}", sample.name);
            };
            assert_eq!((only.name, only.at_end), (sample.name, at_end));
            for left_out in 0..sample.needs.len() {
                let rest = names(sample.build(Some(left_out)));
                assert!(
                    !rest.contains(&sample.name),
                    "{} without field {left_out}",
                    sample.name
                );
            }
        }
    }
    for (name, at) in [("NILFS2", 1024), ("NILFS2 backup superblock", -4096)] {
        let block = nilfs2_block();
        assert_eq!(names(sample(name, &[(at, &block)]).build(None)), [name]);
        let mut torn = block.clone();
        torn[100] ^= 1;
        assert!(names(sample(name, &[(at, &torn)]).build(None)).is_empty());
    }
}

#[test]
fn what_lies_at_the_end_is_counted_from_the_end() {
    for sample in at_the_end() {
        let mut device = sample.build(None);
        // More than any format rounds by.
        device.extend([0; 768 << 10]);
        let found = names(device);
        assert!(
            found.is_empty(),
            "{} is seen in the middle: {found:?}",
            sample.name
        );
    }
}

#[test]
fn the_last_sector_is_that_of_the_disk() {
    let mut device = vec![0; LEN as usize];
    put(&mut device, -4096, b"EFI PART");
    put(&mut device, -4084, &le32(92));
    let disk = MemoryDisk::fixed(device).with_sector_bytes(4096);
    assert_eq!(tail_signatures(&disk).unwrap()[0].offset, LEN - 4096);
}

/// A generator of bytes that is the same on every run.
fn noise(seed: u64) -> impl FnMut() -> u64 {
    let mut state = seed;
    move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    }
}

#[test]
fn noise_zeros_and_text_have_no_signature() {
    for seed in 1..=48 {
        let mut next = noise(seed * 0x9e37_79b9);
        let device: Vec<u8> = (0..LEN / 8).flat_map(|_| next().to_le_bytes()).collect();
        assert_eq!(names(device), Vec::<&str>::new(), "seed {seed}");
    }
    let texts: [&[u8]; 5] = [
        b"Received: from mail.example by mx.example; JM BD H+ NTFS\r\n",
        &[0],
        &[0xff],
        &[0x55, 0xaa],
        &[0xeb, 0x3c, 0x90, 0xf8],
    ];
    for text in texts {
        for shift in 0..text.len() {
            let device = text
                .iter()
                .cycle()
                .skip(shift)
                .take(4 << 20)
                .copied()
                .collect();
            assert_eq!(names(device), Vec::<&str>::new(), "{text:?} from {shift}");
        }
    }
}

#[test]
fn no_length_and_no_damage_makes_it_panic() {
    for len in (0..2048).chain([4095, 4096, 8191, 65_535, 65_536, 262_143, 524_288, 1 << 20]) {
        for fill in [0u8, 0xff, 0x4a] {
            names(vec![fill; len]);
        }
    }
    let mut next = noise(7);
    for sample in at_the_start().into_iter().chain(at_the_end()) {
        let mut device = sample.build(None);
        for _ in 0..8 {
            for (at, bytes) in &sample.needs {
                let at = Sample::offset(*at, sample.len) as usize;
                let hit = at + (next() as usize) % (bytes.len() + 8);
                if let Some(byte) = device.get_mut(hit) {
                    *byte = next() as u8;
                }
            }
            signatures(&MemoryDisk::fixed(device.clone())).unwrap();
        }
        device.truncate(sample.len as usize - 700);
        names(device);
    }
}

#[test]
fn refusals_name_the_thing_its_place_and_its_owner_once() {
    let mut device = vec![0; LEN as usize];
    put(&mut device, -512, b"EFI PART");
    put(&mut device, -500, &le32(92));
    // The end of a partition that begins at 1 MiB and is 4 MiB long.
    put(&mut device, (5 << 20) - 1024, b"Intel Raid ISM Cfg Sig. ");
    let disk = MemoryDisk::fixed(device);
    let area = |start: u64, len: u64, what: &str, ends_with_table| Area {
        extent: Extent::new(start, len),
        what: what.into(),
        ends_with_table,
    };
    let areas = [
        area(1 << 20, 4 << 20, "partition 1 as it is now", false),
        area(1 << 20, 4 << 20, "partition 1 as planned", false),
        area(0, LEN, "the disk", true),
    ];
    let found = tail_refusals(&disk, &areas).unwrap();
    let [only] = &found[..] else {
        panic!("{found:?}");
    };
    assert_eq!(only.code, "foreign-metadata");
    for part in ["partition 1 as it is now", "IMSM", "1024 bytes", "5241856"] {
        assert!(only.message.contains(part), "{part}: {}", only.message);
    }
    assert!(only.hint.contains("mdadm"));
    let unexpected = [area(0, LEN, "partition 1", false)];
    let found = tail_refusals(&disk, &unexpected).unwrap();
    assert!(found[0].message.contains(tail::BACKUP_GPT));
    let beyond = [area(0, LEN + 512, "the disk", true)];
    assert!(tail_refusals(&disk, &beyond).is_err());
}

/// `blkid` is util-linux's, like the formats: it sees the made-up RAID members as we do.
#[test]
fn blkid_takes_the_samples_for_the_same() {
    let kinds = [
        ("Linux RAID superblock", "linux_raid_member"),
        ("DDF", "ddf_raid_member"),
        ("Intel", "isw_raid_member"),
        ("NVIDIA", "nvidia_raid_member"),
        ("Adaptec", "adaptec_raid_member"),
        ("JMicron", "jmicron_raid_member"),
        ("LSI", "lsi_mega_raid_member"),
        ("Silicon", "silicon_medley_raid_member"),
        ("VIA", "via_raid_member"),
        ("HighPoint", "hpt45x_raid_member"),
        ("Promise", "promise_fasttrack_raid_member"),
        ("DRBD", "drbd"),
    ];
    let mut checked = 0;
    for sample in at_the_end() {
        let kind = kinds.iter().find(|k| sample.name.starts_with(k.0));
        let Some((_, kind)) = kind else {
            continue;
        };
        let mut file = tempfile::NamedTempFile::new().unwrap();
        std::io::Write::write_all(&mut file, &sample.build(None)).unwrap();
        let out = std::process::Command::new("blkid")
            .args(["-p", "-s", "TYPE", "-o", "value"])
            .arg(file.path())
            .output()
            .expect("blkid is part of util-linux");
        let said = String::from_utf8_lossy(&out.stdout).into_owned();
        assert_eq!(said.trim(), *kind, "{}", sample.name);
        checked += 1;
    }
    assert!(checked >= 25, "{checked} samples");
}
