//! A tracked "device" that is a file, with a ledger in memory that keeps every promise of the real one.

use crate::block::{BLOCK, Extent, ExtentSet, Granularity};
use crate::chain::Chain;
use crate::copy::Watch;
use crate::diff::Difference;
use crate::epoch::Cut;
use crate::error::{Error, Kind, Result};
use crate::format::{DeviceId, DeviceIdent, Manifest, PointId};
use crate::job::{self, Ledger, Outcome, Show, Subject, Survey, Wishes};
use crate::repository::Repository;
use crate::restore::{How, Leave, Restore};
use crate::source::{LiveDevice, Source};
use crate::sys::direct::AlignedBuf;
use crate::tracker::Base;
use crate::usage::{Mounted, Usage};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

/// What the kernel would know.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Marks {
    pub running: Vec<Extent>,
    pub suspect: Vec<String>,
    pub epoch: u64,
    pub sealed: BTreeMap<u64, (ExtentSet, Vec<String>)>,
    pub base: Option<(String, String)>,
    /// Start points and what was retired since.
    pub starts: Vec<(String, String, ExtentSet, Vec<String>)>,
    /// Keep every point as a start point, not only the last of each repository.
    pub keep_all: bool,
}

/// A file that is written and tracked.
pub struct Disk {
    pub path: PathBuf,
    pub size: u64,
    file: File,
    marks: Arc<Mutex<Marks>>,
}

impl Disk {
    pub fn create(path: &Path, size: u64) -> Self {
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path).unwrap();
        file.set_len(size).unwrap();
        Self { path: path.into(), size, file, marks: Arc::default() }
    }

    /// Writes `length` bytes of `with` at `offset`, marked at submission and at completion.
    pub fn write(&self, offset: u64, length: u64, with: u8) {
        let extent = Extent::between(offset, (offset + length).min(self.size));
        self.mark(extent);
        let mut bytes = vec![with; extent.length as usize];
        // salted with the place, so that content in the wrong place is seen; zeros stay zeros
        for (i, block) in bytes.chunks_mut(512).enumerate().filter(|_| with != 0) {
            let salt = (offset / 512 + i as u64).to_le_bytes();
            let n = block.len().min(8);
            block[..n].copy_from_slice(&salt[..n]);
        }
        self.file.write_all_at(&bytes, extent.offset).unwrap();
        self.mark(extent);
    }

    /// A write that the tracking does not see.
    pub fn write_unseen(&self, offset: u64, bytes: &[u8]) {
        self.file.write_all_at(bytes, offset).unwrap();
    }

    fn mark(&self, extent: Extent) {
        self.marks.lock().unwrap().running.push(extent.align_out(BLOCK, self.size));
    }

    pub fn content(&self) -> Vec<u8> {
        std::fs::read(&self.path).unwrap()
    }

    pub fn ledger(&self) -> Fake {
        Fake { marks: Arc::clone(&self.marks), session: "session-1".into(), base: self.base(), at_cut: None }
    }

    pub fn marks(&self) -> Arc<Mutex<Marks>> {
        Arc::clone(&self.marks)
    }

    fn base(&self) -> Option<Base> {
        self.marks.lock().unwrap().base.clone().map(|(repo, point)| Base { repo, point })
    }
}

type AtCut = Box<dyn FnMut(u64)>;

/// The ledger of a [`Disk`].
pub struct Fake {
    marks: Arc<Mutex<Marks>>,
    pub session: String,
    base: Option<Base>,
    /// Called after the cut with its number: what is written "during the pass".
    pub at_cut: Option<AtCut>,
}

impl Ledger for Fake {
    fn session(&self) -> &str {
        &self.session
    }

    fn base(&self) -> Option<&Base> {
        self.base.as_ref()
    }

    fn starts(&self) -> Vec<Base> {
        let marks = self.marks.lock().unwrap();
        marks.starts.iter().map(|s| Base { repo: s.0.clone(), point: s.1.clone() }).collect()
    }

    fn since(&self, start: &Base) -> Result<Difference> {
        let mut all = self.pending()?;
        let marks = self.marks.lock().unwrap();
        let found = marks.starts.iter().find(|s| (&s.0, &s.1) == (&start.repo, &start.point));
        let (.., extents, suspect) = found.ok_or_else(|| Error::new(Kind::NotFound, "no such start"))?;
        all.extents = all.extents.union(extents);
        all.suspect.extend(suspect.iter().cloned());
        Ok(all)
    }

    fn prepare(&mut self, _cuts: usize) -> Result<()> {
        Ok(())
    }

