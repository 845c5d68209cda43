//! The table at the end.

use super::jobs::JOBS;
use super::keeper::JobState;
use super::points::Point;
use super::prove::Proof;
use super::trouble::Trouble;
use crate::rig::figures::{columns, seconds, thousands};
use std::fmt::{Display, Formatter, Result};
use std::time::Duration;

/// What a job came to.
#[derive(Clone, Copy, Default)]
struct Sum {
    points: u64,
    fulls: u64,
    frozen: u64,
    suspect: u64,
    equal: u64,
    files: u64,
    databases: u64,
}

/// What was proved.
#[derive(Default)]
pub struct Tally {
    sums: [Sum; JOBS.len()],
    /// Points that were proved while everything went on.
    pub meanwhile: u64,
}

impl Tally {
    /// A point of the end.
    pub fn add(&mut self, point: &Point, proof: Proof) {
        let Some(sum) = JOBS.iter().position(|job| job.name == point.job.name) else { return };
        let sum = &mut self.sums[sum];
        sum.points += 1;
        sum.fulls += u64::from(point.full);
        sum.frozen += u64::from(point.is_frozen());
        sum.suspect += u64::from(point.suspect);
        sum.equal += u64::from(proof.equal);
        sum.files += proof.files;
        sum.databases += proof.databases;
    }

    fn total(&self, of: impl Fn(&Sum) -> u64) -> u64 {
        self.sums.iter().map(of).sum()
    }

    /// Jobs of which no point is listed.
    pub fn empty(&self) -> Vec<&'static str> {
        JOBS.iter().zip(&self.sums).filter(|(_, sum)| sum.points == 0).map(|(job, _)| job.name).collect()
    }
}

/// Everything that is told.
pub struct Report<'a> {
    /// Of all choices.
    pub seed: u64,
    /// How long things happened, and the whole run.
    pub times: (Duration, Duration),
    /// What happened.
    pub trouble: &'a Trouble,
    /// What the daemon knew at the end.
    pub jobs: &'a [JobState],
    /// What was proved.
    pub tally: &'a Tally,
    /// What was written meanwhile: changes of files, commits of SQLite and of PostgreSQL.
    pub written: (u64, u64, u64),
}

const HEADINGS: [&str; 11] = [
    "job",
    "store",
    ">runs",
    ">failed",
    ">points",
    ">full",
    ">frozen",
    ">suspect",
    ">equal",
    ">files",
    ">databases",
];

impl Report<'_> {
    fn table(&self) -> String {
        let rows = JOBS.iter().zip(&self.tally.sums).map(|(job, sum)| {
            let known = self.jobs.iter().find(|known| known.name == job.name);
            let (runs, failed) = known.map_or((0, 0), |known| (known.successes, known.failed));
            let numbers = [runs + failed, failed, sum.points, sum.fulls, sum.frozen, sum.suspect, sum.equal];
            let numbers = numbers.into_iter().chain([sum.files, sum.databases]).map(thousands);
            [job.name.to_owned(), job.store.to_owned()].into_iter().chain(numbers).collect::<Vec<_>>()
        });
        columns(&HEADINGS, &rows.collect::<Vec<_>>())
    }
}

impl Display for Report<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        writeln!(f, "\n{}", self.table())?;
        let happened = self.trouble.counts.iter().map(|(what, n)| vec![what.clone(), n.to_string()]);
        writeln!(f, "{}", columns(&["what happened", ">times"], &happened.collect::<Vec<_>>()))?;
        let (changes, sqlite, postgres) = self.written;
        writeln!(
            f,
            "written meanwhile   {} changes of files, {} commits of SQLite, {} of PostgreSQL besides pgbench's",
            thousands(changes),
            thousands(sqlite),
            thousands(postgres)
        )?;
        let t = self.tally;
        writeln!(
            f,
            "proved              {} listed points, all of them: {} byte for byte, {} files, {} databases; {} points before the end",
            t.total(|sum| sum.points),
            t.total(|sum| sum.equal),
            thousands(t.total(|sum| sum.files)),
            t.total(|sum| sum.databases),
            t.meanwhile
        )?;
        let (soaked, all) = self.times;
        write!(f, "seed {}; {} of trouble, {} in all", self.seed, seconds(soaked), seconds(all))
    }
}
