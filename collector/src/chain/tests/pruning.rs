//! Merging and pruning against the naive model: what stays gives back the same bytes.

#![expect(clippy::disallowed_methods, reason = "damages files on purpose")]

use super::*;
use crate::chain::{Compacted, Limits, Policy, compact, prune};
use std::path::Path;
use std::time::Duration;

pub(super) struct Made {
    pub repo: Repository,
    pub points: Vec<(PointId, Vec<u8>)>,
    pub image: Vec<u8>,
    pub _dir: tempfile::TempDir,
}

impl Made {
    pub fn new() -> Self {
        Self::encrypted(false)
    }

    pub fn encrypted(encrypted: bool) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let public = || crate::seal::PrivateKey::generate().unwrap().public().unwrap();
        let keys = encrypted.then(|| (crate::format::NewKey::Recipient(public()), String::new()));
        let made = Repository::create_with(dir.path().to_str().unwrap(), keys.into_iter().collect());
        let (repo, _) = made.unwrap();
        Self { repo, points: Vec::new(), image: vec![0; SIZE], _dir: dir }
    }

    pub fn add(&mut self, full: bool, passes: &[Vec<Write>]) {
        self.add_at(full, passes, self.points.len() as u64 * 1000);
    }

    /// With the clock at `time_cut`.
    fn add_at(&mut self, full: bool, passes: &[Vec<Write>], time_cut: u64) {
        let lock = self.repo.lock(&device().id).unwrap();
        let parent = self.points.last().map(|p| p.0).filter(|_| !full);
        let mut writer = self.repo.begin(&lock, new_point(parent)).unwrap();
        if full {
            // a full holds all that is not zero
            self.image = vec![0; SIZE];
        }
        for (n, pass) in passes.iter().enumerate() {
            if n > 0 {
                writer.start_pass().unwrap();
            }
            for frame in apply(&mut self.image, pass) {
                writer.add(frame).unwrap();
            }
        }
        let point = writer.finish(info(time_cut)).unwrap().point;
        self.points.push((point, self.image.clone()));
    }

    pub fn listed(&self) -> Vec<PointId> {
        self.repo.points().unwrap().iter().map(|p| p.id).collect()
    }

    /// Every listed point restores to what it was, and nothing is damaged.
    pub fn hold(&self) {
        for id in self.listed() {
            let shadow = &self.points.iter().find(|p| p.0 == id).unwrap().1;
            let chain = Chain::resolve(&self.repo, &device().id, id).unwrap();
            assert!(restore(&chain) == *shadow, "point {id} differs");
        }
        let report = check(&self.repo, true, &mut |_, _| {}).unwrap();
        assert!(report.damages.is_empty(), "{:?}", report.damages);
    }

    pub fn prune(&self, last: u32, grace: Duration) -> crate::chain::Pruned {
        let policy = Policy { last, ..Policy::default() };
        prune(&self.repo, &device().id, &policy, grace, false).unwrap()
    }

    pub fn compact(&self, dead: f64, grace: Duration, max_bytes: u64) -> Compacted {
        let limits = Limits { dead, max_bytes, bandwidth: None, grace };
        compact(&self.repo, &device().id, &limits, false, &mut |_, _| true).unwrap()
    }

    pub fn objects(&self, folder: &str) -> usize {
        fn count(folder: &Path) -> usize {
            let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
            entries.map(|e| if e.path().is_dir() { count(&e.path()) } else { 1 }).sum()
        }
        count(&self.repo.local_path().unwrap().join(folder))
    }
}

pub(super) const DAY: Duration = Duration::from_secs(86_400);

/// What is done with a repository between backups.
#[derive(Clone, Debug)]
pub(super) enum Deed {
    Back(bool, Vec<Vec<Write>>),
    Merge(usize),
    Prune(u32, bool),
    Compact(u8, bool),
}

