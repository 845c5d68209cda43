//! What is backed up, where to, and how that is written into the configuration: four disks, eight groups, every ten seconds.

use super::ground::Ground;
use super::stores::{FAR, NEAR, SEALED, Stores};
use super::writer::WORK;
use super::{postgres, sqlite};
use crate::rig::scratch::Scratch;
use crate::workspace::write_file;
use anyhow::{Context, Result};
use std::path::{Path, PathBuf};

/// A job; it has the name of its disk or group.
#[derive(Clone, Copy)]
pub struct Job {
    /// Its name.
    pub name: &'static str,
    /// What it backs up.
    pub of: Of,
    /// Its repository.
    pub store: &'static str,
}

/// What a job backs up.
#[derive(Clone, Copy)]
pub enum Of {
    /// The disk of the job's name.
    Disk,
    /// The disks in which these folders are backed up by name.
    Folders(&'static [&'static str], Folder),
}

/// A folder of a disk.
#[derive(Clone, Copy)]
pub enum Folder {
    /// All of the writer's.
    Work,
    /// A part of it.
    Part(&'static str),
    /// A database's.
    Sqlite,
    /// Another's.
    Postgres,
}

impl Folder {
    /// Below the disk's mount point.
    pub fn path(self) -> PathBuf {
        match self {
            Self::Work => WORK.into(),
            Self::Part(name) => Path::new(WORK).join(name),
            Self::Sqlite => sqlite::FOLDER.into(),
            Self::Postgres => postgres::FOLDER.into(),
        }
    }
}

/// The disk with SQLite on it, and the one with PostgreSQL.
pub const SQLITE_DISK: &str = "xfs";
/// See [`SQLITE_DISK`].
pub const POSTGRES_DISK: &str = "db";

const fn job(name: &'static str, of: Of, store: &'static str) -> Job {
    Job { name, of, store }
}

/// All of them.
pub const JOBS: [Job; 12] = [
    job("ext4", Of::Disk, NEAR),
    job("xfs", Of::Disk, NEAR),
    job("btrfs", Of::Disk, FAR),
    job("db", Of::Disk, NEAR),
    job("ext4-a", Of::Folders(&["ext4"], Folder::Part("a")), NEAR),
    job("ext4-b", Of::Folders(&["ext4"], Folder::Part("b")), SEALED),
    job("xfs-work", Of::Folders(&["xfs"], Folder::Work), NEAR),
    job("btrfs-a", Of::Folders(&["btrfs"], Folder::Part("a")), FAR),
    job("two-b", Of::Folders(&["ext4", "btrfs"], Folder::Part("b")), NEAR),
    job("conf", Of::Folders(&["ext4", "xfs", "btrfs"], Folder::Part("conf")), SEALED),
    job("sqlite", Of::Folders(&[SQLITE_DISK], Folder::Sqlite), SEALED),
    job("postgres", Of::Folders(&[POSTGRES_DISK], Folder::Postgres), FAR),
];

/// All points of a job that are kept: each is restored at the end.
const KEEP: &str = "keep_last = 8\nprune_every = \"20s\"\ngrace = \"90s\"\nmerge_every = 6\n";

/// Writes configuration and hooks; where the configuration is.
pub fn configure(scratch: &Scratch, home: &Path, ground: &Ground, stores: &Stores) -> Result<PathBuf> {
    let script = scratch.join("hook.sh");
    write_file(&script, hooks(ground).as_bytes())?;
    let socket = home.join("daemon.sock");
    let mut text = format!(
        "[daemon]\nsocket = {socket:?}\nat_once = 2\nretry_first = \"1s\"\nretry_most = \"4s\"\n\n{}",
        stores.tables()
    );
    for job in &JOBS {
        let (name, store) = (job.name, job.store);
        let (table, key, hooks) = match job.of {
            Of::Disk => {
                let (pre, post) = (line(&script, "pre", name), line(&script, "post", name));
                (disk(name, ground, &script)?, "device", format!("pre = {pre:?}\npost = {post:?}\n"))
            }
            Of::Folders(disks, folder) => (group(name, ground, disks, folder)?, "group", String::new()),
        };
        text += &format!("{table}[job.{name}]\n{key} = \"{name}\"\nrepository = \"{store}\"\n");
        text += &format!("every = \"10s\"\n{KEEP}{hooks}\n");
    }
    let file = home.join("config.toml");
    write_file(&file, text.as_bytes())?;
    Ok(file)
}

fn disk(name: &str, ground: &Ground, script: &Path) -> Result<String> {
    let (node, frozen) = (&ground.disk(name)?.node, line(script, "frozen", name));
    Ok(format!("[device.{name}]\npath = {node:?}\nwhile_frozen = {frozen:?}\n"))
}

fn group(name: &str, ground: &Ground, disks: &[&str], folder: Folder) -> Result<String> {
    let paths = disks.iter().map(|disk| Ok(ground.disk(disk)?.point.join(folder.path())));
    let paths = paths.collect::<Result<Vec<_>>>()?;
    // by a pattern where there are three: that way of naming files is used too
    let which = match paths.as_slice() {
        [first, _, _] => {
            let all = first.ancestors().nth(folder.path().components().count() + 1);
            let all = all.context("folder of the mount points")?;
            format!("globs = [{:?}]", all.join("*").join(folder.path()))
        }
        all => format!("paths = {all:?}"),
    };
    Ok(format!("[group.{name}]\n{which}\nexcludes = [\"*.tmp\"]\n"))
}

fn line(script: &Path, what: &str, name: &str) -> String {
    format!("sh {} {what} {name}", script.display())
}

/// While a disk stands still its backing file is copied; when the point is there the copy gets its name. A run that is killed
/// in between leaves a copy that the next run removes before it begins.
fn hooks(ground: &Ground) -> String {
    // $2 is the disk, for the shell to put in
    let (held, image) = (ground.held("$2"), ground.image("$2"));
    format!(
        "held=\"{}\"\ncase $1 in\n\
         pre) rm -f \"$held/pending\" ;;\n\
         frozen) cp --reflink=always \"{}\" \"$held/pending\" ;;\n\
         post)\n  if [ -n \"$BLKDELTA_POINT\" ] && [ -f \"$held/pending\" ]; then\n    \
         mv \"$held/pending\" \"$held/$BLKDELTA_POINT.img\"\n  fi\n  \
         ls -t \"$held\"/*.img 2>/dev/null | tail -n +5 | xargs -r rm -f ;;\nesac\n",
        held.display(),
        image.display()
    )
}
