//! What is said to differ between two points, against comparing their bytes.

use super::*;

/// Blocks in which two images differ; what only the longer one has, does.
fn naive(a: &[u8], b: &[u8]) -> ExtentSet {
    let block = |n: usize, image: &[u8]| image.chunks(4096).nth(n).map(<[u8]>::to_vec);
    let size = a.len().max(b.len());
    let differs = (0..size.div_ceil(4096)).filter(|&n| block(n, a) != block(n, b));
    differs.map(|n| Extent::between(n as u64 * 4096, (n as u64 * 4096 + 4096).min(size as u64))).collect()
}

fn found(repo: &Repository, a: PointId, b: PointId, exact: bool) -> Between {
    let chain = |point| Chain::resolve(repo, &device().id, point).unwrap();
    between(&chain(a), &chain(b), exact, &mut |_| Ok(())).unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(16))]
    #[test]
    fn nothing_that_differs_is_left_out(
        points in prop::collection::vec((any::<bool>(), any::<bool>(), prop::collection::vec(pass(), 1..3)), 2..6),
    ) {
        let dir = tempfile::tempdir().unwrap();
        let repo = Repository::create(dir.path().to_str().unwrap()).unwrap();
        let lock = repo.lock(&device().id).unwrap();
        let mut image = vec![0; SIZE];
        let mut made: Vec<(PointId, Vec<u8>)> = Vec::new();
        for (n, (full, merge, passes)) in points.iter().enumerate() {
            let parent = made.last().map(|m| m.0).filter(|_| !full);
            let mut writer = repo.begin(&lock, new_point(parent)).unwrap();
            for (i, pass) in passes.iter().enumerate() {
                // a full holds everything, in the cells it is cut into
                let all = [(0, SIZE.div_ceil(4096), 0)];
                let frames = if parent.is_none() && i == 0 { apply(&mut image, &all) } else { Vec::new() };
                let frames = [frames, apply(&mut image, pass)];
                for frames in frames.into_iter().filter(|f| !f.is_empty()) {
                    writer.start_pass().unwrap();
                    frames.into_iter().for_each(|frame| writer.add(frame).unwrap());
                }
            }
            let point = writer.finish(info(n as u64)).unwrap().point;
            if *merge {
                Chain::resolve(&repo, &device().id, point).unwrap().merge(&lock).unwrap();
            }
            made.push((point, image.clone()));
        }
        for (a, before) in &made {
            for (b, after) in &made {
                let truth = naive(before, after);
                let exactly = found(&repo, *a, *b, true);
                prop_assert_eq!(&exactly.extents, &truth);
                let loosely = found(&repo, *a, *b, false);
                prop_assert!(truth.subtract(&loosely.extents).is_empty(), "{:?} misses some of {:?}", loosely, truth);
                let cells = truth.align_out(CELL as u64, SIZE as u64);
                prop_assert!(loosely.extents.subtract(&cells).is_empty(), "{:?} against {:?}", loosely, truth);
                prop_assert!(loosely.read <= exactly.read);
            }
        }
    }
}

/// Hashes of frames that were cut alike need no content: the segments may even be gone.
#[test]
fn where_hashes_can_tell_nothing_is_read() {
    let dir = tempfile::tempdir().unwrap();
    let repo = Repository::create(dir.path().to_str().unwrap()).unwrap();
    let lock = repo.lock(&device().id).unwrap();
    let mut image = vec![0; SIZE];
    let mut point = |pass: &[Write]| {
        let mut writer = repo.begin(&lock, new_point(None)).unwrap();
        apply(&mut image, pass).into_iter().for_each(|frame| writer.add(frame).unwrap());
        writer.finish(info(0)).unwrap().point
    };
    let a = point(&[(0, 48, 7)]);
    let b = point(&[(0, 48, 7), (20, 1, 9)]);
    std::fs::remove_dir_all(dir.path().join("seg")).unwrap();
    let differs = found(&repo, a, b, false);
    assert_eq!(differs.extents.iter().copied().collect::<Vec<_>>(), [Extent::new(CELL as u64, CELL as u64)]);
    assert_eq!(differs.read, 0);
    let chain = |point| Chain::resolve(&repo, &device().id, point).unwrap();
    assert_eq!(between(&chain(a), &chain(b), true, &mut |_| Ok(())).unwrap_err().kind(), Kind::Damaged);
}

#[test]
fn what_only_the_larger_point_has_differs() {
    let dir = tempfile::tempdir().unwrap();
    let repo = Repository::create(dir.path().to_str().unwrap()).unwrap();
    let lock = repo.lock(&device().id).unwrap();
    let grown = Extent::new(SIZE as u64, 70_000);
    let point = |size: u64| {
        let mut new = new_point(None);
        new.geometry.size = size;
        repo.begin(&lock, new).unwrap().finish(info(0)).unwrap().point
    };
    let (small, large) = (point(SIZE as u64), point(grown.end()));
    for (a, b) in [(small, large), (large, small)] {
        assert_eq!(found(&repo, a, b, true).extents, std::iter::once(grown).collect());
    }
}
