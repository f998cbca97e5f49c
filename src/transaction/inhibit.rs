//! Asks the system not to shut down or sleep while a target is in the middle of a change.
//!
//! A cut does no harm, but whoever shuts down by mistake finds a machine that needs recovery. Where
//! systemd runs, its own tool holds the lock for as long as its standard input is open, so it ends
//! with us, however that comes about. Where it does not, or will not, nothing is lost.

use std::io::PipeWriter;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};

/// Exists where systemd is the system's first process.
const RUNNING: &str = "/run/systemd/system";

/// The tool that takes a lock and holds it while a command runs.
const PROGRAM: &str = "/usr/bin/systemd-inhibit";

/// A lock against shutdown and sleep, until it is dropped.
#[derive(Debug)]
pub struct Inhibitor {
    child: Child,
    /// The other end is the command's standard input.
    held: Option<PipeWriter>,
}

impl Inhibitor {
    /// Takes the lock, where there is a system to ask.
    pub fn take() -> Option<Inhibitor> {
        if !Path::new(RUNNING).is_dir() {
            return None;
        }
        Inhibitor::by(Path::new(PROGRAM))
    }

    fn by(program: &Path) -> Option<Inhibitor> {
        let (reader, held) = std::io::pipe().ok()?;
        let child = Command::new(program)
            .args(["--what=shutdown:sleep", "--mode=block", "--who=holdfast"])
            .arg("--why=a partition is being resized")
            // Reads until we close the pipe, or die.
            .arg("cat")
            .env_clear()
            .env("PATH", "/usr/bin:/bin")
            .stdin(reader)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            // What is typed on the terminal is not for it.
            .process_group(0)
            .spawn()
            .ok()?;
        Some(Inhibitor {
            child,
            held: Some(held),
        })
    }
}

impl Drop for Inhibitor {
    fn drop(&mut self) {
        // Its command ends with the pipe; it itself may be waiting for an answer that never comes.
        self.held = None;
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;
    use std::time::{Duration, Instant};

    use nix::errno::Errno;
    use nix::sys::signal::killpg;
    use nix::unistd::Pid;

    use super::*;

    #[test]
    fn the_lock_is_held_until_it_is_dropped() {
        let dir = tempfile::tempdir().unwrap();
        let (program, said) = (dir.path().join("inhibit"), dir.path().join("said"));
        // As the real one does it: takes the lock, and runs the command at the end.
        let script = format!(
            "#!/bin/sh\necho \"taken $1 $2\" >{0}\nwhile [ $# -gt 1 ]; do shift; done\n\"$1\"\n",
            said.display()
        );
        fs::write(&program, script).unwrap();
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
        let lock = Inhibitor::by(&program).unwrap();
        let until = Instant::now() + Duration::from_secs(60);
        let now = || fs::read_to_string(&said).unwrap_or_default();
        while now().is_empty() && Instant::now() < until {
            std::thread::sleep(Duration::from_millis(5));
        }
        assert_eq!(now(), "taken --what=shutdown:sleep --mode=block\n");
        let group = Pid::from_raw(lock.child.id().cast_signed());
        assert_eq!(killpg(group, None), Ok(()));
        drop(lock);
        while killpg(group, None) != Err(Errno::ESRCH) {
            assert!(Instant::now() < until, "something still runs");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    #[test]
    fn where_there_is_no_such_program_there_is_no_lock() {
        assert!(Inhibitor::by(Path::new("/nonexistent/inhibit")).is_none());
    }
}
