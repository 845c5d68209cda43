//! Promise: whenever the power goes, every point that is listed afterwards restores, and every one that was reported as
//! made is listed.
//!
//! The repository's file system lies on a disk that records its writes and flushes (`tests::recorded`). The disk is
//! made again as it would be after a cut: right after each flush, and between two with any part of what was under
//! way. Each such disk is mounted, as after the cut, and read whole. Changes, merges, prunes, compactions and copies are
//! cut, not only backups.

use anyhow::{Context, Result, ensure};
use collector::chain::{Policy, prune};
use collector::error::Result as Answer;
use collector::format::{Credential, PointId, decode_key_file};
use collector::repository::{KeySource, NoKey, Repository, check};
use collector::restore::Restore;
use collector::seal::PrivateKey;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::Duration;
use tests::device::{Loop, Mounted};
use tests::image::{Image, fill};
use tests::protected::Protected;
use tests::random::Random;
use tests::recorded::{self, Cut, Record, Recorded};
use tests::scratch::Scratch;
use tests::workload::churn;
use tests::{host, skip_if};

/// Bytes of the device that is backed up.
const DEVICE: u64 = 3 << 20;

/// What a file system needs.
struct Kind {
    name: &'static str,
    size: u64,
    make: &'static [&'static str],
    /// The most cuts that are looked at.
    cuts: usize,
}

const EXT4: Kind =
    Kind { name: "ext4", size: 48 << 20, make: &["-q", "-b", "4096", "-E", "lazy_itable_init=0"], cuts: 160 };
const XFS: Kind = Kind { name: "xfs", size: 320 << 20, make: &["-q"], cuts: 60 };
const BTRFS: Kind = Kind { name: "btrfs", size: 128 << 20, make: &["-q"], cuts: 60 };

/// Who has the key of the encrypted copy.
struct Owner(PrivateKey);

impl KeySource for Owner {
    fn meant(&self) -> bool {
        true
    }

    fn credential(&self) -> Answer<Credential> {
        Ok(Credential::Private(self.0.clone()))
    }
}

/// What is known of a point.
struct Known {
    image: Image,
    /// So much of the log was durable when it was reported.
    made: usize,
    /// It may be gone when more than this was begun.
    going: Option<usize>,
}

/// A repository on the recorded disk: by the folder's name.
type Points = BTreeMap<PointId, Known>;

/// A host that backs up to the disk, and what must be found there.
struct Host<'a> {
    disk: &'a Recorded,
    care: Protected<'a>,
    device: Loop,
    random: Random,
    repo: Points,
    copy: Points,
}

impl Host<'_> {
    fn backup(&mut self, more: &[&str]) -> Result<()> {
        churn(self.device.path(), &mut self.random, 8)?;
        let id = self.care.backup(more)?.id.parse()?;
        let image = Image::of(self.device.path())?;
        self.repo.insert(id, Known { image, made: self.disk.mark()?, going: None });
        Ok(())
    }

    fn run(&self, words: &[&str]) -> Result<()> {
        let repo = self.care.repo.display().to_string();
        let words: Vec<&str> = words.iter().copied().chain(["--repo", &repo]).collect();
        self.care.home.run(&words)?.expect(0, &words.join(" ")).map(drop)
    }

    /// Two in turn: the second sweeps what the first hid.
    fn prune(&mut self, keep: usize) -> Result<()> {
        let (begun, last) = (self.disk.mark()?, self.repo.len().saturating_sub(keep));
        for known in self.repo.values_mut().take(last) {
            known.going = known.going.or(Some(begun));
        }
        for _ in 0..2 {
            self.run(&["prune", "--grace", "0", "--keep-last", &keep.to_string()])?;
        }
        Ok(())
    }

    /// Into an encrypted repository on the same disk.
    fn copy(&mut self, to: &str, key: &str) -> Result<()> {
        let from = self.care.repo.display().to_string();
        let words = ["copy", "--from", &from, "--to", to, "--to-key-file", key, "--all"];
        self.care.home.run(words)?.expect(0, "copy")?;
        let listed: BTreeSet<String> = self.care.points()?.into_iter().collect();
        let made = self.disk.mark()?;
        for (id, known) in self.repo.iter().filter(|(id, _)| listed.contains(&id.to_string())) {
            let known = Known { image: Image::from_bytes(known.image.bytes()), made, going: None };
            self.copy.entry(*id).or_insert(known);
        }
        Ok(())
    }

    fn live(&mut self, encrypted: &str, key: &str) -> Result<()> {
        self.backup(&[])?;
        for _ in 0..3 {
            self.backup(&[])?;
        }
        self.run(&["merge", "--up-to", "latest"])?;
        self.copy(encrypted, key)?;
        self.backup(&["--full"])?;
        self.backup(&[])?;
        self.prune(4)?;
        self.backup(&["--merge-every", "1"])?;
        for _ in 0..2 {
            self.run(&["compact", "--dead", "5%", "--grace", "0"])?;
        }
        self.backup(&[])?;
        self.copy(encrypted, key)?;
        self.prune(2)
    }
}

