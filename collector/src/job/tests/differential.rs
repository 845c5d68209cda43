//! Differentials: a start point that is not the last one, and two repositories in turn.

use super::fake::{Disk, assert_restores, back_up};
use super::*;
use crate::error::Kind;
use crate::format::{Manifest, PointId, PointKind};

fn since(point: Since) -> Wishes {
    Wishes { since: Some(point), ..Wishes::default() }
}

fn parent(manifest: &Manifest) -> Option<PointId> {
    manifest.parent.map(|p| p.point)
}

/// Museum M12 across a differential: what returned to an earlier content in between is not forgotten.
#[test]
fn a_b_a_is_restored_from_a_differential() {
    let dir = tempfile::tempdir().unwrap();
    let repo = repository(dir.path());
    let disk = Disk::create(&dir.path().join("disk"), 1 << 20);
    disk.marks().lock().unwrap().keep_all = true;
    let mut points = Vec::new();
    for (with, wishes) in [
        (0xa, Wishes::default()),
        (0xb, Wishes::default()),
        (0xa, since(Since::LatestFull)),
        (0xb, Wishes::default()),
        (0xa, since(Since::LatestFull)),
        (0, since(Since::LatestFull)),
    ] {
        disk.write(64 * 1024 + 512, 10_000, with);
        disk.write(points.len() as u64 * 4096, 100, 1);
        let outcome = back_up(&disk, &mut disk.ledger(), &repo, &wishes).unwrap();
        points.push((outcome.manifest, disk.content()));
    }
    for (manifest, content) in &points {
        assert_restores(&repo, manifest, content);
    }
    let ids: Vec<PointId> = points.iter().map(|p| p.0.point).collect();
    let parents: Vec<_> = points.iter().map(|p| parent(&p.0)).collect();
    let full = Some(ids[0]);
    assert_eq!(parents, [None, full, full, Some(ids[2]), full, full]);
}

#[test]
fn any_kept_point_can_be_the_parent_whatever_was_written_and_backed_up_since() {
    for seed in 0..12u64 {
        let dir = tempfile::tempdir().unwrap();
        let repo = repository(dir.path());
        let disk = Disk::create(&dir.path().join("disk"), 2 << 20);
        disk.marks().lock().unwrap().keep_all = true;
        let mut dice = Dice(seed);
        let mut points: Vec<(Manifest, Vec<u8>)> = Vec::new();
        for round in 0..10 {
            for _ in 0..dice.roll(6) {
                disk.write(dice.roll(2 << 20), 1 + dice.roll(40_000), dice.roll(4) as u8 * 60);
            }
            let start = points.get(dice.roll(points.len() as u64 + 1) as usize).map(|p| p.0.point);
            let wishes = start.map_or_else(Wishes::default, |point| since(Since::Point(point)));
            let made = back_up(&disk, &mut disk.ledger(), &repo, &wishes).unwrap().manifest;
            assert!(start.is_none() || parent(&made) == start, "seed {seed}, round {round}");
            points.push((made, disk.content()));
        }
        for (manifest, content) in &points {
            assert_restores(&repo, manifest, content);
        }
    }
}

#[test]
fn two_repositories_in_turn_need_one_full_each() {
    let dir = tempfile::tempdir().unwrap();
    let repos = [repository(&dir.path().join("a")), repository(&dir.path().join("b"))];
    let disk = Disk::create(&dir.path().join("disk"), 1 << 20);
    let mut points = Vec::new();
    for round in 0..9usize {
        disk.write(round as u64 * 50_000, 60_000, round as u8 + 1);
        let repo = &repos[[0, 1, 0, 0, 1, 1, 0, 1, 0][round]];
        let outcome = back_up(&disk, &mut disk.ledger(), repo, &Wishes::default()).unwrap();
        assert_eq!(
            outcome.manifest.kind == PointKind::Full,
            round < 2,
            "round {round}: {:?}",
            outcome.why_full
        );
        points.push((repo, outcome.manifest, disk.content()));
    }
    for (repo, manifest, content) in &points {
        assert_restores(repo, manifest, content);
    }
}

