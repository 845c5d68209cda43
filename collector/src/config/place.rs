//! Where in the file something stands: its line, and the key by its full name.

use std::ops::Range;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

/// What is wrong at a place of the file.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Problem {
    /// Line, from 1; `None` if it is about the whole file.
    pub line: Option<usize>,
    /// The key, as `job.db.every`.
    pub key: String,
    /// What is wrong.
    pub what: String,
    /// What to do.
    pub hint: String,
}

impl std::fmt::Display for Problem {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if let Some(line) = self.line {
            write!(f, "line {line}: ")?;
        }
        if !self.key.is_empty() {
            write!(f, "{}: ", self.key)?;
        }
        f.write_str(&self.what)
    }
}

/// The file's text and what stands where in it.
pub(super) struct Places<'a> {
    text: &'a str,
    tree: Option<Spanned<DeTable<'a>>>,
}

impl<'a> Places<'a> {
    pub(super) fn of(text: &'a str) -> Self {
        Self { text, tree: DeTable::parse(text).ok() }
    }

    fn line(&self, at: usize) -> usize {
        let end = at.min(self.text.len());
        self.text.as_bytes()[..end].iter().filter(|b| **b == b'\n').count() + 1
    }

    /// The place of a key, or of the innermost table on the way to it that is there.
    pub(super) fn line_of(&self, key: &[&str]) -> Option<usize> {
        let mut table = self.tree.as_ref()?.get_ref();
        let mut found = None;
        for name in key {
            let Some((key, value)) = table.iter().find(|(key, _)| key.get_ref() == name) else { break };
            found = Some(key.span().start);
            let DeValue::Table(inside) = value.get_ref() else { break };
            table = inside;
        }
        found.map(|at| self.line(at))
    }

    /// The problem that reading the file ended with.
    pub(super) fn of_error(&self, error: &toml::de::Error) -> Problem {
        let span = error.span();
        let key = match (&span, &self.tree) {
            (Some(span), Some(tree)) => deepest(tree.get_ref(), span),
            _ => Vec::new(),
        };
        let hint = match self.tree {
            None => "this is not TOML: `key = \"value\"` lines under `[table.NAME]` lines",
            Some(_) => "docs/CONFIG.md has every key and what it may be",
        };
        let line = span.map(|span| self.line(span.start));
        Problem {
            line,
            key: key.join("."),
            what: error.message().trim().replace('\n', " "),
            hint: hint.into(),
        }
    }
}

/// Names on the way to the innermost thing that holds a place.
fn deepest(table: &DeTable<'_>, place: &Range<usize>) -> Vec<String> {
    for (key, value) in table {
        let name = key.get_ref().to_string();
        let within = |span: Range<usize>| span.start <= place.start && place.end <= span.end;
        let below = match value.get_ref() {
            DeValue::Table(inside) => deepest(inside, place),
            _ => Vec::new(),
        };
        if !below.is_empty() || within(key.span()) || within(value.span()) {
            return std::iter::once(name).chain(below).collect();
        }
    }
    Vec::new()
}
