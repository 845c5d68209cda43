//! Holes in a loop device's backing file: they read as zero, so a full backup need not hold them.
//!
//! Only the hole *at the time of the call* counts: the device's page cache is written back first, and what is
//! written later the tracker knows. Anything unexpected (another file by that name, a backing file that is itself
//! a device, an error) means no hole.

use crate::block::{Extent, ExtentSet};
use crate::error::Result;
use crate::sys::device::{BlockDevice, Driver};
use rustix::fs::SeekFrom;
use std::fs::File;

/// The holes of a loop device or a partition of one, relative to the device; empty for any other.
///
/// # Errors
/// If the whole disk's facts cannot be read.
pub(super) fn holes(device: &BlockDevice) -> Result<ExtentSet> {
    if device.driver != Driver::Loop {
        return Ok(ExtentSet::new());
    }
    let disk = device.whole_disk()?;
    if device.flush_cache().is_err() || disk.flush_cache().is_err() {
        return Ok(ExtentSet::new());
    }
    let Ok((file, offset)) = disk.open_backing_file() else { return Ok(ExtentSet::new()) };
    if !file.metadata().is_ok_and(|m| m.is_file()) {
        return Ok(ExtentSet::new());
    }
    let first = offset.saturating_add(device.offset_on_disk());
    Ok(data(&file, first, device.size).map_or_else(ExtentSet::new, |data| data.complement(device.size)))
}

/// The parts of `length` bytes from `first` on that are no holes, relative to `first`; nothing if unsure.
fn data(file: &File, first: u64, length: u64) -> Option<ExtentSet> {
    let end = first.checked_add(length)?;
    // beyond the file's end the device gives errors, not zeros
    let file_end = file.metadata().ok()?.len();
    let mut found = ExtentSet::new();
    let mut at = first;
    while at < end {
        let start = match rustix::fs::seek(file, SeekFrom::Data(at)) {
            Ok(start) => start,
            Err(rustix::io::Errno::NXIO) => file_end.max(at),
            Err(_) => return None,
        };
        if start >= end {
            break;
        }
        let stop =
            if start >= file_end { end } else { rustix::fs::seek(file, SeekFrom::Hole(start)).ok()? };
        if stop <= at || start < at {
            return None;
        }
        let piece = Extent::between(start, stop.min(end));
        found.push(Extent::new(piece.offset - first, piece.length));
        at = stop;
    }
    Some(found)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::FileExt;

    #[test]
    fn data_is_found_and_the_missing_tail_is_not_a_hole() {
        let file = tempfile::tempfile_in("/dev/shm").unwrap();
        file.set_len(1 << 20).unwrap();
        file.write_all_at(&[1; 4096], 8192).unwrap();
        file.write_all_at(&[1; 4096], 65536).unwrap();
        let set = |extents: &[(u64, u64)]| -> ExtentSet {
            extents.iter().map(|&(o, l)| Extent::new(o, l)).collect()
        };
        assert_eq!(data(&file, 0, 1 << 20), Some(set(&[(8192, 4096), (65536, 4096)])));
        assert_eq!(data(&file, 4096, 65536), Some(set(&[(4096, 4096), (61440, 4096)])));
        let beyond = data(&file, 65536, 1 << 20).unwrap();
        assert_eq!(beyond, set(&[(0, 4096), ((1 << 20) - 65536, 65536)]));
    }
}
