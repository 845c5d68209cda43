//! The process that thaws when its parent cannot.
//!
//! A fork without exec: everything it needs (descriptors, the shared states, its pipe end) exists before the
//! fork, and in the child only async-signal-safe calls are made, because other threads of the parent may have
//! held any lock at that moment. It leaves the parent's session (Ctrl-C does not reach it), blocks all signals
//! and closes every other descriptor, so that it keeps no lock or pipe of the parent alive.

use super::FITHAW;
use crate::error::{Context, Error, Kind, Result};
use std::io::Write;
use std::os::fd::{AsRawFd, BorrowedFd, RawFd};
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

/// Longest list of file systems frozen together.
const MOST: usize = 512;
/// Not ours to thaw.
const FREE: u8 = 0;
/// Being frozen, or frozen.
const WATCHED: u8 = 1;

/// The parent's handle on its guardian.
pub(super) struct Guardian {
    /// One state per file system, shared with the child.
    states: States,
    /// Dismisses the child by a byte; closed by our death.
    pipe: Option<std::io::PipeWriter>,
    child: libc::pid_t,
}

/// What the child has, all of it made before the fork.
struct Orders<'a> {
    files: &'a [RawFd],
    states: &'a [AtomicU8; MOST],
    pipe: RawFd,
    /// All of the above descriptors, ascending.
    keep: &'a [RawFd],
    limit_ms: i64,
}

impl Guardian {
    pub(super) fn start(files: &[BorrowedFd<'_>], limit: Duration) -> Result<Self> {
        if files.len() > MOST {
            return Err(Error::new(
                Kind::Unsupported,
                format!("freeze {} file systems at once", files.len()),
            ));
        }
        let what = || "start the guardian that thaws".to_owned();
        let states = States::new().os_context(what)?;
        let (reader, writer) = std::io::pipe().os_context(what)?;
        let files: Vec<RawFd> = files.iter().map(AsRawFd::as_raw_fd).collect();
        let mut keep = files.clone();
        keep.push(reader.as_raw_fd());
        keep.sort_unstable();
        let orders = Orders {
            files: &files,
            states: states.get(),
            pipe: reader.as_raw_fd(),
            keep: &keep,
            limit_ms: i64::try_from(limit.as_millis()).unwrap_or(i64::MAX),
        };
        // SAFETY: the child runs only `guard`, which makes only async-signal-safe calls on memory and
        // descriptors made before, and never returns.
        let child = unsafe { libc::fork() };
        match child {
            -1 => Err(Error::os(what(), std::io::Error::last_os_error())),
            0 => guard(&orders),
            _ => Ok(Self { states, pipe: Some(writer), child }),
        }
    }

    /// From now on the child may have to thaw file system `i`.
    pub(super) fn watch(&self, i: usize) {
        self.states.get()[i].store(WATCHED, Ordering::SeqCst);
    }

    /// File system `i` is not frozen by us (any more).
    pub(super) fn forget(&self, i: usize) {
        self.states.get()[i].store(FREE, Ordering::SeqCst);
    }

    /// File system `i` is still as [`Self::watch`] left it: the child has not thawed it.
    pub(super) fn is_watched(&self, i: usize) -> bool {
        self.states.get()[i].load(Ordering::SeqCst) == WATCHED
    }

    /// Sends the child away and waits until it is gone; what is still watched it thaws first.
    pub(super) fn dismiss(&mut self) {
        let Some(mut pipe) = self.pipe.take() else { return };
        let _ = pipe.write_all(b"x");
        drop(pipe);
        let mut status = 0;
        // SAFETY: waits for our own child, which nobody else waits for; `status` is a live int.
        while unsafe { libc::waitpid(self.child, &raw mut status, 0) } == -1
            && std::io::Error::last_os_error().raw_os_error() == Some(libc::EINTR)
        {}
    }
}

impl Drop for Guardian {
    fn drop(&mut self) {
        self.dismiss();
    }
}

/// The child's whole life.
fn guard(orders: &Orders<'_>) -> ! {
    // SAFETY: async-signal-safe calls only (signal-safety(7); close_range is a bare system call); all memory
    // was made before the fork and is this process's own copy or the shared states.
    unsafe {
        let mut all: libc::sigset_t = std::mem::zeroed();
        libc::sigfillset(&raw mut all);
        libc::sigprocmask(libc::SIG_BLOCK, &raw const all, std::ptr::null_mut());
        libc::setsid();
    }
    close_all_but(orders.keep);
    let end = now_ms().saturating_add(orders.limit_ms);
    let mut over = false;
    loop {
        // after the limit: a freeze may just have been on its way, look again until the parent is done
        let wait = if over { 50 } else { (end - now_ms()).clamp(0, 1000) as i32 };
        let mut poll = libc::pollfd { fd: orders.pipe, events: libc::POLLIN, revents: 0 };
        // SAFETY: one live pollfd.
        let ready = unsafe { libc::poll(&raw mut poll, 1, wait) };
        over = over || now_ms() >= end;
        if ready > 0 || over {
            thaw_watched(orders);
        }
        if ready > 0 {
            // SAFETY: ends this process without running anything of the parent's.
            unsafe { libc::_exit(0) }
        }
    }
}

fn thaw_watched(orders: &Orders<'_>) {
    for (file, state) in orders.files.iter().zip(orders.states) {
        if state.load(Ordering::SeqCst) != WATCHED {
            continue;
        }
        // SAFETY: FITHAW ignores its argument; the descriptor was opened before the fork and kept.
        if unsafe { libc::ioctl(*file, FITHAW as libc::Ioctl, 0) } == 0 {
            state.store(FREE, Ordering::SeqCst);
        }
    }
}

fn close_all_but(keep: &[RawFd]) {
    let mut from = 0;
    for &fd in keep {
        if fd > from {
            close_range(from, fd - 1);
        }
        from = fd + 1;
    }
    close_range(from, RawFd::MAX);
}

fn close_range(first: RawFd, last: RawFd) {
    // SAFETY: closes descriptors of this child only; nothing here uses them.
    unsafe { libc::syscall(libc::SYS_close_range, first, last, 0) };
}

fn now_ms() -> i64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: stores one timespec; cannot fail for this clock.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &raw mut time) };
    time.tv_sec * 1000 + time.tv_nsec / 1_000_000
}

