//! What is mounted, from `/proc/self/mountinfo`; the format is that of `proc_pid_mountinfo(5)`.

use std::ffi::OsString;
use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::str::FromStr;

use nix::sys::stat::{major, minor};

/// A kernel's table is never longer than this, or it is not read to its end.
const MAX_TABLE_BYTES: u64 = 32 << 20;

/// A device's number, printed as the kernel does: `8:1`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DevNumber {
    /// Which driver.
    pub major: u32,
    /// Which of its devices.
    pub minor: u32,
}

impl DevNumber {
    /// From `st_dev` or `st_rdev`.
    pub fn of(raw: u64) -> DevNumber {
        DevNumber {
            major: major(raw) as u32,
            minor: minor(raw) as u32,
        }
    }
}

impl fmt::Display for DevNumber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.major, self.minor)
    }
}

impl FromStr for DevNumber {
    type Err = ();

    fn from_str(text: &str) -> Result<DevNumber, ()> {
        let (major, minor) = text.trim().split_once(':').ok_or(())?;
        Ok(DevNumber {
            major: major.parse().map_err(|_| ())?,
            minor: minor.parse().map_err(|_| ())?,
        })
    }
}

/// One mounted file system.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mount {
    /// The kernel's number of this mount.
    pub id: u64,
    /// The number of the mount that it is mounted on.
    pub parent: u64,
    /// The device; major 0 where the file system has none or several (tmpfs, btrfs).
    pub device: DevNumber,
    /// Where.
    pub mountpoint: PathBuf,
    /// `ext4`.
    pub fs_kind: String,
    /// What was mounted, as `mount` was told.
    pub source: PathBuf,
    /// The file system's own options, `upperdir=` among them.
    pub options: OsString,
}

impl Mount {
    /// The value of one of the file system's options.
    pub fn option(&self, name: &str) -> Option<PathBuf> {
        self.options
            .as_bytes()
            .split(|&b| b == b',')
            .find_map(|o| o.strip_prefix(name.as_bytes())?.strip_prefix(b"="))
            .map(path_of)
    }
}

/// Everything mounted in the name space of the process whose directory is `process`
/// (`/proc/self`).
///
/// # Errors
/// Where the table cannot be read. A line that does not parse is `InvalidData`: what cannot be
/// understood must not pass for "not mounted".
pub fn mounts_of(process: &Path) -> io::Result<Vec<Mount>> {
    let path = process.join("mountinfo");
    let text = read_bounded(&path)?;
    let lines = text.split(|&b| b == b'\n').filter(|l| !l.is_empty());
    lines
        .map(|line| {
            parse_mount(line).ok_or_else(|| {
                io::Error::new(
                    io::ErrorKind::InvalidData,
                    format!("{} has a line that is not understood", path.display()),
                )
            })
        })
        .collect()
}

fn parse_mount(line: &[u8]) -> Option<Mount> {
    let mut fields = line.split(|&b| b == b' ').filter(|f| !f.is_empty());
    let mut text = || std::str::from_utf8(fields.next()?).ok();
    let id = text()?.parse().ok()?;
    let parent = text()?.parse().ok()?;
    let device = text()?.parse().ok()?;
    let _root = fields.next()?;
    let mountpoint = path_of(fields.next()?);
    let _options = fields.next()?;
    // Optional fields, as many as there are, end with a lone hyphen.
    fields.by_ref().find(|f| *f == b"-")?;
    let fs_kind = String::from_utf8_lossy(fields.next()?).into_owned();
    // A source may be empty: the two fields after the kind are then one.
    let source = fields.next()?;
    let options = fields.next().unwrap_or(b"");
    Some(Mount {
        id,
        parent,
        device,
        mountpoint,
        fs_kind,
        source: path_of(source),
        options: OsString::from_vec(options.to_vec()),
    })
}

