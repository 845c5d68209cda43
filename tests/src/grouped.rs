//! A group of files on a tracked loop device, through the binary alone, and what its points must give back.

use crate::device::{Loop, Mounted, put};
use crate::host::run;
use crate::product::Home;
use crate::random::Random;
use crate::scratch::Scratch;
use crate::tree::Tree;
use anyhow::{Context, Result, ensure};
use rustix::fs::FallocateFlags;
use serde_json::Value;
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::os::unix::fs::{FileExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};

/// A file system of `kind` on a tracked loop device, with a group in the folder `g` of it.
pub struct Grouped<'a> {
    scratch: &'a Scratch,
    /// Where pins and state are.
    pub home: Home,
    /// The group's repository.
    pub repo: PathBuf,
    /// Of this test.
    pub random: Random,
    /// Before the device: dropped first.
    pub mounted: Mounted,
    /// The tracked device.
    pub device: Loop,
    /// Points of the group, what was done before each, and what each must give back.
    pub points: Vec<(String, String, Tree)>,
}

/// What is left out of the group.
pub fn left_out(path: &Path) -> bool {
    path.components().any(|c| c.as_os_str() == "cache") || path.extension().is_some_and(|e| e == "tmp")
}

impl<'a> Grouped<'a> {
    /// Makes all of it; `mkfs` is the program and its words.
    pub fn new(scratch: &'a Scratch, name: &str, mkfs: &[&str], options: &str) -> Result<Self> {
        let device = Loop::new(scratch, "disk", 512 << 20)?;
        run(mkfs[0], mkfs[1..].iter().map(|w| w.as_ref()).chain([device.path().as_os_str()]))?;
        let home = Home::new(scratch)?;
        home.ok(["track".as_ref(), device.path().as_os_str()])?;
        let mounted = Mounted::new(scratch, device.path(), options)?;
        let random = Random::for_test(name);
        let repo = scratch.fresh("repo");
        let made = Self { scratch, home, repo, random, mounted, device, points: Vec::new() };
        fs::create_dir(made.at(""))?;
        fs::create_dir(made.outside(""))?;
        Ok(made)
    }

    /// A path in the group.
    pub fn at(&self, name: &str) -> PathBuf {
        self.mounted.point().join("g").join(name)
    }

    /// A path on the same file system, not in the group.
    pub fn outside(&self, name: &str) -> PathBuf {
        self.mounted.point().join("outside").join(name)
    }

    /// A file of random bytes.
    pub fn file(&mut self, name: &str, bytes: usize) -> Result<PathBuf> {
        let path = self.at(name);
        put(&path, &self.random.bytes(bytes))?;
        Ok(path)
    }

    /// The words of a backup of the group.
    pub fn words(&self, more: &[&str]) -> Vec<String> {
        let (path, repo) = (self.at("").display().to_string(), self.repo.display().to_string());
        let mut words = vec!["group", "backup", "--name", "g", "--path", &path, "--repo", &repo];
        words.extend(["--exclude", "*.tmp", "--exclude", "cache", "--compression", "none"]);
        words.extend(more);
        words.into_iter().map(ToOwned::to_owned).collect()
    }

    /// Makes a point and remembers what must come back; what the product said.
    pub fn backup(&mut self, what: &str) -> Result<serde_json::Value> {
        let json = self.home.json(self.words(&[])).with_context(|| what.to_owned())?;
        let id = json["point"].as_str().context("no point")?.to_owned();
        ensure!(json["suspect"].as_array().is_some_and(Vec::is_empty), "{what}: suspect: {json}");
        ensure!(json["unread"].as_array().is_some_and(Vec::is_empty), "{what}: not read: {json}");
        let kind = if self.points.is_empty() { "full" } else { "incremental" };
        ensure!(json["kind"] == kind, "{what}: wanted {kind}: {json}");
        self.points.push((id, what.to_owned(), Tree::of(&self.at(""), left_out)?));
        Ok(json)
    }

