//! Witnesses: bytes of a device that cannot stay as they are if anybody writes to it in the usual ways.
//!
//! | part of the device | bytes | why they change |
//! |---|---|---|
//! | ext2/3/4 | super block | every mount for writing counts `s_mnt_count` (`ext4_setup_super`, `ext2_setup_super`) |
//! | XFS | super block, the whole log | every mount for writing ends with an unmount record, and what changes goes to the log before |
//! | btrfs | super block | every commit counts `generation` |
//! | anything else, if it is small | all | |
//!
//! A device-mapper device has one more: its table. Where another one maps it elsewhere, all bytes may be others.
//!
//! What must stay true: no witness for a part, no proof for the device. A file system is a witness only if it looks
//! like the one that made the changes: where something changed since the base and its bytes did not, they are
//! leftovers under something else. What writes past the file system while we are away (`dd` in a rescue system) is
//! not noticed: docs/SAFETY.md says so.

use crate::block::{Extent, ExtentSet};
use crate::error::Result;
use crate::format::{Blake3, Witness};
use crate::sys::device::{BlockDevice, Makeup};
use crate::sys::direct::{AlignedBuf, DirectFile};

/// Bytes that are read at most for all witnesses of a device: a few seconds on any disk.
const BUDGET: u64 = 1 << 30;
/// Bytes at the beginning of a part that tell what it holds: up to the end of btrfs's super block.
const HEAD: u64 = 68 << 10;

/// What tells of one part.
struct Found {
    what: &'static str,
    /// Relative to the part.
    places: Vec<Extent>,
}

/// The witnesses of a device; an `Err` inside says what has none.
///
/// `changed` is what changed since the base: see above.
///
/// # Errors
/// If the device cannot be read.
pub fn take(device: &BlockDevice, changed: &ExtentSet) -> Result<Result<Vec<Witness>, String>> {
    let file = DirectFile::open(&device.path)?;
    let mut budget = BUDGET;
    let mut witnesses = Vec::new();
    for part in parts(device)? {
        let found = match examine(&file, part, changed)? {
            Ok(found) => found,
            Err(why) => return Ok(Err(why)),
        };
        let length: u64 = found.places.iter().map(|place| place.length).sum();
        let Some(left) = budget.checked_sub(length) else {
            let bytes = part.length;
            return Ok(Err(format!(
                "no proof can be kept for {bytes} bytes at {}: nothing in them counts writes",
                part.offset
            )));
        };
        budget = left;
        let digest = digest(&file, part, &found.places)?;
        witnesses.push(Witness { part, what: found.what.into(), digest });
    }
    let makeup = Makeup::of(&device.whole_disk()?)?;
    witnesses.extend(makeup.table().map(|table| of_table(device, table)));
    Ok(Ok(witnesses))
}

/// By the hash of a device-mapper table. Device numbers stand in it: where those change from boot to boot it is
/// another table, and nothing is proved.
fn of_table(device: &BlockDevice, table: &str) -> Witness {
    Witness { part: Extent::new(0, device.size), what: TABLE.into(), digest: Blake3::of(table.as_bytes()) }
}

const TABLE: &str = "device-mapper table";

/// What a witness that is not as it was says.
pub fn contradiction(then: &Witness) -> String {
    match then.what.as_str() {
        TABLE => "its device-mapper table was changed while it was not tracked".into(),
        what => format!("somebody wrote while it was not tracked ({what} changed)"),
    }
}

/// The partitions and what lies between them; the whole device if it has none.
fn parts(device: &BlockDevice) -> Result<Vec<Extent>> {
    let partitions = device.partitions()?;
    let partitions = partitions.iter().map(|p| Extent::new(p.offset_on_disk(), p.size));
    let partitions: Vec<Extent> = partitions.filter(|p| p.end() <= device.size).collect();
    let between = ExtentSet::from_unsorted(partitions.clone()).complement(device.size);
    let mut all: Vec<Extent> = partitions.into_iter().chain(between.iter().copied()).collect();
    all.sort_unstable();
    Ok(all)
}

