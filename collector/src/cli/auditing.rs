//! `audit`.

use super::args::Audit;
use super::output::{Ending, print, print_json, say};
use super::progress::{Bar, stop_flag};
use super::show::{bytes, time};
use crate::audit::{self, Report, Share};
use crate::repository::Repository;
use crate::tracker::Places;
use anyhow::Result;

/// Mismatches that are shown to a person; programs get all.
const SHOWN: usize = 20;

/// Compares what the list calls clean. Exit code 3 if the device is suspect, by this audit or before it.
pub fn audit(args: &Audit) -> Result<Ending> {
    let share = if args.all { Share::All } else { Share::Sample(args.sample) };
    let repo = Repository::open(&args.repo)?;
    let bar = Bar::new(stop_flag()?);
    let report = audit::audit(&Places::from_env(), &args.device, &repo, share, &bar)?;
    bar.clear();
    if !report.mismatches.is_empty() {
        say(&alarm(&report));
    }
    for reason in &report.suspect {
        say(&format!("suspect: {reason}"));
    }
    if args.json {
        print_json(&report)?;
    } else {
        print(&words(&report))?;
    }
    Ok(if report.suspect.is_empty() { Ending::Fine } else { Ending::Suspect })
}

/// What must not be overlooked.
fn alarm(report: &Report) -> String {
    let mut text = format!(
        "blkdelta: AUDIT FAILED: {}: {} in {} places differ from point {} and are not on the difference list.\n",
        report.device.display(),
        bytes(report.mismatches.total()),
        report.mismatches.len(),
        report.base_point
    );
    for extent in report.mismatches.iter().take(SHOWN) {
        text += &format!("  {} bytes at {}\n", extent.length, extent.offset);
    }
    if report.mismatches.len() > SHOWN {
        text += &format!("  … {} more, see --json\n", report.mismatches.len() - SHOWN);
    }
    text + "  Points made since the last full one may be wrong there. Back up now: everything is then compared."
}

fn words(report: &Report) -> String {
    let mut text = format!(
        "{}: compared {} of the {} from byte {} on with point {}: {} listed as changed, {} unused or not in the \
         point; {} differ\n",
        report.device.display(),
        bytes(report.compared_bytes),
        bytes(report.stretch.length),
        report.stretch.offset,
        report.base_point,
        bytes(report.listed_bytes),
        bytes(report.not_held_bytes),
        bytes(report.mismatches.total()),
    );
    text += &format!(
        "read {} of the device, {} of the repository\n",
        bytes(report.read_bytes),
        bytes(report.stored_bytes)
    );
    if let Some(rotation) = &report.rotation {
        let done = rotation.next as f64 * 100.0 / rotation.size.max(1) as f64;
        text += &format!("{done:.1} % of this rotation, {} completed", rotation.completed);
        if let Some(at) = rotation.last_completed_ms {
            text += &format!(", the last one {} UTC", time(at));
        }
        text.push('\n');
    }
    text
}
