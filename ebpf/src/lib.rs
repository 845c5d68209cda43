//! What the kernel side and the collector share: map layouts as plain-old-data, constants, names.
//!
//! Every struct is `repr(C)` without implicit padding, so that both compilers lay it out alike
//! (`tests::no_padding` proves it). [`LAYOUT`] changes whenever one of them changes.
//!
//! ```text
//!   DISKS     place of dev_t             -> Entry    an open-addressed table from the dev_t of a whole disk with
//!                                                    something tracked on it to its row; the kernel inlines the
//!                                                    look into an array, not that into a hash (gen_lookup)
//!   ROWS      row                        -> Disk     changed in place: a running program may hold on to it
//!   TARGETS   slot                       -> Target   the disk or partition that is tracked; a list per disk
//!   BITMAPS   slot                       -> array of u64 words: the running epoch's bitmap (map in map)
//!   SLOTS     hash of (request, disk)    -> Bucket   what is in flight right now
//!   COUNTERS  disk id * COPIES + copy    -> Counters per CPU
//!   EVENTS    ring buffer of Event       for eyes only: may lose, and counts what it lost
//! ```
#![no_std]

pub mod command;
pub mod planted;

/// Version of everything below; part of the pin path, so that an older pin is never misread.
pub const LAYOUT: u32 = 2;

/// Disks with something tracked on them, at most.
pub const MAX_DISKS: u32 = 64;
/// Places in DISKS: four for each disk, so that a disk that is not tracked mostly finds its own place empty.
pub const PLACES: u32 = 256;
/// A disk stands at most so many places after its own.
pub const MAX_PROBES: u32 = 32;
/// [`Entry::dev`] of a disk that was removed: further places may still belong to others. No disk has that number:
/// majors end at 511 (`BLKDEV_MAJOR_MAX`, block/blk.h and fs.h, 6.1 to 7.3).
pub const GONE: u32 = u32::MAX;
/// Tracked devices (disks and partitions), at most. Slot 0 is never used: 0 means "none".
pub const MAX_TARGETS: u32 = 256;
/// Tracked devices on one disk, at most: what `mark_disk` walks.
pub const MAX_TARGETS_PER_DISK: u32 = 16;
/// In-flight slots. A request that finds no slot is counted, and the next cut carries everything over.
pub const SLOTS: u32 = 16384;
/// A request may take any slot of its bucket: found by one look into the map.
pub const BUCKET: usize = 4;
/// Copies of a submission or completion program, at most.
pub const COPIES: u32 = 3;
/// Bytes of the ring buffer.
pub const RING_BYTES: u32 = 1 << 20;

/// The disk has no request queue of its own (zram, dm, md): submission is `block_bio_queue`.
pub const DISK_BIO_BASED: u32 = 1;
/// Somebody watches: put every write into the ring buffer.
pub const DISK_LIVE: u32 = 2;
/// Its passthrough commands are NVMe's.
pub const DISK_NVME: u32 = 4;
/// Its passthrough commands are SCSI's.
pub const DISK_SCSI: u32 = 8;
/// Its passthrough commands are virtio-blk's own.
pub const DISK_VIRTIO: u32 = 16;

/// Row of COUNTERS, after those of the disks: commands to NVMe controllers, which may concern every namespace.
pub const ADMIN_ROW: u32 = MAX_DISKS;

/// An offset that the running kernel does not tell.
pub const NOWHERE: u32 = u32::MAX;

/// A place in DISKS: which row a disk has.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Entry {
    /// `dev_t` of the whole disk; 0 = empty, as is then every place after it for this one's sake; or [`GONE`].
    pub dev: u32,
    /// Its row in ROWS.
    pub row: u32,
}

/// The place of a disk: multiplied, top bits kept. The factor is one that gives each of 64 consecutive numbers, or 64
/// that are 16 apart, a place of its own (`tests::disks_of_one_driver_have_places_of_their_own`).
#[inline(always)]
pub const fn place_of(dev: u32) -> u32 {
    dev.wrapping_mul(0x85eb_ca6b) >> (32 - PLACES.trailing_zeros())
}

/// A whole disk with something tracked on it.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Disk {
    /// 0 .. [`MAX_DISKS`]: its row here and in COUNTERS.
    pub id: u32,
    /// Slot of the first [`Target`], 0 = none.
    pub first: u32,
    /// `DISK_…`.
    pub flags: u32,
    /// log2 of sectors per logical block.
    pub lba_shift: u32,
    /// Size in sectors, as last looked at; a write beyond it is out of range.
    pub sectors: u64,
}

