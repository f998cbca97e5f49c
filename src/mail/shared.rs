//! Blocks that two files have in common although neither has what surrounds them in the other: the
//! mark of a cross-link.
//!
//! Honest mail shares blocks all the time: one message to many, one attachment in many messages.
//! There the common part starts and ends anywhere, in the middle of blocks. A block that was put
//! into the wrong file differs from its surroundings exactly at both of its edges. So each block is
//! kept as a hash with the eight bytes before and after it, and that is enough to judge.
//!
//! Records are sorted in runs on a temporary file, so memory is bounded, and so is the time: one
//! pass to write, one to merge.

use std::fs::File;
use std::io::{self, BufReader, BufWriter, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::FileExt;
use std::sync::Mutex;

use serde::{Deserialize, Serialize};
use twox_hash::XxHash64;

use super::finding::{Confidence, Finding, Kind, Name, Readable, Stamp, Store};
use super::message::BLOCK_BYTES;
use crate::extent::Extent;

/// Records that are sorted in memory: 40 bytes each.
const SORTED: usize = 1 << 20;
const RECORD_BYTES: usize = 40;
/// Edges of runs of several blocks that are kept for pairing.
const MAX_EDGES: usize = 1 << 20;
/// Blocks with the same content that are compared with each other.
const MAX_GROUP: usize = 4096;
/// Bytes before or after a block that are equal by chance at most.
const BY_CHANCE: usize = 3;

/// One block.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Record {
    hash: u64,
    /// Where the file is described.
    file: u64,
    block: u32,
    /// Bit 0: nothing before it; bit 1: nothing after it.
    edge: u32,
    before: [u8; 8],
    after: [u8; 8],
}

const FIRST: u32 = 1;
const LAST: u32 = 2;

impl Record {
    fn encode(&self) -> [u8; RECORD_BYTES] {
        let mut out = [0; RECORD_BYTES];
        let fields = [
            &self.hash.to_le_bytes()[..],
            &self.file.to_le_bytes(),
            &self.block.to_le_bytes(),
            &self.edge.to_le_bytes(),
            &self.before,
            &self.after,
        ];
        let mut at = 0;
        for field in fields {
            out[at..at + field.len()].copy_from_slice(field);
            at += field.len();
        }
        out
    }

    fn decode(bytes: &[u8; RECORD_BYTES]) -> Record {
        let eight = |at: usize| -> [u8; 8] { std::array::from_fn(|n| bytes[at + n]) };
        let four = |at: usize| -> [u8; 4] { std::array::from_fn(|n| bytes[at + n]) };
        Record {
            hash: u64::from_le_bytes(eight(0)),
            file: u64::from_le_bytes(eight(8)),
            block: u32::from_le_bytes(four(16)),
            edge: u32::from_le_bytes(four(20)),
            before: eight(24),
            after: eight(32),
        }
    }
}

/// The blocks of one file, as it is read.
#[derive(Debug)]
pub struct Blocks {
    seed: u64,
    carry: Vec<u8>,
    before: [u8; 8],
    block: u32,
    records: Vec<Record>,
    /// The last record has no bytes after it yet.
    open: bool,
}

impl Blocks {
    /// `seed` is the same for all files of a scan, and not to be guessed.
    pub fn new(seed: u64) -> Blocks {
        Blocks {
            seed,
            carry: Vec::new(),
            before: [0; 8],
            block: 0,
            records: Vec::new(),
            open: false,
        }
    }

    /// Forgets the last file.
    pub fn clear(&mut self) {
        self.carry.clear();
        self.records.clear();
        (self.before, self.block, self.open) = ([0; 8], 0, false);
    }

    /// The next bytes of the file.
    pub fn feed(&mut self, bytes: &[u8]) {
        const BLOCK: usize = BLOCK_BYTES as usize;
        let mut rest = bytes;
        if !self.carry.is_empty() {
            let (piece, after) = rest.split_at(rest.len().min(BLOCK - self.carry.len()));
            self.carry.extend_from_slice(piece);
            rest = after;
            if self.carry.len() < BLOCK {
                return;
            }
            let carry = std::mem::take(&mut self.carry);
            self.whole(&carry);
            self.carry = carry;
            self.carry.clear();
        }
        let (blocks, tail) = rest.as_chunks::<BLOCK>();
        blocks.iter().for_each(|block| self.whole(block));
        self.carry.extend_from_slice(tail);
    }

