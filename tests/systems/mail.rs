//! Mail, and what a copy program would get wrong, written through a mount.

use std::fs::{self, File, Permissions};
use std::io::Write;
use std::os::unix::fs::{FileExt, PermissionsExt, lchown, symlink};
use std::path::Path;

use nix::sys::stat::{Mode, SFlag, UtimensatFlags, mknod, utimensat};
use nix::sys::time::TimeSpec;
use rustix::fs::{XattrFlags, lsetxattr};

/// What a file system can hold.
#[derive(Clone, Copy, Debug)]
pub struct Kinds {
    /// Links of both kinds, pipes, owners and modes.
    pub posix: bool,
    /// Extended attributes of users.
    pub attributes: bool,
    /// Files with holes.
    pub sparse: bool,
}

impl Kinds {
    /// Everything.
    pub const ALL: Kinds = Kinds {
        posix: true,
        attributes: true,
        sparse: true,
    };
}

/// A xorshift generator: the same content in every run.
pub struct Random(u64);

impl Random {
    /// Of a seed.
    pub fn new(seed: u64) -> Random {
        Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    /// The next number.
    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    /// So many bytes.
    pub fn bytes(&mut self, len: u64) -> Vec<u8> {
        let words = (0..len.div_ceil(8)).flat_map(|_| self.next().to_le_bytes());
        words.take(len as usize).collect()
    }
}

/// Users with messages, odd files, and files that lie where a smaller file system would not reach.
pub fn populate(root: &Path, kinds: Kinds) {
    messages(root);
    odd(root, kinds);
    far(root);
}

fn write(path: &Path, bytes: &[u8]) {
    fs::write(path, bytes).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
}

/// 200 messages of 12 users.
pub fn messages(root: &Path) {
    let mut random = Random::new(1);
    for user in 0..12 {
        let dir = root.join(format!("user-{user:02}/cur"));
        fs::create_dir_all(&dir).unwrap();
        for message in 0..17 {
            let len = random.next() % 9000;
            let name = dir.join(format!("message-{message:03}"));
            write(&name, &random.bytes(len + 1));
        }
    }
}

fn odd(root: &Path, kinds: Kinds) {
    let mut random = Random::new(2);
    let odd = root.join("odd");
    fs::create_dir(&odd).unwrap();
    write(&odd.join("empty"), b"");
    write(&odd.join("n".repeat(200)), b"a long name");
    write(&odd.join("gr\u{fc}\u{df}e"), "Gr\u{fc}\u{df}e".as_bytes());
    if kinds.sparse {
        let sparse = File::create(odd.join("sparse")).unwrap();
        for at in [0, 70_000, 1_000_000, 5_000_000] {
            sparse.write_all_at(&random.bytes(5000), at).unwrap();
        }
        sparse.set_len(6_000_000).unwrap();
    }
    if kinds.attributes {
        let path = odd.join("attributes");
        write(&path, b"with attributes");
        for (name, len) in [("user.short", 5), ("user.longer", 500)] {
            lsetxattr(&path, name, &random.bytes(len), XattrFlags::empty()).unwrap();
        }
    }
    if kinds.posix {
        symlink("../user-01/cur/message-001", odd.join("link")).unwrap();
        symlink("y".repeat(300), odd.join("long-link")).unwrap();
        write(&odd.join("first"), b"one file");
        fs::hard_link(odd.join("first"), odd.join("second")).unwrap();
        mknod(&odd.join("pipe"), SFlag::S_IFIFO, Mode::S_IRWXU, 0).unwrap();
        let owned = odd.join("owned");
        write(&owned, b"somebody's");
        lchown(&owned, Some(70_001), Some(70_002)).unwrap();
        fs::set_permissions(&owned, Permissions::from_mode(0o6755)).unwrap();
        let (then, later) = (
            TimeSpec::new(1_000_000_000, 0),
            TimeSpec::new(1_700_000_000, 0),
        );
        let flags = UtimensatFlags::NoFollowSymlink;
        utimensat(nix::fcntl::AT_FDCWD, &owned, &then, &later, flags).unwrap();
    }
}

/// Fills the file system up, and empties it again, but for the files that came last.
fn far(root: &Path) {
    let mut random = Random::new(3);
    let mut names = Vec::new();
    for n in 0.. {
        let dir = root.join(format!("far-{:02}", n % 24));
        let name = dir.join(format!("{n:05}"));
        let content = random.bytes(24 << 10);
        let written = fs::create_dir_all(&dir)
            .and_then(|()| File::create(&name))
            .and_then(|mut file| file.write_all(&content).and_then(|()| file.sync_data()));
        if written.is_err() {
            let _ = fs::remove_file(&name);
            break;
        }
        names.push(name);
    }
    assert!(names.len() > 100, "{} files", names.len());
    let kept = names.len() - 60;
    for (n, name) in names[..kept].iter().enumerate() {
        if n % 16 != 3 {
            fs::remove_file(name).unwrap();
        }
    }
}
