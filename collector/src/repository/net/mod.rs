//! Stores over the network: how they are reached, how fast, and what their failures mean.

mod access;
mod pace;
mod profile;
mod reach;
mod trouble;

pub use access::Access;
pub(super) use reach::{Patience, bucket, web};
pub(super) use trouble::classify;
