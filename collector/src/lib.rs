//! blkdelta: changed-block backup for Linux without a kernel module.
//!
//! Rooms, lowest first; a room uses only rooms above it in this list (`cargo xtask tidy` checks):
//! `error`, `block`, `sys`, `seal`, `format` | `tracker`, `epoch`, `usage` | `diff`, `life`, `source` |
//! `repository`, `chain`, `copy` | `restore` | `job` | `audit` | `config` | `daemon` | `cli`.

pub mod audit;
pub mod block;
pub mod chain;
pub mod cli;
pub mod config;
pub mod copy;
pub mod daemon;
pub mod diff;
pub mod epoch;
pub mod error;
pub mod format;
pub mod job;
pub mod life;
pub mod repository;
pub mod restore;
pub mod seal;
pub mod source;
pub mod sys;
pub mod tracker;
pub mod usage;
