//! What the kernel knows of block devices, and who uses one.
//!
//! 1. Nothing is opened for writing, and no device is opened at all: the answers come from
//!    `/sys`, `/proc` and `/dev`.
//! 2. What cannot be read or understood is an error, never "not in use".
//! 3. This explains and refuses early; it does not exclude. Between the look and the act anything
//!    can happen: the exclusion is [`super::Hold`]'s.
//!
//! It does not see users in other machines (shared storage), nor file systems that some program
//! reads by itself from a device node that it has not opened exclusively, except as processes.

mod process;
mod refuse;
mod users;

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use thiserror::Error;

pub use super::mounts::{DevNumber, Mount};
pub use process::{Process, users_of};
pub use refuse::{refusals, shell_word, unit_of};
pub use users::{Use, uses, uses_of_image};

pub(super) use process::name_of;
pub(super) use refuse::explain_busy;

use crate::extent::Extent;
use crate::report::Refusal;

/// The unit of sizes in sysfs, whatever the device's sector.
const SYSFS_SECTOR: u64 = 512;

/// Why a question about this machine has no answer, or one that forbids to go on.
#[derive(Debug, Error)]
pub enum HostError {
    /// The kernel did not answer.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// It did, and we will not.
    #[error("{0}")]
    Refused(Refusal),
}

/// Where the kernel's trees are: real ones, or a test's.
#[derive(Clone, Debug)]
pub struct Host {
    /// `/sys`
    pub sys: PathBuf,
    /// `/proc`
    pub proc: PathBuf,
    /// `/dev`
    pub dev: PathBuf,
}

impl Default for Host {
    fn default() -> Host {
        Host {
            sys: "/sys".into(),
            proc: "/proc".into(),
            dev: "/dev".into(),
        }
    }
}

/// What a path that somebody typed stands for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// A regular file.
    Image {
        /// Without links.
        path: PathBuf,
        /// Length in bytes.
        len_bytes: u64,
    },
    /// A device that is not a partition.
    Disk(BlockDevice),
    /// A partition that the kernel knows.
    Partition {
        /// The disk that it lies on.
        disk: BlockDevice,
        /// Which of them.
        number: u32,
    },
}

/// A block device that is not a partition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BlockDevice {
    /// The kernel's name, which changes at reboot: `sda`.
    pub name: String,
    /// Its node.
    pub node: PathBuf,
    /// Its number.
    pub number: DevNumber,
    /// Length in bytes; 0 where there is no medium.
    pub len_bytes: u64,
    /// Whether the kernel refuses writes.
    pub read_only: bool,
    /// Whether it says that it turns.
    pub rotational: bool,
    /// World-wide name, where the device has one.
    pub wwid: Option<String>,
    /// Serial number, likewise.
    pub serial: Option<String>,
    /// Model, likewise.
    pub model: Option<String>,
    /// Its names under `/dev/disk/by-id`, sorted.
    pub ids: Vec<String>,
    /// The partitions that the kernel knows, by number.
    pub partitions: Vec<Partition>,
}

/// A partition that the kernel knows, which need not be what the table says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Partition {
    /// Its number in the table.
    pub number: u32,
    /// The kernel's name: `sda3`.
    pub name: String,
    /// Its node.
    pub node: PathBuf,
    /// Its device number.
    pub device: DevNumber,
    /// Where it lies on the disk, in bytes.
    pub extent: Extent,
    /// Whether the kernel refuses writes.
    pub read_only: bool,
}

impl BlockDevice {
    /// The partition of this number, where the kernel knows it.
    pub fn partition(&self, number: u32) -> Option<&Partition> {
        self.partitions.iter().find(|p| p.number == number)
    }
}

