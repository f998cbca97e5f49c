//! Every row that is tried, and what is expected of it. README's table is printed from this list.

use super::ext::Ext4;
use super::fat::Fat16;
use super::ntfs::Ntfs;
use super::swap::Swap;
use super::system::System;
use super::xfs::Xfs;

/// Every file system. Add yours at the end, and print README's table anew.
pub const SYSTEMS: &[&dyn System] = &[&Ext4, &Swap, &Xfs, &Ntfs, &Fat16];

/// Which way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// Larger.
    Grow,
    /// Smaller.
    Shrink,
}

impl Direction {
    /// The command.
    pub fn command(self) -> &'static str {
        match self {
            Direction::Grow => "grow",
            Direction::Shrink => "shrink",
        }
    }
}

/// What a change comes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(dead_code, reason = "until a file system says no")]
pub enum Expect {
    /// It is done.
    Done,
    /// It is refused, with this code.
    Refused(&'static str),
}

/// The partition table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Table {
    /// None: the file system fills the target.
    Bare,
    /// A GPT.
    Gpt,
    /// A primary partition of an MBR.
    MbrPrimary,
    /// The last logical partition of an MBR: the extended one must grow with it.
    MbrLogical,
}

impl Table {
    /// All of them.
    pub const ALL: [Table; 4] = [
        Table::Gpt,
        Table::MbrPrimary,
        Table::MbrLogical,
        Table::Bare,
    ];

    /// For people.
    pub fn name(self) -> &'static str {
        match self {
            Table::Bare => "none",
            Table::Gpt => "GPT",
            Table::MbrPrimary => "MBR, primary",
            Table::MbrLogical => "MBR, logical",
        }
    }
}

/// Where the file system lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// The partition table.
    pub table: Table,
    /// Size of a logical sector.
    pub sector: u32,
    /// A loop device, whose partitions the kernel knows; or an image.
    pub is_device: bool,
}

/// One row: a grow and a shrink.
#[derive(Clone, Copy)]
pub struct Row {
    /// The file system.
    pub system: &'static dyn System,
    /// Where it lies.
    pub place: Place,
}

impl Row {
    /// For messages.
    pub fn name(&self) -> String {
        let Place {
            table,
            sector,
            is_device,
        } = self.place;
        let kind = if is_device { "device" } else { "image" };
        format!(
            "{} in table {}, sectors of {sector}, {kind}",
            self.system.name(),
            table.name()
        )
    }
}

fn places(table: Table) -> [Place; 4] {
    [(512, false), (512, true), (4096, false), (4096, true)].map(|(sector, is_device)| Place {
        table,
        sector,
        is_device,
    })
}

/// Every row.
pub fn rows() -> Vec<Row> {
    let mut rows = Vec::new();
    for &system in SYSTEMS {
        for place in Table::ALL.iter().flat_map(|&table| places(table)) {
            rows.push(Row { system, place });
        }
    }
    rows
}

/// What both directions come to, in one place.
fn cell(system: &dyn System, place: Place) -> String {
    let word = |direction| match system.expect(direction, place) {
        Expect::Done => "done".to_string(),
        Expect::Refused(code) => format!("`{code}`"),
    };
    let (grow, shrink) = (word(Direction::Grow), word(Direction::Shrink));
    match grow == shrink {
        true => grow,
        false => format!("grow {grow}, shrink {shrink}"),
    }
}

/// The rows as a table for people: where a code stands, that is the refusal.
pub fn table() -> String {
    let mut text = String::from(
        "| file system | table | image, 512 | device, 512 | image, 4096 | device, 4096 | packages |\n\
         |---|---|---|---|---|---|---|\n",
    );
    for &system in SYSTEMS {
        for table in Table::ALL {
            let cells = places(table).map(|place| cell(system, place)).join(" | ");
            text.push_str(&format!(
                "| {} | {} | {cells} | {} |\n",
                system.name(),
                table.name(),
                system.packages()
            ));
        }
    }
    text
}
