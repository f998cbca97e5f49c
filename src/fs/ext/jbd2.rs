//! The journal: which blocks its committed transactions hold, and what is in them.
//!
//! Source of the format: `struct journal_superblock_s` and its neighbours in the kernel's
//! `jbd2.h`. Numbers are big-endian. A log is a ring of blocks between `s_first` and the end:
//!
//! ```text
//! log         = transaction*                   from s_start on, with the number s_sequence
//! transaction = (descriptor copy* | revoke)* commit     all with the transaction's number
//! descriptor  = header tag*                    a tag for each copy that follows: its block
//! revoke      = header count block*            copies up to this transaction are void
//! ```
//!
//! | tag with | bytes | block | flags | checksum |
//! |---|---|---|---|---|
//! | nothing, checksum 1 | 8 | 0..4 | 6..8 | |
//! | checksum 2 | 10 | 0..4 | 6..8 | 4..6 |
//! | checksum 3 | 16 | 0..4, 8..12 | 6..8 | 12..16 |
//! | `64bit` and not checksum 3 | 4 more | 8..12 as well | | |
//!
//! A tag without the flag `SAME_UUID` has 16 more bytes.
//!
//! 1. What is read here is what the kernel and e2fsck replay: the same order, the same end of the
//!    log, the same rules for revoked blocks and for stale ones.
//! 2. No bytes make it panic or loop: a walk takes at most as many blocks as the log has, and
//!    memory grows with the number of copies in it.
//! 3. Checksums are verified: version 1 covers the descriptors and copies of a transaction; versions
//!    2 and 3 each descriptor, revoke and commit block, and each copy as it is used.
//! 4. What cannot be known is refused: fast commits, which name files and not blocks, features
//!    that are not known, a log that the kernel gave up.

use std::collections::BTreeMap;

use crate::fs::FsError;
use crate::report::Refusal;

use super::feature;
use super::inode::Kind;
use super::map::{Map, Piece, Run};
use super::walk::{Table, Volume};
use crate::fs::crc::{crc32_be, crc32c};

const MAGIC: u32 = 0xc03b_3998;
const HEADER_BYTES: usize = 12;
const SUPERBLOCK_BYTES: usize = 1024;

const DESCRIPTOR: u32 = 1;
const COMMIT: u32 = 2;
const SUPERBLOCK_V1: u32 = 3;
const SUPERBLOCK_V2: u32 = 4;
const REVOKE: u32 = 5;

const COMPAT_CHECKSUM: u32 = 0x1;
const INCOMPAT_64BIT: u32 = 0x2;
const INCOMPAT_ASYNC_COMMIT: u32 = 0x4;
const INCOMPAT_CSUM_V2: u32 = 0x8;
const INCOMPAT_CSUM_V3: u32 = 0x10;
const INCOMPAT_FAST_COMMIT: u32 = 0x20;
/// The five above and `REVOKE`, which only says that such blocks may be there.
const INCOMPAT_KNOWN: u32 = 0x3f;
const CHECKSUM_CRC32C: u8 = 4;

const TAG_ESCAPED: u16 = 1;
const TAG_SAME_UUID: u16 = 2;
const TAG_LAST: u16 = 8;

/// Bytes of the checksum at the end of a descriptor or revoke block.
const TAIL_BYTES: usize = 4;
const COMMIT_CHECKSUM_AT: usize = 16;
const COMMIT_SECONDS_AT: usize = 48;
const SUPERBLOCK_CHECKSUM_AT: usize = 0xfc;

/// A journal inside its file system.
pub struct Journal<'a> {
    volume: &'a Volume<'a>,
    /// Where its blocks are.
    runs: Vec<Run>,
    compat: u32,
    incompat: u32,
    /// First block of the ring, and the block after its last one.
    first: u64,
    last: u64,
    /// Where the log starts; 0 where it is empty.
    start: u64,
    /// Number of the transaction at its start.
    sequence: u32,
    /// What the kernel gave up with, or 0.
    error: u32,
    seed: u32,
}

