//! Promise: the ways in which others lost data (../museum: M1…M28) do not work here.

use anyhow::{Result, ensure};
use collector::block::Extent;
use std::path::Path;
use tests::device::{Loop, Mounted, O_DIRECT, open_with, put, size_of};
use tests::files::{self, KINDS};
use tests::image::{Aligned, Image, fill};
use tests::oracle::judge;
use tests::product::Home;
use tests::protected::Protected;
use tests::random::Random;
use tests::scratch::Scratch;
use tests::tracked::Tracked;
use tests::workload::{Outcome, churn};
use tests::{host, skip_if};

use std::io::Read;
use std::os::unix::fs::FileExt;

/// M1: a flood of writes with nobody reading. A list made from an event queue loses; a bitmap cannot.
#[test]
fn m1_flood() -> Result<()> {
    skip_if!(host::no_tracking(), "museum::m1_flood");
    let scratch = Scratch::new("m1")?;
    let mut random = Random::for_test("museum::m1_flood");
    let device = Loop::new(&scratch, "disk", 96 << 20)?;
    fill(device.path(), &mut random)?;
    let mut tracked = Tracked::start(&Home::new(&scratch)?, device.path(), 4096)?;
    let before = Image::of(device.path())?;
    let blocks = size_of(device.path())? / 4096;
    std::thread::scope(|scope| {
        let writers = (0..8).map(|nth| {
            let (device, mut random) = (device.path(), random.fork());
            scope.spawn(move || -> Result<()> {
                let file = open_with(device, O_DIRECT)?;
                let mut data = Aligned::new(512);
                for block in (nth..blocks).step_by(8) {
                    random.fill(&mut data);
                    file.write_all_at(&data, block * 4096 + 512 * random.below(8))?;
                }
                Ok(())
            })
        });
        let writers: Vec<_> = writers.collect();
        writers.into_iter().try_for_each(|w| w.join().expect("a writer panicked"))
    })?;
    let cut = tracked.cut()?;
    ensure!(cut.suspect.is_empty(), "suspect: {:?}", cut.suspect);
    let verdict = judge(&before, &Image::of(device.path())?, &cut.extents);
    host::say(&format!("museum::m1_flood: {blocks} writes: {verdict}"));
    verdict.ensure_complete("flood")
}

/// M2: operations that are not "W": trim, zeroing, punching; through a file system and on the device.
#[test]
fn m2_operations_other_than_write() -> Result<()> {
    const NAME: &str = "museum::m2_operations_other_than_write";
    skip_if!(host::no_tracking(), NAME);
    skip_if!(host::no_filesystem("ext4"), NAME);
    let scratch = Scratch::new("m2")?;
    let mut random = Random::for_test(NAME);
    let device = Loop::new(&scratch, "disk", 200 << 20)?;
    KINDS[0].make(device.path())?;
    let mounted = Mounted::new(&scratch, device.path(), "")?;
    let big = mounted.point().join("big");
    put(&big, &random.bytes(80 << 20))?;
    files::churn(&mounted.point().join("more"), &mut random, 200)?;
    let mut tracked = Tracked::start(&Home::new(&scratch)?, device.path(), 4096)?;
    tracked.case("delete", || {
        std::fs::remove_file(&big)?;
        rustix::fs::sync();
        Ok(Outcome::Done)
    })?;
    let verdict = tracked.case("fstrim", || {
        Ok(if files::trim(mounted.point())? {
            Outcome::Done
        } else {
            Outcome::Unsupported("no fstrim".into())
        })
    })?;
    if let Some(verdict) = verdict {
        ensure!(verdict.changed.total() > 60 << 20, "fstrim changed only {verdict}");
    }
    mounted.unmount()?;
    tracked.finish()
}