#[test]
fn a_start_point_that_is_not_kept_is_refused_and_costs_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let repo = repository(dir.path());
    let disk = Disk::create(&dir.path().join("disk"), 1 << 20);
    disk.write(0, 1 << 20, 1);
    let refused = |wishes: &Wishes| back_up(&disk, &mut disk.ledger(), &repo, wishes).unwrap_err();
    assert!(refused(&since(Since::Latest)).in_full().contains("no point of"));
    let full = back_up(&disk, &mut disk.ledger(), &repo, &Wishes::default()).unwrap().manifest;
    disk.write(5000, 5000, 2);
    let last = back_up(&disk, &mut disk.ledger(), &repo, &since(Since::LatestFull)).unwrap().manifest;
    disk.write(90_000, 5000, 3);
    for wish in [Since::LatestFull, Since::Point(full.point), Since::Point(PointId::generate())] {
        let error = refused(&since(wish));
        assert_eq!(error.kind(), Kind::NotFound, "{error:?}");
        let advice = error.advice().unwrap_or_default().to_owned();
        assert!(advice.contains(&last.point.to_string()) && advice.contains("keep-since"), "{advice}");
    }
    assert_eq!(repo.points().unwrap().len(), 2);
    let next = back_up(&disk, &mut disk.ledger(), &repo, &since(Since::Latest)).unwrap().manifest;
    assert_eq!(parent(&next), Some(last.point));
    assert_restores(&repo, &next, &disk.content());
}

/// What could not be proved in any epoch since the start point makes the differential compare.
#[test]
fn a_suspect_epoch_since_the_start_point_makes_the_differential_suspect() {
    let dir = tempfile::tempdir().unwrap();
    let repo = repository(dir.path());
    let disk = Disk::create(&dir.path().join("disk"), 1 << 20);
    disk.marks().lock().unwrap().keep_all = true;
    disk.write(0, 1 << 20, 1);
    let full = back_up(&disk, &mut disk.ledger(), &repo, &Wishes::default()).unwrap().manifest;
    disk.write_unseen(300_000, &[7; 9000]);
    disk.marks().lock().unwrap().suspect.push("a doubt".into());
    let healed = back_up(&disk, &mut disk.ledger(), &repo, &Wishes::default()).unwrap().manifest;
    assert!(healed.suspect == ["a doubt"] && healed.suspect_handled.is_some());
    disk.write(700_000, 100, 5);
    let made = back_up(&disk, &mut disk.ledger(), &repo, &since(Since::Point(full.point))).unwrap().manifest;
    assert_eq!(
        (parent(&made), made.suspect.as_slice()),
        (Some(full.point), ["a doubt".to_owned()].as_slice())
    );
    assert!(made.suspect_handled.is_some());
    assert_restores(&repo, &made, &disk.content());
    // from a point after the doubt nothing is suspect
    let made =
        back_up(&disk, &mut disk.ledger(), &repo, &since(Since::Point(healed.point))).unwrap().manifest;
    assert!(made.suspect.is_empty());
    assert_restores(&repo, &made, &disk.content());
}

/// The start point was pruned or belongs to another stretch of tracking: said, never replaced.
#[test]
fn a_start_point_that_nothing_can_be_built_on_is_said() {
    let dir = tempfile::tempdir().unwrap();
    let repo = repository(dir.path());
    let disk = Disk::create(&dir.path().join("disk"), 1 << 20);
    disk.marks().lock().unwrap().keep_all = true;
    let mut points = Vec::new();
    for n in 0..3u8 {
        disk.write(u64::from(n) * 8192, 8192, n + 1);
        points.push(back_up(&disk, &mut disk.ledger(), &repo, &Wishes::default()).unwrap().manifest);
    }
    let policy = crate::chain::Policy { last: 1, ..Default::default() };
    let id = super::fake::device();
    crate::chain::prune(&repo, &id, &policy, std::time::Duration::ZERO, false).unwrap();
    let error = back_up(&disk, &mut disk.ledger(), &repo, &since(Since::Point(points[1].point))).unwrap_err();
    assert_eq!(error.kind(), Kind::NotFound, "{error:?}");
    let mut ledger = disk.ledger();
    ledger.session = "session-2".into();
    let error = back_up(&disk, &mut ledger, &repo, &since(Since::Latest)).unwrap_err();
    assert!(error.in_full().contains("session"), "{error:?}");
    let made = back_up(&disk, &mut disk.ledger(), &repo, &since(Since::Latest)).unwrap().manifest;
    assert_eq!(parent(&made), Some(points[2].point));
    assert_restores(&repo, &made, &disk.content());
}
