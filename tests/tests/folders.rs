//! Promise: a repository in a folder that can only be read is read; one that vanishes in the middle of a backup costs the
//! backup and nothing else; a copy into a folder that gets full goes on when there is room. All in clear words.

use anyhow::{Context, Result, ensure};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use tests::device::{Loop, O_DIRECT, open_with, put};
use tests::fault::files_below;
use tests::image::{Aligned, Image, fill};
use tests::product::Ended;
use tests::protected::Protected;
use tests::random::Random;
use tests::scratch::Scratch;
use tests::workload::churn;
use tests::{host, skip_if};

/// A file system in memory, in the scratch folder.
struct Memory(PathBuf);

impl Memory {
    fn new(scratch: &Scratch, size: &str) -> Result<Self> {
        let point = scratch.fresh("memory");
        std::fs::create_dir(&point)?;
        let this = Self(point);
        this.mount(size)?;
        Ok(this)
    }

    fn mount(&self, size: &str) -> Result<()> {
        let options = format!("size={size}");
        host::run("mount", ["-t", "tmpfs", "-o", &options, "tmpfs", &self.0.display().to_string()]).map(drop)
    }

    fn remount(&self, options: &str) -> Result<()> {
        let options = format!("remount,{options}");
        host::run("mount", ["-o", &options, &self.0.display().to_string()]).map(drop)
    }
}

/// It failed with exit code 1, in clear words.
fn refused(ended: Ended, words: &[&str]) -> Result<()> {
    let ended = ended.expect(1, &words.join(" "))?;
    let clear = words.iter().any(|word| ended.err.contains(word)) && ended.err.contains("try:");
    ensure!(clear && !ended.err.contains("panicked"), "none of {words:?} in {ended}");
    Ok(())
}

#[test]
fn a_folder_that_can_only_be_read_is_read() -> Result<()> {
    const NAME: &str = "folders::a_folder_that_can_only_be_read_is_read";
    skip_if!(host::no_tracking(), NAME);
    let scratch = Scratch::new("readonly")?;
    let mut random = Random::for_test(NAME);
    let device = Loop::new(&scratch, "disk", 8 << 20)?;
    fill(device.path(), &mut random)?;
    let memory = Memory::new(&scratch, "64m")?;
    let mut care = Protected::new(&scratch, device.path())?;
    care.repo = memory.0.join("repo");
    let mut points = Vec::new();
    for _ in 0..3 {
        churn(device.path(), &mut random, 10)?;
        points.push((care.backup(&[])?.id, Image::of(device.path())?));
    }
    let repo = care.repo.display().to_string();
    care.home.ok(["merge", "--repo", &repo, "--up-to", &points[1].0])?;
    memory.remount("ro")?;
    let files = files_below(&care.repo)?;
    ensure!(care.points()?.len() == 3, "not all points are listed");
    care.ensure_sound()?;
    for (id, image) in &points {
        care.ensure_restores_to(id, image, "from a folder that can only be read")?;
    }
    let copy = scratch.fresh("copy").display().to_string();
    care.home.ok(["copy", "--from", &repo, "--to", &copy, "--all"])?;
    care.home.ok(["diff", "--between", &points[0].0, &points[2].0, "--repo", &repo])?;
    churn(device.path(), &mut random, 10)?;
    ensure_only_read(&care, &repo)?;
    ensure!(files_below(&care.repo)? == files, "something was written");
    memory.remount("rw")?;
    let now = Image::of(device.path())?;
    let point = care.incremental()?;
    care.ensure_restores_to(&point.id, &now, "after it could be written again")
}

/// What writes fails, and says why.
fn ensure_only_read(care: &Protected<'_>, repo: &str) -> Result<()> {
    let only_read = ["can only be read", "read-only", "Read-only"];
    refused(care.home.run(care.backup_words(&[]))?, &only_read)?;
    for words in [&["prune", "--keep-last", "1"][..], &["compact"], &["merge", "--up-to", "latest"]] {
        refused(care.home.run([words, &["--repo", repo]].concat())?, &only_read)?;
    }
    Ok(())
}

/// How the store goes away.
#[derive(Clone, Copy, Debug)]
enum Going {
    Unmounted,
    Removed,
    Moved,
}

/// The steps of a backup at which it goes.
const STEPS: [&str; 4] = ["repo.segment.put", "repo.segment.stored", "repo.index.put", "repo.manifest.put"];

