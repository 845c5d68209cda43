//! The guest's first and only file system: an archive that qemu hands to the kernel.

use super::cpio::Archive;
use super::fetch::KernelFiles;
use super::programs::Programs;
use super::{modules, userland};
use anyhow::{Context, Result};
use std::fs::{self, File};
use std::io::BufWriter;
use std::path::{Path, PathBuf};

/// Writes it into `folder`.
pub fn make(kernel: &KernelFiles, tools: &Path, programs: &Programs, folder: &Path) -> Result<PathBuf> {
    let root = kernel.root.join("root");
    userland::stage(&root, tools)?;
    let modules = modules::stage(kernel, tools)?;
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
