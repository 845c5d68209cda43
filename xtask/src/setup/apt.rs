//! Debian packages without installing them: apt with lists, caches and sources of its own.
//!
//! The machine's own package source is used with whatever suite is asked for. It needs no root and changes
//! nothing on the machine: not its lists, not its packages. What is downloaded lies in the folder given.

use crate::command::{quiet, say, text, which};
use crate::workspace::write_file;
use anyhow::{Context, Result, bail};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// apt for one suite, in a folder of its own.
pub struct Apt {
    options: Vec<String>,
    work: PathBuf,
}

impl Apt {
    /// Can this machine fetch and unpack Debian packages?
    pub fn is_here() -> bool {
        which("apt-get").is_some() && which("dpkg").is_some()
    }

    /// Reads the suite's list into `work`.
    pub fn new(work: &Path, suite: &str) -> Result<Self> {
        for folder in ["lists/partial", "cache/archives/partial", "packages"] {
            fs::create_dir_all(work.join(folder)).with_context(|| format!("create {folder}"))?;
        }
        let (uri, key) = machine_source(Path::new("/etc/apt"))?;
        let signed = key.map(|key| format!("[signed-by={key}] ")).unwrap_or_default();
        let (list, status) = (work.join("sources.list"), work.join("status"));
        write_file(&list, format!("deb {signed}{uri} {suite} main\n").as_bytes())?;
        // nothing counts as installed, so that dependencies are fetched too
        write_file(&status, b"")?;
        let set = |name: &str, value: &Path| format!("{name}={}", value.display());
        let options = vec![
            set("Dir::Etc::sourcelist", &list),
            "Dir::Etc::sourceparts=-".into(),
            set("Dir::State::lists", &work.join("lists")),
            set("Dir::State::status", &status),
            set("Dir::Cache", &work.join("cache")),
            // apt's own user cannot enter a checkout under /root
            "APT::Sandbox::User=root".into(),
            "APT::Install-Recommends=false".into(),
            "Acquire::Languages=none".into(),
            // locks need root, and nobody else uses this folder
            "Debug::NoLocking=1".into(),
        ];
        let apt = Self { options, work: work.into() };
        say(format!("reading Debian's list of {suite}"));
        quiet(apt.command("apt-get").arg("update"))?;
        Ok(apt)
    }

    /// apt-cache, to ask the list.
    pub fn cache(&self) -> Command {
        self.command("apt-cache")
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        for option in &self.options {
            command.arg("-o").arg(option);
        }
        command
    }

    /// Names of what a package depends on; alternatives and versions are left out.
    pub fn depends_of(&self, package: &str) -> Result<Vec<String>> {
        let shown = text(self.cache().args(["show", "--no-all-versions", package]))?;
        let lines = shown.lines().filter_map(|line| line.strip_prefix("Depends: "));
        let first = |part: &str| part.split_whitespace().next().map(str::to_owned);
        Ok(lines.flat_map(|line| line.split(", ").filter_map(first).collect::<Vec<_>>()).collect())
    }

    /// Fetches exactly these packages (`NAME` or `NAME=VERSION`).
    pub fn download(&self, packages: &[String]) -> Result<()> {
        let mut fetch = self.command("apt-get");
        quiet(fetch.current_dir(self.work.join("packages")).arg("download").args(packages)).map(drop)
    }

    /// Fetches these packages and all they depend on.
    pub fn download_with_dependencies(&self, packages: &[&str]) -> Result<()> {
        let mut fetch = self.command("apt-get");
        fetch.args(["install", "--yes", "--download-only", "--no-install-recommends"]).args(packages);
        quiet(&mut fetch).map(drop)
    }

    /// Unpacks everything that was fetched into `folder`; nothing is installed.
    pub fn unpack(&self, folder: &Path) -> Result<()> {
        self.each_package(|package| quiet(Command::new("dpkg").arg("-x").arg(package).arg(folder)).map(drop))
    }

