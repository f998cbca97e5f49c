//! The list of files: each with its length, times and hashes, so that one can say later what became
//! of it, to the byte, and where content went that lost its name.
//!
//! ```text
//! {"schema":"holdfast-files/1","root":"/srv/mail"}
//! {"path":"…","inode":…,"size":…,"mtime":…,"mtime_nanos":…,"hash":"…","block":4096,"blocks":"…"}     each file
//! {"files":…,"bytes":…,"root_hash":"…"}                      BLAKE3 of all lines before this one
//! ```
//!
//! Lines of JSON, in no order. `hash` is BLAKE3 of the content; `blocks` has the first 8 bytes of
//! the BLAKE3 of each `block` bytes, which grow with the file, so that a line stays below 128 KiB.
//! Version rule: another schema is refused, and so is a list whose last line does not fit.
//!
//! Directories, links and special files are not in it. In memory a file takes 33 bytes.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufRead, BufReader, BufWriter, Write};
use std::os::unix::fs::FileExt;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};

use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::content::Zeros;
use super::finding::{MAX_RANGES, Name, shown};
use super::place::{Role, last, role};
use super::pool::{self, Work};
use super::structure::Structure;
use super::tree::{Batch, Directory, Entry, Problem, Tree};
use crate::extent::Extent;
use crate::report::{Report, Unit};

/// The schema of the list.
pub const SCHEMA: &str = "holdfast-files/1";
const BLOCK_BYTES: u64 = 4096;
/// Blocks of a file, at most.
const MAX_BLOCKS: u64 = 4096;
const MAX_LINE_BYTES: u64 = 1 << 20;
const READ_BYTES: usize = 128 << 10;

/// A file of the list.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Listed {
    /// Its path below the root.
    pub path: Name,
    /// Its inode.
    pub inode: u64,
    /// Its length.
    pub size: u64,
    /// Last change of its content.
    pub mtime: i64,
    /// And nanoseconds.
    pub mtime_nanos: u32,
    /// BLAKE3 of its content.
    pub hash: String,
    /// Bytes of a block.
    pub block: u64,
    /// 16 digits for each block.
    pub blocks: String,
    /// Whether its name and place say that it is one message.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub message: bool,
    /// Its Message-ID.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message_id: Option<String>,
}

#[derive(Serialize, Deserialize)]
struct Head {
    schema: String,
    root: Name,
}

/// The end of a list.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tail {
    /// Files in it.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
    /// BLAKE3 of everything before.
    pub root_hash: String,
}

/// Why a list cannot be used.
#[derive(Debug, Error)]
pub enum ListError {
    /// It cannot be read.
    #[error("reading the list of files: {0}")]
    Io(#[from] io::Error),
    /// It is something else.
    #[error("this is not a list of files that this program knows")]
    NotAList,
    /// It does not fit together.
    #[error("the list of files is damaged: {0}")]
    Damaged(&'static str),
}

/// The path of a file below a root.
fn below<'p>(root: &[u8], path: &'p [u8]) -> &'p [u8] {
    let rest = path.strip_prefix(root).unwrap_or(path);
    rest.strip_prefix(b"/").unwrap_or(rest)
}

/// Lists every file of a tree whose paths begin with `root`.
///
/// # Errors
/// Those of the file and of the tree; a file that cannot be read is a problem.
pub fn take(
    tree: &dyn Tree,
    root: &[u8],
    file: File,
    problem: &(dyn Fn(&Problem) + Sync),
    report: &dyn Report,
) -> io::Result<Tail> {
    report.phase("listing files", None, Unit::Bytes);
    let taking = Taking {
        tree,
        root,
        report,
        problem,
        out: Mutex::new(Out {
            writer: BufWriter::with_capacity(1 << 20, file),
            hash: blake3::Hasher::new(),
            tail: Tail::default(),
        }),
    };
    let head = Head {
        schema: SCHEMA.into(),
        root: Name(root.to_vec()),
    };
    taking.out()?.line(&head)?;
    pool::run(tree, &taking, report)?;
    let mut out = taking
        .out
        .into_inner()
        .map_err(|_| io::Error::other("a thread failed"))?;
    out.tail.root_hash = out.hash.finalize().to_hex().to_string();
    let tail = out.tail.clone();
    out.line(&tail)?;
    let file = out
        .writer
        .into_inner()
        .map_err(io::IntoInnerError::into_error)?;
    // Barrier: a list that is reported as taken must be found after a power cut.
    file.sync_all()?;
    Ok(tail)
}

