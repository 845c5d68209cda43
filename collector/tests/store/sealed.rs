//! An encrypted repository: who can read it and who cannot, what it shows, and what a store that lies can do.

use crate::model::{Model, What, restore};
use collector::error::{Error, Kind, Result};
use collector::format::{Credential, DeviceId, NewKey, Opened, PointId, WriteKey};
use collector::repository::{KeySource, NoKey, PointState, Repository, check};
use collector::seal::{Passphrase, PrivateKey, Rights};
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use zeroize::Zeroizing;

const SIZE: usize = 4 << 20;

/// A key in somebody's hand.
pub enum Hand {
    Words(&'static str),
    Private(PrivateKey),
    Write(WriteKey),
}

impl KeySource for Hand {
    fn meant(&self) -> bool {
        true
    }

    fn credential(&self) -> Result<Credential> {
        Ok(match self {
            Self::Words(text) => Credential::Passphrase(words(text)),
            Self::Private(key) => Credential::Private(key.clone()),
            Self::Write(key) => Credential::Write(key.clone()),
        })
    }
}

pub fn words(text: &str) -> Passphrase {
    Passphrase::new(Zeroizing::new(text.to_owned())).unwrap()
}

/// An encrypted repository in a folder of its own.
pub struct Sealed {
    pub dir: tempfile::TempDir,
    pub opened: Opened,
    pub owner: PrivateKey,
}

impl Sealed {
    /// Opened by an owner's private key: no passphrase has to be worked out.
    pub fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let owner = PrivateKey::generate().unwrap();
        let key = NewKey::Recipient(owner.public().unwrap());
        let made = Repository::create_with(dir.path().to_str().unwrap(), vec![(key, "owner".into())]);
        let opened = made.unwrap().1.unwrap();
        Self { dir, opened, owner }
    }

    pub fn path(&self) -> &Path {
        self.dir.path()
    }

    pub fn by(&self, hand: &dyn KeySource) -> Result<Repository> {
        Repository::open_with(self.path().to_str().unwrap(), hand)
    }

    pub fn owner(&self) -> Repository {
        self.by(&Hand::Private(self.owner.clone())).unwrap()
    }

    pub fn write_key(&self) -> WriteKey {
        self.opened.write_key().unwrap()
    }

    /// Every file in it, with its bytes.
    pub fn files(&self) -> Vec<(PathBuf, Vec<u8>)> {
        files(self.path())
    }

    pub fn only(&self, part: &str) -> Vec<PathBuf> {
        let within = |path: &PathBuf| path.strip_prefix(self.path()).is_ok_and(|p| p.starts_with(part));
        self.files().into_iter().map(|(path, _)| path).filter(within).collect()
    }
}

pub fn put(path: impl AsRef<Path>, bytes: impl AsRef<[u8]>) -> std::io::Result<()> {
    fs::File::create(path).and_then(|mut file| file.write_all(bytes.as_ref()))
}

fn files(folder: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(files(&path));
        } else {
            let bytes = fs::read(&path).unwrap();
            found.push((path, bytes));
        }
    }
    found.sort();
    found
}

/// A device with a name that must not show, and three points of it.
pub fn three_points(repo: &Repository) -> (Model, Vec<(PointId, Vec<u8>)>) {
    let name: DeviceId = "secret-disk-17".parse().unwrap();
    let mut model = Model::new(repo.device_name(&name).as_str(), SIZE);
    let mut points = Vec::new();
    let writes: [&[(usize, usize, What)]; 3] = [
        &[(0, 700, What::Noise(1)), (800, 100, What::Same(0x53))],
        &[(10, 20, What::Noise(2)), (300, 2, What::Zero)],
        &[(10, 4, What::Same(7)), (500, 30, What::Noise(3))],
    ];
    for write in writes {
        let parent = points.last().map(|(point, _)| *point);
        let made = model.back_up(repo, parent, &[write]).unwrap();
        points.push((made.point, model.image.clone()));
    }
    (model, points)
}

