//! The running kernel's own description of its types (BTF): member offsets, enum values, tracepoint arguments.
//!
//! Format: `Documentation/bpf/btf.rst` (6.1 to 7.3). Only little-endian, as this program is. Any input gives
//! an answer or an error, never a panic. (The crate for it, btf-rs, is LGPL; this is the part we need.)

use crate::error::{Context, Error, Kind, Result};
use std::collections::HashMap;
use std::path::Path;

const KIND_ARRAY: u8 = 3;
const KIND_STRUCT: u8 = 4;
const KIND_UNION: u8 = 5;
const KIND_ENUM: u8 = 6;
const KIND_TYPEDEF: u8 = 8;
const KIND_POINTER: u8 = 2;
const KIND_PROTOTYPE: u8 = 13;
const KIND_ENUM64: u8 = 19;

/// A type: its kind, name, `size or type` word, and where its kind-specific words lie.
#[derive(Clone, Copy, Debug)]
struct Type {
    kind: u8,
    wide: bool,
    name: u32,
    size_or_type: u32,
    body: usize,
    count: usize,
}

/// A member of a struct or union: bit offset and type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Member {
    bits: u32,
    of: u32,
}

/// All types of a kernel.
#[derive(Debug)]
pub struct KernelTypes {
    types: Vec<Type>,
    words: Vec<u32>,
    strings: Vec<u8>,
    names: HashMap<(u8, String), Vec<u32>>,
}

fn damaged(what: &str) -> Error {
    Error::new(Kind::Unsupported, format!("read the kernel's type information: {what}"))
}

impl KernelTypes {
    /// Types of the running kernel.
    ///
    /// # Errors
    /// `Unsupported` if the kernel has none (`CONFIG_DEBUG_INFO_BTF`) or they cannot be understood.
    pub fn running() -> Result<Self> {
        let path = Path::new("/sys/kernel/btf/vmlinux");
        let bytes = std::fs::read(path).os_context(|| format!("read {}", path.display())).map_err(|e| {
            Error::caused(Kind::Unsupported, "this kernel has no type information (BTF)", e)
                .hint("use a kernel built with CONFIG_DEBUG_INFO_BTF=y; distribution kernels since 2021 are")
        })?;
        Self::parse(&bytes)
    }

    /// Types in raw BTF bytes.
    ///
    /// # Errors
    /// `Unsupported` if they are not BTF of a kind we know.
    pub fn parse(bytes: &[u8]) -> Result<Self> {
        let word = |at: usize| -> Result<usize> {
            let b = bytes.get(at..at + 4).ok_or_else(|| damaged("header cut short"))?;
            Ok(u32::from_le_bytes([b[0], b[1], b[2], b[3]]) as usize)
        };
        if bytes.get(..3) != Some(&[0x9f, 0xeb, 1]) {
            return Err(damaged("not BTF version 1, little-endian"));
        }
        let header = word(4)?;
        let section = |offset: usize, length: usize| -> Result<&[u8]> {
            let start = header.checked_add(offset).ok_or_else(|| damaged("section out of range"))?;
            let end = start.checked_add(length).ok_or_else(|| damaged("section out of range"))?;
            bytes.get(start..end).ok_or_else(|| damaged("section out of range"))
        };
        let words = section(word(8)?, word(12)?)?
            .chunks_exact(4)
            .map(|b| u32::from_le_bytes([b[0], b[1], b[2], b[3]]))
            .collect();
        let strings = section(word(16)?, word(20)?)?.to_vec();
        let mut all = Self { types: Vec::new(), words, strings, names: HashMap::new() };
        all.read_types()?;
        Ok(all)
    }

