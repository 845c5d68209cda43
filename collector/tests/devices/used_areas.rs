//! Promise: an image with nothing but the used areas (the rest is garbage) is a sound file system with every
//! file's content, and the used areas are clearly less than the device.

use crate::rig::{Image, Loop, Mount, Noise, contents, fill, ready, run, thin_out};
use collector::block::{Extent, ExtentSet};
use collector::source::{LiveDevice, Source};
use collector::sys::direct::AlignedBuf;
use collector::sys::freeze::Freeze;
use collector::usage::{Usage, filesystems, not_held, used_areas};
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

const MIB: u64 = 1 << 20;
/// What unused blocks of the source hold, and what the copy holds where nothing is copied.
const OLD: u8 = 0x5a;
const GARBAGE: u8 = 0xa5;

/// Makes and empties files; the last deletion is not synced, one deleted file is still open.
fn live_a_life(dir: &Path, total: u64) -> File {
    let mut noise = Noise(0x9e37_79b9_7f4a_7c15);
    fill(&dir.join("a"), &mut noise, total / 2);
    rustix::fs::syncfs(File::open(dir).unwrap()).unwrap();
    thin_out(&dir.join("a"), &mut noise, 2);
    fill(&dir.join("b"), &mut noise, total / 4);
    let open = File::options().create(true).truncate(true).read(true).write(true).open(dir.join("open"));
    let open = open.unwrap();
    open.write_all_at(&noise.bytes(300_000), 0).unwrap();
    std::fs::remove_file(dir.join("open")).unwrap();
    let sparse = File::create(dir.join("sparse")).unwrap();
    sparse.write_all_at(&noise.bytes(5000), 50 * MIB).unwrap();
    thin_out(&dir.join("b"), &mut noise, 5);
    crumbs(&dir.join("crumbs"), &mut noise);
    open
}

/// So many pieces of free space that the kernel cannot tell them in one answer.
fn crumbs(dir: &Path, noise: &mut Noise) {
    std::fs::create_dir(dir).unwrap();
    let name = |n: u32| dir.join(format!("{n}"));
    for n in 0..10_000 {
        File::create(name(n)).unwrap().write_all_at(&noise.bytes(3000), 0).unwrap();
    }
    rustix::fs::syncfs(File::open(dir).unwrap()).unwrap();
    for n in (0..10_000).filter(|n| n % 4 < 2) {
        std::fs::remove_file(name(n)).unwrap();
    }
}

/// Copies the used areas to `image`, which is garbage elsewhere.
fn copy_used(device: &Path, usage: &Usage, image: &Image) {
    let source = LiveDevice::open(device).unwrap();
    let target = File::options().write(true).open(&image.path).unwrap();
    let mut buf = AlignedBuf::new(MIB as usize);
    for extent in &usage.used {
        let mut at = extent.offset;
        while at < extent.end() {
            let n = (extent.end() - at).min(MIB);
            source.read_at(at, &mut buf, n as usize).unwrap();
            target.write_all_at(&buf, at).unwrap();
            at += n;
        }
    }
}

/// After a mount: that has dealt with the deleted file that was open.
fn check(device: &Path, fstype: &str) {
    let device = device.to_str().unwrap();
    match fstype {
        "xfs" => run(&["xfs_repair", "-n", device]),
        "btrfs" => run(&["btrfs", "check", "--readonly", "--check-data-csum", device]),
        _ => run(&["e2fsck", "-fn", device]),
    };
}

/// Device with a file system → life → frozen copy of the used areas → same files, clean check.
fn proves(fstype: &str, mkfs: &[&str], size: u64) {
    let source = Loop::new(Image::new(size, OLD), &[]);
    run(&[mkfs, &[source.name()]].concat());
    let mount = Mount::new(&source.path, "noatime");
    let open = live_a_life(&mount.dir, size / 3);
    let expected = contents(&mount.dir);
    let copy = Image::new(size, GARBAGE);
    let freeze = Freeze::hold(std::slice::from_ref(&mount.dir), Duration::from_secs(60)).unwrap();
    let usage = used_areas(&source.path).unwrap();
    copy_used(&source.path, &usage, &copy);
    freeze.thaw().unwrap();
    assert_eq!(usage.whole_reason, Vec::<String>::new());
    assert_eq!(usage.filesystems, filesystems(&source.path).unwrap());
    assert_eq!(usage.filesystems.len(), 1);
    assert_eq!(usage.filesystems[0].mountpoint, mount.dir);
    let percent = usage.used.total() * 100 / size;
    println!("{mkfs:?}: {percent} % used, {} extents, {} files", usage.used.len(), expected.len());
    assert!(usage.used.len() > 1000, "the test should need several answers of the kernel");
    assert!((10..60).contains(&percent), "{percent} % of {size} used");
    drop((open, mount, source));
    let copy = Loop::new(copy, &[]);
    let mount = Mount::new(&copy.path, "noatime");
    assert!(contents(&mount.dir) == expected, "file contents differ");
    drop(mount);
    check(&copy.path, fstype);
}

