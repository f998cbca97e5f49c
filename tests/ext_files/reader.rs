//! The readers under the comparison: against `debugfs`, and against damaged bytes.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use holdfast::disk::{MemoryDisk, read_vec};
use holdfast::extent::{Extent, ExtentMap};
use holdfast::fs::FsError;
use holdfast::fs::ext::compare::compare;
use holdfast::fs::ext::inode::RESIZE;
use holdfast::fs::ext::map::{Map, Piece};
use holdfast::fs::ext::owners::owners;
use holdfast::fs::ext::walk::{Table, Volume};
use holdfast::report::Quiet;

use crate::image::{Image, Random, changed, make_image, make_tree, run};

/// An image of 24 MiB with a small tree, in a new directory.
fn small_image(options: &str) -> (tempfile::TempDir, Image) {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let tree = directory.path().join("tree");
    fs::create_dir(&tree).expect("creating a directory");
    make_tree(&tree, 40);
    let words: Vec<&str> = options.split(' ').collect();
    let image = make_image(&directory.path().join("image"), &tree, &words, "24M");
    (directory, image)
}

/// The content of a file, through our own map.
fn content(volume: &Volume<'_>, number: u32) -> Vec<u8> {
    let (inode, _) = Table::new(volume).get(number).expect("an inode");
    let mut content = vec![0; inode.size as usize];
    let mut map = Map::new(volume, number, &inode).expect("a map");
    while let Some(piece) = map.next_piece().expect("a piece") {
        let Piece::Run(run) = piece else { continue };
        if run.unwritten {
            continue;
        }
        let block = volume.sb.block_bytes;
        let start = (run.logical * block).min(inode.size) as usize;
        let end = ((run.logical + run.len) * block).min(inode.size) as usize;
        let bytes = read_vec(volume.part, run.physical * block, end - start).expect("reading");
        content[start..end].copy_from_slice(&bytes);
    }
    content
}

fn regular_files(directory: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in fs::read_dir(directory).expect("listing") {
        let path = entry.expect("an entry").path();
        let kind = fs::symlink_metadata(&path).expect("a file").file_type();
        if kind.is_dir() {
            files.extend(regular_files(&path));
        } else if kind.is_file() {
            files.push(path);
        }
    }
    files
}

#[test]
fn content_and_paths_are_those_that_debugfs_reads() {
    for options in [
        "-t ext2 -b 1024",
        "-t ext2 -b 4096",
        "-t ext4 -b 1024",
        "-t ext4 -b 4096 -O ^64bit,^metadata_csum",
    ] {
        let (directory, image) = small_image(options);
        // Fragments of one block each: extent trees and double indirect maps with many blocks.
        let shrunk = image.resized("smallest", "-M");
        for image in [&image, &shrunk] {
            let dump = directory.path().join("dump");
            let _ = fs::remove_dir_all(&dump);
            fs::create_dir(&dump).expect("creating a directory");
            image.ask(&format!("rdump / {}", dump.display()));
            let volume = Volume::open(image).expect("a file system");
            let numbers = inode_numbers(image, &dump);
            let wanted: BTreeSet<u32> = numbers.iter().map(|(_, number)| *number).collect();
            let paths = volume.paths(&wanted, &Quiet).expect("paths");
            assert!(numbers.len() > 40, "{options}: {numbers:?}");
            for (path, number) in &numbers {
                let expected = fs::read(dump.join(path)).expect("reading");
                assert!(content(&volume, *number) == expected, "{options}: {path}");
                let found = paths
                    .get(number)
                    .map(|p| String::from_utf8_lossy(p).into_owned());
                // One of the names of a file that has several.
                let same = |p: &String| {
                    numbers
                        .iter()
                        .any(|(other, n)| n == number && p[1..] == **other)
                };
                assert!(
                    found.as_ref().is_some_and(same),
                    "{options}: {path}: {found:?}"
                );
            }
        }
    }
}