pub(super) fn deed() -> impl Strategy<Value = Deed> {
    prop_oneof![
        4 => (prop::bool::weighted(0.15), prop::collection::vec(pass(), 1..3)).prop_map(|(f, p)| Deed::Back(f, p)),
        1 => (0usize..9).prop_map(Deed::Merge),
        1 => (1u32..5, any::<bool>()).prop_map(|(last, at_once)| Deed::Prune(last, at_once)),
        1 => (1u8..90, any::<bool>()).prop_map(|(dead, at_once)| Deed::Compact(dead, at_once)),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]
    #[test]
    fn what_stays_gives_back_the_same_bytes(deeds in prop::collection::vec(deed(), 1..12), encrypted: bool) {
        let mut made = Made::encrypted(encrypted);
        made.add(true, &[vec![(0, 40, 200)]]);
        for deed in deeds {
            match deed {
                Deed::Back(full, passes) => made.add(full, &passes),
                Deed::Merge(n) => {
                    let listed = made.listed();
                    let lock = made.repo.lock(&device().id).unwrap();
                    let chain = Chain::resolve(&made.repo, &device().id, listed[n % listed.len()]).unwrap();
                    let segments = made.objects("seg");
                    chain.merge(&lock).unwrap();
                    prop_assert_eq!(made.objects("seg"), segments, "a merge moves no data");
                }
                Deed::Prune(last, at_once) => {
                    made.prune(last, if at_once { Duration::ZERO } else { DAY });
                    prop_assert!(made.listed().len() <= last as usize);
                }
                Deed::Compact(dead, at_once) => {
                    let (dead, listed) = (f64::from(dead) / 100.0, made.listed());
                    made.compact(dead, if at_once { Duration::ZERO } else { DAY }, u64::MAX);
                    prop_assert_eq!(made.listed(), listed);
                    made.hold();
                    let again = made.compact(dead, DAY, u64::MAX);
                    prop_assert_eq!((again.segments, again.maps), (0, 0), "the work ends");
                }
            }
            made.hold();
        }
        // nothing is left of what went
        made.prune(1, Duration::ZERO);
        made.hold();
        prop_assert_eq!(made.objects("bak"), 1);
        prop_assert_eq!(made.objects("idx"), 1);
        prop_assert_eq!(made.objects("del"), 0);
    }
}

/// Museum M19: data of a point that goes are there until the time of grace is over.
#[test]
fn a_restore_that_began_before_the_drop_ends_well_within_the_grace() {
    let mut made = Made::new();
    made.add(true, &[vec![(0, 53, 150)]]);
    made.add(false, &[vec![(3, 9, 7)]]);
    made.add(false, &[vec![(8, 9, 8)]]);
    let (first, shadow) = made.points[0].clone();
    let chain = Chain::resolve(&made.repo, &device().id, first).unwrap();
    let pruned = made.prune(1, DAY);
    assert_eq!((pruned.plan.drop.len(), pruned.plan.sweep.len(), pruned.plan.map.len()), (2, 0, 1));
    assert!(restore(&chain) == shadow);
    assert_eq!(made.listed(), [made.points[2].0]);
    made.hold();
    // and after it: an error, never other bytes
    made.prune(1, Duration::ZERO);
    made.hold();
    let gone = Chain::resolve(&made.repo, &device().id, first).unwrap_err();
    assert_eq!(gone.kind(), Kind::NotFound);
    assert!(chain.pieces().is_err());
}

/// A point in the middle goes; what stands on it does not notice.
#[test]
fn any_link_in_the_middle_can_go() {
    let mut made = Made::new();
    made.add(true, &[vec![(0, 53, 150)]]);
    for n in 1..6 {
        made.add(false, &[vec![(n * 5, 9, n as u8)]]);
    }
    // by time: points 0, 1 s, ... 5 s; the rule below keeps the newest three
    made.prune(3, Duration::ZERO);
    made.hold();
    made.add(false, &[vec![(40, 3, 99)]]);
    made.hold();
    assert_eq!(made.listed().len(), 4);
    let chain = Chain::resolve(&made.repo, &device().id, made.points[6].0).unwrap();
    assert_eq!(chain.points().len(), 4, "the chain ends at the point with the map");
}

#[test]
fn a_backup_that_runs_is_left_alone() {
    let mut made = Made::new();
    made.add(true, &[vec![(0, 53, 150)]]);
    made.add(false, &[vec![(3, 9, 7)]]);
    let lock = made.repo.lock(&device().id).unwrap();
    let writer = made.repo.begin(&lock, new_point(Some(made.points[1].0))).unwrap();
    let policy = Policy { last: 1, ..Policy::default() };
    let busy = prune(&made.repo, &device().id, &policy, Duration::ZERO, false).unwrap_err();
    assert_eq!(busy.kind(), Kind::Busy);
    assert_eq!(made.repo.sweep_orphans(Duration::ZERO).unwrap_err().kind(), Kind::Busy);
    // to look is allowed
    assert_eq!(prune(&made.repo, &device().id, &policy, DAY, true).unwrap().plan.drop.len(), 1);
    let point = writer.finish(info(5000)).unwrap().point;
    drop(lock);
    made.points.push((point, made.image.clone()));
    made.hold();
}

