//! The line to a server on loopback, which can be cut: what is connected breaks off, what connects is turned away.

use anyhow::{Context, Result};
use std::collections::HashMap;
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

#[derive(Default)]
struct Line {
    cut: AtomicBool,
    gone: AtomicBool,
    /// Both ends of what goes through now, by number.
    ends: Mutex<HashMap<u64, [TcpStream; 2]>>,
    last: AtomicU64,
}

impl Line {
    fn ends(&self) -> MutexGuard<'_, HashMap<u64, [TcpStream; 2]>> {
        self.ends.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The line; its threads end with it.
pub struct Wire {
    address: SocketAddr,
    line: Arc<Line>,
}

impl Wire {
    /// To this server.
    pub fn to(server: SocketAddr) -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").context("listen on loopback")?;
        let (address, line) = (listener.local_addr()?, Arc::<Line>::default());
        let ours = Arc::clone(&line);
        let serve = move || {
            for stream in listener.incoming().flatten() {
                if ours.gone.load(Ordering::SeqCst) {
                    return;
                }
                // whoever is turned away or breaks off is what this is for
                let _ = pass(&ours, stream, server);
            }
        };
        std::thread::Builder::new().name("wire".into()).spawn(serve).context("start the wire")?;
        Ok(Self { address, line })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Cuts it.
    pub fn cut(&self) {
        self.line.cut.store(true, Ordering::SeqCst);
        for stream in self.line.ends().values().flatten() {
            // it may have ended by itself
            let _ = stream.shutdown(Shutdown::Both);
        }
    }

    /// It is whole again.
    pub fn mend(&self) {
        self.line.cut.store(false, Ordering::SeqCst);
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        self.line.gone.store(true, Ordering::SeqCst);
        self.cut();
        // wakes the listener
        let _ = TcpStream::connect(self.address);
    }
}

/// Both directions, each in a thread.
fn pass(line: &Arc<Line>, from: TcpStream, server: SocketAddr) -> Result<()> {
    if line.cut.load(Ordering::SeqCst) {
        return Ok(());
    }
    let to = TcpStream::connect(server)?;
    let (number, both) =
        (line.last.fetch_add(1, Ordering::SeqCst), [(from.try_clone()?, to.try_clone()?), (to, from)]);
    let ends = [both[0].0.try_clone()?, both[0].1.try_clone()?];
    let mut all = line.ends();
    // under the lock: a cut that did not find this connection is seen here
    if line.cut.load(Ordering::SeqCst) {
        return Ok(());
    }
    all.insert(number, ends);
    drop(all);
    let line = Arc::clone(line);
    std::thread::spawn(move || {
        std::thread::scope(|scope| both.map(|(from, to)| scope.spawn(move || pump(from, to))).map(drop));
        line.ends().remove(&number);
    });
    Ok(())
}

fn pump(mut from: TcpStream, mut to: TcpStream) {
    let mut buffer = vec![0; 64 << 10];
    while let Ok(length @ 1..) = from.read(&mut buffer) {
        if to.write_all(&buffer[..length]).is_err() {
            break;
        }
    }
    let _ = to.shutdown(Shutdown::Write);
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Answers every line with itself.
    fn echo() -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                std::thread::spawn(move || pump(stream.try_clone().unwrap(), stream));
            }
        });
        address
    }

    fn answers(stream: &mut TcpStream) -> bool {
        let mut got = [0; 4];
        stream.write_all(b"here").is_ok() && stream.read_exact(&mut got).is_ok() && &got == b"here"
    }

    #[test]
    fn a_cut_breaks_what_goes_on_and_turns_away_what_comes() {
        let wire = Wire::to(echo()).unwrap();
        let connect = || TcpStream::connect(wire.address()).unwrap();
        let mut first = connect();
        assert!(answers(&mut first));
        wire.cut();
        assert!(!answers(&mut first) && !answers(&mut connect()));
        wire.mend();
        assert!(answers(&mut connect()));
    }
}
