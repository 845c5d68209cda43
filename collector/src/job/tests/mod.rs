//! Backups of a file with a ledger in memory: every promise of the room, without a kernel.

mod differential;
mod fake;
mod kill;
mod losses;

use super::*;
use crate::format::{Consistency, PointKind};
use crate::repository::Repository;
use crate::source::LiveDevice;
use fake::{AllUsed, Disk, assert_restores, back_up, subject};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

fn repository(dir: &std::path::Path) -> Repository {
    Repository::open_or_create(dir.join("repo").to_str().unwrap()).unwrap()
}

/// A few numbers that look random and are the same every time.
struct Dice(u64);
impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % sides
    }
}

#[test]
fn every_point_restores_to_what_the_disk_held_while_a_writer_never_rests() {
    let dir = tempfile::tempdir().unwrap();
    let repo = repository(dir.path());
    let disk = Arc::new(Disk::create(&dir.path().join("disk"), 24 << 20));
    for i in 0..96 {
        disk.write(i * 256 * 1024, 200 * 1024, i as u8);
    }
    let mut points = Vec::new();
    for round in 0..5u64 {
        let stop = Arc::new(AtomicBool::new(false));
        let (writer_disk, writer_stop) = (Arc::clone(&disk), Arc::clone(&stop));
        let writer = std::thread::spawn(move || {
            let mut dice = Dice(round);
            while !writer_stop.load(Ordering::SeqCst) {
                let (at, len, with) = (dice.roll(24 << 20), 1 + dice.roll(6000), dice.roll(4) as u8 * 60);
                writer_disk.write(at, len, with);
                std::thread::sleep(std::time::Duration::from_millis(3));
            }
        });
        let mut ledger = disk.ledger();
        let (mut writer, mut cuts, beside) = (Some(writer), 0, Arc::clone(&disk));
        ledger.at_cut = Some(Box::new(move |_| {
            cuts += 1;
            if cuts < 3 {
                // no epoch before the writer rests is empty, however fast the passes are
                beside.write(cuts * 4096, 100, 5);
            }
            if cuts == 3 {
                stop.store(true, Ordering::SeqCst);
                writer.take().unwrap().join().unwrap();
            }
        }));
        let outcome = back_up(&disk, &mut ledger, &repo, &Wishes::default()).unwrap();
        assert_eq!(outcome.manifest.consistency, Consistency::Crash, "round {round}");
        assert_eq!(outcome.manifest.kind == PointKind::Full, round == 0);
        points.push((outcome.manifest, disk.content()));
    }
    for (manifest, content) in &points {
        assert_restores(&repo, manifest, content);
    }
}

/// Museum M12: an area that returns to an earlier content is not forgotten.
#[test]
fn a_b_a_is_restored_at_each_of_the_three() {
    let dir = tempfile::tempdir().unwrap();
    let repo = repository(dir.path());
    let disk = Disk::create(&dir.path().join("disk"), 1 << 20);
    let mut points = Vec::new();
    for with in [0xa, 0xb, 0xa, 0, 0xa] {
        disk.write(64 * 1024 + 512, 10_000, with);
        let outcome = back_up(&disk, &mut disk.ledger(), &repo, &Wishes::default()).unwrap();
        points.push((outcome.manifest, disk.content()));
    }
    for (manifest, content) in &points {
        assert_restores(&repo, manifest, content);
    }
    let parents: Vec<_> = points.iter().map(|(m, _)| m.parent.map(|p| p.point)).collect();
    let expected: Vec<_> = std::iter::once(None).chain(points.iter().map(|(m, _)| Some(m.point))).collect();
    assert_eq!(parents, expected[..5]);
}

/// Museum M9: the last area is a part of one, and the last frame of one block.
#[test]
fn a_disk_that_ends_in_the_middle_of_an_area() {
    let dir = tempfile::tempdir().unwrap();
    for (i, size) in [1, 511, 4096, 65_537, 1_000_003, (1 << 20) + 512].into_iter().enumerate() {
        let repo = repository(&dir.path().join(i.to_string()));
        let disk = Disk::create(&dir.path().join(format!("disk{i}")), size);
        disk.write(0, size, 7);
        let full = back_up(&disk, &mut disk.ledger(), &repo, &Wishes::default()).unwrap().manifest;
        let before = disk.content();
        disk.write(size - 1, 1, 9);
        let next = back_up(&disk, &mut disk.ledger(), &repo, &Wishes::default()).unwrap().manifest;
        assert_restores(&repo, &full, &before);
        assert_restores(&repo, &next, &disk.content());
    }
}

