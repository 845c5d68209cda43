//! Writing one recovery point.
//!
//! Order, and nothing of it is negotiable: every segment durable, then the index, then the manifest. Dropped or
//! killed before the manifest, it leaves only objects that nothing names.

use super::fill::Filler;
use super::index::IndexWriter;
use super::lock::DeviceLock;
use super::overlay::stack;
use super::run::Run;
use super::{Repository, keys, tool, unix_millis};
use crate::block::{BLOCK, Granularity};
use crate::error::{Error, Kind, Result};
use crate::format::{
    Codec, Consistency, DeviceIdent, EncodedFrame, EpochRange, Files, Geometry, IndexRef, MAX_DEVICE,
    MAX_REBUILD, Manifest, ParentRef, PassStats, Piece, PieceContent, PointId, PointKind, Rebuild,
    SegmentRef, Totals, fits_cell,
};
use crate::seal::Session;
use crate::sys::{failpoint, planted};
use std::sync::Arc;

/// What a point says that an older one is later than.
const BEHIND: &str =
    "this machine's clock is behind the times of points before this one; it is sorted after them";

/// What is known when a backup begins.
#[derive(Clone, Debug)]
pub struct NewPoint {
    /// The device.
    pub device: DeviceIdent,
    /// Full (`None`), or incremental on this point.
    pub parent: Option<PointId>,
    /// The device's shape.
    pub geometry: Geometry,
    /// The tracking granularity.
    pub granularity: Granularity,
    /// The tracking session.
    pub session: Option<String>,
    /// Unix milliseconds.
    pub time_start: u64,
}

/// What is known when all is copied.
#[derive(Clone, Debug)]
pub struct FinishInfo {
    /// Unix milliseconds of the last cut.
    pub time_cut: u64,
    /// The epochs in it.
    pub epochs: Option<EpochRange>,
    /// What the image is an image of.
    pub consistency: Consistency,
    /// Why the difference could not be proved complete.
    pub suspect: Vec<String>,
    /// What was done about it.
    pub suspect_handled: Option<String>,
    /// What else a person should know.
    pub notes: Vec<String>,
    /// The passes.
    pub passes: Vec<PassStats>,
    /// Milliseconds the file systems stood still.
    pub freeze_ms: Option<u64>,
    /// Bytes that the difference lists said (full: used areas).
    pub changed_bytes: u64,
}

impl FinishInfo {
    /// Of a cut at this moment, and nothing more is known.
    pub const fn at(time_cut: u64, consistency: Consistency) -> Self {
        Self {
            time_cut,
            epochs: None,
            consistency,
            suspect: Vec::new(),
            suspect_handled: None,
            notes: Vec::new(),
            passes: Vec::new(),
            freeze_ms: None,
            changed_bytes: 0,
        }
    }
}

/// Writes one point. Dropped without [`finish`](Self::finish), it leaves at worst segments that nothing names.
pub struct PointWriter {
    // before the lock: fields are dropped in this order
    filler: Filler,
    repository: Repository,
    point: PointId,
    /// In an encrypted repository: what seals the frames.
    session: Option<Arc<Session>>,
    new: NewPoint,
    parent: Option<ParentRef>,
    passes: Vec<Run>,
    /// Where the current pass stands.
    end: u64,
    totals: Totals,
    files: Option<Files>,
    /// No point that was there when this one was begun is sorted after this.
    newest: u64,
    lock: DeviceLock,
}

