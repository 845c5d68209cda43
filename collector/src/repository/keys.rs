//! The objects' keys. Made from checked names only; compared whole, never by prefix.

use crate::format::{DeviceId, PointId, SegmentId};

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
        assert_eq!(parse_manifest(&key), Some((device, point)));
        for bad in
            ["bak/web1/x.json", "bak/../x", "bak//01.json", "idx/web1/a", "bak/Web1/a.json", "bak/a/b/c.json"]
        {
            assert_eq!(parse_manifest(bad), None, "{bad}");
        }
        assert_eq!(parse_manifest(&key.replace(".json", ".json.json")), None);
        let id = SegmentId::generate();
        assert_eq!(parse_segment(&segment(id)), Some(id));
        assert_eq!(parse_segment(&format!("seg/zz/{id}")), None);
    }
}
