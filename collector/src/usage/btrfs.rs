//! btrfs: what its extent tree does not name on this device.
//!
//! ```text
//!   device tree   (devid, DEV_EXTENT, physical)   → chunk's logical address, length
//!   chunk tree    (256, CHUNK_ITEM, logical)      → profile, stripes
//!   extent tree   (logical, EXTENT_ITEM | METADATA_ITEM, …) → used
//! ```
//!
//! The extent tree is the file system's own truth; the free-space tree is derived from it and could be stale.
//! Used whole: the first MiB, the super block mirrors, chunks of striped profiles (their pieces are not followed),
//! device extents without a matching chunk, and all of it if a feature is not known to leave these trees as they
//! are. Unallocated space is free.

use super::{Unknown, mounts_of_type};
use crate::block::{Extent, ExtentSet};
use crate::error::{Error, Result};
use crate::sys::btrfs::{self as kernel, Key, u64_at};
use crate::sys::device::BlockDevice;
use crate::sys::direct::{AlignedBuf, DirectFile};
use crate::sys::mounts::Mount;
use crate::sys::privilege::{Capability, explained};
use std::collections::BTreeMap;
use std::fs::File;
use std::path::Path;

const EXTENT_TREE: u64 = 2;
const CHUNK_TREE: u64 = 3;
const DEVICE_TREE: u64 = 4;
const EXTENT_ITEM: u8 = 168;
const METADATA_ITEM: u8 = 169;
const DEV_EXTENT: u8 = 204;
const CHUNK_ITEM: u8 = 228;
const FIRST_CHUNK: u64 = 256;
/// Data, system and metadata; single (no bit), RAID1, DUP, RAID1C3, RAID1C4: each stripe holds the whole chunk.
const LINEAR: u64 = 0x7 | 0x10 | 0x20 | 0x200 | 0x400;
/// Features that leave the three trees as read here: bits 0 to 11 (up to raid1c34) and 16 (simple quotas).
const KNOWN_FEATURES: u64 = 0xfff | 1 << 16;
/// Never allocated, but the boot loader's and the first super block's.
const RESERVED: Extent = Extent::new(0, 1 << 20);
/// Super block and its mirrors.
const SUPERS: [u64; 3] = [64 << 10, 64 << 20, 256 << 30];
/// Bytes around a super block that are never allocated.
const SUPER_ROOM: u64 = 64 << 10;
/// Offset of the device item in the super block, and of the device's UUID in that.
const DEV_ITEM: usize = 0xc9;
const DEV_UUID: usize = DEV_ITEM + 66;

/// A mount of the btrfs that this device is a member of, if it is mounted here.
pub(super) fn mount_of(device: &BlockDevice) -> Result<Option<Mount>> {
    let Some(fsid) = fsid_of_member(device) else { return Ok(None) };
    let is_it = |mount: &Mount| {
        let info = mount.open().ok().and_then(|file| kernel::fs_info(file).ok());
        info.is_some_and(|info| info.fsid == fsid)
    };
    Ok(mounts_of_type("btrfs")?.into_iter().find(is_it))
}

/// The mounted file system that names this device, from `/sys/fs/btrfs/FSID/devices/`.
fn fsid_of_member(device: &BlockDevice) -> Option<[u8; 16]> {
    let number = format!("{}:{}", device.dev >> 20, device.dev & 0xf_ffff);
    let list = std::fs::read_dir("/sys/fs/btrfs").ok()?;
    list.flatten().map(|e| e.path()).find(|fs| has_member(&fs.join("devices"), &number)).and_then(|fs| {
        let hex: String = fs.file_name()?.to_str()?.chars().filter(|c| *c != '-').collect();
        u128::from_str_radix(&hex, 16).ok().filter(|_| hex.len() == 32).map(u128::to_be_bytes)
    })
}

fn has_member(devices: &Path, number: &str) -> bool {
    let list = std::fs::read_dir(devices).into_iter().flatten().flatten();
    list.map(|e| e.path().join("dev"))
        .any(|dev| std::fs::read_to_string(dev).is_ok_and(|d| d.trim() == number))
}

