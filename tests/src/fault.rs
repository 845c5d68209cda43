//! Faults: the program's failpoints, and damage to stored files.

use crate::random::Random;
use anyhow::{Context, Result};
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
