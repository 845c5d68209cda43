//! Where tracking keeps its things.
//!
//! ```text
//!   /sys/fs/bpf/blkdelta/v2/            pinned: survives the process, not a reboot
//!       map_DISKS … prog_rq_issue link_rq_issue …
//!       dev-<major>-<minor>/epoch-<n>   one bitmap per epoch: the highest is running, the others are sealed
//!   /run/blkdelta/                      what the pins mean: gone after a reboot, like them
//!       lock  loaded.json  dev-<major>-<minor>.json  dev-<major>-<minor>.lock
//!   /var/lib/blkdelta/                  what outlives a reboot: a record per tracked device, a map per clean stop
//!       <16 hex>.json  <16 hex>.map     named by a hash of the device's identity (`record`)
//!       audit/<device>.json             how far the rotation of the self-audit is
//!       check/<repository>.json         how far `check` is through a repository's data
//! ```
//! Where `/var` is a file system of its own it is mounted too late and unmounted too early for a clean stop and return:
//! if the administrator made `/etc/blkdelta/lib` (on the root file system), that is used instead.
//!
//! `BLKDELTA_HOME=DIR` puts all under `DIR` (`DIR/bpf`, `DIR/state`, `DIR/lib`): a second, independent instance. Its
//! boot can be told apart further by the words in `DIR/boot`: a new boot can be feigned, an old one never.

use crate::error::{Context, Error, Kind, Result};
use crate::sys::bpf;
use blkdelta_ebpf::LAYOUT;
use std::path::{Path, PathBuf};

/// The folders of one instance.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Places {
    /// Mount point of the BPF file system.
    bpffs: PathBuf,
    /// Pins of the layout.
    pins: PathBuf,
    /// Version of the maps' layout.
    layout: u32,
    /// State files.
    state: PathBuf,
    /// Records and saved maps.
    lib: PathBuf,
    /// Words that tell this boot apart, of a private instance.
    boot: Option<PathBuf>,
}

/// What outlives a reboot on this system.
fn system_lib() -> PathBuf {
    let own = Path::new("/etc/blkdelta/lib");
    if own.is_dir() { own.into() } else { "/var/lib/blkdelta".into() }
}

impl Places {
    /// The folders by environment: `BLKDELTA_HOME`, else the system's.
    pub fn from_env() -> Self {
        match std::env::var_os("BLKDELTA_HOME").filter(|home| !home.is_empty()) {
            Some(home) => Self::under(Path::new(&home)),
            None => Self {
                bpffs: "/sys/fs/bpf".into(),
                pins: Path::new("/sys/fs/bpf/blkdelta").join(folder(LAYOUT)),
                layout: LAYOUT,
                state: "/run/blkdelta".into(),
                lib: system_lib(),
                boot: None,
            },
        }
    }

    /// An instance of its own under `home`.
    pub fn under(home: &Path) -> Self {
        Self {
            bpffs: home.join("bpf"),
            pins: home.join("bpf").join(folder(LAYOUT)),
            layout: LAYOUT,
            state: home.join("state"),
            lib: home.join("lib"),
            boot: Some(home.join("boot")),
        }
    }

    /// Makes the folders; mounts the BPF file system if it is not.
    ///
    /// # Errors
    /// Without root, or where BPF file systems cannot be mounted.
    pub fn prepare(&self) -> Result<()> {
        for folder in [&self.state, &self.lib, &self.bpffs] {
            std::fs::create_dir_all(folder).os_context(|| format!("make folder {}", folder.display()))?;
        }
        bpf::mount_bpffs(&self.bpffs)?;
        std::fs::create_dir_all(&self.pins).os_context(|| format!("make folder {}", self.pins.display()))
    }

    /// Where the BPF file system is mounted, and whether it is.
    pub fn bpf_mount(&self) -> (&Path, bool) {
        (&self.bpffs, bpf::is_bpffs(&self.bpffs))
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

    /// This boot: the kernel's id of it, and in a private instance what tells it apart further.
    ///
    /// # Errors
    /// If `/proc` is not mounted.
    pub fn boot_id(&self) -> Result<String> {
        let boot = bpf::boot_id()?;
        let more = self.boot.as_ref().and_then(|path| std::fs::read_to_string(path).ok());
        Ok(more.map_or(boot.clone(), |more| format!("{boot} {}", more.trim())))
    }

    /// Folder of what outlives a reboot.
    pub fn lib(&self) -> &Path {
        &self.lib
    }

    /// Version of the maps' layout.
    pub const fn layout(&self) -> u32 {
        self.layout
    }

    /// The same instance with pins of another layout.
    #[must_use]
    pub fn with_layout(&self, layout: u32) -> Self {
        Self { pins: self.pins.with_file_name(folder(layout)), layout, ..self.clone() }
    }

    /// Layouts, other than this one, of which anything is pinned.
    ///
    /// # Errors
    /// If the folder cannot be read.
    pub fn other_layouts(&self) -> Result<Vec<u32>> {
        let Some(parent) = self.pins.parent() else { return Ok(Vec::new()) };
        let entries = match std::fs::read_dir(parent) {
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
            other => other.os_context(|| format!("list {}", parent.display()))?,
        };
        let number = |name: &std::ffi::OsStr| name.to_str()?.strip_prefix('v')?.parse().ok();
        let filled = |path: &Path| std::fs::read_dir(path).is_ok_and(|mut list| list.next().is_some());
        let found = entries.flatten().filter(|entry| filled(&entry.path()));
        let layouts = found.filter_map(|entry| number(&entry.file_name()));
        let mut others: Vec<u32> = layouts.filter(|layout| *layout != self.layout).collect();
        others.sort_unstable();
        Ok(others)
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

/// Folder of a layout's pins.
fn folder(layout: u32) -> String {
    format!("v{layout}")
}
