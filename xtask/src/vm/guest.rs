//! One guest: booted by qemu, told what to run, ended by us; also when we are killed ourselves.
//!
//! The wire is qemu's standard input and output, joined to a virtio-serial port: no path, no port number, and
//! it closes with either side. The console goes to a file. A guest ends by losing its power, never by asking.

use super::machine::Machine;
use crate::command::which;
use crate::rig::process::go_on;
use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

/// After this a guest that has not said a word has failed to boot. Emulated, on a busy machine.
const BOOT: Duration = Duration::from_secs(600);
/// What the guest may take longer than a command's limit to say so.
const GRACE: Duration = Duration::from_secs(30);

/// A running guest.
pub struct Guest {
    child: Child,
    to: ChildStdin,
    from: Receiver<Value>,
    folder: PathBuf,
    /// The kernel's version, as it says itself.
    pub kernel: String,
    /// How long it took from power-on to the first word.
    pub booted_in: Duration,
}

/// A command that ended in the guest.
#[derive(Debug)]
pub struct Ended {
    /// Exit code; 124: its time was over; 127: it could not be started.
    pub code: i64,
    /// What it said, standard output and errors mixed.
    pub lines: Vec<String>,
}

impl Ended {
    /// What it said, or an error unless it ended with 0.
    pub fn success(self, what: &str) -> Result<Vec<String>> {
        ensure!(self.code == 0, "{what} ended with {} in the guest: {}", self.code, self.lines.join("\n"));
        Ok(self.lines)
    }
}

impl Guest {
    /// Power on; waits for the guest's first word.
    pub fn boot(machine: &Machine) -> Result<Self> {
        let began = Instant::now();
        let mut guest = Self::start_machine(machine)?;
        let ready = guest.next(Instant::now() + BOOT).context("boot a guest")?;
        guest.kernel = ready["ready"].as_str().with_context(|| format!("first word {ready}"))?.to_owned();
        guest.booted_in = began.elapsed();
        Ok(guest)
    }

    /// Goes on from the memory of a machine that ran before: it says nothing, it waits for a command.
    pub fn wake(machine: &Machine) -> Result<Self> {
        Self::start_machine(machine)
    }

    fn start_machine(machine: &Machine) -> Result<Self> {
        fs::create_dir_all(&machine.folder).context("make the guest's folder")?;
        let mut command = under_our_death(&machine.qemu()?)?;
        let errors = File::create(machine.folder.join("qemu.log")).context("create qemu.log")?;
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(errors);
        let mut child = command.spawn().context("start qemu")?;
        let (to, out) =
            (child.stdin.take().context("qemu's input")?, child.stdout.take().context("qemu's output")?);
        let folder = machine.folder.clone();
        let (kernel, booted_in) = (String::new(), Duration::ZERO);
        Ok(Self { child, to, from: messages(out), folder, kernel, booted_in })
    }

    /// Writes its memory and the state of its devices to a file, by the monitor at `monitor`; it ends with that.
    pub fn keep_memory(self, monitor: &Path, to: &Path) -> Result<()> {
        let mut line = UnixStream::connect(monitor).context("reach the monitor")?;
        line.set_read_timeout(Some(BOOT)).context("limit the wait for the monitor")?;
        // the prompt comes back when the command is done
        let orders = format!("migrate \"exec:cat > {}\"\nquit\n", to.display());
        line.write_all(orders.as_bytes()).context("write to the monitor")?;
        let mut said = String::new();
        // it ends with the machine
        let _ = line.read_to_string(&mut said);
        self.gone(GRACE)?;
        let kept = fs::metadata(to).with_context(|| format!("the monitor kept nothing: {said}"))?;
        ensure!(kept.len() > 1 << 20, "the monitor kept {} bytes: {said}", kept.len());
        Ok(())
    }

