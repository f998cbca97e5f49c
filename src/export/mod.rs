//! Any [`Disk`] as one file for stock tools, in a room that they cannot leave.
//!
//! 1. A tool sees a file of the right size at [`Export::path`], the programs of the host read-only,
//!    and nothing else: no block device, no other file that can be written, no process, no network.
//!    ([`Room`] says how.)
//! 2. Nothing is left behind, whatever kills us: the mount lives in a private mount namespace and
//!    vanishes with its last process; tools die with us, and what they started dies with them.
//! 3. After [`Export::finish`] has returned `Ok`, everything that a tool wrote has reached the disk,
//!    and nothing more ever will.
//! 4. An I/O error that the disk gave to a tool makes [`Export::finish`] fail, whether or not the
//!    tool cared.
//! 5. Nothing here waits for the tool and serves it at once: the server's threads never wait for
//!    a process, and [`Export::abandon`] frees whoever waits for the server.
//!
//! The disk is served through FUSE. Where there is no `/dev/fuse`, a sparse copy stands in, and its
//! differences are written to the disk at the end. The copy is private too: it loses its name
//! before the first tool starts.
//!
//! What it does not do: decide which tool runs, or judge the result.

mod copy;
mod fuse;
mod room;

use std::fs::{File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::sync::Arc;
use std::time::Duration;

use crate::disk::Disk;
use crate::extent::ExtentMap;
use crate::harden::stay_in_memory;
use copy::Copy;
use fuse::Served;

pub use room::{Room, enter_user_namespace};

/// How long the kernel may take to tell that a process that was waited for has ended.
const SETTLE: Duration = Duration::from_secs(5);

/// How a disk becomes a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum How {
    /// Through FUSE.
    Fuse,
    /// As a sparse copy.
    Copy,
    /// Through FUSE where there is a usable `/dev/fuse`, else as a copy.
    Auto,
}

/// What an export needs besides the disk.
#[derive(Clone, Copy, Debug)]
pub struct Setup<'a> {
    /// A private directory on a file system with room for a copy. Left as it was.
    pub scratch: &'a Path,
    /// Directories with programs, besides the usual ones.
    pub programs: &'a [PathBuf],
    /// The bytes that a tool may rely on: what the file system uses. Only a copy needs to know;
    /// everything else reads as zeros in it.
    pub used: &'a ExtentMap,
    /// Through what.
    pub how: How,
}

enum Way {
    Fuse(Served),
    Copy(Copy),
}

/// A disk as a file, and the room with the tools. Dropped before it is finished, it lets nothing
/// more reach the disk, whoever still runs.
pub struct Export {
    room: Room,
    /// `None` once it is finished.
    way: Option<Way>,
}

impl Export {
    /// Exports `disk`.
    ///
    /// # Errors
    /// Where no room can be made (which needs root, or [`enter_user_namespace`]), where FUSE was
    /// asked for and is not to be had, and where the copy does not fit.
    pub fn new(disk: Arc<dyn Disk>, setup: Setup<'_>) -> io::Result<Export> {
        let device = match setup.how {
            How::Copy => None,
            How::Fuse => Some(fuse::open_device()?),
            How::Auto => fuse::open_device().ok(),
        };
        match device {
            Some(device) => Export::through_fuse(disk, setup, device),
            None => Export::as_copy(disk, setup),
        }
    }

    fn through_fuse(disk: Arc<dyn Disk>, setup: Setup<'_>, device: File) -> io::Result<Export> {
        let room = Room::new(setup.scratch, setup.programs, None)?;
        let way = Some(Way::Fuse(Served::start(&room, disk, device)?));
        Ok(Export { room, way })
    }

    fn as_copy(disk: Arc<dyn Disk>, setup: Setup<'_>) -> io::Result<Export> {
        let copy = Copy::make(disk, setup.used, setup.scratch)?;
        let room = Room::new(setup.scratch, setup.programs, Some(copy.path()))?;
        let way = Some(Way::Copy(copy.unlinked()?));
        Ok(Export { room, way })
    }

    /// Where the tools find the file. The path means something in the room only.
    pub fn path(&self) -> &'static Path {
        Path::new(room::FILE)
    }

    /// Whether the disk is served through FUSE.
    pub fn is_fuse(&self) -> bool {
        matches!(self.way, Some(Way::Fuse(_)))
    }

    /// Starts a process in the room. See [`Room::spawn`].
    ///
    /// # Errors
    /// As [`Room::spawn`].
    pub fn spawn(&self, mut command: Command) -> io::Result<Child> {
        if let Some(Way::Copy(_)) = self.way {
            // A hole that a tool punches where the copy has a hole anyway leaves no trace, but the
            // disk may hold stale bytes there. With this, e2fsprogs writes its zeros.
            command.env("UNIX_IO_NOZEROOUT", "1");
        }
        self.room.spawn(command)
    }

    /// Starts our own program beside the room, with the file as its standard input: what it needs
    /// to mount is not in the room. See [`Room::spawn_beside`].
    ///
    /// # Errors
    /// `Unsupported` where the disk is not served through FUSE: a copy would have to be made
    /// anew after each mount.
    pub fn spawn_mounter(&self, mut command: Command) -> io::Result<Child> {
        if !self.is_fuse() {
            return Err(io::Error::new(
                io::ErrorKind::Unsupported,
                "the overlay is a copy, and only one that is served through FUSE can be mounted",
            ));
        }
        let open = || OpenOptions::new().read(true).write(true).open(room::FILE);
        let file = self.room.inside(SETTLE, open)?;
        stay_in_memory();
        command.stdin(file);
        self.room.spawn_beside(command)
    }

    /// A number that changes with every request that reaches the disk. A copy has no requests.
    pub fn requests(&self) -> u64 {
        match &self.way {
            Some(Way::Fuse(served)) => served.requests(),
            _ => 0,
        }
    }

    /// Breaks the connection: whoever waits for the file gets an error, now and for ever. The
    /// last resort against a tool that even a kill does not end.
    pub fn abandon(&self) {
        if let Some(Way::Fuse(served)) = &self.way {
            served.abandon(&self.room);
        }
    }

    /// Ends the export. Everything that was written has reached the disk when this returns `Ok`.
    ///
    /// # Errors
    /// Where a write was lost, the disk gave an error to a tool, or a tool still runs. The
    /// content of the disk is then not to be used.
    pub fn finish(mut self) -> io::Result<()> {
        self.room.settle(SETTLE)?;
        match self.way.take() {
            Some(Way::Fuse(served)) => served.finish(&self.room),
            Some(Way::Copy(copy)) => copy.write_back(),
            None => Ok(()),
        }
    }
}

impl Drop for Export {
    fn drop(&mut self) {
        self.abandon();
    }
}
