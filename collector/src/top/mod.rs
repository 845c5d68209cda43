//! A terminal view of what is tracked: which areas change, how fast, cuts, last backups, health, what tracking costs.
//!
//! ```text
//!   eyes (kernel, state files) ──▶ Snapshot ──▶ Model (pure: rates, rows of heat, window) ──▶ draw (pure: cells)
//!                                    keys ────────▶                                           screen: the terminal
//! ```
//!
//! What must stay true: looking changes nothing that a backup depends on, takes no lock that one needs, and stops no
//! write; what is not known is called unknown, what was lost is counted; nothing is told by colour alone; the terminal
//! is as it was on every way out.

mod draw;
mod eyes;
mod heatmap;
mod keys;
mod model;
mod screen;
mod snapshot;
#[cfg(test)]
mod tests;
mod words;

use crate::error::Result;
use crate::tracker::Places;
use eyes::Eyes;
use model::Model;
use std::path::PathBuf;
use std::time::Duration;

/// What is wished for.
#[derive(Clone, Debug)]
pub struct Wishes {
    /// Only these; empty: all that are tracked, also later.
    pub devices: Vec<PathBuf>,
    /// Between two looks.
    pub interval: Duration,
    /// No events from the kernel, and its statistics as they are: looking then costs writers nothing.
    pub light: bool,
}

/// One frame as text.
#[derive(Clone, Debug)]
pub struct Frame {
    /// The lines.
    pub text: String,
    /// What could not be seen, and why.
    pub notes: Vec<String>,
    /// A device is suspect.
    pub suspect: bool,
}

/// Looks twice, an interval apart, and draws one frame so many columns wide, as long as it has to be.
///
/// # Errors
/// If a device that was named is not tracked, or the states cannot be read.
pub fn once(places: &Places, wishes: &Wishes, columns: u16) -> Result<Frame> {
    let mut eyes = Eyes::open(places, wishes)?;
    let mut model = Model::new(wishes.interval);
    model.take(eyes.look()?, Duration::ZERO);
    let begun = std::time::Instant::now();
    std::thread::sleep(wishes.interval);
    model.take(eyes.look()?, begun.elapsed());
    let suspect = model.is_suspect();
    Ok(Frame { text: draw::text(&mut model, columns), notes: model.notes().to_vec(), suspect })
}

/// Shows it on the terminal until told to stop.
///
/// # Errors
/// [`crate::error::Kind::Usage`] without a terminal; as [`once`]; if the terminal fails.
pub fn watch(places: &Places, wishes: &Wishes) -> Result<()> {
    screen::ensure_terminal()?;
    let eyes = Eyes::open(places, wishes)?;
    screen::run(eyes, Model::new(wishes.interval))
}
