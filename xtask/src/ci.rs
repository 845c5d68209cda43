//! `cargo xtask ci`: what `.ci/run` runs. Every step runs, also after one failed; a table ends it.

use crate::workspace::Workspace;
use crate::{command::say, docs, ebpf, lint, test, tidy, vm};
use anyhow::{Result, bail};
use std::time::{Duration, Instant};

struct Step<'a> {
    name: &'a str,
    act: &'a dyn Fn() -> Result<()>,
}

/// All steps.
pub fn ci(ws: &Workspace, verbs: &[String]) -> Result<()> {
    let steps = [
        Step { name: "fmt", act: &|| lint::fmt(ws) },
        Step { name: "tidy", act: &|| tidy::tidy(ws) },
        Step { name: "clippy", act: &|| lint::clippy(ws) },
        Step { name: "ebpf --check", act: &|| ebpf::ebpf(ws, true) },
        Step { name: "test", act: &|| test::test(ws, false, None) },
        Step { name: "vm", act: &|| vm::step(ws) },
        Step { name: "docs", act: &|| docs::docs(ws, verbs) },
    ];
    let mut table = Vec::new();
    for step in steps {
        say(format!("ci: {}", step.name));
        let start = Instant::now();
        let result = (step.act)();
        if let Err(error) = &result {
            say(format!("ci: {} failed: {error:#}", step.name));
        }
        table.push((step.name, start.elapsed(), result.is_ok()));
    }
    println!();
    for (name, took, good) in &table {
        println!("{name:14} {:>4}  {:7.1} s", if *good { "ok" } else { "FAIL" }, took.as_secs_f64());
    }
    let total: Duration = table.iter().map(|(_, took, _)| *took).sum();
    println!("{:14} {:>4}  {:7.1} s", "total", "", total.as_secs_f64());
    let failed: Vec<&str> = table.iter().filter(|(_, _, good)| !good).map(|(name, ..)| *name).collect();
    if !failed.is_empty() {
        bail!("failed: {}", failed.join(", "));
    }
    Ok(())
}
