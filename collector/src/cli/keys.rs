//! `init` and `key`: repositories that only holders of a key can read.

use super::output::{Ending, print, print_json, say};
use super::show::Table;
use super::unlock::{NewPassphrase, Source};
use crate::error::{Context, Error, Kind, Result};
use crate::format::{KeyId, NewKey, Opened, ParityShare, Shown, encode_private_key, public_half};
use crate::repository::{KeySource, Repository};
use crate::seal::{PrivateKey, PublicKey};
use clap::{Args, Subcommand};
use serde::Serialize;
use std::fs::OpenOptions;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// `init`.
#[derive(Debug, Args)]
pub struct Init {
    /// Folder of the new repository, empty or not there yet
    #[arg(value_name = "REPO")]
    repo: String,
    /// Encrypt everything; a passphrase opens it (see below where it comes from)
    #[arg(long)]
    encrypt: bool,
    /// Encrypt everything; the owner of this public key opens it (`blkdelta key generate` makes one)
    #[arg(long, value_name = "KEY")]
    recipient: Vec<PublicKey>,
    /// Write a key with which a host can make backups here and not read them
    #[arg(long, value_name = "FILE")]
    write_key: Option<PathBuf>,
    /// Parity for everything in it: up to this share of the objects, 2% for example, may be lost or rot, and `repair`
    /// gives them back
    #[arg(long, value_name = "SHARE")]
    parity: Option<ParityShare>,
    /// For programs
    #[arg(long)]
    json: bool,
}

/// `key`.
#[derive(Debug, Args)]
pub struct Key {
    #[command(subcommand)]
    verb: KeyVerb,
}

#[derive(Debug, Subcommand)]
enum KeyVerb {
    /// Make a private key in a new file, and print its public key
    Generate {
        /// The new file
        #[arg(value_name = "FILE")]
        file: PathBuf,
        /// Put it under a passphrase
        #[arg(long)]
        protect: bool,
    },
    /// Print the public key of a private key's file
    Public {
        /// The file
        #[arg(value_name = "FILE")]
        file: PathBuf,
    },
    /// The keys that open a repository
    List(On),
    /// Add a passphrase, or the owner of a public key
    Add {
        #[command(flatten)]
        on: On,
        /// Its public key, in place of a passphrase
        #[arg(long, value_name = "KEY")]
        recipient: Option<PublicKey>,
        #[command(flatten)]
        new: NewPassphrase,
        /// What `list` calls it
        #[arg(long, default_value = "", value_name = "NAME")]
        name: String,
    },
    /// Take a key away; what it could read before and was copied then, it can still read
    Remove {
        #[command(flatten)]
        on: On,
        /// Which, as `list` prints it
        #[arg(value_name = "ID")]
        id: String,
    },
    /// New secrets for everything that is written from now on; hosts need new write keys
    Rotate(On),
    /// Write a key with which a host can make backups and not read them
    Writer {
        #[command(flatten)]
        on: On,
        /// The new file
        #[arg(value_name = "FILE")]
        file: PathBuf,
    },
}

