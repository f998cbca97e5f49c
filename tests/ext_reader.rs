//! What the ext driver reads, held against dumpe2fs and blkid over a matrix of file systems, and
//! against damage.

#![allow(clippy::unwrap_used, clippy::expect_used)]
// Helpers of tests may fail as tests do.

#[path = "ext_images/mod.rs"]
mod ext_images;

use std::collections::BTreeMap;
use std::fs;

use ext_images::{Image, make, matrix, mounted, run};
use holdfast::extent::{Extent, ExtentMap};
use holdfast::fs::ext::Ext;
use holdfast::fs::ext::bitmap::{self, Which};
use holdfast::fs::ext::groups::Groups;
use holdfast::fs::ext::superblock::Superblock;
use holdfast::fs::{Direction, Driver};
use holdfast::report::Quiet;

/// What dumpe2fs says: the head's `Name: value` lines, and each group's lines.
struct Dump {
    head: BTreeMap<String, String>,
    groups: Vec<String>,
}

/// One group's copy of the superblock, and the ranges of descriptors and reserved blocks.
struct Copies {
    superblock: Option<u64>,
    areas: Vec<(u64, u64)>,
}

fn dump(image: &Image) -> Dump {
    let text = run("dumpe2fs", &[image.path()]);
    let (head, groups) = text.split_once("\nGroup 0:").expect("groups");
    Dump {
        head: head
            .lines()
            .filter_map(|line| line.split_once(':'))
            .map(|(name, value)| (name.into(), value.trim().into()))
            .collect(),
        groups: format!("Group 0:{groups}")
            .split("\nGroup ")
            .map(String::from)
            .collect(),
    }
}

impl Dump {
    fn number(&self, name: &str) -> u64 {
        self.head[name].parse().expect(name)
    }

    /// The bytes that no group lists as free.
    fn used(&self) -> ExtentMap {
        let block = self.number("Block size");
        // Ranges of clusters are printed by the first block of each end.
        let cluster = self
            .head
            .get("Cluster size")
            .map_or(block, |size| size.parse().expect("cluster size"));
        let size = self.number("Block count") * block;
        let mut used: ExtentMap = [Extent::new(0, size)].into_iter().collect();
        for line in self.groups.iter().flat_map(|group| group.lines()) {
            let Some(ranges) = line.strip_prefix("  Free blocks: ") else {
                continue;
            };
            for (first, last) in ranges.split(", ").filter(|r| !r.is_empty()).map(range) {
                let end = (last * block + cluster).min(size);
                used.remove(Extent::from_range(first * block, end));
            }
        }
        used
    }

    /// The superblocks and the descriptors with the reserved blocks, by group.
    fn copies(&self) -> Vec<Copies> {
        self.groups
            .iter()
            .map(|group| {
                let after = |text: &str| {
                    group
                        .split(text)
                        .nth(1)
                        .map(|rest| rest.split(['\n', ',', ' ']).next().expect("a word"))
                };
                let superblock = after("superblock at ").map(|n| n.parse().expect("block"));
                let areas = [
                    "Group descriptors at ",
                    "Group descriptor at ",
                    "Reserved GDT blocks at ",
                ]
                .into_iter()
                .filter_map(after)
                .map(range)
                .collect();
                Copies { superblock, areas }
            })
            .collect()
    }
}

/// dumpe2fs writes `(none)` for no features.
fn none(features: String) -> String {
    match features.is_empty() {
        true => "(none)".into(),
        false => features,
    }
}

fn range(text: &str) -> (u64, u64) {
    let (first, last) = text
        .trim()
        .split_once('-')
        .unwrap_or((text.trim(), text.trim()));
    (first.parse().expect("block"), last.parse().expect("block"))
}

fn assert_used(image: &Image, state: &str) {
    let name = format!("{} {state}", image.name);
    let used = Ext
        .used(&image.disk(), &Quiet)
        .unwrap_or_else(|e| panic!("{name}: {e}"));
    let want = dump(image).used();
    let (more, less) = (used.difference(&want), want.difference(&used));
    assert!(
        more.is_empty() && less.is_empty(),
        "{name}: too many {:?}, missing {:?}",
        more.iter().take(5).collect::<Vec<_>>(),
        less.iter().take(5).collect::<Vec<_>>(),
    );
    let size = want.end();
    assert!(used.total_bytes() < size, "{name}: nothing free");
}

