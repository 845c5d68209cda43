//! The catalogue of a group's point: which files it holds, what they are, and where in its image their bytes lie.
//!
//! ```text
//!   image of a group's point, MAX_DEVICE bytes, almost all of it holes
//!   0                header, then the root: volumes, devices, pages
//!   1 GiB ..         pages: nodes in the order of (volume, inode)
//!   1 × SLOT ..      what was read through the files
//!   (2 + n) × SLOT   device n as it is, but only what belongs to files of the group
//! ```
//! Root and pages are postcard (its wire format, version 1): numbers as varints, signed ones zigzag, lists and strings
//! with their length before them, fields in the order given here.
//!
//! Must stay true: whatever bytes a page has, decoding gives nodes or an error; a name is one component of a path and
//! never leads out of its folder; a part lies inside of its file and of the image.

use super::{Blake3, DeviceId, FrameHash, MAX_DEVICE, damaged};
use crate::error::{Error, Kind, Result};
use serde::de::{self, DeserializeOwned, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::fmt;

/// Bytes of addresses that a device, or what was read through the files, has in the image.
pub const SLOT: u64 = 1 << 54;

/// First address of the pages.
pub const PAGES_AT: u64 = 1 << 30;

/// First address of what was read through the files.
pub const THROUGH_AT: u64 = SLOT;

/// Devices of a group at most.
pub const MAX_DEVICES: u32 = 250;

/// Bytes of a catalogue's header.
pub const CATALOGUE_HEADER: usize = 64;

const MAGIC: &[u8; 8] = b"BLKDFILE";
const VERSION: u16 = 1;

/// The longest root or page that is read.
const MAX_PAGE: u64 = 1 << 30;

/// First address of device `n`.
pub const fn device_at(n: u32) -> u64 {
    (2 + n as u64) * SLOT
}

/// Bytes that are a name, an attribute, or a target.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Text(pub Vec<u8>);

impl Serialize for Text {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_bytes(&self.0)
    }
}

impl<'de> Deserialize<'de> for Text {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        struct Bytes;
        impl Visitor<'_> for Bytes {
            type Value = Text;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("bytes")
            }
            fn visit_bytes<E: de::Error>(self, bytes: &[u8]) -> Result<Text, E> {
                Ok(Text(bytes.to_vec()))
            }
        }
        d.deserialize_bytes(Bytes)
    }
}

/// A file, whatever its names: the volume's place in the root, and the inode number there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct NodeId {
    /// Volume.
    pub volume: u32,
    /// Inode.
    pub inode: u64,
}

/// What a file is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum NodeKind {
    /// A regular file.
    File,
    /// A folder.
    Folder,
    /// A symbolic link.
    Symlink,
    /// A character device.
    CharDevice,
    /// A block device.
    BlockDevice,
    /// A named pipe.
    Fifo,
    /// A socket.
    Socket,
}

/// A moment: seconds since 1970, and nanoseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Moment {
    /// Seconds.
    pub seconds: i64,
    /// Nanoseconds.
    pub nanos: u32,
}

/// A name in a folder.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Link {
    /// The folder.
    pub parent: NodeId,
    /// The name there.
    pub name: Text,
}

/// Where a part of a file is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Place {
    /// At this address of the image.
    Image(u64),
    /// Nowhere: room that is reserved and reads as zeros.
    Reserved,
}

/// A part of a file; what no part covers is a hole.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Part {
    /// First byte of the file.
    pub at: u64,
    /// Bytes.
    pub length: u64,
    /// Where they are.
    pub place: Place,
}

/// A file, folder or whatever has an inode.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Node {
    /// Which.
    pub id: NodeId,
    /// What it is.
    pub kind: NodeKind,
    /// Permission bits, set-user-id and the like (12 bits).
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Major and minor number of a device.
    pub device: (u32, u32),
    /// Names it has on its file system, in the group or not.
    pub links: u32,
    /// Bytes.
    pub size: u64,
    /// Last change of content.
    pub modified: Moment,
    /// Last change of anything.
    pub changed: Moment,
    /// Last read.
    pub accessed: Moment,
    /// Its names in the group, sorted.
    pub names: Vec<Link>,
    /// Extended attributes, access control lists among them, sorted.
    pub attributes: Vec<(Text, Text)>,
    /// Where a symbolic link leads.
    pub target: Text,
    /// Content, ascending.
    pub parts: Vec<Part>,
    /// Why its content could not be read; it is then not in the point.
    pub unread: Option<String>,
    /// A change of where its content lies may not show in its inode: part of the map may lie outside of that.
    pub outside: bool,
}

