//! Commands from the host: each is run, what it says is sent line by line, then how it ended.

use anyhow::{Context, Result};
use serde_json::{Value, json};
use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::{Duration, Instant};

/// Until the host closes its end.
pub fn serve(port: File, environment: &[(&str, &str)]) -> Result<()> {
    let mut to = port.try_clone().context("share the port")?;
    send(&mut to, &json!({ "ready": kernel(), "uptime": uptime() }))?;
    for line in BufReader::new(port).lines() {
        let line = line.context("read from the host")?;
        let request: Value = serde_json::from_str(&line).with_context(|| format!("understand {line:?}"))?;
        let words: Vec<&str> =
            request["run"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
        let limit = Duration::from_secs(request["limit"].as_u64().unwrap_or(60));
        let end = match start(&words, environment) {
            Ok((child, lines)) => relay(child, &lines, limit, &mut to)?,
            Err(error) => json!({ "end": 127, "why": format!("{error:#}") }),
        };
        send(&mut to, &end)?;
    }
    Ok(())
}

fn send(to: &mut File, message: &Value) -> Result<()> {
    to.write_all(format!("{message}\n").as_bytes()).context("write to the host")
}

fn start(words: &[&str], environment: &[(&str, &str)]) -> Result<(Child, Receiver<String>)> {
    let (program, rest) = words.split_first().context("an empty command")?;
    let mut command = Command::new(program);
    command.args(rest).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command.env_clear().envs(environment.iter().copied());
    let mut child = command.spawn().with_context(|| format!("start {program}"))?;
    let (sender, lines) = channel();
    forward(child.stdout.take(), sender.clone());
    forward(child.stderr.take(), sender);
    Ok((child, lines))
}

fn forward(stream: Option<impl Read + Send + 'static>, to: Sender<String>) {
    let Some(stream) = stream else { return };
    std::thread::spawn(move || {
        for line in BufReader::new(stream).split(b'\n').map_while(Result::ok) {
            // the host may not be interested any more
            let _ = to.send(String::from_utf8_lossy(&line).into_owned());
        }
    });
}

/// Sends lines until the command ends or its time is over.
fn relay(mut child: Child, lines: &Receiver<String>, limit: Duration, to: &mut File) -> Result<Value> {
    let end = Instant::now() + limit;
    loop {
        match lines.recv_timeout(Duration::from_millis(50)) {
            Ok(line) => send(to, &json!({ "out": line }))?,
            Err(RecvTimeoutError::Disconnected) => break,
            // a daemon it left behind may keep the pipe open
            Err(RecvTimeoutError::Timeout) if matches!(child.try_wait(), Ok(Some(_))) => break,
            Err(RecvTimeoutError::Timeout) => {}
        }
        if Instant::now() > end {
            child.kill().context("end a command")?;
            child.wait().context("wait for a command")?;
            return Ok(json!({ "end": 124, "why": format!("not done after {} s", limit.as_secs()) }));
        }
    }
    let status = child.wait().context("wait for a command")?;
    for line in lines.try_iter() {
        send(to, &json!({ "out": line }))?;
    }
    Ok(json!({ "end": status.code().unwrap_or(128), "why": status.to_string() }))
}

fn kernel() -> String {
    std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default().trim().to_owned()
}

fn uptime() -> String {
    let text = std::fs::read_to_string("/proc/uptime").unwrap_or_default();
    text.split(' ').next().unwrap_or_default().to_owned()
}
