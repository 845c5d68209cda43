//! The maps, as `blkdelta_ebpf`'s head draws them.

use crate::fault::planted;
use aya_ebpf::bindings::bpf_map_def;
use aya_ebpf::bindings::bpf_map_type::BPF_MAP_TYPE_ARRAY;
use aya_ebpf::cty::c_void;
use aya_ebpf::helpers::bpf_map_lookup_elem;
use aya_ebpf::macros::map;
use aya_ebpf::maps::{Array, PerCpuArray, RingBuf};
use blkdelta_ebpf::{
    BUCKET, Bucket, COPIES, Counters, Disk, Entry, MAX_DISKS, MAX_PROBES, MAX_TARGETS, PLACES, RING_BYTES,
    Target, place_of,
};
use core::cell::UnsafeCell;
use core::ptr::read_volatile;

/// Buckets of in-flight slots.
pub const BUCKETS: u32 = blkdelta_ebpf::SLOTS / BUCKET as u32;

const BPF_F_MMAPABLE: u32 = 1 << 10;

#[map]
pub static DISKS: Array<Entry> = Array::with_max_entries(PLACES, 0);
#[map]
pub static ROWS: Array<Disk> = Array::with_max_entries(MAX_DISKS, 0);
#[map]
pub static TARGETS: Array<Target> = Array::with_max_entries(MAX_TARGETS, 0);
#[map]
pub static SLOTS: Array<Bucket> = Array::with_max_entries(BUCKETS, BPF_F_MMAPABLE);
#[map]
pub static COUNTERS: PerCpuArray<Counters> = PerCpuArray::with_max_entries((MAX_DISKS + 1) * COPIES, 0);
#[map]
pub static EVENTS: RingBuf = RingBuf::with_byte_size(RING_BYTES, 0);

/// An array of maps, declared as a plain array: aya 0.14 refuses one without BTF of its inner map, and takes
/// whatever map is pinned under the name. The collector makes the real one and pins it before loading.
#[repr(transparent)]
pub struct Bitmaps(UnsafeCell<bpf_map_def>);
// SAFETY: the definition is only ever read by the loader; the program uses its address.
unsafe impl Sync for Bitmaps {}

#[unsafe(link_section = "maps")]
#[unsafe(export_name = "BITMAPS")]
static BITMAPS: Bitmaps = Bitmaps(UnsafeCell::new(bpf_map_def {
    type_: BPF_MAP_TYPE_ARRAY,
    key_size: 4,
    value_size: 4,
    max_entries: MAX_TARGETS,
    map_flags: 0,
    id: 0,
    pinning: 0,
}));

/// The running epoch's bitmap of a target.
#[inline(always)]
pub fn bitmap(slot: u32) -> Option<*mut c_void> {
    let slot = if planted!("wrong-device") { 3u32.wrapping_sub(slot) } else { slot };
    if planted!("no-bitmap") {
        return None;
    }
    // SAFETY: the loader replaces the definition's address by the map; the key outlives the call.
    let inner = unsafe { bpf_map_lookup_elem(BITMAPS.0.get().cast(), (&raw const slot).cast()) };
    (!inner.is_null()).then_some(inner)
}

/// A word of a bitmap.
#[inline(always)]
pub fn word(bitmap: *mut c_void, index: u32) -> Option<*mut u64> {
    // SAFETY: `bitmap` came from the array of maps in this same run, which keeps it alive (RCU).
    let word = unsafe { bpf_map_lookup_elem(bitmap, (&raw const index).cast()) }.cast::<u64>();
    (!word.is_null()).then_some(word)
}

/// The entry at a place, as (dev, row); the row is read after the device number, which is written after it.
#[inline(always)]
fn entry(place: u32) -> (u32, u32) {
    let Some(entry) = DISKS.get_ptr(place & (PLACES - 1)) else { return (0, 0) };
    // SAFETY: the verifier proved that `entry` points at a map value.
    unsafe {
        let dev = read_volatile(&raw const (*entry).dev);
        (dev, read_volatile(&raw const (*entry).row))
    }
}

/// The tracked disk with this device number; 0 is none. Mostly its own place is empty or has it. The reference
/// stays good while the program runs: an element of an array never moves.
#[inline(always)]
pub fn disk(number: u32) -> Option<&'static Disk> {
    let number = if planted!("minor-8-bits") { number & 0xfff0_00ff } else { number };
    let place = place_of(number);
    let (dev, mut row) = entry(place);
    if dev == 0 {
        return None;
    }
    if dev != number {
        row = row_further_on(number, place);
    }
    // SAFETY: the verifier proved that it points at a map value.
    ROWS.get_ptr(row).map(|disk| unsafe { &*disk })
}

/// Looks at the places after a disk's own; a row that does not exist if it is not tracked.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn row_further_on(number: u32, place: u32) -> u32 {
    if number == 0 {
        return MAX_DISKS; // else it would be taken for an empty place's
    }
    for step in 1..MAX_PROBES {
        let (dev, row) = entry(place.wrapping_add(step));
        if dev == number {
            return row;
        }
        if dev == 0 {
            break;
        }
    }
    MAX_DISKS
}
