//! The image of a group as something to copy from: what belongs to its files, zeros everywhere else.
//!
//! What must stay true: of a device only blocks are read that hold bytes of the group's files, and only those bytes are
//! handed out; a range that cannot be read is an error, never zeros; a file that is another one by now, or shorter, is
//! noticed.

use crate::block::{Extent, ExtentSet};
use crate::error::{Context, Error, Kind, Result};
use crate::format::{MAX_DEVICE, NodeId, SLOT};
use crate::source::{LiveDevice, Source};
use crate::sys::direct::AlignedBuf;
use crate::tree::open_quietly;
use rustix::fs::{AtFlags, CWD, StatxFlags};
use rustix::io::Errno;
use std::collections::BTreeMap;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};

/// A range of a file that lies at an address of the image.
#[derive(Clone, Debug)]
pub(super) struct Range {
    /// Which file.
    pub id: NodeId,
    /// Its path.
    pub path: PathBuf,
    /// First byte of it.
    pub at: u64,
    /// Bytes.
    pub length: u64,
}

/// The image.
pub(super) struct Image<'a> {
    /// Devices by their place.
    pub devices: Vec<(u32, &'a LiveDevice)>,
    /// What belongs to the group's files.
    pub area: ExtentSet,
    /// What is read through files, by address.
    pub ranges: BTreeMap<u64, Range>,
    /// The catalogue, by address.
    pub catalogue: BTreeMap<u64, Vec<u8>>,
    /// Files that were no longer what the listing says.
    pub moved: AtomicU64,
}

impl Source for Image<'_> {
    fn size(&self) -> u64 {
        MAX_DEVICE
    }

    fn logical_block(&self) -> u32 {
        512
    }

    fn read_at(&self, offset: u64, buf: &mut AlignedBuf, len: usize) -> Result<()> {
        let wanted = Extent::new(offset, len as u64);
        match offset / SLOT {
            0 => self.off_catalogue(wanted, buf),
            1 => self.through_files(wanted, buf),
            slot => self.off_device(slot, wanted, buf),
        }
    }
}

impl Image<'_> {
    fn off_device(&self, slot: u64, wanted: Extent, buf: &mut AlignedBuf) -> Result<()> {
        let device = self.devices.iter().find(|(number, _)| u64::from(*number) + 2 == slot);
        let Some((_, device)) = device else {
            return Err(Error::new(
                Kind::Bug,
                format!("no device of the group has address {}", wanted.offset),
            ));
        };
        let on_device = |extent: &Extent| extent.offset % SLOT;
        let runs = self.area.within(wanted);
        if runs.contains(wanted) {
            return device.read_at(on_device(&wanted), buf, wanted.length as usize);
        }
        zeroed(buf, wanted);
        let mut scratch = AlignedBuf::new(0);
        for run in &runs {
            device.read_at(on_device(run), &mut scratch, run.length as usize)?;
            let at = (run.offset - wanted.offset) as usize;
            buf[at..at + scratch.len()].copy_from_slice(&scratch);
        }
        Ok(())
    }

    fn off_catalogue(&self, wanted: Extent, buf: &mut AlignedBuf) -> Result<()> {
        zeroed(buf, wanted);
        for (at, bytes) in before(&self.catalogue, wanted) {
            if let Some(both) = Extent::new(at, bytes.len() as u64).intersect(&wanted) {
                let from = (both.offset - at) as usize;
                let to = (both.offset - wanted.offset) as usize;
                let n = both.length as usize;
                buf[to..to + n].copy_from_slice(&bytes[from..from + n]);
            }
        }
        Ok(())
    }

    fn through_files(&self, wanted: Extent, buf: &mut AlignedBuf) -> Result<()> {
        zeroed(buf, wanted);
        for (at, range) in before(&self.ranges, wanted) {
            if let Some(both) = Extent::new(at, range.length).intersect(&wanted) {
                let to = (both.offset - wanted.offset) as usize;
                let into = &mut buf[to..to + both.length as usize];
                self.read_file(range, range.at + (both.offset - at), into)?;
            }
        }
        Ok(())
    }

    fn read_file(&self, range: &Range, at: u64, into: &mut [u8]) -> Result<()> {
        let what = || format!("read {} at byte {at}", range.path.display());
        let file = match open_quietly(CWD, &range.path) {
            Err(Errno::NOENT | Errno::LOOP | Errno::NOTDIR) => return self.has_moved(),
            file => file.os_context(what)?,
        };
        if inode(&file).os_context(what)? != range.id.inode {
            return self.has_moved();
        }
        let mut done = 0;
        while done < into.len() {
            match file.read_at(&mut into[done..], at + done as u64) {
                Ok(0) => return self.has_moved(),
                Ok(n) => done += n,
                Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
                Err(e) => return Err(Error::os(what(), e)),
            }
        }
        Ok(())
    }

    #[expect(clippy::unnecessary_wraps, reason = "the end of a fallible read")]
    fn has_moved(&self) -> Result<()> {
        self.moved.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }
}

fn inode(file: &File) -> rustix::io::Result<u64> {
    Ok(rustix::fs::statx(file, "", AtFlags::EMPTY_PATH, StatxFlags::INO)?.stx_ino)
}

fn zeroed(buf: &mut AlignedBuf, wanted: Extent) {
    buf.resize(wanted.length as usize);
    buf.fill(0);
}

/// What begins before the end of `wanted`, from the last that begins before it on.
fn before<T>(map: &BTreeMap<u64, T>, wanted: Extent) -> impl Iterator<Item = (u64, &T)> {
    let first = map.range(..=wanted.offset).next_back().map_or(wanted.offset, |(at, _)| *at);
    map.range(first..wanted.end()).map(|(at, value)| (*at, value))
}
