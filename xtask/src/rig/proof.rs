//! Is a restored image what the device held at its cut?
//!
//! The reference is a copy of the disk's backing file, made by the file system below (reflink) while blkdelta held
//! the disk's file system frozen: blkdelta has no part in its content. Every byte of both is compared. Only one
//! difference is allowed: the image has zeros where the disk had what was left of something deleted before the full
//! backup. Whether nobody owns that area the kernel's own file system says: a second copy of the reference is
//! mounted and trimmed, which makes holes of the unused areas (what was not zero there and is a hole now).

use crate::command::quiet;
use crate::rig::device::{Loop, Mount};
use crate::rig::process::go_on;
use anyhow::{Context, Result, bail};
use rustix::fs::{SeekFrom, seek};
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::Command;

/// What is compared at a time.
const STEP: usize = 1 << 20;
/// What a difference is told in.
const BLOCK: usize = 4096;

/// What a comparison found.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Verdict {
    /// Bytes of used areas that differ: must be none.
    pub wrong: u64,
    /// The first of them.
    pub first: Option<u64>,
    /// Bytes that differ where no file is.
    pub unused: u64,
}

/// Compares the restored image with the reference.
pub fn compare(restored: &Path, reference: &Path, fstype: &str, work: &Path) -> Result<Verdict> {
    let differ = differences(restored, reference)?;
    let mut verdict = Verdict::default();
    if differ.is_empty() {
        return Ok(verdict);
    }
    let trimmed = trim(reference, fstype, work)?;
    for Difference { at, zero } in differ {
        if zero && in_hole(&trimmed, at)? {
            verdict.unused += BLOCK as u64;
        } else {
            verdict.wrong += BLOCK as u64;
            verdict.first.get_or_insert(at);
        }
    }
    drop(trimmed);
    fs::remove_file(work.join("trimmed.img")).context("remove the trimmed copy")?;
    Ok(verdict)
}

/// A block that differs.
#[derive(Debug, PartialEq, Eq)]
struct Difference {
    at: u64,
    /// It is zero in the first file.
    zero: bool,
}

/// All blocks that differ.
fn differences(a: &Path, b: &Path) -> Result<Vec<Difference>> {
    let open = |path: &Path| File::open(path).with_context(|| format!("open {}", path.display()));
    let (left, right) = (open(a)?, open(b)?);
    let sizes = (left.metadata()?.len(), right.metadata()?.len());
    if sizes.0 != sizes.1 {
        bail!("{} has {} bytes, {} has {}", a.display(), sizes.0, b.display(), sizes.1);
    }
    let (mut one, mut two) = (vec![0; STEP], vec![0; STEP]);
    let mut differ = Vec::new();
    for at in (0..sizes.0).step_by(STEP) {
        go_on()?;
        let length = (sizes.0 - at).min(STEP as u64) as usize;
        let (one, two) = (&mut one[..length], &mut two[..length]);
        left.read_exact_at(one, at).with_context(|| format!("read {}", a.display()))?;
        right.read_exact_at(two, at).with_context(|| format!("read {}", b.display()))?;
        if one != two {
            let blocks = one.chunks(BLOCK).zip(two.chunks(BLOCK)).enumerate();
            let differing = blocks.filter(|(_, (x, y))| x != y);
            differ.extend(differing.map(|(n, (x, _))| Difference {
                at: at + (n * BLOCK) as u64,
                zero: x.iter().all(|&byte| byte == 0),
            }));
        }
    }
    Ok(differ)
}

/// A copy of `reference` whose unused areas are holes.
fn trim(reference: &Path, fstype: &str, work: &Path) -> Result<File> {
    let (copy, point) = (work.join("trimmed.img"), work.join("trimmed"));
    reflink(reference, &copy)?;
    fs::create_dir_all(&point).context("make a mount point")?;
    let device = Loop::on_copy(&copy)?;
    let mount = Mount::new(device.path(), &point, mount_options(fstype))?;
    quiet(Command::new("fstrim").arg(mount.point()))?;
    mount.unmount()?;
    device.detach()?;
    File::open(&copy).context("open the trimmed copy")
}

/// The whole block at `at` is a hole.
fn in_hole(file: &File, at: u64) -> Result<bool> {
    match seek(file, SeekFrom::Data(at)) {
        Ok(data) => Ok(data >= at + BLOCK as u64),
        Err(rustix::io::Errno::NXIO) => Ok(true),
        Err(error) => Err(error).context("look for data in the trimmed copy"),
    }
}

/// A copy that shares its blocks with the original.
pub fn reflink(from: &Path, to: &Path) -> Result<()> {
    quiet(Command::new("cp").arg("--reflink=always").arg(from).arg(to)).map(drop)
}

/// How a copy of a file system is mounted.
fn mount_options(fstype: &str) -> &'static str {
    if fstype == "xfs" { "nouuid" } else { "defaults" }
}

/// The file system's own check of a restored image.
pub fn fsck(image: &Path, fstype: &str, work: &Path) -> Result<()> {
    let (program, words): (&str, &[&str]) = match fstype {
        "ext4" => ("e2fsck", &["-fn"]),
        "xfs" => ("xfs_repair", &["-n", "-f"]),
        _ => ("btrfs", &["check", "--readonly", "--force"]),
    };
    if fstype == "xfs" {
        // a frozen XFS has files in its log that were deleted while open; xfs_repair wants it replayed
        let point = work.join("replayed");
        fs::create_dir_all(&point).context("make a mount point")?;
        let device = Loop::on_copy(image)?;
        Mount::new(device.path(), &point, mount_options(fstype))?.unmount()?;
        device.detach()?;
    }
    quiet(Command::new(program).args(words).arg(image)).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn differences_are_found_block_by_block() {
        let folder = std::env::temp_dir().join(format!("blkdelta-proof-{}", std::process::id()));
        crate::workspace::fresh_dir(&folder).unwrap();
        let (a, b) = (folder.join("a"), folder.join("b"));
        let mut bytes = vec![1; STEP + 3 * BLOCK + 10];
        bytes[STEP + 3 * BLOCK..].fill(0);
        crate::workspace::write_file(&a, &bytes).unwrap();
        crate::workspace::write_file(&b, &bytes).unwrap();
        assert_eq!(differences(&a, &b).unwrap(), []);
        bytes[BLOCK] = 2;
        bytes[STEP + 3 * BLOCK + 9] = 2;
        crate::workspace::write_file(&b, &bytes).unwrap();
        let (first, last) = (BLOCK as u64, (STEP + 3 * BLOCK) as u64);
        let wanted = [Difference { at: first, zero: false }, Difference { at: last, zero: true }];
        assert_eq!(differences(&a, &b).unwrap(), wanted);
        crate::workspace::write_file(&b, &bytes[1..]).unwrap();
        assert!(differences(&a, &b).is_err());
        fs::remove_dir_all(folder).unwrap();
    }

    #[test]
    fn a_hole_is_not_data() {
        let path = std::env::temp_dir().join(format!("blkdelta-hole-{}", std::process::id()));
        let file = File::create(&path).unwrap();
        file.set_len(1 << 20).unwrap();
        file.write_all_at(&[1; BLOCK], 512 << 10).unwrap();
        file.sync_all().unwrap();
        let file = File::open(&path).unwrap();
        assert!(in_hole(&file, 0).unwrap() && in_hole(&file, 1 << 19 | 1 << 18).unwrap());
        assert!(!in_hole(&file, 512 << 10).unwrap());
        fs::remove_file(path).unwrap();
    }
}
