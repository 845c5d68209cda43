//! Promise: a point of a group gives its files back by name, in everything that can be seen of them, whatever happened to
//! them since the point before; and what is not of the group is not in the store.

use anyhow::{Context, Result, ensure};
use std::fs::{self, File};
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::Path;
use tests::device::{open_with, put};
use tests::grouped::{Grouped, attribute, plant};
use tests::host::run;
use tests::scratch::Scratch;
use tests::tree::{Tree, somewhere_in};
use tests::{host, skip_if};

use rustix::fs::FallocateFlags;

type Step = (&'static str, fn(&mut Grouped<'_>) -> Result<()>);

#[expect(clippy::disallowed_methods, reason = "the renames are the work, nothing is published")]
const STEPS: &[Step] = &[
    ("nothing", |_| Ok(())),
    ("created", |care| {
        fs::create_dir(care.at("new"))?;
        care.file("new/file", 123_456)?;
        care.file("new/small", 5).map(drop)
    }),
    ("overwritten", |care| {
        let bytes = care.random.bytes(4096);
        Ok(open_with(&care.at("big"), 0)?.write_all_at(&bytes, 1 << 20)?)
    }),
    ("appended", |care| {
        let bytes = care.random.bytes(3000);
        Ok(open_with(&care.at("a/odd"), 0)?.write_all_at(&bytes, 70_001)?)
    }),
    ("moved", |care| Ok(fs::rename(care.at("a/b/f1"), care.at("f1-moved"))?)),
    ("a folder moved", |care| Ok(fs::rename(care.at("a/b"), care.at("b-moved"))?)),
    // its areas have long been clean
    ("moved into the group", |care| Ok(fs::rename(care.outside("waits"), care.at("came"))?)),
    ("a folder moved into the group", |care| Ok(fs::rename(care.outside("tree"), care.at("tree"))?)),
    ("moved out", |care| Ok(fs::rename(care.at("f1-moved"), care.outside("went"))?)),
    ("no longer excluded", |care| Ok(fs::rename(care.at("junk.tmp"), care.at("junk.kept"))?)),
    ("truncated", |care| {
        open_with(&care.at("b-moved/f9"), 0)?.set_len(100)?;
        open_with(&care.at("big"), 0)?.set_len(2 << 20)?;
        Ok(())
    }),
    ("made longer", |care| Ok(open_with(&care.at("b-moved/f9"), 0)?.set_len(50_000)?)),
    ("replaced by rename", |care| {
        let new = care.file("replacement", 60_000)?;
        Ok(fs::rename(new, care.at("a/odd"))?)
    }),
    ("a hole punched", |care| {
        let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        Ok(rustix::fs::fallocate(open_with(&care.at("big"), 0)?, flags, 64 << 10, 512 << 10)?)
    }),
    ("a hole filled", |care| {
        let bytes = care.random.bytes(20_000);
        Ok(open_with(&care.at("sparse"), 0)?.write_all_at(&bytes, 4_000_001)?)
    }),
    ("reserved and written", |care| {
        let bytes = care.random.bytes(9000);
        Ok(open_with(&care.at("reserved"), 0)?.write_all_at(&bytes, 700_000)?)
    }),
    ("linked, unlinked", |care| {
        fs::hard_link(care.at("one"), care.at("a/one-too"))?;
        Ok(fs::remove_file(care.at("odd-three"))?)
    }),
    ("of another owner, mode, attributes", |care| {
        fs::set_permissions(care.at("came"), fs::Permissions::from_mode(0o600))?;
        attribute(&care.at("came"), "user.note", b"new")?;
        rustix::fs::removexattr(care.at("a/small"), "user.note")?;
        attribute(&care.at("a/page"), "user.long", &[9; 500])
    }),
    ("deleted", |care| {
        fs::remove_file(care.at("new/small"))?;
        Ok(fs::remove_dir_all(care.at("tree"))?)
    }),
    ("a file where a folder was", |care| {
        fs::remove_dir_all(care.at("new"))?;
        care.file("new", 4000).map(drop)
    }),
];

