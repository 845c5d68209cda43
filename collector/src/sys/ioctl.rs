//! Plain ioctls: number in, value out. Numbers are from the kernel's uapi headers, unchanged 6.1 to 7.3.

use std::io;
use std::os::fd::{AsFd, AsRawFd};

/// `_IOR`-style size of a block device in bytes (`include/uapi/linux/fs.h`).
const BLKGETSIZE64: u64 = 0x8008_1272;
/// Logical block size, an `int`.
const BLKSSZGET: u64 = 0x1268;
/// Write zeroes over a byte range, `u64[2]`.
const BLKZEROOUT: u64 = 0x127f;

/// Sets a block device's read-only flag, `int`.
const BLKROSET: u64 = 0x125d;

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

/// Sets or clears the read-only flag of a block device.
pub(crate) fn set_read_only(fd: impl AsFd, on: bool) -> io::Result<()> {
    let mut flag = i32::from(on);
    // SAFETY: BLKROSET reads one int.
    unsafe { with(fd, BLKROSET, &mut flag)? };
    Ok(())
}

/// Writes zeroes over a range of a block device (the device may do it without moving data).
pub(crate) fn zero_out(fd: impl AsFd, offset: u64, length: u64) -> io::Result<()> {
    let mut range = [offset, length];
    // SAFETY: BLKZEROOUT reads two u64.
    unsafe { with(fd, BLKZEROOUT, &mut range)? };
    Ok(())
}

/// `struct loop_info64` (`include/uapi/linux/loop.h`).
#[repr(C)]
struct LoopInfo {
    device: u64,
    inode: u64,
    rdevice: u64,
    offset: u64,
    size_limit: u64,
    numbers: [u32; 4],
    names: [[u8; 64]; 2],
    key: [u8; 32],
    init: [u64; 2],
}

/// What a loop device is bound to.
pub(crate) struct LoopStatus {
    /// The backing file's device, as `stat` shows it.
    pub(crate) device: u64,
    pub(crate) inode: u64,
    /// Byte of the file at which the device begins.
    pub(crate) offset: u64,
}

/// `LOOP_GET_STATUS64`.
const LOOP_GET_STATUS64: u64 = 0x4c05;

/// Asks a loop device what it is bound to.
pub(crate) fn loop_status(fd: impl AsFd) -> io::Result<LoopStatus> {
    let mut info = LoopInfo {
        device: 0,
        inode: 0,
        rdevice: 0,
        offset: 0,
        size_limit: 0,
        numbers: [0; 4],
        names: [[0; 64]; 2],
        key: [0; 32],
        init: [0; 2],
    };
    // SAFETY: LOOP_GET_STATUS64 stores one struct loop_info64 (232 bytes, plain integers), laid out as LoopInfo.
    unsafe { with(fd, LOOP_GET_STATUS64, &mut info)? };
    Ok(LoopStatus { device: info.device, inode: info.inode, offset: info.offset })
}
