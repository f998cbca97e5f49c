//! Plan files: damaged, stale, of somebody else, and carried out twice.

use std::fs;
use std::os::unix::fs::chown;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::bench::{Bench, MIB, PART, Why, poke, tool, transactions};

fn planned(name: &str) -> (Bench, PathBuf, PathBuf) {
    let (bench, image) = Bench::with(name);
    let file = bench.path("plan.json");
    let made = bench.run(&[
        "plan",
        "grow",
        image.to_str().unwrap(),
        "-o",
        file.to_str().unwrap(),
    ]);
    assert_eq!(made.code, 0, "{}", made.stderr);
    assert!(
        made.stdout.contains("holdfast --state-dir"),
        "{}",
        made.stdout
    );
    assert!(made.stdout.contains(&format!("apply {}", file.display())));
    (bench, image, file)
}

fn apply(file: &Path) -> [&str; 3] {
    ["apply", file.to_str().unwrap(), "--yes"]
}

#[track_caller]
fn refused(bench: &Bench, image: &Path, file: &Path, code: &str) -> Why {
    let why = bench.refused(image, &apply(file), code);
    assert!(
        !why.document["refusals"][0]["hint"]
            .as_str()
            .unwrap()
            .is_empty()
    );
    assert!(transactions(bench).is_empty());
    why
}

#[test]
fn a_plan_that_is_none_is_refused() {
    let (bench, image, file) = planned("small-gpt");
    let good = fs::read(&file).unwrap();
    let cut = good[..good.len() / 2].to_vec();
    let mut huge = good.clone();
    huge.resize(8 << 20, b' ');
    let mut binary = good.clone();
    binary[10] = 0xff;
    for (what, bytes) in [
        ("empty", Vec::new()),
        ("cut", cut),
        ("binary", binary),
        ("huge", huge),
        ("another document", b"{\"schema\": \"holdfast/1\"}".to_vec()),
        ("a list", b"[]".to_vec()),
        ("deep", b"[".repeat(1 << 20)),
        ("zero", vec![0; 4096]),
    ] {
        fs::write(&file, bytes).unwrap();
        let why = refused(&bench, &image, &file, "bad-plan");
        assert!(
            why.text.contains(file.to_str().unwrap()),
            "{what}: {}",
            why.text
        );
    }
    fs::write(&file, good).unwrap();
    let missing = bench.path("missing.json");
    bench
        .ends(&image, &apply(&missing), 1, "failed")
        .says(&[missing.to_str().unwrap(), "No such file"]);
    let dir = bench.path("dir");
    fs::create_dir(&dir).unwrap();
    let why = bench.ends(&image, &apply(&dir), 1, "failed");
    why.says(&[dir.to_str().unwrap()]);
}

/// Changes one field of the plan.
fn tamper(file: &Path, pointer: &str, value: Value) {
    let mut plan: Value = serde_json::from_slice(&fs::read(file).unwrap()).unwrap();
    let field = plan
        .pointer_mut(pointer)
        .unwrap_or_else(|| panic!("no {pointer}"));
    *field = value;
    fs::write(file, serde_json::to_vec(&plan).unwrap()).unwrap();
}

#[test]
fn a_plan_of_another_schema_is_refused() {
    let (bench, image, file) = planned("small-gpt");
    tamper(&file, "/schema", "holdfast/2".into());
    refused(&bench, &image, &file, "bad-plan").says(&["holdfast/2", "holdfast/1"]);
}

#[test]
fn a_plan_that_was_written_by_hand_is_stale() {
    for (pointer, value) in [
        ("/partition/new", Value::from(24 * MIB)),
        ("/file_system_size/new", Value::from(24 * MIB)),
        ("/fingerprint", "0".repeat(64).into()),
        ("/disk/new", Value::from(64 * MIB)),
        ("/partition_start", Value::from(MIB)),
        ("/partition/current", Value::from(u64::MAX)),
        ("/sector_bytes", Value::from(0)),
    ] {
        let (bench, image, file) = planned("small-gpt");
        tamper(&file, pointer, value);
        let before = fs::read(&image).unwrap();
        let said = bench.run(&[&apply(&file)[..], &["--json"]].concat());
        let document = said.document();
        let code = said.code;
        if code == 0 {
            // What is not used may say what it likes: the plan was made again.
            assert_eq!(pointer, "/partition_start", "{document:#}");
            continue;
        }
        assert!([1, 3].contains(&code), "{pointer}: {document:#}");
        assert!(fs::read(&image).unwrap() == before, "{pointer}");
    }
}

