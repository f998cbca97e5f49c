//! What was typed, what is printed.
//!
//! Standard output carries only the result: text, or one JSON document. Progress and notices go to
//! standard error. Errors of output never change what happens to a target.

mod answer;
mod args;
mod blame;
mod files;
mod mail;
mod progress;
mod render;
mod run;

pub use answer::{Answer, Outcome};
pub use args::{Cli, Command};
pub use run::main;
