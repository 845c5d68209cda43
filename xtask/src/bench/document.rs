//! What was found, kept in the target folder, and put into docs/BENCHMARKS.md and the README.

use crate::command::{say, text};
use crate::workspace::{Workspace, write_file};
use anyhow::{Context, Result, bail};
use serde_json::{Value, json};
use std::fmt::Write;
use std::fs;
use std::io::ErrorKind;
use std::path::PathBuf;
use std::process::Command;

/// The memory that anything may have, and what each frame may add that it has to know of.
pub const MEMORY: u64 = 100 << 20;
/// See [`MEMORY`].
pub const PER_FRAME: u64 = 24;

/// Where the README's table stands.
const MARKS: (&str, &str) =
    ("<!-- measured: written by cargo xtask bench --write -->\n", "<!-- /measured -->\n");

/// One figure of the README's table.
pub struct Headline {
    what: String,
    measured: String,
    aim: &'static str,
    met: bool,
}

impl Headline {
    /// What was measured, the figure, the aim (may be empty), and whether that was reached.
    pub fn new(what: impl Into<String>, measured: String, aim: &'static str, met: bool) -> Self {
        Self { what: what.into(), measured, aim, met }
    }

    /// A ratio that should not be above the number in `aim`.
    pub fn at_most(what: &str, ratio: f64, limit: f64, aim: &'static str) -> Self {
        Self::new(what, format!("{ratio:.2} ×"), aim, ratio <= limit)
    }

    /// A ratio that should not be below the number in `aim`.
    pub fn at_least(what: &str, ratio: f64, limit: f64, aim: &'static str) -> Self {
        Self::new(what, format!("{ratio:.2} ×"), aim, ratio >= limit)
    }

    /// The most memory a program had that dealt with so many frames.
    pub fn memory(what: &str, peak: u64, frames: u64) -> Self {
        let met = peak <= MEMORY + PER_FRAME * frames;
        Self::new(what, format!("{} MiB", peak >> 20), "≤ 100 MiB + 24 B per frame", met)
    }
}

/// What a benchmark found.
pub struct Findings {
    /// In Markdown.
    pub text: String,
    /// The figures that count.
    pub headlines: Vec<Headline>,
}

impl Headline {
    /// Its line of the table.
    fn line(&self) -> String {
        let aim = match (self.aim, self.met) {
            ("", _) => String::new(),
            (aim, true) => format!("{aim}: met"),
            (aim, false) => format!("{aim}: **missed**"),
        };
        format!("| {} | {} | {aim} |", self.what, self.measured)
    }
}

impl Findings {
    /// The figures that count, each with its aim and whether that was met.
    pub fn lines(&self) -> String {
        self.headlines.iter().map(|headline| headline.line() + "\n").collect()
    }
}

/// Keeps the findings, with when and where they were made.
pub fn keep(ws: &Workspace, name: &str, findings: &Findings, note: &str) -> Result<()> {
    let kept = json!({
        "date": text(Command::new("date").args(["-u", "+%Y-%m-%d %H:%M"]))?.trim(),
        "machine": machine()?,
        "note": note,
        "text": findings.text,
        "headlines": findings.headlines.iter().map(Headline::line).collect::<Vec<_>>(),
    });
    let path = place(ws, name);
    fs::create_dir_all(path.parent().context("folder of the results")?)
        .context("make the results' folder")?;
    write_file(&path, kept.to_string().as_bytes())
}

/// Writes the document and the README's table: what was kept, and of what was not measured here, what the document
/// says already.
pub fn write(ws: &Workspace, benchmarks: &[(&str, &str)]) -> Result<()> {
    let path = ws.root.join("docs/BENCHMARKS.md");
    let old = fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
    let mut document = String::from(HEAD);
    let mut table = String::from(TABLE);
    for (name, about) in benchmarks {
        let Some((section, figures)) = section(ws, name, about)?.or_else(|| parts(&old, name)) else {
            say(format!("no result of `cargo xtask bench {name}` yet, here or in the document: left out"));
            continue;
        };
        write!(document, "\n## {name}: {section}\n{}\n\n{TABLE}{figures}", figures_head(name))?;
        table += &figures;
    }
    write_file(&path, document.as_bytes())?;
    let readme = ws.root.join("README.md");
    let old = fs::read_to_string(&readme).context("read the README")?;
    write_file(&readme, replaced(&old, &table)?.as_bytes())
}

const TABLE: &str = "| what | measured | aim |\n|---|--:|---|\n";

fn figures_head(name: &str) -> String {
    format!("### The figures of {name} that count")
}

