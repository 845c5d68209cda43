//! What is shown, from one look to the next: rates, rows of heat, cost; and what the reader chose. Pure.

use super::snapshot::{Glimpse, Runs, Snapshot, grain};
use crate::block::{Extent, heat};
use crate::diff::Health;
use std::collections::VecDeque;
use std::time::Duration;

/// Looks of a device that are remembered.
pub const ROWS: usize = 64;

/// The shortest and the longest interval.
const INTERVALS: [Duration; 2] = [Duration::from_millis(100), Duration::from_secs(600)];

/// Areas that a window has at least.
const NARROWEST: u64 = 64;

/// Everything that is shown.
#[derive(Debug, Default)]
pub struct Model {
    /// Unix milliseconds of the last look.
    pub now_ms: u64,
    /// Between two looks.
    pub interval: Duration,
    /// No looks for now.
    pub paused: bool,
    /// Digits instead of glyphs of growing density.
    pub digits: bool,
    /// The keys are explained instead.
    pub help: bool,
    /// No colours.
    pub plain: bool,
    /// By device number.
    pub devices: Vec<Device>,
    /// Which of them is shown at length.
    pub selected: usize,
    /// Of all devices' tracking.
    pub cost: Cost,
    /// Why writes are not seen one by one, if so.
    pub no_events: Option<String>,
    /// Events that were lost, since this began.
    pub lost: u64,
    notes: Vec<String>,
    programs: Vec<Runs>,
    looks: u64,
}

/// One device.
#[derive(Debug, Default)]
pub struct Device {
    /// As it was last seen.
    pub now: Glimpse,
    /// What changed at each look, oldest first.
    pub rows: VecDeque<Row>,
    /// Between the last two looks.
    pub rate: Option<Rate>,
    /// What part of it is shown.
    pub window: Extent,
}

/// What changed between two looks.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Row {
    /// The number of its look: which line it stands in.
    pub number: u64,
    /// Unix milliseconds.
    pub at_ms: u64,
    /// Where, and how many bytes there.
    pub pieces: Vec<(Extent, u64)>,
}

/// How fast it changes, a second.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Rate {
    /// Writes.
    pub writes: f64,
    /// Their bytes.
    pub bytes: f64,
    /// Bytes that the list gained.
    pub gained: f64,
    /// The writes are those of its whole disk.
    pub of_disk: bool,
}

/// What tracking costs.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum Cost {
    /// There is nothing to compare with yet.
    #[default]
    NotYet,
    /// It is not counted.
    Unknown(String),
    /// No program ran.
    Idle,
    /// Between the last two looks.
    Known {
        /// Nanoseconds of a run.
        each: f64,
        /// The dearest program, and its.
        dearest: (String, f64),
        /// Runs a second.
        runs: f64,
        /// Of one core, as a fraction.
        share: f64,
    },
}

impl Model {
    /// Before the first look.
    pub fn new(interval: Duration) -> Self {
        Self { interval: interval.clamp(INTERVALS[0], INTERVALS[1]), ..Self::default() }
    }

    /// Takes over a look, so long after the one before.
    pub fn take(&mut self, snapshot: Snapshot, elapsed: Duration) {
        let chosen = self.current().map(|device| device.now.session.clone());
        let mut before = std::mem::take(&mut self.devices);
        self.looks += 1;
        self.now_ms = snapshot.now_ms;
        self.cost = cost(&self.programs, &snapshot, elapsed);
        self.lost += snapshot.lost;
        for glimpse in snapshot.devices {
            let found = before.iter().position(|device| device.now.session == glimpse.session);
            let device = match found {
                Some(at) => before.swap_remove(at).followed_by(glimpse, elapsed, (self.looks, self.now_ms)),
                None => Device { window: Extent::new(0, glimpse.size), now: glimpse, ..Device::default() },
            };
            self.devices.push(device);
        }
        let still = self.devices.iter().position(|device| Some(&device.now.session) == chosen.as_ref());
        self.selected = still.unwrap_or(self.selected).min(self.devices.len().saturating_sub(1));
        self.no_events = snapshot.no_events;
        self.programs = snapshot.programs;
        self.notes = self.remarks();
    }

    fn remarks(&self) -> Vec<String> {
        let mut notes = Vec::new();
        if let Cost::Unknown(why) = &self.cost {
            notes.push(format!("what tracking costs is unknown: {why}"));
        }
        if let Some(why) = &self.no_events {
            notes.push(format!("writes are not seen one by one: {why}"));
        }
        if self.lost > 0 {
            notes.push(format!("{} writes were not shown: the ring buffer was full", self.lost));
        }
        notes
    }

    /// What could not be seen, and why.
    pub fn notes(&self) -> &[String] {
        &self.notes
    }

    /// The device that is shown at length.
    pub fn current(&self) -> Option<&Device> {
        self.devices.get(self.selected)
    }

    fn current_mut(&mut self) -> Option<&mut Device> {
        self.devices.get_mut(self.selected)
    }

    /// One of them is suspect.
    pub fn is_suspect(&self) -> bool {
        self.devices.iter().any(|device| device.now.health == Health::Suspect)
    }

