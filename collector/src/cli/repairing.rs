//! `repair`.

use super::output::{Ending, print, print_json};
use super::progress::{Bar, stop_flag};
use crate::chain::{self, Repaired};
use crate::copy::Watch;
use crate::repository::Repository;
use anyhow::Result;
use clap::Args;

/// `repair`.
#[derive(Debug, Args)]
pub struct Repair {
    /// Repository: a folder or s3://BUCKET/PREFIX
    #[arg(long, value_name = "REPO")]
    repo: String,
    /// Only say what would be done
    #[arg(long)]
    dry_run: bool,
    /// For programs
    #[arg(long)]
    json: bool,
}

/// Makes good what can be made good.
pub fn repair(args: &Repair) -> Result<Ending> {
    let repo = Repository::open(&args.repo)?;
    let bar = Bar::new(stop_flag()?);
    let mut at = 0;
    let done = chain::repair(&repo, args.dry_run, &mut |points, total| {
        if at == 0 {
            bar.begin("repairing", total);
        }
        bar.advance(points.saturating_sub(at));
        at = points;
    })?;
    bar.clear();
    if args.json {
        print_json(&done)?;
    } else {
        print(&words(&done, args.dry_run))?;
    }
    Ok(if done.lost.is_empty() { Ending::Fine } else { Ending::Suspect })
}

fn words(done: &Repaired, dry_run: bool) -> String {
    let would = if dry_run { "would be " } else { "" };
    let mut text = String::new();
    for key in &done.rebuilt {
        text += &format!("{key}: {would}written again, byte for byte, from its segments\n");
    }
    for key in &done.set_aside {
        text += &format!("{key}: {would}moved to quarantine/: it cannot be read, and is not needed\n");
    }
    for (key, why) in &done.lost {
        text += &format!("{key}: lost: {why}\n");
    }
    let (rebuilt, aside, lost) = (done.rebuilt.len(), done.set_aside.len(), done.lost.len());
    text += &format!(
        "{} points: {rebuilt} indexes rebuilt, {aside} objects set aside, {lost} lost\n",
        done.points
    );
    if lost > 0 {
        text += "`blkdelta check --read-data` names the points that are harmed; `restore --partial` gives what is left\n";
    }
    text
}
