//! What stands against a growth.

use crate::disk::DiskRead;
use crate::fs::Direction;
use crate::report::Refusal;
use crate::units::Bytes;

use super::gate;
use super::superblock::{Superblock, incompat, ro_compat};

/// Everything that stands against a change in this direction.
pub fn refusals(part: &dyn DiskRead, sb: &Superblock, direction: Direction) -> Vec<Refusal> {
    let mut found = Vec::new();
    let mut refuse = |code: &str, message: String, hint: &str| {
        found.push(Refusal::new(code, message, hint));
    };
    let fields = sb.fields();
    if direction == Direction::Shrink {
        refuse(
            "xfs-no-shrink",
            "XFS cannot become smaller: neither its tools nor the kernel move what is in it".into(),
            "make a smaller file system elsewhere and copy the files (`xfsdump`, `rsync -aHAX`)",
        );
    }
    if let crate::fs::GateState::Closed(id) = gate::state(&sb.raw) {
        refuse(
            "xfs-gated",
            format!("the gate of transaction {id} stands"),
            "holdfast recover",
        );
    } else {
        let unknown = [
            ("incompat", sb.incompat & !incompat::KNOWN),
            ("ro_compat", sb.ro_compat & !ro_compat::KNOWN),
        ];
        for (kind, bits) in unknown.iter().filter(|(_, bits)| *bits != 0) {
            refuse(
                "xfs-unknown-feature",
                format!("it has {kind} features that are not known here: {bits:#x}"),
                "use a newer version of this program",
            );
        }
    }
    if sb.incompat & incompat::NEEDS_REPAIR != 0 {
        refuse(
            "xfs-needs-repair",
            "it says that it needs a repair".into(),
            "`xfs_repair` on the unmounted file system, after a backup",
        );
    }
    if fields.u8(126) != 0 {
        refuse(
            "xfs-in-progress",
            "mkfs.xfs or xfs_copy has not finished it".into(),
            "make it anew, or copy it again",
        );
    }
    if sb.groups == 1 {
        refuse(
            "xfs-one-group",
            "it has a single allocation group, and xfs_repair cannot check such a file system"
                .into(),
            "mount it and use `xfs_growfs`, after a backup",
        );
    }
    if sb.log.is_empty() {
        refuse(
            "xfs-external-log",
            "its log is on another device".into(),
            "mount it and use `xfs_growfs`, after a backup",
        );
    }
    if fields.u64(16) != 0 {
        refuse(
            "xfs-realtime",
            "it has a realtime section on another device".into(),
            "mount it and use `xfs_growfs`, after a backup",
        );
    }
    if sb.size_bytes() > part.len_bytes() {
        refuse(
            "xfs-larger-than-partition",
            format!(
                "it is {:#}, and its partition {:#}",
                Bytes(sb.size_bytes()),
                Bytes(part.len_bytes())
            ),
            "find out who cut the partition; make it as large as it was",
        );
    }
    found
}
