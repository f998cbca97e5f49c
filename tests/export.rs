//! Stock tools on an exported overlay: what they may do, and what becomes of what they did.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod support;

use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use holdfast::disk::{DiskRead, Geometry, MemoryDisk, read_vec};
use holdfast::export::How;
use holdfast::extent::Extent;
use holdfast::fs::ext::tools::{Version, minimum, prepare, replay, resize, verify, version};
use holdfast::fs::tool::{ToolError, Tools};
use holdfast::overlay::{Overlay, differing};
use holdfast::report::Quiet;
use support::{Bench, FAKE, Wired, fill, hash, host_processes};

const MIB: u64 = 1 << 20;

/// Runs prepare and resize on an overlay over `image`, and returns the overlay, frozen. No check
/// follows: in a copy, what a tool has only read is not to pass for written.
fn rehearse(bench: &Bench, image: &Path, old: u64, new: u64, how: How) -> Arc<Overlay> {
    let before = hash(image);
    let overlay = bench.overlay(image, 256 * MIB);
    let export = bench.export_used(overlay.clone(), how, old);
    assert_eq!(export.is_fuse(), how == How::Fuse);
    let wired = Wired(&export);
    let tools = Tools::new(&wired).with_logs(&bench.logs());
    assert!(version(&tools).unwrap() > Version(1, 43, 0));
    prepare(export.path(), &tools).unwrap();
    let least = minimum(export.path(), 4096, &tools).unwrap();
    assert!(least > MIB && least < 96 * MIB, "{least}");
    resize(export.path(), new, &tools).unwrap();
    export.finish().unwrap();
    overlay.freeze();
    assert_eq!((overlay.base_error(), overlay.spill_error()), (None, None));
    assert_eq!(hash(image), before, "the base was touched");
    overlay
}

/// e2fsck, run as the rehearsal runs it, finds nothing.
fn check(bench: &Bench, overlay: &Arc<Overlay>, how: How) -> Result<(), ToolError> {
    let checked = Arc::new(bench.stack(overlay));
    let export = bench.export(checked.clone(), how);
    let wired = Wired(&export);
    let result = verify(export.path(), &Tools::new(&wired));
    export.finish().unwrap();
    assert!(checked.changed().is_empty(), "a check has written");
    result
}

/// The file system in the first `new_bytes` of an overlay is sound and has the files it should.
fn judge(bench: &Bench, overlay: &Overlay, new_bytes: u64) {
    let image = bench.extract(overlay, new_bytes);
    bench.assert_sound(&image, new_bytes);
    bench.assert_same_files(&image);
}

/// Both ways of exporting give the same bytes. Only four fields of a superblock may differ: the
/// times of the last write and check, which e2fsprogs takes from the clock whatever it is told,
/// its count of kilobytes written, and the checksum. What lies behind a superblock in its block
/// nobody has written: a copy has zeros there. Behind a file system that was shrunk the resizer
/// cuts the file: what was written there before is lost in a copy, and nobody's any more.
fn assert_alike(one: &Overlay, other: &Overlay, bytes: u64) {
    let mut candidates = one.changed().union(&other.changed());
    candidates.remove(Extent::from_range(bytes, one.len_bytes()));
    let differ = differing(one, other, &candidates, &Quiet).unwrap();
    for unit in differ.iter().flat_map(|e| e.split(4096)) {
        let superblock = if unit.start == 0 { 1024 } else { 0 };
        let bytes = [one, other].map(|overlay| {
            let mut bytes = read_vec(overlay, unit.start, 4096).unwrap();
            let magic = superblock + 0x38;
            assert_eq!(bytes[magic..magic + 2], [0x53, 0xef], "{unit} differ");
            for (field, len) in [(0x30, 4), (0x40, 4), (0x178, 8), (0x3fc, 4)] {
                bytes[superblock + field..superblock + field + len].fill(0);
            }
            bytes.truncate(superblock + 1024);
            bytes
        });
        let differ = (0..bytes[0].len()).filter(|&at| bytes[0][at] != bytes[1][at]);
        let fields: Vec<usize> = differ.collect();
        assert!(fields.is_empty(), "superblocks at {unit}: {fields:x?}");
    }
}

