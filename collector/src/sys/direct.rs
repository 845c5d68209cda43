//! Reading and writing a device past its page cache.
//!
//! A mounted file system keeps its own cache; the block device's page cache beside it may be stale, so a
//! backup must never read through it (museum M15). `O_DIRECT` transfers must be aligned to the device's logical
//! block (museum M16): [`DirectFile`] widens a request to whole blocks and shows only what was asked for.
//!
//! What must stay true: bytes that could not be read are an error that names the range, never zeros and never a
//! shorter answer. A block device is never opened without `O_DIRECT`; a regular file is, if its file system
//! cannot do direct I/O (there is no second cache there).

use super::ioctl;
use super::plant::planted;
use super::privilege::{Capability, explained};
use crate::block::Extent;
use crate::error::{Context, Error, Kind, Result};
use rustix::fs::{FallocateFlags, FileType, Mode, OFlags};
use std::alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error};
use std::fs::File;
use std::ops::{Deref, DerefMut};
use std::path::{Path, PathBuf};
use std::ptr::NonNull;

/// Memory alignment of every [`AlignedBuf`]: a page, which no driver's DMA alignment exceeds.
pub const ALIGN: usize = 4096;

/// Page-aligned memory for direct I/O. Dereferences to the bytes of the last read (or [`Self::resize`]).
pub struct AlignedBuf {
    memory: NonNull<u8>,
    capacity: usize,
    /// The visible bytes: `start .. start + len`, within capacity.
    start: usize,
    len: usize,
}

// SAFETY: the memory is owned by this value alone and reached only through & and &mut of it.
unsafe impl Send for AlignedBuf {}
// SAFETY: a shared reference only allows reading.
unsafe impl Sync for AlignedBuf {}

impl AlignedBuf {
    /// Memory for `capacity` bytes (rounded up to [`ALIGN`]); shows nothing yet.
    pub fn new(capacity: usize) -> Self {
        let layout = Self::layout(capacity);
        // SAFETY: the layout's size is not zero, see `layout`.
        let memory = unsafe { alloc_zeroed(layout) };
        let Some(memory) = NonNull::new(memory) else { handle_alloc_error(layout) };
        Self { memory, capacity: layout.size(), start: 0, len: 0 }
    }

    /// A buffer that shows a copy of `bytes`, aligned.
    pub fn copy_of(bytes: &[u8]) -> Self {
        let mut buf = Self::new(bytes.len());
        buf.resize(bytes.len());
        buf.copy_from_slice(bytes);
        buf
    }

    /// Bytes of memory.
    pub const fn capacity(&self) -> usize {
        self.capacity
    }

    /// Shows the first `len` bytes of the memory, whatever they hold; replaces the memory (by zeroes) if it is
    /// too small.
    pub fn resize(&mut self, len: usize) {
        if len > self.capacity {
            *self = Self::new(len);
        }
        (self.start, self.len) = (0, len);
    }

    /// Shows `len` bytes from `start` of what is shown now.
    fn narrow(&mut self, start: usize, len: usize) {
        assert!(start + len <= self.len, "a window inside the window");
        (self.start, self.len) = (self.start + start, len);
    }

    fn layout(capacity: usize) -> Layout {
        let size = capacity.max(1).next_multiple_of(ALIGN);
        Layout::from_size_align(size, ALIGN).expect("a buffer size below isize::MAX")
    }
}

impl Drop for AlignedBuf {
    fn drop(&mut self) {
        // SAFETY: allocated in `new` with this layout: `capacity` is the rounded size, rounding it again is a no-op.
        unsafe { dealloc(self.memory.as_ptr(), Self::layout(self.capacity)) }
    }
}

impl Deref for AlignedBuf {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        // SAFETY: start + len <= capacity bytes, initialised by alloc_zeroed, not written while `&self` lives.
        unsafe { std::slice::from_raw_parts(self.memory.as_ptr().add(self.start), self.len) }
    }
}

