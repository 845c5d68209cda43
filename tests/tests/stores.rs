//! Promise: a repository in a bucket keeps what one in a folder keeps, also over a bad line: nothing is lost, every
//! corruption is noticed, and what fails says why.
//!
//! Against a real S3 server on loopback, through a proxy of ours. Speed and timing are asserted nowhere.

use anyhow::{Context, Result, ensure};
use std::time::Duration;
use tests::bucket::{Bed, cannot, refused};
use tests::device::Loop;
use tests::image::{Image, fill};
use tests::protected::Protected;
use tests::proxy::Fault;
use tests::random::Random;
use tests::scratch::Scratch;
use tests::server::Server;
use tests::skip_if;
use tests::workload::churn;

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
    let profile = bed.profile(scratch, "other", "region = eu-west-1\n")?;
    bed.care.home.set("AWS_SHARED_CREDENTIALS_FILE", &profile);
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
    Bed::new(&scratch, NAME)?.live_over_a_bad_line(12)
}

#[test]
fn every_spoiled_bit_is_noticed() -> Result<()> {
    const NAME: &str = "stores::every_spoiled_bit_is_noticed";
    skip_if!(cannot("moto_server"), NAME);
    let scratch = Scratch::new("spoiled")?;
    let mut bed = Bed::new(&scratch, NAME)?;
    let points = [bed.point()?, bed.point()?];
    bed.ensure_spoiled_answers_are_noticed(&scratch, &points)?;
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
    bed.ensure_restore(&points, "older points beside a spoiled one")
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
    let lock = |server: &Server, expires: u64| lock_as_another(server, &path, expires);
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
    beside_a_sweep(&mut bed)?;
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

/// Writes the lock of a process on another machine.
fn lock_as_another(server: &Server, path: &str, expires: u64) -> Result<()> {
    let words = format!(
        r#"{{"token":"x","process":7,"host":"elsewhere","boot":"b","space":"s","expires_after_s":{expires},"renewed":0}}"#
    );
    let (status, body) = server.ask("PUT", path, &[], words.as_bytes())?;
    ensure!(status == 200, "write a lock: {status} {body}");
    Ok(())
}

/// Somebody looks for what nothing names: of no device, and no writer begins beside him, unless he died.
fn beside_a_sweep(bed: &mut Bed<'_>) -> Result<()> {
    let path = "/bucket/some/where/lock/.sweep";
    lock_as_another(&bed.server, path, 600)?;
    refused(bed.backup()?, "process 7 on elsewhere")?;
    lock_as_another(&bed.server, path, 1)?;
    std::thread::sleep(Duration::from_millis(2500));
    bed.care.backup(&[]).map(drop)
}

/// Writes another's lock, beside all that is under test; the request itself goes on.
fn steal(server: std::net::SocketAddr, path: &str) -> Fault {
    let words = br#"{"token":"y","process":8,"host":"thief","boot":"b","space":"s","expires_after_s":600,"renewed":0}"#;
    // the plan has no way to fail; without the lock the test fails by itself
    let _ = Server::ask_at(server, "PUT", path, &[], words);
    Fault::Delay(Duration::ZERO)
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