    /// Does something with every package that was fetched.
    pub fn each_package(&self, act: impl Fn(&Path) -> Result<()>) -> Result<()> {
        let mut count = 0;
        for place in ["packages", "cache/archives"] {
            for package in files(&self.work.join(place), "deb")? {
                act(&package)?;
                count += 1;
            }
        }
        if count == 0 {
            bail!("no package was fetched into {}", self.work.display());
        }
        Ok(())
    }
}

fn files(folder: &Path, extension: &str) -> Result<Vec<PathBuf>> {
    let entries = fs::read_dir(folder).with_context(|| format!("list {}", folder.display()))?;
    let found = entries.flatten().map(|e| e.path());
    Ok(found.filter(|p| p.extension().is_some_and(|e| e == extension)).collect())
}

/// URI and key of the machine's main Debian archive.
fn machine_source(etc: &Path) -> Result<(String, Option<String>)> {
    let mut files = vec![etc.join("sources.list")];
    if let Ok(folder) = fs::read_dir(etc.join("sources.list.d")) {
        files.extend(folder.flatten().map(|entry| entry.path()));
    }
    files.sort();
    for file in &files {
        let Ok(text) = fs::read_to_string(file) else { continue };
        let found = match file.extension().is_some_and(|ext| ext == "sources") {
            true => text.split("\n\n").find_map(of_stanza),
            false => text.lines().find_map(of_line),
        };
        if let Some(found) = found {
            return Ok(found);
        }
    }
    bail!("no Debian archive in the package sources of {}", etc.display())
}

/// A deb822 stanza; archives of security updates do not carry other suites.
fn of_stanza(stanza: &str) -> Option<(String, Option<String>)> {
    let field = |name: &str| {
        stanza.lines().find_map(|line| line.strip_prefix(name)).map(str::trim).filter(|v| !v.is_empty())
    };
    let suites = field("Suites:")?;
    let uri = field("URIs:")?.split_whitespace().next()?;
    let useful = field("Types:")?.contains("deb") && field("Enabled:") != Some("no");
    let main = useful && is_debian(uri) && !suites.contains("-security");
    main.then(|| (uri.to_owned(), field("Signed-By:").filter(|key| key.starts_with('/')).map(str::to_owned)))
}

/// A one-line source: `deb [signed-by=KEY] URI SUITE main`.
fn of_line(line: &str) -> Option<(String, Option<String>)> {
    let rest = line.trim().strip_prefix("deb ")?.trim();
    let (options, rest) = match rest.strip_prefix('[') {
        Some(rest) => rest.split_once(']')?,
        None => ("", rest),
    };
    let mut words = rest.split_whitespace();
    let (uri, suite) = (words.next()?, words.next()?);
    let key = options.split_whitespace().find_map(|word| word.strip_prefix("signed-by="));
    let main = is_debian(uri) && !suite.contains("-security");
    main.then(|| (uri.to_owned(), key.map(str::to_owned)))
}

fn is_debian(uri: &str) -> bool {
    uri.trim_end_matches('/').ends_with("/debian")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_main_archive_is_found_in_both_forms_of_source() {
        let stanza =
            "Types: deb\n# a comment\nURIs: http://mirror/debian\nSuites: bookworm\nSigned-By: /k.gpg";
        assert_eq!(of_stanza(stanza), Some(("http://mirror/debian".into(), Some("/k.gpg".into()))));
        assert_eq!(of_stanza(&stanza.replace("bookworm", "bookworm-security")), None);
        let line = "deb [arch=amd64 signed-by=/k.gpg] http://mirror/debian/ trixie main";
        assert_eq!(of_line(line), Some(("http://mirror/debian/".into(), Some("/k.gpg".into()))));
        assert_eq!(of_line("# deb http://mirror/debian trixie main"), None);
        assert_eq!(of_line("deb http://mirror/docker trixie main"), None);
    }
}
