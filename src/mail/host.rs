//! A tree of this host: a mounted directory, walked by descriptors.
//!
//! Links are not followed, other file systems below are entered (a store may span them), and
//! access times are left alone wherever the kernel allows it.

use std::ffi::CString;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{AtFlags, CWD, Dir, FileType, Mode, OFlags, fstat, openat, statat};
use rustix::io::Errno;

use super::finding::Stamp;
use super::place::{last, parent, place};
use super::tree::{Batch, Directory, Entry, Handle, Opened, Problem, Tree, join};
use crate::report::{Report, checkpoint};

/// Names of one directory that are sorted at a time: inodes in order are read faster.
const SORTED: usize = 1 << 16;
/// Files that one thread takes at a time.
const BATCH: usize = 64;

/// Directories and single files of this host.
#[derive(Debug)]
pub struct HostTree {
    roots: Vec<PathBuf>,
    /// A file that is not part of the tree: the list that is made of it.
    except: Option<PathBuf>,
}

impl HostTree {
    /// Of these directories and files.
    pub fn new(roots: Vec<PathBuf>) -> HostTree {
        HostTree {
            roots,
            except: None,
        }
    }

    /// Leaves out a file, and what is written beside it until it is complete.
    pub fn skip_file(&mut self, path: &Path) {
        let parent = path.parent().filter(|p| !p.as_os_str().is_empty());
        let parent = std::fs::canonicalize(parent.unwrap_or(Path::new(".")));
        self.except = parent
            .ok()
            .zip(path.file_name())
            .map(|(parent, name)| parent.join(name));
    }

    fn is_except(&self, path: &[u8]) -> bool {
        let Some(except) = &self.except else {
            return false;
        };
        let except = bytes(except);
        let unfinished = parent(path) == parent(&except) && last(path).starts_with(b".tmp");
        path == except || unfinished
    }

    fn walk_directory(
        &self,
        path: Vec<u8>,
        fd: OwnedFd,
        waiting: &mut Vec<Vec<u8>>,
        give: &mut dyn FnMut(Batch) -> io::Result<()>,
        problem: &dyn Fn(Problem),
    ) -> io::Result<()> {
        let has = |name: &[u8]| exists(fd.as_fd(), name);
        let above = parent_of(fd.as_fd());
        let beside = |name: &[u8]| above.as_ref().is_some_and(|dir| exists(dir.as_fd(), name));
        let place = place(&path, &has, &beside);
        drop(above);
        let listing = match Dir::read_from(&fd) {
            Ok(listing) => listing,
            Err(e) => {
                problem(trouble(&path, e.into()));
                return Ok(());
            }
        };
        let directory = Arc::new(Directory {
            path,
            place,
            handle: Handle::Open(fd),
        });
        let mut entries: Vec<Entry> = Vec::new();
        for entry in listing {
            let entry = match entry {
                Ok(entry) => entry,
                Err(e) => {
                    problem(trouble(&directory.path, e.into()));
                    break;
                }
            };
            let name = entry.file_name().to_bytes();
            if matches!(name, b"." | b"..") {
                continue;
            }
            let kind = match (entry.file_type(), &directory.handle) {
                (FileType::Unknown, Handle::Open(fd)) => kind_of(fd.as_fd(), name),
                (kind, _) => kind,
            };
            match kind {
                FileType::Directory => waiting.push(directory.path_of(name)),
                FileType::RegularFile
                    if self.except.is_some() && self.is_except(&directory.path_of(name)) => {}
                FileType::RegularFile => {
                    entries.push(Entry {
                        name: name.to_vec(),
                        inode: entry.ino(),
                    });
                }
                _ => {}
            }
            if entries.len() >= SORTED {
                give_all(&directory, &mut entries, give)?;
            }
        }
        give_all(&directory, &mut entries, give)
    }
}

fn give_all(
    directory: &Arc<Directory>,
    entries: &mut Vec<Entry>,
    give: &mut dyn FnMut(Batch) -> io::Result<()>,
) -> io::Result<()> {
    entries.sort_by_key(|entry| entry.inode);
    while !entries.is_empty() {
        let rest = entries.split_off(entries.len().min(BATCH));
        let entries = std::mem::replace(entries, rest);
        give(Batch {
            directory: directory.clone(),
            entries,
        })?;
    }
    Ok(())
}

fn kind_of(fd: BorrowedFd<'_>, name: &[u8]) -> FileType {
    match statat(fd, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) => FileType::from_raw_mode(stat.st_mode),
        Err(_) => FileType::Unknown,
    }
}

fn exists(fd: BorrowedFd<'_>, name: &[u8]) -> bool {
    statat(fd, name, AtFlags::SYMLINK_NOFOLLOW).is_ok()
}

fn parent_of(fd: BorrowedFd<'_>) -> Option<OwnedFd> {
    openat(
        fd,
        "..",
        OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC,
        Mode::empty(),
    )
    .ok()
}

fn trouble(path: &[u8], e: io::Error) -> Problem {
    Problem {
        path: path.to_vec(),
        error: e.to_string(),
    }
}

const DIRECTORY: OFlags = OFlags::RDONLY
    .union(OFlags::DIRECTORY)
    .union(OFlags::CLOEXEC)
    .union(OFlags::NOFOLLOW);

