//! Promise: an encrypted repository is read by who has a key, written by hosts that cannot read it, and by nobody else;
//! a passphrase never stands among the arguments.

use anyhow::{Context, Result, ensure};
use std::fs::File;
use std::io::Write;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use tests::device::{Loop, O_DIRECT, open_with};
use tests::fault::files_below;
use tests::image::{Aligned, Image, fill};
use tests::product::{Ended, Home, binary};
use tests::protected::Protected;
use tests::random::Random;
use tests::scratch::Scratch;
use tests::{host, skip_if};

/// A file with words in it that nobody else can read.
fn secret(scratch: &Scratch, words: &str) -> Result<PathBuf> {
    let path = scratch.fresh("secret");
    File::create(&path)?.write_all(words.as_bytes())?;
    host::run("chmod", ["600".as_ref(), path.as_os_str()])?;
    Ok(path)
}

fn words<'a>(first: &[&'a str], repo: &'a Path, more: &[&'a str]) -> Vec<&'a str> {
    let repo = repo.to_str().unwrap_or_default();
    [first, &["--repo", repo], more].concat()
}

#[test]
fn a_passphrase_comes_from_file_descriptor_command_or_environment() -> Result<()> {
    let scratch = Scratch::new("passphrase")?;
    let home = Home::new(&scratch)?;
    let (right, wrong) = (secret(&scratch, "open sesame\n")?, secret(&scratch, "open wheat\n")?);
    let [right, wrong] = [&right, &wrong].map(|path| path.to_str().unwrap_or_default());
    let repo = scratch.fresh("repo");
    let at = repo.to_str().context("path")?;
    home.ok(["init", at, "--encrypt", "--passphrase-file", right])?;
    let command = format!("cat {right}");
    for good in [&["--passphrase-file", right][..], &["--passphrase-command", &command]] {
        home.ok(words(&["list"], &repo, good))?;
    }
    let stdin = home.command(words(&["list"], &repo, &["--passphrase-fd", "0"]))?;
    Ended::of({ stdin }.stdin(File::open(right)?))?.expect(0, "descriptor")?;
    let env = home.command(words(&["list"], &repo, &[]))?;
    Ended::of({ env }.env("BLKDELTA_PASSPHRASE_FILE", right))?.expect(0, "environment")?;
    // nobody to ask: said, and not waited for
    for verb in
        [&["list"][..], &["check"], &["restore", "--point", "latest", "x"], &["prune", "--keep-last", "1"]]
    {
        let none = home.run(words(verb, &repo, &[]))?.expect(1, "no key")?;
        ensure!(none.err.contains("encrypted") && none.err.contains("--passphrase-file"), "{none}");
    }
    let refused = home.run(words(&["list"], &repo, &["--passphrase-file", wrong]))?.expect(1, "wrong")?;
    ensure!(refused.err.contains("wrong passphrase"), "{refused}");
    let failed = home.run(words(&["list"], &repo, &["--passphrase-command", "echo x; false"]))?;
    ensure!(failed.expect(1, "command")?.err.contains("passphrase command"), "a failed command");
    // there is no option that takes the words themselves
    let argument = home.run(words(&["list"], &repo, &["--passphrase", "open sesame"]))?;
    argument.expect(2, "a passphrase as argument")?;
    Ok(())
}

