//! Where a folder lies: the block devices under it, down to the disks.
//!
//! ```text
//!   folder ─st_dev─▶ partition ─▶ disk          btrfs, overlay: through /proc/self/mountinfo
//!                    dm, md    ─▶ slaves/*
//!                    loop      ─▶ backing file ─▶ its folder ─▶ …
//! ```
//!
//! What must stay true: a store that lies on the tracked device, however many layers between, is found; what
//! cannot be resolved (network, memory) is on no device of ours.

use super::Wishes;
use crate::error::{Error, Kind, Result};
use crate::sys::device::{BlockDevice, kernel_dev};
use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// What follows from where our own folders lie.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Placement {
    /// A frozen file system would not stop ourselves.
    pub may_freeze: bool,
    /// What a person should know.
    pub notes: Vec<String>,
}

/// Looks whether the store, or another folder of ours, lies on the device with kernel number `device`.
///
/// # Errors
/// `Usage` if the store does and that was not allowed.
pub fn judge(device: Option<u32>, store: Option<&Path>, wishes: &Wishes) -> Result<Placement> {
    let on_it = |folder: &Path| device.is_some_and(|number| devices_under(folder).contains(&number));
    let mut notes = Vec::new();
    if let Some(store) = store.filter(|folder| on_it(folder)) {
        if !wishes.store_on_device {
            let text = format!("the repository {} lies on the device it is to hold", store.display());
            return Err(Error::new(Kind::Usage, text).hint(
                "use another device; or say --allow-store-on-device: every difference then contains the \
                 repository's own writes, and nothing is frozen",
            ));
        }
        notes.push("the repository lies on the device: its own writes are in every difference".into());
    }
    if let Some(folder) = wishes.own_folders.iter().find(|folder| on_it(folder)) {
        notes.push(format!("{} lies on the device: nothing is frozen", folder.display()));
    }
    Ok(Placement { may_freeze: notes.is_empty(), notes })
}

/// Kernel numbers of all block devices that writes below `folder` reach.
pub fn devices_under(folder: &Path) -> BTreeSet<u32> {
    let mut found = Found::default();
    found.file(folder);
    found.devices
}

#[derive(Default)]
struct Found {
    devices: BTreeSet<u32>,
    files: BTreeSet<PathBuf>,
}

impl Found {
    /// The file system that holds `path`.
    fn file(&mut self, path: &Path) {
        let Some(path) = existing(path) else { return };
        if !self.files.insert(path.clone()) {
            return;
        }
        let Ok(meta) = fs::metadata(&path) else { return };
        let device = kernel_dev(rustix::fs::major(meta.dev()), rustix::fs::minor(meta.dev()));
        if device >> 20 != 0 {
            return self.device(device);
        }
        // an anonymous number: btrfs names its device as the mount's source, overlay its upper folder
        let table = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        let Some(mount) = mount_of(&table, &path) else { return };
        if let Ok(node) = BlockDevice::open(Path::new(&mount.source)) {
            self.device(node.dev);
        }
        if let Some(upper) = mount.options.split(',').find_map(|o| o.strip_prefix("upperdir=")) {
            self.file(Path::new(upper));
        }
    }

    fn device(&mut self, number: u32) {
        if !self.devices.insert(number) {
            return;
        }
        let Ok(device) = BlockDevice::of_number(number) else { return };
        self.device(device.disk);
        for slave in device.slaves() {
            self.device(slave);
        }
        if let Some(file) = &device.backing_file {
            self.file(file);
        }
    }
}

/// The path itself, or its nearest ancestor that exists: a repository may not have been made yet.
fn existing(path: &Path) -> Option<PathBuf> {
    let path = std::path::absolute(path).ok()?;
    path.ancestors().find_map(|p| fs::canonicalize(p).ok())
}

struct Mount {
    source: String,
    options: String,
}

/// The innermost, topmost mount of a mountinfo table that holds `path`.
fn mount_of(table: &str, path: &Path) -> Option<Mount> {
    let mut best: Option<(usize, Mount)> = None;
    for line in table.lines() {
        let Some((left, right)) = line.split_once(" - ") else { continue };
        let Some(point) = left.split(' ').nth(4).map(unescape) else { continue };
        let mut right = right.splitn(3, ' ').skip(1).map(unescape);
        let depth = Path::new(&point).components().count();
        if path.starts_with(&point) && best.as_ref().is_none_or(|(d, _)| *d <= depth) {
            let (source, options) = (right.next().unwrap_or_default(), right.next().unwrap_or_default());
            best = Some((depth, Mount { source, options }));
        }
    }
    best.map(|(_, mount)| mount)
}

/// Undoes the octal escapes of the mount table.
fn unescape(text: &str) -> String {
    [("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")]
        .iter()
        .fold(text.to_owned(), |text, (code, plain)| text.replace(code, plain))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_topmost_innermost_mount_wins() {
        let table = "21 1 0:20 / / rw - ext4 /dev/a rw\n\
                     30 21 0:44 / /mnt\\040x rw shared:1 - btrfs /dev/b rw\n\
                     31 30 0:45 / /mnt\\040x rw - overlay overlay rw,upperdir=/u,workdir=/w\n\
                     garbage\n";
        let mount = mount_of(table, Path::new("/mnt x/y")).unwrap();
        assert_eq!((mount.source.as_str(), mount.options.as_str()), ("overlay", "rw,upperdir=/u,workdir=/w"));
        assert_eq!(mount_of(table, Path::new("/mnt")).unwrap().source, "/dev/a");
    }

    #[test]
    fn a_folder_that_is_not_there_yet_counts_as_its_parent() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(devices_under(&dir.path().join("a/b")), devices_under(dir.path()));
    }
}
