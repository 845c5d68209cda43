//! Promise: a list that no longer belongs to the device is never taken for a true one (museum M5, M10, M14).
//!
//! After each trick the product may refuse, make a full, or compare everything; what it must not do is to make a point
//! that restores to something else than the device held.

use anyhow::{Result, ensure};
use collector::tracker::Places;
use std::path::{Path, PathBuf};
use tests::device::{Loop, open_with, size_of};
use tests::image::{Image, fill};
use tests::oracle::judge;
use tests::protected::{Protected, ensure_same};
use tests::random::Random;
use tests::scratch::Scratch;
use tests::workload::churn;
use tests::{host, skip_if};

/// The next backup restores to what the device holds now, or is refused and does so after tracking anew.
fn ensure_honest(care: &Protected<'_>, what: &str) -> Result<()> {
    let now = Image::of(&care.device)?;
    match care.backup(&[]) {
        Ok(point) => {
            host::say(&format!("  {what}: a {} with exit code {}", point.kind(), point.code));
            care.ensure_restores_to(&point.id, &now, what)
        }
        Err(refused) => {
            host::say(&format!("  {what}: refused: {}", one_line(&refused)));
            track_anew(care)?;
            let point = care.backup(&[])?;
            care.ensure_restores_to(&point.id, &now, &format!("{what}, after tracking anew"))
        }
    }
}

/// What a person does whose tracking is broken.
fn track_anew(care: &Protected<'_>) -> Result<()> {
    // "not tracked" is fine here
    let _ = care.home.run(["untrack".as_ref(), care.device.as_os_str()]);
    care.home.ok(["track".as_ref(), care.device.as_os_str()]).map(|_| ())
}

fn one_line(error: &anyhow::Error) -> String {
    format!("{error:#}").split_whitespace().collect::<Vec<_>>().join(" ").chars().take(240).collect()
}

/// M5: the device grows and shrinks while tracked. What comes next must not be called complete without the new part.
#[test]
fn m5_resize() -> Result<()> {
    skip_if!(host::no_tracking(), "identity::m5_resize");
    let scratch = Scratch::new("m5")?;
    let mut random = Random::for_test("identity::m5_resize");
    let device = Loop::new(&scratch, "disk", 24 << 20)?;
    fill(device.path(), &mut random)?;
    let care = Protected::new(&scratch, device.path())?;
    care.backup(&[])?;
    for (what, size) in [("grown", 40u64 << 20), ("shrunk", 20 << 20), ("odd", 512 * 65_537)] {
        std::fs::OpenOptions::new().write(true).open(device.backing())?.set_len(size)?;
        host::run("losetup", ["-c".as_ref(), device.path().as_os_str()])?;
        ensure!(size_of(device.path())? == size);
        churn(device.path(), &mut random, 60)?;
        let now = Image::of(device.path())?;
        match care.backup(&[]) {
            Ok(point) => care.ensure_restores_to(&point.id, &now, what)?,
            Err(refused) => {
                host::say(&format!("identity::m5_resize: {what}: refused: {refused:#}"));
                care.home.ok(["untrack".as_ref(), device.path().as_os_str()])?;
                care.home.ok(["track".as_ref(), device.path().as_os_str()])?;
                let point = care.backup(&[])?;
                care.ensure_restores_to(&point.id, &now, what)?;
            }
        }
    }
    Ok(())
}

/// M10: another image under the same device name.
#[test]
fn m10_another_disk_under_the_same_name() -> Result<()> {
    const NAME: &str = "identity::m10_another_disk_under_the_same_name";
    skip_if!(host::no_tracking(), NAME);
    let scratch = Scratch::new("m10a")?;
    let mut random = Random::for_test(NAME);
    let first = Loop::new(&scratch, "first", 16 << 20)?;
    let second = Loop::new(&scratch, "second", 16 << 20)?;
    fill(first.path(), &mut random)?;
    fill(second.path(), &mut random)?;
    let care = Protected::new(&scratch, first.path())?;
    care.backup(&[])?;
    let (name, other) = (first.path().to_path_buf(), second.backing().to_path_buf());
    second.detach()?;
    first.detach()?;
    let _swapped = Loop::at(&name, &other)?;
    ensure!(size_of(&name)? == 16 << 20);
    ensure_honest(&care, "another image on the same loop device")
}

