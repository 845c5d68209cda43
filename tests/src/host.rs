//! What this machine lets a test do, and running its programs.
//!
//! A test that cannot run here says so on standard output, past libtest's capture, in one line that
//! `cargo xtask test` counts: `SKIPPED: name: why`.

use anyhow::{Context, Result, bail};
use std::ffi::OsStr;
use std::io::Write;
use std::process::{Command, Stdio};
use std::sync::OnceLock;

/// Prints one line that libtest does not swallow.
pub fn say(line: &str) {
    let mut out = std::io::stdout().lock();
    // a closed pipe must not fail a test
    let _ = out.write_all(format!("{line}\n").as_bytes());
    let _ = out.flush();
}

/// Reports that `test` cannot run here.
pub fn skipped(test: &str, why: &str) {
    say(&format!("SKIPPED: {test}: {why}"));
}

/// Leaves the test (returning `Ok(())`) with a `SKIPPED` line if the first expression is `Some(why)`.
#[macro_export]
macro_rules! skip_if {
    ($why:expr, $test:expr) => {
        if let Some(why) = $why {
            $crate::host::skipped($test, &why);
            return Ok(());
        }
    };
}

/// Runs a program to its end; its output, or an error with everything it said.
pub fn run<S: AsRef<OsStr>>(program: &str, args: impl IntoIterator<Item = S>) -> Result<String> {
    let mut command = Command::new(program);
    command.args(args).stdin(Stdio::null());
    let output = crate::raw::die_with_us(&mut command)
        .output()
        .with_context(|| format!("run {program} (is it installed?)"))?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_string();
    if !output.status.success() {
        bail!("{command:?}: {}: {} {}", output.status, text(&output.stdout), text(&output.stderr));
    }
    Ok(text(&output.stdout))
}

/// We are root.
pub fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// Why no loop device can be made here, if so. Tried once per process with a real one.
pub fn no_devices() -> Option<String> {
    static ANSWER: OnceLock<Option<String>> = OnceLock::new();
    ANSWER
        .get_or_init(|| {
            if !is_root() {
                return Some("not root".into());
            }
            let attempt = crate::scratch::Scratch::new("probe")
                .and_then(|s| crate::device::Loop::new(&s, "probe", 1 << 20).map(|_| ()));
            attempt.err().map(|e| format!("no loop devices: {e:#}"))
        })
        .clone()
}

/// Why nothing can be tracked here, if so: looked up independently of the product.
pub fn no_tracking() -> Option<String> {
    static ANSWER: OnceLock<Option<String>> = OnceLock::new();
    ANSWER
        .get_or_init(|| {
            no_devices().or_else(|| {
                let btf = match std::fs::read("/sys/kernel/btf/vmlinux") {
                    Ok(btf) => btf,
                    Err(e) => return Some(format!("no kernel BTF: {e}")),
                };
                let missing = ["btf_trace_block_rq_issue", "btf_trace_block_bio_queue"].into_iter();
                let mut missing = missing.filter(|name| !contains(&btf, name.as_bytes()));
                missing.next().map(|name| format!("the kernel's BTF lacks {name}"))
            })
        })
        .clone()
}

fn contains(haystack: &[u8], needle: &[u8]) -> bool {
    haystack.windows(needle.len()).any(|window| window == needle)
}

/// Why file system `kind` (ext4, xfs, btrfs) cannot be used here, if so.
pub fn no_filesystem(kind: &str) -> Option<String> {
    if run("which", [format!("mkfs.{kind}")]).is_err() {
        return Some(format!("no mkfs.{kind}"));
    }
    // autoloads the module where it is one
    let _ = run("modprobe", ["-q", kind]);
    let known = std::fs::read_to_string("/proc/filesystems").unwrap_or_default();
    let found = known.lines().any(|line| line.trim_start_matches("nodev").trim() == kind);
    (!found).then(|| format!("the kernel does not know {kind}"))
}

/// Seconds the load tests run: `BLKDELTA_TEST_LONG`, or the short form's.
pub fn seconds(short: u64) -> u64 {
    std::env::var("BLKDELTA_TEST_LONG").ok().and_then(|s| s.parse().ok()).unwrap_or(short)
}
