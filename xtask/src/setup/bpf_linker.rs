//! bpf-linker, built on rustc's own LLVM: what rustc writes as bitcode, this LLVM can read.

use super::toolchain::Rustc;
use crate::command::{cargo, quiet, say};
use crate::workspace::Workspace;
use anyhow::{Context, Result, bail};
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

const VERSION: &str = "0.13.0";

/// Finds the linker, or builds it (about a minute).
pub fn ensure(ws: &Workspace, rustc: &Rustc) -> Result<PathBuf> {
    let toolchain = ws.ebpf_toolchain();
    let prefix = toolchain.join(format!("llvm-{}", rustc.release));
    link_llvm(&rustc.sysroot.join("lib"), &prefix.join("lib"))?;
    let root = toolchain.join(format!("linker-{VERSION}-rustc-{}", rustc.release));
    let linker = root.join("bin/bpf-linker");
    if linker.is_file() {
        return Ok(linker);
    }
    say(format!("bpf-linker {VERSION}: building it on rustc's LLVM {}, once", rustc.llvm));
    let mut install = cargo();
    install.args(["install", "bpf-linker", "--version", VERSION, "--locked", "--no-default-features"]);
    install.arg("--features").arg(format!("llvm-{}", rustc.llvm)).arg("--root").arg(&root);
    install.env("LLVM_PREFIX", &prefix).env("CARGO_TARGET_DIR", toolchain.join("build"));
    install.env_remove("RUSTFLAGS").env_remove("CARGO_ENCODED_RUSTFLAGS").current_dir(&ws.root);
    quiet(&mut install).context("build bpf-linker")?;
    fs::remove_dir_all(toolchain.join("build")).context("remove the build of bpf-linker")?;
    Ok(linker)
}

/// Makes the folder that bpf-linker's build takes for an LLVM: the library under both of its names.
fn link_llvm(from: &Path, to: &Path) -> Result<()> {
    fs::create_dir_all(to).with_context(|| format!("create {}", to.display()))?;
    let entries = fs::read_dir(from).with_context(|| format!("list {}", from.display()))?;
    let mut found = false;
    for entry in entries.flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        if name.starts_with("libLLVM.so.") {
            found = true;
            relink(&entry.path(), &to.join("libLLVM.so"))?;
            relink(&entry.path(), &to.join(&name))?;
        }
    }
    if !found {
        bail!("{} has no libLLVM: is this rustc from rustup?", from.display());
    }
    Ok(())
}

fn relink(original: &Path, link: &Path) -> Result<()> {
    if link.symlink_metadata().is_ok() {
        fs::remove_file(link).with_context(|| format!("remove {}", link.display()))?;
    }
    symlink(original, link).with_context(|| format!("link {}", link.display()))
}
