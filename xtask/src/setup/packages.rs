//! Debian packages: installed by apt-get when we are root, named when we are not.
//!
//! A package counts as present when its program is, so that other distributions work too.

use crate::command::{is_root, quiet, say, which};
use anyhow::{Context, Result};
use std::process::Command;

/// One package and a program it brings.
pub struct Package {
    name: &'static str,
    program: &'static str,
}

/// For `run` and `test`.
pub const TEST: &[Package] = &[
    Package { name: "util-linux", program: "losetup" },
    Package { name: "fdisk", program: "sfdisk" },
    Package { name: "e2fsprogs", program: "mkfs.ext4" },
    Package { name: "xfsprogs", program: "mkfs.xfs" },
    Package { name: "btrfs-progs", program: "mkfs.btrfs" },
    Package { name: "qemu-utils", program: "qemu-img" },
    Package { name: "python3", program: "python3" },
    Package { name: "zstd", program: "zstd" },
];

/// For `vm` besides.
pub const VM: &[Package] = &[
    Package { name: "qemu-system-x86", program: "qemu-system-x86_64" },
    Package { name: "xz-utils", program: "xz" },
];

/// For `test --soak` besides. Debian puts PostgreSQL's own programs under `/usr/lib/postgresql`, its wrappers on the PATH.
pub const SOAK: &[Package] = &[
    Package { name: "sqlite3", program: "sqlite3" },
    Package { name: "postgresql", program: "pg_lsclusters" },
    Package { name: "coreutils", program: "stdbuf" },
];

/// For `bench` besides.
pub const BENCH: &[Package] = &[
    Package { name: "restic", program: "restic" },
    Package { name: "borgbackup", program: "borg" },
    Package { name: "fio", program: "fio" },
    Package { name: "blktrace", program: "blktrace" },
];

/// Installs what is missing. What cannot be installed is said; the tests that need it skip themselves.
pub fn ensure(packages: &[Package]) {
    let missing: Vec<&str> = packages.iter().filter(|p| which(p.program).is_none()).map(|p| p.name).collect();
    if missing.is_empty() {
        return;
    }
    let names = missing.join(" ");
    if which("apt-get").is_none() {
        say(format!("missing: {names}; there is no apt-get here, please install them"));
        return;
    }
    if !is_root() {
        say(format!("missing: {names}; as root: apt-get install {names}"));
        return;
    }
    say(format!("installing Debian packages: {names}"));
    if let Err(error) = install(&missing) {
        say(format!("could not install {names}, going on without: {error:#}"));
    }
}

fn install(names: &[&str]) -> Result<()> {
    quiet(Command::new("apt-get").arg("update")).context("refresh the package lists")?;
    let mut install = Command::new("apt-get");
    install.env("DEBIAN_FRONTEND", "noninteractive");
    install.args(["install", "--yes", "--quiet", "--no-install-recommends"]).args(names);
    quiet(&mut install)?;
    Ok(())
}
