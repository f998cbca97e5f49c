//! Stores on disk, written as their servers write them.

use std::fs;
use std::path::{Path, PathBuf};

use super::honest::{Seed, crlf, message};

/// Which store a test is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// With `S=` and `W=`.
    Maildir,
    /// Without.
    PlainMaildir,
    Mbox,
    Sdbox,
    Mdbox,
    Cyrus,
    Eml,
}

pub const ALL: [Kind; 7] = [
    Kind::Maildir,
    Kind::PlainMaildir,
    Kind::Mbox,
    Kind::Sdbox,
    Kind::Mdbox,
    Kind::Cyrus,
    Kind::Eml,
];

/// A store of one kind, and where its messages are.
pub struct Store {
    pub kind: Kind,
    /// The file and the range of each message.
    pub messages: Vec<(PathBuf, std::ops::Range<usize>)>,
}

fn bare(bytes: &[u8]) -> usize {
    crlf(bytes).len()
}

/// Writes `count` messages below `root`.
pub fn write(root: &Path, kind: Kind, count: u64, seed: &mut Seed) -> Store {
    let mut store = Store {
        kind,
        messages: Vec::new(),
    };
    let mail: Vec<Vec<u8>> = (0..count)
        .map(|n| {
            // One in ten was sent to two here, or copied to another folder.
            match seed.below(10) {
                0 if n > 0 => Vec::new(),
                _ => message(seed, n),
            }
        })
        .collect();
    let of = |n: usize| match mail[n].is_empty() {
        true => (0..n)
            .rev()
            .map(|m| &mail[m])
            .find(|m| !m.is_empty())
            .unwrap(),
        false => &mail[n],
    };
    match kind {
        Kind::Maildir | Kind::PlainMaildir => {
            for part in ["cur", "new", "tmp", ".Sent/cur", ".Sent/new", ".Sent/tmp"] {
                fs::create_dir_all(root.join(part)).unwrap();
            }
            let mut list = "3 V1577934245 N1 G0123456789abcdef0123456789abcdef\n".to_string();
            for n in 0..mail.len() {
                let bytes = of(n);
                let base = match kind {
                    Kind::Maildir => {
                        format!("1577934245.M{n}P1.mx,S={},W={}", bytes.len(), bare(bytes))
                    }
                    _ => format!("1577934245.{n}_0.mx"),
                };
                let (dir, name) = match n % 3 {
                    0 => ("cur", format!("{base}:2,S")),
                    1 => ("new", base.clone()),
                    _ => (".Sent/cur", format!("{base}:2,RS")),
                };
                if n % 3 < 2 {
                    list.push_str(&format!("{} :{base}\n", n + 1));
                }
                store.put(root.join(dir).join(name), bytes);
            }
            fs::write(root.join("dovecot-uidlist"), list).unwrap();
            fs::write(root.join("subscriptions"), "V\t2\n\nSent\n").unwrap();
            fs::write(root.join("dovecot-acl"), "user=u1 lrws\n").unwrap();
            fs::write(root.join("maildirfolder"), "").unwrap();
            fs::write(
                root.join("tmp/1577934245.9.mx"),
                "From: u1@example.org\nSubj",
            )
            .unwrap();
            fs::write(root.join("tmp/1577934245.10.mx"), "").unwrap();
        }
        Kind::Mbox => {
            for (folder, numbers) in (0..mail.len()).collect::<Vec<_>>().chunks(200).enumerate() {
                let path = root.join(format!("folder-{folder}"));
                let mut bytes = Vec::new();
                for &n in numbers {
                    bytes.extend_from_slice(b"From u1@example.org Thu Jan  2 03:04:05 2020\n");
                    let start = bytes.len();
                    let mut quoted = Vec::new();
                    for line in of(n).split_inclusive(|b| *b == b'\n') {
                        let is_first = quoted.is_empty();
                        if line.starts_with(b"From ") && is_first {
                            continue;
                        }
                        if line.starts_with(b"From ") {
                            quoted.push(b'>');
                        }
                        quoted.extend_from_slice(line);
                    }
                    bytes.extend(quoted);
                    store.messages.push((path.clone(), start..bytes.len()));
                    if bytes.last() != Some(&b'\n') {
                        bytes.push(b'\n');
                    }
                    bytes.push(b'\n');
                }
                fs::create_dir_all(root).unwrap();
                fs::write(path, bytes).unwrap();
            }
            fs::write(root.join("empty"), "").unwrap();
        }
        Kind::Sdbox => {
            let dir = root.join("mailboxes/INBOX/dbox-Mails");
            fs::create_dir_all(&dir).unwrap();
            for n in 0..mail.len() {
                let mut bytes = b"2 M1e C5e0d5a65\n".to_vec();
                let range = dbox(&mut bytes, of(n));
                let path = dir.join(format!("u.{}", n + 1));
                fs::write(&path, bytes).unwrap();
                store.messages.push((path, range));
            }
        }
        Kind::Mdbox => {
            let dir = root.join("storage");
            fs::create_dir_all(&dir).unwrap();
            for (file, numbers) in (0..mail.len()).collect::<Vec<_>>().chunks(50).enumerate() {
                let path = dir.join(format!("m.{}", file + 1));
                let mut bytes = b"2 M1e C5e0d5a65\n".to_vec();
                for &n in numbers {
                    let range = dbox(&mut bytes, of(n));
                    store.messages.push((path.clone(), range));
                }
                fs::write(path, bytes).unwrap();
            }
        }
        Kind::Cyrus => {
            let dir = root.join("user/u1");
            fs::create_dir_all(&dir).unwrap();
            let mut index = vec![0u8; 128];
            let put = |index: &mut [u8], at: usize, n: u32| {
                index[at..at + 4].copy_from_slice(&n.to_be_bytes());
            };
            for (at, n) in [(0, 1), (8, 12), (12, 128), (16, 96), (20, count as u32)] {
                put(&mut index, at, n);
            }
            for n in 0..mail.len() {
                let bytes = crlf(of(n));
                let mut record = vec![0u8; 96];
                put(&mut record, 0, n as u32 + 1);
                put(&mut record, 12, bytes.len() as u32);
                let hash: [u8; 20] = <sha1::Sha1 as sha1::Digest>::digest(&bytes).into();
                record[60..80].copy_from_slice(&hash);
                index.extend(record);
                store.put(dir.join(format!("{}.", n + 1)), &bytes);
            }
            fs::write(dir.join("cyrus.index"), index).unwrap();
            let magic = b"\xa1\x02\x8b\x0dCyrus mailbox header\n\"The best thing about this system was that it had lots of goals.\"\n\t--Jim Morris on Andrew\nuser.u1\n";
            fs::write(dir.join("cyrus.header"), magic).unwrap();
        }
        Kind::Eml => {
            fs::create_dir_all(root.join("2020/01")).unwrap();
            for n in 0..mail.len() {
                store.put(root.join(format!("2020/01/{n}.eml")), of(n));
            }
            fs::write(root.join("notes.txt"), "Host: x\nPort: 1\nUser: y\n").unwrap();
        }
    }
    store
}

fn dbox(file: &mut Vec<u8>, bytes: &[u8]) -> std::ops::Range<usize> {
    file.extend(format!("\x01\x02N {:8} {:016x}\n", "", bytes.len()).into_bytes());
    let start = file.len();
    file.extend_from_slice(bytes);
    let end = file.len();
    let tail = format!(
        "\n\x01\x03\nG0123456789abcdef0123456789abcdef\nR5e0d5a65\nV{:x}\n\n",
        bare(bytes)
    );
    file.extend(tail.into_bytes());
    start..end
}

impl Store {
    fn put(&mut self, path: PathBuf, bytes: &[u8]) {
        fs::write(&path, bytes).unwrap();
        self.messages.push((path, 0..bytes.len()));
    }
}
