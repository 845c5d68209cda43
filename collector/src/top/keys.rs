//! Which key does what.

use super::model::Model;
use crossterm::event::{KeyCode, KeyEvent, KeyModifiers};

/// What is to be done besides drawing again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Deed {
    /// Nothing.
    Draw,
    /// Every cell anew: something else wrote on the terminal.
    Redraw,
    /// The end.
    Quit,
}

/// Each key and what it does, for the page of help.
pub const KEYS: [(&str, &str); 10] = [
    ("q, Esc, Ctrl-C", "quit"),
    ("Tab, j, down", "next device; k, up: the one before"),
    ("+, -", "zoom in on a quarter of what is shown, or out"),
    ("left, right", "show what lies half a window further"),
    ("m", "move the window to where most changes"),
    ("0", "show all of the device"),
    ("s, f", "look half as often (slower), twice as often (faster)"),
    ("p, space", "pause; again: go on"),
    ("n", "digits instead of glyphs"),
    ("Ctrl-L", "draw everything again"),
];

/// The keys in one line, the most needed first.
pub const LINE: &str = "q quit  ? help  p pause  Tab device  +/- zoom  s/f slower/faster  m most  n digits";

/// Does what a key says.
pub fn press(model: &mut Model, key: KeyEvent) -> Deed {
    if key.modifiers.contains(KeyModifiers::CONTROL) {
        return match key.code {
            KeyCode::Char('c' | 'd') => Deed::Quit,
            KeyCode::Char('l') => Deed::Redraw,
            _ => Deed::Draw,
        };
    }
    let was_help = std::mem::take(&mut model.help);
    match key.code {
        KeyCode::Char('q') => return Deed::Quit,
        KeyCode::Esc if !was_help => return Deed::Quit,
        KeyCode::Char('?' | 'h') => model.help = !was_help,
        KeyCode::Char('p' | ' ') => model.paused = !model.paused,
        KeyCode::Char('n') => model.digits = !model.digits,
        KeyCode::Char('s') => model.pace(false),
        KeyCode::Char('f') => model.pace(true),
        KeyCode::Char('+' | '=') => model.zoom(true),
        KeyCode::Char('-') => model.zoom(false),
        KeyCode::Char('0') => model.whole(),
        KeyCode::Char('m') => model.most(),
        KeyCode::Left => model.shift(false),
        KeyCode::Right => model.shift(true),
        KeyCode::Tab | KeyCode::Down | KeyCode::Char('j') => model.step(true),
        KeyCode::BackTab | KeyCode::Up | KeyCode::Char('k') => model.step(false),
        _ => {}
    }
    Deed::Draw
}
