//! What each hook does: find the disk, see what changes, remember the flight, mark, count.
//!
//! ```text
//!   request-based disk:  block_rq_issue ──> slot + mark      block_rq_complete ──> mark + free the slot
//!   bio-based disk:      block_bio_queue, block_bio_remap    block_bio_complete
//! ```
//! A request's own range is right except for merged discards, where every bio counts. A completion of a
//! bio does not carry the range reliably: it is taken from the slot.

use crate::classify::{Change, change, harmless, operation, zone};
use crate::inflight::{self, Flight, Put};
use crate::kernel::{disk_number, kernel, load};
use crate::maps::{COUNTERS, EVENTS, disk};
use crate::mark::{mark_disk, mark_word};
use crate::passthrough;
use aya_ebpf::EbpfContext;
use aya_ebpf::cty::c_void;
use aya_ebpf::helpers::bpf_ktime_get_ns;
use aya_ebpf::programs::BtfTracePointContext as Context;
use aya_log_ebpf::warn;
use blkdelta_ebpf::{ADMIN_ROW, COPIES, Counters, DISK_BIO_BASED, DISK_LIVE, Disk, Event, MAX_DISKS};

/// Bios of one discard request, at most (`BLK_MAX_DISCARD_SEGMENTS`, 256, plus room to notice more).
const MAX_BIOS: u32 = 257;

/// The row of a disk and copy.
#[inline(always)]
fn counters<const COPY: u32>(disk: &Disk) -> Option<*mut Counters> {
    COUNTERS.get_ptr_mut((disk.id & (MAX_DISKS - 1)) * COPIES + COPY)
}

/// Adds to counters of this CPU: no other CPU writes them, and nothing nests with the same copy.
macro_rules! count {
    ($row:expr, $($field:ident += $n:expr),+) => {
        // SAFETY: `row` came from `counters`.
        unsafe { if !crate::fault::planted!("counters-frozen") { $((*$row).$field = (*$row).$field.wrapping_add($n);)+ } }
    };
}

/// Counts a command that may have changed anything, and remembers which it was.
#[inline(always)]
fn count_command(row: *mut Counters, opcode: u8) {
    count!(row, passthrough += 1);
    // SAFETY: `row` came from `counters`; the index is below 4.
    unsafe { (*row).commands[usize::from(opcode >> 6)] |= 1 << (opcode & 63) };
}

/// A content change that concerns a tracked disk.
struct Seen<'a> {
    disk: &'a Disk,
    row: *mut Counters,
    op: u32,
    sector: u64,
    count: u64,
}

