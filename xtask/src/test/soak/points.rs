//! The points that the repositories list.

use super::ground::Ground;
use super::jobs::{JOBS, Job, Of};
use super::stores::Stores;
use crate::rig::product::Product;
use anyhow::{Context, Result, bail};
use serde_json::Value;
use std::time::Duration;

/// A listed point.
pub struct Point {
    /// Its id.
    pub id: String,
    /// The job that made it.
    pub job: &'static Job,
    /// Unix milliseconds: when it was begun, and cut.
    pub begun: u64,
    /// See `begun`; of a point that was not frozen, the end of what may have been read.
    pub cut: u64,
    /// `file-system-frozen`, `crash` or `fuzzy`.
    pub consistency: String,
    /// It is a full one.
    pub full: bool,
    /// Something was in doubt, and compared.
    pub suspect: bool,
}

/// A point that is not frozen may hold what was written while it was read: a run takes no longer than this.
const READING: Duration = Duration::from_secs(60);

impl Point {
    /// Its files and databases stood still, or nothing was written: all of it is of one moment.
    pub fn of_one_moment(&self) -> bool {
        self.consistency != "fuzzy"
    }

    /// It was cut while its file systems stood still.
    pub fn is_frozen(&self) -> bool {
        self.consistency == "file-system-frozen"
    }

    /// The stretch of time in which what it must hold was untouched.
    pub fn times(&self) -> (u64, u64) {
        let reading = if self.is_frozen() { 0 } else { READING.as_millis() as u64 };
        (self.begun, self.cut + reading)
    }
}

/// All points of a repository, oldest first.
pub fn list(product: &Product, ground: &Ground, stores: &Stores, store: &str) -> Result<Vec<Point>> {
    let location = stores.location(store, true);
    let words = [&["list", "--repo", &location][..], &stores.key_words(store)?].concat();
    let (list, _) = product.json(&words)?;
    let list = list.as_array().context("list --json is no list")?;
    list.iter().map(|row| point(row, ground, store).with_context(|| format!("{row}"))).collect()
}

fn point(row: &Value, ground: &Ground, store: &str) -> Result<Point> {
    if let Some(why) = row["damaged"].as_str() {
        bail!("a damaged point is listed: {why}");
    }
    let text = |key: &str| row[key].as_str().with_context(|| format!("list --json has no {key}"));
    let (id, path) = (text("id")?.to_owned(), text("path")?);
    let job = JOBS.iter().filter(|job| job.store == store).find(|job| match job.of {
        Of::Disk => ground.disk(job.name).is_ok_and(|disk| disk.node.to_str() == Some(path)),
        Of::Folders(..) => path == format!("group {}", job.name),
    });
    Ok(Point {
        job: job.context("no job made this point")?,
        begun: begun(&id).context("the id is no time")?,
        id,
        cut: row["time_unix_ms"].as_u64().context("list --json has no time")?,
        consistency: text("consistency")?.to_owned(),
        full: text("kind")? == "full",
        suspect: row["suspect"].as_bool().context("list --json has no suspect")?,
    })
}

/// The moment in an id: the first 48 of its 128 bits, in Crockford's digits.
fn begun(id: &str) -> Option<u64> {
    const DIGITS: &str = "0123456789ABCDEFGHJKMNPQRSTVWXYZ";
    let mut digits = id.get(..10)?.chars().map(|digit| DIGITS.find(digit));
    digits.try_fold(0, |sum, digit| Some(sum * 32 + digit? as u64))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_moment_is_read_from_an_id() {
        // 2024-11-21 16:11:26.079 UTC, one, and the last moment there is
        assert_eq!(begun("01JD7QW7ZZ0000000000000000"), Some(1_732_205_486_079));
        assert_eq!(begun("0000000001ZZZZZZZZZZZZZZZZ"), Some(1));
        assert_eq!(begun("7ZZZZZZZZZ0000000000000000"), Some((1 << 48) - 1));
        assert_eq!(begun("0I"), None);
    }
}
