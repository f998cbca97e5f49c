//! The content of a file, read from its first byte to its last, as the kernel would give it.

use std::io::{self, Read};

use super::inline::InlineDirectory;
use super::inode::{FLAG_INLINE_DATA, Inode};
use super::map::{Map, Run};
use super::walk::Volume;
use crate::fs::FsError;

/// `EXT4_ENCRYPT_FL`: the content is there, and nobody can read it without a key.
const FLAG_ENCRYPT: u32 = 0x800;

/// Reads a file; holes and extents that were never written are zeros.
pub struct FileReader<'a> {
    volume: &'a Volume<'a>,
    map: Map<'a>,
    run: Option<Run>,
    inline: Option<Vec<u8>>,
    at: u64,
    size: u64,
}

impl<'a> FileReader<'a> {
    /// Of inode `number`, parsed and as it is on the disk.
    ///
    /// # Errors
    /// [`FsError::Corrupt`] where its map or what is inside the inode cannot be read;
    /// [`FsError::Io`] for content that is encrypted.
    pub fn new(
        volume: &'a Volume<'a>,
        number: u32,
        inode: &Inode,
        raw: &[u8],
    ) -> Result<FileReader<'a>, FsError> {
        if inode.has(FLAG_ENCRYPT) {
            return Err(io::Error::other("it is encrypted").into());
        }
        let inline = match inode.has(FLAG_INLINE_DATA) {
            false => None,
            true => {
                let inside = InlineDirectory::parse(inode, raw)
                    .map_err(|e| FsError::Corrupt(format!("inode {number}: {e}")))?;
                let mut content = inode.block.to_vec();
                content.extend_from_slice(inside.lists[1]);
                Some(content)
            }
        };
        Ok(FileReader {
            volume,
            map: Map::new(volume, number, inode)?,
            run: None,
            inline,
            at: 0,
            size: inode.size,
        })
    }

    /// The run that covers the place, or comes after it.
    fn find_run(&mut self) -> io::Result<Option<Run>> {
        let block = self.at / self.volume.sb.block_bytes;
        while self.run.is_none_or(|run| run.logical + run.len <= block) {
            self.run = self.map.next_run(&mut 0).map_err(io::Error::other)?;
            if self.run.is_none() {
                return Ok(None);
            }
        }
        Ok(self.run)
    }

    fn read_blocks(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let block_bytes = self.volume.sb.block_bytes;
        let run = self.find_run()?;
        let start = run.map_or(u64::MAX, |run| run.logical.saturating_mul(block_bytes));
        let (until, physical) = match run {
            Some(run) if start <= self.at => {
                let place = self.volume.bytes_of(run.physical, run.len);
                let from = place.start + (self.at - start);
                (start + place.len, (!run.unwritten).then_some(from))
            }
            _ => (start, None),
        };
        let count = usize::try_from(until - self.at)
            .unwrap_or(usize::MAX)
            .min(buf.len());
        let buf = buf.get_mut(..count).unwrap_or_default();
        let Some(from) = physical else {
            buf.fill(0);
            return Ok(count);
        };
        match self.volume.part.read_at(from, buf) {
            Ok(()) => Ok(count),
            // Where one block cannot be read, those before it can: the error must say which.
            Err(_) if count as u64 > block_bytes => {
                let one = (block_bytes - self.at % block_bytes) as usize;
                let first = buf.get_mut(..one).unwrap_or_default();
                self.volume.part.read_at(from, first).map(|()| one)
            }
            Err(e) => Err(e),
        }
    }
}

impl Read for FileReader<'_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let left = usize::try_from(self.size - self.at).unwrap_or(usize::MAX);
        let room = left.min(buf.len());
        let buf = buf.get_mut(..room).unwrap_or_default();
        if buf.is_empty() {
            return Ok(0);
        }
        let count = match &self.inline {
            None => self.read_blocks(buf)?,
            Some(content) => {
                let rest = usize::try_from(self.at)
                    .ok()
                    .and_then(|at| content.get(at..));
                let rest = rest.unwrap_or_default();
                let count = rest.len().min(buf.len());
                buf.get_mut(..count)
                    .unwrap_or_default()
                    .copy_from_slice(&rest[..count]);
                if count == 0 {
                    return Err(io::Error::other(
                        "the content inside the inode is too short",
                    ));
                }
                count
            }
        };
        self.at += count as u64;
        Ok(count)
    }
}