#[test]
fn ext4_with_1k_blocks() {
    if ready("ext4_with_1k_blocks", &["mkfs.ext4", "e2fsck"]) {
        proves("ext4", &["mkfs.ext4", "-q", "-b", "1024", "-E", "nodiscard"], 200 * MIB);
    }
}

#[test]
fn ext4_with_4k_blocks() {
    if ready("ext4_with_4k_blocks", &["mkfs.ext4", "e2fsck"]) {
        proves("ext4", &["mkfs.ext4", "-q", "-b", "4096", "-E", "nodiscard"], 300 * MIB);
    }
}

#[test]
fn ext3_without_extents_or_flex_groups() {
    if ready("ext3_without_extents_or_flex_groups", &["mkfs.ext4", "e2fsck"]) {
        proves("ext3", &["mkfs.ext4", "-q", "-t", "ext3", "-b", "1024", "-E", "nodiscard"], 200 * MIB);
    }
}

#[test]
fn xfs_with_reverse_map() {
    if ready("xfs_with_reverse_map", &["mkfs.xfs", "xfs_repair"]) {
        proves("xfs", &["mkfs.xfs", "-q", "-K", "-m", "rmapbt=1"], 400 * MIB);
    }
}

#[test]
fn xfs_without_reverse_map() {
    if ready("xfs_without_reverse_map", &["mkfs.xfs", "xfs_repair"]) {
        proves("xfs", &["mkfs.xfs", "-q", "-K", "-m", "rmapbt=0"], 400 * MIB);
    }
}

#[test]
fn btrfs_with_dup_metadata() {
    if ready("btrfs_with_dup_metadata", &["mkfs.btrfs", "btrfs"]) {
        proves("btrfs", &["mkfs.btrfs", "-q", "-K"], 400 * MIB);
    }
}

#[test]
fn btrfs_mixed_groups_old_cache() {
    if ready("btrfs_mixed_groups_old_cache", &["mkfs.btrfs", "btrfs"]) {
        let mkfs = ["mkfs.btrfs", "-q", "-K", "-M", "-R", "^free-space-tree", "-O", "^no-holes"];
        proves("btrfs", &mkfs, 300 * MIB);
    }
}

/// Two devices: mirrored metadata, data on either (`single`) or striped (counts as used).
fn btrfs_of_two(profile: &str) {
    let size = 300 * MIB;
    let sources = [(); 2].map(|()| Loop::new(Image::new(size, OLD), &[]));
    let [a, b] = sources.each_ref().map(|s| s.name());
    run(&["mkfs.btrfs", "-q", "-K", "-m", "raid1", "-d", profile, a, b]);
    let mount = Mount::new(&sources[0].path, "noatime");
    let _open = live_a_life(&mount.dir, size / 3);
    let expected = contents(&mount.dir);
    let copies = [(); 2].map(|()| Image::new(size, GARBAGE));
    let freeze = Freeze::hold(std::slice::from_ref(&mount.dir), Duration::from_secs(60)).unwrap();
    for (source, copy) in sources.iter().zip(&copies) {
        let usage = used_areas(&source.path).unwrap();
        assert_eq!(usage.whole_reason, Vec::<String>::new());
        println!("{profile}: {} of {size} used on {}", usage.used.total(), source.name());
        assert!(usage.used.total() < size * 6 / 10);
        copy_used(&source.path, &usage, copy);
    }
    freeze.thaw().unwrap();
    drop((_open, mount, sources));
    let copies = copies.map(|copy| Loop::new(copy, &[]));
    let mount = Mount::new(&copies[0].path, &format!("noatime,device={}", copies[1].name()));
    assert!(contents(&mount.dir) == expected, "file contents differ");
    drop(mount);
    check(&copies[1].path, "btrfs");
}

#[test]
fn btrfs_of_two_devices_single() {
    if ready("btrfs_of_two_devices_single", &["mkfs.btrfs", "btrfs"]) {
        btrfs_of_two("single");
    }
}

#[test]
fn btrfs_of_two_devices_striped() {
    if ready("btrfs_of_two_devices_striped", &["mkfs.btrfs", "btrfs"]) {
        btrfs_of_two("raid0");
    }
}

/// Writes a partition table of `script` lines.
fn partition(image: &Image, script: &str) {
    let mut child = Command::new("sfdisk").arg("-q").arg(&image.path).stdin(Stdio::piped()).spawn().unwrap();
    std::io::Write::write_all(&mut child.stdin.take().unwrap(), script.as_bytes()).unwrap();
    assert!(child.wait().unwrap().success());
}

