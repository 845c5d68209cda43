//! Museum M19: prune, compaction, merge, backup, restore and the search for orphans beside each other, step by step in
//! every order.
//!
//! Each operation runs on a thread that stops before each of its steps (the failpoints); only one thread moves at a
//! time, and which one is chosen by a schedule. Of two operations every schedule is run; of three, schedules drawn with
//! a seed. After each: what a restore gave back was right or an error (right, if there was a time of grace), every listed
//! point gives back its bytes, nothing that a point needs is damaged.
#![cfg(feature = "failpoints")]

use crate::model::{Model, What, open, restore};
use collector::chain::{Chain, Limits, Policy, Sending, Wanted, compact, merge_if_longer, prune, repair};
use collector::error::{Error, Kind, Result};
use collector::format::{DeviceId, PointId};
use collector::repository::{Repository, check};
use collector::sys::gated;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

const SIZE: usize = 1 << 20;
const DAY: Duration = Duration::from_secs(86_400);

/// A repository with some history, copied for each run.
struct Bed {
    template: tempfile::TempDir,
    model: Model,
    points: Vec<(PointId, Vec<u8>)>,
    /// Another repository, with a point of another device that is older than everything here.
    elsewhere: tempfile::TempDir,
    other: (DeviceId, PointId, Vec<u8>),
}

/// Where runs take place: in memory, if there is such a folder.
fn scratch() -> tempfile::TempDir {
    let memory = Path::new("/dev/shm");
    if memory.is_dir() { tempfile::tempdir_in(memory).unwrap() } else { tempfile::tempdir().unwrap() }
}

impl Bed {
    /// A full and `increments`, each of which hides a part of the one before.
    fn new(increments: usize) -> Self {
        let (template, elsewhere) = (scratch(), scratch());
        let there = Repository::create(elsewhere.path().to_str().unwrap()).unwrap();
        let mut other = Model::new("other", SIZE);
        let point = other.back_up(&there, None, &[&[(0, 64, What::Noise(7))]]).unwrap().point;
        let other = (other.device, point, other.image);
        let repo = Repository::create(template.path().to_str().unwrap()).unwrap();
        let mut model = Model::new("disk", SIZE);
        let mut points: Vec<(PointId, Vec<u8>)> = Vec::new();
        for n in 0..=increments {
            let write = if n == 0 { (0, 64, What::Noise(1)) } else { (16 * n, 40, What::Noise(n as u8 + 1)) };
            let point = model.back_up(&repo, points.last().map(|p| p.0), &[&[write]]).unwrap().point;
            points.push((point, model.image.clone()));
        }
        Self { template, model, points, elsewhere, other }
    }

    fn prepare(self, deed: impl FnOnce(&Repository, &DeviceId)) -> Self {
        deed(&open(self.template.path()).unwrap(), &self.model.device);
        self
    }

    fn copy(&self) -> tempfile::TempDir {
        let to = scratch();
        copy_folder(self.template.path(), to.path());
        to
    }
}

fn copy_folder(from: &Path, to: &Path) {
    for entry in std::fs::read_dir(from).unwrap().map(std::result::Result::unwrap) {
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            std::fs::create_dir_all(&target).unwrap();
            copy_folder(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), target).unwrap();
        }
    }
}

/// What is done beside each other.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Deed {
    Prune(Duration),
    Compact(Duration),
    Merge,
    Backup,
    Orphans,
    /// Copies a point of another device, with its old names, out of another repository.
    Copy,
    /// Repairs what is damaged in the template.
    Repair,
    /// Restores the n-th point.
    Restore(usize),
}

impl Deed {
    /// Is this one of its steps? Beside a restore alone, only those whose change a restore can see.
    fn steps_at(self, name: &str, beside_restore: bool) -> bool {
        // before something changes; that it has changed is the same moment as before the next change
        let changes = !name.starts_with("repo.read.") && !name.ends_with(".stored");
        match self {
            Self::Restore(_) => name.starts_with("repo.read."),
            _ if beside_restore => changes && !UNSEEN.contains(&name),
            _ => changes,
        }
    }

