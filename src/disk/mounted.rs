//! Loop devices, and what only a mounted file system can be asked. Beside `sys.rs` and `harden.rs`
//! the only `unsafe` in the crate.
//!
//! Each wrapper takes a descriptor that is open while the call runs, and owns the memory that the
//! kernel writes to. Numbers and structures are those of `linux/loop.h`, `linux/fs.h`,
//! `linux/btrfs.h`, and `xfs_fs.h` of xfsprogs.

#![allow(unsafe_code)]

use std::fs::{File, OpenOptions};
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::FileTypeExt;
use std::path::PathBuf;
use std::thread::sleep;
use std::time::Duration;

use libc::c_char;
use nix::errno::Errno;

use super::sys::LoopInfo;

/// The generated functions, unsafe and undocumented.
mod raw {
    use super::{BtrfsArguments, FileFlags, LoopConfig, XfsGeometry, XfsGrowth};

    nix::ioctl_none_bad!(free_loop, 0x4C82);
    nix::ioctl_none_bad!(detach_loop, 0x4C01);
    nix::ioctl_write_ptr_bad!(configure_loop, 0x4C0A, LoopConfig);
    nix::ioctl_read!(xfs_geometry, b'X', 100, XfsGeometry);
    nix::ioctl_write_ptr!(xfs_grow, b'X', 110, XfsGrowth);
    nix::ioctl_read!(file_flags, b'X', 31, FileFlags);
    nix::ioctl_write_ptr!(btrfs_resize, 0x94, 3, BtrfsArguments);
    nix::ioctl_write_ptr!(btrfs_forget, 0x94, 5, BtrfsArguments);
}

/// `struct loop_config`.
#[repr(C)]
pub struct LoopConfig {
    descriptor: u32,
    block_bytes: u32,
    info: LoopInfo,
    reserved: [u64; 8],
}

const _: () = assert!(size_of::<LoopConfig>() == 304);

/// `struct xfs_fsop_geom_v1`.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct XfsGeometry {
    /// Block size.
    pub block_bytes: u32,
    realtime_extent: u32,
    /// Blocks of an allocation group.
    pub group_blocks: u32,
    /// Allocation groups.
    pub groups: u32,
    log_blocks: u32,
    sector_bytes: u32,
    inode_bytes: u32,
    /// The part of the space that inodes may take, in percent.
    pub inode_percent: u32,
    /// Blocks of the data section.
    pub blocks: u64,
    realtime: [u64; 2],
    log_start: u64,
    uuid: [u8; 16],
    rest: [u32; 7],
}

const _: () = assert!(size_of::<XfsGeometry>() == 112);

/// `struct xfs_growfs_data`.
#[repr(C)]
pub struct XfsGrowth {
    blocks: u64,
    inode_percent: u32,
}

/// `struct fsxattr`.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct FileFlags {
    /// `FS_XFLAG_*`.
    pub flags: u32,
    /// Extent size hint.
    pub extent_size: u32,
    extents: u32,
    /// Project of a quota.
    pub project: u32,
    /// The hint for copy-on-write.
    pub cow_extent_size: u32,
    pad: [u8; 8],
}

const _: () = assert!(size_of::<FileFlags>() == 28);

/// `struct btrfs_ioctl_vol_args`.
#[repr(C)]
pub struct BtrfsArguments {
    descriptor: i64,
    name: [c_char; 4088],
}

impl BtrfsArguments {
    fn new(name: &str) -> io::Result<BtrfsArguments> {
        let mut arguments = BtrfsArguments {
            descriptor: 0,
            name: [0; 4088],
        };
        // The last byte stays 0.
        if name.len() >= arguments.name.len() {
            return Err(Errno::ENAMETOOLONG.into());
        }
        for (place, byte) in arguments.name.iter_mut().zip(name.bytes()) {
            *place = byte.cast_signed();
        }
        Ok(arguments)
    }
}

const LOOP_READ_ONLY: u32 = 1;
const LOOP_AUTOCLEAR: u32 = 4;
const LOOP_DIRECT_IO: u32 = 16;

/// How often somebody else may take the free device first.
const TRIES: usize = 200;

/// A loop device. The kernel detaches it by itself when its last user has ended, however.
#[derive(Debug)]
pub struct LoopDevice {
    /// Its node.
    pub node: PathBuf,
    device: File,
}

impl LoopDevice {
    /// Attaches the first free device to `file`. It is locked, as long as this lives, against udev:
    /// that would look at it, tell btrfs of it, and point `/dev/disk/by-uuid` to it.
    ///
    /// # Errors
    /// `NotFound` where the host has no loop devices, `PermissionDenied` without privilege.
    pub fn attach(file: &File, read_only: bool, block_bytes: u32) -> io::Result<LoopDevice> {
        let named = |e: io::Error, what: &str| io::Error::new(e.kind(), format!("{what}: {e}"));
        let control = OpenOptions::new()
            .read(true)
            .write(true)
            .open("/dev/loop-control")
            .map_err(|e| named(e, "opening /dev/loop-control"))?;
        for _ in 0..TRIES {
            // SAFETY: the descriptor is open; the call takes no argument.
            let number = unsafe { raw::free_loop(control.as_raw_fd()) }
                .map_err(|e| named(e.into(), "asking for a free loop device"))?;
            let node = PathBuf::from(format!("/dev/loop{number}"));
            let device = OpenOptions::new()
                .read(true)
                .write(!read_only)
                .open(&node)
                .map_err(|e| named(e, &format!("opening {}", node.display())))?;
            if !device.metadata()?.file_type().is_block_device() {
                return Err(named(Errno::ENOTBLK.into(), &node.to_string_lossy()));
            }
            if device.try_lock().is_ok() {
                match configure(&device, file, read_only, block_bytes) {
                    Ok(()) => return Ok(LoopDevice { node, device }),
                    Err(Errno::EBUSY) => {}
                    Err(e) => return Err(named(e.into(), "attaching a loop device")),
                }
            }
            sleep(Duration::from_millis(10));
        }
        Err(named(Errno::EBUSY.into(), "attaching a loop device"))
    }

