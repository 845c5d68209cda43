//! Parity: what is lost or rots, up to its share, is given back bit for bit; more is said, and nothing is made worse.

#![expect(clippy::disallowed_methods, reason = "damages files on purpose")]

use super::pruning::{DAY, Made, deed};
use super::*;
use crate::chain::{Policy, Repaired, prune, repair};
use crate::format::ParityShare;
use crate::repository::{Parity, ParityState};
use std::path::{Path, PathBuf};
use std::time::Duration;

fn cover(made: &Made, share: ParityShare) -> Parity {
    made.repo.cover_with_parity(&made.repo.lock(&device().id).unwrap(), share).unwrap()
}

fn state(made: &Made) -> ParityState {
    check(&made.repo, true, &mut |_, _| {}).unwrap().parity.unwrap()
}

fn mend(made: &Made) -> Repaired {
    repair(&made.repo, false, &mut |_, _, _| {}).unwrap()
}

fn file(made: &Made, key: &str) -> PathBuf {
    made.repo.local_path().unwrap().join(key)
}

/// Every file of the repository but locks and the quarantine; without parity, if so.
fn tree(made: &Made, parity: bool) -> BTreeMap<PathBuf, Vec<u8>> {
    fn walk(folder: &Path, into: &mut BTreeMap<PathBuf, Vec<u8>>) {
        for path in std::fs::read_dir(folder).unwrap().flatten().map(|e| e.path()) {
            if path.is_dir() {
                walk(&path, into)
            } else {
                drop(into.insert(path.clone(), std::fs::read(&path).unwrap()))
            }
        }
    }
    let (mut found, root) = (BTreeMap::new(), made.repo.local_path().unwrap());
    walk(root, &mut found);
    let but = ["lock", "quarantine"].into_iter().chain((!parity).then_some("par"));
    but.for_each(|but| found.retain(|path, _| !path.starts_with(root.join(but))));
    found
}

/// Removes an object, cuts it short, or turns a bit of it over.
fn damage(file: &Path, how: usize) {
    let mut bytes = std::fs::read(file).unwrap();
    let at = (how / 3) % bytes.len();
    match how % 3 {
        0 => return std::fs::remove_file(file).unwrap(),
        1 => bytes.truncate(at),
        _ => bytes[at] ^= 1 << (how % 8),
    }
    std::fs::write(file, bytes).unwrap();
}

/// A full and increments, a merge, a dropped point in its time of grace: every kind of object.
fn of_every_kind(encrypted: bool, share: &str) -> Made {
    let mut made = Made::encrypted(encrypted);
    made.add(true, &[vec![(0, 50, 200)]]);
    for n in 0..4 {
        made.add(false, &[vec![(n * 9, 7, 140 + n as u8), (40, 3, 0)]]);
    }
    let lock = made.repo.lock(&device().id).unwrap();
    Chain::resolve(&made.repo, &device().id, made.points[4].0).unwrap().merge(&lock).unwrap();
    drop(lock);
    made.prune(2, DAY);
    let done = cover(&made, share.parse().unwrap());
    assert!(done.left.is_empty() && done.covered > 0, "{done:?}");
    let mut covered: Vec<String> =
        made.repo.groups_as_keys(&device().id).into_iter().flat_map(|[_, m]| m).collect();
    for kind in ["seg/", "idx/", "bak/", "map/", "del/"] {
        assert!(covered.iter().any(|key| key.starts_with(kind)), "{kind} is not covered: {covered:?}");
    }
    let root = made.repo.local_path().unwrap();
    let all = tree(&made, false)
        .into_keys()
        .map(|path| path.strip_prefix(root).unwrap().to_str().unwrap().to_owned());
    let kept = |key: &String| !["key/", "spare/", "repo.json"].iter().any(|but| key.starts_with(but));
    let all: Vec<String> = all.filter(kept).collect();
    covered.sort();
    assert_eq!(covered, all);
    made
}

