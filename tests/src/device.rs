//! Block devices of our own: loop devices, their partitions, zram; and mounts on them.
//!
//! Every guard undoes what it made when dropped; [`crate::scratch`] is the net below.

use crate::host::run;
use crate::scratch::Scratch;
use anyhow::{Context, Result, bail};
use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// `O_DIRECT` as open(2) takes it here.
pub const O_DIRECT: i32 = libc::O_DIRECT;

/// Opens for reading and writing with extra open(2) flags.
pub fn open_with(path: &Path, flags: i32) -> Result<File> {
    OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(flags)
        .open(path)
        .with_context(|| format!("open {}", path.display()))
}

/// Bytes of a block device.
pub fn size_of(device: &Path) -> Result<u64> {
    let name = device.file_name().context("device name")?;
    let path = Path::new("/sys/class/block").join(name).join("size");
    let sectors = fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
    Ok(sectors.trim().parse::<u64>()? * 512)
}

/// Bytes of a logical block of a block device.
pub fn logical_block(device: &Path) -> Result<u64> {
    let file = File::open(device)?;
    Ok(u64::from(rustix::fs::ioctl_blksszget(&file)?))
}

/// Sectors written and discarded so far, as the kernel counts them (`/sys/class/block/X/stat`, fields 7 and 14).
pub fn kernel_counts(device: &Path) -> Result<(u64, u64)> {
    let name = device.file_name().context("device name")?;
    let text = fs::read_to_string(Path::new("/sys/class/block").join(name).join("stat"))?;
    let fields: Vec<u64> = text.split_whitespace().filter_map(|f| f.parse().ok()).collect();
    match (fields.get(6), fields.get(13)) {
        (Some(written), Some(discarded)) => Ok((*written, *discarded)),
        _ => bail!("unexpected stat line {text:?}"),
    }
}

/// Write and discard requests that the device has completed, by the kernel's count (fields 5 and 12 of the same).
pub fn kernel_requests(device: &Path) -> Result<u64> {
    let name = device.file_name().context("device name")?;
    let text = fs::read_to_string(Path::new("/sys/class/block").join(name).join("stat"))?;
    let fields: Vec<u64> = text.split_whitespace().filter_map(|f| f.parse().ok()).collect();
    match (fields.get(4), fields.get(11)) {
        (Some(writes), Some(discards)) => Ok(writes + discards),
        _ => bail!("unexpected stat line {text:?}"),
    }
}

/// A loop device on a file in the scratch folder (or on another device).
#[derive(Debug)]
pub struct Loop {
    path: PathBuf,
    backing: PathBuf,
}

impl Loop {
    /// On a new sparse file `name.img` of `size` bytes.
    pub fn new(scratch: &Scratch, name: &str, size: u64) -> Result<Self> {
        Self::with_sector(scratch, name, size, 512)
    }

    /// On a new sparse file, with logical blocks of `sector` bytes.
    pub fn with_sector(scratch: &Scratch, name: &str, size: u64, sector: u32) -> Result<Self> {
        let backing = scratch.path().join(format!("{name}.img"));
        File::create(&backing)?.set_len(size)?;
        Self::on(&backing, &["--sector-size", &sector.to_string()])
    }

    /// On a file or device that exists, with options of losetup(8).
    pub fn on(backing: &Path, options: &[&str]) -> Result<Self> {
        let mut args: Vec<&str> = vec!["--find", "--show"];
        args.extend(options);
        let file = backing.to_str().context("path is not UTF-8")?;
        args.push(file);
        // two processes can be given the same free number; the loser tries again
        let mut attempt = run("losetup", &args);
        for _ in 0..20 {
            if attempt.is_ok() {
                break;
            }
            std::thread::sleep(Duration::from_millis(50));
            attempt = run("losetup", &args);
        }
        let device = Self { path: attempt?.into(), backing: backing.into() };
        // outlives a detachment: a test that died with it switched off must not spoil the next one
        let name = device.path.file_name().context("device name")?.to_string_lossy().into_owned();
        poke(&format!("/sys/block/{name}/queue/iostats"), "1")?;
        Ok(device)
    }

    /// On the loop device `node`, which must be free, backed by a file that exists.
    pub fn at(node: &Path, backing: &Path) -> Result<Self> {
        run("losetup", [node, backing])?;
        Ok(Self { path: node.into(), backing: backing.into() })
    }

