//! What follows a point that was made, of a device or of a group: it is taken down how far the repository is, a chain
//! that has become too long is merged, what is new gets parity.
//!
//! What must stay true: whatever fails here is said, and undoes nothing. The point is durable, and the next one tries again.

use super::output::say;
use super::unlock::memory;
use crate::chain;
use crate::error::Error;
use crate::format::{DeviceId, Manifest, ParityShare};
use crate::repository::{Parity, Repository};

/// All of it. `parity` is asked for besides what the repository wants by itself.
pub(super) fn follow(
    repo: &Repository,
    manifest: &Manifest,
    merge_every: Option<u32>,
    parity: Option<ParityShare>,
) {
    let device = &manifest.device.id;
    if let Err(error) = memory().note(repo, manifest) {
        let why = error.in_full();
        say(&format!("the point is made; that the repository goes back could not be noticed: {why}"));
    }
    if let Some(most) = merge_every
        && let Err(error) = chain::merge_if_longer(repo, device, manifest.point, most)
    {
        say(&format!("point {} was not merged: {error}", manifest.point));
    }
    if let Err(error) = cover(repo, device, parity) {
        let why = error.in_full();
        say(&format!("the point is made; parity was not, the next backup or repair makes it: {why}"));
    }
}

/// Parity after other work, which is done whatever comes of this.
pub(super) fn cover_if_free(repo: &Repository, device: &DeviceId) {
    if let Err(error) = cover(repo, device, None) {
        say(&format!("parity was not made, the next backup or repair makes it: {}", error.in_full()));
    }
}

/// What making parity did, in words.
pub(super) fn parity_words(made: &Parity) -> String {
    let mut text = String::new();
    if made.groups > 0 {
        text += &format!("parity: {} groups written, {} objects newly covered\n", made.groups, made.covered);
    }
    for (key, why) in &made.left {
        text += &format!("{key}: not covered by parity as it should be: {why}\n");
    }
    text
}

/// Parity for what has none yet, if it is wanted.
fn cover(repo: &Repository, device: &DeviceId, asked: Option<ParityShare>) -> Result<(), Error> {
    let wanted = match asked {
        Some(share) => Some(share),
        None => repo.parity_wanted(device)?,
    };
    let Some(share) = wanted else { return Ok(()) };
    let made = repo.cover_with_parity(&repo.lock(device)?, share)?;
    for (key, why) in &made.left {
        say(&format!("warning: {key}: not covered by parity as it should be: {why}"));
    }
    Ok(())
}
