//! The oracle of files: a tree as it is, read by the plainest means, and how another one differs from it.

use anyhow::{Context, Result, bail};
use std::collections::BTreeMap;
use std::fs::{self, File, Metadata};
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

/// Everything about one name.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Entry {
    kind: char,
    mode: u32,
    owner: (u32, u32),
    device: u64,
    size: u64,
    modified: (i64, i64),
    /// The first of the names of the same file.
    same_as: PathBuf,
    target: PathBuf,
    attributes: Vec<(Vec<u8>, Vec<u8>)>,
    content: Vec<u8>,
    /// Where it is no hole.
    data: Vec<(u64, u64)>,
}

/// A tree at a moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tree {
    entries: BTreeMap<PathBuf, Entry>,
}

impl Tree {
    /// What is in `folder`, itself too, without what `leave_out` says by its path below it.
    pub fn of(folder: &Path, leave_out: impl Fn(&Path) -> bool) -> Result<Self> {
        let mut tree = Self::default();
        let mut first = BTreeMap::new();
        let mut todo = vec![PathBuf::new()];
        while let Some(path) = todo.pop() {
            let full = folder.join(&path);
            let meta = full.symlink_metadata().with_context(|| format!("look at {}", full.display()))?;
            if meta.is_dir() {
                for entry in fs::read_dir(&full)? {
                    let child = path.join(entry?.file_name());
                    if !leave_out(&child) {
                        todo.push(child);
                    }
                }
            }
            let same_as: &PathBuf = first.entry((meta.dev(), meta.ino())).or_insert_with(|| path.clone());
            let entry = Entry::of(&full, &meta, same_as.clone())?;
            tree.entries.insert(path, entry);
        }
        tree.name_by_the_lowest();
        Ok(tree)
    }

    /// Of a file of many names the lowest is the one that counts, whatever order they were met in.
    fn name_by_the_lowest(&mut self) {
        let mut lowest: BTreeMap<PathBuf, PathBuf> = BTreeMap::new();
        for (path, entry) in &self.entries {
            lowest.entry(entry.same_as.clone()).or_insert_with(|| path.clone());
        }
        for entry in self.entries.values_mut() {
            if let Some(name) = lowest.get(&entry.same_as) {
                entry.same_as = name.clone();
            }
        }
    }

    /// Number of names.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Nothing at all.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// An error that names the first differences, unless `got` is the same in everything.
    pub fn ensure_same(&self, got: &Self, what: &str) -> Result<()> {
        let mut differ = Vec::new();
        for path in self.entries.keys().chain(got.entries.keys()) {
            let (wanted, found) = (self.entries.get(path), got.entries.get(path));
            if wanted != found {
                differ.push(format!("{}: {}", path.display(), how(wanted, found)));
            }
        }
        differ.dedup();
        if differ.is_empty() {
            return Ok(());
        }
        let first = differ.iter().take(8).cloned().collect::<Vec<_>>().join("\n  ");
        bail!("{what}: {} names differ:\n  {first}", differ.len())
    }
}

fn how(wanted: Option<&Entry>, found: Option<&Entry>) -> String {
    let (Some(w), Some(f)) = (wanted, found) else {
        return if found.is_none() { "missing".into() } else { "should not be there".into() };
    };
    if w.content != f.content {
        let at = w.content.iter().zip(&f.content).position(|(a, b)| a != b);
        return format!(
            "content: {} and {} bytes, first difference at {at:?}",
            w.content.len(),
            f.content.len()
        );
    }
    let bare = |e: &Entry| Entry { content: Vec::new(), ..e.clone() };
    format!("wanted {:?}\n    found  {:?}", bare(w), bare(f))
}

impl Entry {
    fn of(path: &Path, meta: &Metadata, same_as: PathBuf) -> Result<Self> {
        let kind = match meta.file_type() {
            t if t.is_dir() => 'd',
            t if t.is_symlink() => 'l',
            t if t.is_char_device() => 'c',
            t if t.is_block_device() => 'b',
            t if t.is_fifo() => 'p',
            t if t.is_socket() => 's',
            _ => '-',
        };
        let (mut content, mut data) = (Vec::new(), Vec::new());
        if kind == '-' {
            let mut file = File::open(path)?;
            file.read_to_end(&mut content)?;
            // XFS takes clean pages for data where room is reserved, also to copy shared extents to (xfs_seek_iomap_begin)
            rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed)?;
            data = data_of(&file, meta.len())?;
        }
        Ok(Self {
            kind,
            mode: meta.mode() & 0o7777,
            owner: (meta.uid(), meta.gid()),
            device: if matches!(kind, 'c' | 'b') { meta.rdev() } else { 0 },
            size: if kind == 'd' { 0 } else { meta.len() },
            modified: (meta.mtime(), meta.mtime_nsec()),
            same_as,
            target: if kind == 'l' { fs::read_link(path)? } else { PathBuf::new() },
            attributes: attributes(path)?,
            content,
            data,
        })
    }
}

/// Where a file is no hole, as `lseek` says.
fn data_of(file: &File, size: u64) -> Result<Vec<(u64, u64)>> {
    use rustix::fs::{SeekFrom, seek};
    let (mut found, mut at) = (Vec::new(), 0);
    while at < size {
        let Ok(start) = seek(file, SeekFrom::Data(at)) else { break };
        let end = seek(file, SeekFrom::Hole(start))?.min(size);
        found.push((start, end));
        at = end;
    }
    Ok(found)
}

/// All extended attributes, sorted.
fn attributes(path: &Path) -> Result<Vec<(Vec<u8>, Vec<u8>)>> {
    let mut names = vec![0; 64 << 10];
    let n = match rustix::fs::llistxattr(path, &mut names[..]) {
        Err(rustix::io::Errno::OPNOTSUPP) => 0,
        n => n.with_context(|| format!("attributes of {}", path.display()))?,
    };
    let mut all = Vec::new();
    for name in names[..n].split(|b| *b == 0).filter(|name| !name.is_empty()) {
        let mut value = vec![0; 64 << 10];
        let name = std::ffi::OsStr::from_bytes(name);
        let n = rustix::fs::lgetxattr(path, name, &mut value[..])?;
        all.push((name.as_bytes().to_vec(), value[..n].to_vec()));
    }
    all.sort();
    Ok(all)
}

/// Some file below `folder` holds these bytes.
pub fn somewhere_in(folder: &Path, marker: &[u8]) -> Result<Option<PathBuf>> {
    let mut todo = vec![folder.to_owned()];
    while let Some(path) = todo.pop() {
        if path.is_dir() {
            for entry in fs::read_dir(&path)? {
                todo.push(entry?.path());
            }
        } else if path.is_file() && fs::read(&path)?.windows(marker.len()).any(|window| window == marker) {
            return Ok(Some(path));
        }
    }
    Ok(None)
}
