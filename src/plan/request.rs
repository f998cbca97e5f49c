//! What was asked for.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::fs::Direction;
use crate::units::{Bytes, SizeError};

/// The wanted size of the partition, or of a bare file system.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum To {
    /// This size.
    Size(u64),
    /// So much more.
    More(u64),
    /// So much less.
    Less(u64),
    /// As large as there is room.
    Max,
    /// As small as the file system can be made.
    Min,
}

impl FromStr for To {
    type Err = SizeError;

    fn from_str(text: &str) -> Result<To, SizeError> {
        let size = |text: &str| Bytes::from_str(text).map(|b| b.0);
        match (text.trim(), text.trim().split_at_checked(1)) {
            ("max", _) => Ok(To::Max),
            ("min", _) => Ok(To::Min),
            (_, Some(("+", rest))) => size(rest).map(To::More),
            (_, Some(("-", rest))) => size(rest).map(To::Less),
            (whole, _) => size(whole).map(To::Size),
        }
    }
}

impl fmt::Display for To {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            To::Size(bytes) => write!(f, "{}", Bytes(*bytes)),
            To::More(bytes) => write!(f, "+{}", Bytes(*bytes)),
            To::Less(bytes) => write!(f, "-{}", Bytes(*bytes)),
            To::Max => f.write_str("max"),
            To::Min => f.write_str("min"),
        }
    }
}

/// How much is read back after the commit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Level {
    /// The blocks that were changed.
    Changed,
    /// Those, and everything that the file system uses.
    Used,
    /// Those, and everything else on the disk that nobody else is using.
    All,
}

/// What was asked for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Request {
    /// Larger or smaller.
    pub direction: Direction,
    /// The wanted size.
    pub to: To,
    /// The wanted length of the image file itself.
    pub disk_bytes: Option<u64>,
    /// How much is read back.
    pub level: Level,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_with_and_without_a_sign() {
        assert_eq!("max".parse(), Ok(To::Max));
        assert_eq!("min".parse(), Ok(To::Min));
        assert_eq!("+20GiB".parse(), Ok(To::More(20 << 30)));
        assert_eq!("-1MiB".parse(), Ok(To::Less(1 << 20)));
        assert_eq!("3GiB".parse(), Ok(To::Size(3 << 30)));
        assert!("+20".parse::<To>().is_err());
        assert!("+".parse::<To>().is_err());
        assert!("maximum".parse::<To>().is_err());
    }
}