    fn whole(&mut self, block: &[u8]) {
        self.neighbour(block);
        let number = self.block;
        self.block = number.saturating_add(1);
        if !is_repetitive(block) {
            self.records.push(Record {
                hash: XxHash64::oneshot(self.seed, block),
                file: 0,
                block: number,
                edge: if number == 0 { FIRST } else { 0 },
                before: self.before,
                after: [0; 8],
            });
            self.open = true;
        }
        self.before = block.last_chunk().copied().unwrap_or_default();
    }

    /// What follows the last block.
    fn neighbour(&mut self, bytes: &[u8]) {
        if std::mem::take(&mut self.open)
            && let Some(last) = self.records.last_mut()
        {
            let count = bytes.len().min(8);
            last.after[..count].copy_from_slice(&bytes[..count]);
            last.edge |= if count == 0 { LAST } else { 0 };
        }
    }

    fn finish(&mut self) {
        let carry = std::mem::take(&mut self.carry);
        self.neighbour(&carry);
        self.carry = carry;
    }
}

/// Whether a block is one short text again and again: such blocks are equal for other reasons.
fn is_repetitive(block: &[u8]) -> bool {
    let Some((head, window)) = block.first_chunk::<16>().zip(block.get(1..1024)) else {
        return true;
    };
    match memchr::memmem::find(window, head) {
        Some(at) => block.get(at + 1..) == block.get(..block.len() - at - 1),
        None => block.contains(&0) && block.iter().filter(|b| **b == 0).count() > block.len() / 2,
    }
}

/// The file of a record, as it is kept.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Owner {
    /// Its path.
    pub path: Name,
    /// Its store.
    pub store: Store,
    /// Its mailbox.
    pub mailbox: Name,
    /// What it was.
    pub stamp: Stamp,
}

/// All blocks of a scan.
#[derive(Debug)]
pub struct SharedBlocks {
    /// For [`Blocks::new`].
    pub seed: u64,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    records: Vec<Record>,
    runs: Vec<(u64, u64)>,
    spill: BufWriter<File>,
    spilled: u64,
    owners: BufWriter<File>,
    owners_end: u64,
}

impl SharedBlocks {
    /// Empty.
    ///
    /// # Errors
    /// Where no temporary file can be made.
    pub fn new() -> io::Result<SharedBlocks> {
        // Not below /tmp, which may be memory.
        let temporary = || tempfile::tempfile_in("/var/tmp").or_else(|_| tempfile::tempfile());
        Ok(SharedBlocks {
            seed: std::hash::BuildHasher::hash_one(&std::hash::RandomState::new(), 0),
            state: Mutex::new(State {
                records: Vec::new(),
                runs: Vec::new(),
                spill: BufWriter::with_capacity(1 << 20, temporary()?),
                spilled: 0,
                owners: BufWriter::with_capacity(1 << 18, temporary()?),
                owners_end: 0,
            }),
        })
    }

    /// Takes the blocks of a file that was read to its end.
    ///
    /// # Errors
    /// Those of the temporary files.
    pub fn add(&self, blocks: &mut Blocks, owner: impl FnOnce() -> Owner) -> io::Result<()> {
        blocks.finish();
        if blocks.records.is_empty() {
            return Ok(());
        }
        let text = serde_json::to_vec(&owner())?;
        let mut state = self
            .state
            .lock()
            .map_err(|_| io::Error::other("a thread failed"))?;
        let file = state.owners_end;
        state.owners.write_all(&(text.len() as u32).to_le_bytes())?;
        state.owners.write_all(&text)?;
        state.owners_end += 4 + text.len() as u64;
        for record in blocks.records.drain(..) {
            state.records.push(Record { file, ..record });
            if state.records.len() >= SORTED {
                state.spill()?;
            }
        }
        Ok(())
    }

    /// Tells of every block that is in the wrong file.
    ///
    /// # Errors
    /// Those of the temporary files, and what `give` returns.
    pub fn judge(self, give: &mut dyn FnMut(Finding) -> io::Result<()>) -> io::Result<()> {
        let state = self
            .state
            .into_inner()
            .map_err(|_| io::Error::other("a thread failed"))?;
        let State {
            mut records,
            runs,
            spill,
            owners,
            ..
        } = state;
        let spill = spill.into_inner().map_err(io::IntoInnerError::into_error)?;
        let owners = owners
            .into_inner()
            .map_err(io::IntoInnerError::into_error)?;
        records.sort_unstable();
        let mut judge = Judge {
            group: Vec::new(),
            edges: Vec::new(),
            hits: Vec::new(),
        };
        merge(&spill, &runs, records, &mut |record| judge.take(record))?;
        judge.end_of_group();
        judge.pair_edges();
        judge.tell(&owners, give)
    }
}