/// M10: the same image comes back after having been written elsewhere.
#[test]
fn m10_written_while_detached() -> Result<()> {
    const NAME: &str = "identity::m10_written_while_detached";
    skip_if!(host::no_tracking(), NAME);
    let scratch = Scratch::new("m10b")?;
    let mut random = Random::for_test(NAME);
    let device = Loop::new(&scratch, "disk", 16 << 20)?;
    fill(device.path(), &mut random)?;
    let care = Protected::new(&scratch, device.path())?;
    care.backup(&[])?;
    let (name, image) = (device.path().to_path_buf(), device.backing().to_path_buf());
    device.detach()?;
    // takes the freed number, so that the image gets another one
    let placeholder = Loop::new(&scratch, "placeholder", 1 << 20)?;
    let elsewhere = Loop::on(&image, &[])?;
    churn(elsewhere.path(), &mut random, 40)?;
    elsewhere.detach()?;
    placeholder.detach()?;
    let _back = Loop::at(&name, &image)?;
    ensure_honest(&care, "written while detached")
}

/// M10: pins disappear one by one, or all at once as in a reboot, and the device is written meanwhile.
#[test]
fn m10_unpinned() -> Result<()> {
    skip_if!(host::no_tracking(), "identity::m10_unpinned");
    let scratch = Scratch::new("m10c")?;
    let mut random = Random::for_test("identity::m10_unpinned");
    let device = Loop::new(&scratch, "disk", 8 << 20)?;
    fill(device.path(), &mut random)?;
    let care = Protected::new(&scratch, device.path())?;
    care.backup(&[])?;
    let mut failures = Vec::new();
    let pins = pins(Places::under(care.home.path()).pins());
    ensure!(!pins.is_empty(), "nothing is pinned");
    for pin in pins {
        let name = pin.strip_prefix(care.home.path()).unwrap_or(&pin).display().to_string();
        if !pin.exists() {
            continue;
        }
        std::fs::remove_file(&pin)?;
        let before = Image::of(&care.device)?;
        churn(&care.device, &mut random, 20)?;
        failures.extend(ensure_list_honest(&care, &before, &format!("without {name}")).err());
        failures.extend(ensure_honest(&care, &format!("without {name}")).err());
        if let Err(e) = track_anew(&care) {
            failures.push(e.context(format!("tracking anew without {name}")));
            // so that the next pin is tried on its own
            host::run("umount", [care.home.path().join("bpf")])?;
            track_anew(&care)?;
        }
        care.backup(&[])?;
    }
    host::run("umount", [care.home.path().join("bpf")])?;
    churn(&care.device, &mut random, 20)?;
    failures.extend(ensure_honest(&care, "without any pin, as after a reboot").err());
    let failures: Vec<String> = failures.iter().map(one_line).collect();
    ensure!(failures.is_empty(), "{} failures:\n{}", failures.len(), failures.join("\n"));
    Ok(())
}

/// The list is refused, called suspect, or complete.
fn ensure_list_honest(care: &Protected<'_>, before: &Image, what: &str) -> Result<()> {
    let after = Image::of(&care.device)?;
    match care.diff() {
        Ok((listed, suspect)) if suspect.is_empty() => {
            judge(before, &after, &listed).ensure_complete(&format!("diff {what}"))
        }
        _ => Ok(()),
    }
}

/// All pins, links first (they detach silently).
fn pins(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        match entry.file_type() {
            Ok(kind) if kind.is_dir() => found.extend(pins(&entry.path())),
            _ => found.push(entry.path()),
        }
    }
    found.sort_by_key(|p| !p.to_string_lossy().contains("link"));
    found
}

