//! Which row a disk has: the open-addressed table DISKS, which the programs read at any moment.
//!
//! What must stay true: a disk that stays is found at every moment. So an entry never moves; one that is
//! removed stays as `GONE`, and becomes empty only when the place after it is. The row is written before the
//! device number, in a step of its own. The caller holds the registry's lock.

use super::load::aya_error;
use crate::error::{Error, Kind, Result};
use aya::maps::{Array, MapData, MapError};
use blkdelta_ebpf::{Entry, GONE, MAX_DISKS, MAX_PROBES, PLACES, place_of};

/// The table.
pub struct Disks(Array<MapData, Entry>);

impl Disks {
    /// The pinned map of that name.
    pub(super) fn new(map: Array<MapData, Entry>) -> Self {
        Self(map)
    }

    fn entries(&self) -> Result<Vec<Entry>> {
        (0..PLACES).map(|place| self.0.get(&place, 0).map_err(|e| failed("read", e))).collect()
    }

    /// The disks in it, with their rows.
    ///
    /// # Errors
    /// If the map cannot be read.
    pub fn all(&self) -> Result<Vec<(u32, u32)>> {
        let entries = self.entries()?;
        Ok(entries.iter().filter(|e| e.dev != 0 && e.dev != GONE).map(|e| (e.dev, e.row)).collect())
    }

    /// The row of a disk.
    ///
    /// # Errors
    /// If the map cannot be read.
    pub fn row(&self, dev: u32) -> Result<Option<u32>> {
        let entries = self.entries()?;
        Ok(find(&entries, dev).map(|place| entries[place as usize].row))
    }

    /// Gives a disk that is not in it a row.
    ///
    /// # Errors
    /// `NoSpace` if no place is near enough to its own.
    pub fn insert(&mut self, dev: u32, row: u32) -> Result<()> {
        let place = room(&self.entries()?, dev).ok_or_else(|| {
            Error::new(Kind::NoSpace, format!("track another disk: no place of {PLACES} is near its own"))
                .hint("untrack a disk first")
        })?;
        let before = self.0.get(&place, 0).map_err(|e| failed("read", e))?.dev;
        self.set(place, Entry { dev: before, row })?;
        self.set(place, Entry { dev, row })
    }

    /// Removes a disk, if it is in it.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn remove(&mut self, dev: u32) -> Result<()> {
        let mut entries = self.entries()?;
        let Some(place) = find(&entries, dev) else { return Ok(()) };
        for (place, entry) in removal(&mut entries, place) {
            self.set(place, entry)?;
        }
        Ok(())
    }

    fn set(&mut self, place: u32, entry: Entry) -> Result<()> {
        self.0.set(place, entry, 0).map_err(|e| failed("change", e))
    }
}

fn failed(doing: &str, error: MapError) -> Error {
    aya_error(format!("{doing} the table of disks in the kernel's maps"), error)
}

/// The places a disk may have, its own first.
fn places(dev: u32) -> impl Iterator<Item = u32> {
    (0..MAX_PROBES).map(move |step| (place_of(dev) + step) % PLACES)
}

/// Where a disk is: what `disk` in ebpf/src/maps.rs does.
fn find(entries: &[Entry], dev: u32) -> Option<u32> {
    let until_empty = places(dev).take_while(|place| entries[*place as usize].dev != 0);
    until_empty.filter(|_| dev != 0).find(|place| entries[*place as usize].dev == dev)
}

/// Where a disk that is not in it can go.
fn room(entries: &[Entry], dev: u32) -> Option<u32> {
    const _: () = assert!(MAX_DISKS < PLACES, "there must always be an empty place");
    places(dev).find(|place| matches!(entries[*place as usize].dev, 0 | GONE))
}

/// The changes, in order, that remove the disk at `place`; `entries` follows them.
fn removal(entries: &mut [Entry], place: u32) -> Vec<(u32, Entry)> {
    let mut changes = vec![(place, Entry { dev: GONE, ..entries[place as usize] })];
    entries[place as usize].dev = GONE;
    let mut at = place;
    // nobody's way leads through a place whose next is empty
    while entries[at as usize].dev == GONE && entries[((at + 1) % PLACES) as usize].dev == 0 {
        entries[at as usize] = Entry::default();
        changes.push((at, Entry::default()));
        at = (at + PLACES - 1) % PLACES;
    }
    changes
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    /// Device numbers that share places.
    fn crowd() -> Vec<u32> {
        (1..100_000).filter(|dev| place_of(*dev) > PLACES - 3 || place_of(*dev) < 2).take(40).collect()
    }

    proptest! {
        #[test]
        fn it_is_a_map_and_whoever_stays_is_found_at_every_step(steps in prop::collection::vec(0..40usize, 1..200)) {
            let (crowd, mut model) = (crowd(), BTreeMap::new());
            let mut entries = vec![Entry::default(); PLACES as usize];
            for (row, n) in steps.into_iter().enumerate() {
                let dev = crowd[n];
                if model.remove(&dev).is_some() {
                    let place = find(&entries, dev).expect("it is in the model");
                    let mut live = entries.clone();
                    for (place, entry) in removal(&mut entries, place) {
                        live[place as usize] = entry;
                        for (dev, row) in &model {
                            prop_assert_eq!(find(&live, *dev).map(|p| live[p as usize].row), Some(*row));
                        }
                    }
                    prop_assert_eq!(&live, &entries);
                } else if let Some(place) = room(&entries, dev) {
                    entries[place as usize] = Entry { dev, row: row as u32 };
                    model.insert(dev, row as u32);
                }
                for dev in &crowd {
                    prop_assert_eq!(find(&entries, *dev).map(|p| entries[p as usize].row), model.get(dev).copied());
                }
            }
            let all: Vec<u32> = model.keys().copied().collect();
            for dev in all {
                let place = find(&entries, dev).expect("it is in the model");
                removal(&mut entries, place);
            }
            prop_assert!(entries.iter().all(|e| e.dev == 0), "an empty table has no traces of the past");
        }
    }

    #[test]
    fn every_disk_that_can_be_tracked_finds_room() {
        for (major, step) in [(7, 1), (8, 16), (252, 1), (259, 1)] {
            let mut entries = vec![Entry::default(); PLACES as usize];
            for row in 0..MAX_DISKS {
                let dev = major << 20 | row * step;
                let place = room(&entries, dev).expect("a place near its own");
                entries[place as usize] = Entry { dev, row };
            }
        }
    }
}
