//! `group`: groups of files.

use super::afterwards;
use super::listing::{consistency, kind};
use super::output::{Ending, print, print_json};
use super::progress::{Bar, stop_flag};
use super::show::{Table, bytes, duration as lasted, time};
use crate::config::values::{compression, duration};
use crate::error::{Error, Kind};
use crate::format::{Compression, Files, Manifest, Moment, Node, NodeKind, ParityShare, PointId};
use crate::group::{self, Group as Subject, Outcome};
use crate::job::{self, Show, Wishes};
use crate::repository::{Location, Repository};
use crate::tracker::Places;
use crate::tree::{Pick, Picker};
use crate::unpack::Unpack;
use anyhow::Result;
use clap::{Args, Subcommand};
use serde::Serialize;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// `group`.
#[derive(Debug, Args)]
pub struct Group {
    #[command(subcommand)]
    deed: Deed,
}

/// What to do with groups.
#[derive(Debug, Subcommand)]
enum Deed {
    /// Make a recovery point of a group: all of its files first, then what changed
    Backup(Backup),
    /// The groups of a repository and their points
    List(List),
    /// The files in a point of a group
    Files(FilesOf),
}

/// `group backup`.
#[derive(Debug, Args)]
pub struct Backup {
    /// Tracked devices that the files lie on; found from the paths if none is named
    #[arg(value_name = "DEV")]
    devices: Vec<PathBuf>,
    /// Its name: points of the same name on the same host follow each other
    #[arg(long, value_name = "GROUP")]
    name: String,
    /// A file, or a folder with everything below it
    #[arg(long, value_name = "PATH")]
    path: Vec<PathBuf>,
    /// Every path that matches, with everything below it: `*` and `?` stop at `/`, `**` does not
    #[arg(long, value_name = "PATTERN")]
    glob: Vec<String>,
    /// Leave out: a pattern without `/` is a name anywhere, one with `/` a whole path
    #[arg(long, value_name = "PATTERN")]
    exclude: Vec<String>,
    /// Repository: a folder or s3://BUCKET/PREFIX; made if it is not there
    #[arg(long, value_name = "REPO")]
    repo: String,
    /// Copy all of the group, not only what changed
    #[arg(long)]
    full: bool,
    /// Files on devices that are not tracked are read and compared each time; without this it is an error if no device
    /// of the group is
    #[arg(long)]
    untracked: bool,
    /// Never freeze a file system
    #[arg(long)]
    no_freeze: bool,
    /// Freeze no longer than this; if it would take longer, do not freeze at all
    #[arg(long, default_value = "10s", value_parser = duration, value_name = "TIME")]
    freeze_limit: Duration,
    /// The repository may lie on a tracked device of the group
    #[arg(long)]
    allow_store_on_device: bool,
    /// `none`, or a level of zstd from 1 to 19
    #[arg(long, default_value = "1", value_parser = compression, value_name = "LEVEL")]
    compression: Compression,
    /// When a point has more than N points below it, merge them
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    merge_every: Option<u32>,
    /// Keep parity for what the group stores, as in `backup`
    #[arg(long, value_name = "SHARE")]
    parity: Option<ParityShare>,
    /// For programs
    #[arg(long)]
    json: bool,
}

/// `group list`.
#[derive(Debug, Args)]
pub struct List {
    /// Repository
    #[arg(long, value_name = "REPO")]
    repo: String,
    /// For programs
    #[arg(long)]
    json: bool,
}

/// `group files`.
#[derive(Debug, Args)]
pub struct FilesOf {
    /// Id of a point as `group list` prints it, or `latest`
    #[arg(value_name = "ID")]
    point: String,
    /// Repository
    #[arg(long, value_name = "REPO")]
    repo: String,
    /// Of which group `latest` is meant, where the repository holds several
    #[arg(long, value_name = "GROUP")]
    group: Option<String>,
    /// With --json: everything the catalogue knows of each file, its inode, attributes and extents too
    #[arg(long, requires = "json")]
    all: bool,
    /// For programs
    #[arg(long)]
    json: bool,
}

/// Runs what was asked for.
pub fn group(args: &Group) -> Result<Ending> {
    match &args.deed {
        Deed::Backup(args) => backup(args),
        Deed::List(args) => list(args),
        Deed::Files(args) => files(args),
    }
}

impl Group {
    /// What is tracked matters to it.
    pub const fn looks_at_the_kernel(&self) -> bool {
        matches!(self.deed, Deed::Backup(_))
    }
}

fn backup(args: &Backup) -> Result<Ending> {
    let bar = Bar::new(stop_flag()?);
    let outcome = asked(args, &bar)?;
    bar.clear();
    if args.json {
        print_json(&Json::of(&outcome))?;
    } else {
        print(&words(&outcome))?;
    }
    let sound = !outcome.manifest.is_suspect() && outcome.unread.is_empty();
    Ok(if sound { Ending::Fine } else { Ending::Suspect })
}

