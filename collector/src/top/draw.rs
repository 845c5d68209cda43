//! The model on cells: what fits, the most important first. Pure.

use super::heatmap::{self, Looks};
use super::keys;
use super::model::{Device, Model};
use super::words;
use ratatui::buffer::Buffer;
use ratatui::layout::Rect;
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::Line;

/// Lines of the heat map that are always left to it.
const MAP: usize = 4;

/// Lines of the heat map in text.
const MAP_IN_TEXT: usize = 3;

/// Draws everything into `area`.
pub fn draw(model: &Model, area: Rect, buffer: &mut Buffer) {
    let mut pen = Pen { area, at: 0, buffer, plain: model.plain };
    pen.write(Line::from(words::header(model)).style(Modifier::REVERSED));
    let room = usize::from(area.height).saturating_sub(2);
    match model.current() {
        _ if model.help => help(&mut pen),
        None => nothing(&mut pen),
        Some(device) => overview(model, device, room, &mut pen),
    }
    pen.at = area.height.saturating_sub(1);
    pen.write(Line::from(keys::LINE).style(Modifier::DIM));
}

fn help(pen: &mut Pen<'_>) {
    for (keys, deed) in keys::KEYS {
        pen.write(Line::from(format!("{keys:<16} {deed}")));
    }
    pen.write(Line::from("sealed: epochs that wait for their point; * a process holds the device"));
    pen.write(Line::from(
        "every line of the map is one look; > is the newest; list: what a backup would copy",
    ));
}

fn nothing(pen: &mut Pen<'_>) {
    pen.write(Line::from("nothing is tracked"));
    pen.write(Line::from("try: blkdelta track /dev/sda"));
}

fn overview(model: &Model, device: &Device, room: usize, pen: &mut Pen<'_>) {
    let width = pen.width();
    let (heading, rows) = words::table(model, width);
    let heading = (room >= 12).then_some(heading);
    let shown = rows.len().min((room / 4).max(1));
    let first = (model.selected + 1).saturating_sub(shown);
    let table = shown + usize::from(heading.is_some());
    let mut details = details(model, device, width);
    let for_details = room.saturating_sub(table + MAP).min(details.len());
    if for_details < details.len() && for_details > 0 {
        let left_out = details.len() - for_details + 1;
        details.truncate(for_details - 1);
        details.push((format!("... {left_out} more lines in a taller window"), false));
    }
    pen.all(heading.map(|text| (text, false)));
    pen.all(rows.into_iter().skip(first).take(shown));
    let height = room.saturating_sub(table + for_details);
    for line in heatmap::lines(device, pen.looks(model, height)) {
        pen.write(line);
    }
    pen.all(details.into_iter().take(for_details));
}

fn details(model: &Model, device: &Device, width: usize) -> Vec<words::Said> {
    let all = words::details(model, device).into_iter();
    all.flat_map(|(text, bad)| words::wrapped(&text, width).into_iter().map(move |line| (line, bad)))
        .collect()
}

/// Everything about every device as plain text, as many lines as it takes.
pub fn text(model: &mut Model, columns: u16) -> String {
    model.plain = true;
    let width = usize::from(columns);
    let (heading, rows) = words::table(model, width);
    let mut lines = vec![words::header(model)];
    if model.devices.is_empty() {
        lines.push("nothing is tracked".into());
    } else {
        lines.push(heading);
        lines.extend(rows.into_iter().map(|(row, _)| row));
    }
    for device in &model.devices {
        let looks = Looks { width, height: MAP_IN_TEXT, digits: model.digits, plain: true };
        lines.push(String::new());
        lines.extend(heatmap::lines(device, looks).iter().map(ToString::to_string));
        lines.extend(details(model, device, width).into_iter().map(|(line, _)| line));
    }
    let clean = |line: &str| line.chars().filter(|c| !c.is_control()).collect::<String>();
    lines.iter().map(|line| clean(line).trim_end().to_owned() + "\n").collect()
}

/// Writes line after line, what fits.
struct Pen<'a> {
    area: Rect,
    at: u16,
    buffer: &'a mut Buffer,
    plain: bool,
}

impl Pen<'_> {
    fn width(&self) -> usize {
        usize::from(self.area.width)
    }

    fn looks(&self, model: &Model, height: usize) -> Looks {
        Looks { width: self.width(), height, digits: model.digits, plain: model.plain }
    }

    fn write(&mut self, line: Line<'_>) {
        if self.at < self.area.height {
            self.buffer.set_line(self.area.x, self.area.y + self.at, &line, self.area.width);
            self.at += 1;
        }
    }

    /// What is wrong is bold, and yellow where there are colours; the words say it too.
    fn all(&mut self, lines: impl IntoIterator<Item = words::Said>) {
        for (text, bad) in lines {
            let style = match (bad, self.plain) {
                (false, _) => Style::new(),
                (true, true) => Style::new().add_modifier(Modifier::BOLD),
                (true, false) => Style::new().fg(Color::Yellow).add_modifier(Modifier::BOLD),
            };
            self.write(Line::from(text).style(style));
        }
    }
}
