//! A machine with several disks and one power switch, for crash tests.
//!
//! The code under test is the real one; only its disks are simulated. A disk keeps what was
//! written since its last flush apart from what is durable. When the power is cut, at a chosen
//! operation, each sector that was not flushed may be kept, lost, torn or garbled, and a
//! directory may forget names and lengths. Then the machine starts again, and the code under test
//! must cope with what is there.
//!
//! # Fault model
//!
//! 1. What was flushed is durable. Between flushes there is no order at all.
//! 2. A sector of 512 bytes is whole, unless it is being written when the power goes: then it may
//!    hold anything ([`Survival::Garbled`]), or give an error until it is written again
//!    ([`Survival::Unreadable`]). A drive that rewrites 4096 bytes for it may spoil all of these
//!    ([`Survival::Neighbours`]). A change of length writes no sector.
//! 3. The operation at which the power goes may have happened wholly, in part or not at all.
//! 4. Names in a directory survive as a prefix of what was done since its last flush: journaling
//!    file systems keep that order. The length of a file survives apart from its content.
//! 5. A flush that fails has lost what it was to make durable; the next one says nothing of it.

mod disk;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

pub use disk::{SimDir, SimDisk};

/// The sector of the simulated media: what is written whole or not at all.
pub const SECTOR: u64 = 512;

/// Sectors of a drive that rewrites 4096 bytes at a time.
const GROUP: u64 = 4096 / SECTOR;

type Sector = [u8; SECTOR as usize];

/// What becomes of the sectors that were not flushed when the power goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Survival {
    /// None of them reaches the medium.
    LoseAll,
    /// All of them do.
    KeepAll,
    /// Those written first do, up to a random point, which may lie inside a write.
    Prefix,
    /// Each does or does not.
    Subset,
    /// As `Subset`, in groups of 4096 bytes: a drive with large physical sectors.
    Torn4096,
    /// As `Subset`, and one of them holds garbage.
    Garbled,
    /// As `Subset`, and the 4096 bytes around one of them hold garbage, with what was durable there.
    Neighbours,
    /// As `Subset`, and the 4096 bytes around one of them cannot be read until they are written.
    Unreadable,
}

impl Survival {
    /// All of them.
    pub const ALL: [Survival; 8] = [
        Survival::LoseAll,
        Survival::KeepAll,
        Survival::Prefix,
        Survival::Subset,
        Survival::Torn4096,
        Survival::Garbled,
        Survival::Neighbours,
        Survival::Unreadable,
    ];
}

/// A fault that one operation meets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// It fails with EIO, once.
    Error,
    /// It and every later one on the same disk fail.
    ErrorFromNowOn,
    /// A write is acknowledged and never happens.
    LostWrite,
    /// A write lands so many sectors further on.
    Misdirected(u64),
    /// A write fails with ENOSPC.
    NoSpace,
    /// A write fails with EDQUOT.
    Quota,
    /// The device is gone: nothing can be read or written any more, until the machine starts again.
    Gone,
    /// The device has lost its second half, until the machine starts again.
    Shrunk,
}

/// What the machine is to do at which operation. Operations are counted from 0: every write,
/// flush, change of length and change of a directory; reads apart, in a count of their own.
#[derive(Clone, Debug, Default)]
pub struct Script {
    /// The operation at which the power goes.
    pub cut_at: Option<u64>,
    /// Faults of single operations.
    pub faults: BTreeMap<u64, Fault>,
    /// The read that fails.
    pub failing_read: Option<u64>,
    /// All reads from this one on fail, on the same disk.
    pub failing_reads_from: Option<u64>,
}

/// A random sequence that is the same for the same seed.
#[derive(Clone, Debug)]
pub struct Rng(u64);

