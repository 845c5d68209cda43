//! What is said about a device and about tracking, in words.

use super::model::{Cost, Device, Model, Rate};
use super::snapshot::{Backup, Cuts};
use crate::config::words::{bytes, duration, time};
use crate::diff::Health;
use std::time::Duration;

/// Backups that are shown.
const BACKUPS: usize = 3;

/// A line, and whether it is something that is wrong.
pub type Said = (String, bool);

/// The first line.
pub fn header(model: &Model) -> String {
    let clock = if model.now_ms == 0 { String::new() } else { time_of_day(model.now_ms) + " UTC  " };
    let count = model.devices.len();
    let which = if count > 1 { format!("  device {} of {count}", model.selected + 1) } else { String::new() };
    let paused = if model.paused { "  PAUSED" } else { "" };
    format!("blkdelta top  {clock}every {}{which}{paused}", duration(model.interval))
}

fn time_of_day(at_ms: u64) -> String {
    time(at_ms).rsplit(' ').next().unwrap_or_default().to_owned()
}

fn a_second(n: f64) -> String {
    format!("{}/s", bytes(n as u64))
}

fn number(n: f64) -> String {
    if n < 10.0 { format!("{n:.1}") } else { format!("{n:.0}") }
}

/// The table of devices: a heading and a line for each.
pub fn table(model: &Model, width: usize) -> (String, Vec<Said>) {
    let wide = width >= 64;
    let name = width.saturating_sub(if wide { 63 } else { 30 }).max(6);
    let row = |mark: char, path: &str, cells: [&str; 6]| {
        let [size, changed, written, writes, sealed, health] = cells;
        let path = end_of(path, name);
        if wide {
            format!(
                "{mark}{path:<name$} {size:>10} {changed:>10} {written:>12} {writes:>8} {sealed:>6} {health:<9}"
            )
        } else {
            format!("{mark}{path:<name$} {changed:>10} {writes:>8} {health:<8}")
        }
    };
    let heading = row(' ', "device", ["size", "changed", "written", "writes", "sealed", "health"]);
    let lines = model.devices.iter().enumerate().map(|(n, device)| {
        let now = &device.now;
        let at_work = if now.cuts.holder.is_some() { "*" } else { "" };
        let rate = device.rate;
        let bad = now.health == Health::Suspect;
        let cells = [
            bytes(now.size),
            bytes(now.list.total()),
            rate.map_or_else(|| "-".into(), |r| a_second(r.bytes)),
            rate.map_or_else(|| "-".into(), |r| format!("{}/s", number(r.writes))),
            format!("{}{at_work}", now.cuts.sealed.len()),
            now.health.words().split(' ').next().unwrap_or_default().to_owned(),
        ];
        (
            row(if n == model.selected { '>' } else { ' ' }, &now.path, cells.each_ref().map(String::as_str)),
            bad,
        )
    });
    (heading, lines.collect())
}

/// The end of a path, which tells it from others.
fn end_of(path: &str, width: usize) -> String {
    let count = path.chars().count();
    if count <= width {
        return path.to_owned();
    }
    let tail: String = path.chars().skip(count + 1 - width).collect();
    format!("~{tail}")
}

/// Everything about one device, and about tracking, the most important first.
pub fn details(model: &Model, device: &Device) -> Vec<Said> {
    let now = &device.now;
    let mut lines: Vec<Said> = Vec::new();
    let health = now.health.words();
    if now.suspect.is_empty() {
        lines.push((format!("health: {health}"), false));
    }
    for reason in &now.suspect {
        lines.push((format!("health: {health}: {reason}"), true));
    }
    if model.lost > 0 {
        lines.push((
            format!("events: {} LOST, the ring buffer was full; the list has them all", model.lost),
            true,
        ));
    }
    lines.push((cuts(&now.cuts), now.cuts.sealed.iter().any(|(_, doubts)| *doubts > 0)));
    lines.extend(backups(&now.backups));
    lines.push((changed(device), false));
    lines.push((cost(model), false));
    match &model.no_events {
        Some(why) => lines.push((format!("events: none ({why}); places are what the list gained"), false)),
        None if model.lost == 0 => lines.push(("events: every write, none lost".into(), false)),
        None => {}
    }
    if let Some((place, most)) = device.hottest() {
        let (from, to) = (bytes(place.offset), bytes(place.end()));
        lines.push((format!("most: {} between {from} and {to}", bytes(most)), false));
    }
    lines
}