struct Out {
    writer: BufWriter<File>,
    hash: blake3::Hasher,
    tail: Tail,
}

impl Out {
    fn line(&mut self, value: &impl Serialize) -> io::Result<()> {
        let mut text = serde_json::to_vec(value)?;
        text.push(b'\n');
        self.hash.update(&text);
        self.writer.write_all(&text)
    }
}

struct Taking<'a> {
    tree: &'a dyn Tree,
    root: &'a [u8],
    report: &'a dyn Report,
    problem: &'a (dyn Fn(&Problem) + Sync),
    out: Mutex<Out>,
}

impl Taking<'_> {
    fn out(&self) -> io::Result<std::sync::MutexGuard<'_, Out>> {
        self.out
            .lock()
            .map_err(|_| io::Error::other("a thread failed"))
    }
}

impl Work for Taking<'_> {
    type Own = Vec<u8>;

    fn begin(&self) -> Vec<u8> {
        vec![0; READ_BYTES]
    }

    fn batch(&self, buffer: &mut Vec<u8>, batch: &Batch) -> io::Result<()> {
        for entry in &batch.entries {
            let path = batch.directory.path_of(&entry.name);
            match read(self.tree, &batch.directory, entry, None, buffer) {
                Ok(None) => {}
                Ok(Some((mut listed, _))) => {
                    listed.path = Name(below(self.root, &path).to_vec());
                    let mut out = self.out()?;
                    out.tail.files += 1;
                    out.tail.bytes += listed.size;
                    out.line(&listed)?;
                    let bytes = out.tail.bytes;
                    drop(out);
                    self.report.progress(bytes);
                }
                Err(e) => self.problem(&Problem {
                    path,
                    error: e.to_string(),
                }),
            }
        }
        Ok(())
    }

    fn end(&self, _: Vec<u8>) -> io::Result<()> {
        Ok(())
    }

    fn problem(&self, problem: &Problem) {
        (self.problem)(problem);
    }
}

fn block_bytes(size: u64) -> u64 {
    let mut block = BLOCK_BYTES;
    while size.div_ceil(block) > MAX_BLOCKS {
        block *= 2;
    }
    block
}

/// Reads a file and describes it, in blocks of `block` bytes. `None`: it is gone.
fn read(
    tree: &dyn Tree,
    directory: &Directory,
    entry: &Entry,
    block: Option<u64>,
    buffer: &mut [u8],
) -> io::Result<Option<(Listed, Zeros)>> {
    let Some(mut opened) = tree.open(directory, entry)? else {
        return Ok(None);
    };
    let stamp = opened.stamp;
    let message = matches!(role(directory.place, &entry.name), Role::Message(_));
    let block = block.unwrap_or_else(|| block_bytes(stamp.size));
    let mut whole = blake3::Hasher::new();
    let (mut piece, mut in_piece) = (blake3::Hasher::new(), 0u64);
    let mut blocks = String::new();
    let mut structure = message.then(|| Structure::at(0));
    let mut zeros = Zeros::default();
    let mut at = 0u64;
    loop {
        let count = match opened.content.read(buffer) {
            Ok(0) => break,
            Ok(count) => count,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
            Err(e) => return Err(io::Error::new(e.kind(), format!("at byte {at}: {e}"))),
        };
        let mut rest = buffer.get(..count).unwrap_or_default();
        whole.update(rest);
        zeros.feed(at, rest);
        if at == 0
            && let Some(structure) = &mut structure
        {
            structure.feed(rest);
        }
        at += count as u64;
        while !rest.is_empty() {
            let room = usize::try_from(block - in_piece).unwrap_or(usize::MAX);
            let (now, after) = rest.split_at(rest.len().min(room));
            piece.update(now);
            in_piece += now.len() as u64;
            rest = after;
            if in_piece == block {
                push_hash(&mut blocks, &piece);
                piece.reset();
                in_piece = 0;
            }
        }
    }
    if in_piece > 0 {
        push_hash(&mut blocks, &piece);
    }
    zeros.finish(at);
    let message_id = structure.and_then(|mut structure| {
        structure.finish();
        structure.kept[3].take().map(|id| shown(&id))
    });
    let listed = Listed {
        path: Name::default(),
        inode: stamp.inode,
        size: at,
        mtime: stamp.mtime,
        mtime_nanos: stamp.mtime_nanos,
        hash: whole.finalize().to_hex().to_string(),
        block,
        blocks,
        message,
        message_id,
    };
    Ok(Some((listed, zeros)))
}

