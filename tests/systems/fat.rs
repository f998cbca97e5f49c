//! FAT16, read by mtools: this kernel may not know it, and mtools shows what no mount does.

use std::fs;
use std::path::Path;

use super::account::Account;
use super::host::{run, text};
use super::mail::{Random, messages};
use super::rows::{Direction, Expect, Place};
use super::system::{Sizes, System};

/// FAT16 with clusters of 4 KiB.
pub struct Fat16;

impl System for Fat16 {
    fn name(&self) -> &'static str {
        "FAT16"
    }

    fn packages(&self) -> &'static str {
        "dosfstools"
    }

    fn sizes(&self) -> Sizes {
        Sizes {
            now: 24,
            most: 41,
            less: 18,
        }
    }

    fn expect(&self, _direction: Direction, _place: Place) -> Expect {
        Expect::Done
    }

    fn partition_types(&self) -> (&'static str, &'static str) {
        ("EBD0A0A2-B9E5-4433-87C0-68B6B72699C7", "0e")
    }

    fn make(&self, image: &Path, sector: u32, dir: &Path) {
        let (size, per) = (sector.to_string(), (4096 / sector).to_string());
        let args = [
            "-F",
            "16",
            "-S",
            &size,
            "-s",
            &per,
            "-n",
            "MAIL",
            text(image),
        ];
        run("mkfs.fat", &args);
        let tree = dir.join("tree");
        fs::create_dir(&tree).unwrap();
        messages(&tree);
        let mut random = Random::new(9);
        // What comes after it lies at the end.
        fs::write(dir.join("filler"), random.bytes(19 << 20)).unwrap();
        fs::create_dir(tree.join("at the end of the volume")).unwrap();
        for n in 0..30 {
            let name = format!("at the end of the volume/A long name {n}.eml");
            fs::write(tree.join(name), random.bytes(70_000 + n)).unwrap();
        }
        let copy = |from: &Path| run("mcopy", &["-s", "-m", "-i", text(image), text(from), "::/"]);
        for user in 0..12 {
            copy(&tree.join(format!("user-{user:02}")));
        }
        copy(&dir.join("filler"));
        copy(&tree.join("at the end of the volume"));
        run("mattrib", &["-i", text(image), "+h", "+r", "::/user-03"]);
        run("mdel", &["-i", text(image), "::/filler"]);
    }

    fn check(&self, device: &Path) {
        run("fsck.fat", &["-n", text(device)]);
    }

    fn size_bytes(&self, device: &Path) -> u64 {
        let said = run("minfo", &["-i", text(device), "::"]);
        let number = |name: &str| -> u64 {
            // Of the two numbers of sectors it shows the one that counts.
            let Some((_, rest)) = said.split_once(name) else {
                return 0;
            };
            rest.split_whitespace().next().unwrap().parse().unwrap()
        };
        let sectors = number("small size:").max(number("big size:"));
        sectors * number("sector size:")
    }

    fn account(&self, device: &Path, point: &Path) -> Account {
        let mut account = Account::default();
        let listed = run("mdir", &["-a", "-/", "-i", text(device), "::/"]);
        let lines: Vec<&str> = listed
            .lines()
            .filter(|l| !l.contains("bytes free"))
            .collect();
        assert!(lines.len() > 200, "{listed}");
        account.add("directories", lines.join("\n"));
        account.add(
            "attributes",
            run("mattrib", &["-/", "-i", text(device), "::/"]),
        );
        let _ = fs::remove_dir_all(point);
        fs::create_dir_all(point).unwrap();
        let args = ["-s", "-n", "-m", "-i", text(device), "::/", text(point)];
        run("mcopy", &args);
        contents(point, &mut account);
        fs::remove_dir_all(point).unwrap();
        account
    }
}

fn contents(dir: &Path, account: &mut Account) {
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        match path.is_dir() {
            true => contents(&path, account),
            false => {
                let hash = blake3::hash(&fs::read(&path).unwrap());
                account.add(text(&path), hash.to_string());
            }
        }
    }
}
