//! `restore`.

use super::args::{Restore, Sparse};
use super::output::{Ending, print, print_json, say};
use super::progress::{Bar, stop_flag};
use super::show::{bytes, duration};
use super::tracking;
use crate::error::{Error, Kind};
use crate::format::DeviceId;
use crate::repository::Repository;
use crate::restore::{self, Leave};
use anyhow::Result;
use std::time::Instant;

/// Writes a point to a file or device.
pub fn restore(args: &Restore) -> Result<Ending> {
    let began = Instant::now();
    if !args.allow_tracked && tracking::is_tracked(&args.target)? {
        let text = format!("{} is tracked: it looks like the source, not a target", args.target.display());
        return Err(Error::new(Kind::Usage, text).hint("untrack it, or say --allow-tracked").into());
    }
    let repo = Repository::open(&args.repo)?;
    let device = args.device.as_deref().map(DeviceId::new).transpose()?;
    let (device, point) = repo.resolve(&args.point, device.as_ref())?;
    let restore = restore::Restore::prepare(&repo, &device, point)?;
    let bar = Bar::new(stop_flag()?);
    let passes = if args.verify { 2 } else { 1 };
    bar.begin("restoring", restore.size() * passes);
    let leave = Leave {
        dense: args.sparse == Sparse::Never,
        overwrite: args.overwrite,
        in_use: args.allow_in_use,
        smaller: args.allow_smaller,
    };
    let restored = restore.run(&args.target, leave, args.verify, &bar)?;
    drop(bar);
    for warning in &restored.warnings {
        say(&format!("warning: {warning}"));
    }
    if args.json {
        print_json(&restored)?;
    } else {
        let verified = if restored.verified { ", read back and compared" } else { "" };
        print(&format!(
            "restored {} to {}: {}, {} of content from {} points, {}{verified}\n",
            restored.point,
            args.target.display(),
            bytes(restored.size),
            bytes(restored.written),
            restored.points,
            duration(began.elapsed()),
        ))?;
    }
    Ok(if restored.sound { Ending::Fine } else { Ending::Suspect })
}
