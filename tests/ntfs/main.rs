//! NTFS end to end: grown and shrunk, on an image, in a GPT and on a loop device; every file as it
//! was, seen through a mount of ntfs-3g; nothing to do the second time; rolled back to the byte;
//! killed and recovered. What stands against it is refused, and a resizer that lies is caught.
//!
//! Needs root, ntfs-3g (mkntfs, ntfsresize, ntfsfix and the mount), attr, util-linux, perl and
//! strace.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

#[path = "../common/loopdev.rs"]
mod loopdev;
#[path = "../common/ntfs3g.rs"]
mod ntfs3g;
#[path = "../common/scene.rs"]
mod scene;

mod gate;
mod hostile;
mod journey;
mod reader;
mod refused;
mod tree;
mod volume;
