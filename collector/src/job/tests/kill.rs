//! Museum M13: killed or failing at every step, a backup forgets nothing and spoils nothing.
//!
//! The backup runs in a child process (this test binary again); its ledger comes from a file and goes back to it
//! at every change, as the kernel's pins would survive.

use super::fake::{Disk, Fake, Marks, assert_restores, back_up};
use super::{Wishes, repository};
use crate::diff::Difference;
use crate::epoch::Cut;
use crate::error::Result;
use crate::format::Manifest;
use crate::job::Ledger;
use crate::repository::{PointState, Repository};
use crate::tracker::Base;
use std::path::Path;
use std::process::Command;

const FOLDER: &str = "BLKDELTA_TEST_KILL_FOLDER";
const SIZE: u64 = 3 << 20;

/// Every step at which the world may end, in `job` and in the rooms it calls.
const POINTS: [&str; 6] = [
    "job.after-cut",
    "job.after-pass",
    "job.after-pass-cut",
    "job.before-finish",
    "job.before-retire",
    "job.after-retire",
];

/// Saves what the kernel would keep, at every change.
struct Kept<'a> {
    inner: Fake,
    disk: &'a Disk,
    folder: &'a Path,
}

impl Kept<'_> {
    fn keep(&self) {
        let marks = self.disk.marks().lock().unwrap().clone();
        crate::sys::publish(&self.folder.join("marks"), &serde_json::to_vec(&marks).unwrap()).unwrap();
    }
}

impl Ledger for Kept<'_> {
    fn session(&self) -> &str {
        self.inner.session()
    }
    fn base(&self) -> Option<&Base> {
        self.inner.base()
    }
    fn prepare(&mut self, cuts: usize) -> Result<()> {
        self.inner.prepare(cuts)
    }
    fn cut(&mut self) -> Result<Cut> {
        let cut = self.inner.cut();
        self.keep();
        cut
    }
    fn pending(&self) -> Result<Difference> {
        self.inner.pending()
    }
    fn starts(&self) -> Vec<Base> {
        self.inner.starts()
    }
    fn since(&self, start: &Base) -> Result<Difference> {
        self.inner.since(start)
    }
    fn retire(&mut self, upto: u64, base: Base, full: bool) -> Result<()> {
        self.inner.retire(upto, base, full)?;
        self.keep();
        Ok(())
    }
}

fn load(folder: &Path) -> Disk {
    let disk = Disk::create(&folder.join("disk"), SIZE);
    if let Ok(bytes) = std::fs::read(folder.join("marks")) {
        let marks: Marks = serde_json::from_slice(&bytes).unwrap();
        *disk.marks().lock().unwrap() = marks;
    }
    disk
}

/// Not a test: what the child runs.
#[test]
#[ignore = "run by the tests of this module, in a process of its own"]
fn child() {
    let Some(folder) = std::env::var_os(FOLDER) else { return };
    let folder = Path::new(&folder);
    let disk = load(folder);
    let mut ledger = Kept { inner: disk.ledger(), disk: &disk, folder };
    let source = crate::source::LiveDevice::open(&disk.path).unwrap();
    let survey = super::fake::AllUsed(SIZE);
    let subject = super::fake::subject(&source, &survey);
    let result = crate::job::backup(&subject, &mut ledger, &repository(folder), &Wishes::default(), &());
    if let Err(error) = result {
        eprintln!("{error:?}");
        std::process::exit(1);
    }
}

/// Runs a backup in a child that ends at `failpoint`; true if it ended well.
fn child_backs_up(folder: &Path, failpoint: &str) -> bool {
    let mut child = Command::new(std::env::current_exe().unwrap());
    child.args(["--exact", "job::tests::kill::child", "--ignored", "--nocapture", "--test-threads=1"]);
    let output = child.env(FOLDER, folder).env("BLKDELTA_FAILPOINT", failpoint).output().unwrap();
    output.status.success()
}

fn write(folder: &Path, at: u64, len: u64, with: u8) {
    let disk = load(folder);
    disk.write(at, len, with);
    let marks = disk.marks().lock().unwrap().clone();
    crate::sys::publish(&folder.join("marks"), &serde_json::to_vec(&marks).unwrap()).unwrap();
}

fn good(repo: &Repository) -> Vec<Manifest> {
    let points = repo.points().unwrap().into_iter();
    points
        .map(|p| match p.state {
            PointState::Good { manifest, .. } => *manifest,
            PointState::Damaged(why) => panic!("a failed backup left a damaged point: {why}"),
        })
        .collect()
}

/// A full, then an increment that ends at `failpoint`, then one more write and an increment that does not.
fn survives(failpoint: &str) {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path();
    write(folder, 0, SIZE, 1);
    assert!(child_backs_up(folder, ""), "the full");
    let before = std::fs::read(folder.join("disk")).unwrap();
    write(folder, 100_000, 300_000, 2);
    let ended_well = child_backs_up(folder, failpoint);
    assert!(!ended_well, "{failpoint} was not reached");
    let between = std::fs::read(folder.join("disk")).unwrap();
    let repo = repository(folder);
    let points = good(&repo);
    assert_restores(&repo, &points[0], &before);
    if let Some(published) = points.get(1) {
        assert_restores(&repo, published, &between);
    }
    write(folder, 2_000_000, 50_000, 3);
    let disk = load(folder);
    let last = back_up(&disk, &mut disk.ledger(), &repo, &Wishes::default()).unwrap();
    assert!(last.why_full.is_none(), "{failpoint}: {:?}", last.why_full);
    assert_restores(&repo, &last.manifest, &disk.content());
    assert_restores(&repo, &good(&repo)[0], &before);
}

#[test]
fn killed_or_failing_at_every_step_nothing_is_lost() {
    if cfg!(not(feature = "failpoints")) {
        eprintln!("skipped: needs --features failpoints");
        return;
    }
    for point in POINTS {
        for action in ["kill", "error"] {
            survives(&format!("{point}={action}"));
        }
    }
}
