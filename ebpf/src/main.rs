//! The programs: one per tracepoint and copy, each a few lines around [`track`].
//!
//! What must stay true: a write is marked when it is submitted **and** when it completes, and while it is
//! in flight it stands in a slot. Programs are `tp_btf`: on kernels up to 6.18 only an interrupt can
//! nest them; where they can be preempted the kernel skips and counts, so further copies are attached.
#![no_std]
#![no_main]
#![feature(core_intrinsics)]
#![allow(
    internal_features,
    reason = "BPF atomics have no stable spelling: core::sync::atomic lacks fetch_or for bpfel"
)]
#![allow(missing_docs, reason = "the macros generate undocumented items")]
#![allow(unused_unsafe, reason = "macros with an unsafe block of their own are used inside others")]

mod classify;
mod fault;
mod inflight;
mod kernel;
mod maps;
mod mark;
mod passthrough;
mod track;

use aya_ebpf::macros::btf_tracepoint;
use aya_ebpf::programs::BtfTracePointContext as Context;

macro_rules! programs {
    ($($name:ident on $tracepoint:literal = $what:ident :: < $copy:literal >;)*) => {
        $(
            #[btf_tracepoint(function = $tracepoint)]
            pub fn $name(context: Context) -> i32 {
                // SAFETY: the tracepoint's arguments have the types `track` expects; the collector
                // compared them with the running kernel's BTF before loading.
                unsafe {
                    if !fault::hides(stringify!($what), &context) {
                        track::$what::<$copy>(&context);
                    }
                }
                0
            }
        )*
    };
}

programs! {
    rq_issue on "block_rq_issue" = request_submit::<0>;
    rq_issue_b on "block_rq_issue" = request_submit::<1>;
    rq_issue_c on "block_rq_issue" = request_submit::<2>;
    rq_complete on "block_rq_complete" = request_complete::<0>;
    rq_complete_b on "block_rq_complete" = request_complete::<1>;
    rq_complete_c on "block_rq_complete" = request_complete::<2>;
    bio_queue on "block_bio_queue" = bio_submit::<0>;
    bio_queue_b on "block_bio_queue" = bio_submit::<1>;
    bio_queue_c on "block_bio_queue" = bio_submit::<2>;
    bio_remap on "block_bio_remap" = bio_remap::<0>;
    bio_remap_b on "block_bio_remap" = bio_remap::<1>;
    bio_remap_c on "block_bio_remap" = bio_remap::<2>;
    bio_complete on "block_bio_complete" = bio_complete::<0>;
    bio_complete_b on "block_bio_complete" = bio_complete::<1>;
    bio_complete_c on "block_bio_complete" = bio_complete::<2>;
}

#[panic_handler]
fn panic(_: &core::panic::PanicInfo) -> ! {
    loop {}
}

/// The verifier allows GPL-only helpers by this word; the source is under the workspace's licence.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
