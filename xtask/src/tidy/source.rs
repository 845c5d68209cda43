//! A Rust file as tidy sees it: its code with comments and literals blanked out, line by line.
//!
//! A full parser is not needed: rules look at words, paths and braces. Blanking keeps every line where
//! it was, so a brace in a string or a word in a comment can neither fool nor hide.

use std::ops::Range;

/// One file.
pub struct Source {
    /// Path from the workspace's root, with `/`.
    pub path: String,
    /// The file's text.
    pub text: String,
    /// The text with comments and the inside of literals blanked out.
    pub code: String,
    /// Byte ranges of items under `#[cfg(test)]`.
    tests: Vec<Range<usize>>,
}

/// A function with a body.
pub struct Function {
    /// Its name.
    pub name: String,
    /// Line it starts on, from 1.
    pub line: usize,
    /// Code lines between its braces.
    pub length: usize,
}

impl Source {
    /// Prepares a file.
    pub fn new(path: String, text: String) -> Self {
        let code = blank(&text);
        let tests = test_items(&code);
        Self { path, text, code, tests }
    }

    /// Number of lines with code, outside of tests.
    pub fn code_lines(&self) -> usize {
        self.count_lines(0..self.code.len())
    }

    /// Line of a byte, from 1.
    pub fn line_of(&self, at: usize) -> usize {
        self.code[..at].matches('\n').count() + 1
    }

    /// Is this byte inside an item under `#[cfg(test)]`?
    pub fn in_tests(&self, at: usize) -> bool {
        self.tests.iter().any(|range| range.contains(&at))
    }

    /// Where `word` stands as a word of its own.
    pub fn words<'a>(&'a self, word: &'a str) -> impl Iterator<Item = usize> + 'a {
        words_of(&self.code, word)
    }

    /// Functions outside of tests.
    pub fn functions(&self) -> Vec<Function> {
        let starts = self.words("fn").filter(|&at| !self.in_tests(at));
        starts.filter_map(|at| self.function_at(at)).collect()
    }

    fn function_at(&self, at: usize) -> Option<Function> {
        let rest = self.code[at + 2..].trim_start();
        let name: String = rest.chars().take_while(|&c| is_word(c)).collect();
        if name.is_empty() {
            return None; // a function pointer's type
        }
        let open = at + body_start(&self.code[at..])?;
        let close = open + matching_brace(&self.code[open..])?;
        let first = self.code[open..].find('\n').map_or(close, |end| open + end);
        let last = self.code[..close].rfind('\n').map_or(close, |end| end + 1);
        let length = if first < last { self.count_lines(first..last) } else { 1 };
        Some(Function { name, line: self.line_of(at), length })
    }

    fn count_lines(&self, range: Range<usize>) -> usize {
        let mut at = range.start;
        let mut count = 0;
        for line in self.code[range].split_inclusive('\n') {
            let code = at + line.len() - line.trim_start().len();
            count += usize::from(!line.trim().is_empty() && !self.in_tests(code));
            at += line.len();
        }
        count
    }
}

fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

/// Where `word` stands in `code` as a word of its own.
pub fn words_of<'a>(code: &'a str, word: &'a str) -> impl Iterator<Item = usize> + 'a {
    code.match_indices(word).map(|(at, _)| at).filter(move |&at| {
        let before = code[..at].chars().next_back();
        let after = code[at + word.len()..].chars().next();
        !before.is_some_and(is_word) && !after.is_some_and(is_word)
    })
}

/// The `{` of a function's body; none if it ends with `;` first.
fn body_start(code: &str) -> Option<usize> {
    let mut depth = 0_i32;
    for (at, c) in code.char_indices() {
        match c {
            '(' | '[' => depth += 1,
            ')' | ']' => depth -= 1,
            '{' if depth == 0 => return Some(at),
            ';' if depth == 0 => return None,
            _ => {}
        }
    }
    None
}

/// The `}` that closes the `{` at the start of `code`.
pub fn matching_brace(code: &str) -> Option<usize> {
    let mut depth = 0_i32;
    for (at, c) in code.char_indices() {
        match c {
            '{' => depth += 1,
            '}' => depth -= 1,
            _ => {}
        }
        if depth == 0 {
            return Some(at);
        }
    }
    None
}

fn test_items(code: &str) -> Vec<Range<usize>> {
    let mut ranges = Vec::new();
    for (start, _) in code.match_indices("#[cfg(test)]") {
        let end = match body_start(&code[start..]) {
            Some(open) => matching_brace(&code[start + open..]).map(|close| start + open + close),
            None => code[start..].find(';').map(|end| start + end),
        };
        ranges.push(start..end.unwrap_or(code.len() - 1) + 1);
    }
    ranges
}

