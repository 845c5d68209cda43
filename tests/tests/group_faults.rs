//! Promise: whatever fails or dies during a group's backup, every point that is listed restores and the next one holds
//! everything; encrypted, copied and merged, a group's points give the same files back.

use anyhow::{Context, Result, ensure};
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use tests::device::{Loop, Mounted};
use tests::fault;
use tests::files::{self, KINDS, Kind};
use tests::product::Home;
use tests::random::Random;
use tests::scratch::Scratch;
use tests::tree::Tree;
use tests::{host, skip_if};

/// A group of two folders, each on a file system of its own on a tracked device. Fields are dropped in this order.
struct Scene<'a> {
    mounted: Vec<Mounted>,
    devices: Vec<Loop>,
    home: Home,
    repo: PathBuf,
    random: Random,
    scratch: &'a Scratch,
}

/// What a folder of the group held.
type Trees = Vec<Tree>;

/// Why nothing of this can run here, if so.
fn cannot() -> Option<String> {
    host::no_tracking().or_else(|| host::no_filesystem("ext4")).or_else(|| host::no_filesystem("xfs"))
}

impl<'a> Scene<'a> {
    fn new(scratch: &'a Scratch, name: &str) -> Result<Self> {
        let (home, repo) = (Home::new(scratch)?, scratch.fresh("repo"));
        let (mut mounted, mut devices) = (Vec::new(), Vec::new());
        let kinds = ["ext4", "xfs"].map(|name| Kind { name, mkfs: &[], mount: KINDS[0].mount });
        for kind in kinds {
            let device = Loop::new(scratch, kind.name, 512 << 20)?;
            kind.make(device.path())?;
            home.ok(["track".as_ref(), device.path().as_os_str()])?;
            mounted.push(Mounted::new(scratch, device.path(), "noatime")?);
            devices.push(device);
        }
        let scene = Self { mounted, devices, home, repo, random: Random::for_test(name), scratch };
        scene.folders().iter().try_for_each(fs::create_dir)?;
        Ok(scene)
    }

    /// The group's folders.
    fn folders(&self) -> Vec<PathBuf> {
        self.mounted.iter().map(|mounted| mounted.point().join("g")).collect()
    }

    /// Changes files of both; what they hold then.
    fn change(&mut self, steps: u64) -> Result<Trees> {
        for folder in self.folders() {
            files::churn(&folder.join(format!("d{}", self.random.below(3))), &mut self.random, steps)?;
        }
        self.folders().iter().map(|folder| Tree::of(folder, |_| false)).collect()
    }

    fn words(&self, more: &[&str]) -> Vec<String> {
        let mut words: Vec<String> = ["group", "backup", "--name", "g"].map(Into::into).into();
        for folder in self.folders() {
            words.extend(["--path".into(), folder.display().to_string()]);
        }
        words.extend(["--repo".into(), self.repo.display().to_string()]);
        words.extend(more.iter().map(ToString::to_string));
        words
    }

    /// Makes a point; its id.
    fn backup(&self, more: &[&str], kind: &str) -> Result<String> {
        let json = self.home.json(self.words(more))?;
        ensure!(json["unread"].as_array().is_some_and(Vec::is_empty), "not read: {json}");
        ensure!(json["kind"] == kind, "wanted {kind}: {json}");
        Ok(json["point"].as_str().context("no point")?.to_owned())
    }

    /// A point gives both folders back, each on its own file system.
    fn ensure_restores(&self, repo: &Path, id: &str, wanted: &Trees, what: &str) -> Result<()> {
        for ((folder, wanted), mounted) in self.folders().iter().zip(wanted).zip(&self.mounted) {
            let into = mounted.point().join("back");
            let [repo, path, to] = [repo, folder, &into].map(|path| path.display().to_string());
            let words = ["restore", "--repo", &repo, "--group", "g", "--point", id, &path, "--into", &to];
            let done = self.home.json(words).with_context(|| what.to_owned())?;
            ensure!(done["sound"] == true, "{what}: {done}");
            // delayed allocation is no hole
            rustix::fs::syncfs(File::open(&into)?)?;
            let got = Tree::of(&into.join(folder.strip_prefix("/")?), |_| false)?;
            fs::remove_dir_all(&into)?;
            wanted.ensure_same(&got, what)?;
        }
        Ok(())
    }

