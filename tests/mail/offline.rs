//! The same on an image: lists of files, a damaged block, who owns it, and a scan without a mount.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::honest::Seed;
use super::store::{Kind, write};
use super::{holdfast, scan_with, temporary};

fn tool(program: &str, args: &[&str]) -> String {
    let output = Command::new(program)
        .args(args)
        .output()
        .unwrap_or_else(|e| panic!("{program}: {e}"));
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(
        output.status.success(),
        "{program}: {said}{}",
        String::from_utf8_lossy(&output.stderr)
    );
    said
}

fn image(root: &Path, from: &Path, kind: &str) -> PathBuf {
    let path = root.join("disk.img");
    fs::File::create(&path).unwrap().set_len(96 << 20).unwrap();
    let image = path.to_str().unwrap();
    tool(
        "mke2fs",
        &[
            "-q",
            "-t",
            kind,
            "-b",
            "4096",
            "-d",
            from.to_str().unwrap(),
            image,
        ],
    );
    path
}

fn blocks(image: &Path, path: &str) -> Vec<u64> {
    let said = tool(
        "debugfs",
        &["-R", &format!("blocks \"{path}\""), image.to_str().unwrap()],
    );
    said.split_whitespace()
        .map(|word| word.parse().unwrap())
        .collect()
}

fn zero(image: &Path, block: u64) {
    use std::os::unix::fs::FileExt;
    let file = fs::OpenOptions::new().write(true).open(image).unwrap();
    file.write_all_at(&[0; 4096], block * 4096).unwrap();
}

