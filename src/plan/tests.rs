//! Placement and refusals, on facts that are made up here.

use super::*;
use crate::fs::Direction;

struct Blocks(u64);

impl Forecast for Blocks {
    fn fit(&self, bytes: u64) -> u64 {
        bytes - bytes % self.0
    }
    fn delta_bytes(&self, _: u64) -> u64 {
        10 << 20
    }
}

const MIB: u64 = 1 << 20;

struct Stage {
    observed: Observed,
    bounds: Bounds,
    used: ExtentMap,
}

fn stage() -> Stage {
    Stage {
        observed: Observed {
            kind: "ext4".into(),
            uuid: "u".into(),
            label: "mail".into(),
            block_bytes: 4096,
            size_bytes: 100 * MIB,
            used_bytes: 30 * MIB,
            files: 5,
            features: Vec::new(),
            notes: Vec::new(),
            needs_replay: false,
            last_used: None,
            gate: None,
        },
        bounds: Bounds {
            min_bytes: 40 * MIB,
            min_reason: "so much is in use".into(),
            max_bytes: 1 << 44,
            max_reason: "block numbers have 32 bits".into(),
            unit_bytes: 4096,
        },
        used: [Extent::new(0, 30 * MIB)].into_iter().collect(),
    }
}

/// A bare file system of 100 MiB on a device of `disk_mib`.
fn facts<'a>(stage: &'a Stage, disk_mib: u64, kind: TargetKind) -> Facts<'a> {
    Facts {
        identity: Identity {
            kind,
            path: "x".into(),
            disk_guid: None,
            partition_guid: None,
            partition_number: None,
            partition_start: 0,
            driver: "ext".into(),
            uuid: "u".into(),
            wwid: None,
            device_bytes: None,
            sector_bytes: 512,
        },
        disk_bytes: disk_mib * MIB,
        sector_bytes: 512,
        table: None,
        partition: Extent::new(0, disk_mib * MIB),
        file_system: &stage.observed,
        bounds: &stage.bounds,
        resizer_min_bytes: None,
        used: &stage.used,
        refusals: Vec::new(),
        notices: Vec::new(),
        state_free_bytes: 1 << 30,
        state_dir: "/state".into(),
        image_free_bytes: Some(1 << 30),
        read_rate: Some(1 << 30),
        fingerprint: "f".into(),
        driver: &Blocks(4096),
    }
}

fn ask(direction: Direction, to: &str) -> Request {
    Request {
        direction,
        to: to.parse().unwrap(),
        disk_bytes: None,
        level: Level::Used,
    }
}

fn code(verdict: Verdict) -> String {
    match verdict {
        Verdict::Refused(refusals) => refusals[0].code.clone(),
        Verdict::NoChange(_) => "no-change".into(),
        Verdict::Plan(plan) => format!("{} MiB", plan.file_system_size.new / MIB),
    }
}

#[test]
fn sizes_of_a_bare_file_system() {
    let stage = stage();
    let (grow, shrink) = (Direction::Grow, Direction::Shrink);
    for (disk, direction, to, want) in [
        (200, grow, "max", "200 MiB"),
        (200, grow, "150MiB", "150 MiB"),
        (200, grow, "+20MiB", "120 MiB"),
        (200, grow, "300MiB", "no-room"),
        (200, grow, "50MiB", "smaller-than-now"),
        (200, grow, "-5MiB", "wrong-direction"),
        (200, grow, "min", "wrong-direction"),
        (100, grow, "max", "no-change"),
        (100, grow, "100MiB", "no-change"),
        (100, grow, "16777215TiB", "no-room"),
        (100, shrink, "60MiB", "60 MiB"),
        (100, shrink, "-10MiB", "90 MiB"),
        (100, shrink, "min", "40 MiB"),
        (100, shrink, "39MiB", "below-minimum"),
        (100, shrink, "-200MiB", "below-minimum"),
        (100, shrink, "120MiB", "larger-than-now"),
        (100, shrink, "max", "wrong-direction"),
        (100, shrink, "100MiB", "no-change"),
    ] {
        let facts = facts(&stage, disk, TargetKind::Device);
        assert_eq!(
            code(plan(&ask(direction, to), &facts)),
            want,
            "{direction:?} {to} on {disk} MiB"
        );
    }
}

#[test]
fn an_image_is_extended_and_a_device_is_not() {
    let stage = stage();
    let request = Request {
        disk_bytes: Some(300 * MIB),
        ..ask(Direction::Grow, "max")
    };
    assert_eq!(
        code(plan(&request, &facts(&stage, 200, TargetKind::Image))),
        "300 MiB"
    );
    assert_eq!(
        code(plan(&request, &facts(&stage, 200, TargetKind::Device))),
        "disk-size-of-a-device"
    );
    assert_eq!(
        code(plan(&request, &facts(&stage, 400, TargetKind::Image))),
        "disk-size-smaller"
    );
}

#[test]
fn what_stands_against_it_is_all_said() {
    let stage = stage();
    let mut facts = facts(&stage, 200, TargetKind::Device);
    facts.refusals = vec![
        Refusal::new("mounted", "x", ""),
        Refusal::new("ext-errors", "y", ""),
    ];
    facts.state_free_bytes = 1000;
    let Verdict::Refused(refusals) = plan(&ask(Direction::Grow, "max"), &facts) else {
        panic!("not refused")
    };
    let codes: Vec<&str> = refusals.iter().map(|r| r.code.as_str()).collect();
    assert_eq!(codes, ["mounted", "ext-errors", "no-journal-space"]);
}

#[test]
fn a_second_run_on_a_mounted_volume_is_no_change() {
    let stage = stage();
    let mut facts = facts(&stage, 100, TargetKind::Device);
    facts.refusals = vec![Refusal::new("mounted", "x", "")];
    assert_eq!(
        code(plan(&ask(Direction::Grow, "max"), &facts)),
        "no-change"
    );
    facts.refusals.push(Refusal::new("ext-errors", "y", ""));
    assert_eq!(code(plan(&ask(Direction::Grow, "max"), &facts)), "mounted");
}

#[test]
fn a_plan_survives_its_file() {
    let stage = stage();
    let Verdict::Plan(plan) = plan(
        &ask(Direction::Grow, "max"),
        &facts(&stage, 200, TargetKind::Image),
    ) else {
        panic!("no plan")
    };
    let text = serde_json::to_string(&plan).unwrap();
    assert_eq!(serde_json::from_str::<Plan>(&text).unwrap(), *plan);
}
