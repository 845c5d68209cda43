//! Promise: single files come back from a point of a whole device, in everything that can be seen of them, and whatever
//! happens, no mount, loop device or copy of the device stays behind.

use anyhow::{Context, Result, ensure};
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use tests::device::{Loop, Mounted, open_with, put, wait_until};
use tests::grouped::{Grouped, plant};
use tests::host::run;
use tests::product::{Ended, Home};
use tests::random::Random;
use tests::scratch::Scratch;
use tests::tree::Tree;
use tests::{host, skip_if};

/// A planted file system on a tracked device, and its point.
struct Backed<'a> {
    group: Grouped<'a>,
    repo: String,
    point: String,
    tree: Tree,
    scratch: &'a Scratch,
}

impl<'a> Backed<'a> {
    fn new(scratch: &'a Scratch, name: &str, kind: &str, more: &[&str]) -> Result<Self> {
        let mut group = Grouped::new(scratch, name, &[&format!("mkfs.{kind}"), "-q"], "noatime")?;
        plant(&mut group)?;
        // in the journal, maybe nowhere else
        let last = File::create(group.at("last"))?;
        last.write_all_at(&group.random.bytes(5000), 100)?;
        last.sync_all()?;
        let (device, repo) =
            (group.device.path().display().to_string(), scratch.fresh("whole").display().to_string());
        let words = ["backup", &device, "--repo", &repo].into_iter().chain(more.iter().copied());
        let json = group.home.json(words)?;
        let wanted = if more.is_empty() { "file-system-frozen" } else { "crash" };
        ensure!(json["consistency"] == wanted, "{json}");
        let point = json["point"].as_str().context("no point")?.to_owned();
        let tree = Tree::of(&group.at(""), |_| false)?;
        // what comes later is not in it
        open_with(&group.at("big"), 0)?.set_len(5)?;
        fs::remove_file(group.at("one"))?;
        Ok(Self { group, repo, point, tree, scratch })
    }

    fn words(&self, paths: &[&str], into: &Path) -> Vec<String> {
        let (into, scratch) = (into.display().to_string(), self.scratch.path().display().to_string());
        let words = ["restore", "--repo", &self.repo, "--point", &self.point, "--scratch", &scratch];
        let words = words.into_iter().chain(paths.iter().copied()).chain(["--into", &into]);
        words.map(ToOwned::to_owned).collect()
    }

    /// Nothing is left of it.
    fn ensure_clean(&self) -> Result<()> {
        let folder = self.scratch.path().display().to_string();
        let ours = |line: &str| line.contains(&folder) && line.contains(".blkdelta-files-");
        let gone = || {
            let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
            let loops =
                run("losetup", ["--list", "--noheadings", "--output", "BACK-FILE"]).unwrap_or_default();
            !mounts.lines().any(ours) && !loops.lines().any(ours)
        };
        wait_until(gone, "mounts and loop devices of the restore are gone")
    }
}

fn come_back(name: &'static str, kind: &str, more: &[&str]) -> Result<()> {
    skip_if!(host::no_tracking(), name);
    skip_if!(host::no_filesystem(kind), name);
    let scratch = Scratch::new("single-files")?;
    let backed = Backed::new(&scratch, name, kind, more)?;
    let into = backed.group.outside("back");
    let done = backed.group.home.json(backed.words(&["/g"], &into))?;
    ensure!(done["sound"] == true, "{done}");
    rustix::fs::syncfs(File::open(&into)?)?;
    backed.tree.ensure_same(&Tree::of(&into.join("g"), |_| false)?, "all of the folder")?;
    ensure!(!into.join("outside").exists(), "what was not asked for");
    fs::remove_dir_all(&into)?;
    let done = backed.group.home.json(backed.words(&["/g/a/small", "g/last"], &into))?;
    ensure!(done["files"] == 2 && done["sound"] == true, "{done}");
    ensure!(Tree::of(&into, |_| false)?.len() == 5, "two files and the folders above them");
    let missing = backed.group.home.run(backed.words(&["/g/not-there"], &backed.group.outside("none")))?;
    ensure!(missing.code == Some(1) && missing.err.contains("/g/not-there"), "{missing}");
    backed.ensure_clean()?;
    let left = fs::read_dir(scratch.path())?.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    ensure!(!left.into_iter().any(|name| name.starts_with(".blkdelta-files-")), "a copy is left");
    Ok(())
}

#[test]
fn of_ext4() -> Result<()> {
    come_back("single_files::of_ext4", "ext4", &[])
}

