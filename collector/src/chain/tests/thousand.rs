//! A chain of a thousand points against a naive model: each point looked at is the device as it was.

use super::*;

const LINKS: usize = 1000;

/// In memory where that is possible: a thousand points are some thousand syncs.
fn folder() -> tempfile::TempDir {
    tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2))]
    #[test]
    fn every_point_of_a_long_chain_is_the_device_as_it_was(
        seed in any::<u64>(), looked_at in prop::collection::btree_set(0..LINKS, 6), merged in 100..LINKS,
    ) {
        let dir = folder();
        let repo = Repository::create(dir.path().to_str().unwrap()).unwrap();
        let lock = repo.lock(&device().id).unwrap();
        let mut image = vec![0; SIZE];
        let (mut parent, mut kept) = (None, Vec::new());
        for n in 0..LINKS {
            let any = |salt: u64| FrameHash::of(&[seed, n as u64, salt].map(u64::to_le_bytes).concat()).0 as usize;
            let full = [(0, 54, 200)];
            let writes = [(any(1) % 54, 1 + any(2) % 4, any(3) as u8), (any(4) % 54, 1, 0)];
            let pass = if n == 0 { &full[..] } else { &writes[..1 + n % 2] };
            let mut writer = repo.begin(&lock, new_point(parent)).unwrap();
            apply(&mut image, pass).into_iter().for_each(|frame| writer.add(frame).unwrap());
            let point = writer.finish(info(n as u64)).unwrap().point;
            parent = Some(point);
            if looked_at.contains(&n) || [0, merged, LINKS - 1].contains(&n) {
                kept.push((n, point, image.clone()));
            }
        }
        let ensure = |after: &str| -> Result<(), TestCaseError> {
            for (n, point, wanted) in &kept {
                let chain = Chain::resolve(&repo, &device().id, *point).unwrap();
                prop_assert!(restore(&chain) == *wanted, "point {} {}", n, after);
                let part = Extent::new(17 * 4096, 9 * 4096);
                let pieces: Vec<Piece> = chain.pieces_in(part).unwrap().map(Result::unwrap).collect();
                let mut bytes = vec![0; SIZE];
                repo.read_pieces(&pieces, &mut |extent, content| {
                    bytes[extent.offset as usize..extent.end() as usize].copy_from_slice(content);
                    Ok(())
                }).unwrap();
                let range = part.offset as usize..part.end() as usize;
                prop_assert!(bytes[range.clone()] == wanted[range], "a part of point {} {}", n, after);
            }
            Ok(())
        };
        ensure("as made")?;
        let point = kept.iter().find(|(n, ..)| *n == merged).unwrap().1;
        Chain::resolve(&repo, &device().id, point).unwrap().merge(&lock).unwrap();
        ensure("with a point in the middle merged")?;
        let last = Chain::resolve(&repo, &device().id, parent.unwrap()).unwrap();
        prop_assert_eq!(last.points().len(), LINKS - merged);
    }
}