/// Two repositories take turns: what one got, the other must not miss.
#[test]
fn two_repositories_take_turns() -> Result<()> {
    skip_if!(host::no_tracking(), "identity::two_repositories_take_turns");
    let scratch = Scratch::new("turns")?;
    let mut random = Random::for_test("identity::two_repositories_take_turns");
    let device = Loop::new(&scratch, "disk", 8 << 20)?;
    fill(device.path(), &mut random)?;
    let mut care = Protected::new(&scratch, device.path())?;
    let repos = [scratch.fresh("a"), scratch.fresh("b")];
    for turn in [0, 1, 1, 0, 0, 1] {
        churn(device.path(), &mut random, 10)?;
        care.repo.clone_from(&repos[turn]);
        let now = Image::of(device.path())?;
        let point = care.backup(&[])?;
        care.ensure_restores_to(&point.id, &now, &format!("turn of {turn}: a {}", point.kind()))?;
    }
    Ok(())
}

/// The repository lost points, went away, or was replaced by an older copy of itself.
#[test]
fn the_parent_is_gone() -> Result<()> {
    skip_if!(host::no_tracking(), "identity::the_parent_is_gone");
    let scratch = Scratch::new("parent")?;
    let mut random = Random::for_test("identity::the_parent_is_gone");
    let device = Loop::new(&scratch, "disk", 8 << 20)?;
    fill(device.path(), &mut random)?;
    let care = Protected::new(&scratch, device.path())?;
    care.backup(&[])?;
    let copy = |from: &Path, to: &Path| host::run("cp", ["-a".as_ref(), from.as_os_str(), to.as_os_str()]);
    let old = scratch.fresh("old");
    copy(&care.repo, &old)?;
    churn(device.path(), &mut random, 10)?;
    care.incremental()?;
    churn(device.path(), &mut random, 10)?;
    std::fs::remove_dir_all(&care.repo)?;
    copy(&old, &care.repo)?;
    ensure_honest(&care, "an older copy of the repository")?;
    churn(device.path(), &mut random, 10)?;
    std::fs::remove_dir_all(&care.repo)?;
    ensure_honest(&care, "the repository was removed")
}

/// M14: two disks with the same content and file-system UUID, in one repository; then their names are exchanged.
#[test]
fn m14_twins() -> Result<()> {
    skip_if!(host::no_tracking(), "identity::m14_twins");
    let scratch = Scratch::new("m14")?;
    let mut random = Random::for_test("identity::m14_twins");
    let one = Loop::new(&scratch, "one", 16 << 20)?;
    fill(one.path(), &mut random)?;
    std::fs::copy(one.backing(), scratch.path().join("two.img"))?;
    let two = Loop::on(&scratch.path().join("two.img"), &[])?;
    let first = Protected::new(&scratch, one.path())?;
    let mut second = Protected::new(&scratch, two.path())?;
    second.repo.clone_from(&first.repo);
    let mut saved = Vec::new();
    for _ in 0..2 {
        for care in [&first, &second] {
            churn(&care.device, &mut random, 20)?;
            let now = Image::of(&care.device)?;
            saved.push((care.backup(&[])?, now));
        }
    }
    for (point, image) in &saved {
        ensure_same(&first.restored(&point.id)?, image, "two disks in one repository")?;
    }
    let names = [one.path().to_path_buf(), two.path().to_path_buf()];
    let images = [one.backing().to_path_buf(), two.backing().to_path_buf()];
    one.detach()?;
    two.detach()?;
    let _one = Loop::at(&names[0], &images[1])?;
    let _two = Loop::at(&names[1], &images[0])?;
    ensure_honest(&first, "the twins' names exchanged (first)")?;
    ensure_honest(&second, "the twins' names exchanged (second)")?;
    for (point, image) in &saved {
        ensure_same(&first.restored(&point.id)?, image, "old points after the exchange")?;
    }
    open_with(&names[0], 0).map(|_| ())
}