pub fn all_restore(repo: &Repository, model: &Model, points: &[(PointId, Vec<u8>)]) {
    for (point, image) in points {
        assert!(restore(repo, &model.device, *point).unwrap() == *image, "{point}");
    }
}

fn kind<T>(result: Result<T>) -> Option<Kind> {
    result.err().map(|e| e.kind())
}

#[test]
fn the_owner_reads_what_a_host_wrote_that_cannot_read_it() {
    let sealed = Sealed::new();
    let host = sealed.by(&Hand::Write(sealed.write_key())).unwrap();
    assert_eq!(host.rights(), Some(Rights::Writer));
    let (model, points) = three_points(&host);
    // it sees its points, resolves chains, checks structure and bytes, compares hashes
    assert_eq!(host.points().unwrap().len(), 3);
    let report = check(&host, true, &mut |_, _| {}).unwrap();
    assert!(report.damages.is_empty() && report.sealed_frames > 0 && report.frames == 0, "{report:?}");
    let (last, _) = points.last().unwrap();
    assert_eq!(kind(restore(&host, &model.device, *last)), Some(Kind::Denied));
    // the owner reads
    let owner = sealed.owner();
    assert_eq!(owner.rights(), Some(Rights::Owner));
    all_restore(&owner, &model, &points);
    let report = check(&owner, true, &mut |_, _| {}).unwrap();
    assert!(report.damages.is_empty() && report.frames > 0, "{report:?}");
    // a merge needs no content: the host can make one, and the owner reads through it
    let lock = host.lock(&model.device).unwrap();
    let chain = collector::chain::Chain::resolve(&host, &model.device, *last).unwrap();
    assert!(chain.merge(&lock).unwrap().is_some());
    all_restore(&sealed.owner(), &model, &points);
}

#[test]
fn nothing_but_sizes_and_times_shows() {
    let sealed = Sealed::new();
    let (model, _) = three_points(&sealed.owner());
    let lock = sealed.owner().lock(&model.device).unwrap();
    let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
    let hidden = ["secret-disk", "/dev/", "serial", "frozen", "owner", &host, "geometry"];
    for (path, bytes) in sealed.files() {
        let name = path.strip_prefix(sealed.path()).unwrap().to_string_lossy();
        let text = [name.as_bytes(), &bytes].concat();
        for word in hidden.iter().filter(|word| word.len() > 3) {
            assert!(!text.windows(word.len()).any(|w| w == word.as_bytes()), "{word} in {}", path.display());
        }
        // neither content nor its hash: one stored run of equal bytes, and one of noise
        for content in [&model.image[800 * 4096..][..32], &model.image[200 * 4096..][..32]] {
            assert!(!bytes.windows(32).any(|w| w == content), "content in {}", path.display());
        }
        for cell in model.image.chunks(65536) {
            let hash = collector::format::FrameHash::of(cell).0.to_be_bytes();
            assert!(!bytes.windows(16).any(|w| w == hash), "hash in {}", path.display());
        }
    }
    drop(lock);
}

#[test]
fn the_same_content_is_stored_otherwise_every_time() {
    let sealed = Sealed::new();
    let repo = sealed.owner();
    let mut model = Model::new("twice", SIZE);
    let write: &[_] = &[(0, 64, What::Same(1))];
    model.back_up(&repo, None, &[write]).unwrap();
    model.back_up(&repo, None, &[write]).unwrap();
    let [a, b] = sealed.only("seg").try_into().unwrap();
    let (a, b) = (fs::read(a).unwrap(), fs::read(b).unwrap());
    assert_eq!(a.len(), b.len());
    assert!(!a[64..].windows(24).step_by(24).any(|part| b.windows(24).any(|w| w == part)));
}