/// A device of the group.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CataloguedDevice {
    /// Its name, as whole-device points have it.
    pub id: DeviceId,
    /// Its path, for people.
    pub path: String,
    /// The stretch of tracking of which this point knows everything.
    pub session: Option<String>,
}

/// A file system, or a subvolume: what has inode numbers of its own.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Volume {
    /// Tells it from others.
    pub key: String,
    /// Type, for example `ext4`.
    pub kind: String,
    /// Why its files were read through the file system; `None`: from the device.
    pub through: Option<String>,
}

/// Where a page is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PageRef {
    /// Its first node.
    pub first: NodeId,
    /// Address in the image.
    pub at: u64,
    /// Bytes.
    pub length: u32,
    /// Nodes.
    pub nodes: u32,
    /// XXH3-128 of its bytes.
    pub hash: u128,
}

/// The catalogue's beginning.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Root {
    /// The group's name.
    pub group: String,
    /// The folder `/`.
    pub top: NodeId,
    /// Devices; their place here is their place in the image.
    pub devices: Vec<CataloguedDevice>,
    /// Volumes.
    pub volumes: Vec<Volume>,
    /// What the group was of, and what was mounted there, as a number (XXH3-128); none where that was not to be told, or
    /// changed meanwhile.
    pub rules: Option<u128>,
    /// Pages, by their first node.
    pub pages: Vec<PageRef>,
}

impl Root {
    /// Header and body.
    ///
    /// # Errors
    /// If it cannot be encoded, or is too long.
    pub fn encode(&self) -> Result<Vec<u8>> {
        let body = postcard::to_allocvec(self).map_err(ours)?;
        let mut bytes = Vec::with_capacity(CATALOGUE_HEADER + body.len());
        bytes.extend_from_slice(MAGIC);
        bytes.extend_from_slice(&VERSION.to_le_bytes());
        bytes.resize(16, 0); // flags: none yet
        bytes.extend_from_slice(&(body.len() as u64).to_le_bytes());
        bytes.extend_from_slice(&Blake3::of(&body).0);
        bytes.resize(CATALOGUE_HEADER, 0);
        bytes.extend_from_slice(&body);
        if bytes.len() as u64 > PAGES_AT {
            return Err(Error::new(Kind::Unsupported, "catalogue with too many pages"));
        }
        Ok(bytes)
    }

    /// Bytes of the body that follows this header.
    ///
    /// # Errors
    /// Damaged, or incompatible.
    pub fn body_length(header: &[u8]) -> Result<u64> {
        let Some(header) = header.first_chunk::<CATALOGUE_HEADER>() else {
            return Err(damaged("catalogue of files ends in its header"));
        };
        if &header[..8] != MAGIC {
            return Err(damaged("no catalogue of files where one should be"));
        }
        let word = |at: usize| u64::from_le_bytes(*header[at..].first_chunk().unwrap_or(&[0; 8]));
        if word(8) != u64::from(VERSION) {
            let text =
                format!("catalogue of files of version {}, flags {:#x}", word(8) & 0xffff, word(8) >> 16);
            return Err(Error::new(Kind::Incompatible, text).hint("use a newer blkdelta"));
        }
        match word(16) {
            length if length <= PAGES_AT - CATALOGUE_HEADER as u64 => Ok(length),
            length => Err(damaged(format!("root of a catalogue of {length} bytes"))),
        }
    }

