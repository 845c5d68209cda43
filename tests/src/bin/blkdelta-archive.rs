//! Makes repositories of known shape through the library, and resolves points: what `cargo xtask bench chains` and
//! `growth` measure.
//!
//! ```text
//!   blkdelta-archive chain REPO IMAGE LINKS BYTES   a full of IMAGE, and increments of BYTES each in runs of 4 to 64 KiB
//!   blkdelta-archive verify REPO IMAGE LINKS BYTES  the points of such a chain hold what was written to it
//!   blkdelta-archive full REPO BYTES                a full of a device of BYTES, every cell used, of made-up frames
//!   blkdelta-archive grow REPO LINKS PIECES         increments of so many made-up frames, anywhere, on such a full
//!   blkdelta-archive resolve REPO POINT             traces a point and walks all of its pieces
//! ```
//! Each prints one JSON object. Nothing is tracked, nothing needs root.

use anyhow::{Context, Result, bail, ensure};
use collector::block::{Extent, Granularity};
use collector::chain::Chain;
use collector::format::{
    CELL, Codec, Compression, Consistency, DeviceId, DeviceIdent, EncodedFrame, FrameHash, FrameMeta,
    Geometry, PointId, encode_frame,
};
use collector::repository::{DeviceLock, FinishInfo, NewPoint, PointWriter, Repository};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::time::Instant;
use tests::random::Random;

fn main() -> Result<()> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let said = match words[..] {
        ["chain", repo, image, links, bytes] => chain(repo, image, links.parse()?, bytes.parse()?)?,
        ["verify", repo, image, links, bytes] => verify(repo, image, links.parse()?, bytes.parse()?)?,
        ["full", repo, bytes] => full(repo, bytes.parse()?)?,
        ["grow", repo, links, pieces] => grow(repo, links.parse()?, pieces.parse()?)?,
        ["resolve", repo, point] => resolve(repo, point)?,
        _ => bail!("usage: blkdelta-archive chain|verify|full|grow|resolve WORDS"),
    };
    println!("{said}");
    Ok(())
}

fn device() -> Result<DeviceId> {
    Ok(DeviceId::new("bench")?)
}

fn begin(repo: &Repository, lock: &DeviceLock, size: u64, parent: Option<PointId>) -> Result<PointWriter> {
    let ident = DeviceIdent { id: device()?, path: "/dev/bench".into(), facts: BTreeMap::new() };
    let geometry = Geometry { size, logical_block: 512, physical_block: 4096 };
    let granularity = Granularity::default();
    let new = NewPoint { device: ident, parent, geometry, granularity, session: None, time_start: 1 };
    Ok(repo.begin(lock, new)?)
}

fn info(time_cut: u64) -> FinishInfo {
    FinishInfo::at(time_cut, Consistency::Crash)
}

/// Frames of whole or partial cells of `image`.
fn store(writer: &mut PointWriter, image: &[u8], runs: &[Extent]) -> Result<()> {
    for run in runs {
        let mut at = run.offset;
        while at < run.end() {
            let end = run.end().min((at / CELL + 1) * CELL);
            let bytes = &image[at as usize..end as usize];
            writer.add(encode_frame(Extent::between(at, end), bytes, Compression::default())?)?;
            at = end;
        }
    }
    Ok(())
}

fn chain(repo: &str, image: &str, links: u64, bytes: u64) -> Result<Value> {
    let mut image = std::fs::read(image).with_context(|| format!("read {image}"))?;
    let size = image.len() as u64;
    let repo = Repository::create(repo)?;
    let lock = repo.lock(&device()?)?;
    let mut random = Random::new(4);
    let mut ids: Vec<String> = Vec::new();
    let mut parent = None;
    for link in 0..links {
        let mut writer = begin(&repo, &lock, size, parent)?;
        let runs =
            if link == 0 { vec![Extent::new(0, size)] } else { change(&mut image, bytes, &mut random) };
        store(&mut writer, &image, &runs)?;
        let point = writer.finish(info(link + 1))?.point;
        parent = Some(point);
        ids.push(point.to_string());
    }
    Ok(json!({ "points": ids }))
}

