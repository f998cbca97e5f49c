//! The manifest's file.
//!
//! All numbers are little-endian; strings are UTF-8.
//!
//! ```text
//! file    = body, root
//! body    = magic, chunk_bytes u64, disk_bytes u64,
//!           identity_len u32, identity,
//!           extent_count u64, { start u64, len u64 },
//!           chunk_count u64, { number u64, hash [32] }
//! magic   = "HFMANIF" version
//! version = "1"
//! root    = BLAKE3 of body [32]
//! ```
//!
//! Version rule: another version is refused. Extents are in order and do not touch; chunks are in
//! order and are those that the extents cover: a file that breaks this is refused as damaged.

use std::io;

use thiserror::Error;

use super::{Manifest, chunk_numbers};
use crate::disk::{Disk, DiskRead, read_vec};
use crate::extent::{Extent, ExtentMap};

const MAGIC: &[u8; 7] = b"HFMANIF";
const VERSION: u8 = b'1';

/// A larger file is not a manifest: 15 TiB in chunks of 1 MiB need 600 MB.
const MAX_BYTES: u64 = 4 << 30;

/// Why a manifest could not be read.
#[derive(Debug, Error)]
pub enum ManifestError {
    /// The file could not be read.
    #[error("reading the manifest: {0}")]
    Io(#[from] io::Error),
    /// It is something else.
    #[error("this is not a manifest")]
    NotAManifest,
    /// It is from a newer version of this program.
    #[error("the manifest has format version {0}, which this program does not know")]
    Version(char),
    /// Its root hash does not fit, or its lists contradict themselves.
    #[error("the manifest is damaged: {0}")]
    Damaged(&'static str),
}

/// Everything but the root hash.
pub(super) fn body(manifest: &Manifest) -> Vec<u8> {
    let mut out = Vec::with_capacity(64 + manifest.extents.len() * 16 + manifest.chunks.len() * 40);
    out.extend_from_slice(MAGIC);
    out.push(VERSION);
    out.extend_from_slice(&manifest.chunk_bytes.to_le_bytes());
    out.extend_from_slice(&manifest.disk_bytes.to_le_bytes());
    out.extend_from_slice(&(manifest.identity.len() as u32).to_le_bytes());
    out.extend_from_slice(manifest.identity.as_bytes());
    out.extend_from_slice(&(manifest.extents.len() as u64).to_le_bytes());
    for e in manifest.extents.iter() {
        out.extend_from_slice(&e.start.to_le_bytes());
        out.extend_from_slice(&e.len.to_le_bytes());
    }
    out.extend_from_slice(&(manifest.chunks.len() as u64).to_le_bytes());
    for (number, hash) in &manifest.chunks {
        out.extend_from_slice(&number.to_le_bytes());
        out.extend_from_slice(hash);
    }
    out
}

/// Takes fields off the front; every read is checked.
struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    fn bytes(&mut self, count: usize) -> Result<&'a [u8], ManifestError> {
        let (front, rest) = self
            .0
            .split_at_checked(count)
            .ok_or(ManifestError::Damaged("it ends in the middle of a field"))?;
        self.0 = rest;
        Ok(front)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], ManifestError> {
        self.bytes(N)?
            .try_into()
            .map_err(|_| ManifestError::Damaged("a field is short"))
    }

    fn number(&mut self) -> Result<u64, ManifestError> {
        Ok(u64::from_le_bytes(self.array()?))
    }
}

impl Manifest {
    /// Writes the manifest as the whole content of `file`, durably.
    ///
    /// # Errors
    /// The medium's.
    pub fn write(&self, file: &dyn Disk) -> io::Result<()> {
        let mut bytes = body(self);
        let root = blake3::hash(&bytes);
        bytes.extend_from_slice(root.as_bytes());
        file.set_len(0)?;
        file.write_at(0, &bytes)?;
        // Barrier: recovery judges the target by this file, so it must be durable before the
        // target is touched.
        file.flush()
    }

    /// Reads what [`Manifest::write`] wrote.
    ///
    /// # Errors
    /// [`ManifestError`]; a file that passes is exactly what was written.
    pub fn read(file: &dyn DiskRead) -> Result<Manifest, ManifestError> {
        let len = file.len_bytes();
        if !(60..MAX_BYTES).contains(&len) {
            return Err(ManifestError::NotAManifest);
        }
        Manifest::decode(&read_vec(file, 0, len as usize)?)
    }

