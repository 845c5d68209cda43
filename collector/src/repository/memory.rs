//! What a host remembers of a repository it wrote to, so that a store which goes back is noticed.
//!
//! ```text
//!   known/<16 hex of the location's hash>.json    repository, encrypted or not, number of the key ring, and of every
//!                                                 device this host wrote: the last point and its manifest's hash
//! ```
//! Must stay true: a point that was written and is gone, while nothing newer is there, is said; so is a manifest that
//! was replaced, a key ring from before a change, another repository in the place of an encrypted one. A memory
//! that is lost or damaged costs the notice, never a backup.

use super::{Repository, keys};
use crate::error::{Context, Error, Kind, Result};
use crate::format::{Blake3, DeviceId, Manifest, PointId, RepositoryId};
use crate::sys::publish;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// A host's memory of repositories.
#[derive(Clone, Debug)]
pub struct Memory {
    folder: PathBuf,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
struct Known {
    location: String,
    repository: RepositoryId,
    encrypted: bool,
    key_ring: u32,
    devices: BTreeMap<DeviceId, Last>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
struct Last {
    point: PointId,
    manifest: Blake3,
}

impl Memory {
    /// In a folder of the host's own.
    pub fn at(folder: &Path) -> Self {
        Self { folder: folder.join("known") }
    }

    /// What is not as it was left; words for people, empty if all is well or nothing is remembered.
    ///
    /// # Errors
    /// [`Kind::Damaged`] if another repository, or one that is not encrypted, lies in the place of an encrypted
    /// one; what the store meets.
    pub fn look(&self, repo: &Repository) -> Result<Vec<String>> {
        let location = repo.store().location().to_string();
        let Some(known) = self.recall(&location) else { return Ok(Vec::new()) };
        if known.repository != repo.uuid() || known.encrypted && !repo.config().encrypted {
            return self.replaced(&known, repo);
        }
        let mut words = Vec::new();
        let ring = repo.ring_number();
        if ring < known.key_ring {
            let was = known.key_ring;
            words.push(format!(
                "the key ring is number {ring} and was {was}: keys that were removed may open it"
            ));
        }
        for (device, last) in &known.devices {
            words.extend(last.gone_back(repo, device)?);
        }
        Ok(words)
    }

    fn replaced(&self, known: &Known, repo: &Repository) -> Result<Vec<String>> {
        let was = known.repository;
        let text = format!("here was the repository {was}, now it is {}", repo.uuid());
        if !known.encrypted {
            return Ok(vec![text]);
        }
        let file = self.file(&known.location);
        Err(Error::new(Kind::Damaged, format!("{text}: an encrypted one was replaced"))
            .hint(format!("if you did that, remove {}", file.display())))
    }

    /// Remembers a point that this host wrote.
    ///
    /// # Errors
    /// If it cannot be read back or written down.
    pub fn note(&self, repo: &Repository, manifest: &Manifest) -> Result<()> {
        let location = repo.store().location().to_string();
        let (device, point) = (&manifest.device.id, manifest.point);
        let (_, hash) = repo.manifest(device, point)?;
        let same = self.recall(&location).filter(|known| known.repository == repo.uuid());
        let mut devices = same.map(|known| known.devices).unwrap_or_default();
        devices.insert(device.clone(), Last { point, manifest: hash });
        let (repository, encrypted, key_ring) = (repo.uuid(), repo.config().encrypted, repo.ring_number());
        let file = self.file(&location);
        let known = Known { location, repository, encrypted, key_ring, devices };
        let bytes = serde_json::to_vec_pretty(&known);
        let bytes = bytes.map_err(|e| Error::caused(Kind::Bug, "encode what is remembered", e))?;
        std::fs::create_dir_all(&self.folder).os_context(|| format!("make {}", self.folder.display()))?;
        publish(&file, &bytes)
    }

    fn file(&self, location: &str) -> PathBuf {
        let name = blake3::hash(location.as_bytes()).to_hex();
        self.folder.join(format!("{}.json", &name[..16]))
    }

    fn recall(&self, location: &str) -> Option<Known> {
        let file = self.file(location);
        let bytes = std::fs::read(&file).ok()?;
        match serde_json::from_slice::<Known>(&bytes) {
            Ok(known) => Some(known).filter(|known| known.location == location),
            Err(e) => {
                log::warn!("{}: what was remembered of {location} cannot be read: {e}", file.display());
                None
            }
        }
    }
}

impl Last {
    fn gone_back(&self, repo: &Repository, device: &DeviceId) -> Result<Option<String>> {
        let point = self.point;
        match repo.manifest(device, point) {
            Ok((_, hash)) if hash == self.manifest => return Ok(None),
            Ok(_) => {
                return Ok(Some(format!("the manifest of point {point} is not the one this host wrote")));
            }
            Err(e) if e.kind() == Kind::NotFound => {}
            // damage is said by whoever needs the point
            Err(e) if matches!(e.kind(), Kind::Damaged | Kind::Incompatible) => return Ok(None),
            Err(e) => return Err(e),
        }
        let keys = repo.store().list(&format!("bak/{device}"))?;
        let newer =
            keys.iter().filter_map(|(key, _)| keys::parse_manifest(key)).any(|(_, other)| other > point);
        Ok((!newer).then(|| {
            format!("it has gone back: this host wrote point {point} of {device}, which is missing, and nothing newer is there")
        }))
    }
}
