//! The guest's first and only file system: an archive that qemu hands to the kernel.

use super::cpio::Archive;
use super::fetch::KernelFiles;
use super::programs::Programs;
use super::{modules, userland};
use anyhow::{Context, Result};
use std::fs::{self, File};
use std::io::BufWriter;
use std::path::{Path, PathBuf};

/// How much is in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Extent {
    /// Everything the cases need.
    Everything,
    /// Virtual disks and ext4: soon in memory, soon up.
    Little,
}

impl Extent {
    /// Names its files.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Everything => "everything",
            Self::Little => "little",
        }
    }
}

/// Writes it into `folder`.
pub fn make(
    kernel: &KernelFiles,
    tools: &Path,
    programs: &Programs,
    extent: Extent,
    folder: &Path,
) -> Result<PathBuf> {
    let root = kernel.root.join(format!("root-{}", extent.word()));
    userland::stage(&root, tools, extent)?;
    let modules = modules::stage(kernel, tools, extent)?;
    let path = folder.join("initramfs");
    let file = File::create(&path).with_context(|| format!("create {}", path.display()))?;
    let mut archive = Archive::new(BufWriter::with_capacity(1 << 20, file));
    archive.tree(&root)?;
    archive.tree(&modules)?;
    for (name, program) in [("init", &programs.guest), ("bin/blkdelta", &programs.blkdelta)] {
        let bytes = fs::read(program).with_context(|| format!("read {}", program.display()))?;
        archive.file(name, 0o755, &bytes)?;
    }
    archive.link("bin/blkdelta-guest", b"/init")?;
    archive.finish()?;
    Ok(path)
}
