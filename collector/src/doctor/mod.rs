//! What would keep this host from being protected: `blkdelta doctor`.
//!
//! ```text
//!   look (kernel, /sys, /proc, state files, configuration, systemd) ──▶ Facts ──▶ judge (pure) ──▶ findings
//! ```
//!
//! What must stay true: looking changes nothing; each check is the one that tracking, status, configuration and daemon use
//! themselves; what could not be looked at is said, and never counts as well.

mod devices;
mod facts;
mod finding;
mod host;
mod jobs;
mod look;
#[cfg(test)]
mod tests;

pub use finding::{Finding, Level};

use crate::config::RepositoryTable;
use crate::error::Result;
use crate::tracker::Places;
use facts::Facts;
use std::path::Path;

/// Opens a repository of the configuration, with its key.
pub type Open<'a> = &'a dyn Fn(&RepositoryTable) -> Result<()>;

/// Everything that was looked at, the worst first.
pub fn examine(places: &Places, config: &Path, open: Open<'_>) -> Vec<Finding> {
    judge(&look::facts(places, config, open))
}

fn judge(facts: &Facts) -> Vec<Finding> {
    let mut findings = host::judge(facts);
    findings.extend(devices::judge(facts));
    findings.extend(jobs::judge(facts));
    // among equals, the order in which they were looked at
    findings.sort_by_key(|finding| finding.level);
    findings
}