    /// On a file that exists, by a disk that this kernel has just made: its counters are 0. See [`Self::vanish`].
    pub fn newborn(backing: &Path) -> Result<Self> {
        let control = open_with(Path::new("/dev/loop-control"), 0)?;
        let first = 1000 + std::process::id() as i32 % 1000 * 100;
        let added = (first..first + 100).find(|number| crate::raw::add_loop(&control, *number).is_ok());
        let node = PathBuf::from(format!("/dev/loop{}", added.context("no free loop number")?));
        wait_until(|| node.exists(), &format!("{} to appear", node.display()))?;
        Self::at(&node, backing)
    }

    /// The device node.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The backing file.
    pub fn backing(&self) -> &Path {
        &self.backing
    }

    /// Writes a partition table (sfdisk(8) script) and makes the kernel read it; the partitions' nodes.
    pub fn partition(&self, script: &str) -> Result<Vec<PathBuf>> {
        let table = self.backing.with_extension("sfdisk");
        put(&table, script.as_bytes())?;
        let command = format!("sfdisk -q --no-reread {} < {}", self.path.display(), table.display());
        run("sh", ["-c", &command])?;
        run("partx", ["-u".as_ref(), self.path.as_os_str()])?;
        let parts = script.lines().filter(|l| l.contains("start=") || l.contains("size=") || l.trim() == ",");
        let nodes: Vec<PathBuf> =
            (1..=parts.count()).map(|n| format!("{}p{n}", self.path.display()).into()).collect();
        for node in &nodes {
            wait_until(|| node.exists(), &format!("{} to appear", node.display()))?;
        }
        Ok(nodes)
    }

    /// Moves the device's beginning in its backing file, as nothing but the driver notices.
    pub fn begin_at(&self, offset: u64) -> Result<()> {
        self.set_status(3, offset)
    }

    /// Gives the device another size, not beyond its backing file's, which stays as it is.
    pub fn resize(&self, size: u64) -> Result<()> {
        self.set_status(4, size)?;
        wait_until(|| size_of(&self.path).is_ok_and(|s| s == size), "the new size")
    }

    /// Changes a word of `struct loop_info64`.
    fn set_status(&self, place: usize, value: u64) -> Result<()> {
        let (get, set) = (0x4c05, 0x4c04);
        let node = open_with(&self.path, 0)?;
        let mut status = [0; 29];
        crate::raw::loop_status(&node, get, &mut status).context("LOOP_GET_STATUS64")?;
        status[place] = value;
        crate::raw::loop_status(&node, set, &mut status).context("LOOP_SET_STATUS64")
    }

    /// What a reboot leaves of it: the backing file. Its disk goes, with the kernel's counters of it.
    pub fn vanish(self) -> Result<PathBuf> {
        self.release()?;
        let name = self.path.file_name().and_then(|n| n.to_str()).context("device name")?;
        let number = name.strip_prefix("loop").context("loop device")?.parse()?;
        let control = open_with(Path::new("/dev/loop-control"), 0)?;
        wait_until(
            || crate::raw::remove_loop(&control, number).is_ok() || !self.path.exists(),
            &format!("{} to be removed", self.path.display()),
        )?;
        Ok(self.backing.clone())
    }

    /// Detaches now; an error if the device stays.
    pub fn detach(self) -> Result<()> {
        self.release()
    }

    fn release(&self) -> Result<()> {
        let attached = Path::new("/sys/class/block")
            .join(self.path.file_name().context("device name")?)
            .join("loop/backing_file");
        if !attached.exists() {
            return Ok(());
        }
        let _ = run("partx", ["-d".as_ref(), self.path.as_os_str()]);
        run("losetup", ["-d".as_ref(), self.path.as_os_str()])?;
        wait_until(|| !attached.exists(), &format!("{} to be detached", self.path.display()))
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        if let Err(e) = self.release() {
            crate::host::say(&format!("while detaching {}: {e:#}", self.path.display()));
        }
    }
}

/// A loop device of a number of our choice, free; removed when dropped. Declare it before the [`Loop`] on it.
#[derive(Debug)]
pub struct LoopNumber(u32);

