//! A small server of pages and metrics: HTTP/1.1 on loopback, an address, or a unix socket.
//!
//! What must stay true: it only reads; a client that hangs, floods or asks nonsense costs a connection of few, for a
//! short time, and never the daemon's loop.

use super::control::restrict;
use crate::config::values::Listen;
use crate::error::{Context, Error, Result};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::{Bytes, Incoming};
use hyper::header::{self, HeaderValue};
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::Semaphore;

/// What is asked.
#[derive(Clone, Debug, Default)]
pub struct Asked {
    /// It is a POST.
    pub post: bool,
    /// The path alone.
    pub path: String,
    /// Header `authorization`.
    pub authorization: Option<String>,
    /// Header `cookie`.
    pub cookie: Option<String>,
    /// What a form sent.
    pub body: String,
}

/// What is answered.
#[derive(Clone, Debug)]
pub struct Reply {
    /// The status.
    pub status: u16,
    /// The media type.
    pub kind: &'static str,
    /// The text.
    pub body: String,
    /// Further headers.
    pub headers: Vec<(&'static str, String)>,
}

/// Who answers.
pub type Answerer = Arc<dyn Fn(&Asked) -> Reply + Send + Sync>;

impl Reply {
    /// A text of this kind.
    pub fn fine(kind: &'static str, body: String) -> Self {
        Self { status: 200, kind, body, headers: Vec::new() }
    }