#[test]
fn without_the_right_key_there_are_clear_words() {
    let sealed = Sealed::new();
    let said = |hand: &dyn KeySource| -> Error { sealed.by(hand).unwrap_err() };
    let none = said(&NoKey);
    assert!(none.kind() == Kind::Denied && none.in_full().contains("encrypted"), "{}", none.in_full());
    assert!(none.advice().unwrap().contains("--passphrase-file"));
    let stranger = said(&Hand::Private(PrivateKey::generate().unwrap()));
    assert!(stranger.kind() == Kind::Denied && stranger.in_full().contains("has no key for"));
    let no_passphrase = said(&Hand::Words("x"));
    assert!(no_passphrase.kind() == Kind::Denied && no_passphrase.in_full().contains("no passphrase opens"));
    let repo = sealed.owner();
    let opened = repo.open_ring(&Credential::Private(sealed.owner.clone())).unwrap();
    repo.change_ring(&opened.with(NewKey::Passphrase(words("right")), String::new()).unwrap()).unwrap();
    assert!(sealed.by(&Hand::Words("right")).is_ok());
    let wrong = said(&Hand::Words("wrong"));
    assert!(wrong.kind() == Kind::Denied && wrong.in_full().contains("wrong passphrase"));
    // another repository's write key
    let other = said(&Hand::Write(Sealed::new().write_key()));
    assert!(other.kind() == Kind::Denied && other.in_full().contains("write key is of repository"));
}

#[test]
fn rotated_keys_write_anew_and_read_everything_before() {
    let sealed = Sealed::new();
    let old = sealed.by(&Hand::Write(sealed.write_key())).unwrap();
    let (mut model, mut points) = three_points(&old);
    let owner = sealed.owner();
    let opened = owner.open_ring(&Credential::Private(sealed.owner.clone())).unwrap().rotated().unwrap();
    owner.change_ring(&opened).unwrap();
    assert_eq!(sealed.only("key").len(), 2, "the old ring is gone, the new one has its copy");
    // a host with the key of before is told, and with a new one its chain goes on
    let stale = sealed.by(&Hand::Write(sealed.write_key())).unwrap_err();
    assert!(stale.kind() == Kind::Denied && stale.in_full().contains("generation 1"), "{}", stale.in_full());
    let host = sealed.by(&Hand::Write(opened.write_key().unwrap())).unwrap();
    let parent = points.last().map(|(point, _)| *point);
    let made = model.back_up(&host, parent, &[&[(20, 9, What::Noise(9))]]).unwrap();
    points.push((made.point, model.image.clone()));
    all_restore(&sealed.owner(), &model, &points);
    // who kept the keys of before cannot read the new point
    assert_eq!(kind(old.manifest(&model.device, made.point)), Some(Kind::Damaged));
    assert_eq!(opened.keys().unwrap().metadata().generation(), 2);
}

#[test]
fn a_damaged_ring_is_read_from_its_copy_and_a_check_says_so() {
    let sealed = Sealed::new();
    let (model, points) = three_points(&sealed.owner());
    for ring in sealed.only("key") {
        let good = fs::read(&ring).unwrap();
        let mut bad = good.clone();
        bad[200] ^= 1;
        put(&ring, &bad).unwrap();
        let repo = sealed.owner();
        all_restore(&repo, &model, &points);
        let report = check(&repo, false, &mut |_, _| {}).unwrap();
        assert!(report.damages.len() == 1 && report.damages[0].object.starts_with("key/"), "{report:?}");
        let done = collector::chain::repair(&repo, false, &mut |_, _, _| {}).unwrap();
        assert!(done.rebuilt.len() == 1 && fs::read(&ring).unwrap() == good, "{done:?}");
    }
    for ring in sealed.only("key") {
        fs::remove_file(ring).unwrap();
    }
    let lost = sealed.by(&Hand::Private(sealed.owner.clone())).unwrap_err();
    assert!(lost.kind() == Kind::Damaged && lost.advice().unwrap().contains("key/"), "{}", lost.in_full());
}

