//! `diff`: of a tracked device since its last point, or of two points.

use super::args::Diff;
use super::output::{Ending, print, print_json};
use super::progress::{Bar, stop_flag};
use super::show::{bytes, extents};
use super::tracking;
use crate::block::Extent;
use crate::chain::{Between, Chain, between};
use crate::copy::Watch;
use crate::error::{Error, Kind};
use crate::repository::Repository;
use anyhow::Result;
use serde::Serialize;

/// What `diff --between --json` prints.
#[derive(Serialize)]
struct List<'a> {
    from: String,
    to: String,
    size: u64,
    exact: bool,
    compared_bytes: u64,
    total_bytes: u64,
    total_extents: usize,
    extents: Vec<&'a Extent>,
}

/// The difference list of a device, or of two points.
pub fn diff(args: &Diff) -> Result<Ending> {
    match (args.device.as_deref(), args.between.as_deref(), args.repo.as_deref()) {
        (_, Some([from, to]), Some(repo)) => of_points(args, &Repository::open(repo)?, [from, to]),
        (Some(device), ..) => tracking::diff(args, device),
        _ => Err(Error::new(Kind::Usage, "diff: of a device, or --between two points of --repo").into()),
    }
}

fn of_points(args: &Diff, repo: &Repository, names: [&str; 2]) -> Result<Ending> {
    let chain = |name| {
        let (device, point) = repo.resolve(name, None)?;
        Chain::resolve(repo, &device, point)
    };
    let [from, to] = [chain(names[0])?, chain(names[1])?];
    let found = compare(&from, &to, args.exact)?;
    let total = found.extents.total();
    if args.json {
        print_json(&List {
            from: from.top().point.to_string(),
            to: to.top().point.to_string(),
            size: to.top().geometry.size,
            exact: args.exact,
            compared_bytes: found.read,
            total_bytes: total,
            total_extents: found.extents.len(),
            extents: found.extents.iter().collect(),
        })?;
    } else {
        let (list, read) = (extents(&found.extents), bytes(found.read));
        print(&format!("{list} between {} and {}; {read} of each read\n", from.top().point, to.top().point))?;
    }
    Ok(Ending::Fine)
}

fn compare(from: &Chain, to: &Chain, exact: bool) -> Result<Between> {
    let bar = Bar::new(stop_flag()?);
    bar.begin("comparing", from.top().geometry.size.min(to.top().geometry.size));
    let mut before = 0;
    Ok(between(from, to, exact, &mut |at| {
        bar.advance(at - before);
        before = at;
        if bar.stopped() { Err(Error::new(Kind::Interrupted, "stopped")) } else { Ok(()) }
    })?)
}