/// The regular files of an image, without a slash in front, with their inode numbers.
fn inode_numbers(image: &Image, dump: &Path) -> Vec<(String, u32)> {
    let paths: Vec<String> = regular_files(dump)
        .iter()
        .map(|path| {
            path.strip_prefix(dump)
                .expect("inside")
                .to_string_lossy()
                .into_owned()
        })
        .collect();
    let commands: Vec<String> = paths.iter().map(|path| format!("imap /{path}")).collect();
    let text = image.debugfs(&commands.iter().map(String::as_str).collect::<Vec<_>>());
    let numbers = text.lines().filter_map(|line| {
        let rest = line.strip_prefix("Inode ")?;
        rest.split_whitespace().next()?.parse().ok()
    });
    let numbers: Vec<u32> = numbers.collect();
    assert_eq!(numbers.len(), paths.len());
    paths.into_iter().zip(numbers).collect()
}

fn block(number: u64) -> ExtentMap {
    [Extent::new(number * 1024 + 5, 1)].into_iter().collect()
}

#[test]
fn owners_are_named() {
    let (_directory, image) = small_image("-t ext4 -b 1024 -E resize=200000");
    let of = |extents: &ExtentMap| owners(&image, extents, 20).expect("owners");
    for path in [
        "/late/late-3",
        "/links/long",
        "/many",
        "/late/sub/inner/note",
    ] {
        let last = *image.blocks_of(path).last().expect("a block");
        assert_eq!(of(&block(last)), [path]);
    }
    let volume = Volume::open(&image).expect("a file system");
    let table = volume.groups.as_slice()[1].inode_table;
    assert_eq!(of(&block(0)), ["boot block"]);
    assert_eq!(of(&block(1)), ["superblock"]);
    assert_eq!(of(&block(2)), ["group descriptors"]);
    assert_eq!(of(&block(8193)), ["superblock backup of group 1"]);
    assert_eq!(of(&block(8194)), ["descriptor backup of group 1"]);
    assert_eq!(of(&block(table)), ["inode table of group 1"]);
    let journal = image.blocks_of("<8>")[3];
    assert_eq!(of(&block(journal)), ["journal"]);
    assert_eq!(of(&block(24 << 10)), ["beyond the file system"]);
    let everything: ExtentMap = [Extent::new(0, 24 << 20)].into_iter().collect();
    assert_eq!(of(&everything).len(), 20);
    let all = owners(&image, &everything, usize::MAX).expect("owners");
    let names: BTreeSet<&String> = all.iter().collect();
    assert_eq!(names.len(), all.len(), "each once");
    assert!(all.contains(&"/links/hard".into()) != all.contains(&"/many/file-0001".into()));
    assert!(all.contains(&"free space".into()));
    // A block that is free now had an owner before it was removed.
    let freed = image.blocks_of("/late/late-4")[7];
    image.debugfs(&["rm /late/late-4"]);
    assert_eq!(of(&block(freed)), ["free space"]);
}

#[test]
fn maps_that_lead_in_circles_are_errors() {
    let (_directory, image) = small_image("-t ext2 -b 1024");
    let table = image.table_block_of("/late/late-4");
    let all: ExtentMap = [Extent::new(0, 24 << 20)].into_iter().collect();
    // A block of pointers full of its own number, as double and as triple indirect block.
    let circle = image.blocks_of("/late/late-4")[20];
    let bytes: Vec<u8> = (0..256)
        .flat_map(|_| (circle as u32).to_le_bytes())
        .collect();
    for slot in ["IND", "DIND", "TIND"] {
        let damaged = image.copy("circle");
        damaged.debugfs(&[&format!("sif /late/late-4 block[{slot}] {circle}")]);
        damaged.write(circle * 1024, &bytes);
        let start = Instant::now();
        let result = owners(&damaged, &all, usize::MAX);
        assert!(
            matches!(result, Err(FsError::Corrupt(_))) || slot == "IND",
            "{slot}: {result:?}"
        );
        let result = compare(&image, &damaged, &changed(&image, &damaged), 9, &Quiet);
        assert!(!matches!(&result, Ok(found) if found.is_empty()), "{slot}");
        assert!(
            start.elapsed() < Duration::from_secs(20),
            "slot {slot}, table {table}"
        );
    }
}

