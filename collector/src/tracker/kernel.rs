//! What the programs must know of the running kernel: offsets, operation numbers, tracepoint signatures.
//!
//! Everything is taken from its BTF at load time. A kernel that lacks something, or spells a tracepoint
//! otherwise, is refused; nothing is decided by its version.

use super::btf::KernelTypes;
use crate::error::{Error, Kind, Result};
use crate::sys::planted;
use blkdelta_ebpf::{HOOKS, Kernel, NOWHERE};

/// Operations that change no content; the rest counts as a change.
const HARMLESS: [&str; 4] = ["REQ_OP_READ", "REQ_OP_FLUSH", "REQ_OP_ZONE_OPEN", "REQ_OP_ZONE_CLOSE"];
/// Operations that change the range they name (`REQ_OP_DISCARD`, `…SECURE_ERASE` are named on their own).
const RANGED: [&str; 2] = ["REQ_OP_WRITE", "REQ_OP_WRITE_ZEROES"];
/// Operations that change the zone they name; `REQ_OP_ZONE_RESET_ALL` names none and stays unknown: suspect.
const ZONED: [&str; 3] = ["REQ_OP_ZONE_RESET", "REQ_OP_ZONE_FINISH", "REQ_OP_ZONE_APPEND"];
/// Commands in the device's own language.
const PASSTHROUGH: [&str; 2] = ["REQ_OP_DRV_IN", "REQ_OP_DRV_OUT"];

/// Tracepoints and the arguments the programs read.
const SIGNATURES: [(&str, &[&str]); 5] = [
    ("block_rq_issue", &["struct request *"]),
    ("block_rq_complete", &["struct request *", "blk_status_t", "unsigned int"]),
    ("block_bio_queue", &["struct bio *"]),
    ("block_bio_remap", &["struct bio *", "dev_t", "sector_t"]),
    ("block_bio_complete", &["struct request_queue *", "struct bio *"]),
];

/// Bits of the operations this kernel has, of those named.
fn set(types: &KernelTypes, names: &[&str]) -> u64 {
    names.iter().filter_map(|name| types.enumerator(name)).filter(|op| *op < 64).map(|op| 1 << op).sum()
}

fn operation(types: &KernelTypes, name: &str) -> Result<u32> {
    let value = types.enumerator(name).and_then(|v| u32::try_from(v).ok());
    value.ok_or_else(|| Error::new(Kind::Unsupported, format!("this kernel has no {name}")))
}

/// Where a SCSI command, its unit, the unit's queue and an NVMe command are; [`NOWHERE`] each if the driver is not
/// loaded, keeps it elsewhere, or cannot be read: passthrough commands then make the device suspect.
fn commands(types: &mut KernelTypes) -> [u32; 4] {
    // programs that use the helper for reading are refused then (kernel/trace/bpf_trace.c, 6.1 to 7.3)
    let lockdown = std::fs::read_to_string("/sys/kernel/security/lockdown").unwrap_or_default();
    if lockdown.contains("[confidentiality]") {
        return [NOWHERE; 4];
    }
    let scsi = types.with_module("scsi_mod", |types| {
        let at = |name, path| types.offset(name, path).unwrap_or(NOWHERE);
        let inside = types.holds_array("scsi_cmnd", "cmnd");
        let command = if inside { at("scsi_cmnd", "cmnd") } else { NOWHERE };
        [command, at("scsi_cmnd", "device"), at("scsi_device", "request_queue")]
    });
    let nvme = types.with_module("nvme_core", |types| types.offset("nvme_request", "cmd"));
    let unread =
        |what: &str| log::warn!("{what} commands cannot be read: they will make their disks suspect");
    let [command, unit, queue] = scsi.unwrap_or_else(|_| {
        unread("SCSI");
        [NOWHERE; 3]
    });
    let nvme = nvme.unwrap_or_else(|error| {
        unread("NVMe");
        Err(error)
    });
    [command, unit, queue, nvme.unwrap_or(NOWHERE)]
}

