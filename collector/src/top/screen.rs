//! The terminal: taken over, drawn on, given back.
//!
//! What must stay true: whatever ends us (a key, an error, a panic, SIGTERM, SIGINT, SIGHUP), the terminal is as it was; a
//! terminal that takes nothing more cannot keep us: a second signal ends the process.

use super::draw::draw;
use super::eyes::Eyes;
use super::keys::{Deed, press};
use super::model::Model;
use crate::error::{Context, Error, Kind, Result};
use crate::sys::failpoint;
use crossterm::event::{self, Event, KeyEventKind};
use ratatui::DefaultTerminal;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use std::io::IsTerminal;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// A signal is noticed after so long at most.
const TURN: Duration = Duration::from_millis(100);

/// Is there a terminal to draw on, and to read keys from?
///
/// # Errors
/// [`Kind::Usage`] if not, with what to use instead.
pub fn ensure_terminal() -> Result<()> {
    let dumb = std::env::var_os("TERM").is_none_or(|term| term == "dumb" || term.is_empty());
    if std::io::stdout().is_terminal() && std::io::stdin().is_terminal() && !dumb {
        return Ok(());
    }
    Err(Error::new(Kind::Usage, "top draws on a terminal, and there is none")
        .hint("`blkdelta top --once` prints one frame as text, `blkdelta status --json` is for programs"))
}

/// Shows `model` until told to stop.
///
/// # Errors
/// If the terminal or the tracking state cannot be read or written.
pub fn run(eyes: Eyes, mut model: Model) -> Result<()> {
    let stop = stop_signals()?;
    model.plain = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    let _quiet = Quiet::begin();
    let mut screen = Screen::take_over()?;
    screen.turns(eyes, &mut model, &stop)
}

/// No log while it lives: records on standard error would stand in the picture.
struct Quiet(log::LevelFilter);

impl Quiet {
    fn begin() -> Self {
        let before = log::max_level();
        log::set_max_level(log::LevelFilter::Off);
        Self(before)
    }
}

impl Drop for Quiet {
    fn drop(&mut self) {
        log::set_max_level(self.0);
    }
}

/// The first signal asks, the second ends the process.
fn stop_signals() -> Result<Arc<AtomicBool>> {
    let what = || "listen for signals".to_owned();
    let stop = Arc::new(AtomicBool::new(false));
    for signal in [SIGTERM, SIGINT, SIGHUP] {
        signal_hook::flag::register_conditional_shutdown(signal, 1, Arc::clone(&stop)).os_context(what)?;
        signal_hook::flag::register(signal, Arc::clone(&stop)).os_context(what)?;
    }
    Ok(stop)
}

/// The terminal while it is ours.
struct Screen {
    terminal: DefaultTerminal,
}

impl Screen {
    /// Raw mode, the other screen, and a panic hook that gives them back before it says anything.
    fn take_over() -> Result<Self> {
        let terminal = ratatui::try_init().map_err(|error| {
            // half of it may be done
            let _ = ratatui::try_restore();
            failed(error)
        })?;
        Ok(Self { terminal })
    }

    fn turns(&mut self, mut eyes: Eyes, model: &mut Model, stop: &AtomicBool) -> Result<()> {
        let mut last: Option<Instant> = None;
        while !stop.load(Ordering::Relaxed) {
            let due = last.map_or(Duration::ZERO, |at| model.interval.saturating_sub(at.elapsed()));
            let mut changed = false;
            if due.is_zero() && (!model.paused || last.is_none()) {
                let elapsed = last.map_or(Duration::ZERO, |at| at.elapsed());
                last = Some(Instant::now());
                model.take(eyes.look()?, elapsed);
                changed = true;
            }
            if changed {
                self.show(model)?;
                continue;
            }
            let wait = if model.paused { TURN } else { due.min(TURN) };
            match self.key(model, wait)? {
                Some(Deed::Quit) => return Ok(()),
                Some(Deed::Redraw) => self.terminal.clear().map_err(failed)?,
                Some(Deed::Draw) => {}
                None => continue,
            }
            self.show(model)?;
        }
        Ok(())
    }

    /// What a key pressed within this time wants, or another size of the window.
    fn key(&mut self, model: &mut Model, wait: Duration) -> Result<Option<Deed>> {
        if !event::poll(wait).map_err(failed)? {
            return Ok(None);
        }
        Ok(match event::read().map_err(failed)? {
            Event::Key(key) if key.kind != KeyEventKind::Release => Some(press(model, key)),
            Event::Resize(..) => Some(Deed::Draw),
            _ => None,
        })
    }

    fn show(&mut self, model: &Model) -> Result<()> {
        failpoint("top.draw")?;
        assert!(failpoint("top.panic").is_ok(), "a panic on purpose");
        self.terminal.draw(|frame| draw(model, frame.area(), frame.buffer_mut())).map_err(failed)?;
        Ok(())
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        let _ = self.terminal.show_cursor();
        let _ = ratatui::try_restore();
    }
}

fn failed(error: std::io::Error) -> Error {
    Error::os("use the terminal", error)
}
