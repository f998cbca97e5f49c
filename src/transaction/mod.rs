//! The use cases: knows everything in the layers below, and owns the transaction directory.
//!
//! [`look::Look`] surveys, [`planning`] plans, [`change`] carries out, [`prepare`] and [`rehearse`] work on overlays,
//! [`dossier`] seals and commits, [`undo`] recovers and rolls back, [`store`] keeps them all.
//!
//! 1. No writable descriptor of the target exists before the journal is sealed: a rehearsal has
//!    passed every check by then.
//! 2. Before the commit point a wish to stop is heard between any two steps; after it, not at all.
//! 3. Every use case ends in a value that names the state of the target: done, or a [`Stop`].

pub mod blame;
pub mod change;
pub mod dossier;
pub mod inhibit;
pub mod look;
pub mod mail;
pub mod manifest;
pub mod media;
pub mod planning;
pub mod prepare;
pub mod rehearse;
pub mod stop;
pub mod store;
pub mod undo;

pub use change::{Done, Ending, carry_out};
pub use look::{Asked, Look};
pub use planning::{Options, Planned, check, make_plan};
pub use stop::Stop;
pub use store::{Entry, Progress, Store};
