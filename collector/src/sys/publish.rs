//! The one way a file of ours comes into being: complete and durable under its name, or not at all.
//!
//! Order: temporary file in the same folder, write, fsync, rename, fsync the folder. A crash leaves the old
//! file or the new one, at worst also a `.tmp` file that nobody reads.

use super::failpoint;
use crate::error::{Context, Error, Kind, Result};
use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

/// Makes `path` hold exactly `bytes`, atomically and durably; replaces what was there.
///
/// # Errors
/// Any failure of the file system; the old content is then still in place.
pub fn publish(path: &Path, bytes: &[u8]) -> Result<()> {
    let temporary = Temporary::beside(path)?;
    temporary.fill(bytes)?;
    failpoint("publish.before-rename")?;
    temporary.rename_to(path)?;
    failpoint("publish.before-folder-sync")?;
    sync_folder(folder_of(path))
}

/// Makes names in `folder` durable.
///
/// # Errors
/// If the folder cannot be opened or synced.
pub fn sync_folder(folder: &Path) -> Result<()> {
    File::open(folder).and_then(|f| f.sync_all()).os_context(|| format!("sync folder {}", folder.display()))
}

fn folder_of(path: &Path) -> &Path {
    path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// A file that is removed again unless it was renamed.
struct Temporary {
    path: PathBuf,
}

impl Temporary {
    fn beside(path: &Path) -> Result<Self> {
        static SERIAL: AtomicU64 = AtomicU64::new(0);
        let name = path
            .file_name()
            .ok_or_else(|| Error::new(Kind::Usage, format!("publish {}: no file name", path.display())))?;
        let serial = SERIAL.fetch_add(1, Ordering::Relaxed);
        let name = format!(".{}.{}.{serial}.tmp", name.to_string_lossy(), std::process::id());
        Ok(Self { path: folder_of(path).join(name) })
    }

    fn fill(&self, bytes: &[u8]) -> Result<()> {
        let write = || -> std::io::Result<()> {
            // a leftover of a dead process that had our id: nobody else writes this name
            let mut file =
                OpenOptions::new().write(true).create(true).truncate(true).mode(0o644).open(&self.path)?;
            file.write_all(bytes)?;
            file.sync_all()
        };
        write().os_context(|| format!("write {}", self.path.display()))
    }

    fn rename_to(self, path: &Path) -> Result<()> {
        rustix::fs::rename(&self.path, path)
            .os_context(|| format!("rename {} to {}", self.path.display(), path.display()))?;
        std::mem::forget(self);
        Ok(())
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.path);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replaces_whole_and_leaves_nothing_beside() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.json");
        publish(&path, b"one").unwrap();
        publish(&path, b"two").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"two");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn failure_keeps_the_old_file_and_no_leftover() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("taken");
        fs::create_dir_all(path.join("sub")).unwrap();
        assert!(publish(&path, b"x").is_err());
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
        assert!(publish(Path::new("/"), b"x").is_err());
    }
}
