//! Is a listed point what it says? Restored, compared, mounted, its files and databases looked at.
//!
//! ```text
//!   disk    restore ▸ every byte against the copy made at the cut, if there is one ▸ fsck ▸ mount ▸ files ▸ databases
//!   group   restore by name ▸ files ▸ databases
//! ```
//! What must stay true: what is compared with was not made by blkdelta: copies of backing files, the writers' ledgers, the
//! databases' own checks and acknowledgements.

use super::counter::Acknowledged;
use super::ground::{Disk, Ground, Opened};
use super::jobs::{Folder, Of, POSTGRES_DISK, SQLITE_DISK};
use super::ledger::{Ledger, Mark};
use super::points::Point;
use super::postgres::{self, Programs};
use super::sqlite;
use super::stores::Stores;
use crate::rig::product::{Product, utf8};
use crate::rig::proof;
use anyhow::{Context, Result, bail};
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// What is known of what was written.
pub struct Truth {
    /// By disk.
    pub ledgers: BTreeMap<&'static str, Arc<Ledger>>,
    /// Commits of SQLite and of PostgreSQL.
    pub sqlite: Arc<Acknowledged>,
    /// See `sqlite`.
    pub postgres: Arc<Acknowledged>,
}

/// Everything a proof needs.
pub struct Prover<'a> {
    /// The program.
    pub product: &'a Product,
    /// The disks.
    pub ground: &'a Ground,
    /// The repositories.
    pub stores: &'a Stores,
    /// What was written.
    pub truth: &'a Truth,
    /// PostgreSQL's.
    pub programs: &'a Programs,
    /// Its socket and log.
    pub run: PathBuf,
    /// The disks are mounted: a second btrfs of the same name must not be.
    pub live: bool,
}

/// What a point was found to be.
#[derive(Clone, Copy, Default)]
pub struct Proof {
    /// Compared with a copy, byte for byte.
    pub equal: bool,
    /// Files that were looked at, those that must not be there too.
    pub files: u64,
    /// Databases that were started and checked.
    pub databases: u64,
}

impl Prover<'_> {
    /// An error if the point does not hold what it must.
    pub fn prove(&self, point: &Point) -> Result<Proof> {
        let (work, name) = (self.ground.work(), point.job.name);
        let proof = match point.job.of {
            Of::Disk => self.disk(point, &work),
            Of::Folders(disks, folder) => self.group(point, &work, disks, folder),
        };
        let proof = proof.with_context(|| {
            let Point { id, consistency, begun, cut, .. } = point;
            format!("point {id} of {name} ({consistency}, begun {begun}, cut {cut})")
        })?;
        for left in ["restored.img", "truth.img", "files"].map(|name| work.join(name)) {
            // not all of them were made
            let _ = if left.is_dir() { fs::remove_dir_all(&left) } else { fs::remove_file(&left) };
        }
        Ok(proof)
    }

    /// Restores; exit code 3, a suspect point, is no reason to believe or to doubt it here.
    fn restore(&self, point: &Point, more: &[&str]) -> Result<()> {
        let (store, id) = (point.job.store, point.id.as_str());
        let location = self.stores.location(store, true);
        let words = [&["restore", "--repo", &location, "--point", id], more].concat();
        let words = [&words[..], &self.stores.key_words(store)?].concat();
        let (said, _) = self.product.json(&words)?;
        if said["sound"] == false || said["lost"].as_array().is_some_and(|lost| !lost.is_empty()) {
            bail!("restored with losses: {said}");
        }
        Ok(())
    }

    fn disk(&self, point: &Point, work: &Path) -> Result<Proof> {
        let disk = self.ground.disk(point.job.name)?;
        let image = work.join("restored.img");
        self.restore(point, &[utf8(&image)?])?;
        let mountable = !(self.live && disk.fstype == "btrfs");
        let equal = mountable && self.compare(point, disk, &image, work)?;
        if !point.of_one_moment() {
            return Ok(Proof { equal, ..Proof::default() });
        }
        let frozen = point.is_frozen();
        let fsck = || proof::fsck(&image, disk.fstype, work).context("the file system is not clean");
        // as after a power cut: first the journal has to be replayed
        if frozen {
            fsck()?;
        }
        let mut proof = Proof { equal, ..Proof::default() };
        if mountable {
            let opened = Opened::new(&image, disk.fstype, &work.join("opened"))?;
            proof = self.on_disk(point, disk, opened.point(), proof)?;
            drop(opened);
            if !frozen {
                fsck()?;
            }
        }
        Ok(proof)
    }

    /// False: there is no copy to compare with. The hook keeps the last ones only: it may remove this one meanwhile.
    fn compare(&self, point: &Point, disk: &Disk, image: &Path, work: &Path) -> Result<bool> {
        let held = self.ground.held(disk.name).join(format!("{}.img", point.id));
        let truth = work.join("truth.img");
        if !held.exists() || proof::reflink(&held, &truth).is_err() {
            return Ok(false);
        }
        let verdict = proof::compare(image, &truth, disk.fstype, work)?;
        if verdict.wrong > 0 {
            let first = verdict.first.unwrap_or_default();
            bail!("{} bytes differ from the disk at the cut, the first at {first}", verdict.wrong);
        }
        Ok(true)
    }

    fn on_disk(&self, point: &Point, disk: &Disk, root: &Path, mut proof: Proof) -> Result<Proof> {
        if let Some(ledger) = self.truth.ledgers.get(disk.name) {
            proof.files += files(ledger, root, Path::new(""), point.times())?;
        }
        if disk.name == SQLITE_DISK {
            self.sqlite(point, root, &mut proof)?;
        }
        if disk.name == POSTGRES_DISK {
            self.postgres(point, root, &mut proof)?;
        }
        Ok(proof)
    }

    fn group(&self, point: &Point, work: &Path, disks: &[&str], folder: Folder) -> Result<Proof> {
        let into = work.join("files");
        self.restore(point, &["--group", point.job.name, "--into", utf8(&into)?])?;
        let mut proof = Proof::default();
        for disk in disks {
            let disk = self.ground.disk(disk)?;
            // everything comes back under its whole path
            let root = into.join(disk.point.strip_prefix("/").context("a path that is not absolute")?);
            match folder {
                Folder::Sqlite => self.sqlite(point, &root, &mut proof)?,
                Folder::Postgres => self.postgres(point, &root, &mut proof)?,
                Folder::Work | Folder::Part(_) => {
                    let ledger = self.truth.ledgers.get(disk.name).context("no ledger of this disk")?;
                    proof.files += files(ledger, &root, &folder.path(), point.times())?;
                }
            }
        }
        Ok(proof)
    }

    fn sqlite(&self, point: &Point, root: &Path, proof: &mut Proof) -> Result<()> {
        if point.of_one_moment() {
            let folder = root.join(sqlite::FOLDER);
            sqlite::prove(&folder, &self.truth.sqlite, point.begun).context("SQLite")?;
            proof.databases += 1;
        }
        Ok(())
    }

    fn postgres(&self, point: &Point, root: &Path, proof: &mut Proof) -> Result<()> {
        if point.of_one_moment() {
            let data = root.join(postgres::FOLDER);
            postgres::prove(self.programs, (&data, &self.run), &self.truth.postgres, point.begun)
                .context("PostgreSQL")?;
            proof.databases += 1;
        }
        Ok(())
    }
}