impl Repository {
    /// Begins a point of the locked device.
    ///
    /// # Errors
    /// [`Kind::NotFound`] if the parent is not there; [`Kind::Usage`] if the lock is of another device, or the
    /// parent of another size; what reading it meets.
    pub fn begin(&self, lock: &DeviceLock, new: NewPoint) -> Result<PointWriter> {
        let what = || format!("begin a point of {}", new.device.id);
        if lock.device() != &new.device.id || new.geometry.size > MAX_DEVICE {
            let why = "the lock is of another device, or the device too large";
            return Err(Error::new(Kind::Usage, format!("{}: {why}", what())));
        }
        let point = PointId::generate();
        let newest = self.newest(&new.device.id, point)?;
        let parent = match new.parent {
            None => None,
            Some(id) => {
                let (parent, manifest) = self.manifest(&new.device.id, id).map_err(|e| e.within(what()))?;
                if parent.geometry.size != new.geometry.size {
                    let why = format!("{}: the device's size is not that of parent {id}", what());
                    return Err(Error::new(Kind::Usage, why).hint("make a full backup"));
                }
                Some(ParentRef { point: id, manifest })
            }
        };
        let session = self.keys().map(|keys| keys.session(point.to_bytes())).transpose()?;
        Ok(PointWriter {
            filler: Filler::start(self, 1)?,
            repository: self.clone(),
            point,
            session: session.map(Arc::new),
            new,
            parent,
            passes: vec![Run::default()],
            end: 0,
            totals: Totals::default(),
            files: None,
            newest,
            lock: lock.clone(),
        })
    }
}

/// Offset and length of runs of zeros.
type Zeros = Vec<(u64, u64)>;

impl PointWriter {
    /// The point's name, already.
    pub const fn point(&self) -> PointId {
        self.point
    }

    /// What frames are sealed with, best before they are added; `None`: nothing.
    pub fn session(&self) -> Option<Arc<Session>> {
        self.session.clone()
    }

    /// The point is of a group of files.
    pub fn holds(&mut self, files: Files) {
        self.files = Some(files);
    }

    /// Begins the next pass, whose frames shadow those of all passes before. The first one is begun already.
    ///
    /// # Errors
    /// None so far; a later store may.
    pub fn start_pass(&mut self) -> Result<()> {
        self.passes.push(Run::default());
        self.end = 0;
        Ok(())
    }

    /// Adds a frame; within a pass, addresses ascend. Waits while the store is slower than the caller.
    ///
    /// # Errors
    /// [`Kind::Bug`] for a frame out of order or off the grid; what an earlier segment's upload met.
    pub fn add(&mut self, frame: EncodedFrame) -> Result<()> {
        let extent = frame.meta.extent;
        let size = self.new.geometry.size;
        let whole = extent.length > 0
            && extent.offset.is_multiple_of(BLOCK)
            && extent
                .offset
                .checked_add(extent.length)
                .is_some_and(|end| end == size || end < size && end.is_multiple_of(BLOCK));
        let zero = frame.meta.codec == Codec::Zero;
        let frame = match &self.session {
            // whoever did not do it on threads of his own
            Some(session) if !zero && !session.sealed(&frame.data) => frame.sealed(session)?,
            _ => frame,
        };
        if extent.offset < self.end || !whole || !(zero || fits_cell(extent)) {
            let what = format!("add frame {extent:?}: out of order, off the grid or beyond the device");
            return Err(Error::new(Kind::Bug, what));
        }
        let record = self.session.as_ref().map(|session| session.record());
        let offset = if zero { 0 } else { self.filler.place(&frame, record.as_ref())? };
        self.end = extent.end();
        self.totals.copied_bytes += extent.length;
        if zero {
            self.totals.zero_bytes += extent.length;
        } else {
            self.totals.frames += 1;
        }
        if planted("frame-not-indexed") && self.totals.frames % 4 == 3 {
            return Ok(());
        }
        let piece = Piece::whole(&frame.meta, self.filler.number(), offset);
        let Some(pass) = self.passes.last_mut() else { return Err(Error::new(Kind::Bug, "no pass begun")) };
        pass.push(self.repository.store(), piece)
    }