/// The copy of a block in the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Copy {
    /// The journal's own block that holds it.
    at: u64,
    sequence: u32,
    checksum: u32,
    /// Its first four bytes were those of a header, and were replaced by zeros.
    is_escaped: bool,
}

/// What the committed transactions leave.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Committed {
    /// The last copy of each block that is not revoked.
    pub blocks: BTreeMap<u64, Copy>,
    /// How many transactions there are.
    pub transactions: u32,
}

/// What was read of a transaction whose commit was not seen yet.
#[derive(Default)]
struct Pending {
    copies: Vec<(u64, Copy)>,
    /// Where its revoke blocks are in the log. They are read when it is committed.
    revokes: Vec<u64>,
    /// A block does not fit its checksum: damage, or what is left of an older log.
    is_doubtful: bool,
    /// The checksum of version 1, from the first descriptor on.
    sum: Option<u32>,
}

impl<'a> Journal<'a> {
    /// The journal of `volume`; `None` where there is none, or none inside.
    ///
    /// # Errors
    /// [`FsError::Unsupported`] `ext-journal-damaged` where what should be a journal is none,
    /// `ext-journal-unknown` where it has features that are not known; [`FsError::Io`].
    pub fn open(volume: &'a Volume<'a>) -> Result<Option<Journal<'a>>, FsError> {
        let number = volume.sb.journal_inode;
        if !volume.sb.has(feature::HAS_JOURNAL) || number == 0 {
            return Ok(None);
        }
        let (inode, _) = Table::new(volume).get(number)?;
        if inode.kind() != Kind::File {
            return Err(damaged(format!("its inode {number} is no file")));
        }
        let (mut map, mut runs) = (Map::new(volume, number, &inode)?, Vec::new());
        while let Some(piece) = map.next_piece()? {
            if let Piece::Run(run) = piece {
                runs.push(run);
            }
        }
        let mut journal = Journal {
            volume,
            runs,
            compat: 0,
            incompat: 0,
            first: 0,
            last: 0,
            start: 0,
            sequence: 0,
            error: 0,
            seed: 0,
        };
        let block = journal.read(0)?;
        journal.superblock(&block, inode.size / volume.sb.block_bytes)?;
        Ok(Some(journal))
    }

    fn superblock(&mut self, block: &[u8], blocks: u64) -> Result<(), FsError> {
        let raw = block.get(..SUPERBLOCK_BYTES).unwrap_or(block);
        if be32(raw, 0) != MAGIC {
            return Err(damaged("it does not begin with its superblock".into()));
        }
        match be32(raw, 4) {
            // The fields of features came later.
            SUPERBLOCK_V1 => {}
            SUPERBLOCK_V2 => (self.compat, self.incompat) = (be32(raw, 0x24), be32(raw, 0x28)),
            kind => return Err(unknown(format!("superblock of kind {kind}"))),
        }
        let unknown_bits = self.incompat & !INCOMPAT_KNOWN;
        if unknown_bits != 0 {
            return Err(unknown(format!("features {unknown_bits:#x}")));
        }
        if self.has_checksums() {
            let (both, kind) = (INCOMPAT_CSUM_V2 | INCOMPAT_CSUM_V3, raw.get(0x50));
            if self.incompat & both == both || kind != Some(&CHECKSUM_CRC32C) {
                return Err(unknown("kind of checksums".into()));
            }
            if self.checksum_without(!0, raw, SUPERBLOCK_CHECKSUM_AT)
                != be32(raw, SUPERBLOCK_CHECKSUM_AT)
            {
                return Err(damaged("the checksum of its superblock".into()));
            }
            self.seed = crc32c(!0, raw.get(0x30..0x40).unwrap_or(&[]));
        }
        let size = u64::from(be32(raw, 0x0c));
        let (length, first) = (u64::from(be32(raw, 0x10)), u64::from(be32(raw, 0x14)));
        let start = u64::from(be32(raw, 0x1c));
        let in_ring = start == 0 || (first..length).contains(&start);
        if size != self.volume.sb.block_bytes || length > blocks || first == 0 || first >= length {
            return Err(damaged(format!(
                "its superblock says {length} blocks of {size} bytes from {first} on, its inode has {blocks}"
            )));
        }
        if !in_ring {
            return Err(damaged(format!(
                "its log starts at block {start}, not within {first}..{length}"
            )));
        }
        (self.first, self.last, self.start) = (first, length, start);
        (self.sequence, self.error) = (be32(raw, 0x18), be32(raw, 0x20));
        Ok(())
    }

    fn has(&self, feature: u32) -> bool {
        self.incompat & feature != 0
    }

    /// Whether descriptors, revoke and commit blocks have checksums, and copies too.
    fn has_checksums(&self) -> bool {
        self.has(INCOMPAT_CSUM_V2 | INCOMPAT_CSUM_V3)
    }

    /// Whether there is nothing to replay.
    pub fn is_empty(&self) -> bool {
        self.start == 0
    }

    /// Its block with its superblock.
    ///
    /// # Errors
    /// [`FsError::Unsupported`] `ext-journal-damaged` where it has none.
    pub fn superblock_block(&self) -> Result<u64, FsError> {
        self.physical(0)
    }

    /// Whether `block` of the file system is one of the journal's own.
    pub fn owns(&self, block: u64) -> bool {
        let own = |run: &Run| (run.physical..run.physical + run.len).contains(&block);
        self.runs.iter().any(own)
    }

    fn physical(&self, at: u64) -> Result<u64, FsError> {
        let next = self.runs.partition_point(|run| run.logical <= at);
        let run = next.checked_sub(1).and_then(|n| self.runs.get(n));
        run.filter(|run| at < run.logical + run.len)
            .map(|run| run.physical + (at - run.logical))
            .ok_or_else(|| damaged(format!("its block {at} is a hole")))
    }

    fn read(&self, at: u64) -> Result<Vec<u8>, FsError> {
        self.volume.block(self.physical(at)?)
    }

    /// The block `count` after `at` in the ring.
    fn after(&self, at: u64, count: u64) -> u64 {
        self.first + (at - self.first + count) % (self.last - self.first)
    }

    /// What is to be replayed.
    ///
    /// # Errors
    /// [`FsError::Unsupported`]: `ext-fast-commit` where part of it cannot be known from the log,
    /// `ext-journal-damaged` where the log is no log or was given up; [`FsError::Io`].
    pub fn committed(&self) -> Result<Committed, FsError> {
        let mut found = Committed::default();
        if self.error != 0 {
            return Err(damaged(format!(
                "the kernel gave it up with error {}",
                self.error
            )));
        }
        if self.is_empty() {
            return Ok(found);
        }
        if self.has(INCOMPAT_FAST_COMMIT) {
            return Err(FsError::Unsupported(fast_commit()));
        }
        let (mut at, mut sequence, mut last_commit) = (self.start, self.sequence, 0);
        let (mut pending, mut left) = (Pending::default(), self.last - self.first);
        while left > 0 {
            let block = self.read(at)?;
            if be32(&block, 0) != MAGIC || be32(&block, 8) != sequence {
                break;
            }
            let mut taken = 1;
            match be32(&block, 4) {
                DESCRIPTOR => {
                    pending.is_doubtful |= !self.tail_fits(&block);
                    let copies = self.copies(&block, at, sequence, left, &mut pending);
                    self.add_to_sum(&block, (at, copies), &mut pending)?;
                    taken += copies;
                }
                REVOKE => {
                    pending.is_doubtful |= !self.tail_fits(&block);
                    pending.revokes.push(at);
                }
                COMMIT => {
                    let seconds = be64(&block, COMMIT_SECONDS_AT);
                    let is_stale = seconds < last_commit;
                    let fits = !pending.is_doubtful && self.commit_fits(&block, &pending);
                    // A commit that was on its way when the machine stopped looks like damage,
                    // where the journal does not wait for the copies before it writes the commit.
                    let is_torn = !pending.is_doubtful && self.has(INCOMPAT_ASYNC_COMMIT);
                    if !fits && (is_stale || is_torn) {
                        break;
                    }
                    if !fits {
                        return Err(damaged(format!(
                            "transaction {sequence} does not fit its checksums"
                        )));
                    }
                    self.merge(std::mem::take(&mut pending), &mut found)?;
                    last_commit = seconds;
                    sequence = sequence.wrapping_add(1);
                }
                _ => break,
            }
            left = left.saturating_sub(taken);
            at = self.after(at, taken);
        }
        Ok(found)
    }

    /// The copies that the descriptor `block` at `at` names, of which at most `left` follow.
    fn copies(
        &self,
        block: &[u8],
        at: u64,
        sequence: u32,
        left: u64,
        pending: &mut Pending,
    ) -> u64 {
        let tag_bytes = self.tag_bytes();
        let end = block.len() - self.tail_bytes();
        let (mut tag_at, mut count) = (HEADER_BYTES, 0);
        while tag_at + tag_bytes <= end && count < left {
            let tag = block.get(tag_at..tag_at + tag_bytes).unwrap_or(&[]);
            let flags = be16(tag, 6);
            let upper = if self.has(INCOMPAT_64BIT) {
                be32(tag, 8)
            } else {
                0
            };
            count += 1;
            let copy = Copy {
                at: self.after(at, count),
                sequence,
                checksum: match self.has(INCOMPAT_CSUM_V3) {
                    true => be32(tag, 12),
                    false => be16(tag, 4).into(),
                },
                is_escaped: flags & TAG_ESCAPED != 0,
            };
            let number = u64::from(be32(tag, 0)) | u64::from(upper) << 32;
            pending.copies.push((number, copy));
            tag_at += tag_bytes + if flags & TAG_SAME_UUID == 0 { 16 } else { 0 };
            if flags & TAG_LAST != 0 {
                break;
            }
        }
        count
    }

    fn tag_bytes(&self) -> usize {
        if self.has(INCOMPAT_CSUM_V3) {
            return 16;
        }
        let checksum = if self.has(INCOMPAT_CSUM_V2) { 2 } else { 0 };
        let upper = if self.has(INCOMPAT_64BIT) { 4 } else { 0 };
        8 + checksum + upper
    }

    fn tail_bytes(&self) -> usize {
        if self.has_checksums() { TAIL_BYTES } else { 0 }
    }

    /// Adds a committed transaction. What it revokes is void up to and including its own copies.
    fn merge(&self, pending: Pending, found: &mut Committed) -> Result<(), FsError> {
        found.blocks.extend(pending.copies);
        found.transactions += 1;
        let record = if self.has(INCOMPAT_64BIT) { 8 } else { 4 };
        for at in pending.revokes {
            let block = self.read(at)?;
            let end = be32(&block, HEADER_BYTES) as usize;
            if end > block.len() - self.tail_bytes() {
                return Err(damaged(format!(
                    "the revoke block at its block {at} ends at byte {end}"
                )));
            }
            let records = block.get(HEADER_BYTES + 4..end).unwrap_or(&[]);
            for raw in records.chunks_exact(record) {
                let number = match record {
                    8 => be64(raw, 0),
                    _ => be32(raw, 0).into(),
                };
                found.blocks.remove(&number);
            }
        }
        Ok(())
    }

    /// What the block is to hold, from its copy.
    ///
    /// # Errors
    /// [`FsError::Unsupported`] `ext-journal-damaged` where the copy does not fit its checksum;
    /// [`FsError::Io`].
    pub fn content(&self, number: u64, copy: &Copy) -> Result<Vec<u8>, FsError> {
        let mut block = self.read(copy.at)?;
        if self.has_checksums() {
            let mut crc = crc32c(crc32c(self.seed, &copy.sequence.to_be_bytes()), &block);
            if !self.has(INCOMPAT_CSUM_V3) {
                crc &= 0xffff;
            }
            if crc != copy.checksum {
                return Err(damaged(format!(
                    "the copy of block {number} in transaction {} does not fit its checksum",
                    copy.sequence
                )));
            }
        }
        if let (true, Some(first)) = (copy.is_escaped, block.first_chunk_mut::<4>()) {
            *first = MAGIC.to_be_bytes();
        }
        Ok(block)
    }

    /// Whether a descriptor or revoke block fits the checksum at its end.
    fn tail_fits(&self, block: &[u8]) -> bool {
        let at = block.len() - TAIL_BYTES;
        !self.has_checksums() || self.checksum_without(self.seed, block, at) == be32(block, at)
    }

    fn commit_fits(&self, block: &[u8], pending: &Pending) -> bool {
        let found = be32(block, COMMIT_CHECKSUM_AT);
        if self.has_checksums() {
            return self.checksum_without(self.seed, block, COMMIT_CHECKSUM_AT) == found;
        }
        // Kind and size: a transaction may also have been written without.
        match block.get(HEADER_BYTES..HEADER_BYTES + 2) {
            _ if self.compat & COMPAT_CHECKSUM == 0 => true,
            Some([0, 0]) => found == 0,
            kind => kind == Some(&[1, 4]) && found == pending.sum.unwrap_or(!0),
        }
    }

    /// Adds a descriptor at `at` and its copies to the checksum of version 1.
    fn add_to_sum(
        &self,
        descriptor: &[u8],
        (at, copies): (u64, u64),
        pending: &mut Pending,
    ) -> Result<(), FsError> {
        if self.compat & COMPAT_CHECKSUM == 0 || self.has_checksums() {
            return Ok(());
        }
        let mut sum = crc32_be(pending.sum.unwrap_or(!0), descriptor);
        for n in 1..=copies {
            sum = crc32_be(sum, &self.read(self.after(at, n))?);
        }
        pending.sum = Some(sum);
        Ok(())
    }

    /// The checksum of `block`, whose four bytes at `at` count as zeros.
    fn checksum_without(&self, seed: u32, block: &[u8], at: usize) -> u32 {
        let (before, rest) = block.split_at_checked(at).unwrap_or((block, &[]));
        let crc = crc32c(crc32c(seed, before), &[0; 4]);
        crc32c(crc, rest.get(4..).unwrap_or(&[]))
    }
}

