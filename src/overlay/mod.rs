//! A disk over a disk: reads come from the base, writes stay in a sparse file beside it.
//!
//! The whole change is rehearsed on an overlay, and what is committed later is read from that very
//! object.
//!
//! 1. The base is never written: it is held as a [`DiskRead`], which has no way to.
//! 2. Every unit of [`UNIT_BYTES`] is in one of three states: *base* (never written), *data*
//!    (whole in the spill file, at the offset that it has on the disk) or *zero*. A unit that
//!    became data stays data.
//! 3. The states are extents, not a bitmap: memory grows with what was changed, not with the disk.
//! 4. After [`Overlay::freeze`] no write succeeds. What was checked is what is committed.
//! 5. A read error of the base and any error of the spill file are remembered
//!    ([`Overlay::base_error`], [`Overlay::spill_error`]): a tool that ignores such an error and
//!    exits with 0 has proven nothing.
//!
//! Nothing here is durable, and nothing needs to be: an overlay that is lost is made again.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::{Arc, OnceLock, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use nix::errno::Errno;
use nix::fcntl::{FallocateFlags, fallocate};

use crate::disk::{Disk, DiskRead, Geometry, check_range};
use crate::extent::{Extent, ExtentMap};
use crate::report::{Report, Unit, checkpoint};
use crate::units::{UNIT_BYTES, round_down, round_up};

mod differing;

pub use differing::differing;

/// The pieces in which large ranges are moved.
const BATCH_BYTES: u64 = 1 << 20;

/// A copy-on-write view of a disk. See the module for what it promises.
pub struct Overlay {
    base: Arc<dyn DiskRead>,
    geometry: Geometry,
    spill: File,
    limit_bytes: u64,
    state: RwLock<State>,
    base_error: OnceLock<String>,
    spill_error: OnceLock<String>,
}

/// Extents of whole units; only the disk's last unit may be shorter.
#[derive(Default)]
struct State {
    data: ExtentMap,
    zero: ExtentMap,
    /// The bytes of `data`, counted along so that a limit costs nothing.
    spilled_bytes: u64,
    frozen: bool,
}

impl State {
    /// How many bytes of `units` are not in the spill file yet.
    fn unspilled(&self, units: Extent) -> u64 {
        units.len - self.data.within(units).map(|e| e.len).sum::<u64>()
    }
}

impl Overlay {
    /// An overlay of `len_bytes` over `base`. What lies beyond the end of the base reads as zero.
    /// `spill` is a file that nobody else uses; it is emptied, and grows sparsely up to `len_bytes`.
    ///
    /// # Errors
    /// Where the spill file cannot be emptied.
    pub fn new(base: Arc<dyn DiskRead>, len_bytes: u64, spill: File) -> io::Result<Overlay> {
        spill.set_len(0)?;
        let geometry = Geometry {
            len_bytes,
            ..base.geometry()
        };
        Ok(Overlay {
            base,
            geometry,
            spill,
            limit_bytes: u64::MAX,
            state: RwLock::default(),
            base_error: OnceLock::new(),
            spill_error: OnceLock::new(),
        })
    }

    /// The same overlay, which may spill at most so many bytes. Beyond them writes fail with
    /// `ENOSPC`, and the error is remembered.
    pub fn with_limit(self, limit_bytes: u64) -> Overlay {
        Overlay {
            limit_bytes,
            ..self
        }
    }

    /// Makes every later write fail with `EROFS`. Returns when no write is under way any more.
    pub fn freeze(&self) {
        self.write_state().frozen = true;
    }

    /// Whether [`Overlay::freeze`] was called.
    pub fn is_frozen(&self) -> bool {
        self.read_state().frozen
    }

    /// The first error that the base gave to a read, if there was one.
    pub fn base_error(&self) -> Option<String> {
        self.base_error.get().cloned()
    }

    /// The first error of the spill file, or that the limit was reached. Since then the content
    /// is not known, and every access fails.
    pub fn spill_error(&self) -> Option<String> {
        self.spill_error.get().cloned()
    }

    /// Every unit that was written or zeroed, whether or not it differs from the base.
    pub fn changed(&self) -> ExtentMap {
        let state = self.read_state();
        state.data.union(&state.zero)
    }

