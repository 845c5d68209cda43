//! Archives that the kernel unpacks into its first file system: cpio in its "newc" form.
//!
//! Format: Documentation/driver-api/early-userspace/buffer-format.rst (6.12). Every entry is a header of
//! 13 numbers of 8 hexadecimal digits after the magic, the name, the data; name and data end on 4 bytes.

use anyhow::{Context, Result};
use std::fs;
use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

const FOLDER: u32 = 0o040_000;
const FILE: u32 = 0o100_000;
const LINK: u32 = 0o120_000;

/// An archive being written.
pub struct Archive<W> {
    to: W,
    next: u32,
}

impl<W: Write> Archive<W> {
    /// An empty one.
    pub fn new(to: W) -> Self {
        Self { to, next: 1 }
    }

    /// A folder; the folder above it must be in the archive already.
    pub fn folder(&mut self, name: &str) -> Result<()> {
        self.entry(name, FOLDER | 0o755, b"")
    }

    /// A file with these bytes.
    pub fn file(&mut self, name: &str, mode: u32, bytes: &[u8]) -> Result<()> {
        self.entry(name, FILE | mode & 0o7777, bytes)
    }

    /// A symbolic link.
    pub fn link(&mut self, name: &str, target: &[u8]) -> Result<()> {
        self.entry(name, LINK | 0o777, target)
    }

    /// All that is in a folder, with the same names.
    pub fn tree(&mut self, folder: &Path) -> Result<()> {
        self.below(folder, "")
    }

    fn below(&mut self, folder: &Path, prefix: &str) -> Result<()> {
        let entries = fs::read_dir(folder).with_context(|| format!("list {}", folder.display()))?;
        let mut paths: Vec<_> = entries.flatten().map(|entry| entry.path()).collect();
        paths.sort();
        for path in paths {
            let last = path.file_name().unwrap_or_default().to_string_lossy();
            let name = format!("{prefix}{last}");
            let about = path.symlink_metadata().with_context(|| format!("look at {}", path.display()))?;
            if about.is_dir() {
                self.folder(&name)?;
                self.below(&path, &format!("{name}/"))?;
            } else if about.is_symlink() {
                self.link(&name, fs::read_link(&path).context("read a link")?.as_os_str().as_bytes())?;
            } else {
                let bytes = fs::read(&path).with_context(|| format!("read {}", path.display()))?;
                self.file(&name, about.permissions().mode(), &bytes)?;
            }
        }
        Ok(())
    }

    /// Writes the end mark.
    pub fn finish(mut self) -> Result<W> {
        self.entry("TRAILER!!!", 0, b"")?;
        self.to.flush().context("write the archive")?;
        Ok(self.to)
    }

    fn entry(&mut self, name: &str, mode: u32, bytes: &[u8]) -> Result<()> {
        let length = u32::try_from(bytes.len()).with_context(|| format!("{name} is too large"))?;
        // inode, mode, uid, gid, links, mtime, size, device twice, number of the node twice, name, checksum
        let fields = [self.next, mode, 0, 0, 1, 0, length, 0, 0, 0, 0, name.len() as u32 + 1, 0];
        self.next += 1;
        let mut head = String::from("070701");
        head.extend(fields.map(|field| format!("{field:08x}")));
        head += name;
        head.push('\0');
        let pad = |length: usize| &[0; 3][..length.next_multiple_of(4) - length];
        let parts = [head.as_bytes(), pad(head.len()), bytes, pad(bytes.len())];
        parts.into_iter().try_for_each(|part| self.to.write_all(part)).context("write the archive")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_are_as_the_kernel_wants_them() {
        let mut archive = Archive::new(Vec::new());
        archive.folder("d").unwrap();
        archive.file("d/f", 0o644, b"hello").unwrap();
        let bytes = archive.finish().unwrap();
        assert_eq!(bytes.len() % 4, 0);
        let text = String::from_utf8_lossy(&bytes);
        // 110 bytes of header and "d" with its zero: 112
        assert_eq!(&text[112..118], "070701");
        assert_eq!(&text[112 + 6 + 48..112 + 6 + 56], "00000005", "size");
        assert!(text.contains("d/f\0\0\0hello\0\0\x00070701"), "{text:?}");
        assert!(text.trim_end_matches('\0').ends_with("TRAILER!!!"));
    }
}
