//! An index too long for one chunk, one write, or memory: passes go through the medium, the object in parts.

use crate::model::{Model, info, open};
use collector::block::Extent;
use collector::chain::{Chain, Content};
use collector::format::{CELL, Codec, EncodedFrame, FrameHash, FrameMeta};
use collector::repository::{Repository, check};

/// A frame of one made-up stored byte: the index is what is looked at.
fn frame(cell: u64, pass: u8) -> EncodedFrame {
    let hash = FrameHash(FrameHash::of(&(cell << 8 | u64::from(pass)).to_le_bytes()).0);
    let extent = Extent::new(cell * CELL, 4096);
    EncodedFrame {
        meta: FrameMeta { extent, codec: Codec::Zstd, stored_len: 1, hash },
        data: vec![pass].into(),
    }
}

#[test]
fn six_hundred_thousand_frames_survive() {
    const CELLS: u64 = 600_000;
    let dir = tempfile::tempdir().unwrap();
    let repo = Repository::create(dir.path().to_str().unwrap()).unwrap();
    let model = Model::new("big", 0);
    let mut new = model.new_point(None);
    new.geometry.size = CELLS * CELL;
    let lock = repo.lock(&model.device).unwrap();
    let mut writer = repo.begin(&lock, new).unwrap();
    for cell in 0..CELLS {
        writer.add(frame(cell, 1)).unwrap();
    }
    writer.start_pass().unwrap();
    for cell in (0..CELLS).step_by(3) {
        writer.add(frame(cell, 2)).unwrap();
    }
    let manifest = writer.finish(info()).unwrap();
    assert!(manifest.index.len > 8 << 20, "the index is not long: {}", manifest.index.len);
    assert_eq!((manifest.index.pieces, manifest.totals.covered_bytes), (CELLS, CELLS * 4096));

    let repo = open(dir.path()).unwrap();
    let chain = Chain::resolve(&repo, &model.device, manifest.point).unwrap();
    let mut cells = 0;
    for (cell, piece) in chain.pieces().unwrap().enumerate() {
        let piece = piece.unwrap();
        let pass = if cell % 3 == 0 { 2 } else { 1 };
        let Content::Stored(stored) = piece.content else { panic!("cell {cell} is zero") };
        assert_eq!(stored.frame, frame(cell as u64, pass).meta);
        cells += 1;
    }
    assert_eq!(cells, CELLS);
    assert!(check(&repo, false, &mut |_, _| {}).unwrap().damages.is_empty());
}