#[test]
fn keys_are_added_removed_and_rotated() -> Result<()> {
    let scratch = Scratch::new("keys")?;
    let home = Home::new(&scratch)?;
    let (one, two) = (secret(&scratch, "one")?, secret(&scratch, "two")?);
    let [one, two] = [&one, &two].map(|path| path.to_str().unwrap_or_default());
    let repo = scratch.fresh("repo");
    let by = |passphrase| ["--passphrase-file", passphrase];
    let made = home.json(["init", repo.to_str().context("path")?, "--encrypt", "--passphrase-file", one])?;
    let first = made["keys"][0]["id"].as_str().context("id")?.to_owned();
    let file = scratch.fresh("owner");
    let file = file.to_str().context("path")?;
    let public = home.ok(["key", "generate", file, "--protect", "--passphrase-file", two])?;
    ensure!(home.ok(["key", "public", file])? == public, "the public half");
    ensure!(std::fs::metadata(file)?.mode() & 0o777 == 0o600, "a private key that others can read");
    ensure!(home.run(["key", "generate", file])?.code == Some(1), "a key file was replaced");
    let add = ["key", "add", "--name", "safe", "--recipient", public.trim()];
    home.ok(words(&add, &repo, &by(one)))?;
    home.ok(words(&["key", "add", "--new-passphrase-file", two], &repo, &by(one)))?;
    let with_file = ["--key-file", file, "--passphrase-file", two];
    let listed = home.json(words(&["key", "list"], &repo, &with_file))?;
    ensure!(listed.as_array().is_some_and(|keys| keys.len() == 3), "{listed}");
    ensure!(listed[1]["name"] == "safe" && listed[1]["kind"] == "recipient", "{listed}");
    home.ok(words(&["key", "remove", &first], &repo, &by(two)))?;
    ensure!(home.run(words(&["list"], &repo, &by(one)))?.code == Some(1), "a removed passphrase opens");
    home.ok(words(&["key", "rotate"], &repo, &with_file))?;
    for good in [&with_file[..], &by(two)] {
        home.ok(words(&["list"], &repo, good))?;
    }
    for id in [&listed[1]["id"], &listed[2]["id"]] {
        let ended = home.run(words(&["key", "remove", id.as_str().context("id")?], &repo, &by(two)))?;
        let last = id == &listed[2]["id"];
        ensure!(ended.code == Some(if last { 2 } else { 0 }), "the last key stays: {ended}");
    }
    Ok(())
}

/// A repository that is not encrypted is never written in place of one that is.
#[test]
fn a_key_and_a_repository_that_is_not_encrypted_do_not_go_together() -> Result<()> {
    let scratch = Scratch::new("downgrade")?;
    let home = Home::new(&scratch)?;
    let words_file = secret(&scratch, "x")?;
    let by = ["--passphrase-file", words_file.to_str().context("path")?];
    let repo = scratch.fresh("repo");
    home.ok(["init", repo.to_str().context("path")?])?;
    let refused = home.run(words(&["list"], &repo, &by))?.expect(1, "a key for a readable repository")?;
    ensure!(refused.err.contains("not encrypted"), "{refused}");
    home.ok(words(&["list"], &repo, &[]))?;
    let plain = scratch.fresh("plain");
    let both = home.run(["init", plain.to_str().context("path")?, by[0], by[1]])?;
    ensure!(both.code == Some(2) && !plain.exists(), "init with a key and without --encrypt: {both}");
    Ok(())
}

