//! Holding the target, so that nothing mounts, probes or changes it while we work.
//!
//! A block device: `O_EXCL` on the node that will change, which the kernel's mounts, swap, device
//! mapper and the file systems' own tools respect; and a BSD lock on the whole disk's node, which
//! systemd-udevd and its tools respect. The other partitions of the disk may be mounted.
//!
//! An image: a BSD lock, which holdfast respects; and a lock of the open file description over
//! every byte, which QEMU and its tools respect: they test single bytes at offsets 100 to 103 and
//! 200 to 203 for a conflict with a write lock, so a read lock over all, which needs no writable
//! descriptor, keeps them out. Whether they are already in is asked by the same test. A loop
//! device respects none of these, so each is asked for its file.
//!
//! Nothing is opened for writing.

use std::fs::{File, TryLockError};
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, fcntl};

use super::mounts::read_bounded;
use super::survey::{DevNumber, Host, HostError, explain_busy, name_of};
use super::sys;
use crate::report::Refusal;
use crate::units::escape_bytes;

/// Between two tries for a lock.
const PAUSE: Duration = Duration::from_millis(50);
/// What our processes are called.
const OUR_NAME: &str = "holdfast";

/// The target, held until this is dropped.
#[derive(Debug)]
pub struct Hold {
    /// In the order of taking.
    _files: Vec<File>,
}

impl Hold {
    /// Holds a block device: `changing` is the node that will change (a partition, where there is
    /// one), `disk` the whole disk, which may be the same. A lock that somebody else has is
    /// waited for as long as `patience`: udev keeps one while it looks at a new device.
    ///
    /// # Errors
    /// [`HostError::Refused`] with `held` or `held-by-holdfast`, naming who where that can be
    /// told.
    pub fn device(
        host: &Host,
        changing: &Path,
        disk: &Path,
        patience: Duration,
    ) -> Result<Hold, HostError> {
        let locked = open(disk, 0)?;
        let number = block_number(&locked, disk)?;
        lock(host, &locked, disk, patience)?;
        let exclusive = match open(changing, libc::O_EXCL) {
            Err(e) if e.kind() == io::ErrorKind::ResourceBusy => {
                let number = host.block_number(changing).unwrap_or(number);
                return Err(busy(host, number, changing));
            }
            other => other?,
        };
        block_number(&exclusive, changing)?;
        Ok(Hold {
            _files: vec![locked, exclusive],
        })
    }

    /// Holds an image file.
    ///
    /// # Errors
    /// [`HostError::Refused`] with `held`, `held-by-holdfast`, `held-by-loop` or
    /// `held-by-emulator`.
    pub fn image(host: &Host, path: &Path, patience: Duration) -> Result<Hold, HostError> {
        let file = open(path, libc::O_NONBLOCK)?;
        if !file.metadata()?.is_file() {
            return Err(HostError::Io(io::Error::new(
                io::ErrorKind::InvalidInput,
                format!("{} is not a regular file", path.display()),
            )));
        }
        lock(host, &file, path, patience)?;
        if let Some(device) = loop_on(host, &file, path)? {
            let shown = escape_bytes(device.as_os_str().as_encoded_bytes());
            return Err(refused(
                "held-by-loop",
                format!("{} is behind the loop device {shown}.", shown_path(path)),
                &format!("Unmount what is on it, then: losetup -d {shown}"),
            ));
        }
        lock_bytes(&file, path)?;
        Ok(Hold { _files: vec![file] })
    }
}

fn open(path: &Path, flags: i32) -> io::Result<File> {
    File::options()
        .read(true)
        .custom_flags(flags | libc::O_NOCTTY)
        .open(path)
        .map_err(|e| io::Error::new(e.kind(), format!("holding {}: {e}", path.display())))
}

fn block_number(file: &File, path: &Path) -> io::Result<DevNumber> {
    let meta = file.metadata()?;
    if !meta.file_type().is_block_device() {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            format!("{} is not a block device", path.display()),
        ));
    }
    Ok(DevNumber::of(meta.rdev()))
}

/// Takes the BSD lock of `file`.
fn lock(host: &Host, file: &File, path: &Path, patience: Duration) -> Result<(), HostError> {
    let began = Instant::now();
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(()),
            Err(TryLockError::Error(e)) => {
                return Err(refused(
                    "cannot-lock",
                    format!("{} cannot be locked: {e}.", shown_path(path)),
                    "Move the image to a local file system.",
                ));
            }
            Err(TryLockError::WouldBlock) => {}
        }
        let owner = lock_owner(host, file);
        let ours = owner.as_ref().is_some_and(|o| o.1 == OUR_NAME);
        if ours || began.elapsed() >= patience {
            let who = owner.map_or("another process".into(), |(pid, name)| {
                format!("{name} (process {pid})")
            });
            return Err(refused(
                if ours { "held-by-holdfast" } else { "held" },
                format!("{} is locked by {who}.", shown_path(path)),
                "Wait until it has ended, or end it, and try again.",
            ));
        }
        std::thread::sleep(PAUSE);
    }
}

