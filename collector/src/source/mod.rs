//! A stable view of a device to copy from.
//!
//! What must stay true: a range that cannot be read is an error that names it, never zeros, never a skip.

use crate::error::Result;
use crate::sys::direct::{AlignedBuf, DirectFile};
use std::path::Path;

/// Something a backup can be read from, by several threads at once.
pub trait Source: Send + Sync {
    /// Bytes.
    fn size(&self) -> u64;

    /// Bytes per logical block.
    fn logical_block(&self) -> u32;

    /// Makes `buf` show exactly the `len` bytes at `offset`.
    ///
    /// # Errors
    /// A failed or short read, or a range beyond the end; names the range.
    fn read_at(&self, offset: u64, buf: &mut AlignedBuf, len: usize) -> Result<()>;
}

/// The device as it is now, read past its page cache.
pub struct LiveDevice(DirectFile);

impl LiveDevice {
    /// Opens a block device, or a regular file that stands for one.
    ///
    /// # Errors
    /// If it does not exist or cannot be read directly.
    pub fn open(path: &Path) -> Result<Self> {
        Ok(Self(DirectFile::open(path)?))
    }
}

impl Source for LiveDevice {
    fn size(&self) -> u64 {
        self.0.size()
    }

    fn logical_block(&self) -> u32 {
        self.0.logical_block()
    }

    fn read_at(&self, offset: u64, buf: &mut AlignedBuf, len: usize) -> Result<()> {
        self.0.read_at(offset, buf, len)
    }
}