impl Host {
    /// What `path` stands for. Links are followed.
    ///
    /// # Errors
    /// The kernel's; `InvalidInput` for what is neither a regular file nor a block device.
    pub fn resolve(&self, path: &Path) -> io::Result<Target> {
        let named =
            |e: io::Error| io::Error::new(e.kind(), format!("looking at {}: {e}", path.display()));
        let path = path.canonicalize().map_err(named)?;
        let meta = path.metadata().map_err(named)?;
        if meta.is_file() {
            return Ok(Target::Image {
                path,
                len_bytes: meta.len(),
            });
        }
        if !meta.file_type().is_block_device() {
            return Err(named(io::Error::new(
                io::ErrorKind::InvalidInput,
                format!(
                    "it is {}, neither an image file nor a block device",
                    kind_of(meta.file_type())
                ),
            )));
        }
        self.device(DevNumber::of(meta.rdev())).map_err(named)
    }

    /// The device of this number: a disk, or a partition with its disk.
    ///
    /// # Errors
    /// Where sysfs does not know it, or says what is not understood.
    pub fn device(&self, number: DevNumber) -> io::Result<Target> {
        let place = self.sysfs_dir(number)?;
        if !place.join("partition").exists() {
            return Ok(Target::Disk(self.disk(&place)?));
        }
        let disk = place
            .parent()
            .ok_or_else(|| odd(&place, "it has no disk"))?;
        Ok(Target::Partition {
            disk: self.disk(disk)?,
            number: parsed(&place.join("partition"))?,
        })
    }

    /// Every block device that has a medium, by name; partitions are in their disks.
    ///
    /// # Errors
    /// Where sysfs cannot be read. A device that goes away meanwhile is left out.
    pub fn list_disks(&self) -> io::Result<Vec<BlockDevice>> {
        let mut disks = Vec::new();
        for name in self.links(&self.sys.join("block")) {
            let disk = self
                .sys
                .join("block")
                .join(name)
                .canonicalize()
                .and_then(|place| self.disk(&place));
            match disk {
                Ok(disk) if disk.len_bytes > 0 => disks.push(disk),
                Ok(_) => {}
                Err(e) if e.kind() == io::ErrorKind::NotFound => {}
                Err(e) => return Err(e),
            }
        }
        Ok(disks)
    }

    fn disk(&self, place: &Path) -> io::Result<BlockDevice> {
        let name = self.kernel_name(place)?;
        let node = self.node(place, &name);
        let mut partitions = Vec::new();
        for child in self.links(place) {
            let child = place.join(child);
            if child.join("partition").exists() {
                partitions.push(self.partition(&child)?);
            }
        }
        partitions.sort_by_key(|p| p.number);
        let first = |names: [&str; 2]| names.iter().find_map(|n| line(&place.join(n)));
        Ok(BlockDevice {
            number: parsed_number(&place.join("dev"))?,
            len_bytes: sectors(&place.join("size"))?,
            read_only: line(&place.join("ro")).is_some_and(|v| v != "0"),
            rotational: line(&place.join("queue/rotational")).is_some_and(|v| v == "1"),
            wwid: first(["wwid", "device/wwid"]),
            serial: first(["serial", "device/serial"]),
            model: first(["device/model", "device/name"]),
            ids: self.ids_of(&node),
            partitions,
            node,
            name,
        })
    }

    fn partition(&self, place: &Path) -> io::Result<Partition> {
        let name = self.kernel_name(place)?;
        let start = sectors(&place.join("start"))?;
        let len = sectors(&place.join("size"))?;
        if start.checked_add(len).is_none() {
            return Err(odd(place, "it ends beyond 2^64"));
        }
        Ok(Partition {
            number: parsed(&place.join("partition"))?,
            node: self.node(place, &name),
            device: parsed_number(&place.join("dev"))?,
            extent: Extent::new(start, len),
            read_only: line(&place.join("ro")).is_some_and(|v| v != "0"),
            name,
        })
    }

    fn kernel_name(&self, place: &Path) -> io::Result<String> {
        let name = place.file_name().and_then(OsStr::to_str);
        name.map(str::to_string)
            .ok_or_else(|| odd(place, "it has no name"))
    }

