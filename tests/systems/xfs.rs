//! XFS. It grows, and cannot shrink.

use std::path::Path;

use super::account::Account;
use super::host::{Loop, Mounted, run, text};
use super::mail;
use super::rows::{Direction, Expect, Place};
use super::system::{Sizes, System};

/// XFS as mkfs.xfs makes it.
pub struct Xfs;

impl System for Xfs {
    fn name(&self) -> &'static str {
        "XFS"
    }

    fn packages(&self) -> &'static str {
        "xfsprogs"
    }

    fn sizes(&self) -> Sizes {
        Sizes {
            now: 48,
            most: 73,
            less: 40,
        }
    }

    fn expect(&self, direction: Direction, _place: Place) -> Expect {
        match direction {
            Direction::Grow => Expect::Done,
            Direction::Shrink => Expect::Refused("xfs-no-shrink"),
        }
    }

    fn partition_types(&self) -> (&'static str, &'static str) {
        ("0FC63DAF-8483-4772-8E79-3D69D8477DE4", "83")
    }

    fn make(&self, image: &Path, sector: u32, dir: &Path) {
        let sector = format!("size={sector}");
        // Without these variables it makes none below 300 MiB.
        let args = "TEST_DIR=1 TEST_DEV=1 QA_CHECK_FS=1 mkfs.xfs -q -f -L mail -s";
        let mut args: Vec<&str> = args.split(' ').collect();
        args.extend([sector.as_str(), text(image)]);
        run("env", &args);
        let device = Loop::attach(image, &[]);
        let mounted = Mounted::on(&dir.join("fill"), &device.node, "rw,nouuid");
        mail::populate(&mounted.point, mail::Kinds::ALL);
    }

    fn check(&self, device: &Path) {
        run("xfs_repair", &["-n", text(device)]);
    }

    fn size_bytes(&self, device: &Path) -> u64 {
        let print = ["-r", "-c", "sb 0", "-c", "print dblocks blocksize"];
        let said = run("xfs_db", &[&print[..], &[text(device)]].concat());
        let numbers = said
            .lines()
            .map(|line| line.rsplit(' ').next().unwrap().parse::<u64>().unwrap());
        numbers.product()
    }

    /// A last group of less than 64 blocks is not made.
    fn slack_bytes(&self) -> u64 {
        64 * 4096 + (64 << 10)
    }

    fn account(&self, device: &Path, point: &Path) -> Account {
        // Without the replay of a log.
        let mounted = Mounted::on(point, device, "ro,norecovery,nouuid");
        let mut account = Account::of(&mounted.point);
        let flags = run("lsattr", &["-aR", text(point)]);
        account.add("flags", flags.replace(text(point), ""));
        account
    }
}
