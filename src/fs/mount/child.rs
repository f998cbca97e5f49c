//! The process that mounts: our own program, started with the hidden first argument.
//!
//! Standard input is the file that the overlay is served as. What a walk tells goes to standard
//! output, what went wrong to standard error. It starts on the host, where the loop devices are,
//! and attaches nothing to any name.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, BufWriter, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::process::ExitCode;

use nix::sched::{CloneFlags, unshare};
use rustix::fs::{Mode, OFlags};
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, fsconfig_create, fsconfig_set_flag,
    fsconfig_set_string, fsmount, fsopen,
};

use super::{ARGUMENT, Job, Kind, Work, entry, walk};
use crate::disk::mounted::{self, LoopDevice};

/// The exit code where this user may not do it.
pub(super) const NO_PRIVILEGE: i32 = 3;

/// The exit code where this host cannot do it.
pub(super) const UNAVAILABLE: i32 = 4;

/// Why a job was not done.
enum Failure {
    /// This host or this user cannot do it, whatever the file system.
    Host(io::Error),
    /// It failed.
    Job(io::Error),
}

impl From<io::Error> for Failure {
    fn from(e: io::Error) -> Failure {
        Failure::Job(e)
    }
}

impl From<rustix::io::Errno> for Failure {
    fn from(e: rustix::io::Errno) -> Failure {
        Failure::Job(e.into())
    }
}

/// Does a job, where the command line is that of one. To be called before anything else.
pub fn main() -> Option<ExitCode> {
    let mut args = std::env::args_os().skip(1);
    if args.next()? != ARGUMENT {
        return None;
    }
    let args: Vec<OsString> = args.collect();
    let (code, what) = match Job::from_args(&args).map(|job| done(&job)) {
        Some(Ok(())) => return Some(ExitCode::SUCCESS),
        Some(Err(Failure::Job(e))) => (1, e.to_string()),
        Some(Err(Failure::Host(e))) if e.kind() == io::ErrorKind::PermissionDenied => {
            (NO_PRIVILEGE, e.to_string())
        }
        Some(Err(Failure::Host(e))) => (UNAVAILABLE, e.to_string()),
        None => (2, "this is for Holdfast itself alone".into()),
    };
    let _ = writeln!(io::stderr(), "{what}");
    Some(ExitCode::from(code as u8))
}

fn done(job: &Job) -> Result<(), Failure> {
    // Nothing here needs a network or what other processes share.
    unshare(CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWIPC)
        .map_err(|e| Failure::Host(named(e.into(), "leaving the host's namespaces")))?;
    let file = File::from(io::stdin().as_fd().try_clone_to_owned()?);
    let mut options = job.options.clone();
    if job.kind == Kind::Xfs {
        options.extend(xfs_quotas(&file)?);
    }
    let job = &Job {
        options,
        ..job.clone()
    };
    let device =
        LoopDevice::attach(&file, job.reads_only(), job.sector_bytes).map_err(Failure::Host)?;
    drop(file);
    let node = device.node.to_string_lossy().into_owned();
    let result = mounted_on(&node, job);
    if job.kind == Kind::Btrfs {
        // Kernels before 6.2 keep it in mind, and its UUID with it.
        let _ = mounted::btrfs_forget(&node);
    }
    let detached = device.detach();
    result?;
    Ok(detached?)
}

fn mounted_on(node: &str, job: &Job) -> Result<(), Failure> {
    let mount = mount(node, job)?;
    // What holds a mount is no open directory: nothing can be asked of it.
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let root = rustix::fs::openat(&mount, ".", flags, Mode::empty())?;
    let worked = work(&root, job);
    if !job.reads_only() {
        // Barrier: what the kernel could not write must be heard of, and an unmount tells nobody.
        let synced = rustix::fs::syncfs(&root);
        worked?;
        synced.map_err(|e| named(e.into(), "writing to the mounted file system"))?;
    } else {
        worked?;
    }
    drop(root);
    // The last descriptor: this unmounts.
    drop(mount);
    Ok(())
}

