//! The heat map of one device: a line for what is on the list, a line for each of the last looks. One column is one part
//! of the window; the more changed there, the denser the glyph. How much it was stands behind each line as a number.
//!
//! A look keeps its line until the map is full; then the next one overwrites the oldest. So one line changes at a look, and
//! a slow terminal gets only that.

use super::model::{Device, Row};
use crate::block::{Extent, heat};
use crate::config::words::{bytes, time};
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::{Line, Span};

/// From little to much; also for who sees no colours.
const GLYPHS: [char; 9] = ['.', ':', '-', '=', '+', '*', '#', '%', '@'];
/// The same as numbers.
const DIGITS: [char; 9] = ['1', '2', '3', '4', '5', '6', '7', '8', '9'];

/// Columns behind the map.
const AMOUNT: usize = 11;

/// How it is drawn.
#[derive(Clone, Copy, Debug)]
pub struct Looks {
    /// Columns.
    pub width: usize,
    /// Lines, with the two that say what it is.
    pub height: usize,
    /// Digits instead of glyphs.
    pub digits: bool,
    /// No colours.
    pub plain: bool,
}

impl Looks {
    /// Columns before the map: the time of a look, if there is room.
    const fn label(self) -> usize {
        if self.width >= 60 { 10 } else { 2 }
    }

    /// Columns of the map itself.
    fn columns(self) -> u64 {
        (self.width.saturating_sub(self.label() + AMOUNT + 2)).max(1) as u64
    }

    /// The glyph of a column, and how it looks.
    fn cell(self, value: u64, part: u64) -> (char, Style) {
        if value == 0 {
            return (' ', Style::new());
        }
        let level = (heat::strength(value, part) * GLYPHS.len() as f64).ceil() as usize;
        let level = level.clamp(1, GLYPHS.len());
        let glyph = if self.digits { DIGITS[level - 1] } else { GLYPHS[level - 1] };
        // blue, cyan, yellow: they grow brighter, and who cannot tell red from green can tell them
        let colour = match level {
            1..=3 => Color::Blue,
            4..=6 => Color::Cyan,
            _ => Color::Yellow,
        };
        let style = if self.plain { Style::new() } else { Style::new().fg(colour) };
        (glyph, if level > 6 { style.add_modifier(Modifier::BOLD) } else { style })
    }
}

/// Its lines.
pub fn lines(device: &Device, looks: Looks) -> Vec<Line<'static>> {
    let window = device.window;
    let part = heat::part_of(window, looks.columns());
    let from = if window.length == device.now.size { String::new() } else { zoomed(window) };
    let scale = if looks.digits { "1 little to 9 all" } else { ". little to @ all" };
    let title = format!("{}: one column is {}{from}; {scale}", device.now.path, bytes(part));
    let mut lines = vec![Line::from(title).style(Modifier::UNDERLINED)];
    let list: Vec<(Extent, u64)> = device.now.list.iter().map(|e| (*e, e.length)).collect();
    lines.push(line("list", ' ', &list, window, looks));
    let room = looks.height.saturating_sub(lines.len());
    lines.extend((0..room).map(|place| match newest_at(device, place, room) {
        Some((row, newest)) => {
            let time = time(row.at_ms);
            let label = time.rsplit(' ').next().unwrap_or_default();
            line(label, if newest { '>' } else { ' ' }, &row.pieces, window, looks)
        }
        None => Line::default(),
    }));
    lines
}

fn zoomed(window: Extent) -> String {
    format!(", {} to {}", bytes(window.offset), bytes(window.end()))
}

/// The newest look whose line this is, and whether it is the newest of all.
fn newest_at(device: &Device, place: usize, room: usize) -> Option<(&Row, bool)> {
    let last = device.rows.back()?.number;
    let own = |row: &&Row| row.number % room as u64 == place as u64 && row.number + room as u64 > last;
    device.rows.iter().rev().find(own).map(|row| (row, row.number == last))
}

fn line(label: &str, mark: char, pieces: &[(Extent, u64)], window: Extent, looks: Looks) -> Line<'static> {
    let sums = heat::parts(pieces.iter().copied(), window, looks.columns());
    let part = heat::part_of(window, looks.columns());
    let width = looks.label() - 1;
    let label = if width > 1 { format!("{label:>width$}") } else { " ".into() };
    let mut spans = vec![Span::from(format!("{label}{mark}|"))];
    for sum in &sums {
        let (glyph, style) = looks.cell(*sum, part);
        match spans.last_mut().filter(|span| span.style == style) {
            Some(span) => span.content.to_mut().push(glyph),
            None => spans.push(Span::styled(glyph.to_string(), style)),
        }
    }
    let amount = match sums.iter().sum() {
        0 => "-".into(),
        sum => bytes(sum),
    };
    spans.push(Span::from(format!("|{amount:>AMOUNT$}")));
    Line::from(spans)
}
