//! Copies of points between repositories, encrypted or not: the same content, whoever can read which, whatever dies.

use crate::model::{Model, What, restore};
use crate::sealed::{Hand, Sealed};
use collector::chain::{Chain, Limits, Policy, Sending, Sent, Wanted, compact, prune, repair};
use collector::error::Kind;
use collector::format::{DeviceId, PointId};
use collector::repository::{Repository, check};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Cells, some blocks, and a last block that is cut short.
const SIZE: usize = 60 * 65536 + 3 * 4096 + 512;

/// A repository and what keeps its folder.
struct Place {
    repo: Repository,
    folder: PathBuf,
    sealed: Option<Sealed>,
    _dir: Option<tempfile::TempDir>,
}

impl Place {
    fn new(encrypted: bool) -> Self {
        if encrypted {
            let sealed = Sealed::new();
            let (repo, folder) = (sealed.owner(), sealed.path().to_owned());
            return Self { repo, folder, sealed: Some(sealed), _dir: None };
        }
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("r");
        let repo = Repository::create(folder.to_str().unwrap()).unwrap();
        Self { repo, folder, sealed: None, _dir: Some(dir) }
    }

    /// Opened anew: nothing is known from before.
    fn again(&self) -> Repository {
        match &self.sealed {
            Some(sealed) => sealed.owner(),
            None => Repository::open(self.folder.to_str().unwrap()).unwrap(),
        }
    }
}

type Points = Vec<(PointId, Vec<u8>)>;

/// What one pass writes: first area, areas, what.
type Pass<'a> = &'a [(usize, usize, What)];

/// A full and increments: parts of frames, zeros over content, raw and compressed, two passes over each other.
fn fill(repo: &Repository) -> (Model, Points) {
    let name: DeviceId = "secret-disk-17".parse().unwrap();
    let mut model = Model::new(repo.device_name(&name).as_str(), SIZE);
    let writes: [&[Pass<'_>]; 4] = [
        &[&[(0, 300, What::Noise(1)), (400, 150, What::Same(7)), (960, 4, What::Noise(2))]],
        &[&[(3, 2, What::Zero), (90, 40, What::Noise(3)), (410, 1, What::Same(8))]],
        &[
            &[(0, 1, What::Noise(4)), (96, 20, What::Zero)],
            &[(5, 90, What::Noise(5)), (963, 1, What::Same(1))],
        ],
        &[&[(200, 9, What::Noise(6)), (700, 16, What::Same(3))]],
    ];
    let mut points: Points = Vec::new();
    for passes in writes {
        let made = model.back_up(repo, points.last().map(|(point, _)| *point), passes).unwrap();
        points.push((made.point, model.image.clone()));
    }
    (model, points)
}

fn send(from: &Repository, to: &Repository, device: &DeviceId, wanted: Wanted) -> Sent {
    Sending::new(from, to, true).unwrap().send(device, wanted, &|_| true).unwrap()
}

/// Exactly these points, sound to the last byte, and each is what it was.
fn ensure_holds(place: &Place, points: &[(PointId, Vec<u8>)], what: &str) {
    let repo = place.again();
    let listed = repo.points().unwrap();
    let ids: Vec<PointId> = listed.iter().map(|p| p.id).collect();
    assert_eq!(ids, points.iter().map(|(id, _)| *id).collect::<Vec<_>>(), "{what}");
    for (entry, (id, image)) in listed.iter().zip(points) {
        assert!(restore(&repo, &entry.device, *id).unwrap() == *image, "{what}: {id}");
    }
    let report = check(&repo, true, &mut |_, _| {}).unwrap();
    assert!(report.damages.is_empty(), "{what}: {report:?}");
}

fn files_of(place: &Place, part: &str) -> Vec<PathBuf> {
    files_below(&place.folder.join(part))
}

/// Every file in a folder and its folders.
pub fn files_below(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).into_iter().flatten() {
        let path = entry.unwrap().path();
        if path.is_dir() { found.extend(files_below(&path)) } else { found.push(path) }
    }
    found
}

const PAIRS: [(bool, bool); 4] = [(false, false), (false, true), (true, false), (true, true)];

