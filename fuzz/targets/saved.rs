//! Saved maps and records, with wrong and with right checks: read or refused; what is read can be written.
#![no_main]

use collector::format::{Record, SavedMap};
use libfuzzer_sys::fuzz_target;

fn again(map: &SavedMap) {
    let bytes = map.encode().expect("what was read can be written");
    assert_eq!(&SavedMap::decode(&bytes).expect("read again"), map);
}

fuzz_target!(|input: &[u8]| {
    if let Ok(map) = SavedMap::decode(input) {
        again(&map);
    }
    // any body, packed and sealed: past the compressor and the hash
    let packed = zstd::bulk::compress(input, 1).expect("pack");
    let mut bytes = b"blkdSAV\n\x01\0\0\0\0\0\0\0\0\0\0\0".to_vec();
    bytes.extend((input.len() as u32).to_le_bytes());
    bytes.extend(packed);
    let check = blake3::hash(&bytes);
    bytes.extend(check.as_bytes());
    if let Ok(map) = SavedMap::decode(&bytes) {
        again(&map);
    }
    let mut sealed = format!("{{\"check\":\"{}\"", "0".repeat(64)).into_bytes();
    sealed.extend_from_slice(input);
    sealed.extend_from_slice(b"}\n");
    let check = blake3::hash(&sealed).to_hex();
    sealed[10..74].copy_from_slice(check.as_bytes());
    if let Ok(record) = Record::decode(&sealed) {
        let again = record.encode().expect("what was read can be written");
        assert_eq!(Record::decode(&again).expect("read again"), record);
    }
});
