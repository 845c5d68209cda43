//! Core's source, of exactly the rustc that compiles it.
//!
//! Three places, in this order: the installed toolchain has it; rustup can add it; Debian has the
//! same release as the package `rust-src` in a newer suite than the machine's. For the last one the
//! machine's own package source is used with another suite (`apt`), without root and without touching the
//! machine's apt. A source of another release is never used.

use super::apt::Apt;
use super::toolchain::Rustc;
use crate::command::{quiet, say, text, which};
use crate::workspace::{Workspace, fresh_dir, write_file};
use anyhow::{Context, Result, bail};
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

const INSIDE: &str = "lib/rustlib/src/rust";
/// Debian suites that may carry a newer rustc than the machine's release, stablest first.
const SUITES: [&str; 3] = ["trixie-backports", "testing", "unstable"];

/// Where core's source is and which rustc finds it there.
pub struct RustSource {
    /// rustc, or the wrapper with the private sysroot.
    pub rustc: PathBuf,
    /// The folder that holds `library/`.
    pub folder: PathBuf,
}

/// Finds core's source or installs it.
pub fn ensure(ws: &Workspace, rustc: &Rustc) -> Result<RustSource> {
    let installed = RustSource { rustc: rustc.sysroot.join("bin/rustc"), folder: rustc.sysroot.join(INSIDE) };
    if holds_core(&installed.folder) {
        return Ok(installed);
    }
    let sysroot = ws.ebpf_toolchain().join(format!("sysroot-{}", rustc.release));
    let private = RustSource { rustc: sysroot.join("bin/rustc"), folder: sysroot.join(INSIDE) };
    if !holds_core(&private.folder) {
        if rustup_adds_it(&installed.folder) {
            return Ok(installed);
        }
        fetch_from_debian(ws, &rustc.release, &private.folder).with_context(|| {
            format!(
                "core's source of rustc {} is missing; `rustup component add rust-src` adds it",
                rustc.release
            )
        })?;
    }
    link_sysroot(&rustc.sysroot, &sysroot)?;
    Ok(private)
}

fn holds_core(folder: &Path) -> bool {
    folder.join("library/core/src/lib.rs").is_file() && folder.join("library/Cargo.lock").is_file()
}

fn rustup_adds_it(folder: &Path) -> bool {
    if which("rustup").is_none() {
        return false;
    }
    say("rust-src: asking rustup");
    quiet(Command::new("rustup").args(["component", "add", "rust-src"])).is_ok() && holds_core(folder)
}

/// Takes Debian's package of the same release and puts its `library/` into `folder`.
fn fetch_from_debian(ws: &Workspace, release: &str, folder: &Path) -> Result<()> {
    if !Apt::is_here() {
        bail!("rustup cannot add rust-src, and this is no Debian");
    }
    let work = ws.ebpf_toolchain().join("apt");
    for suite in SUITES {
        fresh_dir(&work)?;
        let apt = Apt::new(&work, suite)?;
        let Some(version) = version_of(&apt, release)? else { continue };
        say(format!("rust-src: Debian's {version} from {suite}"));
        apt.download(&[format!("rust-src={version}")])?;
        apt.unpack(&work.join("unpacked"))?;
        fs::create_dir_all(folder).with_context(|| format!("create {}", folder.display()))?;
        let library = work.join("unpacked/usr/src").join(format!("rustc-{release}")).join("library");
        // the package keeps a link at the other end; -L would follow links of the tests' fixtures
        quiet(Command::new("cp").arg("-a").arg(&library).arg(folder))?;
        return fs::remove_dir_all(&work).context("remove the unpacked package");
    }
    bail!("no suite of {SUITES:?} has rust-src {release}")
}

/// The package's version that is `release`, if this suite has it.
fn version_of(apt: &Apt, release: &str) -> Result<Option<String>> {
    let table = text(apt.cache().args(["madison", "rust-src"]))?;
    let versions = table.lines().filter_map(|line| line.split('|').nth(1)).map(str::trim);
    Ok(versions.filter(|v| is_release(v, release)).map(str::to_owned).next())
}

/// Is the Debian version `1.95.0+dfsg1-1~bpo13+1` the release `1.95.0`?
fn is_release(version: &str, release: &str) -> bool {
    let upstream = version.split_once(':').map_or(version, |(_, rest)| rest);
    upstream
        .strip_prefix(release)
        .is_some_and(|rest| !rest.starts_with(|c: char| c.is_ascii_digit() || c == '.'))
}

/// Makes `private` look like `installed`, with its own `lib/rustlib/src`, and the wrapper rustc.
fn link_sysroot(installed: &Path, private: &Path) -> Result<()> {
    for level in ["lib", "lib/rustlib"] {
        let (from, to) = (installed.join(level), private.join(level));
        for entry in fs::read_dir(&from).with_context(|| format!("list {}", from.display()))? {
            let name = entry.context("list the toolchain")?.file_name();
            let link = to.join(&name);
            if name != "rustlib" && name != "src" && link.symlink_metadata().is_err() {
                symlink(from.join(&name), &link).with_context(|| format!("link {}", link.display()))?;
            }
        }
    }
    let wrapper = private.join("bin/rustc");
    let script = format!(
        "#!/bin/sh\nexec '{}' --sysroot '{}' \"$@\"\n",
        installed.join("bin/rustc").display(),
        private.display()
    );
    fs::create_dir_all(private.join("bin")).context("make the private sysroot")?;
    // unchanged, its time stays and cargo rebuilds nothing
    if fs::read_to_string(&wrapper).is_ok_and(|text| text == script) {
        return Ok(());
    }
    write_file(&wrapper, script.as_bytes())?;
    fs::set_permissions(&wrapper, fs::Permissions::from_mode(0o755)).context("make the wrapper executable")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_same_release_is_taken() {
        assert!(is_release("1.95.0+dfsg1-1~bpo13+1", "1.95.0"));
        assert!(is_release("1:1.95.0-1", "1.95.0"));
        assert!(!is_release("1.95.01-1", "1.95.0"));
        assert!(!is_release("1.95.0.1-1", "1.95.0"));
        assert!(!is_release("1.94.0+dfsg1-1", "1.95.0"));
    }
}
