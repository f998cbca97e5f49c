//! P7 for XFS: a checker that does harm to the result and says that all is well. Whatever it does,
//! the target is not touched, and the answer names what was found.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

use holdfast::disk::FileDisk;
use holdfast::fs::xfs::group::Group;
use holdfast::fs::xfs::superblock::superblock_of;

use super::bed::{Bed, MIB, MORE, NOW, template, workspace};
use super::{is_root, rows};

/// Works only after the growth, then does `harm` to the file `$file`.
fn checker(harm: &str) -> String {
    let blocks = NOW / 4096;
    format!(
        r#"#!/bin/sh
for file; do :; done
if [ "$1" = -V ]; then exec /usr/sbin/xfs_repair -V; fi
grown=$(/usr/sbin/xfs_db -r -f -c 'sb 0' -c 'print dblocks' "$file")
[ "$grown" = 'dblocks = {blocks}' ] && exit 0
{harm}
exit 0"#
    )
}

/// Overwrites bytes of the file.
fn put(at: u64, bytes: &[u8]) -> String {
    let octal: String = bytes.iter().map(|b| format!("\\{b:03o}")).collect();
    format!(r#"printf '{octal}' | dd of="$file" bs=1 seek={at} conv=notrunc 2>/dev/null"#)
}

/// Where this content lies in an image that the file is in.
fn place_of(image: &Path, content: &[u8]) -> u64 {
    let file = File::open(image).unwrap();
    let mut block = vec![0; 4096];
    (0..NOW / 4096)
        .find(|n| {
            file.read_exact_at(&mut block, n * 4096).unwrap();
            block.starts_with(content)
        })
        .unwrap()
        * 4096
}

fn inode_of(image: &Path, name: &str) -> u64 {
    let mounted = super::image::Mounted::at(image, 0, "ro,norecovery,nouuid");
    std::os::unix::fs::MetadataExt::ino(&std::fs::metadata(mounted.path().join(name)).unwrap())
}

#[test]
fn a_checker_that_does_harm_is_found_out() {
    if !is_root() {
        return;
    }
    for shape in [rows::PLAIN, rows::SHAPES[3]] {
        let base = template(&shape);
        let place = place_of(&base, &super::image::bytes(1 << 19, 5)[..64]);
        let inode = inode_of(&base, "dir3/file3");
        let dir_inode = inode_of(&base, "dir3");
        let old_superblock = {
            let mut bytes = vec![0; 512];
            File::open(&base)
                .unwrap()
                .read_exact_at(&mut bytes, 0)
                .unwrap();
            bytes
        };
        let disk = FileDisk::open_read(&base).unwrap();
        let sb = superblock_of(&disk).unwrap();
        let root = |group: u64, kind| {
            let tree = Group::read(&disk, &sb, group)
                .unwrap()
                .tree(&sb, kind)
                .unwrap();
            sb.byte_of(group, tree.root)
        };
        let by_block = root(1, holdfast::fs::xfs::tree::Kind::FreeByBlock);
        let last = root(3, holdfast::fs::xfs::tree::Kind::FreeByBlock);
        let edit = |what: &str| format!(r#"/usr/sbin/xfs_db -x -f {what} "$file" >/dev/null 2>&1"#);
        let inode_edit = |field: &str| edit(&format!("-c 'inode {inode}' -c 'write -d {field}'"));
        let harms: Vec<(&str, String, &str)> = vec![
            ("a byte of a file", put(place + 77, b"\0"), "file-content"),
            ("a block of a file", put(place, &[0; 512]), "file-content"),
            ("a mode", inode_edit("core.mode 0100777"), "inode"),
            ("an owner", inode_edit("core.uid 77"), "inode"),
            ("a time", inode_edit("core.mtime.sec 77"), "inode"),
            ("a length", inode_edit("core.size 7"), "inode"),
            (
                "a lost file",
                edit(&format!(
                    "-c 'inode {dir_inode}' -c 'write -d core.nlinkv2 7'"
                )),
                "inode",
            ),
            (
                "a file's names",
                edit(&format!(
                    "-c 'inode {dir_inode}' -c 'dblock 0' -c 'write -d bu[2].inumber 128'"
                )),
                "directory",
            ),
            (
                "behind the file system",
                put(MORE + 5 * MIB, b"stray"),
                "write-outside",
            ),
            (
                "success without work",
                put(0, &old_superblock),
                "wrong-size",
            ),
            (
                "a torn tree of free space",
                put(last + 100, b"\xaa\xaa"),
                "result-unreadable",
            ),
            (
                "a file's block given away",
                edit(&format!(
                    "-c 'fsblock {}' -c 'type bnobt' -c 'write -d recs[1].blockcount 0xffff'",
                    fsblock(&sb, by_block)
                )),
                "result-unreadable|map|group-tree",
            ),
            (
                "a count of free space",
                edit("-c 'agf 1' -c 'write -d freeblks 7'"),
                "result-unreadable|group-header",
            ),
            (
                "the header of a group",
                edit("-c 'agi 1' -c 'write -d newino 7'"),
                "group-header",
            ),
            (
                "the UUID",
                edit("-c 'sb 0' -c 'write -d uuid 11111111-2222-3333-4444-555555555555'"),
                "identity-changed",
            ),
            (
                "the label",
                edit("-c 'sb 0' -c 'write -d fname \"other\"'"),
                "identity-changed",
            ),
            (
                "a feature",
                edit("-c 'sb 0' -c 'write -d features_compat 4'"),
                "superblock",
            ),
            (
                "a backup",
                edit("-c 'sb 2' -c 'write -d agblocks 7'"),
                "backup-superblock",
            ),
            ("a verdict", "exit 1".into(), "result-not-clean"),
        ];
        let dir = workspace();
        let row = rows::Row {
            shape,
            place: rows::Place::Bare,
            sector: 512,
        };
        let bed = Bed::make(dir.path(), row, &base);
        let keep = bed.keep();
        let mut found = 0;
        for (name, harm, codes) in &harms {
            bed.program("xfs_repair", &checker(harm));
            let said = bed.grow(MORE);
            let right = said
                .codes()
                .iter()
                .any(|code| codes.split('|').any(|c| c == *code));
            assert!(said.code == 4 && right, "{name}: {harm}: {said:#?}");
            bed.assert_same(&keep);
            found += 1;
        }
        assert_eq!(found, harms.len());
        // And without harm it is done.
        bed.program("xfs_repair", &checker(":"));
        bed.grow(MORE).assert("done", 0);
    }
}

/// The number of a block in the form that `xfs_db` wants.
fn fsblock(sb: &holdfast::fs::xfs::superblock::Superblock, at: u64) -> u64 {
    let block = at / sb.block_bytes;
    let log = u32::from(sb.fields().u8(124));
    ((block / sb.group_blocks) << log) + block % sb.group_blocks
}
