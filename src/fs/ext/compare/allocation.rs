//! Every block that a file is mapped to is its own, and is marked as in use.
//!
//! A checker says so too; but it may cover for the resizer. A block that is in use and marked as
//! free, or that belongs to two files with the same content, reads as it should today, and is
//! overwritten by the next file.

use std::collections::BTreeMap;

use super::super::feature;
use super::super::inode::{BAD_BLOCKS, RESIZE};
use super::super::map::{Map, Piece};
use super::super::used;
use super::super::walk::Volume;
use super::{Findings, Object};
use crate::extent::{Extent, ExtentMap};
use crate::fs::FsError;
use crate::fs::bytes::u32_at;
use crate::report::Report;

/// Bytes of `h_refcount` in a block of attributes.
const REFERENCES_AT: usize = 4;

struct Claims<'a> {
    volume: &'a Volume<'a>,
    marked: ExtentMap,
    structures: ExtentMap,
    /// What files have claimed, and the structures.
    taken: ExtentMap,
    /// Blocks of attributes and how many inodes have each: they may be shared.
    attributes: BTreeMap<u64, u32>,
    findings: &'a mut Findings,
}

/// Looks at the maps of all inodes of `volume`.
///
/// # Errors
/// [`FsError`] where it cannot be read or understood.
pub fn check(
    volume: &Volume<'_>,
    findings: &mut Findings,
    report: &dyn Report,
) -> Result<(), FsError> {
    // Where files may share blocks, or parts of a cluster, this says nothing.
    if volume.sb.has(feature::SHARED_BLOCKS) || volume.sb.blocks_per_cluster() != 1 {
        return Ok(());
    }
    let structures = used::all_structures(&volume.sb, &volume.groups)?;
    let mut claims = Claims {
        volume,
        marked: used::used(volume.part, &volume.sb, &volume.groups, report)?,
        taken: structures.clone(),
        structures,
        attributes: BTreeMap::new(),
        findings,
    };
    if volume.sb.has(feature::MMP) {
        claims.block(
            &Object::Named("multiple-mount protection".into()),
            volume.sb.mmp_block,
        );
    }
    volume.each_inode(report, |number, inode, _| {
        if number == BAD_BLOCKS || claims.findings.is_full() {
            return Ok(());
        }
        let object = Object::After(number);
        if inode.xattr_block != 0 {
            claims.attribute_block(&object, inode.xattr_block);
        }
        let mut map = Map::new(volume, number, inode)?;
        while let Some(piece) = map.next_piece()? {
            let bytes = match piece {
                Piece::Metadata(block) => volume.bytes_of(block, 1),
                Piece::Run(run) => volume.bytes_of(run.physical, run.len),
            };
            // The reserved blocks after the descriptors are the content of this inode.
            if number != RESIZE || !claims.structures.contains(bytes) {
                claims.claim(&object, bytes);
            }
        }
        Ok(())
    })?;
    claims.references()
}

impl Claims<'_> {
    fn block(&mut self, object: &Object, block: u64) {
        self.claim(object, self.volume.bytes_of(block, 1));
    }

    fn claim(&mut self, object: &Object, bytes: Extent) {
        let block_bytes = self.volume.sb.block_bytes;
        if let Some(other) = self.taken.within(bytes).next() {
            self.findings.add(
                object.clone(),
                "allocation",
                format!(
                    "its block {} belongs to something else as well",
                    other.start / block_bytes
                ),
            );
        }
        if let Some(gap) = self.marked.gaps(bytes).first() {
            self.findings.add(
                object.clone(),
                "allocation",
                format!("its block {} is marked as free", gap.start / block_bytes),
            );
        }
        self.taken.insert(bytes);
    }

    fn attribute_block(&mut self, object: &Object, block: u64) {
        if block >= self.volume.sb.blocks {
            // What reads it says so.
            return;
        }
        let count = self.attributes.entry(block).or_insert(0);
        *count += 1;
        if *count == 1 {
            self.block(object, block);
        }
    }

    /// A count that is too low lets the kernel free the block while others still have it.
    fn references(&mut self) -> Result<(), FsError> {
        for (&block, &count) in &self.attributes {
            let written = u32_at(&self.volume.block(block)?, REFERENCES_AT);
            if written != count && !self.findings.is_full() {
                self.findings.add(
                    Object::Named(format!("block {block}")),
                    "allocation",
                    format!("{count} inodes have these attributes, and the block says {written}"),
                );
            }
        }
        Ok(())
    }
}
