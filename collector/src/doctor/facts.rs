//! What was seen, as plain values; nothing is judged here.

use crate::error::{Error, Kind};
use std::collections::BTreeMap;
use std::path::PathBuf;

/// Why something could not be done.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Trouble {
    /// The error and its causes.
    pub what: String,
    /// What to do.
    pub advice: Option<String>,
    /// We were not let.
    pub denied: bool,
    /// There is nothing.
    pub absent: bool,
}

impl From<&Error> for Trouble {
    fn from(error: &Error) -> Self {
        let (what, advice) = (error.in_full(), error.advice().map(ToOwned::to_owned));
        Self { what, advice, denied: error.kind() == Kind::Denied, absent: error.kind() == Kind::NotFound }
    }
}

impl Trouble {
    /// Its advice, or this.
    pub fn advice_or(&self, other: &str) -> String {
        self.advice.clone().unwrap_or_else(|| other.to_owned())
    }
}

/// Everything.
#[derive(Clone, Debug, Default)]
pub struct Facts {
    /// Capabilities that this process lacks, of all that blkdelta ever needs.
    pub lacking: Vec<String>,
    /// The kernel's release.
    pub release: String,
    /// Copies of each program that it needs; why it does not do.
    pub kernel: Option<Result<u32, Trouble>>,
    /// Where the BPF file system should be, and whether it is.
    pub bpf: (PathBuf, bool),
    /// Kernel lockdown, as the kernel says it.
    pub lockdown: String,
    /// `net.core.bpf_jit_enable`, if it can be read.
    pub jit: Option<u64>,
    /// `kernel.bpf_stats_enabled`.
    pub statistics: Option<u64>,
    /// Bytes that are free.
    pub memory: Option<u64>,
    /// Layouts of older or newer versions of which something is pinned.
    pub layouts: Vec<u32>,
    /// Where our files are.
    pub folders: Vec<Folder>,
    /// The clock, and the newest moment that is written anywhere (Unix milliseconds).
    pub clock: (u64, u64),
    /// Whole disks with a medium.
    pub disks: Vec<Disk>,
    /// What is tracked.
    pub tracked: Option<Result<Vec<Tracked>, Trouble>>,
    /// Events of a disk are on, and nobody reads them.
    pub unread_events: bool,
    /// The configuration.
    pub config: Configured,
    /// States of our units by name; `None`: no systemd.
    pub units: Option<BTreeMap<String, String>>,
    /// Enabled timers of backups.
    pub timers: usize,
}

/// A folder of ours.
#[derive(Clone, Debug, Default)]
pub struct Folder {
    /// Its path.
    pub path: PathBuf,
    /// Where its file system is mounted.
    pub mountpoint: PathBuf,
    /// Nothing can be written there.
    pub read_only: bool,
    /// Bytes that are free.
    pub free: u64,
    /// It must outlive a reboot, and be there before anything else is mounted.
    pub lasting: bool,
}

/// A disk that is not tracked as a whole.
#[derive(Clone, Debug, Default)]
pub struct Disk {
    /// Its path.
    pub path: String,
    /// It, or a part of it, is tracked.
    pub tracked: bool,
    /// Why it cannot be.
    pub refused: Option<Trouble>,
}

/// A tracked device.
#[derive(Clone, Debug, Default)]
pub struct Tracked {
    /// Its path.
    pub path: String,
    /// Why it is suspect.
    pub suspect: Vec<String>,
    /// Epochs that wait for their point.
    pub sealed: usize,
    /// Milliseconds since the last cut.
    pub since_cut: Option<u64>,
    /// A process is at work on it.
    pub held: bool,
    /// It was backed up since it is tracked.
    pub has_base: bool,
    /// Bytes of one of its bitmaps, and of all.
    pub memory: (u64, u64),
    /// Who may change it without passing the block layer, in words.
    pub beside: Vec<String>,
    /// Mounted file systems that cannot be held still: where, and of which type.
    pub unfreezable: Vec<(PathBuf, String)>,
    /// Why nothing is frozen for its backups.
    pub never_frozen: Vec<String>,
}

/// The configuration.
#[derive(Clone, Debug, Default)]
pub enum Configured {
    /// There is no file.
    #[default]
    Not,
    /// It cannot be read.
    Unread(Trouble),
    /// Its mistakes.
    Wrong(PathBuf, Vec<String>),
    /// What it says, and how it stands with that.
    Right(PathBuf, Plan),
}

/// What is to be done.
#[derive(Clone, Debug, Default)]
pub struct Plan {
    /// The jobs.
    pub jobs: Vec<Job>,
    /// Repositories: name, location, how opening it went, and whether a job has succeeded to it before.
    pub repositories: Vec<(String, String, Result<(), Trouble>, bool)>,
    /// A daemon answers; why not.
    pub daemon: Option<Result<(), Trouble>>,
}

/// One job.
#[derive(Clone, Debug, Default)]
pub struct Job {
    /// Its name.
    pub name: String,
    /// It has a schedule.
    pub scheduled: bool,
    /// Of a device: its path and whether that is tracked; why it cannot be.
    pub device: Option<Result<(String, bool), Trouble>>,
    /// Unix milliseconds: it is due since then.
    pub due_since: Option<u64>,
    /// Unix milliseconds: start of its last success.
    pub last_success: Option<u64>,
    /// Failures in a row, and the last one's reason.
    pub failures: (u32, Option<String>),
    /// It does not start by itself.
    pub paused: bool,
    /// A daemon knows it.
    pub known: bool,
}
