//! `check`, and how far its rotation through the stored data is.
//!
//! Where the next share begins is kept beside what else outlives a reboot (`check/<repository>.json`), for a user
//! without root in their own state folder: never in the repository, which may be read-only.

use super::args;
use super::output::{Ending, print, print_json, say};
use super::progress::{Bar, stop_flag};
use super::show::bytes;
use crate::copy::Watch;
use crate::error::{Context, Error, Kind};
use crate::format::SegmentId;
use crate::repository::{self, ParityState, Read, Report, Repository, Share};
use crate::sys::publish;
use crate::tracker::Places;
use anyhow::Result;
use clap::Args;
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};

/// `check`.
#[derive(Debug, Args)]
pub struct Check {
    /// Repository: a folder, s3://BUCKET/PREFIX, or https://HOST/PATH to read
    #[arg(long, value_name = "REPO")]
    repo: String,
    /// Read and verify every stored byte, not only the structure; with =10% the next tenth of it, where the last such
    /// check ended, so that ten of them read everything
    #[arg(
        long,
        value_parser = args::part,
        default_missing_value = "100%",
        num_args = 0..=1,
        require_equals = true,
        value_name = "SHARE"
    )]
    read_data: Option<f64>,
    /// For programs
    #[arg(long)]
    json: bool,
}

/// Where a rotation is.
#[derive(Serialize, Deserialize)]
struct Mark {
    /// The last segment that was read.
    after: SegmentId,
}

/// Damage in a repository.
pub fn check(args: &Check) -> Result<Ending> {
    let repo = Repository::open(&args.repo)?;
    let mark = place(&repo);
    let read = match args.read_data {
        None => Read::Structure,
        Some(part) if part < 1.0 => Read::Share { after: last(&mark), part },
        Some(_) => Read::All,
    };
    let bar = Bar::new(stop_flag()?);
    let mut begun = false;
    let mut before = 0;
    let report = repository::check_some(&repo, read, &mut |done, total| {
        if !begun {
            bar.begin("checking", total);
            begun = true;
        }
        bar.advance(done - before);
        before = done;
    })?;
    drop(bar);
    if let (Read::Share { .. }, Some(after)) = (read, report.share.and_then(|share| share.last)) {
        keep(&mark, &Mark { after });
    }
    if args.json {
        print_json(&report)?;
    } else {
        print(&words(&report, read))?;
    }
    Ok(if report.damages.is_empty() { Ending::Fine } else { Ending::Suspect })
}

/// The file that says how far the rotation is.
fn place(repo: &Repository) -> PathBuf {
    let set = |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let own = set("XDG_STATE_HOME").or_else(|| Some(set("HOME")?.join(".local/state")));
    let shared = rustix::process::geteuid().is_root() || set("BLKDELTA_HOME").is_some();
    let folder = match own.filter(|_| !shared) {
        Some(own) => own.join("blkdelta"),
        None => Places::from_env().lib().to_owned(),
    };
    folder.join("check").join(format!("{}.json", repo.uuid()))
}

/// Where the last share ended; from the beginning if nobody knows.
fn last(mark: &PathBuf) -> Option<SegmentId> {
    let text = match std::fs::read(mark) {
        Ok(text) => text,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return None,
        Err(e) => {
            say(&format!("warning: {}: {e}: begins with the first segment", mark.display()));
            return None;
        }
    };
    match serde_json::from_slice::<Mark>(&text) {
        Ok(mark) => Some(mark.after),
        Err(e) => {
            say(&format!("warning: {}: {e}: begins with the first segment", mark.display()));
            None
        }
    }
}

/// Keeps it. The check is done all the same if that fails, but the next one reads the same share.
fn keep(place: &Path, mark: &Mark) {
    let write = || -> Result<(), Error> {
        let folder = place.parent().ok_or_else(|| Error::new(Kind::Bug, "a mark without a folder"))?;
        std::fs::create_dir_all(folder).os_context(|| format!("make folder {}", folder.display()))?;
        let text = serde_json::to_vec(mark).map_err(|e| Error::caused(Kind::Bug, "write the mark", e))?;
        publish(place, &text)
    };
    if let Err(e) = write() {
        say(&format!("warning: the next check reads the same share again: {}", e.in_full()));
    }
}

fn words(report: &Report, read: Read) -> String {
    let mut text = String::new();
    for damage in &report.damages {
        text += &format!("damaged: {}: {}\n", damage.object, damage.what);
        for point in &damage.points {
            text += &format!("         point {point} cannot be restored as it was\n");
        }
    }
    let how = match (read, report.share) {
        (Read::Share { .. }, Some(share)) => share_words(share, report.segments),
        (Read::All, _) => "every byte".to_owned(),
        _ => "structure only".to_owned(),
    };
    let verdict = match report.damages.len() {
        0 => "no damage".to_owned(),
        n => format!("{n} damaged"),
    };
    text += &format!(
        "{verdict}: {} points, {} segments, {} frames, {} read ({how})\n",
        report.points,
        report.segments,
        report.frames,
        bytes(report.bytes_read)
    );
    if report.sealed_frames > 0 {
        let n = report.sealed_frames;
        text +=
            &format!("{n} frames are there to the byte, but not looked into: this key cannot read them\n");
    }
    text += &report.parity.as_ref().map(parity).unwrap_or_default();
    if report.unreferenced > 0 {
        text +=
            &format!("{} segments belong to no point (left by backups that failed)\n", report.unreferenced);
    }
    text
}

fn parity(state: &ParityState) -> String {
    let (covered, groups) = (state.covered, state.groups);
    let mut text = format!("parity covers {covered} objects in {groups} groups");
    if state.uncovered > 0 {
        text += &format!(", {} are not covered yet", state.uncovered);
    }
    if state.short > 0 {
        text += &format!(", {} groups lack some of their parity", state.short);
    }
    text += "\n";
    if !state.mendable.is_empty() {
        let n = state.mendable.len();
        text += &format!("{n} of the damaged objects are given back from parity by `blkdelta repair`\n");
    }
    for key in &state.beyond {
        text += &format!("{key}: more is lost of its parity group than parity gives back\n");
    }
    text
}

fn share_words(share: Share, all: u64) -> String {
    let percent = if share.of == 0 { 100.0 } else { share.bytes as f64 * 100.0 / share.of as f64 };
    let (n, position) = (share.segments, share.position * 100.0);
    format!(
        "structure of all; data of {n} of {all} segments, {percent:.1} %; the round is at {position:.1} %"
    )
}
