//! Plain ioctls: number in, value out. Numbers are from the kernel's uapi headers, unchanged 6.1 to 7.3.

use super::device::TableLine;
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

/// `DM_TABLE_STATUS` (`_IOWR(0xfd, 12, struct dm_ioctl)`).
const DM_TABLE_STATUS: u64 = 0xc138_fd0c;
/// Give the table, not the state.
const DM_STATUS_TABLE_FLAG: u32 = 1 << 4;
/// Told back: the answer did not fit.
const DM_BUFFER_FULL_FLAG: u32 = 1 << 8;
/// Don't commit or flush anything for the answer.
const DM_NOFLUSH_FLAG: u32 = 1 << 11;
/// Bytes of `struct dm_ioctl`.
const DM_HEADER: usize = 312;
/// Bytes of `struct dm_target_spec`: start u64, length u64, status i32, next u32, type of 16 bytes.
const DM_SPEC: usize = 40;

/// The live table of a device-mapper device.
pub(crate) fn dm_table(major: u32, minor: u32) -> io::Result<Vec<TableLine>> {
    let control = std::fs::File::open("/dev/mapper/control")?;
    let mut room = 16 << 10;
    loop {
        let answer = dm_ask(&control, major, minor, room)?;
        if word(&answer, 28) & DM_BUFFER_FULL_FLAG == 0 {
            return table_lines(&answer).ok_or_else(|| io::ErrorKind::InvalidData.into());
        }
        room *= 2;
        if room > 64 << 20 {
            return Err(io::ErrorKind::FileTooLarge.into());
        }
    }
}

fn dm_ask(control: &std::fs::File, major: u32, minor: u32, room: usize) -> io::Result<Vec<u8>> {
    // of u64, so that the kernel's struct is aligned
    let mut block = vec![0u64; room / 8];
    // version 4, sizes, flags, and the device as `huge_encode_dev` has it (include/linux/kdev_t.h)
    block[0] = 4;
    block[1] = (room as u64) << 32;
    block[2] = DM_HEADER as u64;
    block[3] = u64::from(DM_STATUS_TABLE_FLAG | DM_NOFLUSH_FLAG) << 32;
    block[5] = u64::from(minor & 0xff) | u64::from(major) << 8 | u64::from(minor & !0xff) << 12;
    // SAFETY: DM_TABLE_STATUS reads and writes `data_size` bytes, which is the block's length; all plain integers
    // and text; the block is live and exclusive.
    unsafe { with_block(control, DM_TABLE_STATUS, &mut block)? };
    Ok(block.iter().flat_map(|w| w.to_ne_bytes()).collect())
}

/// As [`with`], for a request whose block has the length that it names itself.
///
/// # Safety
/// The block must be as long as `request` is told in it, and may hold any bits afterwards.
unsafe fn with_block(fd: impl AsFd, request: u64, block: &mut [u64]) -> io::Result<()> {
    // SAFETY: by the caller's word.
    let n = unsafe { libc::ioctl(fd.as_fd().as_raw_fd(), request as libc::Ioctl, block.as_mut_ptr()) };
    if n < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

fn word(bytes: &[u8], at: usize) -> u32 {
    bytes.get(at..at + 4).and_then(|b| b.try_into().ok()).map_or(0, u32::from_ne_bytes)
}

/// The lines of an answer; `None` if it makes no sense.
fn table_lines(answer: &[u8]) -> Option<Vec<TableLine>> {
    let (start, count) = (word(answer, 16) as usize, word(answer, 20));
    let specs = answer.get(start..)?;
    let mut lines = Vec::new();
    let mut at = 0usize;
    for _ in 0..count {
        let spec = specs.get(at..at.checked_add(DM_SPEC)?)?;
        let long = |at: usize| Some(u64::from_ne_bytes(spec.get(at..at + 8)?.try_into().ok()?));
        let text = |bytes: &[u8]| bytes.split(|b| *b == 0).next().unwrap_or_default().to_vec();
        lines.push(TableLine {
            start: long(0)?,
            length: long(8)?,
            target: String::from_utf8_lossy(&text(&spec[24..])).into_owned(),
            parameters: text(specs.get(at + DM_SPEC..)?),
        });
        at = word(spec, 20) as usize;
    }
    Some(lines)
}
