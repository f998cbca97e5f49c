//! A closed gate keeps everybody out, and leaves no trace when it is taken away.
//!
//! Needs root: mounting is the point.

#![allow(clippy::unwrap_used, clippy::expect_used)]
// Helpers of tests may fail as tests do.

#[path = "ext_images/mod.rs"]
mod ext_images;

use ext_images::{Image, make, mounted, output, run};
use holdfast::fs::ext::Ext;
use holdfast::fs::{Direction, Driver, GateState, TransactionId};

const SHAPES: &[&str] = &[
    "-t ext2 -b 1024",
    "-t ext2 -b 4096",
    "-t ext2 -r 0 -O none -b 1024",
    "-t ext3 -b 1024",
    "-t ext3 -b 4096",
    "-t ext4 -b 1024 -O ^metadata_csum",
    "-t ext4 -b 4096 -O ^metadata_csum",
    "-t ext4 -b 1024",
    "-t ext4 -b 4096",
    "-t ext4 -b 4096 -O metadata_csum_seed",
];

const ID: TransactionId = TransactionId(*b"\x01\x23gate \xff\x00 a tran");

fn gated(image: &Image) -> Vec<u8> {
    let at = Ext.superblock();
    let mut bytes = image.bytes();
    let place = at.start as usize..at.end() as usize;
    let gate = Ext.close_gate(&bytes[place.clone()], ID).expect("closing");
    bytes[place].copy_from_slice(&gate);
    bytes
}

fn superblock(bytes: &[u8]) -> &[u8] {
    let at = Ext.superblock();
    &bytes[at.start as usize..at.end() as usize]
}

#[test]
fn nobody_enters_a_closed_gate() {
    for shape in SHAPES {
        let dir = tempfile::tempdir().expect("temporary directory");
        let image = make(dir.path(), shape, 16 * 1024, &[]);
        assert!(
            mounted(&image, "loop,ro", |_| ()),
            "{shape}: this test needs root and loop devices"
        );
        let open = image.bytes();
        let closed = gated(&image);
        assert_eq!(
            Ext.gate(superblock(&closed)),
            GateState::Closed(ID),
            "{shape}"
        );
        image.write(&closed);
        let path = image.path();
        for (tool, args) in [
            ("e2fsck", &["-p", path][..]),
            ("e2fsck", &["-y", path]),
            ("e2fsck", &["-f", "-y", path]),
            ("e2fsck", &["-f", "-n", path]),
            ("e2fsck", &["-E", "journal_only", "-p", path]),
            ("tune2fs", &["-L", "other", path]),
            ("tune2fs", &["-O", "^has_journal", path]),
            ("resize2fs", &[path, "20M"]),
            ("resize2fs", &["-f", path, "14M"]),
            ("e2label", &[path, "other"]),
        ] {
            let out = output(tool, args);
            let code = out.status.code();
            let text = String::from_utf8_lossy(&out.stderr);
            assert_ne!(code, Some(0), "{shape}: {tool} {args:?}");
            if tool == "e2fsck" {
                assert_eq!(code, Some(8), "{shape}: {tool} {args:?}: {text}");
            }
            assert!(
                image.bytes() == closed,
                "{shape}: {tool} {args:?} wrote: {text}"
            );
        }
        for options in ["loop", "loop,ro", "loop,ro,noload", "loop,errors=continue"] {
            assert!(
                !mounted(&image, options, |_| ()),
                "{shape}: mounted {options}"
            );
            assert!(image.bytes() == closed, "{shape}: mount {options} wrote");
        }
        // The journal's undo record puts the superblock back; nothing else was touched.
        let mut restored = image.bytes();
        let at = Ext.superblock();
        restored[at.start as usize..at.end() as usize].copy_from_slice(superblock(&open));
        assert!(restored == open, "{shape}");
        image.write(&restored);
        run("e2fsck", &["-f", "-n", path]);
    }
}

#[test]
fn a_gated_file_system_is_still_recognised() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let image = make(dir.path(), "-t ext3", 16 * 1024, &[]);
    let before = Ext.probe(&image.disk()).expect("probe").expect("ext");
    image.write(&gated(&image));
    let after = Ext.probe(&image.disk()).expect("probe").expect("ext");
    assert_eq!(after.gate, Some(ID));
    assert_eq!((&after.kind, &after.uuid), (&before.kind, &before.uuid));
    assert_eq!(after.features, before.features);
    let refusals = Ext
        .refusals(&image.disk(), Direction::Grow)
        .expect("refusals");
    let codes: Vec<&str> = refusals.iter().map(|r| r.code.as_str()).collect();
    assert_eq!(codes, ["ext-gated"]);
    assert!(refusals[0].message.contains(&ID.to_string()));
}

#[test]
fn a_gate_is_closed_once() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let image = make(dir.path(), "-t ext4", 16 * 1024, &[]);
    let closed = gated(&image);
    assert!(Ext.close_gate(superblock(&closed), ID).is_err());
    assert!(Ext.close_gate(&[0; 1024], ID).is_err());
    assert!(
        Ext.close_gate(&superblock(&image.bytes())[..512], ID)
            .is_err()
    );
}

#[test]
fn the_states_of_a_gate() {
    for shape in ["-t ext4", "-t ext4 -O metadata_csum_seed", "-t ext2"] {
        let dir = tempfile::tempdir().expect("temporary directory");
        let image = make(dir.path(), shape, 16 * 1024, &[]);
        let (open, closed) = (image.bytes(), gated(&image));
        let (open, closed) = (superblock(&open), superblock(&closed));
        assert_eq!(Ext.gate(open), GateState::Open);
        assert_eq!(Ext.gate(&[]), GateState::Invalid);
        assert_eq!(Ext.gate(&[0; 1024]), GateState::Invalid);
        // A cut between the two sectors does not matter.
        assert_ne!(closed[..512], open[..512]);
        assert_eq!(closed[512..], open[512..]);
        let has_checksum = shape != "-t ext2";
        for at in 0..1024 {
            let mut other = closed.to_vec();
            other[at] ^= 0x20;
            let inside = (0x88..0xc4).contains(&at);
            if has_checksum || inside {
                assert_eq!(Ext.gate(&other), GateState::Invalid, "byte {at:#x}");
            }
        }
        if !has_checksum {
            // The bit without the name, and a name that is not one.
            let mut bit = open.to_vec();
            bit[0x63] |= 0x40;
            assert_eq!(Ext.gate(&bit), GateState::Invalid);
            // The name without the bit: somebody mounted it on a directory of that name.
            let mut name = closed.to_vec();
            name[0x63] &= !0x40;
            assert_eq!(Ext.gate(&name), GateState::Open);
        }
    }
}
