//! Promise (museum M25): a frozen file system is always thawed, also when the process that froze it is killed.

use crate::rig::{Image, Loop, Mount, ready, run};
use collector::error::Kind;
use collector::sys::freeze::{Freeze, refuse_if_frozen};
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

const LONG: Duration = Duration::from_secs(60);

fn ext4() -> (Mount, Loop) {
    let device = Loop::new(Image::new(32 << 20, 0), &[]);
    run(&["mkfs.ext4", "-q", device.name()]);
    (Mount::new(&device.path, "noatime"), device)
}

/// Writes a file in the background; the channel tells when it is done.
fn write_behind(dir: &Path) -> Receiver<()> {
    let (done, wait) = channel();
    let path = dir.join("probe");
    std::thread::spawn(move || {
        std::fs::File::create(path).unwrap();
        let _ = done.send(());
    });
    wait
}

fn blocked(writer: &Receiver<()>) -> bool {
    writer.recv_timeout(Duration::from_millis(200)).is_err()
}

fn done(writer: &Receiver<()>) {
    writer.recv_timeout(Duration::from_secs(5)).expect("the write went on after the thaw");
}

#[test]
fn writers_wait_until_the_thaw() {
    if !ready("writers_wait_until_the_thaw", &["mkfs.ext4"]) {
        return;
    }
    let (mount, _device) = ext4();
    // the same super block twice is frozen once
    let twice = [mount.dir.clone(), mount.dir.clone()];
    let freeze = Freeze::hold(&twice, LONG).unwrap();
    let writer = write_behind(&mount.dir);
    assert!(blocked(&writer));
    let error = Freeze::hold(&twice, LONG).err().expect("frozen already");
    assert_eq!(error.kind(), Kind::Busy);
    assert!(blocked(&writer), "the second attempt must not undo the first");
    let time = freeze.thaw().unwrap();
    done(&writer);
    assert!(time >= Duration::from_millis(400) && time < Duration::from_secs(10), "{time:?}");
    drop(Freeze::hold(&twice, LONG).unwrap());
    done(&write_behind(&mount.dir));
}

#[test]
fn over_the_limit_is_thawed_and_told() {
    if !ready("over_the_limit_is_thawed_and_told", &["mkfs.ext4"]) {
        return;
    }
    let (mount, _device) = ext4();
    let freeze = Freeze::hold(std::slice::from_ref(&mount.dir), Duration::from_millis(500)).unwrap();
    let writer = write_behind(&mount.dir);
    assert!(blocked(&writer));
    done(&writer);
    assert!(freeze.held_for() < Duration::from_secs(3));
    assert_eq!(freeze.thaw().unwrap_err().kind(), Kind::Interrupted);
}

#[test]
fn one_that_cannot_be_frozen_frees_the_others() {
    if !ready("one_that_cannot_be_frozen_frees_the_others", &["mkfs.ext4"]) {
        return;
    }
    let (mount, _device) = ext4();
    let both = [mount.dir.clone(), PathBuf::from("/proc")];
    assert_eq!(Freeze::hold(&both, LONG).err().expect("an error").kind(), Kind::Unsupported);
    done(&write_behind(&mount.dir));
}

#[test]
fn m25_places_on_the_frozen_file_system_are_refused() {
    if !ready("m25_places_on_the_frozen_file_system_are_refused", &["mkfs.ext4"]) {
        return;
    }
    let (outer, _device) = ext4();
    let frozen = [outer.dir.clone()];
    refuse_if_frozen(&frozen, &["/proc".into(), "/dev/shm".into()]).unwrap();
    assert_eq!(refuse_if_frozen(&frozen, &frozen).unwrap_err().kind(), Kind::Usage);
    // a file system in a file of the frozen one
    let file = outer.dir.join("inner.img");
    std::fs::File::create(&file).unwrap().set_len(8 << 20).unwrap();
    run(&["mkfs.ext4", "-q", file.to_str().unwrap()]);
    let inner = Mount::new(&file, "loop");
    let error = refuse_if_frozen(&frozen, std::slice::from_ref(&inner.dir)).unwrap_err();
    assert_eq!(error.kind(), Kind::Usage);
    refuse_if_frozen(std::slice::from_ref(&inner.dir), &frozen).unwrap();
    // both together: the inner one must be frozen first, or this would never return
    for both in [[&outer, &inner], [&inner, &outer]] {
        let both = both.map(|mount| mount.dir.clone());
        let time = Freeze::hold(&both, LONG).unwrap().thaw().unwrap();
        assert!(time < Duration::from_secs(20), "{time:?}");
    }
}

#[test]
fn m25_killed_while_frozen_is_thawed() {
    if !ready("m25_killed_while_frozen_is_thawed", &["mkfs.ext4"]) {
        return;
    }
    let (mount, _device) = ext4();
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "freeze::holder", "--ignored", "--nocapture"])
        .env("HOLD", &mount.dir)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    assert!(lines.any(|line| line.unwrap().contains("held")), "the child froze it");
    let writer = write_behind(&mount.dir);
    assert!(blocked(&writer));
    let killed = Instant::now();
    child.kill().unwrap();
    done(&writer);
    println!("thawed {:?} after the kill", killed.elapsed());
    child.wait().unwrap();
}

#[test]
fn m25_a_btrfs_inside_the_frozen_file_system_is_recognised() {
    if !ready("m25_a_btrfs_inside_the_frozen_file_system_is_recognised", &["mkfs.xfs", "mkfs.btrfs"]) {
        return;
    }
    let device = Loop::new(Image::new(400 << 20, 0), &[]);
    run(&["mkfs.xfs", "-q", device.name()]);
    let outer = Mount::new(&device.path, "noatime");
    let file = outer.dir.join("inner.img");
    std::fs::File::create(&file).unwrap().set_len(120 << 20).unwrap();
    run(&["mkfs.btrfs", "-q", file.to_str().unwrap()]);
    let inner = Mount::new(&file, "loop");
    let place = inner.dir.join("repository/not/there/yet");
    assert!(refuse_if_frozen(std::slice::from_ref(&outer.dir), &[place]).is_err());
}

/// The process that [`m25_killed_while_frozen_is_thawed`] kills.
#[test]
#[ignore = "run by m25_killed_while_frozen_is_thawed only"]
fn holder() {
    let Some(dir) = std::env::var_os("HOLD") else { return };
    let _freeze = Freeze::hold(&[dir.into()], LONG).unwrap();
    println!("held");
    std::thread::sleep(LONG);
}
