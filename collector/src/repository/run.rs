//! A sorted run of pieces that may be longer than memory: kept as encoded chunks in a file without a name.
//!
//! The file may lie on the repository's medium and tells what the index tells, so its chunks are sealed with a key that
//! only this run has; that they are what was written is shown by the same tag.

use super::overlay::PieceStream;
use super::store::Store;
use crate::error::{Context, Result};
use crate::format::{PIECES_PER_CHUNK, Piece, decode_chunk, encode_chunk};
use crate::seal::{Cipher, Secret};
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

/// A run being written. Up to a chunk of pieces it costs no file.
#[derive(Default)]
pub(crate) struct Run {
    file: Option<Arc<Spill>>,
    end: u64,
    chunks: Vec<Spilled>,
    pending: Vec<Piece>,
}

/// The file, and the key its chunks are sealed with.
struct Spill {
    file: File,
    cipher: Cipher,
}

#[derive(Clone, Copy)]
struct Spilled {
    at: u64,
    len: u32,
    pieces: u32,
}

impl Run {
    /// Appends a piece; addresses ascend.
    pub fn push(&mut self, store: &Store, piece: Piece) -> Result<()> {
        self.pending.push(piece);
        if self.pending.len() >= PIECES_PER_CHUNK { self.spill(store) } else { Ok(()) }
    }

    fn spill(&mut self, store: &Store) -> Result<()> {
        let mut bytes = encode_chunk(&self.pending)?;
        let spill = match &self.file {
            Some(spill) => Arc::clone(spill),
            None => {
                let (file, cipher) = (store.scratch()?, Cipher::new(&Secret::generate()?)?);
                Arc::clone(self.file.insert(Arc::new(Spill { file, cipher })))
            }
        };
        spill.cipher.seal(nonce(self.end), &[], &mut bytes, 0)?;
        let written = spill.file.write_all_at(&bytes, self.end);
        written.os_context(|| "write pieces to a temporary file".into())?;
        let (len, pieces) = (bytes.len() as u32, self.pending.len() as u32);
        self.chunks.push(Spilled { at: self.end, len, pieces });
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

/// No two chunks lie at the same place.
fn nonce(at: u64) -> [u8; 12] {
    let mut nonce = [0; 12];
    nonce[..8].copy_from_slice(&at.to_le_bytes());
    nonce
}

fn read_back(spill: &Spill, chunk: Spilled) -> Result<Vec<Piece>> {
    let mut bytes = vec![0; chunk.len as usize];
    let read = spill.file.read_exact_at(&mut bytes, chunk.at);
    read.os_context(|| "read pieces from a temporary file".into())?;
    let what = "temporary file: it does not give back what was written to it";
    let plain = spill.cipher.open(nonce(chunk.at), &[], &mut bytes).map_err(|e| e.within(what))?;
    decode_chunk(plain, chunk.pieces as usize)
}