impl Rng {
    /// From a seed.
    pub fn new(seed: u64) -> Rng {
        Rng(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    /// The next 64 bits.
    pub fn next_u64(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// A number below `end`, which is not 0.
    pub fn below(&mut self, end: u64) -> u64 {
        self.next_u64() % end
    }
}

/// What can become of a medium's length.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Length {
    /// Nothing: a block device.
    Fixed,
    /// It can be set, and no write goes beyond it: an image that is a target.
    Settable,
    /// Writes beyond the end extend it as well: a file in a directory.
    Growing,
}

/// A sector that is not durable yet.
#[derive(Clone)]
struct Pending {
    index: u64,
    sector: Box<Sector>,
    /// It is on its way to the medium, and not cut off by a change of length.
    written: bool,
}

/// What one disk or file holds.
#[derive(Clone)]
pub(crate) struct Medium {
    /// What was there when the simulation began, shared by all its runs.
    base: Arc<Vec<u8>>,
    durable: HashMap<u64, Box<Sector>>,
    durable_len: u64,
    /// Sectors written since the last flush, in order; the newest of a sector counts.
    pending: Vec<Pending>,
    view: HashMap<u64, Box<Sector>>,
    view_len: u64,
    length: Length,
    sector_bytes: u32,
    broken: bool,
    /// No read works either.
    gone: bool,
    /// Its second half cannot be reached.
    shrunk: bool,
    /// Groups of 4096 bytes that give an error until they are written.
    unreadable: HashSet<u64>,
}

impl Medium {
    fn new(base: Arc<Vec<u8>>, length: Length, sector_bytes: u32) -> Medium {
        let len = base.len() as u64;
        Medium {
            base,
            durable: HashMap::new(),
            durable_len: len,
            pending: Vec::new(),
            view: HashMap::new(),
            view_len: len,
            length,
            sector_bytes,
            broken: false,
            gone: false,
            shrunk: false,
            unreadable: HashSet::new(),
        }
    }

    /// The length that a user of the disk is told.
    fn shown_len(&self) -> u64 {
        self.view_len >> u32::from(self.shrunk)
    }

    fn base_sector(&self, index: u64) -> Box<Sector> {
        let mut sector = Box::new([0; SECTOR as usize]);
        let start = (index * SECTOR) as usize;
        if let Some(rest) = self.base.get(start..) {
            let n = rest.len().min(SECTOR as usize);
            sector[..n].copy_from_slice(&rest[..n]);
        }
        sector
    }

    fn sector(&self, index: u64) -> Box<Sector> {
        let newest = self.view.get(&index).or_else(|| self.durable.get(&index));
        newest.cloned().unwrap_or_else(|| self.base_sector(index))
    }

    fn put(&mut self, index: u64, sector: Box<Sector>, written: bool) {
        self.unreadable.remove(&(index / GROUP));
        self.pending.push(Pending {
            index,
            sector: sector.clone(),
            written,
        });
        self.view.insert(index, sector);
    }

    fn flush(&mut self) {
        for Pending { index, sector, .. } in self.pending.drain(..) {
            self.durable.insert(index, sector);
        }
        self.view.clear();
        self.set_durable_len(self.view_len);
    }

    /// Bytes beyond a shorter length are gone, and read as zero should it grow again.
    fn set_durable_len(&mut self, len: u64) {
        if len < self.durable_len {
            let (first, keep) = (len / SECTOR, (len % SECTOR) as usize);
            let mut edge = self
                .durable
                .get(&first)
                .cloned()
                .unwrap_or_else(|| self.base_sector(first));
            edge[keep..].fill(0);
            self.durable.retain(|&index, _| index < first);
            if keep > 0 {
                self.durable.insert(first, edge);
            }
            for index in first + u64::from(keep > 0)..(self.base.len() as u64).div_ceil(SECTOR) {
                self.durable.insert(index, Box::new([0; SECTOR as usize]));
            }
        }
        self.durable_len = len;
    }

    fn power_loss(&mut self, survival: Survival, rng: &mut Rng) {
        let pending = std::mem::take(&mut self.pending);
        let prefix = rng.below(pending.len() as u64 + 1) as usize;
        let garbled = rng.below(pending.len().max(1) as u64) as usize;
        let (mut groups, mut spoilt) = (HashMap::new(), None);
        for (at, one) in pending.into_iter().enumerate() {
            let (index, mut sector) = (one.index, one.sector);
            let keep = match survival {
                Survival::LoseAll => false,
                Survival::KeepAll => true,
                Survival::Prefix => at < prefix,
                Survival::Subset | Survival::Neighbours | Survival::Unreadable => rng.below(2) == 0,
                Survival::Torn4096 => *groups
                    .entry(index / GROUP)
                    .or_insert_with(|| rng.below(2) == 0),
                Survival::Garbled => at == garbled || rng.below(2) == 0,
            };
            if survival == Survival::Garbled && at == garbled && one.written {
                sector.iter_mut().for_each(|b| *b = rng.next_u64() as u8);
            }
            if keep {
                self.durable.insert(index, sector);
            }
            if at == garbled && one.written {
                spoilt = Some(index / GROUP);
            }
        }
        let len_survives = match survival {
            Survival::LoseAll => false,
            Survival::KeepAll => true,
            _ => rng.below(2) == 0,
        };
        self.set_durable_len(if len_survives {
            self.view_len
        } else {
            self.durable_len
        });
        if let Some(group) = spoilt {
            self.spoil(group, survival, rng);
        }
        self.view.clear();
        self.view_len = self.durable_len;
    }

    /// What becomes of the 4096 bytes around the sector under the head.
    fn spoil(&mut self, group: u64, survival: Survival, rng: &mut Rng) {
        match survival {
            Survival::Neighbours => {
                for index in group * GROUP..(group + 1) * GROUP {
                    let start = index * SECTOR;
                    let inside = self.durable_len.saturating_sub(start).min(SECTOR) as usize;
                    if inside > 0 {
                        let mut sector = Box::new([0; SECTOR as usize]);
                        let bytes = sector.iter_mut().take(inside);
                        bytes.for_each(|b| *b = rng.next_u64() as u8);
                        self.durable.insert(index, sector);
                    }
                }
            }
            Survival::Unreadable => {
                self.unreadable.insert(group);
            }
            _ => {}
        }
    }

    /// Whether any of these bytes cannot be read.
    fn is_unreadable(&self, offset: u64, len: usize) -> bool {
        let bytes = GROUP * SECTOR;
        let end = (offset + len as u64).div_ceil(bytes);
        !self.unreadable.is_empty() && (offset / bytes..end).any(|g| self.unreadable.contains(&g))
    }

    fn content(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(self.view_len as usize);
        for index in 0..self.view_len.div_ceil(SECTOR) {
            // Whoever compares must not find what nobody can read.
            match self.unreadable.contains(&(index / GROUP)) {
                true => bytes.extend_from_slice(&[0xbd; SECTOR as usize]),
                false => bytes.extend_from_slice(&self.sector(index)[..]),
            }
        }
        bytes.truncate(self.view_len as usize);
        bytes
    }
}

/// A directory: names that point to files.
#[derive(Clone, Default)]
pub(crate) struct Names {
    durable: BTreeMap<String, usize>,
    /// The whole directory after each change since the last flush.
    pending: Vec<BTreeMap<String, usize>>,
    view: BTreeMap<String, usize>,
}

impl Names {
    fn change(&mut self, edit: impl FnOnce(&mut BTreeMap<String, usize>)) {
        edit(&mut self.view);
        self.pending.push(self.view.clone());
    }

    fn power_loss(&mut self, survival: Survival, rng: &mut Rng) {
        let kept = match survival {
            Survival::LoseAll => 0,
            Survival::KeepAll => self.pending.len(),
            _ => rng.below(self.pending.len() as u64 + 1) as usize,
        };
        if let Some(state) = kept.checked_sub(1).and_then(|last| self.pending.get(last)) {
            self.durable = state.clone();
        }
        self.pending.clear();
        self.view = self.durable.clone();
    }
}

#[derive(Clone, Default)]
pub(crate) struct State {
    pub(crate) media: Vec<Medium>,
    pub(crate) dirs: Vec<Names>,
    script: Script,
    operations: u64,
    reads: u64,
    off: bool,
}

/// How an operation goes on after the machine has counted it.
pub(crate) enum Verdict {
    Normal,
    /// The power goes while it is under way: it takes place in the cache, and then all is dark.
    Last,
    Lost,
    Misdirected(u64),
}

impl State {
    pub(crate) fn count(&mut self, medium: Option<usize>) -> io::Result<Verdict> {
        if self.off {
            return Err(io::Error::other("the power is off"));
        }
        let number = self.operations;
        self.operations += 1;
        if self.script.cut_at == Some(number) {
            self.off = true;
            return Ok(Verdict::Last);
        }
        if medium.is_some_and(|m| self.media[m].broken) {
            return Err(io::Error::from_raw_os_error(libc::EIO));
        }
        match self.script.faults.get(&number) {
            None => Ok(Verdict::Normal),
            Some(Fault::LostWrite) => Ok(Verdict::Lost),
            Some(Fault::Misdirected(by)) => Ok(Verdict::Misdirected(*by)),
            Some(Fault::NoSpace) => Err(io::Error::from_raw_os_error(libc::ENOSPC)),
            Some(Fault::Quota) => Err(io::Error::from_raw_os_error(libc::EDQUOT)),
            Some(fault) => {
                if let Some(m) = medium {
                    let medium = &mut self.media[m];
                    medium.broken = matches!(fault, Fault::ErrorFromNowOn | Fault::Gone);
                    medium.gone = *fault == Fault::Gone;
                    medium.shrunk |= *fault == Fault::Shrunk;
                }
                Err(io::Error::from_raw_os_error(libc::EIO))
            }
        }
    }

    pub(crate) fn count_read(&mut self, medium: usize) -> io::Result<()> {
        if self.off {
            return Err(io::Error::other("the power is off"));
        }
        let number = self.reads;
        self.reads += 1;
        let script = &self.script;
        let medium = &mut self.media[medium];
        if script.failing_reads_from == Some(number) {
            medium.gone = true;
        }
        if script.failing_read == Some(number) || medium.gone {
            return Err(io::Error::from_raw_os_error(libc::EIO));
        }
        Ok(())
    }
}

/// The machine. Clones share the same disks; [`Machine::fork`] makes an independent one.
#[derive(Clone, Default)]
pub struct Machine {
    state: Arc<Mutex<State>>,
}

impl Machine {
    /// A machine without disks.
    pub fn new() -> Machine {
        Machine::default()
    }

    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds a disk that holds `content`. `length` says what it is.
    pub fn add_disk(&self, content: Arc<Vec<u8>>, length: Length, sector_bytes: u32) -> SimDisk {
        let mut state = self.state();
        state.media.push(Medium::new(content, length, sector_bytes));
        SimDisk::new(self.clone(), state.media.len() - 1)
    }

    /// Adds an empty directory.
    pub fn add_dir(&self) -> SimDir {
        let mut state = self.state();
        state.dirs.push(Names::default());
        SimDir::new(self.clone(), state.dirs.len() - 1)
    }

    /// The same disk of another machine: after [`Machine::fork`].
    pub fn disk(&self, like: &SimDisk) -> SimDisk {
        SimDisk::new(self.clone(), like.index())
    }

    /// The same directory of another machine: after [`Machine::fork`].
    pub fn dir(&self, like: &SimDir) -> SimDir {
        SimDir::new(self.clone(), like.index())
    }

    /// A copy that goes its own way.
    pub fn fork(&self) -> Machine {
        Machine {
            state: Arc::new(Mutex::new(self.state().clone())),
        }
    }

    /// Sets what will happen, and counts operations from 0 again.
    pub fn follow(&self, script: Script) {
        let mut state = self.state();
        state.script = script;
        state.operations = 0;
        state.reads = 0;
    }

    /// Operations since [`Machine::follow`].
    pub fn operations(&self) -> u64 {
        self.state().operations
    }

    /// Reads since [`Machine::follow`].
    pub fn reads(&self) -> u64 {
        self.state().reads
    }

    /// Makes the 4096 bytes around `offset` of a disk unreadable until they are written.
    pub fn lose(&self, disk: &SimDisk, offset: u64) {
        let medium = &mut self.state().media[disk.index()];
        medium.unreadable.insert(offset / (GROUP * SECTOR));
    }

    /// Whether the power has gone.
    pub fn is_off(&self) -> bool {
        self.state().off
    }

    /// Cuts the power where that has not happened yet, lets `survival` decide about all that was
    /// not flushed, and starts again without faults.
    pub fn restart(&self, survival: Survival, seed: u64) {
        let mut rng = Rng::new(seed);
        let mut guard = self.state();
        let state = &mut *guard;
        state.media.iter_mut().for_each(|m| {
            m.power_loss(survival, &mut rng);
            m.broken = false;
            m.gone = false;
            m.shrunk = false;
        });
        state
            .dirs
            .iter_mut()
            .for_each(|d| d.power_loss(survival, &mut rng));
        state.off = false;
        state.script = Script::default();
        state.operations = 0;
        state.reads = 0;
    }
}
