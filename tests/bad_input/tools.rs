//! Stock tools that are not there.

use std::process::Command;

use crate::bench::{Bench, judged, transactions};

/// Every directory that is searched, with one tool hidden, for the program alone.
fn without(bench: &Bench, name: &str, args: &[&str]) -> Command {
    let hide = r#"
        name=$1; shift
        for dir in /usr/local/sbin /usr/local/bin /usr/sbin /sbin /usr/bin /bin; do
            if [ -e "$dir/$name" ]; then mount --bind /dev/null "$dir/$name"; fi
        done
        exec "$@"
    "#;
    let mut command = Command::new("unshare");
    command
        .args(["-m", "sh", "-ec", hide, "sh", name])
        .arg(env!("CARGO_BIN_EXE_holdfast"))
        .arg("--state-dir")
        .arg(bench.state())
        .args(args)
        .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin");
    command
}

#[test]
fn a_tool_that_is_missing_is_named_with_its_package_before_anything_is_done() {
    for (name, wanted) in [
        ("resize2fs", "grow"),
        ("e2fsck", "grow"),
        ("tune2fs", "grow"),
    ] {
        let (bench, image) = Bench::with("small-gpt");
        let before = std::fs::read(&image).unwrap();
        let target = image.to_str().unwrap();
        let why = judged(
            || without(&bench, name, &[wanted, target, "--yes"]),
            3,
            "refused",
        );
        assert_eq!(why.codes, ["missing-tool"], "{why:#?}");
        why.says(&[name, "apt install e2fsprogs"]);
        assert!(std::fs::read(&image).unwrap() == before);
        assert!(transactions(&bench).is_empty());
    }
}
