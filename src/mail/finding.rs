//! What is said about a damaged message: one value, which programs, people and `quarantine` read.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::extent::Extent;
use crate::units::{escape_bytes, unescape_bytes};

/// What is wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// Nothing but zero bytes.
    Blank,
    /// No bytes at all.
    ZeroLength,
    /// A run of zero bytes within other content.
    NulRun,
    /// Its end is missing.
    Truncated,
    /// It holds content of another file.
    CrossLinked,
    /// Where the header should be there is none.
    GarbageHeader,
    /// Bytes that no message of its kind has.
    Garbage,
    /// The length differs from the one that the store keeps of it.
    SizeDiffers,
    /// A MIME part does not end.
    UnclosedMime,
    /// A block of it is also a block of another file, and fits there no better.
    SharedBlock,
    /// An index and the messages disagree.
    IndexDisagrees,
    /// A file in which the store keeps its own data is damaged.
    MetadataDamaged,
    /// The device or the file system gives an error instead of the content.
    Unreadable,
    /// Content that a manifest knows otherwise.
    Changed,
    /// A file of the manifest that is gone.
    Missing,
}

impl Kind {
    /// All of them, in the order of tables.
    pub const ALL: [Kind; 15] = [
        Kind::Blank,
        Kind::ZeroLength,
        Kind::NulRun,
        Kind::Truncated,
        Kind::CrossLinked,
        Kind::GarbageHeader,
        Kind::Garbage,
        Kind::SizeDiffers,
        Kind::UnclosedMime,
        Kind::SharedBlock,
        Kind::IndexDisagrees,
        Kind::MetadataDamaged,
        Kind::Unreadable,
        Kind::Changed,
        Kind::Missing,
    ];

    /// As it is printed and typed.
    pub fn name(self) -> &'static str {
        match self {
            Kind::Blank => "blank",
            Kind::ZeroLength => "zero-length",
            Kind::NulRun => "nul-run",
            Kind::Truncated => "truncated",
            Kind::CrossLinked => "cross-linked",
            Kind::GarbageHeader => "garbage-header",
            Kind::Garbage => "garbage",
            Kind::SizeDiffers => "size-differs",
            Kind::UnclosedMime => "unclosed-mime",
            Kind::SharedBlock => "shared-block",
            Kind::IndexDisagrees => "index-disagrees",
            Kind::MetadataDamaged => "metadata-damaged",
            Kind::Unreadable => "unreadable",
            Kind::Changed => "changed",
            Kind::Missing => "missing",
        }
    }
}

/// How sure it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Confidence {
    /// Odd, and yet there is honest mail like it.
    Suspicious,
    /// Honest mail hardly ever looks like this.
    Likely,
    /// The content contradicts itself, or what its store says of it.
    Certain,
}

impl Confidence {
    /// All of them, the surest first.
    pub const ALL: [Confidence; 3] = [
        Confidence::Certain,
        Confidence::Likely,
        Confidence::Suspicious,
    ];

    /// As it is printed and typed.
    pub fn name(self) -> &'static str {
        match self {
            Confidence::Suspicious => "suspicious",
            Confidence::Likely => "likely",
            Confidence::Certain => "certain",
        }
    }
}

/// Which store a file belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Store {
    /// Maildir and Maildir++.
    Maildir,
    /// Messages one after the other, each behind a `From ` line.
    Mbox,
    /// Dovecot, one message in each file.
    Sdbox,
    /// Dovecot, several messages in each file.
    Mdbox,
    /// Cyrus IMAP.
    Cyrus,
    /// One file for each message, whatever its name.
    Eml,
    /// SmarterMail: generic checks alone.
    SmarterMail,
}

impl Store {
    /// As it is printed.
    pub fn name(self) -> &'static str {
        match self {
            Store::Maildir => "maildir",
            Store::Mbox => "mbox",
            Store::Sdbox => "sdbox",
            Store::Mdbox => "mdbox",
            Store::Cyrus => "cyrus",
            Store::Eml => "eml",
            Store::SmarterMail => "smartermail",
        }
    }
}

