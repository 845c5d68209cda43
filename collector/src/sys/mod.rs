//! The only room with `unsafe`: system calls that have no safe wrapper, and the few things every room needs
//! from the operating system.
//!
//! What must stay true: every `unsafe` block states why it is sound; nothing here knows what a backup is;
//! nothing writes to a device unless the caller named it as its target.

pub mod alone;
pub mod bpf;
pub(crate) mod btrfs;
pub mod device;
pub mod direct;
mod failpoint;
pub(crate) mod fiemap;
pub mod freeze;
pub(crate) mod fsmap;
pub(crate) mod ioctl;
pub mod mounts;
mod names;
mod plant;
pub mod privilege;
mod publish;

pub use failpoint::failpoint;
#[cfg(feature = "failpoints")]
pub use failpoint::gated;
pub use names::look_up_names_alone;
pub use plant::{planted, planted_programs};
pub use publish::{publish, sync_folder};
