//! Loop devices, mounts and files for the tests; everything goes away when dropped.

use collector::block::Extent;
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;
use tempfile::TempDir;

/// Whether test `name` can run here; says why not.
pub fn ready(name: &str, tools: &[&str]) -> bool {
    let why = if !rustix::process::geteuid().is_root() {
        "not root".to_owned()
    } else if let Some(tool) = ["losetup", "mount"].iter().chain(tools).find(|t| !has(t)) {
        format!("{tool} is not installed")
    } else if !Path::new("/dev/loop-control").exists() {
        "no loop driver".to_owned()
    } else {
        return true;
    };
    println!("SKIPPED: {name}: {why}");
    false
}

fn has(tool: &str) -> bool {
    let folders = ["/usr/sbin", "/usr/bin", "/sbin", "/bin"];
    folders.iter().any(|folder| Path::new(folder).join(tool).exists())
}

/// Runs a command; its output, or everything it said as a panic.
pub fn run(words: &[&str]) -> String {
    let output = Command::new(words[0]).args(&words[1..]).stdin(Stdio::null()).output();
    let output = output.unwrap_or_else(|e| panic!("{words:?}: {e}"));
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{words:?}: {}\n{out}\n{err}", output.status);
    out.trim().to_owned()
}

/// A file in its own folder on /dev/shm.
pub struct Image {
    pub path: PathBuf,
    _folder: TempDir,
}

impl Image {
    /// `size` bytes, all `fill`; sparse if that is 0.
    pub fn new(size: u64, fill: u8) -> Self {
        let folder = tempfile::Builder::new().prefix("blkdelta-test-").tempdir_in("/dev/shm").unwrap();
        let path = folder.path().join("disk.img");
        let mut file = File::create(&path).unwrap();
        if fill != 0 {
            let block = vec![fill; 1 << 20];
            for _ in 0..size >> 20 {
                file.write_all(&block).unwrap();
            }
        }
        file.set_len(size).unwrap();
        Self { path, _folder: folder }
    }
}

/// A loop device on an image.
pub struct Loop {
    pub path: PathBuf,
    pub image: Image,
}

impl Loop {
    pub fn new(image: Image, options: &[&str]) -> Self {
        let file = image.path.to_str().unwrap();
        let path = run(&[&["losetup", "-f", "--show"], options, &[file]].concat());
        Self { path: path.into(), image }
    }

    pub fn name(&self) -> &str {
        self.path.to_str().unwrap()
    }

    /// Its partition `n`, which lies at `extent`: told to the kernel by hand where it cannot read the table itself
    /// (kernels built without partition parsers).
    pub fn partition(&self, n: u32, extent: Extent) -> PathBuf {
        let path = PathBuf::from(format!("{}p{n}", self.name()));
        let (start, sectors) = ((extent.offset / 512).to_string(), (extent.length / 512).to_string());
        for attempt in 0..100 {
            if path.exists() {
                return path;
            }
            if attempt == 5 {
                run(&["addpart", self.name(), &n.to_string(), &start, &sectors]);
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        panic!("{} did not appear", path.display());
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        let _ = Command::new("losetup").arg("-d").arg(&self.path).status();
    }
}

/// A mounted file system.
pub struct Mount {
    pub dir: PathBuf,
    _folder: TempDir,
}

impl Mount {
    pub fn new(device: &Path, options: &str) -> Self {
        let folder = tempfile::Builder::new().prefix("blkdelta-mnt-").tempdir().unwrap();
        let dir = folder.path().to_path_buf();
        run(&["mount", "-o", options, device.to_str().unwrap(), dir.to_str().unwrap()]);
        Self { dir, _folder: folder }
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(&self.dir).status();
    }
}

/// Deterministic noise.
pub struct Noise(pub u64);

impl Noise {
    pub fn number(&mut self, below: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % below
    }

    pub fn bytes(&mut self, len: usize) -> Vec<u8> {
        (0..len.div_ceil(8)).flat_map(|_| self.number(u64::MAX).to_le_bytes()).take(len).collect()
    }
}

/// Files of many sizes until about `total` bytes are there.
pub fn fill(dir: &Path, noise: &mut Noise, total: u64) {
    let mut written = 0;
    for n in 0.. {
        if written >= total {
            return;
        }
        let folder = dir.join(format!("d{}", n % 17));
        fs::create_dir_all(&folder).unwrap();
        let largest = [3000, 70_000, 3 << 20][noise.number(3) as usize];
        let len = noise.number(largest) as usize;
        let name = format!("f{n}-{}", noise.number(1 << 30));
        File::create(folder.join(name)).unwrap().write_all(&noise.bytes(len)).unwrap();
        written += len as u64;
    }
}

/// Deletes about every `n`-th file.
pub fn thin_out(dir: &Path, noise: &mut Noise, n: u64) {
    for path in files(dir) {
        if noise.number(n) == 0 {
            fs::remove_file(path).unwrap();
        }
    }
}

/// All files below `dir`, sorted.
pub fn files(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![dir.to_path_buf()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() { folders.push(path) } else { found.push(path) }
        }
    }
    found.sort();
    found
}

/// Content hash of every file below `dir`.
pub fn contents(dir: &Path) -> BTreeMap<PathBuf, blake3::Hash> {
    let hash = |path: PathBuf| {
        let hash = blake3::hash(&fs::read(&path).unwrap());
        (path.strip_prefix(dir).unwrap().to_path_buf(), hash)
    };
    files(dir).into_iter().map(hash).collect()
}
