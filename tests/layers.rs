//! The layer rule: imports point down only, and modules of one layer do not know each other.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::collections::BTreeMap;
use std::path::Path;

/// Each module's layer, as the table in `lib.rs` says.
const LAYERS: [(&str, u32); 20] = [
    ("units", 0),
    ("extent", 0),
    // Within layer 1, everything may report.
    ("report", 1),
    ("harden", 1),
    ("disk", 1),
    ("table", 2),
    ("fs", 2),
    ("snapshot", 2),
    ("overlay", 2),
    ("export", 2),
    ("sim", 2),
    ("plan", 3),
    ("journal", 3),
    ("check", 3),
    ("mail", 3),
    ("transaction", 4),
    ("cli", 5),
    ("main", 6),
    ("lib", 6),
    ("holdfast", 6),
];

fn layer(module: &str) -> u32 {
    let found = LAYERS.iter().find(|(name, _)| *name == module);
    found.unwrap_or_else(|| panic!("{module} has no layer")).1
}

/// Whether `from` may import `to`.
fn allowed(from: &str, to: &str) -> bool {
    from == to
        || layer(from) > layer(to)
        || (layer(from), layer(to)) == (0, 0)
        || (layer(from) == 1 && to == "report")
}

fn sources(dir: &Path, out: &mut Vec<std::path::PathBuf>) {
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        match path.is_dir() {
            true => sources(&path, out),
            false => out.push(path),
        }
    }
}

/// Modules of the crate that a source names: `crate::name` anywhere, in code or docs.
fn imports(text: &str) -> Vec<String> {
    let word = |s: &str| {
        s.chars()
            .take_while(|c| c.is_ascii_alphanumeric() || *c == '_')
            .collect::<String>()
    };
    let mut found: Vec<String> = text
        .split("crate::")
        .skip(1)
        .map(word)
        .filter(|w| !w.is_empty())
        .collect();
    // `use crate::{a, b}` would slip through: it is not written here.
    assert!(
        !text.contains("use crate::{"),
        "imports name one module each"
    );
    found.dedup();
    found
}

#[test]
fn imports_point_down_and_siblings_do_not_know_each_other() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    sources(&root, &mut files);
    let mut seen: BTreeMap<String, usize> = BTreeMap::new();
    for file in files {
        let relative = file.strip_prefix(&root).unwrap();
        let module = relative
            .components()
            .next()
            .unwrap()
            .as_os_str()
            .to_string_lossy()
            .replace(".rs", "");
        let text = std::fs::read_to_string(&file).unwrap();
        for import in imports(&text) {
            assert!(
                allowed(&module, &import),
                "{} (layer {}) imports {import} (layer {})",
                relative.display(),
                layer(&module),
                layer(&import)
            );
            *seen.entry(module.clone()).or_default() += 1;
        }
    }
    assert!(seen.len() > 10, "the sources were found: {seen:?}");
}

#[test]
fn the_rule_can_fail() {
    assert!(!allowed("disk", "table"));
    assert!(!allowed("table", "fs"));
    assert!(!allowed("journal", "plan"));
    assert!(allowed("journal", "snapshot"));
    assert!(allowed("transaction", "journal"));
}

/// Only the journal writes targets: nobody else calls a writer of `Media`.
#[test]
fn only_the_journal_opens_a_writer() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    sources(&root, &mut files);
    let mut callers = Vec::new();
    for file in files {
        let text = std::fs::read_to_string(&file).unwrap();
        let code = text.split("#[cfg(test)]").next().unwrap_or_default();
        let code: String = code.split_whitespace().collect();
        if code.contains("media.writer()")
            || code.contains(".open_write(")
            || code.contains("FileDisk::open_write(")
        {
            callers.push(file.strip_prefix(&root).unwrap().display().to_string());
        }
    }
    callers.sort();
    // `media.rs` is the factory that the journal calls; its `reserve` allocates and writes nothing.
    assert_eq!(callers, ["journal/apply.rs", "transaction/media.rs"]);
}
