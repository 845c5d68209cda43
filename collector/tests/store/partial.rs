//! Best effort: whatever is missing or damaged, the rest is restored, and what is lost is named to the byte.

use crate::giving_back::{put, three_points};
use crate::model::Model;
use collector::block::{Extent, ExtentSet};
use collector::chain::Content;
use collector::error::{Kind, Result};
use collector::format::{DeviceId, FrameHash, PointId};
use collector::repository::Repository;
use collector::restore::{How, Leave, Restore, Restored};
use proptest::prelude::*;
use std::path::{Path, PathBuf};
use std::process::Command;

pub fn files(folder: &Path) -> Vec<PathBuf> {
    let mut found: Vec<PathBuf> = Vec::new();
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() { found.extend(files(&path)) } else { found.push(path) }
    }
    found.sort();
    found
}

/// Removes an object, cuts it short, or turns some of its bytes over.
pub fn damage(file: &Path, how: usize, at: usize) {
    let mut bytes = std::fs::read(file).unwrap();
    if bytes.is_empty() {
        return;
    }
    let at = at % bytes.len();
    match how {
        0 => return std::fs::remove_file(file).unwrap(),
        1 => bytes.truncate(at),
        _ => bytes[at] ^= 0x55,
    }
    put(file, &bytes);
}

fn whole(repo: &Repository, device: &DeviceId, point: PointId, target: &Path) -> Result<Restored> {
    Restore::prepare(repo, device, point)?.run(target, Leave::default(), How::default(), &())
}

/// Every byte is the point's, or lies in what is said to be lost and is what `else_` was there.
fn judge(target: &Path, lost: &ExtentSet, image: &[u8], else_: u8) {
    let got = std::fs::read(target).unwrap();
    assert_eq!(got.len(), image.len());
    for good in &lost.complement(image.len() as u64) {
        let range = good.offset as usize..good.end() as usize;
        assert!(got[range.clone()] == image[range], "{good:?} is called restored and is not");
    }
    for lost in lost {
        assert!(got[lost.offset as usize..lost.end() as usize].iter().all(|b| *b == else_), "{lost:?}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]
    #[test]
    fn what_is_not_called_lost_is_right(
        which in 0usize..3, merge in any::<bool>(),
        damages in prop::collection::vec((any::<usize>(), 0usize..3, any::<usize>()), 1..4),
    ) {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("r");
        let (repo, model, made) = three_points(&folder);
        let (point, image) = &made[which];
        if merge {
            let chain = collector::chain::Chain::resolve(&repo, &model.device, made[1].0).unwrap();
            chain.merge(&repo.lock(&model.device).unwrap()).unwrap();
        }
        // without the point's own manifest nothing is known
        let own = point.to_string();
        let all = files(&folder).into_iter();
        let all: Vec<_> = all.filter(|f| !f.starts_with(folder.join("lock")) && !f.ends_with("repo.json")
            && !f.ends_with(format!("bak/disk/{own}.json"))).collect();
        for (file, how, at) in damages {
            let file = &all[file % all.len()];
            if file.exists() {
                damage(file, how, at);
            }
        }
        let target = dir.path().join("t");
        let restored = Restore::prepare_partial(&repo, &model.device, *point).unwrap()
            .run(&target, Leave::default(), How { verify: true, ..How::default() }, &()).unwrap();
        judge(&target, &restored.lost, image, 0);
        prop_assert_eq!(restored.sound, restored.lost.is_empty());
        // what is lost is lost: without --partial that is an error; and nothing is called lost without need
        let strict = whole(&repo, &model.device, *point, &dir.path().join("s"));
        prop_assert_eq!(strict.is_ok(), restored.lost.is_empty(), "{:?} {:?}", strict.err(), restored.lost);
        // over what is there, it stays
        put(&target, &vec![0xee; image.len()]);
        let how = How { differing: true, verify: true, ..How::default() };
        let restored = Restore::prepare_partial(&repo, &model.device, *point).unwrap()
            .run(&target, Leave::default(), how, &()).unwrap();
        judge(&target, &restored.lost, image, 0xee);
    }
}

/// One frame of a segment is damaged: its bytes are lost and no others, and only in the points that show it.
#[test]
fn one_frame_is_lost_and_no_more() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("r");
    let (repo, model, made) = three_points(&folder);
    let first = files(&folder.join("seg")).into_iter().max_by_key(|f| f.metadata().unwrap().len()).unwrap();
    damage(&first, 2, 64 + 5); // in the first frame: blocks 0 to 15 of the full
    let lost = |n: usize| {
        let restore = Restore::prepare_partial(&repo, &model.device, made[n].0).unwrap();
        let target = dir.path().join(format!("t{n}"));
        let done = restore.run(&target, Leave::default(), How::default(), &()).unwrap();
        judge(&target, &done.lost, &made[n].1, 0);
        assert!(!done.sound && done.lost_because.iter().any(|why| why.contains("seg/")), "{done:?}");
        done.lost.iter().map(|e| (e.offset / 4096, e.length / 4096)).collect::<Vec<_>>()
    };
    assert_eq!(lost(0), [(0, 16)]);
    // its blocks 3 and 4 are zero later, then block 0 and block 4 are new
    assert_eq!(lost(1), [(0, 3), (5, 11)]);
    assert_eq!(lost(2), [(1, 2), (5, 11)]);
    let strict = whole(&repo, &model.device, made[2].0, &dir.path().join("s")).unwrap_err();
    assert_eq!(strict.kind(), Kind::Damaged);
    assert!(strict.advice().unwrap_or_default().contains("--partial"), "{strict:?}");
}

/// The parent's manifest is gone: only what the point itself stores is known.
#[test]
fn without_its_parent_a_point_gives_what_it_stores() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("r");
    let (repo, model, made) = three_points(&folder);
    std::fs::remove_file(folder.join(format!("bak/disk/{}.json", made[1].0))).unwrap();
    let restore = Restore::prepare_partial(&repo, &model.device, made[2].0).unwrap();
    let target = dir.path().join("t");
    let done = restore.run(&target, Leave::default(), How::default(), &()).unwrap();
    judge(&target, &done.lost, &made[2].1, 0);
    let size = made[2].1.len() as u64;
    let own: ExtentSet = [(0, 1), (4, 1), (96, 20), (643, 1)]
        .map(|(first, blocks)| Extent::between(first * 4096, ((first + blocks) * 4096).min(size)))
        .into_iter()
        .collect();
    assert_eq!(done.lost, own.complement(size));
    let part = How { range: Some(Extent::new(96 * 4096, 4096)), ..How::default() };
    assert!(restore.run(&dir.path().join("p"), Leave::default(), part, &()).unwrap().lost.is_empty());
}

