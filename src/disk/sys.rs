//! The calls into the kernel that have no safe wrapper elsewhere. With `mounted.rs` and
//! `harden.rs` the only `unsafe` in the crate.
//!
//! Each wrapper takes a [`File`], so the descriptor is open while the call runs, and owns the
//! memory that the kernel writes to. Numbers and structures are those of `linux/fs.h`,
//! `linux/blkpg.h`, `linux/loop.h` and `linux/stat.h`.

#![allow(unsafe_code)]

use std::fs::File;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::AsRawFd;

use libc::{c_int, c_longlong, c_uint, c_void};

use crate::extent::Extent;

/// The generated functions, unsafe and undocumented.
mod raw {
    use super::{LoopInfo, PartitionCall};

    // BLKGETSIZE64 is declared with `size_t`, and writes a u64 whatever the size of that is.
    nix::ioctl_read_bad!(
        size64,
        nix::request_code_read!(0x12, 114, size_of::<usize>()),
        u64
    );
    nix::ioctl_read_bad!(
        logical_sector,
        nix::request_code_none!(0x12, 104),
        libc::c_int
    );
    nix::ioctl_read_bad!(
        physical_sector,
        nix::request_code_none!(0x12, 123),
        libc::c_uint
    );
    nix::ioctl_none!(flush_buffers, 0x12, 97);
    nix::ioctl_write_ptr_bad!(partition, nix::request_code_none!(0x12, 105), PartitionCall);
    nix::ioctl_read_bad!(loop_status, 0x4C05, LoopInfo);
}

/// `struct blkpg_ioctl_arg`.
#[repr(C)]
pub struct PartitionCall {
    op: c_int,
    flags: c_int,
    datalen: c_int,
    data: *mut c_void,
}

/// `struct blkpg_partition`; start and length in bytes.
#[repr(C)]
struct PartitionArgument {
    start: c_longlong,
    length: c_longlong,
    number: c_int,
    device_name: [u8; 64],
    volume_name: [u8; 64],
}

const BLKPG_RESIZE_PARTITION: c_int = 3;

/// `struct loop_info64`.
#[repr(C)]
pub struct LoopInfo {
    device: u64,
    inode: u64,
    rdevice: u64,
    offset: u64,
    size_limit: u64,
    number: u32,
    encrypt_type: u32,
    encrypt_key_size: u32,
    flags: u32,
    file_name: [u8; 64],
    crypt_name: [u8; 64],
    encrypt_key: [u8; 32],
    init: [u64; 2],
}

const _: () = assert!(size_of::<LoopInfo>() == 232);

impl LoopInfo {
    pub(super) fn set_flags(&mut self, flags: u32) {
        self.flags = flags;
    }
}

/// Length of a block device in bytes (`BLKGETSIZE64`).
pub fn device_len_bytes(device: &File) -> io::Result<u64> {
    let mut len_bytes = 0u64;
    // SAFETY: the descriptor is open, and the kernel writes exactly one u64.
    unsafe { raw::size64(device.as_raw_fd(), &mut len_bytes) }?;
    Ok(len_bytes)
}

/// Logical sector of a block device in bytes (`BLKSSZGET`).
pub fn logical_sector_bytes(device: &File) -> io::Result<u32> {
    let mut bytes: c_int = 0;
    // SAFETY: the descriptor is open, and the kernel writes exactly one int.
    unsafe { raw::logical_sector(device.as_raw_fd(), &mut bytes) }?;
    u32::try_from(bytes).map_err(|_| io::Error::from(io::ErrorKind::InvalidData))
}

/// Physical sector of a block device in bytes (`BLKPBSZGET`).
pub fn physical_sector_bytes(device: &File) -> io::Result<u32> {
    let mut bytes: c_uint = 0;
    // SAFETY: the descriptor is open, and the kernel writes exactly one unsigned int.
    unsafe { raw::physical_sector(device.as_raw_fd(), &mut bytes) }?;
    Ok(bytes)
}