impl State {
    fn spill(&mut self) -> io::Result<()> {
        self.records.sort_unstable();
        let count = self.records.len() as u64;
        for record in self.records.drain(..) {
            self.spill.write_all(&record.encode())?;
        }
        self.runs.push((self.spilled, count));
        self.spilled += count * RECORD_BYTES as u64;
        Ok(())
    }
}

/// Gives all records in order.
fn merge(
    spill: &File,
    runs: &[(u64, u64)],
    last: Vec<Record>,
    take: &mut dyn FnMut(Record),
) -> io::Result<()> {
    struct Run<'a> {
        reader: BufReader<At<'a>>,
        left: u64,
    }
    impl Run<'_> {
        fn next(&mut self) -> io::Result<Option<Record>> {
            let Some(left) = self.left.checked_sub(1) else {
                return Ok(None);
            };
            self.left = left;
            let mut bytes = [0; RECORD_BYTES];
            self.reader.read_exact(&mut bytes)?;
            Ok(Some(Record::decode(&bytes)))
        }
    }
    let mut readers: Vec<Run<'_>> = (runs.iter())
        .map(|&(at, left)| Run {
            reader: BufReader::with_capacity(256 << 10, At { file: spill, at }),
            left,
        })
        .collect();
    let mut last = last.into_iter();
    let mut heap = std::collections::BinaryHeap::new();
    for (number, run) in readers.iter_mut().enumerate() {
        heap.extend(
            run.next()?
                .map(|record| std::cmp::Reverse((record, number))),
        );
    }
    heap.extend(
        last.next()
            .map(|record| std::cmp::Reverse((record, runs.len()))),
    );
    while let Some(std::cmp::Reverse((record, number))) = heap.pop() {
        take(record);
        let next = match readers.get_mut(number) {
            Some(run) => run.next()?,
            None => last.next(),
        };
        heap.extend(next.map(|record| std::cmp::Reverse((record, number))));
    }
    Ok(())
}

/// Reads a file from a place on, without a position that others share.
struct At<'a> {
    file: &'a File,
    at: u64,
}

impl Read for At<'_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let mut file = self.file;
        file.seek(SeekFrom::Start(self.at))?;
        let count = file.read(buf)?;
        self.at += count as u64;
        Ok(count)
    }
}

/// A block, or several, of `file` that are also in `other`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Hit {
    file: u64,
    block: u32,
    count: u32,
    other: u64,
    other_block: u32,
}

/// An edge of a run: of a pair of files, at a distance of blocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Edge {
    files: (u64, u64),
    distance: i64,
    block: u32,
    is_end: bool,
}

struct Judge {
    group: Vec<Record>,
    edges: Vec<Edge>,
    hits: Vec<Hit>,
}

impl Judge {
    fn take(&mut self, record: Record) {
        if self
            .group
            .first()
            .is_some_and(|first| first.hash != record.hash)
        {
            self.end_of_group();
        }
        if self.group.len() < MAX_GROUP {
            self.group.push(record);
        }
    }

    fn end_of_group(&mut self) {
        let group = std::mem::take(&mut self.group);
        if group.len() >= 2 {
            self.judge(&group);
        }
    }

    fn judge(&mut self, group: &[Record]) {
        // Where most agree on what surrounds the block, it is at home there.
        let neighbours = |r: &Record| (r.before, r.after, r.edge);
        let mut sorted: Vec<&Record> = group.iter().collect();
        sorted.sort_by_key(|r| (neighbours(r), r.file, r.block));
        let home = sorted
            .chunk_by(|a, b| neighbours(a) == neighbours(b))
            .max_by_key(|class| {
                (
                    class.len(),
                    class.first().is_some_and(|r| r.edge & FIRST != 0),
                )
            });
        let Some((home, alike)) = home.and_then(|class| Some((*class.first()?, class.len())))
        else {
            return;
        };
        for record in group {
            let (front, back) = (sharp_front(home, record), sharp_back(home, record));
            match (front, back) {
                (true, true) => {
                    self.hit(record, home);
                    // Of two alone, nobody knows which; the start of a file is where it belongs.
                    if alike == 1 && group.len() == 2 && home.edge & FIRST == 0 {
                        self.hit(home, record);
                    }
                }
                (true, false) => self.edge(home, record, false),
                (false, true) => self.edge(home, record, true),
                (false, false) => {}
            }
        }
    }

