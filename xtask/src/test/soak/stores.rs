//! Where the points go, and how that is taken away for a while: two repositories in a folder that is mounted at its place,
//! one of them encrypted, and one behind S3 on loopback.

use super::wire::Wire;
use crate::command::{quiet, say};
use crate::rig::device::unmount;
use crate::rig::process::sleep;
use crate::rig::product::{Product, utf8};
use crate::rig::scratch::Scratch;
use crate::rig::service::Service;
use crate::setup::servers;
use crate::workspace::Workspace;
use anyhow::{Context, Result, bail};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

/// The repositories, as the configuration names them.
pub const NEAR: &str = "near";
/// Encrypted.
pub const SEALED: &str = "sealed";
/// Behind S3, where that can be had; else another folder.
pub const FAR: &str = "far";

/// Credentials of the server, which believes every signature.
const ACCESS: [(&str, &str); 3] =
    [("AWS_ACCESS_KEY_ID", "key"), ("AWS_SECRET_ACCESS_KEY", "secret"), ("NO_PROXY", "127.0.0.1")];

/// How a store is taken away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cut {
    /// The folder's file system is not mounted.
    Unmounted,
    /// It is read-only.
    ReadOnly,
    /// The repositories were moved elsewhere.
    Moved,
    /// Nobody reaches the server.
    Line,
}

/// S3 on loopback. Fields are dropped in this order.
struct Bucket {
    wire: Wire,
    address: SocketAddr,
    _server: Service,
}

/// All stores.
pub struct Stores {
    bucket: Option<Bucket>,
    real: PathBuf,
    /// Where `real` is mounted.
    at: PathBuf,
    /// Of the encrypted one.
    key: PathBuf,
}

impl Stores {
    /// Empty ones.
    pub fn make(ws: &Workspace, scratch: &Scratch, product: &Product) -> Result<Self> {
        let (store, key) = (scratch.folder("store")?, scratch.join("owner.key"));
        let (real, at) = (store.join("real"), store.join("at"));
        for folder in [&real, &at] {
            std::fs::create_dir(folder).with_context(|| format!("make {}", folder.display()))?;
        }
        let bucket = match Bucket::start(ws, scratch) {
            Ok(bucket) => Some(bucket),
            Err(error) => {
                say(format!("no S3 here, its part goes to another folder: {error:#}"));
                None
            }
        };
        let stores = Self { bucket, real, at, key };
        stores.mount()?;
        let public = product.run(&["key", "generate", utf8(&stores.key)?])?.out;
        product.run(&["init", &stores.location(SEALED, true), "--recipient", public.trim()])?;
        Ok(stores)
    }

    fn mount(&self) -> Result<()> {
        quiet(Command::new("mount").arg("--bind").arg(&self.real).arg(&self.at)).map(drop)
    }

    /// Where a repository is; past the line that may be cut, if so wished.
    pub fn location(&self, name: &str, past: bool) -> String {
        match &self.bucket {
            Some(bucket) if name == FAR => {
                let address = if past { bucket.address } else { bucket.wire.address() };
                format!("s3://bucket/soak?endpoint=http://{address}")
            }
            _ => self.at.join(name).display().to_string(),
        }
    }

    /// What runs of the product find in their environment.
    pub fn access() -> [(&'static str, &'static str); 3] {
        ACCESS
    }

    /// Words that open a repository.
    pub fn key_words(&self, name: &str) -> Result<Vec<&str>> {
        Ok(if name == SEALED { vec!["--key-file", utf8(&self.key)?] } else { Vec::new() })
    }

    /// The tables of the configuration.
    pub fn tables(&self) -> String {
        let key = format!("key_file = {:?}\n", self.key);
        [(NEAR, ""), (SEALED, key.as_str()), (FAR, "retry_for = \"3s\"\n")]
            .map(|(name, more)| {
                format!("[repository.{name}]\nlocation = {:?}\n{more}\n", self.location(name, false))
            })
            .concat()
    }

    /// What can be cut.
    pub fn cuts(&self) -> Vec<Cut> {
        let mut cuts = vec![Cut::Unmounted, Cut::ReadOnly, Cut::Moved];
        // as often as the others together: it is a store of its own
        cuts.extend(self.bucket.iter().flat_map(|_| [Cut::Line, Cut::Line]));
        cuts
    }

    /// Takes a store away for so long.
    pub fn cut(&self, cut: Cut, time: Duration) -> Result<()> {
        self.cut_while(cut, || sleep(time))
    }

