//! Rot that nobody noticed, at the moment when what would make it good is about to go.

#![expect(clippy::disallowed_methods, reason = "damages files on purpose")]

use super::pruning::{DAY, Made};
use super::*;
use crate::chain::{Limits, Policy, compact, prune, repair};
use std::path::PathBuf;
use std::time::Duration;

/// Turns over a bit of a map's first chunk, which nobody reads to open it, and removes its spare.
fn rot(made: &Made, point: PointId, number: u32) -> PathBuf {
    let root = made.repo.local_path().unwrap();
    let map = root.join(format!("map/disk/{point}/{number}"));
    let mut bytes = std::fs::read(&map).unwrap();
    bytes[70] ^= 1;
    std::fs::write(&map, bytes).unwrap();
    std::fs::remove_dir_all(root.join(format!("spare/disk/{point}"))).unwrap();
    map
}

/// The parents of a point with a map go: its map is read to the last byte first.
#[test]
fn a_map_that_rotted_keeps_what_it_was_made_of() {
    let mut made = Made::new();
    made.add(true, &[vec![(0, 53, 150)]]);
    made.add(false, &[vec![(3, 9, 7)]]);
    made.add(false, &[vec![(8, 9, 8)]]);
    made.prune(1, DAY);
    let before = made.objects("seg");
    rot(&made, made.points[2].0, 1);
    let policy = Policy { last: 1, ..Policy::default() };
    let refused = prune(&made.repo, &device().id, &policy, Duration::ZERO, false).unwrap_err();
    assert!(refused.kind() == Kind::Damaged && refused.advice().unwrap().contains("repair"), "{refused:?}");
    assert_eq!((made.objects("bak"), made.objects("seg")), (3, before));
    let done = repair(&made.repo, false, &mut |_, _, _| {}).unwrap();
    assert!(done.lost.is_empty() && done.set_aside.len() == 1, "{done:?}");
    made.hold();
    made.prune(1, Duration::ZERO);
    made.hold();
    assert_eq!(made.objects("bak"), 1);
}

/// The same for what a compaction moved away from.
#[test]
fn a_map_that_rotted_keeps_what_was_moved() {
    let mut made = Made::new();
    made.add(true, &[vec![(0, 53, 150)]]);
    made.add(false, &[vec![(0, 14, 7), (18, 30, 160)]]);
    made.add(false, &[vec![(3, 2, 9)]]);
    made.prune(1, Duration::ZERO);
    assert!(made.compact(0.3, DAY, u64::MAX).segments > 0);
    let (segments, maps) = (made.objects("seg"), made.objects("map"));
    rot(&made, made.points[2].0, 2);
    let limits = Limits { dead: 0.3, max_bytes: u64::MAX, bandwidth: None, grace: Duration::ZERO };
    let refused = compact(&made.repo, &device().id, &limits, false, &mut |_, _| true).unwrap_err();
    assert!(refused.kind() == Kind::Damaged && refused.advice().unwrap().contains("repair"), "{refused:?}");
    made.prune(1, Duration::ZERO);
    assert_eq!((made.objects("seg"), made.objects("map")), (segments, maps), "something went");
    // the map before shows the point: all that it names is there
    let done = repair(&made.repo, false, &mut |_, _, _| {}).unwrap();
    assert!(done.lost.is_empty() && done.set_aside.len() == 1, "{done:?}");
    made.hold();
}

/// A map of which a part can be read is all that is left of its point: it stays where it is, and that is said.
#[test]
fn a_map_that_rotted_and_is_needed_is_not_moved_away() {
    let mut made = Made::new();
    made.add(true, &[vec![(0, 53, 150)]]);
    made.add(false, &[vec![(3, 9, 7)]]);
    made.prune(1, Duration::ZERO);
    let map = rot(&made, made.points[1].0, 1);
    let done = repair(&made.repo, false, &mut |_, _, _| {}).unwrap();
    assert!(done.lost.len() == 1 && done.set_aside.is_empty(), "{done:?}");
    assert!(map.exists() && map.with_extension("json").exists());
}

/// A tombstone that rotted hides a point, and nobody knows since when: the point is listed again.
#[test]
fn a_tombstone_that_rotted_hides_nothing_after_a_repair() {
    for parity in [false, true] {
        let mut made = Made::new();
        made.add(true, &[vec![(0, 53, 150)]]);
        made.add(false, &[vec![(3, 9, 7)]]);
        made.prune(1, DAY);
        let first = made.points[0].0;
        if parity {
            let lock = made.repo.lock(&device().id).unwrap();
            made.repo.cover_with_parity(&lock, "2%".parse().unwrap()).unwrap();
        }
        let tombstone = made.repo.local_path().unwrap().join(format!("del/disk/{first}.json"));
        let was = std::fs::read(&tombstone).unwrap();
        std::fs::write(&tombstone, &was[..was.len() / 2]).unwrap();
        let policy = Policy { last: 1, ..Policy::default() };
        prune(&made.repo, &device().id, &policy, Duration::ZERO, false).unwrap_err();
        let would = repair(&made.repo, true, &mut |_, _, _| {}).unwrap();
        let done = repair(&made.repo, false, &mut |_, _, _| {}).unwrap();
        assert!(done.lost.is_empty() && would.set_aside == done.set_aside, "{would:?} {done:?}");
        if parity {
            assert!(done.from_parity.len() == 1 && std::fs::read(&tombstone).unwrap() == was, "{done:?}");
        } else {
            assert!(done.set_aside.len() == 1 && made.listed().contains(&first), "{done:?}");
        }
        made.hold();
        made.prune(1, Duration::ZERO);
        made.hold();
        assert_eq!((made.listed().len(), made.objects("bak")), (1, 1));
    }
}

/// The copy of `repo.json` is what brings it back: that it rots is said, and it is made anew.
#[test]
fn a_copy_of_the_configuration_that_rotted_is_said_and_made_anew() {
    let mut made = Made::new();
    made.add(true, &[vec![(0, 53, 150)]]);
    let cover = || {
        let lock = made.repo.lock(&device().id).unwrap();
        made.repo.cover_with_parity(&lock, "2%".parse().unwrap()).unwrap();
    };
    cover();
    let copy = made.repo.local_path().unwrap().join("par/repo.json");
    std::fs::write(&copy, b"{}").unwrap();
    let report = check(&made.repo, false, &mut |_, _| {}).unwrap();
    assert!(report.damages.iter().any(|d| d.object == "par/repo.json"), "{report:?}");
    cover();
    made.hold();
    assert!(
        std::fs::read(&copy).unwrap()
            == std::fs::read(made.repo.local_path().unwrap().join("repo.json")).unwrap()
    );
}
