//! What leaves the program: the result on standard output, everything else on standard error.
//!
//! What must stay true: a reader that went away (a pager, `head`) is not a failure and never a panic; an error is
//! printed once, with its causes and what can be done.

use crate::error::{Error, Kind};
use anyhow::Result;
use serde::Serialize;
use std::io::{ErrorKind, Write};
use std::process::ExitCode;

/// How a verb ended, if it did not fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// Done.
    Fine,
    /// Done, but the result is suspect or damaged.
    Suspect,
}

impl From<Ending> for ExitCode {
    fn from(ending: Ending) -> Self {
        match ending {
            Ending::Fine => Self::SUCCESS,
            Ending::Suspect => Self::from(3),
        }
    }
}

/// Writes to standard output. False if nobody reads any more.
///
/// # Errors
/// Any other failure to write.
pub fn print(text: &str) -> Result<bool> {
    put(&harmless(text))
}

fn put(text: &str) -> Result<bool> {
    let mut out = std::io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Ok(()) => Ok(true),
        Err(e) if e.kind() == ErrorKind::BrokenPipe => Ok(false),
        Err(e) => Err(anyhow::Error::new(e).context("write to standard output")),
    }
}

/// Writes `value` as indented JSON.
///
/// # Errors
/// As [`print()`].
pub fn print_json(value: &impl Serialize) -> Result<bool> {
    put(&(serde_json::to_string_pretty(value)? + "\n"))
}

/// Writes `value` as one line of JSON.
///
/// # Errors
/// As [`print()`].
pub fn print_json_line(value: &impl Serialize) -> Result<bool> {
    put(&(serde_json::to_string(value)? + "\n"))
}

/// Says something beside the result; nobody listening is fine.
pub fn say(text: &str) {
    let _ = writeln!(std::io::stderr().lock(), "{}", harmless(text));
}

/// The error, its causes, and the first advice among them, on one to several lines.
pub fn explain(error: &anyhow::Error) -> String {
    let mut text = format!("blkdelta: {error}");
    for cause in error.chain().skip(1) {
        text += &format!("\n  because: {}", shortened(&cause.to_string()));
    }
    let advice = error.chain().find_map(|c| c.downcast_ref::<Error>().and_then(Error::advice));
    if let Some(advice) = advice {
        text += &format!("\n  try: {advice}");
    }
    text
}

/// Without what commands a terminal: names of files and words of a repository are other people's.
fn harmless(text: &str) -> std::borrow::Cow<'_, str> {
    let commands = |c: char| c.is_control() && !matches!(c, '\n' | '\t');
    if !text.contains(commands) {
        return text.into();
    }
    text.chars()
        .fold(String::new(), |mut plain, c| {
            if commands(c) {
                plain.extend(c.escape_default())
            } else {
                plain.push(c)
            }
            plain
        })
        .into()
}

/// The beginning and the end of a cause of many lines (the kernel's BPF verifier writes thousands).
fn shortened(text: &str) -> String {
    const ENDS: usize = 8;
    let lines: Vec<&str> = text.lines().collect();
    if lines.len() <= 2 * ENDS {
        return text.trim_end().to_owned();
    }
    let left_out = format!("  … {} lines …", lines.len() - 2 * ENDS);
    [&lines[..ENDS], &[left_out.as_str()], &lines[lines.len() - ENDS..]].concat().join("\n")
}

/// The exit code of a failure.
pub fn code(error: &anyhow::Error) -> ExitCode {
    match error.chain().find_map(|c| c.downcast_ref::<Error>()).map(Error::kind) {
        Some(Kind::Usage) => ExitCode::from(2),
        Some(Kind::Damaged) => ExitCode::from(3),
        _ => ExitCode::FAILURE,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_says_what_why_and_what_to_do_once() {
        let io = Error::os("open /dev/x", std::io::Error::from_raw_os_error(2)).hint("look at lsblk");
        let error = anyhow::Error::new(io.within("back up /dev/x"));
        let text = explain(&error);
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines[0], "blkdelta: back up /dev/x");
        assert_eq!(lines[1], "  because: open /dev/x");
        assert!(lines[2].contains("No such file"));
        assert_eq!(lines[3], "  try: look at lsblk");
        assert_eq!(shortened(&"x\n".repeat(1000)).lines().count(), 17);
    }

    #[test]
    fn nothing_that_is_printed_commands_the_terminal() {
        assert_eq!(harmless("a\tb\nä"), "a\tb\nä");
        assert_eq!(harmless("\u{1b}]0;x\u{7}\r\u{9b}2J"), "\\u{1b}]0;x\\u{7}\\r\\u{9b}2J");
    }

    #[test]
    fn exit_codes_follow_the_kind() {
        let code = |kind| format!("{:?}", code(&anyhow::Error::new(Error::new(kind, "x"))));
        assert_eq!(code(Kind::Usage), format!("{:?}", ExitCode::from(2)));
        assert_eq!(code(Kind::Damaged), format!("{:?}", ExitCode::from(3)));
        assert_eq!(code(Kind::Io), format!("{:?}", ExitCode::from(1)));
        assert_eq!(format!("{:?}", ExitCode::from(Ending::Suspect)), format!("{:?}", ExitCode::from(3)));
    }
}
