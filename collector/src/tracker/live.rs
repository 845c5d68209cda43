//! Live traffic, for eyes only: every write of some disks through the ring buffer, while somebody watches.
//!
//! Nothing depends on it. It may lose events when the reader is slow, and says how many. One watcher at a
//! time: a ring buffer has one reader.

use super::Lock;
use super::load::{Maps, aya_error};
use super::places::Places;
use super::state::DeviceState;
use crate::block::{Extent, SECTOR};
use crate::error::{Error, Kind, Result};
use aya::maps::{Map, MapData, RingBuf};
use blkdelta_ebpf::{DISK_LIVE, Event};
use serde::Serialize;
use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

/// What was seen since the last look.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Traffic {
    /// Writes of any kind submitted to the device.
    pub writes: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Events of the whole disk that the ring buffer had no room for.
    pub lost: u64,
}

impl Traffic {
    /// Counts what was seen.
    pub fn note(&mut self, seen: Seen) {
        match seen {
            Seen::Write { range, .. } => {
                self.writes += 1;
                self.bytes += range.length;
            }
            Seen::Lost(events) => self.lost += events,
        }
    }
}

/// Something a watcher sees.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Seen {
    /// A write of any kind.
    Write {
        /// Which of the devices that are watched.
        device: usize,
        /// Where on it, in bytes.
        range: Extent,
    },
    /// So many events of their disks found no room in the ring buffer.
    Lost(u64),
}

/// Watches devices from a thread of its own until dropped; prints the programs' diagnostics on the way.
pub struct Watcher<T = Traffic> {
    seen: Arc<Mutex<T>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

/// How often the ring buffer is emptied: 1 MiB holds 20,000 events and more.
const PERIOD: Duration = Duration::from_millis(50);

impl<T: Default + Send + 'static> Watcher<T> {
    /// Starts watching; `note` adds what is seen to what is taken next.
    ///
    /// # Errors
    /// `Busy` if another process watches.
    pub fn start(
        places: &Places,
        states: &[DeviceState],
        note: impl Fn(&mut T, Seen) + Send + 'static,
    ) -> Result<Self> {
        let (seen, stop) = (Arc::new(Mutex::new(T::default())), Arc::new(AtomicBool::new(false)));
        let (places, states) = (places.clone(), states.to_vec());
        let (sum, end) = (Arc::clone(&seen), Arc::clone(&stop));
        let (started, start) = std::sync::mpsc::channel();
        let thread = std::thread::spawn(move || {
            let mut live = match Live::start(&places, &states) {
                Ok(live) => live,
                Err(e) => return drop(started.send(Err(e))),
            };
            let mut diagnostics = Diagnostics::open(&places).ok();
            drop(started.send(Ok(())));
            while !end.load(Ordering::Relaxed) {
                std::thread::sleep(PERIOD);
                if let Ok(mut sum) = sum.lock() {
                    // counters that cannot be read: the next turn tells what was lost
                    let _ = live.look(|seen| note(&mut sum, seen));
                }
                if let Some(diagnostics) = &mut diagnostics {
                    diagnostics.print();
                }
            }
        });
        let gone = |e| Error::caused(Kind::Bug, "start the live watcher", e);
        start.recv().map_err(gone)??;
        Ok(Self { seen, stop, thread: Some(thread) })
    }

    /// What was seen since the last call.
    pub fn take(&self) -> T {
        self.seen.lock().map(|mut seen| std::mem::take(&mut *seen)).unwrap_or_default()
    }
}

impl<T> Drop for Watcher<T> {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            drop(thread.join());
        }
    }
}

impl Maps {
    /// Disks whose writes go into the ring buffer.
    ///
    /// # Errors
    /// If the maps cannot be read.
    pub fn shown(&self) -> Result<BTreeSet<u32>> {
        let row = |row: u32| self.rows.get(&row, 0).map_err(|e| aya_error("read disks", e));
        let flags = self.disks.all()?.into_iter().map(|(dev, at)| Ok((dev, row(at)?.flags)));
        let on = flags.filter(|disk| !matches!(disk, Ok((_, flags)) if flags & DISK_LIVE == 0));
        on.map(|disk| disk.map(|(dev, _)| dev)).collect()
    }
}

/// A watcher of some devices; lives in one thread.
pub struct Live {
    ring: RingBuf<MapData>,
    maps: Maps,
    states: Vec<DeviceState>,
    lost_before: u64,
    places: Places,
    _lock: Lock,
}

