//! Where the inodes of a mounted ext4 or XFS lie on its device: which of them a changed block may have changed.
//!
//! ext4 keeps them in tables that its group descriptors name (Documentation/filesystems/ext4, "group_descr"); a table
//! never moves while the file system is mounted. The number of an inode of XFS is its place (`XFS_INO_TO_FSB`,
//! fs/xfs/libxfs/xfs_format.h).
//!
//! What must stay true: a place is given only where the file system's layout is fully known: every feature that is not
//! on the list here makes an end of it, and then the files are walked.

use crate::block::Extent;
use crate::error::Result;
use crate::sys::device::BlockDevice;
use crate::sys::direct::{AlignedBuf, DirectFile};

/// The layout of a file system's inodes.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Inodes {
    /// First blocks of the tables, by group.
    Ext4 { tables: Vec<u64>, per_group: u64, block: u64, inode: u64 },
    /// How a number is put together.
    Xfs { ag_blocks: u64, ags: u64, ag_bits: u32, block_bits: u32, block: u64, inode: u64 },
}

/// ext4: directory types, recovery, extents, 64 bits, multiple mount protection, flexible groups, attributes in inodes,
/// a seed of checksums, large directories. Not: content in inodes, scattered descriptors, encryption, folded names.
const EXT4_INCOMPATIBLE: u64 = 0x2 | 0x4 | 0x40 | 0x80 | 0x100 | 0x200 | 0x400 | 0x2000 | 0x4000;
/// ext4: all but clusters of blocks, snapshots, replicas, shared blocks, and what is not known.
const EXT4_RO_COMPATIBLE: u64 = 0x7b | 0x4 | 0x100 | 0x400 | 0x2000 | 0x8000 | 0x10000;
/// ext4: a journal, which a freeze empties.
const EXT4_JOURNAL: u64 = 0x4;
/// XFS: types in directories, sparse inodes, another uuid, big times, many extents, exchanged ranges, parents. Not: a
/// file system that needs repair, folders of metadata, zones.
const XFS_INCOMPATIBLE: u64 = 0xef;

