//! `cargo xtask test --soak TIME`: the daemon in the worst of company, and afterwards every point that is listed, proved.
//!
//! ```text
//!   writers, SQLite, PostgreSQL ─▶ ext4, XFS, btrfs, ext4 ─▶ 4 disks and 8 groups every 10 s ─▶ folder, encrypted, S3
//!                                                                   ▲                              ▲
//!                                    killed, stopped, reloaded ─────┘     cut off, moved, read-only┘
//! ```
//! What must stay true: everything is made here and goes with its guard, also after Ctrl-C and a failure; all choices follow
//! from one seed that is printed; a fault of a writer or a database is a failure of the soak, never a reason to go on.

mod counter;
mod ground;
mod jobs;
mod keeper;
mod ledger;
mod points;
mod postgres;
mod prove;
mod report;
mod sqlite;
mod stores;
mod trouble;
mod wire;
mod worker;
mod writer;

use crate::build::build;
use crate::command::say;
use crate::rig::figures::seconds;
use crate::rig::process::{self, go_on};
use crate::rig::product::{Product, utf8};
use crate::rig::random::Random;
use crate::rig::{need_root, scratch::Scratch};
use crate::setup::{packages, servers};
use crate::workspace::Workspace;
use anyhow::{Context, Result, bail};
use ground::Ground;
use keeper::{JobState, Keeper};
use ledger::Ledger;
use points::Point;
use postgres::{Postgres, Programs};
use prove::{Prover, Truth};
use report::{Report, Tally};
use sqlite::Sqlite;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};
use stores::{FAR, NEAR, SEALED, Stores};
use trouble::Trouble;
use worker::Worker;
use writer::Writer;

/// Room for the disks, what is restored of them and the repositories.
const ROOM: u64 = 10 << 30;
/// After the last trouble a job may fail so often before it succeeds twice: what the trouble broke off counts too.
const TRIES: u64 = 4;
/// So often points are proved while everything goes on.
const LOOKS: u32 = 3;

/// A time as `20m` or `90s`.
pub fn time(text: &str) -> Result<Duration, String> {
    let (number, unit) = text.split_at(text.len().saturating_sub(1));
    let factor = match unit {
        "s" => 1,
        "m" => 60,
        "h" => 3600,
        _ => return Err("a number and s, m or h, as 20m".into()),
    };
    let number: u64 = number.parse().map_err(|_| "a number and s, m or h, as 20m".to_owned())?;
    Ok(Duration::from_secs(number * factor))
}

/// Everything that stands still while the soak goes on. Fields are dropped in this order.
struct Scene {
    stores: Stores,
    ground: Ground,
    product: Product,
    programs: Programs,
    scratch: Scratch,
}

/// Who writes. Fields are dropped in this order.
struct Company {
    writers: Vec<Worker>,
    sqlite: Sqlite,
    postgres: Postgres,
}

/// Runs it.
pub fn soak(ws: &Workspace, time: Duration, seed: Option<u64>) -> Result<()> {
    need_root("the soak")?;
    packages::ensure(packages::TEST);
    packages::ensure(packages::SOAK);
    servers::ensure(ws);
    // as the suites do: one that is there already, an installed one for example
    let program = std::env::var_os("BLKDELTA_BIN").map_or_else(|| build(ws), |program| Ok(program.into()))?;
    process::listen()?;
    let seed = seed.unwrap_or_else(ledger::now);
    say(format!("soak: seed {seed} (repeat with --seed {seed}), {} of trouble", seconds(time)));
    let began = Instant::now();
    let scene = Scene::set(ws, program)?;
    scene.play(time, seed, began)
}

impl Scene {
    fn set(ws: &Workspace, program: PathBuf) -> Result<Self> {
        let programs = Programs::find()?;
        let scratch = Scratch::new(ROOM)?;
        let mut product = Product::new(program, &scratch)?;
        product.set(&Stores::access());
        let ground = Ground::make(&scratch)?;
        let stores = Stores::make(ws, &scratch, &product)?;
        jobs::configure(&scratch, product.home(), &ground, &stores)?;
        product.run(&["config", "check"])?;
        Ok(Self { stores, ground, product, programs, scratch })
    }

    /// Writers on every disk but the database's own, and the databases.
    fn company(&self, random: &mut Random) -> Result<(Company, Truth)> {
        let postgres = self.ground.disk(jobs::POSTGRES_DISK)?.point.join(postgres::FOLDER);
        let postgres =
            Postgres::start(&self.programs, &postgres, &self.scratch.folder("run-1")?, random.next() >> 1)?;
        let sqlite = Sqlite::start(&self.ground.disk(jobs::SQLITE_DISK)?.point.join(sqlite::FOLDER))?;
        let (mut writers, mut truth) = (
            Vec::new(),
            Truth {
                ledgers: Default::default(),
                sqlite: Arc::clone(&sqlite.acknowledged),
                postgres: Arc::clone(&postgres.acknowledged),
            },
        );
        for disk in self.ground.disks.iter().filter(|disk| disk.name != jobs::POSTGRES_DISK) {
            let ledger = Arc::<Ledger>::default();
            let writer = Writer::new(&disk.point, Arc::clone(&ledger), random.next())?;
            writers.push(Worker::start(&format!("the writer on {}", disk.name), writer)?);
            truth.ledgers.insert(disk.name, ledger);
        }
        Ok((Company { writers, sqlite, postgres }, truth))
    }

