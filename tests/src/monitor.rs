//! `blkdelta monitor --json` as a child process, and what it has said so far.

use crate::product::Home;
use anyhow::{Context, Result, bail};
use serde_json::Value;
use std::io::{BufRead, BufReader};
use std::process::Child;
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

/// A running monitor; ended when dropped.
pub struct Monitor {
    child: Child,
    lines: Receiver<Value>,
    said: Vec<Value>,
}

impl Monitor {
    /// Starts one that looks every `interval` (`100ms`), and waits until it watches something.
    pub fn start(home: &Home, interval: &str) -> Result<Self> {
        let mut child = home.start(["monitor", "--interval", interval, "--json"])?;
        let out = child.stdout.take().context("the monitor's output")?;
        let (send, lines) = channel();
        std::thread::spawn(move || {
            for line in BufReader::new(out).lines().map_while(Result::ok) {
                if let Ok(value) = serde_json::from_str(&line)
                    && send.send(value).is_err()
                {
                    return;
                }
            }
        });
        let mut monitor = Self { child, lines, said: Vec::new() };
        monitor.wait_for("watched", "")?;
        Ok(monitor)
    }

    /// Waits up to ten seconds for an event whose reason contains `part`.
    pub fn wait_for(&mut self, event: &str, part: &str) -> Result<String> {
        let give_up = Instant::now() + Duration::from_secs(10);
        loop {
            let left = give_up.saturating_duration_since(Instant::now());
            let Ok(line) = self.lines.recv_timeout(left) else {
                bail!("the monitor did not say {event:?} {part:?} but {:?}", self.said)
            };
            self.said.push(line.clone());
            let reason = line["reason"].as_str().unwrap_or_default();
            if line["event"] == event && reason.contains(part) {
                return Ok(reason.to_owned());
            }
        }
    }

    /// Everything it called wrong so far.
    pub fn alarms(&mut self) -> Vec<Value> {
        self.said.extend(self.lines.try_iter());
        self.said.iter().filter(|line| line["event"] == "wrong").cloned().collect()
    }
}

impl Drop for Monitor {
    fn drop(&mut self) {
        // it may have ended already
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
