//! A tree that is read from a device, without mounting it: by this program's own reader of ext, in
//! the order in which the files lie on the disk.
//!
//! Names and places of all files are in memory, about 100 bytes for each file.

use std::collections::BTreeMap;
use std::io::{self, Read};
use std::sync::Arc;

use super::finding::Stamp;
use super::place::{Place, place};
use super::tree::{Batch, Directory, Entry, Handle, Opened, Problem, Tree};
use crate::disk::DiskRead;
use crate::extent::Extent;
use crate::fs::FsError;
use crate::fs::ext::inode::{Kind, ROOT};
use crate::fs::ext::map::{Map, Piece};
use crate::fs::ext::reader::FileReader;
use crate::fs::ext::walk::Volume;
use crate::report::{Report, Unit, checkpoint};

/// Files that one thread takes at a time.
const BATCH: usize = 64;
/// Directories within directories beyond this are not followed.
const MAX_DEPTH: usize = 4096;
/// Blocks of two files that are told.
const MAX_CLAIMS: usize = 10_000;

/// A name in a directory.
struct Named {
    inode: u32,
    name: std::ops::Range<usize>,
}

/// A run of blocks of a file.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Claim {
    start: u64,
    len: u64,
    inode: u32,
    logical: u64,
}

/// Blocks that two files have: each file's inode, and where in it they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Overlap {
    /// The files.
    pub inodes: [u32; 2],
    /// Bytes of each.
    pub ranges: [Extent; 2],
    /// Bytes of the partition.
    pub place: Extent,
}

/// An ext file system as a tree.
pub struct OfflineTree<'a> {
    volume: &'a Volume<'a>,
    names: Vec<u8>,
    /// The names in each directory.
    children: BTreeMap<u32, Vec<Named>>,
    /// The first block of each file.
    first: BTreeMap<u32, u64>,
    /// Blocks that two files have.
    pub overlaps: Vec<Overlap>,
    problems: Vec<Problem>,
}

