//! Ranges, only what differs, streams and images: what a point gives back in other ways than whole to a new file.

use crate::model::{Model, What, open};
use collector::block::Extent;
use collector::format::PointId;
use collector::repository::Repository;
use collector::restore::{How, Leave, Restore};
use proptest::prelude::*;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

/// Cells, some blocks, and a last block that is cut short.
const SIZE: usize = 40 * 65536 + 3 * 4096 + 512;

/// A full and two increments with parts of frames, zeros over content, and content over zeros.
pub fn three_points(folder: &Path) -> (Repository, Model, Vec<(PointId, Vec<u8>)>) {
    let repo = Repository::create(folder.to_str().unwrap()).unwrap();
    let mut model = Model::new("disk", SIZE);
    let passes: [&[(usize, usize, What)]; 3] = [
        &[(0, 100, What::Noise(1)), (200, 150, What::Same(7)), (600, 44, What::Noise(2))],
        &[(3, 2, What::Zero), (90, 40, What::Noise(3)), (210, 1, What::Same(8)), (500, 3, What::Same(9))],
        &[(0, 1, What::Noise(4)), (4, 1, What::Noise(5)), (96, 20, What::Zero), (643, 1, What::Same(1))],
    ];
    let mut made: Vec<(PointId, Vec<u8>)> = Vec::new();
    for pass in passes {
        let point = model.back_up(&repo, made.last().map(|m| m.0), &[pass]).unwrap().point;
        made.push((point, model.image.clone()));
    }
    (repo, model, made)
}

pub fn put(path: &Path, bytes: &[u8]) {
    std::fs::File::create(path).and_then(|mut f| f.write_all(bytes)).unwrap();
}