/// Who has a BSD lock on this file, from `/proc/locks`
/// (`1: FLOCK  ADVISORY  WRITE 1234 08:01:5678 0 EOF`).
fn lock_owner(host: &Host, file: &File) -> Option<(u32, String)> {
    let meta = file.metadata().ok()?;
    let device = DevNumber::of(meta.dev());
    let inode = format!("{:02x}:{:02x}:{}", device.major, device.minor, meta.ino());
    let text = read_bounded(&host.proc.join("locks")).ok()?;
    let text = String::from_utf8_lossy(&text);
    let pid = text.lines().find_map(|line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let held = fields.get(1) == Some(&"FLOCK") && fields.get(5) == Some(&inode.as_str());
        held.then(|| fields.get(4)?.parse().ok())?
    })?;
    Some((pid, name_of(&host.proc.join(pid.to_string()))))
}

fn busy(host: &Host, number: DevNumber, node: &Path) -> HostError {
    let why = explain_busy(host, number, node);
    let why = if why.is_empty() {
        "the kernel does not say by whom".into()
    } else {
        why
    };
    refused(
        "held",
        format!("{} is in exclusive use: {why}.", shown_path(node)),
        "Look at lsblk and at other mount name spaces (containers, services) for what uses it.",
    )
}

/// The loop device that has this file behind it. The kernel is asked for the inode; where a loop
/// device cannot be opened, the path in sysfs is compared.
fn loop_on(host: &Host, file: &File, path: &Path) -> Result<Option<PathBuf>, HostError> {
    let meta = file.metadata()?;
    let us = (meta.dev(), meta.ino());
    for name in host.links(&host.sys.join("block")) {
        let place = host.sys.join("block").join(&name);
        let Some(behind) = host.loop_file(&place) else {
            continue;
        };
        let node = host.dev.join(&name);
        let inode = File::open(&node).and_then(|device| sys::loop_backing(&device));
        let same = match inode {
            Ok(backing) => backing == Some(us),
            Err(_) => names_us(&behind, path, us),
        };
        if same {
            return Ok(Some(node));
        }
    }
    Ok(None)
}

/// Whether the path that a loop device remembers is that of our file. A file that was unlinked,
/// and has another name left, is remembered with ` (deleted)` after the name that it had.
fn names_us(behind: &Path, path: &Path, us: (u64, u64)) -> bool {
    let inode = |p: &Path| std::fs::metadata(p).ok().map(|m| (m.dev(), m.ino()));
    let bytes = behind.as_os_str().as_encoded_bytes();
    let deleted = bytes.strip_suffix(b" (deleted)").map(|b| {
        use std::os::unix::ffi::OsStrExt;
        PathBuf::from(std::ffi::OsStr::from_bytes(b))
    });
    inode(behind) == Some(us) || deleted.is_some_and(|d| inode(&d) == Some(us) || d == path)
}

/// Refuses where any lock of bytes stands in the way, and takes a read lock over all of them.
fn lock_bytes(file: &File, path: &Path) -> Result<(), HostError> {
    check_bytes(file, path)?;
    let all = whole_file(libc::F_RDLCK);
    match fcntl(file, FcntlArg::F_OFD_SETLK(&all)) {
        Ok(_) => {}
        Err(Errno::EAGAIN | Errno::EACCES) => return Err(locked_bytes(path, None)),
        Err(e) => {
            return Err(refused(
                "cannot-lock",
                format!("{} cannot be locked: {e}.", shown_path(path)),
                "Move the image to a local file system.",
            ));
        }
    }
    // Read locks do not exclude each other: who came between the test and the lock is seen now.
    check_bytes(file, path)
}

fn check_bytes(file: &File, path: &Path) -> Result<(), HostError> {
    let mut found = whole_file(libc::F_WRLCK);
    fcntl(file, FcntlArg::F_OFD_GETLK(&mut found)).map_err(|e| HostError::Io(e.into()))?;
    if i32::from(found.l_type) == libc::F_UNLCK {
        return Ok(());
    }
    Err(locked_bytes(path, u32::try_from(found.l_pid).ok()))
}

fn locked_bytes(path: &Path, pid: Option<u32>) -> HostError {
    let who = pid.map_or(String::new(), |p| format!(" (process {p})"));
    refused(
        "held-by-emulator",
        format!(
            "{} is in use by a program that locks parts of it{who}, as QEMU does for a running \
             machine.",
            shown_path(path)
        ),
        "Shut the virtual machine down, or detach the image from it.",
    )
}

fn whole_file(kind: i32) -> libc::flock {
    libc::flock {
        l_type: kind as libc::c_short,
        l_whence: libc::SEEK_SET as libc::c_short,
        l_start: 0,
        l_len: 0,
        l_pid: 0,
    }
}

fn shown_path(path: &Path) -> String {
    escape_bytes(path.as_os_str().as_encoded_bytes())
}

fn refused(code: &str, message: String, hint: &str) -> HostError {
    HostError::Refused(Refusal::new(code, message, hint))
}