fn push_hash(out: &mut String, hash: &blake3::Hasher) {
    let hex = hash.finalize().to_hex();
    out.push_str(hex.get(..16).unwrap_or_default());
}

/// What became of a file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "what", rename_all = "kebab-case")]
pub enum Fate {
    /// The content is another one.
    Changed {
        /// Where, and how.
        ranges: Vec<(Extent, How)>,
        /// Length and time are those of the list: nobody changed it on purpose.
        silent: bool,
    },
    /// It is gone, and its content too.
    Missing,
    /// It was not there.
    New,
    /// Its content is there under this name.
    Moved {
        /// Where it is now.
        to: Name,
    },
}

/// How a range changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum How {
    /// To zeros.
    Zeroed,
    /// To something else; to the block.
    Replaced,
    /// It is not there any more.
    Cut,
    /// It was not there.
    Added,
}

impl How {
    /// As it is printed.
    pub fn name(self) -> &'static str {
        match self {
            How::Zeroed => "zeroed",
            How::Replaced => "replaced",
            How::Cut => "cut off",
            How::Added => "added",
        }
    }
}

/// A file that is not as it was.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Difference {
    /// Its path below the root: that of the list, or the new one.
    pub path: Name,
    /// What became of it.
    #[serde(flatten)]
    pub fate: Fate,
    /// What the list says of it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub listed: Option<Listed>,
}

/// How many there are of each.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Tally {
    /// Files of the list.
    pub listed: u64,
    /// As they were.
    pub unchanged: u64,
    /// With another content.
    pub changed: u64,
    /// Gone.
    pub missing: u64,
    /// Not in the list.
    pub new: u64,
    /// There under another name.
    pub moved: u64,
    /// Messages of the list.
    pub messages: u64,
    /// Those of them whose content is as it was, whatever their name.
    pub messages_identical: u64,
    /// Could not be looked at.
    pub problems: u64,
}

impl Tally {
    /// Whether all is as it was.
    pub fn is_same(&self) -> bool {
        self.changed + self.missing + self.new + self.moved == 0
    }
}

/// A list that was read.
#[derive(Debug)]
pub struct List {
    file: File,
    /// The root that it was taken of.
    pub root: Vec<u8>,
    /// Its last line.
    pub tail: Tail,
    /// Hash of a path, and where its line is.
    by_path: Vec<(u64, u64)>,
    /// Hash of a content, and where its line is.
    by_content: Vec<(u64, u64)>,
}

