//! Key rings and key files, with wrong and with right checks: read or refused, without work out of bounds.
#![no_main]

use collector::error::{Error, Kind};
use collector::format::{Credential, KeyRing, decode_key_file, public_half};
use collector::seal::{PrivateKey, PublicKey, Secret};
use libfuzzer_sys::fuzz_target;

fn read(bytes: &[u8]) {
    // no passphrase is given, so that no time is spent on argon2: its bounds are looked at before
    let mut nobody = || Err(Error::new(Kind::Denied, "nobody is asked"));
    let _ = decode_key_file(bytes, &mut nobody);
    let _ = public_half(bytes);
    let Ok(ring) = KeyRing::decode(bytes) else { return };
    let again = ring.encode().expect("what was read can be written");
    assert_eq!(KeyRing::decode(&again).expect("read again"), ring);
    let key = PrivateKey::from_secret(Secret::from_bytes([1; 32]));
    assert!(ring.open(&Credential::Private(key)).is_err());
}

fuzz_target!(|input: &[u8]| {
    read(input);
    let mut sealed = format!("{{\"check\":\"{}\"", "0".repeat(64)).into_bytes();
    sealed.extend_from_slice(input);
    sealed.extend_from_slice(b"}\n");
    let check = blake3::hash(&sealed).to_hex();
    sealed[10..74].copy_from_slice(check.as_bytes());
    read(&sealed);
    if let Ok(text) = std::str::from_utf8(input)
        && let Ok(key) = text.parse::<PublicKey>()
    {
        assert_eq!(key.to_string(), text.trim());
    }
});
