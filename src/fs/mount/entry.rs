//! What a walk says about one name, and how it goes through a pipe.
//!
//! ```text
//! stream = record* end
//! record = length:u32 body            length < END
//! end    = END:u32 records:u64
//! body   = depth:u32 name:bytes numbers times xattrs content
//! bytes  = length:u32 byte*
//! ```
//!
//! All numbers are little-endian. Both ends are the same program, so there is no version.

use std::io::{self, Read, Write};

/// Instead of a length: the walk is complete.
const END: u32 = u32::MAX;

/// Names and attributes of one file are far smaller.
const MOST: u32 = 64 << 20;

/// A point in time: seconds since 1970, nanoseconds.
pub type Time = (i64, u32);

/// An attribute's name, and the BLAKE3 of its value.
pub type Attribute = (Vec<u8>, [u8; 32]);

/// One name of one object.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Entry {
    /// How many directories it lies in; 0 is the root.
    pub depth: u32,
    /// Its name in its directory.
    pub name: Vec<u8>,
    /// Inode number.
    pub inode: u64,
    /// Kind and permissions.
    pub mode: u32,
    /// Owner.
    pub user: u32,
    /// Group.
    pub group: u32,
    /// Of a device: major and minor.
    pub device: (u32, u32),
    /// Its names.
    pub links: u32,
    /// Its size.
    pub size: u64,
    /// Allocated, in 512 bytes.
    pub blocks: u64,
    /// Last read.
    pub atime: Time,
    /// Last written.
    pub mtime: Time,
    /// Last changed.
    pub ctime: Time,
    /// Made; 0 where the file system does not say.
    pub btime: Time,
    /// `STATX_ATTR_*`.
    pub attributes: u64,
    /// `FS_XFLAG_*`, of files and directories.
    pub flags: u32,
    /// Project of a quota.
    pub project: u32,
    /// Extent size hints.
    pub hints: (u32, u32),
    /// Extended attributes by name, ACLs among them.
    pub xattrs: Vec<Attribute>,
    /// Where a symlink points.
    pub target: Vec<u8>,
    /// BLAKE3 of a file's data: place, length and bytes of each part that is not a hole.
    pub content: [u8; 32],
}

impl Entry {
    /// Writes it as a record.
    ///
    /// # Errors
    /// The writer's.
    pub fn write(&self, out: &mut dyn Write) -> io::Result<()> {
        let mut body = Vec::with_capacity(256);
        put(&mut body, self.depth);
        put_bytes(&mut body, &self.name);
        body.extend(self.inode.to_le_bytes());
        for number in [
            self.mode,
            self.user,
            self.group,
            self.device.0,
            self.device.1,
            self.links,
            self.flags,
            self.project,
            self.hints.0,
            self.hints.1,
        ] {
            put(&mut body, number);
        }
        for number in [self.size, self.blocks, self.attributes] {
            body.extend(number.to_le_bytes());
        }
        for (seconds, nanos) in [self.atime, self.mtime, self.ctime, self.btime] {
            body.extend(seconds.to_le_bytes());
            put(&mut body, nanos);
        }
        put(&mut body, self.xattrs.len() as u32);
        for (name, hash) in &self.xattrs {
            put_bytes(&mut body, name);
            body.extend(hash);
        }
        put_bytes(&mut body, &self.target);
        body.extend(self.content);
        out.write_all(&(body.len() as u32).to_le_bytes())?;
        out.write_all(&body)
    }

    fn parse(body: &[u8]) -> Option<Entry> {
        let mut at = Cursor(body);
        let mut entry = Entry {
            depth: at.number()?,
            name: at.bytes()?,
            inode: at.long()?,
            mode: at.number()?,
            user: at.number()?,
            group: at.number()?,
            device: (at.number()?, at.number()?),
            links: at.number()?,
            flags: at.number()?,
            project: at.number()?,
            hints: (at.number()?, at.number()?),
            size: at.long()?,
            blocks: at.long()?,
            attributes: at.long()?,
            atime: at.time()?,
            mtime: at.time()?,
            ctime: at.time()?,
            btime: at.time()?,
            ..Entry::default()
        };
        for _ in 0..at.number()? {
            let name = at.bytes()?;
            entry.xattrs.push((name, at.array()?));
        }
        entry.target = at.bytes()?;
        entry.content = at.array()?;
        at.0.is_empty().then_some(entry)
    }
}

