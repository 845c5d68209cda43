//! Which operations change content, and where.
//!
//! Deny by default: an operation that is not known to be harmless counts as a write, and one that is not
//! known at all makes the device suspect. Operation numbers come from the running kernel's `enum req_op`.

use crate::fault::planted;
use crate::kernel::{kernel, load};

/// What an operation that is not harmless does to the medium.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// It changes the range it names.
    Range,
    /// It changes the range of every bio of its request.
    RangePerBio,
    /// It changes the zone its sector lies in.
    Zone,
    /// A command of the device's own language: it may change anything.
    Passthrough,
    /// We do not know.
    Unknown,
}

/// `REQ_OP_MASK` (`include/linux/blk_types.h`): the low 8 bits of the flags.
#[inline(always)]
pub fn operation(flags: u32) -> u32 {
    flags & 0xff
}

/// Does operation `op` change nothing? All that is asked before it is known whether anybody tracks the disk.
#[inline(always)]
pub fn harmless(op: u32) -> bool {
    op < 64 && (kernel!(harmless) >> (op & 63) & 1 == 1 || forgotten(op))
}

/// A fault: an operation that changes content is taken for harmless.
#[inline(always)]
fn forgotten(op: u32) -> bool {
    // of the ranged ones all but REQ_OP_WRITE, which is 1
    planted!("discards") && op == kernel!(op_discard)
        || planted!("write-zeroes") && op != 1 && kernel!(ranged) >> (op & 63) & 1 == 1
}

/// What operation `op`, which is not harmless, changes.
#[inline(always)]
pub fn change(op: u32) -> Change {
    if op >= 64 {
        return Change::Unknown;
    }
    let has = |set: u64| set >> op & 1 == 1;
    if has(kernel!(ranged)) {
        Change::Range
    } else if op == kernel!(op_discard) || op == kernel!(op_secure_erase) {
        Change::RangePerBio
    } else if has(kernel!(zoned)) {
        Change::Zone
    } else if has(kernel!(passthrough)) {
        Change::Passthrough
    } else {
        Change::Unknown
    }
}

/// The zone that `sector` lies in, as (first sector, sectors); `None` if the queue does not know its zone size.
///
/// # Safety
/// `queue` must be a `struct request_queue` or null.
#[inline(always)]
pub unsafe fn zone(queue: *const u8, sector: u64) -> Option<(u64, u64)> {
    if queue.is_null() {
        return None;
    }
    // SAFETY: `queue` is a request_queue.
    let size: u32 = unsafe { load(queue, kernel!(queue_chunk)) };
    if size == 0 {
        return None;
    }
    let size = u64::from(size);
    Some((sector - sector % size, size))
}
