//! The journal's file.
//!
//! All numbers are little-endian. Every part begins on a multiple of 4096 bytes.
//!
//! ```text
//! file     = header, identity, payloads, index, commit, slot × SLOTS
//! payloads = for each record in order: undo, redo
//! index    = entry × count
//! ```
//!
//! | header | | |
//! |---|---|---|
//! | 0 | 8 | magic `HFJOURN1` (the last byte is the format version) |
//! | 8 | 4 | incompatible features: an unknown bit refuses |
//! | 12 | 4 | compatible features: an unknown bit is ignored |
//! | 16 | 16 | transaction |
//! | 32 | 8 | length of the target before |
//! | 40 | 8 | length of the target after |
//! | 48 | 16 | superblock: start, length, in the target's coordinates |
//! | 64 | 8 | length of the identity |
//! | 72 | 8 | number of records |
//! | 80 | 8 | position of the payloads |
//! | 88 | 8 | position of the index |
//! | 96 | 8 | position of the commit record |
//! | 104 | 16 | driver of the file system, padded with NUL |
//! | 120 | 24 | version of the program, padded with NUL |
//! | 4092 | 4 | CRC32 of the 4092 bytes before |
//!
//! | entry | | |
//! |---|---|---|
//! | 0 | 8 | start of the extent |
//! | 8 | 4 | length |
//! | 12 | 4 | step |
//! | 16 | 8 | position of undo; redo follows on the next multiple of 4096 |
//! | 24 | 4 | CRC32 of undo |
//! | 28 | 4 | CRC32 of redo |
//! | 32 | 4 | CRC32 of the 32 bytes before |
//!
//! | commit | | |
//! |---|---|---|
//! | 0 | 8 | magic `HFCOMMIT` |
//! | 8 | 16 | transaction |
//! | 24 | 32 | BLAKE3 of everything before the commit record |
//! | 4092 | 4 | CRC32 of the 4092 bytes before |
//!
//! | slot | | |
//! |---|---|---|
//! | 0 | 8 | magic `HFSTATE1`; a slot of zeroes, or one whose CRC does not fit, is unused |
//! | 8 | 16 | transaction |
//! | 24 | 4 | number of the slot |
//! | 28 | 4 | state: 1 applied, 2 rolled back, 3 reopened for a rollback, 4 abandoned |
//! | 32 | 8 | seconds since 1970, for people |
//! | 4092 | 4 | CRC32 of the 4092 bytes before |
//!
//! The slots are written as zeroes when the journal is sealed, so that closing it needs no space.

use super::JournalError;
use crate::extent::Extent;
use crate::fs::TransactionId;

pub(super) const BLOCK: u64 = 4096;
pub(super) const SLOTS: u64 = 8;
/// The longest record: bounds the memory that a reader needs.
pub(super) const MAX_RECORD_BYTES: u64 = 1 << 20;
const MAX_RECORDS: u64 = 1 << 27;
pub(super) const ENTRY: usize = 36;
const MAGIC: &[u8; 7] = b"HFJOURN";
const VERSION: u8 = b'1';
pub(super) const COMMIT_MAGIC: &[u8; 8] = b"HFCOMMIT";
pub(super) const SLOT_MAGIC: &[u8; 8] = b"HFSTATE1";

/// The order in which records are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Step {
    /// The unit of the superblock; redo is the closed gate.
    Gate,
    /// The partition table's backup.
    BackupTable,
    /// The partition table itself.
    PrimaryTable,
    /// Everything else.
    Blocks,
    /// The unit of the superblock; redo is the new superblock.
    Superblock,
}

impl Step {
    /// The steps between gate and superblock, in the order of applying.
    pub(super) const BETWEEN: [Step; 3] = [Step::BackupTable, Step::PrimaryTable, Step::Blocks];

    fn from_number(number: u32) -> Option<Step> {
        [
            Step::Gate,
            Step::BackupTable,
            Step::PrimaryTable,
            Step::Blocks,
            Step::Superblock,
        ]
        .into_iter()
        .find(|s| *s as u32 == number)
    }
}

/// An extent of the target with its old and its new content.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Record {
    /// Where on the target.
    pub extent: Extent,
    /// When it is written.
    pub step: Step,
    pub(super) position: u64,
    pub(super) undo_crc: u32,
    pub(super) redo_crc: u32,
}

