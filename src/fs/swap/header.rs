//! The first page of swap space, as `mkswap` writes it and the kernel's `union swap_header` reads it.
//!
//! ```text
//! 0             1024  boot area, left alone
//! 1024             4  version: 1, in the byte order of the machine
//! 1028             4  last page: how large it is
//! 1032             4  number of bad pages
//! 1036            16  UUID
//! 1052            16  label
//! 1068           468  padding
//! 1536             …  numbers of the bad pages
//! page - 10       10  `SWAPSPACE2`
//! ```
//!
//! The magic says how large a page is by its place. A system that was suspended to the space has
//! another magic in its place.

use crate::disk::{DiskRead, read_vec};
use crate::extent::Extent;
use crate::fs::FsError;
use crate::report::Refusal;

/// The sector with all fields. Nothing else of the space is ever changed.
pub const FIELDS: Extent = Extent {
    start: 1024,
    len: 512,
};

/// Bytes of [`FIELDS`].
pub const FIELDS_BYTES: usize = 512;

/// Where the fields are, from the start of [`FIELDS`].
pub const VERSION_AT: usize = 0;
/// See [`VERSION_AT`].
pub const LAST_PAGE_AT: usize = 4;
/// See [`VERSION_AT`].
pub const PADDING_AT: usize = 44;
const BAD_PAGES_AT: usize = 8;
const UUID_AT: usize = 12;
const LABEL_AT: usize = 28;

/// The only version.
pub const VERSION: u32 = 1;

/// What `mkswap` makes at least.
pub const LEAST_PAGES: u64 = 10;

const MAGIC: &[u8; 10] = b"SWAPSPACE2";
const OLD_MAGIC: &[u8; 10] = b"SWAP-SPACE";
const SLEEPING: [&[u8]; 5] = [
    b"S1SUSPEND",
    b"S2SUSPEND",
    b"ULSUSPEND",
    b"LINHIB0001",
    TUX_ON_ICE,
];
/// It keeps the magic of the swap space, and has its own at the start.
const TUX_ON_ICE: &[u8] = b"\xed\xc3\x02\xe9\x98\x56\xe5\x0c";

/// The pages that there are machines for.
const PAGE_BYTES: [u64; 5] = [4096, 8192, 16384, 32768, 65536];

/// What the header says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Header {
    /// Size of a page.
    pub page_bytes: u64,
    /// The fields.
    pub fields: Fields,
}

/// The fields of the one sector.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fields {
    /// As it is, whatever it is.
    pub version: u32,
    /// Number of the last page, which is one less than there are.
    pub last_page: u32,
    /// How many pages are listed as bad.
    pub bad_pages: u32,
    /// The UUID.
    pub uuid: [u8; 16],
    /// The label, up to its first NUL.
    pub label: Vec<u8>,
}

impl Fields {
    /// Reads the sector. What is missing at its end reads as zero.
    pub fn parse(sector: &[u8]) -> Fields {
        let label: [u8; 16] = array(sector, LABEL_AT);
        Fields {
            version: u32::from_ne_bytes(array(sector, VERSION_AT)),
            last_page: u32::from_ne_bytes(array(sector, LAST_PAGE_AT)),
            bad_pages: u32::from_ne_bytes(array(sector, BAD_PAGES_AT)),
            uuid: array(sector, UUID_AT),
            label: label.iter().copied().take_while(|&b| b != 0).collect(),
        }
    }

    /// The UUID as `blkid` prints it; empty where there is none.
    pub fn uuid_text(&self) -> String {
        if self.uuid == [0; 16] {
            return String::new();
        }
        let mut text = String::new();
        for (at, byte) in self.uuid.iter().enumerate() {
            if [4, 6, 8, 10].contains(&at) {
                text.push('-');
            }
            text.push_str(&format!("{byte:02x}"));
        }
        text
    }
}

impl Header {
    /// Reads the header. `None` where there is no swap space, nor a system that sleeps in one. A
    /// header with a version that nobody knows is given too: it may be a gate.
    ///
    /// # Errors
    /// [`FsError::Unsupported`] where it is swap space that cannot be handled, [`FsError::Io`].
    pub fn read(part: &dyn DiskRead) -> Result<Option<Header>, FsError> {
        let largest = PAGE_BYTES[PAGE_BYTES.len() - 1];
        let bytes = read_vec(part, 0, part.len_bytes().min(largest) as usize)?;
        for page_bytes in PAGE_BYTES {
            let place = page_bytes as usize - MAGIC.len()..page_bytes as usize;
            let Some(magic) = bytes.get(place) else {
                return Ok(None);
            };
            if SLEEPING.iter().any(|name| magic.starts_with(name)) {
                return Err(FsError::Unsupported(sleeping()));
            }
            if magic == OLD_MAGIC {
                return Err(FsError::Unsupported(Refusal::new(
                    "swap-old",
                    "it is swap space of the old kind, which Linux has not used since 2.6",
                    "make it anew with `mkswap`",
                )));
            }
            if magic != MAGIC {
                continue;
            }
            if bytes.starts_with(TUX_ON_ICE) {
                return Err(FsError::Unsupported(sleeping()));
            }
            let sector = bytes.get(FIELDS.start as usize..FIELDS.end() as usize);
            let fields = Fields::parse(sector.unwrap_or_default());
            if fields.version == VERSION.swap_bytes() {
                return Err(FsError::Unsupported(Refusal::new(
                    "swap-foreign",
                    "it is swap space of a machine with the other byte order",
                    "resize it there, or make it anew with `mkswap`",
                )));
            }
            return Ok(Some(Header { page_bytes, fields }));
        }
        Ok(None)
    }

    /// Size of the space as the header says.
    pub fn size_bytes(&self) -> u64 {
        (u64::from(self.fields.last_page) + 1).saturating_mul(self.page_bytes)
    }

    /// The page with the header.
    pub fn page(&self) -> Extent {
        Extent::new(0, self.page_bytes)
    }
}

fn sleeping() -> Refusal {
    Refusal::new(
        "swap-hibernated",
        "a system sleeps in the swap space: whatever is changed below it, it does not survive that",
        "wake it up and shut it down; where it is never to wake up again, `mkswap`",
    )
}

fn array<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    let field = bytes
        .get(at..at + N)
        .and_then(|field| field.try_into().ok());
    field.unwrap_or([0; N])
}
