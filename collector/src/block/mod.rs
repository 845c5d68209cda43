//! The arithmetic of block devices: byte extents, sets of them, the tracking granularity, bitmaps.
//!
//! Pure: no I/O, no clock, no unsafe. Everything that crosses a room's door as "where" is an
//! [`Extent`] in **bytes**; areas and sectors exist only inside the rooms that need them.
//!
//! ```text
//!   bytes    0        4096      8192      12288
//!   area     |    0    |    1    |    2    |      4 KiB by default
//!   bitmap        1         0         1           bit n of word n/64
//!   extents  [0,4096)            [8192,12288)
//! ```

mod bitmap;
mod coarse;
mod extent;
mod extent_set;
mod granularity;
pub mod heat;

pub use bitmap::extents_of_words;
pub use coarse::{MAX_EXTENTS, coarsened};
pub use extent::Extent;
pub use extent_set::ExtentSet;
pub use granularity::Granularity;

/// Bytes in a sector, the unit of the block layer (`SECTOR_SIZE`, `include/linux/blk_types.h`, 6.1 to 7.3).
pub const SECTOR: u64 = 512;

/// Bytes in a repository block: the smallest piece a point can replace. Also the finest granularity.
pub const BLOCK: u64 = 4096;
