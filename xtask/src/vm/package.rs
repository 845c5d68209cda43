//! `cargo xtask vm --package`: the Debian package is installed, upgraded while its disk is written, removed, purged.
//!
//! What the list must hold after the upgrade is known without the product: the disk's file is compared, here, with a copy
//! that was made before.

use super::guest::Guest;
use super::scene::{DATA_MIB, PACKAGES, Scene, backup, restores, sh, status, suspects, until, write};
use anyhow::{Context, Result, ensure};
use serde_json::Value;
use std::fs;
use std::path::Path;
use std::time::Duration;

/// What the oracle compares at once.
const BLOCK: usize = 4096;
/// Between two looks something must have happened.
const PATIENCE: Duration = Duration::from_secs(120);

/// Writes on and on; how often stands in a file.
const WRITER: &str = "cat >/run/writer <<'END'
i=0
while :; do
    dd if=/dev/urandom of=/data/w$((i % 24)) bs=64k count=4 conv=notrunc,fsync 2>/dev/null
    i=$((i + 1))
    echo $i >/run/written
done
END
systemd-run --quiet --unit=writer sh /run/writer";

/// Everything of the package but what it configures: none of it may be left.
const LEFT: &str = "ls -d /usr/bin/blkdelta /usr/lib/systemd/system/blkdelta* /usr/share/man/man8/blkdelta* \
    /usr/share/doc/blkdelta /usr/share/*/*/*blkdelta* 2>/dev/null; ls -A /sys/fs/bpf | grep blkdelta; ls -d /run/blkdelta 2>/dev/null; \
    for p in /proc/[0-9]*; do readlink $p/exe; done | grep '^/usr/bin/blkdelta\\( \\|$\\)'; true";

impl Scene {
    /// All of it.
    pub fn package(&mut self) -> Result<()> {
        let mut guest = self.boot()?;
        self.install(&mut guest)?;
        self.upgrade(&mut guest)?;
        self.keep_off(&mut guest)?;
        self.refuse(&mut guest)?;
        self.remove(&mut guest)?;
        self.purge(&mut guest)?;
        guest.kill()
    }

    fn install(&mut self, guest: &mut Guest) -> Result<()> {
        sh(guest, &format!("dpkg -i {}", PACKAGES[0]))?;
        let differs = sh(guest, "dpkg --verify blkdelta")?;
        ensure!(differs.is_empty(), "dpkg --verify: {differs}");
        let units =
            [("", "enabled active"), ("-monitor", "enabled active"), ("-daemon", "disabled inactive")];
        for (unit, wanted) in units {
            let is = unit_is(guest, unit)?;
            ensure!(is == wanted, "blkdelta{unit}.service is {is}");
        }
        sh(
            guest,
            "test -s /usr/share/man/man8/blkdelta-track.8.gz && test -s /usr/share/zsh/vendor-completions/_blkdelta",
        )?;
        sh(guest, "blkdelta config check && blkdelta --version")?;
        self.see(
            "`dpkg -i`: every file is as packed (`dpkg --verify`), blkdelta.service and the monitor are enabled and active, the \
             daemon is neither, the configuration has no mistake",
        );
        Ok(())
    }

