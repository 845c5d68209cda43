//! Looking: the list and the counters of every tracked device, its epochs, who holds it, what the daemon remembers, and
//! its writes one by one from the ring buffer.
//!
//! The ring buffer has one reader. Where another process is it (`watch`, another `top`), places come from what the list
//! gained instead, and that is said. The kernel's statistics are switched on for as long as we live, where we may.

use super::Wishes;
use super::snapshot::{Backup, Cuts, Glimpse, Runs, Snapshot, Writes, grain};
use crate::block::SECTOR;
use crate::daemon::{Report, remembered};
use crate::diff::{self, Health};
use crate::error::{Error, Result};
use crate::format::PointId;
use crate::sys::privilege::{Capability, lacking};
use crate::tracker::{DeviceState, Places, Seen, Watcher, find_tracked, holder, now_ms};
use aya::sys::{Stats, enable_stats};
use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::time::UNIX_EPOCH;

/// Backups of a device that are shown, at most.
const BACKUPS: usize = 8;

/// What is needed to look again and again.
pub struct Eyes {
    places: Places,
    wishes: Wishes,
    /// While it is open, the kernel counts runs.
    _statistics: Option<OwnedFd>,
    uncounted: Option<String>,
    ring: Ring,
}

/// The reader of the ring buffer: of these sessions, or why there is none.
struct Ring {
    sessions: Vec<String>,
    watcher: Result<Watcher<Gathered>, String>,
}

/// What the watcher's thread gathers between two looks.
#[derive(Default)]
struct Gathered {
    devices: BTreeMap<usize, Writes>,
    lost: u64,
}

impl Eyes {
    /// Opens them.
    ///
    /// # Errors
    /// If a device that was named is not tracked.
    pub fn open(places: &Places, wishes: &Wishes) -> Result<Self> {
        for device in &wishes.devices {
            find_tracked(places, device)?;
        }
        let (statistics, uncounted) = statistics(wishes.light);
        let ring = Ring { sessions: Vec::new(), watcher: Err(NOT_ASKED.into()) };
        Ok(Self { places: places.clone(), wishes: wishes.clone(), _statistics: statistics, uncounted, ring })
    }

    /// Looks.
    ///
    /// # Errors
    /// If the states cannot be read.
    pub fn look(&mut self) -> Result<Snapshot> {
        let states = self.states()?;
        let mut gathered = self.follow(&states);
        let remembered = remembered(&self.places);
        let reports: Vec<&Report> = remembered.runs.values().flatten().collect();
        let mut snapshot =
            Snapshot { now_ms: now_ms(), uncounted: self.uncounted.clone(), ..Snapshot::default() };
        for (n, state) in states.iter().enumerate() {
            let mut glimpse = self.glimpse(state, &mut snapshot.programs);
            glimpse.backups = backups(state, &reports);
            if let Ok(gathered) = &mut gathered {
                glimpse.seen = Some(gathered.devices.remove(&n).unwrap_or_default());
            }
            snapshot.devices.push(glimpse);
        }
        match gathered {
            Ok(gathered) => snapshot.lost = gathered.lost,
            Err(why) if !states.is_empty() => snapshot.no_events = Some(why),
            Err(_) => {}
        }
        Ok(snapshot)
    }

    fn states(&self) -> Result<Vec<DeviceState>> {
        let mut states = DeviceState::all(&self.places)?;
        if !self.wishes.devices.is_empty() {
            states.retain(|state| self.wishes.devices.contains(&state.path));
        }
        Ok(states)
    }

    /// What the ring buffer gave for these devices; begins anew when they are others than before.
    fn follow(&mut self, states: &[DeviceState]) -> Result<Gathered, String> {
        let sessions: Vec<String> = states.iter().map(|s| s.session.clone()).collect();
        let same = self.ring.sessions == sessions;
        if same && let Ok(watcher) = &self.ring.watcher {
            return Ok(watcher.take());
        }
        if self.wishes.light || states.is_empty() {
            return Err(NOT_ASKED.into());
        }
        // the one before gives the ring buffer back first
        self.ring.watcher = Err(NOT_ASKED.into());
        let grains: Vec<u64> = states.iter().map(|s| grain(s.identity.size)).collect();
        let note = move |gathered: &mut Gathered, seen: Seen| gathered.note(seen, &grains);
        self.ring.watcher = Watcher::start(&self.places, states, note).map_err(|e: Error| e.in_full());
        self.ring.sessions = sessions;
        // nothing was seen yet
        match &self.ring.watcher {
            Ok(_) => Ok(Gathered::default()),
            Err(why) => Err(why.clone()),
        }
    }

