//! Which processes keep a device or a mount busy. A bounded look, for messages alone: links in
//! `/proc` are read, never followed, so that a dead network mount cannot hang us.

use std::ffi::OsStr;
use std::fs::File;
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use super::{DevNumber, Host};
use crate::units::escape_bytes;

/// Processes that are looked at.
const MAX_PROCESSES: usize = 8192;
/// Open files of one process that are looked at.
const MAX_FILES: usize = 4096;
/// Bytes of one process's table of mapped files that are looked at.
const MAX_MAPS_BYTES: u64 = 1 << 20;

/// A process that uses a device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Process {
    /// Its number.
    pub pid: u32,
    /// Its name, escaped.
    pub name: String,
    /// `has a file open`, `works in a directory there`.
    pub how: String,
}

/// Processes that have one of `nodes` open, or files at or below one of `mountpoints`, or files
/// of one of `devices` mapped. Where it cannot look (another user's process) it sees nothing.
pub fn users_of(
    host: &Host,
    nodes: &[PathBuf],
    mountpoints: &[PathBuf],
    devices: &[DevNumber],
) -> Vec<Process> {
    let mut pids: Vec<u32> = host
        .links(&host.proc)
        .iter()
        .filter_map(|n| n.to_str()?.parse().ok())
        .collect();
    pids.sort_unstable();
    pids.truncate(MAX_PROCESSES);
    let look = |&pid: &u32| {
        let place = host.proc.join(pid.to_string());
        let how = how_used(host, &place, nodes, mountpoints, devices)?;
        Some(Process {
            pid,
            name: name_of(&place),
            how: how.into(),
        })
    };
    pids.iter().filter_map(look).collect()
}

/// The name of a process, escaped; empty where it is gone.
pub(in crate::disk) fn name_of(place: &Path) -> String {
    let name = std::fs::read(place.join("comm")).unwrap_or_default();
    escape_bytes(name.strip_suffix(b"\n").unwrap_or(&name))
}

fn how_used(
    host: &Host,
    place: &Path,
    nodes: &[PathBuf],
    mountpoints: &[PathBuf],
    devices: &[DevNumber],
) -> Option<&'static str> {
    let target = |link: &Path| std::fs::read_link(link).ok();
    let below = |path: &Path| mountpoints.iter().any(|m| path.starts_with(m));
    if target(&place.join("cwd")).is_some_and(|p| below(&p)) {
        return Some("works in a directory there");
    }
    if target(&place.join("root")).is_some_and(|p| p != Path::new("/") && below(&p)) {
        return Some("has its root there");
    }
    if target(&place.join("exe")).is_some_and(|p| below(&p)) {
        return Some("is a program from there");
    }
    let fds = place.join("fd");
    for fd in host.links(&fds).iter().take(MAX_FILES) {
        let Some(path) = target(&fds.join(fd)) else {
            continue;
        };
        if nodes.contains(&path) {
            return Some("has the device open");
        }
        if below(&path) {
            return Some("has a file open there");
        }
    }
    maps(place, &below, devices).then_some("has a file mapped there")
}

/// Whether a line of `maps` names one of the devices (`fd:01`, in hexadecimal) or a path below.
fn maps(place: &Path, below: &dyn Fn(&Path) -> bool, devices: &[DevNumber]) -> bool {
    let mut text = Vec::new();
    let Ok(file) = File::open(place.join("maps")) else {
        return false;
    };
    if file.take(MAX_MAPS_BYTES).read_to_end(&mut text).is_err() {
        return false;
    }
    let wanted: Vec<String> = devices
        .iter()
        .map(|d| format!("{:02x}:{:02x}", d.major, d.minor))
        .collect();
    text.split(|&b| b == b'\n').any(|line| {
        let mut fields = line.split(|&b| b == b' ').filter(|f| !f.is_empty());
        let device = fields.nth(3).unwrap_or_default();
        let path = fields.nth(1).unwrap_or_default();
        wanted.iter().any(|w| w.as_bytes() == device)
            || (path.starts_with(b"/") && below(Path::new(OsStr::from_bytes(path))))
    })
}