fn mount(node: &str, job: &Job) -> Result<OwnedFd, Failure> {
    let (name, both, reading): (_, &[&str], &[&str]) = match job.kind {
        Kind::Xfs => ("xfs", &["nouuid"], &["norecovery"]),
        Kind::Btrfs => ("btrfs", &["skip_balance", "nodiscard"], &["rescue"]),
    };
    let context = fsopen(name, FsOpenFlags::FSOPEN_CLOEXEC)
        .map_err(|e| Failure::Host(named(e.into(), &format!("the kernel's {name}"))))?;
    let set = || -> Result<OwnedFd, rustix::io::Errno> {
        fsconfig_set_string(&context, "source", node)?;
        let mut attributes = MountAttrFlags::MOUNT_ATTR_NOSUID
            | MountAttrFlags::MOUNT_ATTR_NODEV
            | MountAttrFlags::MOUNT_ATTR_NOEXEC
            | MountAttrFlags::MOUNT_ATTR_NOATIME;
        if job.kind == Kind::Btrfs {
            fsconfig_set_string(&context, "subvolid", "5")?;
        }
        for option in both.iter().chain(&job.options) {
            fsconfig_set_flag(&context, *option)?;
        }
        if job.reads_only() {
            fsconfig_set_flag(&context, "ro")?;
            for option in reading {
                match *option {
                    "rescue" => fsconfig_set_string(&context, "rescue", "nologreplay")?,
                    option => fsconfig_set_flag(&context, option)?,
                }
            }
            attributes |= MountAttrFlags::MOUNT_ATTR_RDONLY;
        }
        fsconfig_create(&context)?;
        fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, attributes)
    };
    set().map_err(|e| {
        let said = said_by_kernel(&context);
        let what = format!("mounting it: {said}{e}");
        Failure::Job(io::Error::new(io::Error::from(e).kind(), what))
    })
}

/// What the kernel says about a mount that failed.
fn said_by_kernel(context: &OwnedFd) -> String {
    let Ok(mut log) = context.try_clone().map(File::from) else {
        return String::new();
    };
    let (mut said, mut line) = (String::new(), [0; 1024]);
    // The kernel keeps a handful of lines, one for each read.
    for _ in 0..16 {
        match log.read(&mut line) {
            Ok(count) if count > 0 => {
                said.push_str(String::from_utf8_lossy(&line[..count]).trim_end());
                said.push_str("; ");
            }
            _ => break,
        }
    }
    said
}

fn work(root: &OwnedFd, job: &Job) -> Result<(), Failure> {
    match job.work {
        Work::Replay => Ok(()),
        Work::XfsGrow { bytes } => Ok(xfs_grow(root, bytes)?),
        Work::BtrfsResize { bytes } => Ok(mounted::btrfs_resize(root, bytes)
            .map_err(|e| named(e, "resizing the mounted file system"))?),
        Work::Walk => {
            let mut out = BufWriter::with_capacity(1 << 16, io::stdout().lock());
            let records = walk::walk(root.as_fd(), &mut out)?;
            entry::write_end(&mut out, records)?;
            Ok(out.flush()?)
        }
    }
}

/// The quotas that are on. A mount that does not ask for them turns them off for good.
fn xfs_quotas(file: &File) -> io::Result<Vec<&'static str>> {
    let mut flags = [0; 2];
    file.read_exact_at(&mut flags, 176)?;
    let flags = u16::from_be_bytes(flags);
    let kinds = [
        (0x1, 0x2, "uquota", "uqnoenforce"),
        (0x40, 0x80, "gquota", "gqnoenforce"),
        (0x8, 0x200, "pquota", "pqnoenforce"),
    ];
    let on = kinds
        .iter()
        .filter(|(accounted, ..)| flags & accounted != 0);
    Ok(on
        .map(|&(_, enforced, with, without)| match flags & enforced {
            0 => without,
            _ => with,
        })
        .collect())
}

fn xfs_grow(root: &OwnedFd, bytes: u64) -> io::Result<()> {
    let now = mounted::xfs_geometry(root)?;
    let blocks = bytes / u64::from(now.block_bytes.max(1));
    if blocks < now.blocks {
        return Err(io::Error::other(format!(
            "it has {} blocks, and XFS does not shrink to {blocks}",
            now.blocks
        )));
    }
    if blocks > now.blocks {
        mounted::xfs_grow(root, blocks, now.inode_percent)
            .map_err(|e| named(e, "growing the mounted file system"))?;
    }
    let after = mounted::xfs_geometry(root)?.blocks;
    match after == blocks {
        true => Ok(()),
        false => Err(io::Error::other(format!(
            "the kernel made it {after} blocks large instead of {blocks}"
        ))),
    }
}

fn named(e: io::Error, what: &str) -> io::Error {
    io::Error::new(e.kind(), format!("{what}: {e}"))
}
