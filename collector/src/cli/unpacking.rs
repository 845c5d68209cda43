//! `restore --into`: files of a point by name.

use super::grouping::find;
use super::output::{Ending, print, print_json, say};
use super::progress::{Bar, stop_flag};
use super::show::{bytes, duration};
use crate::format::{DeviceId, PointId};
use crate::repository::Repository;
use crate::unpack::{DeviceFiles, Unpack, Unpacked, Wanted};
use anyhow::Result;
use std::path::{Path, PathBuf};
use std::time::Instant;

/// Gives back the files at `paths`.
pub fn unpack(
    (repo, point, group): (&str, &str, Option<&str>),
    paths: &[PathBuf],
    into: &Path,
    json: bool,
) -> Result<Ending> {
    let began = Instant::now();
    let repo = Repository::open(repo)?;
    let (device, point) = find(&repo, point, group)?;
    let unpack = Unpack::prepare(&repo, &device, point)?;
    let bar = Bar::new(stop_flag()?);
    bar.begin("restoring", unpack.size(paths)?);
    let done = unpack.run(paths, into, &bar)?;
    drop(bar);
    told(&done, into, began, json)
}

/// Gives back files of a device's point.
pub fn unpack_device(
    (repo, device, point): (Repository, DeviceId, PointId),
    wanted: &Wanted<'_>,
    json: bool,
) -> Result<Ending> {
    let began = Instant::now();
    let files = DeviceFiles::prepare(&repo, &device, point)?;
    let bar = Bar::new(stop_flag()?);
    bar.begin("restoring the device to look for the files", files.size());
    let done = files.run(*wanted, &bar)?;
    drop(bar);
    told(&done, wanted.into, began, json)
}

fn told(done: &Unpacked, into: &Path, began: Instant, json: bool) -> Result<Ending> {
    for missing in &done.missing {
        say(&format!("not in the point: {missing}"));
    }
    for warning in &done.warnings {
        say(&format!("warning: {warning}"));
    }
    if json {
        print_json(done)?;
    } else {
        let Unpacked { files, others, bytes: size, .. } = done;
        let (point, size, took) = (&done.point, bytes(*size), duration(began.elapsed()));
        let into = into.display();
        print(&format!(
            "restored {files} files ({size}) and {others} others of {point} to {into}, {took}\n"
        ))?;
    }
    Ok(if done.sound { Ending::Fine } else { Ending::Suspect })
}
