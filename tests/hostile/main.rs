//! P7: no tool is trusted. A false tool stands first in PATH, lets the real one work, and then
//! does damage (`harm.pl` says how). Whatever it does, the target is not touched, the answer names
//! what was found, and nothing is left behind. And the tools as they are raise no false alarm.
//!
//! Needs root, e2fsprogs and perl.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

#[path = "../common/broken.rs"]
mod broken;
#[path = "../common/loopdev.rs"]
mod loopdev;
#[path = "../common/scene.rs"]
mod scene;

mod alarms;
mod others;
mod outside;
mod resizer;