    fn upgrade(&mut self, guest: &mut Guest) -> Result<()> {
        sh(guest, "blkdelta track /dev/disk/by-id/virtio-data")?;
        write(guest, "before")?;
        sh(guest, "systemctl stop data.mount")?;
        let full = backup(guest, "data")?;
        ensure!(full["kind"] == "full", "the first backup: {full}");
        let before = self.file("data")?.with_extension("before");
        fs::copy(self.file("data")?, &before).context("keep the disk as it is")?;
        sh(guest, "systemctl start data.mount; echo '# ours' >>/etc/blkdelta/config.toml")?;
        let was = (session(guest)?, resumed(guest)?);
        sh(guest, WRITER)?;
        let began = written(guest, 3)?;
        sh(guest, &format!("dpkg -i {}", PACKAGES[1]))?;
        let done = written(guest, began + 1)?;
        written(guest, done + 3)?;
        sh(guest, "systemctl stop writer.service data.mount")?;
        let is = (session(guest)?, resumed(guest)?);
        ensure!(was == is, "session and start of blkdelta.service were {was:?}, are {is:?}");
        let now = status(guest, "data")?;
        ensure!(suspects(&now).is_empty(), "after the upgrade: {now}");
        let version = sh(
            guest,
            "dpkg-query --show --showformat='${Version}' blkdelta; tail -n 1 /etc/blkdelta/config.toml",
        )?;
        ensure!(
            version.ends_with("+next# ours") || version.ends_with("+next\n# ours"),
            "after it: {version}"
        );
        let monitor = sh(guest, "readlink /proc/$(systemctl show -P MainPID blkdelta-monitor)/exe")?;
        let warned = sh(guest, "journalctl -b -u blkdelta-monitor -o cat | grep -c SUSPECT; true")?;
        ensure!(
            monitor == "/usr/bin/blkdelta" && warned == "0",
            "the monitor is {monitor}, warned {warned} times"
        );
        self.see(format!(
            "`dpkg -i` of a higher version while the tracked disk is written ({} files of 256 KiB during it): tracking is the same \
             session, not suspect, blkdelta.service was not touched, the monitor is the new program, the configuration is \
             the administrator's",
            done - began
        ));
        self.complete(guest, &before)?;
        fs::remove_file(&before).context("remove the copy of the disk")
    }

    /// Every block that differs from the copy is on the list; the next point is an increment, and right.
    fn complete(&mut self, guest: &mut Guest, before: &Path) -> Result<()> {
        let list = sh(guest, "blkdelta diff /dev/disk/by-id/virtio-data --json")?;
        let list: Value = serde_json::from_str(&list).with_context(|| format!("read {list}"))?;
        let listed = blocks(&list)?;
        let (old, new) = (fs::read(before)?, fs::read(self.file("data")?)?);
        let pairs = old.chunks(BLOCK).zip(new.chunks(BLOCK)).enumerate();
        let changed: Vec<usize> = pairs.filter(|(_, (old, new))| old != new).map(|(at, _)| at).collect();
        let missing: Vec<&usize> = changed.iter().filter(|at| !listed[**at]).collect();
        ensure!(missing.is_empty(), "not on the list: blocks {missing:?} of {} that changed", changed.len());
        let count = listed.iter().filter(|listed| **listed).count();
        ensure!(changed.len() > 100 && count < listed.len() / 2, "{} changed, {count} listed", changed.len());
        let point = backup(guest, "data")?;
        ensure!(point["kind"] == "incremental" && suspects(&point).is_empty(), "after the upgrade: {point}");
        restores(guest, point["point"].as_str().context("the point's id")?)?;
        sh(guest, "systemctl start data.mount")?;
        self.see(format!(
            "the difference over the upgrade is complete: {} blocks of 4 KiB differ from a copy of the disk, all are among the {count} \
             listed of {}; the next point is an incremental that restores to exactly what the disk holds",
            changed.len(),
            listed.len()
        ));
        Ok(())
    }

    /// The administrator's word counts.
    fn keep_off(&mut self, guest: &mut Guest) -> Result<()> {
        sh(guest, "systemctl disable --now blkdelta-monitor.service")?;
        sh(guest, &format!("dpkg -i {}", PACKAGES[1]))?;
        let is = [unit_is(guest, "-monitor")?, unit_is(guest, "")?];
        ensure!(is == ["disabled inactive", "enabled active"], "after another installation: {is:?}");
        self.see("a unit that the administrator switched off stays off when the package is installed again");
        Ok(())
    }

    /// Not while a backup holds the device.
    fn refuse(&mut self, guest: &mut Guest) -> Result<()> {
        let was = session(guest)?;
        sh(guest, "systemd-run --quiet --unit=holder flock /run/blkdelta/dev-*.lock sleep 600")?;
        let said = sh(guest, "sleep 2; dpkg -r blkdelta && echo removed; systemctl stop holder.service")?;
        ensure!(
            said.contains("another blkdelta is at work on it") && !said.contains("\nremoved"),
            "dpkg -r: {said}"
        );
        let is = (session(guest)?, unit_is(guest, "")?);
        ensure!(is == (was, "enabled active".into()), "after a removal that was refused: {is:?}");
        self.see("`dpkg -r` while a backup holds the device fails with that reason; tracking goes on");
        Ok(())
    }

