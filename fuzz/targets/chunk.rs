//! Chunks of pieces: any columns, packed, are read or refused; what is read is written and read again the same.
#![no_main]

use collector::format::{decode_chunk, encode_chunk};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    let Some((count, columns)) = input.split_first_chunk() else { return };
    let count = u16::from_le_bytes(*count);
    let _ = decode_chunk(columns, count.into());
    let packed = zstd::bulk::compress(columns, 1).expect("pack");
    if let Ok(pieces) = decode_chunk(&packed, count.into()) {
        let again = encode_chunk(&pieces).expect("what was read can be written");
        assert_eq!(decode_chunk(&again, count.into()).expect("read again"), pieces);
    }
});
