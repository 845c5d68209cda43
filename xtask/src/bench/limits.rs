//! What the machine allows, with nothing of ours in it: reading, writing, zstd. A goal that is a share of a limit is
//! compared with the limit of the same round.

use super::bed::{Aligned, SIZE, direct};
use super::interleaved::Sample;
use crate::rig::random::Random;
use anyhow::{Context, Result, bail};
use std::fs::{self, File};
use std::io::Read;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::time::{Duration, Instant};

/// Threads that read or write: as many as the product has.
const THREADS: usize = 4;
/// The longest single read or write.
const PIECE: u64 = 1 << 20;

/// A place and its length.
pub type Stretch = (u64, u64);

/// The stretches in pieces of at most 1 MiB.
pub fn pieces(stretches: &[Stretch]) -> Vec<Stretch> {
    let cut = |&(offset, length): &Stretch| {
        let end = offset + length;
        (offset..end).step_by(PIECE as usize).map(move |at| (at, (end - at).min(PIECE)))
    };
    stretches.iter().flat_map(cut).collect()
}

/// All `work`, each by whichever thread is free.
fn shared<T: Send>(work: Vec<T>, act: impl Fn(T, &mut Aligned) -> Result<()> + Sync) -> Result<()> {
    let rest = Mutex::new(work.into_iter());
    let one = || {
        let mut buffer = Aligned::random(PIECE as usize, &mut Random::new(1));
        loop {
            let next = rest.lock().ok().and_then(|mut rest| rest.next());
            let Some(next) = next else { return Ok(()) };
            act(next, &mut buffer)?;
        }
    };
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..THREADS).map(|_| scope.spawn(one)).collect();
        let mut ended = threads.into_iter().map(|thread| thread.join());
        ended.try_for_each(|end| end.unwrap_or_else(|_| bail!("a thread of the limit panicked")))
    })
}

/// Reads these stretches of a device past its page cache.
pub fn read(device: &Path, stretches: &[Stretch]) -> Result<Sample> {
    let (file, work) = (direct(device)?, pieces(stretches));
    let began = Instant::now();
    shared(work, |(at, length), buffer| {
        file.read_exact_at(&mut buffer.get_mut()[..length as usize], at).context("read the device")
    })?;
    Ok(Sample::seconds(began.elapsed()))
}

/// Writes a new file of `size` bytes past the page cache, and makes it durable.
pub fn write(path: &Path, size: u64) -> Result<Sample> {
    let work = pieces(&[(0, size)]);
    let began = Instant::now();
    File::create(path)?.set_len(size)?;
    let file = direct(path)?;
    shared(work, |(at, length), buffer| {
        file.write_all_at(&buffer.get()[..length as usize], at).context("write the file")
    })?;
    file.sync_all().context("sync the file")?;
    Ok(Sample::seconds(began.elapsed()))
}

/// Reads all files below a folder.
pub fn read_folder(folder: &Path) -> Result<Sample> {
    let mut files = Vec::new();
    below(folder, &mut files)?;
    let began = Instant::now();
    shared(files, |path, buffer| {
        let mut file = File::open(&path).with_context(|| format!("open {}", path.display()))?;
        while file.read(buffer.get_mut())? > 0 {}
        Ok(())
    })?;
    Ok(Sample::seconds(began.elapsed()))
}

fn below(folder: &Path, files: &mut Vec<PathBuf>) -> Result<()> {
    for entry in fs::read_dir(folder).with_context(|| format!("list {}", folder.display()))? {
        let entry = entry?;
        if entry.file_type()?.is_dir() { below(&entry.path(), files)? } else { files.push(entry.path()) }
    }
    Ok(())
}

/// Bytes of all files below a folder, and how many there are.
pub fn content(folder: &Path) -> Result<(u64, usize)> {
    let mut files = Vec::new();
    below(folder, &mut files)?;
    let lengths = files.iter().map(|file| Ok(file.metadata()?.len()));
    Ok((lengths.sum::<Result<u64>>()?, files.len()))
}

/// `zstd -1` in blocks of 64 KiB, alone and in memory, on every processor at once: seconds for the device of `full`.
pub struct Zstd {
    sample: PathBuf,
}

impl Zstd {
    /// Takes every fourth MiB of the image as a sample.
    pub fn of(image: &Path, sample: PathBuf) -> Result<Self> {
        let (from, to) = (File::open(image)?, File::create(&sample)?);
        let mut buffer = vec![0; PIECE as usize];
        for n in 0..SIZE / PIECE / 4 {
            from.read_exact_at(&mut buffer, n * 4 * PIECE).context("read a sample of the image")?;
            to.write_all_at(&buffer, n * PIECE).context("write a sample of the image")?;
        }
        Ok(Self { sample })
    }

    /// Seconds to compress, and to decompress.
    pub fn run(&self) -> Result<(Sample, Sample)> {
        let count = std::thread::available_parallelism().map_or(1, usize::from);
        let start = |_| {
            let mut zstd = Command::new("zstd");
            zstd.args(["-b1", "-e1", "-i0", "-B65536"]).arg(&self.sample);
            zstd.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()
        };
        let running: Vec<_> = (0..count).map(start).collect::<std::io::Result<_>>().context("start zstd")?;
        let (mut packed, mut unpacked) = (0.0, 0.0);
        for zstd in running {
            let ended = zstd.wait_with_output().context("wait for zstd")?;
            let said = String::from_utf8_lossy(&[ended.stdout, ended.stderr].concat()).into_owned();
            let (pack, unpack) = rates(&said).with_context(|| format!("zstd -b1 printed {said:?}"))?;
            (packed, unpacked) = (packed + pack, unpacked + unpack);
        }
        let took = |rate: f64| Sample::seconds(Duration::from_secs_f64(SIZE as f64 / rate));
        Ok((took(packed), took(unpacked)))
    }
}

/// Bytes per second out of `1#name : 134217728 -> 67288315 (x1.995), 111.6 MB/s, 458.0 MB/s`, the last such line.
fn rates(said: &str) -> Option<(f64, f64)> {
    let line = said.split(['\r', '\n']).rfind(|line| line.matches("MB/s").count() == 2)?;
    let mut rates =
        line.split("MB/s").filter_map(|part| part.split_whitespace().next_back()?.parse::<f64>().ok());
    Some((rates.next()? * 1e6, rates.next()? * 1e6)).filter(|(pack, unpack)| *pack > 0.0 && *unpack > 0.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_read_from_the_last_line_of_zstd() {
        let said = " |-a : 10 -> \r |-a : 10 -> 5 (x2.0), 9.0 MB/s \r |-a : 10 -> 5 (x2.0), 111.6 MB/s,  458.0 MB/s\n 1#\n";
        assert_eq!(rates(said), Some((111.6e6, 458e6)));
        assert_eq!(rates("nothing"), None);
    }

    #[test]
    fn stretches_are_cut_into_pieces() {
        assert_eq!(
            pieces(&[(4096, 8192), (1 << 20, (1 << 20) + 4096)]),
            [(4096, 8192), (1 << 20, 1 << 20), (2 << 20, 4096)]
        );
    }
}
