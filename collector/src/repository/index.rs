//! Writing and reading an index as a stream: one chunk in memory at a time.

use super::overlay::{PieceStream, lost_pieces};
use super::store::Store;
use super::stream::ObjectStream;
use super::{Repository, is_harm, keys, lost};
use crate::block::{BLOCK, Extent};
use crate::error::{Error, Kind, Result};
use crate::format::{
    Blake3, ChunkEntry, HEADER_LEN, Header, IndexFooter, IndexRef, MAX_INDEX_FOOTER, Manifest, ObjectKind,
    PIECES_PER_CHUNK, Piece, PieceContent, PointId, RepositoryId, SegmentRef, TRAILER_LEN, Trailer, damaged,
    decode_chunk, encode_chunk,
};
use crate::seal::{Keys, Part};
use crate::sys::failpoint;
use bytes::Bytes;
use std::sync::Arc;

/// An index longer than this goes to the store in parts of this length.
const PART: usize = 8 << 20;

/// An index no longer than this is read at once and kept: a long chain is made of such, and each read of one costs more
/// than its bytes. A thousand of them are 32 MiB at most.
const SMALL: u64 = 32 << 10;

/// Chunks of an index that is worth a thread.
const LARGE: usize = 32;

/// Writes an index from ascending pieces.
pub(super) struct IndexWriter {
    /// Absent: nothing is written.
    store: Option<Arc<Store>>,
    keys: Option<Arc<Keys>>,
    key: String,
    stream: Option<ObjectStream>,
    buffer: Vec<u8>,
    hasher: blake3::Hasher,
    written: u64,
    pending: Vec<Piece>,
    chunks: Vec<ChunkEntry>,
    pieces: u64,
    covered: u64,
}

impl IndexWriter {
    pub fn new(repository: &Repository, key: String, point: PointId) -> Self {
        Self { store: Some(repository.store_handle()), ..Self::measuring(repository, key, point) }
    }

    /// One that writes nothing, and only says what would be written.
    pub fn measuring(repository: &Repository, key: String, point: PointId) -> Self {
        let keys = repository.keys().cloned();
        let (kind, uuid) = (ObjectKind::Index, repository.uuid());
        let (sealed, id) = (keys.is_some(), point.to_bytes());
        let header = Header { kind, sealed, compatible: 0, repository: uuid, id }.encode();
        let mut writer = Self {
            store: None,
            keys,
            key,
            stream: None,
            buffer: Vec::new(),
            hasher: blake3::Hasher::new(),
            written: 0,
            pending: Vec::new(),
            chunks: Vec::new(),
            pieces: 0,
            covered: 0,
        };
        writer.append(&header);
        writer
    }

    /// Sealed with other keys than the repository's newest.
    pub fn with_keys(self, keys: Option<Arc<Keys>>) -> Self {
        Self { keys, ..self }
    }

    fn append(&mut self, bytes: &[u8]) {
        self.hasher.update(bytes);
        self.buffer.extend_from_slice(bytes);
        self.written += bytes.len() as u64;
    }

    /// Appends a piece; zeros that touch become one.
    pub fn push(&mut self, piece: Piece) -> Result<()> {
        self.covered += piece.extent.length;
        if let Some(last) = self.pending.last_mut() {
            let zeros = last.content == PieceContent::Zero && piece.content == PieceContent::Zero;
            if zeros && last.extent.end() == piece.extent.offset {
                last.extent.length += piece.extent.length;
                return Ok(());
            }
        }
        if self.pending.len() >= PIECES_PER_CHUNK {
            self.flush()?;
        }
        self.pending.push(piece);
        Ok(())
    }

    /// Seals a part, if the repository is encrypted.
    fn cover(&self, part: Part, bytes: Vec<u8>) -> Result<Vec<u8>> {
        match &self.keys {
            Some(keys) => keys.metadata().cover(&self.key).seal(part, &bytes),
            None => Ok(bytes),
        }
    }

