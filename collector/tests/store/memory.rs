//! A store that goes back: what a host remembers is compared with what is there, and every difference is said.

use crate::model::{Model, What};
use crate::sealed::{Hand, Sealed, put, words};
use collector::error::Kind;
use collector::format::{Credential, NewKey};
use collector::repository::{Memory, Repository};
use std::fs;
use std::path::Path;

const WRITE: &[(usize, usize, What)] = &[(0, 9, What::Noise(1))];

/// A copy of all files.
fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap().map(Result::unwrap) {
        let target = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).unwrap();
        }
    }
}

/// The folder's content is that of another one.
fn becomes(folder: &Path, other: &Path) {
    fs::remove_dir_all(folder).unwrap();
    copy(other, folder);
}

#[test]
fn an_earlier_state_or_a_removed_point_is_said_and_a_pruned_one_is_not() {
    let (dir, home) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (folder, earlier) = (dir.path().join("repo"), dir.path().join("earlier"));
    let open = || Repository::open(folder.to_str().unwrap()).unwrap();
    let memory = Memory::at(home.path());
    let repo = Repository::create(folder.to_str().unwrap()).unwrap();
    assert_eq!(memory.look(&repo).unwrap(), [""; 0], "nothing is remembered");
    let mut model = Model::new("disk", 1 << 20);
    let first = model.back_up(&repo, None, &[WRITE]).unwrap();
    memory.note(&repo, &first).unwrap();
    copy(&folder, &earlier);
    let second = model.back_up(&repo, Some(first.point), &[WRITE]).unwrap();
    memory.note(&repo, &second).unwrap();
    assert_eq!(memory.look(&open()).unwrap(), [""; 0]);
    // attack: the newest manifest is taken away
    let manifest = folder.join(format!("bak/disk/{}.json", second.point));
    let good = fs::read(&manifest).unwrap();
    fs::remove_file(&manifest).unwrap();
    let said = memory.look(&open()).unwrap();
    assert!(said.len() == 1 && said[0].contains("gone back") && said[0].contains(&second.point.to_string()));
    // or replaced by another that is sound
    let mut other = second.clone();
    other.time_cut -= 1;
    put(&manifest, other.encode().unwrap()).unwrap();
    let said = memory.look(&open()).unwrap();
    assert!(said.len() == 1 && said[0].contains("not the one this host wrote"), "{said:?}");
    put(&manifest, good).unwrap();
    // a prune that leaves something newer is not an attack
    let third = model.back_up(&repo, Some(second.point), &[WRITE]).unwrap();
    fs::remove_file(&manifest).unwrap();
    assert_eq!(memory.look(&open()).unwrap(), [""; 0]);
    memory.note(&repo, &third).unwrap();
    // attack: the whole store as it was
    becomes(&folder, &earlier);
    let said = memory.look(&open()).unwrap();
    assert!(said.len() == 1 && said[0].contains("gone back"), "{said:?}");
}

#[test]
fn another_repository_is_said_and_a_lost_memory_is_no_harm() {
    let (dir, home) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let folder = dir.path().join("repo");
    let open = || Repository::open(folder.to_str().unwrap()).unwrap();
    let memory = Memory::at(home.path());
    let repo = Repository::create(folder.to_str().unwrap()).unwrap();
    let made = Model::new("disk", 1 << 20).back_up(&repo, None, &[WRITE]).unwrap();
    memory.note(&repo, &made).unwrap();
    fs::remove_dir_all(&folder).unwrap();
    Repository::create(folder.to_str().unwrap()).unwrap();
    let said = memory.look(&open()).unwrap();
    assert!(said.len() == 1 && said[0].contains("now it is"), "{said:?}");
    // one that cannot be read costs the notice and no more
    for file in fs::read_dir(home.path().join("known")).unwrap() {
        put(file.unwrap().path(), b"{").unwrap();
    }
    assert_eq!(memory.look(&open()).unwrap(), [""; 0]);
}

#[test]
fn a_key_ring_that_goes_back_is_said_and_another_repository_refused() {
    let (sealed, home) = (Sealed::new(), tempfile::tempdir().unwrap());
    let memory = Memory::at(home.path());
    let before = tempfile::tempdir().unwrap();
    copy(&sealed.path().join("key"), before.path());
    let owner = sealed.owner();
    let opened = owner.open_ring(&Credential::Private(sealed.owner.clone())).unwrap();
    owner.change_ring(&opened.with(NewKey::Passphrase(words("new")), String::new()).unwrap()).unwrap();
    let repo = sealed.owner();
    let made = Model::new("disk", 1 << 20).back_up(&repo, None, &[WRITE]).unwrap();
    memory.note(&repo, &made).unwrap();
    assert_eq!(memory.look(&sealed.owner()).unwrap(), [""; 0]);
    becomes(&sealed.path().join("key"), before.path());
    let said = memory.look(&sealed.owner()).unwrap();
    assert!(said.len() == 1 && said[0].contains("key ring is number 1 and was 2"), "{said:?}");
    // attack: another repository that the same private key opens, made by somebody who has its public half
    fs::remove_dir_all(sealed.path()).unwrap();
    let key = NewKey::Recipient(sealed.owner.public().unwrap());
    Repository::create_with(sealed.path().to_str().unwrap(), vec![(key, String::new())]).unwrap();
    let forged = sealed.by(&Hand::Private(sealed.owner.clone())).unwrap();
    let refused = memory.look(&forged).unwrap_err();
    assert!(refused.kind() == Kind::Damaged && refused.in_full().contains("was replaced"), "{refused:?}");
}