impl List {
    /// Reads a list once, checks its hash, and keeps where everything is.
    ///
    /// # Errors
    /// [`ListError`].
    pub fn open(file: File) -> Result<List, ListError> {
        let mut reader = BufReader::with_capacity(1 << 20, file.try_clone()?);
        let mut line = Vec::new();
        let first = read_line(&mut reader, &mut line)?;
        let head: Head = serde_json::from_slice(&line).map_err(|_| ListError::NotAList)?;
        if head.schema != SCHEMA {
            return Err(ListError::NotAList);
        }
        let mut hash = blake3::Hasher::new();
        hash.update(&line);
        let (mut by_path, mut by_content) = (Vec::new(), Vec::new());
        let (mut at, mut bytes) = (first, 0u64);
        loop {
            let count = read_line(&mut reader, &mut line)?;
            if count == 0 {
                return Err(ListError::Damaged("its end is missing"));
            }
            if let Ok(listed) = serde_json::from_slice::<Listed>(&line) {
                hash.update(&line);
                by_path.push((key(&listed.path.0), at));
                by_content.push((key(listed.hash.as_bytes()), at));
                at += count;
                bytes = bytes.saturating_add(listed.size);
                continue;
            }
            let tail: Tail = serde_json::from_slice(&line)
                .map_err(|_| ListError::Damaged("a line cannot be read"))?;
            let fits = hash.finalize().to_hex().as_str() == tail.root_hash
                && (by_path.len() as u64, bytes) == (tail.files, tail.bytes);
            if !fits || read_line(&mut reader, &mut line)? != 0 {
                return Err(ListError::Damaged("its hash does not fit"));
            }
            by_path.sort_unstable();
            by_content.sort_unstable();
            return Ok(List {
                file,
                root: head.root.0,
                tail,
                by_path,
                by_content,
            });
        }
    }

    /// The line at a place, and its number in the order of paths.
    fn listed(&self, at: u64) -> Result<Listed, io::Error> {
        let mut line = Vec::new();
        let mut piece = vec![0; 8192];
        let mut end = at;
        loop {
            let count = self.read_some(&mut piece, end)?;
            let bytes = piece.get(..count).unwrap_or_default();
            if let Some(newline) = memchr::memchr(b'\n', bytes) {
                line.extend_from_slice(bytes.get(..newline).unwrap_or_default());
                break;
            }
            if count == 0 || line.len() as u64 > MAX_LINE_BYTES {
                return Err(io::Error::other("the list changed while it was read"));
            }
            line.extend_from_slice(bytes);
            end += count as u64;
        }
        Ok(serde_json::from_slice(&line)?)
    }

    fn read_some(&self, piece: &mut [u8], at: u64) -> io::Result<usize> {
        let left = self.file.metadata()?.len().saturating_sub(at);
        let count = piece.len().min(usize::try_from(left).unwrap_or(usize::MAX));
        self.file
            .read_exact_at(piece.get_mut(..count).unwrap_or_default(), at)?;
        Ok(count)
    }

    fn find_path(&self, path: &[u8]) -> io::Result<Option<(usize, Listed)>> {
        let wanted = key(path);
        let mut at = self.by_path.partition_point(|(hash, _)| *hash < wanted);
        while let Some(&(hash, place)) = self.by_path.get(at).filter(|(hash, _)| *hash == wanted) {
            debug_assert_eq!(hash, wanted);
            let listed = self.listed(place)?;
            if listed.path.0 == path {
                return Ok(Some((at, listed)));
            }
            at += 1;
        }
        Ok(None)
    }

    /// Compares a tree whose paths begin with `root`, and tells of each difference, in no order.
    ///
    /// # Errors
    /// Those of the list and of the tree, and what `give` returns.
    pub fn compare(
        &self,
        tree: &dyn Tree,
        root: &[u8],
        give: &(dyn Fn(&Difference) -> io::Result<()> + Sync),
        problem: &(dyn Fn(&Problem) + Sync),
        report: &dyn Report,
    ) -> io::Result<Tally> {
        report.phase("comparing files", Some(self.tail.bytes), Unit::Bytes);
        let comparing = Comparing {
            list: self,
            tree,
            root,
            report,
            problem,
            give,
            fates: self.by_path.iter().map(|_| AtomicU8::new(UNSEEN)).collect(),
            bytes: AtomicU64::new(0),
            tally: Mutex::new(Tally {
                listed: self.tail.files,
                ..Tally::default()
            }),
            unknown: Mutex::default(),
        };
        pool::run(tree, &comparing, report)?;
        comparing.finish()
    }
}

/// Nobody has seen the file yet, it is as it was, it is another one.
const UNSEEN: u8 = 0;
const SAME: u8 = 1;
const OTHER: u8 = 2;

fn key(bytes: &[u8]) -> u64 {
    let hash = blake3::hash(bytes);
    hash.as_bytes()
        .first_chunk()
        .map_or(0, |b| u64::from_le_bytes(*b))
}

