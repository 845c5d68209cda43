//! Whatever can happen to the files of a group and around them, one random stroke at a time.

use crate::device::{open_with, put};
use crate::grouped::{Grouped, access_list, attribute};
use crate::host::run;
use crate::raw;
use anyhow::{Context, Result};
use rustix::fs::{AtFlags, CWD, FallocateFlags, Gid, RenameFlags, Timespec, Timestamps, Uid};
use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::{FileExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};

/// Everything below the file system's top, by what it is.
struct There {
    folders: Vec<PathBuf>,
    files: Vec<PathBuf>,
    all: Vec<PathBuf>,
}

impl There {
    fn of(group: &Grouped<'_>) -> Result<Self> {
        let tops = [group.at(""), group.outside("")];
        let mut there = Self { folders: tops.to_vec(), files: Vec::new(), all: Vec::new() };
        let mut todo = tops.to_vec();
        while let Some(folder) = todo.pop() {
            let mut names: Vec<PathBuf> =
                fs::read_dir(&folder)?.map(|entry| Ok(entry?.path())).collect::<Result<_>>()?;
            // the same choice for the same seed
            names.sort_unstable();
            for path in names {
                let kind = path.symlink_metadata()?.file_type();
                if kind.is_dir() {
                    todo.push(path.clone());
                    there.folders.push(path.clone());
                } else if kind.is_file() {
                    there.files.push(path.clone());
                }
                there.all.push(path);
            }
        }
        Ok(there)
    }
}

type Deed = fn(&mut Grouped<'_>, &There) -> Result<()>;

/// Names for the seed's story, and what is done. What a file system cannot do is an error that is not looked at.
const DEEDS: &[(&str, Deed)] = &[
    ("make a file", |group, there| {
        let bytes = group.random.below(40_000) as usize;
        put(&fresh(group, there), &group.random.bytes(bytes))
    }),
    ("make a folder", |group, there| Ok(fs::create_dir(fresh(group, there))?)),
    ("make a link, a pipe", |group, there| {
        symlink("somewhere/else", fresh(group, there))?;
        run("mkfifo", [fresh(group, there)]).map(drop)
    }),
    ("overwrite", |group, there| write(group, there, 0)),
    ("append", |group, there| write(group, there, 1)),
    ("write far behind the end", |group, there| write(group, there, 300_000)),
    ("write through a mapping", |group, there| {
        let bytes = group.random.bytes(3000);
        let path = file(group, there);
        let opened = OpenOptions::new().read(true).write(true).open(path)?;
        let pages = opened.metadata()?.len() / 4096;
        if pages > 0 {
            raw::write_mapped(&opened, group.random.below(pages) * 4096, &bytes)?;
        }
        Ok(())
    }),
    ("truncate", |group, there| {
        let path = file(group, there);
        let size = path.metadata()?.len();
        Ok(open_with(&path, 0)?.set_len(group.random.below(size + 1))?)
    }),
    ("make longer", |group, there| {
        let path = file(group, there);
        let size = path.metadata()?.len();
        Ok(open_with(&path, 0)?.set_len(size + group.random.below(200_000))?)
    }),
    ("in pieces", |group, there| {
        let opened = File::create(file(group, there))?;
        for n in (0..group.random.between(4, 40)).rev() {
            opened.write_all_at(&group.random.bytes(4096), n * 8192)?;
            opened.sync_data()?;
        }
        Ok(())
    }),
    ("punch a hole", |group, there| {
        allocate(group, there, FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE)
    }),
    ("reserve", |group, there| allocate(group, there, FallocateFlags::empty())),
    ("reserve behind the end", |group, there| allocate(group, there, FallocateFlags::KEEP_SIZE)),
    ("zero a range", |group, there| allocate(group, there, FallocateFlags::ZERO_RANGE)),
    ("take a range out", |group, there| allocate(group, there, FallocateFlags::COLLAPSE_RANGE)),
    ("put a range in", |group, there| allocate(group, there, FallocateFlags::INSERT_RANGE)),
    ("share extents", |group, there| {
        let (from, to) = (file(group, there), fresh(group, there));
        run("cp", ["--reflink=always".as_ref(), from.as_os_str(), to.as_os_str()]).map(drop)
    }),
    ("defragment", |group, there| {
        let path = file(group, there);
        run("e4defrag", [&path]).or_else(|_| run("xfs_fsr", [&path])).map(drop)
    }),
    ("change the mode", |group, there| {
        let (path, mode) = (entry(group, there), group.random.below(0o1000) as u32 | 0o400);
        Ok(fs::set_permissions(path, fs::Permissions::from_mode(mode))?)
    }),
    ("change the owner", |group, there| {
        let (uid, gid) = (group.random.below(5000) as u32, group.random.below(5000) as u32);
        let (uid, gid) = (Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)));
        Ok(rustix::fs::chownat(CWD, entry(group, there), uid, gid, AtFlags::SYMLINK_NOFOLLOW)?)
    }),
    ("change the times", |group, there| {
        let time = || Timespec { tv_sec: 1_500_000_000, tv_nsec: 5 };
        let times = Timestamps { last_access: time(), last_modification: time() };
        Ok(rustix::fs::utimensat(CWD, entry(group, there), &times, AtFlags::SYMLINK_NOFOLLOW)?)
    }),
    ("set attributes", |group, there| {
        let (path, bytes) = (entry(group, there), group.random.below(3000) as usize);
        attribute(&path, "user.small", b"x")?;
        attribute(&path, "user.large", &group.random.bytes(bytes))
    }),
    ("take an attribute away", |group, there| {
        Ok(rustix::fs::removexattr(entry(group, there), "user.large")?)
    }),
    ("set an access list", |group, there| {
        attribute(&entry(group, there), "system.posix_acl_access", &access_list())
    }),
    ("link", |group, there| Ok(fs::hard_link(file(group, there), fresh(group, there))?)),
    ("link what had no name", |group, there| {
        let folder = folder(group, there);
        let flags = rustix::fs::OFlags::TMPFILE | rustix::fs::OFlags::RDWR;
        let unnamed: File = rustix::fs::openat(CWD, &folder, flags, 0o640.into())?.into();
        unnamed.write_all_at(&group.random.bytes(9000), 0)?;
        let old = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&unnamed));
        Ok(rustix::fs::linkat(CWD, old, CWD, fresh(group, there), AtFlags::SYMLINK_FOLLOW)?)
    }),
    ("move", |group, there| rename(&entry(group, there), &fresh(group, there), RenameFlags::empty())),
    ("move in the place of another", |group, there| {
        rename(&file(group, there), &file(group, there), RenameFlags::empty())
    }),
    ("exchange", |group, there| rename(&entry(group, there), &entry(group, there), RenameFlags::EXCHANGE)),
    ("move to a name that is left out", |group, there| {
        let (path, name) = (entry(group, there), format!("x{}.tmp", group.random.below(50)));
        rename(&path, &folder(group, there).join(name), RenameFlags::NOREPLACE)
    }),
    ("remove", |group, there| Ok(fs::remove_file(entry(group, there))?)),
    ("remove and make again", |group, there| {
        let path = file(group, there);
        fs::remove_file(&path)?;
        // most likely the same inode
        put(&path, &group.random.bytes(5000))
    }),
    ("remove a folder", |group, there| {
        let at = group.random.below(there.folders.len() as u64) as usize;
        // never the tops
        if at > 1 { Ok(fs::remove_dir_all(&there.folders[at])?) } else { Ok(()) }
    }),
    ("many files", |group, there| {
        let folder = folder(group, there).join(format!("many{}", group.random.below(1000)));
        fs::create_dir(&folder)?;
        (0..group.random.between(50, 300)).try_for_each(|n| put(&folder.join(format!("{n}")), b"few bytes"))
    }),
];

