//! The first process of a guest: mounts, drivers, then commands from the host until it pulls the plug.
//!
//! Told `blkdelta.root=SERIAL`, it is what an initramfs is elsewhere: it mounts that disk, read-only as the kernel does,
//! and makes way for the init on it; the host's commands are then taken by a service ([`wire`]).

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
const DRIVERS: [&str; 4] = ["virtio_pci", "virtio_console", "loop", "configfs"];
/// Those of disks: told `blkdelta.late`, it leaves them for later, and no disk is looked at before.
const DISK_DRIVERS: [&str; 5] = ["virtio_blk", "virtio_scsi", "sd_mod", "sg", "nvme"];

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

/// Takes the host's commands in a system with an init of its own.
pub fn wire() -> Result<()> {
    serve::serve(port()?, &ENVIRONMENT)
}

fn prepare() -> Result<File> {
    MOUNTS.iter().for_each(mount);
    fs::create_dir_all("/usr/sbin").and_then(|()| fs::create_dir_all("/usr/bin")).context("make /usr")?;
    run("/bin/busybox", ["--install", "-s", "/usr/bin"])?;
    load(&DRIVERS);
    if word("blkdelta.late").is_none() {
        load_disk_drivers();
    }
    if let Some(serial) = word("blkdelta.root=") {
        return Err(make_way(&serial));
    }
    mount(&CONFIGFS);
    run("/bin/busybox", ["ip", "link", "set", "lo", "up"])?;
    port()
}

/// From here on there are disks.
pub fn load_disk_drivers() {
    load(&DISK_DRIVERS);
}

fn load(drivers: &[&str]) {
    for driver in drivers {
        // may be built in
        let _ = run("/sbin/modprobe", ["-q", driver]);
    }
}

/// What follows `key` in the words given to the kernel.
fn word(key: &str) -> Option<String> {
    let line = fs::read_to_string("/proc/cmdline").ok()?;
    line.split_whitespace().find_map(|word| word.strip_prefix(key)).map(str::to_owned)
}

/// Returns only if that fails.
fn make_way(serial: &str) -> anyhow::Error {
    let mounted = || -> Result<()> {
        let device = super::make::disk(serial)?;
        fs::create_dir_all("/root")?;
        run("/sbin/modprobe", ["ext4"])?;
        rustix::mount::mount(&device, "/root", "ext4", MountFlags::RDONLY, c"").context("mount the root")?;
        // the next init mounts its own
        for (_, place, _) in MOUNTS.iter().rev() {
            let _ = rustix::mount::unmount(*place, rustix::mount::UnmountFlags::DETACH);
        }
        Ok(())
    };
    match mounted() {
        Err(error) => error,
        Ok(()) => {
            let mut next = std::process::Command::new("/bin/busybox");
            std::os::unix::process::CommandExt::exec(next.args(["switch_root", "/root", "/sbin/init"])).into()
        }
    }
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