fn read_line(reader: &mut impl BufRead, line: &mut Vec<u8>) -> io::Result<u64> {
    line.clear();
    let count = io::Read::take(reader, MAX_LINE_BYTES).read_until(b'\n', line)?;
    Ok(count as u64)
}

struct Comparing<'a> {
    list: &'a List,
    tree: &'a dyn Tree,
    root: &'a [u8],
    report: &'a dyn Report,
    problem: &'a (dyn Fn(&Problem) + Sync),
    give: &'a (dyn Fn(&Difference) -> io::Result<()> + Sync),
    fates: Vec<AtomicU8>,
    bytes: AtomicU64,
    tally: Mutex<Tally>,
    /// Files that are not in the list, by the hash of their content.
    unknown: Mutex<BTreeMap<(u64, Vec<u8>), ()>>,
}

impl Comparing<'_> {
    fn count(&self, add: impl FnOnce(&mut Tally)) {
        if let Ok(mut tally) = self.tally.lock() {
            add(&mut tally);
        }
    }

    fn file(&self, directory: &Directory, entry: &Entry, buffer: &mut [u8]) -> io::Result<()> {
        let full = directory.path_of(&entry.name);
        let path = below(self.root, &full);
        let found = self.list.find_path(path)?;
        let block = found.as_ref().map(|(_, listed)| listed.block);
        let (now, zeros) = match read(self.tree, directory, entry, block, buffer) {
            Ok(Some(now)) => now,
            Ok(None) => return Ok(()),
            Err(e) => {
                // It is there, whatever it holds.
                if let Some((at, _)) = found
                    && let Some(fate) = self.fates.get(at)
                {
                    fate.store(OTHER, Ordering::Relaxed);
                }
                self.problem(&Problem {
                    path: full,
                    error: e.to_string(),
                });
                return Ok(());
            }
        };
        let done = self.bytes.fetch_add(now.size, Ordering::Relaxed) + now.size;
        self.report.progress(done.min(self.list.tail.bytes));
        let Some((at, listed)) = found else {
            if let Ok(mut unknown) = self.unknown.lock() {
                unknown.insert((key(now.hash.as_bytes()), path.to_vec()), ());
            }
            return Ok(());
        };
        let same = now.hash == listed.hash;
        if let Some(fate) = self.fates.get(at) {
            fate.store(if same { SAME } else { OTHER }, Ordering::Relaxed);
        }
        self.count(|tally| {
            tally.messages += u64::from(listed.message);
            tally.messages_identical += u64::from(listed.message && same);
            match same {
                true => tally.unchanged += 1,
                false => tally.changed += 1,
            }
        });
        if same {
            return Ok(());
        }
        let silent = (now.size, now.mtime, now.mtime_nanos)
            == (listed.size, listed.mtime, listed.mtime_nanos);
        let ranges = ranges(&listed, &now, &zeros);
        (self.give)(&Difference {
            path: listed.path.clone(),
            fate: Fate::Changed { ranges, silent },
            listed: Some(listed),
        })
    }

    fn finish(self) -> io::Result<Tally> {
        let unknown = self.unknown.into_inner().unwrap_or_default();
        let mut tally = self.tally.into_inner().unwrap_or_default();
        // Each unknown file takes the name of a missing one with its content.
        let mut taken: BTreeMap<u64, Name> = BTreeMap::new();
        let place_of: BTreeMap<u64, usize> = (self.list.by_path.iter().enumerate())
            .filter(|(at, _)| {
                self.fates
                    .get(*at)
                    .is_some_and(|fate| fate.load(Ordering::Relaxed) == UNSEEN)
            })
            .map(|(at, (_, place))| (*place, at))
            .collect();
        for (hash, path) in unknown.into_keys() {
            let from = self.list.by_content.partition_point(|(h, _)| *h < hash);
            let same = self.list.by_content.get(from..).unwrap_or_default();
            let home = same
                .iter()
                .take_while(|(h, _)| *h == hash)
                .map(|(_, place)| *place)
                .find(|place| place_of.contains_key(place) && !taken.contains_key(place));
            match home {
                Some(place) => {
                    taken.insert(place, Name(path));
                }
                None => {
                    tally.new += 1;
                    (self.give)(&Difference {
                        path: Name(path),
                        fate: Fate::New,
                        listed: None,
                    })?;
                }
            }
        }
        for place in place_of.keys() {
            let listed = self.list.listed(*place)?;
            tally.messages += u64::from(listed.message);
            let fate = match taken.remove(place) {
                Some(to) => {
                    tally.moved += 1;
                    tally.messages_identical += u64::from(listed.message);
                    Fate::Moved { to }
                }
                None => {
                    tally.missing += 1;
                    Fate::Missing
                }
            };
            (self.give)(&Difference {
                path: listed.path.clone(),
                fate,
                listed: Some(listed),
            })?;
        }
        Ok(tally)
    }
}