    /// The bytes that a restore gave, or the point that a backup made.
    fn run(self, repo: &Repository, bed: &Bed) -> Result<Gave> {
        let device = &bed.model.device;
        match self {
            Self::Prune(grace) => {
                let policy = Policy { last: 1, ..Policy::default() };
                prune(repo, device, &policy, grace, false).map(|_| Gave::Nothing)
            }
            Self::Compact(grace) => {
                let limits = Limits { dead: 0.05, max_bytes: u64::MAX, bandwidth: None, grace };
                compact(repo, device, &limits, false, &mut |_, _| true).map(|_| Gave::Nothing)
            }
            Self::Merge => {
                let (_, last) = repo.resolve("latest", Some(device))?;
                merge_if_longer(repo, device, last, 1).map(|_| Gave::Nothing)
            }
            Self::Backup => {
                let mut model = bed.model.clone();
                let parent = bed.points.last().map(|p| p.0);
                let made = model.back_up(repo, parent, &[&[(3, 20, What::Noise(99))]])?;
                Ok(Gave::Point(made.point, model.image))
            }
            Self::Orphans => repo.sweep_orphans(Duration::ZERO).map(|_| Gave::Nothing),
            Self::Copy => {
                let (device, point, image) = &bed.other;
                let from = open(bed.elsewhere.path())?;
                let sent = Sending::new(&from, repo, false)?.send(device, Wanted::All, &|_| true)?;
                assert!(sent.points.len() + sent.there.len() == 1 && sent.failed.is_empty(), "{sent:?}");
                Ok(Gave::Point(*point, image.clone()))
            }
            Self::Repair => {
                let done = repair(repo, false, &mut |_, _, _| {})?;
                assert!(done.lost.is_empty(), "{done:?}");
                Ok(Gave::Nothing)
            }
            Self::Restore(n) => {
                let bytes = restore(repo, device, bed.points[n].0)?;
                assert!(bytes == bed.points[n].1, "a restore gave other bytes");
                Ok(Gave::Nothing)
            }
        }
    }
}

/// Steps that change nothing a restore of a known point looks at.
const UNSEEN: [&str; 5] =
    ["repo.lock.take", "repo.segment.put", "repo.index.put", "repo.tombstone.put", "repo.sweep.maps-gone"];

enum Gave {
    Nothing,
    Point(PointId, Vec<u8>),
}

/// Where the threads of a run stand.
#[derive(Default)]
struct Stage {
    inner: Mutex<Standing>,
    moved: Condvar,
}

#[derive(Default)]
struct Standing {
    /// Stands before a step.
    waiting: Vec<bool>,
    done: Vec<bool>,
    turn: Option<usize>,
}

impl Stage {
    /// A thread stands before its next step until it is its turn.
    fn stop(&self, me: usize) {
        let mut standing = self.inner.lock().unwrap();
        standing.waiting[me] = true;
        self.moved.notify_all();
        standing = self.moved.wait_while(standing, |s| s.turn != Some(me)).unwrap();
        (standing.turn, standing.waiting[me]) = (None, false);
    }

    fn end(&self, me: usize) {
        self.inner.lock().unwrap().done[me] = true;
        self.moved.notify_all();
    }

    /// Those that can make a step, when nobody moves any more.
    fn ready(&self) -> Vec<usize> {
        let standing = self.inner.lock().unwrap();
        let moves =
            |s: &mut Standing| s.turn.is_some() || (0..s.done.len()).any(|n| !s.done[n] && !s.waiting[n]);
        let standing = self.moved.wait_while(standing, moves).unwrap();
        (0..standing.done.len()).filter(|n| !standing.done[*n]).collect()
    }

    fn let_go(&self, who: usize) {
        self.inner.lock().unwrap().turn = Some(who);
        self.moved.notify_all();
    }
}

/// Runs the deeds; `choose` picks among those that are ready. What each gave.
fn play(
    bed: &Bed,
    deeds: &[Deed],
    choose: &mut dyn FnMut(&[usize]) -> usize,
) -> (tempfile::TempDir, Vec<Result<Gave>>) {
    let folder = bed.copy();
    let stage = Arc::new(Stage::default());
    *stage.inner.lock().unwrap() =
        Standing { waiting: vec![false; deeds.len()], done: vec![false; deeds.len()], turn: None };
    let gave = std::thread::scope(|scope| {
        let threads: Vec<_> = deeds
            .iter()
            .enumerate()
            .map(|(me, &deed)| {
                let (stage, path): (_, PathBuf) = (Arc::clone(&stage), folder.path().into());
                let beside_restore = deeds.len() == 2 && deeds.iter().any(|d| matches!(d, Deed::Restore(_)));
                scope.spawn(move || {
                    let _end = End(&stage, me);
                    let repo = open(&path).unwrap();
                    let gate = Arc::clone(&stage);
                    let at = move |name: &str| {
                        if deed.steps_at(name, beside_restore) {
                            gate.stop(me);
                        }
                    };
                    gated(at, || deed.run(&repo, bed))
                })
            })
            .collect();
        loop {
            let ready = stage.ready();
            if ready.is_empty() {
                break;
            }
            stage.let_go(ready[choose(&ready)]);
        }
        threads.into_iter().map(|t| t.join().unwrap()).collect()
    });
    (folder, gave)
}

