//! Merges, prunes and compactions killed at every step: every listed point stays what it was, and the next one ends the work.
#![cfg(feature = "failpoints")]

use crate::model::{Model, What, open, restore};
use collector::chain::{Chain, Limits, Policy, compact, prune};
use collector::format::PointId;
use collector::repository::{Repository, check};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

const FOLDER: &str = "BLKDELTA_TEST_FOLDER";
const DEED: &str = "BLKDELTA_TEST_DEED";
const SIZE: usize = 8 << 20;

/// Steps, and at which of their hits.
const STEPS: [(&str, &str, u32); 26] = [
    ("merge", "repo.index.put", 1),
    ("merge", "repo.index.stored", 1),
    ("merge", "repo.map.put", 1),
    ("merge", "repo.map.stored", 1),
    ("prune", "repo.index.stored", 1),
    ("prune", "repo.map.stored", 1),
    ("prune", "repo.tombstone.put", 2),
    ("prune", "repo.tombstone.stored", 1),
    ("prune", "repo.tombstone.stored", 3),
    ("prune", "repo.sweep.begin", 2),
    ("prune", "repo.sweep.manifest-gone", 1),
    ("prune", "repo.sweep.segment-gone", 1),
    ("prune", "repo.sweep.segment-gone", 2),
    ("prune", "repo.sweep.index-gone", 1),
    ("prune", "repo.sweep.maps-gone", 2),
    ("compact", "repo.segment.put", 1),
    ("compact", "repo.segment.stored", 1),
    ("compact", "repo.index.put", 1),
    ("compact", "repo.index.stored", 1),
    ("compact", "repo.index.stored", 2),
    ("compact", "repo.map.put", 1),
    ("compact", "repo.map.stored", 1),
    ("compact", "repo.map.stored", 2),
    ("compact", "repo.superseded.begin", 1),
    ("compact", "repo.superseded.segment-gone", 1),
    ("compact", "repo.superseded.commit-gone", 1),
];

fn deed(repo: &Repository, what: &str) -> collector::error::Result<()> {
    let (device, latest) = repo.resolve("latest", None)?;
    if what == "merge" {
        let lock = repo.lock(&device)?;
        return Chain::resolve(repo, &device, latest)?.merge(&lock).map(drop);
    }
    if what == "compact" {
        let (dead, max_bytes, grace) = (0.05, u64::MAX, Duration::ZERO);
        let limits = Limits { dead, max_bytes, bandwidth: None, grace };
        return compact(repo, &device, &limits, false, &mut |_, _| true).map(drop);
    }
    let policy = Policy { last: 2, ..Policy::default() };
    prune(repo, &device, &policy, Duration::ZERO, false).map(drop)
}

/// Not a test by itself: the process that is killed.
#[test]
#[ignore = "started by the tests of this file"]
fn child() {
    let (Ok(folder), Ok(what)) = (std::env::var(FOLDER), std::env::var(DEED)) else { return };
    let failed = deed(&open(Path::new(&folder)).unwrap(), &what).is_err();
    std::process::exit(i32::from(failed));
}

fn run(folder: &Path, what: &str, failpoint: &str) -> bool {
    let child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "pruning::child", "--ignored", "--nocapture"])
        .envs([(FOLDER, folder.to_str().unwrap()), (DEED, what), ("BLKDELTA_FAILPOINT", failpoint)])
        .output()
        .unwrap();
    child.status.success()
}

/// A full and four increments, each of which hides the one before, and what each must give back.
fn five_points(repo: &Repository) -> (Model, Vec<(PointId, Vec<u8>)>) {
    let mut model = Model::new("disk", SIZE);
    let mut made: Vec<(PointId, Vec<u8>)> = Vec::new();
    for n in 0..5 {
        let write =
            if n == 0 { (0, 900, What::Noise(1)) } else { (100, 100 + n * 9, What::Noise(n as u8 + 1)) };
        let parent = made.last().map(|m| m.0);
        let point = model.back_up(repo, parent, &[&[write]]).unwrap().point;
        made.push((point, model.image.clone()));
    }
    (model, made)
}

fn hold(repo: &Repository, model: &Model, made: &[(PointId, Vec<u8>)], what: &str) {
    let points = repo.points().unwrap();
    assert!(points.len() >= 2, "{what}: {} points", points.len());
    for entry in points {
        let shadow = &made.iter().find(|m| m.0 == entry.id).unwrap().1;
        assert!(restore(repo, &model.device, entry.id).unwrap() == *shadow, "{what}: {}", entry.id);
    }
    let report = check(repo, true, &mut |_, _| {}).unwrap();
    assert!(report.damages.iter().all(|d| d.points.is_empty()), "{what}: {:?}", report.damages);
}

#[test]
fn whatever_dies_when_every_listed_point_stays_what_it_was() {
    for (what, step, hit) in STEPS {
        for action in ["kill", "error"] {
            let dir = tempfile::tempdir().unwrap();
            let repo = Repository::create(dir.path().to_str().unwrap()).unwrap();
            let (mut model, mut made) = five_points(&repo);
            let case = format!("{what} {step}@{hit} {action}");
            if what == "compact" {
                // two points stay, and each has a map that names parts of what went
                deed(&repo, "prune").unwrap();
                let lock = repo.lock(&model.device).unwrap();
                Chain::resolve(&repo, &model.device, made[4].0).unwrap().merge(&lock).unwrap().unwrap();
            }
            assert!(!run(dir.path(), what, &format!("{step}={action}@{hit}")), "{case} was not reached");
            hold(&repo, &model, &made, &case);
            // a backup goes on, and the next merge or prune ends the work
            let latest = repo.points().unwrap().last().unwrap().id;
            let point = model.back_up(&repo, Some(latest), &[&[(5, 50, What::Noise(77))]]).unwrap().point;
            made.push((point, model.image.clone()));
            deed(&repo, what).unwrap_or_else(|e| panic!("{case}: {e:?}"));
            hold(&repo, &model, &made, &case);
            if what != "merge" {
                deed(&repo, "prune").unwrap();
                repo.sweep_orphans(Duration::ZERO).unwrap();
                hold(&repo, &model, &made, &case);
                let report = check(&repo, true, &mut |_, _| {}).unwrap();
                assert_eq!((report.points, report.unreferenced, report.damages.len()), (2, 0, 0), "{case}");
            }
        }
    }
}
