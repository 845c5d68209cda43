//! Parity, where it is wanted: what is lost of a group of objects is found again from the rest.
//!
//! ```text
//!   par/<device>/<group>/<n>    one of the group's parity objects: a shard, and what the group covers
//!   par/repo.json               a copy of repo.json
//!
//!   member 0   member 1   …   member 99 (at most)      each filled up with zeros to the longest
//!        \\         |            /
//!         parity 0 … parity m-1                         any m of all may be lost
//! ```
//! Must stay true: parity is made of stored bytes, so no key that reads content is needed; it is written after what it
//! covers and removed before it, and nothing that is listed ever needs it: a crash leaves at worst less of it. Groups are
//! changed by a new group and the old one's removal, under the device's writer lock.

mod code;
mod cover;
mod group;
mod mend;
mod weave;

pub use cover::Parity;
pub use mend::{ParityState, mend_config};

#[cfg(test)]
impl super::Repository {
    /// Of every group the keys of its parity objects and of its members.
    pub(crate) fn groups_as_keys(&self, device: &crate::format::DeviceId) -> Vec<[Vec<String>; 2]> {
        let groups = self.parity_groups(device).unwrap().all.into_iter();
        let keys = groups.map(|group| {
            let parity = (0..group.parity).map(|number| group.key(number)).collect();
            [parity, group.members.into_iter().map(|member| member.key).collect()]
        });
        keys.collect()
    }
}