/// A page shared between parent and child.
struct States(std::ptr::NonNull<[AtomicU8; MOST]>);

// SAFETY: only atomics are reached through the pointer, and the mapping lives as long as the value.
unsafe impl Send for States {}
// SAFETY: as above.
unsafe impl Sync for States {}

impl States {
    fn new() -> std::io::Result<Self> {
        let protection = libc::PROT_READ | libc::PROT_WRITE;
        let flags = libc::MAP_SHARED | libc::MAP_ANONYMOUS;
        // SAFETY: a new anonymous mapping, zeroed by the kernel, disturbs no other memory.
        let page = unsafe { libc::mmap(std::ptr::null_mut(), MOST, protection, flags, -1, 0) };
        if page == libc::MAP_FAILED {
            return Err(std::io::Error::last_os_error());
        }
        std::ptr::NonNull::new(page.cast()).map(Self).ok_or_else(|| std::io::ErrorKind::OutOfMemory.into())
    }

    fn get(&self) -> &[AtomicU8; MOST] {
        // SAFETY: the mapping has MOST bytes (one page), zero is a valid AtomicU8, unmapped only in drop.
        unsafe { self.0.as_ref() }
    }
}

impl Drop for States {
    fn drop(&mut self) {
        // SAFETY: mapped in `new` with this size; no reference outlives `self`.
        unsafe { libc::munmap(self.0.as_ptr().cast(), MOST) };
    }
}
