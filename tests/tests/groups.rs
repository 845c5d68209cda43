//! Promise: a point of a group gives its files back by name, in everything that can be seen of them, whatever happened to
//! them since the point before; and what is not of the group is not in the store.

use anyhow::{Context, Result, ensure};
use std::fs::{self, File};
use std::os::unix::fs::{FileExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use tests::device::{Loop, Mounted, open_with, put};
use tests::host::run;
use tests::product::Home;
use tests::random::Random;
use tests::scratch::Scratch;
use tests::tree::{Tree, somewhere_in};
use tests::{host, skip_if};

use rustix::fs::FallocateFlags;

/// A file system of `kind` on a tracked loop device, with a group in the folder `g` of it.
struct Care<'a> {
    scratch: &'a Scratch,
    home: Home,
    repo: PathBuf,
    random: Random,
    // before the device: dropped first
    mounted: Mounted,
    device: Loop,
    points: Vec<(String, &'static str, Tree)>,
}

/// What is left out of the group.
fn left_out(path: &Path) -> bool {
    path.components().any(|c| c.as_os_str() == "cache") || path.extension().is_some_and(|e| e == "tmp")
}

impl<'a> Care<'a> {
    fn new(scratch: &'a Scratch, name: &str, mkfs: &[&str], options: &str) -> Result<Self> {
        let device = Loop::new(scratch, "disk", 512 << 20)?;
        run(mkfs[0], mkfs[1..].iter().map(|w| w.as_ref()).chain([device.path().as_os_str()]))?;
        let home = Home::new(scratch)?;
        home.ok(["track".as_ref(), device.path().as_os_str()])?;
        let mounted = Mounted::new(scratch, device.path(), options)?;
        let random = Random::for_test(name);
        let repo = scratch.fresh("repo");
        let care = Self { scratch, home, repo, random, mounted, device, points: Vec::new() };
        fs::create_dir(care.at(""))?;
        fs::create_dir(care.outside(""))?;
        Ok(care)
    }

    /// A path in the group.
    fn at(&self, name: &str) -> PathBuf {
        self.mounted.point().join("g").join(name)
    }

    /// A path on the same file system, not in the group.
    fn outside(&self, name: &str) -> PathBuf {
        self.mounted.point().join("outside").join(name)
    }

    /// A file of random bytes.
    fn file(&mut self, name: &str, bytes: usize) -> Result<PathBuf> {
        let path = self.at(name);
        put(&path, &self.random.bytes(bytes))?;
        Ok(path)
    }

    fn words(&self, more: &[&str]) -> Vec<String> {
        let (path, repo) = (self.at("").display().to_string(), self.repo.display().to_string());
        let mut words = vec!["group", "backup", "--name", "g", "--path", &path, "--repo", &repo];
        words.extend(["--exclude", "*.tmp", "--exclude", "cache", "--compression", "none"]);
        words.extend(more);
        words.into_iter().map(ToOwned::to_owned).collect()
    }

    /// Makes a point and remembers what must come back; what the product said.
    fn backup(&mut self, what: &'static str) -> Result<serde_json::Value> {
        let json = self.home.json(self.words(&[])).context(what)?;
        let id = json["point"].as_str().context("no point")?.to_owned();
        ensure!(json["suspect"].as_array().is_some_and(Vec::is_empty), "{what}: suspect: {json}");
        ensure!(json["unread"].as_array().is_some_and(Vec::is_empty), "{what}: not read: {json}");
        let kind = if self.points.is_empty() { "full" } else { "incremental" };
        ensure!(json["kind"] == kind, "{what}: wanted {kind}: {json}");
        self.points.push((id, what, Tree::of(&self.at(""), left_out)?));
        Ok(json)
    }

    /// Every point gives its tree back.
    fn ensure_all_restore(&self) -> Result<()> {
        for (id, what, wanted) in &self.points {
            self.ensure_restores(id, what, wanted)?;
        }
        Ok(())
    }

    fn ensure_restores(&self, id: &str, what: &str, wanted: &Tree) -> Result<()> {
        let into = self.outside("back");
        let (repo, to) = (self.repo.display().to_string(), into.display().to_string());
        let done =
            self.home.json(["restore", "--repo", &repo, "--group", "g", "--point", id, "--into", &to])?;
        ensure!(done["sound"] == true, "{what}: {done}");
        // delayed allocation is no hole
        rustix::fs::syncfs(File::open(&into)?)?;
        let inside = into.join(self.at("").strip_prefix("/")?);
        let got = Tree::of(&inside, |_| false)?;
        fs::remove_dir_all(&into)?;
        wanted.ensure_same(&got, what)
    }

    fn ensure_sound(&self) -> Result<()> {
        let repo = self.repo.display().to_string();
        self.home.run(["check", "--repo", &repo, "--read-data"])?.expect(0, "check --read-data").map(drop)
    }
}

impl Drop for Care<'_> {
    fn drop(&mut self) {
        let _ = self.home.run(["untrack".as_ref(), self.device.path().as_os_str()]);
        let _ = self.scratch;
    }
}

