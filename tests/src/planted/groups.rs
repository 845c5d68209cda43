//! Trials of groups of files.

use super::notice::Notices;
use crate::device::put;
use crate::grouped::{Grouped, plant};
use crate::scratch::Scratch;
use anyhow::Result;
use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;

/// Files of a group change, and only these are looked at.
pub fn without_a_walk(notices: &mut Notices) -> Result<()> {
    let scratch = Scratch::new("planted")?;
    let mut group = Grouped::new(&scratch, "planted: without a walk", &["mkfs.ext4", "-q"], "noatime")?;
    plant(&mut group)?;
    for n in 0..400 {
        put(&group.at(&format!("many{n}")), b"of many")?;
    }
    group.backup("the first")?;
    for n in [7, 200, 399] {
        fs::set_permissions(group.at(&format!("many{n}")), Permissions::from_mode(0o611))?;
        notices.oracle(group.ensure_glance_is_a_walk("another mode"));
    }
    Ok(())
}
