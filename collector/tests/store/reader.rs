//! The escape hatch: docs/restore.py, written from docs/FORMAT.md alone, restores what the product stored.

use crate::giving_back::{put, three_points};
use crate::model::{Model, What, open};
use crate::sealed::Sealed;
use collector::chain::{Chain, Limits, Policy, Sending, Wanted, compact, prune};
use collector::format::PointId;
use collector::repository::Repository;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::Duration;

fn script() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../docs/restore.py")
}

fn python(words: &[&Path]) -> Output {
    Command::new("python3").arg(script()).args(words).stdin(Stdio::null()).output().unwrap()
}

/// Why it cannot run here.
fn missing() -> Option<&'static str> {
    let runs = |program: &str, words: &[&str]| {
        let mut command = Command::new(program);
        command.args(words).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        command.status().is_ok_and(|status| status.success())
    };
    match runs("python3", &["-c", "import sys; sys.exit(sys.version_info < (3, 8))"]) {
        false => Some("there is no Python 3.8 or later"),
        true if runs("zstd", &["--version"]) || runs("python3", &["-c", "import zstandard"]) => None,
        true => Some("neither the program zstd nor the module zstandard is there"),
    }
}

fn skipped(name: &str) -> bool {
    let why = missing();
    if let Some(why) = why {
        println!("SKIPPED: reader::{name}: {why}");
    }
    why.is_some()
}

/// The script gives back exactly `image`.
fn ensure_restores(folder: &Path, point: &str, image: &[u8]) {
    let target = folder.with_extension("out");
    let ended = python(&[folder, Path::new(point), &target]);
    assert!(ended.status.success(), "{point}: {}", String::from_utf8_lossy(&ended.stderr));
    assert!(std::fs::read(&target).unwrap() == image, "{point} of {}", folder.display());
    std::fs::remove_file(target).unwrap();
}

#[test]
fn it_is_short() {
    let text = std::fs::read_to_string(script()).unwrap();
    assert!(text.lines().count() <= 200, "{} lines", text.lines().count());
}

/// Full, increments, zeros over content, parts of frames, stored raw and by zstd; then merged, then pruned of a parent.
#[test]
fn points_of_every_kind() {
    if skipped("points_of_every_kind") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("r");
    let (repo, model, made) = three_points(&folder);
    let all = || made.iter().for_each(|(point, image)| ensure_restores(&folder, &point.to_string(), image));
    all();
    ensure_restores(&folder, "latest", &made[2].1);
    let listed = python(&[&folder]);
    let listed = String::from_utf8_lossy(&listed.stdout).into_owned();
    assert_eq!(
        listed.lines().map(|l| &l[..26]).collect::<Vec<_>>(),
        made.iter().map(|m| m.0.to_string()).collect::<Vec<_>>()
    );
    let lock = repo.lock(&model.device).unwrap();
    for n in [1, 2] {
        Chain::resolve(&repo, &model.device, made[n].0).unwrap().merge(&lock).unwrap();
        all();
    }
    std::fs::remove_file(folder.join(format!("idx/disk/{}", made[1].0))).unwrap();
    ensure_restores(&folder, &made[2].0.to_string(), &made[2].1);
}

/// Compacted: the frames lie elsewhere and the points' own segments are gone. Pruned: so are points in the middle. Copied, as
/// increments, as a full, and out of an encrypted repository.
#[test]
fn points_that_were_compacted_pruned_and_copied() {
    if skipped("points_that_were_compacted_pruned_and_copied") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    let (repo, model, made) = three_points(&at("r"));
    let limits = Limits { dead: 0.0, max_bytes: u64::MAX, bandwidth: None, grace: Duration::ZERO };
    // each in two runs: the second removes what the first hid or moved
    let prune_and_compact = |last| {
        let policy = Policy { last, ..Policy::default() };
        for _ in 0..2 {
            prune(&repo, &model.device, &policy, Duration::ZERO, false).unwrap();
        }
        for _ in 0..2 {
            compact(&repo, &model.device, &limits, false, &mut |_, _| true).unwrap();
        }
    };
    let segments = || crate::copying::files_below(&at("r/seg"));
    let before = segments();
    prune_and_compact(2);
    assert!(segments().iter().any(|segment| !before.contains(segment)), "no frame was moved");
    let left = &made[1..];
    left.iter().for_each(|(point, image)| ensure_restores(&at("r"), &point.to_string(), image));
    ensure_copies_restore(dir.path(), &repo, left);
    prune_and_compact(1);
    assert_eq!(repo.points().unwrap().len(), 1);
    ensure_restores(&at("r"), "latest", &made[2].1);
}

