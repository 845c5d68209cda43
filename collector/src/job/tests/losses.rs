//! What goes wrong loses nothing: errors, lies of the list, a full store, a stop.

use super::fake::{AllUsed, Disk, Faulty, Stopped, assert_restores, back_up, covered, subject};
use super::{Wishes, repository};
use crate::error::Kind;
use crate::format::Consistency;
use crate::job::{self, place};
use crate::repository::Repository;
use crate::source::LiveDevice;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;

#[test]
fn a_range_that_cannot_be_read_is_named_and_nothing_is_forgotten() {
    let dir = tempfile::tempdir().unwrap();
    let repo = repository(dir.path());
    let disk = Disk::create(&dir.path().join("disk"), 8 << 20);
    disk.write(0, 8 << 20, 3);
    back_up(&disk, &mut disk.ledger(), &repo, &Wishes::default()).unwrap();
    disk.write(1 << 20, 5 << 20, 4);
    let live = LiveDevice::open(&disk.path).unwrap();
    let faulty = Faulty { inner: &live, bad: (3 << 20) + 5000 };
    let survey = AllUsed(disk.size);
    let result = job::backup(&subject(&faulty, &survey), &mut disk.ledger(), &repo, &Wishes::default(), &());
    let error = result.unwrap_err();
    assert!(error.to_string().contains("at 3145728"), "{error}");
    assert_eq!(repo.points().unwrap().len(), 1);
    let again = back_up(&disk, &mut disk.ledger(), &repo, &Wishes::default()).unwrap();
    assert!(again.why_full.is_none() && again.manifest.totals.changed_bytes >= 5 << 20);
    assert_restores(&repo, &again.manifest, &disk.content());
}

#[test]
fn a_repository_that_is_moved_away_meanwhile_holds_no_point() {
    let dir = tempfile::tempdir().unwrap();
    let repo = repository(dir.path());
    let disk = Disk::create(&dir.path().join("disk"), 4 << 20);
    disk.write(0, 4 << 20, 3);
    back_up(&disk, &mut disk.ledger(), &repo, &Wishes::default()).unwrap();
    disk.write(1 << 20, 1 << 20, 4);
    let (here, away) = (dir.path().join("repo"), dir.path().join("away"));
    let mut ledger = disk.ledger();
    let there = (here.clone(), away.clone());
    ledger.at_cut = Some(Box::new(move |n| {
        if n % 2 == 0 {
            let _ = rustix::fs::rename(&there.0, &there.1);
        }
    }));
    back_up(&disk, &mut ledger, &repo, &Wishes::default()).unwrap_err();
    let _ = std::fs::remove_dir_all(&here);
    rustix::fs::rename(&away, &here).unwrap();
    assert_eq!(repo.points().unwrap().len(), 1);
    let again = back_up(&disk, &mut disk.ledger(), &repo, &Wishes::default()).unwrap();
    assert!(again.why_full.is_none() && again.manifest.totals.changed_bytes >= 1 << 20);
    assert_restores(&repo, &again.manifest, &disk.content());
}

#[test]
fn a_stop_keeps_the_difference() {
    let dir = tempfile::tempdir().unwrap();
    let repo = repository(dir.path());
    let disk = Disk::create(&dir.path().join("disk"), 4 << 20);
    disk.write(0, 4 << 20, 3);
    let live = LiveDevice::open(&disk.path).unwrap();
    let survey = AllUsed(disk.size);
    let subject = subject(&live, &survey);
    let stopped = job::backup(&subject, &mut disk.ledger(), &repo, &Wishes::default(), &Stopped);
    assert_eq!(stopped.unwrap_err().kind(), Kind::Interrupted);
    assert!(repo.points().unwrap().is_empty());
    let outcome = back_up(&disk, &mut disk.ledger(), &repo, &Wishes::default()).unwrap();
    assert_restores(&repo, &outcome.manifest, &disk.content());
}

#[test]
fn a_suspect_difference_is_compared_and_finds_what_the_list_left_out() {
    let dir = tempfile::tempdir().unwrap();
    let repo = repository(dir.path());
    let disk = Disk::create(&dir.path().join("disk"), (8 << 20) + 512);
    for i in 0..100 {
        disk.write(i * 80_000, 60_000, i as u8);
    }
    back_up(&disk, &mut disk.ledger(), &repo, &Wishes::default()).unwrap();
    // an increment in between, so that frames of the full are shown in parts
    disk.write(200_000, 5000, 99);
    back_up(&disk, &mut disk.ledger(), &repo, &Wishes::default()).unwrap();
    for (at, bytes) in
        [(0, 1usize), (4095, 2), (70_000, 1), (201_000, 9), (3_000_000, 200_000), ((8 << 20) + 511, 1)]
    {
        disk.write_unseen(at, &vec![0xee; bytes]);
    }
    // something that was zero and is, something that was not and is now
    disk.write_unseen(5_000_000, &vec![0; 100_000]);
    disk.marks().lock().unwrap().suspect.push("a test says so".into());
    let outcome = back_up(&disk, &mut disk.ledger(), &repo, &Wishes::default()).unwrap();
    let m = &outcome.manifest;
    assert!(outcome.why_full.is_none() && !m.is_suspect() && m.suspect_handled.is_some());
    assert!(m.totals.copied_bytes < 1 << 20, "only what differs is stored: {}", m.totals.copied_bytes);
    assert_restores(&repo, m, &disk.content());
    assert!(covered(&repo, m.point) <= disk.size);
    let next = back_up(&disk, &mut disk.ledger(), &repo, &Wishes::default()).unwrap();
    assert!(next.manifest.suspect.is_empty() && next.manifest.totals.changed_bytes == 0);
}