fn changed(device: &Device) -> String {
    let (now, list) = (&device.now, device.now.list.total());
    let share = 100.0 * list as f64 / now.size.max(1) as f64;
    let since = time(now.since_ms);
    let Rate { writes, bytes: written, gained, of_disk } = device.rate.unwrap_or_default();
    let whose = if of_disk { " (of its whole disk)" } else { "" };
    let writes = match device.rate {
        Some(_) => {
            format!("; {} writes/s, {}{whose}; list +{}", number(writes), a_second(written), a_second(gained))
        }
        None => String::new(),
    };
    format!("changed: {}, {share:.1} % since {since}{writes}", bytes(list))
}

fn cuts(cuts: &Cuts) -> String {
    let since = cuts.began_ms.map(|at| format!(" since {}", time(at))).unwrap_or_default();
    let mut text = format!("cuts: epoch {} runs{since}", cuts.epoch);
    match cuts.sealed.as_slice() {
        [] => text += "; none waits for its point",
        sealed => {
            let names: Vec<String> = sealed.iter().map(|(epoch, _)| epoch.to_string()).collect();
            text += &format!("; waiting for their point: {}", names.join(", "));
            let doubtful = sealed.iter().filter(|(_, doubts)| *doubts > 0).count();
            if doubtful > 0 {
                text += &format!(" ({doubtful} SUSPECT)");
            }
        }
    }
    if cuts.ahead {
        text += "; a cut is under way or prepared";
    }
    if let Some(process) = cuts.holder {
        text += &format!("; process {process} is at work on it");
    }
    text
}

fn backups(all: &[Backup]) -> Vec<Said> {
    if all.is_empty() {
        return vec![("backups: none is known here".into(), false)];
    }
    let line = |backup: &Backup| {
        let when = if backup.at_ms == 0 { "?".into() } else { time(backup.at_ms) };
        let facts: Vec<String> = [
            Some(backup.kind.clone()),
            Some(backup.result.clone()),
            backup.stored.map(|n| format!("{} stored", bytes(n))),
            backup.took_ms.map(|ms| duration(Duration::from_millis(ms))),
            backup.why.clone(),
        ]
        .into_iter()
        .flatten()
        .filter(|fact| !fact.is_empty())
        .collect();
        let bad = matches!(backup.result.as_str(), "failed" | "suspect");
        (format!("backup: {when} {} {}", backup.what, facts.join(", ")).trim_end().to_owned(), bad)
    };
    all.iter().take(BACKUPS).map(line).collect()
}

fn cost(model: &Model) -> String {
    match &model.cost {
        Cost::NotYet => "cost: known after the next look".into(),
        Cost::Unknown(why) => format!("cost: unknown: {why}"),
        Cost::Idle => "cost: no event, no time".into(),
        Cost::Known { each, dearest: (name, most), runs, share } => format!(
            "cost: {each:.0} ns an event, {} events/s, {:.3} % of a core; dearest {name} {most:.0} ns; the counting included",
            number(*runs),
            share * 100.0
        ),
    }
}

/// A text on lines of at most so many columns; all but the first are indented.
pub fn wrapped(text: &str, width: usize) -> Vec<String> {
    const INDENT: usize = 2;
    let width = width.max(INDENT + 8);
    let mut lines: Vec<String> = Vec::new();
    let mut line = String::new();
    for word in text.split_whitespace() {
        let mut word = word.to_owned();
        let used = line.chars().count();
        if used > INDENT && used + 1 + word.chars().count() > width {
            lines.push(std::mem::replace(&mut line, " ".repeat(INDENT)));
        } else if !line.trim().is_empty() {
            line.push(' ');
        }
        // one that is longer than a line is broken
        while line.chars().count() + word.chars().count() > width {
            let room = width - line.chars().count();
            line.extend(word.chars().take(room));
            word = word.chars().skip(room).collect();
            lines.push(std::mem::replace(&mut line, " ".repeat(INDENT)));
        }
        line += &word;
    }
    lines.push(line);
    lines
}
