//! A disk that writes down what it is told, every write and every flush in its order, so that it can be made again as it
//! would be after a power cut at any moment.
//!
//! ```text
//!   file system ─ loop device ─ file of FUSE ─ qemu-storage-daemon, blklogwrites ─┬─ the disk's bytes
//!                                                                                 └─ the log, as dm-log-writes has it
//! ```
//! What must stay true: a write is in the log before the file system hears that it is done (FUSE without a write-back
//! cache passes it on at once), and a flush is one there too (loop makes it an fsync of the file). After a cut all is there
//! that was done when the last flush was sent; of what came later any part, in any order, whole or torn at 4 KiB.

use crate::device::{Loop, wait_until};
use crate::host::run;
use crate::random::Random;
use crate::raw::die_with_us;
use crate::scratch::Scratch;
use anyhow::{Context, Result, ensure};
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

const SERVER: &str = "qemu-storage-daemon";
const SECTOR: u64 = 512;
const MAGIC: u64 = 0x006a_7366_7773_6872;
const FLUSH: u64 = 1;
const FUA: u64 = 2;
const DISCARD: u64 = 4;
/// A disk writes so much whole or not at all.
const ATOM: usize = 4096;
/// More than any run writes; it is sparse.
const LOG: u64 = 8 << 30;

/// Why there is no such disk here, if so.
pub fn missing() -> Option<String> {
    if !Path::new("/dev/fuse").exists() {
        return Some("there is no /dev/fuse".into());
    }
    match Command::new(SERVER).arg("--help").stdin(Stdio::null()).output() {
        Ok(help) if String::from_utf8_lossy(&help.stdout).contains("type=]fuse") => None,
        Ok(_) => Some(format!("{SERVER} cannot export by FUSE")),
        Err(e) => Some(format!("{SERVER}: {e}")),
    }
}

/// A disk in use.
#[derive(Debug)]
pub struct Recorded {
    server: Child,
    device: Option<Loop>,
    file: PathBuf,
    bytes: PathBuf,
    log: PathBuf,
    size: u64,
}

/// What went to it.
#[derive(Debug)]
pub struct Record {
    log: File,
    bytes: PathBuf,
    size: u64,
    entries: Vec<Entry>,
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    at: u64,
    length: u64,
    flags: u64,
    /// Where its bytes are in the log.
    data: u64,
}

impl Recorded {
    /// An empty disk of `size` bytes.
    pub fn new(scratch: &Scratch, size: u64) -> Result<Self> {
        let [bytes, log, file] = ["bytes", "log", "recorded"].map(|name| scratch.fresh(name));
        for (path, length) in [(&bytes, size), (&log, LOG), (&file, 0)] {
            File::create(path)?.set_len(length)?;
        }
        let mut command = Command::new(SERVER);
        for (node, path) in [("bytes", &bytes), ("log", &log)] {
            command
                .args(["--blockdev", &format!("driver=file,node-name={node},filename={}", path.display())]);
        }
        command.args([
            "--blockdev",
            "driver=blklogwrites,node-name=disk,file=bytes,log=log,log-sector-size=512",
        ]);
        let export = format!("type=fuse,id=disk,node-name=disk,writable=on,mountpoint={}", file.display());
        command.args(["--export", &export]).stdin(Stdio::null()).stdout(Stdio::null());
        let server = die_with_us(&mut command).spawn().with_context(|| format!("start {SERVER}"))?;
        let mut disk = Self { server, device: None, file, bytes, log, size };
        wait_until(|| disk.file.metadata().is_ok_and(|m| m.len() == size), "the recorded disk to appear")?;
        disk.device = Some(Loop::on(&disk.file, &[])?);
        Ok(disk)
    }

    /// The device node.
    pub fn path(&self) -> Result<&Path> {
        Ok(self.device.as_ref().context("the disk is gone")?.path())
    }

    /// How much the log had when the last flush was done: what is there now is durable.
    pub fn mark(&self) -> Result<usize> {
        Ok(count(&File::open(&self.log)?)? as usize)
    }

    /// No more writes; nothing may be mounted there.
    pub fn finish(mut self) -> Result<Record> {
        run("sync", [self.path()?])?;
        self.device.take().context("the disk is gone")?.detach()?;
        self.stop()?;
        let log = File::open(&self.log)?;
        let entries = entries(&log)?;
        Ok(Record { log, bytes: self.bytes.clone(), size: self.size, entries })
    }