/// Offsets and numbers of the running kernel.
///
/// # Errors
/// `Unsupported`, naming what is missing.
pub fn describe(types: &mut KernelTypes) -> Result<Kernel> {
    let [scsi_command, scsi_device, scsi_queue, nvme_command] = commands(types);
    let types = &*types;
    let at = |name, path| types.offset(name, path);
    Ok(Kernel {
        bio_bdev: at("bio", "bi_bdev")?,
        bio_opf: at("bio", "bi_opf")?,
        bio_flags: at("bio", "bi_flags")?,
        bio_sector: at("bio", "bi_iter.bi_sector")?,
        bio_size: at("bio", "bi_iter.bi_size")?,
        bio_next: at("bio", "bi_next")?,
        bdev_dev: at("block_device", "bd_dev")?,
        bdev_disk: at("block_device", "bd_disk")?,
        bdev_start: at("block_device", "bd_start_sect")?,
        disk_major: at("gendisk", "major")?,
        rq_queue: at("request", "q")?,
        rq_flags: at("request", "cmd_flags")?,
        rq_length: at("request", "__data_len")?,
        rq_sector: at("request", if planted("wrong-offset") { "start_time_ns" } else { "__sector" })?,
        rq_bio: at("request", "bio")?,
        rq_born: at("request", "start_time_ns")?,
        queue_disk: at("request_queue", "disk")?,
        queue_chunk: at("request_queue", "limits.chunk_sectors")?,
        bio_remapped: operation(types, "BIO_REMAPPED")?,
        op_discard: operation(types, "REQ_OP_DISCARD")?,
        op_secure_erase: operation(types, "REQ_OP_SECURE_ERASE")?,
        disk_queue: at("gendisk", "queue")?,
        bio_traced: operation(types, "BIO_TRACE_COMPLETION")?,
        op_drv_in: operation(types, "REQ_OP_DRV_IN")?,
        rq_end: types.size("request")?,
        scsi_command,
        scsi_device,
        scsi_queue,
        nvme_command,
        disk_minor: at("gendisk", "first_minor")?,
        harmless: set(types, &HARMLESS),
        ranged: set(types, &RANGED),
        zoned: set(types, &ZONED),
        passthrough: set(types, &PASSTHROUGH),
    })
}

/// Are the tracepoints there, with the arguments the programs read?
///
/// # Errors
/// `Unsupported`, naming the first one that differs.
pub fn check_signatures(types: &KernelTypes) -> Result<()> {
    for (tracepoint, expected) in SIGNATURES {
        let found = types.tracepoint_arguments(tracepoint);
        if found.as_deref().is_none_or(|found| found != expected) {
            let found = found.map_or("missing".into(), |f| f.join(", "));
            return Err(Error::new(
                Kind::Unsupported,
                format!(
                    "tracepoint {tracepoint} is ({found}) in this kernel, expected ({})",
                    expected.join(", ")
                ),
            )
            .hint("blkdelta runs on kernels 6.1 and later; see docs/ARCHITECTURE.md"));
        }
    }
    debug_assert!(HOOKS.iter().all(|h| SIGNATURES.iter().any(|(t, _)| *t == h.tracepoint)));
    Ok(())
}

/// Has the running kernel all that the programs need? How many copies of each it needs then.
///
/// # Errors
/// `Unsupported`, naming what is missing.
pub fn suits() -> Result<u32> {
    let mut types = KernelTypes::running()?;
    check_signatures(&types)?;
    describe(&mut types)?;
    Ok(copies_needed(&types))
}

/// How many copies of each program this kernel needs: one, unless it can preempt a running program, which
/// makes it skip that program for every event on the same CPU meanwhile. Kernels that enter tracepoints
/// under SRCU-fast do that (seen on 7.3: 5 % of events skipped); they are recognised by that very type.
pub fn copies_needed(types: &KernelTypes) -> u32 {
    if types.mentions("srcu_fast") { blkdelta_ebpf::COPIES } else { 1 }
}
