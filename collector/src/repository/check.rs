//! Looking for damage: everything that is wrong, with the points it harms, never only the first thing.

use super::examine::{Examined, examine};
use super::index::IndexReader;
use super::parity::ParityState;
use super::share::{Read, Share, choose};
use super::{PointState, Repository, keys};
use crate::error::{Kind, Result};
use crate::format::{
    Blake3, DeviceId, IndexRef, Manifest, Piece, PieceContent, PointId, PointMap, SegmentId, SegmentRef,
    SegmentTable,
};
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};

/// Frame tables kept while pieces are compared with them.
const TABLES: usize = 32;

/// What `check` found.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Report {
    /// Everything that is wrong.
    pub damages: Vec<Damage>,
    /// Points looked at.
    pub points: u64,
    /// Segments looked at.
    pub segments: u64,
    /// Pieces of indexes looked at.
    pub pieces: u64,
    /// Frames decoded and compared with their hash.
    pub frames: u64,
    /// Frames not decoded, because the key that was given cannot read content.
    pub sealed_frames: u64,
    /// Bytes of segments and indexes read whole.
    pub bytes_read: u64,
    /// Indexes without a readable manifest and segments that no readable index names: left by failed backups. No
    /// damage by themselves.
    pub unreferenced: u64,
    /// Segments whose frames a compaction moved; removed after the time of grace.
    pub superseded: u64,
    /// Which segments were read, if any.
    pub share: Option<Share>,
    /// How things stand with parity, if there is any.
    pub parity: Option<ParityState>,
}

/// One thing that is wrong.
#[derive(Clone, Debug, Serialize)]
pub struct Damage {
    /// The object's key.
    pub object: String,
    /// What is wrong with it.
    pub what: String,
    /// The points that cannot be restored as they were because of it, also those on top of them.
    pub points: Vec<PointId>,
}

/// Looks at everything a restore needs: the structure, or with `read_data` every stored byte.
///
/// # Errors
/// As [`check_some`].
pub fn check(repo: &Repository, read_data: bool, progress: &mut dyn FnMut(u64, u64)) -> Result<Report> {
    check_some(repo, if read_data { Read::All } else { Read::Structure }, progress)
}

/// Looks at everything a restore needs: the structure, and of what is stored as much as `read` says. `progress` is told
/// bytes done and bytes to do.
///
/// # Errors
/// Only if the store itself fails; what is wrong with its content is in the report.
pub fn check_some(repo: &Repository, read: Read, progress: &mut dyn FnMut(u64, u64)) -> Result<Report> {
    let read_data = !matches!(read, Read::Structure);
    let (found, users, waiting) = (BTreeMap::new(), HashMap::new(), BTreeSet::new());
    let chosen = BTreeSet::new();
    let mut check = Check { repo, found, users, waiting, chosen, report: Report::default() };
    let points = check.points()?;
    let indexes = check.indexes(&points, read_data)?;
    check.strays(&points)?;
    check.segments(read, progress)?;
    if read_data {
        for (point, index) in &indexes {
            check.compare(*point, index)?;
        }
    }
    check.parity(matches!(read, Read::All))?;
    if read_data {
        for (object, what) in repo.spare_damage(&points)? {
            check.damage(&object, what, []);
        }
    }
    check.spread(&points);
    let mut report = check.report;
    report.damages = check
        .found
        .into_iter()
        .map(|((object, what), points)| Damage { object, what, points: points.into_iter().collect() })
        .collect();
    Ok(report)
}

struct Check<'a> {
    repo: &'a Repository,
    /// Damage by object and words, with the points it harms directly.
    found: BTreeMap<(String, String), BTreeSet<PointId>>,
    /// What indexes say of each segment, and whose they are.
    users: HashMap<SegmentId, (SegmentRef, BTreeSet<PointId>)>,
    /// Segments that only superseded indexes name.
    waiting: BTreeSet<SegmentId>,
    /// Segments whose bytes are read.
    chosen: BTreeSet<SegmentId>,
    report: Report,
}