/// What is swapped to: paths of devices and files, from `/proc/swaps`.
///
/// # Errors
/// Where the table cannot be read. A kernel without swap has none, and no swap.
pub fn swaps(proc: &Path) -> io::Result<Vec<PathBuf>> {
    let text = match read_bounded(&proc.join("swaps")) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        other => other?,
    };
    let lines = text.split(|&b| b == b'\n').skip(1);
    let names = lines.filter_map(|l| l.split(|&b| b == b' ' || b == b'\t').next());
    Ok(names.filter(|n| !n.is_empty()).map(path_of).collect())
}

/// A file of the kernel's, as far as the bound goes.
///
/// # Errors
/// The kernel's, with the path; `FileTooLarge` beyond the bound.
pub(super) fn read_bounded(path: &Path) -> io::Result<Vec<u8>> {
    let named = |e: io::Error| io::Error::new(e.kind(), format!("reading {}: {e}", path.display()));
    let mut text = Vec::new();
    let file = File::open(path).map_err(named)?;
    file.take(MAX_TABLE_BYTES + 1)
        .read_to_end(&mut text)
        .map_err(named)?;
    if text.len() as u64 > MAX_TABLE_BYTES {
        return Err(named(io::ErrorKind::FileTooLarge.into()));
    }
    Ok(text)
}

/// Undoes the kernel's escapes (`\040` for a space).
fn path_of(field: &[u8]) -> PathBuf {
    let mut out = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((&byte, tail)) = rest.split_first() {
        let octal = (byte == b'\\').then(|| tail.get(..3)).flatten();
        let value = octal
            .and_then(|d| std::str::from_utf8(d).ok())
            .and_then(|d| u8::from_str_radix(d, 8).ok());
        match value {
            Some(value) => {
                out.push(value);
                rest = &tail[3..];
            }
            None => {
                out.push(byte);
                rest = tail;
            }
        }
    }
    PathBuf::from(OsString::from_vec(out))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(text: &str) -> io::Result<Vec<Mount>> {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("mountinfo"), text).unwrap();
        mounts_of(dir.path())
    }

    #[test]
    fn reads_every_shape_of_line() {
        let mounts = table(
            "36 35 98:0 /mnt1 /mnt/a\\040b rw,noatime master:1 shared:7 - ext3 /dev/root rw,errors=continue\n\
             37 36 0:34 / /x rw - overlay overlay rw,lowerdir=/l,upperdir=/u\\054v,workdir=/w\n\
             38 36 0:35 / /y rw - tmpfs  rw\n",
        )
        .unwrap();
        assert_eq!(mounts.len(), 3);
        assert_eq!(mounts[0].mountpoint, Path::new("/mnt/a b"));
        assert_eq!(
            mounts[0].device,
            DevNumber {
                major: 98,
                minor: 0
            }
        );
        assert_eq!((mounts[0].id, mounts[0].parent), (36, 35));
        assert_eq!(mounts[0].fs_kind, "ext3");
        assert_eq!(mounts[1].option("upperdir").unwrap(), Path::new("/u,v"));
        assert_eq!(mounts[1].option("upper"), None);
        assert_eq!(mounts[2].fs_kind, "tmpfs");
    }

    #[test]
    fn what_is_not_understood_is_no_answer() {
        for bad in [
            "36 35 98 / /a rw - ext4 a rw\n",
            "36 35 8:1 / /a rw ext4\n",
            "x\n",
        ] {
            let e = table(bad).unwrap_err();
            assert_eq!(e.kind(), io::ErrorKind::InvalidData, "{bad}");
        }
    }

    #[test]
    fn swaps_are_named_by_path() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(
            dir.path().join("swaps"),
            "Filename\tType\tSize\n/dev/sda2 partition 1 0 -2\n/a\\040b\tfile 1 0 -3\n",
        )
        .unwrap();
        let found = swaps(dir.path()).unwrap();
        assert_eq!(found, [PathBuf::from("/dev/sda2"), PathBuf::from("/a b")]);
        let none = tempfile::tempdir().unwrap();
        assert!(swaps(none.path()).unwrap().is_empty());
    }
}
