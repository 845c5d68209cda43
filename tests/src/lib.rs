//! Harness: devices made and removed by us, ways of writing, the oracle, faults.
//!
//! What must stay true: only devices and mounts below our own scratch folder are ever touched; whatever a test
//! does, also panic, its devices, mounts and pins are gone afterwards (drop guards), and what a killed run left
//! is removed by the next one; every random choice follows from one printed seed; a test that cannot run here
//! prints `SKIPPED: name: why`.
//!
//! ```text
//!   /dev/shm/blkdelta-test-PID-N/     Scratch: one folder per test
//!       NAME.img                      backing file of a Loop
//!       mnt-N                         Mounted
//!       home/                         BLKDELTA_HOME of this test: bpf/ (a bpffs), state/
//! ```

pub mod bpf;
pub mod bucket;
pub mod daemon;
pub mod device;
pub mod fault;
pub mod files;
pub mod grouped;
pub mod guest;
pub mod host;
pub mod image;
pub mod load;
pub mod machine;
pub mod monitor;
pub mod oracle;
pub mod planted;
pub mod privileges;
pub mod product;
pub mod protected;
pub mod proxy;
pub mod random;
mod raw;
pub mod recorded;
pub mod replica;
pub mod scratch;
pub mod server;
pub mod strokes;
pub mod terminal;
pub mod tracked;
pub mod tree;
pub mod workload;
