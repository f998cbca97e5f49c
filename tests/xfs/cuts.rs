//! P3 for XFS: the program is killed at writes and flushes of the apply, and again inside the
//! recovery. Meanwhile nobody gets in; afterwards the target is one of its two ends.

use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::Command;

use holdfast::fs::{GateState, driver};

use super::bed::{Bed, MOST, copy, template, text, workspace};
use super::image::sh;
use super::{account, assert_grown, is_root, rows};

/// Kills the main thread, which writes target and journal, at a call. Whether it came to that.
fn killed_at(command: &Command, call: &str, nth: u32) -> bool {
    let mut strace = Command::new("strace");
    let (trace, inject) = (
        format!("trace={call}"),
        format!("inject={call}:signal=SIGKILL:when={nth}"),
    );
    strace.args(["-qq", "-o", "/dev/null", "-e", &trace, "-e", &inject]);
    strace.arg(command.get_program()).args(command.get_args());
    let done = strace.output().unwrap();
    let killed = done.status.signal() == Some(9);
    assert!(killed || done.status.success(), "{call} {nth}: {done:?}");
    killed
}

/// Everybody refuses what the gate keeps, and leaves it alone.
fn nobody_gets_in(bed: &Bed) {
    let found = super::hash(&bed.file);
    for options in [&["-n"][..], &[], &["-L"], &["-o", "force_geometry"]] {
        let done = Command::new("xfs_repair")
            .args(options)
            .arg("-f")
            .arg(&bed.file)
            .output()
            .unwrap();
        assert!(!done.status.success(), "xfs_repair {options:?}: {done:?}");
    }
    let point = bed.file.with_extension("point");
    std::fs::create_dir_all(&point).unwrap();
    for options in ["loop", "loop,ro,norecovery", "loop,ro,norecovery,nouuid"] {
        let done = Command::new("mount")
            .args(["-t", "xfs", "-o", options])
            .args([&bed.file, &point])
            .output()
            .unwrap();
        if done.status.success() {
            sh(Command::new("umount").arg(&point));
            panic!("mounted with {options}");
        }
    }
    let other = bed.file.with_extension("other");
    let mut another = bed.command(&["grow", "--yes"], &bed.size(MOST));
    another.args(["--state-dir", text(&other)]);
    let mut args: Vec<_> = another.get_args().map(|a| a.to_os_string()).collect();
    // The last state directory is the one that counts; the first goes.
    let first = args.iter().position(|a| a == "--state-dir").unwrap();
    args.drain(first..first + 2);
    let said = super::bed::said(Command::new(another.get_program()).args(args));
    assert_eq!(said.code, 8, "{said:#?}");
    assert!(super::hash(&bed.file) == found, "somebody wrote to it");
}

fn gate_stands(bed: &Bed) -> bool {
    let bytes = bed.start_of_disk(4096);
    matches!(driver("xfs").unwrap().gate(&bytes), GateState::Closed(_))
}

#[test]
fn a_power_cut_anywhere_is_recovered() {
    if !is_root() {
        return;
    }
    let dir = workspace();
    let row = rows::Row {
        shape: rows::PLAIN,
        place: rows::Place::Bare,
        sector: 512,
    };
    let base = template(&row.shape);
    let bed = Bed::make(dir.path(), row, &base);
    let keep = bed.keep();
    let done = bed.grow(MOST);
    done.assert("done", 0);
    let size = done.planned("file_system_size");
    let files = account(&base);
    let (mut mixed, mut cuts) = (0, 0);
    let long = std::env::var_os("HOLDFAST_LONG").is_some_and(|v| v == "1");
    for call in ["pwrite64", "fsync"] {
        for nth in 1.. {
            if !long && call == "pwrite64" && nth % 9 != 0 {
                continue;
            }
            copy(&keep, &bed.file);
            let _ = std::fs::remove_dir_all(dir.path().join("state"));
            let grow = bed.command(&["grow", "--yes", "--quiet"], &bed.size(MOST));
            if !killed_at(&grow, call, nth) {
                break;
            }
            cuts += 1;
            let forward = nth % 2 == 0;
            if gate_stands(&bed) {
                mixed += 1;
                if mixed % 4 == 1 {
                    nobody_gets_in(&bed);
                }
                if mixed % 3 == 0 {
                    let recover = bed_recover(&bed, forward);
                    killed_at(&recover, "pwrite64", 1 + nth % 5);
                }
            }
            let said = super::bed::said(&mut bed_recover(&bed, forward));
            assert_eq!(said.code, 0, "{call} {nth}: {said:#?}");
            let same = super::hash(&bed.file) == super::hash(&keep);
            if !same {
                assert_grown(&bed, size, &files);
            }
        }
    }
    assert!(
        cuts > 12 && mixed > 4,
        "{cuts} cuts, {mixed} of them with a gate"
    );
    no_mount_is_left(dir.path());
}

fn bed_recover(bed: &Bed, forward: bool) -> Command {
    let mut command = bed.command(&["recover"], &[]);
    let target = text(&bed.file).to_string();
    let args: Vec<_> = command.get_args().map(|a| a.to_os_string()).collect();
    let mut recover = Command::new(command.get_program());
    // Without the target's options.
    let kept = args.iter().take_while(|a| a.to_str() != Some(&target));
    recover.args(kept);
    if forward {
        recover.arg("--forward");
    }
    command = recover;
    command
}

fn no_mount_is_left(dir: &Path) {
    let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap();
    assert!(!mounts.contains(text(dir)), "{mounts}");
}