    /// The bytes that live in the spill file.
    pub fn spilled_bytes(&self) -> u64 {
        self.read_state().spilled_bytes
    }

    // A panic while the lock was held leaves states that are each still valid, and the writer's
    // caller has seen the panic; the lock itself is not what protects against that.
    fn read_state(&self) -> RwLockReadGuard<'_, State> {
        self.state.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write_state(&self) -> RwLockWriteGuard<'_, State> {
        self.state.write().unwrap_or_else(PoisonError::into_inner)
    }

    fn spill_io<T>(&self, result: io::Result<T>, what: &str, at: u64) -> io::Result<T> {
        result.map_err(|e| {
            let text = format!("{what} the overlay's spill file at byte {at}: {e}");
            let _ = self.spill_error.set(text);
            e
        })
    }

    /// Fails where an earlier spill error has made the content unknown.
    fn trusted(&self) -> io::Result<()> {
        match self.spill_error.get() {
            Some(first) => Err(io::Error::other(format!(
                "not attempted after an earlier failure: {first}"
            ))),
            None => Ok(()),
        }
    }

    /// The bytes of the base, with zeros beyond its end.
    fn read_base(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        let there = self.base.len_bytes().saturating_sub(offset);
        let split = usize::try_from(there).map_or(buf.len(), |there| there.min(buf.len()));
        let (inside, beyond) = buf.split_at_mut(split);
        beyond.fill(0);
        if inside.is_empty() {
            return Ok(());
        }
        self.base.read_at(offset, inside).inspect_err(|e| {
            let text = format!("reading {} bytes at byte {offset}: {e}", inside.len());
            let _ = self.base_error.set(text);
        })
    }

    fn read_locked(&self, state: &State, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        let window = Extent::new(offset, buf.len() as u64);
        let part = |e: Extent| (e.start - offset) as usize..(e.end() - offset) as usize;
        for e in state.data.within(window) {
            let read = self.spill.read_exact_at(&mut buf[part(e)], e.start);
            self.spill_io(read, "reading", e.start)?;
        }
        for e in state.data.gaps(window) {
            for zero in state.zero.within(e) {
                buf[part(zero)].fill(0);
            }
            for base in state.zero.gaps(e) {
                self.read_base(base.start, &mut buf[part(base)])?;
            }
        }
        Ok(())
    }

    /// The unit that holds byte `at`, cut at the end of the disk.
    fn unit_of(&self, at: u64) -> Extent {
        let start = round_down(at, UNIT_BYTES);
        let end = start
            .saturating_add(UNIT_BYTES)
            .min(self.geometry.len_bytes);
        Extent::from_range(start, end.max(start))
    }

    fn may_write(&self, state: &State, offset: u64, count: usize) -> io::Result<()> {
        if state.frozen {
            return Err(Errno::EROFS.into());
        }
        self.trusted()?;
        check_range(self.geometry.len_bytes, offset, count)
            .map_err(|e| io::Error::new(io::ErrorKind::InvalidInput, e))
    }

    /// Stores whole units: those that are all zero as a state, the others in the spill file.
    fn store(&self, state: &mut State, units: Extent, data: &[u8]) -> io::Result<()> {
        let as_zero = |state: &State, unit: Extent, bytes: &[u8]| {
            is_zero(bytes) && !state.data.contains(unit)
        };
        let mut at = units.start;
        while at < units.end() {
            let rest = &data[(at - units.start) as usize..];
            let first = self.unit_of(at);
            let zero = as_zero(state, first, &rest[..first.len as usize]);
            let mut run = first;
            while run.end() < units.end() {
                let next = self.unit_of(run.end());
                let from = (next.start - at) as usize;
                if as_zero(state, next, &rest[from..from + next.len as usize]) != zero {
                    break;
                }
                run.len += next.len;
            }
            if zero {
                state.zero.insert(run);
            } else {
                self.spill_units(state, run, &rest[..run.len as usize])?;
            }
            at = run.end();
        }
        Ok(())
    }

    fn spill_units(&self, state: &mut State, units: Extent, data: &[u8]) -> io::Result<()> {
        let more = state.unspilled(units);
        if state.spilled_bytes + more > self.limit_bytes {
            let full = io::Error::from(Errno::ENOSPC);
            let what = format!("(at most {} bytes) writing", self.limit_bytes);
            return self.spill_io(Err(full), &what, units.start);
        }
        let written = self.spill.write_all_at(data, units.start);
        self.spill_io(written, "writing", units.start)?;
        state.spilled_bytes += more;
        state.zero.remove(units);
        state.data.insert(units);
        Ok(())
    }

    /// Writes a part of one unit: the rest of the unit is copied up.
    fn patch(&self, state: &mut State, unit: Extent, offset: u64, data: &[u8]) -> io::Result<()> {
        let mut whole = vec![0; unit.len as usize];
        self.read_locked(state, unit.start, &mut whole)?;
        let from = (offset - unit.start) as usize;
        whole[from..from + data.len()].copy_from_slice(data);
        self.store(state, unit, &whole)
    }

    fn write_locked(&self, state: &mut State, offset: u64, data: &[u8]) -> io::Result<()> {
        let (mut at, mut rest) = (offset, data);
        while !rest.is_empty() {
            let unit = self.unit_of(at);
            let count = if at != unit.start || (rest.len() as u64) < unit.len {
                let count = rest.len().min((unit.end() - at) as usize);
                self.patch(state, unit, at, &rest[..count])?;
                count
            } else {
                let end = at + rest.len() as u64;
                let whole = if end == self.geometry.len_bytes {
                    end
                } else {
                    round_down(end, UNIT_BYTES)
                };
                let units = Extent::from_range(at, whole);
                self.store(state, units, &rest[..units.len as usize])?;
                units.len as usize
            };
            at += count as u64;
            rest = &rest[count..];
        }
        Ok(())
    }

    /// Makes whole units read as zero without spilling any.
    fn zero_units(&self, state: &mut State, units: Extent) -> io::Result<()> {
        let spilled: Vec<Extent> = state.data.within(units).collect();
        for e in spilled {
            let (start, len) = (e.start.cast_signed(), e.len.cast_signed());
            let punch = FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE;
            if fallocate(&self.spill, punch, start, len).is_ok() {
                continue;
            }
            // Not every file system can punch holes; writing zeros says the same.
            for piece in e.split(BATCH_BYTES) {
                let zeros = vec![0; piece.len as usize];
                let written = self.spill.write_all_at(&zeros, piece.start);
                self.spill_io(written, "writing", piece.start)?;
            }
        }
        for gap in state.data.gaps(units) {
            state.zero.insert(gap);
        }
        Ok(())
    }
}

