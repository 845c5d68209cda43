//! `cargo xtask vm`: the cases of `tests/src/guest` on the kernels of the table, in guests of our own.
//!
//! What must stay true: a kind that could not be run is absent, never passed; a guest ends with us; nothing but
//! files below the target folder and in memory is written. docs/KERNELS.md is made from the results that are
//! kept in `target/vm/results`.

mod cpio;
mod daemon;
mod document;
mod fetch;
mod guest;
mod image;
mod initramfs;
mod kernels;
mod machine;
mod modules;
mod package;
mod power;
mod programs;
mod round;
mod scene;
mod system;
mod systemd;
mod tally;
mod userland;

pub use document::{check, write as page};
pub use scene::Play;

use crate::command::{say, which};
use crate::dist;
use crate::rig::process;
use crate::setup::apt::Apt;
use crate::setup::packages;
use crate::workspace::Workspace;
use anyhow::{Result, bail};
use initramfs::Extent;
use kernels::Kernel;
use std::path::{Path, PathBuf};

/// What the command line asks for.
pub struct Wish<'a> {
    /// Names of kernels; none: all.
    pub kernels: &'a [String],
    /// Only cases whose name contains one of these; none: all.
    pub only: &'a [String],
    /// Put the results into docs/KERNELS.md.
    pub write: bool,
    /// Not the cases, but so many power cuts.
    pub power_cuts: Option<usize>,
    /// Not the cases, but this, in a Debian with systemd.
    pub play: Option<Play>,
    /// Of the power cuts; none: from the clock.
    pub seed: Option<u64>,
}

/// Why there can be no guests here, if so.
pub fn impossible() -> Option<String> {
    packages::ensure(packages::VM);
    if which("qemu-system-x86_64").is_none() {
        return Some("there is no qemu-system-x86_64".into());
    }
    let debian = Apt::is_here();
    (!debian).then(|| "kernels come as Debian packages, and there is no apt-get and dpkg here".into())
}

/// Every case on every kernel.
pub fn all(ws: &Workspace) -> Result<()> {
    vm(ws, &Wish { kernels: &[], only: &[], write: false, power_cuts: None, play: None, seed: None })
}

/// Runs the cases; an error if one failed or came out otherwise than the table expects.
pub fn vm(ws: &Workspace, wish: &Wish) -> Result<()> {
    if let Some(why) = impossible() {
        bail!("no guests: {why}");
    }
    process::listen()?;
    let chosen = kernels::chosen(wish.kernels)?;
    let alone = fetch::alone(ws)?;
    let tools = fetch::tools(ws)?;
    chosen.iter().try_for_each(|kernel| fetch::kernel(ws, kernel, &tools).map(drop))?;
    drop(alone);
    let programs = programs::build(ws)?;
    let packages = wish.play.map(|_| dist::pair(ws)).transpose()?;
    let mut failures = Vec::new();
    for kernel in &chosen {
        let done = match (wish.play, &packages) {
            (Some(play), Some(packages)) => played(ws, kernel, &tools, &programs, (play, packages)),
            _ => one_kernel(ws, kernel, &tools, &programs, wish),
        };
        match done {
            Ok(failed) => failures.extend(failed),
            Err(error) => failures.push(format!("kernel {}: {error:#}", kernel.name)),
        }
        process::go_on()?;
    }
    if wish.write {
        document::write(ws)?;
    }
    if !failures.is_empty() {
        failures.iter().for_each(|failure| println!("FAILED: {failure}"));
        bail!("{} cases failed", failures.len());
    }
    Ok(())
}

fn one_kernel(
    ws: &Workspace,
    kernel: &Kernel,
    tools: &Path,
    programs: &programs::Programs,
    wish: &Wish,
) -> Result<Vec<String>> {
    let files = fetch::kernel(ws, kernel, tools)?;
    // kinds of runs may go on side by side
    let seed = wish.seed.unwrap_or_else(clock);
    let kind = wish.power_cuts.map_or_else(String::new, |_| format!("-power-{seed}"));
    let bed = round::Bed::new(ws, &format!("{}{kind}", kernel.name))?;
    let extent = if wish.power_cuts.is_some() { Extent::Little } else { Extent::Everything };
    // what it is put together from is shared
    let alone = fetch::alone(ws)?;
    let initramfs = initramfs::make(&files, tools, programs, extent, bed.logs())?;
    drop(alone);
    say(format!("kernel {} ({})", kernel.name, files.version));
    if let Some(cuts) = wish.power_cuts {
        let means =
            power::Means { bed: &bed, image: image::plain(&files), initramfs, blkdelta: &programs.blkdelta };
        return power::run(means, &files, cuts, seed).map(|()| Vec::new());
    }
    let keep = |round: &round::Round| document::keep(ws, kernel.name, round);
    let found = round::run(&bed, &files, &initramfs, wish.only, keep)?;
    found.print(kernel.name);
    Ok(found.failures(kernel.name))
}

/// A play in a Debian with systemd.
fn played(
    ws: &Workspace,
    kernel: &Kernel,
    tools: &Path,
    programs: &programs::Programs,
    (play, packages): (Play, &[PathBuf; 2]),
) -> Result<Vec<String>> {
    let files = &fetch::kernel(ws, kernel, tools)?;
    let bed = &round::Bed::new(ws, &format!("{}-{}", kernel.name, play.word()))?;
    say(format!("kernel {} ({}), {}", kernel.name, files.version, play.title()));
    let seen = scene::run(ws, play, &scene::Parts { bed, kernel: files, tools, programs, packages })?;
    document::keep_seen(ws, kernel.name, play, &files.version, &seen).map(|()| Vec::new())
}

/// A seed nobody chose.
fn clock() -> u64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    now.map_or(1, |time| time.as_nanos() as u64)
}
