//! Headers and trailers, with wrong and with right checksums.
#![no_main]

use collector::format::{HEADER_LEN, Header, ObjectKind, Trailer};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    for kind in [ObjectKind::Segment, ObjectKind::Index] {
        let _ = Header::decode(kind, input);
        if let Some((head, _)) = input.split_first_chunk::<HEADER_LEN>() {
            let mut head = *head;
            let check = xxhash_rust::xxh3::xxh3_64(&head[..56]);
            head[56..].copy_from_slice(&check.to_le_bytes());
            if let Ok(header) = Header::decode(kind, &head) {
                assert_eq!(header.encode(), head);
            }
        }
        let _ = Trailer::decode(kind, input, input.len() as u64);
        if let Some((total, last)) = input.split_first_chunk::<8>()
            && let Ok(trailer) = Trailer::decode(kind, last, u64::from_le_bytes(*total))
        {
            assert_eq!(trailer.encode(kind), last);
        }
    }
});
