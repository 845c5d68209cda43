//! Promise: a host whose key only adds can back up, list and restore, and neither it nor a thief with its key can remove a
//! backup; the key of another machine prunes. With the bucket's versions on, what was replaced or removed is still there.

use anyhow::{Context, Result, ensure};
use std::collections::BTreeSet;
use tests::bucket::{Bed, cannot, refused};
use tests::image::Image;
use tests::proxy::{Fault, Request};
use tests::scratch::Scratch;
use tests::skip_if;

/// What the store allows: who has the key `host` may neither remove nor replace anything but the lock, `keeper` may.
fn rights() -> impl FnMut(&Request) -> Option<Fault> {
    let mut written = BTreeSet::new();
    move |request| {
        let lock = request.path.contains("/lock/");
        match (request.key(), request.method.as_str()) {
            (Some("keeper"), _) => None,
            (Some("key"), "DELETE") if !lock => Some(Fault::Answer(403, "AccessDenied")),
            (Some("key"), "PUT") if !lock && !written.insert(request.path.clone()) => {
                Some(Fault::Answer(403, "AccessDenied"))
            }
            (Some("key"), _) => None,
            _ => Some(Fault::Answer(403, "InvalidAccessKeyId")),
        }
    }
}

fn ensure_two_keys(bed: &mut Bed<'_>, scratch: &Scratch) -> Result<()> {
    bed.proxy.plan(rights());
    let mut points = vec![bed.point()?, bed.point()?, bed.point()?];
    let restore = |bed: &mut Bed<'_>, points: &[(String, Image)]| -> Result<()> {
        for (id, image) in points {
            bed.care.ensure_restores_to(id, image, "with the key that only adds")?;
        }
        Ok(())
    };
    restore(bed, &points)?;
    bed.care.ensure_sound()?;
    ensure!(bed.care.points()?.len() == 3, "not all points are listed");
    bed.run("merge", &["--up-to", "latest"])?.expect(0, "a merge only adds")?;
    for (verb, words) in
        [("prune", &["--keep-last", "1", "--grace", "0"][..]), ("compact", &["--dead", "1%", "--grace", "0"])]
    {
        let before = bed.server.keys("bucket")?;
        refused(bed.run(verb, words)?, "A key that only adds")?;
        let after = bed.server.keys("bucket")?;
        ensure!(before == after, "{verb}: something was written all the same");
    }
    ensure!(bed.care.points()?.len() == 3, "a prune that may not hides points");
    // what a dry run would do can be asked with any key
    bed.run("prune", &["--keep-last", "1", "--dry-run"])?.expect(0, "a dry run")?;
    // the keeper's machine
    let profile = bed.profile(scratch, "keeper", "")?;
    bed.care.home.set("AWS_SHARED_CREDENTIALS_FILE", &profile);
    let keeper = format!("{}&profile=keeper", bed.care.repo.display());
    for what in ["prune", "sweep"] {
        let words = ["prune", "--repo", &keeper, "--keep-last", "1", "--grace", "0"];
        bed.care.home.run(words)?.expect(0, what)?;
    }
    ensure!(bed.care.points()? == [points[2].0.clone()], "more stays than the keeper kept");
    bed.care
        .home
        .run(["compact", "--repo", &keeper, "--dead", "1%", "--grace", "0"])?
        .expect(0, "compact")?;
    // and the host goes on, on what the keeper left
    let next = bed.care.backup(&bed.words.iter().map(String::as_str).collect::<Vec<_>>())?;
    ensure!(next.kind() == "incremental", "{}", next.json);
    points.push((next.id, Image::of(bed.device.path())?));
    points.push(bed.point()?);
    restore(bed, &points[2..])?;
    bed.care.ensure_sound()
}

#[test]
fn a_key_that_only_adds_backs_up_and_another_prunes() -> Result<()> {
    const NAME: &str = "two_keys::a_key_that_only_adds_backs_up_and_another_prunes";
    skip_if!(cannot("moto_server"), NAME);
    let scratch = Scratch::new("adds")?;
    ensure_two_keys(&mut Bed::new(&scratch, NAME)?, &scratch)
}

#[test]
fn the_same_with_an_encrypted_repository() -> Result<()> {
    const NAME: &str = "two_keys::the_same_with_an_encrypted_repository";
    skip_if!(cannot("moto_server"), NAME);
    let scratch = Scratch::new("adds-sealed")?;
    ensure_two_keys(&mut Bed::encrypted(&scratch, NAME)?, &scratch)
}