    fn cut(&mut self) -> Result<Cut> {
        let cut = {
            let mut marks = self.marks.lock().unwrap();
            let epoch = marks.epoch;
            let extents = ExtentSet::from_unsorted(std::mem::take(&mut marks.running));
            let suspect = std::mem::take(&mut marks.suspect);
            marks.sealed.insert(epoch, (extents.clone(), suspect.clone()));
            marks.epoch += 1;
            let quiet = extents.is_empty();
            Cut { epoch, extents, suspect, quiet, carried: 0 }
        };
        if let Some(at_cut) = &mut self.at_cut {
            at_cut(cut.epoch);
        }
        Ok(cut)
    }

    fn pending(&self) -> Result<Difference> {
        let marks = self.marks.lock().unwrap();
        let mut all = Difference { since_ms: 1, ..Difference::default() };
        for (extents, suspect) in marks.sealed.values() {
            all.extents = all.extents.union(extents);
            all.suspect.extend(suspect.iter().cloned());
        }
        let ends = (marks.sealed.keys().next(), marks.sealed.keys().next_back());
        if let (Some(first), Some(last)) = ends {
            all.epochs = (*first, *last);
        }
        Ok(all)
    }

    fn retire(&mut self, upto: u64, base: Base, _full: bool) -> Result<()> {
        let mut guard = self.marks.lock().unwrap();
        let marks = &mut *guard;
        for (extents, suspect) in marks.sealed.range(..=upto).map(|s| s.1) {
            for start in &mut marks.starts {
                start.2 = start.2.union(extents);
                start.3.extend(suspect.iter().cloned());
            }
        }
        let keep_all = marks.keep_all;
        marks.starts.retain(|s| keep_all || s.0 != base.repo);
        marks.starts.push((base.repo.clone(), base.point.clone(), ExtentSet::new(), Vec::new()));
        marks.sealed.retain(|epoch, _| *epoch > upto);
        marks.base = Some((base.repo.clone(), base.point.clone()));
        drop(guard);
        self.base = Some(base);
        Ok(())
    }
}

/// Everything is used, nothing is mounted.
pub struct AllUsed(pub u64);

impl Survey for AllUsed {
    fn used(&self) -> Result<Usage> {
        Ok(Usage { used: ExtentSet::whole(self.0), ..Usage::default() })
    }
    fn filesystems(&self) -> Result<Vec<Mounted>> {
        Ok(Vec::new())
    }
    fn flush(&self) -> Result<()> {
        Ok(())
    }
}

/// A source with a bad sector.
pub struct Faulty<'a> {
    pub inner: &'a dyn Source,
    pub bad: u64,
}

impl Source for Faulty<'_> {
    fn size(&self) -> u64 {
        self.inner.size()
    }
    fn logical_block(&self) -> u32 {
        self.inner.logical_block()
    }
    fn read_at(&self, offset: u64, buf: &mut AlignedBuf, len: usize) -> Result<()> {
        if (offset..offset + len as u64).contains(&self.bad) {
            return Err(Error::new(Kind::Io, format!("read {len} bytes at {offset}: bad sector")));
        }
        self.inner.read_at(offset, buf, len)
    }
}

/// Stops at once.
pub struct Stopped;
impl Watch for Stopped {
    fn stopped(&self) -> bool {
        true
    }
}
impl Show for Stopped {}

pub fn device() -> DeviceId {
    DeviceId::new("fake").unwrap()
}

pub fn subject<'a>(source: &'a dyn Source, survey: &'a dyn Survey) -> Subject<'a> {
    Subject {
        ident: DeviceIdent { id: device(), path: "/fake".into(), facts: BTreeMap::new() },
        number: None,
        physical_block: 4096,
        granularity: Granularity::default(),
        source,
        survey,
    }
}

/// A backup of `disk` as it is.
pub fn back_up(disk: &Disk, ledger: &mut Fake, repo: &Repository, wishes: &Wishes) -> Result<Outcome> {
    let source = LiveDevice::open(&disk.path)?;
    job::backup(&subject(&source, &AllUsed(disk.size)), ledger, repo, wishes, &())
}

/// The bytes of a point, restored and verified.
pub fn restored(repo: &Repository, point: PointId) -> Vec<u8> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("image");
    let restore = Restore::prepare(repo, &device(), point).unwrap();
    let done = restore.run(&path, Leave::default(), How { verify: true, ..How::default() }, &()).unwrap();
    assert!(done.verified);
    std::fs::read(path).unwrap()
}

/// The point restores to exactly `content`.
pub fn assert_restores(repo: &Repository, manifest: &Manifest, content: &[u8]) {
    let got = restored(repo, manifest.point);
    assert_eq!(got.len(), content.len());
    let first = got.iter().zip(content).position(|(a, b)| a != b);
    assert_eq!(first, None, "first wrong byte of {}", manifest.point);
}

/// Bytes the point's chain covers with pieces.
pub fn covered(repo: &Repository, point: PointId) -> u64 {
    let chain = Chain::resolve(repo, &device(), point).unwrap();
    chain.pieces().unwrap().map(|p| p.unwrap().extent.length).sum()
}
