//! A place in which a program can run and touch nothing but one file.
//!
//! A room is a thread with namespaces of its own (mount, network, IPC, host name). Its root is a
//! small tmpfs, into which the host's programs and libraries are bound read-only, and nothing else:
//! the target cannot be named in there, nor can a block device, a socket or a process of the host.
//!
//! Each program runs in a PID namespace of its own, as its first process. When it ends, the kernel
//! kills whatever it started, before anybody can see that it has ended. It has no capabilities and
//! cannot get any, and it dies with us.
//!
//! Namespaces belong to threads, so the rest of the program keeps its own. A thread that is started
//! from within the room is in the room; that is how work gets done there.

use std::fs;
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt, symlink};
use std::path::{Component, Path, PathBuf};
use std::process::{Child, Command};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread::sleep;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};
use nix::sys::statvfs::{FsFlags, statvfs};
use nix::sys::wait::{Id, WaitPidFlag, waitid};
use nix::unistd::{Pid, getegid, geteuid, pivot_root};

use crate::harden::{harden, harden_mounter};

/// Where the file is that the tools work on.
pub(super) const FILE: &str = "/export/disk";

/// The directory of [`FILE`], on which FUSE is mounted.
pub(super) const DIRECTORY: &str = "/export";

/// What a dynamically linked program needs of a Linux system, and where programs live.
/// Configuration is left out: what a tool does depends on its arguments alone.
const SYSTEM: [&str; 12] = [
    "/usr",
    "/bin",
    "/sbin",
    "/lib",
    "/lib32",
    "/lib64",
    "/libx32",
    "/nix/store",
    "/gnu/store",
    "/run/current-system",
    "/etc/ld.so.cache",
    "/etc/alternatives",
];

const DEVICES: [&str; 5] = ["null", "zero", "full", "random", "urandom"];

type Job = Box<dyn FnOnce() + Send>;

/// See the module. Its mounts vanish when it has been dropped and the last process in it has ended.
pub struct Room {
    jobs: Sender<Job>,
    running: Arc<AtomicUsize>,
}

impl Room {
    /// A room with the host's programs and those in `programs`. `file` is bound to [`FILE`], and
    /// may lose its name afterwards. `scratch` is a directory of ours, used for a moment and left
    /// as it was.
    ///
    /// # Errors
    /// `PermissionDenied` where namespaces cannot be made, or what stands in the way.
    pub fn new(scratch: &Path, programs: &[PathBuf], file: Option<&Path>) -> io::Result<Room> {
        let site = tempfile::Builder::new()
            .prefix(".room-")
            .tempdir_in(scratch)?;
        let plan = Plan {
            site: site.path().canonicalize()?,
            programs: programs.to_vec(),
            file: file.map(Path::canonicalize).transpose()?,
        };
        let (jobs, inbox) = channel();
        let (built, is_built) = channel();
        std::thread::Builder::new()
            .name("room".into())
            .spawn(move || {
                let result = plan.build();
                let good = result.is_ok();
                if built.send(result).is_ok() && good {
                    keep(&inbox);
                }
            })?;
        let built = is_built
            .recv()
            .unwrap_or_else(|_| Err(io::Error::other("the thread that builds it has died")));
        built.map_err(|e| named(e, "making a private room for the tools"))?;
        Ok(Room {
            jobs,
            running: Arc::default(),
        })
    }