    fn read_types(&mut self) -> Result<()> {
        let void = Type { kind: 0, wide: false, name: 0, size_or_type: 0, body: 0, count: 0 };
        self.types.push(void);
        let mut at = 0;
        while at < self.words.len() {
            let [name, info, size_or_type] = *self
                .words
                .get(at..at + 3)
                .and_then(|w| w.first_chunk::<3>())
                .ok_or_else(|| damaged("type cut short"))?;
            let kind = (info >> 24 & 0x1f) as u8;
            let count = (info & 0xffff) as usize;
            let body = at + 3;
            at = body + body_words(kind, count).ok_or_else(|| damaged(&format!("unknown kind {kind}")))?;
            if at > self.words.len() {
                return Err(damaged("type cut short"));
            }
            let id = u32::try_from(self.types.len()).map_err(|_| damaged("too many types"))?;
            self.types.push(Type { kind, wide: info >> 31 == 1, name, size_or_type, body, count });
            if name != 0 {
                let name = self.string(name).to_owned();
                self.names.entry((kind, name)).or_default().push(id);
            }
        }
        Ok(())
    }

    fn string(&self, at: u32) -> &str {
        let tail = self.strings.get(at as usize..).unwrap_or_default();
        let end = tail.iter().position(|b| *b == 0).unwrap_or(0);
        std::str::from_utf8(&tail[..end]).unwrap_or("")
    }

    fn get(&self, id: u32) -> Type {
        self.types.get(id as usize).copied().unwrap_or(self.types[0])
    }

    /// The only type of that kind and name; two different ones would make every offset a guess.
    fn only(&self, kind: u8, name: &str) -> Result<Type> {
        match self.names.get(&(kind, name.to_owned())).map(Vec::as_slice) {
            Some([id]) => Ok(self.get(*id)),
            Some(many) => Err(damaged(&format!("{} types are called {name}", many.len()))),
            None => Err(damaged(&format!("no type is called {name}"))),
        }
    }

    /// Follows typedefs and qualifiers.
    fn plain(&self, mut id: u32) -> Type {
        for _ in 0..32 {
            let ty = self.get(id);
            if !matches!(ty.kind, 8 | 9 | 10 | 11 | 18) {
                return ty;
            }
            id = ty.size_or_type;
        }
        self.types[0]
    }

    fn member(&self, ty: Type, name: &str, depth: u32) -> Option<Member> {
        if !matches!(ty.kind, KIND_STRUCT | KIND_UNION) || depth > 8 {
            return None;
        }
        for [member, of, offset] in self.words.get(ty.body..)?.as_chunks::<3>().0.iter().take(ty.count) {
            let bits = if ty.wide { offset & 0x00ff_ffff } else { *offset };
            let found = self.string(*member);
            if found == name {
                return Some(Member { bits, of: *of });
            }
            if found.is_empty()
                && let Some(inner) = self.member(self.plain(*of), name, depth + 1)
            {
                return Some(Member { bits: bits + inner.bits, of: inner.of });
            }
        }
        None
    }

    /// Byte offset of `path` (`a.b`) in `struct name`; anonymous members are looked through.
    ///
    /// # Errors
    /// `Unsupported` if there is no such member, or it is a bit field.
    pub fn offset(&self, name: &str, path: &str) -> Result<u32> {
        let mut ty = self.only(KIND_STRUCT, name)?;
        let mut bits = 0;
        for part in path.split('.') {
            let member =
                self.member(ty, part, 0).ok_or_else(|| damaged(&format!("struct {name} has no {path}")))?;
            bits += member.bits;
            ty = self.plain(member.of);
        }
        if bits % 8 == 0 { Ok(bits / 8) } else { Err(damaged(&format!("{name}.{path} is a bit field"))) }
    }

    /// Value of an enumerator, whatever enum it belongs to.
    pub fn enumerator(&self, name: &str) -> Option<u64> {
        self.types.iter().find_map(|ty| match ty.kind {
            KIND_ENUM => self
                .words
                .get(ty.body..)?
                .as_chunks::<2>()
                .0
                .iter()
                .take(ty.count)
                .find(|[n, _]| self.string(*n) == name)
                .map(|[_, value]| u64::from(*value)),
            KIND_ENUM64 => self
                .words
                .get(ty.body..)?
                .as_chunks::<3>()
                .0
                .iter()
                .take(ty.count)
                .find(|[n, ..]| self.string(*n) == name)
                .map(|[_, low, high]| u64::from(*low) | u64::from(*high) << 32),
            _ => None,
        })
    }

