//! Real files, loop devices, mounts and locks, and the kernel's tables as they are and as we make
//! them up. Needs root and util-linux; everything made here is taken down again.

// A test stops at the first surprise.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use holdfast::disk::survey::{self, DevNumber, Host, HostError, Target, Use};
use holdfast::disk::{
    DirectDisk, Disk, DiskRead, FileDisk, Hold, device_of, drop_caches, read_vec, resize_partition,
    suitability,
};
use holdfast::extent::Extent;

const MIB: u64 = 1 << 20;
const NO_PATIENCE: Duration = Duration::ZERO;

fn run(program: &str, arguments: &[&str]) -> String {
    let out = Command::new(program)
        .args(arguments)
        .stdin(Stdio::null())
        .output()
        .unwrap_or_else(|e| panic!("{program}: {e}"));
    assert!(out.status.success(), "{program} {arguments:?}: {out:?}");
    String::from_utf8(out.stdout).unwrap()
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// A directory on a real disk: what is in memory cannot be read directly.
fn workspace() -> tempfile::TempDir {
    tempfile::tempdir_in("/var/tmp").unwrap()
}

fn image(dir: &Path, name: &str, len: u64) -> PathBuf {
    let path = dir.join(name);
    File::create(&path).unwrap().set_len(len).unwrap();
    path
}

/// A loop device, detached when dropped.
struct Loop(PathBuf);

impl Loop {
    fn on(file: &Path, sector: u32) -> Loop {
        let sector = sector.to_string();
        let arguments = ["-f", "--show", "--sector-size", &sector, text(file)];
        // Another test may take the free device between the look and the set-up.
        for _ in 0..50 {
            let out = Command::new("losetup").args(arguments).output().unwrap();
            if out.status.success() {
                let node = String::from_utf8(out.stdout).unwrap();
                return Loop(node.trim().into());
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        panic!("no loop device is to be had");
    }

    /// Adds partition `number` to what the kernel knows; start and length in MiB.
    fn add_partition(&self, number: u32, start: u64, len: u64) -> PathBuf {
        let sectors = |mib: u64| (mib * 2048).to_string();
        run(
            "addpart",
            &[
                text(&self.0),
                &number.to_string(),
                &sectors(start),
                &sectors(len),
            ],
        );
        let node = PathBuf::from(format!("{}p{number}", self.0.display()));
        for _ in 0..100 {
            if node.exists() {
                return node;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        panic!("{} does not come", node.display());
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        for number in ["1", "2", "3"] {
            let _ = Command::new("delpart")
                .args([text(&self.0), number])
                .stderr(Stdio::null())
                .status();
        }
        let status = Command::new("losetup").arg("-d").arg(&self.0).status();
        // Who looks at all loop devices, as the tests beside this one do, delays the detaching.
        let name = self.0.file_name().unwrap();
        let behind = Path::new("/sys/block").join(name).join("loop/backing_file");
        for _ in 0..200 {
            if !behind.exists() {
                break;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        if !std::thread::panicking() {
            assert!(
                status.unwrap().success(),
                "{} stays behind",
                self.0.display()
            );
        }
    }
}

/// A mount, unmounted when dropped.
struct Mounted(PathBuf);

impl Mounted {
    fn at(place: &Path, arguments: &[&str]) -> Mounted {
        fs::create_dir_all(place).unwrap();
        run("mount", &[arguments, &[text(place)]].concat());
        Mounted(place.into())
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        // More than once: a test that fails may have left another mount on top.
        for arguments in [&[][..], &[], &["-l"], &["-l"]] {
            let mut umount = Command::new("umount");
            let quiet = umount.args(arguments).arg(&self.0).stderr(Stdio::null());
            let _ = quiet.status();
        }
    }
}

fn refusal(error: HostError) -> holdfast::report::Refusal {
    match error {
        HostError::Refused(refusal) => refusal,
        HostError::Io(e) => panic!("an error, not a refusal: {e}"),
    }
}

// Files and block devices as disks.

#[test]
fn a_block_device_has_the_kernels_sizes_and_takes_writes() {
    for sector in [512u32, 4096] {
        let dir = workspace();
        let file = image(dir.path(), "disk", 4 * MIB);
        let device = Loop::on(&file, sector);
        let disk = FileDisk::open_write(&device.0).unwrap();
        assert!(disk.is_block_device());
        assert_eq!(disk.geometry().len_bytes, 4 * MIB);
        assert_eq!(disk.geometry().logical_sector_bytes, sector);
        assert!(disk.geometry().physical_sector_bytes >= sector);
        disk.write_at(MIB + 7, b"kept").unwrap();
        disk.flush().unwrap();
        let direct = DirectDisk::open(&device.0).unwrap();
        assert!(direct.is_direct());
        assert_eq!(direct.geometry(), disk.geometry());
        assert_eq!(read_vec(&direct, MIB + 7, 4).unwrap(), b"kept");
        assert_eq!(read_vec(&disk, MIB + 7, 4).unwrap(), b"kept");
        let beyond = disk.write_at(4 * MIB - 1, b"xx").unwrap_err();
        assert_eq!(beyond.kind(), io::ErrorKind::UnexpectedEof);
        assert_eq!(
            disk.set_len(8 * MIB).unwrap_err().kind(),
            io::ErrorKind::Unsupported
        );
        assert!(disk.reserve(Extent::new(0, 4096)).is_err());
        assert!(
            FileDisk::open_read(&device.0)
                .unwrap()
                .with_image_sector_bytes(4096)
                .is_err()
        );
    }
}

#[test]
fn the_last_sectors_of_an_odd_device_can_be_read_directly() {
    let dir = workspace();
    let path = dir.path().join("disk");
    let content: Vec<u8> = (0..MIB + 1536).map(|i| (i % 251) as u8).collect();
    fs::write(&path, &content).unwrap();
    let device = Loop::on(&path, 512);
    let disk = DirectDisk::open(&device.0).unwrap();
    assert!(disk.is_direct());
    assert_eq!(disk.len_bytes(), MIB + 1536);
    assert_eq!(read_vec(&disk, 0, content.len()).unwrap(), content);
    assert_eq!(
        read_vec(&disk, MIB + 1535, 1).unwrap(),
        content[content.len() - 1..]
    );
    let mut two = [0; 2];
    assert!(disk.read_at(MIB + 1535, &mut two).is_err());
}

#[test]
fn the_tail_of_an_image_is_no_part_of_it() {
    let dir = workspace();
    let path = dir.path().join("image");
    fs::write(&path, vec![7u8; 10_000]).unwrap();
    let disk = FileDisk::open_write(&path).unwrap();
    assert_eq!((disk.len_bytes(), disk.tail_bytes()), (9728, 272));
    assert!(disk.write_at(9727, b"xx").is_err());
    let disk = disk.with_image_sector_bytes(4096).unwrap();
    assert_eq!((disk.len_bytes(), disk.tail_bytes()), (8192, 1808));
    assert_eq!(disk.geometry().logical_sector_bytes, 4096);
    let direct = DirectDisk::open(&path)
        .unwrap()
        .with_image_sector_bytes(4096)
        .unwrap();
    assert_eq!(direct.len_bytes(), 8192);
    for odd in [0, 500, 513, 131_072] {
        assert!(
            FileDisk::open_read(&path)
                .unwrap()
                .with_image_sector_bytes(odd)
                .is_err()
        );
    }
    disk.set_len(20_480).unwrap();
    assert_eq!(direct.len_bytes(), 20_480, "another descriptor sees it");
    assert_eq!(read_vec(&disk, 10_000, 10_480).unwrap(), vec![0; 10_480]);
}

#[test]
fn only_files_and_block_devices_are_opened() {
    let dir = workspace();
    let fifo = dir.path().join("fifo");
    run("mkfifo", &[text(&fifo)]);
    for path in [
        dir.path(),
        &fifo,
        Path::new("/dev/null"),
        Path::new("/dev/tty"),
    ] {
        for result in [FileDisk::open_read(path), FileDisk::open_write(path)] {
            let error = result.err().unwrap();
            assert!(
                error.to_string().contains(text(path)),
                "{error} does not name {}",
                path.display()
            );
        }
        assert!(DirectDisk::open(path).is_err());
    }
    let gone = FileDisk::open_read(&dir.path().join("gone")).err().unwrap();
    assert_eq!(gone.kind(), io::ErrorKind::NotFound);
}

#[test]
fn a_reader_cannot_write() {
    let dir = workspace();
    let path = image(dir.path(), "image", MIB);
    let disk = FileDisk::open_read(&path).unwrap();
    let denied = disk.write_at(0, b"x").unwrap_err();
    assert_eq!(denied.kind(), io::ErrorKind::PermissionDenied);
    assert_eq!(
        disk.set_len(0).unwrap_err().kind(),
        io::ErrorKind::PermissionDenied
    );
    assert_eq!(fs::read(&path).unwrap(), vec![0; MIB as usize]);
}

#[test]
fn a_full_file_system_is_known_before_anything_is_overwritten() {
    let dir = workspace();
    let host_image = image(dir.path(), "small", 16 * MIB);
    run("mke2fs", &["-q", "-F", "-t", "ext4", text(&host_image)]);
    let device = Loop::on(&host_image, 512);
    let mount = Mounted::at(&dir.path().join("mnt"), &[text(&device.0)]);
    let path = mount.0.join("image");
    fs::write(&path, b"content").unwrap();
    let disk = FileDisk::open_write(&path).unwrap();
    disk.set_len(64 * MIB).unwrap();
    let before = fs::metadata(&path).unwrap().blocks();
    disk.reserve(Extent::new(0, MIB)).unwrap();
    let after = fs::metadata(&path).unwrap();
    assert!(after.blocks() >= before + 2040, "holes became space");
    assert_eq!(after.len(), 64 * MIB);
    let full = disk.reserve(Extent::new(0, 64 * MIB)).unwrap_err();
    assert_eq!(full.kind(), io::ErrorKind::StorageFull, "{full}");
    assert_eq!(read_vec(&disk, 0, 8).unwrap(), b"content\0");
    drop(disk);
}

#[test]
fn the_kernel_is_told_of_a_partitions_new_size() {
    let dir = workspace();
    let file = image(dir.path(), "disk", 32 * MIB);
    let device = Loop::on(&file, 512);
    let node = device.add_partition(2, 1, 8);
    let host = Host::default();
    let Target::Partition { disk, number } = host.resolve(&node).unwrap() else {
        panic!("not seen as a partition");
    };
    assert_eq!((number, &disk.node), (2, &device.0));
    let partition = disk.partition(2).unwrap();
    assert_eq!(partition.extent, Extent::new(MIB, 8 * MIB));
    assert_eq!(partition.node, node);
    resize_partition(&host, &device.0, 2, Extent::new(MIB, 12 * MIB)).unwrap();
    assert_eq!(FileDisk::open_read(&node).unwrap().len_bytes(), 12 * MIB);
    let Target::Disk(disk) = host.resolve(&device.0).unwrap() else {
        panic!("not seen as a disk");
    };
    assert_eq!(disk.len_bytes, 32 * MIB);
    assert_eq!(disk.partition(2).unwrap().extent.len, 12 * MIB);
    let moved = resize_partition(&host, &device.0, 2, Extent::new(2 * MIB, 12 * MIB)).unwrap_err();
    assert!(moved.to_string().contains("partition 2"), "{moved}");
    assert!(resize_partition(&host, &device.0, 3, Extent::new(MIB, MIB)).is_err());
    assert!(
        host.list_disks()
            .unwrap()
            .iter()
            .any(|d| d.node == device.0)
    );
}

#[test]
fn a_dropped_cache_does_not_hide_what_the_disk_holds() {
    let dir = workspace();
    let file = image(dir.path(), "disk", 16 * MIB);
    let device = Loop::on(&file, 512);
    let node = device.add_partition(1, 1, 8);
    let partition = FileDisk::open_read(&node).unwrap();
    assert_eq!(read_vec(&partition, 4096, 4).unwrap(), [0; 4], "now cached");
    let disk = FileDisk::open_write(&device.0).unwrap();
    disk.write_at(MIB + 4096, b"new!").unwrap();
    disk.flush().unwrap();
    assert_eq!(
        read_vec(&partition, 4096, 4).unwrap(),
        [0; 4],
        "two nodes have two caches: if this fails, the kernel has become kinder"
    );
    drop_caches(&node).unwrap();
    assert_eq!(read_vec(&partition, 4096, 4).unwrap(), b"new!");
    drop_caches(&file).unwrap();
    assert!(drop_caches(&dir.path().join("gone")).is_err());
}

// Holding.

#[test]
fn a_held_device_cannot_be_mounted_or_held_again() {
    let dir = workspace();
    let file = image(dir.path(), "disk", 32 * MIB);
    let device = Loop::on(&file, 512);
    let one = device.add_partition(1, 1, 8);
    let two = device.add_partition(2, 12, 8);
    for node in [&one, &two] {
        run("mke2fs", &["-q", "-F", text(node)]);
    }
    let host = Host::default();
    let other = Mounted::at(&dir.path().join("other"), &[text(&two)]);
    let hold = Hold::device(&host, &one, &device.0, NO_PATIENCE).unwrap();
    // The writer beside it, and BLKPG.
    let writer = FileDisk::open_write(&device.0).unwrap();
    writer.write_at(MIB + 2048, &[0]).unwrap();
    resize_partition(&host, &device.0, 1, Extent::new(MIB, 9 * MIB)).unwrap();
    drop(writer);
    let second = refusal(Hold::device(&host, &one, &device.0, NO_PATIENCE).unwrap_err());
    assert_eq!(second.code, "held");
    let pid = std::process::id().to_string();
    assert!(
        second.message.contains(&pid),
        "{} does not name us",
        second.message
    );
    let mount = Command::new("mount")
        .arg(&one)
        .arg(&other.0)
        .output()
        .unwrap();
    assert!(!mount.status.success(), "a held partition was mounted");
    drop(hold);
    drop(Hold::device(&host, &one, &device.0, NO_PATIENCE).unwrap());
    let mounted = refusal(Hold::device(&host, &two, &device.0, NO_PATIENCE).unwrap_err());
    assert_eq!(mounted.code, "held");
    assert!(
        mounted.message.contains(text(&other.0)),
        "{}",
        mounted.message
    );
    let whole = refusal(Hold::device(&host, &device.0, &device.0, NO_PATIENCE).unwrap_err());
    assert_eq!(whole.code, "held", "a disk with a mounted partition");
    assert!(
        Hold::device(&host, &file, &file, NO_PATIENCE).is_err(),
        "not a device"
    );
}

#[test]
fn a_lock_that_goes_away_is_waited_for() {
    let dir = workspace();
    let file = image(dir.path(), "disk", 4 * MIB);
    let device = Loop::on(&file, 512);
    let prober = File::open(&device.0).unwrap();
    prober.lock_shared().unwrap();
    let host = Host::default();
    let refused = refusal(Hold::device(&host, &device.0, &device.0, NO_PATIENCE).unwrap_err());
    assert_eq!(refused.code, "held");
    std::thread::scope(|scope| {
        scope.spawn(|| {
            std::thread::sleep(Duration::from_millis(200));
            drop(prober);
        });
        Hold::device(&host, &device.0, &device.0, Duration::from_secs(20)).unwrap();
    });
}

#[test]
fn an_image_is_held_against_us_loop_devices_and_emulators() {
    let dir = workspace();
    let path = image(dir.path(), "image", 4 * MIB);
    let host = Host::default();
    let hold = Hold::image(&host, &path, NO_PATIENCE).unwrap();
    let second = refusal(Hold::image(&host, &path, NO_PATIENCE).unwrap_err());
    assert_eq!(second.code, "held");
    // As QEMU asks: would a write lock on its bytes conflict?
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .open(&path)
        .unwrap();
    for byte in [100, 101, 103, 200, 201, 203] {
        assert!(conflict(&file, byte), "byte {byte} is free");
    }
    drop(hold);
    assert!(!conflict(&file, 201));
    // As QEMU has it while a machine runs: read locks on single bytes.
    for byte in [100, 203] {
        let lock = bytes(libc::F_RDLCK, byte, 1);
        nix::fcntl::fcntl(&file, nix::fcntl::FcntlArg::F_OFD_SETLK(&lock)).unwrap();
        let refused = refusal(Hold::image(&host, &path, NO_PATIENCE).unwrap_err());
        assert_eq!(refused.code, "held-by-emulator");
        let unlock = bytes(libc::F_UNLCK, byte, 1);
        nix::fcntl::fcntl(&file, nix::fcntl::FcntlArg::F_OFD_SETLK(&unlock)).unwrap();
    }
    drop(Hold::image(&host, &path, NO_PATIENCE).unwrap());
    let device = Loop::on(&path, 512);
    let refused = refusal(Hold::image(&host, &path, NO_PATIENCE).unwrap_err());
    assert_eq!(refused.code, "held-by-loop");
    assert!(refused.hint.contains(text(&device.0)), "{}", refused.hint);
    // The name that the loop device knows is gone, the file is not.
    let link = dir.path().join("other-name");
    fs::hard_link(&path, &link).unwrap();
    fs::remove_file(&path).unwrap();
    let refused = refusal(Hold::image(&host, &link, NO_PATIENCE).unwrap_err());
    assert_eq!(refused.code, "held-by-loop");
    // Where the loop device cannot be asked, its file's path is compared.
    let blind = Host {
        dev: dir.path().join("no-nodes"),
        ..Host::default()
    };
    fs::hard_link(&link, &path).unwrap();
    for name in [&link, &path] {
        let refused = refusal(Hold::image(&blind, name, NO_PATIENCE).unwrap_err());
        assert_eq!(refused.code, "held-by-loop");
    }
    drop(device);
    Hold::image(&host, &link, NO_PATIENCE).unwrap();
    assert!(Hold::image(&host, dir.path(), NO_PATIENCE).is_err());
}

fn bytes(kind: i32, start: i64, len: i64) -> libc::flock {
    libc::flock {
        l_type: kind as libc::c_short,
        l_whence: libc::SEEK_SET as libc::c_short,
        l_start: start,
        l_len: len,
        l_pid: 0,
    }
}

fn conflict(file: &File, byte: i64) -> bool {
    let mut lock = bytes(libc::F_WRLCK, byte, 1);
    nix::fcntl::fcntl(file, nix::fcntl::FcntlArg::F_OFD_GETLK(&mut lock)).unwrap();
    i32::from(lock.l_type) != libc::F_UNLCK
}

#[test]
fn qemu_and_we_keep_each_other_out() {
    if Command::new("qemu-img").arg("--version").output().is_err() {
        eprintln!("SKIPPED: qemu-img is not installed (Debian: qemu-utils)");
        return;
    }
    let dir = workspace();
    let path = image(dir.path(), "image", 4 * MIB);
    let write = |path: &Path| {
        Command::new("qemu-io")
            .args(["-f", "raw", "-c", "write 0 512"])
            .arg(path)
            .output()
            .unwrap()
    };
    let host = Host::default();
    let hold = Hold::image(&host, &path, NO_PATIENCE).unwrap();
    let refused = write(&path);
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(said.contains("lock"), "{said}");
    assert_eq!(fs::read(&path).unwrap(), vec![0; 4 * MIB as usize]);
    drop(hold);
    let mut machine = Command::new("qemu-io")
        .args(["-f", "raw"])
        .arg(&path)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let mut seen = None;
    for _ in 0..200 {
        if let Err(e) = Hold::image(&host, &path, NO_PATIENCE) {
            seen = Some(refusal(e).code);
            break;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    drop(machine.stdin.take());
    machine.wait().unwrap();
    assert_eq!(seen.as_deref(), Some("held-by-emulator"));
    Hold::image(&host, &path, NO_PATIENCE).unwrap();
}

#[test]
fn two_holdfasts_know_each_other() {
    let dir = workspace();
    let path = image(dir.path(), "image", MIB);
    let locked = File::open(&path).unwrap();
    locked.lock().unwrap();
    // The same tables, but the process that has the lock is called as we are.
    let made = tempfile::tempdir().unwrap();
    let meta = fs::metadata(&path).unwrap();
    let device = DevNumber::of(meta.dev());
    fs::create_dir_all(made.path().join("4711")).unwrap();
    fs::write(made.path().join("4711/comm"), "holdfast\n").unwrap();
    fs::write(
        made.path().join("locks"),
        format!(
            "1: POSIX  ADVISORY  WRITE 1 00:01:2 0 EOF\n2: FLOCK  ADVISORY  WRITE 4711 {:02x}:{:02x}:{} 0 EOF\n",
            device.major,
            device.minor,
            meta.ino()
        ),
    )
    .unwrap();
    let host = Host {
        proc: made.path().into(),
        ..Host::default()
    };
    let began = std::time::Instant::now();
    let refused = refusal(Hold::image(&host, &path, Duration::from_secs(60)).unwrap_err());
    assert_eq!(refused.code, "held-by-holdfast");
    assert!(
        began.elapsed() < Duration::from_secs(30),
        "waited for itself"
    );
    assert!(refused.message.contains("4711"));
}

// Who uses a device.

#[test]
fn a_mounted_target_is_refused_with_what_to_do() {
    let dir = workspace();
    let file = image(dir.path(), "disk", 16 * MIB);
    let device = Loop::on(&file, 512);
    run("mke2fs", &["-q", "-F", text(&device.0)]);
    let host = Host::default();
    let Target::Disk(disk) = host.resolve(&device.0).unwrap() else {
        panic!("not a disk");
    };
    assert_eq!(survey::uses(&host, disk.number, &disk.node).unwrap(), []);
    let outer = Mounted::at(&dir.path().join("my-mail"), &[text(&device.0)]);
    let inner = Mounted::at(&outer.0.join("tmp"), &["-t", "tmpfs", "none"]);
    let mut sleeper = Command::new("sleep")
        .arg("60")
        .current_dir(&outer.0)
        .spawn()
        .unwrap();
    let uses = survey::uses(&host, disk.number, &disk.node).unwrap();
    let refusals = survey::refusals(&host, disk.number, &disk.node, &uses);
    sleeper.kill().unwrap();
    sleeper.wait().unwrap();
    let [Use::Mounted { mounts }] = &uses[..] else {
        panic!("{uses:?}");
    };
    let order: Vec<&Path> = mounts.iter().map(|m| m.mountpoint.as_path()).collect();
    assert_eq!(order, [&inner.0, &outer.0]);
    let [refused] = &refusals[..] else {
        panic!("{refusals:?}");
    };
    assert_eq!(refused.code, "mounted");
    let sleep = format!("sleep (process {}", sleeper.id());
    for part in [text(&device.0), text(&outer.0), &sleep] {
        assert!(
            refused.message.contains(part),
            "{part} is not in: {}",
            refused.message
        );
    }
    let umount = format!(
        "umount {} && umount {}",
        inner.0.display(),
        outer.0.display()
    );
    for part in [umount.as_str(), "my\\\\x2dmail.mount", "Stop what uses it"] {
        assert!(
            refused.hint.contains(part),
            "{part} is not in: {}",
            refused.hint
        );
    }
}

/// A disk `sda` with two partitions, and `dm-0` and a swap on the second.
fn made_up_host(root: &Path) -> Host {
    let write = |path: &str, text: &str| {
        let path = root.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    };
    let link = |target: &str, path: &str| {
        let path = root.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        symlink(root.join(target), path).unwrap();
    };
    let sda = "sys/devices/pci0/block/sda";
    for (path, text) in [
        ("dev", "8:0\n"),
        ("size", "2097152\n"),
        ("ro", "0\n"),
        ("queue/rotational", "1\n"),
        ("device/wwid", "naa.5000c500a1b2c3d4\n"),
        ("device/model", "MADE UP DISK    \n"),
        ("uevent", "MAJOR=8\nMINOR=0\nDEVNAME=sda\nDEVTYPE=disk\n"),
        ("sda10/partition", "10\n"),
        ("sda10/dev", "8:10\n"),
        ("sda10/start", "1048576\n"),
        ("sda10/size", "1000\n"),
        ("sda2/partition", "2\n"),
        ("sda2/dev", "8:2\n"),
        ("sda2/start", "2048\n"),
        ("sda2/size", "409600\n"),
        ("sda2/ro", "1\n"),
        ("sda2/holders/dm-0/dm/name", "vg-mail\n"),
        ("sda2/holders/dm-0/dm/uuid", "LVM-abcdef\n"),
        ("sda2/holders/md1/md/level", "raid1\n"),
    ] {
        write(&format!("{sda}/{path}"), text);
    }
    for (number, place) in [("8:0", ""), ("8:2", "/sda2"), ("8:10", "/sda10")] {
        link(&format!("{sda}{place}"), &format!("sys/dev/block/{number}"));
    }
    link(sda, "sys/block/sda");
    let odd = "sys/devices/virtual/block/cciss!c0d0";
    write(&format!("{odd}/dev"), "104:0\n");
    write(&format!("{odd}/size"), "8\n");
    link(odd, "sys/block/cciss!c0d0");
    write("sys/devices/virtual/block/loop7/dev", "7:7\n");
    write("sys/devices/virtual/block/loop7/size", "0\n");
    link("sys/devices/virtual/block/loop7", "sys/block/loop7");
    write("sys/fs/btrfs/1111-2222/devices/sda10/x", "");
    for node in ["sda", "sda2", "sda10"] {
        write(&format!("dev/{node}"), "");
    }
    link("dev/sda", "dev/disk/by-id/wwn-0x5000c500a1b2c3d4");
    link("dev/sda2", "dev/disk/by-id/wwn-0x5000c500a1b2c3d4-part2");
    write(
        "proc/swaps",
        &format!(
            "Filename Type Size Used Priority\n{}/dev/sda2 partition 1 0 -2\n",
            root.display()
        ),
    );
    write(
        "proc/self/mountinfo",
        "1 0 9:9 / / rw - ext4 /dev/root rw\n",
    );
    Host {
        sys: root.join("sys"),
        proc: root.join("proc"),
        dev: root.join("dev"),
    }
}

#[test]
fn the_kernels_tree_is_read_as_it_is() {
    let root = tempfile::tempdir().unwrap();
    let host = made_up_host(root.path());
    let number = |text: &str| text.parse::<DevNumber>().unwrap();
    let Target::Partition { disk, number: 2 } = host.device(number("8:2")).unwrap() else {
        panic!("not partition 2");
    };
    assert_eq!((disk.name.as_str(), disk.len_bytes), ("sda", 1 << 30));
    assert!(disk.rotational && !disk.read_only);
    assert_eq!(disk.wwid.as_deref(), Some("naa.5000c500a1b2c3d4"));
    assert_eq!(disk.model.as_deref(), Some("MADE UP DISK"));
    assert_eq!(disk.serial, None);
    assert_eq!(disk.ids, ["wwn-0x5000c500a1b2c3d4"]);
    let numbers: Vec<u32> = disk.partitions.iter().map(|p| p.number).collect();
    assert_eq!(numbers, [2, 10], "by number, not by name");
    let two = disk.partition(2).unwrap();
    assert_eq!(two.extent, Extent::new(MIB, 200 * MIB));
    assert!(two.read_only);
    let disks = host.list_disks().unwrap();
    let names: Vec<&str> = disks.iter().map(|d| d.name.as_str()).collect();
    assert_eq!(names, ["cciss!c0d0", "sda"], "an empty loop device is none");
    assert_eq!(disks[0].node, host.dev.join("cciss/c0d0"));
    assert!(host.device(number("8:77")).is_err());

    let uses = survey::uses(&host, number("8:2"), &two.node).unwrap();
    let refusals = survey::refusals(&host, number("8:2"), &two.node, &uses);
    let codes: Vec<&str> = refusals.iter().map(|r| r.code.as_str()).collect();
    assert_eq!(codes, ["swap", "held", "held"]);
    assert!(
        refusals[1]
            .message
            .contains("the LVM volume vg-mail (dm-0)")
    );
    assert!(refusals[2].message.contains("RAID array (raid1) (md1)"));
    let ten = disk.partition(10).unwrap();
    let uses = survey::uses(&host, number("8:10"), &ten.node).unwrap();
    assert!(matches!(&uses[..], [Use::Holder { what, .. }] if what.contains("btrfs")));

    fs::write(root.path().join("proc/self/mountinfo"), "not a mount\n").unwrap();
    assert!(
        survey::uses(&host, number("8:2"), &two.node).is_err(),
        "unknown is not unused"
    );
    let size = root.path().join("sys/devices/pci0/block/sda/size");
    fs::write(size, "18446744073709551615\n").unwrap();
    assert!(host.device(number("8:2")).is_err());
}

#[test]
fn the_root_of_the_running_system_needs_another_system() {
    let root = tempfile::tempdir().unwrap();
    let host = made_up_host(root.path());
    fs::write(
        root.path().join("proc/self/mountinfo"),
        "1 0 8:2 / / rw - ext4 /dev/root rw\n2 1 8:10 / /home rw - ext4 /dev/sda10 rw\n",
    )
    .unwrap();
    let number: DevNumber = "8:2".parse().unwrap();
    let node = root.path().join("dev/sda2");
    let uses = survey::uses(&host, number, &node).unwrap();
    let refusals = survey::refusals(&host, number, &node, &uses);
    assert_eq!(refusals[0].code, "mounted");
    assert!(
        refusals[0].hint.contains("rescue or live"),
        "{}",
        refusals[0].hint
    );
}

#[test]
fn a_swap_file_is_in_use() {
    let dir = workspace();
    let path = image(dir.path(), "swap", MIB);
    let root = tempfile::tempdir().unwrap();
    let host = made_up_host(root.path());
    assert_eq!(survey::uses_of_image(&host, &path).unwrap(), []);
    let table = format!("Filename Type\n{} file 1 0 -2\n", path.display());
    fs::write(root.path().join("proc/swaps"), table).unwrap();
    assert_eq!(survey::uses_of_image(&host, &path).unwrap().len(), 1);
}

// Where a journal may be kept.

#[test]
fn a_state_directory_outlives_a_reboot_and_is_ours() {
    let dir = workspace();
    let host = Host::default();
    let state = dir.path().join("state");
    fs::create_dir(&state).unwrap();
    let mode = |mode| fs::set_permissions(&state, fs::Permissions::from_mode(mode)).unwrap();
    mode(0o700);
    let found = suitability(&host, &state, false).unwrap();
    assert_eq!(found.fs_kind, "ext4", "this test needs /var/tmp on ext4");
    assert!(found.free_bytes > 0);
    assert_eq!(found.device, device_of(&host, dir.path()).unwrap());
    assert_eq!(
        found.device.unwrap(),
        DevNumber::of(fs::metadata(&state).unwrap().dev())
    );
    mode(0o770);
    assert_eq!(
        refusal(suitability(&host, &state, false).unwrap_err()).code,
        "state-dir-owner"
    );
    mode(0o700);
    nix::unistd::chown(&state, Some(1234.into()), None).unwrap();
    assert_eq!(
        refusal(suitability(&host, &state, true).unwrap_err()).code,
        "state-dir-owner"
    );
    let file = image(dir.path(), "file", 0);
    assert_eq!(
        refusal(suitability(&host, &file, true).unwrap_err()).code,
        "state-dir-owner"
    );
    assert!(matches!(
        suitability(&host, &dir.path().join("gone"), true),
        Err(HostError::Io(_))
    ));
}

#[test]
fn memory_is_no_state_directory_however_it_is_dressed() {
    let dir = workspace();
    let host = Host::default();
    let code = |path: &Path| refusal(suitability(&host, path, false).unwrap_err()).code;
    let ram = Mounted::at(
        &dir.path().join("ram"),
        &["-t", "tmpfs", "-o", "mode=0700", "none"],
    );
    assert_eq!(code(&ram.0), "state-dir-volatile");
    assert_eq!(suitability(&host, &ram.0, true).unwrap().device, None);
    // A file system in a file in memory.
    let file = image(&ram.0, "image", 16 * MIB);
    run("mke2fs", &["-q", "-F", text(&file)]);
    let device = Loop::on(&file, 512);
    let on_loop = Mounted::at(&dir.path().join("on-loop"), &[text(&device.0)]);
    assert_eq!(code(&on_loop.0), "state-dir-volatile");
    // An overlay whose changes go to memory, and one whose changes go to the disk.
    let overlay = |name: &str, upper: &Path| {
        for made in [
            upper.join("upper"),
            upper.join("work"),
            dir.path().join("lower"),
        ] {
            fs::create_dir_all(&made).unwrap();
            fs::set_permissions(&made, fs::Permissions::from_mode(0o700)).unwrap();
        }
        let options = format!(
            "lowerdir={0}/lower,upperdir={1}/upper,workdir={1}/work",
            dir.path().display(),
            upper.display()
        );
        Mounted::at(
            &dir.path().join(name),
            &["-t", "overlay", "-o", &options, "none"],
        )
    };
    let lost = overlay("lost", &ram.0);
    assert_eq!(code(&lost.0), "state-dir-volatile");
    let kept = overlay("kept", &dir.path().join("disk"));
    let found = suitability(&host, &kept.0, false).unwrap();
    assert_eq!(found.device, device_of(&host, dir.path()).unwrap());
    assert_eq!(code(Path::new("/proc")), "state-dir-unknown");
}

#[test]
fn descriptors_are_not_inherited() {
    let dir = workspace();
    let path = image(dir.path(), "image", MIB);
    let disk = FileDisk::open_write(&path).unwrap();
    let hold = Hold::image(&Host::default(), &path, NO_PATIENCE).unwrap();
    let mut kept = open_descriptors();
    kept.retain(|&fd| points_to(fd, &path));
    assert_eq!(kept.len(), 2);
    for fd in kept {
        let info = fs::read_to_string(format!("/proc/self/fdinfo/{fd}")).unwrap();
        let flags = info.lines().find_map(|l| l.strip_prefix("flags:")).unwrap();
        let flags = i32::from_str_radix(flags.trim(), 8).unwrap();
        assert_ne!(flags & libc::O_CLOEXEC, 0);
    }
    drop((disk, hold));
}

fn open_descriptors() -> Vec<i32> {
    let dir = File::options()
        .read(true)
        .custom_flags(libc::O_DIRECTORY)
        .open("/proc/self/fd")
        .unwrap();
    let own = dir.as_raw_fd();
    let names = fs::read_dir("/proc/self/fd").unwrap().flatten();
    let fds = names.filter_map(|e| e.file_name().to_str()?.parse().ok());
    fds.filter(|&fd| fd != own).collect()
}

fn points_to(fd: i32, path: &Path) -> bool {
    fs::read_link(format!("/proc/self/fd/{fd}")).is_ok_and(|p| p == path)
}

#[test]
fn a_file_can_be_written_beside_a_hold() {
    let dir = workspace();
    let path = image(dir.path(), "image", MIB);
    let _hold = Hold::image(&Host::default(), &path, NO_PATIENCE).unwrap();
    let disk = FileDisk::open_write(&path).unwrap();
    disk.write_at(0, b"written").unwrap();
    disk.set_len(2 * MIB).unwrap();
    disk.flush().unwrap();
    let mut seven = [0; 7];
    File::open(&path)
        .unwrap()
        .read_exact_at(&mut seven, 0)
        .unwrap();
    assert_eq!(&seven, b"written");
    io::stdout().flush().unwrap();
}