#[test]
fn a_disk_with_a_mounted_and_an_unknown_partition() {
    if !ready("a_disk_with_a_mounted_and_an_unknown_partition", &["mkfs.ext4", "e2fsck", "sfdisk", "addpart"])
    {
        return;
    }
    let size = 300 * MIB;
    let image = Image::new(size, OLD);
    partition(&image, "label: gpt\nstart=5MiB, size=200MiB\nstart=210MiB, size=40MiB\n");
    let source = Loop::new(image, &["-P"]);
    let first = source.partition(1, Extent::new(5 * MIB, 200 * MIB));
    source.partition(2, Extent::new(210 * MIB, 40 * MIB));
    run(&["mkfs.ext4", "-q", "-b", "1024", "-E", "nodiscard", first.to_str().unwrap()]);
    let mount = Mount::new(&first, "noatime");
    let open = live_a_life(&mount.dir, 80 * MIB);
    let expected = contents(&mount.dir);
    let copy = Image::new(size, GARBAGE);
    let freeze = Freeze::hold(std::slice::from_ref(&mount.dir), Duration::from_secs(60)).unwrap();
    let (usage, alone) = (used_areas(&source.path).unwrap(), used_areas(&first).unwrap());
    copy_used(&source.path, &usage, &copy);
    freeze.thaw().unwrap();
    assert_eq!(not_held(&source.path).unwrap(), Vec::<String>::new());
    assert_eq!(usage.filesystems[0].extent, Extent::new(5 * MIB, 200 * MIB));
    assert_eq!(usage.whole_reason.len(), 1, "{:?}", usage.whole_reason);
    let inside = ExtentSet::from(vec![Extent::new(5 * MIB, 200 * MIB)]);
    let moved: ExtentSet = alone.used.iter().map(|e| Extent::new(e.offset + 5 * MIB, e.length)).collect();
    assert_eq!(usage.used.intersect(&inside), moved);
    assert!(usage.used.contains(Extent::new(0, 5 * MIB)), "the table");
    assert!(usage.used.contains(Extent::new(205 * MIB, 95 * MIB)), "the gap, the unknown, the tail");
    assert!(moved.total() < 120 * MIB);
    drop((open, mount, source));
    let copy = Loop::new(copy, &["-P"]);
    let first = copy.partition(1, Extent::new(5 * MIB, 200 * MIB));
    let mount = Mount::new(&first, "noatime");
    assert!(contents(&mount.dir) == expected, "file contents differ");
    drop(mount);
    check(&first, "ext4");
}

#[test]
fn not_mounted_is_used_but_for_holes() {
    if !ready("not_mounted_is_used_but_for_holes", &[]) {
        return;
    }
    let dense = Loop::new(Image::new(20 * MIB, OLD), &[]);
    let usage = used_areas(&dense.path).unwrap();
    assert_eq!(usage.used, ExtentSet::whole(20 * MIB));
    assert_eq!((usage.filesystems.len(), usage.whole_reason.len()), (0, 1));

    let sparse = Loop::new(Image::new(20 * MIB, 0), &[]);
    let device = File::options().write(true).open(&sparse.path).unwrap();
    // dirty in the device's page cache only
    device.write_all_at(&[1; 4096], 8 * MIB).unwrap();
    let used = used_areas(&sparse.path).unwrap().used;
    assert!(used.contains(Extent::new(8 * MIB, 4096)));
    assert!(used.total() < MIB, "{}", used.total());
}

#[test]
fn mounted_in_another_namespace_is_used_whole() {
    if !ready("mounted_in_another_namespace_is_used_whole", &["mkfs.ext4", "unshare"]) {
        return;
    }
    let size = 60 * MIB;
    let device = Loop::new(Image::new(size, OLD), &[]);
    run(&["mkfs.ext4", "-q", "-E", "nodiscard", device.name()]);
    let folder = tempfile::tempdir().unwrap();
    let dir: PathBuf = folder.path().into();
    let script = format!("mount {} {} && echo up && read x", device.name(), dir.display());
    let mut other = Command::new("unshare")
        .args(["--mount", "sh", "-c", &script])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut up = [0u8; 3];
    std::io::Read::read_exact(other.stdout.as_mut().unwrap(), &mut up).unwrap();
    let usage = used_areas(&device.path).unwrap();
    let unseen = not_held(&device.path).unwrap();
    drop(other.stdin.take());
    other.wait().unwrap();
    assert_eq!(usage.used, ExtentSet::whole(size));
    assert_eq!(usage.filesystems, []);
    assert_eq!(unseen.len(), 1, "{unseen:?}");
}
