//! `list`.

use super::args::List;
use super::output::{Ending, print, print_json};
use super::show::{Table, bytes, time};
use crate::format::{Consistency, Manifest, PointId, PointKind};
use crate::repository::{PointEntry, PointState, Repository};
use anyhow::Result;
use serde::Serialize;
use std::collections::BTreeSet;

/// A point as a listing shows it.
#[derive(Serialize)]
struct Row<'a> {
    id: String,
    device: &'a str,
    #[serde(flatten)]
    state: RowState<'a>,
}

#[derive(Serialize)]
#[serde(untagged)]
enum RowState<'a> {
    Good {
        path: &'a str,
        time: String,
        time_unix_ms: u64,
        kind: PointKind,
        parent: Option<String>,
        stands_alone: bool,
        size: u64,
        changed_bytes: u64,
        copied_bytes: u64,
        stored_bytes: u64,
        consistency: Consistency,
        freeze_ms: Option<u64>,
        suspect: bool,
        suspect_reasons: &'a [String],
        suspect_handled: Option<&'a str>,
    },
    Damaged {
        damaged: &'a str,
    },
}

/// The recovery points of a repository.
pub fn list(args: &List) -> Result<Ending> {
    let repo = Repository::open(&args.repo)?;
    let points = repo.points()?;
    let alone = repo.standing_alone()?;
    if args.json {
        print_json(&points.iter().map(|entry| row(entry, &alone)).collect::<Vec<_>>())?;
    } else if points.is_empty() {
        print(&format!("no recovery points in {}\n", args.repo))?;
    } else {
        print(&table(&points, &alone).to_string())?;
    }
    let bad = points.iter().any(|p| matches!(p.state, PointState::Damaged(_)));
    Ok(if bad { Ending::Suspect } else { Ending::Fine })
}

fn row<'a>(entry: &'a PointEntry, alone: &BTreeSet<PointId>) -> Row<'a> {
    let state = match &entry.state {
        PointState::Damaged(why) => RowState::Damaged { damaged: why },
        PointState::Good { manifest: m, .. } => RowState::Good {
            path: &m.device.path,
            time: time(m.time_cut),
            time_unix_ms: m.time_cut,
            kind: m.kind,
            parent: m.parent.map(|p| p.point.to_string()),
            stands_alone: m.parent.is_none() || alone.contains(&m.point),
            size: m.geometry.size,
            changed_bytes: m.totals.changed_bytes,
            copied_bytes: m.totals.copied_bytes,
            stored_bytes: m.totals.stored_bytes,
            consistency: m.consistency,
            freeze_ms: m.freeze_ms,
            suspect: m.is_suspect(),
            suspect_reasons: &m.suspect,
            suspect_handled: m.suspect_handled.as_deref(),
        },
    };
    Row { id: entry.id.to_string(), device: entry.device.as_str(), state }
}

fn table(points: &[PointEntry], alone: &BTreeSet<PointId>) -> Table {
    let headings =
        ["point", "device", "time (UTC)", "kind", "parent", ">changed", ">stored", "consistency", "suspect"];
    let mut table = Table::new(&headings);
    for entry in points {
        let (id, device) = (entry.id.to_string(), entry.device.to_string());
        match &entry.state {
            PointState::Damaged(why) => table.row([id, device, format!("DAMAGED: {why}")]),
            PointState::Good { manifest: m, .. } => table.row([
                id,
                device,
                time(m.time_cut),
                format!("{}{}", kind(m.kind), if alone.contains(&m.point) { ", merged" } else { "" }),
                m.parent.map_or_else(|| "-".into(), |p| p.point.to_string()),
                bytes(m.totals.changed_bytes),
                bytes(m.totals.stored_bytes),
                consistency(m.consistency).to_owned(),
                suspect(m),
            ]),
        }
    }
    table
}

/// In a word.
pub fn kind(kind: PointKind) -> &'static str {
    match kind {
        PointKind::Full => "full",
        PointKind::Incremental => "incremental",
    }
}

/// In two words at most.
pub fn consistency(consistency: Consistency) -> &'static str {
    match consistency {
        Consistency::FileSystemFrozen => "file-system frozen",
        Consistency::Crash => "crash",
        Consistency::Fuzzy => "fuzzy",
    }
}

fn suspect(manifest: &Manifest) -> String {
    match (manifest.suspect.is_empty(), &manifest.suspect_handled) {
        (true, _) => "-".into(),
        (false, Some(_)) => "was, compared".into(),
        (false, None) => format!("SUSPECT: {}", manifest.suspect.join("; ")),
    }
}
