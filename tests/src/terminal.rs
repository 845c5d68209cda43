//! A terminal in memory with a program on it: what a person would see, and whether it is given back as it was.

use crate::raw::die_with_us;
use anyhow::{Context, Result, ensure};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{Termios, Winsize, tcgetattr, tcsetwinsize};
use std::fs::File;
use std::io::{Read, Write};
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// What stood on the terminal before.
const BEFORE: &str = "what stood here before";

/// How long something may take to be seen.
const PATIENCE: Duration = Duration::from_secs(60);

/// A pseudo terminal of 80 by 24, and what was drawn on it.
pub struct Terminal {
    keys: File,
    line: File,
    screen: Arc<Mutex<vt100::Parser>>,
    before: Termios,
    child: Child,
}

impl Terminal {
    /// Starts `command` on a new terminal, which is then the one that controls it.
    pub fn with(command: &Command) -> Result<Self> {
        let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC)?;
        grantpt(&master)?;
        unlockpt(&master)?;
        let name = PathBuf::from(std::ffi::OsString::from_vec(ptsname(&master, Vec::new())?.into_bytes()));
        tcsetwinsize(&master, Winsize { ws_row: 24, ws_col: 80, ws_xpixel: 0, ws_ypixel: 0 })?;
        let mut line = File::options().read(true).write(true).open(&name)?;
        writeln!(line, "{BEFORE}")?;
        let before = tcgetattr(&line)?;
        // a session of its own, so that the terminal can control it
        let mut on_it = Command::new("setsid");
        on_it.arg("--ctty").arg(command.get_program()).args(command.get_args());
        for (name, value) in command.get_envs() {
            match value {
                Some(value) => on_it.env(name, value),
                None => on_it.env_remove(name),
            };
        }
        on_it.env("TERM", "xterm-256color").env_remove("NO_COLOR");
        on_it.stdin(line.try_clone()?).stdout(line.try_clone()?).stderr(line.try_clone()?);
        let child = die_with_us(&mut on_it).spawn().context("start setsid")?;
        let keys = File::from(master);
        let screen = Arc::new(Mutex::new(vt100::Parser::new(24, 80, 0)));
        let (mut out, seen) = (keys.try_clone()?, Arc::clone(&screen));
        std::thread::spawn(move || {
            let mut bytes = [0; 4096];
            // it ends when the last one that has the other side open is gone
            while let Ok(n) = out.read(&mut bytes) {
                seen.lock().unwrap_or_else(PoisonError::into_inner).process(&bytes[..n]);
            }
        });
        Ok(Self { keys, line, screen, before, child })
    }

    /// The lines that are shown.
    pub fn lines(&self) -> Vec<String> {
        let screen = self.screen.lock().unwrap_or_else(PoisonError::into_inner);
        screen.screen().rows(0, 80).collect()
    }

    /// Waits until `seen` says that the lines show what is wanted.
    pub fn wait(&self, what: &str, seen: impl Fn(&[String]) -> bool) -> Result<()> {
        let until = Instant::now() + PATIENCE;
        loop {
            let lines = self.lines();
            if seen(&lines) {
                return Ok(());
            }
            ensure!(Instant::now() < until, "{what} was not shown:\n{}", lines.join("\n"));
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Presses keys.
    pub fn press(&mut self, keys: &str) -> Result<()> {
        self.keys.write_all(keys.as_bytes()).context("press keys")
    }

    /// Makes it another size; programs on it are told.
    pub fn resize(&self, columns: u16, rows: u16) -> Result<()> {
        self.screen.lock().unwrap_or_else(PoisonError::into_inner).screen_mut().set_size(rows, columns);
        tcsetwinsize(&self.keys, Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 })?;
        Ok(())
    }

    /// The program's process.
    pub fn process(&self) -> u32 {
        self.child.id()
    }

    /// Waits for the program's end; an error unless the terminal is then as it was. How it ended.
    pub fn ended(&mut self) -> Result<ExitStatus> {
        let until = Instant::now() + PATIENCE;
        let status = loop {
            if let Some(status) = self.child.try_wait()? {
                break status;
            }
            ensure!(Instant::now() < until, "it does not end:\n{}", self.lines().join("\n"));
            std::thread::sleep(Duration::from_millis(20));
        };
        // the last of what it wrote may still be on its way
        self.wait("what stood there before", |lines| lines[0].contains(BEFORE))?;
        let screen = self.screen.lock().unwrap_or_else(PoisonError::into_inner);
        ensure!(!screen.screen().alternate_screen(), "it left its own screen standing");
        ensure!(!screen.screen().hide_cursor(), "the cursor is hidden");
        let now = tcgetattr(&self.line)?;
        let modes = |t: &Termios| (t.input_modes, t.output_modes, t.control_modes, t.local_modes);
        ensure!(modes(&now) == modes(&self.before), "{now:?} is not {:?}", self.before);
        Ok(status)
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
