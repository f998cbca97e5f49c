//! The mail server of a store: whether it runs, and what to type so that it looks again.

use std::collections::BTreeSet;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use super::finding::{Finding, Store};
use super::place::{last, parent};
use crate::disk::survey::{Host, Process, shell_word, users_of};
use crate::report::Refusal;
use crate::units::escape_bytes;

/// Names of processes that serve mail from a store.
const SERVERS: [&str; 12] = [
    "dovecot",
    "imap",
    "imap-login",
    "pop3",
    "lmtp",
    "imapd",
    "pop3d",
    "lmtpd",
    "cyrmaster",
    "cyrus-master",
    "courier-imapd",
    "MailService",
];

/// A refusal where a server works on one of these mailboxes, or may at any moment.
pub fn in_use(host: &Host, mailboxes: &BTreeSet<PathBuf>, stores: &[Store]) -> Option<Refusal> {
    let roots: Vec<PathBuf> = mailboxes.iter().cloned().collect();
    let me = std::process::id();
    // A shell that stands in a directory is no server.
    let open: Vec<Process> = users_of(host, &[], &roots, &[])
        .into_iter()
        .filter(|process| process.pid != me && process.how.contains("file"))
        .collect();
    let mut who: Vec<String> = (open.iter())
        .map(|p| format!("{} (process {}) {}", p.name, p.pid, p.how))
        .collect();
    if who.is_empty() {
        who = running(host, stores);
    }
    let first = who.first()?;
    let more = match who.len() {
        1 => String::new(),
        n => format!(", and {} more", n - 1),
    };
    Some(Refusal::new(
        "store-in-use",
        format!("a server may be using the store: {first}{more}"),
        "stop the server, or add --online where it can bear that messages vanish",
    ))
}

fn running(host: &Host, stores: &[Store]) -> Vec<String> {
    let foreign = stores.iter().all(|store| *store == Store::Eml);
    let Ok(entries) = std::fs::read_dir(&host.proc) else {
        return Vec::new();
    };
    let mut found = Vec::new();
    for entry in entries.flatten().filter(|_| !foreign) {
        let Some(pid) = entry
            .file_name()
            .to_str()
            .and_then(|name| name.parse::<u32>().ok())
        else {
            continue;
        };
        let name = std::fs::read(entry.path().join("comm")).unwrap_or_default();
        let name = name.strip_suffix(b"\n").unwrap_or(&name);
        if SERVERS.iter().any(|server| server.as_bytes() == name) {
            found.push(format!("{} (process {pid}) is running", escape_bytes(name)));
        }
    }
    found.sort();
    found
}

/// What to run so that the indexes follow, one command for each mailbox. Holdfast does not touch
/// indexes: their programs know what else is in them.
pub fn commands(findings: &[&Finding]) -> Vec<String> {
    let mut commands = BTreeSet::new();
    for finding in findings {
        let mailbox = &finding.mailbox.0;
        match finding.store {
            Store::Maildir | Store::Sdbox | Store::Mdbox => {
                let (user, folder) = user_and_folder(mailbox);
                commands.insert(format!(
                    "doveadm force-resync -u {} {}",
                    word(&user),
                    word(&folder)
                ));
            }
            Store::Cyrus => {
                commands.insert(format!("reconstruct -P {}", word(mailbox)));
            }
            Store::Mbox | Store::Eml | Store::SmarterMail => {}
        }
    }
    commands.into_iter().collect()
}

fn word(bytes: &[u8]) -> String {
    shell_word(Path::new(std::ffi::OsStr::from_bytes(bytes)))
}

/// The user and the mailbox as Dovecot names them, from common layouts: `…/example.org/anna/Maildir`
/// is `anna@example.org`; `…/anna/Maildir/.Sent` is `Sent` of `anna`.
fn user_and_folder(mailbox: &[u8]) -> (Vec<u8>, Vec<u8>) {
    let name = last(mailbox);
    let (mut home, folder) = match name {
        // Maildir++: the dots are those of Dovecot's separator.
        [b'.', folder @ ..] => (parent(mailbox), folder.to_vec()),
        _ => match memchr::memmem::find(mailbox, b"/mailboxes/") {
            Some(at) => {
                let folder = mailbox.get(at + b"/mailboxes/".len()..).unwrap_or_default();
                (mailbox.get(..at).unwrap_or_default(), folder.to_vec())
            }
            None => (mailbox, b"INBOX".to_vec()),
        },
    };
    let usual: [&[u8]; 7] = [
        b"Maildir",
        b"maildir",
        b"mail",
        b"Mail",
        b"mdbox",
        b"sdbox",
        b".maildir",
    ];
    while usual.contains(&last(home)) {
        home = parent(home);
    }
    let user = last(home).to_vec();
    let domain = last(parent(home));
    let user = match domain.contains(&b'.') && !user.contains(&b'@') {
        true => [&user[..], b"@", domain].concat(),
        false => user,
    };
    (user, folder)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn users_and_folders_of_common_layouts() {
        let of = |path: &str| {
            let (user, folder) = user_and_folder(path.as_bytes());
            [user, folder]
                .map(|b| String::from_utf8(b).unwrap())
                .join(" ")
        };
        assert_eq!(of("/home/u1/Maildir"), "u1 INBOX");
        assert_eq!(of("/home/u1/Maildir/.Sent.2024"), "u1 Sent.2024");
        assert_eq!(
            of("/var/vmail/example.org/u1/Maildir"),
            "u1@example.org INBOX"
        );
        assert_eq!(
            of("/var/vmail/example.org/u1/sdbox/mailboxes/A/B"),
            "u1@example.org A/B"
        );
    }
}
