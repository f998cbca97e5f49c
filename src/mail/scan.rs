//! The scan: a tree is walked, several threads read and judge, one sink hears of everything.

use std::collections::BTreeMap;
use std::io::{self, Read};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use serde::Serialize;

use super::finding::{Confidence, Finding, Kind, Name, Readable, Stamp, Store};
use super::mbox::Mbox;
use super::message::{Draft, Expected, Message, Verdict};
use super::place::{Place, Role, mailbox, role, sniff};
use super::pool::{self, Work};
use super::shared::{Blocks, Owner, SharedBlocks};
use super::tree::{Batch, Directory, Entry, Problem, Tree};
use super::{cyrus, dbox, maildir, metadata, unpack};
use crate::extent::Extent;
use crate::report::{Report, Unit};

/// Bytes that are read at a time.
const READ_BYTES: usize = 128 << 10;

/// What was looked at, and what was found: figures alone.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Totals {
    /// Files that were read as mail or as data of a store.
    pub files: u64,
    /// Messages.
    pub messages: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Files that are no mail.
    pub other_files: u64,
    /// Files with a finding.
    pub damaged_files: u64,
    /// Files with a finding that is at least likely.
    pub surely_damaged_files: u64,
    /// How many findings of each kind and confidence.
    pub findings: BTreeMap<Kind, BTreeMap<Confidence, u64>>,
    /// How many messages of each store.
    pub stores: BTreeMap<Store, u64>,
    /// Files and directories that could not be looked at.
    pub problems: u64,
}

impl Totals {
    /// Findings in all.
    pub fn all(&self) -> u64 {
        self.findings.values().flat_map(BTreeMap::values).sum()
    }

    fn add(&mut self, other: &Totals) {
        self.files += other.files;
        self.messages += other.messages;
        self.bytes += other.bytes;
        self.other_files += other.other_files;
        self.damaged_files += other.damaged_files;
        self.surely_damaged_files += other.surely_damaged_files;
        for (store, count) in &other.stores {
            *self.stores.entry(*store).or_default() += count;
        }
    }

    /// Adds a finding that was not made by a scan.
    pub fn tell(&mut self, finding: &Finding) {
        self.count(finding);
        self.damaged_files += 1;
        self.surely_damaged_files += u64::from(finding.confidence >= Confidence::Likely);
    }

    /// Adds what another look found.
    pub fn also(&mut self, other: &Totals) {
        self.add(other);
        for (kind, levels) in &other.findings {
            for (level, count) in levels {
                *self
                    .findings
                    .entry(*kind)
                    .or_default()
                    .entry(*level)
                    .or_default() += count;
            }
        }
    }

    fn count(&mut self, finding: &Finding) {
        *self
            .findings
            .entry(finding.kind)
            .or_default()
            .entry(finding.confidence)
            .or_default() += 1;
    }
}

/// Hears what is found, in no order.
pub trait Sink: Sync {
    /// A finding.
    ///
    /// # Errors
    /// Where it cannot be kept; the scan stops.
    fn finding(&self, finding: &Finding) -> io::Result<()>;
    /// Something could not be looked at.
    fn problem(&self, problem: &Problem);
}

/// Scans a tree.
///
/// # Errors
/// An interruption, the root of the tree cannot be read, or the sink failed.
pub fn scan(tree: &dyn Tree, sink: &dyn Sink, report: &dyn Report) -> io::Result<Totals> {
    report.phase("mail", None, Unit::Bytes);
    let shared = Shared {
        tree,
        sink,
        report,
        totals: Mutex::new(Totals::default()),
        bytes: AtomicU64::new(0),
        blocks: SharedBlocks::new()?,
    };
    pool::run(tree, &Scan(&shared), report)?;
    let mut totals = shared.totals.into_inner().unwrap_or_default();
    shared.blocks.judge(&mut |finding| {
        totals.count(&finding);
        totals.damaged_files += 1;
        totals.surely_damaged_files += 1;
        sink.finding(&finding)
    })?;
    Ok(totals)
}

struct Shared<'a> {
    tree: &'a dyn Tree,
    sink: &'a dyn Sink,
    report: &'a dyn Report,
    totals: Mutex<Totals>,
    bytes: AtomicU64,
    blocks: SharedBlocks,
}

impl Shared<'_> {
    fn problem(&self, problem: &Problem) {
        self.sink.problem(problem);
        if let Ok(mut totals) = self.totals.lock() {
            totals.problems += 1;
        }
    }

    fn finding(&self, finding: &Finding) -> io::Result<()> {
        if let Ok(mut totals) = self.totals.lock() {
            totals.count(finding);
        }
        self.sink.finding(finding)
    }
}

