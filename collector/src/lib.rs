//! blkdelta: changed-block backup for Linux without a kernel module.
//!
//! Rooms, lowest first; a room uses only rooms above it in this list (`cargo xtask tidy` checks):
//! `error`, `block`, `sys`, `seal`, `format` | `tracker`, `epoch`, `usage`, `tree` | `diff`, `life`, `source` |
//! `repository`, `chain`, `catalogue`, `copy` | `restore`, `unpack` | `job`, `group` | `audit` | `config` | `daemon` | `top`,
//! `doctor` | `cli`.

pub mod audit;
pub mod block;
pub mod catalogue;
pub mod chain;
pub mod cli;
pub mod config;
pub mod copy;
pub mod daemon;
pub mod diff;
pub mod doctor;
pub mod epoch;
pub mod error;
pub mod format;
pub mod group;
pub mod job;
pub mod life;
pub mod repository;
pub mod restore;
pub mod seal;
pub mod source;
pub mod sys;
pub mod top;
pub mod tracker;
pub mod tree;
pub mod unpack;
pub mod usage;
