//! The `holdfast` command: parse, run, exit code.

use std::process::ExitCode;

fn main() -> ExitCode {
    holdfast::cli::main()
}
