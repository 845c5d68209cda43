//! The harness's only unsafe code: ioctls, shared mappings, io_uring, bpf(2), the death signal of children.

use anyhow::{Context, Result, bail};
use io_uring::{IoUring, opcode, types};
use std::ffi::{CStr, CString};
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

/// `_IO(0x12, n)` (`include/uapi/linux/fs.h`, unchanged since their introduction).
const BLKFLSBUF: libc::Ioctl = 0x1261;
/// Range ioctls on a block device.
#[derive(Clone, Copy, Debug)]
pub enum RangeIoctl {
    /// `BLKDISCARD`
    Discard = 0x1277,
    /// `BLKSECDISCARD`
    SecureDiscard = 0x127d,
    /// `BLKZEROOUT`
    ZeroOut = 0x127f,
}

/// One range ioctl over `offset .. offset + length` bytes.
pub fn range_ioctl(device: &File, what: RangeIoctl, offset: u64, length: u64) -> io::Result<()> {
    let range = [offset, length];
    // SAFETY: these three ioctls read exactly two u64 through the pointer, which lives until the call returns.
    let result = unsafe { libc::ioctl(device.as_raw_fd(), what as libc::Ioctl, range.as_ptr()) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Writes back and drops the page cache of a block device.
pub fn flush_cache(device: &File) -> io::Result<()> {
    // SAFETY: BLKFLSBUF takes no argument.
    let result = unsafe { libc::ioctl(device.as_raw_fd(), BLKFLSBUF, 0) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// A request of a loop device that takes or gives `struct loop_info64` (29 words, offset in word 3).
pub fn loop_status(device: &File, request: u64, status: &mut [u64; 29]) -> io::Result<()> {
    // SAFETY: LOOP_GET_STATUS64 and LOOP_SET_STATUS64 write or read 232 bytes through the pointer, live and ours.
    let result = unsafe { libc::ioctl(device.as_raw_fd(), request as libc::Ioctl, status.as_mut_ptr()) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Makes a loop device of this number (`LOOP_CTL_ADD`), which must not exist.
pub fn add_loop(control: &File, number: i32) -> io::Result<()> {
    const LOOP_CTL_ADD: libc::Ioctl = 0x4c80;
    // SAFETY: LOOP_CTL_ADD takes the number by value.
    let result = unsafe { libc::ioctl(control.as_raw_fd(), LOOP_CTL_ADD, libc::c_long::from(number)) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Removes a free loop device's disk (`LOOP_CTL_REMOVE`), and with it its counters.
pub fn remove_loop(control: &File, number: i32) -> io::Result<()> {
    const LOOP_CTL_REMOVE: libc::Ioctl = 0x4c81;
    // SAFETY: LOOP_CTL_REMOVE takes the number by value.
    let result = unsafe { libc::ioctl(control.as_raw_fd(), LOOP_CTL_REMOVE, libc::c_long::from(number)) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// `LOOP_CTL_ADD` or `LOOP_CTL_REMOVE` on `/dev/loop-control`.
pub fn loop_control(control: &File, request: u64, number: u32) -> io::Result<()> {
    // SAFETY: both requests take the number itself, no pointer.
    let result =
        unsafe { libc::ioctl(control.as_raw_fd(), request as libc::Ioctl, libc::c_ulong::from(number)) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Copies `data` into a shared mapping of `file` at `offset` (a page multiple) and flushes it.
pub fn write_mapped(file: &File, offset: u64, data: &[u8]) -> io::Result<()> {
    // SAFETY: the mapping is only ever written through, never read as a Rust value, and dropped before return;
    // the caller owns the file or device and does not shrink it meanwhile.
    let mut map = unsafe { memmap2::MmapOptions::new().offset(offset).len(data.len()).map_mut(file)? };
    map.copy_from_slice(data);
    map.flush()
}

/// How completions are waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Completions {
    /// The device interrupts.
    Interrupts,
    /// The kernel looks again and again (`IORING_SETUP_IOPOLL`); only O_DIRECT on queues made for it.
    Polled,
}

/// An io_uring.
pub struct Uring {
    ring: IoUring,
    depth: usize,
}

impl Uring {
    /// With room for `depth` writes in flight.
    pub fn new(depth: usize, how: Completions) -> Result<Self> {
        let mut builder = IoUring::<io_uring::squeue::Entry, io_uring::cqueue::Entry>::builder();
        if how == Completions::Polled {
            builder.setup_iopoll();
        }
        Ok(Self { ring: builder.build(depth as u32).context("create io_uring")?, depth })
    }

    /// Writes each part at its place, as many in flight as there is room for, and waits for all.
    pub fn write(&mut self, file: &File, parts: &[(u64, &[u8])]) -> Result<()> {
        for batch in parts.chunks(self.depth) {
            for (nth, (at, data)) in batch.iter().enumerate() {
                let entry = opcode::Write::new(types::Fd(file.as_raw_fd()), data.as_ptr(), data.len() as u32);
                let entry = entry.offset(*at).build().user_data(nth as u64);
                // SAFETY: `parts` lives until this returns, and `wait` returns only when all of the batch is done.
                unsafe { self.ring.submission().push(&entry) }.context("fill the io_uring queue")?;
            }
            self.wait(batch)?;
        }
        Ok(())
    }

    /// Submits what was pushed and waits for all of it, whatever the results are.
    fn wait(&mut self, batch: &[(u64, &[u8])]) -> Result<()> {
        let mut results = Vec::with_capacity(batch.len());
        while results.len() < batch.len() {
            match self.ring.submit_and_wait(batch.len() - results.len()) {
                Err(e) if e.kind() != io::ErrorKind::Interrupted => {
                    // the kernel may still read the buffers: nobody may free them
                    eprintln!("submit to io_uring: {e}");
                    std::process::abort();
                }
                _ => results.extend(self.ring.completion().map(|c| (c.user_data(), c.result()))),
            }
        }
        for (nth, result) in results {
            let length = batch[nth as usize].1.len() as i32;
            if result < 0 {
                bail!("io_uring write: {}", io::Error::from_raw_os_error(-result));
            }
            anyhow::ensure!(result == length, "io_uring wrote {result} of {length} bytes");
        }
        Ok(())
    }
}

/// Writes `data` at `offset` in pieces of `piece` bytes, many in flight, through io_uring.
pub fn write_uring(file: &File, offset: u64, data: &[u8], piece: usize, how: Completions) -> Result<()> {
    let places = (offset..).step_by(piece);
    let parts: Vec<(u64, &[u8])> = places.zip(data.chunks(piece)).collect();
    Uring::new(32, how)?.write(file, &parts)
}

/// `struct nvme_user_io` (include/uapi/linux/nvme_ioctl.h).
#[repr(C)]
struct NvmeUserIo {
    opcode: u8,
    flags: u8,
    control: u16,
    blocks_less_one: u16,
    reserved: u16,
    metadata: u64,
    address: u64,
    first_block: u64,
    management: u32,
    reference_tag: u32,
    application_tag: u16,
    application_mask: u16,
}

/// One NVMe write of `data` at block `first` of a namespace with blocks of 512 bytes, as a command of the device.
pub fn nvme_write(namespace: &File, first: u64, data: &[u8]) -> io::Result<()> {
    const NVME_IOCTL_SUBMIT_IO: u64 = 0x4030_4e42;
    let command = NvmeUserIo {
        opcode: 1,
        flags: 0,
        control: 0,
        blocks_less_one: (data.len() / 512 - 1) as u16,
        reserved: 0,
        metadata: 0,
        address: data.as_ptr() as u64,
        first_block: first,
        management: 0,
        reference_tag: 0,
        application_tag: 0,
        application_mask: 0,
    };
    let request = NVME_IOCTL_SUBMIT_IO as libc::Ioctl;
    // SAFETY: the ioctl reads the 48 bytes of the command, and the blocks it names out of `data`, which is that long;
    // both live until it returns, when the command has ended.
    let result = unsafe { libc::ioctl(namespace.as_raw_fd(), request, std::ptr::from_ref(&command)) };
    match result {
        0 => Ok(()),
        status if status > 0 => Err(io::Error::other(format!("NVMe status {status:#x}"))),
        _ => Err(io::Error::last_os_error()),
    }
}

/// The child is killed when the thread that started it ends, so that a dead test leaves no process behind.
pub fn die_with_us(command: &mut Command) -> &mut Command {
    // SAFETY: between fork and exec the closure makes one prctl call: async-signal-safe, no allocation.
    unsafe {
        command.pre_exec(|| {
            if libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) < 0 {
                return Err(io::Error::last_os_error());
            }
            Ok(())
        })
    }
}

/// `bpf(2)` with an attribute block of 64-bit words; a descriptor or 0.
fn bpf(command: i32, attributes: &mut [u64]) -> io::Result<i32> {
    // SAFETY: the block is live and exclusive for the call and of the length given; pointers inside it are to strings
    // and instructions that the callers keep alive.
    let n = unsafe {
        libc::syscall(libc::SYS_bpf, command, attributes.as_mut_ptr(), std::mem::size_of_val(attributes))
    };
    i32::try_from(n).ok().filter(|n| *n >= 0).ok_or_else(io::Error::last_os_error)
}

fn c_path(path: &Path) -> io::Result<CString> {
    CString::new(path.as_os_str().as_encoded_bytes()).map_err(io::Error::other)
}

/// `BPF_OBJ_GET` (`include/uapi/linux/bpf.h`).
pub fn bpf_open_pin(path: &Path) -> io::Result<OwnedFd> {
    let path = c_path(path)?;
    let fd = bpf(7, &mut [path.as_ptr() as u64, 0])?;
    // SAFETY: the kernel just gave us this descriptor; nobody else has it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// `BPF_OBJ_PIN`.
pub fn bpf_pin(object: &OwnedFd, path: &Path) -> io::Result<()> {
    let path = c_path(path)?;
    bpf(6, &mut [path.as_ptr() as u64, object.as_raw_fd() as u64]).map(|_| ())
}

/// `BPF_RAW_TRACEPOINT_OPEN` of a program that knows its tracepoint by type information.
pub fn bpf_attach_raw_tracepoint(program: &OwnedFd) -> io::Result<OwnedFd> {
    let fd = bpf(17, &mut [0, program.as_raw_fd() as u64])?;
    // SAFETY: the kernel just gave us this descriptor; nobody else has it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// A raw tracepoint program that only returns (`BPF_PROG_LOAD`), and its link; both go with their descriptors.
pub fn bpf_empty_program(tracepoint: &CStr) -> io::Result<[OwnedFd; 2]> {
    const RAW_TRACEPOINT: u64 = 17;
    // r0 = 0; exit
    let (instructions, license) = ([0xb7u64, 0x95], c"GPL");
    let kind = RAW_TRACEPOINT | (instructions.len() as u64) << 32;
    let program = bpf(5, &mut [kind, instructions.as_ptr() as u64, license.as_ptr() as u64, 0, 0, 0])?;
    // SAFETY: the kernel just gave us this descriptor; nobody else has it.
    let program = unsafe { OwnedFd::from_raw_fd(program) };
    let link = bpf(17, &mut [tracepoint.as_ptr() as u64, program.as_raw_fd() as u64])?;
    // SAFETY: as above.
    Ok([program, unsafe { OwnedFd::from_raw_fd(link) }])
}
