//! Promise: exit codes, `--json` and silence in a pipe are as documented, so that scripts can rely on them.

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use std::process::{Command, Stdio};
use tests::device::{Loop, O_DIRECT, open_with};
use tests::fault::files_below;
use tests::host;
use tests::image::{Aligned, fill};
use tests::product::{Ended, Home, binary};
use tests::protected::Protected;
use tests::random::Random;
use tests::scratch::Scratch;
use tests::skip_if;

use std::os::unix::fs::FileExt;

const VERBS: &[&str] = &[
    "track", "untrack", "status", "diff", "backup", "watch", "monitor", "list", "restore", "check", "cat",
    "export",
];

#[test]
fn every_verb_has_help_with_an_example() -> Result<()> {
    for verb in VERBS {
        let ended = Ended::of(Command::new(binary()?).args([verb, "--help"]))?.expect(0, verb)?;
        ensure!(
            ended.out.contains("xample") && ended.out.contains(&format!("blkdelta {verb}")),
            "{verb}: {ended}"
        );
    }
    Ok(())
}

#[test]
fn wrong_usage_is_2_and_a_failure_1() -> Result<()> {
    let scratch = Scratch::new("cli")?;
    let home = Home::new(&scratch)?;
    let missing = scratch.path().join("missing").display().to_string();
    for words in
        [&[][..], &["frobnicate"], &["track"], &["backup", "/dev/null"], &["restore", "--repo", &missing]]
    {
        home.run(words)?.expect(2, &format!("{words:?}"))?;
    }
    for words in [
        &["track", &missing][..],
        &["track", "/dev/null"],
        &["diff", &missing],
        &["list", "--repo", &missing],
        &["check", "--repo", &missing],
        &["restore", "--repo", &missing, "--point", "latest", "x"],
    ] {
        let ended = home.run(words)?;
        ensure!(matches!(ended.code, Some(1 | 2)), "{words:?}: {ended}");
        ensure!(!ended.err.contains("panicked") && !ended.err.is_empty(), "{words:?}: {ended}");
        ensure!(ended.out.is_empty(), "{words:?} printed a result: {ended}");
    }
    Ok(())
}

#[test]
fn json_has_the_documented_shape() -> Result<()> {
    skip_if!(host::no_tracking(), "cli::json_has_the_documented_shape");
    let scratch = Scratch::new("json")?;
    let mut random = Random::for_test("cli::json");
    let device = Loop::new(&scratch, "disk", 8 << 20)?;
    fill(device.path(), &mut random)?;
    let care = Protected::new(&scratch, device.path())?;
    let full = care.backup(&[])?;
    open_with(device.path(), O_DIRECT)?.write_all_at(&Aligned::random(8192, &mut random), 1 << 20)?;
    let diff = care.home.json(["diff".as_ref(), device.path().as_os_str()])?;
    let first = &diff["extents"][0];
    ensure!(first["offset"] == 1 << 20 && first["length"] == 8192, "diff: {diff}");
    let increment = care.incremental()?;
    ensure!(care.points()? == [full.id.as_str(), increment.id.as_str()], "list: {:?}", care.points()?);
    let status = care.home.json(["status"])?;
    ensure!(status.to_string().contains(device.path().to_str().unwrap_or("?")), "status: {status}");
    Ok(())
}

/// M20, M29: an id is exactly that: no prefix, no path, no pattern.
#[test]
fn ids_are_exact() -> Result<()> {
    skip_if!(host::no_tracking(), "cli::ids_are_exact");
    let scratch = Scratch::new("ids")?;
    let device = Loop::new(&scratch, "disk", 1 << 20)?;
    let care = Protected::new(&scratch, device.path())?;
    let id = care.backup(&[])?.id;
    let lower = id.to_lowercase();
    let odd = ["", "(", "*", "../bak", "/etc/passwd", "latest2", &id[..8], &id[1..], &lower[..25]];
    for wrong in odd {
        let target = scratch.fresh("target");
        let ended = care.restore(wrong, &target)?;
        ensure!(matches!(ended.code, Some(1 | 2)) && !ended.err.contains("panicked"), "{wrong:?}: {ended}");
        ensure!(!target.exists(), "{wrong:?} left a target");
    }
    Ok(())
}