/// A map that is damaged is not used while the chain below is there; when it is not, nothing is made up.
#[test]
fn a_damaged_map_never_gives_other_bytes() {
    let mut made = Made::new();
    made.add(true, &[vec![(0, 53, 150)]]);
    made.add(false, &[vec![(3, 9, 7)]]);
    let (id, shadow) = made.points[1].clone();
    let lock = made.repo.lock(&device().id).unwrap();
    Chain::resolve(&made.repo, &device().id, id).unwrap().merge(&lock).unwrap().unwrap();
    drop(lock);
    let folder = made.repo.local_path().unwrap().join("map/disk").join(id.to_string());
    let whole: Vec<_> = ["1", "1.json"].map(|n| std::fs::read(folder.join(n)).unwrap()).into();
    for (name, bytes) in ["1", "1.json"].iter().zip(&whole) {
        for at in [0, bytes.len() / 2, bytes.len() - 3] {
            let mut bad = bytes.clone();
            bad[at] ^= 4;
            std::fs::write(folder.join(name), &bad).unwrap();
            assert!(!check(&made.repo, true, &mut |_, _| {}).unwrap().damages.is_empty(), "{name} {at}");
            let chain = Chain::resolve(&made.repo, &device().id, id).unwrap();
            if let Ok(pieces) = chain.pieces().and_then(|p| p.collect::<Result<Vec<_>>>()) {
                let mut image = vec![0; SIZE];
                let sink = &mut |extent: Extent, bytes: &[u8]| {
                    image[extent.offset as usize..extent.end() as usize].copy_from_slice(bytes);
                    Ok(())
                };
                if made.repo.read_pieces(&pieces, sink).is_ok() {
                    assert!(image == shadow, "{name} {at}");
                }
            }
        }
        std::fs::write(folder.join(name), bytes).unwrap();
    }
    made.hold();
    // the map is lost, then the point below would go: a new map is written first
    std::fs::write(folder.join("1"), b"x").unwrap();
    made.prune(1, Duration::ZERO);
    made.hold();
    assert!(folder.join("2.json").exists());
}

/// A full of noise, most of it written over since, of which only the last point is kept.
fn mostly_dead() -> Made {
    let mut made = Made::new();
    made.add(true, &[vec![(0, 53, 150)]]);
    made.add(false, &[vec![(0, 14, 7), (18, 30, 160)]]);
    made.add(false, &[vec![(3, 2, 9)]]);
    made.prune(1, Duration::ZERO);
    made
}

#[test]
fn a_compaction_frees_what_no_point_shows_and_says_how_much() {
    let made = mostly_dead();
    let before = made.objects("seg");
    let planned = compact(
        &made.repo,
        &device().id,
        &Limits { dead: 0.3, max_bytes: u64::MAX, bandwidth: None, grace: DAY },
        true,
        &mut |_, _| true,
    )
    .unwrap();
    assert!(planned.segments > 0 && planned.freed.is_none() && made.objects("seg") == before);
    let done = made.compact(0.3, DAY, u64::MAX);
    assert_eq!((done.segments, done.moved_bytes), (planned.segments, planned.moved_bytes));
    assert!(done.maps == 1 && done.moved_bytes < done.segment_bytes && done.damaged.is_empty());
    let freed = done.freed.unwrap();
    assert_eq!((freed.segments, freed.waiting_bytes), (0, done.segment_bytes), "the grace is not over");
    made.hold();
    assert_eq!(check(&made.repo, true, &mut |_, _| {}).unwrap().superseded, done.segments);
    // the nightly prune takes it away when the grace is over
    let pruned = made.prune(1, Duration::ZERO).swept.unwrap();
    assert_eq!((pruned.segments, pruned.bytes), (done.segments, done.segment_bytes));
    assert_eq!(made.objects("seg"), before - done.segments as usize + 1);
    assert_eq!(made.objects("map"), 2, "the superseded map is gone");
    made.hold();
    made.repo.sweep_orphans(Duration::ZERO).unwrap();
    made.hold();
}