    fn remove(&mut self, guest: &mut Guest) -> Result<()> {
        let said = sh(guest, "dpkg -r blkdelta")?;
        let left = sh(guest, LEFT)?;
        ensure!(left.is_empty(), "left after the removal: {left}; it said {said}");
        let units = sh(guest, "systemctl list-units --no-legend 'blkdelta*'")?;
        ensure!(units.is_empty(), "units after the removal: {units}");
        write(guest, "after")?;
        sh(guest, "test -e /etc/blkdelta/config.toml && test -d /var/lib/blkdelta")?;
        self.see(
            "`dpkg -r` while a disk is tracked and mounted: nothing is pinned below /sys/fs/bpf, no process and no unit is left, the disk \
             can be written; configuration and state stay",
        );
        Ok(())
    }

    fn purge(&mut self, guest: &mut Guest) -> Result<()> {
        sh(guest, &format!("dpkg -i {}", PACKAGES[1]))?;
        let is = unit_is(guest, "")?;
        ensure!(is == "enabled active", "installed again, blkdelta.service is {is}");
        sh(
            guest,
            "systemctl enable blkdelta-backup@data.timer blkdelta-daemon.service && echo secret >/etc/blkdelta/owner.key",
        )?;
        let said = sh(guest, "dpkg -P blkdelta")?;
        ensure!(said.contains("/etc/blkdelta/owner.key"), "purge: {said}");
        let left = sh(
            guest,
            &format!(
                "{LEFT}; ls /etc/systemd/system /etc/systemd/system/*.wants | grep '^blkdelta'; ls -d /var/lib/blkdelta; \
                      ls -d /etc/blkdelta/config.toml; dpkg -l blkdelta 2>/dev/null | grep blkdelta; true"
            ),
        )?;
        let left: Vec<&str> = left.lines().filter(|line| !line.starts_with("ls: ")).collect();
        ensure!(left.is_empty(), "left after the purge: {left:?}");
        sh(guest, "grep -q secret /etc/blkdelta/owner.key")?;
        self.see(
            "`dpkg -P`: state, configuration and links of units are gone; a key in /etc/blkdelta is named and stays",
        );
        Ok(())
    }
}

/// `enabled active` and the like.
fn unit_is(guest: &mut Guest, unit: &str) -> Result<String> {
    let ask = format!(
        "systemctl is-enabled blkdelta{unit}.service; systemctl is-active blkdelta{unit}.service; true"
    );
    Ok(sh(guest, &ask)?.replace('\n', " "))
}

/// Which tracking of the data disk it is.
fn session(guest: &mut Guest) -> Result<String> {
    let status = status(guest, "data")?;
    Ok(status["session"].as_str().with_context(|| format!("not tracked: {status}"))?.to_owned())
}

/// When blkdelta.service started.
fn resumed(guest: &mut Guest) -> Result<String> {
    sh(guest, "systemctl show -P ActiveEnterTimestampMonotonic blkdelta.service")
}

/// How often the writer has written, once that is so often.
fn written(guest: &mut Guest, least: u64) -> Result<u64> {
    let count = |said: &str| said.trim().parse().unwrap_or(0);
    let said = until(guest, "cat /run/written 2>/dev/null; true", PATIENCE, |said| count(said) >= least)?;
    Ok(count(&said))
}

/// Which blocks of the data disk the list names.
fn blocks(list: &Value) -> Result<Vec<bool>> {
    let mut listed = vec![false; (DATA_MIB << 20) as usize / BLOCK];
    for extent in list["extents"].as_array().context("no extents")? {
        let number = |key: &str| extent[key].as_u64().with_context(|| format!("extent {extent}"));
        let (from, length) = (number("offset")? as usize, number("length")? as usize);
        let all = from / BLOCK..(from + length).div_ceil(BLOCK);
        listed.get_mut(all).with_context(|| format!("extent {extent} beyond the disk"))?.fill(true);
    }
    Ok(listed)
}