#[test]
fn nothing_but_the_result_in_a_pipe() -> Result<()> {
    skip_if!(host::no_tracking(), "cli::nothing_but_the_result_in_a_pipe");
    let scratch = Scratch::new("pipe")?;
    let mut random = Random::for_test("cli::pipe");
    let device = Loop::new(&scratch, "disk", 16 << 20)?;
    fill(device.path(), &mut random)?;
    let care = Protected::new(&scratch, device.path())?;
    let ended = care.home.run(care.backup_words(&["--json"]))?.expect(0, "backup")?;
    serde_json::from_str::<Value>(&ended.out).with_context(|| format!("not one JSON value: {ended}"))?;
    ensure!(!ended.err.contains('\r') && !ended.err.contains('\x1b'), "terminal codes in a pipe: {ended}");
    let target = scratch.path().join("out.img");
    let ended = care.restore("latest", &target)?.expect(0, "restore")?;
    ensure!(!(ended.out + &ended.err).contains(['\r', '\x1b']), "terminal codes in a pipe");
    closed_pipe(&care)
}

/// A reader that goes away (`| head -0`) is no panic.
fn closed_pipe(care: &Protected<'_>) -> Result<()> {
    let mut command = care.home.command(["list", "--json", "--repo", &care.repo.display().to_string()])?;
    let mut child = command.stdout(Stdio::piped()).spawn()?;
    drop(child.stdout.take());
    let output = child.wait_with_output()?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(!said.contains("panicked"), "a closed pipe: {said}");
    Ok(())
}

#[test]
fn a_suspect_point_exits_with_3() -> Result<()> {
    skip_if!(host::no_tracking(), "cli::a_suspect_point_exits_with_3");
    let scratch = Scratch::new("suspect")?;
    let mut random = Random::for_test("cli::suspect");
    let device = Loop::new(&scratch, "disk", 8 << 20)?;
    fill(device.path(), &mut random)?;
    let care = Protected::new(&scratch, device.path())?;
    care.backup(&[])?;
    // a program that no longer watches can never be trusted
    let pins = care.home.path().join("bpf");
    let links = files_below(&pins)?.into_iter().filter(|p| p.to_string_lossy().contains("link_"));
    links.into_iter().try_for_each(std::fs::remove_file)?;
    let status = care.home.run(["status".as_ref(), device.path().as_os_str()])?;
    ensure!(status.code == Some(3), "status without programs: {status}");
    ensure!(care.backup(&[])?.code == 3, "a backup without programs is not suspect");
    Ok(())
}

#[test]
fn status_of_one_lost_device_does_not_hide_the_others() -> Result<()> {
    const NAME: &str = "cli::status_of_one_lost_device_does_not_hide_the_others";
    skip_if!(host::no_tracking(), NAME);
    let scratch = Scratch::new("lost")?;
    let good = Loop::new(&scratch, "good", 8 << 20)?;
    let lost = Loop::new(&scratch, "lost", 8 << 20)?;
    let care = Protected::new(&scratch, good.path())?;
    care.home.ok(["track".as_ref(), lost.path().as_os_str()])?;
    std::fs::OpenOptions::new().write(true).open(lost.backing())?.set_len(12 << 20)?;
    host::run("losetup", ["-c".as_ref(), lost.path().as_os_str()])?;
    let names = [good.path().display().to_string(), lost.path().display().to_string()];
    for round in ["resized", "detached"] {
        let status = care.home.run(["status"])?;
        // the table has the good one, standard error the reason for the other
        let said = [status.out.as_str(), &status.err].concat();
        ensure!(names.iter().all(|n| said.contains(n)), "{round}: {status}");
        // a resize is followed; a device that is gone is not
        let code = if round == "resized" { 0 } else { 3 };
        ensure!(status.code == Some(code), "{round}: {status}");
        if round == "resized" {
            host::run("losetup", ["-d".as_ref(), lost.path().as_os_str()])?;
        }
    }
    Ok(())
}

#[test]
fn targets_in_use_are_refused() -> Result<()> {
    skip_if!(host::no_tracking(), "cli::targets_in_use_are_refused");
    let scratch = Scratch::new("target")?;
    let mut random = Random::for_test("cli::target");
    let device = Loop::new(&scratch, "disk", 32 << 20)?;
    tests::files::KINDS[0].make(device.path())?;
    let care = Protected::new(&scratch, device.path())?;
    care.backup(&[])?;
    let small = Loop::new(&scratch, "small", 16 << 20)?;
    let used = Loop::new(&scratch, "used", 32 << 20)?;
    tests::files::KINDS[0].make(used.path())?;
    let mounted = tests::device::Mounted::new(&scratch, used.path(), "")?;
    let there = scratch.path().join("there.img");
    tests::device::put(&there, &random.bytes(4096))?;
    for target in [small.path(), used.path(), device.path(), &there] {
        let ended = care.restore("latest", target)?;
        ensure!(matches!(ended.code, Some(1 | 2)), "restore onto {}: {ended}", target.display());
        ensure!(ended.err.contains("--"), "does not say which option would allow it: {ended}");
    }
    ensure!(std::fs::metadata(&there)?.len() == 4096, "a refused target was touched");
    mounted.unmount()
}
