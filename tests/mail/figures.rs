//! Recall by kind of damage and store; false alarms on honest mail.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use super::honest::Seed;
use super::store::{ALL, Kind, Store, write};
use super::{scan, temporary};

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Damage {
    Blank,
    ZeroLength,
    ZeroBlock,
    ZeroSector,
    ZeroTail,
    Cut,
    Grown,
    CrossLinked,
    GarbageHead,
    GarbageBody,
    Unclosed,
}

use Damage::*;

const DAMAGES: [Damage; 11] = [
    Blank,
    ZeroLength,
    ZeroBlock,
    ZeroSector,
    ZeroTail,
    Cut,
    Grown,
    CrossLinked,
    GarbageHead,
    GarbageBody,
    Unclosed,
];

fn messages() -> u64 {
    let asked = std::env::var("HOLDFAST_MAIL_MESSAGES").ok();
    asked.map_or(700, |n| n.parse::<u64>().unwrap() / ALL.len() as u64)
}

/// Whether a message can have this damage at all; then it has it.
fn inflict(damage: Damage, store: &Store, at: usize, donor: &[u8], seed: &mut Seed) -> Option<()> {
    let (path, range) = &store.messages[at];
    let mut bytes = fs::read(path).unwrap();
    let whole_file = range.len() == bytes.len();
    let block = 4096;
    // Whole blocks of the file inside the message, but for its first.
    let first = range.start.div_ceil(block) + usize::from(range.start.is_multiple_of(block));
    let last = range.end / block;
    let some_block = |seed: &mut Seed| {
        (first < last).then(|| (first + seed.below((last - first) as u64) as usize) * block)
    };
    match damage {
        Blank if whole_file && !bytes.is_empty() => bytes.fill(0),
        ZeroLength if whole_file => bytes.clear(),
        ZeroBlock => {
            let start = some_block(seed)?;
            bytes[start..start + block].fill(0);
        }
        ZeroSector => {
            let start = some_block(seed)? + 512 * seed.below(8) as usize;
            bytes[start..start + 512].fill(0);
        }
        ZeroTail if whole_file => {
            let start = some_block(seed)?;
            bytes[start..].fill(0);
        }
        Cut if whole_file && bytes.len() > 600 => {
            let len = 300 + seed.below(bytes.len() as u64 - 301) as usize;
            bytes.truncate(len);
        }
        Grown if whole_file => bytes.extend_from_slice(b"\nmore than there was\n"),
        CrossLinked => {
            let start = some_block(seed)?;
            if donor.len() < block || bytes[start..start + block] == donor[..block] {
                return None;
            }
            bytes[start..start + block].copy_from_slice(&donor[..block]);
        }
        GarbageHead if whole_file && bytes.len() >= block => {
            bytes[..block].fill_with(|| seed.next() as u8);
        }
        GarbageBody => {
            let start = some_block(seed)?;
            bytes[start..start + block].fill_with(|| seed.next() as u8);
        }
        Unclosed if whole_file => {
            // The last boundary and what follows are gone: cut at a line.
            let end = bytes
                .windows(4)
                .rposition(|w| w == b"--\n\n" || w == b"\n\n--")?;
            if !bytes.windows(10).any(|w| w == b"boundary=\"") || end < 300 {
                return None;
            }
            bytes.truncate(end);
        }
        _ => return None,
    }
    fs::write(path, bytes).unwrap();
    Some(())
}

#[derive(Default)]
struct Row {
    injected: u64,
    found: u64,
    surely: u64,
}

