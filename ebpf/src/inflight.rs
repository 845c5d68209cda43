//! What is in flight: one slot from submission to completion.
//!
//! The cut carries every occupied slot into the new epoch, so a slot that is freed too late only marks
//! too much. It must never be freed too early, nor be taken from a request still in flight.

use crate::fault::planted;
use crate::maps::{BUCKETS, SLOTS};
use blkdelta_ebpf::BUCKET;
use core::intrinsics::{AtomicOrdering, atomic_cxchg};
use core::ptr::{NonNull, read_volatile, write_volatile};

/// What became of a submission.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Put {
    /// It has a slot.
    New,
    /// It had one already: the same request, issued again or seen by another copy.
    Again,
    /// All its slots are taken by others.
    Full,
}

/// Names a request or bio: its distance from its disk (the verifier allows no arithmetic on a kernel
/// pointer, but a difference of two is a number) and the disk's row. Two in flight never share a key:
/// on one disk the addresses differ, and across disks the rows do.
#[inline(always)]
pub fn key(object: *const u8, disk: *const u8, disk_id: u32) -> u64 {
    let distance = (object as u64).wrapping_sub(disk as u64);
    (distance >> 3) << 8 | u64::from(disk_id & 63) << 1 | 1
}

/// What stands in a slot.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Flight {
    /// First sector on the whole disk.
    pub sector: u64,
    /// Sectors.
    pub count: u64,
    /// When its request was allocated.
    pub born: u64,
}

/// A slot: where its key is. One pointer that is never null, so that "none" is null and no register is left undefined,
/// which the verifier would not let be saved.
#[derive(Clone, Copy)]
pub struct Slot(NonNull<u64>);

impl Slot {
    /// The slot's word in the field that comes `nth` in a bucket.
    #[inline(always)]
    fn field(self, nth: usize) -> *mut u64 {
        self.0.as_ptr().wrapping_add(nth * BUCKET)
    }

    /// What stands in it.
    #[inline(always)]
    pub fn flight(self) -> Flight {
        // SAFETY: a bucket is four fields, and the key is in the first.
        unsafe {
            Flight {
                sector: read_volatile(self.field(1)),
                count: read_volatile(self.field(2)),
                born: read_volatile(self.field(3)),
            }
        }
    }

    /// The caller's key stands in it, so nobody else fills it.
    #[inline(always)]
    fn fill(self, flight: Flight) {
        // SAFETY: as above.
        unsafe {
            write_volatile(self.field(1), flight.sector);
            write_volatile(self.field(2), flight.count);
            write_volatile(self.field(3), flight.born);
        }
    }

    /// Its key; 0 if it is free.
    #[inline(always)]
    fn key(self) -> u64 {
        // SAFETY: it lies in a map value.
        unsafe { read_volatile(self.0.as_ptr()) }
    }

    /// Takes it, if it is free.
    #[inline(always)]
    fn take(self, key: u64) -> bool {
        // SAFETY: it lies in a map value.
        self.key() == 0
            && unsafe {
                atomic_cxchg::<u64, { AtomicOrdering::SeqCst }, { AtomicOrdering::SeqCst }>(
                    self.0.as_ptr(),
                    0,
                    key,
                )
                .1
            }
    }

    /// Frees it.
    #[inline(always)]
    pub fn free(self) {
        // SAFETY: it lies in a map value.
        unsafe { write_volatile(self.0.as_ptr(), 0) };
    }
}

/// The first slot that a key may be in; the others follow.
#[inline(always)]
fn first_slot(key: u64) -> Option<NonNull<u64>> {
    let hash = ((key >> 11) ^ (key >> 20) ^ (key >> 31) ^ (key >> 1)) as u32;
    let hash = if planted!("few-slots") { 0 } else { hash };
    NonNull::new(SLOTS.get_ptr_mut(hash & (BUCKETS - 1))?.cast())
}

/// The `nth` slot of a bucket.
#[inline(always)]
fn slot(first: NonNull<u64>, nth: usize) -> Slot {
    // SAFETY: `nth` is below BUCKET.
    Slot(unsafe { first.add(nth) })
}

/// Remembers a write in flight. A key is in one slot at most, so a slot whose completion was never seen
/// heals as soon as its request's memory is used again.
#[inline(always)]
pub fn put(key: u64, flight: Flight) -> Put {
    if planted!("no-slot") {
        return Put::New;
    }
    let Some(first) = first_slot(key) else { return Put::Full };
    if let Some(slot) = find_from(first, key) {
        if slot.flight() == flight {
            return Put::Again;
        }
        slot.fill(flight);
        return Put::New;
    }
    for nth in 0..BUCKET {
        let slot = slot(first, nth);
        if slot.take(key) {
            slot.fill(flight);
            if planted!("slot-freed-early") {
                slot.free();
            }
            return Put::New;
        }
    }
    if planted!("overflow-uncounted") { Put::New } else { Put::Full }
}

/// Finds a request's slot.
#[inline(always)]
pub fn find(key: u64) -> Option<Slot> {
    find_from(first_slot(key)?, key)
}

#[inline(always)]
fn find_from(first: NonNull<u64>, key: u64) -> Option<Slot> {
    for nth in 0..BUCKET {
        let slot = slot(first, nth);
        if slot.key() == key {
            return Some(slot);
        }
    }
    None
}
