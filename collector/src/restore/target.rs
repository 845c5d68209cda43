//! What a point is written to: a file, made for it, or a block device that is there.
//!
//! What must stay true: nothing is touched before every refusal has been considered; whatever the target held
//! before, a byte no piece covers reads as zero afterwards, and a byte outside of the range is as it was; a device is
//! claimed (`O_EXCL`), so nobody can mount it meanwhile, unless told otherwise.

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

/// What of a point is written.
#[derive(Clone, Copy, Debug)]
pub(super) struct Aim {
    /// Bytes of the point.
    pub(super) size: u64,
    /// Of these, what is written, at the same address.
    pub(super) range: Extent,
    /// What the target holds stays where it is right already.
    pub(super) keep: bool,
}

impl Aim {
    fn is_part(&self) -> bool {
        self.range.length < self.size
    }
}

/// An open target.
pub(super) struct Target {
    file: DirectFile,
    /// Bytes of the point that fit.
    room: u64,
    kind: TargetKind,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum TargetKind {
    Device,
    /// A file that holds zeros, all of it.
    Fresh,
    /// A file that holds something.
    Old {
        dense: bool,
    },
}

impl Target {
    /// Opens `path` for a point, or a part of one.
    pub(super) fn open(path: &Path, aim: Aim, leave: Leave) -> Result<Self> {
        let kind = match rustix::fs::stat(path) {
            Ok(stat) => Some(FileType::from_raw_mode(stat.st_mode)),
            Err(rustix::io::Errno::NOENT) => None,
            Err(e) => return Err(Error::os(format!("look at {}", path.display()), e)),
        };
        match kind {
            Some(FileType::BlockDevice) => Self::device(path, aim.range.end(), leave),
            None | Some(FileType::RegularFile) => Self::file(path, aim, leave),
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
        Ok(Self { room: size.min(file.size()), file, kind: TargetKind::Device })
    }

    fn file(path: &Path, aim: Aim, leave: Leave) -> Result<Self> {
        let what = || format!("make {}", path.display());
        let old = path.metadata().map_or(0, |m| m.size());
        if old > 0 && !leave.overwrite && !aim.keep {
            let text = format!("{} exists and is not empty", path.display());
            return Err(Error::new(Kind::Exists, text).hint("name another file, or say --overwrite"));
        }
        let fresh = old == 0 || !aim.keep && !aim.is_part();
        let mut options = OpenOptions::new();
        let file = options.write(true).create(true).truncate(fresh).open(path).os_context(what)?;
        let size = if !fresh && aim.is_part() { old.max(aim.range.end()) } else { aim.size };
        file.set_len(size).os_context(what)?;
        if leave.dense && fresh {
            let what = || format!("allocate {} bytes for {}", aim.range.length, path.display());
            allocate(&file, aim.range).os_context(what)?;
        }
        drop(file);
        sync_folder(path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new(".")))?;
        let kind = if fresh { TargetKind::Fresh } else { TargetKind::Old { dense: leave.dense } };
        Ok(Self { file: DirectFile::open_write(path, false)?, room: size, kind })
    }

    /// Bytes of the point that fit.
    pub(super) const fn room(&self) -> u64 {
        self.room
    }

    /// Bytes per logical block, if it is a device.
    pub(super) fn logical_block(&self) -> Option<u32> {
        (self.kind == TargetKind::Device).then(|| self.file.logical_block())
    }

    /// Writes, and cuts off what does not fit.
    pub(super) fn write(&self, offset: u64, bytes: &[u8]) -> Result<()> {
        match self.fits(Extent::new(offset, bytes.len() as u64)) {
            None => Ok(()),
            Some(part) => self.file.write_at(offset, &bytes[..part.length as usize]),
        }
    }

    /// Makes an extent read as zeros. A fresh file was made of zeros.
    pub(super) fn zero(&self, extent: Extent) -> Result<()> {
        let Some(part) =
            self.fits(extent).filter(|_| self.kind != TargetKind::Fresh && !planted("zeros-not-restored"))
        else {
            return Ok(());
        };
        self.file.zero(part)?;
        if self.kind == (TargetKind::Old { dense: true }) {
            let what = || format!("allocate {} bytes at {}", part.length, part.offset);
            allocate(self.file.file(), part).os_context(what)?;
        }
        Ok(())
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

/// Gives an extent of a file, which reads as zeros, its blocks.
fn allocate(file: &File, extent: Extent) -> std::io::Result<()> {
    if extent.is_empty() {
        return Ok(());
    }
    match rustix::fs::fallocate(file, FallocateFlags::empty(), extent.offset, extent.length) {
        Err(rustix::io::Errno::OPNOTSUPP) => {
            let zeros = AlignedBuf::copy_of(&[0; 1 << 16]);
            let mut at = extent.offset;
            while at < extent.end() {
                let n = (extent.end() - at).min(zeros.len() as u64);
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
    use std::io::Write;

    fn all(size: u64) -> Aim {
        Aim { size, range: Extent::new(0, size), keep: false }
    }

    #[test]
    fn a_file_with_content_is_replaced_only_when_told() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("t");
        drop(Target::open(&path, all(10_000), Leave::default()).unwrap());
        assert_eq!(path.metadata().unwrap().len(), 10_000);
        let error = Target::open(&path, all(5000), Leave::default()).err().unwrap();
        assert_eq!(error.kind(), Kind::Exists);
        assert_eq!(path.metadata().unwrap().len(), 10_000);
        let leave = Leave { overwrite: true, dense: true, ..Leave::default() };
        let target = Target::open(&path, all(5000), leave).unwrap();
        assert!(path.metadata().unwrap().blocks() * 512 >= 5000);
        target.write(4096, &[7; 904]).unwrap();
        target.sync().unwrap();
        let back = std::fs::read(&path).unwrap();
        assert!(back[..4096].iter().all(|&b| b == 0) && back[4096..].iter().all(|&b| b == 7));
    }

    #[test]
    fn a_part_leaves_the_rest_of_a_file_and_its_length() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("t");
        for (length, after) in [(30_000, 30_000), (9000, 12_000), (0, 20_000)] {
            std::fs::File::create(&path).and_then(|mut f| f.write_all(&vec![7; length])).unwrap();
            let aim = Aim { range: Extent::new(8000, 4000), ..all(20_000) };
            let refused = Target::open(&path, aim, Leave::default()).err().map(|e| e.kind());
            assert_eq!(refused, (length > 0).then_some(Kind::Exists));
            let leave = Leave { overwrite: true, dense: true, ..Leave::default() };
            Target::open(&path, aim, leave).unwrap().zero(aim.range).unwrap();
            let mut wanted = vec![7; length];
            wanted.resize(after, 0);
            wanted[8000..12_000].fill(0);
            assert!(std::fs::read(&path).unwrap() == wanted, "{length}");
        }
    }

    #[test]
    fn a_folder_is_no_target() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(Target::open(dir.path(), all(1), Leave::default()).err().unwrap().kind(), Kind::Usage);
    }
}
