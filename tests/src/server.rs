//! Real servers on loopback: S3 (moto) and WebDAV (wsgidav), installed by `cargo xtask setup` below the target folder.

use crate::raw::die_with_us;
use anyhow::{Context, Result, bail, ensure};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// Why there is no such server here, if so.
pub fn missing(program: &str) -> Option<String> {
    match find(program) {
        Ok(_) => None,
        Err(e) => Some(format!("{e:#}: cargo xtask setup installs it")),
    }
}

fn find(program: &str) -> Result<PathBuf> {
    let us = std::env::current_exe()?;
    let targets = us.ancestors().map(|folder| folder.join("servers/bin").join(program));
    let mut found = targets.filter(|path| path.is_file());
    found.next().with_context(|| format!("no {program} below the target folder"))
}

/// A server of ours; it ends when this is dropped.
#[derive(Debug)]
pub struct Server {
    child: Child,
    address: SocketAddr,
}

impl Server {
    /// S3, empty.
    pub fn s3() -> Result<Self> {
        Self::start(|address| {
            let mut command = Command::new(find("moto_server")?);
            command.args(["-H", "127.0.0.1", "-p", &address.port().to_string()]);
            Ok(command)
        })
    }

    /// WebDAV over a folder, read by everybody.
    pub fn webdav(folder: &Path) -> Result<Self> {
        Self::start(|address| {
            let mut command = Command::new(find("wsgidav")?);
            command.args([
                "--host",
                "127.0.0.1",
                "--port",
                &address.port().to_string(),
                "--auth",
                "anonymous",
            ]);
            command.arg("--no-config").arg("--root").arg(folder);
            Ok(command)
        })
    }

    /// Python's own file server: it does not list as WebDAV does.
    pub fn files(folder: &Path) -> Result<Self> {
        Self::start(|address| {
            let mut command = Command::new(find("python3")?);
            command.args(["-m", "http.server", "--bind", "127.0.0.1", "--directory"]).arg(folder);
            command.arg(address.port().to_string());
            Ok(command)
        })
    }

    fn start(command: impl FnOnce(SocketAddr) -> Result<Command>) -> Result<Self> {
        // free a moment ago: nobody else on this machine counts upward through our ports
        let address = TcpListener::bind("127.0.0.1:0")?.local_addr()?;
        let mut command = command(address)?;
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let child = die_with_us(&mut command).spawn().with_context(|| format!("start {command:?}"))?;
        let mut server = Self { child, address };
        let began = Instant::now();
        while TcpStream::connect(address).is_err() {
            if let Some(status) = server.child.try_wait()? {
                bail!("{command:?} ended with {status}");
            }
            ensure!(began.elapsed() < Duration::from_secs(60), "{command:?} does not listen");
            std::thread::sleep(Duration::from_millis(50));
        }
        Ok(server)
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Makes a bucket; `more` are header lines.
    pub fn make_bucket(&self, name: &str, more: &[&str]) -> Result<()> {
        let (status, body) = self.ask("PUT", &format!("/{name}"), more, b"")?;
        ensure!(status == 200, "make bucket {name}: {status} {body}");
        Ok(())
    }

    /// Keys of a bucket.
    pub fn keys(&self, bucket: &str) -> Result<Vec<String>> {
        let (status, body) = self.ask("GET", &format!("/{bucket}?list-type=2"), &[], b"")?;
        ensure!(status == 200, "list {bucket}: {status} {body}");
        Ok(body.split("<Key>").skip(1).filter_map(|rest| Some(rest.split_once('<')?.0.to_owned())).collect())
    }

    /// An object's bytes.
    pub fn object(&self, bucket: &str, key: &str) -> Result<Vec<u8>> {
        let (status, body) = Self::exchange(self.address, "GET", &format!("/{bucket}/{key}"), &[], b"")?;
        ensure!(status == 200, "read {key}: {status}");
        Ok(body)
    }

    /// Removes the newest version of an object, or the mark that it was removed: the one before is there again.
    pub fn forget_newest(&self, bucket: &str, key: &str) -> Result<()> {
        let (status, body) = self.ask("GET", &format!("/{bucket}?versions&prefix={key}"), &[], b"")?;
        ensure!(status == 200, "list versions of {key}: {status} {body}");
        let latest = |part: &&str| part.contains("<IsLatest>true") && part.contains(&format!("<Key>{key}<"));
        let all = body.split("<Version>").flat_map(|part| part.split("<DeleteMarker>"));
        let newest = all.into_iter().find(latest).context("no version is the latest")?;
        let id =
            newest.split_once("<VersionId>").and_then(|(_, rest)| rest.split_once('<')).context("no id")?.0;
        let (status, body) = self.ask("DELETE", &format!("/{bucket}/{key}?versionId={id}"), &[], b"")?;
        ensure!(status == 204, "remove a version of {key}: {status} {body}");
        Ok(())
    }

    /// One request, past all that is under test; moto believes every signature.
    pub fn ask(&self, method: &str, path: &str, more: &[&str], body: &[u8]) -> Result<(u16, String)> {
        Self::ask_at(self.address, method, path, more, body)
    }

    /// The same of the server that listens there.
    pub fn ask_at(
        address: SocketAddr,
        method: &str,
        path: &str,
        more: &[&str],
        body: &[u8],
    ) -> Result<(u16, String)> {
        let (status, body) = Self::exchange(address, method, path, more, body)?;
        Ok((status, String::from_utf8_lossy(&body).into_owned()))
    }

    fn exchange(
        address: SocketAddr,
        method: &str,
        path: &str,
        more: &[&str],
        body: &[u8],
    ) -> Result<(u16, Vec<u8>)> {
        let mut stream = TcpStream::connect(address)?;
        let key = "Credential=k/20260101/us-east-1/s3/aws4_request, SignedHeaders=host, Signature=x";
        let mut head = format!("{method} {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n");
        head += &format!("Authorization: AWS4-HMAC-SHA256 {key}\r\nContent-Length: {}\r\n", body.len());
        head.extend(more.iter().map(|line| format!("{line}\r\n")));
        stream.write_all(format!("{head}\r\n").as_bytes())?;
        stream.write_all(body)?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer)?;
        let end = answer.windows(4).position(|w| w == b"\r\n\r\n").context("no end of the answer's head")?;
        let body = answer.split_off(end + 4);
        let head = String::from_utf8_lossy(&answer).into_owned();
        let status = head.split(' ').nth(1).and_then(|s| s.parse().ok()).context("no status")?;
        Ok((status, body))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
