//! One test in a process of its own: a kill, a changed environment or a hang of one touches no other.

use super::build::Test;
use anyhow::{Context, Result};
use std::io::Read;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

/// How a test ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It ran and held.
    Passed,
    /// It did not hold; what it said.
    Failed(String),
    /// It could not run here, and why.
    Skipped(String),
}

/// A test with its verdict.
pub struct Outcome {
    /// `suite::name`
    pub title: String,
    /// How it ended.
    pub verdict: Verdict,
    /// How long it took.
    pub took: Duration,
    /// Parts of a test that ran which could not run here: `name: reason`.
    pub parts: Vec<String>,
}

/// What all tests are run with.
pub struct Setting<'a> {
    /// The program under test.
    pub program: &'a Path,
    /// After this a test counts as hung.
    pub limit: Duration,
}

/// Runs one test.
pub fn run(test: &Test, setting: &Setting) -> Outcome {
    let start = Instant::now();
    let (verdict, parts) = match attempt(test, setting) {
        Ok(ended) => judge(test, &ended, setting.limit),
        Err(error) => (Verdict::Failed(format!("{error:#}")), Vec::new()),
    };
    Outcome { title: test.title.clone(), verdict, took: start.elapsed(), parts }
}

struct Ended {
    status: Option<ExitStatus>,
    said: String,
}

fn attempt(test: &Test, setting: &Setting) -> Result<Ended> {
    let mut command = Command::new(&test.binary);
    command.args(["--exact", &test.name, "--test-threads=1"]).current_dir(&test.folder);
    command.env("BLKDELTA_BIN", setting.program).env("CARGO_MANIFEST_DIR", &test.folder);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().with_context(|| format!("start {}", test.binary.display()))?;
    let (out, err) = (child.stdout.take(), child.stderr.take());
    let status = thread::scope(|scope| {
        let out = scope.spawn(|| read(out));
        let err = scope.spawn(|| read(err));
        let status = wait(&mut child, setting.limit)?;
        let said = [out.join().unwrap_or_default(), err.join().unwrap_or_default()].concat();
        anyhow::Ok(Ended { status, said })
    })?;
    Ok(status)
}

fn read(pipe: Option<impl Read>) -> String {
    let mut bytes = Vec::new();
    if let Some(mut pipe) = pipe {
        // a broken pipe ends the text, the exit status tells the rest
        let _ = pipe.read_to_end(&mut bytes);
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// The status, or none when the time was over and the test was killed.
fn wait(child: &mut Child, limit: Duration) -> Result<Option<ExitStatus>> {
    let start = Instant::now();
    let mut pause = Duration::from_millis(1);
    while start.elapsed() < limit {
        if let Some(status) = child.try_wait().context("wait for the test")? {
            return Ok(Some(status));
        }
        thread::sleep(pause);
        pause = (pause * 2).min(Duration::from_millis(100));
    }
    child.kill().context("kill the hung test")?;
    child.wait().context("wait for the killed test")?;
    Ok(None)
}

fn judge(test: &Test, ended: &Ended, limit: Duration) -> (Verdict, Vec<String>) {
    let Some(status) = ended.status else {
        return (Verdict::Failed(format!("killed after {} s\n{}", limit.as_secs(), ended.said)), Vec::new());
    };
    if !status.success() {
        return (Verdict::Failed(format!("{status}\n{}", ended.said)), Vec::new());
    }
    let (whole, parts) = skips(test, &ended.said);
    if let Some(reason) = whole {
        return (Verdict::Skipped(reason), parts);
    }
    if test.ignored {
        return (Verdict::Skipped(ignored_reason(&ended.said)), parts);
    }
    if !ended.said.contains("1 passed") {
        return (Verdict::Failed(format!("did not run\n{}", ended.said)), parts);
    }
    (Verdict::Passed, parts)
}

/// Reads `SKIPPED: name: reason` lines: the test's own, and those of parts of it.
fn skips(test: &Test, said: &str) -> (Option<String>, Vec<String>) {
    let short = test.name.rsplit("::").next().unwrap_or(&test.name);
    let mut whole = None;
    let mut parts = Vec::new();
    for line in said.lines() {
        // libtest may have begun the line with the test's name
        let Some((_, skip)) = line.split_once("SKIPPED: ") else { continue };
        let (name, reason) = skip.split_once(": ").unwrap_or((skip, "no reason given"));
        if name.rsplit("::").next() == Some(short) {
            whole = Some(reason.to_owned());
        } else {
            parts.push(skip.to_owned());
        }
    }
    (whole, parts)
}

/// libtest prints `test name ... ignored, reason`.
fn ignored_reason(said: &str) -> String {
    let reason = said.lines().find_map(|line| line.split_once("... ignored, "));
    reason.map_or("ignored", |(_, reason)| reason).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn test(name: &str) -> Test {
        let nowhere = std::path::PathBuf::from("/");
        let title = format!("suite::{name}");
        Test {
            title,
            name: name.into(),
            binary: nowhere.clone(),
            folder: nowhere,
            alone: true,
            ignored: false,
        }
    }

    #[test]
    fn a_skip_of_the_test_and_of_a_part_are_told_apart() {
        let said = "\nrunning 1 test\ntest a::one ... SKIPPED: suite::one: not root\nok\n";
        assert_eq!(skips(&test("a::one"), said), (Some("not root".into()), vec![]));
        let said = "SKIPPED: way of writing: secure erase: EOPNOTSUPP\ntest one ... ok\n";
        assert_eq!(
            skips(&test("one"), said),
            (None, vec!["way of writing: secure erase: EOPNOTSUPP".into()])
        );
    }

    #[test]
    fn only_a_test_that_ran_has_passed() {
        let ended = |said: &str| Ended { status: Some(ExitStatus::default()), said: said.into() };
        let limit = Duration::from_secs(1);
        let verdict = |said: &str| judge(&test("one"), &ended(said), limit).0;
        assert_eq!(verdict("test result: ok. 1 passed; 0 failed"), Verdict::Passed);
        assert!(matches!(verdict("test result: ok. 0 passed; 0 failed"), Verdict::Failed(_)));
        let hung = Ended { status: None, said: String::new() };
        assert!(matches!(judge(&test("one"), &hung, limit).0, Verdict::Failed(_)));
    }
}