impl Check<'_> {
    fn damage(&mut self, object: &str, what: impl Into<String>, points: impl IntoIterator<Item = PointId>) {
        self.found.entry((object.to_owned(), what.into())).or_default().extend(points);
    }

    /// `Ok` unless the store itself failed.
    fn judge<T>(&mut self, object: &str, points: &[PointId], outcome: Result<T>) -> Result<Option<T>> {
        match outcome {
            Ok(value) => Ok(Some(value)),
            Err(e) => match e.kind() {
                Kind::Damaged | Kind::Incompatible | Kind::NotFound | Kind::Io => {
                    self.damage(object, e.in_full(), points.iter().copied());
                    Ok(None)
                }
                _ => Err(e),
            },
        }
    }

    /// The key ring; every manifest, and its map or, without one, its parent. Dropped points too: until they are swept, others
    /// may stand on them.
    fn points(&mut self) -> Result<Vec<(Manifest, Option<PointMap>)>> {
        for (object, what) in self.repo.ring_damage()? {
            self.damage(&object, what, []);
        }
        let mut good = Vec::new();
        let mut mapped: BTreeMap<DeviceId, BTreeMap<PointId, u32>> = BTreeMap::new();
        for entry in self.repo.all_points()? {
            self.report.points += 1;
            let key = keys::manifest(&entry.device, entry.id);
            if !mapped.contains_key(&entry.device) {
                mapped.insert(entry.device.clone(), self.repo.mapped(&entry.device)?);
            }
            match entry.state {
                PointState::Damaged(what) => self.damage(&key, what, [entry.id]),
                PointState::Good { manifest, hash } => {
                    let number = mapped.get(&entry.device).and_then(|m| m.get(&entry.id)).copied();
                    let map = self.map(&manifest, hash, number)?;
                    if map.is_none() {
                        let parent = self.repo.parent_of(&manifest);
                        self.judge(&key, &[entry.id], parent)?;
                    }
                    good.push((*manifest, map));
                }
            }
        }
        for (key, _) in self.repo.store().list("bak")? {
            if keys::parse_manifest(&key).is_none() {
                self.damage(&key, "not an object of a repository", []);
            }
        }
        Ok(good)
    }

    /// A point's map, if it has one that can be used; one that cannot harms the point only if its chain is gone.
    fn map(&mut self, manifest: &Manifest, hash: Blake3, number: Option<u32>) -> Result<Option<PointMap>> {
        let Some(number) = number else { return Ok(None) };
        let key = keys::map_commit(&manifest.device.id, manifest.point, number);
        let map = self.repo.point_map(&manifest.device.id, manifest.point, hash, number);
        let Some(map) = self.judge(&key, &[], map)? else { return Ok(None) };
        let opened = self.repo.map_index(&map, manifest.geometry.size).map(drop);
        let key = keys::map(&map.device, map.point, map.number);
        Ok(self.judge(&key, &[], opened)?.map(|()| map))
    }

    /// Every index that shows a point, and what is superseded.
    fn indexes(
        &mut self,
        points: &[(Manifest, Option<PointMap>)],
        read_data: bool,
    ) -> Result<Vec<(PointId, IndexReader)>> {
        let mut indexes = Vec::new();
        for (manifest, map) in points {
            let own = self.repo.index(manifest);
            let told = (manifest.index, manifest.totals.covered_bytes);
            let key = keys::index(&manifest.device.id, manifest.point);
            if let Some(map) = map.as_ref().filter(|map| map.sole) {
                // what it names may have moved: the map alone shows the point
                self.superseded(&key, own)?;
                for (number, earlier) in self.repo.earlier_maps(manifest, map)? {
                    self.superseded(&keys::map(&map.device, map.point, number), earlier)?;
                }
            } else {
                indexes.extend(self.index(&key, manifest.point, own, told, read_data)?);
            }
            if let Some(map) = map {
                let key = keys::map(&map.device, map.point, map.number);
                let opened = self.repo.map_index(map, manifest.geometry.size);
                let told = (map.index, map.covered_bytes);
                indexes.extend(self.index(&key, map.point, opened, told, read_data)?);
            }
        }
        Ok(indexes)
    }

    /// An index: footer, every chunk, every piece inside its segment; with `whole`, the hash of all its bytes.
    fn index(
        &mut self,
        key: &str,
        point: PointId,
        opened: Result<IndexReader>,
        (told, covered): (IndexRef, u64),
        whole: bool,
    ) -> Result<Option<(PointId, IndexReader)>> {
        let points = [point];
        let Some(index) = self.judge(key, &points, opened)? else { return Ok(None) };
        for segment in index.segments() {
            let (told, users) = self.users.entry(segment.id).or_insert((*segment, BTreeSet::new()));
            users.insert(point);
            if told != segment {
                self.damage(key, format!("says other than another index of segment {}", segment.id), points);
            }
        }
        let mut sums = (0, 0);
        for piece in index.pieces() {
            let Some(piece) = self.judge(key, &points, piece)? else { return Ok(None) };
            sums = (sums.0 + 1, sums.1 + piece.extent.length);
        }
        self.report.pieces += sums.0;
        if sums != (told.pieces, covered) {
            self.damage(key, "has other pieces than its manifest counts", points);
        }
        if whole {
            let hash = self.hash_object(key, told.len);
            let hash = self.judge(key, &points, hash)?;
            if hash.is_some_and(|hash| hash != told.hash) {
                self.damage(key, "its bytes are not those its manifest was written for", points);
            }
        }
        Ok(Some((point, index)))
    }

    /// A point's own index, or a map, that another map stands for: nothing of it is needed but to know what may be removed.
    fn superseded(&mut self, key: &str, own: Result<IndexReader>) -> Result<()> {
        if let Some(own) = self.judge(key, &[], own)? {
            self.waiting.extend(own.segments().iter().map(|s| s.id));
        }
        Ok(())
    }

    fn hash_object(&mut self, key: &str, len: u64) -> Result<Blake3> {
        let mut hasher = blake3::Hasher::new();
        let mut at = 0;
        while at < len {
            let part = (len - at).min(8 << 20);
            hasher.update(&self.repo.store().get_range(key, at, part)?);
            at += part;
        }
        self.report.bytes_read += len;
        Ok(Blake3(*hasher.finalize().as_bytes()))
    }

    /// Every named segment is there, with its length; of those that are chosen all bytes and frames.
    fn segments(&mut self, read: Read, progress: &mut dyn FnMut(u64, u64)) -> Result<()> {
        let mut there: HashMap<SegmentId, u64> = HashMap::new();
        for (key, len) in self.repo.store().list("seg")? {
            match keys::parse_segment(&key) {
                Some(id) => drop(there.insert(id, len)),
                None => self.damage(&key, "not an object of a repository", []),
            }
        }
        let mut named: Vec<_> = self.users.values().cloned().collect();
        named.sort_unstable_by_key(|(s, _)| s.id);
        let all: Vec<SegmentRef> = named.iter().map(|(s, _)| *s).collect();
        (self.chosen, self.report.share) = choose(&all, read);
        let (total, mut done) = (self.report.share.map_or(0, |share| share.bytes), 0);
        let mut whole = Vec::new();
        for (segment, users) in &named {
            self.report.segments += 1;
            let what = match there.remove(&segment.id) {
                None => "missing".to_owned(),
                Some(len) if len != segment.len => format!("{len} bytes long, not {}", segment.len),
                Some(_) => {
                    whole.extend(self.chosen.contains(&segment.id).then_some(*segment));
                    continue;
                }
            };
            self.damage(&keys::segment(segment.id), what, users.iter().copied());
            done += if self.chosen.contains(&segment.id) { segment.len } else { 0 };
        }
        examine(self.repo, &whole, &mut |segment, found| {
            self.note(segment, found);
            done += segment.len;
            progress(done, total);
            Ok(())
        })?;
        self.report.superseded = there.keys().filter(|id| self.waiting.contains(id)).count() as u64;
        self.report.unreferenced += there.len() as u64 - self.report.superseded;
        Ok(())
    }

    /// Indexes and maps that no readable manifest or commit names; unreadable tombstones.
    fn strays(&mut self, points: &[(Manifest, Option<PointMap>)]) -> Result<()> {
        let named: BTreeSet<String> =
            points.iter().map(|(m, _)| keys::index(&m.device.id, m.point)).collect();
        let there = self.repo.store().list("idx")?;
        self.report.unreferenced += there.iter().filter(|(key, _)| !named.contains(key)).count() as u64;
        let maps = self.repo.store().list("map")?;
        let found: BTreeSet<_> = maps.iter().filter_map(|(key, _)| keys::parse_map(key)).collect();
        let lonely =
            found.iter().filter(|(d, p, n, commit)| !commit && !found.contains(&(d.clone(), *p, *n, true)));
        self.report.unreferenced += lonely.count() as u64;
        for (device, point) in self.repo.buried(None)? {
            let tombstone = self.repo.tombstone(&device, point);
            self.judge(&keys::tombstone(&device, point), &[], tombstone)?;
        }
        Ok(())
    }

    /// What was found in a segment.
    fn note(&mut self, segment: &SegmentRef, found: Examined) {
        let users = self.users.get(&segment.id).map(|(_, users)| users.clone()).unwrap_or_default();
        self.report.bytes_read += found.bytes;
        self.report.frames += found.frames;
        self.report.sealed_frames += found.sealed;
        for what in found.harm {
            self.damage(&keys::segment(segment.id), what, users.iter().copied());
        }
    }

    /// Every piece of an index shows a frame that its segment's own table knows, in the same words.
    fn compare(&mut self, point: PointId, index: &IndexReader) -> Result<()> {
        let mut tables = Tables { repo: self.repo, kept: VecDeque::new() };
        for piece in index.pieces() {
            // unreadable parts of the index are in the report already
            let Ok(piece) = piece else { return Ok(()) };
            let PieceContent::Stored(f) = piece.content else { continue };
            let segment = index.segments().get(f.segment as usize);
            let Some(segment) = segment.filter(|s| self.chosen.contains(&s.id)) else { continue };
            if !tables.knows(segment, &piece)? {
                let what = format!("piece at {} is not in segment {}", piece.extent.offset, segment.id);
                self.damage(index.key(), what, [point]);
            }
        }
        Ok(())
    }

    /// How far parity gives back what is harmed; what of it is itself damaged.
    fn parity(&mut self, read: bool) -> Result<()> {
        let damaged = self.found.keys().map(|(object, _)| object.clone()).collect();
        let (state, broken) = self.repo.parity_state(&damaged, read)?;
        self.report.parity = state;
        broken.into_iter().for_each(|(object, what)| self.damage(&object, what, []));
        Ok(())
    }

    /// A point is harmed by what harms any point below it.
    fn spread(&mut self, points: &[(Manifest, Option<PointMap>)]) {
        // parents come before their children; a point with a map does not need its parent
        for harmed in self.found.values_mut() {
            for (manifest, _) in points.iter().filter(|(_, map)| map.is_none()) {
                if manifest.parent.is_some_and(|p| harmed.contains(&p.point)) {
                    harmed.insert(manifest.point);
                }
            }
        }
    }
}

/// The frame tables of the segments used last.
struct Tables<'a> {
    repo: &'a Repository,
    kept: VecDeque<(SegmentId, Option<SegmentTable>)>,
}

impl Tables<'_> {
    fn knows(&mut self, segment: &SegmentRef, piece: &Piece) -> Result<bool> {
        let at = match self.kept.iter().position(|(id, _)| *id == segment.id) {
            Some(at) => at,
            None => {
                let table = match self.repo.segment_table(segment) {
                    Ok(table) => Some(table),
                    // the segment's own damage is in the report already
                    Err(e) if matches!(e.kind(), Kind::Damaged | Kind::NotFound | Kind::Incompatible) => None,
                    Err(e) => return Err(e),
                };
                self.kept.truncate(TABLES - 1);
                self.kept.push_front((segment.id, table));
                0
            }
        };
        let Some((_, Some(table))) = self.kept.get(at) else { return Ok(true) };
        let PieceContent::Stored(f) = piece.content else { return Ok(true) };
        Ok(table.at(f.offset).is_some_and(|frame| frame.meta == piece.frame()))
    }
}
