//! Promise: an ordinary user can restore, list and check; what needs root says so in plain words.

use anyhow::{Context, Result, ensure};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use tests::device::{Loop, O_DIRECT, open_with, size_of};
use tests::image::{Aligned, Image};
use tests::product::{Ended, binary};
use tests::protected::Protected;
use tests::random::Random;
use tests::scratch::Scratch;
use tests::{host, skip_if};

use std::os::unix::fs::FileExt;

/// The binary as user `nobody` (or as ourselves, if we are not root), from a copy that user can reach.
fn as_user(program: &Path, home: &Path, words: &[&str]) -> Result<Ended> {
    let mut command = if host::is_root() {
        let mut command = Command::new("setpriv");
        command.args(["--reuid=65534", "--regid=65534", "--clear-groups"]).arg(program);
        command
    } else {
        Command::new(program)
    };
    command.args(words).env("BLKDELTA_HOME", home).env("HOME", "/").current_dir("/").stdin(Stdio::null());
    Ended::of(&mut command)
}

/// A copy of the binary and a folder to write in, both open to everybody.
fn stage(scratch: &Scratch) -> Result<(PathBuf, PathBuf)> {
    let (program, folder) = (scratch.path().join("blkdelta"), scratch.path().join("open"));
    std::fs::copy(binary()?, &program).context("copy the binary")?;
    std::fs::create_dir(&folder)?;
    for path in [scratch.path(), &program, &folder] {
        host::run("chmod", ["a+rwx".as_ref(), path.as_os_str()])?;
    }
    Ok((program, folder))
}

/// Some disk with a medium; nothing but its name is used.
fn any_device() -> Option<PathBuf> {
    let names = std::fs::read_dir("/sys/block").ok()?.flatten().map(|e| e.file_name());
    names.map(|name| Path::new("/dev").join(name)).find(|dev| size_of(dev).is_ok_and(|size| size > 0))
}

#[test]
fn what_needs_root_says_so() -> Result<()> {
    let scratch = Scratch::new("user")?;
    let (program, folder) = stage(&scratch)?;
    let ours = if host::no_devices().is_none() { Some(Loop::new(&scratch, "disk", 1 << 20)?) } else { None };
    let device = ours.as_ref().map(|l| l.path().to_path_buf()).or_else(any_device);
    skip_if!(
        device.is_none().then(|| "no block device at all".to_string()),
        "no_root::what_needs_root_says_so"
    );
    let device = device.context("device")?.display().to_string();
    for words in [&["track", &device][..], &["untrack", &device], &["backup", &device, "--repo", "r"]] {
        let ended = as_user(&program, &folder, words)?;
        ensure!(ended.code == Some(1), "{words:?}: {ended}");
        let said = ended.err.to_lowercase();
        let clear = ["root", "permi", "denied", "not tracked", "cap_"].iter().any(|w| said.contains(w));
        ensure!(clear && !said.contains("panicked"), "{words:?} is not clear about it: {ended}");
        ensure!(ended.out.is_empty(), "{words:?} printed a result: {ended}");
    }
    let status = as_user(&program, &folder, &["status"])?;
    ensure!(!status.err.contains("panicked") && status.signal.is_none(), "status: {status}");
    Ok(())
}

#[test]
fn a_user_lists_checks_and_restores() -> Result<()> {
    const NAME: &str = "no_root::a_user_lists_checks_and_restores";
    skip_if!(host::no_tracking(), NAME);
    let scratch = Scratch::new("reader")?;
    let mut random = Random::for_test(NAME);
    let (program, folder) = stage(&scratch)?;
    let device = Loop::new(&scratch, "disk", 8 << 20)?;
    let care = Protected::new(&scratch, device.path())?;
    care.backup(&[])?;
    open_with(device.path(), O_DIRECT)?.write_all_at(&Aligned::random(1 << 20, &mut random), 3 << 20)?;
    let point = care.incremental()?;
    let now = Image::of(device.path())?;
    host::run("chmod", ["-R".as_ref(), "a+rX,go-w".as_ref(), care.repo.as_os_str()])?;
    let (repo, target) = (care.repo.display().to_string(), folder.join("out.img").display().to_string());
    let listed = as_user(&program, &folder, &["list", "--repo", &repo])?.expect(0, "list")?;
    ensure!(listed.out.contains(&point.id), "list does not show {}: {listed}", point.id);
    as_user(&program, &folder, &["check", "--repo", &repo, "--read-data"])?.expect(0, "check")?;
    let words = ["restore", "--repo", &repo, "--point", &point.id, &target];
    as_user(&program, &folder, &words)?.expect(0, "restore")?;
    ensure!(Image::of_file(Path::new(&target))?.difference(&now).is_empty(), "restored something else");
    Ok(())
}