/// What the file system has not allocated on this device.
pub(super) fn free_space(device: &BlockDevice, mount: &Mount) -> Result<ExtentSet, Unknown> {
    let file = mount.open()?;
    let asked = |e: std::io::Error| {
        // btrfs_ioctl_tree_search_v2, fs/btrfs/ioctl.c
        explained(
            Error::os(format!("search the trees of {}", mount.mountpoint.display()), e),
            &[Capability::SysAdmin],
        )
    };
    let sync = || rustix::fs::syncfs(&file).map_err(|e| asked(e.into()));
    sync()?;
    let features = kernel::incompatible_features(&file).map_err(asked)?;
    if features & !KNOWN_FEATURES != 0 {
        return Err(Unknown::new(format!("btrfs features {:#x} are not known", features & !KNOWN_FEATURES)));
    }
    let (devid, size) = member(device, &file)?;
    let mut used = vec![RESERVED];
    used.extend(SUPERS.map(|at| Extent::new(at, SUPER_ROOM)));
    let chunks = chunks(&file).map_err(asked)?;
    let node_size = u64::from(kernel::fs_info(&file).map_err(asked)?.node_size);
    for piece in device_extents(&file, devid).map_err(asked)? {
        match chunks.get(&piece.logical).filter(|chunk| chunk.is_linear_at(devid, &piece)) {
            Some(_) => allocated(&file, &piece, node_size, &mut used).map_err(asked)?,
            None => used.push(piece.physical),
        }
    }
    // what was freed a moment ago is still referenced by the last super block until this commit
    sync()?;
    Ok(ExtentSet::from_unsorted(used).complement(size))
}

/// This device's id in the file system and the size the file system gives it.
fn member(device: &BlockDevice, file: &File) -> Result<(u64, u64), Unknown> {
    let mut block = AlignedBuf::new(4096);
    DirectFile::open(&device.path)?.read_at(SUPERS[0], &mut block, 4096)?;
    let devid = u64_at(&block, DEV_ITEM).filter(|_| block.get(0x40..0x48) == Some(b"_BHRfS_M"));
    let Some(devid) = devid.filter(|&id| id != 0) else {
        return Err(Unknown::new("its btrfs super block does not name this device"));
    };
    let info = kernel::dev_info(file, devid)
        .map_err(|e| Error::os(format!("ask btrfs about its device {devid}"), e))?;
    if block.get(DEV_UUID..DEV_UUID + 16) != Some(&info.uuid) || info.total_bytes > device.size {
        return Err(Unknown::new("its btrfs super block is not that of the mounted file system"));
    }
    Ok((devid, info.total_bytes))
}

/// A chunk: a run of logical addresses.
struct Chunk {
    length: u64,
    profile: u64,
    /// Device id and physical offset of each stripe.
    stripes: Vec<(u64, u64)>,
}

/// A piece of this device that belongs to a chunk.
struct DeviceExtent {
    physical: Extent,
    logical: u64,
}

impl Chunk {
    fn parse(item: &[u8]) -> Option<Self> {
        let count = u16::from_le_bytes(*item.get(44..)?.first_chunk()?);
        let stripe = |i: u16| {
            let at = 48 + usize::from(i) * 32;
            Some((u64_at(item, at)?, u64_at(item, at + 8)?))
        };
        let stripes = (0..count).map(stripe).collect::<Option<_>>()?;
        Some(Self { length: u64_at(item, 0)?, profile: u64_at(item, 24)?, stripes })
    }

    /// The device extent is a full copy of the chunk, byte for byte in order.
    fn is_linear_at(&self, devid: u64, piece: &DeviceExtent) -> bool {
        self.profile & !LINEAR == 0
            && self.length == piece.physical.length
            && self.stripes.contains(&(devid, piece.physical.offset))
    }
}