    /// One device; one that cannot be read any more is suspect and says why.
    fn glimpse(&self, state: &DeviceState, programs: &mut Vec<Runs>) -> Glimpse {
        let known = Glimpse {
            path: state.path.display().to_string(),
            session: state.session.clone(),
            size: state.identity.size,
            area: state.granularity.bytes(),
            since_ms: state.difference_since_ms,
            part: state.identity.dev != state.identity.disk,
            cuts: self.cuts(state),
            health: Health::Suspect,
            ..Glimpse::default()
        };
        let look = match diff::look(&self.places, &state.path) {
            Ok(look) => look,
            Err(error) => return Glimpse { suspect: vec![error.in_full()], ..known },
        };
        let most = |sum: fn(&crate::tracker::CounterSums) -> u64| {
            look.reading.counters.iter().map(sum).max().unwrap_or(0)
        };
        *programs = look.reading.programs.iter().map(Runs::of).collect();
        Glimpse {
            size: look.state.identity.size,
            since_ms: look.difference.since_ms,
            health: look.health(),
            writes: most(|c| c.submitted),
            bytes: most(|c| c.submitted_sectors) * SECTOR,
            list: look.difference.extents,
            suspect: look.difference.suspect,
            ..known
        }
    }

    fn cuts(&self, state: &DeviceState) -> Cuts {
        let key = state.key();
        let pin = self.places.epoch(&key, state.epoch);
        let began = std::fs::metadata(pin).and_then(|m| m.modified()).ok();
        let began = began.and_then(|at| at.duration_since(UNIX_EPOCH).ok()).map(|d| d.as_millis() as u64);
        Cuts {
            epoch: state.epoch,
            began_ms: began,
            sealed: state.sealed.iter().map(|s| (s.epoch, s.suspect.len())).collect(),
            ahead: self.places.epochs(&key).is_ok_and(|all| all.last() > Some(&state.epoch)),
            holder: holder(&self.places.device_lock(&key)),
        }
    }
}

const NOT_ASKED: &str = "not asked for";

impl Gathered {
    fn note(&mut self, seen: Seen, grains: &[u64]) {
        match seen {
            Seen::Lost(events) => self.lost += events,
            Seen::Write { device, range } => {
                let writes = self.devices.entry(device).or_default();
                writes.count += 1;
                writes.bytes += range.length;
                let grain = grains.get(device).copied().unwrap_or(4096);
                let mut at = range.offset;
                while at < range.end() {
                    let next = ((at / grain + 1) * grain).min(range.end());
                    *writes.grains.entry(at / grain).or_default() += next - at;
                    at = next;
                }
            }
        }
    }
}

impl Runs {
    fn of(program: &crate::tracker::ProgramHealth) -> Self {
        Self {
            name: program.program.clone(),
            count: program.runs,
            nanoseconds: program.nanoseconds,
            skipped: program.skipped,
        }
    }
}

/// Switches the kernel's statistics on for as long as the descriptor lives (`bpf_enable_stats`, kernel/bpf/syscall.c);
/// why they are not counted, if so.
fn statistics(light: bool) -> (Option<OwnedFd>, Option<String>) {
    let on = std::fs::read_to_string("/proc/sys/kernel/bpf_stats_enabled").is_ok_and(|t| t.trim() == "1");
    if on {
        return (None, None);
    }
    if light {
        return (None, Some("kernel.bpf_stats_enabled is 0".into()));
    }
    match enable_stats(Stats::RunTime) {
        Ok(held) => (Some(held), None),
        Err(_) if !lacking(&[Capability::SysAdmin]).is_empty() => (
            None,
            Some("kernel.bpf_stats_enabled is 0, and CAP_SYS_ADMIN is missing to count meanwhile".into()),
        ),
        Err(error) => (None, Some(format!("kernel.bpf_stats_enabled is 0: {}", error.io_error))),
    }
}

/// The last backups of a device: what the daemon remembers, or the point that the difference is relative to.
fn backups(state: &DeviceState, reports: &[&Report]) -> Vec<Backup> {
    let path = state.path.display().to_string();
    let mut all: Vec<Backup> = reports.iter().filter(|r| r.device == path).map(|r| backup(r)).collect();
    all.sort_by_key(|b| std::cmp::Reverse(b.at_ms));
    all.truncate(BACKUPS);
    let base = state.base.as_ref().map(|base| &base.point);
    // one that was made without the daemon
    if let Some(point) = base
        && !reports.iter().any(|r| r.point.as_ref() == Some(point))
    {
        let at_ms = point.parse::<PointId>().map_or(0, PointId::unix_millis);
        let what = format!("point {point}");
        let found = all.partition_point(|b| b.at_ms > at_ms);
        all.insert(found, Backup { at_ms, what, ..Backup::default() });
    }
    all
}

fn backup(report: &Report) -> Backup {
    Backup {
        at_ms: report.began,
        took_ms: Some(report.ended.saturating_sub(report.began)),
        result: report.result.clone(),
        kind: report.kind.clone(),
        stored: report.point.is_some().then_some(report.stored_bytes),
        what: format!("job {}", report.job),
        why: report.error.clone().or_else(|| report.suspect.first().cloned()),
    }
}
