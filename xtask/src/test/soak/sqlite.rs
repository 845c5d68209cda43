//! SQLite in WAL mode: a writer, and what a restored copy must be.

use super::counter::{Acknowledged, Client, two};
use super::worker::Worker;
use crate::command::text;
use anyhow::{Context, Result, ensure};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

/// Its folder on the disk.
pub const FOLDER: &str = "sqlite";

const TABLES: &str = "PRAGMA journal_mode=WAL; \
    CREATE TABLE counter(n INTEGER PRIMARY KEY, what BLOB); CREATE INDEX by_what ON counter(what); \
    CREATE TABLE sums(slot INTEGER PRIMARY KEY, sum INTEGER);";

/// The database that is written.
pub struct Sqlite {
    /// What was committed.
    pub acknowledged: Arc<Acknowledged>,
    worker: Worker,
}

fn file(folder: &Path) -> PathBuf {
    folder.join("soak.db")
}

/// A number, and its share of a sum in the same transaction.
fn statement(n: u64) -> String {
    let slot = n % 97;
    format!(
        "BEGIN; INSERT INTO counter VALUES({n}, randomblob(120)); \
         INSERT INTO sums VALUES({slot}, {n}) ON CONFLICT(slot) DO UPDATE SET sum = sum + {n}; \
         COMMIT; SELECT max(n) FROM counter;"
    )
}

impl Sqlite {
    /// Makes it in `folder` and begins to write.
    pub fn start(folder: &Path) -> Result<Self> {
        std::fs::create_dir(folder).with_context(|| format!("make {}", folder.display()))?;
        let file = file(folder);
        text(Command::new("sqlite3").arg("-batch").arg(&file).arg(TABLES))?;
        let acknowledged = Arc::<Acknowledged>::default();
        let mut program = Command::new("sqlite3");
        // every commit durable, and checkpoints often: both ways of writing are met by every point
        let pragmas = "PRAGMA synchronous=FULL; PRAGMA wal_autocheckpoint=200;";
        for first in [".output /dev/null", pragmas, ".output stdout"] {
            program.args(["-cmd", first]);
        }
        program.arg("-batch").arg(&file);
        let client = Client::start(&program, statement, Arc::clone(&acknowledged))?;
        Ok(Self { acknowledged, worker: Worker::start("sqlite", client)? })
    }

    /// It still writes.
    pub fn ensure_alive(&mut self) -> Result<()> {
        self.worker.ensure_alive()
    }

    /// Stops; what was committed.
    pub fn stop(self) -> Result<Arc<Acknowledged>> {
        self.worker.stop()?;
        Ok(self.acknowledged)
    }
}

/// An error unless the copy in `folder` is whole and holds all that was committed before the point began.
pub fn prove(folder: &Path, acknowledged: &Acknowledged, begun: u64) -> Result<()> {
    let ask = "PRAGMA integrity_check; SELECT count(*), ifnull(max(n), 0) FROM counter; \
               SELECT ifnull(sum(n), 0), (SELECT ifnull(sum(sum), 0) FROM sums) FROM counter;";
    let said = text(Command::new("sqlite3").arg("-batch").arg(file(folder)).arg(ask))?;
    let lines: Vec<&str> = said.lines().collect();
    let [check, counted, sums] = lines[..] else { anyhow::bail!("sqlite3 said {said:?}") };
    ensure!(check == "ok", "PRAGMA integrity_check: {check}");
    let (one, other) = two(sums)?;
    ensure!(one == other, "half a transaction: the numbers add up to {one}, their sums to {other}");
    acknowledged.ensure_all(two(counted)?, begun)
}
