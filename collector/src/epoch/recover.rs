//! After a crash of ours: which bitmap is running is what the kernel says, not what the state file says.

use super::Epochs;
use crate::error::Result;
use crate::sys::bpf::{self, Words};
use crate::sys::planted;
use crate::tracker::{Sealed, map_id, open_bitmap};

impl Epochs {
    /// Finishes or undoes a cut that was cut short, and removes bitmaps that were retired.
    pub(super) fn recover(&mut self) -> Result<()> {
        if planted("sealed-forgotten") {
            self.state.retired = self.state.epoch - 1;
            self.state.sealed.clear();
        }
        self.unpin_retired()?;
        self.sweep_lists();
        let pinned = self.places.epochs(&self.state.key())?;
        let Some(running) = self.find_running(&pinned)? else {
            return self.start_over();
        };
        for orphan in pinned.iter().filter(|e| **e > running) {
            self.unpin(*orphan)?; // pinned, but never put in place: no program ever wrote to it
        }
        self.finish_cuts(running)?;
        self.adopt_strays(&pinned)
    }

    /// The pinned epoch whose bitmap is the one the programs use.
    fn find_running(&self, pinned: &[u64]) -> Result<Option<u64>> {
        let Ok(Some(running)) = self.maps.running_bitmap(self.state.slot) else { return Ok(None) };
        for epoch in pinned.iter().rev() {
            let map = open_bitmap(&self.places, &self.state.key(), *epoch)?;
            if map_id(&map) == Some(running) {
                return Ok(Some(*epoch));
            }
        }
        Ok(None)
    }

    /// The kernel is ahead of the state file: the switch happened, the seal was not recorded. The carry-over is
    /// done again: a slot whose write ended since has completed before anything of the sealed epoch is copied.
    fn finish_cuts(&mut self, running: u64) -> Result<()> {
        while self.state.epoch < running {
            let (old, new) = (self.state.epoch, self.state.epoch + 1);
            let words = [self.words(old)?, self.words(new)?];
            let reading = self.read()?;
            let verdict = reading.judge(&self.state);
            self.seal(old, [&words[0], &words[1]], &reading, &verdict)?;
        }
        Ok(())
    }

    /// A sealed bitmap that the state does not name (folded, but not yet unpinned) or that it names and that is
    /// gone: the first is harmless and taken back, the second makes everything suspect.
    fn adopt_strays(&mut self, pinned: &[u64]) -> Result<()> {
        let mut state = self.state.clone();
        for sealed in &mut state.sealed {
            if !pinned.contains(&sealed.epoch) {
                let gone = format!("the bitmap of epoch {} was removed", sealed.epoch);
                if !sealed.suspect.contains(&gone) {
                    sealed.suspect.push(gone);
                }
            }
        }
        for epoch in pinned.iter().filter(|e| **e < state.epoch && **e > state.retired) {
            if !state.sealed.iter().any(|s| s.epoch == *epoch) {
                state.sealed.push(Sealed { epoch: *epoch, suspect: Vec::new() });
            }
        }
        state.sealed.sort_by_key(|s| s.epoch);
        for sealed in state.sealed.iter().filter(|s| !pinned.contains(&s.epoch)) {
            // so that reading it back finds something: what it held is lost, and said so
            crate::tracker::make_bitmap(&self.places, &state.key(), sealed.epoch, self.word_count())?;
        }
        if state != self.state {
            state.write(&self.places)?;
            self.state = state;
        }
        Ok(())
    }

    /// The running bitmap is none of ours: somebody removed our pins or changed the kernel's table. What was
    /// written is unknown; a new bitmap goes in, and everything up to now is suspect.
    fn start_over(&mut self) -> Result<()> {
        let key = self.state.key();
        let last = self.places.epochs(&key).unwrap_or_default().into_iter().max().unwrap_or(0);
        let (lost, new) = (self.state.epoch, self.state.epoch.max(last) + 1);
        let map = crate::tracker::make_bitmap(&self.places, &key, new, self.word_count())?;
        let mut state = self.state.clone();
        let why = format!("the running bitmap (epoch {lost}) was not where it was left");
        state.sealed.push(Sealed { epoch: lost, suspect: vec![why] });
        state.epoch = new;
        // said before it is put right: killed in between, it would look like a cut that only lacks its seal
        state.write(&self.places)?;
        self.state = state;
        self.maps.switch_bitmap(self.state.slot, &map)?;
        self.carry_in_flight(&Words::map(bpf::fd(map.fd()), self.word_count())?)?;
        let pinned = self.places.epochs(&key)?;
        self.adopt_strays(&pinned)
    }
}