/// Backs up and restores a bare device over three increments of random changes.
fn round_trip(test: &str, size: u64, sector: u32) -> Result<()> {
    let scratch = Scratch::new("trip")?;
    let mut random = Random::for_test(test);
    let device = Loop::with_sector(&scratch, "disk", size, sector)?;
    fill(device.path(), &mut random)?;
    let care = Protected::new(&scratch, device.path())?;
    let mut points = vec![(care.backup(&[])?, Image::of(device.path())?)];
    ensure!(points[0].0.kind() == "full", "the first is {}", points[0].0.json);
    for _ in 0..3 {
        churn(device.path(), &mut random, 30)?;
        points.push((care.incremental()?, Image::of(device.path())?));
    }
    for (point, image) in &points {
        care.ensure_restores_to(&point.id, image, &format!("{test}: {}", point.id))?;
    }
    Ok(())
}

/// M9: devices whose end lies on no boundary of ours.
#[test]
fn m9_unaligned_end() -> Result<()> {
    skip_if!(host::no_tracking(), "museum::m9_unaligned_end");
    for sectors in [7, 8_191, 65_537] {
        round_trip(&format!("museum::m9 {sectors} sectors"), 512 * sectors, 512)?;
    }
    Ok(())
}

/// M5, M9: a device of 17 TiB: beyond 2^32 sectors and 2^32 areas of 4 KiB, with an odd end.
#[test]
fn m5_sizes_beyond_32_bits() -> Result<()> {
    skip_if!(host::no_tracking(), "museum::m5_sizes_beyond_32_bits");
    const TIB: u64 = 1 << 40;
    let scratch = Scratch::new("huge")?;
    let mut random = Random::for_test("museum::m5_sizes_beyond_32_bits");
    let size = 17 * TIB + 512 * 7;
    let device = Loop::new(&scratch, "disk", size)?;
    let home = Home::new(&scratch)?;
    let node = device.path().display().to_string();
    // nobody says how large areas are: by the size, and the second time as they are
    home.ok(["track", &node])?;
    home.ok(["track", &node])?;
    home.run(["track", &node, "--granularity", "4KiB"])?.expect(1, "other areas while it is tracked")?;
    let status = home.json(["status", &node])?;
    ensure!(status[0]["granularity"] == 32 << 10, "{status}");
    let care = Protected::adopt(&scratch, home, device.path());
    let file = open_with(device.path(), O_DIRECT)?;
    // across the two boundaries, and up to the last sector
    let places = [0, 2 * TIB - 32768, 16 * TIB - 32768, size - 65536];
    for round in [&places[..], &places[1..]] {
        for at in round {
            file.write_all_at(&Aligned::random(65536, &mut random), *at)?;
        }
        let (listed, _) = care.diff()?;
        let all = round.iter().all(|at| listed.contains(Extent::new(*at, 65536)));
        ensure!(all && listed.total() <= 4 * 131_072, "listed: {listed:?}");
        let restored = std::fs::File::open(care.restore_file(&care.backup(&[])?.id)?)?;
        ensure!(restored.metadata()?.len() == size);
        for at in places {
            let (mut got, mut wanted) = (Aligned::new(65536), Aligned::new(65536));
            restored.read_exact_at(&mut got, at)?;
            file.read_exact_at(&mut wanted, at)?;
            ensure!(*got == *wanted, "differs at {at}");
        }
    }
    Ok(())
}

/// M12: A, B, A again. The third point must bring A back, the second still B.
#[test]
fn m12_a_b_a() -> Result<()> {
    skip_if!(host::no_tracking(), "museum::m12_a_b_a");
    let scratch = Scratch::new("m12")?;
    let mut random = Random::for_test("museum::m12_a_b_a");
    let device = Loop::new(&scratch, "disk", 16 << 20)?;
    fill(device.path(), &mut random)?;
    let care = Protected::new(&scratch, device.path())?;
    let first = Image::of(device.path())?;
    let full = care.backup(&[])?;
    churn(device.path(), &mut random, 60)?;
    let second = Image::of(device.path())?;
    let b = care.incremental()?;
    open_with(device.path(), O_DIRECT)?.write_all_at(first.bytes(), 0)?;
    let a = care.incremental()?;
    for (point, image) in [(&full, &first), (&b, &second), (&a, &first)] {
        care.ensure_restores_to(&point.id, image, &format!("A→B→A, {}", point.id))?;
    }
    Ok(())
}