#[test]
fn random_damage_does_no_harm_and_is_mostly_seen() {
    let seed = 0x0dd_ba11;
    let mut random = Random(seed);
    for options in [
        "-t ext2 -b 1024",
        "-t ext4 -b 1024",
        "-t ext4 -b 1024 -O ^metadata_csum",
    ] {
        let (_directory, image) = small_image(options);
        let after = image.resized("after", "-M");
        // Either side is damaged, where it matters most: metadata of files.
        let sides = [
            (image.bytes(), metadata(&image)),
            (after.bytes(), metadata(&after)),
        ];
        let mut counts = [0u32; 3];
        for round in 0..150 {
            let side = usize::from(round % 4 != 0);
            let (bytes, targets) = &sides[side];
            let mut bytes = bytes.clone();
            for _ in 0..1 + random.below(8) {
                let target = targets[random.below(targets.len() as u64) as usize];
                let at = (target.start + random.below(target.len)) as usize;
                bytes[at] = match random.below(3) {
                    0 => bytes[at] ^ 1 << random.below(8),
                    1 => 0xff,
                    _ => random.next() as u8,
                };
            }
            let damaged = MemoryDisk::fixed(bytes);
            let other = MemoryDisk::fixed(sides[1 - side].0.clone());
            let (before, after) = match side {
                0 => (&damaged, &other),
                _ => (&other, &damaged),
            };
            let changed = changed(before, after);
            let start = Instant::now();
            let result = compare(before, after, &changed, 20, &Quiet);
            let _ = owners(&damaged, &changed, 20);
            let what = format!("{options}, seed {seed:#x}, round {round}");
            assert!(
                start.elapsed() < Duration::from_secs(20),
                "{what}: took too long"
            );
            match result {
                Err(_) => counts[0] += 1,
                Ok(found) if !found.is_empty() => counts[1] += 1,
                Ok(_) => counts[2] += 1,
            }
        }
        // What goes unseen: unused slots of a map, checksums that nobody has, and counts and
        // bitmaps of blocks, which are e2fsck's to find.
        assert!(counts[2] < 150 / 4, "{options}: {counts:?}");
    }
}

/// The inode tables (as far as they are in use), directories, maps and attributes of an image.
fn metadata(image: &Image) -> Vec<Extent> {
    let volume = Volume::open(image).expect("a file system");
    let mut found = vec![Extent::new(1024, 4096)];
    volume
        .each_inode(&Quiet, |number, inode, _| {
            // The reserved descriptor blocks hold nothing.
            if number == RESIZE {
                return Ok(());
            }
            let group = (number - 1) / volume.sb.inodes_per_group;
            let table = volume.groups.as_slice()[group as usize].inode_table;
            let at = (number - 1) % volume.sb.inodes_per_group * volume.sb.inode_bytes;
            let start = table * volume.sb.block_bytes + u64::from(at);
            found.push(Extent::new(start, volume.sb.inode_bytes.into()));
            if inode.xattr_block != 0 {
                found.push(volume.bytes_of(inode.xattr_block, 1));
            }
            let is_directory = inode.mode & 0xf000 == 0x4000;
            let mut map = Map::new(&volume, number, inode)?;
            while let Some(piece) = map.next_piece()? {
                match piece {
                    Piece::Metadata(block) => found.push(volume.bytes_of(block, 1)),
                    Piece::Run(run) if is_directory => {
                        found.push(volume.bytes_of(run.physical, run.len));
                    }
                    Piece::Run(_) => {}
                }
            }
            Ok(())
        })
        .expect("a sound file system");
    found
}

#[test]
fn a_sparse_file_of_the_host_is_read_as_it_was_written() {
    let (directory, image) = small_image("-t ext4 -b 1024");
    let volume = Volume::open(&image).expect("a file system");
    let host = directory.path().join("tree/large/sparse");
    let text = image.debugfs(&["imap /large/sparse"]);
    let number = text.lines().find_map(|line| line.strip_prefix("Inode "));
    let number = number
        .and_then(|t| t.split(' ').next()?.parse().ok())
        .expect("a number");
    assert_eq!(content(&volume, number), fs::read(&host).expect("reading"));
    let (inode, _) = Table::new(&volume).get(number).expect("an inode");
    let host = fs::metadata(&host).expect("a file");
    assert_eq!(inode.size, host.len());
    assert_eq!(inode.mtime.seconds, host.mtime());
    assert_eq!(u32::from(inode.mode), host.mode());
    run("e2fsck", &["-f", "-n", image.name()], &[0]);
}
