//! What was found.

use serde::Serialize;

/// How bad it is, the worst first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// It keeps this host, or a part of it, from being protected.
    Wrong,
    /// It could not be looked at, so it may be wrong.
    Unknown,
    /// It costs time or memory, or should be known.
    Note,
    /// As it should be.
    Fine,
}

impl Level {
    /// For people.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Wrong => "WRONG",
            Self::Unknown => "unknown",
            Self::Note => "note",
            Self::Fine => "fine",
        }
    }

    /// The host is not shown to be protected.
    pub const fn is_bad(self) -> bool {
        matches!(self, Self::Wrong | Self::Unknown)
    }
}

/// One finding.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// How bad it is.
    pub level: Level,
    /// What it is about, one word: for programs.
    pub about: &'static str,
    /// What was found.
    pub found: String,
    /// What was looked at.
    pub looked_at: String,
    /// Why it matters.
    pub why: String,
    /// What to do; nothing where nothing is to be done.
    pub advice: Option<String>,
}

impl Finding {
    /// One that is as it should be until told otherwise.
    pub fn new(about: &'static str, looked_at: impl Into<String>, why: impl Into<String>) -> Self {
        let (looked_at, why) = (looked_at.into(), why.into());
        Self { level: Level::Fine, about, found: String::new(), looked_at, why, advice: None }
    }

    /// It is well.
    #[must_use]
    pub fn fine(self, found: impl Into<String>) -> Self {
        Self { level: Level::Fine, found: found.into(), advice: None, ..self }
    }

    /// It is not.
    #[must_use]
    pub fn is(self, level: Level, found: impl Into<String>, advice: impl Into<String>) -> Self {
        Self { level, found: found.into(), advice: Some(advice.into()), ..self }
    }
}
