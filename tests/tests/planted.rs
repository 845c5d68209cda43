//! Promise: a fault anywhere in the chain from the kernel's hooks to the restored disk is noticed, and where there is
//! none nobody cries wolf.
//!
//! `cargo xtask test --faults [FILTER]` plants all of them and ends with a table; without it a handful is tried. Faults
//! in the programs need an object of their own, which that verb builds.

use anyhow::{Result, ensure};
use std::path::{Path, PathBuf};
use std::time::Duration;
use tests::planted::{Check, FAULTS, Fault, Trial, Tried, try_out};
use tests::{host, skip_if};

/// What the ordinary run plants.
const FEW: [&str; 6] = [
    "retired-too-many",
    "end-lost",
    "grace-skipped",
    "saved-map-cut",
    "suspect-not-compared",
    "inode-block-forgotten",
];

fn program() -> &'static Path {
    Path::new(env!("CARGO_BIN_EXE_blkdelta-trial"))
}

/// What `cargo xtask test --faults` was asked for; `None`: the ordinary run.
fn filter() -> Option<String> {
    std::env::var("BLKDELTA_TEST_FAULTS").ok()
}

fn chosen() -> Vec<&'static Fault> {
    let filter = filter();
    let wanted = |fault: &&Fault| match &filter {
        Some(filter) => fault.plants.contains(filter.as_str()),
        None => FEW.contains(&fault.plants),
    };
    FAULTS.iter().filter(wanted).collect()
}

/// Trials of the chosen faults, each once.
fn trials(faults: &[&Fault]) -> Vec<Trial> {
    let used = |trial: &&Trial| faults.iter().any(|fault| fault.trial == **trial);
    Trial::ALL.iter().filter(used).copied().collect()
}

fn seconds(took: Duration) -> String {
    format!("{:.1} s", took.as_secs_f64())
}

#[test]
fn nothing_planted_nothing_noticed() -> Result<()> {
    const NAME: &str = "planted::nothing_planted_nothing_noticed";
    skip_if!(host::no_tracking(), NAME);
    skip_if!(host::no_filesystem("ext4"), NAME);
    let mut alarms = Vec::new();
    for trial in trials(&chosen()) {
        let tried = match try_out(program(), None, trial, "") {
            Ok(tried) => tried,
            Err(error) => {
                alarms.push(format!("{error:#}"));
                continue;
            }
        };
        host::say(&format!("  {:<32} {:>7}  {:?}", trial.name(), seconds(tried.took), tried.by()));
        alarms.extend(tried.noticed.iter().map(|(check, what)| format!("{}: {check}: {what}", trial.name())));
    }
    ensure!(alarms.is_empty(), "FALSE ALARMS:\n{}", alarms.join("\n"));
    Ok(())
}

/// Four slots are few, and all the same nothing is lost and nothing is noticed: a control for the faults beside it.
#[test]
fn few_slots_are_no_fault() -> Result<()> {
    const NAME: &str = "planted::few_slots_are_no_fault";
    skip_if!(host::no_tracking(), NAME);
    skip_if!(host::no_filesystem("ext4"), NAME);
    let without = std::env::var_os("BLKDELTA_PLANT_OBJECT").is_none();
    skip_if!(without.then(|| "no programs to plant in: cargo xtask test --faults".to_owned()), NAME);
    let tried = try_out(program(), None, Trial::Flight, "few-slots")?;
    ensure!(tried.noticed.is_empty(), "FALSE ALARM: {:?}", tried.noticed);
    Ok(())
}

#[test]
fn every_planted_fault_is_noticed() -> Result<()> {
    const NAME: &str = "planted::every_planted_fault_is_noticed";
    skip_if!(host::no_tracking(), NAME);
    skip_if!(host::no_filesystem("ext4"), NAME);
    let faults = chosen();
    let mut rows = vec!["| fault | planted in | noticed by | time |".into(), "|---|---|---|--:|".into()];
    let (mut unnoticed, mut oracle_only) = (Vec::new(), 0);
    for fault in &faults {
        let tried = try_out(program(), None, fault.trial, fault.plants);
        let (by, took) = match &tried {
            Ok(tried) => (tried.by().join(", "), seconds(tried.took)),
            Err(error) => (format!("THE TRIAL FAILED: {error:#}"), String::new()),
        };
        host::say(&format!("  {:<38} {took:>7}  {by}", fault.plants));
        let noticed = tried.as_ref().is_ok_and(|tried| !tried.noticed.is_empty());
        if !noticed {
            unnoticed.push(fault.plants);
        }
        oracle_only += usize::from(noticed && by == Check::Oracle.to_string());
        tell(&tried);
        rows.push(format!("| {} (`{}`) | {} | {by} | {took} |", fault.what, fault.plants, fault.place));
    }
    if filter().is_some() {
        host::say(&format!("\n{}\n", rows.join("\n")));
    }
    let all = faults.len();
    host::say(&format!(
        "{NAME}: {} of {all} noticed, {oracle_only} of them by the oracle alone",
        all - unnoticed.len()
    ));
    ensure!(unnoticed.is_empty() && all > 0, "NOT NOTICED: {unnoticed:?}");
    Ok(())
}

fn tell(tried: &Result<Tried>) {
    for (check, what) in tried.iter().flat_map(|tried| &tried.noticed) {
        host::say(&format!("      {check}: {}", what.chars().take(160).collect::<String>()));
    }
}

/// The release program knows nothing of all this: no name of it is in there, and planting changes nothing.
#[test]
fn a_release_cannot_be_planted() -> Result<()> {
    const NAME: &str = "planted::a_release_cannot_be_planted";
    skip_if!(host::no_tracking(), NAME);
    let release = std::env::var_os("BLKDELTA_RELEASE").map(PathBuf::from);
    skip_if!(
        release.is_none().then(|| "no release program was built: cargo xtask test --faults".to_owned()),
        NAME
    );
    let release = release.unwrap_or_default();
    let bytes = std::fs::read(&release)?;
    let holds = |bytes: &[u8], word: &str| bytes.windows(word.len()).any(|w| w == word.as_bytes());
    let ours = std::fs::read(tests::product::binary()?)?;
    for word in ["BLKDELTA_PLANT", "suspect-not-compared", "slot-freed-early"] {
        ensure!(holds(&ours, word), "{word} is not even in the program that has it: this test is of no use");
        ensure!(!holds(&bytes, word), "{word} is in {}", release.display());
    }
    // this trial only runs the program, so the faults would have to be its own
    let tried = try_out(program(), Some(&release), Trial::Writes, "unseen,late,suspect-dropped")?;
    ensure!(tried.noticed.is_empty(), "something is planted: {:?}", tried.noticed);
    Ok(())
}
