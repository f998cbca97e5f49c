//! A real image or block device as the journal's target.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, OnceLock};

use super::inhibit::Inhibitor;
use super::look::Look;
use crate::disk::survey::{Host, Partition};
use crate::disk::{DirectDisk, Disk, DiskRead, FileDisk, Inode, drop_caches, resize_partition};
use crate::extent::{Extent, ExtentMap};
use crate::journal::{Media, Side, View};
use crate::plan::Plan;

/// The nodes of a target.
pub struct HostMedia {
    /// The image, or the whole disk.
    pub path: PathBuf,
    /// The file or device that was looked at and held. A path may come to mean another one, which
    /// must not be written to. `None`: it could not be asked, and nothing is opened.
    pub inode: Option<Inode>,
    /// Sector size of an image; a device has its own.
    pub image_sector_bytes: Option<u32>,
    /// The kernel's partition, where it has one: its page cache is not the disk's.
    pub node: Option<Partition>,
    /// The partition before and after.
    pub partition: (Extent, Extent),
    /// What [`Media::views`] could not read past the cache.
    pub cached: Mutex<bool>,
    /// Held from the first writer on.
    pub inhibitor: OnceLock<Option<Inhibitor>>,
}

impl HostMedia {
    /// The target that was looked at; `plan` says what the kernel is to be told in the end.
    pub fn of(look: &Look, plan: Option<&Plan>) -> HostMedia {
        let now = look.partition.unwrap_or(Extent::new(0, 0));
        let sector_bytes = look.disk.geometry().logical_sector_bytes;
        HostMedia {
            path: look.path.clone(),
            inode: look.disk.inode().ok(),
            image_sector_bytes: look.device.is_none().then_some(sector_bytes),
            node: look.node.clone(),
            partition: plan.map_or((now, now), |p| (p.partition_before(), p.partition_after())),
            cached: Mutex::new(false),
            inhibitor: OnceLock::new(),
        }
    }

    /// Whether anything had to be read through the page cache.
    pub fn was_cached(&self) -> bool {
        self.cached.lock().is_ok_and(|c| *c)
    }

    fn same(&self, opened: Inode) -> io::Result<()> {
        if self.inode == Some(opened) {
            return Ok(());
        }
        Err(io::Error::other(format!(
            "{} has been replaced: it is not what was looked at",
            self.path.display()
        )))
    }

    fn open_write(&self) -> io::Result<FileDisk> {
        let disk = FileDisk::open_write(&self.path)?;
        self.same(disk.inode()?)?;
        Ok(disk)
    }

    fn direct(&self, path: &Path) -> io::Result<DirectDisk> {
        let disk = DirectDisk::open(path)?;
        if path == self.path {
            self.same(disk.inode()?)?;
        }
        if !disk.is_direct()
            && let Ok(mut cached) = self.cached.lock()
        {
            *cached = true;
        }
        match self.image_sector_bytes {
            Some(bytes) => disk.with_image_sector_bytes(bytes),
            None => Ok(disk),
        }
    }

    /// Drops the caches of the disk and of the partition's node. A dirty page of the one would
    /// overwrite what was written through the other.
    ///
    /// # Errors
    /// The kernel's.
    pub fn settle(&self) -> io::Result<()> {
        if let Some(node) = &self.node {
            drop_caches(&node.node)?;
        }
        drop_caches(&self.path)
    }

    /// A reader of the whole target past the page cache.
    ///
    /// # Errors
    /// The kernel's.
    pub fn reader(&self) -> io::Result<DirectDisk> {
        self.direct(&self.path)
    }
}

impl Media for HostMedia {
    fn writer(&self) -> io::Result<Box<dyn Disk>> {
        self.inhibitor.get_or_init(Inhibitor::take);
        let disk = self.open_write()?;
        Ok(match self.image_sector_bytes {
            Some(bytes) => Box::new(disk.with_image_sector_bytes(bytes)?),
            None => Box::new(disk),
        })
    }

    fn reserve(&self, extents: &ExtentMap) -> io::Result<()> {
        let Some(_) = self.image_sector_bytes else {
            return Ok(());
        };
        let file = self.open_write()?;
        for extent in extents.iter() {
            match file.reserve(extent) {
                Err(e) if e.kind() == io::ErrorKind::Unsupported => return Ok(()),
                other => other?,
            }
        }
        Ok(())
    }

    fn views(&self) -> io::Result<Vec<View>> {
        self.settle()?;
        let reader = self.direct(&self.path)?;
        let extent = Extent::new(0, reader.len_bytes());
        let name = self.path.display().to_string();
        let mut views = vec![View {
            name,
            extent,
            reader: Box::new(reader),
        }];
        if let Some(node) = &self.node {
            let reader = self.direct(&node.node)?;
            // The kernel's idea of its length: it changes only after the verification.
            let extent = Extent::new(node.extent.start, reader.len_bytes());
            views.push(View {
                name: node.node.display().to_string(),
                extent,
                reader: Box::new(reader),
            });
        }
        Ok(views)
    }

    fn announce(&self, side: Side) -> Result<(), String> {
        let Some(node) = &self.node else {
            return Ok(());
        };
        let extent = match side {
            Side::Before => self.partition.0,
            Side::After => self.partition.1,
        };
        resize_partition(&Host::default(), &self.path, node.number, extent).map_err(|e| {
            format!(
                "{e}; the bytes on the disk are right: `partx -u {}` tells the kernel",
                self.path.display()
            )
        })
    }
}
