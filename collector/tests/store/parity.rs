//! Parity that dies at every step, of an encrypted repository too, and by a host that cannot read: nothing listed is harmed,
//! and the next run ends the work.

use crate::model::{Model, What, restore};
use crate::partial::files;
use crate::sealed::{Hand, Sealed};
use collector::chain::{Repaired, repair};
use collector::format::PointId;
use collector::repository::{Repository, check};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

const SIZE: usize = 6 << 20;

/// A full and two increments.
fn three(repo: &Repository) -> (Model, Vec<(PointId, Vec<u8>)>) {
    let mut model = Model::new("disk", SIZE);
    let mut made: Vec<(PointId, Vec<u8>)> = Vec::new();
    for n in 0..3 {
        let write = if n == 0 { (0, 700, What::Noise(1)) } else { (50 * n, 80, What::Noise(n as u8 + 1)) };
        let point = model.back_up(repo, made.last().map(|m| m.0), &[&[write]]).unwrap().point;
        made.push((point, model.image.clone()));
    }
    (model, made)
}

fn cover(repo: &Repository, model: &Model) -> collector::error::Result<()> {
    let made = repo.cover_with_parity(&repo.lock(&model.device)?, "34%".parse()?)?;
    assert!(made.left.is_empty(), "{made:?}");
    Ok(())
}

fn mend(repo: &Repository) -> collector::error::Result<Repaired> {
    repair(repo, false, &mut |_, _, _| {})
}

fn hold(repo: &Repository, model: &Model, made: &[(PointId, Vec<u8>)], what: &str) {
    for entry in repo.points().unwrap() {
        let shadow = &made.iter().find(|m| m.0 == entry.id).unwrap().1;
        assert!(restore(repo, &model.device, entry.id).unwrap() == *shadow, "{what}: {}", entry.id);
    }
    let report = check(repo, true, &mut |_, _| {}).unwrap();
    assert!(report.damages.is_empty(), "{what}: {:?}", report.damages);
}

/// The files that parity covers, with their bytes.
fn tree(folder: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let all = ["seg", "idx", "bak", "map", "del"].into_iter().flat_map(|name| files(&folder.join(name)));
    all.map(|path| (path.clone(), std::fs::read(&path).unwrap())).collect()
}

/// Parity is of stored bytes: whoever may write can make it, and repair from it.
#[test]
fn a_host_that_cannot_read_makes_parity_and_repairs_from_it() {
    let sealed = Sealed::new();
    let host = sealed.by(&Hand::Write(sealed.write_key())).unwrap();
    let (model, made) = three(&host);
    cover(&host, &model).unwrap();
    let before = tree(sealed.path());
    for path in before.keys() {
        std::fs::remove_file(path).unwrap();
        let done = mend(&host).unwrap();
        assert!(done.from_parity.len() == 1 && done.lost.is_empty(), "{done:?}");
        assert!(tree(sealed.path()) == before, "{}", path.display());
    }
    hold(&sealed.owner(), &model, &made, "by a host");
    // what it covers is sealed too: of the parity nothing but sizes shows
    for path in files(&sealed.path().join("par")).into_iter().filter(|path| !path.ends_with("repo.json")) {
        let bytes = std::fs::read(&path).unwrap();
        for word in ["seg/", "idx/", "bak/"] {
            assert!(!bytes.windows(4).any(|w| w == word.as_bytes()), "{word} shows in {}", path.display());
        }
    }
}

/// Parity objects of another group, or of another repository, in the place of ours.
#[test]
fn swapped_parity_never_gives_other_bytes() {
    for encrypted in [false, true] {
        let sealed = Sealed::new();
        let dir = tempfile::tempdir().unwrap();
        let (repo, folder) = match encrypted {
            true => (sealed.owner(), sealed.path().to_owned()),
            false => (Repository::create(dir.path().to_str().unwrap()).unwrap(), dir.path().to_owned()),
        };
        let (model, made) = three(&repo);
        cover(&repo, &model).unwrap();
        let before = tree(&folder);
        let parity: Vec<PathBuf> = files(&folder.join("par/disk"));
        assert!(parity.len() > 1);
        let bytes: Vec<Vec<u8>> = parity.iter().map(|path| std::fs::read(path).unwrap()).collect();
        for (n, path) in parity.iter().enumerate() {
            let mut file = std::fs::File::create(path).unwrap();
            std::io::Write::write_all(&mut file, &bytes[(n + 1) % bytes.len()]).unwrap();
        }
        let victim = before.keys().next().unwrap();
        std::fs::remove_file(victim).unwrap();
        let done = mend(&repo).unwrap();
        assert!(done.from_parity.is_empty(), "{done:?}");
        assert!(tree(&folder).iter().all(|(path, bytes)| before[path] == *bytes));
        std::fs::File::create(victim)
            .and_then(|mut f| std::io::Write::write_all(&mut f, &before[victim]))
            .unwrap();
        mend(&repo).unwrap();
        hold(&repo, &model, &made, "swapped");
    }
}