impl LoopNumber {
    /// Adds it.
    pub fn add(number: u32) -> Result<Self> {
        crate::raw::loop_control(&open_with(Path::new("/dev/loop-control"), 0)?, 0x4c80, number)
            .with_context(|| format!("LOOP_CTL_ADD {number}"))?;
        let this = Self(number);
        wait_until(|| this.path().exists(), "the loop device's node")?;
        Ok(this)
    }

    /// The device node.
    pub fn path(&self) -> PathBuf {
        format!("/dev/loop{}", self.0).into()
    }
}

impl Drop for LoopNumber {
    fn drop(&mut self) {
        let removed = open_with(Path::new("/dev/loop-control"), 0)
            .and_then(|control| Ok(crate::raw::loop_control(&control, 0x4c81, self.0)?));
        if let Err(e) = removed {
            crate::host::say(&format!("while removing loop{}: {e:#}", self.0));
        }
    }
}

/// A mounted file system.
#[derive(Debug)]
pub struct Mounted {
    point: PathBuf,
    open: bool,
}

impl Mounted {
    /// Mounts `device` with `options` (may be empty) in the scratch folder.
    pub fn new(scratch: &Scratch, device: &Path, options: &str) -> Result<Self> {
        let point = scratch.fresh("mnt");
        fs::create_dir(&point)?;
        let options = if options.is_empty() { "rw" } else { options };
        run("mount", ["-o".as_ref(), options.as_ref(), device.as_os_str(), point.as_os_str()])?;
        Ok(Self { point, open: true })
    }

    /// The mount point.
    pub fn point(&self) -> &Path {
        &self.point
    }

    /// Unmounts now.
    pub fn unmount(mut self) -> Result<()> {
        self.open = false;
        // a process that another test is just starting has our open files until its exec
        let mut attempt = run("umount", [&self.point]);
        for _ in 0..50 {
            if attempt.is_ok() {
                break;
            }
            std::thread::sleep(Duration::from_millis(100));
            attempt = run("umount", [&self.point]);
        }
        attempt.map(|_| ())
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        if self.open
            && let Err(e) = run("umount", [&self.point])
        {
            crate::host::say(&format!("while unmounting {}: {e:#}", self.point.display()));
        }
    }
}

/// A zram device of our own (bio-based: no request queue).
#[derive(Debug)]
pub struct Zram {
    number: u32,
}

impl Zram {
    /// Adds one of `size` bytes; an error where the kernel cannot.
    pub fn new(size: u64) -> Result<Self> {
        let number =
            fs::read_to_string("/sys/class/zram-control/hot_add").context("hot-add a zram device")?;
        let zram = Self { number: number.trim().parse()? };
        poke(&format!("/sys/block/zram{}/disksize", zram.number), &size.to_string())?;
        wait_until(|| zram.path().exists(), "the zram node")?;
        // off by default; without it the kernel counts nothing that tracking could be checked against
        poke(&format!("/sys/block/zram{}/queue/iostats", zram.number), "1")?;
        Ok(zram)
    }

    /// The device node.
    pub fn path(&self) -> PathBuf {
        format!("/dev/zram{}", self.number).into()
    }
}

impl Drop for Zram {
    fn drop(&mut self) {
        let gone = poke(&format!("/sys/block/zram{}/reset", self.number), "1")
            .and_then(|()| poke("/sys/class/zram-control/hot_remove", &self.number.to_string()));
        if let Err(e) = gone {
            crate::host::say(&format!("while removing zram{}: {e:#}", self.number));
        }
    }
}

/// Writes a kernel attribute.
pub fn poke(path: &str, value: &str) -> Result<()> {
    use std::io::Write;
    let mut file = OpenOptions::new().write(true).open(path).with_context(|| format!("open {path}"))?;
    file.write_all(value.as_bytes()).with_context(|| format!("write {value} to {path}"))
}

/// Creates or replaces a file of a test; nothing durable about it.
pub fn put(path: &Path, bytes: &[u8]) -> Result<()> {
    use std::io::Write;
    File::create(path)
        .and_then(|mut file| file.write_all(bytes))
        .with_context(|| format!("write {}", path.display()))
}

/// Waits up to ten seconds for `done`.
pub fn wait_until(mut done: impl FnMut() -> bool, what: &str) -> Result<()> {
    let give_up = Instant::now() + Duration::from_secs(10);
    while !done() {
        if Instant::now() > give_up {
            bail!("waited ten seconds for {what}");
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    Ok(())
}
