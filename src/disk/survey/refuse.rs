//! A use as a refusal that says who, and what to do about it, in the order to do it.

use std::collections::BTreeSet;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use super::process::name_of;
use super::{DevNumber, Host, Mount, Process, Use, users_of};
use crate::disk::mounts::mounts_of;
use crate::report::Refusal;
use crate::units::{escape, escape_bytes};

/// Names in one sentence before "and so many more".
const MAX_NAMED: usize = 8;
/// Processes whose name spaces are looked into.
const MAX_PROCESSES: usize = 8192;

/// The refusals for what [`super::uses`] found of the device `number` at `node`: `mounted`,
/// `swap`, `held`.
pub fn refusals(host: &Host, number: DevNumber, node: &Path, uses: &[Use]) -> Vec<Refusal> {
    let shown = shown(node);
    let refuse = |u: &Use| match u {
        Use::Mounted { mounts } => mounted(host, number, node, mounts),
        Use::Swap { path } => Refusal::new(
            "swap",
            format!("{shown} is in use as swap space."),
            format!("swapoff {}", shell_word(path)),
        ),
        Use::Holder { name, what } => Refusal::new(
            "held",
            format!("{shown} is in use by {what} ({}).", escape(name)),
            "Resize it with the tools that own it, or stop that device first.",
        ),
    };
    uses.iter().map(refuse).collect()
}

fn mounted(host: &Host, number: DevNumber, node: &Path, mounts: &[Mount]) -> Refusal {
    let places: Vec<PathBuf> = mounts.iter().map(|m| m.mountpoint.clone()).collect();
    let devices: BTreeSet<DevNumber> = mounts.iter().map(|m| m.device).collect();
    let devices: Vec<DevNumber> = devices.into_iter().collect();
    let root = places.iter().any(|p| p == Path::new("/"));
    let own = mounts
        .iter()
        .filter(|m| m.device == number || m.source == node);
    let named: Vec<String> = own.map(|m| shown(&m.mountpoint)).collect();
    let named = if named.is_empty() {
        places.iter().map(|p| shown(p)).collect()
    } else {
        named
    };
    let mut message = format!("{} is mounted at {}.", shown(node), list(&named));
    if root {
        let hint = "It is the root of the running system. Start the machine from a rescue or live \
                    system, and run holdfast there.";
        return Refusal::new("mounted", message, hint);
    }
    let processes = users_of(host, &[node.to_path_buf()], &places, &devices);
    if !processes.is_empty() {
        let names: Vec<String> = processes.iter().map(describe).collect();
        message.push_str(&format!(" In use by {}.", list(&names)));
    }
    let commands: Vec<String> = places
        .iter()
        .map(|p| format!("umount {}", shell_word(p)))
        .collect();
    let units: Vec<String> = places.iter().map(|p| unit_of(p)).collect();
    let automatic = mounts.iter().any(|m| m.fs_kind == "autofs");
    let also = if automatic {
        " An automounter watches it: stop the .automount unit of the same name as well."
    } else {
        ""
    };
    let mut hint = String::new();
    if !processes.is_empty() {
        hint.push_str("Stop what uses it. ");
    }
    hint.push_str(&format!(
        "Unmount in this order: {}. Where systemd manages the mount it may come back by itself; \
         use: systemctl stop {}.{also}",
        commands.join(" && "),
        units
            .iter()
            .map(|u| shell_word(Path::new(u)))
            .collect::<Vec<_>>()
            .join(" "),
    ));
    Refusal::new("mounted", message, hint)
}

/// Why an exclusive open of `node` fails though nothing is mounted here: mounts in other name
/// spaces (containers, services) and processes that have the node open. Empty where nothing is
/// found.
pub(in crate::disk) fn explain_busy(host: &Host, number: DevNumber, node: &Path) -> String {
    let mut found = Vec::new();
    let mut seen = BTreeSet::new();
    let pids = host.links(&host.proc);
    let pids = pids.iter().filter_map(|n| n.to_str()?.parse::<u32>().ok());
    for pid in pids.take(MAX_PROCESSES) {
        let place = host.proc.join(pid.to_string());
        let space = std::fs::read_link(place.join("ns/mnt")).unwrap_or_default();
        if !seen.insert(space) {
            continue;
        }
        let mounts = mounts_of(&place).unwrap_or_default();
        if let Some(m) = mounts.iter().find(|m| m.device == number) {
            found.push(format!(
                "it is mounted at {} for {} (process {pid})",
                shown(&m.mountpoint),
                name_of(&place)
            ));
        }
    }
    if found.is_empty() {
        let processes = users_of(host, &[node.to_path_buf()], &[], &[]);
        let own = std::process::id();
        let others = processes.iter().filter(|p| p.pid != own);
        found.extend(others.map(describe));
    }
    match found.is_empty() {
        true => String::new(),
        false => list(&found),
    }
}