/// Museum M19, for what is moved instead of dropped.
#[test]
fn a_restore_that_began_before_a_compaction_ends_well_within_the_grace() {
    let made = mostly_dead();
    let (last, shadow) = made.points.last().unwrap().clone();
    let chain = Chain::resolve(&made.repo, &device().id, last).unwrap();
    assert!(made.compact(0.3, DAY, u64::MAX).segments > 0);
    assert!(restore(&chain) == shadow);
    // and after it: an error, never other bytes; who asks again gets it
    made.compact(0.3, Duration::ZERO, u64::MAX);
    let pieces = chain.pieces().and_then(|p| p.collect::<Result<Vec<_>>>());
    assert!(pieces.and_then(|p| made.repo.read_pieces(&p, &mut |_, _| Ok(()))).is_err());
    made.hold();
}

#[test]
fn a_compaction_keeps_to_its_bound_and_goes_on_later() {
    let mut made = Made::new();
    made.add(true, &[vec![(0, 53, 150)]]);
    for n in 1..6 {
        // of each point little stays
        made.add(false, &[vec![(0, 40, 150 + n), (40 + n as usize, 1, 200 + n)]]);
    }
    made.prune(1, Duration::ZERO);
    let whole = made.compact(0.5, DAY, 0);
    assert_eq!((whole.segments, whole.maps, whole.more), (0, 0, true));
    let (mut runs, mut emptied) = (0, 0);
    loop {
        // what is left of the full fits, but not along with the others
        let one = made.compact(0.2, DAY, 90_000);
        made.hold();
        assert!(one.moved_bytes <= 90_000);
        (runs, emptied) = (runs + 1, emptied + one.segments);
        if !one.more {
            break;
        }
        assert!(one.segments > 0, "every run gets on");
    }
    assert!(runs > 1 && emptied >= 4, "{runs} runs, {emptied} segments");
    // stopped by a person: what was moved so far counts
    let limits = Limits { dead: 0.01, max_bytes: u64::MAX, bandwidth: None, grace: DAY };
    let stopped = compact(&made.repo, &device().id, &limits, false, &mut |_, _| false).unwrap();
    assert!(stopped.segments <= 1);
    made.hold();
}

/// Damage is not moved into a sound segment, and stops nothing else.
#[test]
fn a_damaged_frame_stays_where_it_is_and_is_named() {
    let made = mostly_dead();
    let planned = made.compact(0.3, DAY, 0);
    assert!(planned.more);
    let mut files = Vec::new();
    for shard in std::fs::read_dir(made.repo.local_path().unwrap().join("seg")).unwrap().flatten() {
        files.extend(std::fs::read_dir(shard.path()).unwrap().flatten().map(|e| e.path()));
    }
    for file in &files {
        let mut bytes = std::fs::read(file).unwrap();
        let last_frame = bytes.len() - 60 - bytes.len() / 8;
        bytes[64..last_frame].fill(7);
        std::fs::write(file, bytes).unwrap();
    }
    let done = made.compact(0.3, Duration::ZERO, u64::MAX);
    assert!(done.segments == 0 && done.maps == 0 && !done.damaged.is_empty(), "{done:?}");
    assert_eq!(made.objects("seg"), files.len());
}

/// A sole map that is lost is not replaced by one that names segments which are gone.
#[test]
fn a_lost_map_of_a_compaction_is_said_and_never_papered_over() {
    let made = mostly_dead();
    let last = made.points.last().unwrap().0;
    made.compact(0.3, Duration::ZERO, u64::MAX);
    let folder = made.repo.local_path().unwrap().join("map/disk").join(last.to_string());
    let map =
        std::fs::read_dir(&folder).unwrap().flatten().map(|e| e.path()).find(|p| p.extension().is_none());
    std::fs::write(map.unwrap(), b"x").unwrap();
    let report = check(&made.repo, false, &mut |_, _| {}).unwrap();
    assert!(report.damages.iter().any(|d| d.points.contains(&last)), "{:?}", report.damages);
    let lock = made.repo.lock(&device().id).unwrap();
    let failed = Chain::resolve(&made.repo, &device().id, last).and_then(|c| c.merge(&lock).map(drop));
    assert!(failed.is_err_and(|e| e.kind() == Kind::Damaged));
    drop(lock);
    let limits = Limits { dead: 0.3, max_bytes: u64::MAX, bandwidth: None, grace: Duration::ZERO };
    let failed = compact(&made.repo, &device().id, &limits, false, &mut |_, _| true).unwrap_err();
    assert_eq!(failed.kind(), Kind::Damaged);
    // the moved frames are still there for whoever can save them
    assert!(made.objects("seg") > 0);
}