    /// Argument types of a tracepoint, as C would write them, without the leading `void *`.
    pub fn tracepoint_arguments(&self, tracepoint: &str) -> Option<Vec<String>> {
        let typedef = self.only(KIND_TYPEDEF, &format!("btf_trace_{tracepoint}")).ok()?;
        let pointer = self.plain(typedef.size_or_type);
        if pointer.kind != KIND_POINTER {
            return None;
        }
        let prototype = self.plain(pointer.size_or_type);
        if prototype.kind != KIND_PROTOTYPE {
            return None;
        }
        let parameters = self.words.get(prototype.body..)?.as_chunks::<2>().0.iter().take(prototype.count);
        Some(parameters.skip(1).map(|[_, of]| self.spell(*of, 0)).collect())
    }

    fn spell(&self, id: u32, depth: u32) -> String {
        let ty = self.get(id);
        match ty.kind {
            _ if id == 0 || depth > 8 => "void".into(),
            KIND_POINTER => format!("{} *", self.spell(ty.size_or_type, depth + 1)),
            9..=11 | 18 => self.spell(ty.size_or_type, depth + 1),
            KIND_STRUCT => format!("struct {}", self.string(ty.name)),
            _ => self.string(ty.name).to_owned(),
        }
    }

    /// Is there any named type whose name contains `part`?
    pub fn mentions(&self, part: &str) -> bool {
        self.names.keys().any(|(_, name)| name.contains(part))
    }
}

/// Words after the common three, by kind.
fn body_words(kind: u8, count: usize) -> Option<usize> {
    Some(match kind {
        1 | 14 | 17 => 1,
        KIND_ARRAY => 3,
        KIND_STRUCT | KIND_UNION | 15 | KIND_ENUM64 => 3 * count,
        KIND_ENUM | KIND_PROTOTYPE => 2 * count,
        2 | 7..=12 | 16 | 18 => 0,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_running_kernel_or_a_reason() {
        match KernelTypes::running() {
            Ok(types) => {
                assert!(types.offset("bio", "bi_iter.bi_sector").unwrap() > 0);
                assert_eq!(types.enumerator("REQ_OP_WRITE"), Some(1));
                assert_eq!(types.tracepoint_arguments("block_rq_issue").unwrap(), ["struct request *"]);
                assert!(types.offset("bio", "no_such_member").is_err());
                assert!(types.offset("no_such_struct", "x").is_err());
            }
            Err(e) => {
                assert_eq!(e.kind(), Kind::Unsupported);
                println!("SKIPPED: the_running_kernel_or_a_reason: {e}");
            }
        }
    }

    proptest! {
        #[test]
        fn garbage_never_panics(mut bytes in prop::collection::vec(any::<u8>(), 0..400), real in any::<bool>()) {
            if real && bytes.len() > 24 {
                bytes[..8].copy_from_slice(&[0x9f, 0xeb, 1, 0, 24, 0, 0, 0]);
                let rest = (bytes.len() - 24) as u32;
                bytes[8..12].copy_from_slice(&0u32.to_le_bytes());
                bytes[12..16].copy_from_slice(&(rest / 2).to_le_bytes());
                bytes[16..20].copy_from_slice(&(rest / 2).to_le_bytes());
                bytes[20..24].copy_from_slice(&(rest / 2).to_le_bytes());
            }
            if let Ok(types) = KernelTypes::parse(&bytes) {
                let _ = types.offset("bio", "a.b");
                let _ = types.enumerator("x");
                let _ = types.tracepoint_arguments("x");
            }
        }
    }
}
