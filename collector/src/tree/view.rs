//! What has to be as it was at the last point so that changed blocks alone tell which files changed: what the group is of,
//! what is mounted there, and that each of the file systems has been mounted all the time.
//!
//! What must stay true: whatever shows other files, or changes a folder without its inode, makes another number or no
//! view: other words, another mount or another one of its options, another boot, a file system that was unmounted
//! meanwhile and may have been repaired.

use super::Picker;
use super::inodes::Inodes;
use super::volumes::{Volumes, Way};
use crate::block::Extent;
use crate::format::FrameHash;
use crate::sys::bpf::boot_id;
use crate::sys::device::{BlockDevice, kernel_dev};
use crate::sys::mounts::{self, Mount};
use std::fmt::Write as _;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// A file system of the group.
#[derive(Debug)]
pub(crate) struct Layout {
    /// Its number, as `stat` shows it.
    pub dev: u64,
    /// Its number in the catalogue.
    pub volume: u32,
    /// Where its inodes lie.
    pub inodes: Inodes,
    /// Image address of byte 0 of its device.
    pub base: u64,
    /// Bytes of that.
    pub size: u64,
}

impl Layout {
    /// Its device in the image.
    pub(crate) const fn device(&self) -> Extent {
        Extent::new(self.base, self.size)
    }
}

/// A group's file systems, all of them fully known.
#[derive(Debug)]
pub(crate) struct View {
    /// The same from one point to the next if nothing but files changed.
    pub rules: u128,
    /// The file systems.
    pub layouts: Vec<Layout>,
}

impl View {
    /// What `picker` sees now; or why that is not fully known, for a person.
    pub fn of(picker: &Picker, volumes: &mut Volumes) -> Result<Self, String> {
        if !picker.is_plain() {
            return Err(
                "a glob, or an exclude with `/`: what belongs to the group is seen only by whole paths"
                    .into(),
            );
        }
        let (mut all, mut inside) = (Vec::new(), Vec::new());
        for base in picker.bases() {
            let kind = std::fs::symlink_metadata(base).map(|found| found.file_type());
            if !kind.is_ok_and(|kind| kind.is_dir() || kind.is_file()) {
                return Err(format!("{} is no folder and no file", base.display()));
            }
            inside.push((mounts::of_path(base).map_err(in_full)?, base.clone()));
            for mount in mounts::all().map_err(in_full)? {
                if below(&mount.mountpoint, base, picker) {
                    inside.push((mount.clone(), mount.mountpoint.clone()));
                }
                let concerns = mount.mountpoint.starts_with(base) || base.starts_with(&mount.mountpoint);
                all.extend(concerns.then_some(mount.line));
            }
        }
        inside.sort_by_key(|(mount, _)| mount.id);
        inside.dedup_by_key(|(mount, _)| mount.id);
        let boot = boot_id().map_err(in_full)?;
        let mut text = format!("{:?}\n{boot}\n{}\n", picker.words(), all.join("\n"));
        let mut layouts: Vec<Layout> = Vec::new();
        for (mount, path) in &inside {
            let (layout, since) = layout(mount, path, volumes)
                .map_err(|why| format!("{} on {}: {why}", mount.fstype, mount.mountpoint.display()))?;
            if layouts.iter().any(|other| other.dev == layout.dev) {
                return Err(format!("what is mounted at {} is mounted in the group twice", path.display()));
            }
            let _ = writeln!(text, "{since}");
            layouts.push(layout);
        }
        Ok(Self { rules: FrameHash::of(text.as_bytes()).0, layouts })
    }
}

fn in_full(error: crate::error::Error) -> String {
    error.in_full()
}

/// It is mounted below a base and not left out.
fn below(mountpoint: &Path, base: &Path, picker: &Picker) -> bool {
    let mut between = mountpoint.ancestors().take_while(|at| *at != base && at.starts_with(base));
    mountpoint != base && mountpoint.starts_with(base) && !between.any(|at| picker.excludes(at))
}

/// The layout of what is mounted at `path` or above it, and words that stay the same while it is mounted.
fn layout(mount: &Mount, path: &Path, volumes: &mut Volumes) -> Result<(Layout, String), String> {
    if !matches!(mount.fstype.as_str(), "ext4" | "xfs") {
        return Err("where its inodes lie is not known".into());
    }
    if mount.mountpoint == path && mount.root != Path::new("/") || mount.is_idmapped() {
        return Err("only a part of it is mounted, or with other owners".into());
    }
    let dev = std::fs::symlink_metadata(path).map_err(|e| e.to_string())?.dev();
    if kernel_dev(rustix::fs::major(dev), rustix::fs::minor(dev)) != mount.dev {
        return Err("another mount lies over it".into());
    }
    let met = volumes.meet(dev, path).map_err(in_full)?;
    let Way::Device { base, size } = met.way else { return Err("it is not on a tracked device".into()) };
    let (inodes, mounted) = Inodes::of(&met.kind, mount.dev).map_err(in_full)??;
    // the kernel makes this folder when it mounts the file system and never gives the number again (kernfs, since 5.5)
    let name = BlockDevice::of_number(mount.dev).map_err(in_full)?.name;
    let own = format!("/sys/fs/{}/{name}", mount.fstype);
    let since = std::fs::metadata(&own).map_err(|e| format!("{own}: {e}"))?.ino();
    Ok((Layout { dev, volume: met.number, inodes, base, size }, format!("{since} {mounted:?}")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tree::Pick;

    #[test]
    fn what_is_excluded_may_be_mounted_or_not() {
        let pick = Pick { paths: vec!["/srv".into()], excludes: vec!["cache".into()], ..Pick::default() };
        let picker = Picker::new(&pick).unwrap();
        let is_below = |at: &str| below(Path::new(at), Path::new("/srv"), &picker);
        assert!(is_below("/srv/a") && is_below("/srv/a/b"));
        for no in ["/srv", "/", "/srv2", "/srv/cache", "/srv/cache/deep", "/srv/a/cache"] {
            assert!(!is_below(no), "{no}");
        }
    }
}
