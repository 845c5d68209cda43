//! Who noticed a planted fault: the checks of the product, and the oracle, which only a test has.

use anyhow::Result;
use serde_json::Value;
use std::fmt;

/// A check that can notice a fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Check {
    /// Our sums of sectors against the kernel's.
    Accounting,
    /// The kernel's counters of skipped programs.
    Misses,
    /// Writes that the kernel has in flight against the slots.
    Slots,
    /// What the programs count because they cannot place it.
    BlindSpots,
    /// Programs, links and maps pinned where they were put.
    Pins,
    /// Bitmaps in their places, the device in the programs' lists.
    Bitmaps,
    /// Which disk it is.
    Identity,
    /// What was saved over a reboot, by its hash and header.
    SavedMap,
    /// What this kernel wrote before tracking began again.
    Gap,
    /// Bytes that cannot stay the same if somebody wrote.
    Witness,
    /// The audit.
    Audit,
    /// Hashes of what is stored: `check` and `restore`.
    Stored,
    /// What was to be done against what was done.
    Totals,
    /// An error of the program, or a reason of another kind.
    Refused,
    /// The comparison with the device itself.
    Oracle,
}

impl Check {
    /// Whether a user has it, too.
    pub fn is_products(self) -> bool {
        self != Self::Oracle
    }
}

impl fmt::Display for Check {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Accounting => "accounting",
            Self::Misses => "misses counters",
            Self::Slots => "slots",
            Self::BlindSpots => "blind spots",
            Self::Pins => "pins and links",
            Self::Bitmaps => "bitmaps in place",
            Self::Identity => "identity",
            Self::SavedMap => "saved-map check",
            Self::Gap => "gap proof",
            Self::Witness => "witness",
            Self::Audit => "audit",
            Self::Stored => "hashes of what is stored",
            Self::Totals => "totals",
            Self::Refused => "refused",
            Self::Oracle => "oracle",
        })
    }
}

/// Words of the product's reasons, and whose they are.
const WORDS: [(&str, Check); 22] = [
    ("programs were skipped 0 times", Check::Accounting),
    ("programs were skipped", Check::Misses),
    ("the kernel did not count", Check::Accounting),
    ("counts the disk's writes anew", Check::Accounting),
    ("the tracker knows of", Check::Slots),
    ("bytes were read", Check::Totals),
    ("bytes were audited", Check::Totals),
    ("an epoch just sealed is not pending", Check::Totals),
    ("found no bitmap", Check::BlindSpots),
    ("beyond the end of the disk", Check::BlindSpots),
    ("more ranges than can be walked", Check::BlindSpots),
    ("of unknown kind", Check::BlindSpots),
    ("not where it was left", Check::Bitmaps),
    ("do not find the device", Check::Bitmaps),
    ("the bitmap of epoch", Check::Bitmaps),
    ("open pinned map", Check::Pins),
    ("program ", Check::Pins),
    ("an audit found", Check::Audit),
    ("cannot be used", Check::SavedMap),
    ("this kernel wrote", Check::Gap),
    ("somebody wrote", Check::Witness),
    ("is tracked no more", Check::Identity),
];

fn whose(reason: &str) -> Check {
    let known = WORDS.iter().find(|(words, _)| reason.contains(words));
    known.map_or(Check::Refused, |(_, check)| *check)
}

/// What was noticed in one trial.
#[derive(Debug, Default)]
pub struct Notices(Vec<(Check, String)>);

impl Notices {
    /// Somebody noticed something.
    pub fn note(&mut self, check: Check, what: impl Into<String>) {
        let what = what.into();
        if !self.0.contains(&(check, what.clone())) {
            self.0.push((check, what));
        }
    }

    /// Reasons for which the product calls something suspect.
    pub fn reasons<S: AsRef<str>>(&mut self, reasons: impl IntoIterator<Item = S>) {
        for reason in reasons {
            let reason = reason.as_ref().trim_matches('"');
            self.note(whose(reason), reason);
        }
    }

    /// The same, of what was printed with `--json`.
    pub fn listed(&mut self, reasons: &Value) {
        self.reasons(reasons.as_array().into_iter().flatten().filter_map(Value::as_str));
    }

    /// An error of the product is a notice, too.
    pub fn took<T>(&mut self, result: Result<T>) -> Option<T> {
        result.map_err(|error| self.reasons([format!("{error:#}")])).ok()
    }

    /// The oracle's judgement: what it found, if anything.
    pub fn oracle(&mut self, judged: Result<()>) {
        if let Err(error) = judged {
            self.note(Check::Oracle, format!("{error:#}"));
        }
    }

    /// All of it, one a line: check, tab, what.
    pub fn lines(&self) -> Vec<String> {
        let mut all = self.0.clone();
        all.sort();
        all.iter().map(|(check, what)| format!("{check}\t{}", what.replace(['\n', '\t'], " "))).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reasons_are_told_apart() {
        let short =
            "the kernel counted 8 sectors written, the tracker saw 0 completed; programs were skipped ";
        assert_eq!(whose(&format!("{short}0 times")), Check::Accounting);
        assert_eq!(whose(&format!("{short}40 times")), Check::Misses);
        assert_eq!(whose("program rq_issue: its pin is gone"), Check::Pins);
        assert_eq!(whose("something new"), Check::Refused);
    }
}