fn chunks(file: &File) -> std::io::Result<BTreeMap<u64, Chunk>> {
    let key = |offset| Key { objectid: FIRST_CHUNK, kind: CHUNK_ITEM, offset };
    let mut chunks = BTreeMap::new();
    kernel::search(file, CHUNK_TREE, key(0), key(u64::MAX), |key, item| {
        if let Some(chunk) = Chunk::parse(item) {
            chunks.insert(key.offset, chunk);
        }
    })?;
    Ok(chunks)
}

fn device_extents(file: &File, devid: u64) -> std::io::Result<Vec<DeviceExtent>> {
    let key = |offset| Key { objectid: devid, kind: DEV_EXTENT, offset };
    let mut found = Some(Vec::new());
    kernel::search(file, DEVICE_TREE, key(0), key(u64::MAX), |key, item| {
        let piece = u64_at(item, 16)
            .zip(u64_at(item, 24))
            .map(|(logical, length)| DeviceExtent { physical: Extent::new(key.offset, length), logical });
        match (piece, &mut found) {
            (Some(piece), Some(found)) => found.push(piece),
            _ => found = None,
        }
    })?;
    found.ok_or_else(|| std::io::ErrorKind::InvalidData.into())
}

/// Adds what is allocated in the chunk that `piece` holds a copy of.
fn allocated(
    file: &File,
    piece: &DeviceExtent,
    node_size: u64,
    used: &mut Vec<Extent>,
) -> std::io::Result<()> {
    let end = piece.logical.saturating_add(piece.physical.length);
    let first = Key { objectid: piece.logical, kind: 0, offset: 0 };
    let last = Key { objectid: end.saturating_sub(1), kind: u8::MAX, offset: u64::MAX };
    kernel::search(file, EXTENT_TREE, first, last, |key, _| {
        let length = match key.kind {
            EXTENT_ITEM => key.offset,
            METADATA_ITEM => node_size,
            _ => return,
        };
        let at = Extent::new(piece.physical.offset.saturating_add(key.objectid - piece.logical), length);
        match used.last_mut() {
            Some(last) if last.end() == at.offset => last.length += at.length,
            _ => used.push(at),
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn item(profile: u64, stripes: &[(u64, u64)]) -> Vec<u8> {
        let mut item = vec![0u8; 48 + stripes.len() * 32];
        item[..8].copy_from_slice(&(1u64 << 30).to_le_bytes());
        item[24..32].copy_from_slice(&profile.to_le_bytes());
        item[44] = stripes.len() as u8;
        for (i, (devid, offset)) in stripes.iter().enumerate() {
            item[48 + i * 32..][..8].copy_from_slice(&devid.to_le_bytes());
            item[56 + i * 32..][..8].copy_from_slice(&offset.to_le_bytes());
        }
        item
    }

    #[test]
    fn only_whole_copies_of_a_chunk_are_looked_into() {
        let piece = |offset, length| DeviceExtent { physical: Extent::new(offset, length), logical: 7 << 30 };
        let dup = Chunk::parse(&item(0x24, &[(1, 5 << 20), (1, 9 << 20)])).unwrap();
        assert!(dup.is_linear_at(1, &piece(9 << 20, 1 << 30)));
        assert!(!dup.is_linear_at(2, &piece(9 << 20, 1 << 30)));
        assert!(!dup.is_linear_at(1, &piece(8 << 20, 1 << 30)));
        assert!(!dup.is_linear_at(1, &piece(9 << 20, 1 << 29)));
        for striped in [0x8, 0x40, 0x80, 0x100, 1 << 11, 1 << 48] {
            let chunk = Chunk::parse(&item(1 | striped, &[(1, 0), (2, 0)])).unwrap();
            assert!(!chunk.is_linear_at(1, &piece(0, 1 << 30)), "{striped:#x}");
        }
    }

    #[test]
    fn a_short_chunk_item_is_none() {
        let item = item(1, &[(1, 2), (3, 4)]);
        for len in 0..item.len() {
            assert!(Chunk::parse(&item[..len]).is_none() || len >= item.len() - 16, "{len}");
        }
    }
}