/// Files of every kind.
fn plant(care: &mut Care<'_>) -> Result<()> {
    for folder in ["a", "a/b", "a/b/c", "cache", "empty"] {
        fs::create_dir(care.at(folder))?;
    }
    for (name, bytes) in
        [("one", 1), ("empty-file", 0), ("a/small", 700), ("a/page", 4096), ("a/odd", 70_001)]
    {
        care.file(name, bytes)?;
    }
    for n in 0..40 {
        care.file(&format!("a/b/f{n}"), 1000 + n * 977)?;
    }
    care.file("big", 5 << 20)?;
    care.file("zeros", 10)?;
    File::create(care.at("zeros"))?.write_all_at(&[0; 300_000], 0)?;
    let sparse = File::create(care.at("sparse"))?;
    sparse.write_all_at(&care.random.bytes(8192), 1 << 20)?;
    sparse.set_len(9_000_000)?;
    File::create(care.at("hole"))?.set_len(3 << 20)?;
    let reserved = File::create(care.at("reserved"))?;
    rustix::fs::fallocate(&reserved, FallocateFlags::empty(), 0, 1 << 20)?;
    reserved.write_all_at(&care.random.bytes(5000), 200_000)?;
    plant_names(care)?;
    care.file("junk.tmp", 9000)?;
    care.file("cache/junk", 9000).map(drop)
}

/// What is not content: links, devices, names, owners, attributes.
fn plant_names(care: &mut Care<'_>) -> Result<()> {
    symlink("../some where", care.at("a/link"))?;
    symlink("x".repeat(900), care.at("a/long-link"))?;
    fs::hard_link(care.at("a/odd"), care.at("a/b/odd-too"))?;
    fs::hard_link(care.at("a/odd"), care.at("odd-three"))?;
    fs::hard_link(care.at("big"), care.outside("big-too"))?;
    run("mkfifo", [care.at("pipe")])?;
    run("mknod", [care.at("null").as_os_str(), "c".as_ref(), "1".as_ref(), "3".as_ref()])?;
    std::os::unix::net::UnixListener::bind(care.at("socket"))?;
    let strange = std::ffi::OsStr::new("na\u{1}me ").to_owned();
    put(&care.at("a").join(strange), b"strange")?;
    use std::os::unix::ffi::OsStrExt;
    put(&care.at("").join(std::ffi::OsStr::from_bytes(b"not\xffutf8")), b"bytes")?;
    rustix::fs::chownat(
        rustix::fs::CWD,
        care.at("a/small"),
        Some(rustix::fs::Uid::from_raw(1234)),
        Some(rustix::fs::Gid::from_raw(77)),
        rustix::fs::AtFlags::empty(),
    )?;
    fs::set_permissions(care.at("a/page"), fs::Permissions::from_mode(0o4751))?;
    fs::set_permissions(care.at("a/b"), fs::Permissions::from_mode(0o1700))?;
    attribute(&care.at("a/small"), "user.note", b"\0binary\xff")?;
    attribute(&care.at("a"), "user.folder", &[7; 700])?;
    // an access list: user 1234 may read
    let list = [
        2, 0, 0, 0, 1, 0, 6, 0, 255, 255, 255, 255, 2, 0, 4, 0, 210, 4, 0, 0, 4, 0, 4, 0, 255, 255, 255, 255,
    ];
    let list = [&list[..], &[16, 0, 4, 0, 255, 255, 255, 255, 32, 0, 0, 0, 255, 255, 255, 255]].concat();
    attribute(&care.at("one"), "system.posix_acl_access", &list)
}

