//! `repair`.

use super::afterwards::parity_words;
use super::output::{Ending, print, print_json, say};
use super::progress::{Bar, stop_flag};
use crate::chain::{self, Repaired};
use crate::copy::Watch;
use crate::repository::{self, Repository};
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
    if repository::mend_config(&args.repo, args.dry_run)? {
        say("repo.json: put back from its copy beside the parity");
    }
    let repo = Repository::open(&args.repo)?;
    let bar = Bar::new(stop_flag()?);
    let (mut at, mut doing) = (0, String::new());
    let done = chain::repair(&repo, args.dry_run, &mut |what, far, total| {
        if doing != what {
            bar.begin(what, total);
            (at, doing) = (0, what.to_owned());
        }
        bar.advance(far.saturating_sub(at));
        at = far;
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
    for key in &done.from_parity {
        text += &format!("{key}: {would}put back from parity, byte for byte\n");
    }
    for key in &done.rebuilt {
        text += &format!("{key}: {would}written again, byte for byte\n");
    }
    for key in &done.set_aside {
        text += &format!("{key}: {would}moved to quarantine/: it cannot be read, and is not needed\n");
    }
    for (key, why) in &done.lost {
        text += &format!("{key}: lost: {why}\n");
    }
    let (rebuilt, aside, lost) = (done.rebuilt.len(), done.set_aside.len(), done.lost.len());
    let back = match done.from_parity.len() {
        0 => String::new(),
        n => format!("{n} objects put back from parity, "),
    };
    text += &format!(
        "{} points: {back}{rebuilt} indexes and maps rebuilt, {aside} objects set aside, {lost} lost\n",
        done.points
    );
    text += &parity_words(&done.parity);
    if lost > 0 {
        text += "`blkdelta check --read-data` names the points that are harmed; `restore --partial` gives what is left\n";
    }
    text
}
