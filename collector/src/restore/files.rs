//! Which files lost ranges belong to, where the target is an ext4 file system and `debugfs` is there to ask.
//!
//! A best effort beside a best effort: what cannot be asked, or what the file system itself no longer knows, is left
//! out; the ranges are what counts.

use crate::block::{Extent, ExtentSet};
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::{Command, Stdio};

/// Blocks and inodes asked for at most: each question walks all inodes once.
const MOST: usize = 4096;

/// Paths of files with content in `lost`; empty if nobody can tell.
pub(super) fn lost_files(target: &Path, lost: &ExtentSet) -> Vec<String> {
    let Some(block) = block_of_ext4(target).filter(|_| !lost.is_empty()) else { return Vec::new() };
    let blocks = lost.iter().flat_map(|e: &Extent| e.offset / block..e.end().div_ceil(block));
    let mut inodes: Vec<u64> =
        ask(target, "icheck", blocks.take(MOST)).iter().filter_map(|(_, inode)| inode.parse().ok()).collect();
    inodes.sort_unstable();
    inodes.dedup();
    let names = ask(target, "ncheck", inodes.into_iter().take(MOST));
    // what lies in the root is named with two slashes
    let path = |name: String| name.strip_prefix('/').map(|rest| format!("/{}", rest.trim_start_matches('/')));
    let mut files: Vec<String> = names.into_iter().filter_map(|(_, name)| path(name)).collect();
    files.sort_unstable();
    files
}

/// Bytes per block, if the target begins with an ext4 super block.
fn block_of_ext4(target: &Path) -> Option<u64> {
    let mut block = [0; 64];
    File::open(target).and_then(|file| file.read_exact_at(&mut block, 1024)).ok()?;
    let shift = u32::from_le_bytes(block[24..28].try_into().ok()?);
    (block[56..58] == [0x53, 0xef] && shift <= 6).then(|| 1024 << shift)
}

/// What debugfs (which opens read-only) says of each number.
fn ask(target: &Path, verb: &str, numbers: impl Iterator<Item = u64>) -> Vec<(u64, String)> {
    let request = numbers.fold(verb.to_owned(), |text, n| text + " " + &n.to_string());
    if request == verb {
        return Vec::new();
    }
    let mut command = Command::new("debugfs");
    // -c: without the bitmaps, which may be lost as well
    command.args(["-c", "-R", &request]).arg(target).stdin(Stdio::null()).stderr(Stdio::null());
    let said = command.output().map(|output| output.stdout).unwrap_or_default();
    let said = String::from_utf8_lossy(&said);
    let pair =
        |line: &str| line.split_once('\t').and_then(|(n, what)| Some((n.parse().ok()?, what.to_owned())));
    said.lines().filter_map(pair).collect()
}