#[test]
fn used_is_what_dumpe2fs_does_not_list_as_free() {
    matrix().iter().for_each(|image| assert_used(image, ""));
}

/// What the kernel and the resizer leave behind differs from what mke2fs makes: initialised groups,
/// moved tables, descriptors that outgrew their place.
#[test]
fn used_holds_after_the_kernel_and_the_resizer() {
    for args in [
        "-t ext2 -b 1024",
        "-t ext3 -b 1024 -O ^resize_inode",
        "-t ext4 -b 1024",
        "-t ext4 -b 1024 -O ^metadata_csum,uninit_bg",
        "-t ext4 -b 4096 -g 2048 -O ^resize_inode",
        "-t ext4 -b 4096 -g 2048 -E resize=40000",
        "-t ext4 -b 1024 -O meta_bg,^resize_inode",
        "-t ext4 -b 2048 -O bigalloc -C 8192",
    ] {
        let dir = tempfile::tempdir().expect("temporary directory");
        let image = make(dir.path(), args, 40 * 1024, &[]);
        let mut crashed = Vec::new();
        let worked = mounted(&image, "loop", |root| {
            for n in 0..300u64 {
                let place = root.join(format!("new{n}"));
                fs::write(&place, vec![n as u8; (n * 97) as usize]).expect("file");
                if n % 3 == 0 {
                    fs::remove_file(&place).expect("removing");
                }
            }
            run("sync", &["-f", root.to_str().expect("UTF-8")]);
            crashed = image.bytes();
        });
        assert!(worked, "{args}: this test needs root and loop devices");
        assert_used(&image, "after the kernel");
        let clean = image.bytes();
        image.write(&crashed);
        let seen = Ext.probe(&image.disk()).expect("probe").expect("ext");
        let journal = seen.features.iter().any(|name| name == "has_journal");
        assert_eq!(seen.needs_replay, journal, "{args}: copied while mounted");
        let refusals = Ext.refusals(&image.disk(), Direction::Grow).expect("read");
        let unclean = refusals
            .iter()
            .any(|refusal| refusal.code == "ext-not-clean");
        assert_eq!(unclean, !journal, "{args}: copied while mounted");
        image.write(&clean);
        // The resizer wants to be forced to touch clusters, and cannot be trusted with them.
        if args.contains("bigalloc") {
            continue;
        }
        for size in ["96M", "33M", "70M"] {
            let file = fs::File::options().write(true).open(image.path());
            let (file, least) = (file.expect("image"), 96 << 20);
            file.set_len(least.max(image.len_bytes())).expect("length");
            run("e2fsck", &["-f", "-y", image.path()]);
            run("resize2fs", &[image.path(), size]);
            assert_used(&image, size);
        }
    }
}

#[test]
fn copies_of_superblock_and_descriptors_are_where_dumpe2fs_finds_them() {
    for image in matrix() {
        let sb = Superblock::read(&image.disk()).expect("read").expect("ext");
        let dumped = dump(image).copies();
        assert_eq!(dumped.len() as u64, sb.group_count(), "{}", image.name);
        for (group, Copies { superblock, areas }) in (0u64..).zip(dumped) {
            let name = format!("{}, group {group}", image.name);
            assert_eq!(sb.superblock_block(group), superblock, "{name}");
            let mut blocks: Vec<u64> = areas.iter().flat_map(|&(a, b)| a..=b).collect();
            blocks.sort_unstable();
            let mut ours: Vec<u64> = sb.descriptor_area(group).collect();
            ours.extend(sb.meta_descriptor_block(group));
            assert_eq!(ours, blocks, "{name}");
        }
    }
}