    /// Shows another one at length.
    pub fn step(&mut self, forward: bool) {
        let count = self.devices.len().max(1);
        self.selected = (self.selected + if forward { 1 } else { count - 1 }) % count;
    }

    /// Looks half or twice as often.
    pub fn pace(&mut self, faster: bool) {
        let next = if faster { self.interval / 2 } else { self.interval * 2 };
        self.interval = next.clamp(INTERVALS[0], INTERVALS[1]);
    }

    /// Shows a quarter of what was shown, or four times as much.
    pub fn zoom(&mut self, closer: bool) {
        if let Some(device) = self.current_mut() {
            let middle = device.window.offset + device.window.length / 2;
            let length =
                if closer { device.window.length / 4 } else { device.window.length.saturating_mul(4) };
            device.show(middle, length);
        }
    }

    /// Shows what lies half a window further on, or back.
    pub fn shift(&mut self, forward: bool) {
        if let Some(device) = self.current_mut() {
            let Extent { offset, length } = device.window;
            let middle = if forward { offset + length } else { offset };
            device.show(middle, length);
        }
    }

    /// Shows all of it.
    pub fn whole(&mut self) {
        if let Some(device) = self.current_mut() {
            device.window = Extent::new(0, device.now.size);
        }
    }

    /// Moves the window to where most changes.
    pub fn most(&mut self) {
        if let Some(device) = self.current_mut()
            && let Some((place, _)) = device.hottest()
        {
            device.show(place.offset + place.length / 2, device.window.length);
        }
    }
}

impl Device {
    /// The same device at the next look.
    fn followed_by(mut self, now: Glimpse, elapsed: Duration, (number, at_ms): (u64, u64)) -> Self {
        let seconds = elapsed.as_secs_f64().max(1e-3);
        let gained = now.list.subtract(&self.now.list);
        let (writes, bytes, of_disk) = match &now.seen {
            Some(seen) => (seen.count, seen.bytes, false),
            None => {
                let grown = |now: u64, before: u64| now.saturating_sub(before);
                (grown(now.writes, self.now.writes), grown(now.bytes, self.now.bytes), now.part)
            }
        };
        let a_second = |n: u64| n as f64 / seconds;
        self.rate = Some(Rate {
            writes: a_second(writes),
            bytes: a_second(bytes),
            gained: a_second(gained.total()),
            of_disk,
        });
        let pieces = match &now.seen {
            Some(seen) => {
                let grain = grain(now.size);
                let place = |n: u64| Extent::between(n * grain, ((n + 1) * grain).min(now.size));
                seen.grains.iter().map(|(n, bytes)| (place(*n), *bytes)).collect()
            }
            None => gained.iter().map(|e| (*e, e.length)).collect(),
        };
        self.rows.push_back(Row { number, at_ms, pieces });
        while self.rows.len() > ROWS {
            self.rows.pop_front();
        }
        if now.size != self.now.size {
            self.window = Extent::new(0, now.size);
        }
        self.now = now;
        self
    }

    /// Puts a window of this length around a place, inside the device.
    fn show(&mut self, middle: u64, length: u64) {
        let size = self.now.size;
        let length = length.max(NARROWEST * self.now.area.max(1)).min(size);
        let offset = middle.saturating_sub(length / 2).min(size - length);
        self.window = Extent::new(offset, length);
    }

    /// Where most changed in the looks that are remembered; what is on the list, if nothing did.
    pub fn hottest(&self) -> Option<(Extent, u64)> {
        const PARTS: u64 = 1024;
        let whole = Extent::new(0, self.now.size);
        let recent = self.rows.iter().flat_map(|row| row.pieces.iter().copied());
        let found = heat::hottest(&heat::parts(recent, whole, PARTS), whole);
        let list = self.now.list.iter().map(|e| (*e, e.length));
        found.or_else(|| heat::hottest(&heat::parts(list, whole, PARTS), whole))
    }
}

/// What the programs took between two looks.
fn cost(before: &[Runs], now: &Snapshot, elapsed: Duration) -> Cost {
    if let Some(why) = &now.uncounted {
        return Cost::Unknown(why.clone());
    }
    if before.is_empty() || elapsed.is_zero() {
        return Cost::NotYet;
    }
    let grown = |program: &Runs| {
        let earlier = before.iter().find(|p| p.name == program.name).cloned().unwrap_or_default();
        let since = |now: u64, before: u64| now.saturating_sub(before) as f64;
        (since(program.count, earlier.count), since(program.nanoseconds, earlier.nanoseconds))
    };
    let (mut runs, mut spent, mut dearest) = (0.0, 0.0, (String::new(), 0.0));
    for program in &now.programs {
        let (count, nanoseconds) = grown(program);
        runs += count;
        spent += nanoseconds;
        if count > 0.0 && nanoseconds / count > dearest.1 {
            dearest = (program.name.clone(), nanoseconds / count);
        }
    }
    if runs == 0.0 {
        return Cost::Idle;
    }
    let seconds = elapsed.as_secs_f64();
    Cost::Known { each: spent / runs, dearest, runs: runs / seconds, share: spent / 1e9 / seconds }
}