#[cfg(feature = "failpoints")]
mod killed {
    use super::*;
    use collector::chain::{Policy, prune};
    use collector::format::NewKey;
    use collector::seal::{PrivateKey, Secret};
    use std::process::Command;
    use std::time::Duration;

    const FOLDER: &str = "BLKDELTA_TEST_FOLDER";
    const DEED: &str = "BLKDELTA_TEST_DEED";

    /// Steps, and at which of their hits.
    const STEPS: [(&str, &str, u32); 15] = [
        ("cover", "repo.parity.put", 1),
        ("cover", "repo.parity.put", 2),
        ("cover", "repo.parity.stored", 1),
        ("cover", "repo.parity.stored", 3),
        ("more", "repo.parity.put", 1),
        ("more", "repo.parity.stored", 1),
        ("more", "repo.parity.old-gone", 1),
        ("more", "repo.parity.stored", 2),
        ("mend", "repo.mend.aside", 1),
        ("mend", "repo.mend.put", 1),
        ("mend", "repo.mend.put", 2),
        ("mend", "repo.mend.stored", 1),
        ("prune", "repo.parity.put", 1),
        ("prune", "repo.parity.stored", 1),
        ("prune", "repo.parity.old-gone", 1),
    ];

    fn owner() -> PrivateKey {
        PrivateKey::from_secret(Secret::from_bytes([7; 32]))
    }

    fn create(folder: &Path, encrypted: bool) -> Repository {
        let key = encrypted.then(|| (NewKey::Recipient(owner().public().unwrap()), "owner".to_owned()));
        Repository::create_with(folder.to_str().unwrap(), key.into_iter().collect()).unwrap().0
    }

    fn open(folder: &Path) -> Repository {
        let folder = folder.to_str().unwrap();
        Repository::open(folder).or_else(|_| Repository::open_with(folder, &Hand::Private(owner()))).unwrap()
    }

    fn deed(repo: &Repository, what: &str) -> collector::error::Result<()> {
        let model = Model::new("disk", SIZE);
        match what {
            "cover" | "more" => cover(repo, &model),
            "mend" => mend(repo).map(drop),
            _ => {
                let policy = Policy { last: 1, ..Policy::default() };
                prune(repo, &model.device, &policy, Duration::ZERO, false).map(drop)
            }
        }
    }

    /// Not a test by itself: the process that is killed.
    #[test]
    #[ignore = "started by the tests of this file"]
    fn child() {
        let (Ok(folder), Ok(what)) = (std::env::var(FOLDER), std::env::var(DEED)) else { return };
        let failed = deed(&open(Path::new(&folder)), &what).is_err();
        std::process::exit(i32::from(failed));
    }

    fn run(folder: &Path, what: &str, failpoint: &str) -> bool {
        let child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "parity::killed::child", "--ignored", "--nocapture"])
            .envs([(FOLDER, folder.to_str().unwrap()), (DEED, what), ("BLKDELTA_FAILPOINT", failpoint)])
            .output()
            .unwrap();
        child.status.success()
    }

    /// Damages two segments of two groups: that of the full, and a small one.
    fn harm(folder: &Path) {
        let mut victims = files(&folder.join("seg"));
        victims.sort_by_key(|file| file.metadata().unwrap().len());
        crate::partial::damage(&victims[0], 2, 100);
        crate::partial::damage(&victims[victims.len() - 1], 1, 1000);
    }

    #[test]
    fn whatever_dies_when_at_worst_there_is_less_parity() {
        for (n, (what, step, hit)) in STEPS.into_iter().enumerate() {
            for action in ["kill", "error"] {
                let dir = tempfile::tempdir().unwrap();
                let repo = create(dir.path(), n % 2 == 0);
                let (mut model, mut made) = three(&repo);
                let case = format!("{what} {step}@{hit} {action}");
                if what != "cover" {
                    cover(&repo, &model).unwrap();
                }
                if what == "more" {
                    for n in 0..2 {
                        let write = (300 + n, 60, What::Noise(50 + n as u8));
                        let point =
                            model.back_up(&repo, made.last().map(|m| m.0), &[&[write]]).unwrap().point;
                        made.push((point, model.image.clone()));
                    }
                }
                let before = tree(dir.path());
                if what == "mend" {
                    harm(dir.path());
                }
                assert!(!run(dir.path(), what, &format!("{step}={action}@{hit}")), "{case} was not reached");
                if what != "mend" {
                    hold(&repo, &model, &made, &case);
                    // whatever parity is left gives back what it covers, and nothing that is gone
                    let done = mend(&repo).unwrap();
                    assert!(done.from_parity.is_empty() && done.lost.is_empty(), "{case}: {done:?}");
                }
                deed(&repo, what).unwrap_or_else(|e| panic!("{case}: {e:?}"));
                hold(&repo, &model, &made, &case);
                assert!(what == "prune" || tree(dir.path()) == before, "{case}");
                cover(&repo, &model).unwrap();
                let so = check(&repo, true, &mut |_, _| {}).unwrap().parity.unwrap();
                let files = tree(dir.path()).len() as u64;
                assert_eq!((so.covered, so.uncovered, so.short), (files, 0, 0), "{case}");
            }
        }
    }
}
