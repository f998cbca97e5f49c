//! The simulated disk and directory, as the code under test sees them.

use std::io;
use std::sync::Arc;

use super::{Length, Machine, Medium, SECTOR, Verdict};
use crate::disk::{Dir, Disk, DiskRead, Geometry, check_range};

/// A disk of a [`Machine`].
#[derive(Clone)]
pub struct SimDisk {
    machine: Machine,
    index: usize,
}

impl SimDisk {
    pub(super) fn new(machine: Machine, index: usize) -> SimDisk {
        SimDisk { machine, index }
    }

    pub(super) fn index(&self) -> usize {
        self.index
    }

    /// All that it holds, as a reader would see it. Works with the power off.
    pub fn content(&self) -> Vec<u8> {
        self.machine.state().media[self.index].content()
    }

    /// Changes bytes behind everybody's back: a flipped bit, an intruder.
    pub fn tamper(&self, offset: u64, data: &[u8]) {
        let mut state = self.machine.state();
        write(&mut state.media[self.index], offset, data);
        state.media[self.index].flush();
    }
}

/// Puts `data` into the cache, sector by sector.
fn write(medium: &mut Medium, offset: u64, data: &[u8]) {
    put(medium, offset, data, true);
}

fn put(medium: &mut Medium, offset: u64, data: &[u8], written: bool) {
    let mut done = 0;
    while done < data.len() {
        let at = offset + done as u64;
        let (index, inside) = (at / SECTOR, (at % SECTOR) as usize);
        let count = (SECTOR as usize - inside).min(data.len() - done);
        let mut sector = medium.sector(index);
        sector[inside..inside + count].copy_from_slice(&data[done..done + count]);
        medium.put(index, sector, written);
        done += count;
    }
}

impl DiskRead for SimDisk {
    fn geometry(&self) -> Geometry {
        let state = self.machine.state();
        let medium = &state.media[self.index];
        Geometry {
            len_bytes: medium.shown_len(),
            logical_sector_bytes: medium.sector_bytes,
            physical_sector_bytes: medium.sector_bytes,
        }
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        let mut state = self.machine.state();
        state.count_read(self.index)?;
        let medium = &state.media[self.index];
        check_range(medium.shown_len(), offset, buf.len())?;
        if medium.is_unreadable(offset, buf.len()) {
            return Err(io::Error::from_raw_os_error(libc::EIO));
        }
        let mut done = 0;
        while done < buf.len() {
            let at = offset + done as u64;
            let inside = (at % SECTOR) as usize;
            let count = (SECTOR as usize - inside).min(buf.len() - done);
            let sector = medium.sector(at / SECTOR);
            buf[done..done + count].copy_from_slice(&sector[inside..inside + count]);
            done += count;
        }
        Ok(())
    }
}

impl Disk for SimDisk {
    fn write_at(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let mut state = self.machine.state();
        let end = offset + data.len() as u64;
        if state.media[self.index].length != Length::Growing {
            check_range(state.media[self.index].shown_len(), offset, data.len())?;
        }
        let verdict = state.count(Some(self.index))?;
        let medium = &mut state.media[self.index];
        medium.view_len = medium.view_len.max(end);
        match verdict {
            Verdict::Normal | Verdict::Last => write(medium, offset, data),
            Verdict::Lost => {}
            Verdict::Misdirected(by) => write(medium, offset + by * SECTOR, data),
        }
        match verdict {
            Verdict::Last => Err(io::Error::other("the power went")),
            _ => Ok(()),
        }
    }

    fn flush(&self) -> io::Result<()> {
        let mut state = self.machine.state();
        match state.count(Some(self.index)) {
            // The power goes during the flush: what was to be flushed is as uncertain as before.
            Ok(Verdict::Last) => Err(io::Error::other("the power went")),
            Ok(_) => {
                state.media[self.index].flush();
                Ok(())
            }
            Err(e) => {
                // The kernel marks pages clean whose write failed, and says so only once.
                if e.raw_os_error().is_some() {
                    let medium = &mut state.media[self.index];
                    medium.pending.clear();
                    // A target is read past the cache, and shows what it holds.
                    if medium.length != Length::Growing {
                        medium.view.clear();
                    }
                }
                Err(e)
            }
        }
    }