/// On ext4 the file whose content is lost is named, and no other.
#[test]
fn the_files_that_lost_something_are_named() {
    const NAME: &str = "partial::the_files_that_lost_something_are_named";
    let there = |tool: &str| Command::new(tool).arg("-V").output().is_ok();
    if !there("mkfs.ext4") || !there("debugfs") {
        println!("SKIPPED: {NAME}: there is no mkfs.ext4 or no debugfs");
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let (tree, disk, folder) = (dir.path().join("tree"), dir.path().join("disk"), dir.path().join("r"));
    std::fs::create_dir_all(tree.join("inner folder")).unwrap();
    let content = |seed: u8| {
        (0..200_000u32).map(move |i| FrameHash::of(&[&i.to_le_bytes()[..], &[seed]].concat()).0 as u8)
    };
    for (n, name) in ["a", "inner folder/b c", "d"].into_iter().enumerate() {
        put(&tree.join(name), &content(n as u8).collect::<Vec<u8>>());
    }
    std::fs::File::create(&disk).and_then(|file| file.set_len(16 << 20)).unwrap();
    let mut mkfs = Command::new("mkfs.ext4");
    let made = mkfs.args(["-q", "-b", "4096", "-d"]).args([&tree, &disk]).output().unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));

    let repo = Repository::create(folder.to_str().unwrap()).unwrap();
    let mut model = Model::new("disk", 0);
    model.image = std::fs::read(&disk).unwrap();
    let point = model.back_up_whole(&repo).unwrap().point;
    // the last whole block of `b c`, and the frame that holds it
    let block: Vec<u8> = content(1).skip(47 * 4096).take(4096).collect();
    let at = model.image.chunks(4096).position(|b| b == block).unwrap() as u64 * 4096;
    let chain = collector::chain::Chain::resolve(&repo, &model.device, point).unwrap();
    let piece =
        chain.pieces().unwrap().map(Result::unwrap).find(|p| p.extent.offset <= at && at < p.extent.end());
    let Some(Content::Stored(stored)) = piece.map(|p| p.content) else { panic!("the block is not stored") };
    let segment = stored.segment.to_string();
    let segment = files(&folder.join("seg")).into_iter().find(|f| f.ends_with(&segment)).unwrap();
    damage(&segment, 2, stored.offset as usize);

    let target = dir.path().join("t");
    let restore = Restore::prepare_partial(&repo, &model.device, point).unwrap();
    let done = restore.run(&target, Leave::default(), How::default(), &()).unwrap();
    judge(&target, &done.lost, &model.image, 0);
    assert!(done.lost_files.contains(&"/inner folder/b c".to_owned()), "{done:?}");
    // a frame of 16 blocks may hold the end of one file and the beginning of another, but not all three
    assert!(done.lost_files.len() < 3, "{done:?}");
}