fn blkdelta(words: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_blkdelta"));
    command.args(words).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// Runs it to its end: exit code, and what it said on both ways.
fn run(words: &[&str]) -> (Option<i32>, Vec<u8>, String) {
    let output = blkdelta(words).output().unwrap();
    (output.status.code(), output.stdout, String::from_utf8_lossy(&output.stderr).into_owned())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    /// Of a file that is there only the range changes, whatever it held; a new one is zero outside of it.
    #[test]
    fn a_range_is_written_at_its_place_and_nothing_else(
        which in 0usize..3, from in 0..SIZE, length in 1usize..400_000, old in prop_oneof![Just(None), any::<u8>().prop_map(Some)],
        differing in any::<bool>(), dense in any::<bool>(),
    ) {
        let dir = tempfile::tempdir().unwrap();
        let (repo, model, made) = three_points(&dir.path().join("r"));
        let to = (from + length).min(SIZE);
        let target = dir.path().join("t");
        let mut wanted = vec![0; SIZE];
        if let Some(old) = old {
            wanted = vec![old; SIZE + 5000];
            put(&target, &wanted);
        }
        wanted[from..to].copy_from_slice(&made[which].1[from..to]);
        let range = Extent::between(from as u64, to as u64);
        let leave = Leave { overwrite: true, dense, ..Leave::default() };
        let restore = Restore::prepare(&repo, &model.device, made[which].0).unwrap();
        let how = How { range: Some(range), differing, verify: true };
        let done = restore.run(&target, leave, how, &()).unwrap();
        prop_assert!(std::fs::read(&target).unwrap() == wanted);
        prop_assert!(done.written <= range.length && done.sound);
        let mut streamed = Vec::new();
        prop_assert_eq!(restore.stream(Some(range), &mut streamed, &()).unwrap(), range.length);
        prop_assert!(streamed == wanted[from..to]);
    }

    /// Exactly the blocks that differ are written, and a second time none.
    #[test]
    fn only_what_differs_is_written(
        which in 0usize..3, spoiled in prop::collection::vec((0usize..SIZE, 1usize..30_000, any::<u8>()), 0..8),
        length in prop_oneof![Just(SIZE), 1..2 * SIZE],
    ) {
        let dir = tempfile::tempdir().unwrap();
        let (repo, model, made) = three_points(&dir.path().join("r"));
        let (point, image) = &made[which];
        let mut before = image.clone();
        for (at, len, byte) in spoiled {
            before[at..(at + len).min(SIZE)].fill(byte);
        }
        before.resize(length, 0x5a);
        let target = dir.path().join("t");
        put(&target, &before);
        before.resize(SIZE, 0);
        let differing: usize =
            image.chunks(4096).zip(before.chunks(4096)).filter(|(a, b)| a != b).map(|(a, _)| a.len()).sum();
        let restore = Restore::prepare(&repo, &model.device, *point).unwrap();
        let how = How { differing: true, ..How::default() };
        let done = restore.run(&target, Leave::default(), how, &()).unwrap();
        prop_assert!(std::fs::read(&target).unwrap() == *image);
        prop_assert_eq!((done.written, done.compared), (differing as u64, Some(SIZE as u64)));
        let again = restore.run(&target, Leave::default(), how, &()).unwrap();
        prop_assert_eq!((again.written, again.compared), (0, Some(SIZE as u64)));
    }
}

#[test]
fn a_range_beyond_the_point_is_refused_and_nothing_is_touched() {
    let dir = tempfile::tempdir().unwrap();
    let (repo, _, _) = three_points(&dir.path().join("r"));
    drop(repo);
    let (folder, target) = (dir.path().join("r"), dir.path().join("t"));
    let base = ["restore", "--repo", folder.to_str().unwrap(), "--point", "latest", target.to_str().unwrap()];
    for range in ["0..1TiB", "1GiB.."] {
        let (code, out, said) = run(&[&base[..], &["--range", range]].concat());
        assert_eq!((code, out.len()), (Some(2), 0), "{said}");
        assert!(said.contains("range") && !target.exists(), "{said}");
    }
    let (code, _, said) = run(&[&base[..], &["--range", "4KiB..8KiB"]].concat());
    assert_eq!((code, target.metadata().unwrap().len()), (Some(0), SIZE as u64), "{said}");
}

/// Killed in the middle, gone on: the bytes of the point, and less than all of it written the second time.
#[test]
#[cfg(feature = "failpoints")]
fn a_restore_that_was_killed_is_gone_on_with() {
    const BIG: usize = 40 << 20;
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("r");
    let repo = Repository::create(folder.to_str().unwrap()).unwrap();
    let mut model = Model::new("disk", BIG);
    let all: Vec<(usize, usize, What)> = (0..20).map(|n| (n * 512, 512, What::Same(n as u8 + 1))).collect();
    model.back_up(&repo, None, &[&all]).unwrap();
    for step in [1, 3, 5] {
        let target = dir.path().join(format!("t{step}"));
        let words =
            ["restore", "--repo", folder.to_str().unwrap(), "--point", "latest", target.to_str().unwrap()];
        let killed =
            blkdelta(&words).env("BLKDELTA_FAILPOINT", format!("restore.written@{step}")).output().unwrap();
        assert_eq!(killed.status.code(), None, "{killed:?}");
        assert!(std::fs::read(&target).unwrap() != model.image, "killed too late: {step}");
        let (code, _, said) = run(&words);
        assert!(code == Some(1) && said.contains("--overwrite"), "a second time without a word: {said}");
        let (code, out, said) = run(&[&words[..], &["--resume", "--json"]].concat());
        assert_eq!(code, Some(0), "{said}");
        assert!(std::fs::read(&target).unwrap() == model.image, "{step}");
        let report: serde_json::Value = serde_json::from_slice(&out).unwrap();
        let written = report["written"].as_u64().unwrap();
        assert!(written > 0 && written < BIG as u64 && report["compared"] == BIG, "{report}");
    }
}

/// A file of the repository, and a file that no restore of the point has left: not touched.
#[test]
fn a_target_that_cannot_be_meant_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("r");
    let (_, _, made) = three_points(&folder);
    let (config, wrong) = (folder.join("repo.json"), dir.path().join("wrong"));
    put(&wrong, &[7; 9000]);
    for (target, how) in
        [(&config, "--overwrite"), (&config, "--resume"), (&config, "--to-same-device"), (&wrong, "--resume")]
    {
        let before = std::fs::read(target).unwrap();
        let base =
            ["restore", "--repo", folder.to_str().unwrap(), "--point", "latest", target.to_str().unwrap()];
        let (code, _, said) = run(&[&base[..], &[how]].concat());
        assert!(matches!(code, Some(1 | 2)) && said.contains("try:"), "{how}: {said}");
        assert!(std::fs::read(target).unwrap() == before, "{how}");
    }
    let base = ["restore", "--repo", folder.to_str().unwrap(), "--point", "latest", wrong.to_str().unwrap()];
    let (code, _, said) = run(&[&base[..], &["--resume", "--overwrite"]].concat());
    assert!(code == Some(0) && std::fs::read(&wrong).unwrap() == made[2].1, "{said}");
}

#[test]
fn cat_writes_the_bytes_and_ends_when_nobody_reads() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("r");
    let (_, _, made) = three_points(&folder);
    for (point, image) in &made {
        let id = point.to_string();
        let words = ["cat", "--repo", folder.to_str().unwrap(), "--point", &id];
        let (code, out, said) = run(&words);
        assert!(code == Some(0) && out == *image && said.is_empty(), "{said}");
        let (code, out, _) = run(&[&words[..], &["--range", "8191..1MiB"]].concat());
        assert!(code == Some(0) && out == image[8191..1 << 20]);
        let mut child = blkdelta(&words).spawn().unwrap();
        drop(child.stdout.take());
        let ended = child.wait_with_output().unwrap();
        let said = String::from_utf8_lossy(&ended.stderr);
        assert!(ended.status.code() == Some(1) && !said.contains("panicked"), "{said}");
    }
}

