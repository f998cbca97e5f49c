//! The state of the journal, $LogFile: whether Windows has closed it.
//!
//! ```text
//! restart page: 0x00 "RSTR"       0x10 page size (32 bits)   0x18 place of the restart area (16)
//!                                 0x1a minor version (16)    0x1c major version (16)
//! restart area: 0x00 newest LSN (64)   0x0c list of clients in use (16)   0x0e flags (16)
//! ```
//!
//! There are two restart pages, of which the one with the newer LSN counts.

use crate::fs::FsError;

use super::record::{corrupt, fix_up, kind};
use super::volume::{Volume, file};
use crate::fs::bytes::{u16_at, u32_at, u64_at};

/// No client has it open.
const NO_CLIENT: u16 = 0xffff;
/// The volume was closed in good order.
const IS_CLEAN: u16 = 2;

/// What the journal says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LogState {
    /// It was emptied: all ones.
    Empty,
    /// It was closed.
    Clean,
    /// It was not; why.
    Open(String),
}

/// The state of the journal.
///
/// # Errors
/// [`FsError::Corrupt`] where there is none.
pub fn state(volume: &Volume<'_>) -> Result<LogState, FsError> {
    const MAX_PAGE: usize = 64 << 10;
    let inode = volume.inode(file::LOG)?;
    let attribute = inode
        .attribute(kind::DATA, "")
        .ok_or_else(|| corrupt(file::LOG, "it has no content"))?;
    let head = volume.content(attribute).head(2 * MAX_PAGE as u64)?;
    let empty = |page: &[u8]| page.iter().all(|&byte| byte == 0xff);
    let page_bytes = match u32_at(&head, 0x10) as usize {
        size @ 512..=MAX_PAGE if size.is_power_of_two() => size,
        _ => 4096,
    };
    let pages = [head.get(..page_bytes), head.get(page_bytes..2 * page_bytes)];
    if pages.iter().flatten().all(|page| empty(page)) {
        return Ok(LogState::Empty);
    }
    let newest = pages.iter().flatten().filter_map(|page| restart(page));
    Ok(match newest.max_by_key(|restart| restart.lsn) {
        None => LogState::Open("it has no restart page that can be read".into()),
        Some(restart) if restart.major != 1 => LogState::Open(format!(
            "it is of version {}.{}, which Windows leaves while it has the volume open or asleep",
            restart.major, restart.minor
        )),
        Some(restart) if restart.clients == NO_CLIENT || restart.flags & IS_CLEAN != 0 => {
            LogState::Clean
        }
        Some(_) => LogState::Open("it was not closed".into()),
    })
}

struct Restart {
    lsn: u64,
    clients: u16,
    flags: u16,
    major: u16,
    minor: u16,
}

fn restart(page: &[u8]) -> Option<Restart> {
    let mut page = page.to_vec();
    if !page.starts_with(b"RSTR") {
        return None;
    }
    fix_up(&mut page).ok()?;
    let area = page.get(usize::from(u16_at(&page, 0x18))..)?;
    Some(Restart {
        lsn: u64_at(area, 0),
        clients: u16_at(area, 0x0c),
        flags: u16_at(area, 0x0e),
        major: u16_at(&page, 0x1c),
        minor: u16_at(&page, 0x1a),
    })
}