    fn flush(&mut self) -> Result<()> {
        let (Some(first), Some(last)) = (self.pending.first(), self.pending.last()) else { return Ok(()) };
        let bytes = self.cover(Part::Chunk(self.chunks.len() as u64), encode_chunk(&self.pending)?)?;
        self.chunks.push(ChunkEntry {
            extent: Extent::between(first.extent.offset, last.extent.end()),
            at: self.written,
            len: bytes.len() as u32,
            pieces: self.pending.len() as u32,
            hash: xxhash_rust::xxh3::xxh3_128(&bytes),
        });
        self.pieces += self.pending.len() as u64;
        self.pending.clear();
        self.append(&bytes);
        while self.buffer.len() >= PART {
            let rest = self.buffer.split_off(PART);
            self.part(rest)?;
        }
        Ok(())
    }

    /// Sends the buffer; `rest` is the next one.
    fn part(&mut self, rest: Vec<u8>) -> Result<()> {
        let part = std::mem::replace(&mut self.buffer, rest);
        let Some(store) = &self.store else { return Ok(()) };
        if self.stream.is_none() {
            self.stream = Some(store.stream(&self.key)?);
        }
        self.stream.as_mut().map_or(Ok(()), |stream| stream.part(part))
    }

    /// Makes the index durable. Gives back what the manifest says of it, and the bytes it covers.
    pub fn finish(mut self, segments: Vec<SegmentRef>) -> Result<(IndexRef, u64)> {
        self.flush()?;
        let footer = IndexFooter { segments, chunks: std::mem::take(&mut self.chunks) };
        let (chunks, segments) = (footer.chunks.len() as u64, footer.segments.len() as u64);
        let footer = self.cover(Part::Footer, footer.encode()?)?;
        let trailer = Trailer::of(self.written, &footer, chunks).encode(ObjectKind::Index);
        self.append(&footer);
        self.append(&trailer);
        let hash = Blake3(*self.hasher.finalize().as_bytes());
        self.publish()?;
        let index = IndexRef {
            len: self.written,
            hash,
            footer: Blake3::of(&footer),
            chunks,
            pieces: self.pieces,
            segments,
        };
        Ok((index, self.covered))
    }

    fn publish(&mut self) -> Result<()> {
        let Some(store) = self.store.clone() else { return Ok(()) };
        failpoint("repo.index.put")?;
        if self.stream.is_some() {
            self.part(Vec::new())?;
            self.stream.take().map_or(Ok(()), ObjectStream::complete)?;
        } else {
            store.put_new(&self.key, std::mem::take(&mut self.buffer).into())?;
        }
        failpoint("repo.index.stored")
    }
}

/// An index, and what is known of it from the object that commits it.
pub(super) struct Asked<'a> {
    /// Its key.
    pub key: String,
    /// The repository it belongs to.
    pub repository: RepositoryId,
    /// The point it is of.
    pub point: PointId,
    /// Bytes of the device.
    pub size: u64,
    /// What its commit says of it.
    pub told: &'a IndexRef,
}

impl<'a> Asked<'a> {
    /// A point's own index.
    pub fn of(manifest: &'a Manifest) -> Self {
        Self {
            key: keys::index(&manifest.device.id, manifest.point),
            repository: manifest.repository,
            point: manifest.point,
            size: manifest.geometry.size,
            told: &manifest.index,
        }
    }
}

/// An index's bytes, where they are.
struct Object<'a> {
    store: &'a Store,
    key: &'a str,
    whole: Option<Bytes>,
}

