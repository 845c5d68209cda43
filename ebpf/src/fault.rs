//! Faults planted on purpose, in the object of a test build alone: without the feature `planted` each is `false`.

#[cfg(feature = "planted")]
use crate::kernel::{kernel, load};
use aya_ebpf::programs::BtfTracePointContext as Context;

/// Filled in by the collector's test build before loading: see [`blkdelta_ebpf::planted`].
#[cfg(feature = "planted")]
#[unsafe(no_mangle)]
pub static PLANTED: u64 = 0;

/// Is the fault of this name planted?
#[cfg(feature = "planted")]
macro_rules! planted {
    ($name:literal) => {{
        const BIT: u64 = blkdelta_ebpf::planted::bit($name);
        const { assert!(BIT != 0, "no fault of that name") };
        // SAFETY: a static of this object; volatile, or the compiler would fold the zero above.
        unsafe { core::ptr::read_volatile(&raw const $crate::fault::PLANTED) & BIT != 0 }
    }};
}

/// Is the fault of this name planted?
#[cfg(not(feature = "planted"))]
macro_rules! planted {
    ($name:literal) => {
        false
    };
}
pub(crate) use planted;

/// Is this event hidden from the program that `what` is, as if the kernel had skipped it?
///
/// # Safety
/// The context must be that of `what`, a function of [`crate::track`].
#[cfg(feature = "planted")]
#[inline(always)]
pub unsafe fn hides(what: &str, context: &Context) -> bool {
    // SAFETY: the first argument of these is a request or a bio.
    let (all, sector): (bool, u64) = unsafe {
        match what.as_bytes() {
            b"request_submit" => (planted!("unseen-submission"), load(context.arg(0), kernel!(rq_sector))),
            b"request_complete" => (planted!("unseen-completion"), load(context.arg(0), kernel!(rq_sector))),
            b"bio_submit" => (false, load(context.arg(0), kernel!(bio_sector))),
            _ => return false,
        }
    };
    // one of four areas of 4 KiB
    all || planted!("unseen") && sector >> 3 & 3 == 3
}

/// No event is hidden.
///
/// # Safety
/// Always safe.
#[cfg(not(feature = "planted"))]
#[inline(always)]
pub const unsafe fn hides(_what: &str, _context: &Context) -> bool {
    false
}

/// Sectors as they are counted.
#[inline(always)]
pub fn counted(sectors: u64) -> u64 {
    if planted!("counted-twice") { sectors * 2 } else { sectors }
}

/// The word and bits that a late marking sets: those of eight markings ago.
#[cfg(feature = "planted")]
#[inline(always)]
pub fn late(index: u32, bits: u64) -> (u32, u64) {
    const ROOM: usize = 8;
    static mut NEXT: usize = 0;
    static mut WAITING: [(u32, u64); ROOM] = [(0, 0); ROOM];
    // SAFETY: racing programs mix up what waits, which is a fault as well.
    unsafe {
        let at = core::ptr::read_volatile(&raw const NEXT) & (ROOM - 1);
        core::ptr::write_volatile(&raw mut NEXT, at + 1);
        let place = (&raw mut WAITING).cast::<(u32, u64)>().wrapping_add(at);
        let before = core::ptr::read_volatile(place);
        core::ptr::write_volatile(place, (index, bits));
        before
    }
}

/// Never called.
#[cfg(not(feature = "planted"))]
#[inline(always)]
pub const fn late(index: u32, bits: u64) -> (u32, u64) {
    (index, bits)
}
