//! A sealed journal: opened, read, closed.

use std::sync::Arc;

use super::format::{
    BLOCK, COMMIT_MAGIC, Closed, ENTRY, Header, JournalState, MAX_RECORD_BYTES, Record, SLOT_MAGIC,
    SLOTS, Step, block_fits, damaged, id_at, seal_block, u32_at, u64_at,
};
use super::patient::is_unreadable;
use super::{JournalError, Side};
use crate::disk::{Disk, read_vec};
use crate::extent::Extent;
use crate::fs::TransactionId;

/// A sealed journal, checked from the first byte to the last.
pub struct Journal {
    pub(super) file: Arc<dyn Disk>,
    pub(super) header: Header,
    pub(super) identity: String,
    pub(super) records: Vec<Record>,
}

impl Journal {
    /// Reads and checks the whole file.
    ///
    /// # Errors
    /// [`JournalError`]. `NotSealed` says that the transaction never reached its commit point.
    pub fn open(file: Arc<dyn Disk>) -> Result<Journal, JournalError> {
        let (header, commit) = Journal::ends(&file)?;
        if hash_file(&*file, header.commit_at)?.as_bytes()[..] != commit[24..56] {
            return Err(damaged("its content does not fit its commit record"));
        }
        let identity = Journal::read_identity(&file, &header)?;
        let io = JournalError::io("reading");
        let index =
            read_vec(&file, header.index_at, header.records as usize * ENTRY).map_err(&io)?;
        let records: Result<Vec<Record>, JournalError> = index
            .chunks_exact(ENTRY)
            .map(|entry| Record::decode(entry, &header))
            .collect();
        let journal = Journal {
            file,
            header,
            identity,
            records: records?,
        };
        journal.check_records()?;
        Ok(journal)
    }

    /// The state and the identity of a sealed journal, without reading what lies between. For
    /// lists: whoever is to act opens it.
    ///
    /// # Errors
    /// As [`Journal::open`], as far as it looks.
    pub fn glance(file: Arc<dyn Disk>) -> Result<(JournalState, String), JournalError> {
        let (header, _) = Journal::ends(&file)?;
        let identity = Journal::read_identity(&file, &header)?;
        let journal = Journal {
            file,
            header,
            identity,
            records: Vec::new(),
        };
        Ok((journal.state()?, journal.identity))
    }

    /// The header and the commit record.
    fn ends(file: &Arc<dyn Disk>) -> Result<(Header, Vec<u8>), JournalError> {
        let io = JournalError::io("reading");
        let file_bytes = file.len_bytes();
        let end = BLOCK * (1 + SLOTS);
        if file_bytes < BLOCK + end || !file_bytes.is_multiple_of(BLOCK) {
            return Err(JournalError::NotSealed);
        }
        let block = read_vec(file, 0, BLOCK as usize).map_err(&io)?;
        Header::check_version(&block)?;
        // The commit record first, from the end: it is written when all the rest is durable, so
        // where there is none the rest may be anything, and where there is one it must fit.
        let commit = read_vec(file, file_bytes - end, BLOCK as usize).map_err(&io)?;
        if commit.get(..8) != Some(COMMIT_MAGIC) || !block_fits(&commit) {
            return Err(JournalError::NotSealed);
        }
        let header = Header::decode(&block)?;
        header.check_layout(file_bytes)?;
        if id_at(&commit, 8) != header.id {
            return Err(damaged("its commit record is that of another transaction"));
        }
        Ok((header, commit))
    }

    fn read_identity(file: &Arc<dyn Disk>, header: &Header) -> Result<String, JournalError> {
        let identity = read_vec(file, BLOCK, header.identity_bytes as usize)
            .map_err(JournalError::io("reading"))?;
        String::from_utf8(identity).map_err(|_| damaged("its identity is not text"))
    }

