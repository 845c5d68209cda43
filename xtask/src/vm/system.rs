//! A Debian with systemd and dpkg, as small as it gets, made into the disk image of a guest; the product's package lies on
//! it, to be installed there. Here nothing is installed and no script of a package is run: packages are unpacked, the
//! few files that their scripts would write are written.

use super::scene;
use crate::command::{quiet, say};
use crate::setup::apt::Apt;
use crate::workspace::{Workspace, fresh_dir, write_file};
use anyhow::{Context, Result, ensure};
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

const SUITE: &str = "bookworm";
const PACKAGES: [&str; 19] = [
    "systemd",
    "systemd-sysv",
    "udev",
    "kmod",
    "mount",
    "util-linux",
    "e2fsprogs",
    "dash",
    "coreutils",
    "diffutils",
    "base-files",
    "base-passwd",
    "grep",
    "sed",
    // what installs packages, and what their scripts call
    "dpkg",
    "tar",
    "libc-bin",
    "init-system-helpers",
    "perl-base",
];
/// What nobody in the guest reads.
const USELESS: [&str; 4] = ["usr/share/doc", "usr/share/man", "usr/share/locale", "usr/lib/udev/hwdb.d"];

/// Files that packages' scripts or an administrator would write.
const FILES: [(&str, &str); 9] = [
    ("etc/hostname", "guest\n"),
    ("etc/machine-id", "0123456789abcdef0123456789abcdef\n"),
    (
        "etc/fstab",
        "LABEL=root / ext4 defaults 0 1\nLABEL=data /data ext4 defaults 0 2\nLABEL=store /store ext4 defaults 0 2\n",
    ),
    (
        "etc/blkdelta/data.conf",
        "DEVICE=/dev/disk/by-id/virtio-data\nREPO=/store/repo\nBACKUP_OPTIONS=\nAUDIT_OPTIONS=\n",
    ),
    (
        "etc/blkdelta/root.conf",
        "DEVICE=/dev/disk/by-id/virtio-root\nREPO=/store/repo\nBACKUP_OPTIONS=\nAUDIT_OPTIONS=\n",
    ),
    (
        "etc/systemd/system/wire.service",
        "[Unit]\nDescription=Commands from the host\n[Service]\nExecStart=/usr/bin/blkdelta-guest wire\n",
    ),
    // as far as this dpkg knows, it is the first package that is installed
    ("var/lib/dpkg/status", ""),
    ("var/lib/dpkg/available", ""),
    // a guest without a clock chip to keep: what the journal had is kept from boot to boot
    ("etc/systemd/journald.conf", "[Journal]\nStorage=persistent\n"),
];

/// Folders that they would make.
const FOLDERS: [&str; 10] = [
    "data",
    "store",
    "root",
    "etc/blkdelta",
    "var/log/journal",
    "var/lib/dpkg/info",
    "var/lib/dpkg/updates",
    "var/lib/dpkg/triggers",
    "var/cache",
    "etc/systemd/system/multi-user.target.wants",
];

/// The image of the root disk, labelled `root`, of so many MiB.
pub fn image(ws: &Workspace, guest: &Path, packages: &[PathBuf; 2], to: &Path, mib: u64) -> Result<()> {
    let folder = super::fetch::place(ws).join("system");
    unpacked(ws, &folder)?;
    equip(guest, packages, &folder)?;
    let mut make = Command::new("mkfs.ext4");
    make.args(["-q", "-F", "-L", "root", "-d"]).arg(&folder).arg(to).arg(format!("{mib}M"));
    quiet(&mut make).context("make the guest's root file system").map(drop)
}

/// A disk image with an empty ext4 of this label.
pub fn empty(to: &Path, label: &str, mib: u64) -> Result<()> {
    let mut make = Command::new("mkfs.ext4");
    make.args(["-q", "-F", "-L", label]).arg(to).arg(format!("{mib}M"));
    quiet(&mut make).with_context(|| format!("make the file system {label}")).map(drop)
}

/// The packages, unpacked once.
fn unpacked(ws: &Workspace, folder: &Path) -> Result<()> {
    let mark = folder.with_extension("ok");
    let wanted = PACKAGES.join(" ");
    if fs::read_to_string(&mark).is_ok_and(|have| have == wanted) {
        return Ok(());
    }
    fresh_dir(folder)?;
    // one /usr, as Debian is installed; packages of this suite still name /bin and /lib
    for place in ["bin", "sbin", "lib", "lib64"] {
        fs::create_dir_all(folder.join("usr").join(place)).with_context(|| format!("make {place}"))?;
        symlink(format!("usr/{place}"), folder.join(place)).with_context(|| format!("link {place}"))?;
    }
    let work = super::fetch::place(ws).join("apt-system");
    fresh_dir(&work)?;
    let apt = Apt::new(&work, SUITE)?;
    say("fetching a small Debian with systemd");
    apt.download_with_dependencies(&PACKAGES)?;
    apt.each_package(|package| unpack(package, folder))?;
    fs::remove_dir_all(&work).context("remove the packages")?;
    for useless in USELESS {
        fs::remove_dir_all(folder.join(useless)).with_context(|| format!("remove {useless}"))?;
    }
    for (name, master) in [("passwd", "passwd.master"), ("group", "group.master")] {
        let master = folder.join("usr/share/base-passwd").join(master);
        fs::copy(master, folder.join("etc").join(name)).with_context(|| format!("write {name}"))?;
    }
    write_file(&mark, wanted.as_bytes())
}

/// As `dpkg -x`, which would put folders in place of the links to /usr.
fn unpack(package: &Path, folder: &Path) -> Result<()> {
    let mut files = Command::new("dpkg-deb");
    files.arg("--fsys-tarfile").arg(package).stdout(Stdio::piped());
    let mut files = files.spawn().context("start dpkg-deb")?;
    let out = files.stdout.take().context("output of dpkg-deb")?;
    let mut tar = Command::new("tar");
    tar.args(["-x", "--keep-directory-symlink", "-C"]).arg(folder).stdin(out);
    let unpacked = tar.status().context("start tar")?;
    let packed = files.wait().context("wait for dpkg-deb")?;
    let done = unpacked.success() && packed.success();
    ensure!(done, "{}: dpkg-deb ended with {packed}, tar with {unpacked}", package.display());
    Ok(())
}

/// The product's packages, and the host's hand.
fn equip(guest: &Path, packages: &[PathBuf; 2], folder: &Path) -> Result<()> {
    let inside = |path: &str| folder.join(path.trim_start_matches('/'));
    let copy = |from: &Path, to: PathBuf| {
        fs::copy(from, &to).map(drop).with_context(|| format!("copy {} to {}", from.display(), to.display()))
    };
    for path in FOLDERS {
        fs::create_dir_all(inside(path)).with_context(|| format!("make {path}"))?;
    }
    copy(guest, inside("usr/bin/blkdelta-guest"))?;
    for (package, name) in packages.iter().zip(scene::PACKAGES) {
        copy(package, inside(name))?;
    }
    for (path, text) in FILES {
        write_file(&inside(path), text.as_bytes())?;
    }
    let wanted = inside("etc/systemd/system/multi-user.target.wants/wire.service");
    if !wanted.is_symlink() {
        symlink("../wire.service", wanted).context("enable the host's hand")?;
    }
    Ok(())
}
