//! Promise: with `--parity`, what a store loses or spoils of a repository, up to that share, `check` calls repairable and
//! `repair` puts back byte for byte, in a folder and in a bucket, of a device and of a group.

use anyhow::{Context, Result, ensure};
use std::path::Path;
use tests::device::{Loop, Mounted, put};
use tests::fault::files_below;
use tests::image::{Image, fill};
use tests::protected::Protected;
use tests::random::Random;
use tests::scratch::Scratch;
use tests::server::{self, Server};
use tests::workload::churn;
use tests::{host, skip_if};

fn three_points(care: &Protected<'_>, random: &mut Random) -> Result<Vec<(String, Image)>> {
    let mut points = Vec::new();
    for _ in 0..3 {
        churn(&care.device, random, 10)?;
        points.push((care.backup(&[])?.id, Image::of(&care.device)?));
    }
    Ok(points)
}

/// `check` says that it comes back, `repair` brings it back, and every point restores.
fn ensure_comes_back(care: &Protected<'_>, points: &[(String, Image)], what: &str) -> Result<()> {
    let repo = care.repo.display().to_string();
    let harmed = care.home.run(["check", "--repo", &repo, "--read-data"])?.expect(3, what)?;
    ensure!(harmed.out.contains("given back from parity"), "{what}: {harmed}");
    let planned = care.home.run(["repair", "--repo", &repo, "--dry-run"])?.expect(0, what)?;
    ensure!(planned.out.contains("would be put back from parity"), "{what}: {planned}");
    let done = care.home.run(["repair", "--repo", &repo])?.expect(0, what)?;
    ensure!(done.out.contains("put back from parity, byte for byte"), "{what}: {done}");
    care.ensure_sound()?;
    for (id, image) in points {
        care.ensure_restores_to(id, image, what)?;
    }
    Ok(())
}

#[test]
fn what_a_folder_lost_comes_back() -> Result<()> {
    const NAME: &str = "parity::what_a_folder_lost_comes_back";
    skip_if!(host::no_tracking(), NAME);
    let scratch = Scratch::new("parity")?;
    let mut random = Random::for_test(NAME);
    let device = Loop::new(&scratch, "disk", 8 << 20)?;
    fill(device.path(), &mut random)?;
    let care = Protected::new(&scratch, device.path())?;
    let refused = care.home.run(["init", care.repo.to_str().context("path")?, "--parity", "70%"])?;
    ensure!(refused.code == Some(2), "a share that cannot be: {refused}");
    // the first backup makes the repository, and it keeps to that
    churn(&care.device, &mut random, 10)?;
    let mut points = vec![(care.backup(&["--parity", "2%"])?.id, Image::of(&care.device)?)];
    points.extend(three_points(&care, &mut random)?);
    let whole: Vec<_> =
        files_below(&care.repo)?.into_iter().map(|f| Ok((std::fs::read(&f)?, f))).collect::<Result<_>>()?;
    for kind in ["seg", "idx", "bak"] {
        let of_kind = |file: &&Path| file.starts_with(care.repo.join(kind));
        let file = whole.iter().map(|(_, file)| file.as_path()).find(of_kind).context("no such file")?;
        std::fs::remove_file(file)?;
        ensure_comes_back(&care, &points, &format!("{kind} lost"))?;
    }
    let same =
        |(bytes, file): &&(Vec<u8>, std::path::PathBuf)| std::fs::read(file).is_ok_and(|now| now == *bytes);
    let other: Vec<_> =
        whole.iter().filter(|f| !f.1.starts_with(care.repo.join("lock")) && !same(f)).collect();
    ensure!(
        other.is_empty(),
        "{} files are not what they were, {:?}",
        other.len(),
        other.first().map(|f| &f.1)
    );
    // a prune leaves parity for what stays
    let repo = care.repo.display().to_string();
    care.home.ok(["prune", "--repo", &repo, "--keep-last", "2", "--grace", "0"])?;
    care.home.ok(["prune", "--repo", &repo, "--keep-last", "2", "--grace", "0"])?;
    let state = care.home.json(["check", "--repo", &repo])?;
    ensure!(state["parity"]["uncovered"] == 0 && state["parity"]["short"] == 0, "{state}");
    let segment = files_below(&care.repo.join("seg"))?.into_iter().next().context("no segment")?;
    std::fs::remove_file(segment)?;
    ensure_comes_back(&care, &points[2..], "after a prune")
}

