//! Writes in the device's own language: they carry no address that the block layer knows.

use super::make::{disk, sh};
use super::trial::Trial;
use crate::device::put;
use crate::raw;
use crate::workload::Outcome;
use anyhow::Result;
use std::path::Path;

const DATA: &str = "/run/data";

/// WRITE(10) by SG_IO, as tools for tapes, cloning and firmware do.
pub fn sg_write(trial: &mut Trial) -> Result<()> {
    let path = disk("scsi512")?;
    put(Path::new(DATA), &trial.random.bytes(64 << 10))?;
    let command = format!("sg_dd if={DATA} of={} blk_sgio=1 bs=512 seek=8192 2>&1", path.display());
    trial.one_work(&path, "sg_dd", |_| sh(&command).map(|_| Outcome::Done))
}

/// WRITE SAME: one block of data for many.
pub fn sg_write_same(trial: &mut Trial) -> Result<()> {
    let path = disk("scsi512")?;
    put(Path::new(DATA), &trial.random.bytes(512))?;
    let command = format!("sg_write_same --lba=16384 --num=64 --in={DATA} --xferlen=512 {}", path.display());
    trial.one_work(&path, "sg_write_same", |_| sh(&command).map(|_| Outcome::Done))
}

/// The NVMe write command, past the file system and the page cache.
pub fn nvme_write(trial: &mut Trial) -> Result<()> {
    let path = disk("nvme")?;
    trial.one_work(&path, "NVME_IOCTL_SUBMIT_IO", |random| {
        let device = crate::device::open_with(&path, 0)?;
        raw::nvme_write(&device, 4096, &random.bytes(32 << 10))?;
        Ok(Outcome::Done)
    })
}
