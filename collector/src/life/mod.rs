//! Life over a reboot: the clean stop, the return, and the proof that nobody wrote in between.
//!
//! ```text
//!   tracked …… cut │ fence │ save ▸ power off … power on ▸ attach │ proof │ resume …… tracked
//!              marked  refused       witnesses                   0 sectors    marked
//!                      by the kernel                             by this kernel
//! ```
//! What must stay true: a saved map is believed only if every part of the gap is covered: until the cut by tracking,
//! until power off by the read-only fence, while we were away by the witnesses, from the start of this kernel until
//! tracking by the kernel's own counters. Anything else is suspect, with the reason, and the next backup compares.
//! A saved map is believed at most once.

mod gap;
mod resume;
mod save;
mod users;
mod witness;

pub use resume::{Outcome, Resumed, resume, resume_all, track};
pub use save::{Stopped, save, save_all};
pub use users::writers_of;
