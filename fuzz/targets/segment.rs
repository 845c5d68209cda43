//! Whole segments: any frames and any table between a right header and a right trailer.
#![no_main]

use collector::format::{
    Header, ObjectKind, RepositoryId, SegmentId, SegmentTable, Trailer, decode_frame,
};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    let repository = RepositoryId::from_bytes([7; 16]);
    let id = SegmentId::from_bytes([9; 16]);
    let _ = SegmentTable::decode(repository, id, input);
    let Some(([count, frames], rest)) = input.split_first_chunk::<2>() else { return };
    let (frames, columns) = rest.split_at(usize::from(*frames).min(rest.len()));
    let header = Header { kind: ObjectKind::Segment, sealed: false, compatible: 0, repository, id: id.to_bytes() };
    let mut bytes = header.encode().to_vec();
    bytes.extend_from_slice(frames);
    let footer = zstd::bulk::compress(columns, 1).expect("pack");
    let trailer = Trailer::of(bytes.len() as u64, &footer, u64::from(*count));
    bytes.extend_from_slice(&footer);
    bytes.extend_from_slice(&trailer.encode(ObjectKind::Segment));
    let Ok(table) = SegmentTable::decode(repository, id, &bytes) else { return };
    for frame in &table.frames {
        let at = frame.offset as usize;
        let stored = &bytes[at..at + frame.meta.stored_len as usize];
        let mut raw = vec![0; frame.meta.extent.length as usize];
        let _ = decode_frame(&frame.meta, stored, &mut raw);
    }
});