impl DiskRead for Overlay {
    fn geometry(&self) -> Geometry {
        self.geometry
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        check_range(self.geometry.len_bytes, offset, buf.len())?;
        self.trusted()?;
        self.read_locked(&self.read_state(), offset, buf)
    }
}

impl Disk for Overlay {
    fn write_at(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let mut state = self.write_state();
        self.may_write(&state, offset, data.len())?;
        self.write_locked(&mut state, offset, data)
    }

    /// Nothing here is durable.
    fn flush(&self) -> io::Result<()> {
        Ok(())
    }

    /// An overlay has the length that it was made with.
    fn set_len(&self, _: u64) -> io::Result<()> {
        Err(io::Error::from(io::ErrorKind::Unsupported))
    }

    fn zero(&self, extent: Extent) -> io::Result<()> {
        let mut state = self.write_state();
        let len = usize::try_from(extent.len).map_err(|_| Errno::EFBIG)?;
        self.may_write(&state, extent.start, len)?;
        let first = round_up(extent.start, UNIT_BYTES).unwrap_or(u64::MAX);
        let last = if extent.end() == self.geometry.len_bytes {
            extent.end()
        } else {
            round_down(extent.end(), UNIT_BYTES)
        };
        if first >= last {
            return self.write_locked(&mut state, extent.start, &vec![0; len]);
        }
        let head = vec![0; (first - extent.start) as usize];
        self.write_locked(&mut state, extent.start, &head)?;
        self.zero_units(&mut state, Extent::from_range(first, last))?;
        let tail = vec![0; (extent.end() - last) as usize];
        self.write_locked(&mut state, last, &tail)
    }
}