#[test]
fn a_copy_holds_the_same_whether_either_side_is_encrypted() {
    for pair in PAIRS {
        let (from, to) = (Place::new(pair.0), Place::new(pair.1));
        let (model, points) = fill(&from.repo);
        let sent = send(&from.repo, &to.repo, &model.device, Wanted::All);
        assert!(sent.points.len() == 4 && sent.whole.is_empty() && sent.failed.is_empty(), "{sent:?}");
        ensure_holds(&to, &points, &format!("{pair:?}"));
        assert_eq!(files_of(&from, "seg").len(), files_of(&to, "seg").len(), "its own segments, one for one");
        // the name is the one that a host would give the device there, or, hidden without a word of it, the hidden one
        let known = from.repo.points().unwrap()[0].device.clone();
        let name = if pair.0 { known } else { "secret-disk-17".parse().unwrap() };
        assert_eq!(to.repo.points().unwrap()[0].device, to.repo.device_name(&name));
        let again = send(&from.again(), &to.again(), &model.device, Wanted::All);
        assert!(again.points.is_empty() && again.there.len() == 4, "{again:?}");
        // an index is made again from the segments that came
        for index in files_of(&to, "idx") {
            std::fs::remove_file(index).unwrap();
        }
        repair(&to.again(), false, &mut |_, _, _| {}).unwrap();
        ensure_holds(&to, &points, &format!("{pair:?}, indexes made again"));
    }
}

#[test]
fn a_full_for_elsewhere_needs_no_other_point() {
    for pair in PAIRS {
        let (from, to) = (Place::new(pair.0), Place::new(pair.1));
        let (model, points) = fill(&from.repo);
        let sent = send(&from.repo, &to.repo, &model.device, Wanted::Whole(points[2].0));
        assert_eq!((sent.points.as_slice(), sent.whole.len()), (&[points[2].0][..], 1));
        ensure_holds(&to, &points[2..3], &format!("{pair:?}"));
        let manifest = to.repo.points().unwrap()[0].manifest().unwrap().clone();
        let stored: u64 = files_of(&to, "seg").iter().map(|f| f.metadata().unwrap().len()).sum();
        assert_eq!(manifest.totals.stored_bytes, stored + manifest.index.len, "{pair:?}");
        assert!(manifest.parent.is_none() && manifest.totals.covered_bytes > 0);
    }
}

/// Merged, and compacted so that the points' own segments are gone: they come as fulls.
#[test]
fn points_that_were_merged_and_compacted_are_copied() {
    for pair in PAIRS {
        let (from, to) = (Place::new(pair.0), Place::new(pair.1));
        let (model, points) = fill(&from.repo);
        let lock = from.repo.lock(&model.device).unwrap();
        Chain::resolve(&from.repo, &model.device, points[2].0).unwrap().merge(&lock).unwrap();
        drop(lock);
        let limits = Limits { dead: 0.0, max_bytes: u64::MAX, bandwidth: None, grace: Duration::ZERO };
        for _ in 0..2 {
            compact(&from.repo, &model.device, &limits, false, &mut |_, _| true).unwrap();
        }
        send(&from.again(), &to.repo, &model.device, Wanted::All);
        ensure_holds(&to, &points, &format!("{pair:?}, compacted"));
    }
}

#[test]
fn what_is_encrypted_becomes_readable_only_when_that_is_said() {
    let (from, to) = (Place::new(true), Place::new(false));
    let (model, _) = fill(&from.repo);
    let refused = Sending::new(&from.repo, &to.repo, false).err().unwrap();
    assert!(refused.kind() == Kind::Denied && refused.advice().unwrap().contains("--decrypt"), "{refused:?}");
    assert!(files_of(&to, "").iter().all(|f| f.ends_with("repo.json")), "something was written");
    // a host that can write and not read cannot copy, and is told before anything is written
    let sealed = from.sealed.as_ref().unwrap();
    let host = sealed.by(&Hand::Write(sealed.write_key())).unwrap();
    let refused = Sending::new(&host, &to.repo, true).err().unwrap();
    assert!(refused.kind() == Kind::Denied && refused.advice().unwrap().contains("owner"), "{refused:?}");
    // but it can be the one that is written to
    let (plain, kept) = (Place::new(false), Place::new(true));
    let (model_2, points) = fill(&plain.repo);
    let sealed = kept.sealed.as_ref().unwrap();
    let host = sealed.by(&Hand::Write(sealed.write_key())).unwrap();
    send(&plain.repo, &host, &model_2.device, Wanted::All);
    ensure_holds(&kept, &points, "by a write key");
    for file in files_of(&kept, "") {
        let bytes = std::fs::read(&file).unwrap();
        for content in [&points[3].1[410 * 4096..][..32], &points[3].1[250 * 4096..][..32]] {
            assert!(!bytes.windows(32).any(|w| w == content), "content shows in {}", file.display());
        }
        let text = [file.to_string_lossy().as_bytes(), &bytes].concat();
        assert!(!text.windows(11).any(|w| w == b"secret-disk"), "its name shows in {}", file.display());
    }
    // sealed anew it is other bytes every time
    let twice = Place::new(true);
    send(&from.repo, &twice.repo, &model.device, Wanted::All);
    let bytes = |place: &Place| files_of(place, "seg").iter().map(|f| std::fs::read(f).unwrap()).collect();
    let (a, b): (Vec<Vec<u8>>, Vec<Vec<u8>>) = (bytes(&from), bytes(&twice));
    assert!(!a[0][200..].windows(24).step_by(24).take(99).any(|part| b[0].windows(24).any(|w| w == part)));
}

