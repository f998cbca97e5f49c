//! What is asked of the files of a target, read offline: nothing of it is opened for writing, and
//! nothing is mounted.

use std::sync::Arc;

use anyhow::Context;

use super::look::Look;
use super::stop::Stop;
use crate::disk::DiskRead;
use crate::fs::Driver;
use crate::overlay::Overlay;
use crate::report::{Refusal, Report};

/// The file system of a target as it is once its journal is replayed, which happens on an overlay.
pub struct Offline {
    /// The partition.
    pub part: Arc<dyn DiskRead>,
}

impl Offline {
    /// Of a target.
    ///
    /// # Errors
    /// [`Stop::Refused`] where there is no file system that can be read offline.
    pub fn of(look: &Look, report: &dyn Report) -> Result<Offline, Stop> {
        let (Some(partition), Some(volume)) = (look.partition, &look.file_system) else {
            return Err(Stop::Refused(match look.refusals.is_empty() {
                false => look.refusals.clone(),
                true => vec![Refusal::new(
                    "no-file-system",
                    format!("no file system was recognised on {}", look.shown),
                    "name the partition with --partition N",
                )],
            }));
        };
        if volume.driver.name() != "ext" {
            return Err(Stop::refused(
                "not-offline",
                format!(
                    "the files of {} cannot be read offline",
                    volume.observed.kind
                ),
                "mount it read-only and name the directory",
            ));
        }
        let part: Arc<dyn DiskRead> =
            Arc::new(look.window(partition).context("opening the partition")?);
        if !volume.observed.needs_replay {
            return Ok(Offline { part });
        }
        report.notice(
            "its journal waits for replay: this is made on an overlay, in memory of its own",
        );
        let spill = tempfile::tempfile_in("/var/tmp")
            .or_else(|_| tempfile::tempfile())
            .context("making a temporary file")?;
        let overlay = Overlay::new(part, partition.len, spill).context("making an overlay")?;
        replay(volume.driver, &overlay)?;
        Ok(Offline {
            part: Arc::new(overlay),
        })
    }
}

fn replay(driver: &dyn Driver, overlay: &Overlay) -> Result<(), Stop> {
    Ok(driver
        .replay(overlay)
        .context("replaying the journal on an overlay")?)
}
