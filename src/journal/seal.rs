//! Writing the journal: everything that the commit will need, before the first byte of it.

use std::io;
use std::sync::Arc;

use super::format::{BLOCK, Header, MAX_RECORD_BYTES, Record, SLOTS, commit_block, padded};
use super::{JOURNAL_NAME, Journal, JournalError, Step};
use crate::disk::{Dir, Disk, DiskRead};
use crate::extent::{Extent, ExtentMap};
use crate::fs::TransactionId;
use crate::report::{Report, Unit, checkpoint};

/// What a transaction is to change.
pub struct Draft<'a> {
    /// Its name, which the gate will carry.
    pub id: TransactionId,
    /// How to know the target again: text that this module does not read.
    pub identity: &'a str,
    /// Name of the file system's driver.
    pub driver: &'a str,
    /// Where the superblock lies on the target.
    pub superblock: Extent,
    /// The unit that holds the superblock.
    pub superblock_unit: Extent,
    /// The content of that unit with the gate closed.
    pub gate: &'a [u8],
    /// The bytes that differ, in whole units: the table's backup.
    pub backup_table: &'a ExtentMap,
    /// The same: the table.
    pub primary_table: &'a ExtentMap,
    /// The same: everything else. The superblock's unit is taken out of all three.
    pub blocks: &'a ExtentMap,
}

impl Draft<'_> {
    /// Extents of the records, none longer than a record may be, in the order of writing.
    fn extents(&self) -> Vec<(Step, Extent)> {
        let between = [
            (Step::BackupTable, self.backup_table),
            (Step::PrimaryTable, self.primary_table),
            (Step::Blocks, self.blocks),
        ];
        let mut extents = vec![(Step::Gate, self.superblock_unit)];
        for (step, map) in between {
            // A partition right behind the table shares a unit with it.
            let mut map = map.clone();
            map.remove(self.superblock_unit);
            let pieces = map.iter().flat_map(|e| e.split(MAX_RECORD_BYTES));
            extents.extend(pieces.map(|e| (step, e)));
        }
        extents.push((Step::Superblock, self.superblock_unit));
        extents
    }

    fn header(&self, old_bytes: u64, new_bytes: u64) -> Header {
        Header {
            id: self.id,
            old_bytes,
            new_bytes,
            superblock: self.superblock,
            identity_bytes: self.identity.len() as u64,
            records: 0,
            payloads_at: 0,
            index_at: 0,
            commit_at: 0,
            driver: self.driver.into(),
            producer: env!("CARGO_PKG_VERSION").into(),
        }
    }

    /// Bytes that the journal's file will have.
    pub fn file_bytes(&self) -> u64 {
        let lengths: Vec<u64> = self.extents().iter().map(|(_, e)| e.len).collect();
        self.header(0, 0).lay_out(&lengths).0.file_bytes()
    }
}

/// Appends to the file through a buffer, and hashes what it appends.
struct Appender<'a> {
    file: &'a dyn Disk,
    at: u64,
    buf: Vec<u8>,
    hasher: blake3::Hasher,
}

impl Appender<'_> {
    fn put(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.buf.extend_from_slice(bytes);
        self.buf.resize(padded(self.buf.len() as u64) as usize, 0);
        if self.buf.len() as u64 >= 4 * MAX_RECORD_BYTES {
            self.empty()
        } else {
            Ok(())
        }
    }

    fn empty(&mut self) -> io::Result<()> {
        self.file.write_at(self.at, &self.buf)?;
        self.hasher.update(&self.buf);
        self.at += self.buf.len() as u64;
        self.buf.clear();
        Ok(())
    }
}

/// Writes the journal of `draft` into `dir`: `before` is the target, `after` the frozen overlay.
/// When this returns, the transaction is hot: the commit point has passed.
///
/// # Errors
/// Where either cannot be read, or the directory not be written; `Interrupted` where the report's
/// owner asked to stop. The target is untouched in each case.
pub fn seal(
    dir: &dyn Dir,
    draft: &Draft<'_>,
    before: &dyn DiskRead,
    after: &dyn DiskRead,
    report: &dyn Report,
) -> Result<Journal, JournalError> {
    let io = JournalError::io("writing");
    let extents = draft.extents();
    let lengths: Vec<u64> = extents.iter().map(|(_, e)| e.len).collect();
    let (header, positions) = draft
        .header(before.len_bytes(), after.len_bytes())
        .lay_out(&lengths);
    let file: Arc<dyn Disk> = dir.create(JOURNAL_NAME).map_err(&io)?;
    // Space first: a full disk is found before anything else happens.
    file.set_len(header.file_bytes()).map_err(&io)?;
    let mut out = Appender {
        file: &*file,
        at: 0,
        buf: Vec::new(),
        hasher: blake3::Hasher::new(),
    };
    out.put(&header.encode()).map_err(&io)?;
    out.put(draft.identity.as_bytes()).map_err(&io)?;
    report.phase(
        "writing the journal",
        Some(lengths.iter().sum()),
        Unit::Bytes,
    );
    let mut index = Vec::new();
    let mut done = 0;
    for ((step, extent), position) in extents.iter().zip(positions) {
        checkpoint(report).map_err(|e| io(e.into()))?;
        let undo =
            read_padded(before, *extent).map_err(JournalError::io("reading the target for"))?;
        let redo = match step {
            Step::Gate => draft.gate.to_vec(),
            _ => read_padded(after, *extent)
                .map_err(JournalError::io("reading the rehearsal for"))?,
        };
        let record = Record {
            extent: *extent,
            step: *step,
            position,
            undo_crc: crc32fast::hash(&undo),
            redo_crc: crc32fast::hash(&redo),
        };
        out.put(&undo).and_then(|()| out.put(&redo)).map_err(&io)?;
        index.extend(record.encode());
        done += extent.len;
        report.progress(done);
    }
    out.put(&index).and_then(|()| out.empty()).map_err(&io)?;
    assert_eq!(
        out.at, header.commit_at,
        "the journal's layout and its content agree"
    );
    // Barrier: P2. Every old and new value is durable before there is a commit record. So a commit
    // record whose hash does not fit means damage, and never a power cut before the commit point.
    file.flush().map_err(&io)?;
    let mut end = commit_block(draft.id, out.hasher.finalize().as_bytes());
    end.resize((BLOCK * (1 + SLOTS)) as usize, 0);
    file.write_at(header.commit_at, &end).map_err(&io)?;
    // Barrier: P2. The commit record is durable before the target is touched.
    file.flush().map_err(&io)?;
    // Barrier: a journal whose name is lost with the power cannot be found.
    dir.flush().map_err(&io)?;
    // What was written is read back as recovery would read it.
    Journal::open(dir.open(JOURNAL_NAME).map_err(&io)?)
}

/// The bytes of `extent`; what lies beyond the end reads as zero.
///
/// # Errors
/// The disk's.
pub(super) fn read_padded(disk: &dyn DiskRead, extent: Extent) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; extent.len as usize];
    let inside = disk
        .len_bytes()
        .saturating_sub(extent.start)
        .min(extent.len) as usize;
    if inside > 0 {
        disk.read_at(extent.start, &mut bytes[..inside])?;
    }
    Ok(bytes)
}
