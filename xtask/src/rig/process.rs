//! Running a program under the stop button, with its time and its memory taken.

use anyhow::{Context, Result, bail};
use std::io::Read;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

static STOP: OnceLock<Arc<AtomicBool>> = OnceLock::new();

/// From now on Ctrl-C, SIGTERM and SIGHUP only raise a flag, so that guards can clean up; a second one ends us.
pub fn listen() -> Result<()> {
    let flag = STOP.get_or_init(Arc::default);
    for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM, signal_hook::consts::SIGHUP] {
        signal_hook::flag::register(signal, Arc::clone(flag)).context("listen for Ctrl-C")?;
    }
    Ok(())
}

/// An error once we were asked to stop.
pub fn go_on() -> Result<()> {
    if STOP.get().is_some_and(|flag| flag.load(Ordering::Relaxed)) {
        bail!("interrupted");
    }
    Ok(())
}

/// Sleeps, unless asked to stop.
pub fn sleep(time: Duration) -> Result<()> {
    let end = Instant::now() + time;
    while Instant::now() < end {
        go_on()?;
        std::thread::sleep(Duration::from_millis(20).min(end - Instant::now().min(end)));
    }
    Ok(())
}

/// A program that ended.
pub struct Ran {
    /// Standard output.
    pub out: String,
    /// Standard error.
    pub err: String,
    /// Exit code; none if a signal ended it.
    pub code: Option<i32>,
    /// How long it took.
    pub took: Duration,
    /// The most memory it had, in bytes.
    pub peak: u64,
    /// Processor time of it and its children, in seconds; the kernel tells it in hundredths.
    pub cpu: f64,
}

impl Ran {
    /// An error unless the exit code is 0.
    pub fn success(self, what: &str) -> Result<Self> {
        if self.code != Some(0) {
            bail!("{what} ended with {:?}\n{}{}", self.code, self.out, self.err);
        }
        Ok(self)
    }
}

/// Runs to the end; an error if that cannot be, or if we were asked to stop.
pub fn watch(command: &mut Command) -> Result<Ran> {
    let what = format!("{command:?}");
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let (began, spent) = (Instant::now(), children_cpu());
    let mut child = command.spawn().with_context(|| format!("start {what}"))?;
    let (out, err) = (reader(child.stdout.take()), reader(child.stderr.take()));
    let (mut peak, mut looked) = (0, None::<Instant>);
    let status = loop {
        if let Some(status) = child.try_wait().with_context(|| format!("wait for {what}"))? {
            break status;
        }
        if let Err(stopped) = go_on() {
            end(&mut child);
            return Err(stopped);
        }
        if looked.is_none_or(|at| at.elapsed() >= Duration::from_millis(10)) {
            looked = Some(Instant::now());
            peak = peak_of(child.id()).unwrap_or(0).max(peak);
        }
        std::thread::sleep(Duration::from_millis(1));
    };
    let took = began.elapsed();
    let text = |thread: JoinHandle<String>| thread.join().unwrap_or_default();
    let cpu = children_cpu() - spent;
    Ok(Ran { out: text(out), err: text(err), code: status.code(), took, peak, cpu })
}

/// Processor time of all children that ended, in seconds; 0 if the kernel does not tell.
fn children_cpu() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    ticks(&stat, 13, 2) / HERTZ
}

/// USER_HZ is 100 on every architecture that can run this.
const HERTZ: f64 = 100.0;

/// The sum of some of the four times in a line of proc(5): utime, stime, cutime and cstime are its fields 14 to 17, the
/// places 11 to 14 after the name, which may hold anything.
fn ticks(stat: &str, skip: usize, take: usize) -> f64 {
    let fields = stat.rsplit_once(')').map_or("", |(_, rest)| rest).split_whitespace();
    fields.skip(skip).take(take).filter_map(|ticks| ticks.parse::<f64>().ok()).sum()
}

fn reader(stream: Option<impl Read + Send + 'static>) -> JoinHandle<String> {
    std::thread::spawn(move || {
        let mut bytes = Vec::new();
        if let Some(mut stream) = stream {
            // what could be read until then is what there is to show
            let _ = stream.read_to_end(&mut bytes);
        }
        String::from_utf8_lossy(&bytes).into_owned()
    })
}

/// Processor time of a process and of its children that ended, in seconds, in hundredths.
pub fn cpu_of(pid: u32) -> Result<f64> {
    let path = format!("/proc/{pid}/stat");
    let stat = std::fs::read_to_string(&path).with_context(|| format!("read {path}"))?;
    Ok(ticks(&stat, 11, 4) / HERTZ)
}

/// Processes that this one started.
pub fn children_of(pid: u32) -> Vec<u32> {
    let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    let lists = tasks.filter_map(|task| std::fs::read_to_string(task.path().join("children")).ok());
    let pids = |list: String| list.split_whitespace().filter_map(|pid| pid.parse().ok()).collect::<Vec<_>>();
    lists.flat_map(pids).collect()
}

/// Most memory of a running process, as the kernel keeps it.
pub fn peak_of(pid: u32) -> Option<u64> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    Some(line.trim().trim_end_matches(" kB").parse::<u64>().ok()? << 10)
}

/// Asks a child to end, and makes it after a while: it has things of its own to tidy up.
fn end(child: &mut Child) {
    if let Some(pid) = i32::try_from(child.id()).ok().and_then(rustix::process::Pid::from_raw) {
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
    }
    let give_up = Instant::now() + Duration::from_secs(10);
    while !matches!(child.try_wait(), Ok(Some(_))) {
        if Instant::now() > give_up {
            let _ = child.kill();
            let _ = child.wait();
            return;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_found_behind_any_name() {
        let stat = "7 (a) b (c) S 1 2 3 4 5 6 7 8 9 10 100 20 3 4 20 0 1 0 5";
        assert_eq!((ticks(stat, 11, 4), ticks(stat, 13, 2)), (127.0, 7.0));
        assert!(cpu_of(std::process::id()).unwrap() >= 0.0);
    }

    #[test]
    fn children_are_found() {
        let mut child = Command::new("sleep").arg("600").spawn().unwrap();
        let found = children_of(std::process::id());
        assert!(found.contains(&child.id()), "{found:?}");
        child.kill().unwrap();
        child.wait().unwrap();
    }
}
