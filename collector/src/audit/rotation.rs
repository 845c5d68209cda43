//! Which stretch of a device is next, so that one audit a day covers all of it again and again.
//!
//! ```text
//!   0 ── done in this rotation ── next ── this stretch ── … ── size     at the end: next = 0, one rotation more
//! ```
//! What must stay true: within a rotation the stretches follow each other without gap or overlap from the
//! device's first byte to its last, whatever share each run takes, over restarts and reboots and new base points
//! (each stretch is compared with the base of its day). A stretch counts only when it was compared to its end:
//! a failed or stopped run is done again. Another size begins anew.

use crate::block::Extent;
use crate::error::{Context, Error, Kind, Result};
use crate::format::CELL;
use crate::sys::publish;
use crate::tracker::{Lock, Places, now_ms};
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// `audit/<device>.json`: how far the rotation is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rotation {
    /// Bytes of the device.
    pub size: u64,
    /// First byte of the next stretch: everything before it was audited in this rotation.
    pub next: u64,
    /// Rotations completed.
    pub completed: u64,
    /// When this one began (ms since 1970).
    pub began_ms: u64,
    /// When the last one was completed.
    pub last_completed_ms: Option<u64>,
    /// Mismatching bytes found in this rotation.
    pub mismatched_bytes: u64,
}

/// What one run has to look at.
pub(super) struct Stretch {
    /// Where.
    pub(super) extent: Extent,
    rotation: Option<(Rotation, PathBuf, Lock)>,
}

impl Stretch {
    /// All of a device, beside the rotation.
    pub(super) fn whole(size: u64) -> Self {
        Self { extent: Extent::new(0, size), rotation: None }
    }

    /// The next `part` (0 to 1) of a device; nobody else audits it meanwhile.
    pub(super) fn next(places: &Places, device: &str, size: u64, part: f64) -> Result<Self> {
        let folder = places.lib().join("audit");
        std::fs::create_dir_all(&folder).os_context(|| format!("make folder {}", folder.display()))?;
        let lock = Lock::take(&folder.join(format!("{device}.lock")), &format!("audit {device}"), false)?;
        let file = folder.join(format!("{device}.json"));
        let rotation = read(&file)?.filter(|r| r.size == size && r.next < size.max(1));
        let rotation = rotation.unwrap_or_else(|| Rotation {
            size,
            next: 0,
            completed: 0,
            began_ms: now_ms(),
            last_completed_ms: None,
            mismatched_bytes: 0,
        });
        let extent = Extent::between(rotation.next, end_of(rotation.next, size, part));
        Ok(Self { extent, rotation: Some((rotation, file, lock)) })
    }

    /// It was compared to its end. Where the rotation stands now.
    pub(super) fn done(&self, mismatched: u64) -> Result<Option<Rotation>> {
        let Some((rotation, file, _)) = &self.rotation else { return Ok(None) };
        let mut rotation = rotation.clone();
        rotation.next = self.extent.end();
        rotation.mismatched_bytes += mismatched;
        if rotation.next >= rotation.size {
            let now = now_ms();
            rotation = Rotation {
                next: 0,
                completed: rotation.completed + 1,
                began_ms: now,
                last_completed_ms: Some(now),
                mismatched_bytes: 0,
                ..rotation
            };
        }
        let text = serde_json::to_vec_pretty(&rotation)
            .map_err(|e| Error::caused(Kind::Bug, format!("write {}", file.display()), e))?;
        publish(file, &text)?;
        Ok(Some(rotation))
    }
}

/// The end of a stretch of `part` of `size` bytes from `start` on: whole cells, at least one.
fn end_of(start: u64, size: u64, part: f64) -> u64 {
    let bytes = (size as f64 * part.clamp(0.0, 1.0)).ceil() as u64;
    start.saturating_add(bytes.max(1)).next_multiple_of(CELL).min(size)
}

fn read(file: &PathBuf) -> Result<Option<Rotation>> {
    let text = match std::fs::read(file) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        other => other.os_context(|| format!("read {}", file.display()))?,
    };
    match serde_json::from_slice(&text) {
        Ok(rotation) => Ok(Some(rotation)),
        Err(e) => {
            log::warn!("{}: {e}; the rotation begins anew", file.display());
            Ok(None)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn stretches_cover_a_device_once(size in 1u64..1 << 44, part in 0.02f64..1.2) {
            let (mut at, mut runs) = (0, 0);
            while at < size {
                let end = end_of(at, size, part);
                prop_assert!(end > at && end <= size && (end == size || end.is_multiple_of(CELL)));
                (at, runs) = (end, runs + 1);
            }
            prop_assert!(runs <= (1.0 / part).ceil() as u64);
        }
    }
}
