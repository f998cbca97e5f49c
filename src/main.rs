//! The `holdfast` command: parse, run, exit code.

use std::process::ExitCode;

fn main() -> ExitCode {
    match holdfast::fs::mount::child::main() {
        Some(done) => done,
        None => holdfast::cli::main(),
    }
}
