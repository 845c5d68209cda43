//! What every file held, and from when to when that was durable and untouched: what a point must give back.
//!
//! What must stay true: a row begins after its content was synced, and ends before its file is touched again; so a point
//! that was cut between the two holds exactly that. Names are never used twice.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hasher};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

/// Unix milliseconds.
pub fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_millis() as u64)
}

/// What is kept of content.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mark {
    length: u64,
    hash: u64,
}

impl Mark {
    /// Of these bytes.
    pub fn of(bytes: &[u8]) -> Self {
        let mut hasher = DefaultHasher::new();
        hasher.write(bytes);
        Self { length: bytes.len() as u64, hash: hasher.finish() }
    }
}

struct Row {
    path: PathBuf,
    mark: Mark,
    from: u64,
    to: u64,
}

#[derive(Default)]
struct Rows {
    all: Vec<Row>,
    /// The row of each file that is untouched now.
    open: HashMap<PathBuf, usize>,
    /// Since when a name is gone for good.
    gone: HashMap<PathBuf, u64>,
}

/// The ledger of one disk. Paths are below its mount point.
#[derive(Default)]
pub struct Ledger(Mutex<Rows>);

/// What a point of a stretch of time must be.
pub struct Wanted {
    /// Files with this content.
    pub there: Vec<(PathBuf, Mark)>,
    /// No such files.
    pub gone: Vec<PathBuf>,
}

impl Ledger {
    fn rows(&self) -> std::sync::MutexGuard<'_, Rows> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The content of a file is durable.
    pub fn settled(&self, path: &Path, bytes: &[u8]) {
        self.settled_at(path, Mark::of(bytes), now());
    }

    fn settled_at(&self, path: &Path, mark: Mark, from: u64) {
        let mut rows = self.rows();
        let row = rows.all.len();
        rows.all.push(Row { path: path.into(), mark, from, to: u64::MAX });
        rows.open.insert(path.into(), row);
    }

    /// The file is going to be touched.
    pub fn touched(&self, path: &Path) {
        self.touched_at(path, now());
    }

    fn touched_at(&self, path: &Path, at: u64) {
        let mut rows = self.rows();
        if let Some(row) = rows.open.remove(path) {
            rows.all[row].to = at;
        }
    }

    /// That there is no file of this name any more is durable.
    pub fn gone(&self, path: &Path) {
        self.rows().gone.insert(path.into(), now());
    }

    /// What must be found below `folder` in a point that was begun and cut at these times.
    pub fn wanted(&self, folder: &Path, (begun, cut): (u64, u64)) -> Wanted {
        let rows = self.rows();
        let there = rows.all.iter().filter(|row| row.from < begun && row.to > cut);
        let there = there.filter(|row| row.path.starts_with(folder));
        let gone = rows.gone.iter().filter(|(path, at)| **at < begun && path.starts_with(folder));
        Wanted {
            there: there.map(|row| (row.path.clone(), row.mark)).collect(),
            gone: gone.map(|(path, _)| path.clone()).collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_was_untouched_from_before_to_after_is_wanted() {
        let ledger = Ledger::default();
        let (a, b) = (Path::new("g/a"), Path::new("h/b"));
        ledger.settled_at(a, Mark::of(b"one"), 10);
        ledger.settled_at(b, Mark::of(b"other"), 12);
        ledger.touched_at(a, 20);
        ledger.settled_at(a, Mark::of(b"two"), 25);
        let wanted = |folder: &str, times| ledger.wanted(Path::new(folder), times).there;
        assert_eq!(wanted("g", (11, 19)), [(a.to_owned(), Mark::of(b"one"))]);
        for times in [(10, 19), (11, 20), (21, 24), (24, 25)] {
            assert!(wanted("g", times).is_empty(), "{times:?}");
        }
        assert_eq!(wanted("", (26, 99)).len(), 2);
        ledger.touched_at(a, 30);
        ledger.gone(a);
        let later = now() + 10;
        let found = ledger.wanted(Path::new(""), (later, later));
        assert_eq!((found.there.len(), found.gone), (1, vec![a.to_owned()]));
        assert!(ledger.wanted(Path::new("h"), (later, later)).gone.is_empty());
    }
}
