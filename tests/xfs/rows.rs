//! What is tried, and what is expected of it. README's table is printed from this list.

/// What a grow comes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expect {
    Done,
    Refused(&'static str),
}
use Expect::{Done, Refused};

/// A shape of XFS.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    /// For people.
    pub name: &'static str,
    /// What `mkfs.xfs` is told.
    pub options: &'static str,
    /// What a grow comes to.
    pub grow: Expect,
}

const fn shape(name: &'static str, options: &'static str) -> Shape {
    Shape {
        name,
        options,
        grow: Done,
    }
}

/// As mkfs.xfs makes it.
pub const PLAIN: Shape = shape("xfs", "");

/// For disks with sectors of 4096 bytes.
const WIDE: Shape = shape("xfs", "-s size=4096");

/// Every shape but the plain one.
pub const SHAPES: &[Shape] = &[
    shape("xfs, 1 KiB blocks", "-b size=1024"),
    shape("xfs, 4 KiB sectors", "-s size=4096"),
    shape("xfs rmapbt", "-m rmapbt=1"),
    shape(
        "xfs rmapbt bigtime inobtcount nrext64",
        "-m rmapbt=1,bigtime=1,inobtcount=1 -i nrext64=1",
    ),
    shape(
        "xfs ^reflink ^finobt ^bigtime",
        "-m reflink=0,finobt=0,bigtime=0,inobtcount=0",
    ),
    shape("xfs, 64 KiB directory blocks", "-n size=65536"),
    shape("xfs, 2048-byte inodes", "-i size=2048,sparse=0"),
    shape("xfs, three groups", "-d agcount=3"),
    shape("xfs, stripes", "-d su=64k,sw=4 -l su=256k"),
    Shape {
        grow: Refused("xfs-version"),
        ..shape("xfs, version 4", "-m crc=0,finobt=0,reflink=0")
    },
];

/// Where it lies, and by which name the target is called.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    Bare,
    BareExtended,
    Gpt,
    GptExtended,
    BareDevice,
    Device,
    Node,
}

impl Place {
    pub const ALL: [Place; 7] = [
        Place::Bare,
        Place::BareExtended,
        Place::Gpt,
        Place::GptExtended,
        Place::BareDevice,
        Place::Device,
        Place::Node,
    ];

    pub fn name(self) -> &'static str {
        match self {
            Place::Bare => "bare image",
            Place::BareExtended => "bare image, `--disk-size`",
            Place::Gpt => "GPT image, `--partition N`",
            Place::GptExtended => "GPT image, `--disk-size`",
            Place::BareDevice => "bare block device",
            Place::Device => "disk, `--partition N`",
            Place::Node => "partition's device",
        }
    }

    pub fn has_table(self) -> bool {
        !matches!(self, Place::Bare | Place::BareExtended | Place::BareDevice)
    }

    pub fn is_device(self) -> bool {
        matches!(self, Place::BareDevice | Place::Device | Place::Node)
    }

    pub fn is_extended(self) -> bool {
        matches!(self, Place::BareExtended | Place::GptExtended)
    }
}

/// One row.
#[derive(Clone, Copy, Debug)]
pub struct Row {
    pub shape: Shape,
    pub place: Place,
    pub sector: u32,
}

/// Every row: the plain shape in every place with both sizes of sectors, each other shape once.
pub fn rows() -> Vec<Row> {
    let plain = Place::ALL.iter().flat_map(|&place| {
        [(PLAIN, 512), (WIDE, 4096)].map(|(shape, sector)| Row {
            shape,
            place,
            sector,
        })
    });
    let turns = [Place::Gpt, Place::Bare, Place::Node, Place::GptExtended];
    let others = SHAPES.iter().zip(turns.iter().cycle());
    plain
        .chain(others.map(|(&shape, &place)| Row {
            shape,
            place,
            sector: 512,
        }))
        .collect()
}

/// The rows as a table for people.
pub fn table() -> String {
    let mut text =
        String::from("| file system | target | sectors | grow | shrink |\n|---|---|---|---|---|\n");
    for row in rows() {
        let (grow, shrink) = match row.shape.grow {
            Done => ("done".to_string(), "refused: `xfs-no-shrink`".to_string()),
            Refused(code) => {
                let word = format!("refused: `{code}`");
                (word.clone(), word)
            }
        };
        let (name, place, sector) = (row.shape.name, row.place.name(), row.sector);
        text.push_str(&format!(
            "| {name} | {place} | {sector} | {grow} | {shrink} |\n"
        ));
    }
    text
}