#[test]
fn a_store_that_vanishes_in_the_middle_keeps_the_bits() -> Result<()> {
    const NAME: &str = "folders::a_store_that_vanishes_in_the_middle_keeps_the_bits";
    skip_if!(host::no_tracking(), NAME);
    let scratch = Scratch::new("vanish")?;
    let mut random = Random::for_test(NAME);
    let device = Loop::new(&scratch, "disk", 8 << 20)?;
    fill(device.path(), &mut random)?;
    let mut care = Protected::new(&scratch, device.path())?;
    for going in [Going::Unmounted, Going::Removed, Going::Moved] {
        let memory = Memory::new(&scratch, "64m")?;
        care.repo = memory.0.join("repo");
        care.backup(&["--full"])?;
        for step in STEPS {
            let what = format!("{going:?} at {step}");
            churn(device.path(), &mut random, 10)?;
            let aside = scratch.fresh("aside");
            let ended = vanish(&care, &memory, going, step, &aside).context(what.clone())?;
            refused(ended, &["moved, removed or unmounted", "No such file", "not found"])
                .context(what.clone())?;
            let (pending, _) = care.diff()?;
            ensure!(!pending.is_empty(), "{what}: the bits are lost");
            come_back(&care, &memory, going, &aside)?;
            let now = Image::of(device.path())?;
            let point = care.backup(&[]).context(what.clone())?;
            care.ensure_restores_to(&point.id, &now, &what)?;
            care.ensure_sound().context(what)?;
        }
        host::run("umount", [&memory.0])?;
    }
    Ok(())
}

/// A backup that waits at a step until the store is gone.
fn vanish(care: &Protected<'_>, memory: &Memory, going: Going, step: &str, aside: &Path) -> Result<Ended> {
    let child = care.home.stopped_at(step, care.backup_words(&[]))?;
    match going {
        Going::Unmounted => drop(host::run("umount", ["-l".as_ref(), memory.0.as_os_str()])?),
        Going::Removed => drop(host::run("mv", [&care.repo, &aside.to_path_buf()])?),
        Going::Moved => {
            host::run("mv", [&care.repo, &aside.to_path_buf()])?;
            std::fs::create_dir(&care.repo)?;
        }
    }
    Ended::after_stop(child)
}

/// The store is back, as far as there is something left of it.
fn come_back(care: &Protected<'_>, memory: &Memory, going: Going, aside: &Path) -> Result<()> {
    match going {
        // a lazily unmounted file system in memory is gone for good: the next backup is a full one
        Going::Unmounted => memory.mount("64m"),
        Going::Removed => host::run("mv", [aside, &care.repo]).map(drop),
        Going::Moved => {
            let written = files_below(&care.repo)?;
            ensure!(written.is_empty(), "{written:?} were written into a folder that is no repository");
            std::fs::remove_dir_all(&care.repo)?;
            host::run("mv", [aside, &care.repo]).map(drop)
        }
    }
}

/// Nothing at all can be written any more: what was dropped before goes first, and makes room for the rest.
#[test]
fn a_folder_that_is_full_is_pruned() -> Result<()> {
    const NAME: &str = "folders::a_folder_that_is_full_is_pruned";
    skip_if!(host::no_tracking(), NAME);
    let scratch = Scratch::new("fullprune")?;
    let mut random = Random::for_test(NAME);
    let device = Loop::new(&scratch, "disk", 8 << 20)?;
    let memory = Memory::new(&scratch, "24m")?;
    let mut care = Protected::new(&scratch, device.path())?;
    care.repo = memory.0.join("repo");
    for n in 0..4 {
        open_with(device.path(), O_DIRECT)?.write_all_at(&Aligned::random(2 << 20, &mut random), n << 21)?;
        care.backup(&[])?;
    }
    let (last, image) = (care.points()?.pop().context("no point")?, Image::of(device.path())?);
    let repo = care.repo.display().to_string();
    care.home.ok(["prune", "--repo", &repo, "--keep-last", "2", "--grace", "1d"])?;
    let mut filler = std::fs::File::create(memory.0.join("filler"))?;
    for piece in [1 << 20, 4096] {
        while std::io::Write::write_all(&mut filler, &vec![7; piece]).is_ok() {}
    }
    ensure!(put(&memory.0.join("one more"), &[7; 4096]).is_err(), "there is room");
    care.home
        .run(["prune", "--repo", &repo, "--keep-last", "1", "--grace", "0"])?
        .expect(0, "a full folder")?;
    ensure!(care.points()? == [last.clone()], "more than one stays");
    care.ensure_restores_to(&last, &image, "after a prune of a full folder")?;
    care.ensure_sound()
}

