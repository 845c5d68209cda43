//! The objects' keys. Made from checked names only; compared whole, never by prefix.

use crate::format::{DeviceId, GroupId, PointId, RepositoryId, SegmentId};

pub(super) const CONFIG: &str = "repo.json";

pub(super) fn segment(id: SegmentId) -> String {
    format!("seg/{}/{id}", id.shard())
}

pub(super) fn index(device: &DeviceId, point: PointId) -> String {
    format!("idx/{device}/{point}")
}

pub(super) fn manifest(device: &DeviceId, point: PointId) -> String {
    format!("bak/{device}/{point}.json")
}

/// The map number `number` of a point: an index.
pub(super) fn map(device: &DeviceId, point: PointId, number: u32) -> String {
    format!("map/{device}/{point}/{number}")
}

/// Its commit.
pub(super) fn map_commit(device: &DeviceId, point: PointId, number: u32) -> String {
    format!("map/{device}/{point}/{number}.json")
}

pub(super) fn tombstone(device: &DeviceId, point: PointId) -> String {
    format!("del/{device}/{point}.json")
}

/// The spare of map `number` of a point; 0: of its own index.
pub(super) fn spare(device: &DeviceId, point: PointId, number: u32) -> String {
    format!("spare/{device}/{point}/{number}")
}

/// The spare of a map's commit.
pub(super) fn spare_commit(device: &DeviceId, point: PointId, number: u32) -> String {
    format!("spare/{device}/{point}/{number}.json")
}

/// The point and number of a spare's key; true: it is of a commit.
pub(super) fn parse_spare(key: &str) -> Option<(DeviceId, PointId, u32, bool)> {
    parse_map(&format!("map/{}", key.strip_prefix("spare/")?))
}

/// A copy of `repo.json`, where there is parity.
pub(super) const CONFIG_COPY: &str = "par/repo.json";

/// The parity object number `number` of a group.
pub(super) fn parity(device: &DeviceId, group: GroupId, number: u16) -> String {
    format!("par/{device}/{group}/{number}")
}

/// The group and number of a parity object's key.
pub(super) fn parse_parity(key: &str) -> Option<(DeviceId, GroupId, u16)> {
    let (device, rest) = key.strip_prefix("par/")?.split_once('/')?;
    let (group, number) = rest.split_once('/')?;
    let (device, group, number) = (DeviceId::new(device).ok()?, group.parse().ok()?, number.parse().ok()?);
    (key == parity(&device, group, number)).then_some((device, group, number))
}

/// Parity of a device's objects may cover an object of this key: a segment, or of this device a manifest, an index, a
/// map or its commit, a tombstone.
pub(super) fn has_parity(device: &DeviceId, key: &str) -> bool {
    let of = |found: Option<DeviceId>| found.is_some_and(|found| found == *device);
    parse_segment(key).is_some()
        || of(parse_index(key).map(|(found, _)| found))
        || of(parse_manifest(key).map(|(found, _)| found))
        || of(parse_map(key).map(|(found, ..)| found))
        || of(parse_tombstone(key).map(|(found, _)| found))
}

/// The folder of an encrypted repository's key rings. The repository's own name is in it, so that what a creation that
/// died left behind is never taken for the ring of the next.
pub(super) fn rings(repository: RepositoryId) -> String {
    format!("key/{repository}")
}

pub(super) fn ring(repository: RepositoryId, number: u32, copy: bool) -> String {
    let copy = if copy { "-copy" } else { "" };
    format!("key/{repository}/{number}{copy}.json")
}

/// A key ring, of whatever repository.
pub(super) fn of_a_ring(key: &str) -> bool {
    let folder = key.strip_prefix("key/").and_then(|rest| rest.split_once('/'));
    folder.is_some_and(|(name, _)| name.parse().is_ok_and(|id| parse_ring(id, key).is_some()))
}

/// The number of a ring's key; true: it is the copy's.
pub(super) fn parse_ring(repository: RepositoryId, key: &str) -> Option<(u32, bool)> {
    let file = key.strip_prefix(&rings(repository))?.strip_prefix('/')?.strip_suffix(".json")?;
    let number = file.strip_suffix("-copy").unwrap_or(file).parse().ok()?;
    let copy = file.ends_with("-copy");
    (key == ring(repository, number, copy)).then_some((number, copy))
}

