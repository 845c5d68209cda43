//! Servers that tests of stores over the network talk to on loopback: S3 (moto) and WebDAV (wsgidav), from PyPI.
//!
//! They lie in a Python environment of their own under the target folder. Where it cannot be made this is said, and
//! the tests that need it skip themselves.

use crate::command::{quiet, say, which};
use crate::workspace::Workspace;
use anyhow::{Context, Result};
use std::path::PathBuf;
use std::process::Command;

/// moto's server wants flask and flask-cors; its own list for that would bring sympy and docker along.
const PACKAGES: [&str; 5] =
    ["moto[s3]==5.2.5", "flask==3.1.3", "flask-cors==6.0.5", "wsgidav==4.4.0", "cheroot==11.1.2"];

/// Installs what is missing.
pub fn ensure(ws: &Workspace) {
    if let Err(error) = install(ws) {
        say(format!("no servers for the tests of S3 and WebDAV, going on without: {error:#}"));
    }
}

/// One of them; an error where it could not be installed.
pub fn program(ws: &Workspace, name: &str) -> Result<PathBuf> {
    let path = ws.target.join("servers/bin").join(name);
    path.is_file().then_some(path).with_context(|| format!("there is no {name} below the target folder"))
}

fn install(ws: &Workspace) -> Result<()> {
    let folder = ws.target.join("servers");
    let done = folder.join(format!("done-{}", PACKAGES.join("-").replace(['[', ']', '='], "")));
    if done.is_file() {
        return Ok(());
    }
    let python = which("python3").context("there is no python3")?;
    say("installing servers for tests from PyPI, once: moto, wsgidav");
    // an environment that an interrupted run left half done is made anew
    quiet(Command::new(python).args(["-m", "venv", "--clear"]).arg(&folder))
        .context("make a Python environment")?;
    let mut pip = Command::new(folder.join("bin/pip"));
    quiet(pip.args(["install", "--quiet", "--disable-pip-version-check"]).args(PACKAGES))?;
    std::fs::File::create(&done).with_context(|| format!("create {}", done.display()))?;
    Ok(())
}
