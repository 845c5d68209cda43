//! `cargo xtask fuzz [--seconds N] [TARGET]`: the fuzz targets of `fuzz/`, on the stable compiler.
//!
//! cargo-fuzz and a nightly are not needed: the coverage instrumentation is an LLVM pass that stable
//! rustc can run, libFuzzer comes with the targets' own dependency. Without the address sanitizer, which
//! safe decoders can do without. Every corpus is kept under `fuzz/corpus`, what fails under `fuzz/artifacts`.

use crate::command::{cargo, run, say, text};
use crate::setup::toolchain::Rustc;
use crate::workspace::Workspace;
use anyhow::{Context, Result, bail};
use serde_json::Value;
use std::fs;
use std::path::Path;
use std::process::Command;

/// What cargo-fuzz passes too: the instrumentation libFuzzer reads, and checks in optimised code.
const FLAGS: [&str; 8] = [
    "-Cpasses=sancov-module",
    "-Cllvm-args=-sanitizer-coverage-level=4",
    "-Cllvm-args=-sanitizer-coverage-inline-8bit-counters",
    "-Cllvm-args=-sanitizer-coverage-pc-table",
    "-Cllvm-args=-sanitizer-coverage-trace-compares",
    "-Ccodegen-units=1",
    "-Cdebug-assertions",
    "--cfg=fuzzing",
];

/// Runs each target whose name contains `only` for `seconds`.
pub fn fuzz(ws: &Workspace, seconds: u64, only: Option<&str>) -> Result<()> {
    let folder = ws.root.join("fuzz");
    if !folder.join("Cargo.toml").is_file() {
        bail!("there are no fuzz targets: {} has no Cargo.toml", folder.display());
    }
    let names = targets(&folder)?;
    let chosen: Vec<&String> =
        names.iter().filter(|name| only.is_none_or(|only| name.contains(only))).collect();
    if chosen.is_empty() {
        bail!("no fuzz target's name contains {:?}: {}", only.unwrap_or_default(), names.join(", "));
    }
    let host = Rustc::ask()?.host;
    let target = ws.target.join("fuzz");
    let mut build = cargo();
    build.current_dir(&folder).args(["build", "--release", "--bins", "--target", &host]);
    build.env("CARGO_TARGET_DIR", &target).env("CARGO_ENCODED_RUSTFLAGS", FLAGS.join("\u{1f}"));
    run(build.env_remove("RUSTFLAGS")).context("build the fuzz targets")?;
    let binaries = target.join(&host).join("release");
    let mut broken = Vec::new();
    for name in chosen {
        say(format!("fuzz: {name} for {seconds} s"));
        if let Err(error) = fuzz_one(&folder, &binaries, name, seconds) {
            say(format!("{error:#}"));
            broken.push(name.as_str());
        }
    }
    if !broken.is_empty() {
        bail!("inputs that break {} are in fuzz/artifacts", broken.join(", "));
    }
    Ok(())
}

fn fuzz_one(folder: &Path, binaries: &Path, name: &str, seconds: u64) -> Result<()> {
    let corpus = folder.join("corpus").join(name);
    let artifacts = folder.join("artifacts").join(name);
    for needed in [&corpus, &artifacts] {
        fs::create_dir_all(needed).with_context(|| format!("create {}", needed.display()))?;
    }
    let mut fuzz = Command::new(binaries.join(name));
    fuzz.current_dir(folder).arg(&corpus);
    let seeds = folder.join("seeds").join(name);
    if seeds.is_dir() {
        fuzz.arg(seeds);
    }
    fuzz.arg(format!("-max_total_time={seconds}")).arg(format!("-artifact_prefix={}/", artifacts.display()));
    run(fuzz.args(["-print_final_stats=1", "-rss_limit_mb=2048", "-timeout=20", "-verbosity=0"]))
}

fn targets(folder: &Path) -> Result<Vec<String>> {
    let mut ask = cargo();
    let words = ["metadata", "--no-deps", "--format-version=1"];
    let metadata: Value = serde_json::from_str(&text(ask.current_dir(folder).args(words))?)?;
    let packages = metadata["packages"].as_array().context("cargo metadata has no packages")?;
    let targets = packages.iter().filter_map(|package| package["targets"].as_array()).flatten();
    let bins = targets.filter(|target| target["kind"][0] == "bin");
    Ok(bins.filter_map(|target| target["name"].as_str()).map(str::to_owned).collect())
}