/// How a group is backed up, besides what a device's backup is asked for.
pub struct How<'a> {
    /// Repository.
    pub repo: &'a str,
    /// Merge longer chains.
    pub merge_every: Option<u32>,
    /// Parity besides what the repository asks for.
    pub parity: Option<ParityShare>,
    /// Devices; none: found from the paths.
    pub devices: &'a [PathBuf],
    /// It is no error if none is tracked.
    pub untracked: bool,
    /// There is a repository, as earlier runs know: none is made.
    pub known: bool,
}

fn asked(args: &Backup, bar: &Bar) -> Result<Outcome> {
    let pick = Pick { paths: args.path.clone(), globs: args.glob.clone(), excludes: args.exclude.clone() };
    let wishes = Wishes {
        full: args.full,
        freeze: !args.no_freeze,
        freeze_limit: args.freeze_limit,
        compression: args.compression,
        store_on_device: args.allow_store_on_device,
        ..Wishes::default()
    };
    let how = How {
        repo: &args.repo,
        merge_every: args.merge_every,
        parity: args.parity,
        devices: &args.devices,
        untracked: args.untracked,
        known: false,
    };
    make(&Subject { name: args.name.clone(), pick }, &how, &wishes, bar)
}

/// Makes a point of a group.
pub fn make(subject: &Subject, how: &How<'_>, wishes: &Wishes, show: &dyn Show) -> Result<Outcome> {
    if subject.name.is_empty() || subject.name.chars().any(|c| c.is_control() || c == '/') {
        return Err(Error::new(Kind::Usage, format!("{:?} is no name of a group", subject.name)).into());
    }
    let places = Places::from_env();
    let wishes = Wishes { own_folders: vec![places.state().to_owned()], ..wishes.clone() };
    let picker = Picker::new(&subject.pick)?;
    let seats = match group::seats(&places, &picker, how.devices) {
        Err(e) if how.untracked && e.kind() == Kind::NotFound && how.devices.is_empty() => Vec::new(),
        seats => seats?,
    };
    // before the repository is made: a refusal leaves nothing behind
    for seat in &seats {
        job::place::judge(Some(seat.dev), Location::parse(how.repo)?.folder(), &wishes)?;
    }
    let repo = super::making::repository(how.repo, how.known, how.parity)?;
    let outcome = group::backup(subject, seats, &repo, &wishes, show)?;
    afterwards::follow(&repo, &outcome.manifest, how.merge_every, how.parity);
    Ok(outcome)
}

/// What `group backup --json` prints: the manifest, and what only this run knows.
#[derive(Serialize)]
struct Json<'a> {
    #[serde(flatten)]
    manifest: &'a Manifest,
    why_full: Option<&'a str>,
    seconds: f64,
    look_seconds: f64,
    looked_at: u64,
    walked: bool,
    why_walked: Option<&'a str>,
    unread: &'a [String],
}

impl<'a> Json<'a> {
    fn of(outcome: &'a Outcome) -> Self {
        Self {
            manifest: &outcome.manifest,
            why_full: outcome.why_full.as_deref(),
            seconds: outcome.time.as_secs_f64(),
            look_seconds: outcome.looked.as_secs_f64(),
            looked_at: outcome.looked_at,
            walked: outcome.why_walked.is_some(),
            why_walked: outcome.why_walked.as_deref(),
            unread: &outcome.unread,
        }
    }
}

fn words(outcome: &Outcome) -> String {
    let m = &outcome.manifest;
    let why = outcome.why_full.as_ref().map(|why| format!(" ({why})")).unwrap_or_default();
    let mut text = format!("{} point {}{why}\n", kind(m.kind), m.point);
    let mut fact = |name: &str, value: String| text += &format!("  {name:<12} {value}\n");
    if let Some(files) = &m.files {
        let Files { group, files, others, bytes: size, .. } = files;
        fact(
            "group",
            format!("{group}: {files} files, {}, and {others} folders, links and the like", bytes(*size)),
        );
    }
    let looked = match &outcome.why_walked {
        Some(why) => format!("all: {why}"),
        None => format!(
            "{}, no walk: the inodes of the others lie in blocks that did not change",
            outcome.looked_at
        ),
    };
    fact("looked at", looked);
    fact("changed", bytes(m.totals.changed_bytes));
    fact("copied", format!("{} in {}", bytes(m.totals.copied_bytes), lasted(outcome.time)));
    fact("stored", bytes(m.totals.stored_bytes));
    let frozen = m.freeze_ms.map(|ms| format!(" for {ms} ms")).unwrap_or_default();
    fact("consistency", format!("{}{frozen}", consistency(m.consistency)));
    for reason in &m.suspect {
        fact("suspect", reason.clone());
    }
    if let Some(how) = &m.suspect_handled {
        fact("", how.clone());
    }
    for note in &m.notes {
        fact("note", note.clone());
    }
    text
}