#[test]
fn a_grow_is_the_same_through_fuse_and_as_a_copy() {
    let bench = Bench::new();
    let image = bench.ext("ext4", &["-b", "4096"], 64 * MIB);
    let fuse = rehearse(&bench, &image, 64 * MIB, 256 * MIB, How::Fuse);
    judge(&bench, &fuse, 256 * MIB);
    let changed = fuse.changed().total_bytes();
    assert!(
        changed < MIB,
        "inode tables are left to the kernel: {changed}"
    );
    let copy = rehearse(&bench, &image, 64 * MIB, 256 * MIB, How::Copy);
    judge(&bench, &copy, 256 * MIB);
    assert_alike(&fuse, &copy, 256 * MIB);
    check(&bench, &fuse, How::Fuse).unwrap();
    check(&bench, &copy, How::Copy).unwrap();
}

#[test]
fn what_is_wrong_is_found_and_not_repaired() {
    let bench = Bench::new();
    let image = bench.ext("ext4", &["-b", "4096"], 64 * MIB);
    bench.debugfs(&image, &["set_inode_field <12> links_count 9"]);
    let overlay = bench.overlay(&image, 64 * MIB);
    for how in [How::Fuse, How::Copy] {
        match check(&bench, &overlay, how) {
            Err(ToolError::Failed { code, .. }) => assert_eq!(code, Some(4)),
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn a_shrink_is_the_same_through_fuse_and_as_a_copy() {
    let bench = Bench::new();
    let image = bench.ext_spread(256 * MIB);
    let fuse = rehearse(&bench, &image, 256 * MIB, 96 * MIB, How::Fuse);
    judge(&bench, &fuse, 96 * MIB);
    assert!(fuse.spilled_bytes() > MIB, "files had to move");
    let copy = rehearse(&bench, &image, 256 * MIB, 96 * MIB, How::Copy);
    judge(&bench, &copy, 96 * MIB);
    assert_alike(&fuse, &copy, 96 * MIB);
    let behind = Extent::from_range(96 * MIB, 256 * MIB);
    let base = bench.disk(&image);
    for overlay in [&fuse, &copy] {
        let changed = differing(&base, &**overlay, &overlay.changed(), &Quiet).unwrap();
        // The stamp of the check brought the backups of the superblock up to date, these too.
        let mut freed = changed
            .within(behind)
            .flat_map(|e| e.split(4096))
            .filter(|unit| read_vec(&**overlay, unit.start + 0x38, 2).unwrap() != [0x53, 0xef]);
        assert_eq!(freed.next(), None, "what a shrink frees stays as it was");
    }
}

#[test]
fn inode_tables_are_zero_where_the_disk_held_stale_bytes() {
    let bench = Bench::new();
    // Without checksums of groups, every inode table must be written when it is made.
    let features = ["-b", "4096", "-O", "^metadata_csum,^uninit_bg"];
    let image = bench.ext("ext3", &features, 64 * MIB);
    let mut stale = std::fs::OpenOptions::new();
    let file = stale.write(true).open(&image).unwrap();
    for at in (64..256).map(|mib| mib * MIB) {
        file.write_all_at(&fill(1 << 20, at), at).unwrap();
    }
    let fuse = rehearse(&bench, &image, 64 * MIB, 256 * MIB, How::Fuse);
    judge(&bench, &fuse, 256 * MIB);
    assert!(fuse.spilled_bytes() < 2 * MIB, "zeros are not spilled");
    let copy = rehearse(&bench, &image, 64 * MIB, 256 * MIB, How::Copy);
    judge(&bench, &copy, 256 * MIB);
    assert_alike(&fuse, &copy, fuse.len_bytes());
}

#[test]
fn a_journal_is_replayed_and_damage_is_not_repaired() {
    let bench = Bench::new();
    for (dirty, damaged) in [(true, false), (false, true), (true, true)] {
        let image = bench.ext("ext4", &["-b", "4096"], 64 * MIB);
        if damaged {
            bench.debugfs(&image, &["set_inode_field <12> links_count 9"]);
        }
        if dirty {
            bench.leave_journal_dirty(&image);
        }
        let overlay = bench.overlay(&image, 64 * MIB);
        let export = bench.export(overlay, How::Fuse);
        let wired = Wired(&export);
        let tools = Tools::new(&wired);
        let replayed = match dirty {
            true => replay(export.path(), false, &tools),
            false => Ok(()),
        };
        match replayed.and_then(|()| prepare(export.path(), &tools)) {
            Ok(()) => assert!(!damaged),
            Err(ToolError::Failed { output_tail, .. }) => {
                assert!(damaged, "dirty: {dirty}: {output_tail}");
                assert!(output_tail.contains("Inode 12 ref"), "{output_tail}");
            }
            Err(other) => panic!("{other}"),
        }
        export.finish().unwrap();
    }
}

/// Runs `script` as a tool on 64 KiB of `x`, and returns what it said and the overlay.
fn run_script(bench: &Bench, script: &str, how: How) -> (String, Arc<Overlay>) {
    let base = Arc::new(MemoryDisk::fixed(vec![b'x'; 64 << 10]));
    let overlay = bench.overlay_of(base, 64 << 10);
    let dirs = bench.fake(script);
    let export = bench.export(overlay.clone(), how);
    let wired = Wired(&export);
    let tools = Tools::new(&wired).with_dirs(dirs);
    let outcome = tools.run(FAKE, &[export.path().as_os_str()]).unwrap();
    export.finish().unwrap();
    (outcome.output, overlay)
}

#[test]
fn a_tool_can_write_to_its_file_and_to_nothing_else() {
    let bench = Bench::new();
    let victim = bench.path("victim");
    std::fs::write(&victim, "precious").unwrap();
    let script = format!(
        r#"
        try() {{ if "$@" >/dev/null 2>&1; then echo "DONE: $*"; fi; }}
        try sh -c 'echo bad > {victim}'
        try test -e {victim}
        try test -w /
        try test -w /etc
        try test -w /usr
        try test -w /usr/bin/env
        try test -w "$0"
        try mount -o remount,rw /usr
        try mount -t tmpfs none /tmp
        try mount -t proc none /proc
        try unshare -m mount -o remount,rw,bind /usr
        try unshare -Urm mount -o remount,rw,bind /usr
        try mknod /tmp/loop0 b 7 0
        try mknod /tmp/mem c 1 1
        try losetup -f {victim}
        try test -b /dev/loop0
        try test -e /dev/vda
        try test -e /run
        try test -e /sys
        try test -e /home
        try test -e /root
        try test -e /etc/shadow
        try kill -0 {pid}
        try touch /export/other
        try rm /export/disk
        try mv /export/disk /export/moved
        ls /dev
        ls /proc
        ls /export
        printf abc | dd of="$1" bs=1 seek=4097 conv=notrunc 2>/dev/null && echo wrote
        echo scratch > /tmp/mine && cat /tmp/mine
        "#,
        victim = victim.display(),
        pid = std::process::id(),
    );
    for how in [How::Fuse, How::Copy] {
        let (said, overlay) = run_script(&bench, &script, how);
        let want = "full\nnull\nrandom\nurandom\nzero\nmounts\nswaps\ndisk\nwrote\nscratch\n";
        assert_eq!(said, want, "{how:?}");
        assert_eq!(std::fs::read_to_string(&victim).unwrap(), "precious");
        assert_eq!(read_vec(&*overlay, 4096, 5).unwrap(), b"xabcx");
        assert_eq!(overlay.spilled_bytes(), 4096);
    }
}

#[test]
fn a_tool_has_no_capability_no_network_and_no_terminal() {
    let bench = Bench::new();
    // There is no /proc in there, so a program must ask the kernel for itself.
    let script = r#"exec python3 -c '
import ctypes, os, socket
libc = ctypes.CDLL(None)
print("bounding", sum(libc.prctl(23, c, 0, 0, 0) == 1 for c in range(41)))
header = (ctypes.c_uint32 * 2)(0x20080522, 0)
data = (ctypes.c_uint32 * 6)()
print("capget", libc.capget(header, data), sum(data))
print("no_new_privs", libc.prctl(39, 0, 0, 0, 0))
print("pid", os.getpid(), "session", os.getsid(0))
print("interfaces", [name for _, name in socket.if_nameindex()])
try:
    socket.create_connection(("127.0.0.1", 22), 1)
    print("connected")
except OSError as e:
    print("network", e.errno)
print("descriptors", [fd for fd in range(3, 1024) if libc.fcntl(fd, 1) >= 0])
try:
    open("/dev/tty")
except OSError as e:
    print("terminal", e.errno)
'"#;
    let leak = std::fs::File::open("/dev/null").unwrap();
    let open_in_children = nix::fcntl::FcntlArg::F_SETFD(nix::fcntl::FdFlag::empty());
    nix::fcntl::fcntl(&leak, open_in_children).unwrap();
    let (said, _) = run_script(&bench, script, How::Fuse);
    let want = "bounding 0\ncapget 0 0\nno_new_privs 1\npid 1 session 1\n\
                interfaces ['lo']\nnetwork 101\ndescriptors []\nterminal 2\n";
    assert_eq!(said, want);
}

#[test]
fn what_a_tool_leaves_running_ends_with_it() {
    let bench = Bench::new();
    let script = r#"
        setsid sh -c 'sleep 0.3; printf late > "$0"; sleep 4242' "$1" </dev/null >/dev/null 2>&1 &
        sleep 0.1
        echo gone
    "#;
    for how in [How::Fuse, How::Copy] {
        let (said, overlay) = run_script(&bench, script, how);
        assert_eq!(said, "gone\n");
        std::thread::sleep(Duration::from_millis(500));
        assert_eq!(host_processes("sleep 4242"), 0);
        assert!(overlay.changed().is_empty(), "{how:?}");
    }
}

#[test]
fn nothing_shows_on_the_host() {
    let bench = Bench::new();
    let mounts = || std::fs::read_to_string("/proc/mounts").unwrap();
    let before = mounts();
    for how in [How::Fuse, How::Copy] {
        let overlay = bench.overlay_of(Arc::new(MemoryDisk::fixed(vec![1; 8192])), 8192);
        let export = bench.export(overlay, how);
        assert_eq!(mounts(), before);
        assert!(!export.path().exists());
        let left: Vec<_> = std::fs::read_dir(bench.scratch()).unwrap().collect();
        assert!(left.is_empty(), "{how:?}: {left:?}");
        export.finish().unwrap();
    }
}

#[test]
fn zeroing_and_cutting_reach_the_disk() {
    let bench = Bench::new();
    let (said, overlay) = run_script(
        &bench,
        r#"
        fallocate -z -o 100 -l 10000 "$1" && echo zeroed
        fallocate -p -o 20480 -l 8192 "$1" && echo punched
        fallocate -o 0 -l 65536 "$1" && echo allocated
        fallocate -l 70000 "$1" 2>/dev/null || echo too long
        truncate -s 40000 "$1" && stat -c %s "$1"
        truncate -s 65536 "$1" && stat -c %s "$1"
        truncate -s 65537 "$1" 2>/dev/null || echo too long
        printf end | dd of="$1" bs=1 seek=65533 conv=notrunc 2>/dev/null
        "#,
        How::Fuse,
    );
    let want = "zeroed\npunched\nallocated\ntoo long\n40000\n65536\ntoo long\n";
    assert_eq!(said, want);
    let mut want = vec![b'x'; 64 << 10];
    want[100..10_100].fill(0);
    want[20_480..28_672].fill(0);
    want[40_000..].fill(0);
    want[65_533..].copy_from_slice(b"end");
    assert!(read_vec(&*overlay, 0, 64 << 10).unwrap() == want);
}

#[test]
fn a_disk_of_fifteen_tebibytes_costs_what_is_written() {
    let bench = Bench::new();
    let len = 15u64 << 40;
    let script = r#"stat -c %s "$1"
        printf far | dd of="$1" bs=1 seek=16492674416637 conv=notrunc 2>/dev/null; tail -c 3 "$1"
        fallocate -z -o 8192 -l 16492674400000 "$1"; tail -c 3 "$1""#;
    let dirs = bench.fake(script);
    let overlay = bench.overlay_of(Arc::new(MemoryDisk::fixed(vec![b'x'; 4096])), len);
    let export = bench.export(overlay.clone(), How::Fuse);
    let wired = Wired(&export);
    let tools = Tools::new(&wired).with_dirs(dirs);
    let outcome = tools.run(FAKE, &[export.path().as_os_str()]).unwrap();
    assert_eq!(outcome.output, format!("{len}\nfarfar"));
    export.finish().unwrap();
    assert_eq!(overlay.spilled_bytes(), 4096);
    assert_eq!(read_vec(&*overlay, len - 3, 3).unwrap(), b"far");
}

/// A disk that gives errors in its second half, each after a while.
struct Trouble {
    inner: MemoryDisk,
    wait: Duration,
}

impl DiskRead for Trouble {
    fn geometry(&self) -> Geometry {
        self.inner.geometry()
    }
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        if offset + buf.len() as u64 > self.len_bytes() / 2 {
            std::thread::sleep(self.wait);
            return Err(io::Error::from_raw_os_error(libc::EIO));
        }
        self.inner.read_at(offset, buf)
    }
}

fn trouble(wait: Duration) -> Arc<Trouble> {
    let inner = MemoryDisk::fixed(vec![1; 4 << 20]);
    Arc::new(Trouble { inner, wait })
}

#[test]
fn an_error_that_a_tool_ignores_is_not_forgotten() {
    let bench = Bench::new();
    let script = r#"dd if="$1" of=/dev/null bs=4096 skip=1000 2>&1 | grep -o 'Input/output error'
        exit 0"#;
    let dirs = bench.fake(script);
    let overlay = bench.overlay_of(trouble(Duration::ZERO), 4 << 20);
    let export = bench.export(overlay.clone(), How::Fuse);
    let wired = Wired(&export);
    let tools = Tools::new(&wired).with_dirs(dirs);
    let outcome = tools.run(FAKE, &[export.path().as_os_str()]).unwrap();
    assert_eq!(outcome.code, Some(0));
    assert_eq!(outcome.output, "Input/output error\n");
    let said = export.finish().unwrap_err().to_string();
    assert!(said.contains("I/O error"), "{said}");
    assert!(overlay.base_error().is_some());
}

#[test]
fn a_write_beyond_the_end_is_not_forgotten() {
    let bench = Bench::new();
    let script = r#"printf beyond | dd of="$1" bs=1 seek=8190 conv=notrunc 2>/dev/null; exit 0"#;
    let dirs = bench.fake(script);
    let overlay = bench.overlay_of(Arc::new(MemoryDisk::fixed(vec![1; 8192])), 8192);
    let export = bench.export(overlay, How::Fuse);
    let wired = Wired(&export);
    let tools = Tools::new(&wired).with_dirs(dirs);
    tools.run(FAKE, &[export.path().as_os_str()]).unwrap();
    export.finish().unwrap_err();
}

#[test]
fn a_tool_that_waits_for_a_dead_disk_is_ended_all_the_same() {
    let bench = Bench::new();
    let dirs = bench.fake(r#"exec dd if="$1" of=/dev/null bs=4096 skip=1000 iflag=direct"#);
    let overlay = bench.overlay_of(trouble(Duration::from_secs(60)), 4 << 20);
    let export = bench.export(overlay, How::Fuse);
    let wired = Wired(&export);
    let tools = Tools::new(&wired)
        .with_dirs(dirs)
        .with_patience(Duration::from_millis(500));
    let began = Instant::now();
    let hung = tools.run(FAKE, &[export.path().as_os_str()]).unwrap_err();
    assert!(matches!(hung, ToolError::Hung { .. }), "{hung}");
    let line = "dd if=/export/disk of=/dev/null bs=4096 skip=1000 iflag=direct";
    assert_eq!(host_processes(line), 0, "it still waits");
    export.finish().unwrap_err();
    let took = began.elapsed();
    assert!(took < Duration::from_secs(40), "{took:?}");
}

#[test]
fn a_resizer_that_hangs_is_killed_with_its_children() {
    let bench = Bench::new();
    let script = "echo moving blocks; setsid sleep 5151 & sleep 5151";
    let dirs = bench.program("resize2fs", script);
    let overlay = bench.overlay_of(Arc::new(MemoryDisk::fixed(vec![1; 8192])), 8192);
    let export = bench.export(overlay, How::Fuse);
    let wired = Wired(&export);
    let tools = Tools::new(&wired)
        .with_dirs(dirs)
        .with_patience(Duration::from_millis(300));
    match resize(export.path(), 4096, &tools) {
        Err(ToolError::Hung { output_tail, .. }) => assert_eq!(output_tail, "moving blocks\n"),
        other => panic!("{other:?}"),
    }
    assert_eq!(host_processes("sleep 5151"), 0);
    export.finish().unwrap();
}

#[test]
fn an_export_does_not_end_under_a_running_tool() {
    let bench = Bench::new();
    for how in [How::Fuse, How::Copy] {
        let overlay = bench.overlay_of(Arc::new(MemoryDisk::fixed(vec![1; 8192])), 8192);
        let export = bench.export(overlay, how);
        let mut sleeper = Command::new("/bin/sleep");
        sleeper.arg("6161");
        let mut child = export.spawn(sleeper).unwrap();
        let said = export.finish().unwrap_err().to_string();
        assert!(said.contains("still runs"), "{said}");
        child.kill().unwrap();
        child.wait().unwrap();
    }
}

#[test]
fn nothing_reaches_the_disk_when_an_export_was_dropped() {
    let bench = Bench::new();
    let dirs = bench.fake("sleep 0.5; printf late > \"$1\"; sync; sleep 6363");
    for how in [How::Fuse, How::Copy] {
        let overlay = bench.overlay_of(Arc::new(MemoryDisk::fixed(vec![1; 8192])), 8192);
        let export = bench.export(overlay.clone(), how);
        let mut command = Command::new(dirs[0].join("fake"));
        command.arg(export.path()).stderr(Stdio::null());
        let mut child = export.spawn(command).unwrap();
        drop(export);
        std::thread::sleep(Duration::from_secs(1));
        assert!(overlay.changed().is_empty(), "{how:?}");
        child.kill().unwrap();
        child.wait().unwrap();
        assert_eq!(
            Arc::strong_count(&overlay),
            1,
            "{how:?}: somebody holds on to it"
        );
    }
}

const READY: &str = "HOLDFAST_TEST_READY";

/// What the killed process of the next test does. On its own it does nothing.
#[test]
fn helper_that_is_killed() {
    let Some(ready) = std::env::var_os(READY) else {
        return;
    };
    let bench = Bench::new();
    let dirs = bench.fake("exec 3<>\"$1\"; setsid sleep 7171 & sleep 7171");
    let overlay = bench.overlay_of(Arc::new(MemoryDisk::fixed(vec![1; 8192])), 8192);
    let export = bench.export(overlay, How::Fuse);
    let mut command = Command::new(dirs[0].join("fake"));
    // Should it outlive us, nobody must wait for its end of a pipe.
    command.arg(export.path()).stdin(Stdio::null());
    command.stdout(Stdio::null()).stderr(Stdio::null());
    let mut child = export.spawn(command).unwrap();
    while host_processes("sleep 7171") < 2 {
        std::thread::sleep(Duration::from_millis(10));
    }
    std::fs::write(ready, bench.scratch().as_os_str().as_encoded_bytes()).unwrap();
    child.wait().unwrap();
}

#[test]
fn a_kill_leaves_no_mount_and_no_process() {
    let bench = Bench::new();
    let ready = bench.path("ready");
    let mounts = std::fs::read_to_string("/proc/mounts").unwrap();
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "helper_that_is_killed", "--nocapture"])
        .env(READY, &ready)
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let until = Instant::now() + Duration::from_secs(30);
    let scratch = loop {
        match std::fs::read_to_string(&ready) {
            Ok(scratch) if !scratch.is_empty() => break scratch,
            _ => assert!(Instant::now() < until, "the helper does not get ready"),
        }
        std::thread::sleep(Duration::from_millis(10));
    };
    assert_eq!(host_processes("sleep 7171"), 2);
    child.kill().unwrap();
    child.wait().unwrap();
    while host_processes("sleep 7171") > 0 {
        assert!(Instant::now() < until, "a tool outlives us");
        std::thread::sleep(Duration::from_millis(10));
    }
    assert_eq!(std::fs::read_to_string("/proc/mounts").unwrap(), mounts);
    assert_eq!(std::fs::read_dir(&scratch).unwrap().count(), 0);
    std::fs::remove_dir_all(Path::new(&scratch).parent().unwrap()).unwrap();
}