/// Everything that is listed restores, and what must be there is.
fn ensure_holds(folder: &Path, source: &dyn KeySource, points: &Points, cut: &Cut) -> Result<bool> {
    let must =
        |known: &Known| known.made <= cut.durable && known.going.is_none_or(|going| cut.begun <= going);
    let must: BTreeSet<PointId> = points.iter().filter(|(_, known)| must(known)).map(|(id, _)| *id).collect();
    let repo = match Repository::open_with(&folder.display().to_string(), source) {
        Ok(repo) => repo,
        // the cut came before it was made
        Err(_) if must.is_empty() => return Ok(false),
        Err(e) => anyhow::bail!("open {}: {}", folder.display(), e.in_full()),
    };
    let listed = repo.points()?;
    let ids: BTreeSet<PointId> = listed.iter().map(|entry| entry.id).collect();
    ensure!(must.is_subset(&ids), "lost: {:?}, listed {ids:?}", must.difference(&ids));
    for entry in &listed {
        let known = points.get(&entry.id).with_context(|| format!("point {} that nobody made", entry.id))?;
        let mut bytes = Vec::new();
        let restore = Restore::prepare(&repo, &entry.device, entry.id)?;
        restore
            .stream(None, &mut bytes, &())
            .map_err(|e| anyhow::anyhow!("{}: {}", entry.id, e.in_full()))?;
        ensure!(bytes == known.image.bytes(), "point {} restores otherwise", entry.id);
    }
    let report = check(&repo, true, &mut |_, _| {})?;
    ensure!(report.damages.is_empty(), "check: {:?}", report.damages);
    Ok(!listed.is_empty())
}

/// What a cut left is swept, and the points stay.
fn ensure_goes_on(folder: &Path, points: &Points, cut: &Cut) -> Result<()> {
    let repo = Repository::open_with(&folder.display().to_string(), &NoKey)?;
    for device in repo.devices()? {
        let all = Policy { last: 1000, ..Policy::default() };
        for _ in 0..2 {
            prune(&repo, &device, &all, Duration::ZERO, false)
                .map_err(|e| anyhow::anyhow!("{}", e.in_full()))?;
        }
    }
    ensure_holds(folder, &NoKey, points, cut).map(drop)
}

/// The disk as after the cut, mounted and read.
fn look(
    scratch: &Scratch,
    image: &Path,
    key: &PrivateKey,
    (repo, copy): (&Points, &Points),
    cut: &Cut,
    go_on: bool,
) -> Result<bool> {
    let disk = Loop::on(image, &[])?;
    let mounted = Mounted::new(scratch, disk.path(), "")?;
    let found = ensure_holds(&mounted.point().join("repo"), &NoKey, repo, cut)?;
    ensure_holds(&mounted.point().join("copy"), &Owner(key.clone()), copy, cut).context("the copy")?;
    if found && go_on {
        ensure_goes_on(&mounted.point().join("repo"), repo, cut).context("going on")?;
    }
    mounted.unmount()?;
    disk.detach()?;
    Ok(found)
}