    /// Takes a store away while something is done.
    pub fn cut_while(&self, cut: Cut, work: impl FnOnce() -> Result<()>) -> Result<()> {
        self.take(cut)?;
        let done = work();
        self.give_back(cut).context("give the store back")?;
        done
    }

    fn take(&self, cut: Cut) -> Result<()> {
        match (cut, &self.bucket) {
            (Cut::Line, Some(bucket)) => bucket.wire.cut(),
            (Cut::Line, None) => {}
            // lazily: a run that has files open there goes on with them
            (Cut::Unmounted, _) => quiet(Command::new("umount").arg("-l").arg(&self.at)).map(drop)?,
            (Cut::ReadOnly, _) => self.remount("ro")?,
            (Cut::Moved, _) => self.each(|place| (place.to_owned(), place.with_extension("away")))?,
        }
        Ok(())
    }

    fn give_back(&self, cut: Cut) -> Result<()> {
        match (cut, &self.bucket) {
            (Cut::Line, Some(bucket)) => bucket.wire.mend(),
            (Cut::Line, None) => {}
            (Cut::Unmounted, _) => {
                let left = nothing_in(&self.at);
                self.mount()?;
                left?;
            }
            (Cut::ReadOnly, _) => self.remount("rw")?,
            (Cut::Moved, _) => self.each(|place| (place.with_extension("away"), place.to_owned()))?,
        }
        Ok(())
    }

    /// Refused while a file there is open for writing: tried until it is not.
    fn remount(&self, how: &str) -> Result<()> {
        let give_up = Instant::now() + Duration::from_secs(60);
        let options = format!("remount,bind,{how}");
        while let Err(error) = quiet(Command::new("mount").args(["-o", &options]).arg(&self.at)) {
            if Instant::now() > give_up {
                return Err(error);
            }
            sleep(Duration::from_millis(3))?;
        }
        Ok(())
    }

    /// Moves the repositories of the folder.
    fn each(&self, way: impl Fn(&Path) -> (PathBuf, PathBuf)) -> Result<()> {
        for name in [NEAR, SEALED, FAR] {
            let (from, to) = way(&self.real.join(name));
            if !from.exists() {
                continue;
            }
            nothing_in(&to)?;
            // a run that had a folder of it open may have made it again, empty
            let _ = std::fs::remove_dir_all(&to);
            quiet(Command::new("mv").arg("-T").arg(&from).arg(&to))?;
        }
        Ok(())
    }
}

/// An error if there is a file below: a store was made, or written to, where it was not.
fn nothing_in(folder: &Path) -> Result<()> {
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        if !path.is_dir() {
            bail!("{} was written where the store was not", path.display());
        }
        nothing_in(&path)?;
    }
    Ok(())
}

impl Drop for Stores {
    fn drop(&mut self) {
        // away already if the soak ended in a cut
        let _ = unmount(&self.at);
    }
}

impl Bucket {
    fn start(ws: &Workspace, scratch: &Scratch) -> Result<Self> {
        let program = servers::program(ws, "moto_server")?;
        // free a moment ago: nobody else on this machine counts upward through our ports
        let address = TcpListener::bind("127.0.0.1:0").context("a free port")?.local_addr()?;
        let mut moto = Command::new(program);
        moto.args(["-H", "127.0.0.1", "-p", &address.port().to_string()]);
        let mut server = Service::start("the S3 server", &moto, &scratch.join("s3.log"))?;
        let began = Instant::now();
        while TcpStream::connect(address).is_err() {
            server.ensure_alive()?;
            if began.elapsed() > Duration::from_secs(60) {
                bail!("the S3 server does not listen");
            }
            sleep(Duration::from_millis(50))?;
        }
        make_bucket(address)?;
        Ok(Self { wire: Wire::to(address)?, address, _server: server })
    }
}

/// One request: the bucket is made.
fn make_bucket(address: SocketAddr) -> Result<()> {
    let key = "Credential=key/20260101/us-east-1/s3/aws4_request, SignedHeaders=host, Signature=x";
    let head = format!(
        "PUT /bucket HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\nContent-Length: 0\r\n\
         Authorization: AWS4-HMAC-SHA256 {key}\r\n\r\n"
    );
    let mut stream = TcpStream::connect(address).context("reach the S3 server")?;
    stream.write_all(head.as_bytes()).context("ask for a bucket")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).context("hear of the bucket")?;
    if !answer.starts_with("HTTP/1.1 200") {
        bail!("the S3 server makes no bucket: {answer}");
    }
    Ok(())
}