impl Seen<'_> {
    /// Marks the range of the operation itself: nearly all there are, so without a call if it can be.
    #[inline(always)]
    fn mark_own(&self) {
        if self.count == 0 || !mark_word(self.disk.first, self.sector, self.count) {
            self.mark(self.sector, self.count);
        }
    }

    /// Marks a range in every target of the disk.
    #[inline(always)]
    fn mark(&self, sector: u64, count: u64) {
        if count == 0 {
            return;
        }
        if sector >= self.disk.sectors || count > self.disk.sectors - sector {
            count!(self.row, out_of_range += 1);
        }
        let unmapped = mark_disk(self.disk.first, sector, count);
        if unmapped != 0 {
            count!(self.row, unmapped += unmapped);
        }
    }

    /// Marks the zone the sector lies in; without a zone size the device is suspect.
    ///
    /// # Safety
    /// `queue` must be a `struct request_queue` or null.
    #[inline(always)]
    unsafe fn mark_zone(&self, queue: *const u8) -> (u64, u64) {
        // SAFETY: by the caller's word.
        match unsafe { zone(queue, self.sector) } {
            Some((sector, count)) => {
                self.mark(sector, count);
                (sector, count)
            }
            None => {
                count!(self.row, unaddressed += 1);
                (self.sector, self.count)
            }
        }
    }

    /// Marks every bio of a discard. Returns the range that covers them all.
    ///
    /// # Safety
    /// `request` must be a `struct request`.
    #[inline(always)]
    unsafe fn mark_bios(&self, request: *const u8) -> (u64, u64) {
        let (mut low, mut high) = (self.sector, self.sector);
        // SAFETY: a request's bios are a null-ended list.
        let mut bio: *const u8 = unsafe { load(request, kernel!(rq_bio)) };
        if bio.is_null() {
            self.mark(self.sector, self.count);
            return (self.sector, self.count);
        }
        for _ in 0..MAX_BIOS {
            if bio.is_null() {
                return (low, high - low);
            }
            // SAFETY: `bio` is a bio.
            let (sector, bytes, next): (u64, u32, *const u8) = unsafe {
                (load(bio, kernel!(bio_sector)), load(bio, kernel!(bio_size)), load(bio, kernel!(bio_next)))
            };
            let count = u64::from(bytes >> 9);
            self.mark(sector, count);
            low = if sector < low { sector } else { low };
            high = if sector + count > high { sector + count } else { high };
            bio = next;
        }
        count!(self.row, truncated += 1);
        (low, high - low)
    }

    /// Marks what the operation changes. Returns the range to remember while it is in flight.
    ///
    /// # Safety
    /// `request` must be a `struct request` if `change` is `RangePerBio`; `queue` a `struct request_queue` or null.
    #[inline(always)]
    unsafe fn mark_change(&self, change: Change, request: *const u8, queue: *const u8) -> (u64, u64) {
        match change {
            // SAFETY: by the caller's word.
            Change::RangePerBio if !request.is_null() => unsafe { self.mark_bios(request) },
            // SAFETY: by the caller's word.
            Change::Zone => unsafe { self.mark_zone(queue) },
            _ => {
                self.mark_own();
                (self.sector, self.count)
            }
        }
    }

    /// Puts the write into the ring buffer, if somebody watches.
    #[inline(always)]
    fn show(&self) {
        if self.disk.flags & DISK_LIVE == 0 {
            return;
        }
        // SAFETY: a helper without arguments.
        let time = unsafe { bpf_ktime_get_ns() };
        let event = Event {
            time,
            sector: self.sector,
            count: self.count as u32,
            op: self.op,
            disk: self.disk.id,
            reserved: 0,
        };
        if EVENTS.output::<Event>(&event, 0).is_err() {
            count!(self.row, events_lost += 1);
        }
    }

    /// Counts an operation that we do not know. True: there is nothing to mark (a bio carries no command).
    #[inline(always)]
    fn blind(&self, context: &Context, change: Change) -> bool {
        match change {
            Change::Passthrough => self.strange(context, 0xff),
            Change::Unknown => count!(self.row, unknown += 1),
            _ => return false,
        }
        change == Change::Passthrough
    }

    /// Counts a command that may have changed anything.
    #[inline(always)]
    fn strange(&self, context: &Context, opcode: u8) {
        // SAFETY: `row` came from `counters`.
        if unsafe { (*self.row).passthrough } == 0 {
            warn!(context, "command {} on disk row {}: what it changed is unknown", opcode, self.disk.id);
        }
        count_command(self.row, opcode);
    }

    /// A passthrough request, at submission or completion: marks what its command names. Returns the range, or
    /// `None` if there is nothing to remember. The kernel does not account these, so neither do our sums.
    ///
    /// # Safety
    /// `request` must be a `struct request`.
    #[inline(always)]
    unsafe fn mark_command(&self, context: &Context, request: *const u8) -> Option<(u64, u64)> {
        // SAFETY: by the caller's word.
        let command = unsafe { passthrough::read(request, self.disk, self.op) };
        match command.range {
            Some((_, 0)) => None,
            Some((sector, count)) => {
                self.mark(sector, count);
                Some((sector, count))
            }
            None => {
                self.strange(context, command.opcode);
                None
            }
        }
    }

    /// Completion of a passthrough request, or of a part of it.
    ///
    /// # Safety
    /// `request` must be a `struct request`.
    #[inline(always)]
    unsafe fn complete_command(&self, context: &Context, request: *const u8, key: u64, whole: bool) {
        // SAFETY: by the caller's word.
        if unsafe { self.mark_command(context, request) }.is_some() {
            count!(self.row, completed += 1);
            if whole && let Some(slot) = inflight::find(key) {
                slot.free();
            }
        }
    }

    /// Remembers the write until it completes, and counts it.
    #[inline(always)]
    fn submit(&self, key: u64, range: (u64, u64), born: u64, copy: u32) {
        match inflight::put(key, Flight { sector: range.0, count: range.1, born }) {
            Put::Again if copy == 0 => count!(self.row, requeued += 1),
            Put::Full => count!(
                self.row,
                submitted += 1,
                submitted_sectors += self.count,
                overflowed += 1,
                overflowed_sectors += self.count
            ),
            _ => count!(self.row, submitted += 1, submitted_sectors += self.count),
        }
    }
}

