//! What this kernel wrote to a device since it knows it, by its own counters.
//!
//! `/sys/block/*/stat` begins at 0 with the disk and counts completed sectors (`blk_account_io_completion`), a
//! partition's for the partition and its disk. What is on its way stands in `inflight`. A disk that was not counted
//! until now (dm before 6.3) proves nothing.

use crate::error::Result;
use crate::sys::device::BlockDevice;
use crate::sys::planted;
use crate::tracker::{Places, uncounted};

/// Why this kernel may have changed the device before now; nothing: it did not.
///
/// # Errors
/// If the counters cannot be read.
pub fn written_here(places: &Places, device: &BlockDevice) -> Result<Vec<String>> {
    let mut reasons = Vec::new();
    if planted("gap-skipped") {
        return Ok(reasons);
    }
    if uncounted::ever(places, device) {
        reasons
            .push("this kernel did not count its writes until tracking began again (queue/iostats)".into());
    }
    // first what is on its way: what ends between the two looks is counted by the second
    let in_flight = device.whole_disk()?.writes_in_flight()?;
    if in_flight > 0 {
        reasons.push(format!("{in_flight} writes to its disk were on their way when tracking began again"));
    }
    let sectors = sectors_written(device)?;
    if sectors > 0 {
        reasons.push(format!("this kernel wrote {sectors} sectors to it before tracking began again"));
    }
    Ok(reasons)
}

/// Sectors written or discarded on the device, and on its disk past all partitions.
fn sectors_written(device: &BlockDevice) -> Result<u64> {
    // a zone that is reset or finished counts as a request of no sectors; elsewhere such requests are flushes
    let zoned = u64::from(device.zoned.is_some());
    let of =
        |device: &BlockDevice| device.stat().map(|s| s.write_sectors + s.discard_sectors + zoned * s.writes);
    if device.partition.is_none() {
        return of(device);
    }
    // parts first, the disk after: a neighbour that is written meanwhile can only make the rest look larger
    const LOOKS: usize = 8;
    let mut least = u64::MAX;
    for _ in 0..LOOKS {
        let own = of(device)?;
        let disk = device.whole_disk()?;
        let parts = disk.partitions()?.iter().map(of).sum::<Result<u64>>()?;
        least = least.min(own + of(&disk)?.saturating_sub(parts));
        if least == 0 {
            break;
        }
    }
    Ok(least)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    #[test]
    fn a_disk_that_runs_this_machine_was_written_to() {
        let written = |d: &BlockDevice| d.partition.is_none() && d.stat().is_ok_and(|s| s.write_sectors > 0);
        let Some(disk) = BlockDevice::all().unwrap().into_iter().find(written) else {
            println!("SKIPPED: life::gap: no disk was written to");
            return;
        };
        assert!(
            written_here(&Places::under(Path::new("/nonexistent")), &disk)
                .unwrap()
                .iter()
                .any(|why| why.contains("this kernel wrote"))
        );
    }
}
