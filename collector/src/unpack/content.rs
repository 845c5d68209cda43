//! Content of files, in the order in which it lies in the image: each stored frame is read once, whoever shares it.
//!
//! What must stay true: a part that is given back is written in full, zeros too, so that it is no hole; two parts at the
//! same address share their extents again where the file system can, and hold the same bytes everywhere.

use super::Unpacked;
use crate::block::{Extent, ExtentSet};
use crate::catalogue::Catalogue;
use crate::chain::{Chain, Content as Held, Piece};
use crate::copy::Watch;
use crate::error::{Context, Error, Kind, Result};
use crate::format::{NodeId, Part, Place};
use crate::repository::Repository;
use crate::sys::fiemap::clone_range;
use rustix::fs::FallocateFlags;
use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// Content read at once.
const BATCH: u64 = 4 << 20;

/// Where bytes of the image go.
#[derive(Clone, Copy)]
struct Aim<'a> {
    image: Extent,
    path: &'a Path,
    at: u64,
}

/// What is to be written.
pub(super) struct Content<'a> {
    /// By address; no two at the same.
    aims: Vec<Aim<'a>>,
    /// At the address of the aim of that place.
    shared: Vec<(usize, Aim<'a>)>,
    reserved: Vec<(&'a Path, Part)>,
}

impl<'a> Content<'a> {
    /// Of these nodes.
    pub fn of(catalogue: &Catalogue, made: &'a [(NodeId, PathBuf)]) -> Self {
        let (mut all, mut reserved) = (Vec::new(), Vec::new());
        for (id, path) in made {
            for part in catalogue.nodes.get(id).into_iter().flat_map(|node| &node.parts) {
                match part.place {
                    Place::Image(at) => {
                        all.push(Aim { image: Extent::new(at, part.length), path, at: part.at });
                    }
                    Place::Reserved => reserved.push((path.as_path(), *part)),
                }
            }
        }
        all.sort_by_key(|aim| aim.image);
        let (mut aims, mut shared): (Vec<Aim<'_>>, Vec<_>) = (Vec::new(), Vec::new());
        for aim in all {
            if aims.last().is_some_and(|last| last.image == aim.image) {
                shared.push((aims.len() - 1, aim));
            } else {
                aims.push(aim);
            }
        }
        Self { aims, shared, reserved }
    }

    /// Writes it.
    pub fn write(
        &self,
        repo: &Repository,
        chain: &Chain,
        done: &mut Unpacked,
        watch: &dyn Watch,
    ) -> Result<()> {
        let mut files = Open::default();
        for (path, part) in &self.reserved {
            // a promise of room, no content: where it cannot be given, nothing is lost
            let file = files.get(path)?;
            let _ = rustix::fs::fallocate(file, FallocateFlags::KEEP_SIZE, part.at, part.length);
        }
        let mut rest = &self.aims[..];
        while !rest.is_empty() {
            if watch.stopped() {
                return Err(Error::new(Kind::Interrupted, "stopped"));
            }
            let (now, later) = rest.split_at(together(rest));
            write(repo, chain, now, &mut files)?;
            let bytes = now.iter().map(|aim| aim.image.length).sum();
            done.bytes += bytes;
            watch.advance(bytes);
            rest = later;
        }
        for (original, aim) in &self.shared {
            done.shared += share(&self.aims[*original], aim)?;
            done.bytes += aim.image.length;
            watch.advance(aim.image.length);
        }
        Ok(())
    }
}

/// How many aims are read for at once: near each other, and not too much.
fn together(aims: &[Aim<'_>]) -> usize {
    let Some(first) = aims.first() else { return 0 };
    let near = |aim: &&Aim<'_>| aim.image.end() <= first.image.offset + BATCH;
    aims.iter().take_while(near).count().max(1)
}

/// Writes aims that lie near each other; one that is longer than a batch, batch by batch.
fn write(repo: &Repository, chain: &Chain, aims: &[Aim<'_>], files: &mut Open) -> Result<()> {
    let Some(first) = aims.first() else { return Ok(()) };
    let end = aims.iter().map(|aim| aim.image.end()).max().unwrap_or(first.image.end());
    let wanted: ExtentSet = aims.iter().map(|aim| aim.image).collect();
    let mut batch: Vec<Piece> = Vec::new();
    let (mut at, mut bytes) = (first.image.offset, 0);
    for piece in chain.pieces_in(Extent::between(first.image.offset, end))? {
        let piece = piece?;
        zeros(Extent::between(at, piece.extent.offset), aims, files)?;
        at = piece.extent.end();
        match piece.content {
            Held::Zero => zeros(piece.extent, aims, files)?,
            _ if wanted.within(piece.extent).is_empty() => {}
            _ => {
                bytes += piece.extent.length;
                batch.push(piece);
            }
        }
        if bytes >= BATCH {
            flush(repo, &mut batch, aims, files)?;
            bytes = 0;
        }
    }
    flush(repo, &mut batch, aims, files)?;
    zeros(Extent::between(at, end), aims, files)
}

fn flush(repo: &Repository, batch: &mut Vec<Piece>, aims: &[Aim<'_>], files: &mut Open) -> Result<()> {
    repo.read_pieces(batch, &mut |extent, bytes| {
        for (aim, both) in hit(aims, extent) {
            let from = (both.offset - extent.offset) as usize;
            let to = aim.at + (both.offset - aim.image.offset);
            let bytes = &bytes[from..from + both.length as usize];
            let file = files.get(aim.path)?;
            file.write_all_at(bytes, to).os_context(|| format!("write {}", aim.path.display()))?;
        }
        Ok(())
    })?;
    batch.clear();
    Ok(())
}

/// Writes zeros for what of `extent` is wanted.
fn zeros(extent: Extent, aims: &[Aim<'_>], files: &mut Open) -> Result<()> {
    static ZEROS: [u8; 1 << 16] = [0; 1 << 16];
    if extent.is_empty() {
        return Ok(());
    }
    for (aim, both) in hit(aims, extent) {
        let (mut at, mut left) = (aim.at + (both.offset - aim.image.offset), both.length);
        while left > 0 {
            let n = left.min(ZEROS.len() as u64);
            let file = files.get(aim.path)?;
            file.write_all_at(&ZEROS[..n as usize], at)
                .os_context(|| format!("write {}", aim.path.display()))?;
            (at, left) = (at + n, left - n);
        }
    }
    Ok(())
}

/// The aims that an extent of the image touches. They may overlap each other.
fn hit<'s, 'a>(aims: &'s [Aim<'a>], extent: Extent) -> impl Iterator<Item = (&'s Aim<'a>, Extent)> {
    let end = aims.partition_point(|aim| aim.image.offset < extent.end());
    aims[..end].iter().filter_map(move |aim| Some((aim, aim.image.intersect(&extent)?)))
}

/// Makes a part share the extents of another, or hold the same bytes; bytes that are shared.
fn share(original: &Aim<'_>, aim: &Aim<'_>) -> Result<u64> {
    let what = || format!("write {}", aim.path.display());
    let from = made_here(OpenOptions::new().read(true), original.path);
    let from = from.os_context(|| format!("read {}", original.path.display()))?;
    let to = made_here(OpenOptions::new().write(true), aim.path).os_context(what)?;
    let length = aim.image.length;
    if clone_range((&from, original.at), (&to, aim.at), length).is_ok() {
        return Ok(length);
    }
    let mut buf = vec![0; length.min(1 << 20) as usize];
    let mut done = 0;
    while done < length {
        let n = buf.len().min((length - done) as usize);
        from.read_exact_at(&mut buf[..n], original.at + done)
            .os_context(|| format!("read {}", original.path.display()))?;
        to.write_all_at(&buf[..n], aim.at + done).os_context(what)?;
        done += n as u64;
    }
    Ok(0)
}

/// Opens a file that was made here, or is one in a listing: what took its place, a link above all, is not followed.
pub(super) fn made_here(options: &mut OpenOptions, path: &Path) -> std::io::Result<File> {
    options.custom_flags(rustix::fs::OFlags::NOFOLLOW.bits().cast_signed()).open(path)
}

/// Files held open, a few.
#[derive(Default)]
struct Open {
    files: HashMap<PathBuf, File>,
}

impl Open {
    fn get(&mut self, path: &Path) -> Result<&File> {
        if !self.files.contains_key(path) {
            if self.files.len() >= 64 {
                self.files.clear();
            }
            let file = made_here(OpenOptions::new().write(true), path);
            let file = file.os_context(|| format!("open {} to write it", path.display()))?;
            self.files.insert(path.to_owned(), file);
        }
        self.files.get(path).ok_or_else(|| Error::new(Kind::Bug, "a file just opened is not open"))
    }
}
