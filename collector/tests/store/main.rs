//! The store as a whole: golden files, garbage in every object, a crash at every step.
#![allow(clippy::unwrap_used, reason = "a helper of a test fails the test by panicking")]

mod copying;
mod crash;
mod garbage;
mod giving_back;
mod golden;
mod interleave;
mod long_index;
mod memory;
mod model;
mod parity;
mod partial;
mod pruning;
mod reader;
mod sealed;
mod sealed_repair;
