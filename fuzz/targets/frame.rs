//! Frames: any stored bytes under any description give the described content or an error.
#![no_main]

use collector::block::Extent;
use collector::format::{Codec, Compression, FrameHash, FrameMeta, decode_frame, encode_frame};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    let Some(([how, len, hash @ ..], stored)) = input.split_first_chunk::<18>() else { return };
    let codec = [Codec::Zero, Codec::Raw, Codec::Zstd][usize::from(how % 3)];
    let extent = Extent::new(65536, u64::from(len % 17) * 4096);
    let mut hash: [u8; 16] = *hash;
    let mut raw = vec![1; extent.length as usize];
    if how & 4 != 0 {
        // the right hash for what the bytes unpack to, if they do
        if let Ok(content) = zstd::bulk::decompress(stored, raw.len()) {
            hash = FrameHash::of(&content).0.to_be_bytes();
        }
    }
    let hash = FrameHash(u128::from_be_bytes(hash));
    let meta = FrameMeta { extent, codec, stored_len: stored.len() as u32, hash };
    if decode_frame(&meta, stored, &mut raw).is_ok() && codec != Codec::Zero {
        assert_eq!(FrameHash::of(&raw), hash);
    }
    let blocks = stored.len() / 4096 * 4096;
    if (4096..=65536).contains(&blocks) {
        let extent = Extent::new(0, blocks as u64);
        let frame = encode_frame(extent, &stored[..blocks], Compression::default()).expect("encode");
        let mut back = vec![1; blocks];
        decode_frame(&frame.meta, &frame.data, &mut back).expect("decode");
        assert_eq!(back, &stored[..blocks]);
    }
});
