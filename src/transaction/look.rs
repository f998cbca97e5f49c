//! The survey: what is at the path that somebody typed. Read-only.
//!
//! Whatever stands against a change is collected as refusals; only what makes it impossible to
//! look at all is an error.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};

use crate::disk::survey::{self, BlockDevice, Host, HostError, Partition, Target};
use crate::disk::{DiskRead, FileDisk, Hold, Window, drop_caches, read_vec};
use crate::extent::{Extent, ExtentMap};
use crate::fs::{self, Driver, FsError, GateState, Observed, TransactionId, signature};
use crate::plan::{Identity, TargetKind};
use crate::report::Refusal;
use crate::table::{self, Found, Table};
use crate::units::{Bytes, UNIT_BYTES, escape};

/// How long udev may keep its lock while it looks at a device that has just appeared.
const PATIENCE: Duration = Duration::from_secs(5);

/// What was typed.
#[derive(Clone, Debug)]
pub struct Asked {
    /// An image, a disk, or a partition's device.
    pub target: PathBuf,
    /// `--partition`.
    pub partition: Option<u32>,
    /// `--sector-size`, for an image.
    pub sector_bytes: Option<u32>,
}

/// A target that was looked at.
pub struct Look {
    /// The kernel's trees.
    pub host: Host,
    /// The image or the whole disk.
    pub path: PathBuf,
    /// As it was typed, for messages.
    pub shown: String,
    /// The whole disk, where it is a device.
    pub device: Option<BlockDevice>,
    /// The kernel's idea of the partition, where it has one.
    pub node: Option<Partition>,
    /// The disk, opened read-only.
    pub disk: Arc<FileDisk>,
    /// Its partition table.
    pub table: Found,
    /// The chosen partition's number.
    pub number: Option<u32>,
    /// The partition, or all of a bare disk, where one was found.
    pub partition: Option<Extent>,
    /// The file system, where one was recognised.
    pub file_system: Option<Volume>,
    /// What stands against a change.
    pub refusals: Vec<Refusal>,
    /// What a person should know.
    pub notices: Vec<String>,
}

/// A file system and its driver.
pub struct Volume {
    /// What the superblock says.
    pub observed: Observed,
    /// The driver.
    pub driver: &'static dyn Driver,
}

impl Look {
    /// Looks at a target.
    ///
    /// # Errors
    /// Where it cannot be opened or read.
    pub fn at(asked: &Asked) -> Result<Look> {
        let host = Host::default();
        let shown = escape(&asked.target.to_string_lossy());
        let target = host.resolve(&asked.target)?;
        let (path, device, named) = match target {
            Target::Image { path, .. } => (path, None, None),
            Target::Disk(disk) => (disk.node.clone(), Some(disk), None),
            Target::Partition { disk, number } => (disk.node.clone(), Some(disk), Some(number)),
        };
        if let Some(device) = &device {
            // The disk's node has a page cache of its own: what it read while a partition was
            // mounted may be stale. Where we may not drop it, we can do nothing with it either.
            let _ = drop_caches(&device.node);
        }
        let disk = open_read(&path, device.is_some(), asked.sector_bytes)?;
        let table = table::read(&disk)
            .with_context(|| format!("reading the partition table of {shown}"))?;
        let mut look = Look {
            host,
            path,
            shown,
            device,
            node: None,
            disk: Arc::new(disk),
            table,
            number: None,
            partition: None,
            file_system: None,
            refusals: Vec::new(),
            notices: Vec::new(),
        };
        if look.disk.len_bytes() == 0 {
            look.refuse(
                "empty-target",
                match look.disk.tail_bytes() {
                    0 => format!("{} has no bytes at all", look.shown),
                    few => format!(
                        "{} has {few} bytes, which is less than one sector",
                        look.shown
                    ),
                },
                "name another target",
            );
            return Ok(look);
        }
        look.choose(asked.partition, named)?;
        look.recognise()?;
        look.ask_kernel()?;
        Ok(look)
    }

    fn refuse(&mut self, code: &str, message: impl Into<String>, hint: impl Into<String>) {
        self.refusals.push(Refusal::new(code, message, hint));
    }

    /// The table, where it is a healthy one, with the number of the chosen partition.
    pub fn chosen(&self) -> Option<(&dyn Table, u32)> {
        Some((self.table.table()?, self.number?))
    }

