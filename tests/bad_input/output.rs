//! What is printed: text from a disk is harmless, help is there, and every code is documented.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use crate::bench::{Bench, MIB, PART, debugfs, peek, poke, tool};

/// Clears the screen, in three ways, and turns the text around.
const NASTY: &str = "a\x1b[2J\u{9b}2J\u{202e}b";

#[test]
fn labels_and_names_from_a_disk_cannot_steer_a_terminal() {
    let (bench, image) = Bench::with("small-gpt");
    let part = image.with_extension("part");
    let bytes = fs::read(&image).unwrap();
    fs::write(&part, &bytes[PART.start as usize..PART.end as usize]).unwrap();
    tool(
        "tune2fs",
        &["-L".as_ref(), NASTY.as_ref(), part.as_os_str()],
    );
    poke(&image, PART.start, &fs::read(&part).unwrap());
    let name: Vec<u8> = NASTY.encode_utf16().flat_map(u16::to_le_bytes).collect();
    crate::tables::edit(&image, 1, 56, &name);
    let target = image.to_str().unwrap();
    for args in [
        &["check", target][..],
        &["plan", "grow", target],
        &["grow", target, "--yes"],
        &["status"],
    ] {
        // That nothing raw comes out is asserted of every answer.
        let text = bench.run(args);
        assert_eq!(text.code, 0, "{}", text.stderr);
        let program = bench.run(&[args, &["--json"]].concat());
        program.document();
        if args[0] == "check" || args[0] == "plan" {
            assert!(
                text.stdout.contains("a\\x1b[2J\\u{9b}2J\\u{202e}"),
                "{}",
                text.stdout
            );
        }
        if args[0] == "plan" {
            // A program gets the label as it is.
            let document = program.document();
            let label = document["plan"]["label"].as_str().unwrap();
            assert!(NASTY.starts_with(label) && label.len() > 5, "{label:?}");
        }
    }
}

#[test]
fn names_of_files_are_escaped_in_findings_and_differences() {
    let bench = Bench::new();
    let image = bench.file("image", 16 * MIB, &[]);
    tool(
        "mke2fs",
        &[
            "-q".as_ref(),
            "-t".as_ref(),
            "ext4".as_ref(),
            image.as_os_str(),
        ],
    );
    let message = bench.path("message");
    fs::write(&message, "Subject: hello\n\nhello\n").unwrap();
    let request = format!("write {} {}", message.display(), "evil\x1b[2J\x07mail");
    debugfs(&image, &[&request]);
    let target = image.to_str().unwrap();
    let manifest = bench.path("manifest");
    let file = manifest.to_str().unwrap();
    let taken = bench.run(&["snapshot", target, "-o", file]);
    assert_eq!(taken.code, 0, "{}", taken.stderr);
    let map = tool("debugfs", &["-R", "bmap evil\x1b[2J\x07mail 0", target]);
    let block: u64 = map.trim().parse().unwrap();
    let byte = peek(&image, block * 1024, 1)[0];
    poke(&image, block * 1024, &[!byte]);
    let why = bench.ends(&image, &["verify", target, file], 7, "differs");
    let owners = why.document["comparison"]["owners"].to_string();
    assert!(owners.contains("evil\\\\x1b[2J\\\\x07mail"), "{owners}");
    // The same name in what e2fsck says.
    debugfs(&image, &["clri evil\x1b[2J\x07mail"]);
    let args = ["shrink", target, "--to", "8MiB", "--yes"];
    bench
        .refused(&image, &args, "damaged-file-system")
        .says(&["evil", "mail"]);
}

#[test]
fn every_command_has_help_that_speaks_of_exit_codes() {
    let bench = Bench::new();
    let top = bench.run(&["--help"]);
    assert_eq!(top.code, 0);
    for code in ["0 ", "1 ", "2 ", "3 ", "4 ", "5 ", "6 ", "7 ", "8 ", "130 "] {
        let listed = top.stdout.lines().any(|l| l.trim_start().starts_with(code));
        assert!(listed, "exit code {code}is not in: {}", top.stdout);
    }
    let commands = [
        "check",
        "plan",
        "plan grow",
        "plan shrink",
        "grow",
        "shrink",
        "apply",
        "snapshot",
        "verify",
        "status",
        "recover",
        "rollback",
        "prune",
        "abandon",
    ];
    for command in commands {
        let words: Vec<&str> = command.split(' ').collect();
        for flag in ["--help", "-h"] {
            let help = bench.run(&[&words[..], &[flag]].concat());
            assert_eq!(help.code, 0, "{command}: {}", help.stderr);
            for word in ["Usage:", "--json", "--state-dir", "Exit codes"] {
                assert!(
                    help.stdout.contains(word),
                    "{command}: no {word} in {}",
                    help.stdout
                );
            }
        }
        assert!(top.stdout.contains(words[0]), "{command}");
        // Typed wrongly, it is one document as well, which knows what was meant.
        let wrong = bench.run(&[&words[..], &["--json", "--no-such-option"]].concat());
        assert_eq!(wrong.code, 2);
        let document = wrong.document();
        assert_eq!(document["outcome"], "usage");
        assert_eq!(document["command"], command);
    }
    assert_eq!(bench.run(&[] as &[&str]).code, 2);
    assert_eq!(
        bench.run(&["explode", "--json"]).document()["outcome"],
        "usage"
    );
    let version = bench.run(&["--version"]);
    assert_eq!(version.code, 0);
    assert!(version.stdout.contains(env!("CARGO_PKG_VERSION")));
}

