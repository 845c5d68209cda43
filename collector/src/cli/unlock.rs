//! Where keys and passphrases come from: options of every verb. Never from an argument: other users can see those.

use super::output::say;
use crate::error::{Context, Error, Kind, Result};
use crate::format::{Credential, decode_key_file};
use crate::repository::{Kept, KeySource, Memory, Repository, no_key};
use crate::seal::Passphrase;
use crate::tracker::Places;
use clap::Args;
use std::collections::BTreeSet;
use std::fs::File;
use std::io::{IsTerminal, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};
use zeroize::Zeroizing;

/// The longest file or output that is read for a passphrase or a key.
const LONGEST: u64 = 64 << 10;

/// Options of every verb.
#[derive(Clone, Debug, Default, Args)]
#[command(next_help_heading = "Encrypted repositories")]
pub struct Unlock {
    /// The passphrase is the first line of this file; else of that in BLKDELTA_PASSPHRASE_FILE; else it is asked for
    #[arg(long, global = true, value_name = "FILE", conflicts_with_all = ["passphrase_fd", "passphrase_command"])]
    pub passphrase_file: Option<PathBuf>,
    /// The first line that comes from this open descriptor
    #[arg(long, global = true, value_name = "N", conflicts_with = "passphrase_command")]
    pub passphrase_fd: Option<u32>,
    /// The first line that this command of the shell prints
    #[arg(long, global = true, value_name = "COMMAND")]
    pub passphrase_command: Option<String>,
    /// A private key, or a host's write key; else the file in BLKDELTA_KEY_FILE
    #[arg(long, global = true, value_name = "FILE")]
    pub key_file: Option<PathBuf>,
}

/// The same for a passphrase that is to be added.
#[derive(Clone, Debug, Default, Args)]
pub struct NewPassphrase {
    /// The new passphrase is the first line of this file; else it is asked for
    #[arg(long, value_name = "FILE", conflicts_with_all = ["new_passphrase_fd", "new_passphrase_command"])]
    pub new_passphrase_file: Option<PathBuf>,
    /// The first line that comes from this open descriptor
    #[arg(long, value_name = "N", conflicts_with = "new_passphrase_command")]
    pub new_passphrase_fd: Option<u32>,
    /// The first line that this command of the shell prints
    #[arg(long, value_name = "COMMAND")]
    pub new_passphrase_command: Option<String>,
}

/// Who is asked for keys; clones share what was found.
#[derive(Clone, Debug, Default)]
pub struct Source {
    options: Arc<Unlock>,
    /// A descriptor and a person are asked once.
    words: Arc<Mutex<Option<Zeroizing<String>>>>,
    kept: Arc<Mutex<Option<Kept>>>,
    /// Of which repository, if there are two.
    whose: Option<Arc<str>>,
    /// What was said of repositories that are not as they were left.
    said: Arc<Mutex<BTreeSet<String>>>,
}

impl Source {
    /// By the options, then the environment, then a person.
    pub fn new(mut options: Unlock) -> Self {
        let env = |name| std::env::var_os(name).filter(|v| !v.is_empty()).map(PathBuf::from);
        let passphrase = options.gives_passphrase();
        if options.key_file.is_none() && !passphrase {
            options.key_file = env("BLKDELTA_KEY_FILE");
        }
        if !passphrase {
            options.passphrase_file = env("BLKDELTA_PASSPHRASE_FILE");
        }
        Self { options: Arc::new(options), ..Self::default() }
    }

    /// Another one, by these options alone; nobody else's repository is looked at by it.
    pub fn with(&self, options: Unlock) -> Self {
        Self { options: Arc::new(options), said: Arc::clone(&self.said), ..Self::default() }
    }

    /// For one of two repositories: its own options, else those for all, else a person is asked for this one.
    pub fn of_one(&self, own: Unlock, whose: &str) -> Self {
        let given = own.key_file.is_some() || own.gives_passphrase();
        if !given && self.meant() {
            return self.clone();
        }
        Self { whose: Some(whose.into()), ..self.with(own) }
    }

    /// The key file, if one was named.
    pub fn key_file(&self) -> Option<&Path> {
        self.options.key_file.as_deref()
    }

    /// Somebody said where the passphrase is.
    pub fn gives_passphrase(&self) -> bool {
        self.options.gives_passphrase()
    }

    /// The passphrase of something that exists.
    pub fn passphrase(&self) -> Result<Passphrase> {
        match &self.whose {
            Some(whose) => self.words(&format!("passphrase of {whose}: "), None),
            None => self.words("passphrase: ", None),
        }
    }

    /// A passphrase for something new: a person is asked twice.
    pub fn fresh_passphrase(&self) -> Result<Passphrase> {
        self.words("new passphrase: ", Some("again: "))
    }

    /// A repository was not as this host had left it.
    pub fn went_back(&self) -> bool {
        !self.said.lock().unwrap_or_else(|e| e.into_inner()).is_empty()
    }

    fn words(&self, prompt: &str, again: Option<&str>) -> Result<Passphrase> {
        let mut words = self.words.lock().unwrap_or_else(|e| e.into_inner());
        let text = match &*words {
            Some(text) => text.clone(),
            None => words.insert(self.options.words(prompt, again)?).clone(),
        };
        Passphrase::new(text)
    }
}

/// What this host remembers of repositories.
pub fn memory() -> Memory {
    Memory::at(Places::from_env().lib())
}

