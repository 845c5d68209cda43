//! What aya does not offer of `bpf(2)`: the array of bitmaps, skipped runs of a program, memory-mapped maps,
//! and the BPF file system.
//!
//! Numbers are from `include/uapi/linux/bpf.h`, unchanged 6.1 to 7.3.

use super::privilege::{Capability, explained};
use crate::block::Extent;
use crate::error::{Context, Error, Kind, Result};
use blkdelta_ebpf::{BUCKET, Bucket};
use memmap2::{MmapOptions, MmapRaw};
use rustix::mount::MountFlags;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

/// Memory-mappable array map.
const BPF_F_MMAPABLE: u32 = 1 << 10;
/// Array map that may be an inner map beside others of another length.
const BPF_F_INNER_MAP: u32 = 1 << 12;

const BPF_MAP_CREATE: i32 = 0;
const BPF_MAP_LOOKUP_ELEM: i32 = 1;
const BPF_MAP_DELETE_ELEM: i32 = 3;
const BPF_OBJ_PIN: i32 = 6;
const BPF_OBJ_GET: i32 = 7;
const BPF_OBJ_GET_INFO_BY_FD: i32 = 15;
const BPF_MAP_TYPE_ARRAY: u32 = 2;
const BPF_MAP_TYPE_ARRAY_OF_MAPS: u32 = 12;
/// `BPF_FS_MAGIC`, `include/uapi/linux/magic.h`.
const BPF_FS_MAGIC: i64 = 0xcafe_4a11;

/// Calls `bpf(2)` with an attribute block of `N` 32-bit words.
fn bpf<const N: usize>(command: i32, mut words: [u32; N]) -> io::Result<i32> {
    // SAFETY: the block is live and exclusive for the call and as long as we say; pointers inside it are
    // the callers' and outlive the call.
    let n = unsafe { libc::syscall(libc::SYS_bpf, command, words.as_mut_ptr(), N * 4) };
    i32::try_from(n).ok().filter(|n| *n >= 0).ok_or_else(io::Error::last_os_error)
}

/// Low and high half of a pointer, as `bpf(2)` wants it.
fn halves<T>(pointer: *const T) -> [u32; 2] {
    let address = pointer as u64;
    [address as u32, (address >> 32) as u32]
}

fn raw(fd: BorrowedFd<'_>) -> u32 {
    fd.as_raw_fd().unsigned_abs()
}