/// Writes back what the page cache of this node holds, and drops it (`BLKFLSBUF`).
pub fn flush_buffers(device: &File) -> io::Result<()> {
    // SAFETY: the descriptor is open; the call takes no argument.
    unsafe { raw::flush_buffers(device.as_raw_fd()) }?;
    Ok(())
}

/// Tells the kernel where partition `number` of `disk` now lies (`BLKPG_RESIZE_PARTITION`).
///
/// The start must be the one that the kernel knows. `InvalidInput` where a number does not fit.
pub fn resize_partition(disk: &File, number: u32, extent: Extent) -> io::Result<()> {
    let invalid = |_| io::Error::from(io::ErrorKind::InvalidInput);
    let mut argument = PartitionArgument {
        start: c_longlong::try_from(extent.start).map_err(invalid)?,
        length: c_longlong::try_from(extent.len).map_err(invalid)?,
        number: c_int::try_from(number).map_err(invalid)?,
        device_name: [0; 64],
        volume_name: [0; 64],
    };
    let call = PartitionCall {
        op: BLKPG_RESIZE_PARTITION,
        flags: 0,
        datalen: size_of::<PartitionArgument>() as c_int,
        data: (&raw mut argument).cast(),
    };
    // SAFETY: the descriptor is open; `call` and the `argument` that it points to have the
    // kernel's layout and live until the call has returned, which keeps no pointer to them.
    unsafe { raw::partition(disk.as_raw_fd(), &call) }?;
    Ok(())
}

/// Device and inode of the file behind a loop device (`LOOP_GET_STATUS64`), which names the file
/// where its path no longer does. `None` where the device is not set up.
pub fn loop_backing(device: &File) -> io::Result<Option<(u64, u64)>> {
    let mut info = MaybeUninit::<LoopInfo>::zeroed();
    // SAFETY: the descriptor is open, and the kernel writes one `loop_info64`, whose size is
    // asserted above.
    match unsafe { raw::loop_status(device.as_raw_fd(), info.as_mut_ptr()) } {
        Ok(_) => {
            // SAFETY: zeroed before the call; every bit pattern is a valid `LoopInfo`.
            let info = unsafe { info.assume_init() };
            Ok(Some((info.device, info.inode)))
        }
        Err(nix::errno::Errno::ENXIO) => Ok(None),
        Err(e) => Err(e.into()),
    }
}

/// What a file asks of direct reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DirectAlignment {
    /// The kernel or the file system does not say (before Linux 6.1).
    Unknown,
    /// There are no direct reads on this file.
    Unsupported,
    /// Memory and offsets must be multiples of this.
    Bytes(u64),
}

/// Asks what direct reads of `file` must be aligned to (`statx`, `STATX_DIOALIGN`).
#[cfg(target_env = "gnu")]
pub fn direct_alignment(file: &File) -> DirectAlignment {
    let mut info = MaybeUninit::<libc::statx>::zeroed();
    // SAFETY: the descriptor is open, the path is a terminated empty string, and the kernel
    // writes one `statx`.
    let status = unsafe {
        libc::statx(
            file.as_raw_fd(),
            c"".as_ptr(),
            libc::AT_EMPTY_PATH,
            libc::STATX_DIOALIGN,
            info.as_mut_ptr(),
        )
    };
    if status != 0 {
        return DirectAlignment::Unknown;
    }
    // SAFETY: zeroed before the call; every bit pattern is a valid `statx`.
    let info = unsafe { info.assume_init() };
    if info.stx_mask & libc::STATX_DIOALIGN == 0 {
        return DirectAlignment::Unknown;
    }
    match info.stx_dio_mem_align.max(info.stx_dio_offset_align) {
        0 => DirectAlignment::Unsupported,
        bytes => DirectAlignment::Bytes(u64::from(bytes)),
    }
}

/// Other C libraries lack the fields: the caller falls back to a safe alignment.
#[cfg(not(target_env = "gnu"))]
pub fn direct_alignment(_: &File) -> DirectAlignment {
    DirectAlignment::Unknown
}
