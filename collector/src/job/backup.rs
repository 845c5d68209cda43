//! One backup, from lock to retired epochs.

use super::ground::{Ground, Since};
use super::passes::{Pace, Passes, unix_ms};
use super::still::Still;
use super::{Ledger, Show, place};
use crate::block::{ExtentSet, Granularity};
use crate::chain::{Chain, Content};
use crate::copy::How;
use crate::diff::{self, Difference};
use crate::error::{Context, Error, Kind, Result};
use crate::format::{Compression, Consistency, DeviceIdent, EpochRange, Geometry, Manifest};
use crate::repository::{FinishInfo, NewPoint, Repository};
use crate::source::Source;
use crate::sys::device::BlockDevice;
use crate::sys::{failpoint, planted};
use crate::tracker::Base;
use crate::usage::{Mounted, Usage, filesystems, used_areas};
use std::fs::File;
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// What is backed up.
pub struct Subject<'a> {
    /// Which device it is.
    pub ident: DeviceIdent,
    /// The kernel's number of it, if it is a device.
    pub number: Option<u32>,
    /// Bytes of a physical block.
    pub physical_block: u32,
    /// What one bit of the tracking stands for.
    pub granularity: Granularity,
    /// Where to read it.
    pub source: &'a dyn Source,
    /// Where to ask what is on it.
    pub survey: &'a dyn Survey,
}

/// What is on a device.
pub trait Survey {
    /// Its used areas; flushes its file systems.
    ///
    /// # Errors
    /// If it cannot be examined.
    fn used(&self) -> Result<Usage>;

    /// Its mounted file systems.
    ///
    /// # Errors
    /// If it cannot be examined.
    fn filesystems(&self) -> Result<Vec<Mounted>>;

    /// Has everything that file systems and the device's own page cache hold back written out.
    ///
    /// # Errors
    /// If one cannot.
    fn flush(&self) -> Result<()>;
}

/// The survey of a block device.
pub struct DeviceSurvey(pub PathBuf);

impl Survey for DeviceSurvey {
    fn used(&self) -> Result<Usage> {
        used_areas(&self.0)
    }

    fn filesystems(&self) -> Result<Vec<Mounted>> {
        filesystems(&self.0)
    }

    fn flush(&self) -> Result<()> {
        for fs in self.filesystems()? {
            let what = || format!("sync {}", fs.mountpoint.display());
            let folder = File::open(&fs.mountpoint).os_context(what)?;
            rustix::fs::syncfs(&folder).os_context(what)?;
        }
        BlockDevice::open(&self.0)?.flush_cache()
    }
}

impl Subject<'_> {
    pub(super) fn geometry(&self) -> Geometry {
        Geometry {
            size: self.source.size(),
            logical_block: self.source.logical_block(),
            physical_block: self.physical_block,
        }
    }
}

/// How a backup is wanted.
#[derive(Clone, Debug)]
pub struct Wishes {
    /// Copy all used areas.
    pub full: bool,
    /// Copy what changed since this point, and fail if that is not known; `None`: since the last one, or everything.
    pub since: Option<Since>,
    /// File systems may be frozen.
    pub freeze: bool,
    /// Not longer than this.
    pub freeze_limit: Duration,
    /// Run by the shell while they are frozen, before the thaw.
    pub while_frozen: Option<String>,
    /// How frames are stored.
    pub compression: Compression,
    /// The repository may lie on the device.
    pub store_on_device: bool,
    /// Folders this process writes to besides the repository; a device that holds one is never frozen.
    pub own_folders: Vec<PathBuf>,
}

impl Default for Wishes {
    fn default() -> Self {
        Self {
            full: false,
            since: None,
            freeze: true,
            freeze_limit: Duration::from_secs(10),
            while_frozen: None,
            compression: Compression::default(),
            store_on_device: false,
            own_folders: Vec::new(),
        }
    }
}

/// What a backup made.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// The point.
    pub manifest: Manifest,
    /// Why it is a full one, if it is.
    pub why_full: Option<String>,
    /// How long it took.
    pub time: Duration,
    /// What it holds of the device: in a full one all that is used.
    pub changed: ExtentSet,
}

/// Makes a point of `subject` in `repo` and retires the epochs it holds.
///
/// # Errors
/// Any failure; the epochs are then all still pending, and the next difference holds them.
pub fn backup(
    subject: &Subject<'_>,
    ledger: &mut dyn Ledger,
    repo: &Repository,
    wishes: &Wishes,
    show: &dyn Show,
) -> Result<Outcome> {
    let (began, time_start) = (Instant::now(), unix_ms());
    let place = place::judge(subject.number, repo.local_path(), wishes)?;
    let lock = repo.lock(&subject.ident.id)?;
    let ground = Ground::choose(subject, ledger, repo, wishes)?;
    // what is held back now is copied while the file systems live, not while they are frozen
    subject.survey.flush()?;
    let cut = ledger.cut()?;
    failpoint("job.after-cut")?;
    let pending = ground.difference(&*ledger)?;
    if !cut.extents.subtract(&pending.extents).is_empty() {
        return Err(Error::new(Kind::Bug, "an epoch just sealed is not pending"));
    }
    let new = NewPoint {
        device: subject.ident.clone(),
        parent: ground.point(),
        geometry: subject.geometry(),
        granularity: subject.granularity,
        session: Some(ledger.session().to_owned()),
        time_start,
    };
    let mut passes = Passes {
        subject,
        writer: repo.begin(&lock, new)?,
        ledger,
        how: How::new(wishes.compression),
        show,
        stats: Vec::new(),
        changed: ExtentSet::new(),
        epochs: EpochRange { first: pending.epochs.0, last: cut.epoch },
        time_cut: unix_ms(),
        doubt: None,
        notes: place.notes.into_iter().chain(lock.taken_over().map(Into::into)).collect(),
        own_folders: own_folders(repo, wishes),
        pace: Pace::new(dirty_rate(&pending)),
    };
    first_pass(&mut passes, &ground, &pending)?;
    let may_freeze = wishes.freeze && place.may_freeze;
    let still = passes.come_to_rest(&subject.survey.filesystems()?, wishes, may_freeze)?;
    let changed = passes.changed.clone();
    let manifest = publish(passes, repo, &ground, &pending, still)?;
    Ok(Outcome { manifest, why_full: ground.why_full(), time: began.elapsed(), changed })
}