    /// Makes everything durable: segments, then the index, then the manifest.
    ///
    /// # Errors
    /// If any step fails; then the point does not exist (or, if the very last sync failed, perhaps does).
    pub fn finish(mut self, info: FinishInfo) -> Result<Manifest> {
        let segments = self.filler.finish()?;
        self.totals.changed_bytes = info.changed_bytes;
        self.totals.stored_bytes = segments.iter().map(|s| s.len).sum();
        let ids = segments.iter().map(|s| s.id).collect();
        let passes = self.passes.len();
        let (index, covered, zeros) = self.write_index(segments)?;
        let rebuild = Rebuild { segments: ids, zeros };
        // zeros of a later pass that hid frames of an earlier one are not in the index of a full
        let hidden = self.parent.is_none() && passes > 1 && self.totals.zero_bytes > 0;
        if hidden || !fits(&rebuild) {
            self.repository.keep_spare_of_index(&self.new.device.id, self.point, &index)?;
        }
        self.totals.stored_bytes += index.len;
        self.totals.covered_bytes = covered;
        self.repository.store().settle()?;
        let manifest = self.manifest(info, index, rebuild);
        let key = keys::manifest(&self.new.device.id, self.point);
        let bytes = manifest.encode_in(self.repository.cover(&key))?;
        self.lock.holds()?;
        failpoint("repo.manifest.put")?;
        self.repository.store().put_new(&key, bytes.into())?;
        // all of it lies where the next reader looks
        self.repository.store().in_place()?;
        // the put may have waited for hours in a machine that slept: then others may have removed what it names, and the
        // changes must stay known
        let late = format!("point {} was committed too late to be sure that it is whole", self.point);
        self.lock.still_holds().map_err(|e| e.within(late))?;
        failpoint("repo.manifest.stored")?;
        Ok(manifest)
    }

    /// The index, the bytes it covers, and its runs of zeros (some more than [`MAX_REBUILD`] if there are more).
    fn write_index(&mut self, segments: Vec<SegmentRef>) -> Result<(IndexRef, u64, Zeros)> {
        let key = keys::index(&self.new.device.id, self.point);
        let mut index = IndexWriter::new(&self.repository, key, self.point);
        let newest_first = self.passes.drain(..).rev().map(Run::into_stream).collect();
        let full = self.parent.is_none();
        let mut zeros = Zeros::new();
        for piece in stack(newest_first) {
            let piece = piece?;
            if !full && piece.content == PieceContent::Zero {
                let (extent, runs) = (piece.extent, zeros.len());
                match zeros.last_mut().filter(|(at, len)| *at + *len == extent.offset) {
                    Some((_, len)) => *len += extent.length,
                    None if runs > MAX_REBUILD => {}
                    None => zeros.push((extent.offset, extent.length)),
                }
            }
            // in a full, what no piece covers is zero
            if !(full && piece.content == PieceContent::Zero) {
                index.push(piece)?;
            }
        }
        let (index, covered) = index.finish(segments)?;
        Ok((index, covered, zeros))
    }

    fn manifest(&self, mut info: FinishInfo, index: IndexRef, rebuild: Rebuild) -> Manifest {
        let short = fits(&rebuild);
        let new = self.new.clone();
        let order = (info.time_cut < self.newest).then(|| self.newest.saturating_add(1));
        if order.is_some() {
            info.notes.push(BEHIND.to_owned());
        }
        Manifest {
            point: self.point,
            repository: self.repository.uuid(),
            device: new.device,
            kind: if self.parent.is_some() { PointKind::Incremental } else { PointKind::Full },
            parent: self.parent,
            time_start: new.time_start,
            time_cut: info.time_cut,
            time_end: unix_millis(),
            geometry: new.geometry,
            granularity: new.granularity,
            session: new.session,
            epochs: info.epochs,
            consistency: info.consistency,
            suspect: info.suspect,
            suspect_handled: info.suspect_handled,
            notes: info.notes,
            passes: info.passes,
            freeze_ms: info.freeze_ms,
            totals: self.totals,
            index,
            files: self.files.clone(),
            order,
            rebuild: short.then_some(rebuild),
            tool: tool(),
        }
    }
}

/// It is short enough for a manifest.
fn fits(rebuild: &Rebuild) -> bool {
    rebuild.segments.len().max(rebuild.zeros.len()) <= MAX_REBUILD
}