struct Scan<'a>(&'a Shared<'a>);

impl<'a> Work for Scan<'a> {
    type Own = Worker<'a>;

    fn begin(&self) -> Worker<'a> {
        Worker {
            shared: self.0,
            buffer: vec![0; READ_BYTES],
            totals: Totals::default(),
            blocks: Blocks::new(self.0.blocks.seed),
        }
    }

    fn batch(&self, own: &mut Worker<'a>, batch: &Batch) -> io::Result<()> {
        own.batch(batch)
    }

    fn end(&self, own: Worker<'a>) -> io::Result<()> {
        if let Ok(mut totals) = self.0.totals.lock() {
            totals.add(&own.totals);
        }
        Ok(())
    }

    fn problem(&self, problem: &Problem) {
        self.0.problem(problem);
    }
}

struct Worker<'a> {
    shared: &'a Shared<'a>,
    buffer: Vec<u8>,
    totals: Totals,
    blocks: Blocks,
}

/// What became of reading a file.
pub enum Outcome {
    /// Judged: verdicts, and how many messages there were.
    Judged(Vec<Verdict>, u64),
    /// No mail.
    Other,
}

impl Worker<'_> {
    fn batch(&mut self, batch: &Batch) -> io::Result<()> {
        for entry in &batch.entries {
            let role = role(batch.directory.place, &entry.name);
            if role == Role::Ignored {
                self.totals.other_files += 1;
                continue;
            }
            match self.file(&batch.directory, entry, role) {
                Ok(()) => {}
                Err(Failure::Sink(e)) => return Err(e),
                Err(Failure::File(e)) => self.shared.problem(&Problem {
                    path: batch.directory.path_of(&entry.name),
                    error: e.to_string(),
                }),
            }
        }
        Ok(())
    }

    fn file(&mut self, directory: &Directory, entry: &Entry, role: Role) -> Result<(), Failure> {
        let shared = self.shared;
        let Some(mut opened) = shared.tree.open(directory, entry).map_err(Failure::File)? else {
            return Ok(());
        };
        let stamp = opened.stamp;
        let mut file = FileOf {
            directory,
            entry,
            role,
            stamp,
        };
        let result = self.judge(&mut file, &mut *opened.content);
        let (verdicts, messages) = match result {
            Ok(Outcome::Judged(verdicts, messages)) => (verdicts, messages),
            Ok(Outcome::Other) => {
                self.totals.other_files += 1;
                return Ok(());
            }
            Err(e) => return Err(Failure::File(e)),
        };
        self.totals.files += 1;
        self.totals.messages += messages;
        self.totals.bytes += stamp.size;
        if let Some(store) = file.store()
            && messages > 0
        {
            *self.totals.stores.entry(store).or_default() += messages;
        }
        let done = shared.bytes.fetch_add(stamp.size, Ordering::Relaxed) + stamp.size;
        if self.totals.files.is_multiple_of(256) {
            shared.report.progress(done);
        }
        if !file.holds_mail() {
            self.blocks.clear();
        }
        let owner = || file.owner();
        shared
            .blocks
            .add(&mut self.blocks, owner)
            .map_err(Failure::Sink)?;
        self.tell(&file, verdicts).map_err(Failure::Sink)
    }

    fn tell(&mut self, file: &FileOf<'_>, verdicts: Vec<Verdict>) -> io::Result<()> {
        let mut worst = None;
        for verdict in verdicts {
            for draft in verdict.drafts {
                worst = worst.max(Some(draft.confidence));
                self.shared
                    .finding(&file.finding(draft, &verdict.readable))?;
            }
        }
        self.totals.damaged_files += u64::from(worst.is_some());
        self.totals.surely_damaged_files += u64::from(worst >= Some(Confidence::Likely));
        Ok(())
    }

    fn judge(&mut self, file: &mut FileOf<'_>, content: &mut dyn Read) -> io::Result<Outcome> {
        let tree = self.shared.tree;
        let mut blocks = std::mem::replace(&mut self.blocks, Blocks::new(0));
        blocks.clear();
        let mut content = Steady {
            inner: content,
            at: 0,
            error: None,
            blocks: &mut blocks,
        };
        let outcome = match file.role {
            Role::Message(Store::Maildir) => {
                let expected = maildir::expected(&file.entry.name);
                self.message(&mut content, &[], &expected)
            }
            Role::Message(store) => {
                let sure = match store {
                    Store::Cyrus => Confidence::Certain,
                    _ => Confidence::Likely,
                };
                let expected = Expected {
                    empty: Some(sure),
                    ..Expected::default()
                };
                self.message(&mut content, &[], &expected)
            }
            Role::Delivery => self.delivery(&mut content),
            Role::Mbox => self.mbox(&mut content, &[]),
            Role::Dbox(store) => dbox::judge(&mut content, store, file.stamp.size),
            Role::Uidlist => {
                maildir::uidlist(&mut content, tree, file.directory).map(metadata_only)
            }
            Role::DovecotIndex(index) => {
                metadata::dovecot(&mut content, index, file.stamp.size).map(metadata_only)
            }
            Role::CyrusHeader => cyrus::header(&mut content).map(metadata_only),
            Role::CyrusIndex => {
                cyrus::index(&mut content, tree, file.directory, file.stamp.size).map(metadata_only)
            }
            Role::Json => metadata::json(&mut content, file.stamp.size).map(metadata_only),
            Role::Container => metadata::container(&mut content).map(metadata_only),
            Role::Unknown => self.unknown(file, &mut content),
            Role::Ignored => Ok(Outcome::Other),
        };
        let failure = content.error.take();
        self.blocks = blocks;
        match (outcome, failure) {
            (Ok(outcome), None) => Ok(outcome),
            // A block that cannot be read is a finding, not a reason to be silent.
            (outcome, Some((at, e))) => {
                let end = file.stamp.size.max(at + 1);
                let draft = Draft::new(
                    Kind::Unreadable,
                    Confidence::Certain,
                    format!("reading it fails at byte {at}: {e}"),
                )
                .at([Extent::from_range(at, end)]);
                let readable = match outcome {
                    Ok(Outcome::Judged(mut verdicts, _)) => verdicts
                        .pop()
                        .map(|verdict| verdict.readable)
                        .unwrap_or_default(),
                    _ => Readable::default(),
                };
                Ok(Outcome::Judged(
                    vec![Verdict {
                        drafts: vec![draft],
                        readable,
                    }],
                    1,
                ))
            }
            (Err(e), None) => Err(e),
        }
    }

    /// One message, packed or not. `head` was read already.
    fn message(
        &mut self,
        content: &mut dyn Read,
        head: &[u8],
        expected: &Expected,
    ) -> io::Result<Outcome> {
        let first = self.fill(content, head)?;
        let start = self.buffer.get(..first).unwrap_or_default();
        if let Some(packing) = unpack::packing(start) {
            let verdict = unpack::judge(packing, start, content, expected);
            return Ok(Outcome::Judged(vec![verdict], 1));
        }
        let mut message = Message::at(0, true);
        if expected.virtual_size.is_none() {
            message = message.uncounted();
        }
        let mut count = first;
        while count > 0 {
            message.feed(self.buffer.get(..count).unwrap_or_default());
            count = self.fill(content, &[])?;
        }
        Ok(Outcome::Judged(vec![message.finish(expected)], 1))
    }

    /// A delivery that is under way may be anything; zeros it is not.
    fn delivery(&mut self, content: &mut dyn Read) -> io::Result<Outcome> {
        let Outcome::Judged(mut verdicts, count) =
            self.message(content, &[], &Expected::default())?
        else {
            return Ok(Outcome::Other);
        };
        for verdict in &mut verdicts {
            verdict
                .drafts
                .retain(|draft| matches!(draft.kind, Kind::Blank | Kind::NulRun));
            for draft in &mut verdict.drafts {
                draft.confidence = Confidence::Suspicious;
                draft
                    .reason
                    .push_str("; a delivery that was never completed");
            }
        }
        Ok(Outcome::Judged(verdicts, count))
    }

    fn mbox(&mut self, content: &mut dyn Read, head: &[u8]) -> io::Result<Outcome> {
        let mut verdicts = Vec::new();
        let mut give = |verdict: Verdict| {
            // A mailbox of millions of messages must not fill memory with those that are sound.
            if !verdict.drafts.is_empty() && verdicts.len() < MAX_VERDICTS {
                verdicts.push(verdict);
            }
        };
        let mut mbox = Mbox::new(&mut give);
        let mut count = self.fill(content, head)?;
        while count > 0 {
            mbox.feed(self.buffer.get(..count).unwrap_or_default());
            count = self.fill(content, &[])?;
        }
        let messages = mbox.finish();
        Ok(Outcome::Judged(verdicts, messages))
    }

    /// A file whose name tells nothing: its first bytes do, or postmarks behind a damaged start.
    fn unknown(&mut self, file: &mut FileOf<'_>, content: &mut dyn Read) -> io::Result<Outcome> {
        let count = self.fill(content, &[])?;
        let head = self.buffer.get(..count).unwrap_or_default().to_vec();
        let mut found = sniff(&head);
        if found == Role::Ignored && has_postmarks(&head) {
            found = Role::Mbox;
        }
        file.role = found;
        match found {
            Role::Mbox => self.mbox(content, &head),
            Role::Message(_) => self.message(content, &head, &Expected::default()),
            _ => Ok(Outcome::Other),
        }
    }

    /// Fills the buffer, from `head` first. Whole buffers, so that blocks stay whole.
    fn fill(&mut self, content: &mut dyn Read, head: &[u8]) -> io::Result<usize> {
        let mut filled = head.len();
        if let Some(start) = self.buffer.get_mut(..filled) {
            start.copy_from_slice(head);
        }
        while let Some(room) = self
            .buffer
            .get_mut(filled..)
            .filter(|room| !room.is_empty())
        {
            match content.read(room) {
                Ok(0) => break,
                Ok(count) => filled += count,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
        Ok(filled)
    }
}

/// Findings of one mailbox file beyond this are not told.
const MAX_VERDICTS: usize = 100_000;

fn has_postmarks(bytes: &[u8]) -> bool {
    memchr::memmem::find_iter(bytes, b"\n\nFrom ").any(|at| {
        let line = bytes.get(at + 2..).unwrap_or_default();
        super::mbox::is_postmark(line.split(|b| *b == b'\n').next().unwrap_or_default())
    })
}

fn metadata_only(drafts: Vec<Draft>) -> Outcome {
    Outcome::Judged(
        vec![Verdict {
            drafts,
            readable: Readable::default(),
        }],
        0,
    )
}

enum Failure {
    /// The file could not be read.
    File(io::Error),
    /// Nobody listens any more.
    Sink(io::Error),
}

/// A file under judgement.
struct FileOf<'a> {
    directory: &'a Directory,
    entry: &'a Entry,
    role: Role,
    stamp: Stamp,
}

