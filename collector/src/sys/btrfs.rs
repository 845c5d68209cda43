//! Questions to a mounted btrfs: its devices, features and the items of its trees
//! (`include/uapi/linux/btrfs.h`, `btrfs_tree.h`; unchanged 6.1 to 7.3).

use super::mounts::Mount;
use super::{device, ioctl};
use std::io;
use std::os::fd::AsFd;

/// `BTRFS_IOC_TREE_SEARCH_V2`.
const TREE_SEARCH_V2: u64 = 0xc070_9411;
/// `BTRFS_IOC_FS_INFO`.
const FS_INFO: u64 = 0x8400_941f;
/// `BTRFS_IOC_DEV_INFO`.
const DEV_INFO: u64 = 0xd000_941e;
/// `BTRFS_IOC_GET_FEATURES`.
const GET_FEATURES: u64 = 0x8018_9439;
/// `BTRFS_IOC_INO_LOOKUP`.
const INO_LOOKUP: u64 = 0xd000_9412;
/// Bytes for the items of one search: more than the largest item (a node is at most 64 KiB).
const BATCH: usize = 128 << 10;

/// A key of a tree: its order is that of the tree.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Key {
    pub(crate) objectid: u64,
    pub(crate) kind: u8,
    pub(crate) offset: u64,
}

impl Key {
    /// The next possible key.
    fn successor(self) -> Option<Self> {
        if let Some(offset) = self.offset.checked_add(1) {
            return Some(Self { offset, ..self });
        }
        if let Some(kind) = self.kind.checked_add(1) {
            return Some(Self { kind, offset: 0, ..self });
        }
        self.objectid.checked_add(1).map(|objectid| Self { objectid, kind: 0, offset: 0 })
    }
}

/// `struct btrfs_ioctl_search_args_v2` with its buffer.
#[repr(C)]
struct Search {
    tree: u64,
    min_objectid: u64,
    max_objectid: u64,
    min_offset: u64,
    max_offset: u64,
    min_transid: u64,
    max_transid: u64,
    min_type: u32,
    max_type: u32,
    items: u32,
    unused: u32,
    unused_too: [u64; 4],
    buffer_size: u64,
    buffer: [u8; BATCH],
}

/// Bytes of `struct btrfs_ioctl_search_header`.
const HEADER: usize = 32;

/// Calls `each` with every item of tree `tree` from `first` to `last` (inclusive, in key order).
pub(crate) fn search(
    fd: impl AsFd,
    tree: u64,
    first: Key,
    last: Key,
    mut each: impl FnMut(Key, &[u8]),
) -> io::Result<()> {
    let mut search = Search::zeroed();
    let mut next = Some(first);
    while let Some(from) = next.filter(|from| *from <= last) {
        search.ask(tree, from, last);
        // SAFETY: TREE_SEARCH_V2 takes its args followed by buffer_size bytes, which is what Search is laid out
        // as; integers only.
        unsafe { ioctl::with(&fd, TREE_SEARCH_V2, &mut *search)? };
        if search.items == 0 {
            return Ok(());
        }
        let end = decode(&search.buffer, search.items, &mut each).ok_or(io::ErrorKind::InvalidData)?;
        next = end.successor();
    }
    Ok(())
}

impl Search {
    /// All zero, made on the heap: it is too large for a thread's stack.
    fn zeroed() -> Box<Self> {
        // SAFETY: every field is an integer or an array of them, for which all zero bits are a value.
        unsafe { Box::<Self>::new_zeroed().assume_init() }
    }

    fn ask(&mut self, tree: u64, from: Key, last: Key) {
        self.tree = tree;
        (self.min_objectid, self.min_type, self.min_offset) = (from.objectid, from.kind.into(), from.offset);
        (self.max_objectid, self.max_type, self.max_offset) = (last.objectid, last.kind.into(), last.offset);
        (self.min_transid, self.max_transid) = (0, u64::MAX);
        self.items = u32::MAX;
        self.buffer_size = BATCH as u64;
    }
}

/// Walks the items in a search's answer; the last one's key, or nothing if they do not fit the buffer.
fn decode(buffer: &[u8], items: u32, each: &mut impl FnMut(Key, &[u8])) -> Option<Key> {
    let (mut at, mut key) = (0usize, None);
    for _ in 0..items {
        let header = buffer.get(at..at + HEADER)?;
        let kind = u8::try_from(u32_at(header, 24)?).ok()?;
        let found = Key { objectid: u64_at(header, 8)?, kind, offset: u64_at(header, 16)? };
        let length = u32_at(header, 28)? as usize;
        let data = buffer.get(at + HEADER..)?.get(..length)?;
        each(found, data);
        at += HEADER + length;
        key = Some(found);
    }
    key
}

/// Little-endian `u64` in an item.
pub(crate) fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(*bytes.get(at..)?.first_chunk()?))
}