#[test]
fn a_plan_for_one_target_is_not_carried_out_on_another() {
    let (bench, _, file) = planned("small-gpt");
    let other = bench.image("small-swap");
    tamper(&file, "/identity/path", other.to_str().unwrap().into());
    refused(&bench, &other, &file, "stale-plan");
}

#[test]
fn a_plan_is_stale_when_the_target_has_changed() {
    let changes: [(&str, fn(&Path)); 4] = [
        ("a name in the table", |image| {
            tool(
                "sgdisk",
                &["-c".as_ref(), "2:post".as_ref(), image.as_os_str()],
            );
        }),
        ("the GUID of a neighbour", |image| {
            tool(
                "sgdisk",
                &["-u".as_ref(), "1:R".as_ref(), image.as_os_str()],
            );
        }),
        ("the superblock", |image| {
            // The label, through the tool: checksum and all.
            let part = image.with_extension("part");
            let bytes = fs::read(image).unwrap();
            fs::write(&part, &bytes[PART.start as usize..PART.end as usize]).unwrap();
            tool(
                "tune2fs",
                &["-L".as_ref(), "post".as_ref(), part.as_os_str()],
            );
            poke(image, PART.start, &fs::read(&part).unwrap());
        }),
        ("the length of the image", |image| {
            let file = fs::File::options().write(true).open(image).unwrap();
            file.set_len(40 * MIB).unwrap();
        }),
    ];
    for (what, change) in changes {
        let (bench, image, file) = planned("small-gpt");
        change(&image);
        let why = refused(&bench, &image, &file, "stale-plan");
        assert!(why.text.contains("new plan"), "{what}: {}", why.text);
        assert_eq!(why.document["target"], image.to_str().unwrap());
    }
}

#[test]
fn root_does_not_carry_out_the_plan_of_somebody_else() {
    let (bench, image, file) = planned("small-gpt");
    chown(&file, Some(65534), None).unwrap();
    refused(&bench, &image, &file, "plan-owner").says(&["65534", file.to_str().unwrap()]);
}

#[test]
fn a_plan_is_carried_out_once() {
    let (bench, image, file) = planned("small-gpt");
    let done = bench.run(&apply(&file));
    assert_eq!(done.code, 0, "{}", done.stderr);
    bench
        .refused(&image, &apply(&file), "stale-plan")
        .says(&["carried out already"]);
    assert_eq!(transactions(&bench).len(), 1);
    // After a rollback it fits again.
    let id = transactions(&bench)[0]["id"].as_str().unwrap().to_string();
    let back = bench.run(&["rollback", &id, "--yes"]);
    assert_eq!(back.code, 0, "{}", back.stderr);
    let again = bench.run(&apply(&file));
    assert_eq!(again.code, 0, "{}", again.stderr);
}

#[test]
fn a_plan_whose_target_is_gone_is_an_error_that_names_it() {
    let (bench, image, file) = planned("small-gpt");
    fs::remove_file(&image).unwrap();
    let why = bench.ends(&image, &apply(&file), 1, "failed");
    why.says(&[image.to_str().unwrap(), "No such file"]);
}

#[test]
fn a_plan_that_cannot_be_written_is_an_error_that_names_the_file() {
    let (bench, image) = Bench::with("small-gpt");
    let to = bench.path("missing").join("plan.json");
    let args = [
        "plan",
        "grow",
        image.to_str().unwrap(),
        "-o",
        to.to_str().unwrap(),
    ];
    bench
        .ends(&image, &args, 1, "failed")
        .says(&["writing the plan", to.to_str().unwrap()]);
}
