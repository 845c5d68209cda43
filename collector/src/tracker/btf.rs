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
        let void = Type { kind: 0, wide: false, name: 0, size_or_type: 0, body: 0, count: 0 };
        let mut all =
            Self { types: vec![void], words: Vec::new(), strings: Vec::new(), names: HashMap::new() };
        all.append(bytes)?;
        Ok(all)
    }

    /// Asks `question` with the types of a loaded kernel module added; without them if it has none of its own
    /// (built in, not loaded, or the kernel does not show them).
    ///
    /// # Errors
    /// `Unsupported` if the module's types cannot be understood.
    pub fn with_module<T>(&mut self, module: &str, question: impl FnOnce(&Self) -> T) -> Result<T> {
        let bytes = match std::fs::read(Path::new("/sys/kernel/btf").join(module)) {
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(question(self)),
            other => other.os_context(|| format!("read the types of kernel module {module}"))?,
        };
        self.with(&bytes, question)
    }

    /// A module's types ("split BTF") go on where the kernel's end: type numbers, and places of strings too.
    fn with<T>(&mut self, bytes: &[u8], question: impl FnOnce(&Self) -> T) -> Result<T> {
        let (types, words, strings) = (self.types.len(), self.words.len(), self.strings.len());
        let answer = self.append(bytes).map(|()| question(self));
        self.types.truncate(types);
        self.words.truncate(words);
        self.strings.truncate(strings);
        for ids in self.names.values_mut() {
            ids.retain(|id| (*id as usize) < types);
        }
        self.names.retain(|_, ids| !ids.is_empty());
        answer
    }

    fn append(&mut self, bytes: &[u8]) -> Result<()> {
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
        let words = section(word(8)?, word(12)?)?.as_chunks::<4>().0;
        let strings = section(word(16)?, word(20)?)?;
        let from = self.words.len();
        self.words.extend(words.iter().map(|b| u32::from_le_bytes(*b)));
        self.strings.extend_from_slice(strings);
        self.read_types(from)
    }

    fn read_types(&mut self, mut at: usize) -> Result<()> {
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

    /// Bytes of a struct.
    ///
    /// # Errors
    /// `Unsupported` if there is no such struct.
    pub fn size(&self, name: &str) -> Result<u32> {
        Ok(self.only(KIND_STRUCT, name)?.size_or_type)
    }

    /// Is the member of the struct an array, not a pointer to one?
    pub fn holds_array(&self, name: &str, member: &str) -> bool {
        let member = self.only(KIND_STRUCT, name).ok().and_then(|ty| self.member(ty, member, 0));
        member.is_some_and(|m| self.plain(m.of).kind == KIND_ARRAY)
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

    /// Raw BTF with these type words and strings.
    fn raw(types: &[u32], strings: &[u8]) -> Vec<u8> {
        let mut bytes = vec![0x9f, 0xeb, 1, 0];
        let length = types.len() as u32 * 4;
        for word in [24, 0, length, length, strings.len() as u32] {
            bytes.extend(word.to_le_bytes());
        }
        bytes.extend(types.iter().flat_map(|w| w.to_le_bytes()));
        bytes.extend(strings);
        bytes
    }

    #[test]
    fn a_modules_types_go_on_where_the_kernels_end() {
        // 1: int; 2: struct base { int a; }
        let kernel = raw(&[1, 1 << 24, 4, 32, 5, 4 << 24 | 1, 4, 10, 1, 0], b"\0int\0base\0a\0");
        // 3: struct mod { int a; base b; int c[]; } with names from both string tables; 4: int[2]
        let module = raw(
            &[12, 4 << 24 | 3, 16, 10, 1, 0, 16, 2, 32, 18, 4, 64, 0, 3 << 24, 0, 1, 1, 2],
            b"mod\0b\0c\0",
        );
        let mut types = KernelTypes::parse(&kernel).unwrap();
        for _ in 0..2 {
            let found = types
                .with(&module, |t| {
                    assert!(t.holds_array("mod", "c") && !t.holds_array("mod", "b"));
                    (t.offset("mod", "a"), t.offset("mod", "b.a"), t.offset("base", "a"), t.size("mod"))
                })
                .unwrap();
            assert_eq!(
                (found.0.unwrap(), found.1.unwrap(), found.2.unwrap(), found.3.unwrap()),
                (0, 4, 0, 16)
            );
            assert!(types.offset("mod", "a").is_err(), "a module's types were left behind");
        }
        assert!(types.with(&module[..40], |_| ()).is_err());
        assert_eq!(types.offset("base", "a").unwrap(), 0);
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
