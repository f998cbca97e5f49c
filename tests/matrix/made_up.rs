//! Rows made up from a seed.

use super::rows::{PLAIN, Place, Row, Shape, Sizes};
use super::shape::Random;

/// Row number `seed`. Its name has everything that it takes to make it again.
pub fn row(seed: u64) -> Row {
    let mut random = Random::new(seed);
    for _ in 0..8 {
        random.next();
    }
    let block = [1024u32, 2048, 4096][random.below(3) as usize];
    let options = options(&mut random, block);
    let now = 26 + random.below(20);
    let most = now + 4 + random.below(60);
    let less = now - 4 - random.below(8);
    let sizes = Sizes {
        now,
        most,
        more: now + 3 + random.below(most - now - 3),
        less,
        little_less: less + random.below(now - less - 2),
    };
    let sector = if random.below(3) == 0 { 4096 } else { 512 };
    let places: Vec<Place> = Place::ALL
        .into_iter()
        // The kernel does not mount blocks that are smaller than a sector.
        .filter(|place| sector <= block || !place.is_device())
        .collect();
    let name = format!("seed {seed}, {sizes:?}");
    Row {
        shape: Shape {
            name: name.leak(),
            options: options.leak(),
            block,
            sizes,
            made_up: true,
            ..PLAIN
        },
        place: places[random.below(places.len() as u64) as usize],
        sector,
    }
}

fn options(random: &mut Random, block: u32) -> String {
    let kind = ["ext2", "ext3", "ext4", "ext4", "ext4", "ext4"][random.below(6) as usize];
    let mut features: Vec<&str> = Vec::new();
    let mut maybe = |random: &mut Random, one_in: u64, feature: &'static str| {
        let chosen = random.below(one_in) == 0;
        if chosen {
            features.push(feature);
        }
        chosen
    };
    let meta = maybe(random, 5, "meta_bg,^resize_inode");
    if !meta {
        maybe(random, 5, "^resize_inode");
    }
    maybe(random, 8, "^sparse_super,^resize_inode");
    maybe(random, 8, "^dir_index");
    maybe(random, 8, "^filetype");
    if kind == "ext4" {
        maybe(random, 4, "^64bit");
        if !maybe(random, 5, "^metadata_csum,uninit_bg") && !maybe(random, 6, "^metadata_csum") {
            maybe(random, 6, "metadata_csum_seed");
        }
        maybe(random, 4, "^flex_bg");
        maybe(random, 3, "inline_data");
        maybe(random, 6, "ea_inode");
        maybe(random, 6, "large_dir");
        maybe(random, 6, "^has_journal");
        maybe(random, 6, "encrypt,verity");
        maybe(random, 8, "^huge_file,^dir_nlink");
    }
    let inode = [128u32, 256, 256, 256, 512][random.below(5) as usize];
    // Without room in the inode there is no inline data.
    let inode = if features.contains(&"inline_data") {
        inode.max(256)
    } else {
        inode
    };
    let group_kib = [1024, 2048, 4096, 8192][random.below(4) as usize];
    let per_group = (group_kib * 1024 / block).min(block * 8);
    let flex = [1, 2, 4, 16][random.below(4) as usize];
    let flex = match kind == "ext4" && !features.contains(&"^flex_bg") {
        true => format!(" -G {flex}"),
        false => String::new(),
    };
    let list = match features.is_empty() {
        true => String::new(),
        false => format!(" -O {}", features.join(",")),
    };
    format!("-t {kind} -I {inode} -g {per_group} -N 3000{flex}{list}")
}
