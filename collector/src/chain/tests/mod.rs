//! Chains against a naive model: the bytes of the device as they were at each point.

mod between;
mod keeping;
mod parity;
mod pruning;
mod rebuild;
mod rot;
mod thousand;

use super::*;
use crate::block::{Extent, ExtentSet, Granularity};
use crate::format::{
    Compression, Consistency, DeviceIdent, EncodedFrame, FrameHash, Geometry, encode_frame, is_zero,
};
use crate::repository::{FinishInfo, NewPoint, check};
use proptest::prelude::*;
use std::collections::BTreeMap;

const CELL: usize = 65536;
/// Three cells, some blocks, and a last block cut short (museum M9).
const SIZE: usize = 3 * CELL + 5 * 4096 + 512;

fn device() -> DeviceIdent {
    DeviceIdent { id: "disk".parse().unwrap(), path: "/dev/x".into(), facts: BTreeMap::new() }
}

fn new_point(parent: Option<PointId>) -> NewPoint {
    let geometry = Geometry { size: SIZE as u64, logical_block: 512, physical_block: 4096 };
    let granularity = Granularity::default();
    NewPoint { device: device(), parent, geometry, granularity, session: None, time_start: 1 }
}

fn info(time_cut: u64) -> FinishInfo {
    FinishInfo::at(time_cut, Consistency::Crash)
}

/// A write of one pass: first block, blocks, what (0 = zeros).
type Write = (usize, usize, u8);

fn content(block: usize, what: u8) -> Vec<u8> {
    let noise = what > 128;
    (0..4096)
        .map(|i| match what {
            0 => 0,
            w if noise => FrameHash::of(&[w, block as u8, i as u8, (i / 256) as u8]).0 as u8,
            w => w,
        })
        .collect()
}

/// Applies a pass to the image, and gives its frames: sorted runs inside cells.
fn apply(image: &mut [u8], pass: &[Write]) -> Vec<EncodedFrame> {
    let blocks = SIZE.div_ceil(4096);
    let mut touched = vec![false; blocks];
    for &(first, len, what) in pass {
        for (block, touched) in touched.iter_mut().enumerate().skip(first).take(len) {
            let (at, end) = (block * 4096, (block * 4096 + 4096).min(SIZE));
            image[at..end].copy_from_slice(&content(block, what)[..end - at]);
            *touched = true;
        }
    }
    let mut frames = Vec::new();
    let mut block = 0;
    while block < blocks {
        let first = block;
        while block < blocks && touched[block] && block / 16 == first / 16 {
            block += 1;
        }
        if first == block {
            block += 1;
            continue;
        }
        let (at, end) = (first * 4096, (block * 4096).min(SIZE));
        let extent = Extent::between(at as u64, end as u64);
        frames.push(encode_frame(extent, &image[at..end], Compression::default()).unwrap());
    }
    frames
}

fn restore(chain: &Chain) -> Vec<u8> {
    // what no piece covers is zero
    let mut image = vec![0; SIZE];
    let pieces: Vec<Piece> = chain.pieces().unwrap().map(Result::unwrap).collect();
    assert!(pieces.windows(2).all(|w| w[0].extent.end() <= w[1].extent.offset));
    chain
        .repository
        .read_pieces(&pieces, &mut |extent, bytes| {
            image[extent.offset as usize..extent.end() as usize].copy_from_slice(bytes);
            Ok(())
        })
        .unwrap();
    for piece in &pieces {
        let shown = &image[piece.extent.offset as usize..piece.extent.end() as usize];
        assert!(piece.whole_hash().is_none_or(|hash| hash == FrameHash::of(shown)));
        assert!(piece.content != Content::Zero || is_zero(shown));
    }
    image
}

fn pass() -> impl Strategy<Value = Vec<Write>> {
    prop::collection::vec((0usize..54, 1usize..20, prop_oneof![Just(0u8), any::<u8>()]), 0..6)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    #[test]
    fn every_point_is_the_device_as_it_was(
        points in prop::collection::vec(prop::collection::vec(pass(), 1..4), 1..6),
    ) {
        let dir = tempfile::tempdir().unwrap();
        let repo = Repository::create(dir.path().to_str().unwrap()).unwrap();
        let lock = repo.lock(&device().id).unwrap();
        let mut image = vec![0; SIZE];
        let mut made: Vec<(PointId, Vec<u8>)> = Vec::new();
        for (n, passes) in points.iter().enumerate() {
            let mut writer = repo.begin(&lock, new_point(made.last().map(|m| m.0))).unwrap();
            for (i, pass) in passes.iter().enumerate() {
                if i > 0 {
                    writer.start_pass().unwrap();
                }
                for frame in apply(&mut image, pass) {
                    writer.add(frame).unwrap();
                }
            }
            let manifest = writer.finish(info(n as u64)).unwrap();
            made.push((manifest.point, image.clone()));
        }
        for (id, shadow) in &made {
            let chain = Chain::resolve(&repo, &device().id, *id).unwrap();
            prop_assert!(restore(&chain) == *shadow, "point {} differs", id);
        }
        let listed: Vec<PointId> = repo.points().unwrap().iter().map(|p| p.id).collect();
        prop_assert_eq!(listed, made.iter().map(|m| m.0).collect::<Vec<_>>());
        let report = check(&repo, true, &mut |_, _| {}).unwrap();
        prop_assert!(report.damages.is_empty(), "{:?}", report.damages);
        prop_assert_eq!(report.unreferenced, 0);
    }
}

