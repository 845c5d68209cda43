//! Promise: a repository in a bucket keeps what one in a folder keeps, also over a bad line: nothing is lost, every
//! corruption is noticed, and what fails says why.
//!
//! Against a real S3 server on loopback, through a proxy of ours. Speed and timing are asserted nowhere.

use anyhow::{Context, Result, ensure};
use std::time::Duration;
use tests::device::Loop;
use tests::image::{Image, fill};
use tests::product::Ended;
use tests::protected::Protected;
use tests::proxy::{Fault, Proxy, Request};
use tests::random::Random;
use tests::scratch::Scratch;
use tests::server::{self, Server};
use tests::workload::churn;
use tests::{host, skip_if};

/// Why these cannot run here, if so.
fn cannot(server: &str) -> Option<String> {
    host::no_tracking().or_else(|| server::missing(server))
}

/// A tracked device whose repository is a bucket behind a proxy.
struct Bed<'a> {
    server: Server,
    proxy: Proxy,
    device: Loop,
    care: Protected<'a>,
    random: Random,
    /// How long a request is tried again.
    patience: &'static str,
}

impl<'a> Bed<'a> {
    fn new(scratch: &'a Scratch, test: &str) -> Result<Self> {
        let mut random = Random::for_test(test);
        let server = Server::s3()?;
        server.make_bucket("bucket", &[])?;
        let proxy = Proxy::new(server.address(), random.fork())?;
        let device = Loop::new(scratch, "disk", 4 << 20)?;
        fill(device.path(), &mut random)?;
        let mut care = Protected::new(scratch, device.path())?;
        care.home.set("NO_PROXY", "127.0.0.1");
        care.home.set("AWS_ACCESS_KEY_ID", "key");
        care.home.set("AWS_SECRET_ACCESS_KEY", "secret");
        care.repo = format!("s3://bucket/some/where?endpoint=http://{}", proxy.address()).into();
        Ok(Self { server, proxy, device, care, random, patience: "3s" })
    }

    /// The repository past the proxy.
    fn direct(&self) -> String {
        format!("s3://bucket/some/where?endpoint=http://{}", self.server.address())
    }

    /// A point of the device as it is now.
    fn point(&mut self) -> Result<(String, Image)> {
        churn(self.device.path(), &mut self.random, 10)?;
        Ok((self.care.backup(&[])?.id, Image::of(self.device.path())?))
    }

    fn backup(&self) -> Result<Ended> {
        self.care.home.run(self.care.backup_words(&["--retry-for", self.patience]))
    }

    fn run(&self, verb: &str, more: &[&str]) -> Result<Ended> {
        let repo = self.care.repo.display().to_string();
        self.care.home.run([&[verb, "--repo", &repo, "--retry-for", self.patience], more].concat())
    }

    /// Every point restores, over a line that is good again.
    fn ensure_restore(&mut self, points: &[(String, Image)], what: &str) -> Result<()> {
        let direct = self.direct().into();
        let bad = std::mem::replace(&mut self.care.repo, direct);
        for (id, image) in points {
            self.care.ensure_restores_to(id, image, what)?;
        }
        self.care.repo = bad;
        Ok(())
    }
}

/// It failed with exit code 1, and its words have `word` in them.
fn refused(ended: Ended, word: &str) -> Result<()> {
    let ended = ended.expect(1, word)?;
    ensure!(ended.err.contains(word) && !ended.err.contains("panicked"), "no word of {word:?}: {ended}");
    ensure!(ended.err.contains("try:"), "no advice: {ended}");
    Ok(())
}

