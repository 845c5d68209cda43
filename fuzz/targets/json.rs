//! Manifests and repo.json, with wrong and with right checks.
#![no_main]

use collector::format::{Manifest, RepositoryConfig};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    let _ = Manifest::decode(input);
    let _ = RepositoryConfig::decode(input);
    let mut sealed = format!("{{\"check\":\"{}\"", "0".repeat(64)).into_bytes();
    sealed.extend_from_slice(input);
    sealed.extend_from_slice(b"}\n");
    let check = blake3::hash(&sealed).to_hex();
    sealed[10..74].copy_from_slice(check.as_bytes());
    if let Ok(manifest) = Manifest::decode(&sealed) {
        let again = manifest.encode().expect("what was read can be written");
        assert_eq!(Manifest::decode(&again).expect("read again"), manifest);
    }
    if let Ok(config) = RepositoryConfig::decode(&sealed) {
        let again = config.encode().expect("what was read can be written");
        assert_eq!(RepositoryConfig::decode(&again).expect("read again"), config);
    }
});
