//! Footers of indexes under a trailer that fits them.
#![no_main]

use collector::format::{IndexFooter, Trailer};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    let Some((at, footer)) = input.split_first_chunk::<8>() else { return };
    let count = footer.get(8..16).map_or(0, |c| u64::from_le_bytes(c.try_into().expect("eight bytes")));
    let trailer = Trailer::of(u64::from_le_bytes(*at), footer, count);
    if let Ok(read) = IndexFooter::decode(&trailer, footer) {
        assert_eq!(read.encode().expect("what was read can be written"), footer);
    }
});
