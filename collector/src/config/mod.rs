//! The configuration file: what is backed up where, when, by `blkdelta run` and `blkdelta daemon`.
//!
//! ```text
//!   text ─▶ tables (types, defaults; unknown keys are errors) ─▶ check (names that must exist, keys that exclude
//!           each other) ─▶ Config, or every problem with its line and key
//! ```
//!
//! What must stay true: a file with a problem is never used in part; every problem says line, key, and what to do.

mod check;
mod place;
mod tables;
pub mod values;
pub mod words;

pub use place::Problem;
pub use tables::{Config, Daemon, DeviceTable, FreezePolicy, GroupTable, JobTable, RepositoryTable};

use crate::error::{Context, Error, Kind, Result};
use crate::job;
use crate::sys::device::BlockDevice;
use std::io::Read;
use std::path::{Path, PathBuf};

/// The file that is used where none is named: `BLKDELTA_HOME/config.toml`, else the system's.
pub fn default_file() -> PathBuf {
    match std::env::var_os("BLKDELTA_HOME").filter(|home| !home.is_empty()) {
        Some(home) => Path::new(&home).join("config.toml"),
        None => "/etc/blkdelta/config.toml".into(),
    }
}

/// The text of a file; of standard input if it is `-`.
///
/// # Errors
/// If it cannot be read.
pub fn text_of(file: &Path) -> Result<String> {
    let what = || format!("read the configuration {}", file.display());
    if file == Path::new("-") {
        let mut text = String::new();
        std::io::stdin().read_to_string(&mut text).os_context(what)?;
        return Ok(text);
    }
    std::fs::read_to_string(file).os_context(what).map_err(|e| {
        e.hint("docs/CONFIG.md describes it; packaging/config.toml is an example; --file names another")
    })
}

impl Config {
    /// Understands the text of a file.
    ///
    /// # Errors
    /// Every problem that was found.
    pub fn parse(text: &str) -> Result<Self, Vec<Problem>> {
        let places = place::Places::of(text);
        let config: Self = toml::from_str(text).map_err(|error| vec![places.of_error(&error)])?;
        let problems = check::problems(&config, &places);
        if problems.is_empty() { Ok(config) } else { Err(problems) }
    }

    /// The configuration in this text, which is that of `file`.
    ///
    /// # Errors
    /// [`Kind::Usage`] with the problems.
    pub fn accept(file: &Path, text: &str) -> Result<Self> {
        Self::parse(text).map_err(|problems| {
            let all: Vec<String> = problems.iter().map(ToString::to_string).collect();
            let text = format!("use the configuration {}: {}", file.display(), all.join("; "));
            Error::new(Kind::Usage, text).hint(problems.first().map(|p| p.hint.clone()).unwrap_or_default())
        })
    }

    /// The configuration of a file.
    ///
    /// # Errors
    /// If it cannot be read, or [`Kind::Usage`] with its problems.
    pub fn load(file: &Path) -> Result<Self> {
        Self::accept(file, &text_of(file)?)
    }

    /// A job by its name.
    ///
    /// # Errors
    /// [`Kind::Usage`] if there is none.
    pub fn job(&self, name: &str) -> Result<&JobTable> {
        self.job.get(name).ok_or_else(|| {
            let known: Vec<&str> = self.job.keys().map(String::as_str).collect();
            let text = format!("no job is called {name:?} in the configuration");
            Error::new(Kind::Usage, text).hint(format!("it has: {}", known.join(", ")))
        })
    }
}

impl DeviceTable {
    /// The device's path now.
    ///
    /// # Errors
    /// `NotFound` if it is not there.
    pub fn resolve(&self) -> Result<PathBuf> {
        if let Some(path) = &self.path {
            return Ok(path.clone());
        }
        let wanted = self.id.as_deref().unwrap_or_default();
        let here: Vec<_> =
            BlockDevice::all()?.into_iter().filter(|d| job::identify(d).id.to_string() == wanted).collect();
        match here.as_slice() {
            [one] => Ok(one.path.clone()),
            [] => Err(Error::new(Kind::NotFound, format!("no device here has the id {wanted}"))
                .hint("`blkdelta list` names a device by its id; is it plugged in?")),
            _ => Err(Error::new(
                Kind::Unsupported,
                format!("{} devices here have the id {wanted}", here.len()),
            )
            .hint("name one by its path")),
        }
    }

    /// How it is named in the file.
    pub fn named(&self) -> String {
        match (&self.path, &self.id) {
            (Some(path), _) => path.display().to_string(),
            (_, Some(id)) => id.clone(),
            _ => String::new(),
        }
    }
}

#[cfg(test)]
mod tests;