    fn stop(&mut self) -> Result<()> {
        run("kill", [self.server.id().to_string()])?;
        let began = Instant::now();
        while self.server.try_wait()?.is_none() {
            ensure!(began.elapsed() < Duration::from_secs(30), "{SERVER} does not end");
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }
}

impl Drop for Recorded {
    fn drop(&mut self) {
        self.device.take();
        if self.server.try_wait().is_ok_and(|ended| ended.is_none()) && self.stop().is_err() {
            let _ = self.server.kill();
            let _ = self.server.wait();
        }
    }
}

fn number(bytes: &[u8], at: usize) -> u64 {
    bytes.get(at..at + 8).and_then(<[u8]>::first_chunk).map_or(0, |b| u64::from_le_bytes(*b))
}

fn block(log: &File, at: u64) -> Result<[u8; SECTOR as usize]> {
    let mut block = [0; SECTOR as usize];
    log.read_exact_at(&mut block, at).with_context(|| format!("read the log at {at}"))?;
    Ok(block)
}

fn count(log: &File) -> Result<u64> {
    let head = block(log, 0)?;
    ensure!(number(&head, 0) == MAGIC && number(&head, 8) == 1, "not a log of writes");
    Ok(number(&head, 16))
}

fn entries(log: &File) -> Result<Vec<Entry>> {
    let (mut entries, mut at) = (Vec::new(), SECTOR);
    for _ in 0..count(log)? {
        let head = block(log, at)?;
        let [first, sectors, flags] = [0, 8, 16].map(|field| number(&head, field));
        at += SECTOR;
        entries.push(Entry { at: first * SECTOR, length: sectors * SECTOR, flags, data: at });
        at += if flags & DISCARD == 0 { sectors * SECTOR } else { 0 };
    }
    Ok(entries)
}

/// A moment at which the power went.
#[derive(Clone, Debug)]
pub struct Cut {
    /// So many entries were surely done.
    pub durable: usize,
    /// None of those from here on was begun.
    pub begun: usize,
}

impl Record {
    /// Every moment right after a flush, and one before the next flush, of all from entry `from` on.
    pub fn cuts(&self, from: usize, random: &mut Random) -> Vec<Cut> {
        let mut cuts: Vec<Cut> = Vec::new();
        let flushes = (0..self.entries.len()).filter(|n| self.entries[*n].flags & FLUSH != 0);
        let ends: Vec<usize> = flushes.map(|n| n + 1).filter(|end| *end >= from).collect();
        for (n, end) in ends.iter().enumerate() {
            cuts.push(Cut { durable: *end, begun: *end });
            let next = ends.get(n + 1).map_or(self.entries.len(), |next| next - 1);
            if next > *end {
                let some = 1 + random.below((next - end) as u64) as usize;
                cuts.push(Cut { durable: *end, begun: end + some });
            }
        }
        cuts
    }

    /// How many writes and flushes it has.
    pub fn counts(&self) -> (usize, usize) {
        let flushes = self.entries.iter().filter(|e| e.flags & FLUSH != 0).count();
        (self.entries.iter().filter(|e| e.length > 0).count(), flushes)
    }

    /// Begins to make the disk again.
    pub fn replay<'a>(&'a self, scratch: &Scratch) -> Result<Replay<'a>> {
        let path = scratch.fresh("replayed");
        let file = File::options().read(true).write(true).create_new(true).open(&path)?;
        file.set_len(self.size)?;
        Ok(Replay { record: self, path, file, done: 0 })
    }

    fn write(&self, entry: &Entry, to: &File, part: std::ops::Range<u64>) -> Result<()> {
        if entry.flags & DISCARD != 0 {
            // what is discarded may keep its bytes
            return Ok(());
        }
        let mut bytes = vec![0; (part.end - part.start) as usize];
        self.log.read_exact_at(&mut bytes, entry.data + part.start)?;
        to.write_all_at(&bytes, entry.at + part.start).context("write again")
    }
}

/// The disk again, up to some entry.
#[derive(Debug)]
pub struct Replay<'a> {
    record: &'a Record,
    path: PathBuf,
    file: File,
    done: usize,
}

impl Replay<'_> {
    /// The disk after a cut, in a file of its own; cuts come in their order.
    pub fn after(&mut self, cut: &Cut, target: &Path, random: &mut Random) -> Result<()> {
        ensure!(cut.durable >= self.done, "cuts come in their order");
        for entry in &self.record.entries[self.done..cut.durable] {
            self.record.write(entry, &self.file, 0..entry.length)?;
        }
        self.done = cut.durable;
        run("cp", ["--sparse=always".as_ref(), self.path.as_os_str(), target.as_os_str()])?;
        let file = File::options().write(true).open(target)?;
        let mut unsure: Vec<&Entry> = self.record.entries[cut.durable..cut.begun].iter().collect();
        for n in (1..unsure.len()).rev() {
            unsure.swap(n, random.below(n as u64 + 1) as usize);
        }
        for entry in unsure {
            let (atoms, fate) = (entry.length / ATOM as u64, random.below(4));
            let end = match fate {
                _ if entry.flags & FUA != 0 => entry.length,
                0 => 0,
                1 => random.below(atoms + 1) * ATOM as u64,
                _ => entry.length,
            };
            self.record.write(entry, &file, 0..end.min(entry.length))?;
        }
        Ok(())
    }

    /// All of it is, byte for byte, what the disk held at its end.
    pub fn ensure_whole(mut self) -> Result<()> {
        for entry in &self.record.entries[self.done..] {
            self.record.write(entry, &self.file, 0..entry.length)?;
        }
        self.done = self.record.entries.len();
        let bytes = File::open(&self.record.bytes)?;
        let (mut one, mut other) = (vec![0; 1 << 20], vec![0; 1 << 20]);
        for at in (0..self.record.size).step_by(1 << 20) {
            let length = (self.record.size - at).min(1 << 20) as usize;
            bytes.read_exact_at(&mut one[..length], at)?;
            self.file.read_exact_at(&mut other[..length], at)?;
            ensure!(
                one[..length] == other[..length],
                "the log does not lead to the disk, in the MiB at {at}"
            );
        }
        Ok(())
    }
}
