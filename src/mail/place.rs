//! Which store a directory and a file belong to, from names alone. What a name cannot tell, the
//! first bytes of the file do: see [`sniff`].

use super::finding::Store;

/// What a directory is in a mail store.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Place {
    /// Nothing special.
    #[default]
    Plain,
    /// The top of a Maildir.
    Maildir,
    /// `cur` or `new` of a Maildir.
    Messages,
    /// `tmp` of a Maildir: deliveries that are under way.
    Deliveries,
    /// `dbox-Mails` of Dovecot.
    Dbox,
    /// `storage` of an mdbox.
    Storage,
    /// A mailbox of Cyrus.
    Cyrus,
    /// A directory of SmarterMail.
    SmarterMail,
}

/// Whether a directory has a file or directory of this name.
pub type Has<'a> = &'a dyn Fn(&[u8]) -> bool;

/// What a directory is, from its path, what it has, and what is beside it.
pub fn place(path: &[u8], has: Has<'_>, beside: Has<'_>) -> Place {
    let is_maildir = |has: Has<'_>| {
        let parts: [&[u8]; 3] = [b"cur", b"new", b"tmp"];
        parts.iter().filter(|name| has(name)).count() >= 2
    };
    match last(path) {
        b"cur" | b"new" if is_maildir(beside) => return Place::Messages,
        b"tmp" if is_maildir(beside) => return Place::Deliveries,
        b"dbox-Mails" => return Place::Dbox,
        b"storage" if has(b"dovecot.map.index") || has(b"dovecot.map.index.log") || has(b"m.1") => {
            return Place::Storage;
        }
        _ => {}
    }
    let smarter: [&[u8]; 4] = [
        b"mailbox.cfg",
        b"folders.json",
        b"settings.json",
        b"root.cfg",
    ];
    if is_maildir(has) {
        Place::Maildir
    } else if has(b"cyrus.header") || has(b"cyrus.index") {
        Place::Cyrus
    } else if smarter.iter().any(|name| has(name)) || below_smartermail(path) {
        Place::SmarterMail
    } else {
        Place::Plain
    }
}

/// `Domains/<domain>/Users/<user>/…`
fn below_smartermail(path: &[u8]) -> bool {
    let parts: Vec<&[u8]> = path.split(|&byte| byte == b'/').collect();
    parts
        .windows(3)
        .any(|three| three[0] == b"Domains" && three[2] == b"Users")
}

/// The last part of a path.
pub fn last(path: &[u8]) -> &[u8] {
    path.rsplit(|&byte| byte == b'/').next().unwrap_or(path)
}

/// The path without its last part.
pub fn parent(path: &[u8]) -> &[u8] {
    let at = memchr::memrchr(b'/', path).unwrap_or(0);
    path.get(..at).unwrap_or_default()
}

/// What a file is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// One message.
    Message(Store),
    /// A message that is being delivered.
    Delivery,
    /// Messages in a row.
    Mbox,
    /// A file of Dovecot's dbox: one message or several.
    Dbox(Store),
    /// Dovecot's list of the UIDs of a Maildir.
    Uidlist,
    /// An index of Dovecot.
    DovecotIndex(Index),
    /// Cyrus's own files.
    CyrusHeader,
    /// Cyrus's index.
    CyrusIndex,
    /// A file that must be JSON.
    Json,
    /// A container of which only its zero bytes can be judged.
    Container,
    /// Its first bytes decide.
    Unknown,
    /// Nothing that a mail store keeps for long.
    Ignored,
}

/// Which of Dovecot's index files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Index {
    /// `dovecot.index`, `dovecot.list.index`, `dovecot.map.index`.
    Main,
    /// `….log`, `….log.2`.
    Log,
    /// `….cache`.
    Cache,
}

/// What a file is, as far as its name and place say.
pub fn role(place: Place, name: &[u8]) -> Role {
    if let Some(index) = dovecot_index(name) {
        return Role::DovecotIndex(index);
    }
    let lower = name.to_ascii_lowercase();
    match place {
        Place::Messages => return Role::Message(Store::Maildir),
        Place::Deliveries => return Role::Delivery,
        Place::Maildir if name == b"dovecot-uidlist" => return Role::Uidlist,
        Place::Dbox if numbered(name, b"u.") => return Role::Dbox(Store::Sdbox),
        Place::Storage if numbered(name, b"m.") => return Role::Dbox(Store::Mdbox),
        Place::Cyrus if is_cyrus_message(name) => return Role::Message(Store::Cyrus),
        Place::Cyrus if name == b"cyrus.header" => return Role::CyrusHeader,
        Place::Cyrus if name == b"cyrus.index" => return Role::CyrusIndex,
        Place::SmarterMail if lower.ends_with(b".grp") || lower.ends_with(b".cfg") => {
            return Role::Container;
        }
        Place::SmarterMail if lower.ends_with(b".json") => return Role::Json,
        Place::Maildir | Place::Dbox | Place::Storage | Place::Cyrus | Place::SmarterMail => {}
        Place::Plain => {}
    }
    match () {
        () if lower.ends_with(b".eml") => Role::Message(Store::Eml),
        () if lower.ends_with(b".mbox") || lower.ends_with(b".mbx") => Role::Mbox,
        () if lower.ends_with(b".lock") || ends_as_program_data(&lower) => Role::Ignored,
        () if matches!(place, Place::Plain | Place::Maildir) && !name.starts_with(b".") => {
            Role::Unknown
        }
        () => Role::Ignored,
    }
}

