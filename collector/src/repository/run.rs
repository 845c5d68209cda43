//! A sorted run of pieces that may be longer than memory: kept as encoded chunks in a file without a name.

use super::overlay::PieceStream;
use super::store::Store;
use crate::error::{Context, Result};
use crate::format::{PIECES_PER_CHUNK, Piece, damaged, decode_chunk, encode_chunk};
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

/// A run being written. Up to a chunk of pieces it costs no file.
#[derive(Default)]
pub(crate) struct Run {
    file: Option<Arc<File>>,
    end: u64,
    chunks: Vec<Spilled>,
    pending: Vec<Piece>,
}

#[derive(Clone, Copy)]
struct Spilled {
    at: u64,
    len: u32,
    pieces: u32,
    hash: u64,
}

impl Run {
    /// Appends a piece; addresses ascend.
    pub fn push(&mut self, store: &Store, piece: Piece) -> Result<()> {
        self.pending.push(piece);
        if self.pending.len() >= PIECES_PER_CHUNK { self.spill(store) } else { Ok(()) }
    }

    fn spill(&mut self, store: &Store) -> Result<()> {
        let bytes = encode_chunk(&self.pending)?;
        let file = match &self.file {
            Some(file) => Arc::clone(file),
            None => Arc::clone(self.file.insert(Arc::new(store.scratch()?))),
        };
        file.write_all_at(&bytes, self.end).os_context(|| "write pieces to a temporary file".into())?;
        let hash = xxhash_rust::xxh3::xxh3_64(&bytes);
        let (len, pieces) = (bytes.len() as u32, self.pending.len() as u32);
        self.chunks.push(Spilled { at: self.end, len, pieces, hash });
        self.end += bytes.len() as u64;
        self.pending.clear();
        Ok(())
    }

    /// The pieces again.
    pub fn into_stream(self) -> PieceStream {
        let Self { file, chunks, pending, .. } = self;
        let spilled = chunks.into_iter().flat_map(move |chunk| {
            let pieces = file.as_ref().map_or_else(|| Ok(Vec::new()), |file| read_back(file, chunk));
            let (pieces, failure) = pieces.map_or_else(|e| (Vec::new(), Some(Err(e))), |p| (p, None));
            pieces.into_iter().map(Ok).chain(failure)
        });
        Box::new(spilled.chain(pending.into_iter().map(Ok)))
    }
}

fn read_back(file: &File, chunk: Spilled) -> Result<Vec<Piece>> {
    let mut bytes = vec![0; chunk.len as usize];
    file.read_exact_at(&mut bytes, chunk.at).os_context(|| "read pieces from a temporary file".into())?;
    if xxhash_rust::xxh3::xxh3_64(&bytes) != chunk.hash {
        return Err(damaged("temporary file: it does not give back what was written to it"));
    }
    decode_chunk(&bytes, chunk.pieces as usize)
}