#[test]
fn export_makes_images_that_hold_the_point() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("r");
    let (_, _, made) = three_points(&folder);
    let (point, image) = &made[1];
    let (id, raw, qcow) = (point.to_string(), dir.path().join("x.raw"), dir.path().join("x.qcow2"));
    let words = |format, out: &Path| -> Vec<String> {
        let words = ["export", "--repo", folder.to_str().unwrap(), "--point", &id, "--format", format];
        words.iter().map(ToString::to_string).chain([out.display().to_string()]).collect()
    };
    let run = |words: Vec<String>| run(&words.iter().map(String::as_str).collect::<Vec<_>>());
    let (code, _, said) = run(words("raw", &raw));
    assert!(code == Some(0) && std::fs::read(&raw).unwrap() == *image, "{said}");
    let (code, _, said) = run(words("raw", &raw));
    assert!(code == Some(1) && said.contains("--overwrite"), "{said}");
    let nobody = blkdelta(&[]).args(words("qcow2", &qcow)).env("PATH", "/nowhere").output().unwrap();
    let said = String::from_utf8_lossy(&nobody.stderr).into_owned();
    assert!(nobody.status.code() == Some(1) && said.contains("qemu-img") && !qcow.exists(), "{said}");
    if Command::new("qemu-img").arg("--version").stdout(Stdio::null()).status().is_err() {
        println!(
            "SKIPPED: giving_back::export_makes_images_that_hold_the_point: qcow2: there is no qemu-img"
        );
        return;
    }
    for more in [&[][..], &["--compress", "--overwrite", "--json"]] {
        let (code, _, said) =
            run([words("qcow2", &qcow), more.iter().map(ToString::to_string).collect()].concat());
        assert_eq!(code, Some(0), "{said}");
        let mut compare = Command::new("qemu-img");
        // strict would compare what is allocated as well; the sizes must agree but for the rounding to a sector
        let same =
            compare.args(["compare", "-f", "raw", "-F", "qcow2"]).arg(&raw).arg(&qcow).output().unwrap();
        assert!(same.status.success(), "{}", String::from_utf8_lossy(&same.stdout));
    }
    let left = std::fs::read_dir(dir.path()).unwrap().count();
    assert_eq!(left, 3, "temporary files were left");
}

#[test]
fn diff_between_lists_what_the_points_differ_in() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("r");
    let (_, _, made) = three_points(&folder);
    assert!(open(&folder).is_ok());
    let [a, b] = [made[0].0.to_string(), made[2].0.to_string()];
    let words = ["diff", "--between", &a, &b, "--repo", folder.to_str().unwrap(), "--exact", "--json"];
    let (code, out, said) = run(&words);
    assert_eq!(code, Some(0), "{said}");
    let report: serde_json::Value = serde_json::from_slice(&out).unwrap();
    let blocks = made[0].1.chunks(4096).zip(made[2].1.chunks(4096));
    let differ: usize = blocks.filter(|(a, b)| a != b).map(|(a, _)| a.len()).sum();
    assert_eq!(report["total_bytes"], differ);
    let sum: u64 = report["extents"].as_array().unwrap().iter().map(|e| e["length"].as_u64().unwrap()).sum();
    assert_eq!(sum, differ as u64);
    let (code, out, _) = run(&["diff", "--between", &a, "latest", "--repo", folder.to_str().unwrap()]);
    assert!(code == Some(0) && String::from_utf8_lossy(&out).contains("extents"));
}

/// Every segment is read in one round of shares, damage in it is found then, and the place is kept without root.
#[test]
fn a_rotating_check_reads_everything_in_a_round() {
    let dir = tempfile::tempdir().unwrap();
    let (folder, home) = (dir.path().join("r"), dir.path().join("home"));
    drop(three_points(&folder));
    let check = |share: &str| {
        let words = ["check", "--repo", folder.to_str().unwrap(), share, "--json"];
        let ended = blkdelta(&words).env("BLKDELTA_HOME", &home).output().unwrap();
        let said = String::from_utf8_lossy(&ended.stderr).into_owned();
        let report: serde_json::Value = serde_json::from_slice(&ended.stdout).expect(&said);
        (ended.status.code(), report)
    };
    let (code, all) = check("--read-data");
    assert_eq!((code, all["share"]["position"].as_f64()), (Some(0), Some(1.0)));
    let mut frames = 0;
    let mut rounds = 0;
    for step in 0..3 {
        let (code, report) = check("--read-data=0.1%");
        assert_eq!(code, Some(0), "{report}");
        assert_eq!(report["share"]["segments"], 1, "{step}: {report}");
        frames += report["frames"].as_u64().unwrap();
        rounds += u32::from(report["share"]["position"] == 1.0);
    }
    assert_eq!((Some(frames), rounds), (all["frames"].as_u64(), 1));
    // one damaged segment of three: two shares do not see it, one does
    let victim = crate::partial::files(&folder.join("seg")).remove(1);
    crate::partial::damage(&victim, 2, 70);
    let mut codes: Vec<_> = (0..3).map(|_| check("--read-data=0.1%").0).collect();
    codes.sort_unstable();
    assert_eq!(codes, [Some(0), Some(0), Some(3)]);
}
