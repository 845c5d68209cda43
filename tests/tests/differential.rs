//! Promise: a difference can be made since any point that is kept, however many backups to however many repositories
//! were made in between, and nothing that changed since that point is left out of it.

use anyhow::{Context, Result, ensure};
use std::path::PathBuf;
use tests::device::Loop;
use tests::image::{Image, fill};
use tests::machine::Machine;
use tests::product::Ended;
use tests::protected::{Point, Protected};
use tests::random::Random;
use tests::scratch::Scratch;
use tests::workload::churn;
use tests::{host, skip_if};

/// What a backup made, and what the device held.
type Made = (PathBuf, Point, Image);

fn parent(point: &Point) -> String {
    point.json["parent"]["point"].as_str().unwrap_or_default().to_owned()
}

/// Why its difference could not be proved.
fn doubts(point: &Point) -> usize {
    point.json["suspect"].as_array().map_or(usize::MAX, Vec::len)
}

fn keep(care: &Protected<'_>, what: &str, more: &[&str]) -> Result<Ended> {
    let (device, repo) = (care.device.display().to_string(), care.repo.display().to_string());
    let words = ["keep-since", &device, what, "--repo", &repo];
    care.home.run(words.iter().chain(more))
}

/// Backs up the device as it stands, and insists that the point holds it.
fn made(care: &Protected<'_>, more: &[&str]) -> Result<Made> {
    let now = Image::of(&care.device)?;
    let point = care.backup(more)?;
    care.ensure_restores_to(&point.id, &now, &format!("{more:?}"))?;
    Ok((care.repo.clone(), point, now))
}

fn ensure_all(care: &mut Protected<'_>, all: &[Made]) -> Result<()> {
    for (repo, point, image) in all {
        care.repo.clone_from(repo);
        care.ensure_restores_to(&point.id, image, "in the end")?;
    }
    Ok(())
}

#[test]
fn since_a_full_a_named_point_and_the_last_one() -> Result<()> {
    const NAME: &str = "differential::since_a_full_a_named_point_and_the_last_one";
    skip_if!(host::no_tracking(), NAME);
    let scratch = Scratch::new("since")?;
    let mut random = Random::for_test(NAME);
    let device = Loop::new(&scratch, "disk", 16 << 20)?;
    fill(device.path(), &mut random)?;
    let mut care = Protected::new(&scratch, device.path())?;
    let mut all = vec![made(&care, &[])?];
    let full = all[0].1.id.clone();
    keep(&care, "latest-full", &[])?.expect(0, "keep the last full")?;
    churn(device.path(), &mut random, 20)?;
    all.push(made(&care, &[])?);
    let named = all[1].1.id.clone();
    keep(&care, &named, &[])?.expect(0, "keep a point by its name")?;
    for round in 0..9 {
        churn(device.path(), &mut random, 12)?;
        let (words, wanted): (&[&str], _) = match round % 4 {
            0 => (&["--since", "latest-full"], full.clone()),
            1 => (&[], all.last().context("the last")?.1.id.clone()),
            2 => (&["--since", &named], named.clone()),
            _ => (&["--since", "latest"], all.last().context("the last")?.1.id.clone()),
        };
        let one = made(&care, words)?;
        ensure!(doubts(&one.1) == 0 && parent(&one.1) == wanted, "{words:?}: {}", one.1.json);
        all.push(one);
    }
    let rows = care.home.json(["status"])?;
    let starts = rows[0]["start_points"].as_array().context("start points in status")?.clone();
    host::say(&format!("{NAME}: {}", rows[0]["start_points"]));
    ensure!(
        starts.len() == 3 && starts.iter().take(2).all(|s| s["list_bytes"].as_u64() > Some(0)),
        "{starts:?}"
    );
    // given up: from now on it is refused, with what could be done, and nothing else is done instead
    keep(&care, &named, &["--drop"])?.expect(0, "keep it no longer")?;
    let points = care.points()?.len();
    let refused =
        care.home.run(care.backup_words(&["--since", &named]))?.expect(1, "since a point given up")?;
    ensure!(refused.err.contains("keep-since") && refused.err.contains(&full), "{refused}");
    keep(&care, &named, &[])?.expect(1, "keep what is not known any more")?;
    ensure!(care.points()?.len() == points, "a point was made all the same");
    ensure_all(&mut care, &all)
}

