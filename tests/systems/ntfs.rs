//! NTFS. What Windows would do with it cannot be tried here: ntfs-3g reads it.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

use super::account::Account;
use super::host::{run, text};
use super::mail;
use super::ntfs3g::Ntfs3g;
use super::rows::{Direction, Expect, Place};
use super::system::{Sizes, System};

/// NTFS with clusters of 4 KiB.
pub struct Ntfs;

impl System for Ntfs {
    fn name(&self) -> &'static str {
        "NTFS"
    }

    fn packages(&self) -> &'static str {
        "ntfs-3g"
    }

    fn sizes(&self) -> Sizes {
        Sizes {
            now: 24,
            most: 41,
            less: 12,
        }
    }

    fn expect(&self, _direction: Direction, _place: Place) -> Expect {
        Expect::Done
    }

    fn partition_types(&self) -> (&'static str, &'static str) {
        ("EBD0A0A2-B9E5-4433-87C0-68B6B72699C7", "7")
    }

    fn make(&self, image: &Path, sector: u32, dir: &Path) {
        let sector = sector.to_string();
        let args = ["-F", "-Q", "-q", "-c", "4096", "-L", "mail", "-s", &sector];
        run("mkntfs", &[&args[..], &[text(image)]].concat());
        let mounted = Ntfs3g::on(&dir.join("fill"), image, "permissions");
        mail::populate(mounted.point(), mail::Kinds::ALL);
    }

    fn check(&self, device: &Path) {
        // Dirty it is after every change. ntfsfix would look for the backup of the boot sector at
        // the end of the device alone, and a bare device keeps its end when it gets smaller.
        let said = info(device);
        assert!(said.contains("Accounting clusters"), "{said}");
        let file = File::open(device).unwrap();
        let (mut boot, mut copy) = ([0; 512], [0; 512]);
        file.read_exact_at(&mut boot, 0).unwrap();
        let sector = u16::from_le_bytes([boot[11], boot[12]]);
        let backup = self.size_bytes(device) - u64::from(sector);
        file.read_exact_at(&mut copy, backup).unwrap();
        assert_eq!(boot, copy, "the backup of the boot sector");
    }

    fn size_bytes(&self, device: &Path) -> u64 {
        let said = info(device);
        // The last sector is the backup of the first, behind whole clusters and a rest.
        let cluster = number(&said, "Cluster size");
        number(&said, "Current volume size").next_multiple_of(cluster)
    }

    fn account(&self, device: &Path, point: &Path) -> Account {
        let mounted = Ntfs3g::on(point, device, "ro,permissions");
        Account::of(mounted.point())
    }
}

fn info(device: &Path) -> String {
    let args = ["--info", "--force", "--no-progress-bar", text(device)];
    run("ntfsresize", &args)
}

fn number(said: &str, name: &str) -> u64 {
    let line = said.lines().find(|line| line.starts_with(name)).unwrap();
    let (_, value) = line.split_once(':').unwrap();
    value.split_whitespace().next().unwrap().parse().unwrap()
}
