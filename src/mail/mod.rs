//! The mail store: damaged messages are found before users find them.
//!
//! After a file system was "recovered", messages are blank, cut short, or hold other files' bytes,
//! and nobody knows which. A scan reads a store as it is and says so, without any earlier record
//! of it. It deletes nothing, repairs nothing, and opens no message for writing.
//!
//! 1. Files are opened for reading alone, never through a link, and without a change of their
//!    access time where the kernel allows that.
//! 2. *Certain* is said of what contradicts itself or its store; *likely* of what honest mail
//!    hardly ever is; what mail programs have been seen to write is *suspicious* at most.
//! 3. What could not be looked at is counted and told: a scan that saw only half is no clean scan.
//! 4. Memory is bounded, whatever the size of a message, a mailbox or a directory.
//!
//! Reading order: [`tree`] is the seam to files, [`host`] this host's; [`place`] knows stores by
//! their names; [`content`] and [`structure`] read bytes and lines, [`message`] judges; a module for
//! each store's own format ([`maildir`], [`mbox`], [`dbox`], [`cyrus`], [`metadata`], [`unpack`]);
//! [`shared`] compares blocks across files; [`scan`] drives them all and hands out each [`finding`].
//! [`quarantine`] puts files aside and back; [`server`] knows whose store it is.
//!
//! Parsers of mail are not used: they make something out of anything, and hold a whole message in
//! memory. What is asked here is whether a message is what a mail program wrote.

pub mod content;
pub mod cyrus;
pub mod dbox;
pub mod files;
pub mod finding;
pub mod header;
pub mod host;
#[cfg(test)]
mod hostile;
pub mod maildir;
pub mod mbox;
pub mod message;
pub mod metadata;
pub mod offline;
pub mod place;
pub mod pool;
pub mod quarantine;
pub mod scan;
pub mod server;
pub mod shared;
pub mod structure;
pub mod tree;
pub mod unpack;
