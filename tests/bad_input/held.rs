//! Targets that somebody uses: who, and what to stop and unmount in which order.

use std::fs::File;
use std::os::unix::fs::OpenOptionsExt;
use std::process::{Command, Stdio};

use nix::fcntl::{FcntlArg, fcntl};

use crate::bench::{
    Bench, Loop, MIB, Mounted, Process, Stalling, judged, said, tool, transactions, until,
};

#[test]
fn a_mounted_partition_names_its_users_and_the_way_to_unmount_it() {
    let (bench, image) = Bench::with("small-gpt");
    let device = Loop::on(&image);
    let node = device.partition();
    let place = bench.path("mail store");
    let _mount = Mounted::at(&place, &[node.as_os_str()]);
    let inner = place.join("inner");
    let _inner = Mounted::at(&inner, &["-t".as_ref(), "tmpfs".as_ref(), "none".as_ref()]);
    let user = Process::start(Command::new("sleep").arg("300").current_dir(&place));
    let (part, disk) = (node.to_str().unwrap(), device.0.to_str().unwrap());
    let before = tool("mountpoint", &["-d".as_ref(), place.as_os_str()]);
    for args in [
        &["check", part][..],
        &["plan", "shrink", part, "--to", "8MiB"],
        &["grow", disk, "-p", "2", "--yes"],
        &["shrink", disk, "--partition", "2", "--to", "-1MiB", "--yes"],
    ] {
        // The device of a mounted file system may change by itself: the image is not hashed here.
        let why = judged(|| bench.command(args), 3, "refused");
        assert!(why.codes.iter().any(|c| c == "mounted"), "{why:#?}");
        let (inner, place) = (inner.to_str().unwrap(), place.to_str().unwrap());
        why.says(&[
            part,
            place,
            "sleep",
            &user.0.id().to_string(),
            &format!("umount $'{inner}' && umount $'{place}'"),
            "systemctl stop",
            "x20store",
            ".mount",
        ]);
        if args[0] != "check" {
            why.says(&["away for about"]);
        }
    }
    assert_eq!(
        tool("mountpoint", &["-d".as_ref(), place.as_os_str()]),
        before
    );
    assert!(transactions(&bench).is_empty());
}

#[test]
fn a_mounted_bare_device_and_its_image_are_refused() {
    let (bench, image) = Bench::with("small-bare");
    let device = Loop::on(&image);
    let node = device.0.to_str().unwrap();
    {
        let place = bench.path("mnt");
        let _mount = Mounted::at(&place, &[device.0.as_os_str()]);
        let why = judged(
            || bench.command(&["shrink", node, "--to", "8MiB", "--yes"]),
            3,
            "refused",
        );
        why.says(&[node, place.to_str().unwrap(), "umount"]);
        // Nothing is to be done: a script's second run hears so, mounted or not.
        let why = judged(|| bench.command(&["grow", node, "--yes"]), 0, "no-change");
        assert!(why.codes.is_empty());
    }
    let file = image.to_str().unwrap();
    for args in [
        &["check", file][..],
        &["shrink", file, "--to", "8MiB", "--yes"],
    ] {
        bench
            .refused(&image, args, "held-by-loop")
            .says(&[file, &format!("losetup -d {node}")]);
    }
    let path = bench.path("alias");
    std::os::unix::fs::symlink(&image, &path).unwrap();
    bench.refused(&image, &["check", path.to_str().unwrap()], "held-by-loop");
}

#[test]
fn an_exclusive_user_of_the_device_is_named() {
    let (bench, image) = Bench::with("small-gpt");
    let device = Loop::on(&image);
    let node = device.partition();
    let _user = File::options()
        .read(true)
        .custom_flags(libc::O_EXCL)
        .open(&node)
        .unwrap();
    let part = node.to_str().unwrap();
    for args in [&["check", part][..], &["grow", part, "--yes"]] {
        bench
            .refused(&image, args, "held")
            .says(&[part, &std::process::id().to_string()]);
    }
}

#[test]
fn swap_is_refused_with_the_command_that_ends_it() {
    let bench = Bench::new();
    let image = bench.file("swap", 16 * MIB, &[]);
    let device = Loop::on(&image);
    let node = device.0.to_str().unwrap();
    tool("mkswap", &["-q", node, "8192"]);
    struct Off(String);
    impl Drop for Off {
        fn drop(&mut self) {
            let _ = Command::new("swapoff").arg(&self.0).status();
        }
    }
    tool("swapon", &[node]);
    let _off = Off(node.into());
    let why = judged(|| bench.command(&["grow", node, "--yes"]), 3, "refused");
    assert!(why.codes.iter().any(|c| c == "swap"), "{why:#?}");
    why.says(&[&format!("swapoff {node}")]);
}

#[test]
fn an_image_that_an_emulator_has_locked_is_refused() {
    let (bench, image) = Bench::with("small-gpt");
    let file = File::options().read(true).write(true).open(&image).unwrap();
    // As QEMU locks an image that it writes: single bytes, for the open file description.
    let lock = libc::flock {
        l_type: libc::F_RDLCK as libc::c_short,
        l_whence: libc::SEEK_SET as libc::c_short,
        l_start: 100,
        l_len: 2,
        l_pid: 0,
    };
    fcntl(&file, FcntlArg::F_OFD_SETLK(&lock)).unwrap();
    let target = image.to_str().unwrap();
    for args in [&["check", target][..], &["grow", target, "--yes"]] {
        bench
            .refused(&image, args, "held-by-emulator")
            .says(&[target, "virtual machine"]);
    }
}

#[test]
fn a_second_holdfast_is_refused_whatever_its_state_directory() {
    let (bench, image) = Bench::with("small-gpt");
    let target = image.to_str().unwrap();
    let stalling = Stalling::new(&bench, "e2fsck");
    let mut first = bench.command(&["grow", target, "--yes"]);
    stalling.first_for(&mut first);
    let mut first = Process::start(first.stdout(Stdio::null()).stderr(Stdio::null()));
    stalling.wait();
    let pid = first.0.id().to_string();
    let elsewhere = Bench::new();
    for at in [&bench, &elsewhere] {
        for args in [
            &["check", target][..],
            &["plan", "grow", target],
            &["grow", target, "--yes"],
        ] {
            let why = judged(|| at.command(args), 3, "refused");
            assert!(
                why.codes.iter().any(|c| c == "held-by-holdfast"),
                "{why:#?}"
            );
            why.says(&[target, &pid]);
        }
    }
    // It is killed: nothing of it is in the way of the next one.
    first.0.kill().unwrap();
    first.0.wait().unwrap();
    drop(stalling);
    until("the target is free again", || {
        said(&mut bench.command(&["check", target])).code == 0
    });
    let left = transactions(&bench);
    assert_eq!(left.len(), 1, "{left:#?}");
    assert_eq!(left[0]["progress"], "not-committed");
    let done = bench.run(&["grow", target, "--yes"]);
    assert_eq!(done.code, 0, "{}", done.stderr);
}
