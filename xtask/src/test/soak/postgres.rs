//! PostgreSQL from Debian, as a cluster of our own: data on a disk of the soak, no port, a socket in our folder. Others'
//! clusters are not looked at.

use super::counter::{Acknowledged, Client, two};
use super::worker::Worker;
use crate::command::{quiet, text, which};
use crate::rig::process::{go_on, sleep};
use crate::rig::service::Service;
use anyhow::{Context, Result, bail, ensure};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// The data folder on the disk.
pub const FOLDER: &str = "pgdata";

const USER: &str = "postgres";
/// Only a part of the socket's name.
const PORT: &str = "5432";
/// How long a start with crash recovery may take.
const PATIENCE: Duration = Duration::from_secs(120);

/// Small, with checkpoints often, and every commit durable.
const SETTINGS: [&str; 9] = [
    "listen_addresses=",
    "shared_buffers=32MB",
    "max_connections=20",
    "fsync=on",
    "synchronous_commit=on",
    "checkpoint_timeout=30s",
    "min_wal_size=16MB",
    "max_wal_size=64MB",
    "autovacuum_naptime=10s",
];

/// Its programs.
#[derive(Clone)]
pub struct Programs {
    folder: PathBuf,
}

impl Programs {
    /// The newest that are installed.
    pub fn find() -> Result<Self> {
        let folders = std::fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
        let version = |path: &Path| path.file_name().and_then(|n| n.to_str()?.parse::<u32>().ok());
        let whole = folders.map(|entry| entry.path()).filter(|path| path.join("bin/pg_amcheck").is_file());
        let newest = whole.filter_map(|path| Some((version(&path)?, path))).max();
        let (_, path) = newest.context("no PostgreSQL with pg_amcheck under /usr/lib/postgresql")?;
        Ok(Self { folder: path.join("bin") })
    }

    /// One of them, as the user who owns the data.
    fn command(&self, program: &str) -> Result<Command> {
        let mut command = Command::new(which("setpriv").context("there is no setpriv (util-linux)")?);
        let user = format!("--reuid={USER}");
        // the signal is given here: a change of user would take it back
        command.args([&user, &format!("--regid={USER}"), "--init-groups", "--pdeathsig=INT", "--"]);
        command.arg(self.folder.join(program)).current_dir("/").env("HOME", "/");
        Ok(command)
    }
}

/// A running server. It ends with this.
pub struct Server {
    programs: Programs,
    socket: PathBuf,
    service: Service,
}

impl Server {
    /// Makes the cluster in `data` and starts it.
    pub fn create(programs: &Programs, data: &Path, run: &Path) -> Result<Self> {
        own(data)?;
        let mut initdb = programs.command("initdb")?;
        initdb.args([
            "--auth=trust",
            "--no-locale",
            "--encoding=UTF8",
            "--wal-segsize=4",
            "--data-checksums",
        ]);
        quiet(initdb.arg("-D").arg(data))?;
        Self::start(programs, data, run)
    }

    /// Starts the cluster in `data`, with crash recovery where that is needed; its socket and log are in `run`.
    pub fn start(programs: &Programs, data: &Path, run: &Path) -> Result<Self> {
        own(run)?;
        let mut postgres = programs.command("postgres")?;
        postgres.arg("-D").arg(data).arg("-k").arg(run).args(["-p", PORT]);
        for setting in SETTINGS {
            postgres.args(["-c", setting]);
        }
        let log = run.join("postgres.log");
        let service = Service::start("postgres", &postgres, &log)?;
        let mut server = Self { programs: programs.clone(), socket: run.into(), service };
        let give_up = Instant::now() + PATIENCE;
        while server.ask("SELECT 1").is_err() {
            go_on()?;
            server.service.ensure_alive()?;
            if Instant::now() > give_up {
                bail!("PostgreSQL does not answer: {}", server.service.said());
            }
            sleep(Duration::from_millis(50))?;
        }
        Ok(server)
    }

    /// A client program of this server.
    fn client(&self, program: &str, words: &[&str]) -> Result<Command> {
        let mut command = self.programs.command(program)?;
        command.arg("-h").arg(&self.socket).args(["-p", PORT, "-U", USER]).args(words);
        Ok(command)
    }

