//! The first process of a guest: mounts, drivers, then commands from the host until it pulls the plug.

use super::serve;
use crate::host::run;
use anyhow::{Context, Result};
use rustix::mount::MountFlags;
use std::fs::{self, File, OpenOptions};
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// Where programs are; busybox's come last.
const PATH: &str = "/sbin:/usr/sbin:/bin:/usr/bin";

/// Kind, place, options.
const MOUNTS: [(&str, &str, &str); 8] = [
    ("proc", "/proc", ""),
    ("sysfs", "/sys", ""),
    ("devtmpfs", "/dev", ""),
    ("tmpfs", "/dev/shm", "size=90%"),
    ("tmpfs", "/run", "size=90%"),
    ("bpf", "/sys/fs/bpf", ""),
    ("securityfs", "/sys/kernel/security", ""),
    ("debugfs", "/sys/kernel/debug", ""),
];
/// Its folder comes with its module.
const CONFIGFS: (&str, &str, &str) = ("configfs", "/sys/kernel/config", "");

/// What the cases' devices hang on; the rest is loaded by the case that needs it.
const DRIVERS: [&str; 9] =
    ["virtio_pci", "virtio_console", "virtio_blk", "virtio_scsi", "sd_mod", "sg", "nvme", "loop", "configfs"];

/// Never returns: an init that ends makes the kernel panic, which ends the guest.
pub fn main() -> ! {
    if let Err(error) = prepare().and_then(|port| serve::serve(port, &ENVIRONMENT)) {
        println!("blkdelta-guest: init: {error:#}");
    }
    std::process::exit(1)
}

/// For every command.
const ENVIRONMENT: [(&str, &str); 5] = [
    ("PATH", PATH),
    ("HOME", "/"),
    ("BLKDELTA_BIN", "/bin/blkdelta"),
    // nobody answers in a machine without udev
    ("DM_DISABLE_UDEV", "1"),
    ("MDADM_NO_UDEV", "1"),
];

fn prepare() -> Result<File> {
    MOUNTS.iter().for_each(mount);
    fs::create_dir_all("/usr/sbin").and_then(|()| fs::create_dir_all("/usr/bin")).context("make /usr")?;
    run("/bin/busybox", ["--install", "-s", "/usr/bin"])?;
    for driver in DRIVERS {
        // may be built in
        let _ = run("/sbin/modprobe", ["-q", driver]);
    }
    mount(&CONFIGFS);
    run("/bin/busybox", ["ip", "link", "set", "lo", "up"])?;
    port()
}

/// Before anything else is run: a child's standard input is /dev/null.
fn mount((kind, place, options): &(&str, &str, &str)) {
    // a later folder is made by an earlier mount, or is not there in this kernel
    let _ = fs::create_dir_all(place);
    let options = std::ffi::CString::new(*options).unwrap_or_default();
    if let Err(error) = rustix::mount::mount(*kind, *place, *kind, MountFlags::empty(), options.as_c_str()) {
        println!("blkdelta-guest: init: mount {place}: {error}");
    }
}

/// The host's end of the wire, as soon as the driver has found it.
fn port() -> Result<File> {
    let give_up = Instant::now() + Duration::from_secs(30);
    loop {
        if let Some(path) = find_port() {
            return OpenOptions::new()
                .read(true)
                .write(true)
                .open(&path)
                .context("open the port to the host");
        }
        if Instant::now() > give_up {
            anyhow::bail!("no port to the host");
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn find_port() -> Option<PathBuf> {
    let ports = fs::read_dir("/sys/class/virtio-ports").ok()?.flatten();
    let named =
        |folder: &PathBuf| fs::read_to_string(folder.join("name")).is_ok_and(|n| n.trim() == "blkdelta");
    let folder = ports.map(|e| e.path()).find(named)?;
    let path = PathBuf::from("/dev").join(folder.file_name()?);
    path.exists().then_some(path)
}
