//! GUIDs as they lie on disk, and the names of the partition types that people meet.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// A GUID in the byte order of the disk: the first three fields little-endian, the rest as
/// written (UEFI 2.10, appendix A).
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct Guid(pub [u8; 16]);

/// Where each byte of the text form lies on disk.
const TEXT_ORDER: [usize; 16] = [3, 2, 1, 0, 5, 4, 7, 6, 8, 9, 10, 11, 12, 13, 14, 15];

impl Guid {
    /// The type of an entry that is not in use.
    pub const ZERO: Guid = Guid([0; 16]);
}

impl fmt::Display for Guid {
    /// Lower case, as in `/dev/disk/by-partuuid`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = String::with_capacity(36);
        for (i, at) in TEXT_ORDER.iter().enumerate() {
            if matches!(i, 4 | 6 | 8 | 10) {
                text.push('-');
            }
            text.push_str(&format!("{:02x}", self.0[*at]));
        }
        f.pad(&text)
    }
}

impl fmt::Debug for Guid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

impl FromStr for Guid {
    type Err = String;

    /// Reads the form that [`Guid`] prints, in either case.
    fn from_str(text: &str) -> Result<Guid, String> {
        let bad = || format!("`{}` is not a GUID", crate::units::escape(text));
        let dashes = [8, 13, 18, 23];
        if text.len() != 36
            || !text.is_ascii()
            || dashes
                .iter()
                .any(|&at| text.as_bytes().get(at) != Some(&b'-'))
        {
            return Err(bad());
        }
        let digits: String = text.chars().filter(|&c| c != '-').collect();
        if digits.len() != 32 || !digits.bytes().all(|c| c.is_ascii_hexdigit()) {
            return Err(bad());
        }
        let value = u128::from_str_radix(&digits, 16).map_err(|_| bad())?;
        let mut guid = Guid::ZERO;
        for (byte, at) in value.to_be_bytes().iter().zip(TEXT_ORDER) {
            guid.0[at] = *byte;
        }
        Ok(guid)
    }
}

impl From<Guid> for String {
    fn from(guid: Guid) -> String {
        guid.to_string()
    }
}

impl TryFrom<String> for Guid {
    type Error = String;
    fn try_from(text: String) -> Result<Guid, String> {
        text.parse()
    }
}

/// Types that are met on servers and desktops. Sources: UEFI 2.10 §5.3.3, the Discoverable
/// Partitions Specification, and Microsoft's `PARTITION_INFORMATION_GPT`.
const TYPE_NAMES: &[(&str, &str)] = &[
    ("c12a7328-f81f-11d2-ba4b-00a0c93ec93b", "EFI system"),
    (
        "024dee41-33e7-11d3-9d69-0008c781f39f",
        "MBR partition scheme",
    ),
    ("21686148-6449-6e6f-744e-656564454649", "BIOS boot"),
    (
        "bc13c2ff-59e6-4262-a352-b275fd6f7172",
        "Linux extended boot",
    ),
    ("0fc63daf-8483-4772-8e79-3d69d8477de4", "Linux file system"),
    (
        "4f68bce3-e8cd-4db1-96e7-fbcaf984b709",
        "Linux root (x86-64)",
    ),
    ("b921b045-1df0-41c3-af44-4c6f280d3fae", "Linux root (ARM64)"),
    ("933ac7e1-2eb4-4f13-b844-0e14e2aef915", "Linux home"),
    ("3b8f8425-20e0-4f3b-907f-1a25a76f98e8", "Linux server data"),
    (
        "4d21b016-b534-45c2-a9fb-5c16e091fd2d",
        "Linux variable data",
    ),
    ("0657fd6d-a4ab-43c4-84e5-0933c84b4f4f", "Linux swap"),
    ("a19d880f-05fc-4d3b-a006-743f0f84911e", "Linux RAID"),
    ("e6d6d379-f507-44c2-a23c-238f2a3df928", "Linux LVM"),
    ("ca7d7ccb-63ed-4c53-861c-1742536059cc", "LUKS"),
    ("8da63339-0007-60c0-c436-083ac8230908", "Linux reserved"),
    (
        "ebd0a0a2-b9e5-4433-87c0-68b6b72699c7",
        "Microsoft basic data",
    ),
    ("e3c9e316-0b5c-4db8-817d-f92df00215ae", "Microsoft reserved"),
    ("de94bba4-06d1-4d40-a16a-bfd50179d6ac", "Windows recovery"),
    (
        "5808c8aa-7e8f-42e0-85d2-e1e90434cfb3",
        "Windows LDM metadata",
    ),
    ("af9b60a0-1431-4f62-bc68-3311714a69ad", "Windows LDM data"),
    (
        "e75caf8f-f680-4cee-afa3-b001e56efc2d",
        "Windows storage spaces",
    ),
    ("6a898cc3-1dd2-11b2-99a6-080020736631", "ZFS"),
    ("516e7cb4-6ecf-11d6-8ff8-00022d09712b", "FreeBSD data"),
    ("516e7cb6-6ecf-11d6-8ff8-00022d09712b", "FreeBSD UFS"),
    ("516e7cba-6ecf-11d6-8ff8-00022d09712b", "FreeBSD ZFS"),
    ("48465300-0000-11aa-aa11-00306543ecac", "Apple HFS+"),
    ("7c3457ef-0000-11aa-aa11-00306543ecac", "Apple APFS"),
];

/// A readable name for a partition type, where it is one that we know.
pub fn type_name(guid: Guid) -> Option<&'static str> {
    let text = guid.to_string();
    TYPE_NAMES
        .iter()
        .find(|(known, _)| *known == text)
        .map(|(_, name)| *name)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The on-disk bytes of the EFI system type, as the UEFI specification's field order gives
    /// them.
    const EFI: [u8; 16] = [
        0x28, 0x73, 0x2a, 0xc1, 0x1f, 0xf8, 0xd2, 0x11, 0xba, 0x4b, 0x00, 0xa0, 0xc9, 0x3e, 0xc9,
        0x3b,
    ];

    #[test]
    fn guids_print_and_parse_in_mixed_endian_order() {
        let text = "c12a7328-f81f-11d2-ba4b-00a0c93ec93b";
        assert_eq!(Guid(EFI).to_string(), text);
        assert_eq!(text.parse(), Ok(Guid(EFI)));
        assert_eq!(text.to_uppercase().parse(), Ok(Guid(EFI)));
        assert_eq!(type_name(Guid(EFI)), Some("EFI system"));
        assert_eq!(type_name(Guid([7; 16])), None);
    }

    #[test]
    fn what_is_not_a_guid_is_refused() {
        for text in [
            "",
            "c12a7328f81f11d2ba4b00a0c93ec93b",
            "c12a7328-f81f-11d2-ba4b-00a0c93ec93",
            "c12a7328-f81f-11d2-ba4b-00a0c93ec9-b",
            "g12a7328-f81f-11d2-ba4b-00a0c93ec93b",
            "+12a7328-f81f-11d2-ba4b-00a0c93ec93b",
            "é12a7328-f81f-11d2-ba4b-00a0c93ec9b",
        ] {
            assert!(text.parse::<Guid>().is_err(), "{text}");
        }
    }

    #[test]
    fn every_known_type_is_written_as_guids_are_printed() {
        for (text, name) in TYPE_NAMES {
            let guid: Guid = text.parse().unwrap();
            assert_eq!(type_name(guid), Some(*name));
        }
    }
}
