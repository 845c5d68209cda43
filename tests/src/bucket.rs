//! A tracked device whose repository lies in a bucket, behind a proxy that does what a test plans.

use crate::device::Loop;
use crate::image::{Image, fill};
use crate::product::Ended;
use crate::protected::Protected;
use crate::proxy::{Fault, Proxy};
use crate::random::Random;
use crate::scratch::Scratch;
use crate::server::{self, Server};
use crate::workload::churn;
use crate::{device, host};
use anyhow::{Context, Result, ensure};
use std::time::Duration;

/// Why these cannot run here, if so.
pub fn cannot(server: &str) -> Option<String> {
    host::no_tracking().or_else(|| server::missing(server))
}

/// The device, its repository, and all between them.
pub struct Bed<'a> {
    /// The store.
    pub server: Server,
    /// The line to it.
    pub proxy: Proxy,
    /// What is backed up.
    pub device: Loop,
    /// The host.
    pub care: Protected<'a>,
    /// For what is written.
    pub random: Random,
    /// How long a request is tried again.
    pub patience: &'static str,
    /// What every backup is told besides.
    pub words: Vec<String>,
}

impl<'a> Bed<'a> {
    /// With an empty bucket.
    pub fn new(scratch: &'a Scratch, test: &str) -> Result<Self> {
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
        Ok(Self { server, proxy, device, care, random, patience: "3s", words: Vec::new() })
    }

    /// With an encrypted repository in it: backups have the key that only writes, everything else the owner's.
    pub fn encrypted(scratch: &'a Scratch, test: &str) -> Result<Self> {
        let mut bed = Self::new(scratch, test)?;
        let [owner, write] = ["owner", "write"].map(|name| scratch.fresh(name).display().to_string());
        let public = bed.care.home.ok(["key", "generate", &owner])?;
        let init = ["init", &bed.direct(), "--recipient", public.trim(), "--write-key", &write];
        bed.care.home.ok(init)?;
        bed.care.home.set("BLKDELTA_KEY_FILE", &owner);
        bed.words = vec!["--key-file".into(), write];
        Ok(bed)
    }

    /// The repository past the proxy.
    pub fn direct(&self) -> String {
        format!("s3://bucket/some/where?endpoint=http://{}", self.server.address())
    }

    /// A point of the device as it is now.
    pub fn point(&mut self) -> Result<(String, Image)> {
        churn(self.device.path(), &mut self.random, 10)?;
        let words: Vec<&str> = self.words.iter().map(String::as_str).collect();
        Ok((self.care.backup(&words)?.id, Image::of(self.device.path())?))
    }

    /// A backup with little patience, however it ends.
    pub fn backup(&self) -> Result<Ended> {
        let words = self.words.iter().map(String::as_str).chain(["--retry-for", self.patience]);
        self.care.home.run(self.care.backup_words(&words.collect::<Vec<_>>()))
    }

    /// Another verb, through the proxy.
    pub fn run(&self, verb: &str, more: &[&str]) -> Result<Ended> {
        let repo = self.care.repo.display().to_string();
        self.care.home.run([&[verb, "--repo", &repo, "--retry-for", self.patience], more].concat())
    }

    /// Every point restores, over a line that is good again.
    pub fn ensure_restore(&mut self, points: &[(String, Image)], what: &str) -> Result<()> {
        let direct = self.direct().into();
        let bad = std::mem::replace(&mut self.care.repo, direct);
        for (id, image) in points {
            self.care.ensure_restores_to(id, image, what)?;
        }
        self.care.repo = bad;
        Ok(())
    }

    /// Backups over a line with all kinds of faults, from one in every tenth request to one in every second: what failed is
    /// part of what comes later.
    pub fn live_over_a_bad_line(&mut self, rounds: u64) -> Result<()> {
        let mut points = vec![self.point()?];
        let mut failed = 0;
        for round in 1..=rounds {
            churn(self.device.path(), &mut self.random, 6)?;
            let (mut random, one_in) = (self.random.fork(), 2 + round % 9);
            self.proxy.plan(move |_| (random.below(one_in) == 0).then(|| any(&mut random)));
            let ended = self.backup()?;
            ensure!(!ended.err.contains("panicked"), "{ended}");
            if ended.code == Some(0) {
                let list = self.care.home.json(["list", "--repo", &self.direct()])?;
                let newest = list.as_array().and_then(|l| l.last()).and_then(|p| p["id"].as_str());
                let newest = newest.context("no point")?.to_owned();
                points.push((newest, Image::of(self.device.path())?));
            } else {
                ensure!(ended.code == Some(1) && ended.err.contains("because:"), "not clear: {ended}");
                failed += 1;
            }
        }
        self.proxy.plan(|_| None);
        // what failed backups did not store is part of this one
        points.push(self.point()?);
        let listed = self.care.points()?.len();
        ensure!(listed >= points.len(), "{listed} points listed of {}", points.len());
        self.ensure_restore(&points, "after a bad line")?;
        self.care.ensure_sound()?;
        host::say(&format!("{rounds} backups over a bad line, {failed} of them failed, {listed} points"));
        Ok(())
    }

    /// Restores over a line that spoils a twelfth of what comes: each fails or is right.
    pub fn ensure_spoiled_answers_are_noticed(
        &mut self,
        scratch: &Scratch,
        points: &[(String, Image)],
    ) -> Result<()> {
        let (mut wrong, mut right) = (0, 0);
        for (id, image) in points.iter().cycle().take(12) {
            let mut random = self.random.fork();
            self.proxy.plan(move |request| {
                (request.method == "GET" && random.below(12) == 0).then_some(Fault::SpoilAnswer)
            });
            let target = scratch.fresh("out");
            let ended = self.run("restore", &["--point", id, &target.display().to_string()])?;
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
        self.proxy.plan(|_| None);
        ensure!(wrong > 0, "no spoiled answer was met in 12 restores");
        host::say(&format!("spoiled answers: {wrong} restores of 12 refused, {right} right all the same"));
        Ok(())
    }

    /// Credentials of another name, in a profile.
    pub fn profile(&self, scratch: &Scratch, name: &str, more: &str) -> Result<String> {
        let profile = scratch.fresh("credentials");
        let text = format!("[{name}]\naws_access_key_id = {name}\naws_secret_access_key = b\n{more}");
        device::put(&profile, text.as_bytes())?;
        Ok(profile.display().to_string())
    }
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

/// It failed with exit code 1, and its words have `word` in them.
pub fn refused(ended: Ended, word: &str) -> Result<()> {
    let ended = ended.expect(1, word)?;
    ensure!(ended.err.contains(word) && !ended.err.contains("panicked"), "no word of {word:?}: {ended}");
    ensure!(ended.err.contains("try:"), "no advice: {ended}");
    Ok(())
}
