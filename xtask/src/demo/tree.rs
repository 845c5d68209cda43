//! A real tree to fill the disk with: parts of /usr, as many bytes of each as fit.

use crate::rig::process::go_on;
use anyhow::{Context, Result};
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

/// Programs, libraries, headers, texts: what disks are full of.
const PARTS: [&str; 4] = ["/usr/bin", "/usr/lib", "/usr/share", "/usr/include"];

/// So near its limit a copy is complete: nobody needs the last small files.
const FULL: u64 = 16 << 10;

/// What was copied.
#[derive(Default)]
pub struct Tree {
    /// Regular files, in the copy.
    pub files: Vec<PathBuf>,
    /// Their bytes.
    pub bytes: u64,
}

/// Copies about `limit` bytes of /usr into `to`.
pub fn copy(to: &Path, limit: u64) -> Result<Tree> {
    let mut tree = Tree::default();
    for (i, part) in PARTS.iter().enumerate() {
        // what one part leaves the next may use
        let share = limit * (i as u64 + 1) / PARTS.len() as u64;
        let from = Path::new(part);
        if from.is_dir() {
            folder(from, &to.join(from.strip_prefix("/").unwrap_or(from)), share, &mut tree)?;
        }
    }
    Ok(tree)
}

fn folder(from: &Path, to: &Path, limit: u64, tree: &mut Tree) -> Result<()> {
    fs::create_dir_all(to).with_context(|| format!("create {}", to.display()))?;
    let mut entries: Vec<_> =
        fs::read_dir(from).with_context(|| format!("list {}", from.display()))?.flatten().collect();
    entries.sort_by_key(fs::DirEntry::file_name);
    for entry in entries {
        go_on()?;
        if limit.saturating_sub(tree.bytes) < FULL {
            return Ok(());
        }
        let (path, to) = (entry.path(), to.join(entry.file_name()));
        let meta = fs::symlink_metadata(&path).with_context(|| format!("look at {}", path.display()))?;
        if meta.is_symlink() {
            let target = fs::read_link(&path).with_context(|| format!("read link {}", path.display()))?;
            symlink(target, &to).with_context(|| format!("make link {}", to.display()))?;
        } else if meta.is_dir() {
            folder(&path, &to, limit, tree)?;
        } else if meta.is_file() && tree.bytes + meta.len() <= limit {
            tree.bytes += fs::copy(&path, &to).with_context(|| format!("copy {}", path.display()))?;
            tree.files.push(to);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_more_than_asked_for() {
        let to = std::env::temp_dir().join(format!("blkdelta-tree-{}", std::process::id()));
        crate::workspace::fresh_dir(&to).unwrap();
        let tree = copy(&to, 200_000).unwrap();
        assert!(tree.bytes <= 200_000 && !tree.files.is_empty());
        assert_eq!(tree.files.iter().map(|f| fs::metadata(f).unwrap().len()).sum::<u64>(), tree.bytes);
        fs::remove_dir_all(to).unwrap();
    }
}