impl Work for Comparing<'_> {
    type Own = Vec<u8>;

    fn begin(&self) -> Vec<u8> {
        vec![0; READ_BYTES]
    }

    fn batch(&self, buffer: &mut Vec<u8>, batch: &Batch) -> io::Result<()> {
        batch
            .entries
            .iter()
            .try_for_each(|entry| self.file(&batch.directory, entry, buffer))
    }

    fn end(&self, _: Vec<u8>) -> io::Result<()> {
        Ok(())
    }

    fn problem(&self, problem: &Problem) {
        self.count(|tally| tally.problems += 1);
        (self.problem)(problem);
    }
}

/// Where two states of a file differ: by their blocks, and to the byte where zeros are what is
/// there now.
fn ranges(before: &Listed, now: &Listed, zeros: &Zeros) -> Vec<(Extent, How)> {
    let mut out: Vec<(Extent, How)> = Vec::new();
    let common = before.size.min(now.size);
    let hash = |listed: &Listed, number: usize| {
        listed
            .blocks
            .get(number * 16..number * 16 + 16)
            .map(str::to_owned)
    };
    let mut number = 0;
    let mut start = 0;
    while start < common {
        let end = (start + before.block).min(common);
        // The last block of a file that was cut is shorter now: what is left of it is not known.
        let partial =
            before.size != now.size && end == common && !common.is_multiple_of(before.block);
        if !partial && hash(before, number) != hash(now, number) {
            let block = Extent::from_range(start, end);
            let zeroed: Vec<Extent> = zeros
                .runs
                .iter()
                .filter_map(|run| run.intersection(block))
                .collect();
            let mut at = start;
            for zero in zeroed.iter().filter(|zero| zero.len >= 512) {
                push(&mut out, Extent::from_range(at, zero.start), How::Replaced);
                push(&mut out, *zero, How::Zeroed);
                at = zero.end();
            }
            push(&mut out, Extent::from_range(at, end), How::Replaced);
        }
        start = end;
        number += 1;
    }
    push(
        &mut out,
        Extent::from_range(common, before.size.max(common)),
        How::Cut,
    );
    push(
        &mut out,
        Extent::from_range(common, now.size.max(common)),
        How::Added,
    );
    out.truncate(MAX_RANGES);
    out
}

fn push(out: &mut Vec<(Extent, How)>, extent: Extent, how: How) {
    if extent.is_empty() {
        return;
    }
    match out.last_mut() {
        Some((last, same)) if *same == how && last.end() == extent.start => {
            *last = Extent::from_range(last.start, extent.end());
        }
        _ => out.push((extent, how)),
    }
}