/// How a transaction ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Closed {
    /// The target is wholly new.
    Applied,
    /// The target is wholly old.
    RolledBack,
    /// Somebody gave it up; nothing is said about the target.
    Abandoned,
}

/// What a sealed journal says about its transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum JournalState {
    /// Recovery is needed.
    Hot,
    /// It has ended, at this time (seconds since 1970).
    Closed(Closed, u64),
}

/// Everything in the header.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Header {
    pub id: TransactionId,
    pub old_bytes: u64,
    pub new_bytes: u64,
    pub superblock: Extent,
    pub identity_bytes: u64,
    pub records: u64,
    pub payloads_at: u64,
    pub index_at: u64,
    pub commit_at: u64,
    pub driver: String,
    pub producer: String,
}

pub(super) fn padded(bytes: u64) -> u64 {
    bytes.div_ceil(BLOCK) * BLOCK
}

pub(super) fn damaged(what: impl Into<String>) -> JournalError {
    JournalError::Damaged(what.into())
}

pub(super) fn u32_at(bytes: &[u8], at: usize) -> u32 {
    bytes
        .get(at..at + 4)
        .and_then(|b| b.try_into().ok())
        .map_or(0, u32::from_le_bytes)
}

pub(super) fn u64_at(bytes: &[u8], at: usize) -> u64 {
    bytes
        .get(at..at + 8)
        .and_then(|b| b.try_into().ok())
        .map_or(0, u64::from_le_bytes)
}

pub(super) fn id_at(bytes: &[u8], at: usize) -> TransactionId {
    TransactionId(
        bytes
            .get(at..at + 16)
            .and_then(|b| b.try_into().ok())
            .unwrap_or_default(),
    )
}

fn text_at(bytes: &[u8], at: usize, len: usize) -> String {
    let field = bytes.get(at..at + len).unwrap_or_default();
    let end = field.iter().position(|&b| b == 0).unwrap_or(len);
    String::from_utf8_lossy(&field[..end]).into_owned()
}

fn put_text(block: &mut [u8], at: usize, len: usize, text: &str) {
    let bytes = &text.as_bytes()[..text.len().min(len)];
    block[at..at + bytes.len()].copy_from_slice(bytes);
}

pub(super) fn seal_block(mut block: Vec<u8>) -> Vec<u8> {
    block.resize(BLOCK as usize, 0);
    let end = BLOCK as usize - 4;
    let crc = crc32fast::hash(&block[..end]);
    block[end..].copy_from_slice(&crc.to_le_bytes());
    block
}

pub(super) fn block_fits(block: &[u8]) -> bool {
    let end = BLOCK as usize - 4;
    block.len() == BLOCK as usize && crc32fast::hash(&block[..end]) == u32_at(block, end)
}

impl Header {
    /// The layout for records of these lengths. Returns it with the position of each payload.
    pub fn lay_out(mut self, lengths: &[u64]) -> (Header, Vec<u64>) {
        self.records = lengths.len() as u64;
        self.payloads_at = BLOCK + padded(self.identity_bytes);
        let mut at = self.payloads_at;
        let positions = lengths
            .iter()
            .map(|len| {
                let position = at;
                at += 2 * padded(*len);
                position
            })
            .collect();
        self.index_at = at;
        self.commit_at = at + padded(self.records * ENTRY as u64);
        (self, positions)
    }

    /// Length of the whole file.
    pub fn file_bytes(&self) -> u64 {
        self.commit_at + BLOCK * (1 + SLOTS)
    }

    pub fn encode(&self) -> Vec<u8> {
        let mut block = vec![0; BLOCK as usize];
        block[..7].copy_from_slice(MAGIC);
        block[7] = VERSION;
        block[16..32].copy_from_slice(&self.id.0);
        let numbers = [
            self.old_bytes,
            self.new_bytes,
            self.superblock.start,
            self.superblock.len,
            self.identity_bytes,
            self.records,
            self.payloads_at,
            self.index_at,
            self.commit_at,
        ];
        for (i, number) in numbers.into_iter().enumerate() {
            block[32 + 8 * i..40 + 8 * i].copy_from_slice(&number.to_le_bytes());
        }
        put_text(&mut block, 104, 16, &self.driver);
        put_text(&mut block, 120, 24, &self.producer);
        seal_block(block)
    }