/// A point of a group, for programs.
#[derive(Serialize)]
struct Row<'a> {
    #[serde(flatten)]
    files: &'a Files,
    point: PointId,
    device: &'a str,
    kind: crate::format::PointKind,
    time_unix_ms: u64,
    stored_bytes: u64,
    suspect: bool,
}

fn list(args: &List) -> Result<Ending> {
    let repo = Repository::open(&args.repo)?;
    let points = repo.points()?;
    let manifests = points.iter().filter_map(|p| p.manifest());
    let rows: Vec<Row<'_>> = manifests
        .filter_map(|m| {
            Some(Row {
                files: m.files.as_ref()?,
                point: m.point,
                device: m.device.id.as_str(),
                kind: m.kind,
                time_unix_ms: m.time_cut,
                stored_bytes: m.totals.stored_bytes,
                suspect: m.is_suspect(),
            })
        })
        .collect();
    if args.json {
        print_json(&rows)?;
        return Ok(Ending::Fine);
    }
    print(&table(&rows).to_string())?;
    Ok(Ending::Fine)
}

fn table(rows: &[Row<'_>]) -> Table {
    let mut table =
        Table::new(&["time (UTC)", "group", "point", "kind", ">files", ">size", ">stored", "notes"]);
    for row in rows {
        let note = match (row.suspect, row.files.unread) {
            (true, _) => "SUSPECT".to_owned(),
            (false, 0) => String::new(),
            (false, n) => format!("{n} not read"),
        };
        table.row([
            time(row.time_unix_ms),
            row.files.group.clone(),
            row.point.to_string(),
            kind(row.kind).to_owned(),
            row.files.files.to_string(),
            bytes(row.files.bytes),
            bytes(row.stored_bytes),
            note,
        ]);
    }
    table
}

/// The newest point of a group, or the one that is named.
pub fn find(
    repo: &Repository,
    point: &str,
    group: Option<&str>,
) -> Result<(crate::format::DeviceId, PointId), Error> {
    let points = repo.points()?;
    let of_group = |m: &&Manifest| m.files.as_ref().is_some_and(|f| group.is_none_or(|g| f.group == g));
    let mut found: Vec<&Manifest> = points.iter().filter_map(|p| p.manifest()).filter(of_group).collect();
    if point != "latest" {
        let id: PointId = point.parse()?;
        found.retain(|m| m.point == id);
    }
    let what = group.map(|g| format!(" of group {g}")).unwrap_or_default();
    let last = found.last().ok_or_else(|| {
        let text = format!("no point {point}{what} in this repository");
        Error::new(Kind::NotFound, text).hint("`blkdelta group list` shows what there is")
    })?;
    if found.iter().any(|m| m.device.id != last.device.id) {
        return Err(Error::new(Kind::Usage, "latest: this repository holds points of several groups")
            .hint("say --group, or name the point by its id"));
    }
    Ok((last.device.id.clone(), last.point))
}

/// A file, for programs.
#[derive(Serialize)]
struct File<'a> {
    path: String,
    kind: NodeKind,
    mode: u32,
    uid: u32,
    gid: u32,
    size: u64,
    modified: Moment,
    links: u32,
    extents: usize,
    unread: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    all: Option<&'a Node>,
}

impl<'a> File<'a> {
    fn of(path: &Path, node: &'a Node, all: bool) -> Self {
        Self {
            path: path.display().to_string(),
            kind: node.kind,
            mode: node.mode,
            uid: node.uid,
            gid: node.gid,
            size: node.size,
            modified: node.modified,
            links: node.links,
            extents: node.parts.len(),
            unread: node.unread.as_deref(),
            all: all.then_some(node),
        }
    }
}

fn files(args: &FilesOf) -> Result<Ending> {
    let repo = Repository::open(&args.repo)?;
    let (device, point) = find(&repo, &args.point, args.group.as_deref())?;
    let unpack = Unpack::prepare(&repo, &device, point)?;
    let listed = unpack.listed();
    if args.json {
        let files = listed.iter().map(|(path, node)| File::of(path, node, args.all));
        print_json(&files.collect::<Vec<_>>())?;
        return Ok(Ending::Fine);
    }
    let mut text = String::new();
    for (path, node) in &listed {
        let kind = match node.kind {
            NodeKind::File => '-',
            NodeKind::Folder => 'd',
            NodeKind::Symlink => 'l',
            NodeKind::CharDevice => 'c',
            NodeKind::BlockDevice => 'b',
            NodeKind::Fifo => 'p',
            NodeKind::Socket => 's',
        };
        let Node { mode, uid, gid, size, .. } = node;
        let why = node.unread.as_ref().map(|why| format!("  NOT READ: {why}")).unwrap_or_default();
        text += &format!("{kind}{mode:04o} {uid:>6} {gid:>6} {size:>14} {}{why}\n", path.display());
    }
    print(&text)?;
    Ok(Ending::Fine)
}
