//! `holdfast mail`: what it finds of seeded damage, and what it says of honest mail.
//!
//! `HOLDFAST_MAIL_MESSAGES=100000 cargo test --release --test mail -- --nocapture figures` measures
//! at length, and prints the table of README.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::disallowed_methods)]

mod figures;
mod honest;
mod offline;
mod store;
mod use_case;

use std::path::Path;
use std::process::{Command, Output};

fn holdfast(args: &[&str], dir: &Path) -> Output {
    Command::new(env!("CARGO_BIN_EXE_holdfast"))
        .args(args)
        .current_dir(dir)
        .output()
        .unwrap()
}

/// All findings of a scan, and its summary.
fn scan(dir: &Path, more: &[&str]) -> (Vec<serde_json::Value>, serde_json::Value, i32) {
    scan_with(&[&[dir.to_str().unwrap()], more].concat(), dir)
}

/// The same with all arguments given, in a directory.
fn scan_with(args: &[&str], dir: &Path) -> (Vec<serde_json::Value>, serde_json::Value, i32) {
    let output = holdfast(&[&["mail", "scan", "--jsonl", "-q"], args].concat(), dir);
    let text = String::from_utf8(output.stdout).unwrap();
    let mut findings = Vec::new();
    let mut summary = serde_json::Value::Null;
    for line in text.lines() {
        let mut line: serde_json::Value = serde_json::from_str(line).unwrap();
        if let Some(finding) = line.get_mut("finding") {
            findings.push(finding.take());
        } else if let Some(last) = line.get_mut("summary") {
            summary = last.take();
        }
    }
    assert!(
        summary.is_object(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    (findings, summary, output.status.code().unwrap())
}

fn temporary() -> tempfile::TempDir {
    tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap()
}