/// Replaces comments and the inside of literals by spaces; lines stay.
fn blank(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let opaque = opaque_prefix(rest, out.chars().next_back());
        let length = opaque.unwrap_or(first.len_utf8());
        if opaque.is_some() {
            out.extend(rest[..length].bytes().map(|b| if b == b'\n' { '\n' } else { ' ' }));
        } else {
            out.push(first);
        }
        rest = &rest[length..];
    }
    out
}

/// Length of the comment or literal that `rest` starts with.
fn opaque_prefix(rest: &str, before: Option<char>) -> Option<usize> {
    if rest.starts_with("//") {
        return Some(rest.find('\n').unwrap_or(rest.len()));
    }
    if rest.starts_with("/*") {
        return Some(block_comment(rest));
    }
    if rest.starts_with('"') {
        return Some(quoted(rest, 1, '"'));
    }
    if rest.starts_with('\'') {
        return character(rest);
    }
    if before.is_some_and(is_word) {
        return None;
    }
    let raw = rest.strip_prefix("br").or_else(|| rest.strip_prefix("cr")).or_else(|| rest.strip_prefix('r'));
    if let Some(length) = raw.and_then(raw_string) {
        return Some(rest.len() - raw.map_or(0, str::len) + length);
    }
    None
}

fn block_comment(rest: &str) -> usize {
    let mut depth = 0;
    let mut at = 0;
    while at < rest.len() {
        match &rest.as_bytes()[at..] {
            [b'/', b'*', ..] => (depth, at) = (depth + 1, at + 2),
            [b'*', b'/', ..] => (depth, at) = (depth - 1, at + 2),
            _ => at += 1,
        }
        if depth == 0 {
            return at;
        }
    }
    rest.len()
}

/// Length of a literal whose inside starts at `from`, up to the closing `end`.
fn quoted(rest: &str, from: usize, end: char) -> usize {
    let mut escaped = false;
    for (at, c) in rest[from..].char_indices() {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            c if c == end => return from + at + 1,
            _ => {}
        }
    }
    rest.len()
}

/// Length of `##"…"##`, if `rest` starts with one.
fn raw_string(rest: &str) -> Option<usize> {
    let hashes = rest.bytes().take_while(|&b| b == b'#').count();
    let inside = rest[hashes..].strip_prefix('"')?;
    let end = format!("\"{}", "#".repeat(hashes));
    let length = inside.find(&end).map_or(inside.len(), |at| at + end.len());
    Some(hashes + 1 + length)
}

/// Length of a character literal; a lifetime is none.
fn character(rest: &str) -> Option<usize> {
    let inside = rest.strip_prefix('\'')?;
    let first = inside.chars().next()?;
    if first == '\\' {
        return Some(quoted(rest, 1, '\''));
    }
    inside[first.len_utf8()..].starts_with('\'').then(|| first.len_utf8() + 2)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(text: &str) -> Source {
        Source::new("a.rs".into(), text.into())
    }

    #[test]
    fn comments_and_literals_are_blank_and_lines_stay() {
        let text = "let a = \"{ // \\\" unsafe\"; // }\nlet b = r#\"\"{\"#; /* /* { */\n} */ let c = '{';\nfn f<'a>(x: &'a u8) {}\n";
        let code = blank(text);
        assert_eq!(code.matches('\n').count(), text.matches('\n').count());
        assert_eq!(code.matches(['{', '}']).count(), 2);
        assert!(code.contains("fn f<'a>(x: &'a u8) {}"), "{code}");
        assert!(!code.contains("unsafe"));
        let prefixes = blank("b'\\'' 'x' b'{' \"é{\"");
        assert_eq!(prefixes.split_whitespace().collect::<Vec<_>>(), ["b", "b"]);
    }

    #[test]
    fn lengths_leave_out_blanks_comments_and_tests() {
        let text = "//! head\n\nfn a(f: fn(u8) -> u8) {\n    // no\n    one();\n\n    two();\n}\nfn b() { one() }\n\
            trait T { fn c(); }\n#[cfg(test)]\nmod tests {\n    fn d() {\n        x();\n    }\n}\n";
        let source = source(text);
        let functions = source.functions();
        let found: Vec<_> = functions.iter().map(|f| (f.name.as_str(), f.line, f.length)).collect();
        assert_eq!(found, [("a", 3, 2), ("b", 9, 1)]);
        assert_eq!(source.code_lines(), 6);
    }

    #[test]
    fn a_test_only_use_ends_with_its_semicolon() {
        let source = source("#[cfg(test)]\nuse a::b;\nfn c() {\n    d();\n}\n");
        assert_eq!(source.code_lines(), 3);
    }
}
