//! Takes from a process that is about to start all that it does not need. With `disk/sys.rs` and
//! `disk/mounted.rs` the only `unsafe` in the crate.
#![allow(unsafe_code)]

use std::io;
use std::os::unix::process::CommandExt;
use std::process::Command;

use nix::errno::Errno;
use nix::sys::prctl;
use nix::sys::signal::Signal;

/// Layout and version of `capset(2)`, from `linux/capability.h`.
const CAPABILITY_VERSION_3: u32 = 0x2008_0522;

/// As many capabilities as the kernel's interface can ever name.
const CAPABILITIES: libc::c_ulong = 64;

#[repr(C)]
struct CapabilityHeader {
    version: u32,
    pid: i32,
}

#[repr(C)]
#[derive(Clone, Copy, Default)]
struct CapabilityData {
    effective: u32,
    permitted: u32,
    inheritable: u32,
}

/// Takes from the process that `command` will start all that a file-system tool does not need:
/// capabilities, the way to new ones, the terminal, descriptors. It dies with the thread that
/// starts it, and it leads a session of its own, whose id is its process id.
pub fn harden(command: &mut Command) {
    // SAFETY: `give_up` runs between fork and exec in a copy of a process that may have had other
    // threads, so it may only make system calls: it takes no lock and no memory.
    unsafe {
        command.pre_exec(give_up);
    }
}

/// The same for the process of our own that mounts: it keeps what a mount, and reading every file
/// in it, needs.
pub fn harden_mounter(command: &mut Command) {
    // SAFETY: as in `harden`.
    unsafe {
        command.pre_exec(keep_mounting);
    }
}

/// From `linux/capability.h`: CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH, CAP_SYS_ADMIN,
/// CAP_SYS_RESOURCE.
const MOUNTING: [libc::c_ulong; 4] = [1, 2, 21, 24];

fn keep_mounting() -> io::Result<()> {
    prctl::set_pdeathsig(Signal::SIGKILL)?;
    nix::unistd::setsid()?;
    prctl::set_no_new_privs()?;
    drop_bounding(&MOUNTING);
    close_on_exec();
    Ok(())
}

/// Says whether this thread, and those that it starts, serve a disk that the kernel may need in
/// order to free memory. Memory that such a thread asks for is then found without waiting for a
/// disk, and so not for itself. Needs CAP_SYS_RESOURCE; without it nothing changes.
pub fn serve_disk(yes: bool) {
    /// From `linux/prctl.h`.
    const PR_SET_IO_FLUSHER: libc::c_int = 57;
    let yes = libc::c_ulong::from(yes);
    // SAFETY: it takes numbers and touches no memory.
    unsafe { libc::prctl(PR_SET_IO_FLUSHER, yes, 0, 0, 0) };
}

/// Keeps what this process has in memory there, as far as it may: whoever serves a disk must not
/// wait for a page of its own program.
pub fn stay_in_memory() {
    // SAFETY: it takes a number and touches no memory.
    unsafe { libc::mlockall(libc::MCL_CURRENT | libc::MCL_FUTURE | libc::MCL_ONFAULT) };
}

fn give_up() -> io::Result<()> {
    prctl::set_pdeathsig(Signal::SIGKILL)?;
    // Without a terminal there is nothing to push input into, and Ctrl-C reaches us alone.
    nix::unistd::setsid()?;
    prctl::set_no_new_privs()?;
    drop_capabilities()?;
    close_on_exec();
    Ok(())
}

/// Without the bounding set, user 0 gets nothing back when it executes a program.
fn drop_bounding(but: &[libc::c_ulong]) {
    for capability in (0..CAPABILITIES).filter(|c| !but.contains(c)) {
        // SAFETY: PR_CAPBSET_DROP takes a number and touches no memory. EINVAL says that there
        // are no more; EPERM that we have no privilege to give up.
        if unsafe { libc::prctl(libc::PR_CAPBSET_DROP, capability, 0, 0, 0) } != 0 {
            break;
        }
    }
}

fn drop_capabilities() -> io::Result<()> {
    drop_bounding(&[]);
    let header = CapabilityHeader {
        version: CAPABILITY_VERSION_3,
        pid: 0,
    };
    let none = [CapabilityData::default(); 2];
    // SAFETY: version 3 reads one header and two data records, which both live here.
    let done = unsafe { libc::syscall(libc::SYS_capset, &raw const header, none.as_ptr()) };
    Errno::result(done)?;
    Ok(())
}

/// What another library opened without `O_CLOEXEC` is not the tool's business. Descriptors stay
/// open until exec: one of them carries a failed exec back.
fn close_on_exec() {
    let flag = libc::CLOSE_RANGE_CLOEXEC;
    // SAFETY: close_range takes three numbers. Kernels before 5.11 answer ENOSYS or EINVAL; our
    // own descriptors are all O_CLOEXEC.
    unsafe { libc::syscall(libc::SYS_close_range, 3, libc::c_uint::MAX, flag) };
}