#[test]
fn a_copy_into_a_folder_that_gets_full_goes_on_when_there_is_room() -> Result<()> {
    const NAME: &str = "folders::a_copy_into_a_folder_that_gets_full_goes_on_when_there_is_room";
    skip_if!(host::no_tracking(), NAME);
    let scratch = Scratch::new("fullcopy")?;
    let mut random = Random::for_test(NAME);
    let device = Loop::new(&scratch, "disk", 16 << 20)?;
    let mut care = Protected::new(&scratch, device.path())?;
    let mut points = Vec::new();
    for n in 0..4 {
        open_with(device.path(), O_DIRECT)?.write_all_at(&Aligned::random(4 << 20, &mut random), n << 22)?;
        points.push((care.backup(&[])?.id, Image::of(device.path())?));
    }
    let key = scratch.fresh("key").display().to_string();
    let public = care.home.ok(["key", "generate", &key])?;
    let from = care.repo.display().to_string();
    for encrypted in [false, true] {
        let memory = Memory::new(&scratch, "10m")?;
        let to = memory.0.join("repo");
        let at = to.display().to_string();
        let mut copy = vec!["copy", "--from", &from, "--to", &at, "--all"];
        if encrypted {
            care.home.ok(["init", &at, "--recipient", public.trim()])?;
            copy.extend(["--to-key-file", &key]);
        }
        care.repo.clone_from(&to);
        care.home.set("BLKDELTA_KEY_FILE", if encrypted { &key } else { "" });
        copy_until_there_is_room(&care, &memory, &copy, &points)?;
        care.home.set("BLKDELTA_KEY_FILE", "");
        care.repo = from.clone().into();
    }
    Ok(())
}

/// What is listed restores, however full it is; in the end all is there.
fn copy_until_there_is_room(
    care: &Protected<'_>,
    memory: &Memory,
    copy: &[&str],
    points: &[(String, Image)],
) -> Result<()> {
    let (mut rooms, mut failed) = (["11m", "13m", "15m", "40m"].into_iter(), 0);
    loop {
        // the key in the environment is not of the repository that is read
        let ended = Ended::of(care.home.command(copy)?.env_remove("BLKDELTA_KEY_FILE"))?;
        let listed = care.points()?;
        for (id, image) in points.iter().take(listed.len()) {
            care.ensure_restores_to(id, image, "from a copy that got full")?;
        }
        care.ensure_sound()?;
        if ended.code == Some(0) {
            ensure!(listed.len() == points.len(), "{} of {} points", listed.len(), points.len());
            ensure!(failed > 1, "it was full {failed} times only");
            return Ok(());
        }
        refused(ended, &["No space", "full"])?;
        failed += 1;
        memory.remount(&format!("size={}", rooms.next().context("there is room, and it fails")?))?;
    }
}

/// The least time that a bandwidth allows; how much longer it takes is nobody's promise.
#[test]
fn a_bandwidth_holds_for_a_folder_too() -> Result<()> {
    const NAME: &str = "folders::a_bandwidth_holds_for_a_folder_too";
    skip_if!(host::no_tracking(), NAME);
    let scratch = Scratch::new("slowly")?;
    let mut random = Random::for_test(NAME);
    let device = Loop::new(&scratch, "disk", 4 << 20)?;
    fill(device.path(), &mut random)?;
    open_with(device.path(), O_DIRECT)?.write_all_at(&Aligned::random(4 << 20, &mut random), 0)?;
    let care = Protected::new(&scratch, device.path())?;
    let began = Instant::now();
    let point = care.backup(&["--bandwidth", "2MiB/s"])?;
    ensure!(began.elapsed() >= Duration::from_millis(1900), "4 MiB went in {:?}", began.elapsed());
    let (repo, target) = (care.repo.display().to_string(), scratch.fresh("out").display().to_string());
    let began = Instant::now();
    care.home.ok(["restore", "--repo", &repo, "--point", &point.id, &target, "--bandwidth", "2MiB/s"])?;
    ensure!(began.elapsed() >= Duration::from_millis(1900), "4 MiB came in {:?}", began.elapsed());
    care.ensure_restores_to(&point.id, &Image::of(device.path())?, "slowly")
}
