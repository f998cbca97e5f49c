//! An independent account of what is in a file system: the kernel's own reading of it.

use std::collections::{BTreeMap, HashMap};
use std::ffi::OsStr;
use std::fs::{self, File};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;

use super::host::{Loop, Mounted, run, text};

/// What is known of one name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// Everything that no resize may change.
    fixed: String,
    /// Whether it is a directory.
    is_directory: bool,
    /// Last change of content.
    mtime: (i64, i64),
    /// Last change of the inode.
    ctime: (i64, i64),
    /// The inode's number.
    inode: u64,
}

/// A file system by its paths.
#[derive(Clone, Debug)]
pub struct Tree(BTreeMap<Vec<u8>, Node>);

impl Tree {
    /// Reads the file system in `len` bytes at `start` of `file`, mounting it read-only at `point`.
    pub fn read(file: &Path, (start, len): (u64, u64), point: &Path) -> Tree {
        let part = Loop::part(file, start, len);
        // Without the replay of a journal; ext2 has no such option.
        let has_journal = run("dumpe2fs", &["-h", text(&part.node)]).contains("has_journal");
        let options = if has_journal { "ro,noload" } else { "ro" };
        let mounted = Mounted::on(point, &part.node, options);
        Tree::walk(&mounted.point)
    }

    /// Everything below `root`.
    pub fn walk(root: &Path) -> Tree {
        let mut tree = BTreeMap::new();
        let mut names = HashMap::new();
        walk(root, b"", &mut tree, &mut names);
        // Which names are one file.
        for path in tree.keys().cloned().collect::<Vec<_>>() {
            let node: &mut Node = tree.get_mut(&path).unwrap();
            let paths = &names[&node.inode];
            if paths.len() > 1 {
                node.fixed.push_str(&format!(" same as {paths:?}"));
            }
        }
        let flags = run("lsattr", &["-aR", text(root)]);
        let mut flags: Vec<String> = flags
            .lines()
            .filter(|line| !line.is_empty() && !line.ends_with(':'))
            .map(|line| line.replacen(text(root), "", 1))
            .collect();
        flags.sort();
        tree.get_mut(b"".as_slice()).unwrap().fixed += &flags.join("\n");
        Tree(tree)
    }

    /// How many names.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// How many names have another inode in `other`.
    pub fn renumbered(&self, other: &Tree) -> usize {
        let same = |path: &Vec<u8>, node: &Node| {
            other
                .0
                .get(path)
                .is_some_and(|there| there.inode == node.inode)
        };
        self.0
            .iter()
            .filter(|(path, node)| !same(path, node))
            .count()
    }

    /// What differs. A shrink gives inodes other numbers, and then sets the times of the inode and
    /// of the directory that names it.
    pub fn differences(&self, after: &Tree, may_renumber: bool) -> Vec<String> {
        let mut found = Vec::new();
        for (path, old) in &self.0 {
            let name = String::from_utf8_lossy(path);
            let Some(new) = after.0.get(path) else {
                found.push(format!("{name} is missing"));
                continue;
            };
            let free = may_renumber && (old.inode != new.inode || old.is_directory);
            let same = old.fixed == new.fixed
                && (old.inode == new.inode || may_renumber)
                && (old.ctime == new.ctime || free)
                && (old.mtime == new.mtime || (may_renumber && old.is_directory));
            if !same {
                found.push(format!("{name}: {old:?} became {new:?}"));
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
    names: &mut HashMap<u64, Vec<String>>,
) {
    let here = root.join(OsStr::from_bytes(path));
    let meta = fs::symlink_metadata(&here).unwrap_or_else(|e| panic!("{}: {e}", here.display()));
    let kind = meta.file_type();
    let content = if kind.is_file() {
        let mut hasher = blake3::Hasher::new();
        let file = File::open(&here).unwrap_or_else(|e| panic!("{}: {e}", here.display()));
        hasher
            .update_reader(file)
            .unwrap_or_else(|e| panic!("{}: {e}", here.display()));
        hasher.finalize().to_hex().to_string()
    } else if kind.is_symlink() {
        format!("{:?}", fs::read_link(&here).unwrap())
    } else if kind.is_char_device() || kind.is_block_device() {
        format!("device {}", meta.rdev())
    } else {
        String::new()
    };
    let attributes = attributes(&here);
    // A directory's links are its subdirectories; its size is kept, for nothing is packed.
    let fixed = format!(
        "{:o} {}:{} {} bytes, {} links, read {}.{}, {content} {attributes:?}",
        meta.mode(),
        meta.uid(),
        meta.gid(),
        meta.size(),
        meta.nlink(),
        meta.atime(),
        meta.atime_nsec(),
    );
    names
        .entry(meta.ino())
        .or_default()
        .push(String::from_utf8_lossy(path).into_owned());
    let node = Node {
        fixed,
        is_directory: kind.is_dir(),
        mtime: (meta.mtime(), meta.mtime_nsec()),
        ctime: (meta.ctime(), meta.ctime_nsec()),
        inode: meta.ino(),
    };
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

/// Extended attributes, the lists of access among them.
fn attributes(path: &Path) -> BTreeMap<Vec<u8>, String> {
    let mut names = vec![0; 1 << 16];
    let len = rustix::fs::llistxattr(path, &mut names[..]).unwrap_or(0);
    let list = names[..len].split(|&b| b == 0).filter(|n| !n.is_empty());
    list.map(|name| {
        let mut value = vec![0; 1 << 16];
        let key = OsStr::from_bytes(name);
        let len = rustix::fs::lgetxattr(path, key, &mut value[..]).unwrap();
        (
            name.to_vec(),
            blake3::hash(&value[..len]).to_hex().to_string(),
        )
    })
    .collect()
}