/// Plays the same changes again, and compares points on the way, the last among them.
fn verify(repo: &str, image: &str, links: u64, bytes: u64) -> Result<Value> {
    let mut image = std::fs::read(image).with_context(|| format!("read {image}"))?;
    let repo = Repository::open(repo)?;
    let points = repo.points()?;
    ensure!(points.len() as u64 == links, "{} points, not {links}", points.len());
    let mut random = Random::new(4);
    let mut compared = 0;
    for link in 0..links {
        if link > 0 {
            change(&mut image, bytes, &mut random);
        }
        if link % (links / 3).max(1) == 0 || link + 1 == links {
            ensure!(
                content(&repo, points[link as usize].id)? == image,
                "point {} holds other bytes",
                link + 1
            );
            compared += 1;
        }
    }
    Ok(json!({ "compared": compared }))
}

fn content(repo: &Repository, point: PointId) -> Result<Vec<u8>> {
    let chain = Chain::resolve(repo, &device()?, point)?;
    let mut bytes = vec![0; chain.top().geometry.size as usize];
    let pieces = chain.pieces()?.collect::<Result<Vec<_>, _>>()?;
    repo.read_pieces(&pieces, &mut |extent, content| {
        bytes[extent.offset as usize..extent.end() as usize].copy_from_slice(content);
        Ok(())
    })?;
    Ok(bytes)
}

/// Puts content from elsewhere in the image over random runs; where, sorted and apart.
fn change(image: &mut [u8], bytes: u64, random: &mut Random) -> Vec<Extent> {
    let blocks = image.len() as u64 / 4096;
    let mut runs: BTreeMap<u64, u64> = BTreeMap::new();
    let mut left = bytes / 4096;
    while left > 0 {
        let len = (1 << random.below(5)).min(left);
        let (from, to) = (random.below(blocks - len), random.below(blocks - len));
        let free = runs.range(..to + len).next_back().is_none_or(|(at, n)| at + n <= to);
        if free {
            let (from, n) = ((from * 4096) as usize, (len * 4096) as usize);
            image.copy_within(from..from + n, (to * 4096) as usize);
            runs.insert(to, len);
            left -= len;
        }
    }
    runs.into_iter().map(|(at, n)| Extent::new(at * 4096, n * 4096)).collect()
}

/// A frame of one stored byte: only its record counts.
fn made_up(extent: Extent, salt: u64) -> EncodedFrame {
    let hash = FrameHash::of(&[extent.offset, salt].map(u64::to_le_bytes).concat());
    let meta = FrameMeta { extent, codec: Codec::Zstd, stored_len: 1, hash };
    EncodedFrame { meta, data: vec![0].into() }
}

fn full(repo: &str, size: u64) -> Result<Value> {
    let repo = Repository::create(repo)?;
    let lock = repo.lock(&device()?)?;
    let mut writer = begin(&repo, &lock, size, None)?;
    for cell in 0..size / CELL {
        writer.add(made_up(Extent::new(cell * CELL, CELL), 0))?;
    }
    let manifest = writer.finish(info(1))?;
    let (point, index) = (manifest.point.to_string(), manifest.index);
    Ok(
        json!({ "point": point, "index_bytes": index.len, "pieces": index.pieces, "segments": index.segments }),
    )
}

fn grow(repo: &str, links: u64, pieces: u64) -> Result<Value> {
    let repo = Repository::open(repo)?;
    let lock = repo.lock(&device()?)?;
    let full = repo.points()?.pop().context("a full to grow on")?;
    let size = full.manifest().context("a readable full")?.geometry.size;
    let (mut parent, mut random) = (full.id, Random::new(8));
    for link in 1..=links {
        let mut cells: Vec<u64> = (0..pieces).map(|_| random.below(size / CELL)).collect();
        cells.sort_unstable();
        cells.dedup();
        let mut writer = begin(&repo, &lock, size, Some(parent))?;
        for cell in cells {
            let blocks = 1 << random.below(5);
            let first = random.below(17 - blocks);
            writer.add(made_up(Extent::new(cell * CELL + first * 4096, blocks * 4096), link))?;
        }
        parent = writer.finish(info(link + 1))?.point;
    }
    Ok(json!({ "point": parent.to_string() }))
}

fn resolve(repo: &str, point: &str) -> Result<Value> {
    let repo = Repository::open(repo)?;
    let (device, point) = repo.resolve(point, None)?;
    let began = Instant::now();
    let chain = Chain::resolve(&repo, &device, point)?;
    let traced = began.elapsed();
    let mut pieces = 0u64;
    for piece in chain.pieces()? {
        piece?;
        pieces += 1;
    }
    let (traced, all) = (traced.as_secs_f64(), began.elapsed().as_secs_f64());
    Ok(json!({ "points": chain.points().len(), "pieces": pieces, "trace_seconds": traced, "seconds": all }))
}
