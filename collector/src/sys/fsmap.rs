//! What a mounted ext4 or XFS knows about every block of its device: `FS_IOC_GETFSMAP`
//! (`include/uapi/linux/fsmap.h`, unchanged 4.12 to 7.3).

use super::ioctl;
use std::io;
use std::os::fd::AsFd;

/// `FS_IOC_GETFSMAP`: `_IOWR('X', 59, struct fsmap_head)`.
const GETFSMAP: u64 = 0xc0c0_583b;
/// The owner is one of the special ones.
const SPECIAL_OWNER: u32 = 0x10;
/// The last record of the answer.
const LAST: u32 = 0x20;
/// `FMR_OWN_FREE`: nobody's.
const OWNER_FREE: u64 = 1;
/// Records are stamped with device numbers, not with numbers of the file system's own.
const DEVICES_ARE_DEV_T: u32 = 1;
/// Records asked for at once.
const BATCH: usize = 4096;

/// `struct fsmap`.
#[repr(C)]
#[derive(Clone, Copy, Default, Debug)]
pub(crate) struct Record {
    pub(crate) device: u32,
    flags: u32,
    pub(crate) physical: u64,
    owner: u64,
    offset: u64,
    pub(crate) length: u64,
    reserved: [u64; 3],
}

impl Record {
    /// Nobody's space.
    pub(crate) const fn is_free(&self) -> bool {
        self.flags & SPECIAL_OWNER != 0 && self.owner == OWNER_FREE
    }
}

/// `struct fsmap_head` with room for a batch.
#[repr(C)]
struct Query {
    input_flags: u32,
    output_flags: u32,
    count: u32,
    entries: u32,
    reserved: [u64; 6],
    low: Record,
    high: Record,
    records: [Record; BATCH],
}

/// Calls `each` with every record of the file system that `fd` lies on, in the kernel's order.
///
/// # Errors
/// The kernel's (`ENOTTY`, `EOPNOTSUPP`: this file system has no such map), or `Unsupported` if records do not
/// name devices by number.
pub(crate) fn records(fd: impl AsFd, mut each: impl FnMut(&Record)) -> io::Result<()> {
    let everything = Record {
        device: u32::MAX,
        flags: u32::MAX,
        physical: u64::MAX,
        owner: u64::MAX,
        offset: u64::MAX,
        ..Record::default()
    };
    let mut query = Box::new(Query {
        input_flags: 0,
        output_flags: 0,
        count: BATCH as u32,
        entries: 0,
        reserved: [0; 6],
        low: Record::default(),
        high: everything,
        records: [Record::default(); BATCH],
    });
    loop {
        // SAFETY: GETFSMAP takes a fsmap_head followed by `count` records, which is what Query is laid out as
        // (192 bytes, then 64 each); plain integers only.
        unsafe { ioctl::with(&fd, GETFSMAP, &mut *query)? };
        let batch = query.records.get(..query.entries as usize).ok_or(io::ErrorKind::InvalidData)?;
        let Some(last) = batch.last().copied() else { return Ok(()) };
        if query.output_flags & DEVICES_ARE_DEV_T == 0 {
            return Err(io::ErrorKind::Unsupported.into());
        }
        batch.iter().for_each(&mut each);
        if last.flags & LAST != 0 {
            return Ok(());
        }
        query.low = last;
    }
}

const _: () = assert!(size_of::<Record>() == 64 && std::mem::offset_of!(Query, records) == 192);
