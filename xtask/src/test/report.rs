//! What a person reads of a test run: a line per suite test while it runs, one table at the end.

use super::one::{Outcome, Verdict};
use std::collections::BTreeMap;
use std::fmt::Write;
use std::time::Duration;

/// One line for a test that ended; those that run by the hundred are only shown when they fail.
pub fn line(outcome: &Outcome, always: bool) {
    let seconds = outcome.took.as_secs_f64();
    match &outcome.verdict {
        Verdict::Passed if always => println!("ok      {seconds:7.1} s  {}", outcome.title),
        Verdict::Passed => {}
        Verdict::Skipped(reason) => println!("SKIPPED {seconds:7.1} s  {}: {reason}", outcome.title),
        Verdict::Failed(said) => println!("FAILED  {seconds:7.1} s  {}\n{}", outcome.title, indented(said)),
    }
}

fn indented(said: &str) -> String {
    said.lines().fold(String::new(), |mut text, line| {
        // writing to a String cannot fail
        let _ = writeln!(text, "    {line}");
        text
    })
}

#[derive(Default)]
struct Row {
    passed: usize,
    failed: usize,
    skipped: usize,
    took: Duration,
}

/// The table, then what was skipped and what failed.
pub fn show(outcomes: &[Outcome]) {
    print!("{}", table(outcomes));
}

fn table(outcomes: &[Outcome]) -> String {
    let mut rows: BTreeMap<&str, Row> = BTreeMap::new();
    let mut total = Row::default();
    for outcome in outcomes {
        let suite = outcome.title.split("::").next().unwrap_or(&outcome.title);
        rows.entry(suite).or_default().add(outcome);
        total.add(outcome);
    }
    let width = rows.keys().map(|suite| suite.len()).max().unwrap_or(0).max(5);
    let mut text = format!("\n{:width$}  passed  failed  skipped     time\n", "suite");
    for (suite, row) in rows.iter().map(|(suite, row)| (*suite, row)).chain([("total", &total)]) {
        let seconds = row.took.as_secs_f64();
        let _ = writeln!(
            text,
            "{suite:width$}  {:6}  {:6}  {:7}  {seconds:5.1} s",
            row.passed, row.failed, row.skipped
        );
    }
    section(&mut text, "skipped", skipped(outcomes));
    section(&mut text, "parts skipped in tests that ran", parts(outcomes));
    section(&mut text, "failed", failed(outcomes));
    text
}

impl Row {
    fn add(&mut self, outcome: &Outcome) {
        match outcome.verdict {
            Verdict::Passed => self.passed += 1,
            Verdict::Failed(_) => self.failed += 1,
            Verdict::Skipped(_) => self.skipped += 1,
        }
        self.took += outcome.took;
    }
}

fn section(text: &mut String, title: &str, lines: Vec<String>) {
    if !lines.is_empty() {
        let _ = writeln!(text, "\n{title}:\n  {}", lines.join("\n  "));
    }
}

/// Skipped tests by reason: the same reason stands once.
fn skipped(outcomes: &[Outcome]) -> Vec<String> {
    let mut reasons: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for outcome in outcomes {
        if let Verdict::Skipped(reason) = &outcome.verdict {
            reasons.entry(reason).or_default().push(&outcome.title);
        }
    }
    reasons.iter().map(|(reason, titles)| format!("{reason}: {}", titles.join(", "))).collect()
}

fn parts(outcomes: &[Outcome]) -> Vec<String> {
    let with_title =
        |o: &Outcome| o.parts.iter().map(|part| format!("{}: {part}", o.title)).collect::<Vec<_>>();
    outcomes.iter().flat_map(with_title).collect()
}

fn failed(outcomes: &[Outcome]) -> Vec<String> {
    let failed = outcomes.iter().filter(|outcome| matches!(outcome.verdict, Verdict::Failed(_)));
    failed.map(|outcome| outcome.title.clone()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn skipped_is_not_passed_and_has_its_reason() {
        let outcome = |title: &str, verdict| Outcome {
            title: title.into(),
            verdict,
            took: Duration::from_secs(1),
            parts: vec![],
        };
        let text = table(&[
            outcome("a::one", Verdict::Passed),
            outcome("a::two", Verdict::Skipped("not root".into())),
            outcome("b::three", Verdict::Skipped("not root".into())),
            outcome("b::four", Verdict::Failed("no".into())),
        ]);
        assert!(text.contains("total       1       1        2    4.0 s"), "{text}");
        assert!(text.contains("not root: a::two, b::three"), "{text}");
        assert!(text.contains("failed:\n  b::four"), "{text}");
    }
}