    /// Runs a command to its end; `see` gets every line as it comes.
    pub fn run(&mut self, words: &[&str], limit: Duration, mut see: impl FnMut(&str)) -> Result<Ended> {
        let end = self.start(words, limit)?;
        let mut lines = Vec::new();
        loop {
            let message = self.next(end)?;
            if let Some(line) = message["out"].as_str() {
                see(line);
                lines.push(line.to_owned());
            } else if let Some(code) = message["end"].as_i64() {
                if code != 0 {
                    lines.extend(message["why"].as_str().map(str::to_owned));
                }
                return Ok(Ended { code, lines });
            }
        }
    }

    /// Starts a command and returns at once: for a guest that will lose its power meanwhile.
    pub fn start(&mut self, words: &[&str], limit: Duration) -> Result<Instant> {
        let request = json!({ "run": words, "limit": limit.as_secs() });
        self.to.write_all(format!("{request}\n").as_bytes()).context("write to the guest")?;
        Ok(Instant::now() + limit + GRACE)
    }

    /// Waits until the command that was started says a line with this key.
    pub fn until(&mut self, key: &str, limit: Duration) -> Result<()> {
        let end = Instant::now() + limit;
        let mut last = String::new();
        loop {
            let message = self.next(end)?;
            let Some(line) = message["out"].as_str() else {
                bail!("it ended before {key}: {message} {last}")
            };
            if serde_json::from_str::<Value>(line).is_ok_and(|value| value.get(key).is_some()) {
                return Ok(());
            }
            last = line.to_owned();
        }
    }

    /// What the guest says next.
    fn next(&mut self, end: Instant) -> Result<Value> {
        loop {
            go_on()?;
            match self.from.recv_timeout(Duration::from_millis(200)) {
                Ok(message) => return Ok(message),
                Err(RecvTimeoutError::Timeout) if Instant::now() < end => {}
                Err(RecvTimeoutError::Timeout) => bail!("the guest is silent\n{}", self.last_words()),
                Err(RecvTimeoutError::Disconnected) => bail!("the guest is gone\n{}", self.last_words()),
            }
        }
    }

    /// Waits until it has switched itself off.
    pub fn gone(mut self, limit: Duration) -> Result<()> {
        let end = Instant::now() + limit;
        while self.child.try_wait().context("wait for the guest")?.is_none() {
            go_on()?;
            ensure!(Instant::now() < end, "the guest does not end\n{}", self.last_words());
            std::thread::sleep(Duration::from_millis(100));
        }
        Ok(())
    }

    /// The end of the console and of qemu's own messages.
    pub fn last_words(&self) -> String {
        let end = |name: &str| {
            let text = fs::read(self.folder.join(name)).unwrap_or_default();
            let text = String::from_utf8_lossy(&text).into_owned();
            let lines: Vec<&str> = text.lines().rev().take(25).collect();
            lines.into_iter().rev().collect::<Vec<_>>().join("\n")
        };
        format!("{}\n{}", end("qemu.log"), end("console"))
    }

    /// Power cut.
    pub fn kill(mut self) -> Result<()> {
        self.child.kill().context("end the guest")?;
        self.child.wait().context("wait for the guest").map(drop)
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        // ended already, or ended now: its own process, nobody else's
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The kernel kills it when the thread that started it ends, however that comes.
fn under_our_death(words: &[String]) -> Result<Command> {
    let setpriv = which("setpriv").context("there is no setpriv (package util-linux)")?;
    let mut command = Command::new(setpriv);
    command.args(["--pdeathsig", "KILL"]).args(words);
    Ok(command)
}

fn messages(out: impl Read + Send + 'static) -> Receiver<Value> {
    let (sender, receiver) = channel();
    std::thread::spawn(move || {
        for line in BufReader::new(out).lines().map_while(Result::ok) {
            // qemu may add a word of its own
            let Ok(message) = serde_json::from_str(&line) else { continue };
            if sender.send(message).is_err() {
                return;
            }
        }
    });
    receiver
}