macro_rules! word {
    ($($type:ident $known:expr;)*) => {$(
        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(self.name())
            }
        }
        impl FromStr for $type {
            type Err = String;
            fn from_str(text: &str) -> Result<$type, String> {
                let known: &[$type] = &$known;
                known.iter().find(|one| one.name() == text).copied().ok_or_else(|| {
                    let names: Vec<&str> = known.iter().map(|one| one.name()).collect();
                    format!("not one of {}", names.join(", "))
                })
            }
        }
    )*};
}

word! {
    Kind Kind::ALL;
    Confidence Confidence::ALL;
    Store [
        Store::Maildir, Store::Mbox, Store::Sdbox, Store::Mdbox, Store::Cyrus, Store::Eml,
        Store::SmarterMail,
    ];
}

/// A path as bytes; in text and JSON as `escape_bytes` writes it, which can be read back exactly.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct Name(pub Vec<u8>);

impl From<Name> for String {
    fn from(name: Name) -> String {
        escape_bytes(&name.0)
    }
}

impl TryFrom<String> for Name {
    type Error = String;
    fn try_from(text: String) -> Result<Name, String> {
        unescape_bytes(&text)
            .map(Name)
            .ok_or_else(|| "a path with an escape that is none".into())
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&escape_bytes(&self.0))
    }
}

/// What can still be read of a damaged message. The fields are escaped and cut.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Readable {
    /// Whether the header is there to its end.
    pub header: bool,
    /// `From`, where it is there.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub from: Option<String>,
    /// `Subject`, as it is in the header.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub subject: Option<String>,
    /// `Date`.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub date: Option<String>,
    /// `Message-ID`.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub message_id: Option<String>,
}

/// The file that a finding is about, as it was when it was read: what `quarantine` recognises it by.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stamp {
    /// Length in bytes.
    pub size: u64,
    /// Inode number.
    pub inode: u64,
    /// Last change of the content, seconds since 1970.
    pub mtime: i64,
    /// And nanoseconds.
    pub mtime_nanos: u32,
}

/// One damaged message, or one damaged file of a store.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    /// The file.
    pub path: Name,
    /// Its store.
    pub store: Store,
    /// Its mailbox: the directory or the file that a mail program shows as one.
    pub mailbox: Name,
    /// What is wrong.
    pub kind: Kind,
    /// How sure it is.
    pub confidence: Confidence,
    /// Where, in bytes of the file; of the unpacked body where `unpacked` is set.
    pub ranges: Vec<Extent>,
    /// Whether ranges count in the unpacked body.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub unpacked: bool,
    /// Why, in words.
    pub reason: String,
    /// What can still be read.
    pub readable: Readable,
    /// The file as it was.
    pub stamp: Stamp,
}

/// Ranges beyond this are not listed; the reason says that there are more.
pub const MAX_RANGES: usize = 64;

/// Escapes a field of a header, and cuts it.
pub fn shown(value: &[u8]) -> String {
    const MAX_BYTES: usize = 200;
    let cut = value.get(..MAX_BYTES).unwrap_or(value);
    let mut text = escape_bytes(cut.trim_ascii());
    if cut.len() < value.len() {
        text.push('…');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_of_any_bytes_comes_back_from_json() {
        for bytes in [
            b"cur/1,S=3:2,S".to_vec(),
            (1..=255).collect(),
            "\u{202e}x\u{1f600}\\x41".as_bytes().to_vec(),
            b"\\u{41}\n\xff\xc3".to_vec(),
        ] {
            let text = serde_json::to_string(&Name(bytes.clone())).unwrap();
            let back: Name = serde_json::from_str(&text).unwrap();
            assert_eq!(back.0, bytes, "{text}");
        }
        assert!(serde_json::from_str::<Name>(r#""\\q""#).is_err());
    }

    #[test]
    fn words_are_read_as_they_are_printed() {
        for kind in Kind::ALL {
            assert_eq!(kind.to_string().parse(), Ok(kind));
            let json = serde_json::to_string(&kind).unwrap();
            assert_eq!(json, format!("\"{kind}\""));
        }
        assert!("blank?".parse::<Kind>().is_err());
    }
}
