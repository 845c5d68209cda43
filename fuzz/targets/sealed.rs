//! Sealed bytes and the records before them: opened to what was sealed, or refused; never a panic.
#![no_main]

use collector::block::Extent;
use collector::format::{Codec, FrameHash, FrameMeta, RepositoryId, SegmentId, SegmentTable};
use collector::format::{Manifest, decode_sessions, open_frame};
use collector::seal::{FrameKey, Keys, Part, PrivateKey, Secret};
use libfuzzer_sys::fuzz_target;
use std::sync::LazyLock;

const REPOSITORY: [u8; 16] = [7; 16];

static KEYS: LazyLock<Keys> = LazyLock::new(|| {
    let master = PrivateKey::from_secret(Secret::from_bytes([3; 32]));
    Keys::owner(REPOSITORY, vec![master]).expect("keys")
});
static FRAME: LazyLock<FrameKey> = LazyLock::new(|| {
    let session = KEYS.session([9; 16]).expect("session");
    KEYS.frame_key(&session.record()).expect("frame key")
});

fuzz_target!(|input: &[u8]| {
    let cover = KEYS.metadata().cover("idx/a/b");
    let _ = cover.open(Part::Chunk(1), input);
    let sealed = cover.seal(Part::Footer, input).expect("seal");
    assert_eq!(cover.open(Part::Footer, &sealed).expect("open"), input);
    assert!(cover.open(Part::Body, &sealed).is_err());
    if let Ok(Ok(records)) = decode_sessions(input) {
        for record in records.iter().take(4) {
            // nothing the fuzzer makes was sealed to this key
            assert!(KEYS.frame_key(record).is_err());
        }
    }
    let id = SegmentId::from_bytes([9; 16]);
    let _ = SegmentTable::decode_with(Some(&KEYS), RepositoryId::from_bytes(REPOSITORY), id, input);
    let _ = Manifest::decode_in(input, Some(cover));
    let meta = FrameMeta {
        extent: Extent::new(0, 4096),
        codec: Codec::Zstd,
        stored_len: input.len() as u32,
        hash: FrameHash(0),
    };
    let (mut buf, mut raw) = (Vec::new(), vec![0; 4096]);
    assert!(open_frame(&meta, input, &FRAME, &mut buf, &mut raw).is_err());
});