impl DerefMut for AlignedBuf {
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: start + len <= capacity bytes, initialised, and `&mut self` is exclusive.
        unsafe { std::slice::from_raw_parts_mut(self.memory.as_ptr().add(self.start), self.len) }
    }
}

/// A block device or regular file opened for direct I/O. All methods may be used from several threads.
pub struct DirectFile {
    path: PathBuf,
    file: File,
    /// The same regular file without `O_DIRECT`, for pieces smaller than a block.
    plain: Option<File>,
    size: u64,
    logical_block: u32,
}

impl DirectFile {
    /// Opens for reading.
    ///
    /// # Errors
    /// If it does not exist, is neither block device nor regular file, or cannot do direct I/O.
    pub fn open(path: &Path) -> Result<Self> {
        Self::open_with(path, OFlags::RDONLY)
    }

    /// Opens for reading and writing. With `exclusive` a device that is mounted or otherwise claimed is `Busy`.
    ///
    /// # Errors
    /// As [`Self::open`]; `Busy` if claimed by someone else.
    pub fn open_write(path: &Path, exclusive: bool) -> Result<Self> {
        Self::open_with(path, OFlags::RDWR | if exclusive { OFlags::EXCL } else { OFlags::empty() })
    }

    fn open_with(path: &Path, flags: OFlags) -> Result<Self> {
        let what = || format!("open {}", path.display());
        let stat = rustix::fs::stat(path).os_context(what)?;
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::BlockDevice => Self::open_device(path, flags),
            FileType::RegularFile => Self::open_regular(path, flags.difference(OFlags::EXCL)),
            _ => Err(Error::new(Kind::Usage, format!("{}: neither a block device nor a file", what()))),
        }
    }

    fn open_device(path: &Path, flags: OFlags) -> Result<Self> {
        let what = || format!("open {} for direct I/O", path.display());
        let direct = if planted("page-cache") { OFlags::empty() } else { OFlags::DIRECT };
        let flags = flags | direct | OFlags::CLOEXEC;
        let file: File = rustix::fs::open(path, flags, Mode::empty())
            .os_context(what)
            .map_err(|e| explained(e, &[Capability::DacReadSearch]))?
            .into();
        let size = ioctl::device_size(&file).os_context(|| format!("size of {}", path.display()))?;
        let block =
            ioctl::logical_block(&file).os_context(|| format!("logical block of {}", path.display()))?;
        if !block.is_power_of_two() {
            return Err(Error::new(Kind::Bug, format!("{}: logical block of {block} bytes", path.display())));
        }
        Ok(Self { path: path.into(), file, plain: None, size, logical_block: block })
    }

    fn open_regular(path: &Path, flags: OFlags) -> Result<Self> {
        let what = || format!("open {}", path.display());
        let flags = flags | OFlags::CLOEXEC;
        let plain: File = rustix::fs::open(path, flags, Mode::empty()).os_context(what)?.into();
        let size = plain.metadata().os_context(what)?.len();
        let file = match rustix::fs::open(path, flags | OFlags::DIRECT, Mode::empty()) {
            Ok(fd) => fd.into(),
            Err(rustix::io::Errno::INVAL | rustix::io::Errno::OPNOTSUPP) => {
                plain.try_clone().os_context(what)?
            }
            Err(e) => return Err(Error::os(what(), e)),
        };
        // 4096 suits every file system's direct I/O; the exact value would only matter below that
        Ok(Self { path: path.into(), file, plain: Some(plain), size, logical_block: 4096 })
    }

    /// Bytes when it was opened.
    pub const fn size(&self) -> u64 {
        self.size
    }

    /// Bytes per logical block: what transfers are aligned to.
    pub const fn logical_block(&self) -> u32 {
        self.logical_block
    }

    /// The path it was opened by.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The open file (for ioctls and locks of the caller).
    pub const fn file(&self) -> &File {
        &self.file
    }

    /// Makes `buf` show exactly the `len` bytes at `offset`; both may be unaligned.
    ///
    /// # Errors
    /// A range beyond the end, a failed or a short read; `buf` then shows nothing.
    pub fn read_at(&self, offset: u64, buf: &mut AlignedBuf, len: usize) -> Result<()> {
        let wanted = self.within(offset, len)?;
        // a file's last block may be partial: ask for all of it, take what there is
        let wide = wanted.align_out(u64::from(self.logical_block), u64::MAX);
        let skip = (offset - wide.offset) as usize;
        buf.resize(wide.length as usize);
        match self.fill(wide.offset, buf, skip + len) {
            Ok(()) => {
                buf.narrow(skip, len);
                Ok(())
            }
            Err(error) => {
                buf.resize(0);
                Err(Error::os(format!("read {len} bytes at {offset} of {}", self.path.display()), error))
            }
        }
    }

    /// Reads until at least `enough` bytes of `buf` are filled.
    fn fill(&self, offset: u64, buf: &mut [u8], enough: usize) -> std::io::Result<()> {
        let mut done = 0;
        while done < enough {
            match rustix::io::pread(&self.file, &mut buf[done..], offset + done as u64) {
                Ok(0) => return Err(std::io::ErrorKind::UnexpectedEof.into()),
                // a short direct read in the middle: go on from the last whole block
                Ok(n) if done + n < enough => {
                    let whole = (done + n) / self.logical_block as usize * self.logical_block as usize;
                    if whole <= done {
                        return Err(std::io::ErrorKind::UnexpectedEof.into());
                    }
                    done = whole;
                }
                Ok(n) => done += n,
                Err(rustix::io::Errno::INTR) => {}
                Err(_) if planted("failed-read-zeros") => done = enough,
                Err(e) => return Err(e.into()),
            }
        }
        Ok(())
    }

    /// Writes `bytes` at `offset`. Fast if memory, offset and length are aligned; else the rest of the blocks at
    /// both ends is read first (device) or written through the page cache (file). Unaligned writes that share a
    /// block must not run at the same time.
    ///
    /// # Errors
    /// A range beyond the end of a device, or a failed write.
    pub fn write_at(&self, offset: u64, bytes: &[u8]) -> Result<()> {
        let what = || format!("write {} bytes at {offset} of {}", bytes.len(), self.path.display());
        let block = self.logical_block as usize;
        let aligned = offset.is_multiple_of(block as u64) && bytes.len().is_multiple_of(block);
        if let Some(plain) = self.plain.as_ref().filter(|_| !aligned) {
            return write_all(plain, bytes, offset).os_context(what);
        }
        if self.plain.is_none() {
            self.within(offset, bytes.len())?;
        }
        if aligned && (bytes.as_ptr() as usize).is_multiple_of(ALIGN) {
            return write_all(&self.file, bytes, offset).os_context(what);
        }
        let wide = Extent::new(offset, bytes.len() as u64).align_out(block as u64, u64::MAX);
        let skip = (offset - wide.offset) as usize;
        let mut buf = AlignedBuf::new(wide.length as usize);
        if aligned {
            buf.resize(bytes.len());
        } else {
            self.read_at(wide.offset, &mut buf, wide.length as usize)?;
        }
        buf[skip..skip + bytes.len()].copy_from_slice(bytes);
        write_all(&self.file, &buf, wide.offset).os_context(what)
    }

    /// Makes `extent` read as zeroes, without moving data where the device or file system can.
    ///
    /// # Errors
    /// A range beyond the end of a device, or a failed write.
    pub fn zero(&self, extent: Extent) -> Result<()> {
        let what = || format!("zero {} bytes at {} of {}", extent.length, extent.offset, self.path.display());
        let block = u64::from(self.logical_block);
        if let Some(plain) = &self.plain {
            let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
            match rustix::fs::fallocate(plain, flags, extent.offset, extent.length) {
                Err(rustix::io::Errno::OPNOTSUPP) => return self.write_zeroes(extent),
                other => return other.os_context(what),
            }
        }
        self.within(extent.offset, usize::try_from(extent.length).unwrap_or(usize::MAX))?;
        if !extent.offset.is_multiple_of(block) || !extent.length.is_multiple_of(block) {
            return self.write_zeroes(extent);
        }
        ioctl::zero_out(&self.file, extent.offset, extent.length).os_context(what)
    }

    fn write_zeroes(&self, extent: Extent) -> Result<()> {
        let mut zeroes = AlignedBuf::new(1 << 20);
        zeroes.resize(1 << 20);
        let mut at = extent.offset;
        while at < extent.end() {
            let n = (extent.end() - at).min(zeroes.len() as u64);
            self.write_at(at, &zeroes[..n as usize])?;
            at += n;
        }
        Ok(())
    }

    /// Makes everything written durable.
    ///
    /// # Errors
    /// If the kernel could not write it all.
    pub fn sync(&self) -> Result<()> {
        self.file.sync_all().os_context(|| format!("sync {}", self.path.display()))
    }

    fn within(&self, offset: u64, len: usize) -> Result<Extent> {
        let end = offset.checked_add(len as u64).filter(|&end| end <= self.size);
        end.map(|end| Extent::between(offset, end)).ok_or_else(|| {
            let text =
                format!("{len} bytes at {offset} of {}: beyond its {} bytes", self.path.display(), self.size);
            Error::new(Kind::Usage, text)
        })
    }
}

