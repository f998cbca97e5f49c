//! The gate holds against everybody who is here, and none of them writes.

use std::process::Command;

use holdfast::disk::{DiskRead, FileDisk};
use holdfast::fs::ntfs::Ntfs;
use holdfast::fs::{Driver, GateState, TransactionId};

use super::scene::{Scene, hash, root, run, text};
use super::volume::{Kind, USUAL, image, patch};

#[test]
fn nobody_gets_past_it() {
    if !root() {
        return;
    }
    let id = TransactionId(*b"0123456789abcdef");
    for sector in [512, 4096] {
        let scene = Scene::of(&image(Kind { sector, ..USUAL }));
        let target = scene.image();
        let mut boot = vec![0; 512];
        let disk = FileDisk::open_read(&target).unwrap();
        disk.read_at(0, &mut boot).unwrap();
        let observed = Ntfs.probe(&disk).unwrap().unwrap();
        patch(&target, 0, &Ntfs.close_gate(&boot, id).unwrap());
        let closed = hash(&target);
        let behind = Ntfs.probe(&disk).unwrap().unwrap();
        assert_eq!(behind.gate, Some(id));
        assert_eq!((behind.uuid, behind.label), (observed.uuid, observed.label));
        disk.read_at(0, &mut boot).unwrap();
        assert_eq!(Ntfs.gate(&boot), GateState::Closed(id));
        let refusals = Ntfs.refusals(&disk, holdfast::fs::Direction::Grow).unwrap();
        assert_eq!(refusals[0].code, "ntfs-gated");

        let place = tempfile::tempdir().unwrap();
        let (path, dir) = (text(&target), text(place.path()));
        for command in [
            &["ntfs-3g", path, dir][..],
            &["ntfs-3g", "-o", "ro", path, dir],
            &["ntfs-3g", "-o", "force,recover,remove_hiberfile", path, dir],
            &["ntfsfix", path],
            &["ntfsfix", "-b", "-d", path],
            &["ntfsresize", "--force", "--force", path],
            &["ntfslabel", path, "other"],
            &["ntfscp", "-f", path, "/etc/hostname", "new"],
        ] {
            let done = Command::new(command[0])
                .args(&command[1..])
                .output()
                .unwrap();
            if done.status.success() && command[0] == "ntfs-3g" {
                let _ = Command::new("umount").arg(dir).status();
            }
            assert!(!done.status.success(), "{command:?}: {done:?}");
            assert_eq!(hash(&target), closed, "{command:?} wrote");
        }
        // A table of partitions is what it still looks like, as a boot sector does.
        let said = run("blkid", &["-p", "-s", "TYPE", "-o", "value", path]);
        assert_eq!(said.trim(), "");
    }
}
