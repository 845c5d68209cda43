//! What is packed: the optimised static program, and the papers made from its command line. Built so that no path of this
//! machine gets into it.

use crate::build::refuse_faults;
use crate::command::{quiet, say, text};
use crate::linked;
use crate::setup::toolchain::Rustc;
use crate::workspace::Workspace;
use anyhow::{Context, Result};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A checkout, or a copy of one.
#[derive(Clone, Debug)]
pub struct Source {
    /// Its root.
    pub root: PathBuf,
    /// Seconds since 1970 of its commit: the time of everything that is packed.
    pub time: u64,
}

impl Source {
    /// The checkout that we are of.
    pub fn here(ws: &Workspace) -> Result<Self> {
        let time = text(Command::new("git").current_dir(&ws.root).args(["log", "-1", "--format=%ct"]))?;
        let time = time.trim().parse().with_context(|| format!("time of the last commit: {time:?}"))?;
        Ok(Self { root: ws.root.clone(), time })
    }
}

/// Everything that was built.
#[derive(Debug)]
pub struct Product {
    /// Of what.
    pub source: Source,
    /// The program.
    pub program: PathBuf,
    /// Folder of man pages (`man8`) and completions (`completions`).
    pub papers: PathBuf,
    /// As the program says it.
    pub version: String,
}

impl Product {
    /// Builds it below `into`.
    pub fn build(source: &Source, into: &Path) -> Result<Self> {
        let target = into.join("build");
        fs::create_dir_all(&target).with_context(|| format!("make {}", target.display()))?;
        say("building the static program");
        let mut build = cargo(source, &target)?;
        quiet(build.args(["--package", "collector", "--bin", "blkdelta"])).context("build the program")?;
        let program = linked::program(&target, "release", "blkdelta")?;
        refuse_faults(&program)?;
        say("writing man pages and completions");
        // apart: what this one needs must not change how the other is built
        let mut build = cargo(source, &target)?;
        quiet(build.args(["--package", "packaging", "--bin", "blkdelta-papers"]))
            .context("build what writes the man pages")?;
        let papers = super::stage(into, "papers")?;
        quiet(Command::new(linked::program(&target, "release", "blkdelta-papers")?).arg(&papers))?;
        let version = text(Command::new(&program).arg("--version")).context("ask for the version")?;
        let version = version.split_whitespace().last().unwrap_or(env!("CARGO_PKG_VERSION")).to_owned();
        Ok(Self { source: source.clone(), program, papers, version })
    }

    /// A command whose result is dated by the commit.
    pub fn dated(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command.env("SOURCE_DATE_EPOCH", self.source.time.to_string()).env("LC_ALL", "C").env("TZ", "UTC");
        command
    }
}

/// An optimised build without traces of where it was made.
fn cargo(source: &Source, target: &Path) -> Result<Command> {
    let paths = paths(&source.root, target)?;
    let pairs = |flag: &str| {
        paths.iter().map(|(from, to)| format!("{flag}={}={to}", from.display())).collect::<Vec<_>>()
    };
    let mut build = linked::build(&source.root, target, &pairs("--remap-path-prefix"));
    build.env("CFLAGS", pairs("-ffile-prefix-map").join(" "));
    build.env("CARGO_PROFILE_RELEASE_DEBUG", "false").env("CARGO_INCREMENTAL", "0");
    build.env("SOURCE_DATE_EPOCH", source.time.to_string()).arg("--release");
    Ok(build)
}

/// Folders of this machine and what stands for them; of several that fit, the last one counts.
fn paths(root: &Path, target: &Path) -> Result<Vec<(PathBuf, String)>> {
    let home = std::env::var_os("CARGO_HOME").map(PathBuf::from);
    let home = home
        .or_else(|| std::env::home_dir().map(|home| home.join(".cargo")))
        .context("find cargo's folder")?;
    let mut all = vec![(Rustc::ask()?.sysroot, "/rust".to_owned()), (home.clone(), "/cargo".to_owned())];
    // named for where packages come from, which differs from machine to machine
    let sources = fs::read_dir(home.join("registry/src")).into_iter().flatten().flatten();
    all.extend(sources.map(|entry| (entry.path(), "/crates".to_owned())));
    all.push((root.to_owned(), "/blkdelta".to_owned()));
    all.push((target.to_owned(), "/target".to_owned()));
    Ok(all)
}