/// The thread has ended, also by a panic.
struct End<'a>(&'a Stage, usize);
impl Drop for End<'_> {
    fn drop(&mut self) {
        self.0.end(self.1);
    }
}

/// What must be true after every run. How many deeds were turned away.
fn judge(bed: &Bed, deeds: &[Deed], folder: &Path, gave: Vec<Result<Gave>>) -> usize {
    let mut shadows: BTreeMap<PointId, Vec<u8>> = bed.points.iter().cloned().collect();
    let graceful = !deeds.iter().any(|d| matches!(d, Deed::Prune(g) | Deed::Compact(g) if g.is_zero()));
    let harmed = deeds.contains(&Deed::Repair);
    let mut away = 0;
    for (deed, gave) in deeds.iter().zip(gave) {
        match gave {
            Ok(Gave::Point(id, image)) => drop(shadows.insert(id, image)),
            Ok(Gave::Nothing) => {}
            Err(e) => {
                away += 1;
                // until it is repaired, nobody builds on what is damaged
                if !(harmed && e.kind() == Kind::Damaged) {
                    may_fail(*deed, graceful, &e);
                }
            }
        }
    }
    let repo = open(folder).unwrap();
    if harmed {
        Deed::Repair.run(&repo, bed).unwrap_or_else(|e| panic!("{deeds:?}: {e:?}"));
    }
    let points = repo.points().unwrap();
    assert!(!points.is_empty(), "{deeds:?}: no point is left");
    for point in &points {
        let got = restore(&repo, &point.device, point.id).unwrap_or_else(|e| panic!("{deeds:?}: {e:?}"));
        assert!(got == shadows[&point.id], "{deeds:?}: point {} differs", point.id);
    }
    let report = check(&repo, false, &mut |_, _| {}).unwrap();
    assert!(report.damages.is_empty(), "{deeds:?}: {:?}", report.damages);
    away
}

/// A writer is turned away while another one writes; a restore fails only without a time of grace, and says so.
fn may_fail(deed: Deed, graceful: bool, error: &Error) {
    let allowed = match deed {
        Deed::Restore(_) => !graceful && matches!(error.kind(), Kind::NotFound | Kind::Damaged),
        // the point it was to stand on was dropped before it began
        Deed::Backup => matches!(error.kind(), Kind::Busy | Kind::NotFound),
        _ => error.kind() == Kind::Busy,
    };
    assert!(allowed, "{deed:?} failed: {error:?}");
}

/// Every schedule of two deeds. How many there are, and in how many a deed was turned away.
fn every_order(bed: &Bed, deeds: [Deed; 2]) -> (usize, usize) {
    let (mut prefix, mut runs, mut away): (Vec<(usize, usize)>, _, _) = (Vec::new(), 0, 0);
    loop {
        let mut at = 0;
        let (folder, gave) = play(bed, &deeds, &mut |ready| {
            if at == prefix.len() {
                prefix.push((0, ready.len()));
            }
            at += 1;
            prefix[at - 1].0
        });
        runs += 1;
        away += usize::from(judge(bed, &deeds, folder.path(), gave) > 0);
        while prefix.last().is_some_and(|(chosen, of)| chosen + 1 >= *of) {
            prefix.pop();
        }
        match prefix.last_mut() {
            Some((chosen, _)) => *chosen += 1,
            None => return (runs, away),
        }
    }
}

fn all_orders(bed: &Bed, pairs: &[[Deed; 2]]) {
    for pair in pairs {
        let (runs, away) = every_order(bed, *pair);
        println!("{pair:?}: {runs} orders, {away} with one turned away or failed");
        assert!(runs > 2, "{pair:?}: there is more than one step in each");
    }
}

