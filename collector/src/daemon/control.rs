//! The control socket: one JSON object a line asks, one answers.
//!
//! ```text
//!   {"verb":"status"}            {"ok":true,"shown":{…}}
//!   {"verb":"run","job":"db"}    {"ok":false,"error":"no job is called …","hint":"it has: …"}
//!   {"verb":"pause"}             all jobs; {"verb":"pause","job":"db"}: one; "resume" the same; "reload"
//! ```
//!
//! What must stay true: only root and the members of one group can connect (the file's mode); no line, however long or
//! odd, harms the daemon; a client that hangs holds up nobody.

use super::engine::Event;
use super::shown::Shown;
use crate::error::{Context, Error, Kind, Result};
use crate::tracker::Lock;
use serde::{Deserialize, Serialize};
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Sender, channel};
use std::time::Duration;

/// What can be asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Verb {
    /// What it does.
    Status,
    /// A job, now.
    Run,
    /// No more runs by themselves.
    Pause,
    /// Again.
    Resume,
    /// The configuration anew.
    Reload,
}

/// A question.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Request {
    /// What.
    pub verb: Verb,
    /// Of which job.
    #[serde(default)]
    pub job: Option<String>,
}

/// An answer.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Answer {
    /// It was done.
    pub ok: bool,
    /// Why not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// What to do.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
    /// How things are now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shown: Option<Box<Shown>>,
}

impl Answer {
    pub(super) fn fine(shown: &Shown) -> Self {
        Self { ok: true, shown: Some(Box::new(shown.in_brief())), ..Self::default() }
    }

    pub(super) fn refused(error: &Error) -> Self {
        Self { error: Some(error.in_full()), hint: error.advice().map(Into::into), ..Self::default() }
    }
}

/// The longest question.
const LINE: u64 = 4096;
/// The longest silence.
const SILENCE: Duration = Duration::from_secs(20);
/// The most clients at once.
const CLIENTS: usize = 32;

/// Listens at `path`; questions become events.
///
/// # Errors
/// `Busy` if a daemon is there already; if the socket cannot be made, or there is no such group.
pub fn listen(path: &Path, group: Option<&str>, events: Sender<Event>) -> Result<Lock> {
    let what = || format!("listen at {}", path.display());
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder).os_context(what)?;
    }
    let lock = Lock::take(&path.with_extension("lock"), &what(), false)?;
    // whoever made it is dead: we have its lock
    match std::fs::remove_file(path) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(Error::os(what(), e)),
        _ => {}
    }
    let listener = UnixListener::bind(path).os_context(what)?;
    restrict(path, group)?;
    let thread = std::thread::Builder::new().name("control".into());
    thread.spawn(move || accept(&listener, &events)).os_context(what)?;
    Ok(lock)
}

/// Root may connect to a socket, and the members of this group.
pub(super) fn restrict(path: &Path, group: Option<&str>) -> Result<()> {
    let what = || format!("restrict who may connect to {}", path.display());
    let mode = |mode| std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).os_context(what);
    mode(0o600)?;
    let Some(group) = group else { return Ok(()) };
    std::os::unix::fs::chown(path, None, Some(group_id(group)?)).os_context(what)?;
    mode(0o660)
}

/// Of `/etc/group`.
fn group_id(name: &str) -> Result<u32> {
    let text = std::fs::read_to_string("/etc/group").os_context(|| "read /etc/group".into())?;
    let found = text.lines().find_map(|line| {
        let mut fields = line.split(':');
        (fields.next() == Some(name)).then(|| fields.nth(1)?.parse().ok()).flatten()
    });
    found.ok_or_else(|| {
        Error::new(Kind::Usage, format!("socket_group: there is no group {name}"))
            .hint("groupadd --system it")
    })
}