/// Whether a path is one of those below which file-system checks put what has no name.
pub fn is_lost_and_found(path: &[u8]) -> bool {
    path.split(|b| *b == b'/').any(|part| part == b"lost+found") || last(path).starts_with(b"#")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mail::host::HostTree;
    use crate::report::Quiet;
    use std::path::Path;

    fn list(root: &Path) -> File {
        let tree = HostTree::new(vec![root.to_path_buf()]);
        let file = tempfile::tempfile().unwrap();
        let path = std::os::unix::ffi::OsStrExt::as_bytes(root.as_os_str());
        take(
            &tree,
            path,
            file.try_clone().unwrap(),
            &|p| panic!("{p:?}"),
            &Quiet,
        )
        .unwrap();
        let mut file = file;
        io::Seek::rewind(&mut file).unwrap();
        file
    }

    fn compare(list: &List, root: &Path) -> (Tally, Vec<String>) {
        let tree = HostTree::new(vec![root.to_path_buf()]);
        let found = Mutex::new(Vec::new());
        let give = |d: &Difference| {
            found
                .lock()
                .unwrap()
                .push(format!("{} {:?}", d.path, d.fate));
            Ok(())
        };
        let path = std::os::unix::ffi::OsStrExt::as_bytes(root.as_os_str());
        let tally = list
            .compare(&tree, path, &give, &|p| panic!("{p:?}"), &Quiet)
            .unwrap();
        let mut found = found.into_inner().unwrap();
        found.sort();
        (tally, found)
    }

    #[test]
    fn each_fate_of_a_file_is_told() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("tree");
        std::fs::create_dir_all(root.join("lost+found")).unwrap();
        let content = |n: u32| {
            (0..20_000u32)
                .map(|i| (i * (n + 3) % 251) as u8 | 1)
                .collect::<Vec<u8>>()
        };
        for n in 0..8 {
            std::fs::write(root.join(format!("f{n}")), content(n)).unwrap();
        }
        let list = List::open(list(&root)).unwrap();
        assert_eq!(list.tail.files, 8);
        let (tally, found) = compare(&list, &root);
        assert!(tally.is_same() && found.is_empty(), "{found:?}");

        let write = |n: u32, change: &dyn Fn(&mut Vec<u8>)| {
            let mut bytes = content(n);
            change(&mut bytes);
            std::fs::write(root.join(format!("f{n}")), bytes).unwrap();
        };
        write(1, &|b| b[4096..8192].fill(0));
        write(2, &|b| b[9000] = 0);
        write(3, &|b| b.truncate(8192));
        write(4, &|b| b.extend(b"more"));
        std::fs::rename(root.join("f5"), root.join("lost+found/#17")).unwrap();
        std::fs::remove_file(root.join("f6")).unwrap();
        std::fs::write(root.join("new"), b"x").unwrap();
        let (tally, found) = compare(&list, &root);
        let counts = (
            tally.unchanged,
            tally.changed,
            tally.moved,
            tally.missing,
            tally.new,
        );
        assert_eq!(counts, (2, 4, 1, 1, 1));
        let expected = [
            "f1 Changed { ranges: [(Extent { start: 4096, len: 4096 }, Zeroed)], silent: false }",
            "f2 Changed { ranges: [(Extent { start: 8192, len: 4096 }, Replaced)], silent: false }",
            "f3 Changed { ranges: [(Extent { start: 8192, len: 11808 }, Cut)], silent: false }",
            "f4 Changed { ranges: [(Extent { start: 20000, len: 4 }, Added)], silent: false }",
            "f5 Moved { to: Name([108, 111, 115, 116, 43, 102, 111, 117, 110, 100, 47, 35, 49, 55]) }",
            "f6 Missing",
            "new New",
        ];
        assert_eq!(found, expected);
    }

    #[test]
    fn a_list_that_was_changed_or_cut_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("a"), b"some content").unwrap();
        let mut bytes = Vec::new();
        io::Read::read_to_end(&mut list(dir.path()), &mut bytes).unwrap();
        let open = |bytes: &[u8]| {
            let mut file = tempfile::tempfile().unwrap();
            file.write_all(bytes).unwrap();
            io::Seek::rewind(&mut file).unwrap();
            List::open(file)
        };
        assert!(open(&bytes).is_ok());
        for at in 0..bytes.len() {
            let mut bad = bytes.clone();
            bad[at] ^= 1;
            assert!(
                open(&bad).is_err(),
                "byte {at}: {}",
                String::from_utf8_lossy(&bad)
            );
            assert!(
                open(&bytes[..at]).is_err() || at + 1 == bytes.len(),
                "cut at {at}"
            );
        }
    }
}
