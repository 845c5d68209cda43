//! The pieces of a large index, read, decoded and checked by a thread of its own, some batches ahead of who folds them.
//!
//! What must stay true: the stream ends where the index ends, or with an error. A thread that is gone before it said that
//! it is done would otherwise look like an image whose rest is zero.

use super::overlay::PieceStream;
use crate::error::{Context, Error, Kind, Result};
use crate::format::Piece;
use crossbeam_channel::{Receiver, bounded};

/// Pieces handed over at once (0.4 MiB), and batches that wait.
const BATCH: usize = 4096;
const WAITING: usize = 2;

/// `None`: that was all.
type Batch = Option<Vec<Result<Piece>>>;

/// The same pieces.
///
/// # Errors
/// If no thread can be started.
pub(crate) fn ahead(mut stream: PieceStream) -> Result<PieceStream> {
    let (give, take) = bounded::<Batch>(WAITING);
    let read = move || {
        loop {
            let batch: Vec<_> = stream.by_ref().take(BATCH).collect();
            let last = batch.is_empty();
            // nobody listens any more: nobody wants the rest
            if give.send((!last).then_some(batch)).is_err() || last {
                return;
            }
        }
    };
    let thread = std::thread::Builder::new().name("index".into()).spawn(read);
    thread.os_context(|| "start a thread that reads an index".into())?;
    Ok(Box::new(Batches { take, over: false }.flatten()))
}

/// What the thread hands over.
struct Batches {
    take: Receiver<Batch>,
    over: bool,
}

impl Iterator for Batches {
    type Item = Vec<Result<Piece>>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.over {
            return None;
        }
        let batch = self.take.recv().unwrap_or_else(|_| {
            self.over = true;
            Some(vec![Err(Error::new(Kind::Bug, "the thread that reads an index died"))])
        });
        self.over |= batch.is_none();
        batch
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::block::Extent;
    use crate::format::PieceContent;

    fn pieces(count: u64) -> impl Iterator<Item = Result<Piece>> + Send {
        (0..count).map(|n| Ok(Piece { extent: Extent::new(n * 4096, 4096), content: PieceContent::Zero }))
    }

    #[test]
    fn all_pieces_come_in_order_and_the_end_is_the_end() {
        for count in [0, 1, BATCH as u64 - 1, BATCH as u64, 3 * BATCH as u64 + 7] {
            let got: Vec<Piece> = ahead(Box::new(pieces(count))).unwrap().map(Result::unwrap).collect();
            let wanted: Vec<Piece> = pieces(count).map(Result::unwrap).collect();
            assert_eq!(got, wanted, "{count}");
        }
    }

    #[test]
    fn an_error_arrives_in_its_place_and_who_stops_listening_ends_the_thread() {
        let failing = pieces(5000).chain([Err(Error::new(Kind::Damaged, "here"))]);
        let got: Vec<_> = ahead(Box::new(failing)).unwrap().collect();
        assert_eq!((got.len(), got.iter().filter(|piece| piece.is_err()).count()), (5001, 1));
        assert!(got[5000].is_err());
        drop(ahead(Box::new(pieces(u64::MAX >> 13))).unwrap());
    }

    #[test]
    fn a_thread_that_dies_is_an_error_not_an_end() {
        let dying = pieces(9000).inspect(|piece| {
            assert!(piece.as_ref().is_ok_and(|p| p.extent.offset < 5000 * 4096), "dies on purpose");
        });
        let got: Vec<_> = ahead(Box::new(dying)).unwrap().collect();
        assert!(got.last().is_some_and(Result::is_err), "{} pieces and no error", got.len());
    }
}