    /// Refuses another format version, of which nothing else is known.
    pub(super) fn check_version(block: &[u8]) -> Result<(), JournalError> {
        if block.get(..7) == Some(MAGIC) && block.get(7).is_some_and(|&v| v != VERSION) {
            return Err(JournalError::Newer("an unknown format version".into()));
        }
        Ok(())
    }

    pub(super) fn decode(block: &[u8]) -> Result<Header, JournalError> {
        if block.get(..7) != Some(MAGIC) {
            return Err(JournalError::NotAJournal);
        }
        Header::check_version(block)?;
        if !block_fits(block) {
            return Err(damaged("the checksum of its header does not fit"));
        }
        let features = u32_at(block, 8);
        if features != 0 {
            return Err(JournalError::Newer(format!(
                "unknown feature bits {features:#x}"
            )));
        }
        let n = |i: usize| u64_at(block, 32 + 8 * i);
        if n(2).checked_add(n(3)).is_none() || n(3) > MAX_RECORD_BYTES || n(5) > MAX_RECORDS {
            return Err(damaged("a field of its header is out of range"));
        }
        Ok(Header {
            id: id_at(block, 16),
            old_bytes: n(0),
            new_bytes: n(1),
            superblock: Extent::new(n(2), n(3)),
            identity_bytes: n(4),
            records: n(5),
            payloads_at: n(6),
            index_at: n(7),
            commit_at: n(8),
            driver: text_at(block, 104, 16),
            producer: text_at(block, 120, 24),
        })
    }

    /// Positions must be those that [`Header::lay_out`] would have chosen.
    pub fn check_layout(&self, file_bytes: u64) -> Result<(), JournalError> {
        let index_bytes = padded(self.records * ENTRY as u64);
        let fits = self.identity_bytes < file_bytes
            && self.payloads_at == BLOCK + padded(self.identity_bytes)
            && self.index_at >= self.payloads_at
            && self.index_at < file_bytes
            && self.commit_at == self.index_at + index_bytes
            && self.file_bytes() <= file_bytes;
        if fits {
            Ok(())
        } else {
            Err(damaged("the positions in its header contradict each other"))
        }
    }
}

impl Record {
    pub(super) fn redo_at(&self) -> u64 {
        self.position + padded(self.extent.len)
    }

    pub(super) fn encode(&self) -> Vec<u8> {
        let mut entry = Vec::with_capacity(ENTRY);
        entry.extend_from_slice(&self.extent.start.to_le_bytes());
        entry.extend_from_slice(&(self.extent.len as u32).to_le_bytes());
        entry.extend_from_slice(&(self.step as u32).to_le_bytes());
        entry.extend_from_slice(&self.position.to_le_bytes());
        entry.extend_from_slice(&self.undo_crc.to_le_bytes());
        entry.extend_from_slice(&self.redo_crc.to_le_bytes());
        let crc = crc32fast::hash(&entry);
        entry.extend_from_slice(&crc.to_le_bytes());
        entry
    }

    pub(super) fn decode(entry: &[u8], header: &Header) -> Result<Record, JournalError> {
        if crc32fast::hash(&entry[..ENTRY - 4]) != u32_at(entry, ENTRY - 4) {
            return Err(damaged("the checksum of an index entry does not fit"));
        }
        let (start, len) = (u64_at(entry, 0), u64::from(u32_at(entry, 8)));
        let step = Step::from_number(u32_at(entry, 12));
        let end = start
            .checked_add(len)
            .filter(|&e| e <= header.old_bytes.max(header.new_bytes));
        let position = u64_at(entry, 16);
        let payload_end = position
            .checked_add(2 * padded(len))
            .filter(|&e| e <= header.index_at);
        match (step, end, payload_end) {
            (Some(step), Some(end), Some(_))
                if (1..=MAX_RECORD_BYTES).contains(&len) && position >= header.payloads_at =>
            {
                Ok(Record {
                    extent: Extent::from_range(start, end),
                    step,
                    position,
                    undo_crc: u32_at(entry, 24),
                    redo_crc: u32_at(entry, 28),
                })
            }
            _ => Err(damaged("an index entry is out of range")),
        }
    }
}

pub(super) fn commit_block(id: TransactionId, hash: &[u8; 32]) -> Vec<u8> {
    let mut block = vec![0; BLOCK as usize];
    block[..8].copy_from_slice(COMMIT_MAGIC);
    block[8..24].copy_from_slice(&id.0);
    block[24..56].copy_from_slice(hash);
    seal_block(block)
}
