//! Two walks against each other: before and after.
//!
//! The first is recorded in a file, because one file system cannot be mounted twice at the same
//! time by every kernel. The second is held against it as it comes. Memory holds two entries.

use std::cmp::Ordering;
use std::fs::File;
use std::io::{self, BufReader, BufWriter, Seek, SeekFrom, Write};

use thiserror::Error;

use super::entry::{self, Entry};
use super::{Walk, walk};
use crate::fs::Difference;
use crate::fs::tool::{ToolError, Tools};
use crate::units::escape_bytes;

/// What need not be equal.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rules {
    /// How much is allocated to a file.
    pub any_blocks: bool,
    /// When it was last read.
    pub any_atime: bool,
}

/// Why two walks were not compared.
#[derive(Debug, Error)]
pub enum WalkError {
    /// A walk could not be made.
    #[error(transparent)]
    Tool(#[from] ToolError),
    /// The recorded walk could not be written or read.
    #[error("keeping what a walk has seen: {0}")]
    Spill(#[from] io::Error),
}

/// Records a walk in `spill`, from its beginning.
///
/// # Errors
/// [`WalkError`].
pub fn record(how: Walk, tools: &Tools<'_>, spill: &mut File) -> Result<(), WalkError> {
    spill.seek(SeekFrom::Start(0))?;
    let mut out = BufWriter::with_capacity(1 << 16, spill);
    let mut records = 0;
    walk(how, tools, &mut |entry| {
        records += 1;
        entry.write(&mut out)
    })?;
    entry::write_end(&mut out, records)?;
    out.flush()?;
    Ok(())
}

/// Holds a second walk against the one that [`record`] has made. At most `limit` differences.
///
/// # Errors
/// [`WalkError`]: then it was not checked.
pub fn compare_with(
    how: Walk,
    tools: &Tools<'_>,
    spill: &mut File,
    limit: usize,
) -> Result<Vec<Difference>, WalkError> {
    spill.seek(SeekFrom::Start(0))?;
    let mut pair = Pair::new(BufReader::with_capacity(1 << 16, spill), how.rules, limit)?;
    walk(how, tools, &mut |entry| pair.after(&entry))?;
    pair.end()?;
    Ok(pair.found)
}

/// A path, as the names on the way.
#[derive(Default)]
struct Path(Vec<Vec<u8>>);

impl Path {
    /// The path of the next entry of a walk.
    fn step(&mut self, entry: &Entry) {
        self.0.truncate((entry.depth as usize).saturating_sub(1));
        if entry.depth > 0 {
            self.0.push(entry.name.clone());
        }
    }

    fn show(&self) -> String {
        let names: Vec<String> = self.0.iter().map(|name| escape_bytes(name)).collect();
        format!("/{}", names.join("/"))
    }
}

/// The recorded walk, and what the second differs in.
struct Pair<R> {
    before: R,
    seen: u64,
    /// The next of the recorded walk, with its path.
    next: Option<Entry>,
    next_path: Path,
    path: Path,
    rules: Rules,
    limit: usize,
    found: Vec<Difference>,
}

impl<R: io::Read> Pair<R> {
    fn new(before: R, rules: Rules, limit: usize) -> io::Result<Pair<R>> {
        let mut pair = Pair {
            before,
            seen: 0,
            next: None,
            next_path: Path::default(),
            path: Path::default(),
            rules,
            limit: limit.max(1),
            found: Vec::new(),
        };
        pair.advance()?;
        Ok(pair)
    }

    fn advance(&mut self) -> io::Result<()> {
        self.next = entry::read(&mut self.before, self.seen)?;
        if let Some(entry) = &self.next {
            self.seen += 1;
            self.next_path.step(entry);
        }
        Ok(())
    }

    fn add(&mut self, code: &str, object: String, detail: String) {
        if self.found.len() < self.limit {
            self.found.push(Difference {
                code: code.into(),
                object,
                detail,
            });
        }
    }

    /// Takes in the next of the second walk.
    fn after(&mut self, now: &Entry) -> io::Result<()> {
        self.path.step(now);
        while let Some(was) = self.next.take() {
            match self.next_path.0.cmp(&self.path.0) {
                Ordering::Less => {
                    let object = self.next_path.show();
                    self.add("file-missing", object, "it is not there any more".into());
                    self.advance()?;
                }
                Ordering::Equal => {
                    self.pair(&was, now);
                    return self.advance();
                }
                Ordering::Greater => {
                    self.next = Some(was);
                    break;
                }
            }
        }
        let object = self.path.show();
        self.add("file-new", object, "it was not there before".into());
        Ok(())
    }

    /// The second walk is complete.
    fn end(&mut self) -> io::Result<()> {
        while self.next.is_some() {
            let object = self.next_path.show();
            self.add("file-missing", object, "it is not there any more".into());
            self.advance()?;
        }
        Ok(())
    }

    fn pair(&mut self, was: &Entry, now: &Entry) {
        let object = self.path.show();
        for (code, detail) in differences(was, now, self.rules) {
            self.add(code, object.clone(), detail);
        }
    }
}

/// What differs between two entries of one path.
fn differences(was: &Entry, now: &Entry, rules: Rules) -> Vec<(&'static str, String)> {
    let mut found = Vec::new();
    let mut number = |code, what: &str, was: u64, now: u64| {
        if was != now {
            found.push((code, format!("{what} was {was}, and is {now}")));
        }
    };
    number("inode", "the inode number", was.inode, now.inode);
    number("owner", "the owner", was.user.into(), now.user.into());
    number("owner", "the group", was.group.into(), now.group.into());
    number(
        "links",
        "the count of links",
        was.links.into(),
        now.links.into(),
    );
    number("size", "the size", was.size, now.size);
    number(
        "project",
        "the project",
        was.project.into(),
        now.project.into(),
    );
    if !rules.any_blocks {
        number(
            "map",
            "the count of allocated sectors",
            was.blocks,
            now.blocks,
        );
    }
    if was.mode != now.mode {
        let detail = format!("the mode was {:o}, and is {:o}", was.mode, now.mode);
        found.push(("mode", detail));
    }
    let flags = |e: &Entry| (e.flags, e.attributes, e.hints);
    if flags(was) != flags(now) {
        let detail = format!(
            "the flags were {:x?}, and are {:x?}",
            flags(was),
            flags(now)
        );
        found.push(("flags", detail));
    }
    if was.device != now.device {
        let detail = format!("the device was {:?}, and is {:?}", was.device, now.device);
        found.push(("device", detail));
    }
    for (what, was, now) in [
        ("mtime", was.mtime, now.mtime),
        ("ctime", was.ctime, now.ctime),
        ("btime", was.btime, now.btime),
        ("atime", was.atime, now.atime),
    ] {
        if was != now && !(what == "atime" && rules.any_atime) {
            let detail = format!(
                "the {what} was {}.{:09}, and is {}.{:09}",
                was.0, was.1, now.0, now.1
            );
            found.push(("times", detail));
        }
    }
    if was.xattrs != now.xattrs {
        let differs = |(name, hash): &entry::Attribute, other: &Entry| {
            !other.xattrs.iter().any(|(n, h)| (n, h) == (name, hash))
        };
        let lost = was.xattrs.iter().filter(|x| differs(x, now));
        let new = now.xattrs.iter().filter(|x| differs(x, was));
        let mut names: Vec<String> = lost.chain(new).map(|x| escape_bytes(&x.0)).collect();
        names.dedup();
        found.push(("xattrs", format!("attributes differ: {}", names.join(", "))));
    }
    if was.target != now.target {
        let (was, now) = (escape_bytes(&was.target), escape_bytes(&now.target));
        found.push((
            "symlink",
            format!("it pointed to {was}, and points to {now}"),
        ));
    }
    if was.content != now.content {
        found.push(("file-content", "its content or its holes differ".into()));
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(path: &str) -> Entry {
        let names: Vec<&str> = path.split('/').filter(|n| !n.is_empty()).collect();
        Entry {
            depth: names.len() as u32,
            name: names.last().unwrap_or(&"").as_bytes().to_vec(),
            ..Entry::default()
        }
    }

    fn compare(before: &[Entry], after: &[Entry], rules: Rules) -> Vec<(String, String)> {
        let mut bytes = Vec::new();
        before.iter().for_each(|e| e.write(&mut bytes).unwrap());
        entry::write_end(&mut bytes, before.len() as u64).unwrap();
        let mut pair = Pair::new(&*bytes, rules, 100).unwrap();
        after.iter().for_each(|e| pair.after(e).unwrap());
        pair.end().unwrap();
        pair.found.into_iter().map(|d| (d.code, d.object)).collect()
    }

    fn walk_of(paths: &[&str]) -> Vec<Entry> {
        paths.iter().map(|path| named(path)).collect()
    }

    #[test]
    fn what_is_lost_and_what_is_new_is_named_wherever_it_lies() {
        let before = walk_of(&["", "a", "a/x", "a/x/deep", "a.b", "c"]);
        let after = walk_of(&["", "0", "a", "a/y", "a.b", "b", "b/new"]);
        let found = compare(&before, &after, Rules::default());
        let want = [
            ("file-new", "/0"),
            ("file-missing", "/a/x"),
            ("file-missing", "/a/x/deep"),
            ("file-new", "/a/y"),
            ("file-new", "/b"),
            ("file-new", "/b/new"),
            ("file-missing", "/c"),
        ];
        assert_eq!(found, want.map(|(c, o)| (c.to_string(), o.to_string())));
        assert!(compare(&before, &before, Rules::default()).is_empty());
    }

    #[test]
    #[allow(clippy::type_complexity, reason = "a table")]
    fn every_field_counts() {
        let change: [(&str, fn(&mut Entry)); 15] = [
            ("inode", |e| e.inode = 1),
            ("owner", |e| e.user = 1),
            ("owner", |e| e.group = 1),
            ("links", |e| e.links = 1),
            ("size", |e| e.size = 1),
            ("project", |e| e.project = 1),
            ("map", |e| e.blocks = 1),
            ("mode", |e| e.mode = 1),
            ("flags", |e| e.hints.1 = 1),
            ("device", |e| e.device.1 = 1),
            ("times", |e| e.btime.1 = 1),
            ("times", |e| e.atime.0 = 1),
            ("xattrs", |e| e.xattrs.push((vec![b'x'], [0; 32]))),
            ("symlink", |e| e.target.push(b'x')),
            ("file-content", |e| e.content[31] = 1),
        ];
        for (code, change) in change {
            let (before, mut after) = (walk_of(&["", "a"]), walk_of(&["", "a"]));
            change(&mut after[1]);
            let found = compare(&before, &after, Rules::default());
            assert_eq!(found, [(code.to_string(), "/a".to_string())]);
            let lax = Rules {
                any_blocks: true,
                any_atime: true,
            };
            let allowed = after[1].blocks == 1 || after[1].atime.0 == 1;
            assert_eq!(compare(&before, &after, lax).is_empty(), allowed, "{code}");
        }
    }
}
