//! One look at the group and what is copied for it.
//!
//! ```text
//!   have    what parent and passes so far hold, and no epoch since called changed
//!   area    what belongs to the group's files now
//!   wanted  area − have                                   copied; then it is in `have`
//! ```

use super::image::{Image, Range};
use super::parent::{Parent, area_of};
use super::seat::in_image;
use super::{Seated, moment};
use crate::block::{BLOCK, Extent, ExtentSet};
use crate::catalogue::Free;
use crate::copy::{self, How, Watch};
use crate::error::{Error, Kind, Result};
use crate::format::{CataloguedDevice, MAX_DEVICE, Moment, NodeId, PassStats, Place, SLOT, THROUGH_AT};
use crate::job::Show;
use crate::repository::{PointWriter, unix_millis};
use crate::sys::failpoint;
use crate::tree::{Listing, Picker, Through, Volumes, walk};
use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

/// A backup of a group while it copies.
pub(super) struct Passes<'a> {
    pub picker: &'a Picker,
    pub seats: &'a mut [Seated],
    /// Place in the image of each seat.
    pub numbers: Vec<u32>,
    /// Devices of the catalogue.
    pub devices: Vec<CataloguedDevice>,
    pub volumes: Volumes,
    /// Of the view before the first look.
    pub rules: Option<u128>,
    pub parent: Option<&'a Parent>,
    pub writer: PointWriter,
    pub how: How,
    pub show: &'a dyn Show,
    /// What is in the image and current, as far as is known.
    pub have: ExtentSet,
    /// What changed on devices since the parent's cut.
    pub since: ExtentSet,
    /// Everything that parent and passes put into the image.
    pub stored: ExtentSet,
    /// What belongs to files now.
    pub area: ExtentSet,
    /// Devices of which is not known what changed: read and compared.
    pub unknown: ExtentSet,
    /// Where ranges lie that are read through files.
    pub ranges: HashMap<(NodeId, u64, u64), u64>,
    /// What the last pass read through files, by address.
    pub through: BTreeMap<u64, Range>,
    /// When files of such ranges had last changed, and when the pass that read them began.
    pub read_through: (HashMap<NodeId, Moment>, Moment),
    /// Epochs copied, by seat; and the first that cannot be proved complete.
    pub copied_upto: Vec<u64>,
    pub doubt: Vec<Option<u64>>,
    pub doubts: Vec<String>,
    pub stats: Vec<PassStats>,
    pub changed: u64,
    pub time_cut: u64,
    pub moved: u64,
    pub passes: u32,
}

/// So much older than a look a change must be to be before it, whatever the clock's tick.
const TICK_NANOS: u64 = 50_000_000;