fn attribute(path: &Path, name: &str, value: &[u8]) -> Result<()> {
    rustix::fs::setxattr(path, name, value, rustix::fs::XattrFlags::empty())
        .with_context(|| format!("set {name} of {}", path.display()))
}

type Step = (&'static str, fn(&mut Care<'_>) -> Result<()>);

#[expect(clippy::disallowed_methods, reason = "the renames are the work, nothing is published")]
const STEPS: &[Step] = &[
    ("nothing", |_| Ok(())),
    ("created", |care| {
        fs::create_dir(care.at("new"))?;
        care.file("new/file", 123_456)?;
        care.file("new/small", 5).map(drop)
    }),
    ("overwritten", |care| {
        let bytes = care.random.bytes(4096);
        Ok(open_with(&care.at("big"), 0)?.write_all_at(&bytes, 1 << 20)?)
    }),
    ("appended", |care| {
        let bytes = care.random.bytes(3000);
        Ok(open_with(&care.at("a/odd"), 0)?.write_all_at(&bytes, 70_001)?)
    }),
    ("moved", |care| Ok(fs::rename(care.at("a/b/f1"), care.at("f1-moved"))?)),
    ("a folder moved", |care| Ok(fs::rename(care.at("a/b"), care.at("b-moved"))?)),
    // its areas have long been clean
    ("moved into the group", |care| Ok(fs::rename(care.outside("waits"), care.at("came"))?)),
    ("a folder moved into the group", |care| Ok(fs::rename(care.outside("tree"), care.at("tree"))?)),
    ("moved out", |care| Ok(fs::rename(care.at("f1-moved"), care.outside("went"))?)),
    ("no longer excluded", |care| Ok(fs::rename(care.at("junk.tmp"), care.at("junk.kept"))?)),
    ("truncated", |care| {
        open_with(&care.at("b-moved/f9"), 0)?.set_len(100)?;
        open_with(&care.at("big"), 0)?.set_len(2 << 20)?;
        Ok(())
    }),
    ("made longer", |care| Ok(open_with(&care.at("b-moved/f9"), 0)?.set_len(50_000)?)),
    ("replaced by rename", |care| {
        let new = care.file("replacement", 60_000)?;
        Ok(fs::rename(new, care.at("a/odd"))?)
    }),
    ("a hole punched", |care| {
        let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        Ok(rustix::fs::fallocate(open_with(&care.at("big"), 0)?, flags, 64 << 10, 512 << 10)?)
    }),
    ("a hole filled", |care| {
        let bytes = care.random.bytes(20_000);
        Ok(open_with(&care.at("sparse"), 0)?.write_all_at(&bytes, 4_000_001)?)
    }),
    ("reserved and written", |care| {
        let bytes = care.random.bytes(9000);
        Ok(open_with(&care.at("reserved"), 0)?.write_all_at(&bytes, 700_000)?)
    }),
    ("linked, unlinked", |care| {
        fs::hard_link(care.at("one"), care.at("a/one-too"))?;
        Ok(fs::remove_file(care.at("odd-three"))?)
    }),
    ("of another owner, mode, attributes", |care| {
        fs::set_permissions(care.at("came"), fs::Permissions::from_mode(0o600))?;
        attribute(&care.at("came"), "user.note", b"new")?;
        rustix::fs::removexattr(care.at("a/small"), "user.note")?;
        attribute(&care.at("a/page"), "user.long", &[9; 500])
    }),
    ("deleted", |care| {
        fs::remove_file(care.at("new/small"))?;
        Ok(fs::remove_dir_all(care.at("tree"))?)
    }),
    ("a file where a folder was", |care| {
        fs::remove_dir_all(care.at("new"))?;
        care.file("new", 4000).map(drop)
    }),
];