#[test]
fn of_xfs() -> Result<()> {
    come_back("single_files::of_xfs", "xfs", &[])
}

#[test]
fn of_btrfs() -> Result<()> {
    come_back("single_files::of_btrfs", "btrfs", &[])
}

#[test]
fn of_a_crashed_ext4() -> Result<()> {
    come_back("single_files::of_a_crashed_ext4", "ext4", &["--no-freeze"])
}

#[test]
fn of_a_crashed_xfs() -> Result<()> {
    come_back("single_files::of_a_crashed_xfs", "xfs", &["--no-freeze"])
}

#[test]
fn killed_with_the_mount_in_place_nothing_stays() -> Result<()> {
    const NAME: &str = "single_files::killed_with_the_mount_in_place_nothing_stays";
    skip_if!(host::no_tracking(), NAME);
    skip_if!(host::no_filesystem("ext4"), NAME);
    let scratch = Scratch::new("single-files")?;
    let backed = Backed::new(&scratch, NAME, "ext4", &[])?;
    for how in ["unpack.mounted", "unpack.mounted=error"] {
        let ended = backed.group.home.run_failing(how, backed.words(&["/g"], &backed.group.outside(how)))?;
        ensure!(ended.code != Some(0), "{how}: {ended}");
        backed.ensure_clean()?;
    }
    Ok(())
}

#[test]
fn without_the_right_to_mount_it_is_said() -> Result<()> {
    const NAME: &str = "single_files::without_the_right_to_mount_it_is_said";
    skip_if!(host::no_tracking(), NAME);
    skip_if!(host::no_filesystem("ext4"), NAME);
    let scratch = Scratch::new("single-files")?;
    let backed = Backed::new(&scratch, NAME, "ext4", &[])?;
    let into = backed.group.outside("back");
    let plain = backed.group.home.command(backed.words(&["/g"], &into))?;
    let mut without = Command::new("setpriv");
    without.args(["--bounding-set", "-sys_admin"]).arg(plain.get_program()).args(plain.get_args());
    without.env("BLKDELTA_HOME", backed.group.home.path());
    let ended = Ended::of(&mut without)?;
    ensure!(ended.code == Some(1), "{ended}");
    ensure!(ended.err.contains("CAP_SYS_ADMIN") || ended.err.contains("root"), "{ended}");
    backed.ensure_clean()
}

/// A disk with two file systems: which one is meant has to be said.
#[test]
fn of_a_partitioned_disk() -> Result<()> {
    const NAME: &str = "single_files::of_a_partitioned_disk";
    skip_if!(host::no_tracking(), NAME);
    skip_if!(host::no_filesystem("ext4"), NAME);
    let scratch = Scratch::new("single-files")?;
    let mut random = Random::for_test(NAME);
    let disk = Loop::new(&scratch, "disk", 128 << 20)?;
    let parts = disk.partition("label: gpt\nsize=40MiB\nsize=40MiB\n")?;
    for (n, part) in parts.iter().enumerate() {
        run("mkfs.ext4", ["-q".as_ref(), part.as_os_str()])?;
        let mounted = Mounted::new(&scratch, part, "")?;
        put(&mounted.point().join("file"), &random.bytes(3000 + n))?;
        mounted.unmount()?;
    }
    let (home, repo) = (Home::new(&scratch)?, scratch.fresh("repo").display().to_string());
    let device = disk.path().display().to_string();
    home.ok(["track", &device])?;
    let made = home.json(["backup", &device, "--repo", &repo]);
    home.ok(["untrack", &device])?;
    let point = made?["point"].as_str().context("no point")?.to_owned();
    let into = |n: u32| -> PathBuf { scratch.path().join(format!("into{n}")) };
    let words = |n: u32| -> Vec<String> {
        let to = into(n).display().to_string();
        ["restore", "--repo", &repo, "--point", &point, "/file", "--into", &to]
            .map(ToOwned::to_owned)
            .to_vec()
    };
    let unclear = home.run(words(0))?;
    ensure!(unclear.code == Some(2) && unclear.err.contains("1 (ext4), 2 (ext4)"), "{unclear}");
    for n in [1, 2] {
        home.ok(words(n).into_iter().chain(["--partition".to_owned(), n.to_string()]))?;
        let size = fs::metadata(into(n).join("file"))?.len();
        ensure!(size == 2999 + u64::from(n), "partition {n}: {size} bytes");
    }
    let none = home.run(words(3).into_iter().chain(["--partition".to_owned(), "3".to_owned()]))?;
    ensure!(none.code == Some(1) && none.err.contains("no partition 3"), "{none}");
    Ok(())
}
