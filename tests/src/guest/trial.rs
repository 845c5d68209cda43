//! One case: devices made and undone, work judged by the oracle and by the product's own word.

use crate::host::{run, say};
use crate::image::Image;
use crate::oracle::{Verdict, judge};
use crate::product::Home;
use crate::random::Random;
use crate::tracked::Tracked;
use crate::workload::{Outcome, WAYS, WAYS_NEED, churn};
use crate::{device, image};
use anyhow::{Context, Result, ensure};
use collector::error::{Error, Kind};
use serde_json::{Value, json};
use std::path::Path;
use std::time::Instant;

/// How a kind of device fared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// Every changed block was listed, and the product trusts its list.
    Whole,
    /// The product says itself that its list may lack something: the next backup compares everything.
    Suspect,
    /// The product refuses to track it.
    Refused,
    /// This kernel or machine has no such thing.
    Absent,
}

impl Fate {
    /// For people and for the host.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Whole => "whole",
            Self::Suspect => "suspect",
            Self::Refused => "refused",
            Self::Absent => "absent",
        }
    }
}

/// Where all cases of a boot keep pins and state: the programs are loaded once.
const HOME: &str = "/run/blkdelta-guest";

/// Works judged at once: two images of the device each are what takes the time.
const AT_ONCE: usize = 24;

/// Two small devices, one with requests and one without, that stay tracked while the guest runs: with the last
/// device the programs would go, and every case would wait for the verifier.
pub fn keep_programs() -> Result<()> {
    let home = Home::at(Path::new(HOME))?;
    let disk = super::make::disk("keep")?;
    let zram = super::special::zram_device(1 << 20)?;
    for device in [&disk, &zram] {
        home.ok(["track".as_ref(), device.as_os_str()])?;
    }
    Ok(())
}

/// What the kernel has counted as written to a device, and discarded; `None` while something is on its way.
fn written(device: &Path) -> Result<Option<(u64, u64)>> {
    let path = Path::new("/sys/class/block").join(super::make::name(device)?).join("inflight");
    let flying = std::fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
    let counts = device::kernel_counts(device)?;
    Ok((flying.split_whitespace().nth(1) == Some("0")).then_some(counts))
}

/// A case under way.
pub struct Trial {
    /// Where it keeps pins and state.
    pub home: Home,
    /// Its choices.
    pub random: Random,
    began: Instant,
    undo: Vec<String>,
    refused: Option<String>,
    absent: Option<String>,
    suspect: Vec<String>,
    missed: Vec<String>,
    unsupported: Vec<String>,
    notes: Vec<String>,
    programs: Option<usize>,
    works: usize,
    changed: u64,
    listed: u64,
}

impl Trial {
    /// Of the case `name`.
    pub fn new(name: &str) -> Result<Self> {
        Ok(Self {
            home: Home::at(Path::new(HOME))?,
            random: Random::for_test(name),
            began: Instant::now(),
            undo: Vec::new(),
            refused: None,
            absent: None,
            suspect: Vec::new(),
            missed: Vec::new(),
            unsupported: Vec::new(),
            notes: Vec::new(),
            programs: None,
            works: 0,
            changed: 0,
            listed: 0,
        })
    }

    /// A shell command that undoes what was just made; the last is run first.
    pub fn undo(&mut self, command: impl Into<String>) {
        self.undo.push(command.into());
    }

    /// What was made last has been undone already.
    pub fn forget_undo(&mut self) {
        self.undo.pop();
    }

    /// So many programs were loaded and are attached.
    pub fn programs(&mut self, count: usize) {
        self.programs = Some(count);
    }

    /// Something a reader should know.
    pub fn note(&mut self, note: impl Into<String>) {
        self.notes.push(note.into());
    }

    /// This machine does not have what the case is about.
    pub fn absent(&mut self, why: impl Into<String>) {
        self.absent = Some(why.into());
    }

    /// Begins to track; `None` (and remembered) if the product refuses the device.
    pub fn track(&mut self, path: &Path) -> Result<Option<Tracked>> {
        match Tracked::start(&self.home, path, 4096) {
            Ok(tracked) => Ok(Some(tracked)),
            Err(error) => {
                let kind = error.downcast_ref::<Error>().map(Error::kind);
                if kind != Some(Kind::Unsupported) {
                    return Err(error);
                }
                self.refused = Some(format!("{error:#}"));
                Ok(None)
            }
        }
    }

    /// Fills `written`, tracks `tracked`, and writes to the former in all ways there are.
    pub fn all_ways(&mut self, tracked: &Path, written: &Path) -> Result<()> {
        let Some(mut sight) = self.track(tracked)? else { return Ok(()) };
        say(&format!("  tracked, {:.1} s", self.began.elapsed().as_secs_f64()));
        image::fill(written, &mut self.random)?;
        say(&format!("  filled, {:.1} s", self.began.elapsed().as_secs_f64()));
        let mut before = self.settle(&mut sight)?;
        say(&format!("  settled, {:.1} s", self.began.elapsed().as_secs_f64()));
        if device::size_of(written)? >= WAYS_NEED {
            for ways in WAYS.chunks(AT_ONCE) {
                before = self.judged(&mut sight, before, |trial| {
                    ways.iter().try_for_each(|way| trial.one(way.name, |r| (way.run)(written, r)))
                })?;
            }
        }
        self.judged(&mut sight, before, |trial| {
            trial.one("mixture", |random| churn(written, random, 120).map(|_| Outcome::Done))
        })?;
        Ok(())
    }