/// All Rust files below a directory, without those that hold tests alone.
fn sources(dir: &Path, found: &mut Vec<String>) {
    for entry in fs::read_dir(dir).unwrap().flatten() {
        let path = entry.path();
        let name = entry.file_name().into_string().unwrap();
        if path.is_dir() {
            if name != "tests" && name != "sim" {
                sources(&path, found);
            }
        } else if name.ends_with(".rs") && name != "tests.rs" && name != "testing.rs" {
            let text = fs::read_to_string(&path).unwrap();
            let code = text.split("#[cfg(test)]\nmod tests {").next().unwrap();
            found.push(code.to_string());
        }
    }
}

/// The words in `kebab-case` that are string literals somewhere in the program.
fn literals(sources: &[String]) -> BTreeSet<String> {
    let mut words = BTreeSet::new();
    for text in sources {
        for line in text.lines().filter(|l| !l.trim_start().starts_with("//")) {
            for (at, piece) in line.split('"').enumerate() {
                let kebab = piece.contains('-')
                    && piece.split('-').all(|w| {
                        !w.is_empty()
                            && w.bytes()
                                .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit())
                    })
                    && piece.starts_with(|c: char| c.is_ascii_lowercase());
                if at % 2 == 1 && kebab {
                    words.insert(piece.to_string());
                }
            }
        }
    }
    words
}

/// Literals that are the first argument of a function that makes a refusal: codes of one word too.
fn first_arguments(sources: &[String]) -> BTreeSet<String> {
    let makers = [
        "Refusal::new(",
        "Stop::refused(",
        "Stop::rejected(",
        "reject(",
        "refuse(",
        "refused(",
        "problem(",
        "differ(",
    ];
    let mut words = BTreeSet::new();
    for text in sources {
        for maker in makers {
            for after in text.split(maker).skip(1) {
                if let Some(literal) = after.trim_start().strip_prefix('"') {
                    words.insert(literal.split('"').next().unwrap().to_string());
                }
            }
        }
    }
    words
}

/// Words in `kebab-case` that are something else than a code: attributes of serde, packages and
/// programs, the room's own name for its first argument.
const OTHERS: [&str; 9] = [
    "util-linux",
    "kebab-case",
    "bcache-tools",
    "ceph-bluestore-tool",
    "nilfs-resize",
    "ntfs-3g",
    "room-job",
    "btrfs-resize",
    "xfs-grow",
];

/// GUIDs of partition types are written like codes.
fn is_guid(word: &str) -> bool {
    word.len() == 36 && word.split('-').count() == 5
}

#[test]
fn every_refusal_code_is_documented_and_every_documented_one_exists() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let readme = fs::read_to_string(root.join("README.md")).unwrap();
    let section = readme
        .split("\n## Refusal codes\n")
        .nth(1)
        .expect("README has a section `Refusal codes`");
    let section = section.split("\n## ").next().unwrap();
    let mut documented = BTreeSet::new();
    for line in section.lines().filter(|l| l.starts_with("| `")) {
        let mut cells = line.trim_matches('|').split('|');
        let code = cells.next().unwrap().trim().trim_matches('`').to_string();
        let meaning = cells.next().unwrap_or_default().trim();
        assert!(meaning.len() > 10, "{code} has no meaning");
        assert!(documented.insert(code.clone()), "{code} is listed twice");
    }
    let mut files = Vec::new();
    sources(&root.join("src"), &mut files);
    // Headers, programs of mail servers, kinds of damage: what mail is full of are no codes.
    let mut mail = Vec::new();
    sources(&root.join("src/mail"), &mut mail);
    let (plain, _): (Vec<String>, Vec<String>) =
        files.iter().cloned().partition(|file| !mail.contains(file));
    let mut used = literals(&plain);
    used.extend(first_arguments(&files));
    assert!(used.len() > 80, "the search finds too little: {used:?}");
    let missing: Vec<&String> = used
        .iter()
        .filter(|w| !OTHERS.contains(&w.as_str()) && !is_guid(w) && !documented.contains(*w))
        .collect();
    assert!(missing.is_empty(), "not in README: {missing:?}");
    let all = files.join("\n");
    let gone: Vec<&String> = documented
        .iter()
        .filter(|code| !all.contains(&format!("\"{code}\"")))
        .collect();
    assert!(
        gone.is_empty(),
        "documented, and nowhere in the program: {gone:?}"
    );
}