    /// Runs `work` on a thread in the room and waits for its result.
    ///
    /// # Errors
    /// The error of `work`, or `TimedOut`: the thread is then left to itself.
    pub(super) fn inside<T: Send + 'static>(
        &self,
        patience: Duration,
        work: impl FnOnce() -> io::Result<T> + Send + 'static,
    ) -> io::Result<T> {
        let (done, is_done) = channel();
        let job = move || {
            let _ = done.send(work());
        };
        self.jobs
            .send(Box::new(job))
            .map_err(|_| io::Error::other("the room is gone"))?;
        match is_done.recv_timeout(patience) {
            Ok(result) => result,
            Err(RecvTimeoutError::Timeout) => Err(io::Error::from(io::ErrorKind::TimedOut)),
            Err(RecvTimeoutError::Disconnected) => Err(io::Error::other("the work panicked")),
        }
    }

    /// Starts a process in the room: alone in a PID namespace, without capabilities, in a session
    /// of its own. It is killed when this program dies. The paths in `command` are those of the
    /// room.
    ///
    /// # Errors
    /// Where the program is not there, or no process can be made.
    pub fn spawn(&self, mut command: Command) -> io::Result<Child> {
        let (born, is_born) = channel();
        let running = self.running.clone();
        let job = move || {
            harden(&mut command);
            command.current_dir("/");
            match unshare(CloneFlags::CLONE_NEWPID) {
                Ok(()) => follow(command, &running, &born),
                Err(e) => drop(born.send(Err(e.into()))),
            }
        };
        self.jobs
            .send(Box::new(job))
            .map_err(|_| io::Error::other("the room is gone"))?;
        is_born
            .recv()
            .unwrap_or_else(|_| Err(io::Error::other("the launching thread has died")))
    }

    /// Starts our own program outside of the room, in the namespaces of the host. It keeps the
    /// privilege to mount, and nothing else that it does not need; it is killed when this program
    /// dies, and [`Room::settle`] waits for it too.
    ///
    /// # Errors
    /// Where no process can be made.
    pub(super) fn spawn_beside(&self, mut command: Command) -> io::Result<Child> {
        harden_mounter(&mut command);
        command.current_dir("/");
        let (born, is_born) = channel();
        let running = self.running.clone();
        std::thread::Builder::new()
            .name("beside".into())
            .spawn(move || follow(command, &running, &born))?;
        is_born
            .recv()
            .unwrap_or_else(|_| Err(io::Error::other("the launching thread has died")))
    }

    /// Returns when no process is in the room any more.
    ///
    /// # Errors
    /// Where one still runs after `patience`.
    pub(super) fn settle(&self, patience: Duration) -> io::Result<()> {
        let until = Instant::now() + patience;
        while self.running.load(Ordering::SeqCst) != 0 {
            if Instant::now() > until {
                return Err(io::Error::other("a tool still runs"));
            }
            sleep(Duration::from_millis(1));
        }
        Ok(())
    }
}

/// Does each job on a thread of its own, so that a job that hangs keeps nobody else waiting.
fn keep(inbox: &Receiver<Job>) {
    while let Ok(job) = inbox.recv() {
        // Where no thread is to be had the job is dropped, and whoever waits for it sees that.
        let _ = std::thread::Builder::new()
            .name("room-job".into())
            .spawn(job);
    }
}

/// Starts a process, hands it over, and returns when it has ended.
fn follow(mut command: Command, running: &AtomicUsize, born: &Sender<io::Result<Child>>) {
    let started = command.spawn();
    // Ours of the pipes must be closed, or the reader never sees their end.
    drop(command);
    let pid = started.as_ref().ok().map(Child::id);
    running.fetch_add(1, Ordering::SeqCst);
    let _ = born.send(started);
    pid.into_iter().for_each(wait_for_end);
    running.fetch_sub(1, Ordering::SeqCst);
}

/// Returns when the process has ended, and leaves its status to whoever holds the [`Child`]. The
/// thread that started a process must outlive it: the kernel takes its end for ours.
fn wait_for_end(pid: u32) {
    let pid = Pid::from_raw(pid.cast_signed());
    let end = WaitPidFlag::WEXITED | WaitPidFlag::WNOWAIT;
    while waitid(Id::Pid(pid), end) == Err(Errno::EINTR) {}
}

/// Gives this program, run by an ordinary user, namespaces in which it may make a [`Room`]. To be
/// called before the first thread is started.
///
/// # Errors
/// `PermissionDenied` where the host does not allow user namespaces, `InvalidInput` where threads
/// exist already.
pub fn enter_user_namespace() -> io::Result<()> {
    let (user, group) = (geteuid(), getegid());
    unshare(CloneFlags::CLONE_NEWUSER)?;
    // The kernel wants this before it lets an ordinary user map a group.
    fs::write("/proc/self/setgroups", "deny")?;
    fs::write("/proc/self/uid_map", format!("{user} {user} 1"))?;
    fs::write("/proc/self/gid_map", format!("{group} {group} 1"))
}

fn named(e: io::Error, what: &str) -> io::Error {
    io::Error::new(e.kind(), format!("{what}: {e}"))
}

struct Plan {
    site: PathBuf,
    programs: Vec<PathBuf>,
    file: Option<PathBuf>,
}

impl Plan {
    /// Turns the calling thread into one that lives in the room.
    fn build(&self) -> io::Result<()> {
        unshare(
            CloneFlags::CLONE_FS
                | CloneFlags::CLONE_NEWNS
                | CloneFlags::CLONE_NEWNET
                | CloneFlags::CLONE_NEWIPC
                | CloneFlags::CLONE_NEWUTS,
        )
        .map_err(|e| named(e.into(), "leaving the host's namespaces"))?;
        // First of all: what is mounted from here on must never show on the host.
        attach(
            None,
            Path::new("/"),
            None,
            MsFlags::MS_REC | MsFlags::MS_PRIVATE,
        )?;
        let root = &self.site;
        tmpfs(root, "size=16m,mode=0755")?;
        for name in ["dev", "proc", "tmp", "export", "old"] {
            fs::create_dir(root.join(name))?;
        }
        tmpfs(&root.join("tmp"), "size=64m,mode=0700")?;
        devices(root)?;
        // Tools ask what is mounted and what is swapped on. In here, nothing is.
        fs::write(root.join("proc/mounts"), "")?;
        fs::write(
            root.join("proc/swaps"),
            "Filename Type Size Used Priority\n",
        )?;
        for path in SYSTEM.iter().map(Path::new) {
            show(root, path)?;
        }
        for path in self.programs.iter().filter(|path| may_show(path)) {
            // What cannot be shown has no programs that start; whoever needs one will be told.
            let _ = show(root, path);
        }
        if let Some(file) = &self.file {
            let place = root.join(FILE.trim_start_matches('/'));
            fs::write(&place, "")?;
            attach(Some(file), &place, None, MsFlags::MS_BIND)?;
            restrict(&place, MsFlags::MS_NODEV | MsFlags::MS_NOEXEC)?;
        }
        move_in(root)
    }
}