impl<'a> Object<'a> {
    /// Reads a small one whole; it must be as long as its commit says.
    fn open(store: &'a Store, asked: &'a Asked<'_>) -> Result<Self> {
        let (key, told) = (asked.key.as_str(), asked.told.len);
        let whole = if told <= SMALL { Some(store.get(key, SMALL)?) } else { None };
        let len = whole.as_ref().map_or_else(|| store.len(key), |whole| Ok(whole.len() as u64))?;
        if len != told || len < (HEADER_LEN + TRAILER_LEN) as u64 {
            return Err(damaged(format!("{len} bytes long, its manifest says {told}")));
        }
        Ok(Self { store, key, whole })
    }

    fn range(&self, at: u64, len: u64) -> Result<Bytes> {
        let Some(whole) = &self.whole else { return self.store.get_range(self.key, at, len) };
        let inside = at.checked_add(len).is_some_and(|end| end <= whole.len() as u64);
        let cut_short = || damaged(format!("{}: {} bytes, cut short", self.key, whole.len()));
        if inside { Ok(whole.slice(at as usize..(at + len) as usize)) } else { Err(cut_short()) }
    }
}

/// An index whose footer was read and checked.
#[derive(Clone)]
pub(crate) struct IndexReader {
    store: Arc<Store>,
    keys: Option<Arc<Keys>>,
    key: String,
    size: u64,
    bytes: u64,
    /// All of a small one.
    whole: Option<Bytes>,
    footer: Arc<IndexFooter>,
}

impl IndexReader {
    /// Opens an index and checks that it is the one `asked` speaks of.
    pub(super) fn open(repository: &Repository, asked: &Asked<'_>) -> Result<Self> {
        let (key, keys) = (asked.key.clone(), repository.keys().cloned());
        failpoint("repo.read.index")?;
        let store = repository.store_handle();
        let opened = Object::open(&store, asked).and_then(|object| {
            let footer = Self::footer(&object, keys.as_deref(), asked)?;
            Ok((object.whole, Arc::new(footer)))
        });
        let (whole, footer) = opened.map_err(|e| lost(e).within(format!("open index {key}")))?;
        let (size, bytes) = (asked.size, asked.told.len);
        Ok(Self { store, keys, key, size, bytes, whole, footer })
    }

    fn footer(object: &Object<'_>, keys: Option<&Keys>, asked: &Asked<'_>) -> Result<IndexFooter> {
        let (told, len) = (asked.told, asked.told.len);
        let header = Header::decode(ObjectKind::Index, &object.range(0, HEADER_LEN as u64)?)?;
        header.expect(asked.repository, asked.point.to_bytes())?;
        header.expect_sealed(keys.is_some())?;
        let last = object.range(len - TRAILER_LEN as u64, TRAILER_LEN as u64)?;
        let trailer = Trailer::decode(ObjectKind::Index, &last, len)?;
        if trailer.footer_len > MAX_INDEX_FOOTER {
            return Err(damaged(format!("a footer of {} bytes", trailer.footer_len)));
        }
        let bytes = object.range(trailer.footer_at, trailer.footer_len)?;
        if Blake3::of(&bytes) != told.footer {
            return Err(damaged("another footer than its manifest says"));
        }
        let footer = match keys {
            None => IndexFooter::decode(&trailer, &bytes)?,
            Some(keys) => {
                trailer.check(&bytes)?;
                let plain = keys.metadata().cover(object.key).open(Part::Footer, &bytes)?;
                IndexFooter::decode_plain(&trailer, &plain)?
            }
        };
        if footer.chunks.len() as u64 != told.chunks || footer.segments.len() as u64 != told.segments {
            return Err(damaged("its manifest counts other chunks or segments"));
        }
        Ok(footer)
    }

    /// The segments its pieces name.
    pub(crate) fn segments(&self) -> &[SegmentRef] {
        &self.footer.segments
    }

    /// Reading it takes long: half a million pieces and more, 32 GiB of a full.
    pub(crate) fn is_large(&self) -> bool {
        self.footer.chunks.len() > LARGE
    }

    /// The object's length.
    pub(crate) const fn bytes(&self) -> u64 {
        self.bytes
    }

