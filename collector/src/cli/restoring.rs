//! `restore`, and which point is meant there and elsewhere.

use super::output::{Ending, print, print_json, say};
use super::progress::{Bar, stop_flag};
use super::show::{bytes, duration, extents};
use super::{args, tracking, unpacking};
use crate::block::Extent;
use crate::error::{Error, Kind};
use crate::format::{DeviceId, Manifest, PointId};
use crate::job::place::devices_under;
use crate::repository::Repository;
use crate::restore::{self, How, Leave, Restored};
use crate::sys::device::BlockDevice;
use crate::unpack::Wanted;
use anyhow::Result;
use clap::{Args, ValueEnum};
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// A point of a repository.
#[derive(Debug, Args)]
pub struct Asked {
    /// Repository: a folder, s3://BUCKET/PREFIX, or https://HOST/PATH to read
    #[arg(long, value_name = "REPO")]
    pub(super) repo: String,
    /// Id of a point as `list` prints it, or `latest`
    #[arg(long, value_name = "ID")]
    pub(super) point: String,
    /// Of which device `latest` is meant, where the repository holds several
    #[arg(long, value_name = "ID")]
    device: Option<String>,
}

impl Asked {
    /// The repository and the point.
    pub fn find(&self) -> Result<(Repository, DeviceId, PointId), Error> {
        let repo = Repository::open(&self.repo)?;
        let device = self.device.as_deref().map(DeviceId::new).transpose()?;
        let (device, point) = repo.resolve(&self.point, device.as_ref())?;
        Ok((repo, device, point))
    }
}

/// How a file target is laid out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Sparse {
    /// Leave holes where the point is zero
    Always,
    /// Write zeros out
    Never,
}

/// `restore`.
#[derive(Debug, Args)]
pub struct Restore {
    #[command(flatten)]
    asked: Asked,
    /// File or block device to write; with --into: paths of files to give back, with what is below them (none: all)
    #[arg(value_name = "TARGET", required_unless_present = "into")]
    targets: Vec<PathBuf>,
    /// Give files back by name into this folder, which must be new or empty; of a device's point through a mount (root)
    #[arg(long, value_name = "FOLDER", conflicts_with_all = ["range", "to_same_device", "resume", "partial",
        "overwrite", "allow_in_use", "allow_tracked", "allow_smaller", "verify"])]
    into: Option<PathBuf>,
    /// Of which group `latest` is meant, where the repository holds several
    #[arg(long, value_name = "GROUP", requires = "into", conflicts_with = "device")]
    group: Option<String>,
    /// Of a device's point with several file systems: the partition the files are on
    #[arg(long, value_name = "NUMBER", requires = "into", conflicts_with = "group")]
    partition: Option<u32>,
    /// Of a device's point: where its copy is made to look for files, with room for its content; default: beside --into
    #[arg(long, value_name = "FOLDER", requires = "into", conflicts_with = "group")]
    scratch: Option<PathBuf>,
    /// Only these bytes, at the same place of the target; the rest of it stays as it is
    #[arg(long, value_parser = range, value_name = "START..END", conflicts_with = "allow_smaller")]
    range: Option<Span>,
    /// Compare with what the target holds, and write only what differs; it may be tracked
    #[arg(long)]
    to_same_device: bool,
    /// Go on after a restore that was killed: compare, and write only what differs
    #[arg(long)]
    resume: bool,
    /// Restore what is there although objects are missing or damaged, and name what is lost (exit code 3); that is zero
    /// in a new file, and untouched elsewhere
    #[arg(long)]
    partial: bool,
    /// Holes in a file target
    #[arg(
        long,
        value_enum,
        default_value = "always",
        default_missing_value = "always",
        num_args = 0..=1,
        require_equals = true,
        value_name = "WHEN"
    )]
    sparse: Sparse,
    /// Replace a file that is there and not empty
    #[arg(long)]
    overwrite: bool,
    /// Write a device that is mounted or otherwise in use
    #[arg(long)]
    allow_in_use: bool,
    /// Write a device that is itself tracked
    #[arg(long)]
    allow_tracked: bool,
    /// Write a device that is smaller than the point; what does not fit is lost
    #[arg(long)]
    allow_smaller: bool,
    /// Read everything back and compare
    #[arg(long)]
    verify: bool,
    /// For programs
    #[arg(long)]
    json: bool,
}

/// A part of a point: from a byte up to another, or to the end.
#[derive(Clone, Copy, Debug)]
pub struct Span {
    from: u64,
    to: Option<u64>,
}

impl Span {
    /// In a point of `size` bytes.
    pub fn of(self, size: u64) -> Extent {
        Extent::between(self.from, self.to.unwrap_or(size))
    }
}

/// `1MiB..2MiB`, `..512`, `4096..`.
pub fn range(text: &str) -> Result<Span, String> {
    let parts = text.split_once("..").ok_or_else(|| format!("{text:?} is not a range such as 1MiB..2MiB"))?;
    let bound = |text: &str| if text.is_empty() { Ok(None) } else { args::size(text).map(Some) };
    let (from, to) = (bound(parts.0)?.unwrap_or(0), bound(parts.1)?);
    if to.is_some_and(|to| to <= from) {
        return Err(format!("{text:?} holds no byte: the end is not part of it"));
    }
    Ok(Span { from, to })
}

