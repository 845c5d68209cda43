//! Somebody who works on the disk while it is backed up: creates, overwrites in place, appends, renames, deletes,
//! fsyncs, one after the other, without ever waiting for the backup. From a seed.

use crate::rig::random::Random;
use anyhow::{Context, Result, anyhow};
use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

/// Files of its own at most; more than that, and it deletes.
const FILES: usize = 200;
/// Bytes of one change at most.
const CHANGE: u64 = 128 << 10;
/// Between two changes: somebody who works, not a load test.
const PAUSE: Duration = Duration::from_micros(1500);

/// The thread; stops when dropped.
pub struct Writer {
    stop: Arc<AtomicBool>,
    changes: Arc<AtomicU64>,
    thread: Option<JoinHandle<Result<()>>>,
}

impl Writer {
    /// Starts; it makes its own files in `folder` and changes `others` in place.
    pub fn start(folder: PathBuf, others: Vec<PathBuf>, seed: u64) -> Result<Self> {
        fs::create_dir(&folder).with_context(|| format!("create {}", folder.display()))?;
        let (stop, changes) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let (stopped, count) = (Arc::clone(&stop), Arc::clone(&changes));
        let thread = std::thread::Builder::new().name("writer".into()).spawn(move || {
            let mut work = Work { folder, others, own: Vec::new(), random: Random::new(seed), next: 0 };
            while !stopped.load(Ordering::Relaxed) {
                work.change().context("the writer")?;
                count.fetch_add(1, Ordering::Relaxed);
                std::thread::sleep(PAUSE);
            }
            Ok(())
        });
        Ok(Self { stop, changes, thread: Some(thread.context("start the writer")?) })
    }

    /// Changes made until now.
    pub fn changes(&self) -> u64 {
        self.changes.load(Ordering::Relaxed)
    }

    /// Stops; an error if it had to before.
    pub fn stop(mut self) -> Result<u64> {
        self.end()?;
        Ok(self.changes())
    }

    fn end(&mut self) -> Result<()> {
        self.stop.store(true, Ordering::Relaxed);
        let ended = self.thread.take().map(JoinHandle::join);
        ended.unwrap_or(Ok(Ok(()))).map_err(|_| anyhow!("the writer panicked"))?
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        // an error of its own is only news if nothing else went wrong, and then `stop` has it
        let _ = self.end();
    }
}

struct Work {
    folder: PathBuf,
    others: Vec<PathBuf>,
    own: Vec<PathBuf>,
    random: Random,
    next: u64,
}

impl Work {
    fn change(&mut self) -> Result<()> {
        let kind = self.random.below(100);
        let full = self.own.len() >= FILES;
        match kind {
            _ if self.own.is_empty() => self.create(),
            0..25 if !full => self.create(),
            0..25 => self.delete(),
            25..45 => self.append(),
            45..55 => self.rename(),
            55..65 => self.delete(),
            65..85 => {
                let path = self.pick();
                self.overwrite(&path)
            }
            _ if self.others.is_empty() => self.append(),
            _ => {
                let path = self.others[self.random.below(self.others.len() as u64) as usize].clone();
                self.overwrite(&path)
            }
        }
    }

    fn pick(&mut self) -> PathBuf {
        self.own[self.random.below(self.own.len() as u64) as usize].clone()
    }

    fn data(&mut self) -> Vec<u8> {
        let length = self.random.below(CHANGE) + 1;
        let mut data = vec![0; length as usize];
        self.random.fill(&mut data);
        data
    }

    fn new_name(&mut self) -> PathBuf {
        self.next += 1;
        self.folder.join(format!("file-{}", self.next))
    }

    fn create(&mut self) -> Result<()> {
        let (path, data) = (self.new_name(), self.data());
        let mut file = File::create(&path).with_context(|| named("create", &path))?;
        file.write_all(&data).with_context(|| named("write", &path))?;
        self.maybe_sync(&file)?;
        self.own.push(path);
        Ok(())
    }

    fn append(&mut self) -> Result<()> {
        let (path, data) = (self.pick(), self.data());
        let mut file = OpenOptions::new().append(true).open(&path).with_context(|| named("open", &path))?;
        file.write_all(&data).with_context(|| named("append to", &path))?;
        self.maybe_sync(&file)
    }

    fn overwrite(&mut self, path: &Path) -> Result<()> {
        let file = OpenOptions::new().write(true).open(path).with_context(|| named("open", path))?;
        let length = file.metadata().with_context(|| named("look at", path))?.len();
        let mut data = self.data();
        data.truncate(length.min(16 << 10) as usize);
        let at = self.random.below(length - data.len() as u64 + 1);
        file.write_all_at(&data, at).with_context(|| named("overwrite", path))?;
        self.maybe_sync(&file)
    }

    fn rename(&mut self) -> Result<()> {
        let (to, index) = (self.new_name(), self.random.below(self.own.len() as u64) as usize);
        let from = std::mem::replace(&mut self.own[index], to.clone());
        #[expect(clippy::disallowed_methods, reason = "the rename is the work, nothing is published")]
        fs::rename(&from, &to).with_context(|| named("rename", &from))
    }

    fn delete(&mut self) -> Result<()> {
        let index = self.random.below(self.own.len() as u64) as usize;
        let path = self.own.swap_remove(index);
        fs::remove_file(&path).with_context(|| named("delete", &path))
    }

    fn maybe_sync(&mut self, file: &File) -> Result<()> {
        if self.random.below(8) == 0 { file.sync_all().context("fsync") } else { Ok(()) }
    }
}

fn named(what: &str, path: &Path) -> String {
    format!("{what} {}", path.display())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_works_on_its_files_and_others() {
        let folder = std::env::temp_dir().join(format!("blkdelta-writer-{}", std::process::id()));
        crate::workspace::fresh_dir(&folder).unwrap();
        let other = folder.join("other");
        crate::workspace::write_file(&other, &[0; 50_000]).unwrap();
        let mut work = Work {
            folder: folder.clone(),
            others: vec![other.clone()],
            own: Vec::new(),
            random: Random::new(5),
            next: 0,
        };
        (0..300).for_each(|_| work.change().unwrap());
        assert!(work.own.iter().all(|path| path.exists()) && work.own.len() > 5);
        assert_eq!(fs::metadata(&other).unwrap().len(), 50_000);
        assert!(fs::read(&other).unwrap().iter().any(|&b| b != 0));
        fs::remove_dir_all(folder).unwrap();
    }
}
