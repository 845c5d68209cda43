//! Which device a point is of.
//!
//! What must stay true: the name follows from what makes the device this one (its serial number, its backing
//! file), not from the order in which disks were found, wherever such a thing is known; where nothing is known,
//! from its kernel name on this host. It groups points and is never what a chain relies on: a parent is named by
//! the epochs, exactly (museum M14).

use crate::format::{DeviceId, DeviceIdent};
use crate::repository::Repository;
use crate::sys::device::BlockDevice;
use std::collections::BTreeMap;

/// The identity of a block device.
pub fn identify(device: &BlockDevice) -> DeviceIdent {
    let host = host();
    let facts = facts(device, &host);
    let (name, mut identity) = whole(device, &host);
    let name = match device.partition {
        None => name,
        Some(partition) => {
            identity += &format!(" partition {} at {}", partition.number, partition.start_sector);
            format!("{name}p{}", partition.number)
        }
    };
    let id = DeviceId::derive(&name, &identity);
    DeviceIdent { id, path: device.path.display().to_string(), facts }
}

/// The same, with the name that the device has in a repository: one that tells nothing, if it is encrypted.
pub fn identify_in(repo: &Repository, device: &BlockDevice) -> DeviceIdent {
    let ident = identify(device);
    repo.called_here(&ident, &ident.id)
}

/// A readable name and the identity of the whole disk.
fn whole(device: &BlockDevice, host: &str) -> (String, String) {
    if let Some(file) = &device.backing_file {
        let stem = file.file_stem().map(|s| s.to_string_lossy().into_owned()).unwrap_or_default();
        let at = device.backing_offset.filter(|at| *at > 0).map(|at| format!(" at {at}")).unwrap_or_default();
        return (stem, format!("file {}{at} on {host}", file.display()));
    }
    let disk = device.whole_disk().map_or_else(|_| device.name.clone(), |disk| disk.name);
    for (what, fact) in [("wwid", &device.wwid), ("uuid", &device.uuid), ("serial", &device.serial)] {
        if let Some(fact) = fact {
            return ("disk".into(), format!("{what} {fact}"));
        }
    }
    (disk.clone(), format!("name {disk} on {host}"))
}

fn facts(device: &BlockDevice, host: &str) -> BTreeMap<String, String> {
    let known = [
        ("host", Some(host.to_owned()).filter(|h| !h.is_empty())),
        ("name", Some(device.name.clone())),
        ("serial", device.serial.clone()),
        ("wwid", device.wwid.clone()),
        ("uuid", device.uuid.clone()),
        ("backing_file", device.backing_file.as_ref().map(|f| f.display().to_string())),
        ("partition", device.partition.map(|p| p.number.to_string())),
        ("start_sector", device.partition.map(|p| p.start_sector.to_string())),
    ];
    known.into_iter().filter_map(|(key, value)| Some((key.to_owned(), value?))).collect()
}

/// The host's name.
fn host() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}
