//! What the comparison of two states of an ext file system finds, and what it must not find.
//!
//! The images are made with `mke2fs -d`, changed with `debugfs`, and resized with the real
//! `resize2fs`; these tools must be installed. No mount, no loop device.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod damage;
mod image;
mod reader;
mod resize;
