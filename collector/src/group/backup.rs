//! One backup of a group, from lock to retired epochs.

use super::parent::Parent;
use super::passes::Passes;
use super::seat::in_image;
use super::still::Rest;
use super::{Seated, identify, tag};
use crate::block::{Extent, ExtentSet, Granularity};
use crate::catalogue::lay_out;
use crate::copy::How;
use crate::error::{Error, Kind, Result};
use crate::format::{
    CataloguedDevice, Consistency, EncodedFrame, Files, Geometry, MAX_DEVICE, MAX_DEVICES, Manifest, Moment,
    Node, NodeId, NodeKind, Root, SLOT, device_at,
};
use crate::job::{Show, Wishes, place};
use crate::repository::{FinishInfo, NewPoint, PointWriter, Repository, unix_millis};
use crate::sys::failpoint;
use crate::tracker::Base;
use crate::tree::{self, Listing, Pick, Picker, Seat, View, Volumes, place_of};
use std::collections::{BTreeMap, HashMap};
use std::time::{Duration, Instant};

/// A named set of files.
#[derive(Clone, Debug, Default)]
pub struct Group {
    /// Its name.
    pub name: String,
    /// What is in it.
    pub pick: Pick,
}

/// What a backup of a group made.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// The point.
    pub manifest: Manifest,
    /// Why it is a full one, if it is.
    pub why_full: Option<String>,
    /// What could not be read.
    pub unread: Vec<String>,
    /// Files and folders that were looked at.
    pub looked_at: u64,
    /// Why these are all there are, if they are: a walk.
    pub why_walked: Option<String>,
    /// How long it took.
    pub time: Duration,
    /// How long the last look at the files took.
    pub looked: Duration,
}

/// Makes a point of `group` in `repo`, and its start point on the devices it lies on.
///
/// # Errors
/// Any failure; the epochs are then all still pending.
pub fn backup(
    group: &Group,
    mut seats: Vec<Seated>,
    repo: &Repository,
    wishes: &Wishes,
    show: &dyn Show,
) -> Result<Outcome> {
    let (began, time_start) = (Instant::now(), unix_millis());
    let picker = Picker::new(&group.pick)?;
    let placed = placed(&seats, repo, wishes)?;
    let wishes = Wishes { freeze: wishes.freeze && placed.may_freeze, ..wishes.clone() };
    let ident = identify(repo, &group.name);
    let lock = repo.lock(&ident.id)?;
    let (mut parent, why_full) = match wishes.full {
        true => (None, Some("asked for".to_owned())),
        false => match Parent::find(repo, &ident.id)? {
            Ok(parent) => (Some(parent), None),
            Err(why) => (None, Some(why)),
        },
    };
    let nodes = parent.as_mut().map(|parent| std::mem::take(&mut parent.nodes)).unwrap_or_default();
    let new = NewPoint {
        device: ident,
        parent: parent.as_ref().map(Parent::point),
        geometry: Geometry { size: MAX_DEVICE, logical_block: 512, physical_block: 4096 },
        granularity: Granularity::default(),
        session: None,
        time_start,
    };
    let mut notes: Vec<String> = placed.notes.into_iter().chain(lock.taken_over().map(Into::into)).collect();
    let writer = repo.begin(&lock, new)?;
    let (mut passes, view) =
        begin(&picker, &mut seats, parent.as_ref(), writer, How::new(wishes.compression), show)?;
    // what is held back now is copied while the file systems live
    picker.bases().iter().filter(|base| base.is_dir()).try_for_each(|base| tree::sync(base))?;
    let suspect = ground(&mut passes, parent.as_ref(), repo, &group.name)?;
    show.begin("files", 0);
    let (rest, looked_at, why_walked) = look(&mut passes, (nodes, view), &wishes, repo, &mut notes)?;
    let (looked, unread) = (rest.listing.took, rest.listing.unread.clone());
    let manifest = publish(passes, (group, repo), rest, suspect, notes)?;
    Ok(Outcome { manifest, why_full, unread, looked_at, why_walked, time: began.elapsed(), looked })
}