    /// Every point gives its tree back.
    pub fn ensure_all_restore(&self) -> Result<()> {
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

    /// `check` finds nothing.
    pub fn ensure_sound(&self) -> Result<()> {
        let repo = self.repo.display().to_string();
        self.home.run(["check", "--repo", &repo, "--read-data"])?.expect(0, "check --read-data").map(drop)
    }

    /// A glance, and a walk of the same files by another group; both must tell the same of every file.
    pub fn ensure_glance_is_a_walk(&mut self, what: &str) -> Result<()> {
        let glanced = self.home.json(self.words(&[])).with_context(|| what.to_owned())?;
        ensure!(glanced["walked"] == false, "{what}: not a glance: {}", glanced["why_walked"]);
        ensure!(glanced["consistency"] == "file-system-frozen", "{what}: {glanced}");
        let other = self.repo.with_extension("walked").display().to_string();
        let path = self.at("").display().to_string();
        let mut words = vec!["group", "backup", "--name", "walked", "--path", &path, "--repo", &other];
        // what lies at a whole path is seen by a walk alone
        words.extend(["--exclude", "*.tmp", "--exclude", "cache", "--exclude", "/no/such/path"]);
        let walked = self.home.json(words.into_iter().chain(["--compression", "none"]))?;
        ensure!(walked["walked"] == true, "{what}: not a walk: {walked}");
        let (by_glance, by_walk) =
            (self.catalogue("g", &self.repo.display().to_string())?, self.catalogue("walked", &other)?);
        for path in by_glance.keys().chain(by_walk.keys()) {
            let (glance, walk) = (by_glance.get(path), by_walk.get(path));
            ensure!(glance == walk, "{what}: {path}:\n  by a glance {glance:?}\n  by a walk   {walk:?}");
        }
        ensure!(by_walk.len() > 1, "{what}: nothing was compared");
        Ok(())
    }

    /// Everything the newest point of a group knows of each file, but which volume it is.
    fn catalogue(&self, group: &str, repo: &str) -> Result<BTreeMap<String, Value>> {
        let listed =
            self.home.json(["group", "files", "latest", "--group", group, "--repo", repo, "--all"])?;
        let inside = self.at("").display().to_string();
        let inside = inside.trim_end_matches('/');
        let mut files = BTreeMap::new();
        for file in listed.as_array().context("no files")? {
            let path = file["path"].as_str().context("no path")?;
            if path.starts_with(inside) {
                let mut file = file.clone();
                without_volume(&mut file);
                files.insert(path.to_owned(), file);
            }
        }
        Ok(files)
    }
}

/// Volumes are numbered as they are met.
fn without_volume(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            fields.remove("volume");
            fields.values_mut().for_each(without_volume);
        }
        Value::Array(all) => all.iter_mut().for_each(without_volume),
        _ => {}
    }
}

impl Drop for Grouped<'_> {
    fn drop(&mut self) {
        let _ = self.home.run(["untrack".as_ref(), self.device.path().as_os_str()]);
        let _ = self.scratch;
    }
}

/// Files of every kind.
pub fn plant(care: &mut Grouped<'_>) -> Result<()> {
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
fn plant_names(care: &mut Grouped<'_>) -> Result<()> {
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
    attribute(&care.at("one"), "system.posix_acl_access", &access_list())
}

/// An access list by which user 1234 may read.
pub fn access_list() -> Vec<u8> {
    let list = [
        2, 0, 0, 0, 1, 0, 6, 0, 255, 255, 255, 255, 2, 0, 4, 0, 210, 4, 0, 0, 4, 0, 4, 0, 255, 255, 255, 255,
    ];
    [&list[..], &[16, 0, 4, 0, 255, 255, 255, 255, 32, 0, 0, 0, 255, 255, 255, 255]].concat()
}

/// Sets an extended attribute.
pub fn attribute(path: &Path, name: &str, value: &[u8]) -> Result<()> {
    rustix::fs::setxattr(path, name, value, rustix::fs::XattrFlags::empty())
        .with_context(|| format!("set {name} of {}", path.display()))
}