/// The point and number of a map's key; true: it is the commit's.
pub(super) fn parse_map(key: &str) -> Option<(DeviceId, PointId, u32, bool)> {
    let (device, rest) = key.strip_prefix("map/")?.split_once('/')?;
    let (point, file) = rest.split_once('/')?;
    let number = file.strip_suffix(".json").unwrap_or(file).parse().ok()?;
    let (device, point) = (DeviceId::new(device).ok()?, point.parse().ok()?);
    if key == map(&device, point, number) {
        return Some((device, point, number, false));
    }
    (key == map_commit(&device, point, number)).then_some((device, point, number, true))
}

/// The point whose tombstone has this key.
pub(super) fn parse_tombstone(key: &str) -> Option<(DeviceId, PointId)> {
    let (device, file) = key.strip_prefix("del/")?.split_once('/')?;
    let point = file.strip_suffix(".json")?.parse().ok()?;
    Some((DeviceId::new(device).ok()?, point))
}

/// The point whose index has this key.
pub(super) fn parse_index(key: &str) -> Option<(DeviceId, PointId)> {
    let (device, point) = key.strip_prefix("idx/")?.split_once('/')?;
    Some((DeviceId::new(device).ok()?, point.parse().ok()?))
}

/// The point whose manifest has this key; `None` for a key that no manifest has.
pub(super) fn parse_manifest(key: &str) -> Option<(DeviceId, PointId)> {
    let (device, file) = key.strip_prefix("bak/")?.split_once('/')?;
    let point = file.strip_suffix(".json")?.parse().ok()?;
    Some((DeviceId::new(device).ok()?, point))
}

/// The segment that has this key.
pub(super) fn parse_segment(key: &str) -> Option<SegmentId> {
    let id: SegmentId = key.rsplit_once('/')?.1.parse().ok()?;
    (segment(id) == key).then_some(id)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Museum M20: "web1" is not "web10".
    #[test]
    fn keys_are_exact() {
        let (device, point) = (DeviceId::new("web1").unwrap(), PointId::generate());
        let key = manifest(&device, point);
        assert_eq!(parse_manifest(&key), Some((device.clone(), point)));
        for bad in
            ["bak/web1/x.json", "bak/../x", "bak//01.json", "idx/web1/a", "bak/Web1/a.json", "bak/a/b/c.json"]
        {
            assert_eq!(parse_manifest(bad), None, "{bad}");
        }
        assert_eq!(parse_manifest(&key.replace(".json", ".json.json")), None);
        let id = SegmentId::generate();
        assert_eq!(parse_segment(&segment(id)), Some(id));
        assert_eq!(parse_segment(&format!("seg/zz/{id}")), None);
        assert_eq!(parse_map(&map(&device, point, 7)), Some((device.clone(), point, 7, false)));
        assert_eq!(parse_map(&map_commit(&device, point, 7)), Some((device.clone(), point, 7, true)));
        let repository = RepositoryId::generate();
        for (number, copy) in [(1, false), (12, true)] {
            assert_eq!(parse_ring(repository, &ring(repository, number, copy)), Some((number, copy)));
            assert!(of_a_ring(&ring(repository, number, copy)));
        }
        assert!(!of_a_ring("key/x/1.json") && !of_a_ring(&format!("key/{repository}/01.json")));
        let group = GroupId::generate();
        assert_eq!(parse_parity(&parity(&device, group, 7)), Some((device.clone(), group, 7)));
        assert_eq!(parse_parity(&format!("par/web1/{group}/07")), None);
        assert_eq!(parse_parity(CONFIG_COPY), None);
        for good in [
            segment(id),
            index(&device, point),
            manifest(&device, point),
            map(&device, point, 7),
            map_commit(&device, point, 7),
            tombstone(&device, point),
        ] {
            assert!(has_parity(&device, &good), "{good}");
            let elsewhere = has_parity(&DeviceId::new("web10").unwrap(), &good);
            assert_eq!(elsewhere, good.starts_with("seg/"), "{good}");
        }
        for bad in ["repo.json", "lock/web1", "../x", "bak/web1/../../x", "quarantine/x", "/etc/passwd", ""] {
            assert!(!has_parity(&device, bad), "{bad}");
        }
        assert_eq!(parse_map(&format!("map/web1/{point}/07")), None);
        assert_eq!(parse_tombstone(&tombstone(&device, point)), Some((device, point)));
    }
}
