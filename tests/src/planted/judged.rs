//! A device under the product's care while a fault is planted: everything that could notice is asked.

use super::notice::{Check, Notices};
use crate::image::Image;
use crate::protected::{Protected, ensure_same};
use anyhow::{Context, Result, ensure};
use collector::block::{Extent, ExtentSet};
use serde_json::Value;

/// Bytes of an area in these trials.
pub const AREA: u64 = 4096;

/// Does `work` and asks the difference list, the audit and a backup what they make of it.
pub fn judged(notices: &mut Notices, care: &Protected<'_>, work: impl FnOnce() -> Result<()>) -> Result<()> {
    let before = Image::of(&care.device)?;
    work()?;
    let after = Image::of(&care.device)?;
    look(notices, care, Some((&before, &after)));
    audit(notices, care)?;
    backed_up(notices, care)?;
    at_rest(notices, care);
    Ok(())
}

/// The list against what changed: nothing may be missing, and in these trials nothing may be listed in vain.
fn look(notices: &mut Notices, care: &Protected<'_>, images: Option<(&Image, &Image)>) {
    let Some((listed, suspect)) = notices.took(care.diff()) else { return };
    notices.reasons(suspect);
    if let Some((before, after)) = images {
        let changed = before.difference(after).align_out(AREA, after.size());
        notices.oracle(nothing("changed and not listed", &changed.subtract(&listed)));
        notices.oracle(nothing("listed and not changed", &listed.subtract(&changed)));
    }
}

/// Nobody writes, so nothing may be listed after a backup.
pub fn at_rest(notices: &mut Notices, care: &Protected<'_>) {
    let Some((listed, suspect)) = notices.took(care.diff()) else { return };
    notices.reasons(suspect);
    notices.oracle(nothing("listed at rest", &listed));
}

fn nothing(what: &str, extents: &ExtentSet) -> Result<()> {
    let first: Vec<&Extent> = extents.iter().take(3).collect();
    ensure!(extents.is_empty(), "{what}: {} bytes, first {first:?}", extents.total());
    Ok(())
}

/// An audit of everything.
pub fn audit(notices: &mut Notices, care: &Protected<'_>) -> Result<()> {
    let (device, repo) = (care.device.display().to_string(), care.repo.display().to_string());
    let ended = care.home.run(["audit", &device, "--repo", &repo, "--all", "--json"])?;
    if !matches!(ended.code, Some(0 | 3)) {
        notices.reasons([ended.to_string()]);
        return Ok(());
    }
    let report: Value = serde_json::from_str(&ended.out).context("what audit printed")?;
    let found = report["mismatches"].as_array().map_or(0, Vec::len);
    if found > 0 {
        notices.note(Check::Audit, format!("{found} mismatches"));
    }
    Ok(())
}

/// A backup must restore to what the device holds.
pub fn backed_up(notices: &mut Notices, care: &Protected<'_>) -> Result<()> {
    let now = Image::of(&care.device)?;
    let Some(point) = notices.took(care.backup(&[])) else { return Ok(()) };
    notices.listed(&point.json["suspect"]);
    stored(notices, care);
    if let Some(image) = stored_as(notices, care.restored(&point.id)) {
        notices.oracle(ensure_same(&image, &now, "restored"));
    }
    Ok(())
}

/// The repository's own check.
pub fn stored(notices: &mut Notices, care: &Protected<'_>) {
    stored_as(notices, care.ensure_sound());
}

fn stored_as<T>(notices: &mut Notices, result: Result<T>) -> Option<T> {
    result.map_err(|error| notices.note(Check::Stored, format!("{error:#}"))).ok()
}
