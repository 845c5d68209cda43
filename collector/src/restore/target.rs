//! What a point is written to: a file, made for it, or a block device that is there.
//!
//! What must stay true: nothing is touched before every refusal has been considered; whatever the target held
//! before, a byte no piece covers reads as zero afterwards; a device is claimed (`O_EXCL`), so nobody can mount
//! it meanwhile, unless told otherwise.

use crate::block::Extent;
use crate::error::{Context, Error, Kind, Result};
use crate::sys::direct::{AlignedBuf, DirectFile};
use crate::sys::{planted, sync_folder};
use rustix::fs::{FallocateFlags, FileType};
use std::fs::{File, OpenOptions};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// What may be done to the target.
#[derive(Clone, Copy, Debug, Default)]
pub struct Leave {
    /// Write zeros of a file out instead of leaving holes.
    pub dense: bool,
    /// Replace a file that is not empty.
    pub overwrite: bool,
    /// Write a device that is mounted or claimed.
    pub in_use: bool,
    /// Write a device that is too small; the rest is cut off.
    pub smaller: bool,
}

/// An open target.
pub(super) struct Target {
    file: DirectFile,
    /// Bytes of the point that fit.
    room: u64,
    device: bool,
}

impl Target {
    /// Opens `path` for a point of `size` bytes.
    pub(super) fn open(path: &Path, size: u64, leave: Leave) -> Result<Self> {
        let kind = match rustix::fs::stat(path) {
            Ok(stat) => Some(FileType::from_raw_mode(stat.st_mode)),
            Err(rustix::io::Errno::NOENT) => None,
            Err(e) => return Err(Error::os(format!("look at {}", path.display()), e)),
        };
        match kind {
            Some(FileType::BlockDevice) => Self::device(path, size, leave),
            None | Some(FileType::RegularFile) => Self::file(path, size, leave),
            Some(_) => {
                let text = format!("restore to {}: neither a file nor a block device", path.display());
                Err(Error::new(Kind::Usage, text))
            }
        }
    }

    fn device(path: &Path, size: u64, leave: Leave) -> Result<Self> {
        let file = DirectFile::open_write(path, !leave.in_use).map_err(|e| match e.kind() {
            Kind::Busy => e
                .within(format!("{} is mounted or in use", path.display()))
                .hint("unmount it, or say --allow-in-use"),
            _ => e,
        })?;
        if file.size() < size && !leave.smaller {
            let text = format!("{} holds {} bytes, the point needs {size}", path.display(), file.size());
            return Err(Error::new(Kind::NoSpace, text)
                .hint("take a larger device, or say --allow-smaller and lose what does not fit"));
        }
        Ok(Self { room: size.min(file.size()), file, device: true })
    }

    fn file(path: &Path, size: u64, leave: Leave) -> Result<Self> {
        let what = || format!("make {}", path.display());
        if path.metadata().is_ok_and(|m| m.size() > 0) && !leave.overwrite {
            let text = format!("{} exists and is not empty", path.display());
            return Err(Error::new(Kind::Exists, text).hint("name another file, or say --overwrite"));
        }
        let mut options = OpenOptions::new();
        let file = options.write(true).create(true).truncate(true).open(path).os_context(what)?;
        file.set_len(size).os_context(what)?;
        if leave.dense && size > 0 {
            allocate(&file, size).os_context(|| format!("allocate {size} bytes for {}", path.display()))?;
        }
        drop(file);
        sync_folder(path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new(".")))?;
        Ok(Self { file: DirectFile::open_write(path, false)?, room: size, device: false })
    }

    /// Bytes of the point that fit.
    pub(super) const fn room(&self) -> u64 {
        self.room
    }

    /// Bytes per logical block, if it is a device.
    pub(super) fn logical_block(&self) -> Option<u32> {
        self.device.then(|| self.file.logical_block())
    }

    /// Writes, and cuts off what does not fit.
    pub(super) fn write(&self, offset: u64, bytes: &[u8]) -> Result<()> {
        match self.fits(Extent::new(offset, bytes.len() as u64)) {
            None => Ok(()),
            Some(part) => self.file.write_at(offset, &bytes[..part.length as usize]),
        }
    }

    /// Makes an extent read as zeros. A file was made of zeros.
    pub(super) fn zero(&self, extent: Extent) -> Result<()> {
        match self.fits(extent) {
            Some(part) if self.device && !planted("zeros-not-restored") => self.file.zero(part),
            _ => Ok(()),
        }
    }

    /// Reads back what fits of an extent.
    pub(super) fn read(&self, extent: Extent, buf: &mut AlignedBuf) -> Result<()> {
        match self.fits(extent) {
            Some(part) => self.file.read_at(part.offset, buf, part.length as usize),
            None => {
                buf.resize(0);
                Ok(())
            }
        }
    }

    /// Makes all of it durable.
    pub(super) fn sync(&self) -> Result<()> {
        self.file.sync()
    }

    fn fits(&self, extent: Extent) -> Option<Extent> {
        extent.intersect(&Extent::new(0, self.room))
    }
}

/// Gives a new file all its blocks, as zeros.
fn allocate(file: &File, size: u64) -> std::io::Result<()> {
    match rustix::fs::fallocate(file, FallocateFlags::empty(), 0, size) {
        Err(rustix::io::Errno::OPNOTSUPP) => {
            let zeros = vec![0; 1 << 20];
            let mut at = 0;
            while at < size {
                let n = (size - at).min(zeros.len() as u64);
                std::os::unix::fs::FileExt::write_all_at(file, &zeros[..n as usize], at)?;
                at += n;
            }
            Ok(())
        }
        other => Ok(other?),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_with_content_is_replaced_only_when_told() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("t");
        drop(Target::open(&path, 10_000, Leave::default()).unwrap());
        assert_eq!(path.metadata().unwrap().len(), 10_000);
        let error = Target::open(&path, 5000, Leave::default()).err().unwrap();
        assert_eq!(error.kind(), Kind::Exists);
        assert_eq!(path.metadata().unwrap().len(), 10_000);
        let leave = Leave { overwrite: true, dense: true, ..Leave::default() };
        let target = Target::open(&path, 5000, leave).unwrap();
        assert!(path.metadata().unwrap().blocks() * 512 >= 5000);
        target.write(4096, &[7; 904]).unwrap();
        target.sync().unwrap();
        let back = std::fs::read(&path).unwrap();
        assert!(back[..4096].iter().all(|&b| b == 0) && back[4096..].iter().all(|&b| b == 7));
    }

    #[test]
    fn a_folder_is_no_target() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(Target::open(dir.path(), 1, Leave::default()).err().unwrap().kind(), Kind::Usage);
    }
}