/// A damaged frame of an encrypted repository is never given a sound seal.
#[test]
fn damage_is_not_copied() {
    for pair in PAIRS {
        let (from, to) = (Place::new(pair.0), Place::new(pair.1));
        let (model, points) = fill(&from.repo);
        let newest = from.repo.points().unwrap()[3].manifest().unwrap().rebuild.clone().unwrap().segments[0];
        let newest = newest.to_string();
        let segment = files_of(&from, "seg").into_iter().find(|f| f.ends_with(&newest)).unwrap();
        let mut bytes = std::fs::read(&segment).unwrap();
        bytes[200] ^= 1;
        crate::sealed::put(&segment, &bytes).unwrap();
        let sent = send(&from.again(), &to.repo, &model.device, Wanted::All);
        assert_eq!(sent.failed.iter().map(|f| f.0).collect::<Vec<_>>(), [points[3].0], "{pair:?}");
        ensure_holds(&to, &points[..3], &format!("{pair:?}, damaged"));
    }
}

#[cfg(feature = "failpoints")]
mod killed {
    use super::*;
    use collector::format::{Credential, decode_key_file};
    use std::process::{Command, Output, Stdio};

    /// Steps of a copy, and at which of their hits.
    const STEPS: [(&str, u32); 12] = [
        ("repo.copy.segment", 1),
        ("repo.copy.segment", 3),
        ("repo.copy.stored", 1),
        ("repo.copy.stored", 2),
        ("repo.index.put", 2),
        ("repo.index.stored", 1),
        ("repo.copy.index", 1),
        ("repo.copy.index", 3),
        ("repo.copy.manifest", 1),
        ("repo.copy.manifest", 2),
        ("repo.copy.committed", 1),
        ("repo.copy.committed", 4),
    ];

    /// Of a point that is made a full on the way.
    const WHOLE: [&str; 7] = [
        "repo.segment.put",
        "repo.segment.stored",
        "repo.index.put",
        "repo.index.stored",
        "repo.copy.index",
        "repo.copy.manifest",
        "repo.copy.committed",
    ];

    fn blkdelta(words: &[&str], failpoint: &str) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_blkdelta"));
        command.args(words).env("BLKDELTA_FAILPOINT", failpoint).stdin(Stdio::null());
        command.env("BLKDELTA_HOME", std::env::temp_dir().join("blkdelta-copying"));
        command.output().unwrap()
    }

    fn ok(words: &[&str]) -> String {
        let output = blkdelta(words, "");
        assert!(output.status.success(), "{words:?}: {output:?}");
        String::from_utf8(output.stdout).unwrap()
    }

    /// Two repositories of which only the program has the keys, in files.
    struct Pair {
        dir: tempfile::TempDir,
        encrypted: (bool, bool),
        next: usize,
    }

    impl Pair {
        fn new(encrypted: (bool, bool)) -> Self {
            let dir = tempfile::tempdir().unwrap();
            let pair = Self { dir, encrypted, next: 0 };
            for key in ["from.key", "to.key"] {
                ok(&["key", "generate", &pair.at(key)]);
            }
            pair.init("from", encrypted.0);
            pair
        }

        fn at(&self, name: &str) -> String {
            self.dir.path().join(name).to_str().unwrap().to_owned()
        }

        fn key(&self, place: &str) -> String {
            self.at(if place == "from" { "from.key" } else { "to.key" })
        }

        fn init(&self, place: &str, encrypted: bool) {
            let public = ok(&["key", "public", &self.key(place)]);
            let recipient = if encrypted { vec!["--recipient", public.trim()] } else { vec![] };
            ok(&[&["init", &self.at(place)][..], &recipient].concat());
        }

        fn place(&self, name: &str, encrypted: bool) -> Place {
            let bytes = std::fs::read(self.key(name)).unwrap();
            let Credential::Private(key) = decode_key_file(&bytes, &mut || unreachable!()).unwrap() else {
                unreachable!()
            };
            let folder = PathBuf::from(self.at(name));
            let at = folder.to_str().unwrap();
            let opened =
                if encrypted { Repository::open_with(at, &Hand::Private(key)) } else { Repository::open(at) };
            Place { repo: opened.unwrap(), folder, sealed: None, _dir: None }
        }

        fn words(&self, to: &str, what: &[&str]) -> Vec<String> {
            let mut words =
                vec!["copy".to_owned(), "--from".into(), self.at("from"), "--to".into(), self.at(to)];
            if self.encrypted.0 {
                words.extend(["--from-key-file".into(), self.key("from")]);
            }
            match self.encrypted {
                (_, true) => words.extend(["--to-key-file".into(), self.key("to")]),
                (true, false) => words.push("--decrypt".into()),
                (false, false) => {}
            }
            words.extend(what.iter().map(|word| (*word).to_owned()));
            words
        }

        /// A copy into a fresh target dies at a step; what is listed there is sound, and the same command ends the work.
        fn dies(&mut self, points: &[(PointId, Vec<u8>)], step: &str, what: &[&str]) {
            self.next += 1;
            let to = format!("to{}", self.next);
            self.init(&to, self.encrypted.1);
            let words = self.words(&to, what);
            let words: Vec<&str> = words.iter().map(String::as_str).collect();
            let killed = blkdelta(&words, step);
            let said = format!("{:?} {step} {what:?}: {killed:?}", self.encrypted);
            assert!(killed.status.code().is_none() || killed.status.code() == Some(1), "not reached: {said}");
            assert!(!String::from_utf8_lossy(&killed.stderr).contains("panicked"), "{said}");
            let listed = self.place(&to, self.encrypted.1).repo.points().unwrap().len();
            assert!(listed <= points.len());
            self.holds(&to, &points[..listed], &said);
            ok(&words);
            self.holds(&to, points, &said);
            std::fs::remove_dir_all(self.at(&to)).unwrap();
        }

        fn holds(&self, to: &str, points: &[(PointId, Vec<u8>)], said: &str) {
            let repo = self.place(to, self.encrypted.1).repo;
            let listed = repo.points().unwrap();
            assert_eq!(listed.len(), points.len(), "{said}");
            for (entry, (id, image)) in listed.iter().zip(points) {
                assert!(entry.id == *id && restore(&repo, &entry.device, *id).unwrap() == *image, "{said}");
            }
            let report = check(&repo, true, &mut |_, _| {}).unwrap();
            assert!(report.damages.is_empty(), "{said}: {report:?}");
        }
    }

    #[test]
    fn a_copy_that_dies_at_any_step_is_gone_on_with() {
        for encrypted in PAIRS {
            let mut pair = Pair::new(encrypted);
            let (_, points) = fill(&pair.place("from", encrypted.0).repo);
            for (n, (step, hit)) in STEPS.into_iter().enumerate() {
                let action = if n % 3 == 2 { "error" } else { "kill" };
                pair.dies(&points, &format!("{step}={action}@{hit}"), &["--all"]);
            }
            let last = points[3].0.to_string();
            for step in WHOLE {
                pair.dies(&points[3..], &format!("{step}=kill"), &["--full", "--point", &last]);
            }
        }
    }
}

