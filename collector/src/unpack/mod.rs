//! Gives files back by name: of a group's point, or through a mount of a device's.
//!
//! ```text
//!   chain ─▶ catalogue ─▶ wanted nodes ─▶ folders ▸ content, by address ▸ shared extents ▸ further names ▸ owners,
//!                                                                           attributes, times, folders last
//! ```
//! What must stay true: every byte written was verified against the hash it was stored with; nothing is written outside
//! of the folder that was named, which must be empty; what cannot be given back (an owner without privilege, an
//! attribute the file system does not know, a file that was not read) is named; success means durable.

mod content;
mod device;
mod metadata;
mod names;
mod partitions;

pub use device::{DeviceFiles, Wanted};

use crate::catalogue::Catalogue;
use crate::chain::Chain;
use crate::copy::Watch;
use crate::error::{Context, Error, Kind, Result};
use crate::format::{DeviceId, Manifest, NodeId, NodeKind, PointId};
use crate::repository::Repository;
use names::Names;
use serde::Serialize;
use std::path::{Path, PathBuf};

/// Files of a point that may be given back: everything needed is there.
pub struct Unpack<'a> {
    repo: &'a Repository,
    chain: Chain,
    catalogue: Catalogue,
}

/// What was given back.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Unpacked {
    /// The point.
    pub point: String,
    /// Regular files.
    pub files: u64,
    /// Folders, links and the like.
    pub others: u64,
    /// Bytes of content written or shared.
    pub bytes: u64,
    /// Bytes that share their extents with another file again.
    pub shared: u64,
    /// Files that are not in the point: they could not be read when it was made.
    pub missing: Vec<String>,
    /// What could not be given back as it was.
    pub warnings: Vec<String>,
    /// All that was asked for is there as it was, and the point is not suspect.
    pub sound: bool,
}

impl<'a> Unpack<'a> {
    /// Reads the catalogue of a group's point.
    ///
    /// # Errors
    /// If it is no group's point, or something of it is missing or damaged.
    pub fn prepare(repo: &'a Repository, device: &DeviceId, point: PointId) -> Result<Self> {
        let chain = Chain::resolve(repo, device, point)?;
        let catalogue = Catalogue::read(repo, &chain)?;
        Ok(Self { repo, chain, catalogue })
    }

    /// The files.
    pub const fn catalogue(&self) -> &Catalogue {
        &self.catalogue
    }

    /// Paths of everything, in the order of the catalogue, each with its node.
    pub fn listed(&self) -> Vec<(PathBuf, &crate::format::Node)> {
        Names::of(&self.catalogue, &[]).map(|names| names.all(&self.catalogue)).unwrap_or_default()
    }

    /// Writes the files named by `paths` (all if there are none), and what is below them, into `folder`.
    ///
    /// # Errors
    /// [`Kind::NotFound`] if a path is not in the point; [`Kind::Exists`] if the folder is not empty; damage; a failed
    /// write.
    pub fn run(&self, paths: &[PathBuf], folder: &Path, watch: &dyn Watch) -> Result<Unpacked> {
        let names = Names::of(&self.catalogue, paths)?;
        empty(folder)?;
        let mut done = Unpacked { point: self.chain.top().point.to_string(), ..Unpacked::default() };
        let mut content = |made: &[(NodeId, PathBuf)], done: &mut Unpacked| {
            content::Content::of(&self.catalogue, made).write(self.repo, &self.chain, done, watch)
        };
        place(&self.catalogue, &names, folder, &mut done, &mut content).map_err(|e| incomplete(folder, e))?;
        Ok(concluded(self.chain.top(), done))
    }

    /// Bytes of content that [`run`](Self::run) writes for these paths.
    ///
    /// # Errors
    /// [`Kind::NotFound`] if a path is not in the point.
    pub fn size(&self, paths: &[PathBuf]) -> Result<u64> {
        let names = Names::of(&self.catalogue, paths)?;
        let parts = names.nodes().filter_map(|id| self.catalogue.nodes.get(&id)).flat_map(|n| &n.parts);
        Ok(parts.map(|part| part.length).fold(0, u64::saturating_add))
    }
}

/// Writes the content of what was made.
type Fill<'a> = &'a mut dyn FnMut(&[(NodeId, PathBuf)], &mut Unpacked) -> Result<()>;

/// Makes what is wanted in `folder`, has it filled, and gives it everything else it has.
fn place(
    catalogue: &Catalogue,
    names: &Names,
    folder: &Path,
    done: &mut Unpacked,
    fill: Fill<'_>,
) -> Result<()> {
    let made = names.make(catalogue, folder, done)?;
    fill(&made, done)?;
    names.link_again(catalogue, folder)?;
    for (id, path) in made.iter().rev() {
        if let Some(node) = catalogue.nodes.get(id) {
            metadata::apply(node, path, done)?;
            match node.kind {
                NodeKind::File => done.files += 1,
                _ => done.others += 1,
            }
        }
    }
    let what = || format!("sync {}", folder.display());
    let opened = std::fs::File::open(folder).os_context(what)?;
    rustix::fs::syncfs(&opened).os_context(what)
}

fn incomplete(folder: &Path, error: Error) -> Error {
    let text = format!("{} is incomplete: restoring the files failed", folder.display());
    error.within(text).hint("remove it and try again")
}

/// What is to be said of it in the end.
fn concluded(point: &Manifest, mut done: Unpacked) -> Unpacked {
    if point.is_suspect() {
        done.warnings.push(format!("the point is suspect: {}", point.suspect.join("; ")));
    }
    done.sound = done.missing.is_empty() && done.warnings.is_empty();
    done
}

/// Makes the folder, or makes sure that it is empty.
fn empty(folder: &Path) -> Result<()> {
    match std::fs::read_dir(folder) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
            std::fs::create_dir_all(folder).os_context(|| format!("make folder {}", folder.display()))
        }
        entries => {
            let mut entries = entries.os_context(|| format!("look into {}", folder.display()))?;
            match entries.next() {
                None => Ok(()),
                Some(_) => Err(Error::new(Kind::Exists, format!("{} is not empty", folder.display()))
                    .hint("name a new folder: nothing that is there is overwritten")),
            }
        }
    }
}