    fn hit(&mut self, record: &Record, other: &Record) {
        if self.hits.len() < MAX_EDGES {
            self.hits.push(Hit {
                file: record.file,
                block: record.block,
                count: 1,
                other: other.file,
                other_block: other.block,
            });
        }
    }

    fn edge(&mut self, a: &Record, b: &Record, is_end: bool) {
        // One order of the two, whichever was at home at this end.
        let (a, b) = if (a.file, a.block) <= (b.file, b.block) {
            (a, b)
        } else {
            (b, a)
        };
        if self.edges.len() < MAX_EDGES {
            self.edges.push(Edge {
                files: (a.file, b.file),
                distance: i64::from(b.block) - i64::from(a.block),
                block: a.block,
                is_end,
            });
        }
    }

    /// A run of several blocks has a sharp edge at its start and one at its end.
    fn pair_edges(&mut self) {
        self.edges.sort_unstable();
        for pair in self.edges.windows(2) {
            let [start, end] = pair else { continue };
            let same = (start.files, start.distance) == (end.files, end.distance);
            if !same || start.is_end || !end.is_end {
                continue;
            }
            let count = end.block - start.block + 1;
            let there = u32::try_from(i64::from(start.block) + start.distance).unwrap_or(0);
            let (a, b) = start.files;
            let (here, there) = ((a, start.block), (b, there));
            for ((file, block), (other, other_block)) in [(here, there), (there, here)] {
                // At the start of a file it is at home.
                if block > 0 {
                    self.hits.push(Hit {
                        file,
                        block,
                        count,
                        other,
                        other_block,
                    });
                }
            }
        }
    }

    fn tell(
        mut self,
        owners: &File,
        give: &mut dyn FnMut(Finding) -> io::Result<()>,
    ) -> io::Result<()> {
        self.hits.sort_unstable();
        self.hits.dedup_by_key(|hit| (hit.file, hit.block));
        for hits in self.hits.chunk_by(|a, b| a.file == b.file) {
            let Some(first) = hits.first() else { continue };
            let owner = owner(owners, first.file)?;
            let other = self::owner(owners, first.other)?;
            let bytes = |n: u32| u64::from(n) * BLOCK_BYTES;
            let blocks: u32 = hits.iter().map(|hit| hit.count).sum();
            let reason = format!(
                "{} from byte {} {} also in {} from byte {}, and what is around differs: in one of \
                 the two it does not belong",
                if blocks == 1 {
                    "1 block".to_string()
                } else {
                    format!("{blocks} blocks")
                },
                bytes(first.block),
                if blocks == 1 { "is" } else { "are" },
                other.path,
                bytes(first.other_block),
            );
            give(Finding {
                path: owner.path,
                store: owner.store,
                mailbox: owner.mailbox,
                kind: Kind::SharedBlock,
                confidence: Confidence::Likely,
                ranges: (hits.iter())
                    .take(super::finding::MAX_RANGES)
                    .map(|hit| Extent::new(bytes(hit.block), bytes(hit.count)))
                    .collect(),
                unpacked: false,
                reason,
                readable: Readable::default(),
                stamp: owner.stamp,
            })?;
        }
        Ok(())
    }
}

fn owner(owners: &File, at: u64) -> io::Result<Owner> {
    let mut len = [0; 4];
    owners.read_exact_at(&mut len, at)?;
    let mut text = vec![0; u32::from_le_bytes(len) as usize];
    owners.read_exact_at(&mut text, at + 4)?;
    Ok(serde_json::from_slice(&text)?)
}

fn sharp_front(a: &Record, b: &Record) -> bool {
    match (a.edge & FIRST != 0, b.edge & FIRST != 0) {
        (true, true) => false,
        (false, false) => {
            let pairs = a.before.iter().rev().zip(b.before.iter().rev());
            pairs.take_while(|(a, b)| a == b).count() <= BY_CHANCE
        }
        _ => true,
    }
}

