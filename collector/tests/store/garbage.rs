//! Garbage in any stored file: an error or a damage report; never a panic, never wrong data.

use crate::model::{Model, What, open, restore};
use collector::error::Kind;
use collector::format::{DeviceId, ObjectKind, PointId, Trailer};
use collector::repository::{Repository, check};
use std::fs;
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

struct Rig {
    dir: tempfile::TempDir,
    /// Point and what it must give back.
    points: Vec<(DeviceId, PointId, Vec<u8>)>,
}

fn rig() -> Rig {
    let dir = tempfile::tempdir().unwrap();
    let repo = Repository::create(dir.path().to_str().unwrap()).unwrap();
    let mut points = Vec::new();
    for (name, seed) in [("a", 1), ("b", 2)] {
        let mut model = Model::new(name, 6 * 65536 + 4096 + 512);
        let mut parent = None;
        for n in 0..2u8 {
            let first: &[_] = &[(n as usize, 20, What::Noise(seed + n)), (40, 30, What::Same(seed + n))];
            let second: &[_] = &[(10, 9, What::Same(77)), (60, 4, What::Zero), (96, 2, What::Noise(3))];
            let manifest = model.back_up(&repo, parent, &[first, second]).unwrap();
            parent = Some(manifest.point);
            points.push((model.device.clone(), manifest.point, model.image.clone()));
        }
    }
    let rig = Rig { dir, points };
    assert!(rig.problems().is_empty());
    rig
}

impl Rig {
    fn path(&self) -> &Path {
        self.dir.path()
    }

    fn objects(&self) -> Vec<PathBuf> {
        let mut found = Vec::new();
        let mut folders = vec![self.path().to_owned()];
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(folder).unwrap().map(Result::unwrap) {
                match entry.file_type().unwrap().is_dir() {
                    true => folders.push(entry.path()),
                    false => found.push(entry.path()),
                }
            }
        }
        found.retain(|p| !p.starts_with(self.path().join("lock")));
        found.sort();
        found
    }

    /// What open, list, restore of every point and check complain about. Panics on wrong data.
    fn problems(&self) -> Vec<String> {
        let repo = match open(self.path()) {
            Ok(repo) => repo,
            Err(e) => return vec![format!("open: {e}")],
        };
        let mut problems = Vec::new();
        repo.points().unwrap();
        for (device, point, shadow) in &self.points {
            match restore(&repo, device, *point) {
                Ok(image) => assert!(image == *shadow, "wrong data restored"),
                Err(e) => {
                    assert!(matches!(e.kind(), Kind::Damaged | Kind::Incompatible | Kind::NotFound), "{e:?}");
                    problems.push(format!("restore {point}: {e}"));
                }
            }
        }
        check(&repo, false, &mut |_, _| {}).unwrap();
        let report = check(&repo, true, &mut |_, _| {}).unwrap();
        problems.extend(report.damages.iter().map(|d| format!("check: {} {}", d.object, d.what)));
        problems
    }

    /// Runs `harm` on a file, demands a complaint, and puts the file back.
    fn must_notice(&self, path: &Path, what: &str, harm: impl FnOnce(&mut Vec<u8>)) {
        let good = fs::read(path).unwrap();
        let mut bad = good.clone();
        harm(&mut bad);
        put(path, &bad);
        assert!(!self.problems().is_empty(), "{what} in {} was not noticed", path.display());
        put(path, &good);
    }
}

fn put(path: &Path, bytes: &[u8]) {
    fs::File::create(path).and_then(|mut f| f.write_all(bytes)).unwrap();
}

#[test]
fn a_flipped_bit_anywhere_is_noticed() {
    let rig = rig();
    for path in rig.objects() {
        let bits = fs::read(&path).unwrap().len() * 8;
        // both ends densely, the middle thinly; the steps are odd so that every bit of a byte has its turn
        let ends = (0..64 * 8).step_by(29).chain((bits.saturating_sub(56 * 8)..bits).step_by(23));
        for bit in ends.chain((0..bits).step_by((bits / 15) | 1)) {
            rig.must_notice(&path, &format!("bit {bit}"), |bytes| bytes[bit / 8] ^= 1 << (bit % 8));
        }
    }
}

#[test]
fn a_cut_or_grown_file_is_noticed() {
    let rig = rig();
    for path in rig.objects() {
        let len = fs::read(&path).unwrap().len();
        for keep in [0, 1, 10, 63, 64, 65, 119, 120, 121, len / 2, len - 57, len - 56, len - 1] {
            rig.must_notice(&path, &format!("cut at {keep}"), |bytes| bytes.truncate(keep.min(len - 1)));
        }
        rig.must_notice(&path, "one byte more", |bytes| bytes.push(0));
        rig.must_notice(&path, "itself twice", |bytes| bytes.extend_from_within(..));
        rig.must_notice(&path, "zeros", |bytes| bytes.fill(0));
        rig.must_notice(&path, "noise", |bytes| {
            bytes.iter_mut().enumerate().for_each(|(i, b)| *b = (i * 167 + 13) as u8);
        });
    }
}

