//! Promise: garbage in any stored file gives an error or a damage report; never a panic, never wrong data restored.
//!
//! Needs root only to make its repository through the binary; where nothing can be tracked it is skipped (the
//! repository's own tests then still cover the formats).

use anyhow::{Result, ensure};
use std::path::{Path, PathBuf};
use tests::device::Loop;
use tests::fault::{DAMAGES, Damage, files_below};
use tests::image::{Image, fill};
use tests::protected::Protected;
use tests::random::Random;
use tests::scratch::Scratch;
use tests::workload::churn;
use tests::{host, skip_if};

/// A repository with a full and two increments, and what each restores to.
struct Fixture<'a> {
    care: Protected<'a>,
    sound: PathBuf,
    points: Vec<(String, Image)>,
}

fn fixture<'a>(scratch: &'a Scratch, device: &Loop, random: &mut Random) -> Result<Fixture<'a>> {
    fill(device.path(), random)?;
    let care = Protected::new(scratch, device.path())?;
    let mut points = Vec::new();
    for _ in 0..3 {
        churn(device.path(), random, 10)?;
        points.push((care.backup(&[])?.id, Image::of(device.path())?));
    }
    let sound = care.repo.clone();
    Ok(Fixture { care, sound, points })
}

impl Fixture<'_> {
    /// Copies the repository, damages one file of the copy, and looks at what the program makes of it.
    fn try_one(&mut self, scratch: &Scratch, file: &Path, damage: Damage, random: &mut Random) -> Result<()> {
        let copy = scratch.fresh("damaged");
        host::run("cp", ["-r".as_ref(), self.sound.as_os_str(), copy.as_os_str()])?;
        let inside = |path: &Path| copy.join(path.strip_prefix(&self.sound).unwrap_or(path));
        let others: Vec<PathBuf> = files_below(&self.sound)?.into_iter().filter(|p| p != file).collect();
        let other = &others[random.below(others.len() as u64) as usize];
        let what = format!("{} {damage:?}", file.strip_prefix(&self.sound)?.display());
        if damage.apply(&inside(file), &inside(other), random)? {
            self.care.repo.clone_from(&copy);
            if !self.cannot_be_noticed(file, damage) {
                self.ensure_check_says(&what)?;
            }
            self.ensure_restores_are_right(&what, scratch)?;
        }
        std::fs::remove_dir_all(copy)?;
        Ok(())
    }

    /// Nothing but itself says that the newest point was ever made: without a catalogue its loss leaves no trace. A spare
    /// is of what is there anyway.
    fn cannot_be_noticed(&self, file: &Path, damage: Damage) -> bool {
        if damage == Damage::Missing && file.starts_with(self.sound.join("spare")) {
            return true;
        }
        let newest = self.points.last().is_some_and(|(id, _)| file.to_string_lossy().contains(id));
        damage == Damage::Missing && newest && file.starts_with(self.sound.join("bak"))
    }

    fn ensure_check_says(&self, what: &str) -> Result<()> {
        let repo = self.care.repo.display().to_string();
        let ended = self.care.home.run(["check", "--repo", &repo, "--read-data"])?;
        ensure!(!ended.err.contains("panicked"), "{what}: check panicked: {ended}");
        ensure!(matches!(ended.code, Some(1 | 3)), "{what}: check found nothing: {ended}");
        Ok(())
    }

    fn ensure_restores_are_right(&self, what: &str, scratch: &Scratch) -> Result<()> {
        for (id, image) in &self.points {
            let target = scratch.fresh("out");
            let ended = self.care.restore(id, &target)?;
            ensure!(!ended.err.contains("panicked"), "{what}: restore panicked: {ended}");
            match ended.code {
                Some(0) => {
                    let same = Image::of_file(&target)?.difference(image).is_empty();
                    ensure!(same, "{what}: restored wrong data with exit code 0");
                }
                Some(1 | 3) => ensure!(!ended.err.trim().is_empty(), "{what}: failed without a word"),
                _ => anyhow::bail!("{what}: restore: {ended}"),
            }
            let _ = std::fs::remove_file(target);
        }
        Ok(())
    }
}

#[test]
fn garbage_in_every_stored_file() -> Result<()> {
    const NAME: &str = "damage::garbage_in_every_stored_file";
    skip_if!(host::no_tracking(), NAME);
    let scratch = Scratch::new("damage")?;
    let mut random = Random::for_test(NAME);
    let device = Loop::new(&scratch, "disk", 2 << 20)?;
    let mut fixture = fixture(&scratch, &device, &mut random)?;
    // locks hold no data
    let files = files_below(&fixture.sound)?;
    let files: Vec<_> = files.into_iter().filter(|f| !f.starts_with(fixture.sound.join("lock"))).collect();
    ensure!(files.len() >= 10, "a repository of {} files", files.len());
    let mut failures = Vec::new();
    for file in &files {
        for damage in DAMAGES {
            if let Err(e) = fixture.try_one(&scratch, file, *damage, &mut random) {
                failures.push(format!("{e:#}"));
            }
        }
    }
    host::say(&format!("{NAME}: {} files, {} ways each", files.len(), DAMAGES.len()));
    ensure!(failures.is_empty(), "{} failures:\n{}", failures.len(), failures.join("\n"));
    Ok(())
}