/// A tracked device: a disk or a partition of it.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Target {
    /// First sector, counted on the whole disk.
    pub start: u64,
    /// Length in sectors.
    pub sectors: u64,
    /// log2 of sectors per area.
    pub shift: u32,
    /// 64-bit words in its bitmap.
    pub words: u32,
    /// Slot of the disk's next target, 0 = none.
    pub next: u32,
    /// Row of the disk's counters.
    pub disk: u32,
}

/// Slots of writes in flight: submitted, not yet known to have completed. The n-th slot is the n-th of each field, so
/// that a look for a key, which is all that most completions need, stays in one cache line.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Bucket {
    /// 0 = free; else which request or bio, and of which disk.
    pub keys: [u64; BUCKET],
    /// First sector on the whole disk.
    pub sectors: [u64; BUCKET],
    /// Sectors.
    pub counts: [u64; BUCKET],
    /// When the request was allocated (ns): tells a requeue from a new request at the same address.
    pub born: [u64; BUCKET],
}

/// What the programs counted for one disk, on one CPU, in one copy.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Writes of any kind submitted.
    pub submitted: u64,
    /// Their sectors.
    pub submitted_sectors: u64,
    /// Requests issued again after a requeue: not counted as submitted a second time.
    pub requeued: u64,
    /// Completions, partial ones included.
    pub completed: u64,
    /// Their sectors.
    pub completed_sectors: u64,
    /// Sectors completed by requests whose submission is in no slot: begun before tracking, or overflowed.
    pub orphan_sectors: u64,
    /// Submissions that found no free slot.
    pub overflowed: u64,
    /// Their sectors.
    pub overflowed_sectors: u64,
    /// Passthrough commands (SCSI, NVMe, virtio): may have written anywhere.
    pub passthrough: u64,
    /// Operations this program does not know.
    pub unknown: u64,
    /// Zone operations whose range is not in the request.
    pub unaddressed: u64,
    /// Writes beyond the device's size when tracking began.
    pub out_of_range: u64,
    /// Multi-range discards longer than the walk: the rest was not seen.
    pub truncated: u64,
    /// Marks that found no bitmap.
    pub unmapped: u64,
    /// Events the ring buffer had no room for.
    pub events_lost: u64,
    /// Completions that reported an error (the areas are marked all the same).
    pub errors: u64,
    /// Opcodes of the passthrough commands that may have written anywhere: bit n of word n / 64.
    pub commands: [u64; 4],
}

/// One write, for eyes only.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Event {
    /// `CLOCK_MONOTONIC`, ns.
    pub time: u64,
    /// First sector on the whole disk.
    pub sector: u64,
    /// Sectors.
    pub count: u32,
    /// Operation number (`enum req_op`).
    pub op: u32,
    /// Row of the disk.
    pub disk: u32,
    /// Always 0.
    pub reserved: u32,
}

/// Where the running kernel keeps what the programs read, and its operation numbers: from its own BTF,
/// filled in before the programs are loaded. No offset stands in the source.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Kernel {
    /// `struct bio`.
    pub bio_bdev: u32,
    /// `bi_opf`.
    pub bio_opf: u32,
    /// `bi_flags`.
    pub bio_flags: u32,
    /// `bi_iter.bi_sector`.
    pub bio_sector: u32,
    /// `bi_iter.bi_size`.
    pub bio_size: u32,
    /// `bi_next`.
    pub bio_next: u32,
    /// `struct block_device`.
    pub bdev_dev: u32,
    /// `bd_disk`.
    pub bdev_disk: u32,
    /// `bd_start_sect`.
    pub bdev_start: u32,
    /// `struct gendisk`.
    pub disk_major: u32,
    /// `struct request`.
    pub rq_queue: u32,
    /// `cmd_flags`.
    pub rq_flags: u32,
    /// `__data_len`.
    pub rq_length: u32,
    /// `__sector`.
    pub rq_sector: u32,
    /// `bio`.
    pub rq_bio: u32,
    /// `start_time_ns`.
    pub rq_born: u32,
    /// `struct request_queue`.
    pub queue_disk: u32,
    /// `limits.chunk_sectors`: the zone size.
    pub queue_chunk: u32,
    /// Bit number `BIO_REMAPPED`.
    pub bio_remapped: u32,
    /// `REQ_OP_DISCARD`.
    pub op_discard: u32,
    /// `REQ_OP_SECURE_ERASE`.
    pub op_secure_erase: u32,
    /// `gendisk.queue`.
    pub disk_queue: u32,
    /// Bit number `BIO_TRACE_COMPLETION`.
    pub bio_traced: u32,
    /// `REQ_OP_DRV_IN`.
    pub op_drv_in: u32,
    /// Size of `struct request`: the driver's part lies behind it.
    pub rq_end: u32,
    /// `scsi_cmnd.cmnd`, or [`NOWHERE`].
    pub scsi_command: u32,
    /// `scsi_cmnd.device`, or [`NOWHERE`].
    pub scsi_device: u32,
    /// `scsi_device.request_queue`, or [`NOWHERE`].
    pub scsi_queue: u32,
    /// `nvme_request.cmd`, or [`NOWHERE`].
    pub nvme_command: u32,
    /// `gendisk.first_minor`.
    pub disk_minor: u32,
    /// Bit n: operation n changes no content.
    pub harmless: u64,
    /// Bit n: operation n writes the range it names.
    pub ranged: u64,
    /// Bit n: operation n changes the zone that its sector lies in.
    pub zoned: u64,
    /// Bit n: operation n is a passthrough command.
    pub passthrough: u64,
}