impl KeySource for Source {
    fn meant(&self) -> bool {
        self.options.key_file.is_some() || self.gives_passphrase()
    }

    fn credential(&self) -> Result<Credential> {
        let Some(file) = self.key_file() else { return self.passphrase().map(Credential::Passphrase) };
        let what = || format!("read key file {}", file.display());
        let bytes = read_secret(file).map_err(|e| e.within(what()))?;
        decode_key_file(&bytes, &mut || self.passphrase()).map_err(|e| e.within(what()))
    }

    fn opened(&self, repository: &Repository) -> Result<()> {
        for words in memory().look(repository)? {
            let mut said = self.said.lock().unwrap_or_else(|e| e.into_inner());
            if said.insert(words.clone()) {
                say(&format!("REPOSITORY CHANGED: {words}"));
            }
        }
        Ok(())
    }

    fn kept(&self) -> Option<&Mutex<Option<Kept>>> {
        Some(&self.kept)
    }
}

impl NewPassphrase {
    /// Reads it, or asks twice.
    pub fn read(&self) -> Result<Passphrase> {
        let options = Unlock {
            passphrase_file: self.new_passphrase_file.clone(),
            passphrase_fd: self.new_passphrase_fd,
            passphrase_command: self.new_passphrase_command.clone(),
            key_file: None,
        };
        Passphrase::new(options.words("new passphrase: ", Some("again: "))?)
    }
}

impl Unlock {
    const fn gives_passphrase(&self) -> bool {
        self.passphrase_file.is_some() || self.passphrase_fd.is_some() || self.passphrase_command.is_some()
    }

    fn words(&self, prompt: &str, again: Option<&str>) -> Result<Zeroizing<String>> {
        let read = |path: &Path, what: &str| {
            let bytes =
                read_secret(path).map_err(|e| e.within(format!("read the passphrase from {what}")))?;
            first_line(&bytes)
        };
        match (&self.passphrase_file, self.passphrase_fd, &self.passphrase_command) {
            (Some(file), ..) => read(file, &file.display().to_string()),
            (_, Some(fd), _) => read(Path::new(&format!("/proc/self/fd/{fd}")), &format!("descriptor {fd}")),
            (.., Some(command)) => from_command(command),
            _ => from_person(prompt, again),
        }
    }
}

/// A file of secret bytes; says so if others can read it.
fn read_secret(path: &Path) -> Result<Zeroizing<Vec<u8>>> {
    let what = || format!("open {}", path.display());
    let file = File::open(path).os_context(what)?;
    let meta = file.metadata().os_context(what)?;
    if meta.is_file() && meta.mode() & 0o077 != 0 {
        log::warn!("{}: others than its owner can read it; chmod 600 would keep it secret", path.display());
    }
    let mut bytes = Zeroizing::new(Vec::with_capacity(LONGEST as usize + 1));
    file.take(LONGEST + 1).read_to_end(&mut bytes).os_context(|| format!("read {}", path.display()))?;
    if bytes.len() as u64 > LONGEST {
        return Err(Error::new(Kind::Usage, format!("{}: too long for a key or passphrase", path.display())));
    }
    Ok(bytes)
}

fn first_line(bytes: &[u8]) -> Result<Zeroizing<String>> {
    let line = bytes.split(|b| *b == b'\n').next().unwrap_or_default();
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    let text = std::str::from_utf8(line).map(ToOwned::to_owned).map(Zeroizing::new);
    text.map_err(|_| Error::new(Kind::Usage, "the passphrase is not UTF-8"))
}

fn from_command(command: &str) -> Result<Zeroizing<String>> {
    let what = || format!("run the passphrase command {command:?}");
    let mut run = Command::new("/bin/sh");
    let run = run.args(["-c", command]).stdin(Stdio::inherit()).stderr(Stdio::inherit());
    let done = run.stdout(Stdio::piped()).output().os_context(what)?;
    let out = Zeroizing::new(done.stdout);
    if !done.status.success() {
        return Err(Error::new(Kind::Denied, format!("{}: it failed with {}", what(), done.status)));
    }
    first_line(&out)
}

/// Asks on the terminal. Without one nobody is asked: a backup must not hang.
fn from_person(prompt: &str, again: Option<&str>) -> Result<Zeroizing<String>> {
    if !std::io::stderr().is_terminal() || File::open("/dev/tty").is_err() {
        return Err(no_key());
    }
    let ask = |prompt: &str| {
        rpassword::prompt_password(prompt).map(Zeroizing::new).os_context(|| "ask for the passphrase".into())
    };
    let words = ask(prompt)?;
    match again {
        Some(again) if ask(again)? != words => Err(Error::new(Kind::Usage, "the two passphrases differ")),
        _ => Ok(words),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_passphrase_is_the_first_line_and_nothing_of_its_end() {
        for (bytes, words) in [(&b"a b \n"[..], "a b "), (b"a\r\nb", "a"), (b"a", "a"), (b"\na", "")] {
            assert_eq!(*first_line(bytes).unwrap(), words);
        }
        assert!(first_line(b"\xff").is_err());
        assert_eq!(*from_command("echo one; echo two").unwrap(), "one");
        assert_eq!(from_command("echo one; exit 3").unwrap_err().kind(), Kind::Denied);
        let long = tempfile::NamedTempFile::new().unwrap();
        long.as_file().set_len(LONGEST + 1).unwrap();
        assert_eq!(read_secret(long.path()).unwrap_err().kind(), Kind::Usage);
    }
}