/// Creates an array of `entries` maps, each like `inner` but of any length.
///
/// # Errors
/// Whatever `BPF_MAP_CREATE` says; `EPERM` without `CAP_BPF`.
pub fn create_array_of_maps(entries: u32, inner: BorrowedFd<'_>) -> Result<OwnedFd> {
    let fd = bpf(BPF_MAP_CREATE, [BPF_MAP_TYPE_ARRAY_OF_MAPS, 4, 4, entries, 0, raw(inner)])
        .os_context(|| "create the kernel's table of bitmaps".into())
        .map_err(|e| explained(e, &[Capability::Bpf]))?;
    // SAFETY: the kernel just gave us this descriptor; nobody else has it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Creates an array of `words` 64-bit words, all zero, that can be mapped and be an inner map.
///
/// # Errors
/// Whatever `BPF_MAP_CREATE` says; `ENOMEM` when the kernel has no room for it.
pub fn create_bitmap(words: u32) -> Result<OwnedFd> {
    let flags = BPF_F_MMAPABLE | BPF_F_INNER_MAP;
    let what = || format!("make a bitmap of {} KiB in the kernel", (u64::from(words) * 8).div_ceil(1024));
    let fd = bpf(BPF_MAP_CREATE, [BPF_MAP_TYPE_ARRAY, 4, 8, words, flags])
        .os_context(what)
        .map_err(|e| explained(e, &[Capability::Bpf]))?;
    // SAFETY: the kernel just gave us this descriptor; nobody else has it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Pins a map, program or link at `path` in a BPF file system.
///
/// # Errors
/// Whatever `BPF_OBJ_PIN` says.
pub fn pin(object: BorrowedFd<'_>, path: &Path) -> Result<()> {
    let name = std::ffi::CString::new(path.as_os_str().as_encoded_bytes())
        .map_err(|e| Error::caused(Kind::Usage, format!("pin at {}", path.display()), e))?;
    let [low, high] = halves(name.as_ptr());
    bpf(BPF_OBJ_PIN, [low, high, raw(object), 0]).os_context(|| format!("pin at {}", path.display()))?;
    Ok(())
}

/// Opens what is pinned at `path`.
///
/// # Errors
/// Whatever `BPF_OBJ_GET` says.
pub fn open_pin(path: &Path) -> Result<OwnedFd> {
    let what = || format!("open the pin {}", path.display());
    let name = std::ffi::CString::new(path.as_os_str().as_encoded_bytes())
        .map_err(|e| Error::caused(Kind::Usage, what(), e))?;
    let [low, high] = halves(name.as_ptr());
    let fd = bpf(BPF_OBJ_GET, [low, high, 0, 0]).os_context(what)?;
    // SAFETY: the kernel just gave us this descriptor; nobody else has it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// The id of the map at an index of an array of maps; `None` if there is none. (aya opens it by that id, which takes
/// `CAP_SYS_ADMIN`.)
///
/// # Errors
/// Whatever `BPF_MAP_LOOKUP_ELEM` says.
pub fn entry_id(outer: BorrowedFd<'_>, index: u32) -> Result<Option<u32>> {
    let (key, mut id) = (index, 0u32);
    let ([k0, k1], [v0, v1]) = (halves(&raw const key), halves(&raw mut id));
    match bpf(BPF_MAP_LOOKUP_ELEM, [raw(outer), 0, k0, k1, v0, v1, 0, 0]) {
        Ok(_) => Ok(Some(id)),
        Err(e) if e.raw_os_error() == Some(libc::ENOENT) => Ok(None),
        Err(e) => Err(Error::os(format!("find bitmap {index} in the kernel's table"), e)),
    }
}

/// Removes an entry of an array of maps; the kernel waits until no program uses it any more.
///
/// # Errors
/// Whatever `BPF_MAP_DELETE_ELEM` says; an entry that is empty already is no error.
pub fn clear_entry(outer: BorrowedFd<'_>, index: u32) -> Result<()> {
    let key = index;
    let [low, high] = halves(&raw const key);
    match bpf(BPF_MAP_DELETE_ELEM, [raw(outer), 0, low, high, 0, 0, 0, 0]) {
        Err(e) if e.raw_os_error() != Some(libc::ENOENT) => {
            Err(Error::os(format!("remove bitmap {index} from the kernel's table"), e))
        }
        _ => Ok(()),
    }
}

/// What the kernel knows about a program's runs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Runs {
    /// The program's id.
    pub id: u32,
    /// Time in the program, ns; counted only while `kernel.bpf_stats_enabled` is 1.
    pub nanoseconds: u64,
    /// Number of runs, likewise.
    pub count: u64,
    /// Events for which the program was skipped because it was already active on that CPU.
    pub skipped: u64,
}

/// Reads [`Runs`] of a program (`struct bpf_prog_info`: `id`, `run_time_ns`, `run_cnt`, `recursion_misses`).
///
/// # Errors
/// Whatever `BPF_OBJ_GET_INFO_BY_FD` says; `Unsupported` if this kernel does not count skipped runs (before 5.12).
pub fn runs(program: BorrowedFd<'_>) -> Result<Runs> {
    const WORDS: usize = 32;
    const RUN_TIME: usize = 192 / 8;
    let mut info = [0u64; WORDS];
    let length = (WORDS * 8) as u32;
    let [low, high] = halves(info.as_mut_ptr());
    let mut attributes = [raw(program), length, low, high];
    // SAFETY: attribute block and info block are live and exclusive; the kernel writes at most `length` bytes.
    let n = unsafe { libc::syscall(libc::SYS_bpf, BPF_OBJ_GET_INFO_BY_FD, attributes.as_mut_ptr(), 16) };
    if n < 0 {
        return Err(Error::os("read a BPF program's counters", io::Error::last_os_error()));
    }
    if (attributes[1] as usize) < (RUN_TIME + 3) * 8 {
        return Err(Error::new(Kind::Unsupported, "this kernel does not count skipped runs of BPF programs"));
    }
    let id = (info[0] >> 32) as u32; // `type`, then `id`
    Ok(Runs { id, nanoseconds: info[RUN_TIME], count: info[RUN_TIME + 1], skipped: info[RUN_TIME + 2] })
}

/// A memory-mapped array of 64-bit words that the kernel's programs write to at the same time.
#[derive(Debug)]
pub struct Words {
    map: MmapRaw,
    count: usize,
}

impl Words {
    /// Maps `count` words of an array map.
    ///
    /// # Errors
    /// If the map is smaller or not memory-mappable.
    pub fn map(fd: BorrowedFd<'_>, count: u64) -> Result<Self> {
        let count = usize::try_from(count)
            .map_err(|e| Error::caused(Kind::Unsupported, format!("map a bitmap of {count} words"), e))?;
        let map = MmapOptions::new()
            .len(count * 8)
            .map_raw(fd.as_raw_fd())
            .os_context(|| format!("map {} bytes of a kernel bitmap", count * 8))?;
        Ok(Self { map, count })
    }

    /// Number of words.
    pub fn len(&self) -> usize {
        self.count
    }

    /// No words.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// One word. Out of range: a word that is always 0 would hide a change, so it panics.
    pub fn get(&self, index: usize) -> u64 {
        self.word(index).load(Ordering::Relaxed)
    }

    /// Sets bits of a word, atomically beside the kernel's programs.
    pub fn or(&self, index: usize, bits: u64) {
        if bits != 0 {
            self.word(index).fetch_or(bits, Ordering::SeqCst);
        }
    }

    /// Sets the bit of every area of `unit` bytes that `extent` touches.
    pub fn mark(&self, unit: u64, extent: Extent) {
        for area in extent.offset / unit..extent.end().div_ceil(unit) {
            self.or((area / 64) as usize, 1 << (area % 64));
        }
    }

    /// All words, in order.
    pub fn iter(&self) -> impl Iterator<Item = u64> + '_ {
        self.all().iter().map(|word| word.load(Ordering::Relaxed))
    }

    fn word(&self, index: usize) -> &AtomicU64 {
        &self.all()[index]
    }

    fn all(&self) -> &[AtomicU64] {
        // SAFETY: the mapping has count * 8 bytes, page-aligned, and lives as long as we do; shared memory that the
        // kernel changes at the same time is accessed only through atomics.
        unsafe { std::slice::from_raw_parts(self.map.as_ptr().cast(), self.count) }
    }
}

/// The table of writes in flight, memory-mapped for reading.
#[derive(Debug)]
pub struct InFlight(Words);

/// A write in flight.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Flight {
    /// Which request or bio, and of which disk.
    pub key: u64,
    /// First sector on the whole disk.
    pub sector: u64,
    /// Sectors.
    pub count: u64,
}

