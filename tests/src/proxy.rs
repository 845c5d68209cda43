//! A bad line to a server of HTTP: a proxy that delays, cuts, repeats, refuses and spoils, as a test's plan says.

use crate::random::Random;
use anyhow::{Context, Result};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// What happens to one request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// It takes a while.
    Delay(Duration),
    /// It never arrives.
    CutBefore,
    /// It arrives, and its answer is lost.
    CutAfter,
    /// Half of its answer comes.
    HalfAnswer,
    /// It arrives twice; the second answer comes.
    Repeat,
    /// A bit of what was sent is another.
    SpoilRequest,
    /// A bit of what was answered is another.
    SpoilAnswer,
    /// The server answers this status and this code of S3 instead.
    Answer(u16, &'static str),
}

/// A request as the plan sees it.
#[derive(Debug)]
pub struct Request {
    /// `GET`, `PUT`, …
    pub method: String,
    /// Path and query.
    pub path: String,
    head: Vec<u8>,
    body: Vec<u8>,
}

impl Request {
    /// Whose it is: the access key it is signed with.
    pub fn key(&self) -> Option<&str> {
        let head = std::str::from_utf8(&self.head).ok()?;
        head.split_once("Credential=")?.1.split('/').next()
    }
}

type Plan = Box<dyn FnMut(&Request) -> Option<Fault> + Send>;

struct Shared {
    server: SocketAddr,
    plan: Mutex<Plan>,
    random: Mutex<Random>,
    gone: AtomicBool,
}

impl Shared {
    /// Turns a bit after the first `from` bytes.
    fn spoil(&self, bytes: &mut [u8], from: usize) {
        let bits = bytes.len().saturating_sub(from) as u64 * 8;
        if bits > 0 {
            let bit = self.random.lock().unwrap_or_else(PoisonError::into_inner).below(bits);
            bytes[from + (bit / 8) as usize] ^= 1 << (bit % 8);
        }
    }
}

/// A proxy in threads of this process.
pub struct Proxy {
    address: SocketAddr,
    shared: Arc<Shared>,
}

impl Proxy {
    /// Stands before `server`; without a plan it only passes on.
    pub fn new(server: SocketAddr, random: Random) -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let address = listener.local_addr()?;
        let plan: Mutex<Plan> = Mutex::new(Box::new(|_| None));
        let shared =
            Arc::new(Shared { server, plan, random: Mutex::new(random), gone: AtomicBool::new(false) });
        let ours = Arc::clone(&shared);
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                if ours.gone.load(Ordering::SeqCst) {
                    return;
                }
                let shared = Arc::clone(&ours);
                // a broken connection is what this is for
                std::thread::spawn(move || drop(serve(&shared, stream)));
            }
        });
        Ok(Self { address, shared })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// What happens from now on.
    pub fn plan(&self, plan: impl FnMut(&Request) -> Option<Fault> + Send + 'static) {
        *self.shared.plan.lock().unwrap_or_else(PoisonError::into_inner) = Box::new(plan);
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.shared.gone.store(true, Ordering::SeqCst);
        // wakes the listener
        let _ = TcpStream::connect(self.address);
    }
}

/// One request, then the connection is closed: faults stay apart.
fn serve(shared: &Shared, mut stream: TcpStream) -> Result<()> {
    let request = read_request(&stream)?;
    let fault = shared.plan.lock().unwrap_or_else(PoisonError::into_inner)(&request);
    let mut answer = match fault {
        Some(Fault::CutBefore) => return Ok(()),
        Some(Fault::Answer(status, code)) => refusal(status, code),
        Some(Fault::SpoilRequest) => {
            let mut body = request.body.clone();
            shared.spoil(&mut body, 0);
            pass(shared.server, &request.head, &body)?
        }
        Some(Fault::Repeat) => {
            pass(shared.server, &request.head, &request.body)?;
            pass(shared.server, &request.head, &request.body)?
        }
        Some(Fault::Delay(time)) => {
            std::thread::sleep(time);
            pass(shared.server, &request.head, &request.body)?
        }
        _ => pass(shared.server, &request.head, &request.body)?,
    };
    match fault {
        Some(Fault::CutAfter) => return Ok(()),
        Some(Fault::HalfAnswer) => answer.truncate(answer.len() / 2),
        Some(Fault::SpoilAnswer) => {
            let body = answer.windows(4).position(|w| w == b"\r\n\r\n").map_or(answer.len(), |at| at + 4);
            shared.spoil(&mut answer, body);
        }
        _ => {}
    }
    stream.write_all(&answer)?;
    stream.shutdown(Shutdown::Write)?;
    // an answer is not lost because the other side still sends
    let _ = std::io::copy(&mut stream, &mut std::io::sink());
    Ok(())
}

fn read_request(stream: &TcpStream) -> Result<Request> {
    let mut reader = BufReader::new(stream);
    let (mut first, mut head, mut length) = (String::new(), Vec::new(), 0);
    reader.read_line(&mut first)?;
    head.extend_from_slice(first.as_bytes());
    loop {
        let mut line = String::new();
        reader.read_line(&mut line)?;
        let (name, value) = line.split_once(':').unwrap_or_default();
        if line.trim().is_empty() {
            break;
        }
        match name.to_ascii_lowercase().as_str() {
            "connection" => continue,
            "content-length" => length = value.trim().parse()?,
            _ => {}
        }
        head.extend_from_slice(line.as_bytes());
    }
    head.extend_from_slice(b"Connection: close\r\n\r\n");
    let mut body = vec![0; length];
    reader.read_exact(&mut body)?;
    let mut words = first.split(' ').map(str::to_owned);
    let method = words.next().context("no method")?;
    Ok(Request { method, path: words.next().context("no path")?, head, body })
}

fn pass(server: SocketAddr, head: &[u8], body: &[u8]) -> Result<Vec<u8>> {
    let mut stream = TcpStream::connect(server)?;
    stream.write_all(head)?;
    stream.write_all(body)?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer)?;
    Ok(answer)
}

fn refusal(status: u16, code: &str) -> Vec<u8> {
    let body =
        format!("<?xml version=\"1.0\"?><Error><Code>{code}</Code><Message>by a test</Message></Error>");
    let head = format!("HTTP/1.1 {status} No\r\nContent-Type: application/xml\r\nConnection: close\r\n");
    format!("{head}Content-Length: {}\r\n\r\n{body}", body.len()).into_bytes()
}
