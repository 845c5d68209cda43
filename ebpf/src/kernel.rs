//! Reading the kernel's structs through the offsets that the collector took from the running kernel's BTF.
//!
//! [`KERNEL`] is frozen read-only data, so the verifier knows every offset as a constant, and
//! "trusted pointer + constant" stays a typed, fault-tolerant load.

use blkdelta_ebpf::Kernel;

/// Filled in by the collector before loading.
#[unsafe(no_mangle)]
pub static KERNEL: Kernel = Kernel {
    bio_bdev: 0,
    bio_opf: 0,
    bio_flags: 0,
    bio_sector: 0,
    bio_size: 0,
    bio_next: 0,
    bdev_dev: 0,
    bdev_disk: 0,
    bdev_start: 0,
    disk_major: 0,
    rq_queue: 0,
    rq_flags: 0,
    rq_length: 0,
    rq_sector: 0,
    rq_bio: 0,
    rq_born: 0,
    queue_disk: 0,
    queue_chunk: 0,
    bio_remapped: 0,
    op_discard: 0,
    op_secure_erase: 0,
    disk_queue: 0,
    bio_traced: 0,
    op_drv_in: 0,
    rq_end: 0,
    scsi_command: 0,
    scsi_device: 0,
    scsi_queue: 0,
    nvme_command: 0,
    disk_minor: 0,
    harmless: 0,
    ranged: 0,
    zoned: 0,
    passthrough: 0,
};

/// One field of [`KERNEL`]; volatile, or the compiler would fold the zeros above.
macro_rules! kernel {
    ($field:ident) => {
        // SAFETY: a static of this object.
        unsafe { core::ptr::read_volatile(&raw const $crate::kernel::KERNEL.$field) }
    };
}
pub(crate) use kernel;

/// Loads a field of a kernel struct.
///
/// # Safety
/// `object` must be a kernel pointer the verifier trusts, `offset` that of a field of type `T` in it.
#[inline(always)]
pub unsafe fn load<T: Copy>(object: *const u8, offset: u32) -> T {
    // SAFETY: by the caller's word; the verifier checks it once more.
    unsafe { core::ptr::read_volatile(object.wrapping_add(offset as usize).cast()) }
}

/// Device number of a `struct gendisk`; 0 before it has one. `device_add_disk` makes its whole-disk `block_device`'s of
/// the same two numbers (block/genhd.c, 6.1 to 7.3); here they cost no further pointer.
///
/// # Safety
/// `disk` must be a `struct gendisk`.
#[inline(always)]
pub unsafe fn disk_number(disk: *const u8) -> u32 {
    // SAFETY: `disk` is a gendisk.
    unsafe { load::<u32>(disk, kernel!(disk_major)) << 20 | load::<u32>(disk, kernel!(disk_minor)) }
}