    fn set_len(&self, len_bytes: u64) -> io::Result<()> {
        let mut state = self.machine.state();
        if state.media[self.index].length == Length::Fixed {
            return Err(io::Error::from(io::ErrorKind::Unsupported));
        }
        let verdict = state.count(Some(self.index))?;
        let medium = &mut state.media[self.index];
        if len_bytes < medium.view_len {
            // Zeroes up to the old end, so that bytes cannot come back with a later extension.
            let zeroes = vec![0; (medium.view_len - len_bytes) as usize];
            put(medium, len_bytes, &zeroes, false);
        }
        medium.view_len = len_bytes;
        match verdict {
            Verdict::Last => Err(io::Error::other("the power went")),
            _ => Ok(()),
        }
    }
}

/// A directory of a [`Machine`].
#[derive(Clone)]
pub struct SimDir {
    machine: Machine,
    index: usize,
}

impl SimDir {
    pub(super) fn new(machine: Machine, index: usize) -> SimDir {
        SimDir { machine, index }
    }

    pub(super) fn index(&self) -> usize {
        self.index
    }

    fn lookup(&self, name: &str) -> io::Result<usize> {
        let state = self.machine.state();
        let found = state.dirs[self.index].view.get(name).copied();
        found.ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, name.to_string()))
    }

    /// One change of the names, counted as an operation.
    fn change(
        &self,
        edit: impl FnOnce(&mut std::collections::BTreeMap<String, usize>),
    ) -> io::Result<()> {
        let mut state = self.machine.state();
        let verdict = state.count(None)?;
        state.dirs[self.index].change(edit);
        match verdict {
            Verdict::Last => Err(io::Error::other("the power went")),
            _ => Ok(()),
        }
    }
}

impl Dir for SimDir {
    fn create(&self, name: &str) -> io::Result<Arc<dyn Disk>> {
        if self.lookup(name).is_ok() {
            return Err(io::Error::new(
                io::ErrorKind::AlreadyExists,
                name.to_string(),
            ));
        }
        let file = self
            .machine
            .add_disk(Arc::new(Vec::new()), Length::Growing, SECTOR as u32);
        self.change(|names| {
            names.insert(name.into(), file.index);
        })?;
        Ok(Arc::new(file))
    }

    fn open(&self, name: &str) -> io::Result<Arc<dyn Disk>> {
        Ok(Arc::new(SimDisk::new(
            self.machine.clone(),
            self.lookup(name)?,
        )))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let file = self.lookup(from)?;
        self.change(|names| {
            names.remove(from);
            names.insert(to.into(), file);
        })
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        self.lookup(name)?;
        self.change(|names| {
            names.remove(name);
        })
    }

    fn names(&self) -> io::Result<Vec<String>> {
        Ok(self.machine.state().dirs[self.index]
            .view
            .keys()
            .cloned()
            .collect())
    }