/// The clock went backwards between backups: the order of points is that of the chain, and the newest stays.
#[test]
fn a_clock_that_goes_backwards_hides_no_point_and_drops_none_too_early() {
    let mut made = Made::new();
    for (n, time) in [5_000_000, 9_000_000, 1_000_000, 1_000_000, 10, 8_000_000].into_iter().enumerate() {
        made.add_at(n == 0, &[vec![(n * 7, 9, n as u8 + 1)]], time);
    }
    let order: Vec<PointId> = made.points.iter().map(|p| p.0).collect();
    assert_eq!(made.listed(), order);
    assert_eq!(made.repo.resolve("latest", None).unwrap().1, order[5]);
    made.hold();
    // a tombstone of the future: its time of grace is not over, whatever the clock says now
    let (manifest, hash) = made.repo.manifest(&device().id, order[1]).unwrap();
    let tombstone = crate::format::Tombstone {
        repository: made.repo.uuid(),
        device: device().id,
        point: order[1],
        manifest: hash,
        size: SIZE as u64,
        index: manifest.index,
        time: crate::repository::unix_millis() + 3_600_000,
        tool: "a clock that was ahead".into(),
    };
    let file = made.repo.local_path().unwrap().join(format!("del/disk/{}.json", order[1]));
    std::fs::create_dir_all(file.parent().unwrap()).unwrap();
    std::fs::write(file, tombstone.encode_in(None).unwrap()).unwrap();
    let chain = Chain::resolve(&made.repo, &device().id, order[1]).unwrap();
    let pruned = made.prune(2, Duration::ZERO);
    assert_eq!(made.listed(), order[4..]);
    assert!(!pruned.plan.sweep.contains(&order[1]));
    assert!(restore(&chain) == made.points[1].1);
    made.hold();
}

/// A full stands on no point that would say what came before it: the clock was set back, or was ahead when others were made.
#[test]
fn a_full_made_after_the_clock_was_set_back_is_the_latest() {
    let mut made = Made::new();
    for (n, time) in [5_000, 9_000, 100, 200, 50].into_iter().enumerate() {
        made.add_at(n % 2 == 0, &[vec![(n * 7, 9, n as u8 + 1)]], time);
    }
    let order: Vec<PointId> = made.points.iter().map(|p| p.0).collect();
    assert_eq!(made.listed(), order);
    assert_eq!(made.repo.resolve("latest", None).unwrap().1, order[4]);
    let notes = |n: usize| made.repo.manifest(&device().id, order[n]).unwrap().0.notes;
    assert!(notes(1).is_empty() && notes(4).iter().any(|note| note.contains("clock")), "{:?}", notes(4));
    // those before it may go, and it stays behind what is left
    made.prune(2, Duration::ZERO);
    assert_eq!(made.listed(), order[3..]);
    made.hold();
    // the clock is right again
    made.add_at(true, &[vec![(1, 2, 3)]], 10_000);
    assert_eq!(made.repo.manifest(&device().id, made.points[5].0).unwrap().0.order, None);
    // names tell it too: one from the year 2100
    let (mut future, _) = made.repo.manifest(&device().id, order[4]).unwrap();
    let mut name = order[4].to_bytes();
    name[..6].copy_from_slice(&4_102_444_800_000_u64.to_be_bytes()[2..]);
    (future.point, future.order, future.time_cut) = (PointId::from_bytes(name), None, 4_102_444_800_000);
    let file = made.repo.local_path().unwrap().join(format!("bak/disk/{}.json", future.point));
    std::fs::write(file, future.encode().unwrap()).unwrap();
    made.add_at(true, &[vec![(1, 2, 4)]], 11_000);
    assert_eq!(made.listed().last(), made.points.last().map(|p| &p.0));
}
