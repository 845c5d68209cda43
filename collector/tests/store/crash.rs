//! A crash at every step of a backup: every listed point stays readable, and the next backup works.
#![cfg(feature = "failpoints")]

use crate::model::{Model, What, open, restore};
use collector::format::PointId;
use collector::repository::{Repository, check};
use std::path::Path;
use std::process::Command;

const FOLDER: &str = "BLKDELTA_TEST_FOLDER";
const SIZE: usize = 20 << 20;

const STEPS: [&str; 6] = [
    "repo.segment.put",
    "repo.segment.stored",
    "repo.index.put",
    "repo.index.stored",
    "repo.manifest.put",
    "repo.manifest.stored",
];

/// What the child backs up: two passes.
fn child_backup(model: &mut Model, repo: &Repository, parent: PointId) -> collector::error::Result<()> {
    let first: &[_] = &[(0, 300, What::Noise(9)), (400, 20, What::Zero)];
    model.back_up(repo, Some(parent), &[first, &[(200, 150, What::Same(4))]]).map(drop)
}

/// The same image in parent and child.
fn base_model() -> Model {
    let mut model = Model::new("disk", SIZE);
    model.write(0, 1000, What::Noise(1));
    model
}

/// Not a test by itself: the process that is killed.
#[test]
#[ignore = "started by the tests of this file"]
fn child() {
    let Ok(folder) = std::env::var(FOLDER) else { return };
    if !Path::new(&folder).join("repo.json").exists() {
        let made = Repository::create(&folder);
        std::process::exit(i32::from(made.is_err()));
    }
    let repo = open(Path::new(&folder)).unwrap();
    let (_, parent) = repo.resolve("latest", None).unwrap();
    let failed = child_backup(&mut base_model(), &repo, parent).is_err();
    std::process::exit(i32::from(failed));
}

/// Runs the child with a failpoint; whether it ended well.
fn run(folder: &Path, failpoint: &str) -> bool {
    let me = std::env::current_exe().unwrap();
    let child = Command::new(me)
        .args(["--exact", "crash::child", "--ignored", "--nocapture"])
        .env(FOLDER, folder)
        .env("BLKDELTA_FAILPOINT", failpoint)
        .output()
        .unwrap();
    child.status.success()
}

#[test]
fn a_backup_that_dies_at_any_step_harms_no_point() {
    for step in STEPS {
        for action in ["kill", "error"] {
            let dir = tempfile::tempdir().unwrap();
            let repo = Repository::create(dir.path().to_str().unwrap()).unwrap();
            let mut model = Model::new("disk", SIZE);
            let full = model.back_up(&repo, None, &[&[(0, 1000, What::Noise(1))]]).unwrap();
            let base = model.image.clone();
            assert!(!run(dir.path(), &format!("{step}={action}")), "{step} {action} was not reached");
            let points = repo.points().unwrap();
            // only after the very last step is there a new point
            assert_eq!(points.len(), if step == "repo.manifest.stored" { 2 } else { 1 }, "{step} {action}");
            assert!(restore(&repo, &model.device, full.point).unwrap() == base);
            let mut shadow = base_model();
            let lock = repo.lock(&model.device).unwrap();
            assert_eq!(lock.taken_over().is_some(), action == "kill", "{step} {action}");
            drop(lock);
            child_backup(&mut shadow, &repo, points.last().unwrap().id).unwrap();
            for entry in repo.points().unwrap().iter().skip(1) {
                assert!(restore(&repo, &entry.device, entry.id).unwrap() == shadow.image, "{step} {action}");
            }
            let report = check(&repo, true, &mut |_, _| {}).unwrap();
            assert!(report.damages.is_empty(), "{step} {action}: {:?}", report.damages);
        }
    }
}

#[test]
fn a_creation_that_dies_can_be_repeated() {
    for step in ["repo.config.put", "repo.config.stored"] {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("new");
        assert!(!run(&folder, step));
        let repo = Repository::open_or_create(folder.to_str().unwrap()).unwrap();
        assert_eq!(open(&folder).unwrap().uuid(), repo.uuid());
    }
}
