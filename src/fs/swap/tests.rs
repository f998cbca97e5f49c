use super::header::{FIELDS_BYTES, VERSION_AT};
use super::*;
use crate::disk::MemoryDisk;
use crate::report::Quiet;

const ID: TransactionId = TransactionId([0xab; 16]);

/// Swap space of `pages` pages on a disk with `spare` more, with something in every page.
fn space(page_bytes: usize, pages: u32, spare: usize) -> Vec<u8> {
    let mut bytes = vec![0x5a; page_bytes * (pages as usize + spare)];
    bytes[..page_bytes].fill(0);
    bytes[1024..1028].copy_from_slice(&1u32.to_ne_bytes());
    bytes[1028..1032].copy_from_slice(&(pages - 1).to_ne_bytes());
    bytes[1036..1052].copy_from_slice(&[7; 16]);
    bytes[1052..1057].copy_from_slice(b"space");
    bytes[page_bytes - 10..page_bytes].copy_from_slice(b"SWAPSPACE2");
    bytes
}

fn codes(bytes: Vec<u8>) -> Vec<String> {
    let disk = MemoryDisk::fixed(bytes);
    match Swap.probe(&disk) {
        Ok(None) => vec!["nothing".into()],
        Ok(Some(_)) => {
            let found = Swap.refusals(&disk, Direction::Grow).unwrap();
            found.into_iter().map(|r| r.code).collect()
        }
        Err(FsError::Unsupported(refusal)) => vec![refusal.code],
        Err(e) => panic!("{e}"),
    }
}

#[test]
fn every_size_of_page_is_read_and_resized() {
    for page in [4096, 8192, 16384, 32768, 65536] {
        let disk = MemoryDisk::fixed(space(page, 12, 8));
        let before = disk.content();
        let seen = Swap.probe(&disk).unwrap().unwrap();
        let page_bytes = page as u64;
        assert_eq!(seen.block_bytes, page_bytes);
        assert_eq!(seen.size_bytes, 12 * page_bytes);
        assert_eq!(seen.uuid, "07070707-0707-0707-0707-070707070707");
        assert_eq!(seen.label, "space");
        for pages in [20, 10] {
            assert!(Swap.resize_own(&disk, pages * page_bytes, &Quiet).unwrap());
            assert_eq!(u64::from(fields_of(&disk).last_page), pages - 1);
            let old = MemoryDisk::fixed(before.clone());
            let changed: ExtentMap = [Extent::new(0, 4096)].into_iter().collect();
            let found = Swap.compare(&old, &disk, &changed, 9, &Quiet).unwrap();
            assert_eq!(found, []);
        }
    }
}

#[test]
fn what_is_no_swap_space_of_ours_is_refused_by_name() {
    let put = |at: usize, what: &[u8]| {
        let mut bytes = space(4096, 12, 0);
        bytes[at..at + what.len()].copy_from_slice(what);
        codes(bytes)
    };
    assert_eq!(put(0, b""), [""; 0]);
    assert_eq!(put(4086, b"SWAP-SPACE"), ["swap-old"]);
    assert_eq!(
        put(1024, &1u32.swap_bytes().to_ne_bytes()),
        ["swap-foreign"]
    );
    assert_eq!(put(1032, &[1]), ["swap-bad-pages"]);
    assert_eq!(
        put(1028, &12u32.to_ne_bytes()),
        ["swap-larger-than-partition"]
    );
    // No pages, another version, no magic.
    assert_eq!(put(1028, &[0; 4]), ["nothing"]);
    assert_eq!(put(1024, &[2]), ["nothing"]);
    assert_eq!(put(4086, b"X"), ["nothing"]);
    for name in [&b"S1SUSPEND"[..], b"S2SUSPEND", b"ULSUSPEND", b"LINHIB0001"] {
        assert_eq!(put(4086, name), ["swap-hibernated"], "{name:?}");
    }
    let ice = b"\xed\xc3\x02\xe9\x98\x56\xe5\x0c";
    assert_eq!(put(0, ice), ["swap-hibernated"]);
    assert_eq!(put(4086, ice), ["swap-hibernated"]);
}

#[test]
fn a_gate_is_in_one_sector_and_names_its_transaction() {
    let disk = MemoryDisk::fixed(space(4096, 12, 0));
    let fields = read_fields(&disk).unwrap();
    assert_eq!(fields.len(), FIELDS_BYTES);
    assert_eq!(Swap.gate(&fields), GateState::Open);
    let closed = Swap.close_gate(&fields, ID).unwrap();
    assert_eq!(closed.len(), FIELDS_BYTES);
    assert_eq!(Swap.gate(&closed), GateState::Closed(ID));
    assert!(Swap.close_gate(&closed, ID).is_err(), "it stands already");
    // Neither half of it is a gate, nor opens anything.
    let mut half = closed.clone();
    half[VERSION_AT..VERSION_AT + 4].fill(9);
    assert_eq!(Swap.gate(&half), GateState::Invalid);
    let mut half = closed.clone();
    half[60] = b'x';
    assert_eq!(Swap.gate(&half), GateState::Invalid);
    assert_eq!(Swap.gate(&closed[..100]), GateState::Invalid);
    disk.write_at(FIELDS.start, &closed).unwrap();
    assert_eq!(Swap.probe(&disk).unwrap().unwrap().gate, Some(ID));
    let found = Swap.refusals(&disk, Direction::Grow).unwrap();
    assert_eq!(found[0].code, "swap-gated");
}

#[test]
fn whatever_else_is_changed_is_found() {
    let before = MemoryDisk::fixed(space(4096, 12, 4));
    let whole: ExtentMap = [Extent::new(0, 4096)].into_iter().collect();
    // Boot area, version, bad pages, UUID, label, padding, list, magic.
    for at in [0, 1024, 1032, 1036, 1052, 1100, 1600, 4095] {
        let mut bytes = before.content();
        bytes[at] ^= 1;
        let after = MemoryDisk::fixed(bytes);
        let found = compare(&before, &after, &whole, 9).unwrap();
        assert_eq!(found.len(), 1, "byte {at}: {found:?}");
    }
    let beyond: ExtentMap = [Extent::new(8192, 4096)].into_iter().collect();
    assert_eq!(compare(&before, &before, &beyond, 9).unwrap().len(), 1);
}

#[test]
fn no_bytes_make_it_panic() {
    let mut seed = 0x2545_f491_4f6c_dd1du64;
    let mut next = || {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        seed
    };
    for round in 0..3000 {
        let mut bytes = space(4096, 12, 0);
        for _ in 0..next() % 8 {
            let at =
                [next() % 49_152, 1024 + next() % 64, 4080 + next() % 16][(next() % 3) as usize];
            bytes[at as usize] = next() as u8;
        }
        bytes.truncate((next() % 60_000) as usize);
        let disk = MemoryDisk::fixed(bytes);
        if let Ok(Some(seen)) = Swap.probe(&disk) {
            assert!(seen.size_bytes > 0, "round {round}");
            let _ = Swap.refusals(&disk, Direction::Shrink);
            let _ = Swap.bounds(&disk);
            let _ = Swap.fit(&disk, next());
            let _ = Swap.used(&disk, &Quiet);
        }
    }
}