impl Passes<'_> {
    /// Ends the running epochs of all devices. True if nothing was written in them that lies in the group's area.
    pub fn cut(&mut self) -> Result<bool> {
        let mut still = true;
        for (place, seat) in self.seats.iter_mut().enumerate() {
            seat.ledger.prepare(1)?;
            let cut = seat.ledger.cut()?;
            let extents = in_image(&cut.extents, self.numbers[place]);
            still &= cut.quiet || extents.intersect(&self.area).is_empty();
            self.have = self.have.subtract(&extents);
            self.since = self.since.union(&extents);
            if !cut.suspect.is_empty() && self.doubt[place].is_none() {
                self.doubt[place] = Some(cut.epoch);
                self.doubts.extend(cut.suspect);
            }
            self.copied_upto[place] = cut.epoch;
        }
        self.time_cut = unix_millis();
        failpoint("group.after-cut")?;
        Ok(still)
    }

    /// Lists the group and copies what the image lacks. The epochs must have been cut before.
    pub fn pass(&mut self, watch: &dyn Watch) -> Result<Listing> {
        let mut listing = walk(self.picker, &mut self.volumes)?;
        let anew = self.place_ranges(&mut listing)?;
        self.area = area_of(listing.nodes.values());
        self.fill(&anew, watch)?;
        Ok(listing)
    }

    /// Copies what the image lacks of `area`, and `anew` whatever it has.
    pub fn fill(&mut self, anew: &ExtentSet, watch: &dyn Watch) -> Result<()> {
        let began = Instant::now();
        let image = image(self.seats, &self.numbers, &self.area, &self.through);
        let (first, compared) = (self.passes == 0, self.compared(anew));
        let rest = self.area.subtract(&self.have).subtract(&compared);
        let mut bytes = 0;
        if let (true, Some(parent)) = (first && !compared.is_empty(), self.parent) {
            let pieces = parent.chain.pieces()?;
            bytes += copy::compare(&image, &compared, pieces, &mut self.writer, self.how, watch)?.read;
        } else {
            next_pass(&mut self.writer, first)?;
            bytes += copy::run(&image, &compared, &mut self.writer, self.how, watch)?.read;
        }
        next_pass(&mut self.writer, false)?;
        bytes += copy::run(&image, &rest, &mut self.writer, self.how, watch)?.read;
        self.moved = image.moved.load(Ordering::Relaxed);
        let wanted = rest.union(&compared);
        drop(image);
        self.copied(wanted, bytes, began);
        Ok(())
    }

    fn copied(&mut self, wanted: ExtentSet, bytes: u64, began: Instant) {
        self.have = self.have.union(&wanted);
        self.stored = self.stored.union(&wanted);
        self.changed += wanted.total();
        self.passes += 1;
        let (extents, millis) = (wanted.len() as u64, began.elapsed().as_millis() as u64);
        self.stats.push(PassStats { extents, bytes, millis });
    }

    /// What is compared with the parent in the first pass, and simply copied where there is none or later on: ranges
    /// that are read through files, and devices of which is not known what changed.
    fn compared(&self, anew: &ExtentSet) -> ExtentSet {
        if self.passes > 0 {
            return anew.clone();
        }
        self.area.intersect(&self.unknown).union(anew)
    }

    /// Gives every range that is read through a file its place in the image; those that may have changed since they
    /// were read last.
    fn place_ranges(&mut self, listing: &mut Listing) -> Result<ExtentSet> {
        let kept = |t: &Through| self.ranges.get(&(t.id, t.at, t.length)).copied();
        let taken = listing.through.iter().filter_map(|t| Some(Extent::new(kept(t)?, t.length))).collect();
        let mut free = Free::besides(taken, Extent::between(THROUGH_AT, 2 * SLOT));
        let began = moment(listing.begun.unwrap_or(std::time::UNIX_EPOCH));
        let (mut ranges, mut through, mut changed) = (HashMap::new(), BTreeMap::new(), HashMap::new());
        let mut anew = Vec::new();
        for t in std::mem::take(&mut listing.through) {
            let known = kept(&t);
            let address = known.unwrap_or_else(|| free.take(t.length));
            if known.is_none() || self.may_have_changed(&t) {
                anew.push(Extent::new(address, t.length));
            }
            let path = listing.path(t.id).unwrap_or_default();
            ranges.insert((t.id, t.at, t.length), address);
            through.insert(address, Range { id: t.id, path, at: t.at, length: t.length });
            changed.insert(t.id, t.changed);
            let Some(node) = listing.nodes.get_mut(&t.id) else {
                return Err(Error::new(Kind::Bug, "a range of a file that is not listed"));
            };
            let part = crate::format::Part { at: t.at, length: t.length, place: Place::Image(address) };
            let place = node.parts.partition_point(|p| p.at < t.at);
            node.parts.insert(place, part);
        }
        (self.ranges, self.through, self.read_through) = (ranges, through, (changed, began));
        Ok(ExtentSet::from_unsorted(anew))
    }

    /// A range may hold something else than when the pass before read it.
    fn may_have_changed(&self, t: &Through) -> bool {
        let (changed, began) = &self.read_through;
        let settled = nanos(*began).saturating_sub(TICK_NANOS);
        self.passes == 0 || changed.get(&t.id) != Some(&t.changed) || nanos(t.changed) >= settled
    }

    /// Stores the catalogue.
    pub fn copy_catalogue(&mut self, catalogue: BTreeMap<u64, Vec<u8>>, area: &ExtentSet) -> Result<()> {
        let mut image = image(self.seats, &self.numbers, &ExtentSet::new(), &BTreeMap::new());
        image.catalogue = catalogue;
        copy::run(&image, area, &mut self.writer, self.how, self.show).map(drop)
    }

    /// Whole blocks of the image that hold something and belong to nobody any more.
    pub fn left_over(&self, area: &ExtentSet) -> ExtentSet {
        let wide = |set: &ExtentSet| set.align_out(BLOCK, MAX_DEVICE);
        wide(&self.stored).subtract(&wide(area))
    }
}

fn next_pass(writer: &mut PointWriter, first: bool) -> Result<()> {
    if first { Ok(()) } else { writer.start_pass() }
}

/// The image as it is now.
fn image<'a>(
    seats: &'a [Seated],
    numbers: &[u32],
    area: &ExtentSet,
    through: &BTreeMap<u64, Range>,
) -> Image<'a> {
    Image {
        devices: seats.iter().zip(numbers).map(|(seat, number)| (*number, &seat.source)).collect(),
        area: area.clone(),
        ranges: through.clone(),
        catalogue: BTreeMap::new(),
        moved: AtomicU64::new(0),
    }
}

const fn nanos(moment: Moment) -> u64 {
    if moment.seconds < 0 { 0 } else { moment.seconds as u64 * 1_000_000_000 + moment.nanos as u64 }
}