#[test]
fn inode_bitmaps_have_as_many_bits_as_the_groups_count() {
    for image in matrix() {
        let disk = image.disk();
        let sb = Superblock::read(&disk).expect("read").expect("ext");
        let groups = Groups::read(&disk, &sb).expect("groups");
        let mut seen = 0;
        bitmap::for_each(
            &disk,
            &sb,
            &groups,
            Which::Inodes,
            &Quiet,
            |number, group, bits| {
                let per_group = u64::from(sb.inodes_per_group);
                let used: u64 = bits.map_or(0, |bits| {
                    bitmap::runs(bits, per_group)
                        .map(|run| run.end - run.start)
                        .sum()
                });
                let free = u64::from(group.free_inodes);
                assert_eq!(used + free, per_group, "{}, group {number}", image.name);
                seen += 1;
                Ok(())
            },
        )
        .unwrap_or_else(|e| panic!("{}: {e}", image.name));
        assert_eq!(seen, sb.group_count(), "{}", image.name);
    }
}

#[test]
fn probe_agrees_with_blkid_and_dumpe2fs() {
    for image in matrix() {
        let seen = Ext.probe(&image.disk()).expect("probe").expect("ext");
        let blkid: BTreeMap<String, String> = run("blkid", &["-p", "-o", "export", image.path()])
            .lines()
            .filter_map(|line| line.split_once('='))
            .map(|(name, value)| (name.into(), value.into()))
            .collect();
        let name = &image.name;
        assert_eq!(seen.kind, blkid["TYPE"], "{name}");
        assert_eq!(seen.uuid, blkid["UUID"], "{name}");
        assert_eq!(seen.label, blkid["LABEL"].replace('\\', ""), "{name}");
        assert_eq!(seen.block_bytes.to_string(), blkid["BLOCK_SIZE"], "{name}");
        let dump = dump(image);
        let (blocks, free) = (dump.number("Block count"), dump.number("Free blocks"));
        assert_eq!(
            none(seen.features.join(" ")),
            dump.head["Filesystem features"],
            "{name}"
        );
        assert_eq!(seen.size_bytes, blocks * seen.block_bytes, "{name}");
        assert_eq!(
            seen.used_bytes,
            (blocks - free) * seen.block_bytes,
            "{name}"
        );
        let files = dump.number("Inode count") - dump.number("Free inodes");
        assert_eq!(seen.files, files, "{name}");
        assert!(!seen.needs_replay && seen.gate.is_none(), "{name}");
    }
}

#[test]
fn the_smallest_size_is_never_above_the_resizers() {
    for image in matrix() {
        let bounds = Ext.bounds(&image.disk()).expect("bounds");
        let text = run("resize2fs", &["-P", image.path()]);
        let blocks: u64 = text
            .lines()
            .filter_map(|line| line.split(": ").nth(1))
            .find_map(|n| n.trim().parse().ok())
            .expect("a number");
        let sb = Superblock::read(&image.disk()).expect("read").expect("ext");
        let theirs = blocks * sb.block_bytes;
        let name = &image.name;
        // What the resizer calls the minimum can be above the present size; ours never is.
        assert!(
            bounds.min_bytes <= theirs,
            "{name}: {} > {theirs}",
            bounds.min_bytes
        );
        assert!(bounds.min_bytes <= sb.size_bytes(), "{name}");
        assert!(
            bounds.min_bytes >= sb.size_bytes() / 20,
            "{name}: {bounds:?}"
        );
        assert!(bounds.max_bytes > sb.size_bytes(), "{name}: {bounds:?}");
        assert_eq!(bounds.unit_bytes, sb.cluster_bytes, "{name}");
    }
}

#[test]
fn a_clean_file_system_is_refused_for_its_features_alone() {
    for image in matrix() {
        for direction in [Direction::Grow, Direction::Shrink] {
            let codes: Vec<String> = Ext
                .refusals(&image.disk(), direction)
                .unwrap_or_else(|e| panic!("{}: {e}", image.name))
                .into_iter()
                .map(|refusal| refusal.code)
                .collect();
            let mut want: Vec<String> = image.refused.iter().map(|c| c.to_string()).collect();
            if direction == Direction::Grow {
                want.retain(|code| code != "ext-stable-inodes");
            }
            assert_eq!(codes, want, "{} {direction:?}", image.name);
        }
    }
}