#[test]
fn a_bucket_is_a_repository() -> Result<()> {
    const NAME: &str = "stores::a_bucket_is_a_repository";
    skip_if!(cannot("moto_server"), NAME);
    let scratch = Scratch::new("bucket")?;
    let mut bed = Bed::new(&scratch, NAME)?;
    let mut points = Vec::new();
    for _ in 0..4 {
        points.push(bed.point()?);
    }
    ensure!(
        bed.server.keys("bucket")?.iter().all(|key| key.starts_with("some/where/")),
        "outside of its prefix"
    );
    ensure!(!bed.server.keys("bucket")?.iter().any(|key| key.contains("/lock/")), "a lock stays");
    bed.care.ensure_sound()?;
    bed.ensure_restore(&points, "from a bucket")?;
    bed.run("merge", &["--up-to", "latest"])?.expect(0, "merge")?;
    bed.run("prune", &["--keep-last", "2", "--grace", "0"])?.expect(0, "prune")?;
    bed.run("prune", &["--keep-last", "2", "--grace", "0"])?.expect(0, "sweep")?;
    ensure!(bed.care.points()? == [points[2].0.clone(), points[3].0.clone()], "other points stay");
    bed.care.ensure_sound()?;
    bed.ensure_restore(&points[2..], "after merge and prune")?;
    // a copy in a folder holds the same
    let (bucket, copy) = (bed.direct(), scratch.fresh("copy").display().to_string());
    for what in ["copy", "copy again"] {
        bed.care.home.run(["copy", "--from", &bucket, "--to", &copy, "--all"])?.expect(0, what)?;
    }
    let far = std::mem::replace(&mut bed.care.repo, copy.into());
    bed.care.ensure_sound()?;
    for (id, image) in &points[2..] {
        bed.care.ensure_restores_to(id, image, "from a copy")?;
    }
    bed.care.repo = far;
    ensure_profiles(&mut bed, &scratch)
}

/// The credentials stand in a profile, and the region too.
fn ensure_profiles(bed: &mut Bed<'_>, scratch: &Scratch) -> Result<()> {
    let profile = scratch.fresh("credentials");
    tests::device::put(
        &profile,
        b"[other]\naws_access_key_id = a\naws_secret_access_key = b\nregion = eu-west-1\n",
    )?;
    bed.care.home.set("AWS_SHARED_CREDENTIALS_FILE", &profile.display().to_string());
    let repo = format!("{}&profile=other", bed.direct());
    bed.care.home.run(["list", "--repo", &repo])?.expect(0, "list with a profile")?;
    let repo = format!("{}&profile=nobody", bed.direct());
    bed.care.home.run(["list", "--repo", &repo])?.expect(2, "a profile that is not there")?;
    Ok(())
}

/// Museum M23.
#[test]
fn over_a_bad_line_nothing_is_lost() -> Result<()> {
    const NAME: &str = "stores::over_a_bad_line_nothing_is_lost";
    skip_if!(cannot("moto_server"), NAME);
    let scratch = Scratch::new("line")?;
    let mut bed = Bed::new(&scratch, NAME)?;
    let mut points = vec![bed.point()?];
    let (mut failed, mut rounds) = (0, 0);
    while rounds < 12 {
        rounds += 1;
        churn(bed.device.path(), &mut bed.random, 6)?;
        // from a fault in every tenth request to one in every second
        let (mut random, one_in) = (bed.random.fork(), 2 + rounds % 9);
        bed.proxy.plan(move |_| (random.below(one_in) == 0).then(|| any(&mut random)));
        let ended = bed.backup()?;
        ensure!(!ended.err.contains("panicked"), "{ended}");
        if ended.code == Some(0) {
            let list = bed.care.home.json(["list", "--repo", &bed.direct()])?;
            let newest =
                list.as_array().and_then(|l| l.last()).and_then(|p| p["id"].as_str()).context("no point")?;
            points.push((newest.to_owned(), Image::of(bed.device.path())?));
        } else {
            ensure!(ended.code == Some(1) && ended.err.contains("because:"), "not clear: {ended}");
            failed += 1;
        }
    }
    bed.proxy.plan(|_| None);
    // what failed backups did not store is part of this one
    let last = bed.point()?;
    points.push(last);
    let listed = bed.care.points()?.len();
    ensure!(listed >= points.len(), "{listed} points listed of {}", points.len());
    bed.ensure_restore(&points, "after a bad line")?;
    bed.care.ensure_sound()?;
    host::say(&format!("{NAME}: {rounds} backups over a bad line, {failed} of them failed, {listed} points"));
    Ok(())
}