    fn ensure_all(&self, repo: &Path, points: &[(String, Trees)], what: &str) -> Result<()> {
        let listed = self.points(repo)?;
        for (id, wanted) in points {
            ensure!(listed.contains(id), "{what}: {id} is not listed: {listed:?}");
            self.ensure_restores(repo, id, wanted, &format!("{what}: {id}"))?;
        }
        self.ensure_sound(repo)
    }

    fn points(&self, repo: &Path) -> Result<Vec<String>> {
        if !repo.exists() {
            return Ok(Vec::new());
        }
        let list = self.home.json(["list", "--repo", &repo.display().to_string()])?;
        let points = list.as_array().with_context(|| format!("list: {list}"))?;
        points.iter().map(|p| Ok(p["id"].as_str().with_context(|| format!("no id in {p}"))?.into())).collect()
    }

    fn ensure_sound(&self, repo: &Path) -> Result<()> {
        let repo = repo.display().to_string();
        self.home.run(["check", "--repo", &repo, "--read-data"])?.expect(0, "check --read-data").map(drop)
    }

    /// Makes the repository one that this host can only write to: the words for a backup. Everything else has the owner's
    /// key from the environment.
    fn encrypt(&mut self, more: &[&str]) -> Result<Vec<String>> {
        let [owner, write] = ["owner", "write"].map(|name| self.scratch.fresh(name).display().to_string());
        let public = self.home.ok(["key", "generate", &owner])?;
        let repo = self.repo.display().to_string();
        let init = ["init", &repo, "--recipient", public.trim(), "--write-key", &write];
        self.home.ok([&init[..], more].concat())?;
        self.home.set("BLKDELTA_KEY_FILE", &owner);
        Ok(vec!["--key-file".into(), write])
    }

    /// At every failpoint on its way the backup dies or fails in each of these ways; those that were reached.
    fn dies_at_every_step(
        &mut self,
        name: &str,
        ways: &[(&str, &[&str])],
        but: &[&str],
    ) -> Result<Vec<String>> {
        self.change(40)?;
        self.backup(&[], "full")?;
        let names = fault::on_the_way_of_a_backup(&[&["job."][..], but].concat())?;
        let mut reached = Vec::new();
        for point in &names {
            for (n, (how, more)) in ways.iter().enumerate() {
                let hit = self.one_death(&format!("{point}={how}"), more)?;
                if hit && reached.last() != Some(point) {
                    reached.push(point.clone());
                }
                // what is not on the way the first time is not there at all
                if n == 0 && !hit {
                    break;
                }
            }
        }
        self.ensure_sound(&self.repo)?;
        host::say(&format!("{name}: {} of {} failpoints reached: {reached:?}", reached.len(), names.len()));
        for wanted in ["group.after-cut", "group.frozen", "group.before-thaw", "group.before-finish"]
            .into_iter()
            .chain(["group.before-retire", "group.after-retire", "repo.manifest.stored", "epoch.after-seal"])
        {
            ensure!(reached.iter().any(|name| name == wanted), "{wanted} was not reached: {reached:?}");
        }
        Ok(reached)
    }