/// Does something to a file system of files; what it was, and whether it was done.
pub fn stroke(group: &mut Grouped<'_>) -> Result<(&'static str, bool)> {
    let there = There::of(group)?;
    let (what, deed) = DEEDS[group.random.below(DEEDS.len() as u64) as usize];
    // some deeds are none for what was chosen: a folder into itself, a hole in what is too short
    let done = deed(group, &there).is_ok();
    Ok((what, done))
}

fn one(group: &mut Grouped<'_>, of: &[PathBuf]) -> PathBuf {
    let at = group.random.below(of.len() as u64) as usize;
    of.get(at).cloned().unwrap_or_else(|| group.at("nothing there"))
}

fn file(group: &mut Grouped<'_>, there: &There) -> PathBuf {
    one(group, &there.files)
}

fn folder(group: &mut Grouped<'_>, there: &There) -> PathBuf {
    one(group, &there.folders)
}

fn entry(group: &mut Grouped<'_>, there: &There) -> PathBuf {
    one(group, &there.all)
}

/// A name that is not taken.
fn fresh(group: &mut Grouped<'_>, there: &There) -> PathBuf {
    let folder = folder(group, there);
    folder.join(format!("n{:x}", group.random.any()))
}

fn write(group: &mut Grouped<'_>, there: &There, behind: u64) -> Result<()> {
    let path = file(group, there);
    let (opened, size) = (open_with(&path, 0)?, path.metadata()?.len());
    let at = if behind == 0 { group.random.below(size + 1) } else { size + behind - 1 };
    let bytes = group.random.below(30_000) as usize;
    opened.write_all_at(&group.random.bytes(bytes), at).context("write")
}

fn allocate(group: &mut Grouped<'_>, there: &There, how: FallocateFlags) -> Result<()> {
    let opened = open_with(&file(group, there), 0)?;
    let blocks = opened.metadata()?.len() / 4096;
    let (at, length) = (group.random.below(blocks + 1), group.random.between(1, 12));
    Ok(rustix::fs::fallocate(opened, how, at * 4096, length * 4096)?)
}

fn rename(from: &Path, to: &Path, how: RenameFlags) -> Result<()> {
    Ok(rustix::fs::renameat_with(CWD, from, CWD, to, how)?)
}
