//! From a range of sectors to bits: every target of the disk that the range touches.
//!
//! Global BPF functions (BTF linkage "global") are verified once, on their own, however often and in
//! whatever loop they are called: inlining them into the walk over a discard's bios passes the
//! verifier's limit of a million instructions.

use crate::fault::{late, planted};
use crate::maps::{TARGETS, bitmap, word};
use aya_ebpf::cty::c_void;
use aya_ebpf::helpers::bpf_loop;
use blkdelta_ebpf::{MAX_TARGETS_PER_DISK, Target};
use core::intrinsics::{AtomicOrdering, atomic_or};

/// The common case, without a call: the disk has one target, and the range lies in it and in one word of its bitmap.
/// False: it is another case, and nothing is marked.
#[inline(always)]
pub fn mark_word(slot: u32, sector: u64, count: u64) -> bool {
    let Some(target) = TARGETS.get(slot) else { return false };
    let first = sector.wrapping_sub(start(target));
    if target.next != 0 || first >= sectors(target) || count > sectors(target) - first {
        return false;
    }
    let shift = shift(target);
    let (first, last) = (first >> shift, last_area(first + count, shift));
    if first >> 6 != last >> 6 {
        return false;
    }
    let Some(map) = bitmap(slot) else { return false };
    or(map, (first >> 6) as u32, u64::MAX << (first & 63) & u64::MAX >> (63 - (last & 63)))
}

/// Its first sector.
#[inline(always)]
fn start(target: &Target) -> u64 {
    if planted!("start-off") { target.start + 1 } else { target.start }
}

/// Its sectors.
#[inline(always)]
fn sectors(target: &Target) -> u64 {
    if planted!("end-off") { target.sectors - 1 } else { target.sectors }
}

/// log2 of its sectors per area.
#[inline(always)]
fn shift(target: &Target) -> u32 {
    if planted!("shift-off") { (target.shift & 31) + 1 } else { target.shift & 31 }
}

/// The area that a range lies in with its last sector, the one before `end`.
#[inline(always)]
fn last_area(end: u64, shift: u32) -> u64 {
    // a fault: the last area counts only if the range fills it
    if planted!("last-area") { (end >> shift).wrapping_sub(1) } else { (end - 1) >> shift }
}

/// Marks `count` sectors from `sector` (of the whole disk) in every target of the list that begins at `first`.
/// Returns how many targets had no bitmap.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn mark_disk(first: u32, sector: u64, count: u64) -> u64 {
    let mut slot = first;
    let mut unmapped = 0;
    for _ in 0..MAX_TARGETS_PER_DISK {
        if slot == 0 {
            break;
        }
        let next = mark_target(slot, sector, count);
        unmapped += next >> 32;
        slot = if planted!("first-target-only") { 0 } else { next as u32 };
    }
    unmapped
}

/// Marks the part of the range that lies in one target. Returns the next target's slot, and in the upper
/// half 1 if there was no bitmap.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn mark_target(slot: u32, sector: u64, count: u64) -> u64 {
    let Some(target) = TARGETS.get(slot) else { return 1 << 32 };
    let next = u64::from(target.next);
    let range_end = sector.saturating_add(count);
    let start = start(target);
    let target_end = start.saturating_add(sectors(target));
    let begin = if sector > start { sector } else { start };
    let end = if range_end < target_end { range_end } else { target_end };
    if begin >= end {
        return next;
    }
    let shift = shift(target);
    let first = (begin - start) >> shift;
    let last = last_area(end - start, shift);
    if planted!("last-area") && first.wrapping_sub(last) == 1 {
        return next;
    }
    if set_bits(slot, first, last) { next } else { next | 1 << 32 }
}

/// Sets bits `first ..= last`; false if the target has no bitmap.
#[inline(always)]
fn set_bits(slot: u32, first: u64, last: u64) -> bool {
    let Some(map) = bitmap(slot) else { return false };
    let (first_word, last_word) = ((first >> 6) as u32, (last >> 6) as u32);
    let head = u64::MAX << (first & 63);
    let tail = u64::MAX >> (63 - (last & 63));
    if first_word == last_word {
        return or(map, first_word, head & tail);
    }
    let tail = if planted!("word-tail") { 0 } else { tail };
    let ends = or(map, first_word, head) & or(map, last_word, tail);
    let between = last_word - first_word - 1;
    if between != 0 && !planted!("inner-words") {
        let mut fill = Fill { slot, word: first_word + 1 };
        // SAFETY: the callback only reads `fill`, which lives until the helper returns.
        unsafe { bpf_loop(between, fill_word as *mut c_void, (&raw mut fill).cast(), 0) };
    }
    ends
}

/// Sets bits of one word; leaves a word alone that has them already (idempotent, and no bus traffic).
#[inline(always)]
fn or(map: *mut c_void, index: u32, bits: u64) -> bool {
    let (index, bits) = if planted!("late") { late(index, bits) } else { (index, bits) };
    let bits = if planted!("unmarked") { bits & 0x7777_7777_7777_7777 } else { bits };
    let Some(word) = word(map, index) else { return false };
    // SAFETY: the verifier proved that `word` points at 8 bytes of a map value.
    unsafe {
        if core::ptr::read_volatile(word) & bits != bits {
            atomic_or::<u64, u64, { AtomicOrdering::Relaxed }>(word, bits);
        }
    }
    true
}

/// What the loop over the inner words needs.
#[repr(C)]
struct Fill {
    slot: u32,
    word: u32,
}

/// Fills one word. Looks the bitmap up anew: across a cut the rest goes into the next epoch, which is as good.
extern "C" fn fill_word(i: u32, context: *mut c_void) -> i64 {
    // SAFETY: `context` is the `Fill` that `set_bits` passed to the helper.
    let (slot, first) = unsafe { ((*context.cast::<Fill>()).slot, (*context.cast::<Fill>()).word) };
    if let Some(map) = bitmap(slot) {
        or(map, first.wrapping_add(i), u64::MAX);
    }
    0
}