    fn psql(&self) -> Result<Command> {
        self.client("psql", &["-X", "-A", "-t", "-q", "-v", "ON_ERROR_STOP=1", "-d", "postgres"])
    }

    fn ask(&self, statement: &str) -> Result<String> {
        Ok(text(self.psql()?.args(["-c", statement]))?.trim().to_owned())
    }

    /// A fast shutdown.
    pub fn stop(self) -> Result<()> {
        self.service.stop(rustix::process::Signal::INT)
    }
}

/// Makes a folder, or gives one, to the user of the data.
fn own(folder: &Path) -> Result<()> {
    std::fs::create_dir_all(folder).with_context(|| format!("make {}", folder.display()))?;
    quiet(Command::new("chown").arg(format!("{USER}:{USER}")).arg(folder)).map(drop)?;
    quiet(Command::new("chmod").arg("700").arg(folder)).map(drop)
}

/// The database that is written, by two kinds of clients.
pub struct Postgres {
    /// What was committed.
    pub acknowledged: Arc<Acknowledged>,
    worker: Worker,
    bank: Service,
    server: Server,
}

impl Postgres {
    /// Makes it and begins to write: a counter, and pgbench's bank at a pace.
    pub fn start(programs: &Programs, data: &Path, run: &Path, seed: u64) -> Result<Self> {
        let server = Server::create(programs, data, run)?;
        server.ask(
            "CREATE EXTENSION amcheck; CREATE TABLE counter(n bigint PRIMARY KEY, what text); \
             CREATE INDEX ON counter(what)",
        )?;
        quiet(&mut server.client("pgbench", &["-i", "-q", "-s", "1", "postgres"])?)?;
        let pgbench = ["-n", "-c", "2", "-R", "25", "-T", "864000", "--random-seed", &seed.to_string()];
        let bank = server.client("pgbench", &[&pgbench[..], &["postgres"]].concat())?;
        let bank = Service::start("pgbench", &bank, &run.join("pgbench.log"))?;
        let acknowledged = Arc::<Acknowledged>::default();
        let statement =
            |n: u64| format!("INSERT INTO counter VALUES ({n}, md5('{n}') || repeat('x', 80)) RETURNING n;");
        let client = Client::start(&server.psql()?, statement, Arc::clone(&acknowledged))?;
        Ok(Self { acknowledged, worker: Worker::start("the counter in PostgreSQL", client)?, bank, server })
    }

    /// All of it still runs.
    pub fn ensure_alive(&mut self) -> Result<()> {
        self.worker.ensure_alive()?;
        self.bank.ensure_alive()?;
        self.server.service.ensure_alive()
    }

    /// Stops; what was committed.
    pub fn stop(self) -> Result<Arc<Acknowledged>> {
        self.worker.stop()?;
        // at a signal pgbench leaves its transactions to the server, which rolls them back
        drop(self.bank);
        self.server.stop()?;
        Ok(self.acknowledged)
    }
}

/// Starts a restored copy: an error unless it recovers, is whole by PostgreSQL's own check, and holds all that was committed
/// before the point began.
pub fn prove(
    programs: &Programs,
    (data, run): (&Path, &Path),
    acknowledged: &Acknowledged,
    begun: u64,
) -> Result<()> {
    // names a process of the time of the point, which may be another's by now
    let lock = data.join("postmaster.pid");
    std::fs::remove_file(&lock).with_context(|| format!("remove {}", lock.display()))?;
    let server = Server::start(programs, data, run)?;
    let check = ["--all", "--install-missing", "--heapallindexed", "--parent-check"];
    quiet(&mut server.client("pg_amcheck", &check)?).context("pg_amcheck of the restored copy")?;
    let counted = server.ask("SELECT count(*), coalesce(max(n), 0) FROM counter")?;
    acknowledged.ensure_all(two(&counted)?, begun)?;
    let bank = server.ask(
        "SELECT (SELECT sum(abalance) FROM pgbench_accounts) = (SELECT sum(bbalance) FROM pgbench_branches) \
         AND (SELECT sum(abalance) FROM pgbench_accounts) = (SELECT sum(tbalance) FROM pgbench_tellers) \
         AND (SELECT sum(abalance) FROM pgbench_accounts) \
           = (SELECT coalesce(sum(delta), 0) FROM pgbench_history)",
    )?;
    ensure!(bank == "t", "half a transaction: the bank's sums differ");
    server.stop()
}