/// What `check` says of parity, with the keeper's key.
fn parity(bed: &Bed<'_>, keeper: &str) -> Result<serde_json::Value> {
    Ok(bed.care.home.json(["check", "--repo", keeper, "--read-data"])?["parity"].clone())
}

/// The groups that lie in the bucket.
fn groups(bed: &Bed<'_>) -> Result<BTreeSet<String>> {
    let keys = bed.server.keys("bucket")?.into_iter().filter(|key| key.contains("/par/"));
    Ok(keys
        .filter_map(|key| Some(key.rsplit_once('/')?.0.to_owned()))
        .filter(|key| !key.ends_with("/par"))
        .collect())
}

/// Harms an object of a kind past all rights, and has the keeper repair it.
fn ensure_mended(bed: &mut Bed<'_>, keeper: &str, points: &[(String, Image)]) -> Result<()> {
    for (kind, deed) in [("/seg/", "DELETE"), ("/seg/", "PUT"), ("/idx/", "DELETE"), ("/bak/", "PUT")] {
        let key = bed
            .server
            .keys("bucket")?
            .into_iter()
            .find(|key| key.contains(kind) && !key.contains("/quarantine/"))
            .context("no such key")?;
        let (status, body) = bed.server.ask(deed, &format!("/bucket/{key}"), &[], b"rotten")?;
        ensure!(matches!(status, 200 | 204), "{deed} {key}: {status} {body}");
        let done = bed.care.home.run(["repair", "--repo", keeper])?.expect(0, kind)?;
        ensure!(done.out.contains("put back from parity, byte for byte"), "{deed} {key}: {done}");
        bed.ensure_restore(points, kind)?;
    }
    Ok(())
}

/// Parity of a host that may not remove: groups that newer ones stand for lie there until the keeper comes, an object that goes
/// leaves all of them, and what is lost comes back, from the new groups and the old ones.
fn ensure_parity_of_two_keys(mut bed: Bed<'_>, scratch: &Scratch) -> Result<()> {
    bed.words.extend(["--parity".to_owned(), "10%".to_owned()]);
    bed.proxy.plan(rights());
    let mut points = vec![bed.point()?, bed.point()?, bed.point()?, bed.point()?];
    let profile = bed.profile(scratch, "keeper", "")?;
    bed.care.home.set("AWS_SHARED_CREDENTIALS_FILE", &profile);
    let keeper = format!("{}&profile=keeper", bed.care.repo.display());
    let so = parity(&bed, &keeper)?;
    ensure!(so["uncovered"] == 0 && so["short"] == 0, "{so}");
    let old = groups(&bed)?;
    ensure!(old.len() > 4, "nothing was left to the keeper: {old:?}");
    ensure_mended(&mut bed, &keeper, &points)?;
    // one that no program can read: the host cannot remove it, and covers anew what it was of
    let spoiled = groups(&bed)?.pop_last().context("no group")?;
    for key in bed.server.keys("bucket")?.into_iter().filter(|key| key.starts_with(&spoiled)) {
        let (status, body) = bed.server.ask("PUT", &format!("/bucket/{key}"), &[], b"rotten")?;
        ensure!(status == 200, "{key}: {status} {body}");
    }
    points.push(bed.point()?);
    let so = parity(&bed, &keeper)?;
    ensure!(so["uncovered"] == 0, "the host makes no parity any more: {so}");
    for what in ["prune", "sweep"] {
        let words = ["prune", "--repo", &keeper, "--keep-last", "2", "--grace", "0"];
        bed.care.home.run(words)?.expect(0, what)?;
    }
    bed.care
        .home
        .run(["compact", "--repo", &keeper, "--dead", "1%", "--grace", "0"])?
        .expect(0, "compact")?;
    bed.care.home.run(["repair", "--repo", &keeper])?.expect(0, "nothing to repair")?;
    let so = parity(&bed, &keeper)?;
    let none = |what: &str| so[what].as_array().is_some_and(Vec::is_empty);
    ensure!(so["uncovered"] == 0 && so["short"] == 0 && none("mendable") && none("beyond"), "{so}");
    ensure!(groups(&bed)?.len() < old.len(), "old groups are still there");
    bed.care.ensure_sound()?;
    ensure_mended(&mut bed, &keeper, &points[3..])?;
    points.push(bed.point()?);
    let so = parity(&bed, &keeper)?;
    ensure!(so["uncovered"] == 0 && so["short"] == 0, "{so}");
    bed.ensure_restore(&points[3..], "after all")
}

