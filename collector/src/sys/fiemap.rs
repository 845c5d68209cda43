//! Where a file's bytes lie on its device: `FS_IOC_FIEMAP` (`include/uapi/linux/fiemap.h`, unchanged 2.6.28 to 7.3), and
//! the inode flags that make the answer useless.

use super::ioctl;
use std::io;
use std::os::fd::AsFd;

/// `FS_IOC_FIEMAP`: `_IOWR('f', 11, struct fiemap)`.
const FIEMAP: u64 = 0xc020_660b;
/// Write the file out first.
const SYNC: u32 = 1;
/// The last extent of the file.
const LAST: u32 = 0x1;
/// Reserved, reads as zeros.
const UNWRITTEN: u32 = 0x800;
/// Says nothing against the address: last, unwritten, merged by the file system, shared with another file.
const PLAIN: u32 = LAST | UNWRITTEN | 0x1000 | 0x2000;
/// Extents asked for at once.
const BATCH: usize = 256;

/// `FS_IOC_GETFLAGS`.
const GETFLAGS: u64 = 0x8008_6601;
/// `FS_JOURNAL_DATA_FL`: content may lie in the journal only. `FS_ENCRYPT_FL`: it is encrypted where it lies.
const JOURNAL_DATA: u32 = 0x4000;
const ENCRYPTED: u32 = 0x800;
/// `FS_IOC_FSGETXATTR`.
const FSGETXATTR: u64 = 0x801c_581f;
/// `FS_XFLAG_REALTIME`: content lies on another device.
const REALTIME: u32 = 1;
/// `FICLONERANGE`.
const CLONE_RANGE: u64 = 0x4020_940d;

/// `struct fiemap_extent`.
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct Raw {
    logical: u64,
    physical: u64,
    length: u64,
    reserved: [u64; 2],
    flags: u32,
    reserved_too: [u32; 3],
}

/// `struct fiemap` with room for a batch.
#[repr(C)]
struct Query {
    start: u64,
    length: u64,
    flags: u32,
    mapped: u32,
    count: u32,
    reserved: u32,
    extents: [Raw; BATCH],
}

/// A part of a file, as its file system says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Mapped {
    pub(crate) logical: u64,
    pub(crate) physical: u64,
    pub(crate) length: u64,
    flags: u32,
}

impl Mapped {
    /// The bytes lie at the address, as they are: not inline, encoded, delayed, or elsewhere.
    pub(crate) const fn is_plain(&self) -> bool {
        self.flags & !PLAIN == 0
    }

    /// Reserved, reads as zeros.
    pub(crate) const fn is_unwritten(&self) -> bool {
        self.flags & UNWRITTEN != 0
    }
}

/// A file's extents, ascending, after it was written out.
///
/// # Errors
/// The kernel's (`EOPNOTSUPP`, `ENOTTY`: this file system has no such map).
pub(crate) fn extents(fd: impl AsFd) -> io::Result<Vec<Mapped>> {
    let (mut found, mut start) = (Vec::new(), 0);
    let mut query = Query {
        start: 0,
        length: 0,
        flags: SYNC,
        mapped: 0,
        count: BATCH as u32,
        reserved: 0,
        extents: [Raw::default(); BATCH],
    };
    loop {
        (query.start, query.length, query.mapped) = (start, u64::MAX - start, 0);
        // SAFETY: FIEMAP takes a struct fiemap followed by `count` extents, which is what Query is laid out as (32
        // bytes, then 56 each); plain integers only.
        unsafe { ioctl::with(&fd, FIEMAP, &mut query)? };
        let batch = query.extents.get(..query.mapped as usize).ok_or(io::ErrorKind::InvalidData)?;
        let Some(last) = batch.last().copied() else { return Ok(found) };
        found.extend(batch.iter().map(|raw| Mapped {
            logical: raw.logical,
            physical: raw.physical,
            length: raw.length,
            flags: raw.flags,
        }));
        let next = last.logical.saturating_add(last.length);
        if last.flags & LAST != 0 || next <= start {
            return Ok(found);
        }
        start = next;
    }
}

/// The file's content may be in its file system's journal only (ext4 `chattr +j`), or it is other bytes that lie there
/// (fscrypt), which the map does not say.
pub(crate) fn is_kept_otherwise(fd: impl AsFd) -> bool {
    let mut flags = 0u64;
    // SAFETY: GETFLAGS stores an int, although its number says long: eight bytes are room enough.
    let asked = unsafe { ioctl::with(fd, GETFLAGS, &mut flags) };
    asked.is_ok() && flags as u32 & (JOURNAL_DATA | ENCRYPTED) != 0
}

/// The file's content lies on the realtime device of its XFS.
pub(crate) fn is_realtime(fd: impl AsFd) -> bool {
    let mut attributes = [0u32; 7];
    // SAFETY: FSGETXATTR stores a struct fsxattr: 28 bytes of integers, the flags first.
    let asked = unsafe { ioctl::with(fd, FSGETXATTR, &mut attributes) };
    asked.is_ok() && attributes[0] & REALTIME != 0
}

/// Makes `length` bytes of `to` at `to_at` share the extents of `from` at `from_at`.
///
/// # Errors
/// The kernel's: most file systems cannot.
pub(crate) fn clone_range(
    (from, from_at): (impl AsFd, u64),
    (to, to_at): (impl AsFd, u64),
    length: u64,
) -> io::Result<()> {
    use std::os::fd::AsRawFd;
    let mut range = [from.as_fd().as_raw_fd() as u64, from_at, length, to_at];
    // SAFETY: FICLONERANGE reads a struct file_clone_range: an s64 descriptor and three u64.
    unsafe { ioctl::with(to, CLONE_RANGE, &mut range)? };
    Ok(())
}

const _: () = assert!(size_of::<Raw>() == 56 && std::mem::offset_of!(Query, extents) == 32);