    /// Changes files, lets one backup die, and proves that the next one is complete, and the one that died too if it left
    /// a point. Whether it did die.
    fn one_death(&mut self, arm: &str, more: &[&str]) -> Result<bool> {
        let points = self.points(&self.repo)?;
        let then = self.change(8)?;
        let ended = self.home.run_failing(arm, self.words(more))?;
        let hit = ended.signal == Some(9) || ended.err.contains("failpoint");
        ensure!(hit || ended.code == Some(0), "{arm}: neither hit nor done: {ended}");
        ensure!(ended.code != Some(101), "{arm}: panic: {ended}");
        for left in self.points(&self.repo)?.iter().filter(|id| !points.contains(id)) {
            self.ensure_restores(&self.repo, left, &then, &format!("the point left by {arm} {more:?}"))?;
        }
        if !hit {
            return Ok(false);
        }
        let now = self.change(4)?;
        let point = self.backup(&[], "incremental").with_context(|| format!("the backup after {arm}"))?;
        self.ensure_restores(&self.repo, &point, &now, &format!("after {arm} {more:?} ({ended})"))?;
        Ok(true)
    }
}

impl Drop for Scene<'_> {
    fn drop(&mut self) {
        for device in &self.devices {
            // the pins go with the home in any case
            let _ = self.home.run(["untrack".as_ref(), device.path().as_os_str()]);
        }
    }
}

#[test]
fn a_groups_backup_dies_at_every_step() -> Result<()> {
    const NAME: &str = "group_faults::a_groups_backup_dies_at_every_step";
    skip_if!(cannot(), NAME);
    let scratch = Scratch::new("group-faults")?;
    let mut scene = Scene::new(&scratch, NAME)?;
    let ways: &[(&str, &[&str])] = &[("kill", &[]), ("error", &[]), ("kill@2", &[]), ("kill", &["--full"])];
    scene.dies_at_every_step(NAME, ways, &["repo.parity."]).map(drop)
}

/// The same into an encrypted repository with parity, which is made after the point.
#[test]
fn a_groups_encrypted_backup_dies_at_every_step() -> Result<()> {
    const NAME: &str = "group_faults::a_groups_encrypted_backup_dies_at_every_step";
    skip_if!(cannot(), NAME);
    let scratch = Scratch::new("group-sealed")?;
    let mut scene = Scene::new(&scratch, NAME)?;
    scene.encrypt(&["--parity", "34%"])?;
    let reached = scene.dies_at_every_step(NAME, &[("kill", &[]), ("kill@2", &[])], &[])?;
    ensure!(reached.iter().any(|name| name.starts_with("repo.parity.")), "no parity was made: {reached:?}");
    Ok(())
}

/// Made by a host that cannot read them, restored by the owner, who alone can.
#[test]
fn a_group_in_an_encrypted_repository_restores_for_its_owner_only() -> Result<()> {
    const NAME: &str = "group_faults::a_group_in_an_encrypted_repository_restores_for_its_owner_only";
    skip_if!(cannot(), NAME);
    let scratch = Scratch::new("group-owner")?;
    let mut scene = Scene::new(&scratch, NAME)?;
    let write = scene.encrypt(&[])?;
    let write: Vec<&str> = write.iter().map(String::as_str).collect();
    let mut points = Vec::new();
    // who cannot read the list of files of the point before makes a full one, and says why
    for (words, kind) in
        [(&write[..], "full"), (&[], "incremental"), (&write[..], "full"), (&[], "incremental")]
    {
        let trees = scene.change(40)?;
        points.push((scene.backup(words, kind)?, trees));
    }
    scene.ensure_all(&scene.repo, &points, "encrypted")?;
    let (repo, into) = (scene.repo.display().to_string(), scratch.fresh("stolen").display().to_string());
    let theft = ["restore", "--repo", &repo, "--group", "g", "--point", "latest", "--into", &into];
    let refused = scene.home.run([&theft[..], &write].concat())?.expect(1, "the key that only writes")?;
    ensure!(!refused.err.contains("panicked") && !Path::new(&into).join("g").exists(), "{refused}");
    let markers = scene.folders()[0].display().to_string();
    let found = tests::tree::somewhere_in(&scene.repo, markers.as_bytes())?;
    ensure!(found.is_none(), "names of files are readable in {found:?}");
    Ok(())
}

