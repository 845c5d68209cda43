//! Who opens a ring and who does not, and what a store that lies can do with one.

use super::*;
use zeroize::Zeroizing;

fn words(text: &str) -> Passphrase {
    Passphrase::new(Zeroizing::new(text.to_owned())).unwrap()
}

fn with_words(text: &str) -> Credential {
    Credential::Passphrase(words(text))
}

fn ring(text: &str, more: Option<PublicKey>) -> Opened {
    let mut keys = vec![(NewKey::Passphrase(words(text)), "mine".to_owned())];
    keys.extend(more.map(|public| (NewKey::Recipient(public), "theirs".to_owned())));
    KeyRing::create(RepositoryId::generate(), keys).unwrap()
}

/// As a program that starts anew reads it.
fn again(opened: &Opened) -> KeyRing {
    KeyRing::decode(&opened.ring().encode().unwrap()).unwrap()
}

#[test]
fn every_key_opens_the_same_masters_and_no_other_does() {
    let theirs = PrivateKey::generate().unwrap();
    let made = ring("one", Some(theirs.public().unwrap())).with(NewKey::Passphrase(words("two")), "b".into());
    let made = made.unwrap().rotated().unwrap();
    let public = *made.keys().unwrap().public();
    for credential in [with_words("one"), with_words("two"), Credential::Private(theirs)] {
        let opened = again(&made).open(&credential).unwrap();
        assert_eq!(*opened.keys().unwrap().public(), public);
        assert_eq!(opened.keys().unwrap().metadata().generation(), 2);
        let names: Vec<String> = opened.list().into_iter().map(|key| key.name).collect();
        assert_eq!(names, ["mine", "theirs", "b"]);
    }
    assert_eq!(again(&made).open(&with_words("three")).err().unwrap().kind(), Kind::Denied);
    let stranger = Credential::Private(PrivateKey::generate().unwrap());
    assert_eq!(again(&made).open(&stranger).err().unwrap().kind(), Kind::Denied);
    let text = String::from_utf8(made.ring().encode().unwrap()).unwrap();
    assert!(!text.contains("theirs") && !text.contains("mine"), "names are for holders of a key");
}

#[test]
fn a_removed_key_opens_no_more_and_the_last_one_stays() {
    let made = ring("one", None).with(NewKey::Passphrase(words("two")), String::new()).unwrap();
    let first = made.list()[0].id;
    let after = made.without(first).unwrap().rotated().unwrap();
    assert_eq!(again(&after).open(&with_words("one")).err().unwrap().kind(), Kind::Denied);
    let opened = again(&after).open(&with_words("two")).unwrap();
    // what was written before can still be read
    let before = made.keys().unwrap().session([1; 16]).unwrap();
    assert!(opened.keys().unwrap().frame_key(&before.record()).is_ok());
    // and what is written now not by who was removed
    let now = opened.keys().unwrap().session([1; 16]).unwrap();
    assert!(made.keys().unwrap().frame_key(&now.record()).is_err());
    assert_eq!(after.without(after.list()[0].id).err().unwrap().kind(), Kind::Usage);
    assert_eq!(after.without(first).err().unwrap().kind(), Kind::NotFound);
}

/// Attack: somebody who holds the store, but no key, makes a ring to whose master he knows the private half.
#[test]
fn a_ring_of_a_stranger_is_not_believed() {
    let mine = ring("one", None);
    let repository = mine.ring().repository;
    let stranger = PrivateKey::generate().unwrap();
    // a ring of his own with my passphrase's key in it, to which he seals his master
    let mut slot = mine.ring().keys[0].clone();
    slot.master = sealed_master(repository, &slot.public, &stranger).unwrap();
    for masters in [vec![stranger.clone()], vec![PrivateKey::generate().unwrap(), stranger.clone()]] {
        let forged = build(repository, 2, vec![slot.clone()], masters, BTreeMap::new()).unwrap();
        let failure = again(&forged).open(&with_words("one")).err().unwrap();
        assert_eq!(failure.kind(), Kind::Damaged, "{failure:?}");
    }
    // my first master's public half in his list, without its voucher
    let mut forged = build(repository, 2, vec![slot], vec![stranger.clone()], BTreeMap::new()).unwrap().ring;
    forged.generations.insert(0, mine.ring().generations[0].clone());
    forged.proof = Bytes64(stranger.secret().vouch("ring", &[&forged.unproved().unwrap()]).to_vec());
    assert_eq!(forged.open(&with_words("one")).err().unwrap().kind(), Kind::Damaged);
}

#[test]
fn whatever_is_changed_in_a_ring_is_noticed() {
    let theirs = PrivateKey::generate().unwrap();
    let made = ring("one", Some(theirs.public().unwrap())).rotated().unwrap();
    let credential = Credential::Private(theirs);
    let good = made.ring().clone();
    assert!(good.open(&credential).is_ok());
    let other = ring("two", None).ring().clone();
    type Change = fn(&mut KeyRing, &KeyRing);
    let changes: [(&str, Change); 7] = [
        ("repository", |r, o| r.repository = o.repository),
        ("number", |r, _| r.number += 1),
        ("generation", |r, o| r.generations[0] = o.generations[0].clone()),
        ("order", |r, _| r.generations.swap(0, 1)),
        ("a key more", |r, o| r.keys.push(o.keys[0].clone())),
        ("a key less", |r, _| drop(r.keys.remove(0))),
        ("inside", |r, o| r.inside = o.inside.clone()),
    ];
    for (what, change) in changes {
        let mut bad = good.clone();
        change(&mut bad, &other);
        assert_eq!(bad.open(&credential).err().map(|e| e.kind()), Some(Kind::Damaged), "{what}");
    }
}

/// Attack: numbers that would take all memory or run for ever.
#[test]
fn a_ring_that_asks_for_too_much_is_refused_when_it_is_read() {
    let good = ring("one", None).ring().clone();
    let stretch = |change: fn(&mut Stretch)| {
        let mut bad = good.clone();
        if let Some(wrapped) = &mut bad.keys[0].passphrase {
            change(&mut wrapped.stretch);
        }
        KeyRing::decode(&bad.encode().unwrap()).map(drop)
    };
    assert!(stretch(|_| ()).is_ok());
    assert_eq!(stretch(|s| s.memory_kib = 1 << 30).unwrap_err().kind(), Kind::Damaged);
    assert_eq!(stretch(|s| s.passes = 1 << 30).unwrap_err().kind(), Kind::Damaged);
    assert_eq!(stretch(|s| s.lanes = 1 << 20).unwrap_err().kind(), Kind::Damaged);
    let mut many = good.clone();
    many.keys = vec![good.keys[0].clone(); MOST_KEYS + 1];
    assert_eq!(KeyRing::decode(&many.encode().unwrap()).unwrap_err().kind(), Kind::Damaged);
    many.keys.clear();
    assert_eq!(KeyRing::decode(&many.encode().unwrap()).unwrap_err().kind(), Kind::Damaged);
}