/// Little-endian `u32` in an item.
pub(crate) fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(*bytes.get(at..)?.first_chunk()?))
}

/// What a whole file system is.
pub(crate) struct FsInfo {
    pub(crate) fsid: [u8; 16],
    pub(crate) node_size: u32,
}

/// Asks for the file system's identity and node size.
pub(crate) fn fs_info(fd: impl AsFd) -> io::Result<FsInfo> {
    let mut info = [0u8; 1024];
    // SAFETY: FS_INFO reads and stores 1024 bytes of integers.
    unsafe { ioctl::with(fd, FS_INFO, &mut info)? };
    let fsid = *info.get(16..).and_then(|b| b.first_chunk()).ok_or(io::ErrorKind::InvalidData)?;
    let node_size = u32_at(&info, 32).ok_or(io::ErrorKind::InvalidData)?;
    Ok(FsInfo { fsid, node_size })
}

/// Kernel `dev_t` of the devices of a mounted btrfs, from `/sys/fs/btrfs`; empty if it cannot be asked.
pub(crate) fn members(mount: &Mount) -> Vec<u32> {
    let Some(info) = mount.open().ok().and_then(|file| fs_info(file).ok()) else { return Vec::new() };
    let hex = info.fsid.map(|byte| format!("{byte:02x}")).concat();
    let uuid = [&hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..]].join("-");
    let list = std::fs::read_dir(format!("/sys/fs/btrfs/{uuid}/devices")).into_iter().flatten().flatten();
    list.filter_map(|e| device::dev_of(&e.path()).ok()).collect()
}

/// One device of a file system.
pub(crate) struct DevInfo {
    pub(crate) uuid: [u8; 16],
    pub(crate) total_bytes: u64,
}

/// Asks for the device with this id.
pub(crate) fn dev_info(fd: impl AsFd, devid: u64) -> io::Result<DevInfo> {
    let mut info = [0u8; 4096];
    info[..8].copy_from_slice(&devid.to_le_bytes());
    // SAFETY: DEV_INFO reads and stores 4096 bytes of integers.
    unsafe { ioctl::with(fd, DEV_INFO, &mut info)? };
    let uuid = *info.get(8..).and_then(|b| b.first_chunk()).ok_or(io::ErrorKind::InvalidData)?;
    let total_bytes = u64_at(&info, 32).ok_or(io::ErrorKind::InvalidData)?;
    Ok(DevInfo { uuid, total_bytes })
}

/// The id of the subvolume that a file lies in (`BTRFS_IOC_INO_LOOKUP` of its root folder, which needs no privilege).
pub(crate) fn subvolume(fd: impl AsFd) -> io::Result<u64> {
    let mut lookup = [0u64; 512];
    lookup[1] = 256; // BTRFS_FIRST_FREE_OBJECTID
    // SAFETY: INO_LOOKUP reads and stores 4096 bytes: tree, inode, a name.
    unsafe { ioctl::with(fd, INO_LOOKUP, &mut lookup)? };
    Ok(lookup[0])
}

/// The incompatible features in use.
pub(crate) fn incompatible_features(fd: impl AsFd) -> io::Result<u64> {
    let mut features = [0u64; 3];
    // SAFETY: GET_FEATURES stores three u64.
    unsafe { ioctl::with(fd, GET_FEATURES, &mut features)? };
    Ok(features[2])
}

const _: () = assert!(std::mem::offset_of!(Search, buffer) == 112);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_go_on_in_tree_order() {
        let key = |objectid, kind, offset| Key { objectid, kind, offset };
        assert_eq!(key(1, 2, 3).successor(), Some(key(1, 2, 4)));
        assert_eq!(key(1, 2, u64::MAX).successor(), Some(key(1, 3, 0)));
        assert_eq!(key(1, u8::MAX, u64::MAX).successor(), Some(key(2, 0, 0)));
        assert_eq!(key(u64::MAX, u8::MAX, u64::MAX).successor(), None);
    }

    #[test]
    fn an_item_beyond_the_buffer_is_no_answer() {
        let mut buffer = vec![0u8; HEADER + 8];
        buffer[8] = 5;
        buffer[24] = 168;
        buffer[28] = 8;
        let mut seen = Vec::new();
        let key = decode(&buffer, 1, &mut |k, data| seen.push((k, data.len())));
        assert_eq!(key, Some(Key { objectid: 5, kind: 168, offset: 0 }));
        assert_eq!(seen, [(key.unwrap(), 8)]);
        buffer[28] = 9;
        assert_eq!(decode(&buffer, 1, &mut |_, _| {}), None);
        assert_eq!(decode(&buffer, 2, &mut |_, _| {}), None);
        buffer[28] = 8;
        buffer[25] = 1;
        assert_eq!(decode(&buffer, 1, &mut |_, _| {}), None);
    }
}
