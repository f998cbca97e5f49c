//! Bad input, as the program itself answers it: a clear refusal or error that names the object and
//! the way out, one JSON document, the promised exit code, and not a byte of the target changed.
//!
//! Needs root, loop devices, mounts, util-linux, e2fsprogs and gdisk.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::type_complexity,
    reason = "a test stops at the first surprise"
)]

mod asking;
mod bench;
mod damage;
mod held;
mod mbr;
mod output;
mod plan_file;
mod sizes;
mod state_dir;
mod tables;
mod targets;
mod tools;
mod transactions;
