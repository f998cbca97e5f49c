//! Swap space. Its content is nobody's; its header is accounted for, byte for byte.

use std::fs;
use std::path::Path;

use super::account::Account;
use super::host::{run, text};
use super::rows::{Direction, Expect, Place};
use super::system::{Sizes, System};

/// Swap space with pages of 4 KiB, and something in all of them.
pub struct Swap;

const PAGE: usize = 4096;
/// Where the number of the last page stands.
const LAST_PAGE: std::ops::Range<usize> = 1028..1032;

impl System for Swap {
    fn name(&self) -> &'static str {
        "swap"
    }

    fn packages(&self) -> &'static str {
        "util-linux"
    }

    fn sizes(&self) -> Sizes {
        Sizes {
            now: 8,
            most: 13,
            less: 5,
        }
    }

    fn expect(&self, _direction: Direction, _place: Place) -> Expect {
        Expect::Done
    }

    fn partition_types(&self) -> (&'static str, &'static str) {
        ("0657FD6D-A4AB-43C4-84E5-0933C84B4F4F", "82")
    }

    fn make(&self, image: &Path, _sector: u32, _dir: &Path) {
        let len = fs::metadata(image).unwrap().len() as usize;
        fs::write(image, vec![0x5a; len]).unwrap();
        let size = PAGE.to_string();
        run("mkswap", &["-q", "-p", &size, "-L", "space", text(image)]);
    }

    fn check(&self, device: &Path) {
        run("swaplabel", &[text(device)]);
        let found = run("blkid", &["-p", "-o", "value", "-s", "TYPE", text(device)]);
        assert_eq!(found.trim(), "swap");
    }

    /// No tool of Debian 12 tells it.
    fn size_bytes(&self, device: &Path) -> u64 {
        let header = fs::read(device).unwrap();
        let last = u32::from_ne_bytes(header[LAST_PAGE].try_into().unwrap());
        (u64::from(last) + 1) * PAGE as u64
    }

    fn account(&self, device: &Path, _point: &Path) -> Account {
        let mut header = fs::read(device).unwrap();
        header.truncate(PAGE);
        header[LAST_PAGE].fill(0);
        let mut account = Account::default();
        account.add("header", format!("{header:?}"));
        account.add("names", run("swaplabel", &[text(device)]));
        account
    }

    fn moved_by_shrink(&self) -> u64 {
        0
    }
}
