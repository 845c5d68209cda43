//! What was found after power cuts and clean stops.

use anyhow::{Context, Result};
use serde_json::Value;
use std::time::Instant;

/// How a machine's time ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// Power cut while writers and backups ran.
    Writing,
    /// Power cut in the midst of a clean stop.
    Saving,
    /// Several power cuts: while writers ran, then while it came back from that.
    Returning,
    /// Stopped cleanly, `save` done.
    Clean,
}

const ENDINGS: [Ending; 4] = [Ending::Writing, Ending::Saving, Ending::Returning, Ending::Clean];

impl Ending {
    /// By a number below 100.
    pub const fn choose(percent: u64) -> Self {
        match percent {
            0..18 => Self::Clean,
            18..30 => Self::Saving,
            30..70 => Self::Returning,
            _ => Self::Writing,
        }
    }

    /// For people.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Writing => "cut while writing",
            Self::Saving => "cut while stopping",
            Self::Returning => "cut while coming back",
            Self::Clean => "clean stop",
        }
    }
}

/// What the guest says of a disk after a start.
pub struct Found {
    fate: Fate,
    read: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    /// Resumed with proof: an incremental of what changed.
    Proved,
    /// Suspect: everything in use compared.
    Compared,
    Full,
    /// Tracked all the time, nothing to prove.
    Other,
}

impl Found {
    /// From its line of JSON.
    pub fn of(disk: &Value) -> Result<Self> {
        let suspect = disk["suspect"].as_array().is_some_and(|reasons| !reasons.is_empty());
        let fate = match (disk["kind"].as_str(), suspect, disk["outcome"] == "proved") {
            (Some("incremental"), false, true) => Fate::Proved,
            (Some("incremental"), true, _) => Fate::Compared,
            (Some("full"), ..) => Fate::Full,
            _ => Fate::Other,
        };
        let read = disk["read"].as_u64().with_context(|| format!("no bytes read in {disk}"))?;
        Ok(Self { fate, read })
    }
}

/// Sums over the starts after one kind of ending.
#[derive(Default)]
struct Starts {
    endings: usize,
    starts: usize,
    fates: [usize; 4],
    missed: u64,
    read: Vec<u64>,
}

/// Of a whole run.
pub struct Tally {
    kernel: String,
    seed: u64,
    size: u64,
    began: Instant,
    booted: usize,
    kinds: [Starts; 4],
}

impl Tally {
    /// Of a run with this seed, on disks of so many bytes.
    pub fn new(kernel: &str, seed: u64, size: u64) -> Self {
        Self {
            kernel: kernel.into(),
            seed,
            size,
            began: Instant::now(),
            booted: 0,
            kinds: Default::default(),
        }
    }

    /// A machine's time ended so.
    pub const fn ended(&mut self, ending: Ending) {
        self.kinds[ending as usize].endings += 1;
    }

    /// A start was a whole boot.
    pub const fn booted(&mut self) {
        self.booted += 1;
    }

    /// Power cuts so far.
    pub fn cuts(&self) -> usize {
        self.kinds.iter().map(|kind| kind.endings).sum::<usize>() - self.kinds[Ending::Clean as usize].endings
    }

    /// What was found after a start; nothing was there before the first one.
    pub fn verified(&mut self, after: Option<Ending>, disks: &[Found], missed: u64) {
        let Some(after) = after else { return };
        let kind = &mut self.kinds[after as usize];
        kind.starts += 1;
        kind.missed += missed;
        kind.read.push(disks.iter().map(|disk| disk.read).sum());
        disks.iter().for_each(|disk| kind.fates[disk.fate as usize] += 1);
    }

    /// For people.
    pub fn print(&self) {
        let mib = |bytes: u64| bytes as f64 / f64::from(1 << 20);
        println!(
            "kernel {}, seed {}: {} power cuts in {:.0} s, {} of the starts were whole boots; two disks, {} MiB together",
            self.kernel,
            self.seed,
            self.cuts(),
            self.began.elapsed().as_secs_f64(),
            self.booted,
            self.size >> 20
        );
        for ending in ENDINGS {
            let kind = &self.kinds[ending as usize];
            let (total, most) = (kind.read.iter().sum::<u64>(), kind.read.iter().max().copied().unwrap_or(0));
            let [proved, compared, full, other] = kind.fates;
            println!(
                "{:21} {:4}, starts verified {:4}, bytes missed {}; disks proved {proved}, compared {compared}, full \
                 {full}, other {other}; re-read by the next backups {:.1} MiB mean, {:.1} most",
                ending.word(),
                kind.endings,
                kind.starts,
                kind.missed,
                mib(total / kind.read.len().max(1) as u64),
                mib(most)
            );
        }
    }
}
