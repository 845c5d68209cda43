//! With every index and every map deleted, everything comes back: after merges, prunes and compactions, encrypted or not.

#![expect(clippy::disallowed_methods, reason = "damages files on purpose")]

use super::pruning::{DAY, Deed, Made, deed};
use super::*;
use crate::chain::{Repaired, repair};
use std::time::Duration;

impl Made {
    /// Does it, with no more questions asked.
    pub fn does(&mut self, deed: Deed) {
        let grace = |at_once| if at_once { Duration::ZERO } else { DAY };
        match deed {
            Deed::Back(full, passes) => self.add(full, &passes),
            Deed::Merge(n) => {
                let listed = self.listed();
                let lock = self.repo.lock(&device().id).unwrap();
                Chain::resolve(&self.repo, &device().id, listed[n % listed.len()])
                    .unwrap()
                    .merge(&lock)
                    .unwrap();
            }
            Deed::Prune(last, at_once) => drop(self.prune(last, grace(at_once))),
            Deed::Compact(dead, at_once) => {
                drop(self.compact(f64::from(dead) / 100.0, grace(at_once), u64::MAX))
            }
        }
    }
}

fn mend(made: &Made) -> Repaired {
    repair(&made.repo, false, &mut |_, _, _| {}).unwrap()
}

/// Every index and every map is gone, and what a program keeps of them.
fn forget(made: &Made) {
    for name in ["idx", "map"] {
        let folder = made.repo.local_path().unwrap().join(name);
        if folder.exists() {
            std::fs::remove_dir_all(folder).unwrap();
        }
    }
}

fn all_comes_back(made: &mut Made) {
    let listed = made.listed();
    let (indexes, maps) = (made.objects("idx"), made.objects("map"));
    forget(made);
    let done = mend(made);
    assert!(done.lost.is_empty() && done.from_parity.is_empty(), "{done:?}");
    assert_eq!((made.listed(), made.objects("idx")), (listed, indexes));
    // a map of a point whose chain is whole need not come back, but does
    assert_eq!(made.objects("map"), maps);
    made.hold();
    let again = mend(made);
    assert!(again.rebuilt.is_empty() && again.set_aside.is_empty() && again.lost.is_empty(), "{again:?}");
    // life goes on
    made.add(false, &[vec![(3, 4, 201), (30, 2, 0)]]);
    made.compact(0.05, Duration::ZERO, u64::MAX);
    made.prune(2, Duration::ZERO);
    made.hold();
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]
    #[test]
    fn whatever_was_done_all_comes_back(deeds in prop::collection::vec(deed(), 1..10), encrypted: bool) {
        let mut made = Made::encrypted(encrypted);
        made.add(true, &[vec![(0, 40, 200)], vec![(4, 3, 0), (9, 2, 7)]]);
        deeds.into_iter().for_each(|deed| made.does(deed));
        all_comes_back(&mut made);
    }
}

/// Points that stand on maps alone, of a merge and of a compaction; and a full in which zeros hid frames of its first pass.
#[test]
fn every_index_and_map_comes_back_after_merges_prunes_and_compactions() {
    for encrypted in [false, true] {
        let mut made = Made::encrypted(encrypted);
        made.add(true, &[vec![(0, 50, 200)], vec![(4, 3, 0)]]);
        for n in 0..4 {
            made.add(false, &[vec![(n * 9, 7, 140 + n as u8), (40, 3, 0)]]);
        }
        all_comes_back(&mut made);
        let last = made.points.last().unwrap().0;
        let lock = made.repo.lock(&device().id).unwrap();
        Chain::resolve(&made.repo, &device().id, last).unwrap().merge(&lock).unwrap();
        drop(lock);
        all_comes_back(&mut made);
        made.prune(1, DAY);
        all_comes_back(&mut made);
        made.compact(0.01, DAY, u64::MAX);
        all_comes_back(&mut made);
    }
}

/// A spare that is damaged is not used, and what it was of stays as it is.
#[test]
fn a_damaged_spare_gives_nothing() {
    let mut made = Made::new();
    made.add(true, &[vec![(0, 50, 200)]]);
    made.add(false, &[vec![(2, 7, 140)]]);
    made.prune(1, Duration::ZERO);
    assert_eq!(made.objects("spare"), 2);
    let last = made.points.last().unwrap().0;
    let folder = made.repo.local_path().unwrap().to_owned();
    let spare = folder.join(format!("spare/disk/{last}/1"));
    let was = std::fs::read(&spare).unwrap();
    let mut bad = was.clone();
    bad[70] ^= 1;
    std::fs::write(&spare, &bad).unwrap();
    let report = check(&made.repo, true, &mut |_, _| {}).unwrap();
    assert!(
        report.damages.iter().any(|d| d.object.starts_with("spare/") && d.points.is_empty()),
        "{report:?}"
    );
    std::fs::remove_dir_all(folder.join("map")).unwrap();
    // nobody knows what the map named: nothing is taken for what nothing names
    let segments = made.objects("seg");
    assert_eq!(made.repo.sweep_orphans(Duration::ZERO).unwrap_err().kind(), Kind::Damaged);
    assert_eq!(made.objects("seg"), segments);
    let done = mend(&made);
    assert!(done.rebuilt.is_empty() && made.objects("map") == 0, "{done:?}");
    std::fs::write(&spare, &was).unwrap();
    assert_eq!(mend(&made).rebuilt.len(), 1);
    made.hold();
    // and one that is whole goes with its point, before its map
    made.add(true, &[vec![(0, 9, 9)]]);
    made.prune(1, Duration::ZERO);
    assert_eq!((made.objects("spare"), made.objects("map")), (0, 0));
}

/// The index of a dropped point is lost for good: its sweep ends all the same, and what it could not tell goes as what
/// nothing names.
#[test]
fn a_rotten_index_of_a_dropped_point_does_not_stop_every_prune() {
    let mut made = Made::new();
    made.add(true, &[vec![(0, 50, 200)]]);
    made.add(false, &[vec![(2, 7, 140)]]);
    made.add(true, &[vec![(0, 30, 150)]]);
    let index = made.repo.local_path().unwrap().join(format!("idx/disk/{}", made.points[0].0));
    let mut bytes = std::fs::read(&index).unwrap();
    let end = bytes.len() - 80;
    bytes[end] ^= 1;
    std::fs::write(&index, bytes).unwrap();
    made.prune(1, Duration::ZERO);
    made.hold();
    assert_eq!((made.objects("bak"), made.objects("idx"), made.objects("del")), (1, 1, 0));
    // the clock of an hour later
    std::thread::sleep(Duration::from_millis(2));
    made.repo.sweep_orphans(Duration::ZERO).unwrap();
    assert_eq!(made.objects("seg"), 1);
    made.hold();
    made.prune(1, Duration::ZERO);
}
