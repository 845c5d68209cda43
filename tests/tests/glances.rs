//! Promise: an increment of a group that looks only at files whose inodes lie in changed blocks knows what a walk would
//! know; where that is not sure, all files are walked, and why is said.

use anyhow::{Context, Result, ensure};
use std::collections::BTreeMap;
use std::fs;
use tests::device::{Loop, Mounted, put};
use tests::grouped::{Grouped, plant};
use tests::host::{run, say};
use tests::scratch::Scratch;
use tests::strokes::stroke;
use tests::{host, skip_if};

/// Steps of the long run, and strokes before each of them at most.
const STEPS: usize = 25;
const STROKES: u64 = 12;

/// Random strokes; after some of them a glance must be what a walk is.
fn random_strokes(name: &'static str, mkfs: &[&str]) -> Result<()> {
    skip_if!(host::no_tracking(), name);
    skip_if!(host::no_filesystem(mkfs[0].trim_start_matches("mkfs.")), name);
    let scratch = Scratch::new("glances")?;
    let mut group = Grouped::new(&scratch, name, mkfs, "noatime")?;
    plant(&mut group)?;
    group.backup("the first")?;
    let (mut done, mut vain) = (BTreeMap::<&str, u32>::new(), 0);
    for step in 0..STEPS {
        let mut story = Vec::new();
        for _ in 0..group.random.below(STROKES + 1) {
            match stroke(&mut group)? {
                (what, true) => {
                    *done.entry(what).or_default() += 1;
                    story.push(what);
                }
                (_, false) => vain += 1,
            }
        }
        group.ensure_glance_is_a_walk(&format!("step {step}: {}", story.join(", ")))?;
    }
    say(&format!("  {name}: {} strokes of {} kinds, {vain} in vain", done.values().sum::<u32>(), done.len()));
    ensure!(done.len() > 10, "hardly anything was done: {done:?}");
    let said = group.backup("the last")?;
    ensure!(said["walked"] == false, "{said}");
    group.ensure_all_restore()?;
    group.ensure_sound()
}

#[test]
fn on_ext4_they_are_what_a_walk_is() -> Result<()> {
    random_strokes("glances::on_ext4_they_are_what_a_walk_is", &["mkfs.ext4", "-q"])
}

#[test]
fn on_ext4_with_small_blocks_they_are_what_a_walk_is() -> Result<()> {
    let mkfs = ["mkfs.ext4", "-q", "-b", "1024", "-I", "128", "-O", "^dir_index,^flex_bg"];
    random_strokes("glances::on_ext4_with_small_blocks_they_are_what_a_walk_is", &mkfs)
}

#[test]
fn on_xfs_they_are_what_a_walk_is() -> Result<()> {
    random_strokes("glances::on_xfs_they_are_what_a_walk_is", &["mkfs.xfs", "-q"])
}

#[test]
fn on_xfs_with_large_inodes_they_are_what_a_walk_is() -> Result<()> {
    let mkfs = ["mkfs.xfs", "-q", "-i", "size=1024", "-m", "rmapbt=1"];
    random_strokes("glances::on_xfs_with_large_inodes_they_are_what_a_walk_is", &mkfs)
}

/// What a backup says: whether it walked, and why.
fn said(group: &mut Grouped<'_>, what: &str) -> Result<(bool, String)> {
    let json = group.home.json(group.words(&[])).with_context(|| what.to_owned())?;
    let why = json["why_walked"].as_str().unwrap_or_default().to_owned();
    Ok((json["walked"] == true, why))
}

fn ensure_walked(group: &mut Grouped<'_>, what: &str, why: &str) -> Result<()> {
    let (walked, because) = said(group, what)?;
    ensure!(walked && because.contains(why), "{what}: walked: {walked}, because {because:?}");
    let (walked, because) = said(group, what)?;
    ensure!(!walked, "after {what}: a walk again, because {because:?}");
    Ok(())
}

