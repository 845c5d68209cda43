//! The rooms of `collector/src` and their order: a room uses only rooms before it.
//!
//! `crate::x` and `use crate::{x, y}` are read; code under `#[cfg(test)]` may look upward.

use super::Problem;
use super::source::{Source, matching_brace, words_of};

/// Lowest first. A new room is put in its place here, in lib.rs and in docs/ARCHITECTURE.md.
const ROOMS: [&str; 26] = [
    "error",
    "block",
    "sys",
    "seal",
    "format",
    "tracker",
    "epoch",
    "usage",
    "tree",
    "diff",
    "life",
    "source",
    "repository",
    "chain",
    "catalogue",
    "copy",
    "restore",
    "unpack",
    "job",
    "group",
    "audit",
    "config",
    "daemon",
    "top",
    "doctor",
    "cli",
];

/// The store and what reads it must work where nothing can be tracked: on any machine, for a restore.
const BLIND: [&str; 7] = ["seal", "format", "repository", "chain", "catalogue", "restore", "unpack"];
const SEEING: [&str; 4] = ["tracker", "epoch", "usage", "life"];

const FOLDER: &str = "collector/src/";

/// Upward uses in one file.
pub fn check(source: &Source, problems: &mut Vec<Problem>) {
    let Some(inside) = source.path.strip_prefix(FOLDER) else { return };
    let room = inside.split('/').next().unwrap_or(inside).trim_end_matches(".rs");
    if room == "lib" || room == "main" {
        return;
    }
    let Some(level) = level_of(room) else {
        problems.push(Problem::new(
            source,
            1,
            format!("room `{room}` has no place in the order of layers.rs"),
        ));
        return;
    };
    for (at, used) in uses(source) {
        let line = source.line_of(at);
        let Some(used_level) = level_of(used) else { continue };
        if used_level > level {
            problems.push(Problem::new(source, line, format!("`{room}` uses `{used}`, which is above it")));
        }
        if BLIND.contains(&room) && SEEING.contains(&used) {
            problems.push(Problem::new(source, line, format!("`{room}` must not know `{used}`")));
        }
    }
}

fn level_of(room: &str) -> Option<usize> {
    ROOMS.iter().position(|&known| known == room)
}

/// Rooms named by `crate::…` paths, outside of tests.
fn uses(source: &Source) -> Vec<(usize, &str)> {
    let mut found = Vec::new();
    if source.path.split('/').any(|part| part == "tests" || part == "tests.rs") {
        return found;
    }
    for at in words_of(&source.code, "crate").filter(|&at| !source.in_tests(at)) {
        let Some(rest) = source.code[at + 5..].trim_start().strip_prefix("::") else { continue };
        let rest = rest.trim_start();
        if rest.starts_with('{') {
            let inside = &rest[1..matching_brace(rest).unwrap_or(rest.len())];
            found.extend(top_level(inside).map(|name| (at, name)));
        } else {
            found.push((at, first_word(rest)));
        }
    }
    found
}

/// First names of the parts of `a::{b, c}, d` that are not inside inner braces.
fn top_level(group: &str) -> impl Iterator<Item = &str> {
    let mut depth = 0;
    let parts = group.split(move |c| {
        match c {
            '{' => depth += 1,
            '}' => depth -= 1,
            _ => {}
        }
        c == ',' && depth == 0
    });
    parts.map(|part| first_word(part.trim())).filter(|name| !name.is_empty())
}

fn first_word(path: &str) -> &str {
    path.split(|c: char| !c.is_alphanumeric() && c != '_').next().unwrap_or(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problems(path: &str, text: &str) -> Vec<String> {
        let mut found = Vec::new();
        check(&Source::new(path.into(), text.into()), &mut found);
        found.into_iter().map(|p| p.what).collect()
    }

    #[test]
    fn upward_uses_are_found_in_every_form() {
        assert_eq!(problems("collector/src/block/a.rs", "use crate::error::Error;\n"), [""; 0]);
        assert_eq!(problems("collector/src/error.rs", "use crate::{block::{self, Extent}, sys};\n").len(), 2);
        assert_eq!(problems("collector/src/copy.rs", "fn f() { crate::job::run() }\n").len(), 1);
        assert_eq!(
            problems("collector/src/copy.rs", "// crate::job\nconst A: &str = \"crate::job\";\n"),
            [""; 0]
        );
        assert_eq!(
            problems("collector/src/copy.rs", "#[cfg(test)]\nmod tests { use crate::job::x; }\n"),
            [""; 0]
        );
        assert_eq!(problems("collector/src/copy/tests.rs", "use crate::job::x;\n"), [""; 0]);
        assert_eq!(problems("collector/src/restore/mod.rs", "use crate::tracker::Places;\n").len(), 1);
        assert_eq!(problems("collector/src/misc.rs", "").len(), 1);
    }
}