fn describe(process: &Process) -> String {
    format!(
        "{} (process {}, {})",
        process.name, process.pid, process.how
    )
}

/// `a, b and c`, at most a handful.
fn list(names: &[String]) -> String {
    let more = names.len().saturating_sub(MAX_NAMED);
    let named = &names[..names.len() - more];
    match (more, named) {
        (0, [only]) => only.clone(),
        (0, [all @ .., last]) => format!("{} and {last}", all.join(", ")),
        _ => format!("{} and {more} more", named.join(", ")),
    }
}

fn shown(path: &Path) -> String {
    escape_bytes(path.as_os_str().as_bytes())
}

/// A path as a word that a shell takes literally, and a terminal too: `$'…'` where it must be.
pub fn shell_word(path: &Path) -> String {
    let bytes = path.as_os_str().as_bytes();
    let plain = |b: &u8| b.is_ascii_alphanumeric() || b"/._-:@%+=,".contains(b);
    if !bytes.is_empty() && bytes.iter().all(plain) {
        return String::from_utf8_lossy(bytes).into_owned();
    }
    let mut word = String::from("$'");
    for &byte in bytes {
        match byte {
            b'\'' | b'\\' => word.push_str(&format!("\\{}", byte as char)),
            0x20..=0x7e => word.push(byte as char),
            _ => word.push_str(&format!("\\x{byte:02x}")),
        }
    }
    word.push('\'');
    word
}

/// The systemd unit of a mountpoint, by the rules of `systemd.unit(5)`: `/srv/my-mail` is
/// `srv-my\x2dmail.mount`.
pub fn unit_of(mountpoint: &Path) -> String {
    let bytes = mountpoint.as_os_str().as_bytes();
    let parts: Vec<&[u8]> = bytes
        .split(|&b| b == b'/')
        .filter(|p| !p.is_empty())
        .collect();
    if parts.is_empty() {
        return "-.mount".into();
    }
    let mut unit = String::new();
    for (i, byte) in parts.join(&b'/').into_iter().enumerate() {
        match byte {
            b'/' => unit.push('-'),
            b'.' if i == 0 => unit.push_str("\\x2e"),
            b if b.is_ascii_alphanumeric() || b":_.".contains(&b) => unit.push(b as char),
            b => unit.push_str(&format!("\\x{b:02x}")),
        }
    }
    unit + ".mount"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units_are_named_as_systemd_names_them() {
        // From systemd-escape --path --suffix=mount.
        for (path, unit) in [
            ("/", "-.mount"),
            ("/srv/mail", "srv-mail.mount"),
            ("/srv//mail/", "srv-mail.mount"),
            ("/srv/my-mail", "srv-my\\x2dmail.mount"),
            ("/.snap/a b", "\\x2esnap-a\\x20b.mount"),
            ("/mnt/\u{e4}", "mnt-\\xc3\\xa4.mount"),
        ] {
            assert_eq!(unit_of(Path::new(path)), unit);
        }
    }

    #[test]
    fn words_are_safe_in_a_shell_and_on_a_terminal() {
        assert_eq!(shell_word(Path::new("/srv/mail")), "/srv/mail");
        assert_eq!(shell_word(Path::new("/a b")), "$'/a b'");
        assert_eq!(shell_word(Path::new("/a'b\\c\x1b")), "$'/a\\'b\\\\c\\x1b'");
        assert_eq!(
            shell_word(Path::new("srv-my\\x2dmail.mount")),
            "$'srv-my\\\\x2dmail.mount'"
        );
        assert_eq!(shell_word(Path::new("$(reboot)")), "$'$(reboot)'");
    }

    #[test]
    fn lists_end() {
        let names: Vec<String> = (0..12).map(|i| i.to_string()).collect();
        assert_eq!(list(&names[..1]), "0");
        assert_eq!(list(&names[..3]), "0, 1 and 2");
        assert_eq!(list(&names), "0, 1, 2, 3, 4, 5, 6, 7 and 4 more");
    }
}