fn sharp_back(a: &Record, b: &Record) -> bool {
    match (a.edge & LAST != 0, b.edge & LAST != 0) {
        (true, true) => false,
        (false, false) => {
            let pairs = a.after.iter().zip(&b.after);
            pairs.take_while(|(a, b)| a == b).count() <= BY_CHANCE
        }
        _ => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(seed: u32, len: usize) -> Vec<u8> {
        let mut state = seed.wrapping_mul(2_654_435_761) | 1;
        (0..len)
            .map(|_| {
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                b'a' + (state >> 24) as u8 % 26
            })
            .collect()
    }

    fn found(files: &[Vec<u8>]) -> Vec<(usize, Vec<Extent>)> {
        let shared = SharedBlocks::new().unwrap();
        for (number, bytes) in files.iter().enumerate() {
            let mut blocks = Blocks::new(shared.seed);
            bytes.chunks(5000).for_each(|piece| blocks.feed(piece));
            let owner = || Owner {
                path: Name(number.to_string().into_bytes()),
                store: Store::Eml,
                mailbox: Name::default(),
                stamp: Stamp::default(),
            };
            shared.add(&mut blocks, owner).unwrap();
        }
        let mut found = Vec::new();
        let mut give = |f: Finding| {
            found.push((
                String::from_utf8(f.path.0).unwrap().parse().unwrap(),
                f.ranges,
            ));
            Ok(())
        };
        shared.judge(&mut give).unwrap();
        found.sort();
        found
    }

    #[test]
    fn a_block_in_the_wrong_file_is_found() {
        let mut files: Vec<Vec<u8>> = (1..20).map(|n| text(n, 30_000)).collect();
        assert_eq!(found(&files), []);
        let block = files[3][8192..12_288].to_vec();
        files[7][4096..8192].copy_from_slice(&block);
        let (here, there) = (Extent::new(4096, 4096), Extent::new(8192, 4096));
        assert_eq!(found(&files), [(3, vec![there]), (7, vec![here])]);
        // The start of a file is where it belongs.
        let head = files[10][..4096].to_vec();
        files[12][16_384..20_480].copy_from_slice(&head);
        assert_eq!(found(&files)[2..], [(12, vec![Extent::new(16_384, 4096)])]);
    }

    #[test]
    fn several_blocks_in_a_row_are_one_run() {
        let mut files: Vec<Vec<u8>> = (1..5).map(|n| text(n, 60_000)).collect();
        let blocks = files[0][8192..24_576].to_vec();
        files[1][16_384..32_768].copy_from_slice(&blocks);
        let run = |start| vec![Extent::new(start, 16_384)];
        assert_eq!(found(&files), [(0, run(8192)), (1, run(16_384))]);
    }

    #[test]
    fn what_honest_mail_has_in_common_is_no_finding() {
        let attachment = text(99, 40_000);
        let with = |head: usize, tail: usize| {
            [
                text(head as u32, head),
                attachment.clone(),
                text(tail as u32, tail),
            ]
            .concat()
        };
        // The same message to two; the same attachment, aligned alike and not; one of zeros.
        let files = [
            with(300, 70),
            with(300, 70),
            with(4396, 900),
            with(777, 50),
            vec![b'A'; 50_000],
            vec![b'A'; 70_000],
        ];
        assert_eq!(found(&files), []);
    }

    #[test]
    fn records_come_back_in_order_from_the_runs() {
        let make = |n: u64| Record {
            hash: n.wrapping_mul(0x9e37_79b9_7f4a_7c15),
            file: n,
            block: n as u32,
            edge: n as u32 % 4,
            before: n.to_le_bytes(),
            after: [7; 8],
        };
        assert_eq!(Record::decode(&make(5).encode()), make(5));
        let mut spill = tempfile::tempfile().unwrap();
        let mut all: Vec<Record> = (0..300).map(make).collect();
        let mut runs = Vec::new();
        for (number, run) in all[..200].chunks_mut(100).enumerate() {
            run.sort_unstable();
            run.iter()
                .for_each(|record| spill.write_all(&record.encode()).unwrap());
            runs.push((number as u64 * 4000, 100));
        }
        let mut last = all[200..].to_vec();
        last.sort_unstable();
        let mut merged = Vec::new();
        merge(&spill, &runs, last, &mut |record| merged.push(record)).unwrap();
        all.sort_unstable();
        assert_eq!(merged, all);
    }
}