    /// What the journal writes at least, and in multiples of: [`UNIT_BYTES`], or a physical sector
    /// where that is larger.
    pub fn unit_bytes(&self) -> u64 {
        u64::from(self.disk.geometry().physical_sector_bytes).max(UNIT_BYTES)
    }

    /// The chosen partition as a disk of its own.
    ///
    /// # Errors
    /// Where it ends beyond the disk.
    pub fn window(&self, extent: Extent) -> io::Result<Window<Arc<FileDisk>>> {
        Window::new(self.disk.clone(), extent)
    }

    /// Decides which partition is meant.
    fn choose(&mut self, typed: Option<u32>, named: Option<u32>) -> Result<()> {
        let on_this = |refusal: Refusal| match plain_word(&self.path) {
            Some(path) => Refusal {
                hint: refusal.hint.replace("DISK", path),
                ..refusal
            },
            None => refusal,
        };
        let found: Vec<Refusal> = self.table.refusals().into_iter().map(on_this).collect();
        self.refusals.extend(found);
        if let Found::None { notes } = &self.table {
            self.notices.extend(notes.clone());
            return self.choose_bare(typed, named);
        }
        let Some(table) = self.table.table() else {
            return Ok(());
        };
        self.notices.extend(table.notes().iter().cloned());
        if let (Some(typed), Some(named)) = (typed, named)
            && typed != named
        {
            self.refuse(
                "two-partitions",
                format!(
                    "{} is partition {named}, and --partition says {typed}",
                    self.shown
                ),
                "leave --partition out, or name the whole disk",
            );
            return Ok(());
        }
        let number = match typed.or(named) {
            Some(number) => number,
            None => match self.only_candidate()? {
                Some(number) => number,
                None => return Ok(()),
            },
        };
        let Some(table) = self.table.table() else {
            return Ok(());
        };
        if let Some(extent) = table.extent(number) {
            (self.number, self.partition) = (Some(number), Some(extent));
            return Ok(());
        }
        let numbers: Vec<String> = table
            .partitions()
            .iter()
            .map(|p| p.number.to_string())
            .collect();
        let (code, what) = match table.container(number) {
            Some(what) => (
                "extended-partition",
                format!("partition {number} of {} is {what}", self.shown),
            ),
            None => (
                "no-such-partition",
                format!("{} has no partition {number}", self.shown),
            ),
        };
        self.refuse(
            code,
            format!("{what}; it has {}", numbers.join(", ")),
            "name one of those with --partition",
        );
        Ok(())
    }

    fn choose_bare(&mut self, typed: Option<u32>, named: Option<u32>) -> Result<()> {
        if let Some(number) = typed.or(named) {
            self.refuse(
                "no-table",
                format!(
                    "{} has no partition table, and so no partition {number}",
                    self.shown
                ),
                "leave --partition out where the file system fills the whole target",
            );
            return Ok(());
        }
        let len_bytes = self.disk.len_bytes();
        self.partition = Some(Extent::new(0, len_bytes));
        Ok(())
    }

    /// The only partition with a file system that we know, or refusals that list what there is.
    fn only_candidate(&mut self) -> Result<Option<u32>> {
        let (mut candidates, mut lines) = (Vec::new(), Vec::new());
        let table = self.table.table();
        let slots = table.iter().flat_map(|table| {
            let slots = table.partitions().into_iter();
            slots.filter_map(|slot| Some((table.extent(slot.number)?, slot)))
        });
        for (extent, part) in slots {
            let name = match probe(&self.window(extent)?) {
                Ok(Some(volume)) => {
                    candidates.push(part.number);
                    format!(
                        "{} {}",
                        volume.observed.kind,
                        escape(&volume.observed.label)
                    )
                }
                Ok(None) => part.kind.unwrap_or("unknown").to_string(),
                Err(e) => e.to_string(),
            };
            lines.push(format!(
                "{}: {}, {}",
                part.number,
                Bytes(extent.len),
                name.trim_end()
            ));
        }
        match candidates[..] {
            [number] => return Ok(Some(number)),
            [] => self.refuse(
                "no-file-system",
                format!(
                    "no partition of {} holds a file system that can be resized: {}",
                    self.shown,
                    lines.join("; ")
                ),
                "",
            ),
            _ => self.refuse(
                "which-partition",
                format!(
                    "{} has several partitions: {}",
                    self.shown,
                    lines.join("; ")
                ),
                "say which with --partition N",
            ),
        }
        Ok(None)
    }