/// A host lives for a while; then its repository's disk is cut.
fn live_and_cut(kind: &Kind, name: &str) -> Result<()> {
    let scratch = Scratch::new(&format!("cuts-{}", kind.name))?;
    let mut random = Random::for_test(name);
    let device = Loop::new(&scratch, "disk", DEVICE)?;
    fill(device.path(), &mut random)?;
    let disk = Recorded::new(&scratch, kind.size)?;
    let mkfs = format!("mkfs.{}", kind.name);
    host::run(&mkfs, kind.make.iter().map(|word| word.as_ref()).chain([disk.path()?.as_os_str()]))?;
    let mounted = Mounted::new(&scratch, disk.path()?, "")?;
    host::run("sync", ["--file-system".as_ref(), mounted.point().as_os_str()])?;
    let begun = disk.mark()?;
    let mut care = Protected::new(&scratch, device.path())?;
    care.repo = mounted.point().join("repo");
    let (copy, key) = (mounted.point().join("copy"), scratch.fresh("key"));
    let [copy, key] = [&copy, &key].map(|path| path.display().to_string());
    let public = care.home.ok(["key", "generate", &key])?;
    care.home.ok(["init", &copy, "--recipient", public.trim()])?;
    let (repo, none) = (Points::new(), Points::new());
    let mut host = Host { disk: &disk, care, device, random: random.fork(), repo, copy: none };
    host.live(&copy, &key)?;
    let Host { repo, copy, .. } = host;
    mounted.unmount()?;
    let record = disk.finish()?;
    let Credential::Private(owner) = decode_key_file(&std::fs::read(&key)?, &mut || unreachable!())? else {
        anyhow::bail!("{key} is no private key")
    };
    replay(&scratch, &record, begun, (&repo, &copy), &owner, kind, random).context(kind.name)
}

fn replay(
    scratch: &Scratch,
    record: &Record,
    begun: usize,
    points: (&Points, &Points),
    owner: &PrivateKey,
    kind: &Kind,
    mut random: Random,
) -> Result<()> {
    let (writes, flushes) = record.counts();
    let mut cuts = record.cuts(begun, &mut random);
    let all = cuts.len();
    while cuts.len() > kind.cuts {
        cuts.remove(random.below(cuts.len() as u64) as usize);
    }
    ensure!(cuts.len() >= 50, "only {} moments of {flushes} flushes", cuts.len());
    let (mut replay, mut found) = (record.replay(scratch)?, 0);
    for (n, cut) in cuts.iter().enumerate() {
        let image = scratch.fresh("cut");
        replay.after(cut, &image, &mut random)?;
        let looked = look(scratch, &image, owner, points, cut, n % 5 == 0);
        found += u32::from(looked.with_context(|| format!("cut {cut:?}"))?);
        std::fs::remove_file(&image)?;
    }
    replay.ensure_whole()?;
    host::say(&format!(
        "{}: {writes} writes, {flushes} flushes, {} of {all} moments cut, points there after {found}; every one restores",
        kind.name,
        cuts.len()
    ));
    ensure!(found as usize > cuts.len() / 2, "points were there after {found} cuts only");
    Ok(())
}

/// Why it cannot run here, if so.
fn cannot(kind: &Kind) -> Option<String> {
    host::no_tracking().or_else(recorded::missing).or_else(|| host::no_filesystem(kind.name))
}

#[test]
fn on_ext4() -> Result<()> {
    const NAME: &str = "power_cuts::on_ext4";
    skip_if!(cannot(&EXT4), NAME);
    live_and_cut(&EXT4, NAME)
}

#[test]
fn on_xfs() -> Result<()> {
    const NAME: &str = "power_cuts::on_xfs";
    skip_if!(cannot(&XFS), NAME);
    live_and_cut(&XFS, NAME)
}

#[test]
fn on_btrfs() -> Result<()> {
    const NAME: &str = "power_cuts::on_btrfs";
    skip_if!(cannot(&BTRFS), NAME);
    live_and_cut(&BTRFS, NAME)
}