#[test]
fn a_missing_file_is_noticed() {
    let rig = rig();
    // a spare is there once more already
    for path in rig.objects().into_iter().filter(|path| !path.starts_with(rig.path().join("spare"))) {
        let good = fs::read(&path).unwrap();
        fs::remove_file(&path).unwrap();
        assert!(!rig.problems().is_empty(), "{}", path.display());
        put(&path, &good);
    }
}

#[test]
fn two_files_in_each_others_place_are_noticed() {
    let rig = rig();
    let objects = rig.objects();
    for (i, a) in objects.iter().enumerate() {
        for b in &objects[i + 1..] {
            let (x, y) = (fs::read(a).unwrap(), fs::read(b).unwrap());
            if x == y {
                continue;
            }
            put(a, &y);
            put(b, &x);
            assert!(!rig.problems().is_empty(), "{} and {}", a.display(), b.display());
            put(a, &x);
            put(b, &y);
        }
    }
    assert!(rig.problems().is_empty());
}

#[test]
fn an_object_of_another_repository_is_noticed() {
    let (rig, other) = (rig(), rig());
    let (ours, theirs) = (rig.objects(), other.objects());
    for (path, foreign) in ours.iter().zip(&theirs) {
        if path.ends_with("repo.json") {
            continue;
        }
        let foreign = fs::read(foreign).unwrap();
        rig.must_notice(path, "another repository's object", |bytes| *bytes = foreign);
    }
    // all of it under our repo.json: every object says whose it is
    let foreign = fs::read(other.path().join("repo.json")).unwrap();
    rig.must_notice(&rig.path().join("repo.json"), "another identity", |bytes| *bytes = foreign);
}

#[test]
fn a_report_names_the_points_that_are_harmed() {
    let rig = rig();
    let repo = open(rig.path()).unwrap();
    let full = &rig.points[0];
    let manifest = repo.manifest(&full.0, full.1).unwrap().0;
    let index = rig.path().join("idx").join(manifest.device.id.as_str()).join(manifest.point.to_string());
    fs::remove_file(index).unwrap();
    let report = check(&repo, false, &mut |_, _| {}).unwrap();
    // the full and the increment on it, and nothing of the other device
    let harmed: Vec<PointId> = rig.points[..2].iter().map(|p| p.1).collect();
    assert_eq!(report.damages.len(), 1);
    assert_eq!(report.damages[0].points, harmed);
    assert!(restore(&repo, &rig.points[3].0, rig.points[3].1).unwrap() == rig.points[3].2);
}

/// Museum M29: nothing in a file name or in a manifest leads out of the repository.
#[test]
fn names_that_are_no_names_are_reported_and_not_followed() {
    let rig = rig();
    fs::create_dir_all(rig.path().join("bak/(")).unwrap();
    put(&rig.path().join("bak/(/x.json"), b"{}");
    put(&rig.path().join("bak/a/zz.json"), b"{}");
    let repo = open(rig.path()).unwrap();
    assert_eq!(repo.points().unwrap().len(), rig.points.len());
    let report = check(&repo, false, &mut |_, _| {}).unwrap();
    assert_eq!(report.damages.len(), 2, "{:?}", report.damages);
    for name in ["../../etc/passwd", "", "(", "01J", "latest/../latest"] {
        assert_eq!(repo.resolve(name, None).unwrap_err().kind(), Kind::Usage, "{name}");
    }
}

/// A file that is all holes may say of itself that it is a tebibyte long: no memory is taken on its word.
#[test]
fn a_footer_of_holes_takes_no_memory() {
    const LONG: u64 = 1 << 40;
    let rig = rig();
    let (device, point, _) = &rig.points[3];
    let mut manifest = open(rig.path()).unwrap().manifest(device, *point).unwrap().0;
    let index = rig.path().join(format!("idx/{device}/{point}"));
    let trailer = Trailer { footer_at: 64, footer_len: LONG - 64 - 56, count: 0, footer_hash: 0 };
    let file = fs::File::options().write(true).open(&index).unwrap();
    file.set_len(LONG).unwrap();
    file.write_all_at(&trailer.encode(ObjectKind::Index), LONG - 56).unwrap();
    (manifest.index.len, manifest.index.chunks) = (LONG, 0);
    put(&rig.path().join(format!("bak/{device}/{point}.json")), &manifest.encode().unwrap());
    let repo = open(rig.path()).unwrap();
    assert_eq!(restore(&repo, device, *point).unwrap_err().kind(), Kind::Damaged);
    assert!(!check(&repo, false, &mut |_, _| {}).unwrap().damages.is_empty());
}