    /// Reads the body that belongs to a header.
    ///
    /// # Errors
    /// Damaged, or incompatible.
    pub fn decode(header: &[u8], body: &[u8]) -> Result<Self> {
        let hash = header.get(24..56).ok_or_else(|| damaged("catalogue of files ends in its header"))?;
        if Self::body_length(header)? != body.len() as u64 || Blake3::of(body).0 != hash {
            return Err(damaged("the root of a catalogue is not what was written"));
        }
        let root: Self = decode(body)?;
        root.check()?;
        Ok(root)
    }

    fn check(&self) -> Result<()> {
        if self.devices.len() > MAX_DEVICES as usize {
            return Err(damaged("catalogue of too many devices"));
        }
        let mut end = PAGES_AT;
        let mut places: Vec<(u64, u64)> = self.pages.iter().map(|p| (p.at, u64::from(p.length))).collect();
        places.sort_unstable();
        for (at, length) in places {
            match at.checked_add(length).filter(|end| *end <= THROUGH_AT) {
                Some(stop) if at >= end && length <= MAX_PAGE => end = stop,
                _ => return Err(damaged(format!("page of a catalogue at {at}"))),
            }
        }
        if self.pages.windows(2).any(|pair| pair[0].first >= pair[1].first) {
            return Err(damaged("pages of a catalogue out of order"));
        }
        Ok(())
    }
}

/// A page's bytes.
///
/// # Errors
/// If they are too long.
pub fn encode_page(nodes: &[&Node]) -> Result<Vec<u8>> {
    let bytes = postcard::to_allocvec(nodes).map_err(ours)?;
    if bytes.len() as u64 > MAX_PAGE {
        return Err(Error::new(Kind::Unsupported, "a file with too many extents for its catalogue"));
    }
    Ok(bytes)
}

/// The nodes of a page.
///
/// # Errors
/// Damaged.
pub fn decode_page(page: &PageRef, bytes: &[u8]) -> Result<Vec<Node>> {
    if FrameHash::of(bytes).0 != page.hash || bytes.len() != page.length as usize {
        return Err(damaged("a page of a catalogue is not what was written"));
    }
    let nodes: Vec<Node> = decode(bytes)?;
    if nodes.len() != page.nodes as usize || nodes.first().is_some_and(|n| n.id != page.first) {
        return Err(damaged("a page of a catalogue holds other nodes"));
    }
    nodes.iter().try_for_each(Node::check)?;
    if nodes.windows(2).any(|pair| pair[0].id >= pair[1].id) {
        return Err(damaged("nodes of a catalogue out of order"));
    }
    Ok(nodes)
}

impl Node {
    /// One about which nothing else is known.
    #[cfg(test)]
    pub(crate) fn bare(id: NodeId, kind: NodeKind) -> Self {
        Self {
            id,
            kind,
            mode: 0o700,
            uid: 0,
            gid: 0,
            device: (0, 0),
            links: 1,
            size: 0,
            modified: Moment::default(),
            changed: Moment::default(),
            accessed: Moment::default(),
            names: Vec::new(),
            attributes: Vec::new(),
            target: Text::default(),
            parts: Vec::new(),
            unread: None,
            outside: false,
        }
    }

    fn check(&self) -> Result<()> {
        let name_is_sound = |name: &[u8]| {
            !name.is_empty() && name != b"." && name != b".." && !name.iter().any(|b| matches!(b, b'/' | 0))
        };
        if !self.names.iter().all(|link| name_is_sound(&link.name.0)) {
            return Err(damaged(format!("a name of inode {} that is none", self.id.inode)));
        }
        if self.kind != NodeKind::File && !self.parts.is_empty() {
            return Err(damaged(format!("content of inode {}, which is no file", self.id.inode)));
        }
        let nanos = [self.modified, self.changed, self.accessed].into_iter().all(|t| t.nanos < 1_000_000_000);
        let mut end = 0;
        for part in &self.parts {
            let stop = part.at.checked_add(part.length).filter(|stop| *stop <= self.size);
            let fits = match part.place {
                Place::Image(at) => {
                    at >= THROUGH_AT && at.checked_add(part.length).is_some_and(|e| e <= MAX_DEVICE)
                }
                Place::Reserved => true,
            };
            match stop {
                Some(stop) if fits && part.at >= end && part.length > 0 => end = stop,
                _ => return Err(damaged(format!("a part of inode {} that is none", self.id.inode))),
            }
        }
        if nanos { Ok(()) } else { Err(damaged(format!("a time of inode {} that is none", self.id.inode))) }
    }
}

fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T> {
    match postcard::take_from_bytes(bytes) {
        Ok((value, [])) => Ok(value),
        Ok(_) => Err(damaged("a catalogue goes on after its end")),
        Err(e) => Err(damaged(format!("a catalogue that cannot be read: {e}"))),
    }
}

fn ours(error: postcard::Error) -> Error {
    Error::new(Kind::Bug, format!("encode a catalogue: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn node(inode: u64) -> Node {
        let part = |at, place| Part { at, length: 4096, place };
        Node {
            id: NodeId { volume: 0, inode },
            kind: NodeKind::File,
            mode: 0o4755,
            uid: 1,
            gid: 2,
            device: (0, 0),
            links: 2,
            size: 10_000,
            modified: Moment { seconds: -5, nanos: 999_999_999 },
            changed: Moment::default(),
            accessed: Moment::default(),
            names: vec![Link { parent: NodeId::default(), name: Text(b"a \xff".to_vec()) }],
            attributes: vec![(Text(b"user.x".to_vec()), Text(vec![0, 1]))],
            target: Text::default(),
            parts: vec![part(0, Place::Image(device_at(0))), part(5000, Place::Reserved)],
            unread: None,
            outside: false,
        }
    }

    fn page(nodes: &[Node]) -> (PageRef, Vec<u8>) {
        let bytes = encode_page(&nodes.iter().collect::<Vec<_>>()).unwrap();
        let (first, hash) = (nodes[0].id, FrameHash::of(&bytes).0);
        let (length, nodes) = (bytes.len() as u32, nodes.len() as u32);
        (PageRef { first, at: PAGES_AT, length, nodes, hash }, bytes)
    }

    #[test]
    fn what_was_encoded_is_decoded() {
        let nodes = [node(7), node(9)];
        let (page, bytes) = page(&nodes);
        assert_eq!(decode_page(&page, &bytes).unwrap(), nodes);
        let root = Root { group: "g".into(), pages: vec![page], ..Root::default() };
        let bytes = root.encode().unwrap();
        let (header, body) = bytes.split_at(CATALOGUE_HEADER);
        assert_eq!(Root::body_length(header).unwrap(), body.len() as u64);
        assert_eq!(Root::decode(header, body).unwrap(), root);
        let wraps = Root { pages: vec![PageRef { at: u64::MAX - 10, ..page }], ..root };
        let bytes = wraps.encode().unwrap();
        let (header, body) = bytes.split_at(CATALOGUE_HEADER);
        assert_eq!(Root::decode(header, body).unwrap_err().kind(), Kind::Damaged);
    }

    #[test]
    fn what_leads_out_of_the_folder_or_the_file_is_damage() {
        let broken: [fn(&mut Node); 9] = [
            |n| n.kind = NodeKind::Symlink,
            |n| n.kind = NodeKind::BlockDevice,
            |n| n.names[0].name.0 = b"..".to_vec(),
            |n| n.names[0].name.0 = b"a/b".to_vec(),
            |n| n.names[0].name.0.clear(),
            |n| n.parts[1].length = u64::MAX,
            |n| n.parts.swap(0, 1),
            |n| n.parts[0].place = Place::Image(5),
            |n| n.modified.nanos = 1_000_000_000,
        ];
        for spoil in broken {
            let mut nodes = [node(1)];
            spoil(&mut nodes[0]);
            let (page, bytes) = page(&nodes);
            assert_eq!(decode_page(&page, &bytes).unwrap_err().kind(), Kind::Damaged);
        }
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..300), cut in 0usize..200) {
            let _ = Root::decode(&bytes, &bytes);
            let (page, mut whole) = page(&[node(3), node(4)]);
            whole.truncate(cut);
            let lying = PageRef { hash: FrameHash::of(&whole).0, length: whole.len() as u32, ..page };
            prop_assert!(decode_page(&lying, &whole).is_err() || whole.len() == page.length as usize);
        }
    }
}
