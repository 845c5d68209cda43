//! Catalogues of files: roots and pages under hashes that fit them.
#![no_main]

use collector::format::{
    CATALOGUE_HEADER, FrameHash, NodeId, NodeKind, PAGES_AT, PageRef, Root, THROUGH_AT, decode_page,
};
use libfuzzer_sys::fuzz_target;

fn root(body: &[u8]) {
    let mut header = b"BLKDFILE\x01\0\0\0\0\0\0\0".to_vec();
    header.extend_from_slice(&(body.len() as u64).to_le_bytes());
    header.extend_from_slice(blake3::hash(body).as_bytes());
    header.resize(CATALOGUE_HEADER, 0);
    let Ok(root) = Root::decode(&header, body) else { return };
    assert!(root.pages.iter().all(|page| page.at >= PAGES_AT && page.at < THROUGH_AT));
    assert!(root.encode().is_ok());
}

/// A number as postcard writes it, and what follows.
fn varint(bytes: &[u8]) -> Option<(u64, &[u8])> {
    let end = bytes.iter().take(10).position(|byte| byte & 0x80 == 0)?;
    let (number, rest) = bytes.split_at(end + 1);
    let bits = number.iter().enumerate().map(|(n, byte)| u64::from(byte & 0x7f).checked_shl(7 * n as u32));
    Some((bits.fold(0, |all, bits| all | bits.unwrap_or(0)), rest))
}

fn page(bytes: &[u8]) -> Option<()> {
    // a page says how many nodes it has, and the first of them says which it is
    let (nodes, rest) = varint(bytes)?;
    let (volume, rest) = varint(rest)?;
    let (inode, _) = varint(rest)?;
    let first = NodeId { volume: u32::try_from(volume).ok()?, inode };
    let (length, nodes) = (u32::try_from(bytes.len()).ok()?, u32::try_from(nodes).ok()?);
    let read =
        decode_page(&PageRef { first, at: PAGES_AT, length, nodes, hash: FrameHash::of(bytes).0 }, bytes);
    for node in read.ok()? {
        assert!(node.names.iter().all(|link| !link.name.0.is_empty() && !link.name.0.contains(&b'/')));
        assert!(node.parts.is_empty() || node.kind == NodeKind::File);
        assert!(node.parts.iter().all(|part| part.at + part.length <= node.size));
    }
    Some(())
}

fuzz_target!(|input: &[u8]| {
    if let Some((header, body)) = input.split_first_chunk::<CATALOGUE_HEADER>() {
        let _ = Root::decode(header, body);
    }
    root(input);
    page(input);
});
