//! A volume in memory: its FAT, and where each file and directory is.

use super::boot::Boot;
use crate::disk::{DiskRead, read_vec};
use crate::extent::{Extent, ExtentMap};
use crate::fs::FsError;
use crate::fs::bytes::{put, u16_at, u32_at};
use crate::report::Refusal;
use crate::units::escape;

/// The format's own limit: 65536 entries.
const MOST_DIRECTORY_BYTES: u64 = 65_536 * 32;

/// Bytes of an entry of a directory.
pub const ENTRY_BYTES: usize = 32;

/// A volume whose FATs agree.
pub struct Volume<'a> {
    /// Where it is.
    pub part: &'a dyn DiskRead,
    /// Its boot sector.
    pub boot: Boot,
    /// Entries of the FAT by cluster, the first two too, as they are on the disk.
    pub fat: Vec<u32>,
}

/// A file or directory.
pub struct Node {
    /// Its path, escaped.
    pub path: String,
    /// Its clusters; none where it is empty, or the root of FAT16.
    pub chain: Vec<u32>,
    /// Whether it is a directory.
    pub is_directory: bool,
    /// Where its entry is: number of the directory in the list, and byte in it.
    pub entry: Option<(usize, usize)>,
}

fn corrupt<T>(what: String) -> Result<T, FsError> {
    Err(FsError::Corrupt(what))
}

impl<'a> Volume<'a> {
    /// Reads the FATs.
    ///
    /// # Errors
    /// [`FsError::Unsupported`] where they differ or list bad clusters, else as usual.
    pub fn read(part: &'a dyn DiskRead) -> Result<Volume<'a>, FsError> {
        let Some(boot) = Boot::read(part)? else {
            return corrupt("there is no boot sector of a FAT volume".into());
        };
        if boot.size_bytes() > part.len_bytes() {
            return Err(FsError::Unsupported(Refusal::new(
                "fat-larger-than-partition",
                "the volume says that it is larger than its partition",
                "enlarge the partition first",
            )));
        }
        let entries = boot.clusters() as usize + 2;
        let len = boot.fat_sectors * boot.sector;
        let mut fat = Vec::with_capacity(entries);
        for piece in Extent::new(0, len).split(1 << 20) {
            let at = boot.reserved * boot.sector + piece.start;
            let first = read_vec(part, at, piece.len as usize)?;
            if boot.fats == 2 && read_vec(part, at + len, piece.len as usize)? != first {
                return Err(FsError::Unsupported(Refusal::new(
                    "fat-copies-differ",
                    "the two copies of the FAT differ",
                    "run `fsck.fat -r` on it, or `chkdsk` in Windows, after a backup",
                )));
            }
            let missing = entries - fat.len();
            match boot.wide {
                true => fat.extend(first.chunks_exact(4).take(missing).map(|e| u32_at(e, 0))),
                false => fat.extend(
                    first
                        .chunks_exact(2)
                        .take(missing)
                        .map(|e| u32::from(u16_at(e, 0))),
                ),
            }
        }
        let volume = Volume { part, boot, fat };
        let bad = (2..volume.fat.len()).filter(|&c| volume.link(c as u32) == volume.bad());
        match bad.count() {
            0 => Ok(volume),
            bad => Err(FsError::Unsupported(Refusal::new(
                "fat-bad-clusters",
                format!("the volume lists {bad} bad clusters: the medium is failing"),
                "copy its files to another disk",
            ))),
        }
    }

    fn bad(&self) -> u32 {
        if self.boot.wide { 0x0fff_fff7 } else { 0xfff7 }
    }

    /// The first value that ends a chain.
    pub fn end(&self) -> u32 {
        self.bad() + 1
    }

    /// What follows a cluster: 0 where it is free.
    pub fn link(&self, cluster: u32) -> u32 {
        let raw = self.fat.get(cluster as usize).copied().unwrap_or(0);
        if self.boot.wide {
            raw & 0x0fff_ffff
        } else {
            raw
        }
    }

    /// Whether the volume was not unmounted, or errors were seen.
    pub fn is_dirty(&self) -> bool {
        let clean = if self.boot.wide { 0x0c00_0000 } else { 0xc000 };
        let flags = self.boot.extended().get(1).copied().unwrap_or(0);
        self.fat[1] & clean != clean || flags & 3 != 0
    }

    /// Numbers of the clusters in use.
    pub fn in_use(&self) -> impl Iterator<Item = u32> + '_ {
        (2..self.fat.len() as u32).filter(|&c| self.link(c) != 0)
    }

    /// Every byte that is in use.
    pub fn used(&self) -> ExtentMap {
        let mut map = ExtentMap::new();
        map.insert(Extent::new(0, self.boot.data_sector() * self.boot.sector));
        for cluster in self.in_use() {
            map.insert(Extent::new(
                self.boot.place(cluster),
                self.boot.cluster_bytes(),
            ));
        }
        map
    }