/// Writes a point to a file or device.
pub fn restore(args: &Restore) -> Result<Ending> {
    if let Some(into) = &args.into {
        return args.files(into);
    }
    let [target] = &args.targets[..] else {
        return Err(Error::new(Kind::Usage, "restore to one file or device")
            .hint("files go --into a folder")
            .into());
    };
    let began = Instant::now();
    if !args.allow_tracked && !args.to_same_device && tracking::is_tracked(target)? {
        let text = format!("{} is tracked: it looks like the source, not a target", target.display());
        let error = Error::new(Kind::Usage, text);
        return Err(error.hint("untrack it, or say --to-same-device or --allow-tracked").into());
    }
    let (repo, device, point) = args.asked.find()?;
    let restore = if args.partial {
        restore::Restore::prepare_partial(&repo, &device, point)?
    } else {
        restore::Restore::prepare(&repo, &device, point)
            .map_err(|e| if e.kind() == Kind::Damaged { e.hint(PARTIAL) } else { e })?
    };
    refuse_mistakes(args, target, &repo, restore.size())?;
    let range = args.range.map(|span| span.of(restore.size()));
    let bar = Bar::new(stop_flag()?);
    let passes = if args.verify { 2 } else { 1 };
    bar.begin("restoring", restore.range(range)?.length * passes);
    let how = How { range, differing: args.to_same_device || args.resume, verify: args.verify };
    let restored = restore.run(target, args.leave(), how, &bar)?;
    drop(bar);
    for warning in &restored.warnings {
        say(&format!("warning: {warning}"));
    }
    if args.json {
        print_json(&restored)?;
    } else {
        print(&words(args, target, &restored, began.elapsed()))?;
    }
    Ok(if restored.sound { Ending::Fine } else { Ending::Suspect })
}

/// Targets that cannot be what is meant, whatever else may be done to a target.
fn refuse_mistakes(args: &Restore, target: &Path, repo: &Repository, size: u64) -> Result<(), Error> {
    let Ok(there) = target.metadata() else { return Ok(()) };
    let what = target.display();
    if let Some(folder) = repo.local_path() {
        let on_it = there.file_type().is_block_device()
            && BlockDevice::open(target).is_ok_and(|device| devices_under(folder).contains(&device.dev));
        let in_it = target.canonicalize().is_ok_and(|path| path.starts_with(folder));
        if on_it || in_it {
            let text = format!("restore to {what}: the repository {} itself is there", folder.display());
            return Err(Error::new(Kind::Usage, text)
                .hint("name another target; what is read must not be written over"));
        }
    }
    let other = there.is_file() && there.len() > 0 && there.len() != size;
    if args.resume && !args.to_same_device && args.range.is_none() && other && !args.overwrite {
        let text = format!("{what} has {} bytes, the point {size}: no restore of it left that", there.len());
        return Err(Error::new(Kind::Exists, text).hint("name the file that was begun, or say --overwrite"));
    }
    Ok(())
}

const PARTIAL: &str = "--partial restores what is there and names the rest";

impl Restore {
    /// Gives files back by name.
    fn files(&self, into: &Path) -> Result<Ending> {
        if self.is_of_device()? {
            return unpacking::unpack_device(self.asked.find()?, &self.wanted(into), self.json);
        }
        let what = (self.asked.repo.as_str(), self.asked.point.as_str(), self.group.as_deref());
        unpacking::unpack(what, &self.targets, into, self.json)
    }

    /// The point meant is a device's, not a group's.
    fn is_of_device(&self) -> Result<bool> {
        let only_of_devices =
            self.partition.is_some() || self.scratch.is_some() || self.asked.device.is_some();
        if self.group.is_some() || only_of_devices {
            return Ok(self.group.is_none());
        }
        let points = Repository::open(&self.asked.repo)?.points()?;
        let meant = |m: &Manifest| self.asked.point == "latest" || m.point.to_string() == self.asked.point;
        let mut manifests =
            points.iter().filter_map(|point| point.manifest()).filter(|m| meant(m)).peekable();
        Ok(manifests.peek().is_some() && manifests.all(|m| m.files.is_none()))
    }

    fn wanted<'a>(&'a self, into: &'a Path) -> Wanted<'a> {
        let beside = into.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let scratch = self.scratch.as_deref().unwrap_or(beside);
        Wanted { paths: &self.targets, into, partition: self.partition, scratch }
    }

    fn leave(&self) -> Leave {
        Leave {
            dense: self.sparse == Sparse::Never,
            overwrite: self.overwrite,
            in_use: self.allow_in_use,
            smaller: self.allow_smaller,
        }
    }
}

fn words(args: &Restore, target: &Path, restored: &Restored, took: Duration) -> String {
    let mut text = String::new();
    if !restored.lost.is_empty() {
        let list = extents(&restored.lost);
        text += &format!("lost, could not be restored:\n{list}\n");
        for why in &restored.lost_because {
            text += &format!("  because: {why}\n");
        }
        for file in &restored.lost_files {
            text += &format!("  in file {file}\n");
        }
        if restored.lost_files.is_empty() {
            text += MAPPING;
        }
    }
    let part = match args.range {
        Some(_) => format!("bytes {}..{} of ", restored.range.offset, restored.range.end()),
        None => String::new(),
    };
    let (size, points) = (bytes(restored.range.length), restored.points);
    let did = match restored.compared {
        Some(compared) => {
            format!("{} compared, {} differed and written", bytes(compared), bytes(restored.written))
        }
        None => format!("{} of content", bytes(restored.written)),
    };
    let verified = if restored.verified { ", read back and compared" } else { "" };
    text + &format!(
        "restored {part}{} to {}: {size}, {did} from {points} points, {}{verified}\n",
        restored.point,
        target.display(),
        duration(took),
    )
}

/// How a person finds the files.
const MAPPING: &str = "which files these are, ext4: debugfs -R 'icheck BLOCK ...' TARGET (BLOCK: offset in the file \
    system / its block size), then 'ncheck INODE ...'\n";
