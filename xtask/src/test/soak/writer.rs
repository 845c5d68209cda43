//! Somebody who works on one disk: creates, rewrites, appends, truncates, punches, clones, renames, deletes, and writes down
//! in the ledger what is durable. From a seed.
//!
//! ```text
//!   work/a  work/b  work/conf      files of the ledger
//!   work/b/NAME.tmp                what the groups leave out: never synced, in nobody's ledger
//! ```

use super::ledger::Ledger;
use super::worker::Step;
use crate::rig::random::Random;
use anyhow::{Context, Result};
use rustix::fs::{FallocateFlags, fallocate, ioctl_ficlone};
use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// The folder of it all, and those inside.
pub const WORK: &str = "work";
pub const FOLDERS: [&str; 3] = ["a", "b", "conf"];
/// Between two steps: somebody who works, not a load test.
const PAUSE: Duration = Duration::from_millis(25);
/// Files at most; more than that, and it deletes.
const FILES: usize = 250;
/// Bytes of one change, and of one file, at most.
const CHANGE: u64 = 24 << 10;
const LARGEST: u64 = 256 << 10;

/// One disk's.
pub struct Writer {
    point: PathBuf,
    ledger: Arc<Ledger>,
    random: Random,
    /// Below the mount point.
    files: Vec<PathBuf>,
    next: u64,
    /// The file system can share extents between files.
    clones: bool,
}

impl Writer {
    /// On the disk that is mounted there.
    pub fn new(point: &Path, ledger: Arc<Ledger>, seed: u64) -> Result<Self> {
        for folder in FOLDERS {
            let folder = point.join(WORK).join(folder);
            fs::create_dir_all(&folder).with_context(|| named("make", &folder))?;
        }
        let random = Random::new(seed);
        Ok(Self { point: point.into(), ledger, random, files: Vec::new(), next: 0, clones: true })
    }

    fn full(&self, path: &Path) -> PathBuf {
        self.point.join(path)
    }

    fn pick(&mut self) -> usize {
        self.random.below(self.files.len() as u64) as usize
    }

    fn new_name(&mut self) -> PathBuf {
        self.next += 1;
        let folder = FOLDERS[self.random.below(FOLDERS.len() as u64) as usize];
        Path::new(WORK).join(folder).join(format!("file-{}", self.next))
    }

    /// Content that shrinks to a tenth, as most does.
    fn data(&mut self, most: u64) -> Vec<u8> {
        let mut pattern = [0; 96];
        self.random.fill(&mut pattern);
        let length = self.random.below(most) as usize + 1;
        let mut data: Vec<u8> = pattern.iter().copied().cycle().take(length).collect();
        for (n, chunk) in data.chunks_mut(1024).enumerate() {
            chunk[0] = n as u8;
        }
        data
    }

    /// A new file as careful programs make it: written aside, synced, renamed.
    fn create(&mut self) -> Result<()> {
        let (path, data) = (self.new_name(), self.data(CHANGE));
        let aside = self.full(&path).with_extension("new.tmp");
        let mut file = File::create(&aside).with_context(|| named("create", &aside))?;
        file.write_all(&data).and_then(|()| file.sync_all()).with_context(|| named("write", &aside))?;
        self.rename(&aside, &path)?;
        self.ledger.settled(&path, &data);
        self.files.push(path);
        Ok(())
    }

    fn rename(&self, from: &Path, to: &Path) -> Result<()> {
        #[expect(clippy::disallowed_methods, reason = "the rename is the work, nothing is published")]
        fs::rename(from, self.full(to)).with_context(|| named("rename", from))?;
        self.sync_folder(to)
    }

    fn sync_folder(&self, of: &Path) -> Result<()> {
        let folder = self.full(of.parent().context("folder of the file")?);
        File::open(&folder).and_then(|folder| folder.sync_all()).with_context(|| named("sync", &folder))
    }