/// Ends a stream of `records`.
///
/// # Errors
/// The writer's.
pub fn write_end(out: &mut dyn Write, records: u64) -> io::Result<()> {
    out.write_all(&END.to_le_bytes())?;
    out.write_all(&records.to_le_bytes())
}

/// The next record, or `None` at the end of a stream of which `seen` records were read.
///
/// # Errors
/// `UnexpectedEof` where the stream breaks off: a walk that was not completed.
pub fn read(from: &mut dyn Read, seen: u64) -> io::Result<Option<Entry>> {
    let broken = || io::Error::new(io::ErrorKind::InvalidData, "a walk cannot be understood");
    let mut length = [0; 4];
    from.read_exact(&mut length)?;
    let length = u32::from_le_bytes(length);
    if length == END {
        let mut records = [0; 8];
        from.read_exact(&mut records)?;
        return match u64::from_le_bytes(records) == seen {
            true => Ok(None),
            false => Err(broken()),
        };
    }
    if length > MOST {
        return Err(broken());
    }
    let mut body = vec![0; length as usize];
    from.read_exact(&mut body)?;
    Entry::parse(&body).map(Some).ok_or_else(broken)
}

/// Hands every record to `sink`, up to the end.
///
/// # Errors
/// As [`read`], and those of `sink`.
pub fn read_all(mut from: impl Read, sink: &mut super::Sink<'_>) -> io::Result<()> {
    let mut seen = 0;
    while let Some(entry) = read(&mut from, seen)? {
        sink(entry)?;
        seen += 1;
    }
    Ok(())
}

fn put(body: &mut Vec<u8>, number: u32) {
    body.extend(number.to_le_bytes());
}

fn put_bytes(body: &mut Vec<u8>, bytes: &[u8]) {
    put(body, bytes.len() as u32);
    body.extend(bytes);
}

struct Cursor<'a>(&'a [u8]);

impl Cursor<'_> {
    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (array, rest) = self.0.split_first_chunk::<N>()?;
        self.0 = rest;
        Some(*array)
    }

    fn number(&mut self) -> Option<u32> {
        self.array().map(u32::from_le_bytes)
    }

    fn long(&mut self) -> Option<u64> {
        self.array().map(u64::from_le_bytes)
    }

    fn time(&mut self) -> Option<Time> {
        Some((self.long()?.cast_signed(), self.number()?))
    }

    fn bytes(&mut self) -> Option<Vec<u8>> {
        let length = self.number()? as usize;
        let (bytes, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(bytes.to_vec())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Entry {
        Entry {
            depth: 3,
            name: b"na\nme".to_vec(),
            inode: u64::MAX,
            mode: 0o100_644,
            mtime: (-1, 999_999_999),
            xattrs: vec![(b"trusted.x".to_vec(), [7; 32]), (Vec::new(), [8; 32])],
            target: b"over there".to_vec(),
            content: [9; 32],
            ..Entry::default()
        }
    }

    #[test]
    fn what_is_written_is_read() {
        let mut bytes = Vec::new();
        for _ in 0..2 {
            sample().write(&mut bytes).unwrap();
        }
        write_end(&mut bytes, 2).unwrap();
        let mut seen = Vec::new();
        read_all(&*bytes, &mut |entry| {
            seen.push(entry);
            Ok(())
        })
        .unwrap();
        assert_eq!(seen, [sample(), sample()]);
    }

    #[test]
    fn a_stream_that_breaks_off_is_no_walk() {
        let mut bytes = Vec::new();
        sample().write(&mut bytes).unwrap();
        write_end(&mut bytes, 1).unwrap();
        for end in 0..bytes.len() {
            assert!(read_all(&bytes[..end], &mut |_| Ok(())).is_err(), "{end}");
        }
        let last = bytes.len() - 8;
        bytes[last] = 2;
        assert!(read_all(&*bytes, &mut |_| Ok(())).is_err(), "wrong count");
    }
}
