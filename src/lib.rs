//! Holdfast resizes partitions and the file systems in them without betting the data on it.
//!
//! The device is opened read-only until the answer is known. The whole change (partition table,
//! file-system check, stock resizer) is *rehearsed* on a copy-on-write overlay of the device, and
//! the result is checked there, down to every file. Only what really differs, the *delta*, is then
//! *committed* to the device, through a journal that holds both the old and the new content. Then
//! the device is read back and compared. Whatever fails is rolled back, and the rollback is
//! verified too.
//!
//! # Layers, and the order to read them in
//!
//! Imports point down only, and modules of one layer do not know each other;
//! `tests/layers.rs` enforces both.
//!
//! | layer | modules | |
//! |---|---|---|
//! | 6 | `main.rs` | parse, run, exit code |
//! | 5 | [`cli`] | what was typed, what is printed |
//! | 4 | [`transaction`] | the use cases, and the transaction directory |
//! | 3 | [`plan`], [`journal`], [`check`], [`mail`] | judge, and write |
//! | 2 | [`table`], [`fs`], [`snapshot`], [`overlay`], [`export`], [`sim`] | read and edit formats, rehearse |
//! | 1 | [`disk`], [`report`], [`harden`] | the seams to bytes, to people, to processes |
//! | 0 | [`units`], [`extent`] | the words |
//!
//! Read [`journal`] first: it is the only module that writes a target, and its head states the
//! invariants that everything else serves.

pub mod check;
pub mod cli;
pub mod disk;
pub mod export;
pub mod extent;
pub mod fs;
pub mod harden;
pub mod journal;
pub mod mail;
pub mod overlay;
pub mod plan;
pub mod report;
pub mod sim;
pub mod snapshot;
pub mod table;
pub mod transaction;
pub mod units;