    /// A change in place; what the file holds then is read back and written down.
    fn change(&mut self) -> Result<()> {
        let path = self.pick();
        let path = self.files[path].clone();
        self.ledger.touched(&path);
        let full = self.full(&path);
        let file = OpenOptions::new().read(true).write(true).open(&full);
        let file = file.with_context(|| named("open", &full))?;
        let length = file.metadata().with_context(|| named("look at", &full))?.len();
        let at = self.random.below(length + 1);
        match self.random.below(10) {
            0 => file.set_len(self.random.below(length + 1)),
            1 => file.set_len(length + self.random.below(CHANGE)),
            2 | 3 => {
                let (flags, bytes) = (FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE, CHANGE);
                fallocate(&file, flags, at, bytes).map_err(Into::into)
            }
            4..=6 if length < LARGEST => file.write_all_at(&self.data(CHANGE), length),
            _ => file.write_all_at(&self.data(CHANGE), at),
        }
        .with_context(|| named("change", &full))?;
        file.sync_all().with_context(|| named("sync", &full))?;
        let bytes = fs::read(&full).with_context(|| named("read", &full))?;
        self.ledger.settled(&path, &bytes);
        Ok(())
    }

    /// A file that shares the extents of another; a copy where that cannot be.
    fn clone_of_another(&mut self) -> Result<()> {
        let (from, path) = (self.pick(), self.new_name());
        let from = self.files[from].clone();
        let (from, to) = (self.full(&from), self.full(&path));
        let (old, mut new) = (File::open(&from)?, File::create(&to).with_context(|| named("create", &to))?);
        if self.clones {
            self.clones = ioctl_ficlone(&new, &old).is_ok();
        }
        let bytes = fs::read(&from).with_context(|| named("read", &from))?;
        if !self.clones {
            new.write_all(&bytes).with_context(|| named("write", &to))?;
        }
        new.sync_all().with_context(|| named("sync", &to))?;
        self.sync_folder(&path)?;
        self.ledger.settled(&path, &bytes);
        self.files.push(path);
        Ok(())
    }

    fn move_one(&mut self) -> Result<()> {
        let (index, to) = (self.pick(), self.new_name());
        let from = std::mem::replace(&mut self.files[index], to.clone());
        self.ledger.touched(&from);
        self.rename(&self.full(&from), &to)?;
        self.sync_folder(&from)?;
        self.ledger.gone(&from);
        let bytes = fs::read(self.full(&to)).with_context(|| named("read", &to))?;
        self.ledger.settled(&to, &bytes);
        Ok(())
    }

    fn delete(&mut self) -> Result<()> {
        let index = self.pick();
        let path = self.files.swap_remove(index);
        self.ledger.touched(&path);
        fs::remove_file(self.full(&path)).with_context(|| named("delete", &path))?;
        self.sync_folder(&path)?;
        self.ledger.gone(&path);
        Ok(())
    }

    /// What nobody asked to keep.
    fn scribble(&mut self) -> Result<()> {
        let name = format!("scribble-{}.tmp", self.random.below(20));
        let path = self.point.join(WORK).join("b").join(name);
        let data = self.data(CHANGE);
        let mut file = File::create(&path).with_context(|| named("create", &path))?;
        file.write_all(&data).with_context(|| named("write", &path))
    }
}

impl Step for Writer {
    fn step(&mut self) -> Result<Duration> {
        let full = self.files.len() >= FILES;
        match self.random.below(100) {
            _ if self.files.is_empty() => self.create(),
            0..20 if !full => self.create(),
            20..30 if !full => self.clone_of_another(),
            0..45 if full => self.delete(),
            30..45 => self.move_one(),
            45..55 => self.delete(),
            55..65 => self.scribble(),
            _ => self.change(),
        }?;
        Ok(PAUSE)
    }
}

fn named(what: &str, path: &Path) -> String {
    format!("{what} {}", path.display())
}

#[cfg(test)]
mod tests {
    use super::super::ledger::{Mark, now};
    use super::*;

    #[test]
    fn the_ledger_knows_every_file() {
        let folder = std::env::temp_dir().join(format!("blkdelta-soak-writer-{}", std::process::id()));
        crate::workspace::fresh_dir(&folder).unwrap();
        let ledger = Arc::<Ledger>::default();
        let mut writer = Writer::new(&folder, Arc::clone(&ledger), 7).unwrap();
        for _ in 0..400 {
            writer.step().unwrap();
        }
        let later = now() + 10;
        let wanted = ledger.wanted(Path::new(WORK), (later, later));
        assert_eq!(wanted.there.len(), writer.files.len());
        for (path, mark) in &wanted.there {
            assert_eq!(Mark::of(&fs::read(folder.join(path)).unwrap()), *mark, "{}", path.display());
        }
        assert!(!wanted.gone.is_empty() && wanted.gone.iter().all(|path| !folder.join(path).exists()));
        fs::remove_dir_all(folder).unwrap();
    }
}