    fn play(mut self, time: Duration, seed: u64, began: Instant) -> Result<()> {
        let mut random = Random::new(seed);
        let (mut company, truth) = self.company(&mut random)?;
        let mut trouble = Trouble::new(random.next());
        let mut tally = Tally::default();
        let mut keeper = Keeper::start(&self.product, self.scratch.join("daemon.log"))?;
        say("waiting for the first point of every job");
        keeper.successes(1, TRIES)?;
        let soaking = Instant::now();
        let mut looked = 0;
        while soaking.elapsed() < time {
            trouble.one(&mut keeper, &self.stores)?;
            company.ensure_alive()?;
            if soaking.elapsed() > time * (looked + 1) / (LOOKS + 1) && looked < LOOKS {
                looked += 1;
                tally.meanwhile += self.look(&truth, &mut random)?;
                say(format!("{}: {} points proved", seconds(soaking.elapsed()), tally.meanwhile));
            }
        }
        let soaked = soaking.elapsed();
        say("no more trouble: every job must succeed twice");
        keeper.successes(2, TRIES)?;
        keeper.rest()?;
        let jobs = keeper.jobs()?;
        let written = company.stop()?;
        keeper.stop()?;
        drop(keeper);
        self.end_of_disks()?;
        self.prove_all(&truth, &mut tally)?;
        let times = (soaked, began.elapsed());
        println!("{}", Report { seed, times, trouble: &trouble, jobs: &jobs, tally: &tally, written });
        verdict(&jobs, &tally)
    }

    /// No longer tracked, no longer mounted.
    fn end_of_disks(&mut self) -> Result<()> {
        for disk in &self.ground.disks {
            self.product.run(&["untrack", utf8(&disk.node)?])?;
        }
        self.ground.close_disks()
    }

    fn prover<'a>(&'a self, truth: &'a Truth, live: bool) -> Prover<'a> {
        let Self { product, ground, stores, programs, .. } = self;
        Prover { product, ground, stores, truth, programs, run: self.scratch.join("run-2"), live }
    }

    fn listed(&self) -> Result<Vec<Point>> {
        let lists =
            [NEAR, SEALED, FAR].map(|store| points::list(&self.product, &self.ground, &self.stores, store));
        Ok(lists.into_iter().collect::<Result<Vec<_>>>()?.into_iter().flatten().collect())
    }

    /// Some points while everything goes on; one that was pruned meanwhile is none any more.
    fn look(&self, truth: &Truth, random: &mut Random) -> Result<u64> {
        let mut points = self.listed()?;
        let mut proved = 0;
        for _ in 0..6 {
            go_on()?;
            let point = points.swap_remove(random.below(points.len() as u64) as usize);
            match self.prover(truth, true).prove(&point) {
                Ok(_) => proved += 1,
                Err(_) if !self.listed()?.iter().any(|listed| listed.id == point.id) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(proved)
    }

    /// Every stored byte, then every point.
    fn prove_all(&self, truth: &Truth, tally: &mut Tally) -> Result<()> {
        for store in [NEAR, SEALED, FAR] {
            say(format!("checking every stored byte of {store}"));
            let location = self.stores.location(store, true);
            let words = ["check", "--repo", &location, "--read-data"];
            self.product.run(&[&words[..], &self.stores.key_words(store)?].concat())?;
        }
        let points = self.listed()?;
        say(format!("restoring and proving {} points", points.len()));
        let (prover, mut failed) = (self.prover(truth, false), 0);
        for point in &points {
            go_on()?;
            match prover.prove(point) {
                Ok(proof) => tally.add(point, proof),
                Err(error) => {
                    failed += 1;
                    say(format!("NOT PROVED: {error:#}"));
                }
            }
        }
        if failed > 0 {
            bail!("{failed} of {} listed points do not hold what they must", points.len());
        }
        Ok(())
    }
}

impl Company {
    fn ensure_alive(&mut self) -> Result<()> {
        self.writers.iter_mut().try_for_each(Worker::ensure_alive)?;
        self.sqlite.ensure_alive()?;
        self.postgres.ensure_alive()
    }

    /// Everybody stops; changes of files, commits of SQLite and of PostgreSQL.
    fn stop(self) -> Result<(u64, u64, u64)> {
        let changes = self.writers.into_iter().map(Worker::stop).sum::<Result<u64>>()?;
        let sqlite = self.sqlite.stop()?.count();
        Ok((changes, sqlite, self.postgres.stop()?.count()))
    }
}

/// What a table alone does not make fail.
fn verdict(jobs: &[JobState], tally: &Tally) -> Result<()> {
    let empty = tally.empty();
    if !empty.is_empty() {
        bail!("no point is listed of {}", empty.join(", "));
    }
    let silent = jobs.iter().find(|job| job.successes == 0).map(|job| job.name.as_str());
    silent.map_or(Ok(()), |name| Err(anyhow::anyhow!("job {name} never succeeded"))).context("after the soak")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_have_a_unit() {
        assert_eq!(time("20m"), Ok(Duration::from_secs(1200)));
        assert_eq!(time("90s"), Ok(Duration::from_secs(90)));
        assert!(time("20").is_err() && time("m").is_err() && time("").is_err());
    }
}