fn increments(name: &'static str, mkfs: &[&str], more: &[Step]) -> Result<()> {
    skip_if!(host::no_tracking(), name);
    let kind = mkfs[0].trim_start_matches("mkfs.");
    skip_if!(host::no_filesystem(kind), name);
    let scratch = Scratch::new("groups")?;
    let mut care = Care::new(&scratch, name, mkfs, "noatime")?;
    plant(&mut care)?;
    let bytes = care.random.bytes(90_000);
    put(&care.outside("waits"), &bytes)?;
    fs::create_dir_all(care.outside("tree/x/y"))?;
    put(&care.outside("tree/x/y/deep"), &bytes[..8000])?;
    care.backup("the first")?;
    for (what, step) in STEPS.iter().chain(more) {
        step(&mut care).with_context(|| format!("{what} on {kind}"))?;
        care.backup(what)?;
    }
    care.ensure_all_restore()?;
    care.ensure_sound()?;
    // of a chain cut short, and compacted, the rest is whole
    let repo = care.repo.display().to_string();
    care.home.ok(["prune", "--repo", &repo, "--keep-last", "5", "--grace", "0"])?;
    care.home.ok(["compact", "--repo", &repo, "--dead", "1%", "--grace", "0"])?;
    let from = care.points.len() - 5;
    care.points.drain(..from);
    care.ensure_all_restore()?;
    care.ensure_sound()?;
    care.backup("after the prune")?;
    care.ensure_all_restore()
}

/// Copies a file so that both share their extents.
fn reflinked(care: &mut Care<'_>) -> Result<()> {
    run("cp", ["--reflink=always".as_ref(), care.at("big").as_os_str(), care.at("big-clone").as_os_str()])?;
    let bytes = care.random.bytes(5000);
    Ok(open_with(&care.at("big-clone"), 0)?.write_all_at(&bytes, 700_000)?)
}

#[test]
fn ext4() -> Result<()> {
    let defragmented: Step = ("defragmented", |care| {
        fragment(care)?;
        run("e4defrag", [care.at("pieces")]).map(drop)
    });
    increments("groups::ext4", &["mkfs.ext4", "-q"], &[("in pieces", fragment), defragmented])
}

#[test]
fn ext4_with_small_blocks() -> Result<()> {
    increments("groups::ext4_with_small_blocks", &["mkfs.ext4", "-q", "-b", "1024"], &[])
}

#[test]
fn ext4_with_content_in_inodes() -> Result<()> {
    let options = ["mkfs.ext4", "-q", "-I", "512", "-O", "inline_data"];
    increments("groups::ext4_with_content_in_inodes", &options, &[])
}

