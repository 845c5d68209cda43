//! `config`: the configuration file, looked at without doing anything.

use super::output::{Ending, print, print_json, say};
use super::show::Table;
use crate::config::{self, Problem};
use anyhow::Result;
use clap::{Args, Subcommand};
use serde::Serialize;
use std::path::PathBuf;

/// `config`.
#[derive(Debug, Args)]
pub struct Config {
    /// What to do
    #[command(subcommand)]
    deed: Deed,
}

#[derive(Debug, Subcommand)]
enum Deed {
    /// Every mistake with its line and key; exit code 2 if there is one
    #[command(after_help = "Example:\n  blkdelta config check --file new.toml")]
    Check(Which),
    /// What is to be done, with all defaults
    #[command(after_help = "Example:\n  blkdelta config show --json")]
    Show(Which),
}

/// Which configuration file, and for whom the answer is.
#[derive(Debug, Args)]
pub struct Which {
    #[command(flatten)]
    pub(super) file: File,
    /// For programs
    #[arg(long)]
    pub(super) json: bool,
}

/// Which configuration file.
#[derive(Debug, Args)]
pub struct File {
    /// The configuration file, `-` for standard input; else /etc/blkdelta/config.toml
    #[arg(long, value_name = "FILE")]
    file: Option<PathBuf>,
}

impl File {
    /// Its path.
    pub fn path(&self) -> PathBuf {
        self.file.clone().unwrap_or_else(config::default_file)
    }
}

/// What `check --json` prints.
#[derive(Serialize)]
struct Report {
    file: PathBuf,
    problems: Vec<Problem>,
}

/// Looks at the configuration.
pub fn config(args: &Config) -> Result<Ending> {
    match &args.deed {
        Deed::Check(which) => check(which),
        Deed::Show(which) => show(which),
    }
}

fn check(which: &Which) -> Result<Ending> {
    let file = which.file.path();
    let (config, problems) = match config::Config::parse(&config::text_of(&file)?) {
        Ok(config) => (config, Vec::new()),
        Err(problems) => (config::Config::default(), problems),
    };
    for problem in &problems {
        say(&format!("{}: {problem}\n  try: {}", file.display(), problem.hint));
    }
    let found = problems.len();
    if which.json {
        print_json(&Report { file: file.clone(), problems })?;
    } else if found == 0 {
        let (jobs, devices, groups) = (config.job.len(), config.device.len(), config.group.len());
        print(&format!(
            "{}: no mistakes; {jobs} jobs, {devices} devices, {groups} groups\n",
            file.display()
        ))?;
    }
    if found > 0 {
        let text = format!("{}: {found} {}", file.display(), if found == 1 { "mistake" } else { "mistakes" });
        return Err(crate::error::Error::new(crate::error::Kind::Usage, text).into());
    }
    Ok(Ending::Fine)
}

fn show(which: &Which) -> Result<Ending> {
    let config = config::Config::load(&which.file.path())?;
    if which.json {
        print_json(&config)?;
        return Ok(Ending::Fine);
    }
    let mut table = Table::new(&["job", "of", "to", "when (UTC)"]);
    for (name, job) in &config.job {
        let device = job.device.as_ref().and_then(|name| config.device.get(name)).map(|d| d.named());
        let group = job.group.as_ref().map(|name| format!("group {name}"));
        let to = config.repository.get(&job.repository).map(|r| r.location.clone()).unwrap_or_default();
        table.row([name.clone(), device.or(group).unwrap_or_default(), to, job.when()]);
    }
    print(&table.to_string())?;
    Ok(Ending::Fine)
}
