//! The same room for an ordinary user, in a user namespace. Such a namespace must be entered before
//! there is a second thread, so this test has a `main` of its own.
//!
//! Started as root it starts itself again as an ordinary user.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod support;

use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, ExitCode};
use std::sync::Arc;

use holdfast::disk::{MemoryDisk, read_vec};
use holdfast::export::{Export, How, Setup, enter_user_namespace};
use holdfast::extent::{Extent, ExtentMap};
use holdfast::fs::tool::Tools;
use holdfast::overlay::Overlay;
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use nix::sys::stat::{Mode, SFlag, makedev, mknod};
use nix::unistd::geteuid;
use support::{FAKE, Wired, write_program};

const NOBODY: u32 = 65_534;

fn main() -> ExitCode {
    if geteuid().is_root() {
        return as_nobody();
    }
    let before = geteuid();
    if let Err(e) = enter_user_namespace() {
        eprintln!("FAILED: this host has no user namespaces for ordinary users: {e}");
        return ExitCode::FAILURE;
    }
    assert_eq!(geteuid(), before, "who we are has not changed");
    tool_in_a_room(How::Copy);
    tool_in_a_room(How::Fuse);
    println!("ok: a copy, and FUSE");
    ExitCode::SUCCESS
}

/// The test again, from a place that everybody can read.
fn as_nobody() -> ExitCode {
    let place = tempfile::tempdir_in("/var/tmp").unwrap();
    open_fuse_for_all(place.path());
    let program = place.path().join("export_user");
    std::fs::copy(std::env::current_exe().unwrap(), &program).unwrap();
    support::run(
        Command::new("chmod")
            .arg("-R")
            .arg("a+rx")
            .arg(place.path()),
    );
    let status = Command::new(&program)
        .current_dir("/")
        .uid(NOBODY)
        .gid(NOBODY)
        .status()
        .unwrap();
    if status.success() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

/// In a mount namespace of our own, `/dev/fuse` is for everybody, as on a desktop.
fn open_fuse_for_all(place: &Path) {
    unshare(CloneFlags::CLONE_NEWNS).unwrap();
    let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
    mount(None::<&str>, "/", None::<&str>, private, None::<&str>).unwrap();
    let node = place.join("fuse");
    let rights = Mode::from_bits_truncate(0o666);
    mknod(&node, SFlag::S_IFCHR, rights, makedev(10, 229)).unwrap();
    std::fs::set_permissions(&node, std::fs::Permissions::from_mode(0o666)).unwrap();
    let bind = MsFlags::MS_BIND;
    mount(Some(&node), "/dev/fuse", None::<&str>, bind, None::<&str>).unwrap();
}

fn tool_in_a_room(how: How) {
    let dir = tempfile::tempdir_in("/var/tmp").unwrap();
    let victim = dir.path().join("victim");
    std::fs::write(&victim, "precious").unwrap();
    let scratch = dir.path().join("scratch");
    std::fs::create_dir(&scratch).unwrap();
    let script = format!(
        r#"echo bad 2>/dev/null > {victim} || echo safe
        mount -t tmpfs none /tmp 2>/dev/null || echo no mount
        kill -0 {pid} 2>/dev/null || echo no process
        (sleep 8181 &)
        printf abc | dd of="$1" bs=1 seek=4097 conv=notrunc 2>/dev/null && echo wrote"#,
        victim = victim.display(),
        pid = std::process::id(),
    );
    let dirs = write_program(dir.path(), "fake", &script);
    let base = Arc::new(MemoryDisk::fixed(vec![b'x'; 8192]));
    let spill = tempfile::tempfile_in(dir.path()).unwrap();
    let overlay = Arc::new(Overlay::new(base, 8192, spill).unwrap());
    let setup = Setup {
        scratch: &scratch,
        programs: &dirs,
        used: &ExtentMap::from_iter([Extent::new(0, 8192)]),
        how,
    };
    let export = Export::new(overlay.clone(), setup).unwrap();
    let wired = Wired(&export);
    let tools = Tools::new(&wired).with_dirs(dirs);
    let outcome = tools.run(FAKE, &[export.path().as_os_str()]).unwrap();
    assert_eq!(outcome.output, "safe\nno mount\nno process\nwrote\n");
    assert_eq!(support::host_processes("sleep 8181"), 0);
    export.finish().unwrap();
    assert_eq!(read_vec(&*overlay, 4096, 5).unwrap(), b"xabcx");
    assert_eq!(std::fs::read_to_string(&victim).unwrap(), "precious");
    assert!(Path::new(&scratch).read_dir().unwrap().next().is_none());
}