fn ends_as_program_data(lower: &[u8]) -> bool {
    let known: [&[u8]; 9] = [
        b".gz", b".db", b".msf", b".dat", b".sqlite", b".sieve", b".svbin", b".log", b".grp",
    ];
    known.iter().any(|end| lower.ends_with(end))
}

/// `u.17`, `m.3`.
fn numbered(name: &[u8], prefix: &[u8]) -> bool {
    name.strip_prefix(prefix)
        .is_some_and(|digits| !digits.is_empty() && digits.iter().all(u8::is_ascii_digit))
}

/// `17.`
pub fn is_cyrus_message(name: &[u8]) -> bool {
    name.strip_suffix(b".")
        .is_some_and(|digits| !digits.is_empty() && digits.iter().all(u8::is_ascii_digit))
}

fn dovecot_index(name: &[u8]) -> Option<Index> {
    let rest = name.strip_prefix(b"dovecot.")?;
    let rest = rest
        .strip_prefix(b"list.")
        .or_else(|| rest.strip_prefix(b"map."))
        .unwrap_or(rest)
        .strip_prefix(b"index")?;
    match rest {
        b"" => Some(Index::Main),
        b".log" | b".log.2" => Some(Index::Log),
        b".cache" => Some(Index::Cache),
        _ => None,
    }
}

/// The mailbox that a file belongs to.
pub fn mailbox(directory: &[u8], place: Place, role: Role, path: &[u8]) -> Vec<u8> {
    match (place, role) {
        (_, Role::Mbox) => path.to_vec(),
        (Place::Messages | Place::Deliveries | Place::Dbox, _) => parent(directory).to_vec(),
        _ => directory.to_vec(),
    }
}

/// What the first bytes of a file with an unknown name say.
pub fn sniff(head: &[u8]) -> Role {
    if head.starts_with(b"From ") && super::mbox::is_postmark(first_line(head)) {
        return Role::Mbox;
    }
    let mut fields = 0;
    let mut known = 0;
    for line in head.split(|&byte| byte == b'\n').take(40) {
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        match super::header::field(line) {
            Some((name, _)) => {
                fields += 1;
                known += u32::from(super::header::is_well_known(name));
            }
            None if line.first().is_some_and(|b| matches!(b, b' ' | b'\t')) && fields > 0 => {}
            None => break,
        }
    }
    // A file of settings has lines with colons too: a message has at least these.
    match fields >= 3 && known >= 2 {
        true => Role::Message(Store::Eml),
        false => Role::Ignored,
    }
}

fn first_line(bytes: &[u8]) -> &[u8] {
    bytes
        .split(|&byte| byte == b'\n')
        .next()
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(path: &[u8], has: &[&str], beside: &[&str]) -> Place {
        let among = |names: &[&str], name: &[u8]| names.iter().any(|n| n.as_bytes() == name);
        place(path, &|n| among(has, n), &|n| among(beside, n))
    }

    #[test]
    fn stores_are_known_by_their_directories() {
        let three = ["cur", "new", "tmp"];
        assert_eq!(at(b"a/Maildir", &three, &[]), Place::Maildir);
        assert_eq!(at(b"a/Maildir/cur", &[], &three), Place::Messages);
        assert_eq!(at(b"a/Maildir/tmp", &[], &three), Place::Deliveries);
        assert_eq!(at(b"a/cur", &[], &["cur"]), Place::Plain);
        assert_eq!(at(b"m/INBOX/dbox-Mails", &[], &[]), Place::Dbox);
        assert_eq!(at(b"m/storage", &["m.1"], &[]), Place::Storage);
        assert_eq!(at(b"m/storage", &[], &[]), Place::Plain);
        assert_eq!(at(b"u/user/x", &["cyrus.index"], &[]), Place::Cyrus);
        assert_eq!(
            at(b"Domains/example.org/Users/u1/Mail/Inbox", &[], &[]),
            Place::SmarterMail
        );
    }

    #[test]
    fn files_are_known_by_place_and_name() {
        assert_eq!(
            role(Place::Messages, b"1.M2.h:2,S"),
            Role::Message(Store::Maildir)
        );
        assert_eq!(
            role(Place::Messages, b"dovecot.index.log"),
            Role::DovecotIndex(Index::Log)
        );
        assert_eq!(role(Place::Maildir, b"dovecot-uidlist"), Role::Uidlist);
        assert_eq!(role(Place::Dbox, b"u.12"), Role::Dbox(Store::Sdbox));
        assert_eq!(role(Place::Dbox, b"u.x"), Role::Ignored);
        assert_eq!(role(Place::Cyrus, b"12."), Role::Message(Store::Cyrus));
        assert_eq!(role(Place::SmarterMail, b"2024.GRP"), Role::Container);
        assert_eq!(role(Place::Plain, b"x.EML"), Role::Message(Store::Eml));
        assert_eq!(role(Place::Plain, b"INBOX"), Role::Unknown);
    }

    #[test]
    fn a_file_without_a_telling_name_is_known_by_its_head() {
        let message = b"Received: from a\n\tby b\nFrom: a@example.org\nSubject: x\n\nbody";
        assert_eq!(sniff(message), Role::Message(Store::Eml));
        assert_eq!(sniff(b"name: x\nport: 1\nhost: y\n"), Role::Ignored);
        let mbox = b"From a@example.org Thu Jan  2 03:04:05 2020\nFrom: a\n\n";
        assert_eq!(sniff(mbox), Role::Mbox);
        assert_eq!(sniff(b"From here on it is text\n"), Role::Ignored);
    }
}