/// Without changing its access time, where we may: only the owner and root may ask for that.
fn open_quietly(dir: BorrowedFd<'_>, name: &[u8], flags: OFlags) -> rustix::io::Result<OwnedFd> {
    match openat(dir, name, flags.union(OFlags::NOATIME), Mode::empty()) {
        Err(Errno::PERM) => openat(dir, name, flags, Mode::empty()),
        other => other,
    }
}

/// Opens a directory below `root` part by part, so that no link on the way is followed.
fn open_below(root: OwnedFd, below: &[u8]) -> rustix::io::Result<OwnedFd> {
    let mut at = root;
    for part in below.split(|b| *b == b'/').filter(|part| !part.is_empty()) {
        at = open_quietly(at.as_fd(), part, DIRECTORY)?;
    }
    Ok(at)
}

fn bytes(path: &Path) -> Vec<u8> {
    std::os::unix::ffi::OsStrExt::as_bytes(path.as_os_str()).to_vec()
}

impl Tree for HostTree {
    fn each_batch(
        &self,
        report: &dyn Report,
        give: &mut dyn FnMut(Batch) -> io::Result<()>,
        problem: &dyn Fn(Problem),
    ) -> io::Result<()> {
        for root in &self.roots {
            let shown = bytes(root);
            let failed =
                |e: io::Error| io::Error::new(e.kind(), format!("{}: {e}", root.display()));
            let meta = std::fs::metadata(root).map_err(failed)?;
            if !meta.is_dir() {
                // One file: its directory is what is beside it.
                let dir = parent(&shown);
                let above: &[u8] = if dir.is_empty() && !shown.starts_with(b"/") {
                    b"."
                } else {
                    dir
                };
                let above = if above.is_empty() { b"/" } else { above };
                let path = CString::new(above)?;
                let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
                let fd = openat(CWD, path.as_c_str(), flags, Mode::empty())
                    .map_err(|e| failed(e.into()))?;
                let has = |name: &[u8]| exists(fd.as_fd(), name);
                let up = parent_of(fd.as_fd());
                let beside = |name: &[u8]| up.as_ref().is_some_and(|d| exists(d.as_fd(), name));
                let place = place(above, &has, &beside);
                let directory = Arc::new(Directory {
                    path: dir.to_vec(),
                    place,
                    handle: Handle::Open(fd),
                });
                let entry = Entry {
                    name: last(&shown).to_vec(),
                    inode: 0,
                };
                give(Batch {
                    directory,
                    entries: vec![entry],
                })?;
                continue;
            }
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
            let open_root = || openat(CWD, root.as_path(), flags, Mode::empty());
            let whole = open_root().map_err(|e| failed(e.into()))?;
            let mut waiting = vec![shown.clone()];
            while let Some(path) = waiting.pop() {
                checkpoint(report).map_err(io::Error::from)?;
                let below = path.get(shown.len()..).unwrap_or_default();
                let fd = whole.try_clone().map_err(failed)?;
                let fd = match below {
                    // A descriptor of its own: a listing moves the position of what it shares.
                    [] => open_root().map_err(|e| failed(e.into()))?,
                    _ => match open_below(fd, below) {
                        Ok(fd) => fd,
                        Err(Errno::NOENT) => continue,
                        Err(e) => {
                            problem(trouble(&path, e.into()));
                            continue;
                        }
                    },
                };
                self.walk_directory(path, fd, &mut waiting, give, problem)?;
            }
        }
        Ok(())
    }

    fn open<'a>(&'a self, directory: &Directory, entry: &Entry) -> io::Result<Option<Opened<'a>>> {
        self.open_named(directory, b"", &entry.name)
    }

    fn open_named<'a>(
        &'a self,
        directory: &Directory,
        below: &[u8],
        name: &[u8],
    ) -> io::Result<Option<Opened<'a>>> {
        let Handle::Open(fd) = &directory.handle else {
            return Ok(None);
        };
        // O_NONBLOCK: what became a pipe meanwhile must not make us wait.
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let opened = match below {
            [] => open_quietly(fd.as_fd(), name, flags),
            _ => open_quietly(fd.as_fd(), below, DIRECTORY)
                .and_then(|dir| open_quietly(dir.as_fd(), name, flags)),
        };
        let file = match opened {
            Ok(file) => file,
            Err(Errno::NOENT | Errno::LOOP | Errno::NXIO | Errno::NOTDIR) => return Ok(None),
            Err(e) => return Err(e.into()),
        };
        let stat = fstat(&file)?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
            return Ok(None);
        }
        let stamp = Stamp {
            size: stat.st_size as u64,
            inode: stat.st_ino,
            mtime: stat.st_mtime,
            mtime_nanos: stat.st_mtime_nsec as u32,
        };
        let content: Box<dyn Read + Send> = Box::new(File::from(file));
        Ok(Some(Opened { stamp, content }))
    }

    fn names(
        &self,
        directory: &Directory,
        below: &[u8],
        visit: &mut dyn FnMut(&[u8]),
    ) -> io::Result<()> {
        let Handle::Open(fd) = &directory.handle else {
            return Err(io::ErrorKind::NotFound.into());
        };
        let below = if below.is_empty() { b"." } else { below };
        let fd = open_quietly(fd.as_fd(), below, DIRECTORY)?;
        for entry in Dir::new(fd)? {
            let entry = entry?;
            if !matches!(entry.file_name().to_bytes(), b"." | b"..") {
                visit(entry.file_name().to_bytes());
            }
        }
        Ok(())
    }
}

/// The path of a file, for a message.
pub fn shown(directory: &[u8], name: &[u8]) -> Vec<u8> {
    join(directory, name)
}
