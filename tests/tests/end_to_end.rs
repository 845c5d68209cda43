//! Promise: a full and increments taken while files change restore to what the device held at their cut.
//!
//! How "at the cut" is proved while writers go on: whatever changed after the cut is on the difference list that
//! is read *after* the device. So a restored block may differ from the device's only if it is listed. At the end
//! the writers stop, and the files of the restored image are compared too.

use anyhow::{Context, Result, ensure};
use collector::usage::used_areas;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use tests::device::{Loop, Mounted};
use tests::files::{self, KINDS, Kind};
use tests::host::{self, say};
use tests::image::Image;
use tests::protected::{Point, Protected};
use tests::random::Random;
use tests::scratch::Scratch;
use tests::skip_if;

struct Scene<'a> {
    scratch: &'a Scratch,
    kind: &'a Kind,
    care: Protected<'a>,
    label: String,
}

impl Scene<'_> {
    /// Backs up under load and proves the point against the living device.
    fn point(&self, more: &[&str]) -> Result<Point> {
        let point = self.care.backup(more)?;
        ensure!(point.code == 0, "{}: suspect: {}", self.label, point.json);
        let consistency = point.json["consistency"].to_string();
        ensure!(consistency.contains("frozen"), "{}: mounted, yet {consistency}: {}", self.label, point.json);
        let now = Image::of(&self.care.device)?;
        let used = used_areas(&self.care.device).context("used areas")?;
        let (changed, suspect) = self.care.diff()?;
        ensure!(suspect.is_empty(), "{}: suspect: {suspect:?}", self.label);
        let file = self.care.restore_file(&point.id)?;
        let differ = Image::of_file(&file)?.difference(&now).subtract(&changed);
        let lost = differ.intersect(&used.used);
        let first: Vec<_> = lost.iter().take(6).map(|e| (e.offset, e.length)).collect();
        ensure!(
            lost.is_empty(),
            "{}: {} used bytes lost in {}, first {first:?}",
            self.label,
            lost.total(),
            point.id
        );
        say(&format!(
            "  {}: {} frozen {} ms, {} bytes of unused areas differ",
            self.label,
            point.kind(),
            point.json["freeze_ms"],
            differ.total()
        ));
        self.ensure_clean(&file)?;
        std::fs::remove_file(file)?;
        Ok(point)
    }

    /// The restored file system passes its own checker.
    fn ensure_clean(&self, file: &Path) -> Result<()> {
        if self.kind.name == "xfs" {
            // a frozen xfs keeps a log to replay, which its checker cannot do
            let device = Loop::on(file, &[])?;
            Mounted::new(self.scratch, device.path(), "nouuid")?.unmount()?;
            device.detach()?;
        }
        self.kind.check(file)
    }
}

/// All files below a folder with their content.
fn tree(folder: &Path) -> Result<Vec<(PathBuf, Vec<u8>)>> {
    let read = |path: PathBuf| -> Result<(PathBuf, Vec<u8>)> {
        let bytes = std::fs::read(&path).with_context(|| format!("read {}", path.display()))?;
        Ok((path.strip_prefix(folder)?.to_path_buf(), bytes))
    };
    tests::fault::files_below(folder)?.into_iter().map(read).collect()
}

/// A full and two increments while two writers change files.
fn points_under_writers(scene: &Scene<'_>, mountpoint: &Path, random: &mut Random) -> Result<()> {
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let writers: Vec<_> = (0..2)
            .map(|w| {
                let (mut random, stop) = (random.fork(), &stop);
                let folder = mountpoint.join(format!("writer{w}"));
                scope.spawn(move || -> Result<()> {
                    let mut round = 0;
                    while !stop.load(Ordering::SeqCst) {
                        files::churn(&folder.join(format!("{}", round % 3)), &mut random, 60)?;
                        round += 1;
                        if round % 3 == 0 {
                            std::fs::remove_dir_all(folder.join("0"))?;
                        }
                    }
                    Ok(())
                })
            })
            .collect();
        let made = (|| {
            ensure!(scene.point(&[])?.kind() == "full", "the first point is no full");
            ensure!(scene.point(&[])?.kind() == "incremental", "the second point is no increment");
            scene.point(&[]).map(|_| ())
        })();
        stop.store(true, Ordering::SeqCst);
        for writer in writers {
            writer.join().expect("a writer panicked").context("a writer was disturbed")?;
        }
        made
    })
}