/// What tells of a part; `Err`: it holds bytes of a file system that is not the one that writes here.
fn examine(file: &DirectFile, part: Extent, changed: &ExtentSet) -> Result<Result<Found, String>> {
    let head = read(file, Extent::new(part.offset, part.length.min(HEAD)))?;
    let known: Vec<Found> = [ext4(&head), xfs(&head), btrfs(&head)].into_iter().flatten().collect();
    let fits = |f: &Found| f.places.iter().all(|place| place.end() <= part.length);
    let [found] = <[Found; 1]>::try_from(known).unwrap_or_else(|_| [whole(part)]);
    if found.what == EVERY_BYTE || !fits(&found) || foreign(&head) {
        return Ok(Ok(whole(part)));
    }
    let here: ExtentSet = changed.intersect(&ExtentSet::from_unsorted(vec![part]));
    let moved = found.places.iter().any(|place| {
        let place = Extent::new(part.offset + place.offset, place.length);
        !here.intersect(&ExtentSet::from_unsorted(vec![place])).is_empty()
    });
    if here.is_empty() || moved {
        return Ok(Ok(found));
    }
    Ok(Err(format!("what changed at {} was not written by the {} there", part.offset, found.what)))
}

const EVERY_BYTE: &str = "every byte";

fn whole(part: Extent) -> Found {
    Found { what: EVERY_BYTE, places: vec![Extent::new(0, part.length)] }
}

/// Something else announces itself here: LVM, LUKS, md, swap. Whatever looks like a file system is a leftover.
fn foreign(head: &[u8]) -> bool {
    let at = |offset: usize, magic: &[u8]| head.get(offset..offset + magic.len()) == Some(magic);
    let md = [0xfc, 0x4e, 0x2b, 0xa9];
    (0..4).any(|sector| at(sector * 512, b"LABELONE"))
        || at(0, b"LUKS\xba\xbe")
        || at(4086, b"SWAPSPACE2")
        || at(0, &md)
        || at(4096, &md)
        || at(4096 + 24, &[0xc6, 0x85, 0x73, 0xf6, 0x4e, 0x1a, 0x45, 0xca])
}

fn ext4(head: &[u8]) -> Option<Found> {
    let magic = head.get(1024 + 0x38..1024 + 0x3a)?;
    (magic == [0x53, 0xef]).then(|| Found { what: "ext4 super block", places: vec![Extent::new(1024, 1024)] })
}

fn btrfs(head: &[u8]) -> Option<Found> {
    let at = 64 << 10;
    let magic = head.get(at + 0x40..at + 0x48)?;
    (magic == b"_BHRfS_M")
        .then(|| Found { what: "btrfs super block", places: vec![Extent::new(at as u64, 4096)] })
}

/// Super block fields of `struct xfs_dsb` (fs/xfs/libxfs/xfs_format.h), big-endian; an external log is no witness.
fn xfs(head: &[u8]) -> Option<Found> {
    let wide = |at: usize| Some(u64::from_be_bytes(head.get(at..at + 8)?.try_into().ok()?));
    let long = |at: usize| Some(u64::from(u32::from_be_bytes(head.get(at..at + 4)?.try_into().ok()?)));
    if head.get(..4)? != b"XFSB" {
        return None;
    }
    let (block, log, ag_blocks, log_blocks) = (long(4)?, wide(48)?, long(84)?, long(96)?);
    let ag_shift = u32::from(*head.get(124)?);
    if log == 0 || log_blocks == 0 || block == 0 || ag_shift > 31 {
        return None;
    }
    let first = (log >> ag_shift).checked_mul(ag_blocks)?.checked_add(log & ((1 << ag_shift) - 1))?;
    let (at, length) = (first.checked_mul(block)?, log_blocks.checked_mul(block)?);
    at.checked_add(length)?;
    Some(Found {
        what: "XFS super block and log",
        places: vec![Extent::new(0, 4096), Extent::new(at, length)],
    })
}

/// Hash of the places and of what is in them.
fn digest(file: &DirectFile, part: Extent, places: &[Extent]) -> Result<Blake3> {
    const STEP: u64 = 1 << 20;
    let mut hasher = blake3::Hasher::new();
    let mut buffer = AlignedBuf::new(STEP as usize);
    for place in places {
        hasher.update(&place.offset.to_le_bytes()).update(&place.length.to_le_bytes());
        let mut at = place.offset;
        while at < place.end() {
            let length = STEP.min(place.end() - at);
            file.read_at(part.offset + at, &mut buffer, length as usize)?;
            hasher.update(&buffer);
            at += length;
        }
    }
    Ok(Blake3(*hasher.finalize().as_bytes()))
}

fn read(file: &DirectFile, extent: Extent) -> Result<Vec<u8>> {
    let mut buffer = AlignedBuf::new(extent.length as usize);
    file.read_at(extent.offset, &mut buffer, extent.length as usize)?;
    Ok(buffer.to_vec())
}
