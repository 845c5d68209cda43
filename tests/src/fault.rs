//! Faults: the program's failpoints, and damage to stored files.

use crate::random::Random;
use anyhow::{Context, Result, ensure};
use std::fs::{self, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

/// Names of all failpoints, read from the collector's source, so that a new one is tested without being listed.
pub fn failpoints() -> Result<Vec<String>> {
    const CALL: &str = "failpoint(\"";
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("../collector/src");
    let mut names = Vec::new();
    for file in files_below(&source)? {
        let text = fs::read_to_string(&file).with_context(|| format!("read {}", file.display()))?;
        for (at, _) in text.match_indices(CALL) {
            let name = text[at + CALL.len()..].split('"').next().unwrap_or_default();
            names.push(name.to_string());
        }
    }
    names.sort();
    names.dedup();
    Ok(names)
}

/// Those that a backup may meet: the others' verbs have tests of their own (reboot, resize, migrate, encryption,
/// store::pruning, store::parity). Without those that begin with one of `but`.
pub fn on_the_way_of_a_backup(but: &[&str]) -> Result<Vec<String>> {
    let others = [
        "epoch.resize.",
        "migrate.",
        "record.",
        "repo.config.",
        "repo.copy.",
        "repo.keys.",
        "repo.map.",
        "repo.mend.",
        "repo.orphans.",
        "repo.read.",
        "repo.spare.",
        "repo.superseded.",
        "repo.sweep.",
        "repo.tombstone.",
        "resume.",
        "run.",
        "save.",
        "start.",
        "track.",
    ];
    let mut names = failpoints()?;
    names.retain(|name| !others.iter().chain(but).any(|other| name.starts_with(other)));
    ensure!(names.len() > 5, "only these failpoints in the source: {names:?}");
    Ok(names)
}

/// All regular files below a folder, sorted.
pub fn files_below(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).with_context(|| format!("list {}", folder.display()))? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            found.extend(files_below(&entry.path())?);
        } else {
            found.push(entry.path());
        }
    }
    found.sort();
    Ok(found)
}

/// A way in which a stored file can be wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Damage {
    /// One bit is flipped.
    BitFlip,
    /// The end is missing.
    Truncated,
    /// It has no bytes.
    Empty,
    /// It is gone.
    Missing,
    /// It holds another stored file's bytes.
    Swapped,
    /// Its middle was overwritten with zeros.
    Zeroed,
}

/// All of them.
pub const DAMAGES: &[Damage] =
    &[Damage::BitFlip, Damage::Truncated, Damage::Empty, Damage::Missing, Damage::Swapped, Damage::Zeroed];

impl Damage {
    /// Damages `file`; `other` lends its content for [`Damage::Swapped`]. False if nothing changed.
    pub fn apply(self, file: &Path, other: &Path, random: &mut Random) -> Result<bool> {
        let before = fs::read(file)?;
        let length = before.len() as u64;
        let open = || OpenOptions::new().read(true).write(true).open(file);
        match self {
            Self::BitFlip => {
                let at = random.below(length);
                let byte = before.get(at as usize).copied().unwrap_or(0) ^ (1 << random.below(8));
                open()?.write_all_at(&[byte], at)?;
            }
            Self::Truncated => open()?.set_len(random.below(length))?,
            Self::Empty => open()?.set_len(0)?,
            Self::Missing => fs::remove_file(file)?,
            Self::Swapped => fs::copy(other, file).map(|_| ())?,
            Self::Zeroed => {
                let at = random.below(length);
                let end = length.min(at + 64);
                open()?.write_all_at(&vec![0; (end - at) as usize], at)?;
            }
        }
        Ok(fs::read(file).map_or(true, |after| after != before))
    }
}