#[test]
fn two_repositories_in_turn_cost_one_full_each() -> Result<()> {
    const NAME: &str = "differential::two_repositories_in_turn_cost_one_full_each";
    skip_if!(host::no_tracking(), NAME);
    let scratch = Scratch::new("turns")?;
    let mut random = Random::for_test(NAME);
    let device = Loop::new(&scratch, "disk", 16 << 20)?;
    fill(device.path(), &mut random)?;
    let mut care = Protected::new(&scratch, device.path())?;
    let repos = [care.repo.clone(), scratch.fresh("repo2")];
    let mut all = Vec::new();
    for (round, which) in [0, 1, 0, 0, 1, 1, 0, 1].into_iter().enumerate() {
        churn(device.path(), &mut random, 15)?;
        care.repo.clone_from(&repos[which]);
        let one = made(&care, &[])?;
        ensure!(one.1.kind() == if round < 2 { "full" } else { "incremental" }, "{round}: {}", one.1.json);
        all.push(one);
    }
    ensure_all(&mut care, &all)
}

/// The steps in which what was retired goes over to the start points.
const STEPS: [&str; 7] = [
    "epoch.after-list",
    "epoch.after-lists",
    "epoch.before-retire",
    "record.after-note",
    "epoch.before-state",
    "epoch.after-retire",
    "publish.before-rename",
];

#[test]
fn killed_at_every_step_nothing_is_forgotten_for_any_start_point() -> Result<()> {
    const NAME: &str = "differential::killed_at_every_step_nothing_is_forgotten_for_any_start_point";
    skip_if!(host::no_tracking(), NAME);
    let scratch = Scratch::new("kills")?;
    let mut random = Random::for_test(NAME);
    let device = Loop::new(&scratch, "disk", 8 << 20)?;
    fill(device.path(), &mut random)?;
    let mut care = Protected::new(&scratch, device.path())?;
    let repos = [care.repo.clone(), scratch.fresh("repo2")];
    made(&care, &[])?;
    keep(&care, "latest-full", &[])?.expect(0, "keep the last full")?;
    care.repo.clone_from(&repos[1]);
    made(&care, &[])?;
    // errors last: a list that could not be written makes a start point suspect, and what is compared hides what is lost
    let cases = ["kill", "kill@2", "error"]
        .into_iter()
        .flat_map(|action| STEPS.map(|step| format!("{step}={action}")));
    for (round, arm) in cases.enumerate() {
        churn(device.path(), &mut random, 6)?;
        care.repo.clone_from(&repos[round % 2]);
        let ended = care.home.run_failing(&arm, care.backup_words(&[]))?;
        let hit = ended.signal == Some(9) || ended.err.contains("failpoint");
        ensure!(hit || arm.ends_with("@2") || arm.contains("publish"), "{arm} was not reached: {ended}");
        churn(device.path(), &mut random, 3)?;
        for (which, more) in [(round % 2, &[][..]), (1 - round % 2, &[]), (0, &["--since", "latest-full"])] {
            care.repo.clone_from(&repos[which]);
            let one = made(&care, more).with_context(|| format!("after {arm}"))?;
            ensure!(one.1.kind() == "incremental", "{arm}: {}", one.1.json);
            ensure!(doubts(&one.1) == 0 || arm.ends_with("error"), "{arm}: suspect: {}", one.1.json);
        }
    }
    Ok(())
}

