//! What the test must know of a file system.

use std::path::Path;

use super::account::{Account, Node};
use super::rows::{Direction, Expect, Place};

/// Sizes in MiB. Small ones: every row copies the disk several times.
#[derive(Clone, Copy, Debug)]
pub struct Sizes {
    /// At first.
    pub now: u64,
    /// With all the room that there is.
    pub most: u64,
    /// A smaller one.
    pub less: u64,
}

/// A file system, or something else that a partition holds and that can be resized.
pub trait System: Sync {
    /// As in the table.
    fn name(&self) -> &'static str;

    /// The Debian packages of the tools that the program runs, for the table.
    fn packages(&self) -> &'static str;

    /// Sizes that suit it.
    fn sizes(&self) -> Sizes;

    /// What a change comes to.
    fn expect(&self, direction: Direction, place: Place) -> Expect;

    /// Type of its partition, as `sfdisk` takes it: in a GPT, and in an MBR.
    fn partition_types(&self) -> (&'static str, &'static str);

    /// Makes the file system in `image`, a sparse file of the size at first, for a disk with sectors
    /// of `sector` bytes, with mail in it: at the end too, so that a shrink has something to move.
    /// `dir` is for whatever else is needed.
    fn make(&self, image: &Path, sector: u32, dir: &Path);

    /// Runs the reference checker on a read-only device, and panics where it finds anything.
    fn check(&self, device: &Path);

    /// Size of the file system in bytes, as one of its own tools says. It must be the plan's.
    fn size_bytes(&self, device: &Path) -> u64;

    /// How much smaller than its partition it may be.
    fn slack_bytes(&self) -> u64 {
        64 << 10
    }

    /// Everything in it, by a reader that is not the program's: as a rule the kernel's. The device
    /// is read-only; `point` is a directory that may be made, to mount it at.
    fn account(&self, device: &Path, point: &Path) -> Account;

    /// Whether a change of this direction may make `new` of the file or directory that was `old`.
    /// What is `fixed` may never differ.
    fn forgives(&self, _direction: Direction, old: &Node, new: &Node) -> bool {
        old == new
    }

    /// How many bytes a shrink must write at least, so that the test sees something move.
    fn moved_by_shrink(&self) -> u64 {
        512 << 10
    }
}
