//! The compiler of the eBPF side: stable rustc, plus the two parts it lacks.
//!
//! Core's source (`rust-src`) of exactly this rustc and bpf-linker on rustc's own LLVM. What rustup
//! cannot give goes into `target/ebpf-toolchain`, never into the installed toolchain: a private
//! sysroot of links, reached through a two-line rustc wrapper.
//!
//! ```text
//! target/ebpf-toolchain/sysroot/lib/*                   links to the installed toolchain
//! target/ebpf-toolchain/sysroot/lib/rustlib/src/rust/   library/ of rust-src
//! target/ebpf-toolchain/sysroot/bin/rustc               rustc --sysroot <this>
//! target/ebpf-toolchain/llvm/lib/libLLVM*.so*           links to rustc's LLVM
//! target/ebpf-toolchain/linker-*/bin/bpf-linker
//! ```

use super::{bpf_linker, rust_src};
use crate::command::text;
use crate::workspace::Workspace;
use anyhow::{Context, Result};
use std::path::PathBuf;
use std::process::Command;

/// What rustc says about itself.
#[derive(Clone, Debug)]
pub struct Rustc {
    /// `1.95.0`
    pub release: String,
    /// `22`
    pub llvm: String,
    /// The triple it runs on.
    pub host: String,
    /// The installed toolchain.
    pub sysroot: PathBuf,
}

impl Rustc {
    /// Asks the rustc on the PATH.
    pub fn ask() -> Result<Self> {
        let verbose = text(Command::new("rustc").arg("-vV")).context("ask rustc for its version")?;
        let field = |name: &str| {
            let line = verbose.lines().find_map(|line| line.strip_prefix(name));
            line.map(|value| value.trim().to_owned()).with_context(|| format!("rustc -vV has no {name}"))
        };
        let llvm = field("LLVM version:")?;
        let sysroot = text(Command::new("rustc").args(["--print", "sysroot"]))?;
        Ok(Self {
            release: field("release:")?,
            llvm: llvm.split('.').next().unwrap_or(&llvm).to_owned(),

            host: field("host:")?,
            sysroot: PathBuf::from(sysroot.trim()),
        })
    }
}

/// Everything an eBPF build needs.
#[derive(Clone, Debug)]
pub struct Toolchain {
    /// rustc, or the wrapper that gives it the private sysroot.
    pub rustc: PathBuf,
    /// The folder that holds `library/`.
    pub source: PathBuf,
    /// The linker.
    pub linker: PathBuf,
}

impl Toolchain {
    /// Finds the parts, installs what is missing.
    pub fn ensure(ws: &Workspace) -> Result<Self> {
        let rustc = Rustc::ask()?;
        let source = rust_src::ensure(ws, &rustc)?;
        let linker = bpf_linker::ensure(ws, &rustc)?;
        Ok(Self { rustc: source.rustc, source: source.folder, linker })
    }
}