/// Attack: everything readable is replaced by an unencrypted repository, so that the next backup can be read.
#[test]
fn who_gives_a_key_never_writes_to_a_repository_that_is_not_encrypted() {
    let plain = tempfile::tempdir().unwrap();
    let location = plain.path().to_str().unwrap();
    Repository::create(location).unwrap();
    let refused = Repository::open_with(location, &Hand::Words("x")).unwrap_err();
    assert!(refused.kind() == Kind::Denied && refused.in_full().contains("not encrypted"));
    // and single objects of an unencrypted one are not taken either
    let sealed = Sealed::new();
    let repo = sealed.owner();
    let mut model = Model::new("a", SIZE);
    let made = model.back_up(&repo, None, &[&[(0, 9, What::Noise(1))]]).unwrap();
    let bare = made.encode().unwrap();
    put(&sealed.only("bak")[0], bare).unwrap();
    let failure = repo.manifest(&model.device, made.point).unwrap_err();
    assert!(failure.kind() == Kind::Damaged && failure.in_full().contains("not encrypted"));
}

/// Attack: any two objects of the same kind change places, of the same device, of others, of another repository.
#[test]
fn swapped_and_foreign_objects_never_give_other_bytes() {
    let sealed = Sealed::new();
    let (model, points) = three_points(&sealed.owner());
    let foreign = Sealed::new();
    three_points(&foreign.owner());
    for part in ["seg", "idx", "bak"] {
        let mine = sealed.only(part);
        let others: Vec<PathBuf> = mine.iter().cloned().chain(foreign.only(part)).collect();
        for victim in &mine {
            let good = fs::read(victim).unwrap();
            for other in others.iter().filter(|other| *other != victim) {
                put(victim, fs::read(other).unwrap()).unwrap();
                let repo = sealed.owner();
                let report = check(&repo, true, &mut |_, _| {}).unwrap();
                assert!(!report.damages.is_empty(), "{part}: nobody noticed");
                let mut harmed = 0;
                for (point, image) in &points {
                    match restore(&repo, &model.device, *point) {
                        Ok(read) => assert!(read == *image, "{part}: other bytes"),
                        Err(e) => {
                            assert_eq!(e.kind(), Kind::Damaged, "{e:?}");
                            harmed += 1;
                        }
                    }
                }
                assert!(harmed > 0, "{part}: nobody noticed");
            }
            put(victim, good).unwrap();
        }
    }
    all_restore(&sealed.owner(), &model, &points);
}

/// Attack: frames change places inside and between segments, checks of accidents made right again.
#[test]
fn a_frame_at_another_place_or_of_another_time_is_not_taken() {
    let sealed = Sealed::new();
    let repo = sealed.owner();
    let mut model = Model::new("a", SIZE);
    // the same cell with other content at two times: same place, codec and length
    let first = model.back_up(&repo, None, &[&[(0, 32, What::Noise(1))]]).unwrap();
    let before = model.image.clone();
    let second = model.back_up(&repo, Some(first.point), &[&[(0, 32, What::Noise(2))]]).unwrap();
    let segments = sealed.only("seg");
    let [a, b] = [0, 1].map(|n| fs::read(&segments[n]).unwrap());
    let (at, len) = (64 + 4 + 100, 65536 + 40);
    assert_eq!(a.len(), b.len());
    let swap_between = |x: &mut Vec<u8>, y: &[u8]| x[at..at + len].copy_from_slice(&y[at..at + len]);
    let swap_inside = |x: &mut Vec<u8>| {
        let (one, two) = x[at..at + 2 * len].split_at_mut(len);
        one.swap_with_slice(two);
    };
    let records = |x: &mut Vec<u8>, y: &[u8]| x[68..at].copy_from_slice(&y[68..at]);
    for attack in 0..4 {
        let (mut x, mut y) = (a.clone(), b.clone());
        if attack == 1 {
            swap_inside(&mut x);
        }
        if attack == 0 || attack == 2 {
            swap_between(&mut x, &b);
        }
        // with the records of the other's session, so that the key is found
        if attack >= 2 {
            records(&mut x, &b);
        }
        if attack == 3 {
            records(&mut y, &a);
        }
        put(&segments[0], &x).unwrap();
        put(&segments[1], &y).unwrap();
        let repo = sealed.owner();
        let one = restore(&repo, &model.device, first.point);
        let two = restore(&repo, &model.device, second.point);
        assert!(one.is_err() || two.is_err(), "attack {attack} was not noticed");
        assert!(one.as_ref().is_ok_and(|i| *i == before) || kind(one) == Some(Kind::Damaged));
        assert!(two.as_ref().is_ok_and(|i| *i == model.image) || kind(two) == Some(Kind::Damaged));
    }
}