    /// The object's key.
    pub(super) fn key(&self) -> &str {
        &self.key
    }

    /// The pieces by address, each checked; one chunk in memory at a time.
    pub(crate) fn pieces(&self) -> PieceStream {
        self.pieces_near(Extent::new(0, self.size), false)
    }

    /// The pieces of all chunks that reach into `range`. With `salvage` a chunk that cannot be read does not end it:
    /// what it reaches over is lost.
    pub(crate) fn pieces_near(&self, range: Extent, salvage: bool) -> PieceStream {
        let this = self.clone();
        let mut end = 0;
        let near = move |entry: &ChunkEntry| entry.extent.intersect(&range).is_some();
        let footer = Arc::clone(&self.footer);
        let chosen = (0..self.footer.chunks.len()).filter(move |n| footer.chunks.get(*n).is_some_and(near));
        Box::new(chosen.flat_map(move |n| {
            let from = end;
            let chunk = this.chunk(n).and_then(|pieces| this.check(&mut end, n, &pieces).map(|()| pieces));
            let chunk = chunk.map_err(|e| lost(e).within(format!("read index {}", this.key)));
            let mut gone = Extent::default();
            let (pieces, failure) = match chunk {
                Ok(pieces) => (pieces, None),
                Err(e) if salvage && is_harm(&e) => {
                    log::warn!("{}", e.in_full());
                    let reach = this.footer.chunks.get(n).map_or(gone, |entry| entry.extent);
                    end = reach.end().min(this.size).max(from);
                    gone = Extent::between(reach.offset.max(from), end);
                    (Vec::new(), None)
                }
                Err(e) => (Vec::new(), Some(Err(e))),
            };
            pieces.into_iter().chain(lost_pieces(gone)).map(Ok).chain(failure)
        }))
    }

    fn chunk(&self, n: usize) -> Result<Vec<Piece>> {
        let entry = self.footer.chunks.get(n).ok_or_else(|| Error::new(Kind::Bug, "no such chunk"))?;
        let object = Object { store: &self.store, key: &self.key, whole: self.whole.clone() };
        let bytes = object.range(entry.at, u64::from(entry.len))?;
        entry.check(&bytes)?;
        let Some(keys) = &self.keys else { return decode_chunk(&bytes, entry.pieces as usize) };
        let plain = keys.metadata().cover(&self.key).open(Part::Chunk(n as u64), &bytes)?;
        decode_chunk(&plain, entry.pieces as usize)
    }

    fn check(&self, end: &mut u64, n: usize, pieces: &[Piece]) -> Result<()> {
        let (Some(first), Some(last)) = (pieces.first(), pieces.last()) else {
            return Err(damaged("chunk without pieces"));
        };
        let reach = Extent::between(first.extent.offset, last.extent.end());
        if self.footer.chunks.get(n).is_none_or(|entry| entry.extent != reach) {
            return Err(damaged("a chunk's pieces reach elsewhere than its footer says"));
        }
        for piece in pieces {
            let extent = piece.extent;
            let whole = extent.offset.is_multiple_of(BLOCK)
                && (extent.end() == self.size
                    || extent.end() < self.size && extent.end().is_multiple_of(BLOCK));
            if extent.offset < *end || !whole {
                return Err(damaged(format!("piece at {}: out of order or off the grid", extent.offset)));
            }
            *end = extent.end();
            let PieceContent::Stored(f) = piece.content else { continue };
            let room = self.footer.segments.get(f.segment as usize).map(|s| s.len);
            let stored = u64::from(f.offset)..u64::from(f.offset) + u64::from(f.stored_len);
            let footer = room.map(|len| len.saturating_sub(TRAILER_LEN as u64));
            if stored.start < HEADER_LEN as u64 || footer.is_none_or(|footer| stored.end > footer) {
                return Err(damaged(format!("piece at {}: outside its segment", extent.offset)));
            }
        }
        Ok(())
    }
}
