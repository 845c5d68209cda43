//! `cargo xtask vm --systemd`: the shipped units under a real systemd, over a clean reboot and a power cut. The root disk
//! is tracked as well: the hard case.

use super::guest::Guest;
use super::scene::{DATA_MIB, LIMIT, ROOT_MIB, Scene, backup, sh, status, suspects, write};
use crate::rig::process::sleep;
use anyhow::{Context, Result, ensure};
use serde_json::Value;
use std::time::Duration;

impl Scene {
    /// All of it.
    pub fn reboot(&mut self) -> Result<()> {
        let guest = self.first_start()?;
        let guest = self.clean_reboot(guest)?;
        self.power_cut(guest)
    }

    /// Installed as README.md says; the first backups by the shipped unit.
    fn first_start(&mut self) -> Result<Guest> {
        let mut guest = self.installed()?;
        let version = sh(&mut guest, "systemctl --version | head -n 1")?;
        let complaints = sh(
            &mut guest,
            "cd /usr/lib/systemd/system && systemd-analyze verify blkdelta*.service blkdelta*.timer 2>&1",
        )?;
        ensure!(complaints.is_empty(), "systemd-analyze verify: {complaints}");
        self.see(format!("{version}: `systemd-analyze verify` has nothing to say about the shipped units"));
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
        let mut guest = self.boot()?;
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
        let mut guest = self.boot()?;
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