/// M15: the page cache of the block device is stale against what a mounted file system wrote.
#[test]
fn m15_stale_cache() -> Result<()> {
    skip_if!(host::no_tracking(), "museum::m15_stale_cache");
    skip_if!(host::no_filesystem("ext4"), "museum::m15_stale_cache");
    let mut random = Random::for_test("museum::m15_stale_cache");
    const SIZES: [&[&str]; 3] = [&["-b", "1024"], &["-b", "2048"], &["-b", "4096"]];
    for mkfs in SIZES {
        let scratch = Scratch::new("m15")?;
        let device = Loop::new(&scratch, "disk", 64 << 20)?;
        files::Kind { name: "ext4", mkfs, mount: "" }.make(device.path())?;
        let mounted = Mounted::new(&scratch, device.path(), "")?;
        let file = mounted.point().join("data");
        put(&file, &random.bytes(16 << 20))?;
        rustix::fs::sync();
        let care = Protected::new(&scratch, device.path())?;
        // fills the device's own page cache with what is about to become old
        std::fs::File::open(device.path())?.read_to_end(&mut Vec::new())?;
        let full = care.backup(&[])?;
        ensure!(full.kind() == "full");
        open_with(&file, O_DIRECT)?.write_all_at(&Aligned::random(16 << 20, &mut random), 0)?;
        rustix::fs::sync();
        let wanted = std::fs::read(&file)?;
        let point = care.incremental()?;
        let restored = Loop::on(&care.restore_file(&point.id)?, &[])?;
        let copy = Mounted::new(&scratch, restored.path(), "ro")?;
        let got = std::fs::read(copy.point().join("data"))?;
        ensure!(got == wanted, "{mkfs:?}: the restored file is not the newest");
    }
    Ok(())
}

/// M16: 512-byte reads fail on a device with 4 KiB sectors; that must not become a skip.
#[test]
fn m16_four_kib_sectors() -> Result<()> {
    skip_if!(host::no_tracking(), "museum::m16_four_kib_sectors");
    round_trip("museum::m16_four_kib_sectors", 4096 * 4099, 4096)
}

/// M28: a store on the device it protects is refused, in words.
#[test]
fn m28_store_on_the_tracked_device() -> Result<()> {
    const NAME: &str = "museum::m28_store_on_the_tracked_device";
    skip_if!(host::no_tracking(), NAME);
    skip_if!(host::no_filesystem("ext4"), NAME);
    let scratch = Scratch::new("m28")?;
    let device = Loop::new(&scratch, "disk", 64 << 20)?;
    let parts = device.partition("label: dos\nstart=2048\n")?;
    KINDS[0].make(&parts[0])?;
    let mounted = Mounted::new(&scratch, &parts[0], "")?;
    let mut care = Protected::new(&scratch, device.path())?;
    let inside = mounted.point().join("file.img");
    std::fs::File::create(&inside)?.set_len(30 << 20)?;
    let nested = Loop::on(&inside, &[])?;
    KINDS[0].make(nested.path())?;
    let deeper = Mounted::new(&scratch, nested.path(), "")?;
    for folder in [mounted.point(), deeper.point()] {
        care.repo = folder.join("repo");
        let ended = care.home.run(care.backup_words(&[]))?;
        ensure!(matches!(ended.code, Some(1 | 2)), "a store in {} was accepted: {ended}", folder.display());
        ensure!(ended.err.contains("repo") || ended.err.contains("store"), "does not say why: {ended}");
        ensure!(!has_point(&care.repo), "refused, but a point was written");
    }
    Ok(())
}

fn has_point(repo: &Path) -> bool {
    std::fs::read_dir(repo.join("bak")).is_ok_and(|mut entries| entries.next().is_some())
}