impl Inodes {
    /// Of the file system of this type on the device with this number; why not, if it is not fully known. With it, what
    /// the super block says of when it was mounted and checked.
    ///
    /// # Errors
    /// If the device cannot be read.
    pub(crate) fn of(kind: &str, dev: u32) -> Result<Result<(Self, Vec<u64>), &'static str>> {
        let file = DirectFile::open(&BlockDevice::of_number(dev)?.path)?;
        let mut buf = AlignedBuf::new(0);
        file.read_at(0, &mut buf, 4096)?;
        match kind {
            "ext4" => Self::ext4(&file, &buf[1024..2048]),
            "xfs" => Ok(Self::xfs(&buf).map(|layout| (layout, Vec::new()))),
            _ => Ok(Err("where its inodes lie is not known")),
        }
    }

    fn ext4(file: &DirectFile, sb: &[u8]) -> Result<Result<(Self, Vec<u64>), &'static str>> {
        let word = |at: usize| le32(sb, at);
        let half = |at: usize| le32(sb, at) & 0xffff;
        let (incompatible, log_block, first) = (word(0x60), word(0x18), word(0x14));
        if incompatible & !EXT4_INCOMPATIBLE != 0 || word(0x64) & !EXT4_RO_COMPATIBLE != 0 {
            return Ok(Err("it has features that are not fully known"));
        }
        if word(0x5c) & EXT4_JOURNAL == 0 {
            return Ok(Err("it has no journal, and a freeze may leave something in memory"));
        }
        let wide = incompatible & 0x80 != 0;
        let (blocks_per_group, per_group, inode) = (word(0x20), word(0x28), half(0x58));
        let blocks = word(0x4) | if wide { word(0x150) << 32 } else { 0 };
        let descriptor = if wide { half(0xfe) } else { 32 };
        let sane =
            half(0x38) == 0xef53 && log_block <= 6 && blocks_per_group > 0 && inode >= 128 && per_group > 0;
        let fits = blocks > first && (32..=4096).contains(&descriptor) && (!wide || descriptor >= 64);
        let groups = blocks.saturating_sub(first).div_ceil(blocks_per_group.max(1));
        if !sane || !fits || groups > 1 << 22 {
            return Ok(Err("its super block is not as expected"));
        }
        let block = 1024 << log_block;
        let mut buf = AlignedBuf::new(0);
        file.read_at((first + 1) * block, &mut buf, (groups * descriptor) as usize)?;
        let table = |entry: &[u8]| le32(entry, 8) | if wide { le32(entry, 0x28) << 32 } else { 0 };
        let tables = buf.chunks_exact(descriptor as usize).map(table).collect();
        // of a mount, read-write: when, how many until then; and of the last check
        let mounted = vec![word(0x2c), half(0x34), word(0x40)];
        Ok(Ok((Self::Ext4 { tables, per_group, block, inode }, mounted)))
    }

    fn xfs(sb: &[u8]) -> Result<Self, &'static str> {
        let word = |at: usize| u64::from(u32::from_be_bytes(*sb[at..].first_chunk().unwrap_or(&[0; 4])));
        let (block, ag_blocks, ags) = (word(4), word(84), word(88));
        let (inode, version) = (word(104) >> 16, word(100) >> 16 & 0xf);
        if !matches!(version, 4 | 5) || version == 5 && word(216) & !XFS_INCOMPATIBLE != 0 {
            return Err("it has features that are not fully known");
        }
        let (block_bits, ag_bits) = (u32::from(sb[123]), u32::from(sb[124]));
        let sane = sb.starts_with(b"XFSB") && block >= 512 && inode >= 256 && block_bits < 16 && ag_bits < 32;
        if !sane || inode << block_bits != block {
            return Err("its super block is not as expected");
        }
        Ok(Self::Xfs { ag_blocks, ags, ag_bits, block_bits, block, inode })
    }

    /// Bytes of an inode.
    pub(crate) const fn length(&self) -> u64 {
        match self {
            Self::Ext4 { inode, .. } | Self::Xfs { inode, .. } => *inode,
        }
    }

    /// Where inode `number` lies; `None` if that is not known, so that it may have changed whatever changed.
    pub(crate) fn place(&self, number: u64) -> Option<Extent> {
        match self {
            Self::Ext4 { tables, per_group, block, inode } => {
                let index = number.checked_sub(1)?;
                let table = tables.get((index / per_group) as usize).filter(|table| **table > 0)?;
                Some(Extent::new(table * block + index % per_group * inode, *inode))
            }
            Self::Xfs { ag_blocks, ags, ag_bits, block_bits, block, inode } => {
                let (ag, rest) =
                    (number >> (ag_bits + block_bits), number & ((1 << (ag_bits + block_bits)) - 1));
                let (at, index) = (rest >> block_bits, rest & ((1 << block_bits) - 1));
                (ag < *ags && at < *ag_blocks)
                    .then(|| Extent::new((ag * ag_blocks + at) * block + index * inode, *inode))
            }
        }
    }
}

fn le32(bytes: &[u8], at: usize) -> u64 {
    u64::from(u32::from_le_bytes(*bytes[at..].first_chunk().unwrap_or(&[0; 4])))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_is_a_place() {
        let ext4 = Inodes::Ext4 { tables: vec![100, 0, 900], per_group: 1000, block: 4096, inode: 256 };
        assert_eq!(ext4.place(1), Some(Extent::new(409_600, 256)));
        assert_eq!(ext4.place(2017), Some(Extent::new(900 * 4096 + 16 * 256, 256)));
        assert_eq!([ext4.place(0), ext4.place(1001), ext4.place(3001)], [None; 3]);
        let xfs =
            Inodes::Xfs { ag_blocks: 1000, ags: 4, ag_bits: 10, block_bits: 3, block: 4096, inode: 512 };
        assert_eq!(xfs.place(128), Some(Extent::new(16 * 4096, 512)));
        assert_eq!(xfs.place((2 << 13) + 131), Some(Extent::new((2000 + 16) * 4096 + 3 * 512, 512)));
        assert_eq!([xfs.place(5 << 13), xfs.place(1001 << 3)], [None; 2]);
    }

    #[test]
    fn what_is_not_fully_known_has_no_layout() {
        let mut sb = vec![0; 512];
        sb[..4].copy_from_slice(b"XFSB");
        for (at, value) in [(4, 4096u32), (84, 1000), (88, 4), (100, 5 << 16), (104, 512 << 16)] {
            sb[at..at + 4].copy_from_slice(&value.to_be_bytes());
        }
        (sb[123], sb[124]) = (3, 10);
        assert!(Inodes::xfs(&sb).is_ok());
        for (at, value) in [(100, 3 << 16), (216, 0x10u32), (216, 1 << 20), (104, 1024 << 16)] {
            let mut other = sb.clone();
            other[at..at + 4].copy_from_slice(&value.to_be_bytes());
            assert!(Inodes::xfs(&other).is_err(), "{value:#x} at {at}");
        }
    }
}