    /// Finds out what is in the partition.
    fn recognise(&mut self) -> Result<()> {
        let Some(extent) = self.partition else {
            return Ok(());
        };
        let window = match self.window(extent) {
            Ok(window) => window,
            Err(e) => {
                self.refuse(
                    "partition-beyond-disk",
                    format!("the partition cannot be read: {e}"),
                    "",
                );
                return Ok(());
            }
        };
        match probe(&window) {
            Ok(Some(volume)) => {
                self.notices.extend(volume.observed.notes.iter().cloned());
                self.file_system = Some(volume);
            }
            Ok(None) => self.refuse_unknown(&window)?,
            Err(FsError::Io(e)) => return Err(e).context("reading the file system"),
            Err(FsError::Unsupported(refusal)) => self.refusals.push(refusal),
            Err(FsError::Corrupt(what)) => self.refuse(
                "damaged-file-system",
                format!("the file system is damaged: {what}"),
                super::planning::LOOK_AT_IT,
            ),
        }
        Ok(())
    }

    fn refuse_unknown(&mut self, window: &dyn DiskRead) -> Result<()> {
        let found = signature::signatures(window).context("looking for signatures")?;
        match found.iter().find(|s| !s.at_end).or(found.first()) {
            Some(s) => self.refuse(
                "unsupported-file-system",
                format!(
                    "{} holds {}, which cannot be resized here",
                    self.shown, s.name
                ),
                format!("use {}", s.owner_tool),
            ),
            None => self.refuse(
                "no-file-system",
                format!("{} holds no file system that is known", self.shown),
                "check that this is the right device; a disk needs --partition N",
            ),
        }
        Ok(())
    }

    /// What the kernel says: who uses it, and where it believes the partition to be.
    fn ask_kernel(&mut self) -> Result<()> {
        let Some(device) = self.device.clone() else {
            return self.try_image_hold();
        };
        if device.read_only {
            self.refuse(
                "read-only",
                format!("the kernel refuses writes to {}", device.node.display()),
                "",
            );
        }
        self.node = self
            .number
            .and_then(|number| device.partition(number))
            .cloned();
        if let (Some(node), Some(extent)) = (&self.node, self.partition)
            && node.extent != extent
        {
            let message = format!(
                "the kernel believes that {} covers {}, and the table says {extent}",
                node.node.display(),
                node.extent
            );
            self.refuse(
                "kernel-table-differs",
                message,
                format!(
                    "make the kernel read the table again: `partx -u {}`",
                    escape(&device.node.to_string_lossy())
                ),
            );
        }
        let (number, node) = match &self.node {
            Some(part) => (part.device, part.node.clone()),
            None => (device.number, device.node.clone()),
        };
        let uses = survey::uses(&self.host, number, &node)
            .with_context(|| format!("finding out who uses {}", node.display()))?;
        let refusals = survey::refusals(&self.host, number, &node, &uses);
        if refusals.is_empty() {
            self.try_hold()?;
        }
        self.refusals.extend(refusals);
        Ok(())
    }

    fn try_image_hold(&mut self) -> Result<()> {
        self.try_hold()
    }

    /// Holds for a moment, to find out whether it could be held.
    fn try_hold(&mut self) -> Result<()> {
        match self.hold() {
            Ok(_) => Ok(()),
            Err(HostError::Refused(refusal)) => {
                self.refusals.push(refusal);
                Ok(())
            }
            Err(HostError::Io(e)) => Err(e).context("holding the target"),
        }
    }

    /// Holds the target. Nothing is opened for writing.
    ///
    /// # Errors
    /// [`HostError`].
    pub fn hold(&self) -> Result<Hold, HostError> {
        match (&self.device, &self.node) {
            (None, _) => Hold::image(&self.host, &self.path, PATIENCE),
            (Some(disk), Some(part)) => Hold::device(&self.host, &part.node, &disk.node, PATIENCE),
            (Some(disk), None) => Hold::device(&self.host, &disk.node, &disk.node, PATIENCE),
        }
    }

    /// The extents of the disk's other partitions that somebody uses.
    ///
    /// # Errors
    /// The kernel's.
    pub fn busy_neighbours(&self) -> io::Result<ExtentMap> {
        let mut busy = ExtentMap::new();
        for part in self.device.iter().flat_map(|d| &d.partitions) {
            let used = !survey::uses(&self.host, part.device, &part.node)?.is_empty();
            if Some(part.number) != self.number && used {
                busy.insert(part.extent);
            }
        }
        Ok(busy)
    }