fn accept(listener: &UnixListener, events: &Sender<Event>) {
    let clients = Arc::new(AtomicUsize::new(0));
    for stream in listener.incoming() {
        let Ok(stream) = stream else {
            // no descriptors left, for example
            std::thread::sleep(Duration::from_millis(100));
            continue;
        };
        if clients.fetch_add(1, Ordering::Relaxed) >= CLIENTS {
            clients.fetch_sub(1, Ordering::Relaxed);
            continue;
        }
        let (events, count) = (events.clone(), Arc::clone(&clients));
        let spawned = std::thread::Builder::new().name("client".into()).spawn(move || {
            serve(&stream, &events);
            count.fetch_sub(1, Ordering::Relaxed);
        });
        if spawned.is_err() {
            clients.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

/// One client, until it goes, is silent, or asks nonsense.
fn serve(stream: &UnixStream, events: &Sender<Event>) {
    let _ = stream.set_read_timeout(Some(SILENCE));
    let _ = stream.set_write_timeout(Some(SILENCE));
    let mut reader = BufReader::new(stream);
    loop {
        let mut line = Vec::new();
        match reader.by_ref().take(LINE).read_until(b'\n', &mut line) {
            Ok(0) | Err(_) => return,
            Ok(_) => {}
        }
        let (answer, go_on) = match serde_json::from_slice::<Request>(&line) {
            Ok(request) => {
                let (reply, answered) = channel();
                if events.send(Event::Asked(request, reply)).is_err() {
                    return;
                }
                let Ok(answer) = answered.recv() else { return };
                (answer, true)
            }
            Err(error) => {
                let text = format!("not a question: {error}");
                let hint = "one JSON object a line, such as {\"verb\":\"status\"}";
                (Answer::refused(&Error::new(Kind::Usage, text).hint(hint)), false)
            }
        };
        let Ok(mut bytes) = serde_json::to_vec(&answer) else { return };
        bytes.push(b'\n');
        let mut to = stream;
        if to.write_all(&bytes).is_err() || !go_on {
            return;
        }
    }
}

/// Asks the daemon that listens at `path`.
///
/// # Errors
/// If none does, it may not be asked, or it refuses.
pub fn ask(path: &Path, request: &Request) -> Result<Shown> {
    let what = || format!("ask the daemon at {}", path.display());
    let stream = UnixStream::connect(path).map_err(|e| {
        let hint = match e.kind() {
            std::io::ErrorKind::PermissionDenied => "only root and `socket_group` of the configuration may",
            _ => "is it running? systemctl status blkdelta-daemon; without it: blkdelta run JOB",
        };
        Error::os(what(), e).hint(hint)
    })?;
    stream.set_read_timeout(Some(SILENCE)).os_context(what)?;
    let bug = |e| Error::caused(Kind::Bug, what(), e);
    let mut line = serde_json::to_vec(request).map_err(bug)?;
    line.push(b'\n');
    (&stream).write_all(&line).os_context(what)?;
    let mut text = String::new();
    BufReader::new(&stream).read_line(&mut text).os_context(what)?;
    let answer: Answer = serde_json::from_str(&text).map_err(bug)?;
    match (answer.shown, answer.error) {
        (Some(shown), None) => Ok(*shown),
        (_, why) => {
            let mut error = Error::new(Kind::Usage, why.unwrap_or_else(|| "it did not answer".into()));
            if let Some(hint) = answer.hint {
                error = error.hint(hint);
            }
            Err(error.within(what()))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn daemon(path: &Path) -> (Lock, std::thread::JoinHandle<()>) {
        let (events, heard) = channel();
        let lock = listen(path, None, events).unwrap();
        let thread = std::thread::spawn(move || {
            for event in heard {
                let Event::Asked(request, reply) = event else { return };
                let answer = match request.job.as_deref() {
                    Some("unknown") => Answer::refused(&Error::new(Kind::Usage, "no such job").hint("look")),
                    Some("end") => return,
                    _ => Answer::fine(&Shown::default()),
                };
                let _ = reply.send(answer);
            }
        });
        (lock, thread)
    }

    #[test]
    fn questions_are_answered_and_nonsense_is_survived() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("d.sock");
        let (_lock, _thread) = daemon(&path);
        let status = Request { verb: Verb::Status, job: None };
        assert!(ask(&path, &status).is_ok());
        let mode = std::fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "others may not connect");
        let unknown = ask(&path, &Request { verb: Verb::Run, job: Some("unknown".into()) }).unwrap_err();
        assert!(unknown.in_full().contains("no such job") && unknown.advice() == Some("look"));
        for nonsense in ["\n", "{}\n", "{\"verb\":\"shutdown\"}\n", "x".repeat(1 << 20).as_str(), "\u{0}\n"] {
            let mut stream = UnixStream::connect(&path).unwrap();
            let _ = stream.write_all(nonsense.as_bytes());
            let mut said = String::new();
            let _ = stream.read_to_string(&mut said);
            assert!(!said.contains("\"ok\":true"), "{said}");
        }
        assert!(ask(&path, &status).is_ok());
        let second = listen(&path, None, channel().0).unwrap_err();
        assert_eq!(second.kind(), Kind::Busy);
        assert!(group_id("root").is_ok() && group_id("no such group").is_err());
    }
}