#[test]
fn parity_of_a_key_that_only_adds_is_whole_and_the_keeper_tidies_it() -> Result<()> {
    const NAME: &str = "two_keys::parity_of_a_key_that_only_adds_is_whole_and_the_keeper_tidies_it";
    skip_if!(cannot("moto_server"), NAME);
    let scratch = Scratch::new("adds-parity")?;
    ensure_parity_of_two_keys(Bed::new(&scratch, NAME)?, &scratch)?;
    let scratch = Scratch::new("adds-parity-sealed")?;
    ensure_parity_of_two_keys(Bed::encrypted(&scratch, NAME)?, &scratch)
}

/// A thief replaces and removes objects in a bucket with versions: a check says so, and the versions bring all back.
#[test]
fn what_is_replaced_or_removed_is_said_and_its_version_is_there() -> Result<()> {
    const NAME: &str = "two_keys::what_is_replaced_or_removed_is_said_and_its_version_is_there";
    skip_if!(cannot("moto_server"), NAME);
    let scratch = Scratch::new("versions-thief")?;
    let mut bed = Bed::new(&scratch, NAME)?;
    let on = b"<VersioningConfiguration><Status>Enabled</Status></VersioningConfiguration>";
    let (status, body) = bed.server.ask("PUT", "/bucket?versioning", &[], on)?;
    ensure!(status == 200, "switch versions on: {status} {body}");
    let points = [bed.point()?, bed.point()?, bed.point()?];
    for part in ["/seg/", "/idx/", "/bak/", "repo.json"] {
        let keys = bed.server.keys("bucket")?;
        let key = keys.iter().rfind(|key| key.contains(part)).context("an object")?;
        for deed in ["PUT", "DELETE"] {
            let (status, body) = bed.server.ask(deed, &format!("/bucket/{key}"), &[], b"spoiled")?;
            ensure!(matches!(status, 200 | 204), "{deed} {key}: {status} {body}");
            let ended = bed.run("check", &["--read-data"])?;
            let said = matches!(ended.code, Some(1 | 3)) && !ended.err.contains("panicked");
            // a manifest that is gone takes its point out of the list: this host remembers that it wrote it
            ensure!(said, "{deed} of {key} was not said: {ended}");
            bed.server.forget_newest("bucket", key)?;
            bed.ensure_restore(&points, &format!("with the version before {deed} of {key}"))?;
        }
    }
    bed.care.ensure_sound()
}

#[test]
fn object_lock_and_versions_are_honoured() -> Result<()> {
    const NAME: &str = "two_keys::object_lock_and_versions_are_honoured";
    skip_if!(cannot("moto_server"), NAME);
    let scratch = Scratch::new("versions")?;
    let mut bed = Bed::new(&scratch, NAME)?;
    bed.server.make_bucket("locked", &["x-amz-bucket-object-lock-enabled: true"])?;
    let rule =
        b"<ObjectLockConfiguration><ObjectLockEnabled>Enabled</ObjectLockEnabled><Rule><DefaultRetention>\
        <Mode>COMPLIANCE</Mode><Days>1</Days></DefaultRetention></Rule></ObjectLockConfiguration>";
    let (status, body) = bed.server.ask("PUT", "/locked?object-lock", &[], rule)?;
    ensure!(status == 200, "set a retention: {status} {body}");
    bed.care.repo = format!("s3://locked/r?endpoint=http://{}", bed.server.address()).into();
    let points = [bed.point()?, bed.point()?];
    for _ in 0..2 {
        bed.run("prune", &["--keep-last", "1", "--grace", "0"])?.expect(0, "prune of a locked bucket")?;
    }
    bed.care.ensure_restores_to(&points[1].0, &points[1].1, "from a locked bucket")?;
    ensure!(bed.care.points()?.len() == 1, "the pruned point is still listed");
    // what was pruned is hidden, not gone
    let (_, versions) = bed.server.ask("GET", "/locked?versions", &[], b"")?;
    let first = format!("{}.json", points[0].0);
    let kept = versions.split("<Version>").skip(1).any(|v| v.contains("/bak/") && v.contains(&first));
    ensure!(kept, "the pruned manifest is not among the versions");
    Ok(())
}
