//! `copy`.

use super::afterwards::cover_if_free;
use super::output::{Ending, print, print_json, say};
use super::progress::{Bar, stop_flag};
use super::show::bytes;
use super::unlock::{Source, Unlock};
use crate::chain::{Sending, Sent, Wanted};
use crate::copy::Watch;
use crate::error::{Error, Kind};
use crate::format::DeviceId;
use crate::repository::{NoKey, Repository};
use anyhow::Result;
use clap::Args;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};

/// `copy`.
#[derive(Debug, Args)]
pub struct Copy {
    /// Repository to read: a folder, s3://BUCKET/PREFIX, or https://HOST/PATH
    #[arg(long, value_name = "REPO")]
    from: String,
    /// Repository to write; made if it is not there
    #[arg(long, value_name = "REPO")]
    to: String,
    /// Only this point and those below it: an id as `list` prints it, or `latest`
    #[arg(long, value_name = "ID", required_unless_present = "all", conflicts_with = "all")]
    point: Option<String>,
    /// Every point that is not there yet
    #[arg(long)]
    all: bool,
    /// Only this device's points
    #[arg(long, value_name = "ID")]
    device: Option<String>,
    /// The point by itself, as a full that needs no other
    #[arg(long, requires = "point", conflicts_with = "all")]
    full: bool,
    /// The repository that is read is encrypted, the target is not: whoever can read the target reads all of the content
    #[arg(long, conflicts_with_all = ["to_passphrase_file", "to_passphrase_command", "to_key_file"])]
    decrypt: bool,
    #[command(flatten)]
    keys: Keys,
    /// For programs
    #[arg(long)]
    json: bool,
}

/// Where two repositories have different keys; what is not given here is as for every verb.
#[derive(Debug, Args)]
#[command(next_help_heading = "Keys of one of the two repositories")]
struct Keys {
    /// Passphrase of --from: the first line of this file
    #[arg(long, value_name = "FILE", conflicts_with = "from_passphrase_command")]
    from_passphrase_file: Option<PathBuf>,
    /// Passphrase of --from: the first line that this command of the shell prints
    #[arg(long, value_name = "COMMAND")]
    from_passphrase_command: Option<String>,
    /// Private key for --from
    #[arg(long, value_name = "FILE")]
    from_key_file: Option<PathBuf>,
    /// Passphrase of --to: the first line of this file
    #[arg(long, value_name = "FILE", conflicts_with = "to_passphrase_command")]
    to_passphrase_file: Option<PathBuf>,
    /// Passphrase of --to: the first line that this command of the shell prints
    #[arg(long, value_name = "COMMAND")]
    to_passphrase_command: Option<String>,
    /// Private key, or a host's write key, for --to
    #[arg(long, value_name = "FILE")]
    to_key_file: Option<PathBuf>,
}

impl Keys {
    fn from(&self, all: &Source) -> Source {
        let own = given(&self.from_passphrase_file, &self.from_passphrase_command, &self.from_key_file);
        all.of_one(own, "--from")
    }

    fn to(&self, all: &Source) -> Source {
        let own = given(&self.to_passphrase_file, &self.to_passphrase_command, &self.to_key_file);
        all.of_one(own, "--to")
    }
}

fn given(file: &Option<PathBuf>, command: &Option<String>, key_file: &Option<PathBuf>) -> Unlock {
    Unlock {
        passphrase_file: file.clone(),
        passphrase_fd: None,
        passphrase_command: command.clone(),
        key_file: key_file.clone(),
    }
}

/// Sends points from one repository to another.
pub fn copy(args: &Copy, source: &Source) -> Result<Ending> {
    let from = Repository::open_with(&args.from, &args.keys.from(source))
        .map_err(|e| whose_key(e.within("copy: the repository that is read")))?;
    let device = args.device.as_deref().map(DeviceId::new).transpose()?;
    let wanted: Vec<(DeviceId, Wanted)> = match &args.point {
        None => device
            .map_or_else(|| from.devices(), |d| Ok(vec![d]))?
            .into_iter()
            .map(|d| (d, Wanted::All))
            .collect(),
        Some(name) => {
            let (device, point) = from.resolve(name, device.as_ref())?;
            vec![(device, if args.full { Wanted::Whole(point) } else { Wanted::Point(point) })]
        }
    };
    let to = target(args, source, from.rights().is_some())?;
    let sending = Sending::new(&from, &to, args.decrypt)?;
    let bar = Bar::new(stop_flag()?);
    let read = AtomicU64::new(0);
    let progress = |n: u64| {
        read.fetch_add(n, Ordering::Relaxed);
        bar.advance(n);
        !bar.stopped()
    };
    let mut all = Vec::new();
    for (device, wanted) in wanted {
        bar.begin("copying", sending.to_send(&device, wanted)?);
        all.push(sending.send(&device, wanted, &progress)?);
    }
    to.devices()?.iter().for_each(|device| cover_if_free(&to, device));
    bar.clear();
    if args.json {
        print_json(&all)?;
    } else {
        print(&words(&all, read.load(Ordering::Relaxed)))?;
    }
    Ok(say_failed(&all))
}

/// The repository that is written. One that everybody could read is not made for what is encrypted, unless that was said.
fn target(args: &Copy, source: &Source, encrypted: bool) -> Result<Repository> {
    let keys = args.keys.to(source);
    let opened = if args.decrypt {
        Repository::open_or_create_as(&args.to, &NoKey, None)
    } else if encrypted {
        let new = "make one that is encrypted too with `blkdelta init --encrypt`, or say --decrypt";
        Repository::open_with(&args.to, &keys).map_err(|e| match e.kind() {
            Kind::NotFound => e.hint(new),
            _ => e,
        })
    } else {
        Repository::open_or_create_as(&args.to, &keys, None)
    };
    Ok(opened.map_err(|e| whose_key(e.within("copy: the repository that is written")))?)
}

/// One key for both repositories is seldom what is meant.
fn whose_key(error: Error) -> Error {
    if error.kind() != Kind::Denied {
        return error;
    }
    let each = "--from-passphrase-file, --to-key-file, … give a key to one of the two";
    let advice = error.advice().map_or_else(|| each.to_owned(), |advice| format!("{advice}; {each}"));
    error.hint(advice)
}

fn say_failed(all: &[Sent]) -> Ending {
    let mut ending = Ending::Fine;
    for (point, why) in all.iter().flat_map(|sent| &sent.failed) {
        say(&format!("point {point} was not copied: {why}"));
        ending = Ending::Suspect;
    }
    ending
}

fn words(all: &[Sent], read: u64) -> String {
    let mut text = String::new();
    for sent in all {
        let (points, whole, there) = (sent.points.len(), sent.whole.len(), sent.there.len());
        text += &format!("{}: {points} points copied", sent.device);
        if whole > 0 {
            text += &format!(", {whole} of them as fulls");
        }
        text += &format!("; {there} were there already");
        if !sent.dropped.is_empty() {
            text += &format!(", {} a prune dropped there and were left out", sent.dropped.len());
        }
        text.push('\n');
    }
    text + &format!("{} read\n", bytes(read))
}
