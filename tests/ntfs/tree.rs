//! What a mount of ntfs-3g shows of a volume.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::ntfs3g::Ntfs3g;
use super::scene::hash;

/// A mount in a directory of its own.
pub struct Mount {
    mounted: Ntfs3g,
    /// Goes after the mount.
    _dir: tempfile::TempDir,
}

impl Mount {
    pub fn of(target: &Path, options: &str) -> Mount {
        let dir = tempfile::tempdir().unwrap();
        Mount {
            mounted: Ntfs3g::on(&dir.path().join("mount"), target, options),
            _dir: dir,
        }
    }

    pub fn path(&self) -> &Path {
        self.mounted.point()
    }
}

/// Path to everything that there is about it.
pub type Tree = BTreeMap<PathBuf, String>;

/// Everything on the volume but its own files.
pub fn tree(target: &Path) -> Tree {
    let mount = Mount::of(target, "ro");
    let mut tree = Tree::new();
    walk(mount.path(), Path::new(""), &mut tree);
    let streams = Command::new("getfattr")
        .args(["-R", "-h", "-d", "-m", "-", "-e", "hex", "."])
        .current_dir(mount.path())
        .output()
        .unwrap();
    assert!(streams.status.success(), "{streams:?}");
    let streams = String::from_utf8(streams.stdout).unwrap();
    for file in streams.split("\n\n").filter(|file| !file.trim().is_empty()) {
        let (name, values) = file.split_once('\n').unwrap();
        tree.insert(format!("streams of {name}").into(), values.into());
    }
    tree
}

fn walk(root: &Path, path: &Path, tree: &mut Tree) {
    let here = root.join(path);
    for entry in fs::read_dir(&here).unwrap() {
        let name = entry.unwrap().file_name();
        let path = path.join(&name);
        let full = root.join(&path);
        let meta = fs::symlink_metadata(&full).unwrap();
        let content = if meta.is_dir() {
            walk(root, &path, tree);
            String::new()
        } else if meta.is_symlink() {
            format!("{:?}", fs::read_link(&full))
        } else {
            hash(&full).to_hex().to_string()
        };
        let about = format!(
            "{:o} {} {} {} {} {}.{} {}.{} {} {content}",
            meta.mode(),
            meta.nlink(),
            meta.uid(),
            meta.gid(),
            meta.size(),
            meta.mtime(),
            meta.mtime_nsec(),
            meta.ctime(),
            meta.ctime_nsec(),
            meta.blocks(),
        );
        tree.insert(path, about);
    }
}

/// Two trees are the same; what differs is named.
pub fn assert_same(before: &Tree, after: &Tree, what: &str) {
    assert!(before.len() > 20, "{what}: hardly anything to compare");
    for (path, about) in before {
        assert_eq!(after.get(path), Some(about), "{what}: {path:?}");
    }
    let new: Vec<_> = after.keys().filter(|p| !before.contains_key(*p)).collect();
    assert!(new.is_empty(), "{what}: {new:?}");
}