    /// Asks the kernel to let go of the file now.
    ///
    /// # Errors
    /// The kernel's.
    pub fn detach(self) -> io::Result<()> {
        // SAFETY: the descriptor is open; the call takes no argument.
        unsafe { raw::detach_loop(self.device.as_raw_fd()) }?;
        Ok(())
    }
}

fn configure(device: &File, file: &File, read_only: bool, block_bytes: u32) -> Result<(), Errno> {
    let mut flags = LOOP_AUTOCLEAR | LOOP_DIRECT_IO;
    if read_only {
        flags |= LOOP_READ_ONLY;
    }
    // SAFETY: every field is a number or an array of numbers, for which zeros are valid.
    let mut config: LoopConfig = unsafe { MaybeUninit::zeroed().assume_init() };
    config.descriptor = file.as_raw_fd().cast_unsigned();
    config.block_bytes = block_bytes;
    config.info.set_flags(flags);
    // SAFETY: both descriptors are open; `config` has the kernel's layout, its size is asserted
    // above, and it lives until the call has returned.
    unsafe { raw::configure_loop(device.as_raw_fd(), &config) }?;
    Ok(())
}

/// The geometry of a mounted XFS (`XFS_IOC_FSGEOMETRY_V1`).
///
/// # Errors
/// The kernel's.
pub fn xfs_geometry(root: impl AsFd) -> io::Result<XfsGeometry> {
    let mut geometry = MaybeUninit::<XfsGeometry>::zeroed();
    // SAFETY: the descriptor is open, and the kernel writes one structure, whose size is asserted
    // above.
    unsafe { raw::xfs_geometry(root.as_fd().as_raw_fd(), geometry.as_mut_ptr()) }?;
    // SAFETY: zeroed before the call; every bit pattern is valid.
    Ok(unsafe { geometry.assume_init() })
}

/// Grows the data section of a mounted XFS (`XFS_IOC_FSGROWFSDATA`).
///
/// # Errors
/// The kernel's.
pub fn xfs_grow(root: impl AsFd, blocks: u64, inode_percent: u32) -> io::Result<()> {
    let growth = XfsGrowth {
        blocks,
        inode_percent,
    };
    // SAFETY: the descriptor is open; `growth` has the kernel's layout and outlives the call.
    unsafe { raw::xfs_grow(root.as_fd().as_raw_fd(), &growth) }?;
    Ok(())
}

/// Resizes device 1 of a mounted btrfs (`BTRFS_IOC_RESIZE`).
///
/// # Errors
/// The kernel's.
pub fn btrfs_resize(root: impl AsFd, bytes: u64) -> io::Result<()> {
    let arguments = BtrfsArguments::new(&format!("1:{bytes}"))?;
    // SAFETY: the descriptor is open; `arguments` has the kernel's layout and outlives the call.
    unsafe { raw::btrfs_resize(root.as_fd().as_raw_fd(), &arguments) }?;
    Ok(())
}

/// Makes btrfs forget a device that is not mounted (`BTRFS_IOC_FORGET_DEV`). Not an error where it
/// does not know it, or where there is no btrfs.
///
/// # Errors
/// `ResourceBusy` where it is mounted.
pub fn btrfs_forget(node: &str) -> io::Result<()> {
    let opened = OpenOptions::new()
        .read(true)
        .write(true)
        .open("/dev/btrfs-control");
    let control = match opened {
        Ok(control) => control,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(e) => return Err(e),
    };
    let arguments = BtrfsArguments::new(node)?;
    // SAFETY: the descriptor is open; `arguments` has the kernel's layout and outlives the call.
    match unsafe { raw::btrfs_forget(control.as_raw_fd(), &arguments) } {
        Ok(_) | Err(Errno::ENOENT) => Ok(()),
        Err(e) => Err(e.into()),
    }
}

/// Flags and project of a file or directory (`FS_IOC_FSGETXATTR`). `None` where the file system
/// has none.
///
/// # Errors
/// The kernel's.
pub fn file_flags(file: impl AsFd) -> io::Result<Option<FileFlags>> {
    let mut found = MaybeUninit::<FileFlags>::zeroed();
    // SAFETY: the descriptor is open, and the kernel writes one structure, whose size is asserted
    // above.
    match unsafe { raw::file_flags(file.as_fd().as_raw_fd(), found.as_mut_ptr()) } {
        // SAFETY: zeroed before the call; every bit pattern is valid.
        Ok(_) => Ok(Some(unsafe { found.assume_init() })),
        Err(Errno::ENOTTY | Errno::EOPNOTSUPP) => Ok(None),
        Err(e) => Err(e.into()),
    }
}
