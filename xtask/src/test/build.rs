//! Builds the tests and the program they drive; asks each test binary for its tests.
//!
//! One profile, `dev`: its Cargo.toml optimises what tests spend their time in, and debug assertions
//! stay on. The program is built with the kill points, as the harness wants it.

use crate::command::{cargo, text};
use crate::workspace::Workspace;
use anyhow::{Context, Result, bail};
use serde_json::Value;
use std::collections::BTreeSet;
use std::path::PathBuf;
use std::process::{Command, Stdio};

/// One test, run as a process of its own.
#[derive(Clone, Debug)]
pub struct Test {
    /// `suite::name`, unique for people.
    pub title: String,
    /// Its name inside the binary.
    pub name: String,
    /// The binary.
    pub binary: PathBuf,
    /// Folder of its package: cargo runs tests there.
    pub folder: PathBuf,
    /// Uses real devices: runs alone.
    pub alone: bool,
    /// Marked `#[ignore = "…"]`.
    pub ignored: bool,
}

/// Everything that was built.
pub struct Built {
    /// The tests, in the order of their binaries.
    pub tests: Vec<Test>,
    /// The program with kill points.
    pub program: PathBuf,
}

/// What cargo built.
pub struct Artifact {
    package: String,
    target: String,
    kind: String,
    /// Folder of its package: cargo runs tests there.
    pub folder: PathBuf,
    /// The program.
    pub file: PathBuf,
    test: bool,
}

/// Builds one suite.
pub fn suite(ws: &Workspace, name: &str) -> Result<Artifact> {
    let built = artifacts(ws, "test", &["--package", "tests", "--no-run", "--test", name])?;
    built.into_iter().find(|a| a.test && a.target == name).with_context(|| format!("cargo built no {name}"))
}

/// xtask apart: its features must not change while it runs, or each run would build everything anew.
const OURS: [&str; 3] = ["--workspace", "--exclude", "xtask"];

/// Builds the program that the suites drive: with kill points and faults to plant.
pub fn program(ws: &Workspace) -> Result<PathBuf> {
    let programs = artifacts(ws, "build", &[&OURS[..], &["--bins"]].concat())?;
    let program = programs.into_iter().find(|a| a.target == "blkdelta" && !a.test);
    Ok(program.context("cargo built no program `blkdelta`")?.file)
}

/// Builds it all.
pub fn build(ws: &Workspace) -> Result<Built> {
    let program = program(ws)?;
    let mut binaries =
        artifacts(ws, "test", &[&OURS[..], &["--no-run", "--lib", "--bins", "--tests"]].concat())?;
    binaries.extend(artifacts(ws, "test", &["--package", "xtask", "--no-run"])?);
    let mut tests = Vec::new();
    for binary in binaries.iter().filter(|a| a.test) {
        tests.extend(tests_of(binary)?);
    }
    if tests.is_empty() {
        bail!("the build made no tests");
    }
    Ok(Built { tests, program })
}

fn artifacts(ws: &Workspace, verb: &str, words: &[&str]) -> Result<Vec<Artifact>> {
    let mut build = cargo();
    build.current_dir(&ws.root).env("CARGO_TARGET_DIR", &ws.target).args([verb, "--locked"]).args(words);
    build.arg("--message-format=json-render-diagnostics").stdin(Stdio::null()).stderr(Stdio::inherit());
    let output = build.output().with_context(|| format!("start cargo {verb}"))?;
    if !output.status.success() {
        bail!("`cargo {verb} {}` ended with {}", words.join(" "), output.status);
    }
    let messages = String::from_utf8_lossy(&output.stdout).into_owned();
    Ok(messages.lines().filter_map(|line| artifact(&serde_json::from_str(line).ok()?)).collect())
}

fn artifact(message: &Value) -> Option<Artifact> {
    let word = |value: &Value| value.as_str().map(str::to_owned);
    let manifest = PathBuf::from(message["manifest_path"].as_str()?);
    let folder = manifest.parent()?.to_owned();
    Some(Artifact {
        package: folder.file_name()?.to_string_lossy().into_owned(),
        target: word(&message["target"]["name"])?,
        kind: word(&message["target"]["kind"][0])?,
        folder,
        file: PathBuf::from(message["executable"].as_str()?),
        test: message["profile"]["test"].as_bool()?,
    })
}

fn tests_of(binary: &Artifact) -> Result<Vec<Test>> {
    let list = |words: &[&str]| -> Result<Vec<String>> {
        let mut ask = Command::new(&binary.file);
        let list = text(ask.current_dir(&binary.folder).args(["--list", "--format=terse"]).args(words))?;
        Ok(list.lines().filter_map(|line| line.strip_suffix(": test")).map(str::to_owned).collect())
    };
    let ignored: BTreeSet<String> = list(&["--ignored"])?.into_iter().collect();
    // an integration test is named for its promise, a unit test for its package
    let suite = if binary.kind == "test" { &binary.target } else { &binary.package };
    let tests = list(&[])?.into_iter().map(|name| Test {
        title: format!("{suite}::{name}"),
        ignored: ignored.contains(&name),
        name,
        binary: binary.file.clone(),
        folder: binary.folder.clone(),
        alone: binary.kind == "test",
    });
    Ok(tests.collect())
}
