//! The use cases: knows everything in the layers below, and owns the transaction directory.

pub mod dossier;