/// Copied as they are, sealed by another key, opened again: whichever repository is asked gives the same files.
#[test]
fn copies_of_a_groups_points_restore() -> Result<()> {
    const NAME: &str = "group_faults::copies_of_a_groups_points_restore";
    skip_if!(cannot(), NAME);
    let scratch = Scratch::new("group-copies")?;
    let mut scene = Scene::new(&scratch, NAME)?;
    let [plain, sealed, opened, whole] =
        ["plain", "sealed", "opened", "whole"].map(|name| scratch.fresh(name));
    let copy = |scene: &Scene<'_>, from: &Path, to: &Path, more: &[&str]| -> Result<()> {
        let [from, to] = [from, to].map(|path| path.display().to_string());
        scene.home.ok([&["copy", "--from", &from, "--to", &to][..], more].concat()).map(drop)
    };
    let first = scene.change(40)?;
    let mut points = vec![(scene.backup(&[], "full")?, first)];
    copy(&scene, &scene.repo, &plain, &["--all"])?;
    for _ in 0..3 {
        let trees = scene.change(20)?;
        points.push((scene.backup(&[], "incremental")?, trees));
    }
    copy(&scene, &scene.repo, &plain, &["--all"])?;
    scene.ensure_all(&plain, &points, "copied")?;
    copy(&scene, &scene.repo, &whole, &["--point", &points[2].0, "--full"])?;
    scene.ensure_all(&whole, &points[2..3], "copied as a full")?;
    // from here on there is a key in the environment, which the readable ones must not be opened with
    let owner = scratch.fresh("owner").display().to_string();
    let public = scene.home.ok(["key", "generate", &owner])?;
    scene.home.ok(["init", &sealed.display().to_string(), "--recipient", public.trim()])?;
    copy(&scene, &plain, &sealed, &["--all", "--to-key-file", &owner])?;
    copy(&scene, &sealed, &opened, &["--all", "--decrypt", "--from-key-file", &owner])?;
    scene.ensure_all(&opened, &points, "opened again")?;
    scene.home.set("BLKDELTA_KEY_FILE", &owner);
    scene.ensure_all(&sealed, &points, "sealed anew")
}

/// A point in the middle, then the last one, is made to stand alone; what was below goes; the next is an increment.
#[test]
fn merged_points_of_a_group_restore() -> Result<()> {
    const NAME: &str = "group_faults::merged_points_of_a_group_restore";
    skip_if!(cannot(), NAME);
    let scratch = Scratch::new("group-merge")?;
    let mut scene = Scene::new(&scratch, NAME)?;
    let repo = scene.repo.display().to_string();
    let mut points = Vec::new();
    for round in 0..6 {
        let trees = scene.change(30)?;
        let kind = if round == 0 { "full" } else { "incremental" };
        points.push((scene.backup(&[], kind)?, trees));
    }
    scene.home.ok(["merge", "--repo", &repo, "--up-to", &points[3].0])?;
    scene.ensure_all(&scene.repo, &points, "one in the middle merged")?;
    scene.home.ok(["prune", "--repo", &repo, "--keep-last", "3", "--grace", "0"])?;
    points.drain(..3);
    scene.ensure_all(&scene.repo, &points, "what was below it pruned")?;
    let trees = scene.change(30)?;
    points.push((scene.backup(&["--merge-every", "1"], "incremental")?, trees));
    scene.home.ok(["prune", "--repo", &repo, "--keep-last", "1", "--grace", "0"])?;
    scene.home.ok(["compact", "--repo", &repo, "--dead", "1%", "--grace", "0"])?;
    points.drain(..points.len() - 1);
    let trees = scene.change(10)?;
    points.push((scene.backup(&[], "incremental")?, trees));
    scene.ensure_all(&scene.repo, &points, "merged by the backup, pruned to one, compacted")
}