fn end_to_end(test: &str, kind: &Kind) -> Result<()> {
    skip_if!(host::no_tracking(), test);
    skip_if!(host::no_filesystem(kind.name), test);
    let scratch = Scratch::new("e2e")?;
    let mut random = Random::for_test(test);
    let device = Loop::new(&scratch, "disk", 320 << 20)?;
    kind.make(device.path())?;
    let mounted = Mounted::new(&scratch, device.path(), kind.mount)?;
    files::churn(&mounted.point().join("before"), &mut random, 400)?;
    files::trim(mounted.point())?;
    let care = Protected::new(&scratch, device.path())?;
    let scene = Scene { scratch: &scratch, kind, care, label: kind.label() };
    points_under_writers(&scene, mounted.point(), &mut random)?;
    let last = scene.point(&[])?;
    let files = tree(mounted.point())?;
    mounted.unmount()?;
    if kind.name == "btrfs" {
        // or the kernel takes the copy for a member of the same file system
        let _ = host::run("btrfs", ["device", "scan", "--forget"]);
    }
    let copy = Loop::on(&scene.care.restore_file(&last.id)?, &[])?;
    let mounted = Mounted::new(&scratch, copy.path(), "")?;
    ensure!(tree(mounted.point())? == files, "{}: restored files differ", scene.label);
    say(&format!("  {}: {} files equal after restore", scene.label, files.len()));
    mounted.unmount()?;
    kind.check(copy.path())
}

#[test]
fn ext4() -> Result<()> {
    end_to_end("end_to_end::ext4", &KINDS[0])
}

#[test]
fn ext4_with_discard_and_small_blocks() -> Result<()> {
    end_to_end("end_to_end::ext4_with_discard_and_small_blocks", &KINDS[2])
}

#[test]
fn xfs() -> Result<()> {
    end_to_end("end_to_end::xfs", &KINDS[4])
}

#[test]
fn btrfs() -> Result<()> {
    end_to_end("end_to_end::btrfs", &KINDS[5])
}

/// Without a freeze the point says so, and the next one, with it, is complete again.
#[test]
fn without_freezing_nothing_is_claimed_and_nothing_lost() -> Result<()> {
    const NAME: &str = "end_to_end::without_freezing_nothing_is_claimed_and_nothing_lost";
    skip_if!(host::no_tracking(), NAME);
    skip_if!(host::no_filesystem("ext4"), NAME);
    let scratch = Scratch::new("e2e-nofreeze")?;
    let mut random = Random::for_test(NAME);
    let device = Loop::new(&scratch, "disk", 96 << 20)?;
    KINDS[0].make(device.path())?;
    let mounted = Mounted::new(&scratch, device.path(), "")?;
    let care = Protected::new(&scratch, device.path())?;
    let scene = Scene { scratch: &scratch, kind: &KINDS[0], care, label: "ext4".into() };
    for words in [&["--no-freeze"][..], &["--freeze-limit", "1ms"]] {
        std::thread::scope(|scope| {
            let (mut random, folder) = (random.fork(), mounted.point().join(words[0]));
            let writer = scope.spawn(move || files::churn(&folder, &mut random, 400));
            for _ in 0..2 {
                let consistency = scene.care.backup(words)?.json["consistency"].to_string();
                // a limit may be kept after all; refusing to freeze is not a wish
                let claimed = consistency.contains("frozen") && words[0] == "--no-freeze";
                ensure!(!claimed, "{words:?}: called {consistency}");
            }
            writer.join().expect("the writer panicked")
        })?;
        scene.point(&[])?;
    }
    mounted.unmount()
}

/// A disk with two partitions of different file systems, both mounted: frozen together, restored as a whole.
#[test]
fn a_disk_with_two_mounted_partitions() -> Result<()> {
    const NAME: &str = "end_to_end::a_disk_with_two_mounted_partitions";
    skip_if!(host::no_tracking(), NAME);
    skip_if!(host::no_filesystem("ext4").or(host::no_filesystem("xfs")), NAME);
    let scratch = Scratch::new("e2e-disk")?;
    let mut random = Random::for_test(NAME);
    let disk = Loop::new(&scratch, "disk", 512 * 1_000_003)?;
    let parts = disk.partition("label: gpt\nstart=2048, size=131072\nstart=133121, size=700001\n")?;
    KINDS[0].make(&parts[0])?;
    KINDS[3].make(&parts[1])?;
    let mounts = [Mounted::new(&scratch, &parts[0], "")?, Mounted::new(&scratch, &parts[1], "")?];
    let care = Protected::new(&scratch, disk.path())?;
    let mut last = None;
    for round in 0..3 {
        for mount in &mounts {
            files::churn(&mount.point().join(format!("r{round}")), &mut random, 60)?;
        }
        last = Some(care.backup(&[])?);
    }
    let last = last.context("no point")?;
    ensure!(last.code == 0 && last.json["consistency"].to_string().contains("frozen"), "{}", last.json);
    let wanted = [tree(mounts[0].point())?, tree(mounts[1].point())?];
    mounts.into_iter().try_for_each(Mounted::unmount)?;
    let copy = Loop::on(&care.restore_file(&last.id)?, &[])?;
    host::run("partx", ["-a".as_ref(), copy.path().as_os_str()])?;
    for (n, wanted) in wanted.iter().enumerate() {
        let part = PathBuf::from(format!("{}p{}", copy.path().display(), n + 1));
        let mounted = Mounted::new(&scratch, &part, "")?;
        ensure!(tree(mounted.point())? == *wanted, "partition {}: restored files differ", n + 1);
        mounted.unmount()?;
        [KINDS[0], KINDS[3]][n].check(&part)?;
    }
    Ok(())
}
