//! Where things are: the checkout, the target folder, the toolchain folder inside it.
//!
//! Everything xtask makes lies under the target folder, so that `cargo clean` removes all of it.

use anyhow::{Context, Result};
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

/// The checkout xtask works on.
#[derive(Clone, Debug)]
pub struct Workspace {
    /// Folder of the workspace's Cargo.toml.
    pub root: PathBuf,
    /// Cargo's target folder, absolute.
    pub target: PathBuf,
}

impl Workspace {
    /// Finds the checkout from where cargo says this package lies.
    pub fn find() -> Result<Self> {
        let package = std::env::var_os("CARGO_MANIFEST_DIR")
            .map_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")), PathBuf::from);
        let root = package.join("..").canonicalize().context("find the workspace above xtask")?;
        let target = match std::env::var_os("CARGO_TARGET_DIR") {
            Some(dir) => std::path::absolute(PathBuf::from(dir)).context("resolve CARGO_TARGET_DIR")?,
            None => root.join("target"),
        };
        fs::create_dir_all(&target).with_context(|| format!("create {}", target.display()))?;
        let target = target.canonicalize().context("resolve the target folder")?;
        Ok(Self { root, target })
    }

    /// What only the eBPF build needs: core's source, bpf-linker, links to rustc's LLVM.
    pub fn ebpf_toolchain(&self) -> PathBuf {
        self.target.join("ebpf-toolchain")
    }

    /// The committed object that the collector embeds.
    pub fn ebpf_object(&self) -> PathBuf {
        self.root.join("ebpf/blkdelta.bpf.o")
    }

    /// `path` as written from the workspace's root, for messages.
    pub fn relative<'a>(&self, path: &'a Path) -> std::path::Display<'a> {
        path.strip_prefix(&self.root).unwrap_or(path).display()
    }
}

/// Writes a build output. A crash may lose it; the next run makes it again.
pub fn write_file(path: &Path, bytes: &[u8]) -> Result<()> {
    let mut file = fs::File::create(path).with_context(|| format!("create {}", path.display()))?;
    file.write_all(bytes).with_context(|| format!("write {}", path.display()))
}

/// Empties a folder of our own, or makes it.
pub fn fresh_dir(path: &Path) -> Result<()> {
    if path.exists() {
        fs::remove_dir_all(path).with_context(|| format!("remove {}", path.display()))?;
    }
    fs::create_dir_all(path).with_context(|| format!("create {}", path.display()))
}

/// Writes a kernel attribute.
pub fn write_attribute(path: &Path, value: &str) -> Result<()> {
    let mut file =
        fs::File::options().write(true).open(path).with_context(|| format!("open {}", path.display()))?;
    file.write_all(value.as_bytes()).with_context(|| format!("write {value} to {}", path.display()))
}