/// The disk of a request; null if its queue has none.
///
/// # Safety
/// `request` must be a `struct request`.
#[inline(always)]
unsafe fn request_disk(request: *const u8) -> *const u8 {
    // SAFETY: a request's queue is null or a request_queue, whose disk is null or a gendisk.
    unsafe {
        let queue: *const u8 = load(request, kernel!(rq_queue));
        if queue.is_null() { queue } else { load(queue, kernel!(queue_disk)) }
    }
}

/// `block_rq_issue(rq)`: a driver is about to start a request.
///
/// # Safety
/// Argument 0 must be a `struct request`.
#[inline(always)]
pub unsafe fn request_submit<const COPY: u32>(context: &Context) {
    let request: *const u8 = context.arg(0);
    // SAFETY: `request` is a request.
    unsafe {
        let op = operation(load(request, kernel!(rq_flags)));
        if harmless(op) {
            return;
        }
        let gendisk = request_disk(request);
        if gendisk.is_null() {
            admin_issued::<COPY>(request, op);
        } else if let Some(disk) = disk(disk_number(gendisk)) {
            issued::<COPY>(context.as_ptr(), request, gendisk, disk, op);
        }
    }
}

/// A request to no disk at all: only commands to NVMe controllers concern us.
///
/// # Safety
/// `request` must be a `struct request`.
#[inline(never)]
unsafe fn admin_issued<const COPY: u32>(request: *const u8, op: u32) {
    if change(op) == Change::Passthrough
        // SAFETY: by the caller's word.
        && let Some(opcode) = unsafe { passthrough::read_admin(request) }
        && let Some(row) = COUNTERS.get_ptr_mut(ADMIN_ROW * COPIES + COPY)
    {
        count_command(row, opcode);
    }
}

/// A request that changes something, to a tracked disk. A function of its own, so that for all others little code and
/// no register is touched.
///
/// # Safety
/// `context` must be the program's, `request` a `struct request` on `gendisk`.
#[inline(never)]
unsafe fn issued<const COPY: u32>(
    context: *mut c_void,
    request: *const u8,
    gendisk: *const u8,
    disk: &Disk,
    op: u32,
) {
    let context = &Context::new(context);
    // SAFETY: `request` is a request.
    unsafe {
        let change = change(op);
        let Some(row) = counters::<COPY>(disk) else { return };
        let bytes: u32 = load(request, kernel!(rq_length));
        let sector: u64 = load(request, kernel!(rq_sector));
        let born: u64 = load(request, kernel!(rq_born));
        let key = inflight::key(request, gendisk, disk.id);
        if change == Change::Passthrough {
            let seen = Seen { disk, row, op, sector, count: 0 };
            if let Some(range) = seen.mark_command(context, request) {
                seen.submit(key, range, born, COPY);
            }
            return;
        }
        let seen = Seen { disk, row, op, sector, count: u64::from(bytes >> 9) };
        if seen.blind(context, change) || (bytes == 0 && change != Change::Zone) {
            return;
        }
        let range = seen.mark_change(change, request, load(request, kernel!(rq_queue)));
        seen.submit(key, range, born, COPY);
        if COPY == 0 {
            seen.show();
        }
    }
}