/// Two points, the older of which goes.
#[test]
fn prune_beside_a_restore_in_every_order() {
    let bed = Bed::new(1);
    let (now, grace) = (Deed::Prune(Duration::ZERO), Deed::Prune(DAY));
    all_orders(&bed, &[[grace, Deed::Restore(0)], [grace, Deed::Restore(1)], [now, Deed::Restore(0)]]);
    all_orders(&bed, &[[now, Deed::Restore(1)]]);
}

#[test]
fn prune_beside_writers_in_every_order() {
    let bed = Bed::new(2);
    for grace in [Duration::ZERO, DAY] {
        let prune = Deed::Prune(grace);
        all_orders(
            &bed,
            &[[prune, Deed::Backup], [prune, prune], [prune, Deed::Merge], [prune, Deed::Orphans]],
        );
    }
    all_orders(
        &bed,
        &[[Deed::Backup, Deed::Orphans], [Deed::Merge, Deed::Orphans], [Deed::Merge, Deed::Restore(2)]],
    );
}

/// Nobody knows of the device before, and the names of what comes are older than any time of grace.
#[test]
fn a_copy_beside_the_search_for_orphans_and_a_prune_in_every_order() {
    let bed = Bed::new(1);
    let prune = Deed::Prune(Duration::ZERO);
    all_orders(&bed, &[[Deed::Copy, Deed::Orphans], [Deed::Copy, prune], [Deed::Copy, Deed::Copy]]);
}

/// An index is damaged, and repaired while others work.
#[test]
fn repair_beside_writers_in_every_order() {
    let bed = Bed::new(2).prepare(|repo, device| {
        let index = repo.local_path().unwrap().join(format!("idx/{device}"));
        let first = std::fs::read_dir(index).unwrap().map(|e| e.unwrap().path()).min().unwrap();
        std::fs::File::options().write(true).open(first).and_then(|file| file.set_len(99)).unwrap();
    });
    for grace in [Duration::ZERO, DAY] {
        all_orders(&bed, &[[Deed::Repair, Deed::Prune(grace)]]);
    }
    all_orders(
        &bed,
        &[[Deed::Repair, Deed::Backup], [Deed::Repair, Deed::Orphans], [Deed::Repair, Deed::Repair]],
    );
}

/// The last point has a map that names a part of the full, which is dropped.
#[test]
fn compaction_beside_everything_in_every_order() {
    let bed = Bed::new(1).prepare(|repo, device| {
        prune(repo, device, &Policy { last: 1, ..Policy::default() }, Duration::ZERO, false).unwrap();
    });
    let (now, grace) = (Deed::Compact(Duration::ZERO), Deed::Compact(DAY));
    let prune = Deed::Prune(Duration::ZERO);
    all_orders(&bed, &[[grace, Deed::Restore(1)], [now, Deed::Restore(1)], [now, Deed::Backup], [now, now]]);
    all_orders(&bed, &[[now, prune], [grace, prune], [now, Deed::Orphans]]);
}

/// Of a chain any link can go while a restore of any point runs; the link in the middle here.
#[test]
fn three_at_once_in_orders_drawn_with_a_seed() {
    let beds = [
        Bed::new(2),
        Bed::new(3).prepare(|repo, device| {
            let lock = repo.lock(device).unwrap();
            let points = repo.points().unwrap();
            Chain::resolve(repo, device, points[2].id).unwrap().merge(&lock).unwrap();
        }),
    ];
    let (now, day) = (Duration::ZERO, DAY);
    let cases = [
        [Deed::Prune(now), Deed::Backup, Deed::Restore(2)],
        [Deed::Prune(day), Deed::Backup, Deed::Restore(0)],
        [Deed::Prune(day), Deed::Compact(day), Deed::Restore(1)],
        [Deed::Prune(now), Deed::Compact(now), Deed::Restore(2)],
        [Deed::Merge, Deed::Prune(now), Deed::Restore(2)],
        [Deed::Backup, Deed::Orphans, Deed::Prune(now)],
        [Deed::Merge, Deed::Compact(now), Deed::Prune(now)],
    ];
    let seed: u64 = std::env::var("BLKDELTA_TEST_SEED").ok().and_then(|s| s.parse().ok()).unwrap_or(19);
    println!("seed {seed}");
    let mut state = seed | 1;
    for round in 0..40 {
        for deeds in cases {
            let (folder, gave) = play(&beds[round % 2], &deeds, &mut |ready| {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                (state >> 33) as usize % ready.len()
            });
            judge(&beds[round % 2], &deeds, folder.path(), gave);
        }
    }
}