impl FileOf<'_> {
    fn store(&self) -> Option<Store> {
        Some(match (self.role, self.directory.place) {
            (Role::Message(store) | Role::Dbox(store), _) => store,
            (Role::Delivery | Role::Uidlist, _) => Store::Maildir,
            (Role::Mbox, _) => Store::Mbox,
            (Role::CyrusHeader | Role::CyrusIndex, _) => Store::Cyrus,
            (Role::Json | Role::Container, _) => Store::SmarterMail,
            (Role::DovecotIndex(_), Place::Dbox) => Store::Sdbox,
            (Role::DovecotIndex(_), Place::Storage) => Store::Mdbox,
            (Role::DovecotIndex(_), _) => Store::Maildir,
            (Role::Unknown | Role::Ignored, _) => return None,
        })
    }

    /// Blocks of indexes are alike for reasons of their own.
    fn holds_mail(&self) -> bool {
        matches!(
            self.role,
            Role::Message(_) | Role::Mbox | Role::Dbox(_) | Role::Container
        )
    }

    fn owner(&self) -> Owner {
        let path = self.directory.path_of(&self.entry.name);
        let mailbox = mailbox(&self.directory.path, self.directory.place, self.role, &path);
        Owner {
            store: self.store().unwrap_or(Store::Eml),
            mailbox: Name(mailbox),
            path: Name(path),
            stamp: self.stamp,
        }
    }

    fn finding(&self, draft: Draft, readable: &Readable) -> Finding {
        let (name, stamp) = match &draft.of {
            Some((name, stamp)) => (name.as_slice(), *stamp),
            None => (self.entry.name.as_slice(), self.stamp),
        };
        let path = self.directory.path_of(name);
        let mailbox = mailbox(&self.directory.path, self.directory.place, self.role, &path);
        Finding {
            store: self.store().unwrap_or(Store::Eml),
            mailbox: Name(mailbox),
            path: Name(path),
            kind: draft.kind,
            confidence: draft.confidence,
            ranges: draft.ranges,
            unpacked: draft.unpacked,
            reason: draft.reason,
            readable: readable.clone(),
            stamp,
        }
    }
}

/// Remembers where reading failed: the first error is kept, and the file ends there.
struct Steady<'a> {
    inner: &'a mut dyn Read,
    at: u64,
    error: Option<(u64, io::Error)>,
    blocks: &'a mut Blocks,
}

impl Read for Steady<'_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        if self.error.is_some() {
            return Ok(0);
        }
        match self.inner.read(buf) {
            Ok(count) => {
                self.at += count as u64;
                self.blocks.feed(buf.get(..count).unwrap_or_default());
                Ok(count)
            }
            Err(e) if e.kind() == io::ErrorKind::Interrupted => Err(e),
            Err(e) => {
                self.error = Some((self.at, e));
                Ok(0)
            }
        }
    }
}
