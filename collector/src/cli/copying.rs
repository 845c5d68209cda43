//! `copy`.

use super::output::{Ending, print, print_json, say};
use super::progress::{Bar, stop_flag};
use super::show::bytes;
use crate::chain::{self, Sent, Wanted};
use crate::copy::Watch;
use crate::error::{Error, Kind};
use crate::format::DeviceId;
use crate::repository::Repository;
use anyhow::Result;
use clap::Args;
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
    /// For programs
    #[arg(long)]
    json: bool,
}

/// Sends points from one repository to another.
pub fn copy(args: &Copy) -> Result<Ending> {
    let from = Repository::open(&args.from)?;
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
    let to = Repository::open_or_create(&args.to)?;
    if from.uuid() == to.uuid() {
        let text = "copy: --from and --to are the same repository";
        return Err(Error::new(Kind::Usage, text).hint("a copy of its folder is the same one too").into());
    }
    let bar = Bar::new(stop_flag()?);
    let read = AtomicU64::new(0);
    let progress = |n: u64| {
        read.fetch_add(n, Ordering::Relaxed);
        bar.advance(n);
        !bar.stopped()
    };
    let mut all = Vec::new();
    for (device, wanted) in wanted {
        bar.begin("copying", chain::to_send(&from, &to, &device, wanted)?);
        all.push(chain::send(&from, &to, &device, wanted, &progress)?);
    }
    bar.clear();
    if args.json {
        print_json(&all)?;
    } else {
        print(&words(&all, read.load(Ordering::Relaxed)))?;
    }
    Ok(say_failed(&all))
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
        text += &format!("; {there} were there already\n");
    }
    text + &format!("{} read\n", bytes(read))
}