#[test]
fn over_a_reboot_a_start_point_is_proved_or_compared() -> Result<()> {
    const NAME: &str = "differential::over_a_reboot_a_start_point_is_proved_or_compared";
    skip_if!(host::no_tracking(), NAME);
    let scratch = Scratch::new("since-reboot")?;
    let mut machine = Machine::new(&scratch, NAME, 16 << 20, None)?;
    keep(&machine.care, "latest-full", &[])?.expect(0, "keep the last full")?;
    for clean in [true, false, true] {
        for _ in 0..2 {
            let device = machine.care.device.clone();
            churn(&device, &mut machine.random, 15)?;
            made(&machine.care, &[])?;
        }
        let device = machine.care.device.clone();
        churn(&device, &mut machine.random, 15)?;
        if clean {
            machine.saved()?;
        }
        machine.reboot()?;
        let row = machine.resume()?;
        ensure!(row["outcome"] == if clean { "proved" } else { "suspect" }, "{row}");
        let device = machine.care.device.clone();
        churn(&device, &mut machine.random, 5)?;
        let one = made(&machine.care, &["--since", "latest-full"])?;
        ensure!(one.1.kind() == "incremental", "{}", one.1.json);
        // after the crash every difference to a point before it compares
        let first = clean && machine.care.points()?.len() < 8;
        ensure!((doubts(&one.1) == 0) == first, "clean {clean}: {}", one.1.json);
        if !first {
            ensure!(!one.1.json["suspect_handled"].is_null(), "{}", one.1.json);
        }
    }
    // a new full is a new start: nothing is suspect any more
    made(&machine.care, &["--full"])?;
    let device = machine.care.device.clone();
    churn(&device, &mut machine.random, 5)?;
    made(&machine.care, &[])?;
    let one = made(&machine.care, &["--since", "latest-full"])?;
    ensure!(doubts(&one.1) == 0, "{}", one.1.json);
    Ok(())
}

/// A chain has one size: what changed since points of another size is given up, said at once and never guessed. What was
/// wished (the last full) holds for the points that come.
#[test]
fn a_resize_gives_up_start_points_and_says_so() -> Result<()> {
    const NAME: &str = "differential::a_resize_gives_up_start_points_and_says_so";
    skip_if!(host::no_tracking(), NAME);
    let scratch = Scratch::new("since-resize")?;
    let mut random = Random::for_test(NAME);
    let device = Loop::new(&scratch, "disk", 24 << 20)?;
    fill(device.path(), &mut random)?;
    device.resize(16 << 20)?;
    let mut care = Protected::new(&scratch, device.path())?;
    let repos = [care.repo.clone(), scratch.fresh("repo2")];
    let mut all = Vec::new();
    for size in [24u64 << 20, 12 << 20] {
        for repo in &repos {
            care.repo.clone_from(repo);
            all.push(made(&care, &[])?);
            keep(&care, "latest-full", &[])?.expect(0, "keep the last full")?;
            churn(device.path(), &mut random, 8)?;
            all.push(made(&care, &[])?);
        }
        let named = all.last().context("the last")?.1.id.clone();
        keep(&care, &named, &[])?.expect(0, "keep a point by its name")?;
        churn(device.path(), &mut random, 8)?;
        device.resize(size)?;
        churn(device.path(), &mut random, 8)?;
        let points = care.points()?.len();
        for since in ["latest-full", &named, "latest"] {
            let ended =
                care.home.run(care.backup_words(&["--since", since]))?.expect(1, "since before it")?;
            ensure!(ended.err.contains("try:") && !ended.err.contains("panicked"), "{since}: {ended}");
        }
        ensure!(care.points()?.len() == points, "a point was made all the same");
        let status = care.home.json(["status"])?;
        host::say(&format!("{NAME}: start points after a resize: {}", status[0]["start_points"]));
        start_anew(&mut care, &repos, size, &mut random, &mut all)?;
    }
    ensure_all(&mut care, &all)
}

/// The next point of each repository is a full one, whole and of the new size, and the wish holds for it.
fn start_anew(
    care: &mut Protected<'_>,
    repos: &[PathBuf],
    size: u64,
    random: &mut Random,
    all: &mut Vec<Made>,
) -> Result<()> {
    for repo in repos {
        care.repo.clone_from(repo);
        let one = made(care, &[])?;
        ensure!(one.1.kind() == "full" && doubts(&one.1) == 0, "{size}: {}", one.1.json);
        ensure!(one.2.size() == size, "{} bytes", one.2.size());
        let full = one.1.id.clone();
        all.push(one);
        churn(&care.device, random, 8)?;
        all.push(made(care, &[])?);
        churn(&care.device, random, 8)?;
        let one = made(care, &["--since", "latest-full"])?;
        ensure!(one.1.kind() == "incremental" && parent(&one.1) == full, "{}", one.1.json);
        ensure!(doubts(&one.1) == 0, "{}", one.1.json);
        all.push(one);
    }
    Ok(())
}
