//! An account of what is in a file system: the kernel's reading of it, or another reader's.

use std::collections::{BTreeMap, HashMap};
use std::ffi::OsStr;
use std::fs::{self, File};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;

/// What is known of one name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Node {
    /// Everything that no resize may change: kind, mode, owner, size, links, last access, content,
    /// extended attributes, and which names are one file.
    pub fixed: String,
    /// Whether it is a directory.
    pub is_directory: bool,
    /// Last change of content.
    pub mtime: (i64, i64),
    /// Last change of the inode.
    pub ctime: (i64, i64),
    /// The inode's number.
    pub inode: u64,
}

/// A file system by its paths.
#[derive(Clone, Debug, Default)]
pub struct Account(BTreeMap<Vec<u8>, Node>);

impl Account {
    /// Everything below `root`, a mount point, without other file systems on it.
    pub fn of(root: &Path) -> Account {
        let (mut tree, mut names) = (BTreeMap::new(), HashMap::new());
        walk(root, b"", &mut tree, &mut names);
        for paths in names.values().filter(|paths| paths.len() > 1) {
            for path in paths {
                let node: &mut Node = tree.get_mut(path).unwrap();
                let names = paths.iter().map(|p| String::from_utf8_lossy(p));
                let names = names.collect::<Vec<_>>().join(", ");
                node.fixed.push_str(&format!(" one file: {names}"));
            }
        }
        Account(tree)
    }

    /// Adds something that is no file: a label, flags, a list of snapshots.
    pub fn add(&mut self, name: &str, fixed: String) {
        let node = Node {
            fixed,
            ..Node::default()
        };
        self.0.insert(format!("<{name}>").into_bytes(), node);
    }

    /// How many names.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// What differs and is not forgiven.
    pub fn differences(
        &self,
        after: &Account,
        forgives: impl Fn(&Node, &Node) -> bool,
    ) -> Vec<String> {
        let mut found = Vec::new();
        for (path, old) in &self.0 {
            let name = String::from_utf8_lossy(path);
            match after.0.get(path) {
                None => found.push(format!("{name} is missing")),
                Some(new) if old.fixed == new.fixed && forgives(old, new) => {}
                Some(new) => found.push(format!("{name}: {old:?} became {new:?}")),
            }
        }
        let new = after.0.keys().filter(|path| !self.0.contains_key(*path));
        found.extend(new.map(|path| format!("{} is new", String::from_utf8_lossy(path))));
        found
    }
}

fn walk(
    root: &Path,
    path: &[u8],
    tree: &mut BTreeMap<Vec<u8>, Node>,
    names: &mut HashMap<u64, Vec<Vec<u8>>>,
) {
    let here = root.join(OsStr::from_bytes(path));
    let meta = fs::symlink_metadata(&here).unwrap_or_else(|e| panic!("{}: {e}", here.display()));
    let kind = meta.file_type();
    let content = if kind.is_file() {
        let mut hasher = blake3::Hasher::new();
        File::open(&here)
            .and_then(|file| hasher.update_reader(file).map(|_| ()))
            .unwrap_or_else(|e| panic!("{}: {e}", here.display()));
        hasher.finalize().to_hex().to_string()
    } else if kind.is_symlink() {
        format!("{:?}", fs::read_link(&here).unwrap())
    } else if kind.is_char_device() || kind.is_block_device() {
        format!("device {}", meta.rdev())
    } else {
        String::new()
    };
    let node = Node {
        fixed: format!(
            "{:o} {}:{} {} bytes, {} links, read {}.{}, {content} {:?}",
            meta.mode(),
            meta.uid(),
            meta.gid(),
            meta.size(),
            meta.nlink(),
            meta.atime(),
            meta.atime_nsec(),
            attributes(&here)
        ),
        is_directory: kind.is_dir(),
        mtime: (meta.mtime(), meta.mtime_nsec()),
        ctime: (meta.ctime(), meta.ctime_nsec()),
        inode: meta.ino(),
    };
    if !kind.is_dir() {
        names.entry(meta.ino()).or_default().push(path.to_vec());
    }
    tree.insert(path.to_vec(), node);
    if !kind.is_dir() {
        return;
    }
    for entry in fs::read_dir(&here).unwrap() {
        let name = entry.unwrap().file_name().into_vec();
        let separator: &[u8] = if path.is_empty() { b"" } else { b"/" };
        walk(root, &[path, separator, &name].concat(), tree, names);
    }
}

/// Extended attributes, lists of access among them, by their hashes.
fn attributes(path: &Path) -> BTreeMap<String, String> {
    let mut names = vec![0; 1 << 16];
    let len = rustix::fs::llistxattr(path, &mut names[..]).unwrap_or(0);
    let list = names[..len].split(|&b| b == 0).filter(|n| !n.is_empty());
    list.map(|name| {
        let mut value = vec![0; 1 << 16];
        let key = OsStr::from_bytes(name);
        let len = rustix::fs::lgetxattr(path, key, &mut value[..]).unwrap();
        let hash = blake3::hash(&value[..len]).to_hex().to_string();
        (String::from_utf8_lossy(name).into_owned(), hash)
    })
    .collect()
}