    /// Exactly one gate and one superblock over the same unit; nothing else overlaps anything.
    fn check_records(&self) -> Result<(), JournalError> {
        let one = |step| {
            let mut found = self.records.iter().filter(|r| r.step == step);
            match (found.next(), found.next()) {
                (Some(record), None) => Ok(*record),
                _ => Err(damaged(
                    "it has no single record of its gate and superblock",
                )),
            }
        };
        let (gate, superblock) = (one(Step::Gate)?, one(Step::Superblock)?);
        if gate.extent != superblock.extent || !gate.extent.contains(self.header.superblock) {
            return Err(damaged("its gate is not where the superblock is"));
        }
        let mut extents: Vec<Extent> = self
            .records
            .iter()
            .filter(|r| r.step != Step::Gate)
            .map(|r| r.extent)
            .collect();
        extents.sort();
        if extents.windows(2).any(|w| w[0].end() > w[1].start) {
            return Err(damaged("two of its records overlap"));
        }
        Ok(())
    }

    /// The transaction.
    pub fn id(&self) -> TransactionId {
        self.header.id
    }

    /// What the target called itself, as the caller wrote it when the journal was sealed.
    pub fn identity(&self) -> &str {
        &self.identity
    }

    /// The driver of the file system.
    pub fn driver(&self) -> &str {
        &self.header.driver
    }

    /// The program that sealed it.
    pub fn producer(&self) -> &str {
        &self.header.producer
    }

    /// Length of the target before and after.
    pub fn lengths(&self) -> (u64, u64) {
        (self.header.old_bytes, self.header.new_bytes)
    }

    /// Whether the length of the target is part of the transaction: an image that is extended.
    pub fn changes_length(&self) -> bool {
        self.header.old_bytes != self.header.new_bytes
    }

    /// Whether a target of so many bytes has the length of this side: what it was or is to be
    /// where the transaction changes it, and else at least what it was.
    pub fn length_is(&self, len_bytes: u64, side: Side) -> bool {
        match side {
            _ if !self.changes_length() => len_bytes >= self.header.old_bytes,
            Side::Before => len_bytes == self.header.old_bytes,
            Side::After => len_bytes == self.header.new_bytes,
        }
    }

    /// Where the superblock lies on the target.
    pub fn superblock(&self) -> Extent {
        self.header.superblock
    }

    /// All records, the gate first and the superblock last.
    pub fn records(&self) -> &[Record] {
        &self.records
    }

    /// Bytes that the transaction changes on the target.
    pub fn delta_bytes(&self) -> u64 {
        self.records
            .iter()
            .filter(|r| r.step != Step::Gate)
            .map(|r| r.extent.len)
            .sum()
    }

    /// The content of a record, checked against its CRC.
    ///
    /// # Errors
    /// `Damaged` where the file no longer holds what was sealed.
    pub fn content(&self, record: &Record, side: Side) -> Result<Vec<u8>, JournalError> {
        let (at, crc) = match side {
            Side::Before => (record.position, record.undo_crc),
            Side::After => (record.redo_at(), record.redo_crc),
        };
        let bytes = read_vec(&self.file, at, record.extent.len as usize)
            .map_err(JournalError::io("reading"))?;
        if crc32fast::hash(&bytes) != crc {
            return Err(damaged(format!(
                "the record of {} does not fit its checksum",
                record.extent
            )));
        }
        Ok(bytes)
    }

    /// Whether it is hot, or how it ended.
    ///
    /// # Errors
    /// Where the file cannot be read.
    pub fn state(&self) -> Result<JournalState, JournalError> {
        match self.used_slots()?.last() {
            None | Some((3, _)) => Ok(JournalState::Hot),
            Some(&(number, time)) => Ok(JournalState::Closed(closed_from(number)?, time)),
        }
    }

    fn slot(&self, slot: u64) -> Result<Option<(u32, u64)>, JournalError> {
        let at = self.header.commit_at + BLOCK * (1 + slot);
        let block =
            read_vec(&self.file, at, BLOCK as usize).map_err(JournalError::io("reading"))?;
        let used = block.get(..8) == Some(SLOT_MAGIC)
            && block_fits(&block)
            && id_at(&block, 8) == self.header.id
            && u64::from(u32_at(&block, 24)) == slot;
        Ok(used.then(|| (u32_at(&block, 28), u64_at(&block, 32))))
    }

