//! What an intruder does to pinned programs.

use anyhow::{Context, Result};
use std::path::Path;

/// Attaches a pinned raw-tracepoint program anew and pins its new link.
pub fn attach_again(program: &Path, link: &Path) -> Result<()> {
    let program = crate::raw::bpf_open_pin(program).with_context(|| format!("open {}", program.display()))?;
    let attached = crate::raw::bpf_attach_raw_tracepoint(&program).context("attach")?;
    crate::raw::bpf_pin(&attached, link).with_context(|| format!("pin at {}", link.display()))
}
