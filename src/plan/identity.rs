//! Who a target is: by what it carries, never by its path alone, for names change at reboot.

use serde::{Deserialize, Serialize};

/// What kind of thing holds the target.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum TargetKind {
    /// A regular file.
    Image,
    /// A block device.
    Device,
}

/// How a target is known again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// File or device.
    pub kind: TargetKind,
    /// Where it was last seen: the disk or image, not the partition's node. A hint.
    pub path: String,
    /// What the partition table calls the disk: the GUID of a GPT, the signature of an MBR.
    pub disk_guid: Option<String>,
    /// What it calls the partition: the GUID in a GPT; in an MBR signature and number.
    pub partition_guid: Option<String>,
    /// Number of the partition.
    pub partition_number: Option<u32>,
    /// Where the partition starts; 0 for a bare file system.
    pub partition_start: u64,
    /// Driver of the file system.
    pub driver: String,
    /// UUID of the file system.
    pub uuid: String,
    /// World-wide name or serial number of the device, where it has one.
    pub wwid: Option<String>,
    /// Length of a device. An image's may change, and is not part of who it is.
    pub device_bytes: Option<u64>,
    /// Logical sector size.
    pub sector_bytes: u64,
}

impl Identity {
    /// Whether `other` may be the same target. What both know must agree, and at least one name
    /// that is unique in the world must be among it; the path is not asked.
    pub fn matches(&self, other: &Identity) -> bool {
        fn agree<T: PartialEq>(a: &Option<T>, b: &Option<T>) -> bool {
            match (a, b) {
                (Some(a), Some(b)) => a == b,
                _ => true,
            }
        }
        let both = |a: &Option<String>, b: &Option<String>| a.is_some() && a == b;
        let unique = both(&self.disk_guid, &other.disk_guid)
            || both(&self.wwid, &other.wwid)
            || (!self.uuid.is_empty() && self.uuid == other.uuid);
        unique
            && self.kind == other.kind
            && self.sector_bytes == other.sector_bytes
            && agree(&self.disk_guid, &other.disk_guid)
            && agree(&self.partition_guid, &other.partition_guid)
            && agree(&self.wwid, &other.wwid)
            && agree(&self.device_bytes, &other.device_bytes)
            && (self.uuid.is_empty() || other.uuid.is_empty() || self.uuid == other.uuid)
    }

    /// Whether both are partitions of one disk, and so share its table.
    pub fn shares_table(&self, other: &Identity) -> bool {
        self.kind == other.kind && self.disk_guid.is_some() && self.disk_guid == other.disk_guid
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one() -> Identity {
        Identity {
            kind: TargetKind::Device,
            path: "/dev/sda".into(),
            disk_guid: Some("d".into()),
            partition_guid: Some("p".into()),
            partition_number: Some(1),
            partition_start: 1 << 20,
            driver: "ext".into(),
            uuid: "u".into(),
            wwid: None,
            device_bytes: Some(1 << 30),
            sector_bytes: 512,
        }
    }

    #[test]
    fn a_name_may_change_and_nothing_else() {
        assert!(one().matches(&Identity {
            path: "/dev/sdb".into(),
            ..one()
        }));
        assert!(!one().matches(&Identity {
            disk_guid: Some("e".into()),
            ..one()
        }));
        assert!(!one().matches(&Identity {
            device_bytes: Some(2 << 30),
            ..one()
        }));
        assert!(!one().matches(&Identity {
            uuid: "v".into(),
            ..one()
        }));
        // A torn superblock hides its UUID; the table still knows the disk.
        assert!(one().matches(&Identity {
            uuid: String::new(),
            ..one()
        }));
        let nameless = Identity {
            disk_guid: None,
            partition_guid: None,
            uuid: String::new(),
            ..one()
        };
        assert!(!one().matches(&nameless), "length alone is no identity");
    }
}