    /// The node that the kernel made: `uevent` names it; `!` stands for `/` in sysfs' names.
    fn node(&self, place: &Path, name: &str) -> PathBuf {
        let uevent = std::fs::read_to_string(place.join("uevent")).unwrap_or_default();
        let named = uevent.lines().find_map(|l| l.strip_prefix("DEVNAME="));
        match named {
            Some(name) => self.dev.join(name),
            None => self.dev.join(name.replace('!', "/")),
        }
    }

    fn ids_of(&self, node: &Path) -> Vec<String> {
        let by_id = self.dev.join("disk/by-id");
        let node = node.canonicalize().unwrap_or_else(|_| node.into());
        let mut ids: Vec<String> = self
            .links(&by_id)
            .into_iter()
            .filter(|id| by_id.join(id).canonicalize().is_ok_and(|n| n == node))
            .map(|id| id.to_string_lossy().into_owned())
            .collect();
        ids.sort();
        ids
    }

    /// The directory of a device in sysfs.
    pub(super) fn sysfs_dir(&self, number: DevNumber) -> io::Result<PathBuf> {
        let link = self.sys.join("dev/block").join(number.to_string());
        link.canonicalize()
            .map_err(|e| io::Error::new(e.kind(), format!("asking for device {number}: {e}")))
    }

    /// The number of the device whose sysfs directory this is.
    pub(super) fn number_of(&self, place: &Path) -> Option<DevNumber> {
        line(&place.join("dev"))?.parse().ok()
    }

    /// The number of the block device at `node`, where it is one.
    pub(super) fn block_number(&self, node: &Path) -> Option<DevNumber> {
        let meta = node.metadata().ok()?;
        let block = node.is_absolute() && meta.file_type().is_block_device();
        block.then(|| DevNumber::of(meta.rdev()))
    }

    /// The file behind the loop device whose sysfs directory this is.
    pub(super) fn loop_file(&self, place: &Path) -> Option<PathBuf> {
        let text = std::fs::read(place.join("loop/backing_file")).ok()?;
        let text = text.strip_suffix(b"\n").unwrap_or(&text);
        Some(PathBuf::from(OsStr::from_bytes(text)))
    }

    /// The names in a directory, sorted; none where there is no such directory.
    pub(super) fn links(&self, dir: &Path) -> Vec<OsString> {
        let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
        let mut names: Vec<OsString> = entries.map(|e| e.file_name()).collect();
        names.sort();
        names
    }
}

/// The first line of an attribute, trimmed; `None` where there is none or it is empty.
fn line(path: &Path) -> Option<String> {
    let text = std::fs::read(path).ok()?;
    let text = String::from_utf8_lossy(&text);
    let first = text
        .lines()
        .next()?
        .trim_matches(|c: char| c.is_whitespace() || c == '\0');
    (!first.is_empty()).then(|| first.to_string())
}

fn parsed<T: std::str::FromStr>(path: &Path) -> io::Result<T> {
    let text = std::fs::read_to_string(path)
        .map_err(|e| io::Error::new(e.kind(), format!("reading {}: {e}", path.display())))?;
    text.trim().parse().map_err(|_| odd(path, "not a number"))
}

fn parsed_number(path: &Path) -> io::Result<DevNumber> {
    let text = line(path).ok_or_else(|| odd(path, "it cannot be read"))?;
    text.parse().map_err(|()| odd(path, "not a device number"))
}

fn sectors(path: &Path) -> io::Result<u64> {
    parsed::<u64>(path)?
        .checked_mul(SYSFS_SECTOR)
        .ok_or_else(|| odd(path, "beyond 2^64 bytes"))
}

fn kind_of(kind: std::fs::FileType) -> &'static str {
    let kinds = [
        (kind.is_dir(), "a directory"),
        (kind.is_fifo(), "a pipe"),
        (kind.is_socket(), "a socket"),
        (kind.is_char_device(), "a character device"),
    ];
    let found = kinds.iter().find(|(is, _)| *is);
    found.map_or("something else", |(_, name)| name)
}

fn odd(path: &Path, why: &str) -> io::Error {
    io::Error::new(
        io::ErrorKind::InvalidData,
        format!("{} is not understood: {why}", path.display()),
    )
}
