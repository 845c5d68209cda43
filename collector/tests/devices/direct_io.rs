//! Promise: what is read is what is on the device, at any alignment, or an error that names the range.

use crate::rig::{Image, Loop, Mount, Noise, ready, run};
use collector::block::Extent;
use collector::source::{LiveDevice, Source};
use collector::sys::direct::{AlignedBuf, DirectFile};
use std::fs::{self, File};
use std::os::unix::fs::FileExt;

/// Reads and writes at odd places agree with the backing file.
fn agrees(size: u64, options: &[&str], logical_block: u32) {
    let image = Image::new(size, 0);
    let mut bytes = Noise(size | 1).bytes(size as usize);
    File::options().write(true).open(&image.path).unwrap().write_all_at(&bytes, 0).unwrap();
    let device = Loop::new(image, options);
    let direct = DirectFile::open_write(&device.path, true).unwrap();
    assert_eq!((direct.size(), direct.logical_block()), (size, logical_block));
    let mut buf = AlignedBuf::new(8192);
    for (offset, len) in [(0, 512), (512, 512), (513, 9000), (4096, 65536), (size - 512, 512), (size - 7, 7)]
    {
        direct.read_at(offset, &mut buf, len).unwrap();
        assert!(buf[..] == bytes[offset as usize..][..len], "{len} bytes at {offset}");
    }
    for (offset, len) in [(4096, 4096), (700, 20), (size - 512, 512), (size - 5, 5)] {
        direct.write_at(offset, &vec![len as u8; len]).unwrap();
        bytes[offset as usize..][..len].fill(len as u8);
    }
    direct.zero(Extent::new(8192, 8192)).unwrap();
    direct.zero(Extent::new(20_001, 3)).unwrap();
    bytes[8192..16384].fill(0);
    bytes[20_001..20_004].fill(0);
    direct.sync().unwrap();
    assert!(direct.read_at(size - 5, &mut buf, 6).is_err());
    assert!(direct.write_at(size - 5, &[0; 6]).is_err());
    assert!(fs::read(&device.image.path).unwrap() == bytes);
}

#[test]
fn m9_device_end_off_the_block_grid() {
    if ready("m9_device_end_off_the_block_grid", &[]) {
        agrees(1_000_003 * 512 / 100 / 512 * 512, &[], 512);
        agrees((4 << 20) + 3 * 512, &[], 512);
    }
}

#[test]
fn m16_logical_block_of_4096() {
    if ready("m16_logical_block_of_4096", &[]) {
        agrees((4 << 20) + 4096, &["--sector-size", "4096"], 4096);
    }
}

#[test]
fn m15_the_page_cache_of_the_device_is_not_believed() {
    if !ready("m15_the_page_cache_of_the_device_is_not_believed", &["mkfs.ext4", "mkfs.xfs"]) {
        return;
    }
    for block in ["1024", "2048", "4096", "65536"] {
        let device = Loop::new(Image::new(400 << 20, 0), &[]);
        let mount = match block {
            "65536" => large_blocks(&device),
            _ => {
                run(&["mkfs.ext4", "-q", "-b", block, device.name()]);
                Some(Mount::new(&device.path, "noatime"))
            }
        };
        let Some(mount) = mount else { continue };
        let path = mount.dir.join("file");
        let (old, new) = (Noise(3).bytes(65536), Noise(4).bytes(65536));
        write_through(&path, &old);
        let at = find(&device, &old);
        let cached = File::open(&device.path).unwrap();
        let mut stale = vec![0; 4096];
        cached.read_exact_at(&mut stale, at).unwrap();
        write_through(&path, &new);
        cached.read_exact_at(&mut stale, at).unwrap();
        assert!(stale[..] == old[..4096], "the trap is not set: buffered reads are not stale");
        let mut buf = AlignedBuf::new(4096);
        LiveDevice::open(&device.path).unwrap().read_at(at, &mut buf, 4096).unwrap();
        assert!(buf[..] == new[..4096], "stale with blocks of {block}");
    }
}

/// XFS with 64 KiB blocks, where the kernel can mount it (6.12 and later).
fn large_blocks(device: &Loop) -> Option<Mount> {
    let size = format!("size={}", 64 << 10);
    run(&["mkfs.xfs", "-q", "-b", &size, device.name()]);
    let mount = std::panic::catch_unwind(|| Mount::new(&device.path, "noatime")).ok();
    if mount.is_none() {
        println!("SKIPPED: m15 with blocks of 64 KiB: this kernel cannot mount them");
    }
    mount
}

fn write_through(path: &std::path::Path, bytes: &[u8]) {
    let file = File::options().create(true).truncate(false).write(true).open(path).unwrap();
    file.write_all_at(bytes, 0).unwrap();
    file.sync_all().unwrap();
}

/// Where the device holds the first block of `bytes`.
fn find(device: &Loop, bytes: &[u8]) -> u64 {
    let disk = fs::read(&device.image.path).unwrap();
    let at = disk.chunks(1024).position(|chunk| chunk == &bytes[..1024]).expect("the file on the device");
    at as u64 * 1024
}

#[test]
fn a_read_error_is_an_error_that_names_the_range() {
    if !ready("a_read_error_is_an_error_that_names_the_range", &[]) {
        return;
    }
    let device = Loop::new(Image::new(8 << 20, 7), &[]);
    File::options().write(true).open(&device.image.path).unwrap().set_len(4 << 20).unwrap();
    let source = LiveDevice::open(&device.path).unwrap();
    let mut buf = AlignedBuf::new(1 << 20);
    source.read_at(0, &mut buf, 1 << 20).unwrap();
    assert!(buf.iter().all(|&b| b == 7));
    for (offset, len) in [(5u64 << 20, 4096usize), ((4 << 20) - 65536, 1 << 20), ((8 << 20) - 512, 512)] {
        let error = source.read_at(offset, &mut buf, len).unwrap_err().to_string();
        assert!(error.contains(&offset.to_string()) && error.contains(&len.to_string()), "{error}");
        assert!(buf.is_empty());
    }
}

#[test]
fn a_mounted_device_cannot_be_claimed() {
    if !ready("a_mounted_device_cannot_be_claimed", &["mkfs.ext4"]) {
        return;
    }
    let device = Loop::new(Image::new(32 << 20, 0), &[]);
    run(&["mkfs.ext4", "-q", device.name()]);
    let _mount = Mount::new(&device.path, "noatime");
    let error = DirectFile::open_write(&device.path, true).err().expect("an error");
    assert_eq!(error.kind(), collector::error::Kind::Busy);
}
