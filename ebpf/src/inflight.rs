//! What is in flight: one slot from submission to completion.
//!
//! The cut carries every occupied slot into the new epoch, so a slot that is freed too late only marks
//! too much. It must never be freed too early, nor be taken from a request still in flight.

use crate::maps::{BUCKETS, SLOTS};
use blkdelta_ebpf::{BUCKET, Slot};
use core::intrinsics::{AtomicOrdering, atomic_cxchg};
use core::ptr::{read_volatile, write_volatile};

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

/// The slots a key may be in; a pointer to the first of [`BUCKET`].
#[inline(always)]
fn bucket(key: u64) -> Option<*mut Slot> {
    let hash = ((key >> 11) ^ (key >> 20) ^ (key >> 31) ^ (key >> 1)) as u32;
    SLOTS.get_ptr_mut(hash & (BUCKETS - 1)).map(|bucket| bucket.cast())
}

/// Remembers a write in flight. A key is in one slot at most, so a slot whose completion was never seen
/// heals as soon as its request's memory is used again.
#[inline(always)]
pub fn put(key: u64, sector: u64, count: u64, born: u64) -> Put {
    let Some(bucket) = bucket(key) else { return Put::Full };
    if let Some(slot) = find_in(bucket, key) {
        // SAFETY: `find_in` returns a slot of a map value.
        let same = unsafe {
            read_volatile(&raw const (*slot).born) == born
                && read_volatile(&raw const (*slot).sector) == sector
                && read_volatile(&raw const (*slot).count) == count
        };
        if same {
            return Put::Again;
        }
        fill(slot, sector, count, born);
        return Put::New;
    }
    for i in 0..BUCKET {
        let slot = bucket.wrapping_add(i);
        // SAFETY: the verifier proved that the bucket is a map value of BUCKET slots.
        let taken = unsafe {
            read_volatile(&raw const (*slot).key) == 0
                && atomic_cxchg::<u64, { AtomicOrdering::SeqCst }, { AtomicOrdering::SeqCst }>(
                    &raw mut (*slot).key,
                    0,
                    key,
                )
                .1
        };
        if taken {
            fill(slot, sector, count, born);
            return Put::New;
        }
    }
    Put::Full
}

#[inline(always)]
fn fill(slot: *mut Slot, sector: u64, count: u64, born: u64) {
    // SAFETY: `slot` is a map value whose key is the caller's, so nobody else fills it.
    unsafe {
        write_volatile(&raw mut (*slot).sector, sector);
        write_volatile(&raw mut (*slot).count, count);
        write_volatile(&raw mut (*slot).born, born);
    }
}

/// Finds a request's slot.
#[inline(always)]
pub fn find(key: u64) -> Option<*mut Slot> {
    find_in(bucket(key)?, key)
}

#[inline(always)]
fn find_in(bucket: *mut Slot, key: u64) -> Option<*mut Slot> {
    for i in 0..BUCKET {
        let slot = bucket.wrapping_add(i);
        // SAFETY: the verifier proved that the bucket is a map value of BUCKET slots.
        if unsafe { read_volatile(&raw const (*slot).key) } == key {
            return Some(slot);
        }
    }
    None
}

/// Frees a slot.
#[inline(always)]
pub fn free(slot: *mut Slot) {
    // SAFETY: `slot` came from `find`.
    unsafe { write_volatile(&raw mut (*slot).key, 0) }
}