impl<'a> OfflineTree<'a> {
    /// Reads all directories, and where the files are.
    ///
    /// # Errors
    /// [`FsError`] where the inode tables cannot be read; a directory or map that cannot is a
    /// problem of the tree.
    pub fn read(volume: &'a Volume<'a>, report: &dyn Report) -> Result<OfflineTree<'a>, FsError> {
        report.phase("reading directories", None, Unit::Items);
        let mut tree = OfflineTree {
            volume,
            names: Vec::new(),
            children: BTreeMap::new(),
            first: BTreeMap::new(),
            overlaps: Vec::new(),
            problems: Vec::new(),
        };
        let mut claims = Vec::new();
        volume.each_inode(report, |number, inode, raw| {
            let outcome = match inode.kind() {
                Kind::Directory => tree.directory(number, (inode, raw)),
                Kind::File if number >= volume.sb.first_inode => {
                    tree.file(number, inode, &mut claims)
                }
                _ => Ok(()),
            };
            match outcome {
                Err(FsError::Corrupt(what)) => {
                    let path = format!("inode {number}").into_bytes();
                    tree.problems.push(Problem { path, error: what });
                    Ok(())
                }
                other => other,
            }
        })?;
        tree.overlaps = overlaps(claims, volume.sb.block_bytes);
        Ok(tree)
    }

    fn directory(
        &mut self,
        number: u32,
        inode: (&crate::fs::ext::inode::Inode, &[u8]),
    ) -> Result<(), FsError> {
        let mut entries = Vec::new();
        let names = &mut self.names;
        let outcome = self.volume.each_entry(number, inode, |child, name| {
            if !matches!(name, b"." | b"..") {
                let start = names.len();
                names.extend_from_slice(name);
                entries.push(Named {
                    inode: child,
                    name: start..names.len(),
                });
            }
            std::ops::ControlFlow::Continue(())
        });
        // What was read before the damage is worth having.
        self.children.insert(number, entries);
        outcome
    }

    fn file(
        &mut self,
        number: u32,
        inode: &crate::fs::ext::inode::Inode,
        claims: &mut Vec<Claim>,
    ) -> Result<(), FsError> {
        let mut first = u64::MAX;
        self.first.insert(number, first);
        let mut map = Map::new(self.volume, number, inode)?;
        while let Some(piece) = map.next_piece()? {
            let Piece::Run(run) = piece else { continue };
            first = first.min(run.physical);
            claims.push(Claim {
                start: run.physical,
                len: run.len,
                inode: number,
                logical: run.logical,
            });
        }
        self.first.insert(number, first);
        Ok(())
    }

    fn name(&self, named: &Named) -> &[u8] {
        self.names.get(named.name.clone()).unwrap_or_default()
    }

    fn children(&self, directory: u32) -> &[Named] {
        self.children.get(&directory).map_or(&[], Vec::as_slice)
    }

    fn child(&self, directory: u32, name: &[u8]) -> Option<u32> {
        let found = self
            .children(directory)
            .iter()
            .find(|named| self.name(named) == name);
        found.map(|named| named.inode)
    }

    /// Every directory that the root leads to, with its path and what it is.
    fn directories(&self) -> Vec<Arc<Directory>> {
        let mut found = Vec::new();
        let mut seen = std::collections::BTreeSet::new();
        let mut waiting = vec![(ROOT, ROOT, Vec::new(), 0)];
        while let Some((number, above, path, depth)) = waiting.pop() {
            if !seen.insert(number) || depth > MAX_DEPTH {
                continue;
            }
            let has = |name: &[u8]| self.child(number, name).is_some();
            let beside = |name: &[u8]| self.child(above, name).is_some();
            let place = if path.is_empty() {
                Place::Plain
            } else {
                place(&path, &has, &beside)
            };
            for named in self.children(number) {
                if self.children.contains_key(&named.inode) {
                    let below = [&path[..], b"/", self.name(named)].concat();
                    waiting.push((named.inode, number, below, depth + 1));
                }
            }
            let path = if path.is_empty() { b"/".to_vec() } else { path };
            found.push(Arc::new(Directory {
                path,
                place,
                handle: Handle::Inode(number),
            }));
        }
        found
    }

    /// A path for each of these inodes.
    pub fn paths(&self, wanted: &std::collections::BTreeSet<u32>) -> BTreeMap<u32, Vec<u8>> {
        let mut paths = BTreeMap::new();
        for directory in self.directories() {
            let Handle::Inode(number) = directory.handle else {
                continue;
            };
            for named in self.children(number) {
                if wanted.contains(&named.inode) {
                    paths
                        .entry(named.inode)
                        .or_insert_with(|| directory.path_of(self.name(named)));
                }
            }
        }
        paths
    }

    fn open_inode(&self, number: u32) -> io::Result<Option<Opened<'_>>> {
        let wrong = |e: FsError| match e {
            FsError::Io(e) => e,
            e => io::Error::other(e.to_string()),
        };
        let (inode, raw) = self.volume.inode(number).map_err(wrong)?;
        if inode.kind() != Kind::File {
            return Ok(None);
        }
        let stamp = Stamp {
            size: inode.size,
            inode: number.into(),
            mtime: inode.mtime.seconds,
            mtime_nanos: inode.mtime.nanos,
        };
        let reader = FileReader::new(self.volume, number, &inode, &raw).map_err(wrong)?;
        let content: Box<dyn Read + Send> = Box::new(reader);
        Ok(Some(Opened { stamp, content }))
    }
}