/// A benchmark's part of the document, after its name, and its lines of the table; `None` if nothing was kept.
fn section(ws: &Workspace, name: &str, about: &str) -> Result<Option<(String, String)>> {
    let path = place(ws, name);
    let kept = match fs::read(&path) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        other => other.with_context(|| format!("read {}", path.display()))?,
    };
    let kept: Value = serde_json::from_slice(&kept).with_context(|| format!("read {}", path.display()))?;
    let get = |key: &str| kept[key].as_str().unwrap_or_default();
    let (date, machine, text) = (get("date"), get("machine"), get("text"));
    let note = Some(get("note")).filter(|note| !note.is_empty()).map(|note| format!(" {note}"));
    let note = note.unwrap_or_default();
    let lines = kept["headlines"].as_array().into_iter().flatten().filter_map(Value::as_str);
    let figures = lines.map(|line| format!("{line}\n")).collect();
    Ok(Some((format!("{about}\n\n{date} UTC, {machine}.{note}\n\n{text}"), figures)))
}

/// The same out of the document.
fn parts(document: &str, name: &str) -> Option<(String, String)> {
    let (_, rest) = document.split_once(&format!("\n## {name}: "))?;
    let whole = rest.split("\n## ").next()?;
    let (section, figures) = whole.split_once(&format!("\n{}\n\n{TABLE}", figures_head(name)))?;
    let figures = figures.lines().filter(|line| !line.is_empty()).map(|line| format!("{line}\n")).collect();
    Some((section.to_owned(), figures))
}

const HEAD: &str = "# Benchmarks

Written by `cargo xtask bench --write`; `cargo xtask bench` lists the benchmarks, `cargo xtask bench NAME`
runs one, `cargo xtask bench repo` all of the repository's side. Unless it says otherwise everything lies in
memory (a loop device on tmpfs, files on tmpfs), so that programs and not disks are compared: what a tool
computes weighs most there. Contenders take turns in every round, and a first round does not count; the *ratio*
is to the first line of a table, taken round by round, then its median. *CPU s* is the processor time of a
contender (the loop device's own threads are not in it), *memory* the most its process ever had (VmHWM). A
*limit* is what the machine does with nothing of a backup in it, measured in the same rounds.
";

/// `text` with the table between its marks.
fn replaced(text: &str, table: &str) -> Result<String> {
    let parts =
        text.split_once(MARKS.0).and_then(|(before, rest)| Some((before, rest.split_once(MARKS.1)?.1)));
    let Some((before, after)) = parts else { bail!("the README has no place for the figures: {}", MARKS.0) };
    Ok([before, MARKS.0, table, MARKS.1, after].concat())
}

fn place(ws: &Workspace, name: &str) -> PathBuf {
    ws.target.join("bench").join(format!("{name}.json"))
}

/// Kernel, processors, memory, and whether all this is real.
fn machine() -> Result<String> {
    let kernel = text(Command::new("uname").arg("-r"))?;
    let cpu = fs::read_to_string("/proc/cpuinfo").context("read about the processor")?;
    let model = cpu.lines().find_map(|l| l.strip_prefix("model name")).unwrap_or(": unknown processor");
    let count = cpu.lines().filter(|line| line.starts_with("processor")).count();
    let guest = cpu.lines().any(|l| l.starts_with("flags") && l.split(' ').any(|flag| flag == "hypervisor"));
    let place = if guest { " of a virtual machine" } else { "" };
    let load = fs::read_to_string("/proc/loadavg").context("read the load")?;
    let load = load.split(' ').next().unwrap_or("?");
    let model = model.trim_start_matches([':', ' ', '\t']);
    Ok(format!("Linux {}, {count} processors{place} ({model}), load {load} at the end", kernel.trim()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_not_measured_again_stays() {
        let part = |name: &str, figures: &str| {
            format!("\n## {name}: about\n\ntext of {name}\n\n{}\n\n{TABLE}{figures}", figures_head(name))
        };
        let document =
            format!("# Head\n{}{}", part("a", "| x | 1 | |\n| y | 2 | |\n"), part("b", "| z | 3 | |\n"));
        let found = |name: &str| parts(&document, name);
        assert_eq!(found("a").unwrap(), ("about\n\ntext of a\n".into(), "| x | 1 | |\n| y | 2 | |\n".into()));
        assert_eq!(found("b").unwrap(), ("about\n\ntext of b\n".into(), "| z | 3 | |\n".into()));
        assert_eq!(found("c"), None);
    }

    #[test]
    fn the_table_is_replaced_between_its_marks() {
        let text = format!("a\n{}old\n{}b\n", MARKS.0, MARKS.1);
        assert_eq!(replaced(&text, "new\n").unwrap(), format!("a\n{}new\n{}b\n", MARKS.0, MARKS.1));
        assert!(replaced("nothing", "new").is_err());
    }
}
