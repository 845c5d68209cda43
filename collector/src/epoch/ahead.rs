//! What a cut needs, made before it is needed: bitmaps for the next epochs, mapped, and the running one mapped.
//!
//! At 100 TiB a bitmap has 3.1 GiB, and making and mapping it takes seconds: file systems must not stand still for
//! that. A bitmap made ahead is known to this process alone until a cut pins it, so that a crash leaves nothing.

use super::Epochs;
use crate::error::Result;
use crate::sys::bpf::{self, Words};
use crate::tracker::{new_bitmap, pin_bitmap};
use aya::maps::MapData;

/// A bitmap and its words.
pub(super) struct Mapped {
    pub(super) map: MapData,
    pub(super) words: Words,
}

/// What was made ahead.
#[derive(Default)]
pub(super) struct Ahead {
    /// For the next epochs; nobody has written to them.
    fresh: Vec<Mapped>,
    /// The words of the epoch with this number, which runs.
    running: Option<(u64, Words)>,
    /// Mappings that are not needed any more: to let go of one takes time as well.
    spent: Vec<Words>,
}

impl Epochs {
    /// Gets ready for so many cuts, which then make, map, unmap and fold nothing.
    ///
    /// # Errors
    /// If the kernel has no memory for the bitmaps, or a fold cannot be recorded; nothing is lost then.
    pub fn prepare(&mut self, cuts: usize) -> Result<()> {
        if self.ahead.fresh.len() >= cuts {
            return Ok(());
        }
        self.let_go();
        self.fold_sealed(cuts)?;
        let count = self.word_count();
        while self.ahead.fresh.len() < cuts {
            let map = new_bitmap(count)?;
            let words = Words::map(bpf::fd(map.fd()), count)?;
            self.ahead.fresh.push(Mapped { map, words });
        }
        let epoch = self.state.epoch;
        if self.ahead.running.as_ref().is_none_or(|(of, _)| *of != epoch) {
            self.ahead.running = Some((epoch, self.words(epoch)?));
        }
        Ok(())
    }

    /// A bitmap for epoch `new`, pinned, nowhere in use.
    pub(super) fn bitmap_for(&mut self, new: u64) -> Result<Mapped> {
        if self.ahead.fresh.is_empty() {
            self.prepare(1)?;
        }
        let bitmap = self.ahead.fresh.pop().expect("one was just made");
        pin_bitmap(&self.places, &self.state.key(), new, &bitmap.map)?;
        Ok(bitmap)
    }

    /// The words of an epoch that ends.
    pub(super) fn ending(&mut self, old: u64) -> Result<Words> {
        match self.ahead.running.take() {
            Some((epoch, words)) if epoch == old => Ok(words),
            _ => self.words(old),
        }
    }

    /// Epoch `new` runs, with these words; those of the one before are not needed any more.
    pub(super) fn began(&mut self, new: u64, words: Words, spent: Words) {
        self.ahead.running = Some((new, words));
        self.ahead.spent.push(spent);
    }

    /// Lets go of what keeps the memory of old epochs.
    pub(super) fn let_go(&mut self) {
        self.ahead.spent.clear();
    }
}
