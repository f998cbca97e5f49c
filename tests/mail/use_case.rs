//! Scan, quarantine, scan, restore, as one types it.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use super::honest::Seed;
use super::store::{Kind, write};
use super::{holdfast, scan, temporary};

/// Every file: path, hash of its content, inode, last change, mode; without its content, its last
/// access instead of the hash.
fn everything(root: &Path, read: bool) -> Vec<(String, String, u64, i64, u32)> {
    let mut all = Vec::new();
    let mut waiting = vec![root.to_path_buf()];
    while let Some(dir) = waiting.pop() {
        for entry in fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            let meta = fs::symlink_metadata(&path).unwrap();
            if meta.is_dir() {
                waiting.push(path);
                continue;
            }
            let what = match meta.is_file() && read {
                true => blake3::hash(&fs::read(&path).unwrap()).to_string(),
                false => format!("{}.{}", meta.atime(), meta.atime_nsec()),
            };
            let mtime = meta.mtime() * 1_000_000_000 + meta.mtime_nsec();
            all.push((
                path.display().to_string(),
                what,
                meta.ino(),
                mtime,
                meta.mode(),
            ));
        }
    }
    all.sort();
    all
}

#[test]
fn what_is_put_aside_comes_back_as_it_was() {
    let dir = temporary();
    let root = dir.path().canonicalize().unwrap();
    let store = write(&root.join("md"), Kind::Maildir, 60, &mut Seed(7));
    for at in [3, 9, 12] {
        let (path, _) = &store.messages[at];
        let len = fs::metadata(path).unwrap().len();
        fs::write(path, vec![0; len as usize]).unwrap();
    }
    fs::write(root.join("md/cur/odd\nname\u{202e}.S=5:2,"), "").unwrap();
    std::os::unix::fs::symlink("/etc/passwd", root.join("md/cur/link")).unwrap();
    let untouched = everything(&root.join("md"), false);
    let text = holdfast(&["mail", "scan", "md", "--jsonl", "-q"], &root);
    assert_eq!(text.status.code(), Some(7));
    let after = everything(&root.join("md"), false);
    assert!(
        after == untouched,
        "a scan changes nothing, not even access times"
    );
    let before = everything(&root.join("md"), true);
    fs::write(root.join("found"), &text.stdout).unwrap();

    let told = holdfast(&["mail", "quarantine", "found", "--to", "aside"], &root);
    assert_eq!(told.status.code(), Some(0));
    assert!(String::from_utf8_lossy(&told.stdout).contains("nothing was moved"));
    assert!(!root.join("aside").exists());

    let args = [
        "mail",
        "quarantine",
        "found",
        "--to",
        "aside",
        "--kind",
        "blank",
        "--yes",
        "--online",
    ];
    let moved = holdfast(&args, &root);
    let said = String::from_utf8_lossy(&moved.stdout).into_owned();
    assert_eq!(
        moved.status.code(),
        Some(0),
        "{said}{}",
        String::from_utf8_lossy(&moved.stderr)
    );
    assert!(
        said.contains("3 files moved") && said.contains("doveadm force-resync"),
        "{said}"
    );
    assert_eq!(everything(&root.join("md"), true).len(), before.len() - 3);
    let (findings, _, _) = scan(&root.join("md"), &["--at-least", "certain"]);
    assert_eq!(
        findings.len(),
        1,
        "the empty one was not chosen: {findings:?}"
    );

    let back = holdfast(&["mail", "restore", "aside", "--yes", "--online"], &root);
    assert_eq!(back.status.code(), Some(0));
    assert!(
        everything(&root.join("md"), true) == before,
        "exactly as it was"
    );
}

#[test]
fn a_store_that_a_process_works_on_is_refused() {
    let dir = temporary();
    let root = dir.path().canonicalize().unwrap();
    let store = write(&root.join("md"), Kind::Maildir, 20, &mut Seed(8));
    let path = &store.messages[3].0;
    fs::write(path, "").unwrap();
    let found = holdfast(&["mail", "scan", "md", "--jsonl", "-q"], &root);
    fs::write(root.join("found"), &found.stdout).unwrap();
    let open = fs::File::open(path).unwrap();
    let args = ["mail", "quarantine", "found", "--to", "aside", "--yes"];
    let refused = holdfast(&args, &root);
    assert_eq!(refused.status.code(), Some(3));
    assert!(String::from_utf8_lossy(&refused.stderr).contains("store-in-use"));
    assert!(path.exists());
    drop(open);
    let args = [
        "mail",
        "quarantine",
        "found",
        "--to",
        "found",
        "--yes",
        "--online",
    ];
    let refused = holdfast(&args, &root);
    assert!(String::from_utf8_lossy(&refused.stderr).contains("bad-quarantine"));
    let cut = found.stdout.len() - 10;
    fs::write(root.join("found"), &found.stdout[..cut]).unwrap();
    let refused = holdfast(&["mail", "quarantine", "found", "--to", "aside"], &root);
    assert!(String::from_utf8_lossy(&refused.stderr).contains("bad-findings"));
}

#[test]
fn output_is_one_document_or_lines_and_harmless() {
    let dir = temporary();
    let root = dir.path().canonicalize().unwrap();
    fs::create_dir_all(root.join("md/cur")).unwrap();
    fs::create_dir_all(root.join("md/new")).unwrap();
    let name = std::ffi::OsString::from_vec(b"1\x1b[2J\n\xff:2,".to_vec());
    fs::write(root.join("md/cur").join(&name), "").unwrap();
    let json = holdfast(&["mail", "scan", "md", "--json"], &root);
    assert_eq!(json.status.code(), Some(7));
    let document: serde_json::Value = serde_json::from_slice(&json.stdout).unwrap();
    assert_eq!(document["command"], "mail scan");
    assert_eq!(document["outcome"], "differs");
    assert_eq!(document["totals"]["findings"]["zero-length"]["certain"], 1);
    for args in [
        &["mail", "scan", "md"][..],
        &["mail", "scan", "md", "--report"],
        &["mail", "scan", "md", "--jsonl"],
    ] {
        let text = holdfast(args, &root).stdout;
        assert!(text.iter().all(|b| *b == b'\n' || *b >= 0x20), "{args:?}");
        assert!(!text.is_empty());
    }
    let none = holdfast(&["mail", "scan", "md/new"], &root);
    assert_eq!(none.status.code(), Some(0));
    let missing = holdfast(&["mail", "scan", "nowhere"], &root);
    assert_eq!(missing.status.code(), Some(1));
}

use std::os::unix::ffi::OsStringExt;