/// Looks at every file below `folder` that the ledger is sure of; how many these are.
fn files(ledger: &Ledger, root: &Path, folder: &Path, times: (u64, u64)) -> Result<u64> {
    let wanted = ledger.wanted(folder, times);
    let mut wrong = Vec::new();
    for (path, mark) in &wanted.there {
        match fs::read(root.join(path)) {
            Ok(bytes) if Mark::of(&bytes) == *mark => {}
            Ok(bytes) => {
                wrong.push(format!("{}: {:?} instead of {mark:?}", path.display(), Mark::of(&bytes)))
            }
            Err(error) => wrong.push(format!("{}: {error}", path.display())),
        }
    }
    for path in wanted.gone.iter().filter(|path| root.join(path).symlink_metadata().is_ok()) {
        wrong.push(format!("{}: should be gone", path.display()));
    }
    if wrong.is_empty() {
        return Ok((wanted.there.len() + wanted.gone.len()) as u64);
    }
    let first = wrong.iter().take(5).cloned().collect::<Vec<_>>().join("\n  ");
    bail!("{} of {} files are wrong:\n  {first}", wrong.len(), wanted.there.len())
}

#[cfg(test)]
mod tests {
    use super::super::ledger::now;
    use super::*;

    #[test]
    fn a_file_that_is_wrong_missing_or_still_there_is_found() {
        let root = std::env::temp_dir().join(format!("blkdelta-soak-files-{}", std::process::id()));
        crate::workspace::fresh_dir(&root).unwrap();
        let ledger = Ledger::default();
        ledger.settled(Path::new("one"), b"1");
        ledger.settled(Path::new("two"), b"2");
        ledger.touched(Path::new("went"));
        ledger.gone(Path::new("went"));
        let later = now() + 10;
        let look = || files(&ledger, &root, Path::new(""), (later, later));
        let put = |name: &str, bytes: &[u8]| crate::workspace::write_file(&root.join(name), bytes).unwrap();
        put("one", b"1");
        assert!(look().unwrap_err().to_string().starts_with("1 of 2"));
        put("two", b"2");
        assert_eq!(look().unwrap(), 3);
        put("went", b"");
        assert!(look().unwrap_err().to_string().contains("should be gone"));
        fs::remove_file(root.join("went")).unwrap();
        put("two", b"3");
        assert!(look().is_err());
        fs::remove_dir_all(root).unwrap();
    }
}
