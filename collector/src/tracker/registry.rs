//! Which devices the kernel side knows: adding, removing, and putting right what a killed process left.
//!
//! A disk's targets are a list (`Disk::first`, `Target::next`). It is changed so that the programs, which
//! walk it at any moment, always see all the targets that stay. The state files are the truth: a target
//! that none claims is taken out, so removing a device is "remove its file, then reconcile".

use super::load::{Loaded, Maps, aya_error, remove_pins};
use super::places::Places;
use super::state::DeviceState;
use crate::block::SECTOR;
use crate::error::{Context, Error, Kind, Result};
use crate::sys::bpf;
use crate::sys::device::{BlockDevice, Driver};
use crate::sys::planted;
use aya::maps::MapData;
use blkdelta_ebpf::{
    COPIES, Counters, DISK_BIO_BASED, DISK_NVME, DISK_SCSI, DISK_VIRTIO, Disk, MAX_DISKS, MAX_TARGETS,
    MAX_TARGETS_PER_DISK, Target,
};
use std::collections::BTreeSet;
use std::path::Path;

fn map_error(what: &str) -> impl Fn(aya::maps::MapError) -> Error + '_ {
    move |e| aya_error(format!("{what} in the kernel's maps"), e)
}

/// What the programs must know of a disk's kind.
fn flags(disk: &BlockDevice) -> u32 {
    if !disk.request_based {
        return DISK_BIO_BASED;
    }
    match disk.driver {
        Driver::Nvme => DISK_NVME,
        Driver::Scsi => DISK_SCSI,
        Driver::Virtio => DISK_VIRTIO,
        _ => 0,
    }
}

impl Maps {
    /// Slots that are in use.
    fn used_slots(&self) -> Result<BTreeSet<u32>> {
        let mut used = BTreeSet::new();
        for slot in 1..MAX_TARGETS {
            if self.targets.get(&slot, 0).map_err(map_error("read targets"))?.sectors != 0 {
                used.insert(slot);
            }
        }
        Ok(used)
    }

    /// A slot that is free.
    ///
    /// # Errors
    /// `NoSpace` if all are taken.
    pub fn free_slot(&self) -> Result<u32> {
        let used = self.used_slots()?;
        (1..MAX_TARGETS).find(|s| !used.contains(s)).ok_or_else(|| {
            Error::new(Kind::NoSpace, format!("track another device: {} are tracked already", used.len()))
                .hint("untrack one first")
        })
    }

    fn disk(&self, dev: u32) -> Result<Option<Disk>> {
        let Some(row) = self.disks.row(dev)? else { return Ok(None) };
        self.rows.get(&row, 0).map(Some).map_err(map_error("read disks"))
    }

    /// Changes a disk's row in place: every field for itself is at each moment the old one or the new one.
    fn set_row(&mut self, disk: Disk) -> Result<()> {
        self.rows.set(disk.id, disk, 0).map_err(map_error("set disk"))
    }

    /// Sets or clears flags of a tracked disk. The caller holds the registry's lock.
    ///
    /// # Errors
    /// `NotFound` if the disk is not tracked.
    pub fn set_flags(&mut self, dev: u32, flags: u32, on: bool) -> Result<()> {
        let gone = || Error::new(Kind::NotFound, "the disk is tracked no more");
        let disk = self.disk(dev)?.ok_or_else(gone)?;
        self.set_row(Disk { flags: if on { disk.flags | flags } else { disk.flags & !flags }, ..disk })
    }

    /// The disk's entry, or a new one with counters at zero (not yet visible to the programs).
    ///
    /// # Errors
    /// `NoSpace` if too many disks are tracked.
    pub fn disk_or_new(&mut self, disk: &BlockDevice) -> Result<Disk> {
        let sectors = disk.size / SECTOR;
        if let Some(known) = self.disk(disk.dev)? {
            // it may have been resized while only parts of it were tracked
            return Ok(Disk { sectors, ..known });
        }
        let rows: BTreeSet<u32> = self.disks.all()?.into_iter().map(|(_, row)| row).collect();
        let id = (0..MAX_DISKS).find(|id| !rows.contains(id)).ok_or_else(|| {
            Error::new(Kind::NoSpace, format!("track another disk: {MAX_DISKS} are tracked already"))
        })?;
        for copy in 0..COPIES {
            let row = id * COPIES + copy;
            let cpus = self.counters.get(&row, 0).map_err(map_error("read counters"))?.len();
            let zero = aya::maps::PerCpuValues::try_from(vec![Counters::default(); cpus])
                .os_context(|| "clear counters".into())?;
            self.counters.set(row, zero, 0).map_err(map_error("clear counters"))?;
        }
        let lba_shift = (u64::from(disk.logical_block) / SECTOR).max(1).ilog2();
        Ok(Disk { id, first: 0, flags: flags(disk), lba_shift, sectors })
    }

    /// Makes a target visible to the programs, at the head of its disk's list.
    ///
    /// # Errors
    /// `NoSpace` if the disk has too many; what the kernel says otherwise.
    pub fn link(&mut self, dev: u32, disk: Disk, slot: u32, target: Target) -> Result<()> {
        if self.list(disk)?.len() as u32 >= MAX_TARGETS_PER_DISK {
            return Err(Error::new(
                Kind::NoSpace,
                format!("track another part of this disk: {MAX_TARGETS_PER_DISK} are tracked already"),
            ));
        }
        let target = Target { next: if planted("list-cut") { 0 } else { disk.first }, ..target };
        self.targets.set(slot, target, 0).map_err(map_error("set target"))?;
        self.set_row(Disk { first: slot, ..disk })?;
        if self.disk(dev)?.is_none() {
            self.disks.insert(dev, disk.id)?;
        }
        Ok(())
    }