fn increments(name: &'static str, mkfs: &[&str], more: &[Step]) -> Result<()> {
    skip_if!(host::no_tracking(), name);
    let kind = mkfs[0].trim_start_matches("mkfs.");
    skip_if!(host::no_filesystem(kind), name);
    let scratch = Scratch::new("groups")?;
    let mut care = Grouped::new(&scratch, name, mkfs, "noatime")?;
    plant(&mut care)?;
    let bytes = care.random.bytes(90_000);
    put(&care.outside("waits"), &bytes)?;
    fs::create_dir_all(care.outside("tree/x/y"))?;
    put(&care.outside("tree/x/y/deep"), &bytes[..8000])?;
    care.backup("the first")?;
    // on btrfs, and with content in inodes, all is walked; else only what changed is looked at
    let walks = kind == "btrfs" || mkfs.contains(&"inline_data");
    for (what, step) in STEPS.iter().chain(more) {
        step(&mut care).with_context(|| format!("{what} on {kind}"))?;
        let json = care.backup(what)?;
        ensure!(json["walked"] == walks, "{what}: {json}");
        ensure!(json["consistency"] == "file-system-frozen", "{what}: {json}");
    }
    care.ensure_all_restore()?;
    care.ensure_sound()?;
    // of a chain cut short, and compacted, the rest is whole
    let repo = care.repo.display().to_string();
    care.home.ok(["prune", "--repo", &repo, "--keep-last", "5", "--grace", "0"])?;
    care.home.ok(["compact", "--repo", &repo, "--dead", "1%", "--grace", "0"])?;
    let from = care.points.len() - 5;
    care.points.drain(..from);
    care.ensure_all_restore()?;
    care.ensure_sound()?;
    care.backup("after the prune")?;
    care.ensure_all_restore()
}

/// Copies a file so that both share their extents.
fn reflinked(care: &mut Grouped<'_>) -> Result<()> {
    run("cp", ["--reflink=always".as_ref(), care.at("big").as_os_str(), care.at("big-clone").as_os_str()])?;
    let bytes = care.random.bytes(5000);
    Ok(open_with(&care.at("big-clone"), 0)?.write_all_at(&bytes, 700_000)?)
}

#[test]
fn ext4() -> Result<()> {
    let defragmented: Step = ("defragmented", |care| {
        fragment(care)?;
        run("e4defrag", [care.at("pieces")]).map(drop)
    });
    increments("groups::ext4", &["mkfs.ext4", "-q"], &[("in pieces", fragment), defragmented])
}

#[test]
fn ext4_with_small_blocks() -> Result<()> {
    increments("groups::ext4_with_small_blocks", &["mkfs.ext4", "-q", "-b", "1024"], &[])
}

#[test]
fn ext4_with_content_in_inodes() -> Result<()> {
    let options = ["mkfs.ext4", "-q", "-I", "512", "-O", "inline_data"];
    increments("groups::ext4_with_content_in_inodes", &options, &[])
}