/// What follows from where the store and our own folders lie.
fn placed(seats: &[Seated], repo: &Repository, wishes: &Wishes) -> Result<place::Placement> {
    let mut placed = place::judge(None, repo.local_path(), wishes)?;
    for seat in seats {
        let one = place::judge(Some(seat.dev), repo.local_path(), wishes)?;
        placed.may_freeze &= one.may_freeze;
        placed.notes.extend(one.notes);
    }
    Ok(placed)
}

/// A glance if that is enough, else a walk; at how many files, and why a walk.
fn look(
    passes: &mut Passes<'_>,
    (nodes, view): (BTreeMap<NodeId, Node>, Result<View, String>),
    wishes: &Wishes,
    repo: &Repository,
    notes: &mut Vec<String>,
) -> Result<(Rest, u64, Option<String>)> {
    let own = wishes.own_folders.iter().cloned().chain(repo.local_path().map(ToOwned::to_owned));
    let own: Vec<_> = own.filter(|folder| folder.exists()).collect();
    let why = match passes.glance(nodes, view, wishes, &own)? {
        Ok((rest, looked_at)) => return Ok((rest, looked_at, None)),
        Err(why) => why,
    };
    let first = passes.pass(passes.show)?;
    let rest = passes.come_to_rest(first, wishes, &own, notes)?;
    let looked_at = rest.listing.nodes.len() as u64;
    Ok((rest, looked_at, Some(why)))
}

/// Nothing is copied yet, nothing is cut.
fn begin<'a>(
    picker: &'a Picker,
    seats: &'a mut [Seated],
    parent: Option<&'a Parent>,
    writer: PointWriter,
    how: How,
    show: &'a dyn Show,
) -> Result<(Passes<'a>, Result<View, String>)> {
    let mut devices = parent.map(|p| p.root.devices.clone()).unwrap_or_default();
    let places = places(seats, &mut devices)?;
    let numbers = places.iter().map(|place| place.number).collect();
    let mut volumes = Volumes::new(parent.map(Parent::volumes).unwrap_or_default(), places);
    let view = View::of(picker, &mut volumes);
    let passes = Passes {
        picker,
        rules: view.as_ref().ok().map(|view| view.rules),
        copied_upto: vec![0; seats.len()],
        doubt: vec![None; seats.len()],
        seats,
        numbers,
        devices,
        volumes,
        parent,
        writer,
        how,
        show,
        have: ExtentSet::new(),
        since: ExtentSet::new(),
        stored: parent.map(|p| p.area.clone()).unwrap_or_default(),
        area: ExtentSet::new(),
        unknown: ExtentSet::new(),
        ranges: parent.map(|p| p.ranges.clone()).unwrap_or_default(),
        through: BTreeMap::new(),
        read_through: (HashMap::new(), Moment::default()),
        doubts: Vec::new(),
        stats: Vec::new(),
        changed: 0,
        time_cut: 0,
        moved: 0,
        passes: 0,
    };
    Ok((passes, view))
}

/// Places of the devices in the image; those that are new are added.
fn places(seats: &[Seated], devices: &mut Vec<CataloguedDevice>) -> Result<Vec<Seat>> {
    let place = |seat: &Seated| {
        let session = Some(seat.ledger.session().to_owned());
        let device = CataloguedDevice { id: seat.id.clone(), path: seat.path.display().to_string(), session };
        let number = place_of(devices, device);
        if number >= MAX_DEVICES || seat.size > SLOT {
            let text = format!("{}: too large, or one device too many for a group", seat.path.display());
            return Err(Error::new(Kind::Unsupported, text));
        }
        Ok(Seat { dev: seat.dev, number, size: seat.size })
    };
    seats.iter().map(place).collect()
}