fn write_all(file: &File, mut bytes: &[u8], mut offset: u64) -> std::io::Result<()> {
    while !bytes.is_empty() {
        match rustix::io::pwrite(file, bytes, offset) {
            Ok(0) => return Err(std::io::ErrorKind::WriteZero.into()),
            Ok(n) => {
                bytes = &bytes[n..];
                offset += n as u64;
            }
            Err(rustix::io::Errno::INTR) => {}
            Err(e) => return Err(e.into()),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    fn file(len: usize) -> (tempfile::NamedTempFile, Vec<u8>) {
        let bytes: Vec<u8> = (0..len).map(|i| (i * 7 / 5) as u8).collect();
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(&bytes).unwrap();
        (file, bytes)
    }

    #[test]
    fn reads_exactly_what_was_asked_at_any_alignment() {
        let (file, bytes) = file(20_001);
        let direct = DirectFile::open(file.path()).unwrap();
        let mut buf = AlignedBuf::new(10);
        for (offset, len) in [(0, 20_001), (1, 1), (4095, 2), (4096, 4096), (19_000, 1001), (20_001, 0)] {
            direct.read_at(offset, &mut buf, len).unwrap();
            assert_eq!(&buf[..], &bytes[offset as usize..offset as usize + len]);
        }
        assert_eq!(direct.read_at(20_000, &mut buf, 2).unwrap_err().kind(), Kind::Usage);
    }

    #[test]
    fn a_file_cut_short_is_an_error_not_zeros() {
        let (file, _) = file(20_000);
        let direct = DirectFile::open(file.path()).unwrap();
        file.as_file().set_len(5000).unwrap();
        let mut buf = AlignedBuf::new(4096);
        assert!(direct.read_at(4096, &mut buf, 4096).is_err());
        assert!(buf.is_empty());
        assert!(direct.read_at(16_384, &mut buf, 100).is_err());
    }

    #[test]
    fn writes_at_any_alignment_change_nothing_beside() {
        let (file, mut bytes) = file(20_001);
        let direct = DirectFile::open_write(file.path(), true).unwrap();
        for (offset, len) in [(0usize, 4096usize), (100, 5), (8192, 8192), (4000, 9000), (20_000, 1)] {
            direct.write_at(offset as u64, &vec![len as u8; len]).unwrap();
            bytes[offset..offset + len].fill(len as u8);
        }
        direct.zero(Extent::new(5000, 10_000)).unwrap();
        bytes[5000..15_000].fill(0);
        direct.sync().unwrap();
        assert_eq!(std::fs::read(file.path()).unwrap(), bytes);
    }
}
