//! The seam to a tree of files: a mounted directory, or a file system that is read offline.
//!
//! 1. Nothing is opened for writing, and no link is followed.
//! 2. A file that cannot be read is a [`Problem`], and the rest is read all the same.
//! 3. Memory is bounded by the directories that are waiting and by one batch of names.

use std::io::{self, Read};
use std::sync::Arc;

use super::finding::Stamp;
use super::place::Place;
use crate::report::Report;

/// A directory of the tree.
#[derive(Debug)]
pub struct Directory {
    /// Its path, as it is shown: what was typed and what lies below it.
    pub path: Vec<u8>,
    /// What it is in a mail store.
    pub place: Place,
    /// What the tree needs to open its files.
    pub handle: Handle,
}

/// How a tree finds a directory again.
#[derive(Debug)]
pub enum Handle {
    /// An open directory of this host.
    Open(std::os::fd::OwnedFd),
    /// An inode of a file system that is read offline.
    Inode(u32),
}

/// A file of a directory. It may be gone, or something else, by the time it is opened.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Entry {
    /// Its name.
    pub name: Vec<u8>,
    /// Its inode, as the directory has it.
    pub inode: u64,
}

/// Files that are read one after the other.
#[derive(Debug)]
pub struct Batch {
    /// Their directory.
    pub directory: Arc<Directory>,
    /// The files.
    pub entries: Vec<Entry>,
}

impl Directory {
    /// The path of one of its files.
    pub fn path_of(&self, name: &[u8]) -> Vec<u8> {
        join(&self.path, name)
    }
}

/// `path/name`.
pub fn join(path: &[u8], name: &[u8]) -> Vec<u8> {
    match path {
        [] => name.to_vec(),
        [.., b'/'] => [path, name].concat(),
        _ => [path, b"/", name].concat(),
    }
}

/// A file that is open for reading.
pub struct Opened<'a> {
    /// What it was when it was opened.
    pub stamp: Stamp,
    /// Its content, from the start.
    pub content: Box<dyn Read + Send + 'a>,
}

/// Something in the tree that could not be looked at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Its path.
    pub path: Vec<u8>,
    /// Why.
    pub error: String,
}

/// A tree of files.
pub trait Tree: Sync {
    /// Gives every file once to `give`, in batches, in the order that is best for reading. Stops
    /// where `give` fails.
    ///
    /// # Errors
    /// What `give` returns, an interruption, or that the root cannot be read.
    fn each_batch(
        &self,
        report: &dyn Report,
        give: &mut dyn FnMut(Batch) -> io::Result<()>,
        problem: &dyn Fn(Problem),
    ) -> io::Result<()>;

    /// Opens a regular file. `None`: it is gone, or it is none.
    ///
    /// # Errors
    /// The file system's.
    fn open<'a>(&'a self, directory: &Directory, entry: &Entry) -> io::Result<Option<Opened<'a>>>;

    /// Opens a file by its name in a directory, or below a directory within it.
    ///
    /// # Errors
    /// As [`Tree::open`].
    fn open_named<'a>(
        &'a self,
        directory: &Directory,
        below: &[u8],
        name: &[u8],
    ) -> io::Result<Option<Opened<'a>>>;

    /// The names in a directory, or in one of the directories within it.
    ///
    /// # Errors
    /// The file system's; `NotFound` where it is not there.
    fn names(
        &self,
        directory: &Directory,
        below: &[u8],
        visit: &mut dyn FnMut(&[u8]),
    ) -> io::Result<()>;
}
