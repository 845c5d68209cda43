//! Format version 1 as it was written on its first day: every later program must read it.
//!
//! `tests/fixtures/repo-v1` is explained in docs/FORMAT.md and never written again. A new format version gets a
//! folder of its own.

use crate::model::{Model, What, open, restore};
use collector::format::PointKind;
use collector::repository::{Repository, check};
use std::path::PathBuf;

fn folder() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures/repo-v1")
}

type Pass = &'static [(usize, usize, What)];

/// What the fixture's three points hold, as passes of writes.
const POINTS: [&[Pass]; 3] = [
    &[
        &[(0, 2, What::Same(b'a')), (16, 1, What::Noise(1)), (33, 1, What::Same(b'z'))],
        &[(1, 1, What::Same(b'b'))],
    ],
    &[&[(0, 1, What::Zero), (17, 1, What::Noise(2))]],
    &[&[(16, 1, What::Zero), (32, 1, What::Same(b'c'))]],
];

/// Two cells, a block, and a last block of 512 bytes.
const SIZE: usize = 2 * 65536 + 4096 + 512;

#[test]
fn version_one_is_read() {
    let repo = open(&folder()).unwrap();
    let points = repo.points().unwrap();
    assert_eq!(points.len(), POINTS.len());
    let mut model = Model::new("golden", SIZE);
    for (entry, passes) in points.iter().zip(POINTS) {
        for &(first, blocks, what) in passes.iter().copied().flatten() {
            model.write(first, blocks, what);
        }
        let manifest = entry.manifest().unwrap();
        assert_eq!(manifest.kind == PointKind::Full, manifest.parent.is_none());
        assert!(restore(&repo, &entry.device, entry.id).unwrap() == model.image, "point {}", entry.id);
    }
    let report = check(&repo, true, &mut |_, _| {}).unwrap();
    assert!(report.damages.is_empty(), "{:?}", report.damages);
}

/// How the fixture was made; refuses to make it again.
#[test]
#[ignore = "writes tests/fixtures/repo-v1; run once per format version"]
fn write_fixture() {
    let repo = Repository::create(folder().to_str().unwrap()).unwrap();
    let mut model = Model::new("golden", SIZE);
    let mut parent = None;
    for passes in POINTS {
        parent = Some(model.back_up(&repo, parent, passes).unwrap().point);
    }
}