/// Name of the [`Kernel`] static in the object.
pub const KERNEL_SYMBOL: &str = "KERNEL";

/// A program of the object: its name there, the tracepoint it belongs on, which copy it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hook {
    /// Name in the object.
    pub program: &'static str,
    /// Tracepoint.
    pub tracepoint: &'static str,
    /// What it sees.
    pub role: Role,
    /// 0 .. [`COPIES`].
    pub copy: u32,
}

/// What a program sees.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// A request handed to its driver.
    RequestSubmit,
    /// A request, or a part of it, done.
    RequestComplete,
    /// A bio entering a device.
    BioSubmit,
    /// A bio pointed at a lower device in place.
    BioRemap,
    /// A bio done.
    BioComplete,
}

const fn hook(program: &'static str, tracepoint: &'static str, role: Role, copy: u32) -> Hook {
    Hook { program, tracepoint, role, copy }
}

/// Every program of the object.
pub const HOOKS: [Hook; 15] = [
    hook("rq_issue", "block_rq_issue", Role::RequestSubmit, 0),
    hook("rq_issue_b", "block_rq_issue", Role::RequestSubmit, 1),
    hook("rq_issue_c", "block_rq_issue", Role::RequestSubmit, 2),
    hook("rq_complete", "block_rq_complete", Role::RequestComplete, 0),
    hook("rq_complete_b", "block_rq_complete", Role::RequestComplete, 1),
    hook("rq_complete_c", "block_rq_complete", Role::RequestComplete, 2),
    hook("bio_queue", "block_bio_queue", Role::BioSubmit, 0),
    hook("bio_queue_b", "block_bio_queue", Role::BioSubmit, 1),
    hook("bio_queue_c", "block_bio_queue", Role::BioSubmit, 2),
    hook("bio_remap", "block_bio_remap", Role::BioRemap, 0),
    hook("bio_remap_b", "block_bio_remap", Role::BioRemap, 1),
    hook("bio_remap_c", "block_bio_remap", Role::BioRemap, 2),
    hook("bio_complete", "block_bio_complete", Role::BioComplete, 0),
    hook("bio_complete_b", "block_bio_complete", Role::BioComplete, 1),
    hook("bio_complete_c", "block_bio_complete", Role::BioComplete, 2),
];

#[cfg(feature = "user")]
mod pod {
    use super::{Bucket, Counters, Disk, Entry, Event, Kernel, Target};
    // SAFETY: repr(C), only integers, no padding (`tests::no_padding`): every bit pattern is a value.
    unsafe impl aya::Pod for Disk {}
    // SAFETY: as above.
    unsafe impl aya::Pod for Target {}
    // SAFETY: as above.
    unsafe impl aya::Pod for Bucket {}
    // SAFETY: as above.
    unsafe impl aya::Pod for Entry {}
    // SAFETY: as above.
    unsafe impl aya::Pod for Counters {}
    // SAFETY: as above.
    unsafe impl aya::Pod for Event {}
    // SAFETY: as above.
    unsafe impl aya::Pod for Kernel {}
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_padding() {
        assert_eq!(size_of::<Disk>(), 24);
        assert_eq!(size_of::<Target>(), 32);
        assert_eq!(size_of::<Entry>(), 8);
        assert_eq!(size_of::<Bucket>(), BUCKET * 4 * 8);
        assert_eq!(size_of::<Counters>(), 20 * 8);
        assert_eq!(size_of::<Event>(), 32);
        assert_eq!(size_of::<Kernel>(), 30 * 4 + 4 * 8);
    }

    #[test]
    fn disks_of_one_driver_have_places_of_their_own() {
        for (major, step) in [(7, 1), (8, 16), (252, 1), (253, 1), (259, 1)] {
            let mut places: [bool; PLACES as usize] = [false; PLACES as usize];
            let shared = (0..MAX_DISKS).filter(|n| {
                core::mem::replace(&mut places[place_of((major << 20) | (n * step)) as usize], true)
            });
            assert_eq!(shared.count(), 0, "major {major}");
        }
    }
}
