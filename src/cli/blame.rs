//! `holdfast blame`.

use std::io::Read;
use std::path::PathBuf;

use anyhow::Context;
use clap::Args;

use super::answer::{Answer, Outcome};
use super::args::TargetArgs;
use crate::transaction::blame::{Spot, blame, spot, spots};
use crate::transaction::{Asked, Look, Stop};
use crate::units::Bytes;

/// A file with places is never larger.
const MAX_TEXT_BYTES: u64 = 64 << 20;
/// Ranges of a file that are printed.
const RANGES: usize = 4;

/// Options of `blame`.
#[derive(Clone, Debug, Args)]
pub struct BlameArgs {
    /// The target.
    #[command(flatten)]
    pub target: TargetArgs,
    /// Places on the disk: START+LEN or START..END in bytes, 2048s or 2048s+8 in sectors
    #[arg(value_name = "EXTENT", value_parser = spot, required_unless_present = "from")]
    pub extents: Vec<Spot>,
    /// Places in a file, or `-`: a kernel log, or what verify --json, badblocks or smartctl printed
    #[arg(long, value_name = "FILE")]
    pub from: Option<PathBuf>,
    /// The size of the blocks that badblocks counted in, from the start of the partition
    #[arg(long, value_name = "BYTES", default_value_t = 1024,
          value_parser = clap::value_parser!(u64).range(512..=65536))]
    pub block_size: u64,
}

/// Runs it.
pub fn run(args: &BlameArgs) -> Result<Answer, Stop> {
    let mut places = args.extents.clone();
    if let Some(from) = &args.from {
        let mut text = Vec::new();
        let reading = || format!("reading {}", from.display());
        let input: Box<dyn Read> = match from.as_os_str() == "-" {
            true => Box::new(std::io::stdin().lock()),
            false => Box::new(std::fs::File::open(from).with_context(reading)?),
        };
        input
            .take(MAX_TEXT_BYTES)
            .read_to_end(&mut text)
            .with_context(reading)?;
        let found = spots(&String::from_utf8_lossy(&text));
        if found.is_empty() && places.is_empty() {
            return Ok(Answer::new(Outcome::NoChange, "no place is named there\n"));
        }
        places.extend(found);
    }
    let look = Look::at(&Asked {
        target: args.target.target.clone(),
        partition: args.target.partition,
        sector_bytes: args
            .target
            .sector_size
            .as_ref()
            .and_then(|s| s.parse().ok()),
    })?;
    let found = blame(&look, &places, args.block_size)?;
    let mut text = String::new();
    for owner in &found.owners {
        text.push_str(&owner.name);
        let mut said: Vec<String> = (owner.ranges.iter().take(RANGES))
            .map(|range| format!("bytes {} to {}", range.start, range.end()))
            .collect();
        if owner.ranges.len() > RANGES {
            said.push(format!("and {} more ranges", owner.ranges.len() - RANGES));
        }
        if owner.map {
            said.push("its map or its attributes".into());
        }
        if !said.is_empty() {
            text.push_str(&format!(": {}", said.join(", ")));
        }
        text.push('\n');
    }
    if found.more {
        text.push_str("and more\n");
    }
    if found.outside_bytes > 0 {
        let outside = Bytes(found.outside_bytes);
        text.push_str(&format!("{outside} are outside the partition\n"));
    }
    Ok(Answer::new(Outcome::Done, text)
        .on(look.shown.clone())
        .with("blame", &found))
}