#[test]
fn every_kind_of_object_that_is_lost_or_rots_is_given_back_bit_for_bit() {
    for encrypted in [false, true] {
        let made = of_every_kind(encrypted, "2%");
        let before = tree(&made, true);
        for [parity, members] in made.repo.groups_as_keys(&device().id) {
            assert_eq!(parity.len(), 1);
            for (n, key) in members.iter().enumerate() {
                for how in [0, 1, 3 * 70 + 2, 3 * n + 2] {
                    damage(&file(&made, key), how);
                    let found = check(&made.repo, true, &mut |_, _| {}).unwrap();
                    assert_eq!(found.parity.unwrap().mendable, std::slice::from_ref(key), "{key} {how}");
                    let would = repair(&made.repo, true, &mut |_, _, _| {}).unwrap();
                    assert!(
                        would.from_parity == [key.clone()]
                            && would.lost.is_empty()
                            && would.rebuilt.is_empty(),
                        "{would:?}"
                    );
                    let done = mend(&made);
                    assert!(
                        done.from_parity == [key.clone()] && done.lost.is_empty(),
                        "{key} {how}: {done:?}"
                    );
                    assert!(tree(&made, true) == before, "{key} {how}");
                }
            }
        }
        made.hold();
        let again = mend(&made);
        assert!(again.from_parity.is_empty() && again.parity.groups == 0, "{again:?}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    /// Backups, merges, prunes and compactions between which parity is kept; then as much as it is for is lost of every group,
    /// of the parity itself too.
    #[test]
    fn up_to_its_share_everything_comes_back(
        deeds in prop::collection::vec(deed(), 1..9), encrypted: bool, share in prop::sample::select(vec!["2%", "10%", "34%", "50%"]),
        each: bool, harm in prop::collection::vec((any::<prop::sample::Index>(), 0usize..3000), 40),
    ) {
        let share: ParityShare = share.parse().unwrap();
        let mut made = Made::encrypted(encrypted);
        made.add(true, &[vec![(0, 40, 200)]]);
        for deed in deeds {
            made.does(deed);
            // what is gone has left its group, with or without a new look at parity
            let groups = made.repo.groups_as_keys(&device().id);
            prop_assert!(groups.iter().flatten().flatten().all(|key| file(&made, key).exists()));
            if each {
                prop_assert_eq!(&cover(&made, share).left, &[]);
            }
        }
        prop_assert_eq!(&cover(&made, share).left, &[]);
        let so = state(&made);
        prop_assert!(so.uncovered == 0 && so.short == 0, "{so:?}");
        let before = tree(&made, false);
        let mut harm = harm.into_iter().cycle();
        let groups = made.repo.groups_as_keys(&device().id);
        let covered: usize = groups.iter().map(|[_, members]| members.len()).sum();
        prop_assert_eq!(covered as u64, so.covered, "one is in two groups");
        for [parity, members] in groups {
            let mut all: Vec<&String> = parity.iter().chain(&members).collect();
            for (which, how) in harm.by_ref().take(parity.len()) {
                damage(&file(&made, all.remove(which.index(all.len()))), how);
            }
        }
        let done = mend(&made);
        prop_assert!(done.lost.is_empty() && done.parity.left.is_empty(), "{done:?}");
        prop_assert!(tree(&made, false) == before, "something was not given back as it was");
        // with every parity object lost nobody knows that any was wanted
        prop_assert_eq!(&cover(&made, share).left, &[]);
        let so = state(&made);
        prop_assert!(so.uncovered == 0 && so.short == 0 && so.mendable.is_empty(), "{so:?}");
        made.hold();
    }
}

/// One more than the share: it is said which, nothing else is touched, and what comes back from elsewhere helps again.
#[test]
fn more_than_its_share_is_said_and_nothing_is_made_worse() {
    let made = of_every_kind(false, "34%");
    let groups = made.repo.groups_as_keys(&device().id);
    let [parity, members] = groups.iter().find(|[_, members]| members[0].starts_with("seg/")).unwrap();
    let lost: Vec<&String> = members.iter().take(parity.len() + 1).collect();
    assert!(lost.len() < members.len());
    let whole = tree(&made, true);
    lost.iter().for_each(|key| std::fs::remove_file(file(&made, key)).unwrap());
    let harmed = tree(&made, true);
    let found = check(&made.repo, true, &mut |_, _| {}).unwrap();
    assert_eq!(found.parity.unwrap().beyond.len(), lost.len());
    let done = mend(&made);
    for key in &lost {
        let why = done.lost.iter().find(|(k, _)| k == *key).map(|(_, why)| why.as_str()).unwrap_or_default();
        assert!(
            why.contains("of its parity group are lost")
                && why.contains(&format!("gives back {}", parity.len())),
            "{done:?}"
        );
    }
    assert!(done.from_parity.is_empty() && tree(&made, true) == harmed, "something was touched");
    // one of them is found in a copy of the repository
    std::fs::write(file(&made, lost[0]), &whole[&file(&made, lost[0])]).unwrap();
    let done = mend(&made);
    assert!(done.from_parity.len() == parity.len() && done.lost.is_empty(), "{done:?}");
    assert!(tree(&made, true) == whole);
    made.hold();
}

/// Dropping points while something is lost: what can be given back stays so, or is asked for first.
#[test]
fn a_prune_with_something_lost_never_costs_what_parity_gives_back() {
    let share = "34%".parse().unwrap();
    for (n, how) in (0..60).enumerate() {
        let mut made = Made::new();
        made.add(true, &[vec![(0, 50, 200)]]);
        for n in 0..5 {
            made.add(false, &[vec![(n * 9, 7, 140 + n as u8), (40, 3, n as u8)]]);
        }
        cover(&made, share);
        let victims: Vec<String> = made
            .repo
            .groups_as_keys(&device().id)
            .into_iter()
            .flat_map(|[_, members]| members)
            .filter(|key| key.starts_with("seg/"))
            .collect();
        let key = &victims[n % victims.len()];
        let was = std::fs::read(file(&made, key)).unwrap();
        damage(&file(&made, key), how * 31);
        let policy = Policy { last: 2, ..Policy::default() };
        let pruned = prune(&made.repo, &device().id, &policy, Duration::ZERO, false);
        if let Err(e) = pruned {
            assert!(e.kind() == Kind::Damaged && e.advice().is_some_and(|a| a.contains("repair")), "{e:?}");
        }
        let done = mend(&made);
        assert!(done.lost.is_empty(), "{done:?}");
        made.prune(2, Duration::ZERO);
        made.hold();
        let needed = made.repo.groups_as_keys(&device().id).iter().any(|[_, members]| members.contains(key));
        assert!(!needed || std::fs::read(file(&made, key)).unwrap() == was);
    }
}

/// A store that went on without it (an older program): what it removed is not brought back, what it made is covered.
#[test]
fn without_parity_nothing_changes() {
    let made = of_every_kind(false, "10%");
    let before = tree(&made, false);
    std::fs::remove_dir_all(file(&made, "par")).unwrap();
    made.hold();
    let found = check(&made.repo, true, &mut |_, _| {}).unwrap();
    assert!(found.parity.is_none() && found.damages.is_empty());
    let done = mend(&made);
    assert!(done.parity.groups == 0 && tree(&made, true) == before, "{done:?}");
}

/// An object that parity says is another is never overwritten without being kept.
#[test]
fn what_is_replaced_is_kept_in_the_quarantine() {
    let made = of_every_kind(false, "2%");
    let [_, members] = &made.repo.groups_as_keys(&device().id)[0];
    let key = &members[0];
    std::fs::write(file(&made, key), b"rotten").unwrap();
    assert_eq!(&mend(&made).from_parity, std::slice::from_ref(key));
    assert_eq!(std::fs::read(file(&made, &format!("quarantine/{key}"))).unwrap(), b"rotten");
    made.hold();
}

/// Without `repo.json` nothing can be opened, so it has a copy.
#[test]
fn repo_json_comes_back_from_its_copy() {
    let made = of_every_kind(false, "2%");
    let at = made.repo.local_path().unwrap().to_str().unwrap().to_owned();
    let was = std::fs::read(file(&made, "repo.json")).unwrap();
    assert!(!crate::repository::mend_config(&at, false).unwrap());
    for how in [0, 1, 3 * 100 + 2] {
        damage(&file(&made, "repo.json"), how);
        assert!(Repository::open(&at).is_err());
        assert!(crate::repository::mend_config(&at, true).is_err());
        assert!(crate::repository::mend_config(&at, false).unwrap());
        assert!(std::fs::read(file(&made, "repo.json")).unwrap() == was);
        Repository::open(&at).unwrap();
    }
    assert_eq!(made.objects("quarantine"), 2);
}