/// The repository.
#[derive(Debug, Args)]
struct On {
    /// Folder of the repository
    #[arg(long, value_name = "REPO")]
    repo: String,
    /// For programs
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct Made {
    repository: String,
    encrypted: bool,
    keys: Vec<Shown>,
}

/// Makes a repository.
pub fn init(args: &Init, source: &Source) -> anyhow::Result<Ending> {
    let keys = wanted_keys(args, source)?;
    let encrypted = !keys.is_empty();
    if let Some(file) = args.write_key.as_deref() {
        if !encrypted {
            return Err(Error::new(Kind::Usage, "--write-key: the repository is not to be encrypted").into());
        }
        if file.exists() {
            return Err(exists(file).into());
        }
    }
    let (repo, opened) = Repository::create_as(&args.repo, keys, args.parity)?;
    if let (Some(file), Some(opened)) = (&args.write_key, &opened) {
        write_new(file, &opened.write_key()?.encode()?)?;
    }
    let keys = opened.as_ref().map(Opened::list).unwrap_or_default();
    let made = Made { repository: repo.uuid().to_string(), encrypted, keys };
    if args.json {
        print_json(&made)?;
        return Ok(Ending::Fine);
    }
    let how = match encrypted {
        true => "encrypted; without one of these keys nothing in it can be read:",
        false => "not encrypted",
    };
    let parity = args.parity.map(|share| format!("parity {share}, ")).unwrap_or_default();
    print(&format!("repository {} in {}: {parity}{how}\n", made.repository, args.repo))?;
    if encrypted {
        print(&table(&made.keys))?;
    }
    Ok(Ending::Fine)
}

/// The keys of a new repository; none: it is not to be encrypted.
fn wanted_keys(args: &Init, source: &Source) -> Result<Vec<(NewKey, String)>> {
    let mut keys: Vec<NewKey> = args.recipient.iter().copied().map(NewKey::Recipient).collect();
    let encrypt = args.encrypt || !keys.is_empty();
    if !encrypt && source.meant() {
        let text = "a key was given, but not that the repository is to be encrypted";
        return Err(Error::new(Kind::Usage, text).hint("say --encrypt, or leave the key away"));
    }
    if let Some(file) = source.key_file().filter(|_| encrypt) {
        keys.push(NewKey::Recipient(public_of(file)?));
    }
    if args.encrypt && (keys.is_empty() || source.gives_passphrase()) {
        keys.push(NewKey::Passphrase(source.fresh_passphrase()?));
    }
    Ok(keys.into_iter().map(|key| (key, String::new())).collect())
}

/// Does what `key` asks for.
pub fn key(args: &Key, source: &Source) -> anyhow::Result<Ending> {
    match &args.verb {
        KeyVerb::Generate { file, protect } => {
            let key = PrivateKey::generate()?;
            let words = protect.then(|| source.fresh_passphrase()).transpose()?;
            write_new(file, &encode_private_key(&key, words.as_ref())?)?;
            print(&format!("{}\n", key.public()?))?;
        }
        KeyVerb::Public { file } => drop(print(&format!("{}\n", public_of(file)?))?),
        KeyVerb::List(on) => show(on, &on.open(source)?.1)?,
        KeyVerb::Add { on, recipient, new, name } => {
            let (repo, opened) = on.open(source)?;
            let key = match recipient {
                Some(public) => NewKey::Recipient(*public),
                None => NewKey::Passphrase(new.read()?),
            };
            change(on, &repo, &opened.with(key, name.clone())?)?;
        }
        KeyVerb::Remove { on, id } => {
            let (repo, opened) = on.open(source)?;
            change(on, &repo, &opened.without(id.parse::<KeyId>()?)?)?;
            say(
                "whoever has that key and a copy of the old key ring can still open what is written until now, \
                 and until the keys are rotated: blkdelta key rotate",
            );
        }
        KeyVerb::Rotate(on) => {
            let (repo, opened) = on.open(source)?;
            change(on, &repo, &opened.rotated()?)?;
            say("hosts with a write key need a new one: blkdelta key writer");
        }
        KeyVerb::Writer { on, file } => {
            write_new(file, &on.open(source)?.1.write_key()?.encode()?)?;
            say(&format!("{}: a host with it can make backups and not read them", file.display()));
        }
    }
    Ok(Ending::Fine)
}

impl On {
    fn open(&self, source: &Source) -> Result<(Repository, Opened)> {
        let repo = Repository::open(&self.repo)?;
        let opened = repo.open_ring(&source.credential()?)?;
        Ok((repo, opened))
    }
}

fn change(on: &On, repo: &Repository, opened: &Opened) -> anyhow::Result<()> {
    repo.change_ring(opened)?;
    show(on, opened)
}

fn show(on: &On, opened: &Opened) -> anyhow::Result<()> {
    let keys = opened.list();
    let _ = if on.json { print_json(&keys)? } else { print(&table(&keys))? };
    Ok(())
}

fn table(keys: &[Shown]) -> String {
    let mut table = Table::new(&["key", "kind", "name", "public key"]);
    for key in keys {
        let public = key.public.map(|k| k.to_string()).unwrap_or_default();
        table.row([key.id.to_string(), key.kind.to_owned(), key.name.clone(), public]);
    }
    table.to_string()
}

fn public_of(file: &Path) -> Result<PublicKey> {
    let what = || format!("read private key {}", file.display());
    public_half(&std::fs::read(file).os_context(what)?).map_err(|e| e.within(what()))
}

fn exists(file: &Path) -> Error {
    let text = format!("write key file {}: it exists already", file.display());
    Error::new(Kind::Exists, text).hint("key files are never replaced: name a new one")
}

/// A new file that only its owner can read, durable.
fn write_new(file: &Path, bytes: &[u8]) -> Result<()> {
    let what = || format!("write key file {}", file.display());
    let mut made = match OpenOptions::new().write(true).create_new(true).mode(0o600).open(file) {
        Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => return Err(exists(file)),
        made => made.os_context(what)?,
    };
    made.write_all(bytes).and_then(|()| made.sync_all()).os_context(what)?;
    let folder = file.parent().filter(|folder| !folder.as_os_str().is_empty());
    crate::sys::sync_folder(folder.unwrap_or(Path::new(".")))
}

#[cfg(test)]
mod tests {
    use crate::cli::args::Cli;
    use clap::Parser;

    #[test]
    fn the_command_lines_of_keys_are_understood() {
        let parse = |line: &str| Cli::try_parse_from(line.split(' ')).map(drop);
        for line in [
            "blkdelta check --repo /r --read-data --passphrase-file /f",
            "blkdelta --key-file /k list --repo /r",
            "blkdelta init /r --encrypt --passphrase-fd 3 --json",
            "blkdelta key generate /f --protect",
            "blkdelta key add --repo /r --new-passphrase-file /f --name n --key-file /k",
            "blkdelta key remove --repo /r 01JD3XQ8Z5W2M4T6Y8A0C2E4G6",
        ] {
            parse(line).unwrap_or_else(|e| panic!("{line}: {e}"));
        }
        for line in [
            "blkdelta init /r --recipient blkdelta-public-AAAA",
            "blkdelta list --repo /r --passphrase-file f --passphrase-fd 3",
            "blkdelta list --repo /r --passphrase words",
        ] {
            assert!(parse(line).is_err(), "{line}");
        }
    }
}
