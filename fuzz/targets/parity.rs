//! What a parity object says of its group: any bytes, and members that are nearly right.
#![no_main]

use collector::format::{MAX_MEMBERS, ParityShare, ParityTable};
use libfuzzer_sys::fuzz_target;

fn read(bytes: &[u8], count: u64) {
    let Ok(table) = ParityTable::decode(bytes, count) else { return };
    assert!(table.members.len() as u64 == count && table.members.len() <= MAX_MEMBERS);
    assert!(table.number < table.parity);
    let mut last = None;
    for member in &table.members {
        assert!(last < Some(member.position) && member.len <= table.shard_len);
        last = Some(member.position);
    }
    assert_eq!(table.encode().expect("what was read can be written"), bytes);
}

fuzz_target!(|input: &[u8]| {
    let Some(([count], bytes)) = input.split_first_chunk::<1>() else { return };
    read(bytes, u64::from(*count));
    read(bytes, u64::MAX - u64::from(*count));
    // right numbers before any members
    let mut table = [0, 0, 1, 0, 200, 0].to_vec();
    table.extend_from_slice(&(1u64 << 20).to_le_bytes());
    table.extend_from_slice(&[9; 32]);
    table.extend_from_slice(bytes);
    read(&table, u64::from(*count));
    if let Ok(text) = std::str::from_utf8(input)
        && let Ok(share) = text.parse::<ParityShare>()
    {
        assert!((1..=50).contains(&share.of(100)) && share.of(0) == 1);
    }
});