/// A point that a prune dropped there is hidden and about to go: nobody is told that it is there.
#[test]
fn what_a_prune_dropped_there_is_not_called_there() {
    let (from, to) = (Place::new(false), Place::new(false));
    let (model, points) = fill(&from.repo);
    send(&from.repo, &to.repo, &model.device, Wanted::All);
    let prune = |grace| {
        let policy = Policy { last: 1, ..Policy::default() };
        prune(&to.repo, &model.device, &policy, grace, false).unwrap();
    };
    prune(Duration::from_secs(86_400));
    let again = send(&from.again(), &to.again(), &model.device, Wanted::All);
    assert!(again.points.is_empty() && again.there == [points[3].0] && again.failed.is_empty(), "{again:?}");
    assert_eq!(again.dropped, points[..3].iter().map(|(id, _)| *id).collect::<Vec<_>>());
    for wanted in [Wanted::Point(points[1].0), Wanted::Whole(points[1].0)] {
        let asked = send(&from.again(), &to.again(), &model.device, wanted);
        assert!(
            asked.failed.len() == 1 && asked.failed[0].0 == points[1].0 && asked.there.is_empty(),
            "{asked:?}"
        );
    }
    ensure_holds(&to, &points[3..], "after a prune");
    // when they are gone they come again
    prune(Duration::ZERO);
    let again = send(&from.again(), &to.again(), &model.device, Wanted::All);
    assert!(again.points.len() == 3 && again.dropped.is_empty(), "{again:?}");
    ensure_holds(&to, &points, "copied again");
}

/// What an earlier copy left and what rotted since is not taken for what was sent.
#[test]
fn a_segment_that_rotted_since_is_sent_again() {
    let (from, to) = (Place::new(false), Place::new(false));
    let (model, points) = fill(&from.repo);
    for path in files_of(&from, "seg") {
        let there = to.folder.join(path.strip_prefix(&from.folder).unwrap());
        std::fs::create_dir_all(there.parent().unwrap()).unwrap();
        let rotten = vec![7; path.metadata().unwrap().len() as usize];
        std::fs::File::create(there).and_then(|mut f| std::io::Write::write_all(&mut f, &rotten)).unwrap();
    }
    send(&from.repo, &to.repo, &model.device, Wanted::All);
    ensure_holds(&to, &points, "over rotten segments");
}
