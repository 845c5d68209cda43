//! Names: what is accepted is one path component and spelled in one way.
#![no_main]

use collector::format::{DeviceId, PointId, RepositoryId, SegmentId};
use libfuzzer_sys::fuzz_target;

fn component(name: &str) {
    let mut parts = std::path::Path::new(name).components();
    assert!(matches!(parts.next(), Some(std::path::Component::Normal(_))) && parts.next().is_none());
}

fuzz_target!(|text: &str| {
    if let Ok(id) = text.parse::<DeviceId>() {
        assert_eq!(id.as_str(), text);
        component(text);
    }
    component(DeviceId::derive(text, text).as_str());
    if let Ok(id) = text.parse::<PointId>() {
        assert_eq!(id.to_string(), text);
        component(text);
    }
    if let Ok(id) = text.parse::<SegmentId>() {
        assert_eq!(id.to_string(), text);
        component(&id.shard());
    }
    if let Ok(id) = text.parse::<RepositoryId>() {
        assert_eq!(id.to_string(), text);
    }
});