/// A fault that harms no byte of what arrives.
fn any(random: &mut Random) -> Fault {
    match random.below(6) {
        0 => Fault::Delay(Duration::from_millis(200)),
        1 => Fault::CutBefore,
        2 => Fault::CutAfter,
        3 => Fault::HalfAnswer,
        4 => Fault::Repeat,
        _ => Fault::Answer(503, "SlowDown"),
    }
}

#[test]
fn every_spoiled_bit_is_noticed() -> Result<()> {
    const NAME: &str = "stores::every_spoiled_bit_is_noticed";
    skip_if!(cannot("moto_server"), NAME);
    let scratch = Scratch::new("spoiled")?;
    let mut bed = Bed::new(&scratch, NAME)?;
    let points = [bed.point()?, bed.point()?];
    // what comes is spoiled: a restore fails or is right
    let (mut wrong, mut right) = (0, 0);
    for n in 0..12 {
        let mut random = bed.random.fork();
        bed.proxy.plan(move |request| {
            (request.method == "GET" && random.below(3) == 0).then_some(Fault::SpoilAnswer)
        });
        let (id, image) = &points[n % 2];
        let target = scratch.fresh("out");
        let ended = bed.run("restore", &["--point", id, &target.display().to_string()])?;
        ensure!(!ended.err.contains("panicked"), "{ended}");
        match ended.code {
            Some(0) => {
                ensure!(Image::of_file(&target)?.difference(image).is_empty(), "wrong data, exit code 0");
                right += 1;
            }
            Some(1 | 3) => wrong += 1,
            _ => anyhow::bail!("restore: {ended}"),
        }
    }
    ensure!(wrong > 0, "no spoiled answer was met in 12 restores");
    // what goes is spoiled, and this server does not look: `check` does
    let mut spoiled = 0;
    bed.proxy.plan(move |request| {
        let data = request.method == "PUT" && request.path.contains("/seg/");
        spoiled += u32::from(data);
        (data && spoiled == 1).then_some(Fault::SpoilRequest)
    });
    churn(bed.device.path(), &mut bed.random, 10)?;
    bed.backup()?.expect(0, "a backup whose server does not look")?;
    bed.proxy.plan(|_| None);
    bed.run("check", &["--read-data"])?.expect(3, "check of a spoiled segment")?;
    bed.ensure_restore(&points, "older points beside a spoiled one")?;
    host::say(&format!("{NAME}: {wrong} restores of 12 refused, {right} right all the same"));
    Ok(())
}

#[test]
fn a_store_that_goes_away_keeps_the_bits() -> Result<()> {
    const NAME: &str = "stores::a_store_that_goes_away_keeps_the_bits";
    skip_if!(cannot("moto_server"), NAME);
    let scratch = Scratch::new("gone")?;
    let mut bed = Bed::new(&scratch, NAME)?;
    bed.patience = "500ms";
    let mut points = vec![bed.point()?];
    // a backup makes about eight requests: each of them is the last once
    for last in 0..14 {
        churn(bed.device.path(), &mut bed.random, 5)?;
        let mut seen = 0;
        bed.proxy.plan(move |_| {
            seen += 1;
            (seen > last).then_some(Fault::CutBefore)
        });
        let ended = bed.backup()?;
        bed.proxy.plan(|_| None);
        match ended.code {
            Some(0) => {}
            _ => refused(ended, "nothing is lost")?,
        }
        let (change, _) = bed.care.diff()?;
        ensure!(!change.is_empty() || bed.care.points()?.len() > points.len(), "bits lost at request {last}");
    }
    // locks of the dead are ours to take: the same machine, and their process is gone
    points.push(bed.point()?);
    bed.ensure_restore(&points, "after the store went away")?;
    bed.care.ensure_sound()
}