impl InFlight {
    const BUCKET_WORDS: usize = size_of::<Bucket>() / 8;

    /// Maps the table.
    ///
    /// # Errors
    /// If the map is smaller or not memory-mappable.
    pub fn map(fd: BorrowedFd<'_>) -> Result<Self> {
        let buckets = blkdelta_ebpf::SLOTS as usize / BUCKET;
        Words::map(fd, (buckets * Self::BUCKET_WORDS) as u64).map(Self)
    }

    /// What stands in the slots that are taken. One that changes while it is read yields a wrong range at worst: its
    /// old write has completed (and was marked then), its new one marks the running epoch itself.
    pub fn taken(&self) -> impl Iterator<Item = Flight> + '_ {
        let buckets = (0..self.0.len()).step_by(Self::BUCKET_WORDS);
        buckets.flat_map(|bucket| bucket..bucket + BUCKET).filter_map(|at| {
            let key = self.0.get(at);
            let [sector, count] = [1, 2].map(|field| self.0.get(at + field * BUCKET));
            (key != 0).then_some(Flight { key, sector, count })
        })
    }
}

/// Is `path` a BPF file system?
pub fn is_bpffs(path: &Path) -> bool {
    rustix::fs::statfs(path).is_ok_and(|s| s.f_type == BPF_FS_MAGIC)
}

/// Makes sure that `path` is a BPF file system: mounts one there if it is not.
///
/// # Errors
/// If it cannot be mounted.
pub fn mount_bpffs(path: &Path) -> Result<()> {
    if is_bpffs(path) {
        return Ok(());
    }
    let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    rustix::mount::mount("bpf", path, "bpf", flags, Some(c"mode=0700"))
        .os_context(|| format!("mount a BPF file system at {}", path.display()))
        .map_err(|e| explained(e, &[Capability::SysAdmin]))
}

/// The running kernel's boot, so that a state file of an earlier boot is never believed.
///
/// # Errors
/// If `/proc` is not mounted.
pub fn boot_id() -> Result<String> {
    let path = "/proc/sys/kernel/random/boot_id";
    Ok(std::fs::read_to_string(path).os_context(|| format!("read {path}"))?.trim().to_owned())
}

/// Descriptor of anything that has one; spares callers an import.
pub fn fd(object: &impl AsFd) -> BorrowedFd<'_> {
    object.as_fd()
}
