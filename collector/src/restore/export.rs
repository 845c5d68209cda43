//! A point as an image file that other programs read: raw, or qcow2 made by qemu-img.
//!
//! qemu-img wants to seek in what it converts, so it gets the point as a sparse raw file in a temporary folder beside
//! the result; that is on the result's own medium, and needs room for the point's content there for the time.
//!
//! What must stay true: under the result's name there is a whole image or what was there before.

use super::{How, Leave, Restore};
use crate::copy::Watch;
use crate::error::{Context, Error, Kind, Result};
use crate::sys::sync_folder;
use serde::Serialize;
use std::fs::File;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

/// Which kind of image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Image {
    /// The bytes of the device; a sparse file.
    Raw,
    /// QEMU's format, compressed or not.
    Qcow2 {
        /// By qemu-img's own means.
        compressed: bool,
    },
}

/// An image that was made.
#[derive(Clone, Debug, Serialize)]
pub struct Exported {
    /// The point.
    pub point: String,
    /// Bytes of the device.
    pub size: u64,
    /// `raw` or `qcow2`.
    pub format: &'static str,
    /// Bytes of the image file, holes included.
    pub bytes: u64,
    /// The point is not suspect.
    pub sound: bool,
    /// What a person should know.
    pub warnings: Vec<String>,
}

/// Writes the point as an image named `out`; with `overwrite` in place of what is there.
///
/// # Errors
/// A refusal, damage in the repository, no qemu-img, or its failure.
pub fn export(
    restore: &Restore<'_>,
    out: &Path,
    image: Image,
    overwrite: bool,
    watch: &dyn Watch,
) -> Result<Exported> {
    refuse(out, overwrite)?;
    if image != Image::Raw {
        ask_qemu()?;
    }
    let folder = out.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let what = || format!("make a temporary folder in {}", folder.display());
    let place = tempfile::Builder::new().prefix(".blkdelta-export-").tempdir_in(folder).os_context(what)?;
    let raw = place.path().join("point.raw");
    let restored = restore.run(&raw, Leave::default(), How::default(), watch)?;
    let (made, format) = match image {
        Image::Raw => (raw, "raw"),
        Image::Qcow2 { compressed } => {
            let made = place.path().join("point.qcow2");
            convert(&raw, &made, compressed, watch)?;
            (made, "qcow2")
        }
    };
    let file = File::open(&made).os_context(|| format!("open {}", made.display()))?;
    file.sync_all().os_context(|| format!("sync {}", made.display()))?;
    rustix::fs::rename(&made, out).os_context(|| format!("name the image {}", out.display()))?;
    sync_folder(folder)?;
    Ok(Exported {
        point: restored.point,
        size: restored.size,
        format,
        bytes: file.metadata().map_or(0, |m| m.len()),
        sound: restored.sound,
        warnings: restored.warnings,
    })
}

fn refuse(out: &Path, overwrite: bool) -> Result<()> {
    match out.metadata() {
        Ok(there) if !there.is_file() => {
            let text = format!("export to {}: it is there and no file", out.display());
            Err(Error::new(Kind::Usage, text).hint("`blkdelta restore` writes devices"))
        }
        Ok(there) if there.len() > 0 && !overwrite => {
            let text = format!("{} exists and is not empty", out.display());
            Err(Error::new(Kind::Exists, text).hint("name another file, or say --overwrite"))
        }
        _ => Ok(()),
    }
}

fn qemu() -> Command {
    let mut command = Command::new("qemu-img");
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    command
}

/// It is there, before an hour's work is done for it.
fn ask_qemu() -> Result<()> {
    match qemu().arg("--version").stderr(Stdio::null()).status() {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => Err(Error::new(Kind::Unsupported, format!("qemu-img --version: {status}"))),
        Err(e) => Err(Error::os("export to qcow2: start qemu-img", e).hint(
            "install it (Debian: qemu-utils, Fedora and SUSE: qemu-img or qemu-tools), or export --format raw",
        )),
    }
}

fn convert(raw: &Path, made: &Path, compressed: bool, watch: &dyn Watch) -> Result<()> {
    let mut command = qemu();
    command.args(["convert", "-f", "raw", "-O", "qcow2"]).args(compressed.then_some("-c"));
    let child = command.arg(raw).arg(made).spawn().os_context(|| "start qemu-img".into())?;
    let output = end_of(child, watch)?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(Error::new(Kind::Io, format!("qemu-img convert: {}: {}", output.status, said.trim())))
}

/// Waits for it, or ends it when we are to stop.
fn end_of(mut child: Child, watch: &dyn Watch) -> Result<std::process::Output> {
    let what = || "wait for qemu-img".to_owned();
    while child.try_wait().os_context(what)?.is_none() {
        if watch.stopped() {
            child.kill().and_then(|()| child.wait()).os_context(what)?;
            return Err(Error::new(Kind::Interrupted, "stopped"));
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    child.wait_with_output().os_context(what)
}