/// Copies of a compacted repository, through an encrypted one, of increments and as a full.
fn ensure_copies_restore(dir: &Path, repo: &Repository, made: &[(PointId, Vec<u8>)]) {
    let at = |name: &str| dir.join(name);
    let send = |from: &Repository, to: &Repository, wanted| {
        let device = from.points().unwrap()[0].device.clone();
        Sending::new(from, to, true).unwrap().send(&device, wanted, &|_| true).unwrap()
    };
    let copy = |name: &str, from: &Repository, wanted| {
        let to = Repository::create(at(name).to_str().unwrap()).unwrap();
        send(from, &to, wanted);
    };
    copy("compacted", repo, Wanted::All);
    let sealed = Sealed::new();
    send(repo, &sealed.owner(), Wanted::All);
    copy("opened", &sealed.owner(), Wanted::All);
    for (name, (point, image)) in
        ["compacted", "opened"].into_iter().flat_map(|n| made.iter().map(move |m| (n, m)))
    {
        ensure_restores(&at(name), &point.to_string(), image);
    }
    let (_, _, fresh) = three_points(&at("fresh"));
    copy("increments", &open(&at("fresh")).unwrap(), Wanted::All);
    copy("full", &open(&at("fresh")).unwrap(), Wanted::Whole(fresh[1].0));
    fresh.iter().for_each(|(point, image)| ensure_restores(&at("increments"), &point.to_string(), image));
    ensure_restores(&at("full"), "latest", &fresh[1].1);
}

#[test]
fn an_index_of_several_chunks() {
    if skipped("an_index_of_several_chunks") {
        return;
    }
    const BLOCKS: usize = 17_000;
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("r");
    let repo = Repository::create(folder.to_str().unwrap()).unwrap();
    let mut model = Model::new("disk", BLOCKS * 4096);
    let pass: Vec<_> = (0..BLOCKS).map(|n| (n, 1, What::Same((n % 251) as u8 + 1))).collect();
    let manifest = model.back_up(&repo, None, &[&pass]).unwrap();
    assert!(manifest.index.chunks > 1);
    ensure_restores(&folder, "latest", &model.image);
}

#[test]
fn version_one_as_it_was_written_on_its_first_day() {
    if skipped("version_one_as_it_was_written_on_its_first_day") {
        return;
    }
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures/repo-v1");
    let dir = tempfile::tempdir().unwrap();
    let repo = open(&folder).unwrap();
    for entry in repo.points().unwrap() {
        let wanted = crate::model::restore(&repo, &entry.device, entry.id).unwrap();
        let (id, target): (PointId, _) = (entry.id, dir.path().join("out"));
        let ended = python(&[&folder, Path::new(&id.to_string()), &target]);
        assert!(ended.status.success(), "{}", String::from_utf8_lossy(&ended.stderr));
        assert!(std::fs::read(&target).unwrap() == wanted);
        std::fs::remove_file(target).unwrap();
    }
}

/// Encrypted, of a later version, no repository at all, a target that is there: said, and nothing written.
#[test]
fn what_it_cannot_read_it_says() {
    if skipped("what_it_cannot_read_it_says") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("r");
    drop(three_points(&folder));
    let (main, target) = (folder.join("repo.json"), dir.path().join("out"));
    let sound = std::fs::read_to_string(&main).unwrap();
    let refused = |said: &str| {
        let ended = python(&[&folder, Path::new("latest"), &target]);
        let stderr = String::from_utf8_lossy(&ended.stderr).into_owned();
        assert!(
            ended.status.code() == Some(1) && stderr.contains(said) && !stderr.contains("Traceback"),
            "{stderr}"
        );
    };
    for (from, to, said) in [
        (r#""crypto":0"#, r#""crypto":1"#, "encrypted"),
        (r#""version":1"#, r#""version":2"#, "version 2"),
        ("blkdelta repository", "blkdelta prepository", "damaged"),
    ] {
        put(&main, sound.replace(from, to).as_bytes());
        refused(said);
    }
    std::fs::remove_file(&main).unwrap();
    refused("repo.json");
    put(&main, sound.as_bytes());
    assert!(!target.exists());
    put(&target, b"mine");
    refused("exists");
    assert_eq!(std::fs::read(&target).unwrap(), b"mine");
}
