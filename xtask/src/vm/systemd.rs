//! `cargo xtask vm --systemd`: the shipped units under a real systemd, over a clean reboot and a power cut.
//!
//! ```text
//!   disk "root"    Debian, /var/lib/blkdelta; tracked as well: the hard case
//!   disk "data"    ext4, mounted by fstab; tracked
//!   disk "store"   ext4, mounted by fstab; the repository
//! ```
//! The words of README.md are followed: units copied, enabled, `track` once. Each check is a sentence that goes into
//! docs/KERNELS.md; the first one that is not true ends the run.

use super::fetch::{self, KernelFiles};
use super::guest::Guest;
use super::initramfs::{self, Extent};
use super::machine::{Bus, Disk, Machine, Past};
use super::round::Bed;
use super::{image, programs::Programs, system};
use crate::command::say;
use crate::rig::process::sleep;
use crate::workspace::Workspace;
use anyhow::{Context, Result, ensure};
use serde_json::Value;
use std::path::Path;
use std::time::Duration;

const LIMIT: Duration = Duration::from_secs(900);
const ROOT_MIB: u64 = 320;
const DATA_MIB: u64 = 48;
const STORE_MIB: u64 = 1024;

/// A machine with systemd, and what was seen to be true.
struct Scene {
    machine: Machine,
    seen: Vec<String>,
}

/// All of it on one kernel; what was seen.
pub fn run(
    ws: &Workspace,
    bed: &Bed,
    files: &KernelFiles,
    tools: &Path,
    programs: &Programs,
) -> Result<Vec<String>> {
    let alone = fetch::alone(ws)?;
    let initramfs = initramfs::make(files, tools, programs, Extent::Little, bed.logs())?;
    let disks = ["root", "data", "store"].map(|serial| Disk::new(bed.disks(), serial, Bus::Virtio));
    system::image(ws, programs, &disks[0].file, ROOT_MIB)?;
    drop(alone);
    system::empty(&disks[1].file, "data", DATA_MIB)?;
    system::empty(&disks[2].file, "store", STORE_MIB)?;
    let machine = Machine {
        image: image::plain(files),
        initramfs,
        memory: 768,
        processors: 2,
        past: Past::None,
        arguments: "blkdelta.root=root systemd.show_status=0 systemd.log_level=info".into(),
        disks: disks.to_vec(),
        folder: bed.logs().join("systemd"),
    };
    let mut scene = Scene { machine, seen: Vec::new() };
    let ended = scene.play();
    scene.seen.iter().for_each(|line| say(format!("  seen: {line}")));
    ended.map(|()| scene.seen)
}

impl Scene {
    fn play(&mut self) -> Result<()> {
        let guest = self.first_start()?;
        let guest = self.clean_reboot(guest)?;
        self.power_cut(guest)
    }

    fn see(&mut self, what: impl Into<String>) {
        let what = what.into();
        say(format!("  {what}"));
        self.seen.push(what);
    }

    /// Installed and enabled as README.md says; the first backups by the shipped unit.
    fn first_start(&mut self) -> Result<Guest> {
        let mut guest = Guest::boot(&self.machine)?;
        sh(&mut guest, "systemctl is-system-running --wait || true")?;
        let version = sh(&mut guest, "systemctl --version | head -n 1")?;
        let complaints = sh(
            &mut guest,
            "cd /etc/systemd/system && systemd-analyze verify blkdelta*.service blkdelta*.timer 2>&1",
        )?;
        ensure!(complaints.is_empty(), "systemd-analyze verify: {complaints}");
        self.see(format!("{version}: `systemd-analyze verify` has nothing to say about the shipped units"));
        sh(&mut guest, "systemctl enable --now blkdelta.service blkdelta-monitor.service")?;
        sh(&mut guest, "blkdelta track /dev/disk/by-id/virtio-data /dev/disk/by-id/virtio-root")?;
        write(&mut guest, "before")?;
        for name in ["data", "root"] {
            let point = backup(&mut guest, name)?;
            ensure!(point["kind"] == "full", "the first backup of {name}: {point}");
        }
        Ok(guest)
    }

    /// `systemctl reboot` while the data disk is in use.
    fn clean_reboot(&mut self, mut guest: Guest) -> Result<Guest> {
        write(&mut guest, "between")?;
        guest.start(&["systemctl", "reboot"], LIMIT)?;
        guest.gone(LIMIT)?;
        let mut guest = Guest::boot(&self.machine)?;
        sh(&mut guest, "systemctl is-system-running --wait || true")?;
        let saved = sh(&mut guest, "journalctl -b -1 -u blkdelta.service -o cat")?;
        ensure!(saved.contains("vdb: saved") || saved.contains("data: saved"), "at the stop: {saved}");
        let back = sh(&mut guest, "journalctl -b -u blkdelta.service -o cat")?;
        ensure!(back.contains("nothing was written meanwhile"), "at the start: {back}");
        in_order(&mut guest)?;
        self.see(
            "`systemctl reboot`: `save` ran after the data disk was unmounted and before power off, `resume` before it \
             was checked and mounted; its tracking is proved",
        );
        let status = status(&mut guest, "data")?;
        ensure!(suspects(&status).is_empty(), "status after the reboot: {status}");
        let point = backup(&mut guest, "data")?;
        let read = read_bytes(&point);
        ensure!(point["kind"] == "incremental" && suspects(&point).is_empty(), "after the reboot: {point}");
        ensure!(read < DATA_MIB << 19, "the backup after the reboot read {read} bytes");
        self.see(format!(
            "the backup after it is an incremental that reads {:.1} of {DATA_MIB} MiB (3 MiB were written)",
            mib(read)
        ));
        let root = backup(&mut guest, "root")?;
        ensure!(
            !suspects(&root).is_empty() && root["kind"] == "incremental",
            "root after the reboot: {root}"
        );
        self.see(format!(
            "the root file system, tracked too, is suspect after it (it is never at rest): its backup compares, reads \
             {:.0} of {ROOT_MIB} MiB and stores {:.1}",
            mib(read_bytes(&root)),
            mib(root["totals"]["stored_bytes"].as_u64().unwrap_or_default())
        ));
        self.same(&mut guest, "the reboot")?;
        Ok(guest)
    }

