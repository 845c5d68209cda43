//! The table at the end: what a person wants to know of the run.

use super::{DISK, Point, Proof, tree};
use crate::rig::figures::{bytes, columns, seconds, thousands};
use serde_json::Value;
use std::fmt::{Display, Formatter, Result};
use std::time::Duration;

/// Freezes no longer than this are the aim.
const AIM: u64 = 250;

/// Everything that is told.
pub struct Report<'a> {
    /// The disk's file system.
    pub fstype: &'a str,
    /// What was copied onto it.
    pub tree: &'a tree::Tree,
    /// The points, in order.
    pub points: &'a [Point],
    /// The writer's changes.
    pub changes: u64,
    /// Nanoseconds per I/O of submission and completion.
    pub cost: (f64, f64),
    /// Bytes of the repository.
    pub stored: u64,
    /// The whole run.
    pub took: Duration,
}

impl Report<'_> {
    /// Every point was proved.
    pub fn all_equal(&self) -> bool {
        self.points.iter().all(|point| point.proof.as_ref().is_some_and(Proof::holds))
    }

    fn table(&self) -> String {
        let headings = [
            "point",
            ">changed",
            ">stored",
            ">time",
            ">frozen",
            ">writes meanwhile",
            ">restore",
            "fsck",
            "equal",
            "consistency",
        ];
        columns(&headings, &self.points.iter().map(row).collect::<Vec<_>>())
    }

    fn findings(&self) -> Vec<String> {
        let mut lines = Vec::new();
        for point in self.points {
            let Some(proof) = &point.proof else { continue };
            if proof.bytes.wrong > 0 {
                let first = proof.bytes.first.unwrap_or(0);
                lines.push(format!("{}: {} bytes differ, first at {first}", point.name, proof.bytes.wrong));
            }
            if let Some(why) = &proof.unclean {
                lines.push(format!("{}: {why}", point.name));
            }
            if proof.bytes.unused > 0 {
                let unused = bytes(proof.bytes.unused);
                lines.push(format!("{}: {unused} differ where no file is, as they may", point.name));
            }
            let suspect = point.said["suspect"].as_array().into_iter().flatten();
            lines.extend(
                suspect.filter_map(Value::as_str).map(|why| format!("{}: suspect: {why}", point.name)),
            );
        }
        lines
    }
}

impl Display for Report<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        let (files, tree) = (thousands(self.tree.files.len() as u64), bytes(self.tree.bytes));
        writeln!(f, "\n{} of {} with {tree} of /usr in {files} files", self.fstype, bytes(DISK))?;
        writeln!(f, "a writer made {} changes while it was backed up\n", thousands(self.changes))?;
        write!(f, "{}", self.table())?;
        let longest = self.points.iter().map(|p| frozen(p).saturating_sub(hook(p))).max().unwrap_or(0);
        let met = if longest <= AIM { "met" } else { "MISSED" };
        let (submission, completion) = self.cost;
        writeln!(f, "\nlongest freeze   {longest} ms besides the copy for the proof (aim {AIM} ms: {met})")?;
        writeln!(
            f,
            "repository       {} for {} points, every byte checked",
            bytes(self.stored),
            self.points.len()
        )?;
        let sum = submission + completion;
        writeln!(
            f,
            "tracking         {sum:.0} ns per I/O ({submission:.0} at submission, {completion:.0} at completion)"
        )?;
        writeln!(f, "the whole run    {}", seconds(self.took))?;
        self.findings().iter().try_for_each(|line| writeln!(f, "{line}"))?;
        let verdict = if self.all_equal() {
            "Each restored image is, byte for byte, what the device held at its cut."
        } else {
            "NOT EQUAL: a restored image is not what the device held at its cut."
        };
        write!(f, "\n{verdict}")
    }
}

fn row(point: &Point) -> Vec<String> {
    let total = |name: &str| bytes(point.said["totals"][name].as_u64().unwrap_or(0));
    let proof = point.proof.as_ref();
    let yes = |good: bool| if good { "yes" } else { "NO" }.to_owned();
    let copy = match hook(point) {
        0 => String::new(),
        ms => format!(" ({ms} copy)"),
    };
    vec![
        point.name.clone(),
        total("changed_bytes"),
        total("stored_bytes"),
        seconds(point.took),
        format!("{} ms{copy}", frozen(point)),
        thousands(point.changes),
        proof.map_or_else(String::new, |p| seconds(p.restore)),
        proof.map_or_else(
            String::new,
            |p| if p.unclean.is_none() { "clean".into() } else { "NOT CLEAN".into() },
        ),
        proof.map_or_else(String::new, |p| yes(p.bytes.wrong == 0)),
        point.said["consistency"].as_str().unwrap_or("?").to_owned(),
    ]
}

impl Proof {
    fn holds(&self) -> bool {
        self.bytes.wrong == 0 && self.unclean.is_none()
    }
}

/// Milliseconds the file system stood still.
fn frozen(point: &Point) -> u64 {
    point.said["freeze_ms"].as_u64().unwrap_or(0)
}

/// Of these, for the copy that is compared with: it is our doing, not the backup's.
fn hook(point: &Point) -> u64 {
    let notes = point.said["notes"].as_array().into_iter().flatten().filter_map(Value::as_str);
    let words = notes.filter_map(|note| note.rsplit_once(" ran for ")?.1.split(' ').next());
    words.filter_map(|ms| ms.parse::<u64>().ok()).sum()
}