impl Live {
    /// Starts watching.
    ///
    /// # Errors
    /// `Busy` if another process watches.
    pub fn start(places: &Places, states: &[DeviceState]) -> Result<Self> {
        let lock = Lock::take(&places.state().join("live.lock"), "watch live traffic", false)?;
        let ring =
            MapData::from_pin(places.map("EVENTS")).map_err(|e| aya_error("open the ring buffer", e))?;
        let ring = RingBuf::try_from(Map::RingBuf(ring)).map_err(|e| aya_error("open the ring buffer", e))?;
        let maps = Maps::open(places)?;
        let (states, places) = (states.to_vec(), places.clone());
        let mut live = Self { ring, maps, states, lost_before: 0, places, _lock: lock };
        live.switch(true)?;
        live.look(|_| ())?; // what an earlier watcher left is nobody's
        Ok(live)
    }

    /// Turns the events of the disks on or off; those of others off: we have the lock, so whoever wanted them was
    /// killed. A disk's row also holds the head of its targets, so nobody may add or remove one meanwhile.
    fn switch(&mut self, on: bool) -> Result<()> {
        let _registry = Lock::take(&self.places.lock(), "switch live events", true)?;
        let known: BTreeSet<u32> = self.maps.disks.all()?.into_iter().map(|(dev, _)| dev).collect();
        let ours: BTreeSet<u32> = self.states.iter().map(|s| s.identity.disk).collect();
        // one that was untracked meanwhile has nothing to be switched off
        let all = if on { known.union(&ours).copied().collect() } else { known };
        all.into_iter().try_for_each(|disk| self.maps.set_flags(disk, DISK_LIVE, on && ours.contains(&disk)))
    }

    /// Everything since the last look.
    ///
    /// # Errors
    /// If the counters cannot be read.
    pub fn look(&mut self, mut seen: impl FnMut(Seen)) -> Result<()> {
        while let Some(item) = self.ring.next() {
            let Some(event) = decode(&item) else { continue };
            let range = Extent::new(event.sector.saturating_mul(SECTOR), u64::from(event.count) * SECTOR);
            for (device, state) in self.states.iter().enumerate() {
                if event.disk != state.disk_row {
                    continue;
                }
                let start = state.identity.start_sector * SECTOR;
                if let Some(here) = range.intersect(&Extent::new(start, state.identity.size)) {
                    let range = Extent::new(here.offset - start, here.length);
                    seen(Seen::Write { device, range });
                }
            }
        }
        let lost = self.lost()?;
        match lost.saturating_sub(self.lost_before) {
            0 => {}
            more => seen(Seen::Lost(more)),
        }
        self.lost_before = lost;
        Ok(())
    }

    fn lost(&self) -> Result<u64> {
        let rows: BTreeSet<u32> = self.states.iter().map(|s| s.disk_row).collect();
        let lost =
            |row| super::health::sums(&self.maps, row * blkdelta_ebpf::COPIES).map(|sums| sums.events_lost);
        rows.into_iter().map(lost).sum()
    }
}

impl Drop for Live {
    fn drop(&mut self) {
        // a device may have been untracked meanwhile: then there is nothing to switch off
        let _ = self.switch(false);
    }
}

/// An event in the bytes of the ring buffer.
fn decode(bytes: &[u8]) -> Option<Event> {
    let mut words = bytes.chunks_exact(4).filter_map(|b| Some(u32::from_le_bytes(b.try_into().ok()?)));
    let mut word = || words.next();
    let mut long = || Some(u64::from(word()?) | u64::from(word()?) << 32);
    let (time, sector) = (long()?, long()?);
    Some(Event { time, sector, count: word()?, op: word()?, disk: word()?, reserved: word()? })
}

/// The programs' own diagnostics, printed through `log`.
pub struct Diagnostics(aya_log::EbpfLogger<&'static dyn log::Log>);

impl Diagnostics {
    /// Opens them.
    ///
    /// # Errors
    /// If no program is loaded.
    pub fn open(places: &Places) -> Result<Self> {
        let loaded = super::Loaded::read(places)?;
        let program = loaded.and_then(|l| l.programs.first().map(|p| p.id));
        let program = program.ok_or_else(|| Error::new(Kind::NotFound, "no program is loaded"))?;
        let logger = aya_log::EbpfLogger::init_from_id(program)
            .map_err(|e| aya_error("open the programs' diagnostics", e))?;
        Ok(Self(logger))
    }

    /// Prints what has come since the last time.
    pub fn print(&mut self) {
        self.0.flush();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_are_decoded_or_refused() {
        let mut bytes = Vec::new();
        for n in [1u64, 2] {
            bytes.extend(n.to_le_bytes());
        }
        for n in [3u32, 4, 5, 0] {
            bytes.extend(n.to_le_bytes());
        }
        let event = Event { time: 1, sector: 2, count: 3, op: 4, disk: 5, reserved: 0 };
        assert_eq!(decode(&bytes), Some(event));
        assert_eq!(decode(&bytes[..20]), None);
    }
}