/// Zeroes a part of the disk as soon as the first pass has copied all of it.
struct ZeroAfterwards<'a>(&'a Disk, AtomicU64);
impl crate::copy::Watch for ZeroAfterwards<'_> {
    fn advance(&self, bytes: u64) {
        if self.1.fetch_add(bytes, Ordering::SeqCst) + bytes == self.0.size {
            self.0.write(128 * 1024, 70_000, 0);
        }
    }
}
impl Show for ZeroAfterwards<'_> {}

/// What a first pass stored and a later one found empty is empty.
#[test]
fn an_area_that_becomes_zero_during_a_full_is_zero() {
    let dir = tempfile::tempdir().unwrap();
    let repo = repository(dir.path());
    let disk = Disk::create(&dir.path().join("disk"), 1 << 20);
    disk.write(0, 1 << 20, 5);
    let source = LiveDevice::open(&disk.path).unwrap();
    let survey = AllUsed(disk.size);
    let show = ZeroAfterwards(&disk, AtomicU64::new(0));
    let subject = subject(&source, &survey);
    let outcome = backup(&subject, &mut disk.ledger(), &repo, &Wishes::default(), &show).unwrap();
    assert!(disk.content()[131_072..201_072].iter().all(|&b| b == 0), "it was zeroed");
    assert_eq!(outcome.manifest.passes.len(), 2);
    assert_restores(&repo, &outcome.manifest, &disk.content());
}

#[test]
fn a_full_is_made_wherever_an_increment_would_stand_on_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let repo = repository(dir.path());
    let other = repository(&dir.path().join("other"));
    let disk = Disk::create(&dir.path().join("disk"), 1 << 20);
    let make = |ledger: &mut fake::Fake, repo: &Repository, full| {
        let outcome = back_up(&disk, ledger, repo, &Wishes { full, ..Wishes::default() }).unwrap();
        outcome.why_full.unwrap_or_default()
    };
    assert!(make(&mut disk.ledger(), &repo, false).contains("first"));
    assert_eq!(make(&mut disk.ledger(), &repo, false), "");
    assert!(make(&mut disk.ledger(), &repo, true).contains("asked"));
    assert!(make(&mut disk.ledger(), &other, false).contains("another repository"));
    let mut ledger = disk.ledger();
    ledger.session = "session-2".into();
    assert!(make(&mut ledger, &other, false).contains("session"));
    let mut marks = disk.marks().lock().unwrap().clone();
    marks.base = marks.base.map(|(repo, _)| (repo, crate::format::PointId::generate().to_string()));
    *disk.marks().lock().unwrap() = marks;
    assert!(make(&mut disk.ledger(), &other, false).contains("nothing can be built"));
    let grown = Disk::create(&dir.path().join("disk"), 2 << 20);
    *grown.marks().lock().unwrap() = disk.marks().lock().unwrap().clone();
    let outcome = back_up(&grown, &mut grown.ledger(), &other, &Wishes::default()).unwrap();
    assert!(outcome.why_full.is_some_and(|why| why.contains("had 1048576 bytes")));
    assert_restores(&other, &outcome.manifest, &grown.content());
}

/// A writer that never lets a pass end quietly: the point says so.
#[test]
fn an_image_of_no_one_moment_is_called_fuzzy() {
    let dir = tempfile::tempdir().unwrap();
    let repo = repository(dir.path());
    let disk = Arc::new(Disk::create(&dir.path().join("disk"), 1 << 20));
    let mut ledger = disk.ledger();
    let inner = Arc::clone(&disk);
    ledger.at_cut = Some(Box::new(move |epoch| inner.write(epoch * 4096, 4096, 1)));
    let outcome = back_up(&disk, &mut ledger, &repo, &Wishes::default()).unwrap();
    assert_eq!(outcome.manifest.consistency, Consistency::Fuzzy);
    assert!(!disk.marks().lock().unwrap().running.is_empty(), "the last write is still pending");
    let outcome = back_up(&disk, &mut disk.ledger(), &repo, &Wishes::default()).unwrap();
    assert_restores(&repo, &outcome.manifest, &disk.content());
}
