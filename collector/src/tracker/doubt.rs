//! Doubts about a device's difference that arose outside a cut: an audit's mismatch, somebody's alarm.
//!
//! What must stay true: a doubt is durable when [`raise`] returns, whoever holds the device's lock at that
//! moment (a backup may hold it for hours); every look shows it; the next cut takes it over into the epoch that
//! it seals, and only then it goes from here. From there on it lives and dies with that epoch: a backup that
//! began before it does not forget it, one that began after it compares everything.
//!
//! `dev-<major>-<minor>.doubts`, beside the state file.

use super::load::{read_json, write_json};
use super::{DeviceState, Lock, Places};
use crate::error::Result;
use crate::sys::planted;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// What the file holds.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Doubts {
    /// The stretch of tracking they are about.
    session: String,
    /// Why its difference may be incomplete.
    reasons: Vec<String>,
}

/// Makes the device's difference suspect, for this reason, until a backup has compared everything.
///
/// # Errors
/// If it cannot be recorded.
pub fn raise(places: &Places, state: &DeviceState, reason: String) -> Result<()> {
    let _lock = lock(places, state)?;
    let now = DeviceState::read(places, &state.key())?;
    if now.is_none_or(|now| now.session != state.session) {
        return Ok(()); // tracked anew: the difference that was doubted is no more
    }
    let mut reasons = raised(places, state)?;
    if !reasons.contains(&reason) {
        reasons.push(reason);
    }
    write_json(&path(places, state), &Doubts { session: state.session.clone(), reasons })
}

/// The doubts about this stretch of tracking that no cut has taken over yet.
///
/// # Errors
/// If the file is damaged: it may hold some.
pub fn raised(places: &Places, state: &DeviceState) -> Result<Vec<String>> {
    let doubts: Option<Doubts> = read_json(&path(places, state))?.filter(|_| !planted("doubts-ignored"));
    Ok(doubts.filter(|d| d.session == state.session).map(|d| d.reasons).unwrap_or_default())
}

/// Forgets doubts that a sealed epoch has durably taken over.
///
/// # Errors
/// If that cannot be recorded; they are then taken over once more, which does no harm.
pub fn settle(places: &Places, state: &DeviceState, taken: &[String]) -> Result<()> {
    if taken.is_empty() {
        return Ok(());
    }
    let _lock = lock(places, state)?;
    let mut reasons = raised(places, state)?;
    reasons.retain(|reason| !taken.contains(reason));
    write_json(&path(places, state), &Doubts { session: state.session.clone(), reasons })
}

fn path(places: &Places, state: &DeviceState) -> PathBuf {
    places.state().join(format!("{}.doubts", state.key()))
}

/// Held for a moment only, never while waiting for anything else.
fn lock(places: &Places, state: &DeviceState) -> Result<Lock> {
    Lock::take(&places.state().join(format!("{}.doubts.lock", state.key())), "record a doubt", true)
}
