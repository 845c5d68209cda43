//! What must hold on real devices: used areas, direct I/O, freezing, device facts.
//!
//! Every test makes its own loop devices, backed by files on /dev/shm, and removes them again. What cannot run
//! (not root, tool missing) prints `SKIPPED: <name>: <why>` and passes.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on may panic, its helpers too")]

mod direct_io;
mod facts;
mod freeze;
mod rig;
mod used_areas;