fn be16(bytes: &[u8], at: usize) -> u16 {
    u16::from_be_bytes(crate::fs::bytes::array_at(bytes, at))
}

fn be32(bytes: &[u8], at: usize) -> u32 {
    u32::from_be_bytes(crate::fs::bytes::array_at(bytes, at))
}

fn be64(bytes: &[u8], at: usize) -> u64 {
    u64::from_be_bytes(crate::fs::bytes::array_at(bytes, at))
}

/// The journal is no journal, or not whole.
pub fn damaged(what: String) -> FsError {
    FsError::Unsupported(Refusal::new(
        "ext-journal-damaged",
        format!("its journal waits for replay and cannot be replayed: {what}"),
        "copy the whole device first; then `e2fsck -f` replays what it can and repairs the rest",
    ))
}

fn unknown(what: String) -> FsError {
    FsError::Unsupported(Refusal::new(
        "ext-journal-unknown",
        format!("its journal has something that is not known here: {what}"),
        "mount the file system once and unmount it: the kernel then replays its journal",
    ))
}

fn fast_commit() -> Refusal {
    Refusal::new(
        "ext-fast-commit",
        "its journal waits for replay and may hold fast commits, which name files and not blocks: \
         what a replay changes cannot be told from it",
        "mount the file system once and unmount it: the kernel then replays its journal",
    )
}
