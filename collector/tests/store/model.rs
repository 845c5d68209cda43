//! A device as bytes, and backups of it: what every point must give back.

use collector::block::{Extent, Granularity};
use collector::chain::Chain;
use collector::error::Result;
use collector::format::{
    Compression, Consistency, DeviceId, DeviceIdent, EncodedFrame, FrameHash, Geometry, Manifest, PointId,
    encode_frame,
};
use collector::repository::{FinishInfo, NewPoint, Repository};
use std::collections::BTreeMap;

const CELL: usize = 65536;

/// A device and its content.
#[derive(Clone)]
pub struct Model {
    pub device: DeviceId,
    pub image: Vec<u8>,
}

/// What a write leaves: zeros, one byte all over, or noise.
#[derive(Clone, Copy)]
pub enum What {
    Zero,
    Same(u8),
    Noise(u8),
}

impl Model {
    pub fn new(device: &str, size: usize) -> Self {
        Self { device: device.parse().unwrap(), image: vec![0; size] }
    }

    /// Writes blocks and gives their frames.
    pub fn write(&mut self, first: usize, blocks: usize, what: What) -> Vec<EncodedFrame> {
        let size = self.image.len();
        let (mut at, end) = (first * 4096, ((first + blocks) * 4096).min(size));
        for (i, byte) in self.image[at..end].iter_mut().enumerate() {
            *byte = match what {
                What::Zero => 0,
                What::Same(byte) => byte,
                What::Noise(seed) => {
                    FrameHash::of(&(((i + at) as u64) << 8 | u64::from(seed)).to_le_bytes()).0 as u8
                }
            };
        }
        let mut frames = Vec::new();
        while at < end {
            let stop = ((at / CELL + 1) * CELL).min(end);
            let extent = Extent::between(at as u64, stop as u64);
            frames.push(encode_frame(extent, &self.image[at..stop], Compression::default()).unwrap());
            at = stop;
        }
        frames
    }

    pub fn new_point(&self, parent: Option<PointId>) -> NewPoint {
        NewPoint {
            device: DeviceIdent {
                id: self.device.clone(),
                path: format!("/dev/{}", self.device),
                facts: BTreeMap::from([("serial".into(), "0000".into())]),
            },
            parent,
            geometry: Geometry { size: self.image.len() as u64, logical_block: 512, physical_block: 4096 },
            granularity: Granularity::default(),
            session: Some("01JQ0000000000000000000000".into()),
            time_start: 1_700_000_000_000,
        }
    }

    /// A full of the image as it is.
    pub fn back_up_whole(&self, repo: &Repository) -> Result<Manifest> {
        let lock = repo.lock(&self.device)?;
        let mut writer = repo.begin(&lock, self.new_point(None))?;
        for (n, cell) in self.image.chunks(CELL).enumerate() {
            let extent = Extent::new((n * CELL) as u64, cell.len() as u64);
            writer.add(encode_frame(extent, cell, Compression::default())?)?;
        }
        writer.finish(info())
    }

    /// A whole backup: each pass is a list of writes.
    pub fn back_up(
        &mut self,
        repo: &Repository,
        parent: Option<PointId>,
        passes: &[&[(usize, usize, What)]],
    ) -> Result<Manifest> {
        let lock = repo.lock(&self.device)?;
        let mut writer = repo.begin(&lock, self.new_point(parent))?;
        for (n, pass) in passes.iter().enumerate() {
            if n > 0 {
                writer.start_pass()?;
            }
            for &(first, blocks, what) in *pass {
                for frame in self.write(first, blocks, what) {
                    writer.add(frame)?;
                }
            }
        }
        writer.finish(info())
    }
}

pub fn info() -> FinishInfo {
    let at = FinishInfo::at(1_700_000_001_000, Consistency::FileSystemFrozen);
    FinishInfo { freeze_ms: Some(12), changed_bytes: 4096, ..at }
}

/// The content of a point, through everything a restore uses.
pub fn restore(repo: &Repository, device: &DeviceId, point: PointId) -> Result<Vec<u8>> {
    let chain = Chain::resolve(repo, device, point)?;
    let mut image = vec![0; chain.top().geometry.size as usize];
    let pieces = chain.pieces()?.collect::<Result<Vec<_>>>()?;
    repo.read_pieces(&pieces, &mut |extent, bytes| {
        image[extent.offset as usize..extent.end() as usize].copy_from_slice(bytes);
        Ok(())
    })?;
    Ok(image)
}

pub fn open(folder: &std::path::Path) -> Result<Repository> {
    Repository::open(folder.to_str().unwrap())
}