/// What two files have in common. One pass over the sorted runs.
fn overlaps(mut claims: Vec<Claim>, block_bytes: u64) -> Vec<Overlap> {
    claims.sort_unstable();
    let mut found = Vec::new();
    let mut furthest: Option<Claim> = None;
    for claim in claims {
        if let Some(before) =
            furthest.filter(|b| b.inode != claim.inode && b.start + b.len > claim.start)
            && found.len() < MAX_CLAIMS
        {
            let end = (before.start + before.len).min(claim.start + claim.len);
            let bytes = |start: u64, len: u64| Extent::new(start * block_bytes, len * block_bytes);
            let len = end - claim.start;
            found.push(Overlap {
                inodes: [before.inode, claim.inode],
                ranges: [
                    bytes(before.logical + (claim.start - before.start), len),
                    bytes(claim.logical, len),
                ],
                place: bytes(claim.start, len),
            });
        }
        if furthest.is_none_or(|b| claim.start + claim.len > b.start + b.len) {
            furthest = Some(claim);
        }
    }
    found
}

impl Tree for OfflineTree<'_> {
    fn each_batch(
        &self,
        report: &dyn Report,
        give: &mut dyn FnMut(Batch) -> io::Result<()>,
        problem: &dyn Fn(Problem),
    ) -> io::Result<()> {
        self.problems.iter().cloned().for_each(problem);
        let directories = self.directories();
        // Where it lies, which directory, which of its names.
        let mut order: Vec<(u64, u32, u32)> = Vec::new();
        for (at, directory) in (0u32..).zip(&directories) {
            let Handle::Inode(number) = directory.handle else {
                continue;
            };
            for (n, named) in (0u32..).zip(self.children(number)) {
                if let Some(&first) = self.first.get(&named.inode) {
                    order.push((first, at, n));
                }
            }
        }
        order.sort_unstable();
        for files in order.chunks(BATCH) {
            checkpoint(report).map_err(io::Error::from)?;
            let mut files = files.to_vec();
            files.sort_by_key(|(first, directory, _)| (*directory, *first));
            for batch in files.chunk_by(|a, b| a.1 == b.1) {
                let Some(directory) = batch.first().and_then(|f| directories.get(f.1 as usize))
                else {
                    continue;
                };
                let Handle::Inode(number) = directory.handle else {
                    continue;
                };
                let entries = batch
                    .iter()
                    .filter_map(|(_, _, n)| self.children(number).get(*n as usize))
                    .map(|named| Entry {
                        name: self.name(named).to_vec(),
                        inode: named.inode.into(),
                    })
                    .collect();
                give(Batch {
                    directory: directory.clone(),
                    entries,
                })?;
            }
        }
        Ok(())
    }

    fn open<'a>(&'a self, directory: &Directory, entry: &Entry) -> io::Result<Option<Opened<'a>>> {
        match u32::try_from(entry.inode) {
            Ok(number) if number != 0 => self.open_inode(number),
            _ => self.open_named(directory, b"", &entry.name),
        }
    }

    fn open_named<'a>(
        &'a self,
        directory: &Directory,
        below: &[u8],
        name: &[u8],
    ) -> io::Result<Option<Opened<'a>>> {
        let Handle::Inode(mut number) = directory.handle else {
            return Ok(None);
        };
        if !below.is_empty() {
            match self.child(number, below) {
                Some(child) => number = child,
                None => return Ok(None),
            }
        }
        match self.child(number, name) {
            Some(child) => self.open_inode(child),
            None => Ok(None),
        }
    }

    fn names(
        &self,
        directory: &Directory,
        below: &[u8],
        visit: &mut dyn FnMut(&[u8]),
    ) -> io::Result<()> {
        let missing = || io::Error::from(io::ErrorKind::NotFound);
        let Handle::Inode(mut number) = directory.handle else {
            return Err(missing());
        };
        if !below.is_empty() {
            number = self.child(number, below).ok_or_else(missing)?;
        }
        self.children(number)
            .iter()
            .for_each(|named| visit(self.name(named)));
        Ok(())
    }
}

/// Opens the ext file system on `part` for [`OfflineTree::read`].
///
/// # Errors
/// As [`Volume::open`].
pub fn open(part: &dyn DiskRead) -> Result<Volume<'_>, FsError> {
    Volume::open(part)
}
