//! Kernels and the guest's programs, as Debian packages, unpacked below the target folder.
//!
//! ```text
//!   target/vm/kernel-NAME/    boot/vmlinuz-*, lib/modules/* (or usr/lib/modules/*)
//!   target/vm/tools/          what the guest's programs come from
//! ```
//! A folder without its `.ok` is of a run that was interrupted, and is made again.

use super::kernels::Kernel;
use crate::command::{quiet, say};
use crate::setup::apt::Apt;
use crate::workspace::{Workspace, fresh_dir, write_file};
use anyhow::{Context, Result, bail, ensure};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The suite of the guest's programs, whatever its kernel.
const SUITE: &str = "bookworm";

/// What brings the guest's programs.
const PACKAGES: [&str; 16] = [
    "dash",
    "busybox-static",
    "kmod",
    "dmsetup",
    "lvm2",
    "mdadm",
    "thin-provisioning-tools",
    "util-linux",
    "mount",
    "fdisk",
    "e2fsprogs",
    "xfsprogs",
    "btrfs-progs",
    "nbd-server",
    "nbd-client",
    "sg3-utils",
];

/// An unpacked kernel.
#[derive(Clone, Debug)]
pub struct KernelFiles {
    /// The image that qemu loads.
    pub image: PathBuf,
    /// Its full version, as `uname -r` says it.
    pub version: String,
    /// The folder with `lib/modules`.
    pub root: PathBuf,
}

/// Where everything of the guests lies.
pub fn place(ws: &Workspace) -> PathBuf {
    ws.target.join("vm")
}

/// Held while things are fetched and unpacked: two runs may want the same.
pub fn alone(ws: &Workspace) -> Result<fs::File> {
    fs::create_dir_all(place(ws)).context("make the guests' folder")?;
    let lock = fs::File::create(place(ws).join("lock")).context("create the lock")?;
    lock.lock().context("wait for the lock")?;
    Ok(lock)
}

/// The guest's programs; fetched once.
pub fn tools(ws: &Workspace) -> Result<PathBuf> {
    let folder = place(ws).join("tools");
    let wanted = PACKAGES.join(" ");
    if fs::read_to_string(folder.join(".ok")).is_ok_and(|have| have == wanted) {
        return Ok(folder);
    }
    fresh_dir(&folder)?;
    let work = place(ws).join("apt-tools");
    fresh_dir(&work)?;
    let apt = Apt::new(&work, SUITE)?;
    say("fetching the guest's programs");
    apt.download_with_dependencies(&PACKAGES)?;
    apt.unpack(&folder)?;
    fs::remove_dir_all(&work).context("remove the packages")?;
    write_file(&folder.join(".ok"), wanted.as_bytes())?;
    Ok(folder)
}

/// A kernel; fetched once.
pub fn kernel(ws: &Workspace, kernel: &Kernel, tools: &Path) -> Result<KernelFiles> {
    let folder = place(ws).join(format!("kernel-{}", kernel.name));
    if !folder.join(".ok").exists() {
        fresh_dir(&folder)?;
        let work = place(ws).join(format!("apt-{}", kernel.suite));
        fresh_dir(&work)?;
        unpack_kernel(&Apt::new(&work, kernel.suite)?, kernel, &folder)?;
        fs::remove_dir_all(&work).context("remove the packages")?;
        let files = found(&folder)?;
        quiet(kmod(tools, "depmod")?.arg("-b").arg(&folder).arg(&files.version))?;
        write_file(&folder.join(".ok"), b"")?;
    }
    found(&folder)
}

/// The image's package, and those that hold its modules where they are apart.
fn unpack_kernel(apt: &Apt, kernel: &Kernel, folder: &Path) -> Result<()> {
    let metapackage = "linux-image-amd64";
    let mut packages: Vec<String> = apt.depends_of(metapackage)?;
    packages.retain(|name| name.starts_with(kernel.package));
    let Some(image) = packages.pop() else {
        bail!("{metapackage} of {} is no longer a {}*: see kernels.rs", kernel.suite, kernel.package);
    };
    let parts = apt.depends_of(&image)?;
    let modules = ["linux-modules-", "linux-binary-", "linux-base-"];
    let apart = parts.into_iter().filter(|name| modules.iter().any(|m| name.starts_with(m)));
    let all: Vec<String> = std::iter::once(image).chain(apart).collect();
    say(format!("fetching kernel {} from {}: {}", kernel.name, kernel.suite, all.join(" ")));
    apt.download(&all)?;
    apt.unpack(folder)?;
    // newer releases install below /usr; every program still looks in /lib
    if !folder.join("lib/modules").exists() {
        fs::create_dir_all(folder.join("lib")).context("make lib")?;
        std::os::unix::fs::symlink("../usr/lib/modules", folder.join("lib/modules"))
            .context("link lib/modules")?;
    }
    Ok(())
}

fn found(folder: &Path) -> Result<KernelFiles> {
    let modules = folder.join("lib/modules");
    let entries = fs::read_dir(&modules).with_context(|| format!("list {}", modules.display()))?;
    let mut versions: Vec<String> =
        entries.flatten().map(|e| e.file_name().to_string_lossy().into_owned()).collect();
    versions.sort();
    let version = versions.pop().context("the kernel's packages have no modules")?;
    let places = [folder.join(format!("boot/vmlinuz-{version}")), modules.join(&version).join("vmlinuz")];
    let image = places.into_iter().find(|path| path.is_file());
    let image = image.with_context(|| format!("no image of {version} in {}", folder.display()))?;
    Ok(KernelFiles { image, version, root: folder.into() })
}

/// A program of the guest's, run here by its own loader with its own libraries.
pub fn foreign(tools: &Path, program: &Path, name: &str) -> Result<Command> {
    let loader = loader(tools)?;
    let mut command = Command::new(loader);
    command.arg("--argv0").arg(name).arg("--library-path").arg(libraries(tools)).arg(program);
    Ok(command)
}

/// depmod and modprobe are one program under different names.
pub fn kmod(tools: &Path, name: &str) -> Result<Command> {
    foreign(tools, &tools.join("bin/kmod"), name)
}

/// The loader of shared programs.
pub fn loader(tools: &Path) -> Result<PathBuf> {
    let path = tools.join("lib/x86_64-linux-gnu/ld-linux-x86-64.so.2");
    ensure!(path.is_file(), "the packages have no {}", path.display());
    Ok(path)
}

/// Folders of shared libraries, as the loader takes them.
pub fn libraries(tools: &Path) -> String {
    let folders = ["lib/x86_64-linux-gnu", "usr/lib/x86_64-linux-gnu"];
    folders.map(|folder| tools.join(folder).display().to_string()).join(":")
}
