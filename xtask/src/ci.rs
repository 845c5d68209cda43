//! `cargo xtask ci`: what `.ci/run` runs. Every step runs, also after one failed; a table ends it.

use crate::workspace::Workspace;
use crate::{command::say, docs, ebpf, lint, test, tidy, vm};
use anyhow::{Result, bail};
use std::time::{Duration, Instant};

struct Step<'a> {
    name: &'a str,
    act: &'a dyn Fn() -> Result<Done>,
}

/// How a step ended that did not fail.
enum Done {
    Well,
    /// It cannot run here, and why.
    Skipped(String),
}

fn well(result: Result<()>) -> Result<Done> {
    result.map(|()| Done::Well)
}

/// Guests, where there can be any. Only when asked for: three kernels take 10 min and more under TCG, and some of their
/// cases are not settled yet (docs/KERNELS.md; docs/SAFETY.md, "Not promised").
fn guests(ws: &Workspace) -> Result<Done> {
    if std::env::var_os("BLKDELTA_CI_GUESTS").is_none() {
        return Ok(Done::Skipped("set BLKDELTA_CI_GUESTS=1, or run `cargo xtask vm`".into()));
    }
    match vm::impossible() {
        Some(why) => Ok(Done::Skipped(why)),
        None => well(vm::all(ws)),
    }
}

/// All steps.
pub fn ci(ws: &Workspace, verbs: &[String]) -> Result<()> {
    let steps = [
        Step { name: "fmt", act: &|| well(lint::fmt(ws)) },
        Step { name: "tidy", act: &|| well(tidy::tidy(ws)) },
        Step { name: "clippy", act: &|| well(lint::clippy(ws)) },
        Step { name: "ebpf --check", act: &|| well(ebpf::ebpf(ws, true)) },
        Step { name: "test", act: &|| well(test::test(ws, None)) },
        Step { name: "vm", act: &|| guests(ws) },
        Step { name: "docs", act: &|| well(docs::docs(ws, verbs)) },
    ];
    let mut table = Vec::new();
    for step in steps {
        say(format!("ci: {}", step.name));
        let start = Instant::now();
        let result = (step.act)();
        if let Err(error) = &result {
            say(format!("ci: {} failed: {error:#}", step.name));
        }
        table.push((step.name, start.elapsed(), result));
    }
    println!();
    for (name, took, result) in &table {
        let (word, why) = match result {
            Ok(Done::Well) => ("ok", ""),
            Ok(Done::Skipped(why)) => ("SKIPPED", why.as_str()),
            Err(_) => ("FAIL", ""),
        };
        println!("{name:14} {word:>7}  {:7.1} s  {why}", took.as_secs_f64());
    }
    let total: Duration = table.iter().map(|(_, took, _)| *took).sum();
    println!("{:14} {:>7}  {:7.1} s", "total", "", total.as_secs_f64());
    let failed: Vec<&str> =
        table.iter().filter(|(_, _, result)| result.is_err()).map(|(name, ..)| *name).collect();
    if !failed.is_empty() {
        bail!("failed: {}", failed.join(", "));
    }
    Ok(())
}
