//! A file's content: which of it lies where, and what has to be read through the file.
//!
//! What must stay true: what is neither a part nor read through the file is a hole, or the file system itself said so.

use super::volumes::Way;
use super::{THROUGH_CHUNK, volumes::Met};
use crate::error::{Context, Result};
use crate::format::{Part, Place};
use crate::sys::fiemap::{self, Mapped};
use rustix::io::Errno;
use std::fs::File;
use std::path::Path;

/// Where a file's bytes are.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Content {
    /// Parts that lie in the image at their device's addresses, or are reserved.
    pub parts: Vec<Part>,
    /// Ranges to be read through the file: first byte, bytes.
    pub through: Vec<(u64, u64)>,
    /// Not all of the map is in the inode, as far as can be told.
    pub outside: bool,
}

/// Of a file of `size` bytes that takes `allocated` bytes with everything that belongs to it.
///
/// # Errors
/// If its holes cannot be told.
pub(super) fn content(
    file: &File,
    (size, allocated): (u64, u64),
    volume: &Met,
    path: &Path,
) -> Result<Content> {
    if size == 0 {
        return Ok(Content::default());
    }
    let mapped = match volume.way {
        Way::Device { base, size: end } if !elsewhere(file, &volume.kind) => {
            fiemap::extents(file).ok().map(|extents| {
                // blocks of a map count like blocks of content (ext4 `i_blocks`, XFS `di_nblocks`)
                let outside = allocated != extents.iter().map(|extent| extent.length).sum::<u64>();
                Content { outside, ..placed(&extents, size, (base, end)) }
            })
        }
        _ => None,
    };
    let content = match mapped {
        Some(content) => content,
        None => {
            let data = data_of(file, size).os_context(|| format!("find the holes of {}", path.display()))?;
            Content { parts: Vec::new(), through: data, outside: true }
        }
    };
    Ok(Content { through: chunked(&content.through), ..content })
}

/// The file's own flags say that its bytes lie elsewhere than its map says.
fn elsewhere(file: &File, kind: &str) -> bool {
    match kind {
        "xfs" => fiemap::is_realtime(file),
        "ext4" | "ext3" => fiemap::is_kept_otherwise(file),
        _ => false,
    }
}

/// Extents as parts, as far as they are vouched for; cut at the file's end.
fn placed(extents: &[Mapped], size: u64, (base, end): (u64, u64)) -> Content {
    let mut content = Content::default();
    for extent in extents {
        let stop = extent.logical.saturating_add(extent.length).min(size);
        let Some(length) = stop.checked_sub(extent.logical).filter(|n| *n > 0) else { continue };
        let inside = extent.physical.checked_add(extent.length).is_some_and(|e| e <= end);
        if !extent.is_plain() || !extent.is_unwritten() && !inside {
            content.through.push((extent.logical, length));
            continue;
        }
        let place =
            if extent.is_unwritten() { Place::Reserved } else { Place::Image(base + extent.physical) };
        join(&mut content.parts, Part { at: extent.logical, length, place });
    }
    content
}

/// Adds a part; one that goes on where the last one ends makes that longer.
fn join(parts: &mut Vec<Part>, part: Part) {
    if let Some(last) = parts.last_mut().filter(|last| last.at + last.length == part.at) {
        let goes_on = match (last.place, part.place) {
            (Place::Image(a), Place::Image(b)) => a + last.length == b,
            (Place::Reserved, Place::Reserved) => true,
            _ => false,
        };
        if goes_on {
            last.length += part.length;
            return;
        }
    }
    parts.push(part);
}

/// Where a file is no hole, as the file system says.
fn data_of(file: &File, size: u64) -> rustix::io::Result<Vec<(u64, u64)>> {
    use rustix::fs::{SeekFrom, seek};
    let (mut found, mut at) = (Vec::new(), 0);
    while at < size {
        let start = match seek(file, SeekFrom::Data(at)) {
            Err(Errno::NXIO) => break,
            // this file system knows no holes
            Err(Errno::INVAL | Errno::OPNOTSUPP) => at,
            start => start?,
        };
        let stop = seek(file, SeekFrom::Hole(start)).unwrap_or(size).min(size);
        if start >= size || stop <= start {
            break;
        }
        found.push((start, stop - start));
        at = stop;
    }
    Ok(found)
}

/// Ranges cut at multiples of a chunk of the file.
fn chunked(ranges: &[(u64, u64)]) -> Vec<(u64, u64)> {
    let mut cut = Vec::new();
    for &(start, length) in ranges {
        let (mut at, stop) = (start, start + length);
        while at < stop {
            let next = ((at / THROUGH_CHUNK + 1) * THROUGH_CHUNK).min(stop);
            cut.push((at, next - at));
            at = next;
        }
    }
    cut
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunks_lie_on_the_files_own_grid() {
        let ranges = [(5, 10), (THROUGH_CHUNK - 1, 2), (3 * THROUGH_CHUNK, 2 * THROUGH_CHUNK + 1)];
        let cut = chunked(&ranges);
        assert_eq!(cut.len(), 6);
        assert_eq!(cut.iter().map(|c| c.1).sum::<u64>(), ranges.iter().map(|r| r.1).sum::<u64>());
        assert!(cut.iter().all(|(at, n)| at / THROUGH_CHUNK == (at + n - 1) / THROUGH_CHUNK));
    }

    #[test]
    fn holes_of_a_file_without_a_map_are_found() {
        use std::os::unix::fs::FileExt;
        let file = tempfile::tempfile().unwrap();
        file.write_all_at(&[7; 5000], 3 << 20).unwrap();
        file.set_len(8 << 20).unwrap();
        let data = data_of(&file, 8 << 20).unwrap();
        assert!(data.iter().any(|(at, n)| *at <= 3 << 20 && at + n >= (3 << 20) + 5000), "{data:?}");
        assert!(data.iter().map(|d| d.1).sum::<u64>() < 8 << 20, "{data:?}");
    }
}