/// Whether every byte is zero, sixteen at a time.
fn is_zero(bytes: &[u8]) -> bool {
    let (words, tail) = bytes.as_chunks::<16>();
    words.iter().all(|word| u128::from_ne_bytes(*word) == 0) && tail.iter().all(|&byte| byte == 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::{MemoryDisk, read_vec};

    const KIB: u64 = 1024;

    fn spill() -> File {
        tempfile::tempfile().unwrap()
    }

    fn over(base: Vec<u8>, len: u64) -> Overlay {
        Overlay::new(Arc::new(MemoryDisk::fixed(base)), len, spill()).unwrap()
    }

    /// The same pseudo-random numbers for the same seed.
    fn random(mut seed: u64) -> impl FnMut(u64) -> u64 {
        move |below| {
            seed ^= seed << 13;
            seed ^= seed >> 7;
            seed ^= seed << 17;
            seed % below
        }
    }

    fn pattern(len: usize, seed: u64) -> Vec<u8> {
        let mut next = random(seed | 1);
        (0..len).map(|_| next(251) as u8 + 1).collect()
    }

    /// A base whose reads fail inside one extent.
    struct Bad(MemoryDisk, Extent);

    impl DiskRead for Bad {
        fn geometry(&self) -> Geometry {
            self.0.geometry()
        }
        fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
            let asked = Extent::new(offset, buf.len() as u64);
            match asked.intersection(self.1) {
                Some(_) => Err(Errno::EIO.into()),
                None => self.0.read_at(offset, buf),
            }
        }
    }

    #[test]
    fn agrees_with_plain_bytes_over_random_edits() {
        for seed in 1..60u64 {
            let mut next = random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15));
            let base = pattern(40_000 + next(5000) as usize, seed);
            let len = base.len() as u64 + next(3) * 9_001;
            let mut model = base.clone();
            model.resize(len as usize, 0);
            let overlay = over(base.clone(), len);
            let mut touched = ExtentMap::new();
            for step in 0..120 {
                let start = next(len);
                let count = next((len - start).min(20_000) + 1);
                let extent = Extent::new(start, count);
                let range = start as usize..extent.end() as usize;
                match next(4) {
                    0 => {
                        overlay.zero(extent).unwrap();
                        model[range].fill(0);
                        touched.insert(extent);
                    }
                    1 => {
                        let mut data = pattern(count as usize, seed + step);
                        let half = data.len() / 2;
                        data[..half].fill(0);
                        overlay.write_at(start, &data).unwrap();
                        model[range].copy_from_slice(&data);
                        touched.insert(extent);
                    }
                    2 => {
                        let data = pattern(count as usize, seed + step);
                        overlay.write_at(start, &data).unwrap();
                        model[range].copy_from_slice(&data);
                        touched.insert(extent);
                    }
                    _ => {
                        let got = read_vec(&overlay, start, count as usize).unwrap();
                        assert!(got == model[range], "seed {seed} step {step}: {extent}");
                    }
                }
            }
            let all = read_vec(&overlay, 0, len as usize).unwrap();
            assert!(all == model, "seed {seed}: the whole");
            let units: ExtentMap = touched
                .iter()
                .flat_map(|e| e.split(UNIT_BYTES))
                .map(|e| overlay.unit_of(e.start))
                .collect();
            assert_eq!(overlay.changed(), units, "seed {seed}");
            let state = overlay.read_state();
            assert_eq!(state.spilled_bytes, state.data.total_bytes(), "seed {seed}");
            assert!(state.data.iter().all(|e| !state.zero.intersects(e)));
        }
    }

    #[test]
    fn the_base_shows_through_and_beyond_its_end_are_zeros() {
        let overlay = over(vec![7; 5000], 12_000);
        let mut bytes = vec![9; 12_000];
        overlay.read_at(0, &mut bytes).unwrap();
        assert!(bytes[..5000].iter().all(|&b| b == 7));
        assert!(bytes[5000..].iter().all(|&b| b == 0));
        assert!(overlay.changed().is_empty());
        assert_eq!(
            overlay.read_at(11_999, &mut [0; 2]).unwrap_err().kind(),
            io::ErrorKind::UnexpectedEof
        );
        assert_eq!(
            overlay.write_at(11_999, &[0; 2]).unwrap_err().kind(),
            io::ErrorKind::InvalidInput
        );
    }

    #[test]
    fn zeros_cost_no_space_wherever_they_come_from() {
        let overlay = over(vec![1; 64 << 10], 1 << 40);
        overlay.write_at(0, &[0; 32 << 10]).unwrap();
        overlay
            .zero(Extent::new(1 << 20, (1 << 40) - (1 << 20)))
            .unwrap();
        assert_eq!(overlay.spilled_bytes(), 0);
        assert_eq!(
            overlay.changed().total_bytes(),
            (32 << 10) + (1 << 40) - (1 << 20)
        );
        assert_eq!(read_vec(&overlay, (32 << 10) - 1, 2).unwrap(), [0, 1]);
    }

    #[test]
    fn nothing_is_written_after_the_freeze() {
        let overlay = over(vec![1; 8192], 8192);
        overlay.write_at(0, &[2]).unwrap();
        overlay.freeze();
        let refused = overlay.write_at(0, &[3]).unwrap_err();
        assert_eq!(refused.raw_os_error(), Some(Errno::EROFS as i32));
        assert!(overlay.zero(Extent::new(0, 4096)).is_err());
        assert_eq!(read_vec(&overlay, 0, 2).unwrap(), [2, 1]);
        assert!(overlay.spill_error().is_none());
    }

    #[test]
    fn overlays_stack() {
        let lower = Arc::new(over(vec![1; 16 << 10], 16 << 10));
        lower.write_at(4096, &[2; 4096]).unwrap();
        lower.freeze();
        let upper = Overlay::new(lower.clone(), 20 << 10, spill()).unwrap();
        upper.write_at(4095, &[3; 2]).unwrap();
        assert_eq!(read_vec(&upper, 4094, 4).unwrap(), [1, 3, 3, 2]);
        assert_eq!(read_vec(&*lower, 4094, 4).unwrap(), [1, 1, 2, 2]);
    }

    #[test]
    fn an_error_of_the_base_is_remembered() {
        let bad = Bad(MemoryDisk::fixed(vec![1; 64 << 10]), Extent::new(8192, 512));
        let overlay = Overlay::new(Arc::new(bad), 64 << 10, spill()).unwrap();
        assert!(overlay.base_error().is_none());
        // A write of a part needs the rest of the unit.
        assert!(overlay.write_at(8192 + 1024, &[9]).is_err());
        let text = overlay.base_error().unwrap();
        assert!(text.contains("8192"), "{text}");
        assert_eq!(
            read_vec(&overlay, 0, 1).unwrap(),
            [1],
            "the rest still reads"
        );
        overlay.write_at(8192, &[5; 4096]).unwrap();
        assert_eq!(read_vec(&overlay, 8192, 1).unwrap(), [5]);
        assert!(overlay.base_error().is_some(), "it stays remembered");
    }

    #[test]
    fn the_limit_is_an_error_that_stays() {
        let overlay = over(vec![1; 64 << 10], 64 << 10).with_limit(8 * KIB);
        overlay.write_at(0, &[2; 4096]).unwrap();
        overlay.write_at(0, &[3; 4096]).unwrap();
        overlay.write_at(8192, &[4; 4096]).unwrap();
        let full = overlay.write_at(16 << 10, &[5; 4096]).unwrap_err();
        assert_eq!(full.raw_os_error(), Some(Errno::ENOSPC as i32));
        assert!(overlay.write_at(0, &[6; 4096]).is_err());
        assert!(overlay.read_at(0, &mut [0]).is_err());
        assert!(overlay.spill_error().unwrap().contains("8192"));
    }

    #[test]
    fn readers_and_a_writer_work_at_once() {
        let overlay = over(vec![1; 256 << 10], 256 << 10);
        std::thread::scope(|scope| {
            for _ in 0..3 {
                scope.spawn(|| {
                    for round in 0..500u64 {
                        let at = round % 64 * 4096;
                        let unit = read_vec(&overlay, at, 4096).unwrap();
                        assert!(unit.iter().all(|&b| b == unit[0]), "a torn unit at {at}");
                    }
                });
            }
            for round in 0..500u64 {
                let fill = [round as u8; 4096];
                overlay.write_at(round * 7 % 64 * 4096, &fill).unwrap();
            }
        });
    }
}