/// The pass that makes the point whole: everything used, everything that differs, or everything pending.
fn first_pass(passes: &mut Passes<'_>, ground: &Ground, pending: &Difference) -> Result<()> {
    passes.changed = pending.extents.clone();
    match ground {
        Ground::Full(_) => {
            let usage = passes.subject.survey.used()?;
            passes.notes.extend(usage.whole_reason.iter().map(|why| format!("counted as used: {why}")));
            passes.changed = usage.used.union(&pending.extents);
            passes.first("full", &passes.changed.clone(), None)
        }
        Ground::On(chain, _) if !pending.suspect.is_empty() && !planted("suspect-not-compared") => {
            let usage = passes.subject.survey.used()?;
            let emptied = usage.zero.intersect(&stored_in(chain, !usage.zero.is_empty())?);
            let extents = usage.used.union(&pending.extents).union(&emptied);
            passes.first("comparing", &extents, Some(chain))
        }
        Ground::On(..) => passes.first("changed", &pending.extents, None),
    }
}

/// Where the chain's image holds anything but zeros, if anybody wants to know; at most it says too much.
fn stored_in(chain: &Chain, wanted: bool) -> Result<ExtentSet> {
    let mut failed = None;
    let pieces = wanted.then(|| chain.pieces()).transpose()?.into_iter().flatten();
    let stored = pieces.map_while(|piece| piece.map_err(|e| failed = Some(e)).ok());
    let extents = stored.filter(|p| matches!(p.content, Content::Stored(_))).map(|p| p.extent);
    let found = diff::coarsened(extents, diff::MAX_EXTENTS);
    failed.map_or(Ok(found), Err)
}

/// Finishes the point and, once it is durable, forgets the epochs it holds.
fn publish(
    passes: Passes<'_>,
    repo: &Repository,
    ground: &Ground,
    pending: &Difference,
    still: Still,
) -> Result<Manifest> {
    let handled = match ground {
        Ground::Full(_) => "everything used was copied",
        Ground::On(..) => "everything used was compared with the parent by hash",
    };
    let upto = passes.forgettable();
    let doubted = passes.doubt.is_some();
    let mut suspect = pending.suspect.clone();
    suspect.extend(passes.doubt.into_iter().flat_map(|(_, why)| why));
    let consistency = if doubted { Consistency::Fuzzy } else { consistency(still) };
    let info = FinishInfo {
        time_cut: passes.time_cut,
        epochs: Some(passes.epochs),
        consistency,
        suspect_handled: (!suspect.is_empty() && !doubted).then(|| handled.to_owned()),
        suspect,
        notes: passes.notes,
        passes: passes.stats,
        freeze_ms: if let Still::Frozen(time) = still { Some(time.as_millis() as u64) } else { None },
        changed_bytes: passes.changed.total(),
    };
    if let (true, Some(base)) = (planted("retired-early"), passes.ledger.base().cloned()) {
        passes.ledger.retire(upto, base, matches!(ground, Ground::Full(_)))?;
    }
    failpoint("job.before-finish")?;
    let manifest = passes.writer.finish(info)?;
    failpoint("job.before-retire")?;
    let base = Base { repo: repo.uuid().to_string(), point: manifest.point.to_string() };
    let full = manifest.parent.is_none();
    passes.ledger.retire(upto, base, full).map_err(|e| {
        let text = format!("point {} is stored, but its epochs could not be retired", manifest.point);
        e.within(text).hint("nothing is lost: the next backup copies the same areas again")
    })?;
    failpoint("job.after-retire")?;
    Ok(manifest)
}

/// What an image is whose source stood like this.
const fn consistency(still: Still) -> Consistency {
    match still {
        Still::Frozen(_) => Consistency::FileSystemFrozen,
        Still::Quiet => Consistency::Crash,
        Still::Moving => Consistency::Fuzzy,
    }
}

/// The folders we write to meanwhile: none may be on a file system that is frozen.
fn own_folders(repo: &Repository, wishes: &Wishes) -> Vec<PathBuf> {
    let store = repo.local_path().map(ToOwned::to_owned);
    wishes.own_folders.iter().cloned().chain(store).filter(|folder| folder.exists()).collect()
}

/// Bytes changed per second over the pending time.
fn dirty_rate(pending: &Difference) -> f64 {
    let seconds = unix_ms().saturating_sub(pending.since_ms).max(1) as f64 / 1000.0;
    pending.extents.total() as f64 / seconds
}