#[test]
fn doubt_that_comes_during_the_backup_stays_for_the_next() {
    let dir = tempfile::tempdir().unwrap();
    let repo = repository(dir.path());
    let disk = Arc::new(Disk::create(&dir.path().join("disk"), 1 << 20));
    let mut ledger = disk.ledger();
    let inner = Arc::clone(&disk);
    ledger.at_cut = Some(Box::new(move |epoch| {
        if epoch == 0 {
            inner.write_unseen(700_000, &[1; 4]);
            inner.marks().lock().unwrap().suspect.push("lost sight".into());
        }
    }));
    let first = back_up(&disk, &mut ledger, &repo, &Wishes::default()).unwrap().manifest;
    assert!(first.is_suspect());
    assert_eq!(first.consistency, Consistency::Fuzzy);
    disk.write_unseen(900_000, &[2; 4]);
    let second = back_up(&disk, &mut disk.ledger(), &repo, &Wishes::default()).unwrap().manifest;
    assert_eq!(second.suspect, ["lost sight"]);
    assert!(!second.is_suspect());
    assert_restores(&repo, &second, &disk.content());
}

/// A small file system in memory, unmounted again.
struct Tmpfs<'a>(&'a Path);
impl Drop for Tmpfs<'_> {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(self.0).status();
    }
}

#[test]
fn a_full_store_fails_the_backup_and_keeps_the_difference() {
    let dir = tempfile::tempdir().unwrap();
    let store = dir.path().join("store");
    std::fs::create_dir(&store).unwrap();
    let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", "size=3m", "none"]).arg(&store).output();
    if !mounted.is_ok_and(|o| o.status.success()) {
        eprintln!("skipped: a full store needs root for its tmpfs");
        return;
    }
    let guard = Tmpfs(&store);
    let repo = repository(&store);
    let disk = Disk::create(&dir.path().join("disk"), 8 << 20);
    disk.write(0, 1 << 20, 1);
    let wishes = Wishes { compression: crate::format::Compression::None, ..Wishes::default() };
    let full = back_up(&disk, &mut disk.ledger(), &repo, &wishes).unwrap().manifest;
    let before = disk.content();
    disk.write(0, 6 << 20, 2);
    let error = back_up(&disk, &mut disk.ledger(), &repo, &wishes).unwrap_err();
    assert_eq!(error.kind(), Kind::NoSpace, "{error:?}");
    assert_restores(&repo, &full, &before);
    let grown = Command::new("mount").args(["-o", "remount,size=64m"]).arg(&store).status().unwrap();
    assert!(grown.success());
    let next = back_up(&disk, &mut disk.ledger(), &repo, &wishes).unwrap();
    assert!(next.why_full.is_none());
    assert_restores(&repo, &next.manifest, &disk.content());
    drop(guard);
}

/// Museum M28.
#[test]
fn a_store_on_the_device_is_refused_or_said_and_never_frozen() {
    let dir = tempfile::tempdir().unwrap();
    let store = dir.path().join("not/yet/there");
    let Some(&device) = place::devices_under(&store).first() else {
        eprintln!("skipped: the folder for temporary files lies on no block device");
        return;
    };
    let refused = place::judge(Some(device), Some(&store), &Wishes::default()).unwrap_err();
    assert_eq!(refused.kind(), Kind::Usage);
    assert!(refused.advice().is_some_and(|a| a.contains("--allow-store-on-device")));
    let wishes = Wishes { store_on_device: true, ..Wishes::default() };
    let placed = place::judge(Some(device), Some(&store), &wishes).unwrap();
    assert!(!placed.may_freeze && placed.notes.len() == 1);
    let elsewhere = place::judge(Some(u32::MAX), Some(&store), &Wishes::default()).unwrap();
    assert!(elsewhere.may_freeze && elsewhere.notes.is_empty());
    let wishes = Wishes { own_folders: vec![store], ..Wishes::default() };
    assert!(!place::judge(Some(device), None, &wishes).unwrap().may_freeze);
}

/// Damage below is reported by a restore, before or while it writes, and never restored as if it were right.
#[test]
fn a_damaged_segment_is_never_restored() {
    let dir = tempfile::tempdir().unwrap();
    let repo = repository(dir.path());
    let disk = Disk::create(&dir.path().join("disk"), 2 << 20);
    disk.write(0, 2 << 20, 77);
    let manifest = back_up(&disk, &mut disk.ledger(), &repo, &Wishes::default()).unwrap().manifest;
    let segment = first_file(&dir.path().join("repo/seg")).unwrap();
    let file = std::fs::OpenOptions::new().write(true).open(&segment).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&file, &[0xff; 64], 300).unwrap();
    let repo = Repository::open(dir.path().join("repo").to_str().unwrap()).unwrap();
    let target = dir.path().join("image");
    let restore = crate::restore::Restore::prepare(&repo, &super::fake::device(), manifest.point).unwrap();
    let error = restore.run(&target, Default::default(), Default::default(), &()).unwrap_err();
    assert_eq!(error.kind(), Kind::Damaged, "{error:?}");
    assert!(error.to_string().contains("incomplete"));
}

fn first_file(folder: &Path) -> Option<std::path::PathBuf> {
    for entry in std::fs::read_dir(folder).ok()?.flatten() {
        let path = entry.path();
        let found = if path.is_dir() { first_file(&path) } else { Some(path) };
        if found.is_some() {
            return found;
        }
    }
    None
}