/// Attack: a point is put under another device, or a child onto another parent.
#[test]
fn a_parent_that_was_replaced_is_noticed() {
    let sealed = Sealed::new();
    let repo = sealed.owner();
    let mut model = Model::new("a", SIZE);
    let full = model.back_up(&repo, None, &[&[(0, 9, What::Noise(1))]]).unwrap();
    let child = model.back_up(&repo, Some(full.point), &[&[(4, 2, What::Noise(2))]]).unwrap();
    let key = |point: PointId| sealed.path().join(format!("bak/a/{point}.json"));
    // the very same manifest sealed anew is another object: the child was not made on it
    let again = fs::read(key(full.point)).unwrap();
    let cover_key = format!("bak/a/{}.json", full.point);
    let keys = sealed.opened.keys().unwrap();
    let resealed = full.encode_in(Some(keys.metadata().cover(&cover_key))).unwrap();
    assert_ne!(again, resealed);
    put(key(full.point), &resealed).unwrap();
    let failure = restore(&sealed.owner(), &model.device, child.point).unwrap_err();
    assert!(failure.kind() == Kind::Damaged && failure.in_full().contains("not the one"), "{failure:?}");
    put(key(full.point), again).unwrap();
    // a whole device under another's name: names are part of what is sealed
    fs::create_dir(sealed.path().join("bak/b")).unwrap();
    fs::copy(key(child.point), sealed.path().join(format!("bak/b/{}.json", child.point))).unwrap();
    let points = sealed.owner().points().unwrap();
    let bad: Vec<_> = points.iter().filter(|p| matches!(p.state, PointState::Damaged(_))).collect();
    assert!(bad.len() == 1 && bad[0].device.as_str() == "b", "{points:?}");
}

/// Attack: the ring of a stranger, of another repository, of before a change; one that costs all memory.
#[test]
fn replaced_key_rings_are_noticed() {
    let sealed = Sealed::new();
    three_points(&sealed.owner());
    let hand = Hand::Private(sealed.owner.clone());
    let [_, ring] = sealed.only("key").try_into().unwrap();
    let good = fs::read(&ring).unwrap();
    let copy = ring.with_file_name("1-copy.json");
    let both = |bytes: &[u8]| [&ring, &copy].map(|path| put(path, bytes).unwrap());
    let other = Sealed::new();
    both(&fs::read(&other.only("key")[0]).unwrap());
    assert_eq!(kind(sealed.by(&hand)), Some(Kind::Damaged));
    // another number
    let rotated = sealed.opened.rotated().unwrap();
    both(&rotated.ring().encode().unwrap());
    assert_eq!(kind(sealed.by(&hand)), Some(Kind::Damaged));
    both(&good);
    // a host whose key is newer than the ring: the store went back to before the keys were changed
    let newer = sealed.by(&Hand::Write(rotated.write_key().unwrap())).unwrap_err();
    assert!(newer.kind() == Kind::Damaged && newer.in_full().contains("gone back"), "{}", newer.in_full());
    // a ring for the same repository by somebody who knows only public keys
    let public = sealed.owner.public().unwrap();
    let forged = collector::format::KeyRing::create(
        sealed.owner().uuid(),
        vec![(NewKey::Recipient(public), String::new())],
    );
    both(&forged.unwrap().ring().encode().unwrap());
    let host = sealed.by(&Hand::Write(sealed.write_key())).unwrap_err();
    assert!(host.kind() == Kind::Damaged && host.in_full().contains("replaced"), "{}", host.in_full());
    // with that ring nothing that was written can be read, and it is said
    let repo = sealed.by(&hand).unwrap();
    assert!(repo.points().unwrap().iter().all(|p| matches!(p.state, PointState::Damaged(_))));
}
