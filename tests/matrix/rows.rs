//! The matrix: every row that is tried, and what is expected of it. README's table is printed from
//! this list.

/// What a change comes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expect {
    /// It is done.
    Done,
    /// It is refused, with this code.
    Refused(&'static str),
    /// The rehearsal finds out that it cannot be done well, and says so with this code.
    Rejected(&'static str),
}
use Expect::{Done, Refused, Rejected};

/// A shape of file system.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    /// For people.
    pub name: &'static str,
    /// What `mke2fs` is told besides.
    pub options: &'static str,
    /// Features that it gets when it is full: many a kernel does not write to a file system that
    /// has them.
    pub added: &'static str,
    /// Size of a block.
    pub block: u32,
    /// Sizes in MiB.
    pub sizes: Sizes,
    /// Made up: nobody knows whether a shrink moves much, nor how the last group comes out.
    pub made_up: bool,
    /// What a grow comes to.
    pub grow: Expect,
    /// What a shrink comes to.
    pub shrink: Expect,
}

/// Sizes in MiB.
#[derive(Clone, Copy, Debug)]
pub struct Sizes {
    /// At first.
    pub now: u64,
    /// With all the room that there is.
    pub most: u64,
    /// Another larger one, in the middle of a group.
    pub more: u64,
    /// A smaller one.
    pub less: u64,
    /// Another smaller one.
    pub little_less: u64,
}

const USUAL: Sizes = Sizes {
    now: 32,
    most: 57,
    more: 45,
    less: 21,
    little_less: 23,
};
/// Groups of clusters are larger.
const CLUSTERS: Sizes = Sizes {
    now: 72,
    most: 121,
    more: 99,
    less: 43,
    little_less: 58,
};

const fn shape(name: &'static str, block: u32, options: &'static str) -> Shape {
    Shape {
        name,
        options,
        added: "",
        block,
        sizes: USUAL,
        made_up: false,
        grow: Done,
        shrink: Done,
    }
}

const fn clusters(name: &'static str, block: u32, options: &'static str) -> Shape {
    Shape {
        sizes: CLUSTERS,
        ..shape(name, block, options)
    }
}

const fn only_grows(shape: Shape, code: &'static str) -> Shape {
    Shape {
        shrink: Refused(code),
        ..shape
    }
}

const fn refused(shape: Shape, code: &'static str) -> Shape {
    Shape {
        grow: Refused(code),
        ..only_grows(shape, code)
    }
}

/// The ordinary file system, which is tried in every place.
pub const PLAIN: Shape = shape("ext4", 4096, "-t ext4 -g 1024");

/// Every shape. Small groups make a small image have many.
pub const SHAPES: &[Shape] = &[
    PLAIN,
    shape("ext4", 2048, "-t ext4 -g 2048"),
    shape("ext4", 1024, "-t ext4"),
    shape("ext2", 1024, "-t ext2"),
    shape("ext2", 4096, "-t ext2 -g 1024"),
    shape("ext2, revision 0", 1024, "-t ext2 -r 0 -O none"),
    shape("ext3", 1024, "-t ext3"),
    shape("ext3", 2048, "-t ext3 -g 2048"),
    shape("ext3, 128-byte inodes", 4096, "-t ext3 -g 1024 -I 128"),
    shape("ext4, 128-byte inodes", 4096, "-t ext4 -g 1024 -I 128"),
    shape(
        "ext4, 1024-byte inodes",
        4096,
        "-t ext4 -g 1024 -I 1024 -N 2200",
    ),
    shape("ext4 ^64bit", 4096, "-t ext4 -g 1024 -O ^64bit"),
    shape(
        "ext4 ^metadata_csum",
        4096,
        "-t ext4 -g 1024 -O ^metadata_csum",
    ),
    shape(
        "ext4 ^metadata_csum uninit_bg ^64bit",
        1024,
        "-t ext4 -O ^metadata_csum,uninit_bg,^64bit",
    ),
    shape(
        "ext4 ^resize_inode",
        4096,
        "-t ext4 -g 1024 -O ^resize_inode",
    ),
    shape("ext4 ^flex_bg", 2048, "-t ext4 -g 2048 -O ^flex_bg"),
    shape("ext4 ^has_journal", 4096, "-t ext4 -g 1024 -O ^has_journal"),
    shape(
        "ext4 ^extent ^64bit",
        1024,
        "-t ext4 -O ^extent,^64bit,^metadata_csum",
    ),
    shape(
        "ext4 ^sparse_super ^resize_inode",
        4096,
        "-t ext4 -g 1024 -O ^sparse_super,^resize_inode",
    ),
    shape(
        "ext4 ea_inode large_dir metadata_csum_seed",
        4096,
        "-t ext4 -g 1024 -O ea_inode,large_dir,metadata_csum_seed",
    ),
    shape("ext4 orphan_file", 4096, "-t ext4 -g 1024 -O orphan_file"),
    shape("ext4 fast_commit", 4096, "-t ext4 -g 1024 -O fast_commit"),
    shape(
        "ext4 encrypt verity",
        4096,
        "-t ext4 -g 1024 -O encrypt,verity",
    ),
    Shape {
        added: "quota,project",
        // resize2fs does not count what the maps of moved files take more, and e2fsck says so.
        shrink: Rejected("result-not-clean"),
        ..shape("ext4 quota project", 4096, "-t ext4 -g 1024")
    },
    only_grows(
        shape(
            "ext4 stable_inodes",
            4096,
            "-t ext4 -g 1024 -O stable_inodes",
        ),
        "ext-stable-inodes",
    ),
    shape("ext4 meta_bg", 1024, "-t ext4 -O meta_bg,^resize_inode"),
    shape(
        "ext2 meta_bg",
        4096,
        "-t ext2 -g 1024 -O meta_bg,^resize_inode",
    ),
    refused(
        shape("ext4 sparse_super2", 1024, "-t ext4 -O sparse_super2"),
        "ext-sparse-super2",
    ),
    refused(
        shape(
            "ext4 sparse_super2, one backup",
            4096,
            "-t ext4 -g 1024 -O sparse_super2 -E num_backup_sb=1",
        ),
        "ext-sparse-super2",
    ),
    shape("ext4 inline_data", 4096, "-t ext4 -g 1024 -O inline_data"),
    shape(
        "ext4 inline_data, 1024-byte inodes",
        2048,
        "-t ext4 -g 2048 -I 1024 -N 2200 -O inline_data",
    ),
    refused(
        clusters(
            "ext4 bigalloc, 16 KiB",
            4096,
            "-t ext4 -O bigalloc -C 16384 -g 1024",
        ),
        "ext-bigalloc",
    ),
    refused(
        clusters(
            "ext4 bigalloc, 4 KiB",
            1024,
            "-t ext4 -O bigalloc -C 4096 -g 4096",
        ),
        "ext-bigalloc",
    ),
];