#[test]
fn failures_of_the_store_are_clear() -> Result<()> {
    const NAME: &str = "stores::failures_of_the_store_are_clear";
    skip_if!(cannot("moto_server"), NAME);
    let scratch = Scratch::new("clear")?;
    let mut bed = Bed::new(&scratch, NAME)?;
    let known = [
        (403, "AccessDenied", "right"),
        (403, "RequestTimeTooSkewed", "clock"),
        (403, "InvalidAccessKeyId", "does not know this access key"),
        (403, "SignatureDoesNotMatch", "secret key"),
        (400, "ExpiredToken", "expired"),
        (404, "NoSuchBucket", "no such bucket"),
        (507, "InsufficientStorage", "full"),
        (503, "SlowDown", "nothing is lost"),
    ];
    let point = bed.point()?;
    bed.patience = "500ms";
    for (status, code, word) in known {
        churn(bed.device.path(), &mut bed.random, 3)?;
        bed.proxy.plan(move |request| (request.method == "PUT").then_some(Fault::Answer(status, code)));
        refused(bed.backup()?, word)?;
        // a failing store is no damage
        bed.proxy.plan(move |_| Some(Fault::Answer(status, code)));
        refused(bed.run("check", &[])?, word)?;
    }
    bed.proxy.plan(|_| None);
    let elsewhere = ["list", "--repo", "s3://bucket/x?endpoint=http://127.0.0.1:1", "--retry-for", "1s"];
    refused(bed.care.home.run(elsewhere)?, "refused")?;
    let last = bed.point()?;
    bed.ensure_restore(&[point, last], "after failures")
}

/// What a key may do that only adds: no removal, nothing written twice, but for the lock.
fn only_adds() -> impl FnMut(&Request) -> Option<Fault> {
    let mut written = std::collections::BTreeSet::new();
    move |request| {
        let lock = request.path.contains("/lock/");
        let denied = match request.method.as_str() {
            "DELETE" => !lock,
            "PUT" => !lock && !written.insert(request.path.clone()),
            _ => false,
        };
        denied.then_some(Fault::Answer(403, "AccessDenied"))
    }
}

#[test]
fn a_key_that_only_adds_is_enough_to_back_up() -> Result<()> {
    const NAME: &str = "stores::a_key_that_only_adds_is_enough_to_back_up";
    skip_if!(cannot("moto_server"), NAME);
    let scratch = Scratch::new("adds")?;
    let mut bed = Bed::new(&scratch, NAME)?;
    bed.proxy.plan(only_adds());
    let points = [bed.point()?, bed.point()?, bed.point()?];
    refused(bed.run("prune", &["--keep-last", "1", "--grace", "0"])?, "right")?;
    bed.ensure_restore(&points[2..], "after a prune that may not")?;
    // the pruner's key goes another way
    for what in ["prune", "sweep"] {
        let words = ["prune", "--repo", &bed.direct(), "--keep-last", "1", "--grace", "0"];
        bed.care.home.run(words)?.expect(0, what)?;
    }
    ensure!(bed.care.points()? == [points[2].0.clone()], "more stays than the pruner kept");
    bed.ensure_restore(&points[2..], "after the pruner")?;
    bed.care.ensure_sound()
}