/// `block_rq_complete(rq, error, bytes)`: a request, or its first `bytes`, is done.
///
/// # Safety
/// Argument 0 must be a `struct request`, 1 a status, 2 a byte count.
#[inline(always)]
pub unsafe fn request_complete<const COPY: u32>(context: &Context) {
    let request: *const u8 = context.arg(0);
    // SAFETY: `request` is a request.
    unsafe {
        let op = operation(load(request, kernel!(rq_flags)));
        if harmless(op) {
            return;
        }
        let gendisk = request_disk(request);
        if !gendisk.is_null()
            && let Some(disk) = disk(disk_number(gendisk))
        {
            completed::<COPY>(context.as_ptr(), request, gendisk, disk, op);
        }
    }
}

/// Completion of a request that changes something, on a tracked disk: as `issued`.
///
/// # Safety
/// `context` must be the program's, `request` a `struct request` on `gendisk`.
#[inline(never)]
unsafe fn completed<const COPY: u32>(
    context: *mut c_void,
    request: *const u8,
    gendisk: *const u8,
    disk: &Disk,
    op: u32,
) {
    let context = &Context::new(context);
    let status: u32 = context.arg(1);
    let bytes: u32 = context.arg(2);
    // SAFETY: `request` is a request.
    unsafe {
        let change = change(op);
        let Some(row) = counters::<COPY>(disk) else { return };
        let length: u32 = load(request, kernel!(rq_length));
        let sector: u64 = load(request, kernel!(rq_sector));
        let seen = Seen { disk, row, op, sector, count: u64::from(bytes >> 9) };
        let key = inflight::key(request, gendisk, disk.id);
        if change == Change::Passthrough {
            return seen.complete_command(context, request, key, bytes >= length);
        }
        let slot = inflight::find(key);
        if bytes != 0 || change == Change::Zone {
            seen.mark_change(change, request, load(request, kernel!(rq_queue)));
            count!(row, completed += 1, completed_sectors += crate::fault::counted(seen.count));
            // copy 0 frees the slot, so to the others every request would look like an orphan
            if COPY == 0 && slot.is_none() {
                count!(row, orphan_sectors += seen.count);
            }
        }
        if status & 0xff != 0 {
            count!(row, errors += 1);
        }
        if let Some(slot) = slot
            && bytes >= length
        {
            slot.free();
        }
    }
}

/// The tracked disk of a bio, and its gendisk and block device.
///
/// # Safety
/// `bio` must be a `struct bio`.
#[inline(always)]
unsafe fn bio_disk(bio: *const u8) -> Option<(&'static Disk, *const u8, *const u8)> {
    // SAFETY: a bio's device is null or a block_device, whose disk is a gendisk.
    unsafe {
        let device: *const u8 = load(bio, kernel!(bio_bdev));
        if device.is_null() {
            return None;
        }
        let gendisk: *const u8 = load(device, kernel!(bdev_disk));
        if gendisk.is_null() {
            return None;
        }
        Some((disk(disk_number(gendisk))?, gendisk, device))
    }
}

/// Submission of a bio that changes something, at `sector` of the whole disk.
///
/// # Safety
/// `context` must be the program's, `bio` a `struct bio` on `gendisk`.
#[inline(never)]
unsafe fn submit_bio<const COPY: u32>(
    context: *mut c_void,
    bio: *const u8,
    disk: &Disk,
    gendisk: *const u8,
    sector: u64,
) {
    let context = &Context::new(context);
    // SAFETY: `bio` is a bio, `gendisk` a gendisk.
    unsafe {
        let op = operation(load(bio, kernel!(bio_opf)));
        let change = change(op);
        let Some(row) = counters::<COPY>(disk) else { return };
        let bytes: u32 = load(bio, kernel!(bio_size));
        let seen = Seen { disk, row, op, sector, count: u64::from(bytes >> 9) };
        if seen.blind(context, change) || (bytes == 0 && change != Change::Zone) {
            return;
        }
        let queue: *const u8 = load(gendisk, kernel!(disk_queue));
        let range = seen.mark_change(change, core::ptr::null(), queue);
        seen.submit(inflight::key(bio, gendisk, disk.id), range, 0, COPY);
        if COPY == 0 {
            seen.show();
        }
    }
}

