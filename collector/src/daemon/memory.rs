//! The daemon's memory over a restart: one file, replaced as a whole.
//!
//! ```text
//!   /var/lib/blkdelta/daemon/state.json     version, jobs (scheduler), the last runs of each job, pictures of changes
//! ```
//!
//! What must stay true: it is written before a run begins and after it ended; one that cannot be read is set aside, and
//! then every job is due at once: a moment is never forgotten because the file was; one that cannot be written (no
//! space) stops nothing.

use super::report::Report;
use super::scheduler::Memory;
use crate::error::{Context, Error, Kind, Result};
use crate::sys::publish;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, VecDeque};
use std::path::{Path, PathBuf};

/// Version of the file.
const VERSION: u32 = 1;

/// Runs of each job that are kept to be looked at.
const RUNS: usize = 64;

/// Everything that is kept.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct State {
    version: u32,
    /// The scheduler's.
    pub jobs: BTreeMap<String, Memory>,
    /// The last runs of each job, oldest first.
    #[serde(default)]
    pub runs: BTreeMap<String, VecDeque<Report>>,
}

/// How a memory was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Found {
    /// As it was left.
    Whole,
    /// There was none.
    New,
    /// It could not be read, and was set aside under this name.
    Lost(PathBuf),
}

impl State {
    /// Remembers a run.
    pub fn add(&mut self, report: Report) {
        let runs = self.runs.entry(report.job.clone()).or_default();
        runs.push_back(report);
        while runs.len() > RUNS {
            runs.pop_front();
        }
    }

    /// The file's, for who only looks: nothing is set aside; `None`: there is none, or it cannot be understood.
    pub fn peek(path: &Path) -> Option<Self> {
        let state: Self = serde_json::from_slice(&std::fs::read(path).ok()?).ok()?;
        (state.version <= VERSION).then_some(state)
    }

    /// The file's.
    ///
    /// # Errors
    /// If it is there and neither can be read nor set aside, or is of a newer version.
    pub fn read(path: &Path) -> Result<(Self, Found)> {
        let what = || format!("read the daemon's memory {}", path.display());
        let bytes = match std::fs::read(path) {
            Ok(bytes) => bytes,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok((Self::default(), Found::New)),
            Err(e) => return Err(Error::os(what(), e)),
        };
        match serde_json::from_slice::<Self>(&bytes) {
            Ok(state) if state.version > VERSION => Err(Error::new(Kind::Incompatible, what())
                .hint("a newer blkdelta wrote it: use that one, or move the file away")),
            Ok(state) => Ok((state, Found::Whole)),
            Err(_) => {
                let aside = path.with_extension("damaged");
                rename(path, &aside).os_context(what)?;
                Ok((Self::default(), Found::Lost(aside)))
            }
        }
    }

    /// Replaces the file.
    ///
    /// # Errors
    /// If it cannot be; the one before is then still there.
    pub fn write(&mut self, path: &Path) -> Result<()> {
        self.version = VERSION;
        let bytes = serde_json::to_vec(self)
            .map_err(|e| Error::caused(Kind::Bug, "encode the daemon's memory", e))?;
        publish(path, &bytes)
    }
}

#[expect(clippy::disallowed_methods, reason = "what is set aside is damaged: nothing depends on it")]
fn rename(from: &Path, to: &Path) -> std::io::Result<()> {
    std::fs::rename(from, to)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_and_what_is_damaged_is_set_aside() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state.json");
        assert_eq!(State::read(&path).unwrap().1, Found::New);
        let mut state = State::default();
        state.jobs.insert("j".into(), Memory { covered: 7, ..Memory::default() });
        (0..RUNS as u64 + 5)
            .for_each(|n| state.add(Report { job: "j".into(), began: n, ..Report::default() }));
        state.write(&path).unwrap();
        let (read, found) = State::read(&path).unwrap();
        assert_eq!((found, read.jobs["j"].covered, read.runs["j"].len()), (Found::Whole, 7, RUNS));
        assert_eq!(read.runs["j"].back().unwrap().began, RUNS as u64 + 4);
        assert_eq!(State::peek(&path).unwrap().jobs["j"].covered, 7);
        let bytes = std::fs::read(&path).unwrap();
        for garbage in [&b""[..], b"{", &bytes[..bytes.len() / 2]] {
            publish(&path, garbage).unwrap();
            assert!(State::peek(&path).is_none() && path.exists(), "a look sets nothing aside");
            assert!(matches!(State::read(&path).unwrap().1, Found::Lost(aside) if aside.exists()));
        }
        publish(&path, br#"{"version":99,"jobs":{}}"#).unwrap();
        assert_eq!(State::read(&path).unwrap_err().kind(), Kind::Incompatible);
        assert!(State::peek(&path).is_none());
        assert!(path.exists(), "what a newer version wrote stays");
    }
}
