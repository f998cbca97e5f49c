//! The files that describe the volume, and how a resize may change them:
//!
//! | file | attribute | may |
//! |---|---|---|
//! | $MFT | content, bitmap | be compared record by record, and grow by records that extend others |
//! | $MFTMirr | content | move; it is the start of the $MFT |
//! | $LogFile | content | be emptied: all ones, in as many clusters |
//! | $Volume | version and flags | get the flags "dirty" and "mounted by an old system" |
//! | root | index | have the true sizes of these files |
//! | $Bitmap | content | be made anew, one bit for each cluster |
//! | all of them | name | have the true sizes |
//! | $Boot | content | have other numbers: of sectors, and of the $MFTMirr's cluster |
//! | $BadClus | $Bad | have a hole of another length |
//!
//! and of the boot sector there is a backup, the same to the byte.

use crate::disk::read_vec;
use crate::fs::FsError;

use super::super::boot::{BOOT_BYTES, MIRROR_AT, SECTORS_AT};
use super::super::inode::{Attribute, Form};
use super::super::record::{Record, Sizes, corrupt, kind};
use super::super::refuse::{DIRTY, MOUNTED_BY_OLD};
use super::super::used;
use super::super::volume::file;
use super::{Comparison, Pair};
use crate::fs::bytes::u16_at;

