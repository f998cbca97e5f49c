//! ext4, and the example for the others.

use std::path::Path;

use super::account::{Account, Node};
use super::host::{Loop, Mounted, output, run, text};
use super::mail;
use super::rows::{Direction, Expect, Place};
use super::system::{Sizes, System};

/// ext4 with small groups, so that a small one has many.
pub struct Ext4;

impl System for Ext4 {
    fn name(&self) -> &'static str {
        "ext4"
    }

    fn packages(&self) -> &'static str {
        "e2fsprogs"
    }

    fn sizes(&self) -> Sizes {
        Sizes {
            now: 24,
            most: 41,
            less: 17,
        }
    }

    fn expect(&self, _direction: Direction, _place: Place) -> Expect {
        Expect::Done
    }

    fn partition_types(&self) -> (&'static str, &'static str) {
        ("0FC63DAF-8483-4772-8E79-3D69D8477DE4", "83")
    }

    fn make(&self, image: &Path, _sector: u32, dir: &Path) {
        let args = "-q -F -t ext4 -b 4096 -g 1024 -N 1600 -L mail -E nodiscard,lazy_itable_init=0";
        let mut args: Vec<&str> = args.split(' ').collect();
        args.push(text(image));
        run("mke2fs", &args);
        {
            let device = Loop::attach(image, &[]);
            let mounted = Mounted::on(&dir.join("fill"), &device.node, "rw");
            mail::populate(&mounted.point, mail::Kinds::ALL);
        }
        // What the kernel leaves to the checker, such as the indexes of directories.
        let done = output("e2fsck", &["-f", "-y", text(image)]);
        assert!(done.status.code().is_some_and(|code| code <= 1), "{done:?}");
    }

    fn check(&self, device: &Path) {
        run("e2fsck", &["-f", "-n", text(device)]);
    }

    fn size_bytes(&self, device: &Path) -> u64 {
        let header = run("dumpe2fs", &["-h", text(device)]);
        let number = |name: &str| -> u64 {
            let line = header.lines().find(|l| l.starts_with(name)).unwrap();
            line.split_whitespace().last().unwrap().parse().unwrap()
        };
        number("Block count:") * number("Block size:")
    }

    fn account(&self, device: &Path, point: &Path) -> Account {
        // Without the replay of a journal.
        let mounted = Mounted::on(point, device, "ro,noload");
        let mut account = Account::of(&mounted.point);
        let flags = run("lsattr", &["-aR", text(point)]);
        account.add("flags", flags.replace(text(point), ""));
        account
    }

    /// A shrink gives inodes of the lost groups other numbers, and then sets the times of the inode
    /// and of the directories that name it.
    fn forgives(&self, direction: Direction, old: &Node, new: &Node) -> bool {
        if direction == Direction::Grow {
            return old == new;
        }
        old.fixed == new.fixed
            && (old.mtime == new.mtime || old.is_directory)
            && (old.ctime == new.ctime || old.is_directory || old.inode != new.inode)
    }
}