    /// Tells the programs a target's new size, and that of its disk (device number, sectors). The running bitmap
    /// has room for both sizes. The caller holds the registry's lock.
    ///
    /// # Errors
    /// `NotFound` if the disk is not tracked any more.
    pub fn resize(&mut self, disk: (u32, u64), slot: u32, sectors: u64, words: u32) -> Result<()> {
        let gone = || Error::new(Kind::NotFound, "the disk is tracked no more");
        let row = self.disk(disk.0)?.ok_or_else(gone)?;
        let target = self.targets.get(&slot, 0).map_err(map_error("read targets"))?;
        self.targets.set(slot, Target { sectors, words, ..target }, 0).map_err(map_error("set target"))?;
        self.set_row(Disk { sectors: disk.1, ..row })
    }

    /// Do the programs find this slot when disk `dev` is written to?
    ///
    /// # Errors
    /// If the maps cannot be read.
    pub fn serves(&self, dev: u32, slot: u32) -> Result<bool> {
        let disk = self.disk(dev)?;
        disk.map_or(Ok(false), |disk| Ok(self.list(disk)?.contains(&slot)))
    }

    /// The slots of a disk's list, in order.
    fn list(&self, disk: Disk) -> Result<Vec<u32>> {
        let (mut slots, mut at) = (Vec::new(), disk.first);
        while at != 0 && slots.len() < MAX_TARGETS as usize {
            slots.push(at);
            at = self.targets.get(&at, 0).map_err(map_error("read targets"))?.next;
        }
        Ok(slots)
    }

    /// Takes every slot out of the lists that is not in `keep`, then frees it.
    fn drop_all_but(&mut self, keep: &BTreeSet<u32>) -> Result<()> {
        for (dev, row) in self.disks.all()? {
            let disk = self.rows.get(&row, 0).map_err(map_error("read disks"))?;
            let stay: Vec<u32> = self.list(disk)?.into_iter().filter(|s| keep.contains(s)).collect();
            self.relink(dev, disk, &stay)?;
        }
        for slot in self.used_slots()?.into_iter().filter(|s| !keep.contains(s)) {
            // waits until no program uses the bitmap: after that nobody walks over the target either
            bpf::clear_entry(bpf::fd(self.bitmap_table.fd()), slot)?;
            self.targets.set(slot, Target::default(), 0).map_err(map_error("free target"))?;
        }
        Ok(())
    }

    fn relink(&mut self, dev: u32, disk: Disk, stay: &[u32]) -> Result<()> {
        if stay.is_empty() {
            return self.disks.remove(dev);
        }
        // from the tail: each target that stays is reachable at every moment
        for pair in stay.windows(2).rev() {
            let target = self.targets.get(&pair[0], 0).map_err(map_error("read targets"))?;
            if target.next != pair[1] {
                self.targets
                    .set(pair[0], Target { next: pair[1], ..target }, 0)
                    .map_err(map_error("set target"))?;
            }
        }
        let last = stay[stay.len() - 1];
        let target = self.targets.get(&last, 0).map_err(map_error("read targets"))?;
        if target.next != 0 {
            self.targets.set(last, Target { next: 0, ..target }, 0).map_err(map_error("set target"))?;
        }
        if disk.first != stay[0] {
            self.set_row(Disk { first: stay[0], ..disk })?;
        }
        Ok(())
    }

    /// Makes `bitmap` the running one of a slot. When this returns, no program uses the one before.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn switch_bitmap(&mut self, slot: u32, bitmap: &MapData) -> Result<()> {
        self.bitmaps.set(slot, bitmap, 0).map_err(map_error("switch the bitmap"))
    }

    /// Kernel id of a slot's running bitmap; `None` if it has none.
    ///
    /// # Errors
    /// If the table cannot be read.
    pub fn running_bitmap(&self, slot: u32) -> Result<Option<u32>> {
        bpf::entry_id(bpf::fd(self.bitmap_table.fd()), slot)
    }
}

/// Takes out of the kernel whatever no state file claims; the last device takes the programs with it.
///
/// # Errors
/// If maps or pins cannot be changed.
pub fn reconcile(places: &Places) -> Result<()> {
    let states = DeviceState::all(places)?;
    if Loaded::read(places)?.is_none() {
        // nothing, or only parts of it: no device can be tracked by them
        return if states.is_empty() && places.pins().exists() { remove_pins(places) } else { Ok(()) };
    }
    let keep: BTreeSet<u32> = states.iter().map(|s| s.slot).collect();
    Maps::open(places)?.drop_all_but(&keep)?;
    if states.is_empty() {
        return remove_pins(places);
    }
    let keys: BTreeSet<String> = states.iter().map(DeviceState::key).collect();
    let entries =
        std::fs::read_dir(places.pins()).os_context(|| format!("list {}", places.pins().display()))?;
    for entry in entries.flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        if name.starts_with("dev-") && !keys.contains(&name) {
            remove_folder(&entry.path())?;
        }
    }
    Ok(())
}

/// Removes the pins' folders if nothing is in them.
pub fn remove_empty(places: &Places) {
    // one that is not empty stays, and so does the one above it
    let above = places.pins().parent();
    let _ = std::fs::remove_dir(places.pins());
    if let Some(above) = above {
        let _ = std::fs::remove_dir(above);
    }
}

/// Removes a device's bitmaps.
///
/// # Errors
/// If a pin cannot be removed.
pub fn remove_folder(folder: &Path) -> Result<()> {
    match std::fs::remove_dir_all(folder) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(()),
        other => other.os_context(|| format!("remove {}", folder.display())),
    }
}