    /// Everything from the root on; directories before what is in them. No cluster belongs to two.
    ///
    /// # Errors
    /// [`FsError::Corrupt`] where a chain is broken, loops or crosses another.
    pub fn nodes(&self) -> Result<Vec<Node>, FsError> {
        let mut claimed = vec![false; self.fat.len()];
        let root = match self.boot.wide {
            true => self.chain(self.boot.root_cluster, "/", &mut claimed)?,
            false => Vec::new(),
        };
        let mut nodes = vec![Node {
            path: "/".into(),
            chain: root,
            is_directory: true,
            entry: None,
        }];
        let mut at = 0;
        while at < nodes.len() {
            if nodes[at].is_directory {
                let bytes = self.content(&nodes[at])?;
                let parent = nodes[at].path.trim_end_matches('/').to_string();
                for (offset, entry) in live(&bytes) {
                    if entry.starts_with(b".") {
                        continue;
                    }
                    let path = format!("{parent}/{}", name(&bytes, offset, entry));
                    let first = first_cluster(entry, self.boot.wide);
                    let chain = match first {
                        0 => Vec::new(),
                        first => self.chain(first, &path, &mut claimed)?,
                    };
                    let is_directory = entry[11] & 0x10 != 0;
                    if is_directory && first == 0 {
                        return corrupt(format!("the directory {path} has no cluster"));
                    }
                    nodes.push(Node {
                        path,
                        chain,
                        is_directory,
                        entry: Some((at, offset)),
                    });
                }
            }
            at += 1;
        }
        Ok(nodes)
    }

    fn chain(&self, first: u32, path: &str, claimed: &mut [bool]) -> Result<Vec<u32>, FsError> {
        let (mut chain, mut at) = (Vec::new(), first);
        while at < self.end() {
            match claimed.get_mut(at as usize) {
                Some(taken) if at >= 2 && !*taken => *taken = true,
                Some(taken) if *taken => {
                    return corrupt(format!("cluster {at} of {path} is in two places"));
                }
                _ => {
                    return corrupt(format!(
                        "{path} leads to cluster {at}, which does not exist"
                    ));
                }
            }
            chain.push(at);
            at = match self.link(at) {
                0 => return corrupt(format!("cluster {at} of {path} is marked as free")),
                next => next,
            };
        }
        Ok(chain)
    }

    /// All bytes of a directory.
    ///
    /// # Errors
    /// [`FsError::Corrupt`] where it is larger than any can be.
    pub fn content(&self, node: &Node) -> Result<Vec<u8>, FsError> {
        let boot = &self.boot;
        if node.chain.is_empty() {
            let len = (boot.root_sectors * boot.sector) as usize;
            return Ok(read_vec(self.part, boot.root_sector() * boot.sector, len)?);
        }
        if node.chain.len() as u64 * boot.cluster_bytes()
            > MOST_DIRECTORY_BYTES.max(boot.cluster_bytes())
        {
            return corrupt(format!("the directory {} is too large", node.path));
        }
        let mut bytes = Vec::new();
        for &cluster in &node.chain {
            let len = boot.cluster_bytes() as usize;
            bytes.extend(read_vec(self.part, boot.place(cluster), len)?);
        }
        Ok(bytes)
    }
}

/// The entries of a directory that stand for a file or a directory, `.` and `..` too, with their
/// places.
pub fn live(bytes: &[u8]) -> impl Iterator<Item = (usize, &[u8])> {
    let entries = bytes.chunks_exact(ENTRY_BYTES).enumerate();
    entries
        .take_while(|(_, entry)| entry[0] != 0)
        .filter(|(_, entry)| entry[0] != 0xe5 && entry[11] & 0x08 == 0)
        .map(|(n, entry)| (n * ENTRY_BYTES, entry))
}

/// The first cluster that an entry names. In FAT16 the upper half means something else.
pub fn first_cluster(entry: &[u8], wide: bool) -> u32 {
    let high = if wide {
        u32::from(u16_at(entry, 20))
    } else {
        0
    };
    high << 16 | u32::from(u16_at(entry, 26))
}

/// Writes the first cluster of an entry.
pub fn set_first_cluster(entry: &mut [u8], wide: bool, cluster: u32) {
    put(entry, 26, &(cluster as u16).to_le_bytes());
    if wide {
        put(entry, 20, &((cluster >> 16) as u16).to_le_bytes());
    }
}

/// The long name that stands before an entry, or its short one, escaped.
fn name(bytes: &[u8], offset: usize, entry: &[u8]) -> String {
    let mut units = Vec::new();
    let before = bytes[..offset].rchunks_exact(ENTRY_BYTES);
    for part in before
        .take_while(|part| part[11] == 0x0f && part[0] != 0xe5)
        .take(20)
    {
        for at in [1, 3, 5, 7, 9, 14, 16, 18, 20, 22, 24, 28, 30] {
            units.push(u16_at(part, at));
        }
        if part[0] & 0x40 != 0 {
            break;
        }
    }
    units.truncate(units.iter().position(|&u| u == 0).unwrap_or(units.len()));
    if !units.is_empty() {
        return escape(&String::from_utf16_lossy(&units));
    }
    let text = |range: std::ops::Range<usize>| {
        let text: String = entry[range].iter().map(|&b| b as char).collect();
        escape(text.trim_end())
    };
    match text(8..11) {
        extension if extension.is_empty() => text(0..8),
        extension => format!("{}.{extension}", text(0..8)),
    }
}
