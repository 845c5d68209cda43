//! The backup of a group of files: a point whose image holds what belongs to the files, and their catalogue.
//!
//! ```text
//!   sync ▸ cut ▸ list ▸ copy what is new to the group or changed        while the file systems live
//!   sync ▸ freeze ▸ cut ▸ list ▸ copy ▸ cut: still? ▸ thaw             once more, short
//!   zeros where files were ▸ catalogue ▸ publish ▸ retire              only then the epochs
//! ```
//! An increment of file systems that are fully known looks only at files whose inodes lie in changed blocks (`glance`).
//! A group has its own start point on each device's tracking, beside those of the devices' own points and of other
//! groups.
//!
//! What must stay true: the parent's bytes are believed only where the parent holds them for the group and every epoch
//! since its cut calls them clean; whatever is in doubt is read and compared, or copied; bytes that belong to no file
//! of the group are neither read nor stored; what FIEMAP does not vouch for is read through the file.

mod backup;
mod glance;
mod image;
mod parent;
mod passes;
mod seat;
mod still;

pub use backup::{Group, Outcome, backup};
pub use seat::{Seated, seats};

use crate::format::{DeviceId, DeviceIdent, Moment};
use crate::repository::Repository;
use std::collections::BTreeMap;

/// The name of a group in a repository: of this host's groups, as a device has one.
pub fn identify(repo: &Repository, group: &str) -> DeviceIdent {
    let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
    let id = DeviceId::derive(&format!("group{group}"), &format!("group {group} on {host}"));
    let facts = [("group", group.to_owned()), ("host", host)];
    DeviceIdent {
        id: repo.device_name(&id),
        path: format!("group {group}"),
        facts: facts.into_iter().map(|(name, fact)| (name.to_owned(), fact)).collect::<BTreeMap<_, _>>(),
    }
}

/// What the tracking calls the repository of a group's start point.
fn tag(repo: &Repository, group: &str) -> String {
    format!("{} group {group}", repo.uuid())
}

/// Now, as files' times are.
fn moment(time: std::time::SystemTime) -> Moment {
    let since = time.duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    Moment { seconds: since.as_secs() as i64, nanos: since.subsec_nanos() }
}
