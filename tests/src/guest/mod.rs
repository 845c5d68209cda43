//! Inside a guest that `cargo xtask vm` boots: its init, and the cases of devices this machine does not have.
//!
//! What must stay true: everything here touches a machine made for it, whose disks are the host's throw-away
//! files; the verdict is the oracle's (`changed ⊆ listed`), never the product's word alone; every case runs in a
//! process of its own and undoes its devices, so that the next one starts on a clean machine.
//!
//! ```text
//!   host  --- {"run": […], "limit": s} --->  init (pid 1)  ---starts--->  blkdelta-guest case NAME
//!         <-- {"out": line} … {"end": code} --                 prints one JSON object, its last line
//! ```

pub mod cases;
pub mod gap;
pub mod init;
pub mod make;
pub mod passthrough;
pub mod power;
pub mod power_load;
pub mod serve;
pub mod special;
pub mod trial;