#[test]
fn xfs() -> Result<()> {
    let defragmented: Step = ("defragmented", |care| {
        fragment(care)?;
        run("xfs_fsr", [care.at("pieces")]).map(drop)
    });
    let more = [("reflinked", reflinked as fn(&mut Care<'_>) -> _), ("in pieces", fragment), defragmented];
    increments("groups::xfs", &["mkfs.xfs", "-q"], &more)
}

#[test]
fn btrfs() -> Result<()> {
    let defragmented: Step = ("defragmented", |care| {
        fragment(care)?;
        run("btrfs", ["filesystem".as_ref(), "defragment".as_ref(), care.at("pieces").as_os_str()]).map(drop)
    });
    let more = [("reflinked", reflinked as fn(&mut Care<'_>) -> _), ("in pieces", fragment), defragmented];
    increments("groups::btrfs", &["mkfs.btrfs", "-q"], &more)
}

/// A file in many extents.
fn fragment(care: &mut Care<'_>) -> Result<()> {
    let file = File::create(care.at("pieces"))?;
    for n in (0..64u64).rev() {
        file.write_all_at(&care.random.bytes(8192), n * 8192)?;
        file.sync_all()?;
    }
    Ok(())
}

/// Between its files lie those of others, in the same areas.
#[test]
fn what_is_excluded_is_not_in_the_store() -> Result<()> {
    const NAME: &str = "groups::what_is_excluded_is_not_in_the_store";
    skip_if!(host::no_tracking(), NAME);
    skip_if!(host::no_filesystem("ext4"), NAME);
    let scratch = Scratch::new("groups")?;
    let mut care = Care::new(&scratch, NAME, &["mkfs.ext4", "-q", "-b", "1024"], "noatime")?;
    let (marker, ours) = (b"not to be stored".repeat(64), b"to be stored----".repeat(64));
    fs::create_dir(care.at("cache"))?;
    for round in 0..3 {
        for n in 0..200 {
            put(&care.at(&format!("f{round}-{n}")), &ours)?;
            put(&care.at(&format!("f{round}-{n}.tmp")), &marker)?;
            put(&care.at(&format!("cache/{round}-{n}")), &marker)?;
            put(&care.outside(&format!("{round}-{n}")), &marker)?;
        }
        // what was ours is theirs now, at the same place
        for n in 0..50 {
            let path = care.at(&format!("f{round}-{n}"));
            fs::remove_file(&path)?;
            put(&care.at(&format!("f{round}-{n}-again.tmp")), &marker)?;
        }
        care.backup("a round")?;
        ensure!(somewhere_in(&care.repo, &marker[..16])?.is_none(), "excluded bytes are in the store");
        ensure!(somewhere_in(&care.repo, &ours[..16])?.is_some(), "the group's bytes are not to be found");
    }
    care.ensure_all_restore()
}

/// One tracking, two groups and the device's own points: each goes on from its own last point.
#[test]
fn groups_and_devices_do_not_take_each_others_changes() -> Result<()> {
    const NAME: &str = "groups::groups_and_devices_do_not_take_each_others_changes";
    skip_if!(host::no_tracking(), NAME);
    skip_if!(host::no_filesystem("ext4"), NAME);
    let scratch = Scratch::new("groups")?;
    let mut care = Care::new(&scratch, NAME, &["mkfs.ext4", "-q"], "noatime")?;
    plant(&mut care)?;
    let other = scratch.fresh("other").display().to_string();
    let path = care.at("a").display().to_string();
    let device = care.device.path().display().to_string();
    let whole = scratch.fresh("whole").display().to_string();
    let mut seconds = Vec::new();
    for round in 0..4 {
        let bytes = care.random.bytes(6000);
        put(&care.at(&format!("a/round{round}")), &bytes)?;
        open_with(&care.at("big"), 0)?.write_all_at(&bytes, round * 100_000)?;
        let words = ["group", "backup", "--name", "a", "--path", &path, "--repo", &other];
        if round != 1 {
            let json = care.home.json(words)?;
            ensure!(round == 0 || json["kind"] == "incremental", "{json}");
            ensure!(json["suspect"].as_array().is_some_and(Vec::is_empty), "{json}");
            seconds.push((
                json["point"].as_str().context("id")?.to_owned(),
                Tree::of(&care.at("a"), |_| false)?,
            ));
        }
        if round != 2 {
            let json = care.home.json(["backup", &device, "--repo", &whole])?;
            ensure!(round == 0 || json["kind"] == "incremental", "{json}");
        }
        care.backup("a round")?;
    }
    care.ensure_all_restore()?;
    for (id, wanted) in seconds {
        let into = care.outside("other-back");
        restore_and_compare(&care, &other, (&id, &into), &wanted, &path)?;
    }
    Ok(())
}

fn restore_and_compare(
    care: &Care<'_>,
    repo: &str,
    (id, into): (&str, &Path),
    wanted: &Tree,
    path: &str,
) -> Result<()> {
    let to = into.display().to_string();
    care.home.ok(["restore", "--repo", repo, "--group", "a", "--point", id, "--into", &to])?;
    let got = Tree::of(&into.join(path.trim_start_matches('/')), |_| false)?;
    wanted.ensure_same(&got, "the other group")?;
    Ok(fs::remove_dir_all(into)?)
}
