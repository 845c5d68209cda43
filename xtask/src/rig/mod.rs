//! What the demonstration, the soak and the benchmarks play with: a folder, devices and mounts of their own, the product
//! in a home of its own, and programs run under the stop button with their time and memory taken.
//!
//! What must stay true: no device is touched that was not made here, and whatever was made goes with its guard;
//! what a killed run left is removed by the next one.

pub mod device;
pub mod figures;
pub mod process;
pub mod product;
pub mod proof;
pub mod random;
pub mod scratch;
pub mod service;

use crate::command::is_root;
use anyhow::{Result, bail};

/// An error unless devices and tracking are possible at all.
pub fn need_root(what: &str) -> Result<()> {
    if !is_root() {
        bail!("{what} needs root: it makes loop devices, file systems and loads eBPF programs");
    }
    Ok(())
}
