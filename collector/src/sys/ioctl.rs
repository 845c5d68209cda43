//! Plain ioctls: number in, value out. Numbers are from the kernel's uapi headers, unchanged 6.1 to 7.3.

use std::io;
use std::os::fd::{AsFd, AsRawFd};

/// `_IOR`-style size of a block device in bytes (`include/uapi/linux/fs.h`).
const BLKGETSIZE64: u64 = 0x8008_1272;
/// Logical block size, an `int`.
const BLKSSZGET: u64 = 0x1268;
/// Physical block size, an `unsigned int`.
const BLKPBSZGET: u64 = 0x127b;
/// Write zeroes over a byte range, `u64[2]`.
const BLKZEROOUT: u64 = 0x127f;

/// Calls an ioctl that reads or writes one `T` through its argument.
///
/// # Safety
/// `T` must be the type the kernel expects behind `request`, valid for every bit pattern the kernel may store,
/// and hold no pointers except ones valid for the whole call.
pub(crate) unsafe fn with<T>(fd: impl AsFd, request: u64, value: &mut T) -> io::Result<i32> {
    loop {
        // SAFETY: the caller vouches for the type behind `request`; `value` is a live, exclusive reference.
        let n =
            unsafe { libc::ioctl(fd.as_fd().as_raw_fd(), request as libc::Ioctl, std::ptr::from_mut(value)) };
        if n >= 0 {
            return Ok(n);
        }
        let error = io::Error::last_os_error();
        if error.kind() != io::ErrorKind::Interrupted {
            return Err(error);
        }
    }
}

/// Size of a block device in bytes.
pub(crate) fn device_size(fd: impl AsFd) -> io::Result<u64> {
    let mut size = 0u64;
    // SAFETY: BLKGETSIZE64 stores one u64.
    unsafe { with(fd, BLKGETSIZE64, &mut size)? };
    Ok(size)
}

/// Logical block size of a block device in bytes.
pub(crate) fn logical_block(fd: impl AsFd) -> io::Result<u32> {
    let mut size = 0i32;
    // SAFETY: BLKSSZGET stores one int.
    unsafe { with(fd, BLKSSZGET, &mut size)? };
    u32::try_from(size).map_err(|_| io::ErrorKind::InvalidData.into())
}

/// Physical block size of a block device in bytes.
pub(crate) fn physical_block(fd: impl AsFd) -> io::Result<u32> {
    let mut size = 0u32;
    // SAFETY: BLKPBSZGET stores one unsigned int.
    unsafe { with(fd, BLKPBSZGET, &mut size)? };
    Ok(size)
}

/// Writes zeroes over a range of a block device (the device may do it without moving data).
pub(crate) fn zero_out(fd: impl AsFd, offset: u64, length: u64) -> io::Result<()> {
    let mut range = [offset, length];
    // SAFETY: BLKZEROOUT reads two u64.
    unsafe { with(fd, BLKZEROOUT, &mut range)? };
    Ok(())
}