impl Comparison<'_> {
    /// The boot sector and its backup.
    pub fn boot_sectors(&mut self) -> Result<(), FsError> {
        let (old, new) = (&self.before.boot, &self.after.boot);
        if new.sectors != old.sectors && new.sectors != new.clusters * new.sectors_per_cluster() {
            let text = format!("{} sectors are no whole clusters", new.sectors);
            self.add("superblock", "boot sector".into(), text);
        }
        let mut a = read_vec(self.before.part, 0, BOOT_BYTES)?;
        let b = read_vec(self.after.part, 0, BOOT_BYTES)?;
        for at in [SECTORS_AT, MIRROR_AT] {
            let range = at..at + 8;
            if let (Some(to), Some(from)) = (a.get_mut(range.clone()), b.get(range)) {
                to.copy_from_slice(from);
            }
        }
        if let Some(at) = a.iter().zip(&b).position(|(a, b)| a != b) {
            let text = format!("byte {at} differs, which a resize does not change");
            self.add("superblock", "boot sector".into(), text);
        }
        let mirror = self.after.inode(file::MIRROR)?;
        let place = mirror
            .attribute(kind::DATA, "")
            .and_then(|a| a.runs().first()?.lcn);
        if place != Some(self.after.boot.mirror_lcn) {
            let text = "the copy of the $MFT is not where it says";
            self.add("superblock", "boot sector".into(), text);
        }
        let mut backups = 0;
        for at in used::backups(self.after.part, &self.after.boot)? {
            if read_vec(self.after.part, at, BOOT_BYTES)? == b {
                backups += 1;
            }
        }
        if backups == 0 {
            let text = "none is the same as the boot sector";
            self.add("backup-superblock", "backup boot sector".into(), text);
        }
        Ok(())
    }

    /// Compares an attribute that a resize changes. `false` for one that it does not.
    pub fn is_special(
        &mut self,
        pair: &Pair<'_>,
        old: &Attribute,
        new: &Attribute,
    ) -> Result<bool, FsError> {
        let name = old.shown_name();
        if let (kind::FILE_NAME, Some(a), Some(b)) = (old.kind, old.value(), new.value()) {
            return self.has_true_sizes(pair.number, (a, b), 0);
        }
        match (pair.number, old.kind, name.as_str()) {
            (file::MFT, kind::DATA | kind::BITMAP, "") => self.table(pair, old, new),
            (file::MIRROR, kind::DATA, "") => self.mirror(old, new)?,
            (file::LOG, kind::DATA, "") => self.log(old, new)?,
            (file::VOLUME, kind::VOLUME_INFORMATION, "") => self.information(old, new),
            (file::BITMAP, kind::DATA, "") => self.bitmap(old, new),
            (file::BOOT, kind::DATA, "") => self.boot_file(old, new)?,
            (file::BAD, kind::DATA, "$Bad") => self.bad(old, new),
            (file::ROOT, kind::INDEX_ROOT, "$I30") => match (old.value(), new.value()) {
                (Some(a), Some(b)) => self.root_values(old, (a, b))?,
                _ => return Ok(false),
            },
            (file::ROOT, kind::INDEX_ALLOCATION, "$I30") => {
                let (Form::Outside { sizes: a, .. }, Form::Outside { sizes: b, .. }) =
                    (&old.form, &new.form)
                else {
                    return Ok(false);
                };
                if a != b {
                    return Ok(false);
                }
                self.root_blocks(old, new)?;
            }
            _ => return Ok(false),
        }
        Ok(true)
    }

    /// The table has the same records; more of them only where records were needed that extend
    /// others.
    fn table(&mut self, pair: &Pair<'_>, old: &Attribute, new: &Attribute) {
        let len = |a: &Attribute| match &a.form {
            Form::Resident { value, .. } => value.len() as u64,
            Form::Outside { sizes, .. } => sizes.data,
        };
        let (was, is) = (len(old), len(new));
        let more = self.after.records.saturating_sub(self.before.records);
        if is < was || (is > was && more == 0 && old.kind == kind::DATA) {
            let detail = format!("{was} bytes before, {is} after");
            self.of_attribute("size", pair.number, old, detail);
        }
    }

    /// Each record of the copy is that of the table. How often either was written does not matter.
    fn mirror(&mut self, old: &Attribute, new: &Attribute) -> Result<(), FsError> {
        const MAX_BYTES: u64 = 1 << 20;
        self.same_sizes(file::MIRROR, old, new);
        let copies = self.after.content(new).head(MAX_BYTES)?;
        let size = self.after.boot.record_bytes as usize;
        for (copy, number) in copies.chunks_exact(size).zip(0..self.after.records) {
            let original = self.after.raw_record(number)?;
            if copy == original {
                continue;
            }
            let copy = Record::parse(number, copy.to_vec());
            let original = Record::parse(number, original)?;
            let is_same = match (copy, original) {
                (Ok(Some(copy)), Some(original)) => copy.is_same(&original),
                _ => false,
            };
            if !is_same {
                let detail = format!("its record {number} is not that of the $MFT");
                self.of_attribute("backup-superblock", file::MIRROR, old, detail);
            }
        }
        Ok(())
    }

    fn log(&mut self, old: &Attribute, new: &Attribute) -> Result<(), FsError> {
        const PIECE_BYTES: u64 = 1 << 20;
        self.same_sizes(file::LOG, old, new);
        let content = self.after.content(new);
        let len = self.after.solid(file::LOG, new)?;
        let mut buf = vec![0; PIECE_BYTES as usize];
        for at in (0..len).step_by(PIECE_BYTES as usize) {
            let count = PIECE_BYTES.min(len - at) as usize;
            let piece = &mut buf[..count];
            content.read_at(at, piece)?;
            if let Some(byte) = piece.iter().position(|&byte| byte != 0xff) {
                let detail = format!("it was not emptied: byte {}", at + byte as u64);
                self.of_attribute("journal", file::LOG, old, detail);
                break;
            }
        }
        Ok(())
    }

    fn information(&mut self, old: &Attribute, new: &Attribute) {
        let (Some(a), Some(b)) = (old.value(), new.value()) else {
            let detail = "it has moved out of its record".into();
            return self.of_attribute("inode", file::VOLUME, old, detail);
        };
        let allowed = DIRTY | MOUNTED_BY_OLD;
        let blank = |value: &[u8]| {
            let mut value = value.to_vec();
            if let Some(flags) = value.get_mut(10..12) {
                flags.fill(0);
            }
            value
        };
        let (was, is) = (u16_at(a, 10), u16_at(b, 10));
        let is_right = blank(a) == blank(b) && was & !allowed == is & !allowed && is & was == was;
        // Windows must check it: nobody else has.
        if !is_right || is & DIRTY == 0 {
            let detail = format!("flags {was:#06x} before, {is:#06x} after");
            self.of_attribute("superblock", file::VOLUME, old, detail);
        }
    }

    /// What it says is compared with what the files claim; here its sizes.
    fn bitmap(&mut self, old: &Attribute, new: &Attribute) {
        let boot = &self.after.boot;
        let bytes = boot.clusters.div_ceil(64) * 8;
        let clusters = bytes.div_ceil(boot.cluster_bytes);
        let expected = Sizes {
            allocated: clusters * boot.cluster_bytes,
            data: bytes,
            initialized: bytes,
            ..Sizes::default()
        };
        let Form::Outside { sizes, runs } = &new.form else {
            let detail = "it has moved into its record".into();
            return self.of_attribute("map", file::BITMAP, old, detail);
        };
        let mapped: u64 = runs.iter().map(|run| run.len).sum();
        let is_whole = mapped == clusters && runs.iter().all(|run| run.lcn.is_some());
        if *sizes != expected || !is_whole {
            let detail = format!("{sizes:?} in {mapped} clusters, where {expected:?} is right");
            self.of_attribute("size", file::BITMAP, old, detail);
        }
    }

    /// The boot sector itself has been compared; here the code behind it.
    fn boot_file(&mut self, old: &Attribute, new: &Attribute) -> Result<(), FsError> {
        const MAX_BYTES: u64 = 1 << 20;
        self.same_sizes(file::BOOT, old, new);
        if new.runs().first().and_then(|run| run.lcn) != Some(0) {
            let detail = "it does not begin with the boot sector".into();
            self.of_attribute("boot-block", file::BOOT, old, detail);
        }
        let a = self.before.content(old).head(MAX_BYTES)?;
        let b = self.after.content(new).head(MAX_BYTES)?;
        let (a, b) = (a.get(BOOT_BYTES..), b.get(BOOT_BYTES..));
        if a != b {
            let detail = "the boot code behind the boot sector differs".into();
            self.of_attribute("boot-block", file::BOOT, old, detail);
        }
        Ok(())
    }

    fn bad(&mut self, old: &Attribute, new: &Attribute) {
        let boot = &self.after.boot;
        let bytes = boot.clusters * boot.cluster_bytes;
        let is_right = match &new.form {
            Form::Resident { .. } => false,
            Form::Outside { runs, sizes } => {
                let length = runs.iter().map(|run| run.len).sum::<u64>();
                runs.iter().all(|run| run.lcn.is_none())
                    && length == boot.clusters
                    && (sizes.allocated, sizes.data) == (bytes, bytes)
                    && matches!(&old.form, Form::Outside { sizes: was, .. }
                        if (was.initialized, was.compressed, was.unit)
                            == (sizes.initialized, sizes.compressed, sizes.unit))
            }
        };
        if !is_right {
            let detail = "it is not one hole of the volume's length".into();
            self.of_attribute("map", file::BAD, old, detail);
        }
    }

    fn same_sizes(&mut self, number: u64, old: &Attribute, new: &Attribute) {
        let sizes = |a: &Attribute| match &a.form {
            Form::Resident { value, .. } => (value.len() as u64, None),
            Form::Outside { sizes, .. } => (0, Some(*sizes)),
        };
        if sizes(old) != sizes(new) {
            let detail = format!("{:?} before, {:?} after", sizes(old), sizes(new));
            self.of_attribute("size", number, old, detail);
        }
        // A value in clusters that has fewer of them than its size says.
        let mapped: u64 = new.runs().iter().map(|run| run.len).sum();
        let before: u64 = old.runs().iter().map(|run| run.len).sum();
        if mapped != before {
            let detail = corrupt(number, "its map has another length").to_string();
            self.of_attribute("map", number, old, detail);
        }
    }
}