/// What shows other files, or may have changed a folder behind its inode, makes a walk, and the next is a glance again.
#[test]
fn what_the_inodes_do_not_show_is_walked() -> Result<()> {
    const NAME: &str = "glances::what_the_inodes_do_not_show_is_walked";
    skip_if!(host::no_tracking(), NAME);
    skip_if!(host::no_filesystem("ext4"), NAME);
    let scratch = Scratch::new("glances")?;
    let mut group = Grouped::new(&scratch, NAME, &["mkfs.ext4", "-q"], "noatime")?;
    plant(&mut group)?;
    fs::create_dir(group.at("below"))?;
    ensure_walked(&mut group, "the first", "no point to go on from")?;
    for how in ["remount,ro", "remount,rw"] {
        run("mount", ["-o".as_ref(), how.as_ref(), group.mounted.point().as_os_str()])?;
    }
    ensure_walked(&mut group, "mounted read-write again", "other mounts")?;
    remount(&scratch, &mut group)?;
    ensure_walked(&mut group, "unmounted and mounted", "other mounts")?;
    // a mount below: of what is not tracked, and of a part of the same file system
    run("mount", ["-t".as_ref(), "tmpfs".as_ref(), "none".as_ref(), group.at("below").as_os_str()])?;
    put(&group.at("below/seen"), b"only while it is mounted")?;
    let (walked, why) = said(&mut group, "a tmpfs below")?;
    ensure!(walked && why.contains("tmpfs"), "{walked}: {why}");
    run("umount", [group.at("below")])?;
    ensure_walked(&mut group, "no tmpfs any more", "other mounts")?;
    run("mount", ["--bind".as_ref(), group.at("a").as_os_str(), group.at("below").as_os_str()])?;
    let (walked, why) = said(&mut group, "a folder twice")?;
    run("umount", [group.at("below")])?;
    ensure!(walked && why.contains("only a part"), "{walked}: {why}");
    ensure_walked(&mut group, "once again", "other mounts")?;
    let json = group.home.json(group.words(&["--exclude", "b"]))?;
    ensure!(json["walked"] == true, "another pick: {json}");
    let json = group.home.json(group.words(&["--no-freeze", "--exclude", "b"]))?;
    ensure!(json["why_walked"].as_str().is_some_and(|why| why.contains("frozen")), "{json}");
    Ok(())
}

fn remount(scratch: &Scratch, group: &mut Grouped<'_>) -> Result<()> {
    let point = group.mounted.point().to_owned();
    run("umount", [&point])?;
    run("mount", ["-o".as_ref(), "noatime".as_ref(), group.device.path().as_os_str(), point.as_os_str()])?;
    ensure!(point.starts_with(scratch.path()), "{}", point.display());
    Ok(())
}

/// Another file system mounted in the group, on a device of its own.
#[test]
fn a_tracked_file_system_below_is_glanced_at_too() -> Result<()> {
    const NAME: &str = "glances::a_tracked_file_system_below_is_glanced_at_too";
    skip_if!(host::no_tracking(), NAME);
    skip_if!(host::no_filesystem("ext4"), NAME);
    skip_if!(host::no_filesystem("xfs"), NAME);
    let scratch = Scratch::new("glances")?;
    let mut group = Grouped::new(&scratch, NAME, &["mkfs.ext4", "-q"], "noatime")?;
    plant(&mut group)?;
    let below = Loop::new(&scratch, "below", 512 << 20)?;
    run("mkfs.xfs", ["-q".as_ref(), below.path().as_os_str()])?;
    group.home.ok(["track".as_ref(), below.path().as_os_str()])?;
    let elsewhere = Mounted::new(&scratch, below.path(), "noatime")?;
    fs::create_dir(group.at("below"))?;
    let tested = below_is_seen(&mut group, &below);
    let _ = run("umount", [group.at("below")]);
    drop(elsewhere);
    let _ = group.home.run(["untrack".as_ref(), below.path().as_os_str()]);
    tested
}

fn below_is_seen(group: &mut Grouped<'_>, below: &Loop) -> Result<()> {
    run(
        "mount",
        ["-o".as_ref(), "noatime".as_ref(), below.path().as_os_str(), group.at("below").as_os_str()],
    )?;
    for n in 0..100 {
        put(&group.at(&format!("below/f{n}")), &[n; 3000])?;
    }
    group.backup("the first")?;
    for n in [3, 50, 99] {
        put(&group.at(&format!("below/f{n}")), b"other")?;
        put(&group.at(&format!("below/new{n}")), b"new")?;
        group.ensure_glance_is_a_walk("a mount below")?;
    }
    let json = group.backup("the last")?;
    ensure!(json["walked"] == false, "{json}");
    let count = json["looked_at"].as_u64().unwrap_or_default();
    say(&format!("  {count} looked at"));
    Ok(())
}