#[test]
fn one_writer_and_a_lock_left_by_the_dead() -> Result<()> {
    const NAME: &str = "stores::one_writer_and_a_lock_left_by_the_dead";
    skip_if!(cannot("moto_server"), NAME);
    let scratch = Scratch::new("lock")?;
    let mut bed = Bed::new(&scratch, NAME)?;
    let point = bed.point()?;
    let list = bed.care.home.json(["list", "--repo", &bed.direct()])?;
    let device = list[0]["device"].as_str().context("no device")?.to_owned();
    let path = format!("/bucket/some/where/lock/{device}");
    let lock = |server: &Server, expires: u64| -> Result<()> {
        let words = format!(
            r#"{{"token":"x","process":7,"host":"elsewhere","boot":"b","space":"s","expires_after_s":{expires},"renewed":0}}"#
        );
        let (status, body) = server.ask("PUT", &path, &[], words.as_bytes())?;
        ensure!(status == 200, "write a lock: {status} {body}");
        Ok(())
    };
    // somebody on another machine writes
    lock(&bed.server, 600)?;
    churn(bed.device.path(), &mut bed.random, 5)?;
    refused(bed.backup()?, "process 7 on elsewhere")?;
    // it does not renew: after its time the lock is taken over, by the store's clock
    lock(&bed.server, 1)?;
    std::thread::sleep(Duration::from_millis(2500));
    let taken = bed.care.backup(&[])?;
    ensure!(taken.json["notes"].to_string().contains("taken over"), "no word of it: {}", taken.json["notes"]);
    let second = (taken.id, Image::of(bed.device.path())?);
    // a person knows that it is dead
    lock(&bed.server, 600)?;
    churn(bed.device.path(), &mut bed.random, 5)?;
    bed.care.home.run(bed.care.backup_words(&["--break-lock"]))?.expect(0, "--break-lock")?;
    ensure!(!bed.server.keys("bucket")?.iter().any(|key| key.contains("/lock/")), "a lock stays");
    // a writer whose lock is taken from it commits nothing
    churn(bed.device.path(), &mut bed.random, 5)?;
    let before = bed.care.points()?;
    let (server, words) = (bed.server.address(), path.clone());
    bed.proxy.plan(move |request| {
        // its index is on the way: now another one takes the lock
        (request.method == "PUT" && request.path.contains("/idx/")).then(|| steal(server, &words))
    });
    refused(bed.backup()?, "nothing of this run was committed")?;
    bed.proxy.plan(|_| None);
    ensure!(bed.care.points()? == before, "a point was committed without the lock");
    bed.ensure_restore(&[point, second], "two writers")
}

/// Writes another's lock, beside all that is under test; the request itself goes on.
fn steal(server: std::net::SocketAddr, path: &str) -> Fault {
    let words = br#"{"token":"y","process":8,"host":"thief","boot":"b","space":"s","expires_after_s":600,"renewed":0}"#;
    // the plan has no way to fail; without the lock the test fails by itself
    let _ = Server::ask_at(server, "PUT", path, &[], words);
    Fault::Delay(Duration::ZERO)
}

#[test]
fn object_lock_and_versions_are_honoured() -> Result<()> {
    const NAME: &str = "stores::object_lock_and_versions_are_honoured";
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

#[test]
fn a_web_server_is_read_and_never_written() -> Result<()> {
    const NAME: &str = "stores::a_web_server_is_read_and_never_written";
    skip_if!(cannot("wsgidav"), NAME);
    let scratch = Scratch::new("web")?;
    let mut random = Random::for_test(NAME);
    let device = Loop::new(&scratch, "disk", 4 << 20)?;
    fill(device.path(), &mut random)?;
    let mut care = Protected::new(&scratch, device.path())?;
    let mut points = Vec::new();
    for _ in 0..3 {
        churn(device.path(), &mut random, 10)?;
        points.push((care.backup(&[])?.id, Image::of(device.path())?));
    }
    let folder = std::mem::take(&mut care.repo);
    let server = Server::webdav(&folder)?;
    care.repo = format!("http://{}", server.address()).into();
    ensure!(care.points()?.len() == 3, "not all points are listed");
    care.ensure_sound()?;
    for (id, image) in &points {
        care.ensure_restores_to(id, image, "from a web server")?;
    }
    let files = tests::fault::files_below(&folder)?;
    refused(care.home.run(care.backup_words(&[]))?, "only read from")?;
    let repo = care.repo.display().to_string();
    refused(care.home.run(["prune", "--repo", &repo, "--keep-last", "1"])?, "only read from")?;
    ensure!(tests::fault::files_below(&folder)? == files, "something was written");
    // a server that cannot list says so at once
    let plain = Server::files(&folder)?;
    let repo = format!("http://{}", plain.address());
    refused(care.home.run(["list", "--repo", &repo])?, "WebDAV")?;
    Ok(())
}
