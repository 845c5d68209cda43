//! Repairs of an encrypted repository, by who reads content and by who does not; and what one bad segment costs.

use crate::model::{What, restore};
use crate::sealed::{Hand, Sealed, all_restore, put, three_points};
use collector::format::Credential;
use std::fs;

/// Indexes of before and after a change of keys, built again by a host that cannot read content; and by the owner.
#[test]
fn a_host_rebuilds_what_it_cannot_read_also_of_before_a_change_of_keys() {
    let sealed = Sealed::new();
    let owner = sealed.owner();
    let (mut model, mut points) = three_points(&owner);
    let opened = owner.open_ring(&Credential::Private(sealed.owner.clone())).unwrap().rotated().unwrap();
    owner.change_ring(&opened).unwrap();
    let host = sealed.by(&Hand::Write(opened.write_key().unwrap())).unwrap();
    let parent = points.last().map(|(point, _)| *point);
    let made = model.back_up(&host, parent, &[&[(20, 9, What::Noise(9))]]).unwrap();
    points.push((made.point, model.image.clone()));
    for repo in [host, sealed.owner()] {
        let before = sealed.files();
        for index in sealed.only("idx") {
            fs::remove_file(index).unwrap();
        }
        let done = collector::chain::repair(&repo, false, &mut |_, _, _| {}).unwrap();
        assert!(done.rebuilt.len() == 4 && done.lost.is_empty(), "{done:?}");
        assert!(sealed.files() == before, "an index is not what it was");
        all_restore(&sealed.owner(), &model, &points);
    }
}

/// A segment that names a session which a stranger made up for its point takes no other segment of the point with it.
#[test]
fn a_made_up_session_in_one_segment_spoils_no_other() {
    use collector::seal::{Keys, Secret};
    let sealed = Sealed::new();
    let owner = sealed.owner();
    let (model, points) = three_points(&owner);
    let full = owner.points().unwrap()[0].id;
    let stranger = Keys::writer(
        owner.uuid().to_bytes(),
        sealed.owner.public().unwrap(),
        vec![Secret::from_bytes([9; 32])],
    );
    let forged = stranger.unwrap().session(full.to_bytes()).unwrap().record();
    let file = sealed.only("seg").into_iter().max_by_key(|f| f.metadata().unwrap().len()).unwrap();
    let good = fs::read(&file).unwrap();
    let mut bad = good.clone();
    assert_eq!(bad[68..84], full.to_bytes());
    bad[68..168].copy_from_slice(&forged.0);
    let other = sealed.owner();
    put(&file, &bad).unwrap();
    // the made-up key is the one that this reader knows first
    assert!(restore(&other, &model.device, full).is_err());
    put(&file, &good).unwrap();
    all_restore(&other, &model, &points);
}