    /// Tracks `path` and judges one work.
    pub fn one_work(
        &mut self,
        path: &Path,
        name: &str,
        work: impl Fn(&mut Random) -> Result<Outcome>,
    ) -> Result<()> {
        let Some(mut sight) = self.track(path)? else { return Ok(()) };
        let before = self.settle(&mut sight)?;
        self.judged(&mut sight, before, |trial| trial.one(name, &work)).map(drop)
    }

    /// Ends what was before; what the device holds now.
    pub fn settle(&self, sight: &mut Tracked) -> Result<Image> {
        let cut = sight.cut()?;
        sight.retire(cut.epoch)?;
        Image::of(sight.device())
    }

    /// One way of writing.
    pub fn one(&mut self, name: &str, work: impl FnOnce(&mut Random) -> Result<Outcome>) -> Result<()> {
        self.works += 1;
        match work(&mut self.random).with_context(|| name.to_owned())? {
            Outcome::Done => {}
            Outcome::Unsupported(why) => self.unsupported.push(format!("{name}: {why}")),
        }
        Ok(())
    }

    /// Works between two images; an image for the next works.
    ///
    /// The list must hold what changed from the first image, taken after the last cut, to the second, taken before this
    /// one. A device that is written without our doing (metadata of a thin pool, a journal) changes around the cut as
    /// well: then the next works begin with an image of their own, and what changed from the second one to that must
    /// stand in this list or in the one that runs.
    pub fn judged(
        &mut self,
        sight: &mut Tracked,
        before: Image,
        work: impl FnOnce(&mut Self) -> Result<()>,
    ) -> Result<Image> {
        work(self)?;
        let device = sight.device().to_path_buf();
        rustix::fs::fsync(&std::fs::File::open(&device)?).context("write back the page cache")?;
        let written = written(&device)?;
        let after = Image::of(&device)?;
        let cut = sight.cut()?;
        let trusted = cut.suspect.is_empty();
        self.verdict("judged", &judge(&before, &after, &cut.extents), trusted);
        let next = match written.is_some() && written == self::written(&device)? {
            true => after,
            false => {
                let next = Image::of(&device)?;
                self.verdict("around the cut", &judge(&after, &next, &sight.peek()?), trusted);
                next
            }
        };
        self.suspect.extend(cut.suspect);
        sight.retire(cut.epoch)?;
        Ok(next)
    }

    fn verdict(&mut self, what: &str, verdict: &Verdict, trusted: bool) {
        say(&format!("  {what}: {verdict}, {:.1} s", self.began.elapsed().as_secs_f64()));
        self.changed += verdict.changed.total();
        self.listed += verdict.listed;
        if let Err(error) = verdict.ensure_complete(what) {
            // a list that is called suspect may lack something: that is what the word is for
            let list = if trusted { &mut self.missed } else { &mut self.notes };
            list.push(format!("{error:#}"));
        }
    }

    /// Undoes the devices; an error if something stays.
    fn tidy_up(&mut self) -> Result<()> {
        let mut failures = Vec::new();
        while let Some(command) = self.undo.pop() {
            let mut attempt = run("sh", ["-c", &command]);
            for _ in 0..20 {
                if attempt.is_ok() {
                    break;
                }
                std::thread::sleep(std::time::Duration::from_millis(100));
                attempt = run("sh", ["-c", &command]);
            }
            failures.extend(attempt.err().map(|e| format!("{e:#}")));
        }
        ensure!(failures.is_empty(), "left behind: {}", failures.join("; "));
        Ok(())
    }

    /// The host keeps what a case says: of a program that did not load, why.
    fn show_verifier_log(&self) {
        for home in [self.home.path(), Path::new(super::special::COPIES_HOME)] {
            if let Ok(log) = std::fs::read_to_string(home.join("state/verifier.log")) {
                say(&format!("verifier.log:\n{log}"));
            }
        }
    }

    /// What came of it, for the host.
    pub fn end(mut self, ran: Result<()>) -> Value {
        let tidied = self.tidy_up();
        let failures: Vec<String> =
            ran.err().into_iter().chain(tidied.err()).map(|e| format!("{e:#}")).collect();
        let failures = [failures, std::mem::take(&mut self.missed)].concat();
        self.show_verifier_log();
        self.suspect.sort();
        self.suspect.dedup();
        let fate = match (&self.absent, &self.refused, self.suspect.is_empty()) {
            (Some(_), ..) => Fate::Absent,
            (_, Some(_), _) => Fate::Refused,
            (.., false) => Fate::Suspect,
            _ => Fate::Whole,
        };
        json!({
            "fate": fate.word(),
            "failures": failures,
            "why": self.absent.or(self.refused).or_else(|| (!self.suspect.is_empty()).then(|| self.suspect.join("; "))),
            "unsupported": self.unsupported,
            "notes": self.notes,
            "programs": self.programs,
            "works": self.works,
            "changed": self.changed,
            "listed": self.listed,
        })
    }
}