    /// Writes how the transaction ended. `now` is in seconds since 1970.
    ///
    /// # Errors
    /// Where the file cannot be written; the journal then stays as it was.
    pub fn close(&self, how: Closed, now: u64) -> Result<(), JournalError> {
        let number = match how {
            Closed::Applied => 1,
            Closed::RolledBack => 2,
            Closed::Abandoned => 4,
        };
        self.append(number, now)
    }

    /// Gives up the transaction of `file`, of which no more is asked than that its two ends can be
    /// read: what lies between may be damaged.
    ///
    /// # Errors
    /// As [`Journal::glance`] and [`Journal::close`]; `Damaged` where it is closed already.
    pub fn abandon(file: Arc<dyn Disk>, now: u64) -> Result<(), JournalError> {
        let (header, _) = Journal::ends(&file)?;
        let journal = Journal {
            file,
            header,
            identity: String::new(),
            records: Vec::new(),
        };
        journal.close(Closed::Abandoned, now)
    }

    /// Makes a closed journal hot again, before something is written to the target. Refused where
    /// it could not be closed after that.
    pub(super) fn reopen(&self, now: u64) -> Result<(), JournalError> {
        if self.used_slots()?.len() as u64 + 2 > SLOTS {
            return Err(damaged("too few of its state slots are free"));
        }
        self.append(3, now)
    }

    /// Those before the first unused one. One that was being written when the power went may be
    /// unreadable until it is written again: it is the last, and counts as unused.
    fn used_slots(&self) -> Result<Vec<(u32, u64)>, JournalError> {
        let mut used = Vec::new();
        for slot in 0..SLOTS {
            match self.slot(slot) {
                Ok(Some(content)) => used.push(content),
                Ok(None) => break,
                Err(JournalError::Io { source, .. }) if is_unreadable(&source) => {
                    for later in slot + 1..SLOTS {
                        if self.slot(later)?.is_some() {
                            return Err(damaged("one of its state slots cannot be read"));
                        }
                    }
                    break;
                }
                Err(e) => return Err(e),
            }
        }
        Ok(used)
    }

    fn append(&self, number: u32, now: u64) -> Result<(), JournalError> {
        let free = self.used_slots()?.len() as u64;
        if free == SLOTS {
            return Err(damaged("all its state slots are used"));
        }
        let mut block = vec![0; BLOCK as usize];
        block[..8].copy_from_slice(SLOT_MAGIC);
        block[8..24].copy_from_slice(&self.header.id.0);
        block[24..28].copy_from_slice(&(free as u32).to_le_bytes());
        block[28..32].copy_from_slice(&number.to_le_bytes());
        block[32..40].copy_from_slice(&now.to_le_bytes());
        let io = JournalError::io("writing");
        self.file
            .write_at(
                self.header.commit_at + BLOCK * (1 + free),
                &seal_block(block),
            )
            .map_err(&io)?;
        // Barrier: a rollback on purpose writes to the target only when the journal is durably hot
        // again; and a transaction that is reported as closed must be so after a power cut.
        self.file.flush().map_err(&io)
    }
}

fn closed_from(number: u32) -> Result<Closed, JournalError> {
    match number {
        1 => Ok(Closed::Applied),
        2 => Ok(Closed::RolledBack),
        4 => Ok(Closed::Abandoned),
        _ => Err(JournalError::Newer(format!("unknown state {number}"))),
    }
}

fn hash_file(file: &dyn Disk, len: u64) -> Result<blake3::Hash, JournalError> {
    let mut hasher = blake3::Hasher::new();
    let mut buf = vec![0; MAX_RECORD_BYTES as usize];
    for piece in Extent::new(0, len).split(MAX_RECORD_BYTES) {
        let part = &mut buf[..piece.len as usize];
        file.read_at(piece.start, part)
            .map_err(JournalError::io("reading"))?;
        hasher.update(part);
    }
    Ok(hasher.finalize())
}
