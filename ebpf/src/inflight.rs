//! What is in flight: one slot from submission to completion.
//!
//! The cut carries every occupied slot into the new epoch, so a slot that is freed too late only marks
//! too much. It must never be freed too early, nor be taken from a request still in flight.

use crate::maps::SLOTS;
use blkdelta_ebpf::{PROBES, SLOTS as COUNT, Slot};
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

#[inline(always)]
fn home(key: u64) -> u32 {
    ((key >> 11) ^ (key >> 22) ^ (key >> 34) ^ (key << 5)) as u32
}

/// Remembers a write in flight. A key is in one slot at most, so a slot whose completion was never seen
/// heals as soon as its request's memory is used again.
#[inline(always)]
pub fn put(key: u64, sector: u64, count: u64, born: u64) -> Put {
    if let Some(slot) = find(key) {
        // SAFETY: `find` returns a map value.
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
    let home = home(key);
    for i in 0..PROBES {
        let Some(slot) = SLOTS.get_ptr_mut(home.wrapping_add(i) & (COUNT - 1)) else { break };
        // SAFETY: the verifier proved that `slot` points at a map value.
        let (_, taken) = unsafe {
            atomic_cxchg::<u64, { AtomicOrdering::SeqCst }, { AtomicOrdering::SeqCst }>(
                &raw mut (*slot).key,
                0,
                key,
            )
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
    let home = home(key);
    for i in 0..PROBES {
        let slot = SLOTS.get_ptr_mut(home.wrapping_add(i) & (COUNT - 1))?;
        // SAFETY: the verifier proved that `slot` points at a map value.
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