#[test]
fn figures_of_seeded_damage_and_of_honest_mail() {
    let count = messages();
    let number = std::env::var("HOLDFAST_SEED").map_or(20_200_102, |s| s.parse().unwrap());
    println!("seed {number}, {count} messages of each store");
    let mut rows: BTreeMap<(Damage, Kind), Row> = BTreeMap::new();
    let mut honest = 0;
    for kind in ALL {
        let dir = temporary();
        let root = dir.path().canonicalize().unwrap();
        let mut seed = Seed(number ^ kind as u64);
        let store = write(&root.join("store"), kind, count, &mut seed);
        let (findings, summary, _) = scan(&root, &["--at-least", "likely"]);
        assert_eq!(
            findings,
            Vec::<serde_json::Value>::new(),
            "{kind:?}: honest mail, seed {number}"
        );
        let seen = summary["totals"]["messages"].as_u64().unwrap();
        assert!(
            seen >= count && seen <= count + 2,
            "{kind:?}: {seen} messages"
        );
        honest += seen;
        hurt(&root, &store, &mut seed, &mut rows);
    }
    println!("false alarms, likely or certain: 0 of {honest} honest messages");
    println!(
        "{:12} {:13} {:>8} {:>8} {:>8}",
        "damage", "store", "injected", "found", "surely"
    );
    for ((damage, kind), row) in &rows {
        let (damage, kind) = (format!("{damage:?}"), format!("{kind:?}"));
        println!(
            "{damage:12} {kind:13} {:8} {:8} {:8}",
            row.injected, row.found, row.surely
        );
    }
    for ((damage, kind), row) in &rows {
        let what = format!(
            "{damage:?} in {kind:?}, seed {number}: {} of {}",
            row.surely, row.injected
        );
        match (damage, kind) {
            // Zeros in binary parts are suspicious alone; everywhere else they are certain or likely.
            (Blank | ZeroLength, _) => assert_eq!(row.surely, row.injected, "{what}"),
            (ZeroBlock | ZeroSector | ZeroTail, _) => assert_eq!(row.found, row.injected, "{what}"),
            // A mailbox file has many messages of which another can be a copy.
            (CrossLinked, Kind::Mbox) => {
                assert!(row.surely * 10 >= row.injected * 8, "{what}");
            }
            (CrossLinked, _) => assert_eq!(row.surely, row.injected, "{what}"),
            (Cut | Grown, Kind::Maildir | Kind::Sdbox | Kind::Cyrus) => {
                assert_eq!(row.surely, row.injected, "{what}");
            }
            (Unclosed, Kind::Maildir | Kind::Cyrus) => {
                assert_eq!(row.surely, row.injected, "{what}")
            }
            (Unclosed, _) => assert_eq!(row.found, row.injected, "{what}"),
            (GarbageHead, _) => assert!(row.found * 100 >= row.injected * 97, "{what}"),
            _ => {}
        }
    }
    let kinds: Vec<Damage> = rows.keys().map(|(damage, _)| *damage).collect();
    assert!(
        DAMAGES.iter().all(|damage| kinds.contains(damage)),
        "each was tried: {kinds:?}"
    );
}

/// Hurts every ninth message, each file once, and counts what a scan finds.
fn hurt(root: &Path, store: &Store, seed: &mut Seed, rows: &mut BTreeMap<(Damage, Kind), Row>) {
    let mut hurt: BTreeMap<PathBuf, Damage> = BTreeMap::new();
    let long = |at: usize| store.messages[at].1.len() > 9000;
    for at in (1..store.messages.len()).step_by(3) {
        let path = &store.messages[at].0;
        if hurt.contains_key(path) {
            continue;
        }
        // The donor is a neighbour that stays as it is.
        let donor = (0..store.messages.len())
            .rev()
            .step_by(3)
            .map(|other| (other + at) % store.messages.len())
            .find(|&other| {
                store.messages[other].0 != *path
                    && long(other)
                    && !hurt.contains_key(&store.messages[other].0)
            });
        let damage = DAMAGES[seed.below(DAMAGES.len() as u64) as usize];
        let donor = match donor {
            Some(donor) => {
                let (path, range) = &store.messages[donor];
                let bytes = fs::read(path).unwrap();
                let start = range.start.next_multiple_of(4096);
                bytes.get(start..range.end).unwrap_or_default().to_vec()
            }
            None => Vec::new(),
        };
        if inflict(damage, store, at, &donor, seed).is_some() {
            hurt.insert(path.clone(), damage);
        }
    }
    let (findings, _, code) = scan(root, &[]);
    assert_eq!(code, 7);
    let mut levels: BTreeMap<PathBuf, Vec<String>> = BTreeMap::new();
    for finding in &findings {
        let path = PathBuf::from(finding["path"].as_str().unwrap());
        levels
            .entry(path)
            .or_default()
            .push(finding["confidence"].as_str().unwrap().into());
    }
    for (path, damage) in &hurt {
        let row = rows.entry((*damage, store.kind)).or_default();
        row.injected += 1;
        let levels = levels.get(path).cloned().unwrap_or_default();
        row.found += u64::from(!levels.is_empty());
        row.surely += u64::from(levels.iter().any(|level| level != "suspicious"));
        if levels.is_empty()
            && matches!(
                damage,
                Blank | ZeroLength | ZeroBlock | ZeroSector | CrossLinked | Unclosed
            )
        {
            println!("missed: {damage:?} {}", path.display());
        }
    }
}