#[test]
fn xfs() -> Result<()> {
    let defragmented: Step = ("defragmented", |care| {
        fragment(care)?;
        run("xfs_fsr", [care.at("pieces")]).map(drop)
    });
    let more = [("reflinked", reflinked as fn(&mut Grouped<'_>) -> _), ("in pieces", fragment), defragmented];
    increments("groups::xfs", &["mkfs.xfs", "-q"], &more)
}

#[test]
fn btrfs() -> Result<()> {
    let defragmented: Step = ("defragmented", |care| {
        fragment(care)?;
        run("btrfs", ["filesystem".as_ref(), "defragment".as_ref(), care.at("pieces").as_os_str()]).map(drop)
    });
    let more = [("reflinked", reflinked as fn(&mut Grouped<'_>) -> _), ("in pieces", fragment), defragmented];
    increments("groups::btrfs", &["mkfs.btrfs", "-q"], &more)
}

/// A file in many extents.
fn fragment(care: &mut Grouped<'_>) -> Result<()> {
    let file = File::create(care.at("pieces"))?;
    for n in (0..64u64).rev() {
        file.write_all_at(&care.random.bytes(8192), n * 8192)?;
        file.sync_all()?;
    }
    Ok(())
}

/// Between its files lie those of others, in the same areas.
#[test]
fn what_is_excluded_is_not_in_the_store() -> Result<()> {
    const NAME: &str = "groups::what_is_excluded_is_not_in_the_store";
    skip_if!(host::no_tracking(), NAME);
    skip_if!(host::no_filesystem("ext4"), NAME);
    let scratch = Scratch::new("groups")?;
    let mut care = Grouped::new(&scratch, NAME, &["mkfs.ext4", "-q", "-b", "1024"], "noatime")?;
    let (marker, ours) = (b"not to be stored".repeat(64), b"to be stored----".repeat(64));
    fs::create_dir(care.at("cache"))?;
    for round in 0..3 {
        for n in 0..200 {
            put(&care.at(&format!("f{round}-{n}")), &ours)?;
            put(&care.at(&format!("f{round}-{n}.tmp")), &marker)?;
            put(&care.at(&format!("cache/{round}-{n}")), &marker)?;
            put(&care.outside(&format!("{round}-{n}")), &marker)?;
        }
        // what was ours is theirs now, at the same place
        for n in 0..50 {
            let path = care.at(&format!("f{round}-{n}"));
            fs::remove_file(&path)?;
            put(&care.at(&format!("f{round}-{n}-again.tmp")), &marker)?;
        }
        care.backup("a round")?;
        ensure!(somewhere_in(&care.repo, &marker[..16])?.is_none(), "excluded bytes are in the store");
        ensure!(somewhere_in(&care.repo, &ours[..16])?.is_some(), "the group's bytes are not to be found");
    }
    care.ensure_all_restore()
}

/// One tracking, two groups and the device's own points: each goes on from its own last point.
#[test]
fn groups_and_devices_do_not_take_each_others_changes() -> Result<()> {
    const NAME: &str = "groups::groups_and_devices_do_not_take_each_others_changes";
    skip_if!(host::no_tracking(), NAME);
    skip_if!(host::no_filesystem("ext4"), NAME);
    let scratch = Scratch::new("groups")?;
    let mut care = Grouped::new(&scratch, NAME, &["mkfs.ext4", "-q"], "noatime")?;
    plant(&mut care)?;
    let other = scratch.fresh("other").display().to_string();
    let path = care.at("a").display().to_string();
    let device = care.device.path().display().to_string();
    let whole = scratch.fresh("whole").display().to_string();
    let mut seconds = Vec::new();
    for round in 0..4 {
        let bytes = care.random.bytes(6000);
        put(&care.at(&format!("a/round{round}")), &bytes)?;
        open_with(&care.at("big"), 0)?.write_all_at(&bytes, round * 100_000)?;
        let words = ["group", "backup", "--name", "a", "--path", &path, "--repo", &other];
        if round != 1 {
            let json = care.home.json(words)?;
            ensure!(round == 0 || json["kind"] == "incremental", "{json}");
            ensure!(json["suspect"].as_array().is_some_and(Vec::is_empty), "{json}");
            seconds.push((
                json["point"].as_str().context("id")?.to_owned(),
                Tree::of(&care.at("a"), |_| false)?,
            ));
        }
        if round != 2 {
            let json = care.home.json(["backup", &device, "--repo", &whole])?;
            ensure!(round == 0 || json["kind"] == "incremental", "{json}");
        }
        care.backup("a round")?;
    }
    care.ensure_all_restore()?;
    for (id, wanted) in seconds {
        let into = care.outside("other-back");
        restore_and_compare(&care, &other, (&id, &into), &wanted, &path)?;
    }
    Ok(())
}

fn restore_and_compare(
    care: &Grouped<'_>,
    repo: &str,
    (id, into): (&str, &Path),
    wanted: &Tree,
    path: &str,
) -> Result<()> {
    let to = into.display().to_string();
    care.home.ok(["restore", "--repo", repo, "--group", "a", "--point", id, "--into", &to])?;
    let got = Tree::of(&into.join(path.trim_start_matches('/')), |_| false)?;
    wanted.ensure_same(&got, "the other group")?;
    Ok(fs::remove_dir_all(into)?)
}
