//! Programs that are not ours: what an intruder does to pinned ones, and one that does nothing.

use anyhow::{Context, Result};
use collector::sys::bpf::Runs;
use std::ffi::CString;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

/// Attaches a pinned raw-tracepoint program anew and pins its new link.
pub fn attach_again(program: &Path, link: &Path) -> Result<()> {
    let program = crate::raw::bpf_open_pin(program).with_context(|| format!("open {}", program.display()))?;
    let attached = crate::raw::bpf_attach_raw_tracepoint(&program).context("attach")?;
    crate::raw::bpf_pin(&attached, link).with_context(|| format!("pin at {}", link.display()))
}

/// A program that only returns, on a tracepoint for as long as this lives.
pub struct Empty {
    program: OwnedFd,
    _link: OwnedFd,
}

impl Empty {
    /// Loads and attaches it.
    pub fn on(tracepoint: &str) -> Result<Self> {
        let name = CString::new(tracepoint).context("a tracepoint's name")?;
        let [program, link] = crate::raw::bpf_empty_program(&name)
            .with_context(|| format!("attach an empty program to {tracepoint}"))?;
        Ok(Self { program, _link: link })
    }

    /// What the kernel counted of it.
    pub fn runs(&self) -> Result<Runs> {
        Ok(collector::sys::bpf::runs(self.program.as_fd())?)
    }
}
