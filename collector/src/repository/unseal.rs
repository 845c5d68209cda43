//! From stored bytes to content: in an encrypted repository through the key of the frame's session.

use super::{Repository, keys, lost};
use crate::error::{Error, Kind, Result};
use crate::format::{
    DeviceId, DeviceIdent, EncodedFrame, FrameMeta, HEADER_LEN, Header, MAX_SEGMENT, ObjectKind,
    SESSIONS_HEAD, SegmentId, damaged, decode_frame, decode_sessions, open_frame,
};
use crate::seal::{Cover, FrameKey, Keys, RECORD, Record};
use std::collections::HashMap;
use std::sync::{Arc, Mutex};

/// The fact that says what a device would be called where names are not hidden.
const NAME: &str = "device";

/// The frame keys that were found, by point.
pub(super) type Found = Mutex<Sessions>;

/// By point.
type Sessions = HashMap<[u8; 16], (Record, Arc<FrameKey>)>;

impl Repository {
    /// The keys, if it is encrypted.
    pub(super) fn keys(&self) -> Option<&Arc<Keys>> {
        self.keys.as_ref()
    }

    /// What seals the metadata object of this key.
    pub(super) fn cover<'a>(&'a self, key: &'a str) -> Option<Cover<'a>> {
        self.keys.as_ref().map(|keys| keys.metadata().cover(key))
    }

    /// A device's name here: in an encrypted repository one that tells nothing.
    pub fn device_name(&self, id: &DeviceId) -> DeviceId {
        let Some(keys) = &self.keys else { return id.clone() };
        let alias = keys.metadata().alias(id.as_str());
        DeviceId::opaque(&alias)
    }

    /// What a device is called where names are not hidden, as far as a point of it says.
    pub(crate) fn open_name(&self, ident: &DeviceIdent) -> Option<DeviceId> {
        if self.keys.is_none() {
            return Some(ident.id.clone());
        }
        let name = DeviceId::new(ident.facts.get(NAME)?).ok()?;
        (self.device_name(&name) == ident.id).then_some(name)
    }

    /// A device that is called `name` where names are not hidden, as the points here have it.
    pub(crate) fn called_here(&self, ident: &DeviceIdent, name: &DeviceId) -> DeviceIdent {
        let mut here = DeviceIdent { id: self.device_name(name), ..ident.clone() };
        here.facts.remove(NAME);
        if self.keys.is_some() {
            here.facts.insert(NAME.to_owned(), name.to_string());
        }
        here
    }

    /// Decodes a frame of `segment` into `raw` and verifies it; `buf` is used again.
    pub(super) fn decode(
        &self,
        frame: &FrameMeta,
        segment: SegmentId,
        stored: &[u8],
        buf: &mut Vec<u8>,
        raw: &mut [u8],
    ) -> Result<()> {
        if self.keys.is_none() {
            return decode_frame(frame, stored, raw);
        }
        let key = self.key_of(segment, stored)?;
        open_frame(frame, stored, &key, buf, raw).or_else(|e| {
            // found in another segment, which may name another session than this one does
            let own = self.find(segment, FrameKey::point(stored).ok_or(e)?)?;
            open_frame(frame, stored, &own, buf, raw)
        })
    }

    /// A frame of `segment` as it was before it was sealed; it is not decoded.
    pub(super) fn unsealed(&self, frame: EncodedFrame, segment: SegmentId) -> Result<EncodedFrame> {
        if self.keys.is_none() {
            return Ok(frame);
        }
        let key = self.key_of(segment, &frame.data)?;
        frame.unsealed(&key)
    }

    /// The key of a sealed frame.
    fn key_of(&self, segment: SegmentId, stored: &[u8]) -> Result<Arc<FrameKey>> {
        let point = FrameKey::point(stored).ok_or_else(|| damaged("frame cut short"))?;
        let known = self.found().get(&point).cloned();
        known.map_or_else(|| self.find(segment, point), |(_, key)| Ok(key))
    }

    /// The record of the session of a frame that was decoded.
    pub(super) fn record_of(&self, stored: &[u8]) -> Option<Record> {
        let point = FrameKey::point(stored).filter(|_| self.keys.is_some())?;
        self.found().get(&point).map(|(record, _)| *record)
    }

    fn found(&self) -> std::sync::MutexGuard<'_, Sessions> {
        self.found.lock().unwrap_or_else(|e| e.into_inner())
    }

    /// Reads the sessions of a segment, and remembers them.
    fn find(&self, segment: SegmentId, point: [u8; 16]) -> Result<Arc<FrameKey>> {
        let key = keys::segment(segment);
        let read = || {
            // one session is the rule
            let mut first = self.store().get_range(&key, 0, SESSIONS_HEAD + RECORD as u64)?;
            let header = Header::decode(ObjectKind::Segment, &first)?;
            header.expect(self.uuid(), segment.to_bytes())?;
            header.expect_sealed(true)?;
            let mut sessions = decode_sessions(&first)?;
            if let Err(longer) = sessions {
                first = self.store().get_range(&key, 0, longer.min(MAX_SEGMENT))?;
                sessions = decode_sessions(&first)?;
            }
            self.remember(&sessions.unwrap_or_default(), point)
        };
        read().map_err(|e: Error| lost(e).within(format!("find the key of a frame in {key}")))
    }

    fn remember(&self, sessions: &[Record], point: [u8; 16]) -> Result<Arc<FrameKey>> {
        let none = || damaged("a frame of a session that its segment does not name");
        let record = sessions.iter().find(|record| record.point() == point).ok_or_else(none)?;
        let keys = self.keys.as_ref().ok_or_else(|| Error::new(Kind::Bug, "no keys"))?;
        let key = Arc::new(keys.frame_key(record)?);
        self.found().insert(point, (*record, Arc::clone(&key)));
        Ok(key)
    }
}

const _: () = assert!(SESSIONS_HEAD as usize == HEADER_LEN + 4);