/// Where the file system lies, and by which name the target is called.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// An image that is a file system, with room behind it.
    Bare,
    /// The same without room: the image is extended.
    BareExtended,
    /// An image of a disk, a neighbour before, and behind a gap another.
    Gpt,
    /// An image of a disk that is full: the image is extended, the backup table moves.
    GptExtended,
    /// A block device that is a file system.
    BareDevice,
    /// A block device of whose partitions the kernel knows nothing.
    Device,
    /// A block device of whose partitions the kernel knows.
    DeviceKnown,
    /// The partition's own node.
    Node,
    /// A block device that was enlarged: its backup table is not at its end.
    DeviceEnlarged,
}

impl Place {
    /// All of them.
    pub const ALL: [Place; 9] = [
        Place::Bare,
        Place::BareExtended,
        Place::Gpt,
        Place::GptExtended,
        Place::BareDevice,
        Place::Device,
        Place::DeviceKnown,
        Place::Node,
        Place::DeviceEnlarged,
    ];

    /// For people.
    pub fn name(self) -> &'static str {
        match self {
            Place::Bare => "bare image",
            Place::BareExtended => "bare image, `--disk-size`",
            Place::Gpt => "GPT image, `--partition N`",
            Place::GptExtended => "GPT image, `--disk-size`",
            Place::BareDevice => "bare block device",
            Place::Device => "disk, `--partition N`, kernel without partitions",
            Place::DeviceKnown => "disk, `--partition N`",
            Place::Node => "partition's device",
            Place::DeviceEnlarged => "enlarged disk, backup GPT not at the end",
        }
    }

    /// Whether there is a table.
    pub fn has_table(self) -> bool {
        !matches!(self, Place::Bare | Place::BareExtended | Place::BareDevice)
    }

    /// Whether it is a block device.
    pub fn is_device(self) -> bool {
        !matches!(
            self,
            Place::Bare | Place::BareExtended | Place::Gpt | Place::GptExtended
        )
    }

    /// Whether the kernel knows the partition.
    pub fn is_known(self) -> bool {
        matches!(
            self,
            Place::DeviceKnown | Place::Node | Place::DeviceEnlarged
        )
    }

    /// Whether the image gets longer in a grow.
    pub fn is_extended(self) -> bool {
        matches!(self, Place::BareExtended | Place::GptExtended)
    }
}

/// One row.
#[derive(Clone, Copy, Debug)]
pub struct Row {
    /// The file system.
    pub shape: Shape,
    /// Where it lies.
    pub place: Place,
    /// Logical sector size of the disk.
    pub sector: u32,
}

impl Row {
    /// For messages.
    pub fn name(&self) -> String {
        format!(
            "{} ({}) with blocks of {}, {}, sectors of {}",
            self.shape.name,
            self.shape.options,
            self.shape.block,
            self.place.name(),
            self.sector
        )
    }
}

/// Every row: each shape once, and the plain one in every place with both sizes of sectors.
pub fn rows() -> Vec<Row> {
    let row = |shape, place, sector| Row {
        shape,
        place,
        sector,
    };
    let mut rows: Vec<Row> = Place::ALL
        .iter()
        .flat_map(|&place| [512, 4096].map(|sector| row(PLAIN, place, sector)))
        .collect();
    // The shapes take turns in the places where neither the kernel's partitions nor its limits on
    // small blocks matter.
    let turns = [
        (Place::Gpt, 512),
        (Place::Bare, 512),
        (Place::Gpt, 4096),
        (Place::Node, 512),
        (Place::GptExtended, 512),
    ];
    let others = SHAPES.iter().skip(1).zip(turns.iter().cycle());
    rows.extend(others.map(|(&shape, &(place, sector))| row(shape, place, sector)));
    rows
}

/// The rows as a table for people.
pub fn table() -> String {
    let word = |expect: Expect| match expect {
        Done => "done".to_string(),
        Refused(code) => format!("refused: `{code}`"),
        Rejected(code) => format!("rejected: `{code}`"),
    };
    let mut text = String::from(
        "| file system | blocks | target | sectors | grow | shrink |\n|---|---|---|---|---|---|\n",
    );
    for Row {
        shape,
        place,
        sector,
    } in rows()
    {
        text.push_str(&format!(
            "| {} | {} KiB | {} | {sector} | {} | {} |\n",
            shape.name,
            shape.block / 1024,
            place.name(),
            word(shape.grow),
            word(shape.shrink)
        ));
    }
    text
}