    /// No power, in the midst of writing.
    fn power_cut(&mut self, mut guest: Guest) -> Result<()> {
        let words = [
            "sh",
            "-c",
            "while :; do dd if=/dev/urandom of=/data/cut bs=64k count=40 conv=notrunc,fsync; done",
        ];
        guest.start(&words, LIMIT)?;
        sleep(Duration::from_secs(4))?;
        guest.kill()?;
        let mut guest = Guest::boot(&self.machine)?;
        sh(&mut guest, "systemctl is-system-running --wait || true")?;
        let status = status(&mut guest, "data")?;
        ensure!(!suspects(&status).is_empty(), "status after a power cut: {status}");
        let point = backup(&mut guest, "data")?;
        ensure!(!suspects(&point).is_empty() && point["kind"] == "incremental", "after a power cut: {point}");
        self.see(format!(
            "after a power cut while it is written: suspect, the backup compares and reads {:.0} of {DATA_MIB} MiB",
            mib(read_bytes(&point))
        ));
        self.same(&mut guest, "the power cut")?;
        guest.kill()
    }

    /// The data disk at rest, its last point restored, compared byte by byte.
    fn same(&mut self, guest: &mut Guest, after: &str) -> Result<()> {
        sh(guest, "systemctl stop data.mount")?;
        let point = backup(guest, "data")?;
        let id = point["point"].as_str().context("the point's id")?;
        sh(guest, &format!("blkdelta restore --repo /store/repo --point {id} /store/out"))?;
        sh(guest, "cmp /store/out /dev/disk/by-id/virtio-data")?;
        sh(guest, "rm /store/out; systemctl start data.mount")?;
        self.see(format!("the last point after {after} restores to exactly what the disk holds"));
        Ok(())
    }
}

/// A shell command; what it printed.
fn sh(guest: &mut Guest, command: &str) -> Result<String> {
    let ended = guest.run(&["sh", "-c", command], LIMIT, |_| {})?;
    Ok(ended.success(command)?.join("\n"))
}

/// 3 MiB in a file on the data disk.
fn write(guest: &mut Guest, name: &str) -> Result<()> {
    sh(guest, &format!("dd if=/dev/urandom of=/data/{name} bs=64k count=48 conv=fsync 2>/dev/null")).map(drop)
}

/// A backup by the shipped unit; the point's manifest.
fn backup(guest: &mut Guest, name: &str) -> Result<Value> {
    // a suspect point fails the unit, as it must
    let unit = format!("blkdelta-backup@{name}.service");
    sh(guest, &format!("systemctl start {unit} || systemctl reset-failed {unit}"))?;
    let lines = sh(guest, "for f in /store/repo/bak/*/*.json; do cat $f; echo; done")?;
    let manifests = lines.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let bodies = manifests.map(|manifest| manifest["body"].clone());
    let of = bodies.filter(|body| body["device"]["facts"].to_string().contains(&format!("\"{name}\"")));
    let newest = of.max_by_key(|body| body["point"].as_str().map(str::to_owned));
    let said = sh(guest, &format!("journalctl -b -u {unit} -o cat | tail -n 8"))?;
    newest.with_context(|| format!("no point of {name}: {said}"))
}

fn status(guest: &mut Guest, name: &str) -> Result<Value> {
    let text = sh(guest, &format!("blkdelta status /dev/disk/by-id/virtio-{name} --json || true"))?;
    let rows: Value = serde_json::from_str(&text).with_context(|| format!("read {text}"))?;
    Ok(rows[0].clone())
}

fn suspects(value: &Value) -> Vec<&str> {
    value["suspect"].as_array().into_iter().flatten().filter_map(Value::as_str).collect()
}

fn read_bytes(point: &Value) -> u64 {
    point["passes"].as_array().into_iter().flatten().filter_map(|pass| pass["bytes"].as_u64()).sum()
}

fn mib(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}

/// `resume` had ended before anything of fstab was checked or mounted.
fn in_order(guest: &mut Guest) -> Result<()> {
    let mut time = |unit: &str, what: &str| -> Result<u64> {
        let text = sh(guest, &format!("systemctl show -P {what} {unit}"))?;
        text.trim().parse().with_context(|| format!("{what} of {unit}: {text}"))
    };
    let resumed = time("blkdelta.service", "ActiveEnterTimestampMonotonic")?;
    for later in ["data.mount", "store.mount", "systemd-fsck@dev-disk-by\\\\x2dlabel-data.service"] {
        let began = time(later, "InactiveExitTimestampMonotonic")?;
        ensure!(resumed > 0 && resumed < began, "{later} began at {began} us, resume ended at {resumed}");
    }
    Ok(())
}