    fn flush(&self) -> io::Result<()> {
        let mut state = self.machine.state();
        match state.count(None)? {
            Verdict::Last => Err(io::Error::other("the power went")),
            _ => {
                let names = &mut state.dirs[self.index];
                names.pending.clear();
                names.durable = names.view.clone();
                Ok(())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Fault, Script, Survival};
    use super::*;

    #[test]
    fn only_what_was_flushed_is_certain() {
        // These two spoil what is near by.
        let near = [Survival::Neighbours, Survival::Unreadable];
        for survival in Survival::ALL.into_iter().filter(|s| !near.contains(s)) {
            let machine = Machine::new();
            let disk = machine.add_disk(Arc::new(vec![0; 8192]), Length::Fixed, 512);
            disk.write_at(0, &[1; 512]).unwrap();
            disk.flush().unwrap();
            disk.write_at(4096, &[2; 512]).unwrap();
            machine.restart(survival, 7);
            let content = disk.content();
            assert_eq!(content[..512], [1; 512], "{survival:?}");
            assert_eq!(content[512..4096], [0; 3584], "{survival:?}");
            match survival {
                Survival::LoseAll => assert_eq!(content[4096..4608], [0; 512]),
                Survival::KeepAll => assert_eq!(content[4096..4608], [2; 512]),
                _ => {}
            }
            // A drive with large physical sectors may spoil what lies in the same one.
            let spoilt = content[4608..] != [0; 3584];
            let spoils = matches!(survival, Survival::Neighbours | Survival::Unreadable);
            assert_eq!(spoilt, spoils, "{survival:?}");
        }
    }

    #[test]
    fn a_large_sector_is_spoilt_as_a_whole_and_nothing_else_is() {
        for survival in [Survival::Neighbours, Survival::Unreadable] {
            let machine = Machine::new();
            let disk = machine.add_disk(Arc::new(vec![0; 12288]), Length::Fixed, 512);
            disk.write_at(5000, &[2; 100]).unwrap();
            machine.restart(survival, 7);
            let mut all = vec![0; 4096];
            let read = disk.read_at(4096, &mut all);
            match survival {
                Survival::Unreadable => assert!(read.is_err()),
                _ => assert!(all.chunks(512).all(|sector| sector.iter().any(|&b| b != 0))),
            }
            disk.read_at(0, &mut all).unwrap();
            assert_eq!(all, [0; 4096]);
            disk.read_at(8192, &mut all).unwrap();
            assert_eq!(all, [0; 4096]);
            disk.write_at(4096, &[3; 4096]).unwrap();
            disk.read_at(4096, &mut all).unwrap();
            assert_eq!(all, [3; 4096], "{survival:?}");
        }
    }

    #[test]
    fn a_device_that_shrinks_or_goes_is_back_after_a_restart() {
        for fault in [Fault::Gone, Fault::Shrunk] {
            let machine = Machine::new();
            let disk = machine.add_disk(Arc::new(vec![0; 4096]), Length::Fixed, 512);
            machine.follow(Script {
                faults: [(0, fault)].into(),
                ..Script::default()
            });
            assert!(disk.write_at(0, &[1; 512]).is_err());
            assert!(disk.read_at(2048, &mut [0; 512]).is_err(), "{fault:?}");
            machine.restart(Survival::KeepAll, 1);
            assert_eq!(disk.len_bytes(), 4096);
            disk.read_at(2048, &mut [0; 512]).unwrap();
        }
    }

    #[test]
    fn the_power_goes_at_the_chosen_operation() {
        let machine = Machine::new();
        let disk = machine.add_disk(Arc::new(vec![0; 4096]), Length::Fixed, 512);
        machine.follow(Script {
            cut_at: Some(1),
            ..Script::default()
        });
        disk.write_at(0, &[1; 512]).unwrap();
        assert!(disk.flush().is_err());
        assert!(disk.write_at(0, &[3; 512]).is_err());
        assert!(machine.is_off());
        machine.restart(Survival::LoseAll, 1);
        assert_eq!(disk.content(), vec![0; 4096]);
    }

    #[test]
    fn a_failed_flush_loses_what_it_was_to_save() {
        let machine = Machine::new();
        let disk = machine.add_disk(Arc::new(vec![0; 4096]), Length::Fixed, 512);
        let faults = [(1, Fault::Error)].into_iter().collect();
        machine.follow(Script {
            faults,
            ..Script::default()
        });
        disk.write_at(0, &[1; 512]).unwrap();
        assert!(disk.flush().is_err());
        disk.flush().unwrap();
        machine.restart(Survival::KeepAll, 1);
        assert_eq!(disk.content(), vec![0; 4096]);
    }

    #[test]
    fn names_and_lengths_are_lost_without_their_flush() {
        let machine = Machine::new();
        let dir = machine.add_dir();
        let file = dir.create("journal").unwrap();
        file.write_at(0, b"x").unwrap();
        file.flush().unwrap();
        let forked = machine.fork();
        forked.restart(Survival::LoseAll, 1);
        assert!(forked.dir(&dir).names().unwrap().is_empty());
        dir.flush().unwrap();
        file.set_len(100).unwrap();
        machine.restart(Survival::LoseAll, 1);
        assert_eq!(dir.open("journal").unwrap().len_bytes(), 1);
    }

    #[test]
    fn what_was_cut_off_does_not_come_back() {
        let machine = Machine::new();
        let disk = machine.add_disk(Arc::new(vec![7; 2000]), Length::Settable, 512);
        disk.set_len(700).unwrap();
        disk.flush().unwrap();
        disk.set_len(2000).unwrap();
        let content = disk.content();
        assert!(content[..700].iter().all(|&b| b == 7) && content[700..].iter().all(|&b| b == 0));
    }
}
