//! Where tracking keeps its things.
//!
//! ```text
//!   /sys/fs/bpf/blkdelta/v1/            pinned: survives the process, not a reboot
//!       map_DISKS … prog_rq_issue link_rq_issue …
//!       dev-<major>-<minor>/epoch-<n>   one bitmap per epoch: the highest is running, the others are sealed
//!   /run/blkdelta/                      what the pins mean: gone after a reboot, like them
//!       lock  loaded.json  dev-<major>-<minor>.json  dev-<major>-<minor>.lock
//! ```
//! `BLKDELTA_HOME=DIR` puts both under `DIR` (`DIR/bpf`, `DIR/state`): a second, independent instance.

use crate::error::{Context, Error, Kind, Result};
use crate::sys::bpf;
use std::path::{Path, PathBuf};

/// The folders of one instance.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Places {
    /// Mount point of the BPF file system.
    bpffs: PathBuf,
    /// Pins of this layout version.
    pins: PathBuf,
    /// State files.
    state: PathBuf,
}

impl Places {
    /// The folders by environment: `BLKDELTA_HOME`, else the system's.
    pub fn from_env() -> Self {
        match std::env::var_os("BLKDELTA_HOME").filter(|home| !home.is_empty()) {
            Some(home) => Self::under(Path::new(&home)),
            None => Self::at(
                Path::new("/sys/fs/bpf"),
                Path::new("/sys/fs/bpf/blkdelta"),
                Path::new("/run/blkdelta"),
            ),
        }
    }

    /// An instance of its own under `home`.
    pub fn under(home: &Path) -> Self {
        Self::at(&home.join("bpf"), &home.join("bpf"), &home.join("state"))
    }

    fn at(bpffs: &Path, pins: &Path, state: &Path) -> Self {
        let version = format!("v{}", blkdelta_ebpf::LAYOUT);
        Self { bpffs: bpffs.into(), pins: pins.join(version), state: state.into() }
    }

    /// Makes the folders; mounts the BPF file system if it is not.
    ///
    /// # Errors
    /// Without root, or where BPF file systems cannot be mounted.
    pub fn prepare(&self) -> Result<()> {
        for folder in [&self.state, &self.bpffs] {
            std::fs::create_dir_all(folder).os_context(|| format!("make folder {}", folder.display()))?;
        }
        bpf::mount_bpffs(&self.bpffs)?;
        std::fs::create_dir_all(&self.pins).os_context(|| format!("make folder {}", self.pins.display()))
    }

    /// Inode of the folder of the pins, if a BPF file system is mounted there.
    ///
    /// # Errors
    /// `NotFound` if none is, or the folder is not there.
    pub fn check_mount(&self) -> Result<u64> {
        if !bpf::is_bpffs(&self.bpffs) {
            let text = format!("no BPF file system is mounted at {}", self.bpffs.display());
            return Err(Error::new(Kind::NotFound, text));
        }
        let what =
            || format!("another BPF file system is mounted at {}: find the pins", self.bpffs.display());
        Ok(rustix::fs::stat(&self.pins).os_context(what)?.st_ino)
    }

    /// Folder of the pins.
    pub fn pins(&self) -> &Path {
        &self.pins
    }

    /// A pinned map.
    pub fn map(&self, name: &str) -> PathBuf {
        self.pins.join(format!("map_{name}"))
    }

    /// A pinned program.
    pub fn program(&self, name: &str) -> PathBuf {
        self.pins.join(format!("prog_{name}"))
    }

    /// A pinned link: while it is there, the program is attached.
    pub fn link(&self, name: &str) -> PathBuf {
        self.pins.join(format!("link_{name}"))
    }

    /// Folder of a device's bitmaps.
    pub fn device_pins(&self, key: &str) -> PathBuf {
        self.pins.join(key)
    }

    /// A device's bitmap of one epoch.
    pub fn epoch(&self, key: &str, epoch: u64) -> PathBuf {
        self.device_pins(key).join(format!("epoch-{epoch}"))
    }

    /// The epochs of a device that have a bitmap, in order.
    ///
    /// # Errors
    /// If the folder cannot be read.
    pub fn epochs(&self, key: &str) -> Result<Vec<u64>> {
        let folder = self.device_pins(key);
        let entries = std::fs::read_dir(&folder).os_context(|| format!("list {}", folder.display()))?;
        let mut epochs: Vec<u64> = entries
            .filter_map(|entry| entry.ok()?.file_name().to_str()?.strip_prefix("epoch-")?.parse().ok())
            .collect();
        epochs.sort_unstable();
        Ok(epochs)
    }

    /// State file of a device.
    pub fn device_state(&self, key: &str) -> PathBuf {
        self.state.join(format!("{key}.json"))
    }

    /// Lock of a device: held for a cut, a retirement, a whole backup.
    pub fn device_lock(&self, key: &str) -> PathBuf {
        self.state.join(format!("{key}.lock"))
    }

    /// State file of the programs.
    pub fn loaded(&self) -> PathBuf {
        self.state.join("loaded.json")
    }

    /// Lock of the registry: held while devices are added or removed.
    pub fn lock(&self) -> PathBuf {
        self.state.join("lock")
    }

    /// Folder of the state files.
    pub fn state(&self) -> &Path {
        &self.state
    }
}