/// The first cut, and what the parent holds that did not change since; why some of it must be compared.
fn ground(
    passes: &mut Passes<'_>,
    parent: Option<&Parent>,
    repo: &Repository,
    group: &str,
) -> Result<Vec<String>> {
    passes.cut()?;
    let Some(parent) = parent else { return Ok(Vec::new()) };
    let (mut have, mut suspect) = (ExtentSet::new(), Vec::new());
    for (seat, number) in passes.seats.iter().zip(&passes.numbers) {
        let slot = Extent::new(device_at(*number), SLOT);
        match parent.difference(repo, group, seat)? {
            Ok(changed) => {
                let changed = in_image(&changed, *number);
                passes.since = passes.since.union(&changed);
                have = have.union(&parent.area.within(slot).subtract(&changed));
            }
            Err(why) => {
                passes.unknown = passes.unknown.union(&[slot].into_iter().collect());
                suspect.extend(why);
            }
        }
    }
    passes.have = have;
    Ok(suspect)
}

/// Finishes the point and, once it is durable, forgets the epochs it holds.
fn publish(
    mut passes: Passes<'_>,
    (group, repo): (&Group, &Repository),
    rest: Rest,
    mut suspect: Vec<String>,
    mut notes: Vec<String>,
) -> Result<Manifest> {
    catalogue(&mut passes, group, &rest.listing)?;
    let Passes { doubts, doubt, copied_upto, seats, mut writer, .. } = passes;
    writer.holds(files(group, &rest.listing));
    notes.extend(rest.listing.notes);
    notes.extend(rest.listing.unread.iter().take(MOST_NAMED).map(|what| format!("not read: {what}")));
    let doubted = !doubts.is_empty();
    suspect.extend(doubts);
    let handled = "everything in doubt was compared with the last point by hash";
    let info = FinishInfo {
        time_cut: passes.time_cut,
        epochs: None,
        consistency: if doubted { Consistency::Fuzzy } else { rest.consistency },
        suspect_handled: (!suspect.is_empty() && !doubted).then(|| handled.to_owned()),
        suspect,
        notes,
        passes: passes.stats,
        freeze_ms: rest.frozen.map(|time| time.as_millis() as u64),
        changed_bytes: passes.changed,
    };
    failpoint("group.before-finish")?;
    let manifest = writer.finish(info)?;
    failpoint("group.before-retire")?;
    for ((seat, upto), doubt) in seats.iter_mut().zip(copied_upto).zip(doubt) {
        let upto = doubt.map_or(upto, |epoch: u64| upto.min(epoch.saturating_sub(1)));
        let base = Base { repo: tag(repo, &group.name), point: manifest.point.to_string() };
        seat.ledger.retire(upto, base, false).map_err(|e| {
            let text = format!("point {} is stored, but its epochs could not be retired", manifest.point);
            e.within(text).hint("nothing is lost: the next backup compares what may have changed")
        })?;
        failpoint("group.after-retire")?;
    }
    Ok(manifest)
}

/// Files that could not be read are named in the manifest, at most so many.
const MOST_NAMED: usize = 16;

/// Zeros where files were, then the catalogue.
fn catalogue(passes: &mut Passes<'_>, group: &Group, listing: &Listing) -> Result<()> {
    // only what was the same from before the look until now is of it
    let view = View::of(passes.picker, &mut passes.volumes);
    let root = Root {
        group: group.name.clone(),
        top: listing.top,
        devices: passes.devices.clone(),
        volumes: passes.volumes.list().to_vec(),
        rules: passes.rules.filter(|rules| view.is_ok_and(|view| view.rules == *rules)),
        pages: Vec::new(),
    };
    let laid = lay_out(&listing.nodes, root, passes.parent.map(|p| &p.root))?;
    passes.writer.start_pass()?;
    for extent in &passes.left_over(&passes.area.union(&laid.area)) {
        passes.writer.add(EncodedFrame::zero(*extent))?;
    }
    let new = laid.new.iter().map(|(at, bytes)| Extent::new(*at, bytes.len() as u64)).collect();
    passes.writer.start_pass()?;
    passes.copy_catalogue(laid.new, &new)
}

fn files(group: &Group, listing: &Listing) -> Files {
    let regular = listing.nodes.values().filter(|node| node.kind == NodeKind::File);
    let (files, bytes) = regular.fold((0, 0u64), |(n, sum), node| (n + 1, sum.saturating_add(node.size)));
    let others = listing.nodes.len() as u64 - files;
    Files { group: group.name.clone(), files, others, bytes, unread: listing.unread.len() as u64 }
}