/// Makes `root` the root of this thread, and lets go of everything else.
fn move_in(root: &Path) -> io::Result<()> {
    std::env::set_current_dir(root)?;
    pivot_root(".", "old").map_err(|e| named(e.into(), "pivot_root"))?;
    std::env::set_current_dir("/")?;
    umount2("/old", MntFlags::MNT_DETACH)?;
    fs::remove_dir("/old")?;
    restrict(
        Path::new("/"),
        MsFlags::MS_RDONLY | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC,
    )
}

fn attach(
    source: Option<&Path>,
    target: &Path,
    kind: Option<&str>,
    flags: MsFlags,
) -> io::Result<()> {
    mount(source, target, kind, flags, None::<&str>)
        .map_err(|e| named(e.into(), &format!("mounting {}", target.display())))
}

fn tmpfs(target: &Path, options: &str) -> io::Result<()> {
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
    mount(Some("room"), target, Some("tmpfs"), flags, Some(options))
        .map_err(|e| named(e.into(), "mounting a tmpfs"))
}

/// Adds `flags` to those that a mount has. Inside a user namespace, taking one away is forbidden.
fn restrict(target: &Path, flags: MsFlags) -> io::Result<()> {
    let now = statvfs(target)?.flags();
    let keep = [
        (FsFlags::ST_NODEV, MsFlags::MS_NODEV),
        (FsFlags::ST_NOEXEC, MsFlags::MS_NOEXEC),
        (FsFlags::ST_NOATIME, MsFlags::MS_NOATIME),
        (FsFlags::ST_NODIRATIME, MsFlags::MS_NODIRATIME),
        (FsFlags::ST_RELATIME, MsFlags::MS_RELATIME),
    ];
    let mut all = flags | MsFlags::MS_NOSUID | MsFlags::MS_BIND | MsFlags::MS_REMOUNT;
    for (has, flag) in keep {
        if now.contains(has) {
            all |= flag;
        }
    }
    attach(None, target, None, all)
}

/// A few devices that are no way to anything.
fn devices(root: &Path) -> io::Result<()> {
    for name in DEVICES {
        let (source, place) = (Path::new("/dev").join(name), root.join("dev").join(name));
        if fs::metadata(&source).is_ok_and(|m| m.file_type().is_char_device()) {
            fs::write(&place, "")?;
            attach(Some(&source), &place, None, MsFlags::MS_BIND)?;
        }
    }
    Ok(())
}

/// Whether a directory of programs is one that can be shown. `/` would show the target, and the
/// rest is what the room has its own of.
fn may_show(path: &Path) -> bool {
    let own = ["/dev", "/proc", "/export", "/old"];
    path.is_absolute()
        && path != Path::new("/")
        && path
            .components()
            .all(|part| matches!(part, Component::RootDir | Component::Normal(_)))
        && !own.iter().any(|dir| path.starts_with(dir))
}

/// Binds `path` of the host read-only to the same place under `root`. What is not there, or is
/// visible already, is passed over.
fn show(root: &Path, path: &Path) -> io::Result<()> {
    let place = root.join(path.strip_prefix("/").unwrap_or(path));
    let Ok(found) = fs::symlink_metadata(path) else {
        return Ok(());
    };
    if let (Ok(there), Ok(here)) = (fs::metadata(path), fs::metadata(&place))
        && (there.dev(), there.ino()) == (here.dev(), here.ino())
    {
        return Ok(());
    }
    if let Some(parent) = place.parent() {
        fs::create_dir_all(parent)?;
    }
    if found.is_symlink() {
        return symlink(fs::read_link(path)?, &place);
    }
    if found.is_dir() {
        fs::create_dir_all(&place)?;
    } else {
        fs::write(&place, "")?;
    }
    attach(Some(path), &place, None, MsFlags::MS_BIND)?;
    restrict(&place, MsFlags::MS_RDONLY | MsFlags::MS_NODEV)
}
