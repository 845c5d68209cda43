//! A tracked device of a test, through the collector library, and the cases judged on it.

use crate::host::say;
use crate::image::Image;
use crate::oracle::{Verdict, judge};
use crate::product::Home;
use crate::workload::Outcome;
use anyhow::{Context, Result, bail, ensure};
use collector::block::{ExtentSet, Granularity};
use collector::diff;
use collector::epoch::{Cut, Epochs};
use collector::error::Kind;
use collector::tracker::{self, Base, Places};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Tracks a device until dropped.
pub struct Tracked {
    places: Places,
    device: PathBuf,
    /// `None` only while being opened again.
    epochs: Option<Epochs>,
    failures: Vec<String>,
}

impl Tracked {
    /// Starts tracking `device` with areas of `granularity` bytes.
    pub fn start(home: &Home, device: &Path, granularity: u64) -> Result<Self> {
        let places = Places::under(home.path());
        let granularity = Granularity::try_from(granularity).map_err(anyhow::Error::msg)?;
        tracker::track(&places, device, granularity)
            .with_context(|| format!("track {}", device.display()))?;
        let epochs = open(&places, device)?;
        Ok(Self { places, device: device.into(), epochs: Some(epochs), failures: Vec::new() })
    }

    /// The device.
    pub fn device(&self) -> &Path {
        &self.device
    }

    fn epochs(&mut self) -> Result<&mut Epochs> {
        self.epochs.as_mut().context("the epochs are not open")
    }

    /// What a collector does that was killed or upgraded and comes back.
    pub fn reopen(&mut self) -> Result<()> {
        self.epochs = None;
        self.epochs = Some(open(&self.places, &self.device)?);
        Ok(())
    }

    /// Ends the running epoch; what changed in it.
    pub fn cut(&mut self) -> Result<Cut> {
        self.epochs()?.cut().context("cut")
    }

    /// Says that everything up to `epoch` is safe elsewhere.
    pub fn retire(&mut self, epoch: u64) -> Result<()> {
        let oracle = || Base { repo: "oracle".into(), point: "oracle".into() };
        let base = self.epochs()?.base().cloned().unwrap_or_else(oracle);
        self.epochs()?.retire(epoch, base).context("retire")
    }

    /// The pending difference and its doubts, nothing ended.
    pub fn look(&self) -> Result<diff::Difference> {
        Ok(diff::look(&self.places, &self.device).context("look")?.difference)
    }

    /// The pending difference, nothing ended.
    pub fn peek(&self) -> Result<ExtentSet> {
        Ok(self.look()?.extents)
    }

    /// Does `work` and judges what is listed for it; prints one line. A miss is remembered for [`Self::finish`],
    /// so that one run shows them all.
    pub fn case(&mut self, name: &str, work: impl FnOnce() -> Result<Outcome>) -> Result<Option<Verdict>> {
        let start = self.cut()?;
        self.retire(start.epoch)?;
        let before = Image::of(&self.device)?;
        if let Outcome::Unsupported(why) = work().with_context(|| name.to_string())? {
            crate::host::skipped(name, &why);
            return Ok(None);
        }
        let after = Image::of(&self.device)?;
        let peeked = self.peek()?;
        let cut = self.cut()?;
        let verdict = judge(&before, &after, &cut.extents);
        say(&format!("  {name:<46} {verdict}"));
        if !cut.suspect.is_empty() {
            self.failures.push(format!("{name}: called suspect: {:?}", cut.suspect));
        }
        if let Err(e) = verdict.ensure_complete(name) {
            self.failures.push(format!("{e:#}"));
        }
        // the device may change between the two looks, but nothing may vanish from the list
        if !peeked.subtract(&cut.extents).is_empty() {
            self.failures.push(format!("{name}: peek showed areas that the cut did not give"));
        }
        Ok(Some(verdict))
    }

    /// An error with everything that went wrong in the cases.
    pub fn finish(mut self) -> Result<()> {
        let failures = std::mem::take(&mut self.failures);
        ensure!(failures.is_empty(), "{} cases failed:\n{}", failures.len(), failures.join("\n"));
        Ok(())
    }

    /// Stops tracking now; an error if that fails.
    pub fn stop(self) -> Result<()> {
        let mut this = self;
        this.epochs = None;
        if let Err(e) = tracker::untrack(&this.places, &this.device) {
            bail!("untrack {}: {e}", this.device.display());
        }
        Ok(())
    }
}

/// Opens the epochs. A program that another thread is just starting holds our files, and so the lock, until it is
/// executed.
fn open(places: &Places, device: &Path) -> Result<Epochs> {
    let mut opened = Epochs::open(places, device);
    for _ in 0..100 {
        if !matches!(&opened, Err(e) if e.kind() == Kind::Busy) {
            break;
        }
        std::thread::sleep(Duration::from_millis(20));
        opened = Epochs::open(places, device);
    }
    opened.context("open the epochs")
}

impl Drop for Tracked {
    fn drop(&mut self) {
        // already stopped, or the device is gone: the home's bpffs goes with the scratch folder anyway
        self.epochs = None;
        let _ = tracker::untrack(&self.places, &self.device);
    }
}