fn text(output: &std::process::Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

#[test]
fn a_block_that_is_lost_is_followed_to_its_message() {
    let dir = temporary();
    let root = dir.path().canonicalize().unwrap();
    let store = write(&root.join("tree/md"), Kind::Maildir, 80, &mut Seed(11));
    let disk = image(&root, &root.join("tree"), "ext4");
    let taken = holdfast(&["snapshot", "disk.img", "--files", "-o", "m"], &root);
    assert_eq!(taken.status.code(), Some(0), "{}", text(&taken));
    let same = holdfast(&["verify", "disk.img", "m", "--files"], &root);
    assert_eq!(same.status.code(), Some(0), "{}", text(&same));
    assert!(
        text(&same).contains("80 messages in the list, 80 of them identical"),
        "{}",
        text(&same)
    );
    // A scan without a mount says what one of the directory says.
    let (here, _, _) = scan_with(&["tree"], &root);
    let (there, _, _) = scan_with(&["--device", "disk.img"], &root);
    let tell = |found: &[serde_json::Value], cut: &str| {
        let mut all: Vec<String> = found
            .iter()
            .map(|f| {
                format!(
                    "{} {} {}",
                    f["path"].as_str().unwrap().replacen(cut, "", 1),
                    f["kind"],
                    f["ranges"]
                )
            })
            .collect();
        all.sort();
        all
    };
    let tree = root.join("tree");
    assert_eq!(tell(&here, tree.to_str().unwrap()), tell(&there, ""));

    let (path, _) = store
        .messages
        .iter()
        .find(|(path, range)| {
            range.len() > 12_000 && fs::read(path).unwrap().iter().all(|b| *b != 0)
        })
        .unwrap();
    let inside = path
        .to_str()
        .unwrap()
        .replacen(tree.to_str().unwrap(), "", 1);
    let block = blocks(&disk, &inside)[1];
    zero(&disk, block);
    let differs = holdfast(&["verify", "disk.img", "m", "--files"], &root);
    assert_eq!(differs.status.code(), Some(7));
    let said = text(&differs);
    assert!(
        said.contains("bytes 4096 to 8192 zeroed; its length and time are as they were"),
        "{said}"
    );
    assert!(
        said.contains("80 messages in the list, 79 of them identical"),
        "{said}"
    );
    let (found, _, code) = scan_with(&["--device", "disk.img", "--at-least", "certain"], &root);
    assert_eq!(code, 7);
    assert_eq!(found.len(), 1, "{found:?}");
    assert_eq!(
        (found[0]["path"].as_str(), &found[0]["kind"]),
        (Some(inside.as_str()), &"nul-run".into())
    );
    assert_eq!(found[0]["ranges"][0]["start"], 4096);
    let args = [
        "--device",
        "disk.img",
        "--against",
        "m.files",
        "--at-least",
        "certain",
    ];
    let (found, _, _) = scan_with(&args, &root);
    assert!(
        found
            .iter()
            .any(|f| f["kind"] == "changed" && f["path"] == inside.as_str()),
        "{found:?}"
    );

    // From what verify says, from bytes, from a kernel's line, and from badblocks.
    let json = holdfast(&["verify", "disk.img", "m", "--json"], &root);
    fs::write(root.join("said"), &json.stdout).unwrap();
    let log = format!(
        "I/O error, dev sdb, sector {} op 0x0:(READ)\n",
        block * 8 + 3
    );
    fs::write(root.join("log"), log).unwrap();
    fs::write(root.join("bad"), format!("{block}\n")).unwrap();
    let (bytes, line) = (
        format!("{}+10", block * 4096 + 100),
        format!("{inside}: bytes"),
    );
    for args in [
        &["blame", "disk.img", "--from", "said"][..],
        &["blame", "disk.img", "--from", "log"],
        &["blame", "disk.img", "--from", "bad", "--block-size", "4096"],
        &["blame", "disk.img", &bytes],
    ] {
        let found = holdfast(args, &root);
        assert_eq!(found.status.code(), Some(0), "{}", text(&found));
        assert!(text(&found).contains(&line), "{args:?}: {}", text(&found));
    }
    let exact = text(&holdfast(&["blame", "disk.img", &bytes], &root));
    assert_eq!(exact, format!("{inside}: bytes 4196 to 4206\n"));
    let structure = text(&holdfast(&["blame", "disk.img", "1024+8"], &root));
    assert_eq!(structure, "superblock\n");
    let beyond = text(&holdfast(&["blame", "disk.img", "999999999s"], &root));
    assert!(beyond.contains("outside the partition"), "{beyond}");
}

#[test]
fn two_files_with_the_same_blocks_are_certain() {
    let dir = temporary();
    let root = dir.path().canonicalize().unwrap();
    let store = write(&root.join("tree"), Kind::Eml, 40, &mut Seed(12));
    let disk = image(&root, &root.join("tree"), "ext2");
    let long: Vec<String> = store
        .messages
        .iter()
        .filter(|(_, range)| range.len() > 13_000)
        .map(|(path, _)| {
            path.to_str()
                .unwrap()
                .replacen(root.join("tree").to_str().unwrap(), "", 1)
        })
        .take(2)
        .collect();
    let stolen = blocks(&disk, &long[0])[2];
    let set = format!("sif {} block[1] {stolen}", long[1]);
    tool("debugfs", &["-w", "-R", &set, disk.to_str().unwrap()]);
    let (found, _, _) = scan_with(&["--device", "disk.img", "--at-least", "certain"], &root);
    let linked: Vec<_> = found
        .iter()
        .filter(|f| f["kind"] == "cross-linked")
        .collect();
    assert_eq!(linked.len(), 2, "{found:?}");
    for (path, start) in [(&long[0], 8192), (&long[1], 4096)] {
        let one = linked.iter().find(|f| f["path"] == path.as_str()).unwrap();
        assert_eq!(one["ranges"][0]["start"], start);
    }
}

#[test]
fn a_tree_is_compared_with_its_list() {
    let dir = temporary();
    let root = dir.path().canonicalize().unwrap();
    let store = write(&root.join("tree/md"), Kind::Maildir, 30, &mut Seed(13));
    let taken = holdfast(&["snapshot", "--tree", "tree", "-o", "tree/list"], &root);
    assert_eq!(taken.status.code(), Some(0), "{}", text(&taken));
    assert_eq!(
        holdfast(&["verify", "--tree", "tree", "tree/list"], &root)
            .status
            .code(),
        Some(0)
    );
    fs::create_dir(root.join("tree/lost+found")).unwrap();
    fs::rename(&store.messages[4].0, root.join("tree/lost+found/#4711")).unwrap();
    fs::remove_file(&store.messages[5].0).unwrap();
    let differs = holdfast(&["verify", "--tree", "tree", "tree/list", "--json"], &root);
    assert_eq!(differs.status.code(), Some(7));
    let document: serde_json::Value = serde_json::from_slice(&differs.stdout).unwrap();
    assert_eq!(document["tally"]["moved"], 1, "{document}");
    assert_eq!(document["tally"]["missing"], 1);
    assert_eq!(document["tally"]["messages_identical"], 29);
    let (found, _, _) = scan_with(&["tree", "--against", "tree/list"], &root);
    let missing: Vec<_> = found.iter().filter(|f| f["kind"] == "missing").collect();
    assert_eq!(missing.len(), 2, "{found:?}");
    assert!(
        missing
            .iter()
            .any(|f| f["reason"].as_str().unwrap().contains("#4711")),
        "{missing:?}"
    );
    fs::write(root.join("tree/list"), "x").unwrap();
    let refused = holdfast(&["verify", "--tree", "tree", "tree/list"], &root);
    assert_eq!(refused.status.code(), Some(3));
    assert!(text(&refused).contains("bad-manifest"));
    let refused = holdfast(&["snapshot", "--tree", "tree/list", "-o", "m"], &root);
    assert!(text(&refused).contains("not-a-directory"));
}
