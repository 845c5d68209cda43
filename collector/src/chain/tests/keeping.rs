//! Copies and repairs against the naive model: what is copied or rebuilt gives back the same bytes.

#![expect(clippy::disallowed_methods, reason = "damages files on purpose")]

use super::pruning::Made;
use super::*;
use crate::chain::{Progress, Sending, Sent, Wanted, repair};
use std::time::Duration;

fn go_on(_: u64) -> bool {
    true
}

fn send(
    from: &Repository,
    to: &Repository,
    device: &DeviceId,
    wanted: Wanted,
    progress: &Progress<'_>,
) -> Result<Sent> {
    Sending::new(from, to, false)?.send(device, wanted, progress)
}

/// A full of two passes and two increments, with zeros over data, and a pass that goes back.
fn made() -> Made {
    let mut made = Made::new();
    made.add(true, &[vec![(0, 40, 7)], vec![(3, 5, 200), (30, 4, 9)]]);
    made.add(false, &[vec![(2, 6, 0), (20, 3, 130)], vec![(1, 2, 50), (21, 1, 0)]]);
    made.add(false, &[vec![(18, 20, 0)], vec![(50, 4, 3)]]);
    made
}

/// Every index is lost, and every map: the segments and manifests give them back, byte for byte.
#[test]
fn an_index_is_rebuilt_from_segments_alone() {
    let made = made();
    let folder = made.repo.local_path().unwrap().to_owned();
    let lock = made.repo.lock(&device().id).unwrap();
    let last = made.points.last().unwrap().0;
    Chain::resolve(&made.repo, &device().id, last).unwrap().merge(&lock).unwrap().unwrap();
    drop(lock);
    let before = std::fs::read(folder.join("idx/disk").join(last.to_string())).unwrap();
    std::fs::remove_dir_all(folder.join("idx")).unwrap();
    std::fs::remove_dir_all(folder.join("map")).unwrap();
    assert!(Chain::resolve(&made.repo, &device().id, last).unwrap().pieces().is_err());
    let would = repair(&made.repo, true, &mut |_, _, _| {}).unwrap();
    assert!(would.rebuilt.len() == 4 && would.lost.is_empty(), "{would:?}");
    assert!(Chain::resolve(&made.repo, &device().id, last).unwrap().pieces().is_err(), "a dry run wrote");
    let done = repair(&made.repo, false, &mut |_, _, _| {}).unwrap();
    assert!(done.rebuilt.len() == 4 && done.lost.is_empty(), "{done:?}");
    assert!(std::fs::read(folder.join("idx/disk").join(last.to_string())).unwrap() == before);
    made.hold();
    let again = repair(&made.repo, false, &mut |_, _, _| {}).unwrap();
    assert!(again.rebuilt.is_empty() && again.set_aside.is_empty() && again.lost.is_empty(), "{again:?}");
}

/// A bit in an index or a map; a segment that is gone.
#[test]
fn what_is_damaged_is_set_aside_and_what_is_lost_is_said() {
    let made = made();
    let folder = made.repo.local_path().unwrap().to_owned();
    let (first, last) = (made.points[0].0, made.points[2].0);
    let lock = made.repo.lock(&device().id).unwrap();
    Chain::resolve(&made.repo, &device().id, last).unwrap().merge(&lock).unwrap().unwrap();
    drop(lock);
    for name in [format!("idx/disk/{first}"), format!("map/disk/{last}/1")] {
        let mut bytes = std::fs::read(folder.join(&name)).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 4;
        std::fs::write(folder.join(&name), bytes).unwrap();
    }
    // a map whose spare is gone too is not needed: the chain below is whole
    std::fs::remove_dir_all(folder.join("spare")).unwrap();
    let done = repair(&made.repo, false, &mut |_, _, _| {}).unwrap();
    assert_eq!((done.rebuilt.len(), done.set_aside.len(), done.lost.len()), (1, 1, 0), "{done:?}");
    assert!(folder.join(format!("quarantine/idx/disk/{first}")).exists());
    assert!(folder.join(format!("quarantine/map/disk/{last}/1")).exists());
    made.hold();
    // without its segments there is nothing to rebuild from, and nothing else is touched
    std::fs::remove_file(folder.join(format!("idx/disk/{first}"))).unwrap();
    std::fs::remove_dir_all(folder.join("seg")).unwrap();
    let files = made.objects("");
    let lost = repair(&made.repo, false, &mut |_, _, _| {}).unwrap();
    assert!(lost.rebuilt.is_empty() && !lost.lost.is_empty(), "{lost:?}");
    assert_eq!(made.objects(""), files, "something else was touched");
}

#[test]
fn a_copy_gives_the_same_bytes_and_is_made_once() {
    let made = made();
    let dir = tempfile::tempdir().unwrap();
    let to = Repository::create(dir.path().to_str().unwrap()).unwrap();
    let third = made.points[2].0;
    let sent = send(&made.repo, &to, &device().id, Wanted::Point(made.points[1].0), &go_on).unwrap();
    assert_eq!((sent.points.len(), sent.whole.len()), (2, 0));
    let sent = send(&made.repo, &to, &device().id, Wanted::All, &go_on).unwrap();
    assert_eq!((sent.points.clone(), sent.there.len()), (vec![third], 2));
    let mut copied = Made { repo: to, ..made };
    copied.hold();
    assert_eq!(copied.listed().len(), 3);
    // what is copied can be rebuilt as well
    std::fs::remove_dir_all(dir.path().join("idx")).unwrap();
    assert_eq!(repair(&copied.repo, false, &mut |_, _, _| {}).unwrap().rebuilt.len(), 3);
    copied.hold();
    // by itself, as a full
    let alone = tempfile::tempdir().unwrap();
    let to = Repository::create(alone.path().to_str().unwrap()).unwrap();
    let sent = send(&copied.repo, &to, &device().id, Wanted::Whole(third), &go_on).unwrap();
    assert_eq!((sent.points.len(), sent.whole.len()), (1, 1));
    copied.repo = to;
    copied.hold();
    assert!(copied.repo.points().unwrap()[0].manifest().unwrap().parent.is_none());
}

/// A copy that was stopped goes on; one from a pruned and compacted repository shows the same.
#[test]
fn a_copy_goes_on_and_follows_maps() {
    let mut made = made();
    for n in 0..4 {
        made.add(false, &[vec![(n * 9, 7, 140 + n as u8), (40, 3, 0)]]);
    }
    made.prune(3, Duration::ZERO);
    made.prune(3, Duration::ZERO);
    made.compact(0.01, Duration::ZERO, u64::MAX);
    made.compact(0.01, Duration::ZERO, u64::MAX);
    let dir = tempfile::tempdir().unwrap();
    let to = Repository::create(dir.path().to_str().unwrap()).unwrap();
    let stop = |_: u64| false;
    let stopped = send(&made.repo, &to, &device().id, Wanted::All, &stop).unwrap_err();
    assert_eq!(stopped.kind(), Kind::Interrupted);
    let sent = send(&made.repo, &to, &device().id, Wanted::All, &go_on).unwrap();
    assert!(sent.points.len() == 3 && sent.failed.is_empty() && !sent.whole.is_empty(), "{sent:?}");
    let copied = Made { repo: to, ..made };
    copied.hold();
    assert_eq!(copied.listed().len(), 3);
}