    /// A line that says why not.
    pub fn refused(status: u16, why: &str) -> Self {
        Self { status, kind: "text/plain; charset=utf-8", body: format!("{why}\n"), headers: Vec::new() }
    }
}

/// Connections at once.
const CLIENTS: usize = 16;
/// The longest a client may take for its question, and for a connection in all.
const HEAD: Duration = Duration::from_secs(10);
const WHOLE: Duration = Duration::from_secs(60);
/// The longest form.
const BODY: usize = 4096;

enum Listener {
    Tcp(tokio::net::TcpListener),
    Unix(tokio::net::UnixListener),
}

/// Serves at `listen` on a thread of its own, as long as the process lives; `group` may connect to a unix socket.
///
/// # Errors
/// If the address cannot be had.
pub fn serve(listen: &Listen, group: Option<&str>, answer: Answerer) -> Result<()> {
    let what = || match listen {
        Listen::Tcp(address) => format!("listen at {address}"),
        Listen::Unix(path) => format!("listen at {}", path.display()),
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .max_blocking_threads(2)
        .build()
        .os_context(what)?;
    let listener = runtime.block_on(bind(listen)).map_err(|e| {
        Error::os(what(), e).hint("does something else use it? another one can be named in [daemon]")
    })?;
    if let Listen::Unix(path) = listen {
        restrict(path, group)?;
    }
    let thread = std::thread::Builder::new().name("http".into());
    thread.spawn(move || runtime.block_on(accept(listener, answer))).os_context(what)?;
    Ok(())
}

async fn bind(listen: &Listen) -> std::io::Result<Listener> {
    match listen {
        Listen::Tcp(address) => tokio::net::TcpListener::bind(address).await.map(Listener::Tcp),
        Listen::Unix(path) => {
            // ours from before: the control socket's lock says that no other daemon is there
            match std::fs::remove_file(path) {
                Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(e),
                _ => {}
            }
            tokio::net::UnixListener::bind(path).map(Listener::Unix)
        }
    }
}

async fn accept(listener: Listener, answer: Answerer) {
    let places = Arc::new(Semaphore::new(CLIENTS));
    loop {
        let Ok(place) = Arc::clone(&places).acquire_owned().await else { return };
        let answer = Arc::clone(&answer);
        let accepted = match &listener {
            Listener::Tcp(listener) => listener.accept().await.map(|(stream, _)| {
                tokio::spawn(async move {
                    talk(stream, answer).await;
                    drop(place);
                })
            }),
            Listener::Unix(listener) => listener.accept().await.map(|(stream, _)| {
                tokio::spawn(async move {
                    talk(stream, answer).await;
                    drop(place);
                })
            }),
        };
        if accepted.is_err() {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }
}

async fn talk(stream: impl AsyncRead + AsyncWrite + Unpin, answer: Answerer) {
    let service = service_fn(move |request| respond(request, Arc::clone(&answer)));
    let mut http = hyper::server::conn::http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(HEAD).max_buf_size(16 << 10).keep_alive(false);
    let talk = http.serve_connection(TokioIo::new(stream), service);
    if let Ok(Err(error)) = tokio::time::timeout(WHOLE, talk).await {
        log::debug!("a client of the page or metrics: {error}");
    }
}

async fn respond(request: Request<Incoming>, answer: Answerer) -> Result<Response<Full<Bytes>>, Infallible> {
    let head = request.method() == Method::HEAD;
    if !(head || request.method() == Method::GET || request.method() == Method::POST) {
        return Ok(response(Reply::refused(405, "only GET"), head));
    }
    let text = |name| {
        let value: Option<&HeaderValue> = request.headers().get(name);
        value.and_then(|v| v.to_str().ok()).map(ToOwned::to_owned)
    };
    let mut asked = Asked {
        post: request.method() == Method::POST,
        path: request.uri().path().to_owned(),
        authorization: text(header::AUTHORIZATION),
        cookie: text(header::COOKIE),
        body: String::new(),
    };
    if asked.post {
        match Limited::new(request.into_body(), BODY).collect().await {
            Ok(body) => asked.body = String::from_utf8_lossy(&body.to_bytes()).into_owned(),
            Err(_) => return Ok(response(Reply::refused(413, "too long"), false)),
        }
    }
    // it looks at devices: not on the thread that serves
    let reply = tokio::task::spawn_blocking(move || answer(&asked)).await;
    Ok(response(reply.unwrap_or_else(|_| Reply::refused(500, "it failed: see the journal")), head))
}

fn response(reply: Reply, head: bool) -> Response<Full<Bytes>> {
    let body = if head { Bytes::new() } else { Bytes::from(reply.body) };
    let mut response = Response::new(Full::new(body));
    *response.status_mut() = StatusCode::from_u16(reply.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let headers = response.headers_mut();
    let fixed = [
        ("content-type", reply.kind.to_owned()),
        ("cache-control", "no-store".into()),
        ("x-content-type-options", "nosniff".into()),
        ("referrer-policy", "no-referrer".into()),
        (
            "content-security-policy",
            "default-src 'none'; style-src 'unsafe-inline'; form-action 'self'; frame-ancestors 'none'"
                .into(),
        ),
    ];
    for (name, value) in fixed.into_iter().chain(reply.headers) {
        if let Ok(value) = HeaderValue::from_str(&value) {
            headers.insert(name, value);
        }
    }
    response
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};
    use std::os::unix::net::UnixStream;

    fn say(path: &std::path::Path, text: &[u8]) -> String {
        let mut stream = UnixStream::connect(path).unwrap();
        let _ = stream.write_all(text);
        if !text.ends_with(b"\r\n\r\n") && !text.starts_with(b"POST") {
            // not a whole question: nothing will come
            let _ = stream.shutdown(std::net::Shutdown::Write);
        }
        let mut said = Vec::new();
        let _ = stream.read_to_end(&mut said);
        String::from_utf8_lossy(&said).into_owned()
    }

    #[test]
    fn it_answers_and_survives_nonsense() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        let answer: Answerer = Arc::new(|asked: &Asked| match asked.path.as_str() {
            "/panic" => panic!("on purpose"),
            path => Reply::fine("text/plain", format!("{path} {} {:?}", asked.body, asked.cookie)),
        });
        serve(&Listen::Unix(path.clone()), None, answer).unwrap();
        let fine = say(&path, b"GET /a?b HTTP/1.1\r\nhost: x\r\ncookie: c=1\r\n\r\n");
        assert!(fine.starts_with("HTTP/1.1 200") && fine.ends_with("/a  Some(\"c=1\")"), "{fine}");
        assert!(fine.contains("default-src 'none'"), "{fine}");
        let post = say(&path, b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 3\r\n\r\nabc");
        assert!(post.ends_with("/ abc None"), "{post}");
        assert!(say(&path, b"DELETE / HTTP/1.1\r\nhost: x\r\n\r\n").starts_with("HTTP/1.1 405"));
        assert!(say(&path, b"GET /panic HTTP/1.1\r\nhost: x\r\n\r\n").starts_with("HTTP/1.1 500"));
        let long = format!("POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 9999\r\n\r\n{}", "x".repeat(9999));
        assert!(say(&path, long.as_bytes()).starts_with("HTTP/1.1 413"));
        for nonsense in [&b""[..], b"\0\0\0", b"GET", &b"x".repeat(100_000)] {
            assert!(!say(&path, nonsense).starts_with("HTTP/1.1 200"));
        }
        assert!(say(&path, b"GET / HTTP/1.1\r\nhost: x\r\n\r\n").starts_with("HTTP/1.1 200"));
    }
}
