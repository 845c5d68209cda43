//! The first process of a guest: mounts, drivers, then commands from the host until it pulls the plug.

use super::serve;
use crate::host::run;
use anyhow::{Context, Result};
use std::fs::{self, File, OpenOptions};
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// Where programs are; busybox's come last.
const PATH: &str = "/sbin:/usr/sbin:/bin:/usr/bin";

const MOUNTS: [(&str, &str, &str); 9] = [
    ("proc", "/proc", "rw"),
    ("sysfs", "/sys", "rw"),
    ("devtmpfs", "/dev", "rw"),
    ("tmpfs", "/dev/shm", "size=90%"),
    ("tmpfs", "/run", "size=90%"),
    ("bpf", "/sys/fs/bpf", "rw"),
    ("securityfs", "/sys/kernel/security", "rw"),
    ("configfs", "/sys/kernel/config", "rw"),
    ("debugfs", "/sys/kernel/debug", "rw"),
];

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
    let busybox = |words: &[&str]| run("/bin/busybox", words);
    for (kind, place, options) in MOUNTS {
        // a later folder is made by an earlier mount, or is not there in this kernel
        let _ = fs::create_dir_all(place);
        if let Err(error) = busybox(&["mount", "-t", kind, "-o", options, kind, place]) {
            println!("blkdelta-guest: init: {error:#}");
        }
    }
    fs::create_dir_all("/usr/sbin").and_then(|()| fs::create_dir_all("/usr/bin")).context("make /usr")?;
    busybox(&["--install", "-s", "/usr/bin"])?;
    for driver in DRIVERS {
        // may be built in
        let _ = run("/sbin/modprobe", ["-q", driver]);
    }
    // a second time, now that the folder is there
    let _ = busybox(&["mount", "-t", "configfs", "configfs", "/sys/kernel/config"]);
    let _ = busybox(&["ip", "link", "set", "lo", "up"]);
    port()
}

/// The host's end of the wire, as soon as the driver has found it.
fn port() -> Result<File> {
    let give_up = Instant::now() + Duration::from_secs(30);
    loop {
        if let Some(path) = find_port() {
            return OpenOptions::new().read(true).write(true).open(&path).context("open the port to the host");
        }
        if Instant::now() > give_up {
            anyhow::bail!("no port to the host");
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn find_port() -> Option<PathBuf> {
    let ports = fs::read_dir("/sys/class/virtio-ports").ok()?.flatten();
    let named = |folder: &PathBuf| fs::read_to_string(folder.join("name")).is_ok_and(|n| n.trim() == "blkdelta");
    let folder = ports.map(|e| e.path()).find(named)?;
    let path = PathBuf::from("/dev").join(folder.file_name()?);
    path.exists().then_some(path)
}