#[test]
fn a_host_writes_what_only_the_owner_reads() -> Result<()> {
    skip_if!(host::no_tracking(), "encryption::a_host_writes_what_only_the_owner_reads");
    let scratch = Scratch::new("writer")?;
    let mut random = Random::for_test("encryption::writer");
    let device = Loop::new(&scratch, "disk", 16 << 20)?;
    fill(device.path(), &mut random)?;
    let care = Protected::new(&scratch, device.path())?;
    let (owner, write) = (scratch.fresh("owner"), scratch.fresh("write"));
    let [owner, write] = [&owner, &write].map(|path| path.to_str().unwrap_or_default());
    let public = care.home.ok(["key", "generate", owner])?;
    let repo = care.repo.to_str().context("path")?;
    let made = care.home.ok(["init", repo, "--recipient", public.trim(), "--write-key", write])?;
    ensure!(made.contains("encrypted"), "{made}");
    let mut images = Vec::new();
    for round in 0..3 {
        if round > 0 {
            open_with(device.path(), O_DIRECT)?
                .write_all_at(&Aligned::random(40960, &mut random), round << 20)?;
        }
        let point = care.backup(&["--key-file", write])?;
        ensure!(point.kind() == if round == 0 { "full" } else { "incremental" }, "{}", point.json);
        images.push((point.id, Image::of(device.path())?));
    }
    let host_restore = words(&["restore", "--point", "latest"], &care.repo, &["--key-file", write]);
    let target = scratch.fresh("target");
    let refused = care.home.run([&host_restore[..], &[target.to_str().context("path")?]].concat())?;
    ensure!(refused.code == Some(1) && refused.err.contains("not read them"), "{refused}");
    for (point, image) in &images {
        let target = scratch.fresh("target");
        let more = ["--key-file", owner, target.to_str().context("path")?];
        care.home.ok(words(&["restore", "--point", point, "--verify"], &care.repo, &more))?;
        ensure!(Image::of_file(&target)?.difference(image).is_empty(), "{point} restores otherwise");
    }
    care.home.ok(words(&["check", "--read-data"], &care.repo, &["--key-file", owner]))?;
    let listed = care.home.json(words(&["list"], &care.repo, &["--key-file", write]))?;
    ensure!(listed[0]["path"] == device.path().display().to_string(), "{listed}");
    nothing_shows(&care.repo, &[&device.path().display().to_string(), "consistency"])
}

fn nothing_shows(repo: &Path, words: &[&str]) -> Result<()> {
    for file in files_below(repo)? {
        let (bytes, name) = (std::fs::read(&file)?, file.display().to_string());
        for word in words {
            ensure!(!bytes.windows(word.len()).any(|w| w == word.as_bytes()), "{word} shows in {name}");
        }
    }
    Ok(())
}

/// Killed at every step of a change of keys: one of the passphrases opens the repository at every moment.
#[test]
fn a_change_of_keys_that_dies_leaves_a_repository_that_opens() -> Result<()> {
    let scratch = Scratch::new("killed-keys")?;
    let home = Home::new(&scratch)?;
    let file = scratch.fresh("owner");
    let file = file.to_str().context("path")?;
    let public = home.ok(["key", "generate", file])?;
    let (by, public) = (["--key-file", file], public.trim());
    for step in ["put", "stored", "copied", "old-gone"] {
        let repo = scratch.fresh("repo");
        let at = repo.to_str().context("path")?;
        let failpoint = format!("repo.keys.{step}");
        if step != "old-gone" {
            let init = ["init", at, "--recipient", public];
            let killed = home.run_failing(&failpoint, init)?;
            ensure!(killed.signal.is_some(), "{step} of init: {killed}");
            home.ok(init)?;
        } else {
            home.ok(["init", at, "--recipient", public])?;
        }
        home.ok(words(&["list"], &repo, &by))?;
        for verb in [&["key", "rotate"][..], &["key", "add", "--new-passphrase-command", "echo z"]] {
            let killed = home.run_failing(&failpoint, words(verb, &repo, &by))?;
            ensure!(killed.signal.is_some(), "{step} of {verb:?}: {killed}");
            home.ok(words(&["list"], &repo, &by))?;
            home.ok(words(verb, &repo, &by))?;
            let sound = home.json(words(&["check"], &repo, &by))?;
            ensure!(sound["damages"].as_array().is_some_and(Vec::is_empty), "{step} {verb:?}: {sound}");
        }
    }
    Ok(())
}

/// What the process table shows while a passphrase is in use.
#[test]
fn no_passphrase_among_the_arguments() -> Result<()> {
    let help = Ended::of(Command::new(binary()?).args(["list", "--help"]).stdin(Stdio::null()))?;
    let help = help.expect(0, "help")?.out;
    for option in help.lines().filter(|line| line.contains("--passphrase")) {
        ensure!(["<FILE>", "<N>", "<COMMAND>"].iter().any(|kind| option.contains(kind)), "{option}");
    }
    ensure!(help.contains("--key-file <FILE>"), "{help}");
    Ok(())
}