/// More increments than are read side by side: groups are folded on the medium.
#[test]
fn a_long_chain_is_folded_in_groups() {
    let dir = tempfile::tempdir().unwrap();
    let repo = Repository::create(dir.path().to_str().unwrap()).unwrap();
    let lock = repo.lock(&device().id).unwrap();
    let mut image = vec![0; SIZE];
    let mut parent = None;
    for n in 0..2 * SIDE_BY_SIDE + 3 {
        let mut writer = repo.begin(&lock, new_point(parent)).unwrap();
        for frame in apply(&mut image, &[(n * 7 % 53, 1 + n % 9, n as u8), (n * 5 % 53, 2, 0)]) {
            writer.add(frame).unwrap();
        }
        parent = Some(writer.finish(info(1)).unwrap().point);
    }
    let (device, last) = repo.resolve("latest", None).unwrap();
    assert_eq!(Some(last), parent);
    assert!(restore(&Chain::resolve(&repo, &device, last).unwrap()) == image);
}

/// Museum M12: A, B, A again: the third point holds the second A, not nothing.
#[test]
fn content_that_comes_back_is_kept() {
    let dir = tempfile::tempdir().unwrap();
    let repo = Repository::create(dir.path().to_str().unwrap()).unwrap();
    let lock = repo.lock(&device().id).unwrap();
    let mut image = vec![0; SIZE];
    let mut made = Vec::new();
    for what in [1u8, 2, 1] {
        let mut writer = repo.begin(&lock, new_point(made.last().map(|&(id, _)| id))).unwrap();
        for frame in apply(&mut image, &[(3, 2, what)]) {
            writer.add(frame).unwrap();
        }
        made.push((writer.finish(info(0)).unwrap().point, image.clone()));
    }
    for (id, shadow) in made {
        assert!(restore(&Chain::resolve(&repo, &device().id, id).unwrap()) == shadow);
    }
}

#[test]
fn a_writer_that_is_dropped_makes_no_point() {
    let dir = tempfile::tempdir().unwrap();
    let repo = Repository::create(dir.path().to_str().unwrap()).unwrap();
    let lock = repo.lock(&device().id).unwrap();
    let mut image = vec![0; SIZE];
    let mut writer = repo.begin(&lock, new_point(None)).unwrap();
    let frames = apply(&mut image, &[(3, 9, 1)]);
    writer.add(frames[0].clone()).unwrap();
    // out of order within a pass: our own mistake, found
    assert_eq!(writer.add(frames[0].clone()).unwrap_err().kind(), Kind::Bug);
    drop(writer);
    assert!(repo.points().unwrap().is_empty());
    assert_eq!(repo.resolve("latest", None).unwrap_err().kind(), Kind::NotFound);
}

/// `watch` lives in an async runtime: a blocking call there must work, and dropping the repository too.
#[test]
fn a_repository_works_inside_an_async_runtime() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().to_str().unwrap().to_owned();
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(async {
        let repo = Repository::create(&folder).unwrap();
        let lock = repo.lock(&device().id).unwrap();
        let mut image = vec![0; SIZE];
        let mut writer = repo.begin(&lock, new_point(None)).unwrap();
        for frame in apply(&mut image, &[(1, 40, 200)]) {
            writer.add(frame).unwrap();
        }
        let point = writer.finish(info(0)).unwrap().point;
        assert!(restore(&Chain::resolve(&repo, &device().id, point).unwrap()) == image);
    });
}

#[test]
fn a_point_needs_the_right_lock_parent_and_size() {
    let dir = tempfile::tempdir().unwrap();
    let repo = Repository::create(dir.path().to_str().unwrap()).unwrap();
    let lock = repo.lock(&device().id).unwrap();
    let full = repo.begin(&lock, new_point(None)).unwrap().finish(info(0)).unwrap();
    let kind = |lock: &_, new| repo.begin(lock, new).map(drop).unwrap_err().kind();
    assert_eq!(kind(&lock, new_point(Some(PointId::generate()))), Kind::NotFound);
    let other = repo.lock(&"other".parse().unwrap()).unwrap();
    assert_eq!(kind(&other, new_point(None)), Kind::Usage);
    let mut grown = new_point(Some(full.point));
    grown.geometry.size += 4096;
    assert_eq!(kind(&lock, grown), Kind::Usage);
    // an empty full is a device of zeros
    assert!(restore(&Chain::resolve(&repo, &device().id, full.point).unwrap()) == [0; SIZE]);
}