/// `block_bio_queue(bio)`: a bio enters a device.
///
/// # Safety
/// Argument 0 must be a `struct bio`.
#[inline(always)]
pub unsafe fn bio_submit<const COPY: u32>(context: &Context) {
    let bio: *const u8 = context.arg(0);
    // SAFETY: `bio` is a bio.
    unsafe {
        let op = operation(load(bio, kernel!(bio_opf)));
        if harmless(op) {
            return;
        }
        let Some((disk, gendisk, _)) = bio_disk(bio) else { return };
        if disk.flags & DISK_BIO_BASED != 0 {
            submit_bio::<COPY>(context.as_ptr(), bio, disk, gendisk, load(bio, kernel!(bio_sector)));
        }
    }
}

/// `block_bio_remap(bio, from device, from sector)`: a bio now points at a lower device.
///
/// # Safety
/// Argument 0 must be a `struct bio`, 1 a device number.
#[inline(always)]
pub unsafe fn bio_remap<const COPY: u32>(context: &Context) {
    let bio: *const u8 = context.arg(0);
    let from: u32 = context.arg(1);
    // SAFETY: `bio` is a bio.
    unsafe {
        let op = operation(load(bio, kernel!(bio_opf)));
        if harmless(op) {
            return;
        }
        let Some((disk, gendisk, device)) = bio_disk(bio) else { return };
        if disk.flags & DISK_BIO_BASED == 0 || from == load::<u32>(device, kernel!(bdev_dev)) {
            return; // from a partition to its own disk: block_bio_queue follows with the absolute sector
        }
        let flags: u16 = load(bio, kernel!(bio_flags));
        if flags >> (kernel!(bio_traced) & 15) & 1 == 0 {
            return; // block_bio_queue follows: it is left out only for a bio that was traced already
        }
        let mut sector: u64 = load(bio, kernel!(bio_sector));
        if flags >> (kernel!(bio_remapped) & 15) & 1 == 0 {
            sector += load::<u64>(device, kernel!(bdev_start));
        }
        submit_bio::<COPY>(context.as_ptr(), bio, disk, gendisk, sector);
    }
}

/// `block_bio_complete(queue, bio)`: a bio is done; its range is what its slot remembers.
///
/// # Safety
/// Argument 1 must be a `struct bio`.
#[inline(always)]
pub unsafe fn bio_complete<const COPY: u32>(context: &Context) {
    let bio: *const u8 = context.arg(1);
    // SAFETY: `bio` is a bio.
    unsafe {
        let op = operation(load(bio, kernel!(bio_opf)));
        if harmless(op) {
            return;
        }
        let Some((disk, gendisk, _)) = bio_disk(bio) else { return };
        if disk.flags & DISK_BIO_BASED != 0 && change(op) != Change::Passthrough {
            bio_completed::<COPY>(bio, disk, gendisk, op);
        }
    }
}

/// Completion of a bio that changes something, on a tracked disk.
///
/// # Safety
/// `bio` must be a `struct bio` on `gendisk`.
#[inline(never)]
unsafe fn bio_completed<const COPY: u32>(bio: *const u8, disk: &Disk, gendisk: *const u8, op: u32) {
    // SAFETY: `bio` is a bio; `find` returns a map value.
    unsafe {
        let Some(row) = counters::<COPY>(disk) else { return };
        let Some(slot) = inflight::find(inflight::key(bio, gendisk, disk.id)) else { return };
        let Flight { sector, count, .. } = slot.flight();
        let seen = Seen { disk, row, op, sector, count };
        seen.mark_own();
        count!(row, completed += 1, completed_sectors += seen.count);
        slot.free();
    }
}
