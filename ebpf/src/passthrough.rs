//! Passthrough requests (SG_IO, NVMe ioctls, bsg, uring_cmd): the command that lies behind the request is read.
//!
//! What must stay true: a command that could not be read, or whose blocks it does not name, counts as one
//! that may have changed anything. `blk_mq_rq_to_pdu` (include/linux/blk-mq.h): the driver's part begins
//! right behind `struct request`; for SCSI it is `struct scsi_cmnd`, for NVMe `struct nvme_request`.

use crate::kernel::{kernel, load};
use aya_ebpf::helpers::bpf_probe_read_kernel;
use blkdelta_ebpf::command::{self, NVME_BYTES, Reach, SCSI_BYTES};
use blkdelta_ebpf::{DISK_NVME, DISK_SCSI, DISK_VIRTIO, Disk, NOWHERE};

/// A command and what it changes, in sectors of the whole disk.
pub struct Command {
    /// Its first byte.
    pub opcode: u8,
    /// The range; `None`: it may be anything.
    pub range: Option<(u64, u64)>,
}

/// A command that could not be read.
const UNREAD: Command = Command { opcode: 0xff, range: None };

/// The first bytes of the driver's part of a request, at `offset`.
///
/// # Safety
/// `request` must be a `struct request`.
#[inline(always)]
unsafe fn behind<T>(request: *const u8, offset: u32) -> Option<T> {
    if offset == NOWHERE || kernel!(rq_end) == 0 {
        return None;
    }
    let place = request.wrapping_add(kernel!(rq_end) as usize).wrapping_add(offset as usize);
    // SAFETY: the helper takes any address and fails on one that cannot be read.
    unsafe { bpf_probe_read_kernel(place.cast()) }.ok()
}

/// Reads a passthrough request to a tracked disk.
///
/// # Safety
/// `request` must be a `struct request` to `disk`.
#[inline(always)]
pub unsafe fn read(request: *const u8, disk: &Disk, op: u32) -> Command {
    // SAFETY: by the caller's word; the command's address comes from the driver and may be anything.
    unsafe {
        let (opcode, reach) = if disk.flags & DISK_SCSI != 0 {
            let Some(cdb) = behind::<[u8; SCSI_BYTES]>(request, kernel!(scsi_command)) else { return UNREAD };
            (cdb[0], command::scsi(&cdb))
        } else if disk.flags & DISK_NVME != 0 {
            let Some(at) = behind::<u64>(request, kernel!(nvme_command)) else { return UNREAD };
            let Ok(bytes) = bpf_probe_read_kernel(at as *const [u8; NVME_BYTES]) else { return UNREAD };
            (bytes[0], command::nvme(&bytes))
        } else if disk.flags & DISK_VIRTIO != 0 && op == kernel!(op_drv_in) {
            // serial number and zone report, nothing else (drivers/block/virtio_blk.c, 6.1 to 7.3)
            (0, Reach::Nothing)
        } else {
            return UNREAD;
        };
        Command { opcode, range: reach.sectors(disk.lba_shift) }
    }
}

/// The opcode of a request to no disk that may change the content of NVMe namespaces: one on an admin queue.
///
/// # Safety
/// `request` must be a `struct request`.
#[inline(always)]
pub unsafe fn read_admin(request: *const u8) -> Option<u8> {
    // SAFETY: `request` is a request; the other addresses may be anything, which the helper bears.
    unsafe {
        let queue: *const u8 = load(request, kernel!(rq_queue));
        if queue.is_null() {
            return None;
        }
        let gendisk: *const u8 = load(queue, kernel!(queue_disk));
        if !gendisk.is_null() {
            return None; // another disk's
        }
        // a SCSI unit without a disk leads back to this queue; then it is no NVMe controller
        if kernel!(scsi_queue) != NOWHERE
            && let Some(unit) = behind::<u64>(request, kernel!(scsi_device))
            && let Ok(back) =
                bpf_probe_read_kernel::<u64>(unit.wrapping_add(u64::from(kernel!(scsi_queue))) as *const u64)
            && back == queue as u64
        {
            return None;
        }
        let at = behind::<u64>(request, kernel!(nvme_command))?;
        let opcode = bpf_probe_read_kernel(at as *const u8).ok()?;
        match command::nvme_admin(opcode) {
            Reach::Nothing => None,
            _ => Some(opcode),
        }
    }
}