    /// As [`Manifest::read`], from memory.
    ///
    /// # Errors
    /// As [`Manifest::read`].
    pub fn decode(bytes: &[u8]) -> Result<Manifest, ManifestError> {
        let (body, root) = bytes
            .split_at_checked(bytes.len().saturating_sub(32))
            .ok_or(ManifestError::NotAManifest)?;
        let mut fields = Fields(body);
        if fields.bytes(7).ok() != Some(MAGIC) {
            return Err(ManifestError::NotAManifest);
        }
        match fields.array()? {
            [VERSION] => {}
            [other] => return Err(ManifestError::Version(char::from(other))),
        }
        if blake3::hash(body).as_bytes() != root {
            return Err(ManifestError::Damaged("its root hash does not fit"));
        }
        decode_fields(fields)
    }
}

fn decode_fields(mut fields: Fields<'_>) -> Result<Manifest, ManifestError> {
    let chunk_bytes = fields.number()?;
    let disk_bytes = fields.number()?;
    if !(4096..=1 << 30).contains(&chunk_bytes) {
        return Err(ManifestError::Damaged("its chunk size is out of range"));
    }
    let identity_len = u32::from_le_bytes(fields.array()?) as usize;
    let identity = std::str::from_utf8(fields.bytes(identity_len)?)
        .map_err(|_| ManifestError::Damaged("its identity is not text"))?
        .to_string();
    let mut extents = ExtentMap::new();
    let mut at = 0;
    let mut most_chunks = 0u64;
    for index in 0..fields.number()? {
        let (start, len) = (fields.number()?, fields.number()?);
        let end = start
            .checked_add(len)
            .filter(|&end| len > 0 && end <= disk_bytes);
        let in_order = index == 0 || start > at;
        let (Some(end), true) = (end, in_order) else {
            return Err(ManifestError::Damaged(
                "its extents are out of order or beyond the disk",
            ));
        };
        extents.insert(Extent::from_range(start, end));
        at = end;
        most_chunks = most_chunks.saturating_add(len / chunk_bytes + 2);
    }
    // Memory is bounded by the file's length, whatever its extents claim to cover.
    if most_chunks > (fields.0.len() as u64).saturating_add(2 * extents.len() as u64) {
        return Err(ManifestError::Damaged(
            "its extents have more chunks than it lists",
        ));
    }
    let mut chunks = std::collections::BTreeMap::new();
    for _ in 0..fields.number()? {
        let number = fields.number()?;
        chunks.insert(number, fields.array()?);
    }
    if !fields.0.is_empty()
        || !chunks
            .keys()
            .copied()
            .eq(chunk_numbers(&extents, chunk_bytes))
    {
        return Err(ManifestError::Damaged(
            "its chunks are not those of its extents",
        ));
    }
    Ok(Manifest {
        chunk_bytes,
        disk_bytes,
        identity,
        extents,
        chunks,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::MemoryDisk;
    use crate::report::Quiet;

    fn written() -> Vec<u8> {
        let disk = MemoryDisk::fixed((0..60_000u32).map(|i| i as u8).collect());
        let extents = [Extent::new(10, 9000), Extent::new(20_000, 4096)]
            .into_iter()
            .collect();
        let manifest = Manifest::take(&disk, &extents, 4096, "disk one", &Quiet).unwrap();
        let file = MemoryDisk::file(Vec::new());
        manifest.write(&file).unwrap();
        assert_eq!(Manifest::read(&file).unwrap(), manifest);
        file.content()
    }

    #[test]
    fn every_changed_byte_and_every_cut_is_refused() {
        let good = written();
        for at in 0..good.len() {
            let mut bad = good.clone();
            bad[at] ^= 0x10;
            assert!(Manifest::decode(&bad).is_err(), "byte {at}");
            assert!(Manifest::decode(&good[..at]).is_err(), "cut at {at}");
        }
    }

    /// A manifest that lies with a root hash that fits: somebody made it on purpose.
    #[test]
    fn lists_that_contradict_themselves_are_refused() {
        let good = written();
        let body_len = good.len() - 32;
        for at in 8..body_len {
            for value in [0, 0x7f, 0xff] {
                let mut bad = good[..body_len].to_vec();
                bad[at] = value;
                let root = blake3::hash(&bad);
                bad.extend_from_slice(root.as_bytes());
                let _ = Manifest::decode(&bad);
            }
        }
        let mut newer = good;
        newer[7] = b'2';
        assert!(matches!(
            Manifest::decode(&newer),
            Err(ManifestError::Version('2'))
        ));
    }
}
