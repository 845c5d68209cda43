//! Pictures as inline SVG: points over time with their sizes, and what changed where. Each has its numbers as text too.

use super::html::escaped;
use crate::block::{Extent, heat};
use crate::config::words::{bytes, time};
use crate::daemon::report::{Report, STRIPES};
use std::fmt::Write;

const WIDTH: u64 = 960;
const HEIGHT: u64 = 120;

/// Points that are shown.
const MOST: usize = 64;

fn newest<'a, 'b>(runs: &'b [&'a Report]) -> &'b [&'a Report] {
    &runs[runs.len().saturating_sub(MOST)..]
}

/// A bar for each point; its height is the size, by its logarithm. Full ones are darker, suspect ones have a border.
pub(super) fn timeline(runs: &[&Report]) -> String {
    let runs = newest(runs);
    let most = runs.iter().map(|run| run.stored_bytes).max().unwrap_or(0).max(1);
    let sum: u64 = runs.iter().map(|run| run.stored_bytes).sum();
    let mut svg = format!(
        "<svg viewBox=\"0 0 {WIDTH} {}\" role=\"img\" aria-label=\"{} points, {} stored, the largest {}\">",
        HEIGHT,
        runs.len(),
        bytes(sum),
        bytes(most)
    );
    let step = WIDTH as f64 / runs.len().max(1) as f64;
    for (n, run) in runs.iter().enumerate() {
        let high = heat::strength(run.stored_bytes, most) * HEIGHT as f64;
        let (high, wide) = (high.max(2.0), (step - 2.0).clamp(1.0, 40.0));
        let class = if run.kind == "full" { "full" } else { "part" };
        let doubt = if run.suspect.is_empty() { "" } else { " doubt" };
        let _ = write!(
            svg,
            "<rect class=\"{class}{doubt}\" x=\"{:.1}\" y=\"{:.1}\" width=\"{wide:.1}\" height=\"{high:.1}\">\
             <title>{} {} {} UTC: {} stored, {} changed{}</title></rect>",
            n as f64 * step,
            HEIGHT as f64 - high,
            escaped(&run.kind),
            escaped(run.point.as_deref().unwrap_or_default()),
            time(run.began),
            bytes(run.stored_bytes),
            bytes(run.changed_bytes),
            if run.suspect.is_empty() { "" } else { ", suspect" }
        );
    }
    let when = |run: Option<&&Report>| run.map(|run| format!("{} UTC", time(run.began))).unwrap_or_default();
    let ends = ends(&when(runs.first()), &when(runs.last()));
    let fulls = runs.iter().filter(|run| run.kind == "full").count();
    format!(
        "{svg}</svg>{ends}<p class=\"soft\">The last {} points and their sizes (logarithmic; full ones, {fulls}, in the stronger colour): {} \
         stored.</p>",
        runs.len(),
        bytes(sum)
    )
}

/// A row for each point, newest below; a column for each part of the device; the more changed, the darker.
pub(super) fn heat(runs: &[&Report]) -> String {
    let runs: Vec<&Report> = newest(runs).iter().copied().filter(|run| run.kind != "full").collect();
    let runs: Vec<&Report> = runs.into_iter().filter(|run| run.stripes.len() as u64 == STRIPES).collect();
    let Some(last) = runs.last() else { return String::new() };
    let device = Extent::new(0, last.size);
    let part = heat::part_of(device, STRIPES);
    let (wide, high) = (WIDTH / STRIPES, (240 / runs.len() as u64).clamp(4, 14));
    let tall = high * runs.len() as u64;
    let mut svg = format!(
        "<svg viewBox=\"0 0 {WIDTH} {}\" role=\"img\" aria-label=\"{}\">",
        tall,
        escaped(&hottest(&runs, device))
    );
    for (row, run) in runs.iter().enumerate() {
        for (column, changed) in run.stripes.iter().enumerate().filter(|(_, changed)| **changed > 0) {
            let shade = 0.15 + 0.85 * heat::strength(*changed, part);
            let (x, y) = (column as u64 * wide, row as u64 * high);
            let _ = write!(
                svg,
                "<rect class=\"heat\" x=\"{x}\" y=\"{y}\" width=\"{wide}\" height=\"{high}\" fill-opacity=\"{shade:.2}\"/>"
            );
        }
    }
    let _ = write!(
        svg,
        "<rect class=\"frame\" x=\"0.5\" y=\"0.5\" width=\"{}\" height=\"{}\"/>",
        WIDTH - 1,
        tall - 1
    );
    let ends = ends("0", &bytes(last.size));
    format!(
        "{svg}</svg>{ends}<p class=\"soft\">What changed where: the device from left to right, one line for each of the last {} \
         increments, the newest below; the more changed, the stronger the colour. {}</p>",
        runs.len(),
        escaped(&hottest(&runs, device))
    )
}

/// In words: where most of it was.
fn hottest(runs: &[&Report], device: Extent) -> String {
    let sums: Vec<u64> =
        (0..STRIPES as usize).map(|stripe| runs.iter().map(|run| run.stripes[stripe]).sum()).collect();
    match heat::hottest(&sums, device) {
        None => "Nothing changed.".into(),
        Some((place, changed)) => {
            format!("Most, {}, between {} and {}.", bytes(changed), bytes(place.offset), bytes(place.end()))
        }
    }
}

/// What the two ends of a picture are.
fn ends(left: &str, right: &str) -> String {
    format!("<p class=\"ends\"><span>{left}</span><span>{right}</span></p>")
}