    /// The transaction whose gate stands on this disk, in the chosen partition or in any other: they
    /// share the table, which recovery may write back. Where a power cut tore one copy of it, the
    /// other, and the kernel, still say where partitions begin.
    pub fn gate(&self) -> Option<TransactionId> {
        let sector = u64::from(self.disk.geometry().logical_sector_bytes);
        let in_table = self.table.starts().into_iter();
        let in_table = in_table.map(|lba| lba.checked_mul(sector));
        let in_kernel = self.device.iter().flat_map(|d| &d.partitions);
        let starts = [Some(0)]
            .into_iter()
            .chain(in_table)
            .chain(in_kernel.map(|p| Some(p.extent.start)));
        let gate_at = |start: u64| {
            fs::drivers().iter().find_map(|driver| {
                let place = driver.superblock();
                let at = start.checked_add(place.start)?;
                let bytes = read_vec(&*self.disk, at, place.len as usize).ok()?;
                match driver.gate(&bytes) {
                    GateState::Closed(id) => Some(id),
                    _ => None,
                }
            })
        };
        starts.flatten().find_map(gate_at)
    }

    /// Who the target is.
    pub fn identity(&self) -> Identity {
        let table = self.table.table();
        let wwid = self
            .device
            .as_ref()
            .and_then(|d| d.wwid.clone().or_else(|| d.serial.clone()));
        Identity {
            kind: if self.device.is_some() {
                TargetKind::Device
            } else {
                TargetKind::Image
            },
            path: self.path.to_string_lossy().into_owned(),
            disk_guid: table.and_then(|table| table.disk_id()),
            partition_guid: self.chosen().and_then(|(table, n)| table.partition_id(n)),
            partition_number: self.number,
            partition_start: self.partition.map_or(0, |e| e.start),
            driver: self
                .file_system
                .as_ref()
                .map_or(String::new(), |v| v.driver.name().into()),
            uuid: self
                .file_system
                .as_ref()
                .map_or(String::new(), |v| v.observed.uuid.clone()),
            wwid,
            device_bytes: self.device.as_ref().map(|_| self.disk.len_bytes()),
            sector_bytes: u64::from(self.disk.geometry().logical_sector_bytes),
        }
    }
}

/// Opens the disk read-only. An image does not say what its sectors are: it has 4096 bytes where
/// its table makes more sense so.
fn open_read(path: &Path, is_device: bool, sector_bytes: Option<u32>) -> Result<FileDisk> {
    let open = || FileDisk::open_read(path).with_context(|| format!("opening {}", path.display()));
    if is_device {
        return open();
    }
    if let Some(bytes) = sector_bytes {
        return Ok(open()?.with_image_sector_bytes(bytes)?);
    }
    let with_4096 = open()?.with_image_sector_bytes(4096)?;
    let disk = open()?;
    let (more, usual) = (sense(&with_4096), sense(&disk));
    Ok(if more > usual { with_4096 } else { disk })
}

/// How much sense the table of a disk makes. A GPT names its sector size by where it stands; an MBR
/// looks the same with each, but only with one of them do its partitions begin with something.
fn sense(disk: &FileDisk) -> u8 {
    let Ok(found) = table::read(disk) else {
        return 0;
    };
    let (Some(table), false) = (found.table(), matches!(found, Found::Gpt(_))) else {
        return if matches!(found, Found::Gpt(_)) { 3 } else { 0 };
    };
    let begins = |slot: &table::Slot| {
        let part = Window::new(disk, table.extent(slot.number)?).ok()?;
        let known = !matches!(probe(&part), Ok(None));
        let signed = signature::signatures(&part).is_ok_and(|s| s.iter().any(|s| !s.at_end));
        (known || signed).then_some(())
    };
    match table.partitions().iter().find_map(begins) {
        Some(()) => 2,
        None => 1,
    }
}

/// The first driver that knows what is there.
///
/// # Errors
/// [`FsError`].
pub fn probe(part: &dyn DiskRead) -> Result<Option<Volume>, FsError> {
    for driver in fs::drivers() {
        if let Some(observed) = driver.probe(part)? {
            return Ok(Some(Volume {
                observed,
                driver: *driver,
            }));
        }
    }
    Ok(None)
}

/// The path, where a shell takes it as it is.
fn plain_word(path: &Path) -> Option<&str> {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"/._-:+=,".contains(&b);
    path.to_str().filter(|word| word.bytes().all(plain))
}