#[test]
fn what_a_bucket_lost_comes_back() -> Result<()> {
    const NAME: &str = "parity::what_a_bucket_lost_comes_back";
    skip_if!(host::no_tracking().or_else(|| server::missing("moto_server")), NAME);
    let scratch = Scratch::new("parity-s3")?;
    let mut random = Random::for_test(NAME);
    let server = Server::s3()?;
    server.make_bucket("bucket", &[])?;
    let device = Loop::new(&scratch, "disk", 4 << 20)?;
    fill(device.path(), &mut random)?;
    let mut care = Protected::new(&scratch, device.path())?;
    for (name, value) in
        [("NO_PROXY", "127.0.0.1"), ("AWS_ACCESS_KEY_ID", "key"), ("AWS_SECRET_ACCESS_KEY", "secret")]
    {
        care.home.set(name, value);
    }
    care.repo = format!("s3://bucket/r?endpoint=http://{}", server.address()).into();
    care.home.ok(["init", care.repo.to_str().context("path")?, "--parity", "2%"])?;
    let points = three_points(&care, &mut random)?;
    for kind in ["/seg/", "/bak/", "/idx/"] {
        let key = server.keys("bucket")?.into_iter().find(|key| key.contains(kind)).context("no such key")?;
        let path = format!("/bucket/{key}");
        let (status, body) = match kind {
            "/seg/" => server.ask("PUT", &path, &[], b"another object")?,
            _ => server.ask("DELETE", &path, &[], b"")?,
        };
        ensure!(status < 300, "harm {key}: {status} {body}");
        ensure_comes_back(&care, &points, kind)?;
    }
    Ok(())
}

/// A group's backup does all that a device's does after its point: parity, merges.
#[test]
fn what_a_group_stored_comes_back() -> Result<()> {
    const NAME: &str = "parity::what_a_group_stored_comes_back";
    skip_if!(host::no_tracking(), NAME);
    let scratch = Scratch::new("parity-group")?;
    let mut random = Random::for_test(NAME);
    let device = Loop::new(&scratch, "disk", 64 << 20)?;
    host::run("mkfs.ext4", ["-q".as_ref(), device.path().as_os_str()])?;
    let care = Protected::new(&scratch, device.path())?;
    let mounted = Mounted::new(&scratch, device.path(), "")?;
    let repo = care.repo.display().to_string();
    let file = mounted.point().join("file");
    let mut now = Vec::new();
    for round in 0..3 {
        now = random.bytes(1 << 20);
        put(&file, &now)?;
        let path = file.display().to_string();
        let words = ["group", "backup", "--name", "g", "--path", &path, "--repo", &repo];
        care.home.ok(words.into_iter().chain(["--parity", "2%", "--merge-every", "1"]))?;
        let state = care.home.json(["check", "--repo", &repo])?;
        ensure!(state["parity"]["groups"].as_u64() > Some(0), "round {round}: no parity: {state}");
        ensure!(state["parity"]["uncovered"] == 0, "round {round}: {state}");
    }
    for kind in ["seg", "idx", "map", "bak"] {
        let lost =
            files_below(&care.repo.join(kind))?.into_iter().next().with_context(|| format!("no {kind}"))?;
        std::fs::remove_file(lost)?;
        care.home.run(["check", "--repo", &repo, "--read-data"])?.expect(3, kind)?;
        care.home.ok(["repair", "--repo", &repo])?;
        care.ensure_sound()?;
    }
    let into = scratch.fresh("back");
    let into_name = into.display().to_string();
    care.home.ok(["restore", "--repo", &repo, "--group", "g", "--point", "latest", "--into", &into_name])?;
    let back = into.join(file.strip_prefix("/")?);
    ensure!(std::fs::read(&back)? == now, "{} differs", back.display());
    Ok(())
}
