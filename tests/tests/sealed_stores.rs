//! Promise: an encrypted repository in a bucket keeps what one in a folder keeps, also over a bad line; the bucket shows
//! nothing of it, and every spoiled bit is noticed.

use anyhow::{Result, ensure};
use std::os::unix::fs::FileExt;
use tests::bucket::{Bed, cannot};
use tests::device::{O_DIRECT, open_with};
use tests::image::{Aligned, Image};
use tests::proxy::Fault;
use tests::scratch::Scratch;
use tests::skip_if;
use tests::workload::churn;

#[test]
fn an_encrypted_bucket_is_a_repository() -> Result<()> {
    const NAME: &str = "sealed_stores::an_encrypted_bucket_is_a_repository";
    skip_if!(cannot("moto_server"), NAME);
    let scratch = Scratch::new("sealed")?;
    let mut bed = Bed::encrypted(&scratch, NAME)?;
    let mut points = Vec::new();
    for _ in 0..5 {
        // whole frames of the point before are hidden: a compaction has something to do
        let hides = Aligned::random(1 << 20, &mut bed.random);
        open_with(bed.device.path(), O_DIRECT)?.write_all_at(&hides, 0)?;
        points.push(bed.point()?);
    }
    bed.care.ensure_sound()?;
    bed.ensure_restore(&points, "from an encrypted bucket")?;
    nothing_shows(&bed, &points[4].1)?;
    // the host's key is enough for what needs no content
    let write = bed.words.clone();
    let write: Vec<&str> = write.iter().map(String::as_str).collect();
    bed.run("merge", &[&write[..], &["--up-to", &points[3].0]].concat())?.expect(0, "merge")?;
    for what in ["prune", "sweep"] {
        let words = [&write[..], &["--keep-last", "3", "--grace", "0"]].concat();
        bed.run("prune", &words)?.expect(0, what)?;
    }
    ensure!(bed.care.points()?.len() == 3, "other points stay");
    bed.ensure_restore(&points[2..], "after merge and prune")?;
    let before = bed.server.keys("bucket")?;
    for what in ["compact", "compact again"] {
        let said = bed.run("compact", &["--dead", "0.1%", "--grace", "0"])?.expect(0, what)?;
        tests::host::say(&format!("{what}: {}", said.out));
    }
    ensure!(bed.server.keys("bucket")? != before, "nothing was compacted");
    bed.care.ensure_sound()?;
    bed.ensure_restore(&points[2..], "after a compaction")?;
    points.push(bed.point()?);
    bed.ensure_restore(&points[5..], "an increment on it")?;
    copied(&mut bed, &scratch, &points[2..])
}

/// Into a folder with another key, and into a readable one, but only if that is said.
fn copied(bed: &mut Bed<'_>, scratch: &Scratch, points: &[(String, Image)]) -> Result<()> {
    let [key, sealed, open] = ["key", "sealed", "open"].map(|name| scratch.fresh(name).display().to_string());
    let public = bed.care.home.ok(["key", "generate", &key])?;
    let none = bed.care.home.command(["init", &sealed, "--recipient", public.trim()])?;
    tests::product::Ended::of({ none }.env_remove("BLKDELTA_KEY_FILE"))?.expect(0, "init")?;
    let from = bed.direct();
    let copy = ["copy", "--from", &from, "--all"];
    let refused = bed.care.home.run([&copy[..], &["--to", &open]].concat())?.expect(1, "without a word")?;
    ensure!(refused.err.contains("--decrypt") && !std::path::Path::new(&open).exists(), "{refused}");
    bed.care.home.ok([&copy[..], &["--to", &sealed, "--to-key-file", &key]].concat())?;
    bed.care.home.ok([&copy[..], &["--to", &open, "--decrypt"]].concat())?;
    for (repo, key) in [(&sealed, key.as_str()), (&open, "")] {
        let far = std::mem::replace(&mut bed.care.repo, repo.into());
        let owner = bed.care.home.get("BLKDELTA_KEY_FILE");
        bed.care.home.set("BLKDELTA_KEY_FILE", key);
        for (id, image) in points {
            bed.care.ensure_restores_to(id, image, "from a copy")?;
        }
        bed.care.ensure_sound()?;
        bed.care.home.set("BLKDELTA_KEY_FILE", &owner);
        bed.care.repo = far;
    }
    Ok(())
}

/// Neither the device's name, nor its content, nor what its points say.
fn nothing_shows(bed: &Bed<'_>, image: &Image) -> Result<()> {
    let path = bed.device.path().display().to_string();
    let blocks = image.bytes().chunks(4096).filter(|block| block.iter().any(|b| *b != 0)).take(8);
    let mut hidden: Vec<&[u8]> = vec![path.as_bytes(), b"consistency", b"geometry", b"backing_file"];
    hidden.extend(blocks.map(|block| &block[..32]));
    for key in bed.server.keys("bucket")? {
        let bytes = bed.server.object("bucket", &key)?;
        for words in &hidden {
            ensure!(!bytes.windows(words.len()).any(|w| w == *words), "{key} shows {words:?}");
        }
    }
    Ok(())
}

/// Museum M23.
#[test]
fn over_a_bad_line_nothing_is_lost() -> Result<()> {
    const NAME: &str = "sealed_stores::over_a_bad_line_nothing_is_lost";
    skip_if!(cannot("moto_server"), NAME);
    let scratch = Scratch::new("sealed-line")?;
    Bed::encrypted(&scratch, NAME)?.live_over_a_bad_line(8)
}

#[test]
fn every_spoiled_bit_is_noticed() -> Result<()> {
    const NAME: &str = "sealed_stores::every_spoiled_bit_is_noticed";
    skip_if!(cannot("moto_server"), NAME);
    let scratch = Scratch::new("sealed-spoiled")?;
    let mut bed = Bed::encrypted(&scratch, NAME)?;
    let points = [bed.point()?, bed.point()?];
    bed.ensure_spoiled_answers_are_noticed(&scratch, &points)?;
    for part in ["/seg/", "/idx/", "/bak/"] {
        let mut spoiled = 0;
        bed.proxy.plan(move |request| {
            let data = request.method == "PUT" && request.path.contains(part);
            spoiled += u32::from(data);
            (data && spoiled == 1).then_some(Fault::SpoilRequest)
        });
        churn(bed.device.path(), &mut bed.random, 10)?;
        // this server does not look at what comes
        bed.backup()?;
        bed.proxy.plan(|_| None);
        bed.run("check", &["--read-data"])?.expect(3, &format!("check of a spoiled {part}"))?;
        bed.ensure_restore(&points, "older points beside a spoiled one")?;
        // what stands on it fails, or is right; a full stands on nothing
        let (next, image) = bed.point()?;
        let target = scratch.fresh("out");
        let ended = bed.run("restore", &["--point", &next, &target.display().to_string()])?;
        let right = ended.code == Some(0) && Image::of_file(&target)?.difference(&image).is_empty();
        ensure!(right || matches!(ended.code, Some(1 | 3)), "on a spoiled {part}: {ended}");
        let words: Vec<&str> = bed.words.iter().map(String::as_str).chain(["--full"]).collect();
        let full = (bed.care.backup(&words)?.id, Image::of(bed.device.path())?);
        bed.ensure_restore(&[full], "a full after a spoiled point")?;
    }
    Ok(())
}
