//! What belongs to a group by its path.
//!
//! A path picks itself and, of a folder, everything below. A glob picks every path it matches, and what is below; `*`
//! and `?` stop at `/`, `**` does not. An exclude without `/` is a name anywhere, one with `/` a whole path; what is
//! excluded is not looked into.

use crate::error::{Error, Kind, Result};
use globset::{GlobBuilder, GlobSet, GlobSetBuilder};
use std::collections::BTreeSet;
use std::path::{Component, Path, PathBuf};

/// What a group is of, as a person says it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pick {
    /// Files and folders, absolute.
    pub paths: Vec<PathBuf>,
    /// Patterns of paths, absolute.
    pub globs: Vec<String>,
    /// Patterns of what is left out.
    pub excludes: Vec<String>,
}

/// The same, ready to be asked.
#[derive(Clone, Debug)]
pub struct Picker {
    bases: Vec<PathBuf>,
    paths: BTreeSet<PathBuf>,
    globs: GlobSet,
    names: GlobSet,
    whole: GlobSet,
    words: Pick,
}

impl Picker {
    /// Checks a pick and makes it ready.
    ///
    /// # Errors
    /// [`Kind::Usage`] for a path that is not absolute, a pattern that is none, or a pick of nothing.
    pub fn new(pick: &Pick) -> Result<Self> {
        let paths: BTreeSet<PathBuf> = pick.paths.iter().map(|p| clean(p)).collect::<Result<_>>()?;
        let mut bases = paths.clone();
        for glob in &pick.globs {
            bases.insert(clean(&base_of(glob))?);
        }
        if bases.is_empty() {
            return Err(Error::new(Kind::Usage, "a group of no paths").hint("name at least one with --path"));
        }
        // what lies below another one is found from there
        let lowest = |p: &&PathBuf| !p.ancestors().skip(1).any(|above| bases.contains(above));
        let (names, whole) = pick.excludes.iter().partition::<Vec<_>, _>(|e| !e.contains('/'));
        Ok(Self {
            bases: bases.iter().filter(lowest).cloned().collect(),
            paths,
            globs: set(pick.globs.iter())?,
            names: set(names.into_iter())?,
            whole: set(whole.into_iter())?,
            words: pick.clone(),
        })
    }

    /// As a person said it.
    pub const fn words(&self) -> &Pick {
        &self.words
    }

    /// Whether a file belongs to it follows from its name and its folder alone, not from its whole path.
    pub fn is_plain(&self) -> bool {
        self.globs.is_empty() && self.whole.is_empty()
    }

    /// Where to begin to look.
    pub fn bases(&self) -> &[PathBuf] {
        &self.bases
    }

    /// The path itself is picked, and what is below it.
    pub fn picks(&self, path: &Path) -> bool {
        self.paths.contains(path) || self.globs.is_match(path)
    }

    /// The path is left out, and what is below it.
    pub fn excludes(&self, path: &Path) -> bool {
        path.file_name().is_some_and(|name| self.names.is_match(name)) || self.whole.is_match(path)
    }
}

/// An absolute path without `.`, `..` and slashes too many.
fn clean(path: &Path) -> Result<PathBuf> {
    let wrong = |why: &str| Err(Error::new(Kind::Usage, format!("path {}: {why}", path.display())));
    if !path.is_absolute() {
        return wrong("a group's paths begin with /");
    }
    if path.components().any(|c| c == Component::ParentDir) {
        return wrong("`..` is not followed");
    }
    Ok(path.components().collect())
}

/// The part of a pattern before its first wildcard, up to a `/`.
fn base_of(glob: &str) -> PathBuf {
    let plain = glob.split(['*', '?', '[', '{', '\\']).next().unwrap_or_default();
    if plain.len() == glob.len() {
        return glob.into();
    }
    plain.rsplit_once('/').map_or(plain, |(folder, _)| if folder.is_empty() { "/" } else { folder }).into()
}

fn set<'a>(patterns: impl Iterator<Item = &'a String>) -> Result<GlobSet> {
    let mut builder = GlobSetBuilder::new();
    for pattern in patterns {
        // a folder is meant with what is below it anyway
        let text = pattern.trim_end_matches('/');
        let glob = GlobBuilder::new(text).literal_separator(true).build();
        builder.add(glob.map_err(|e| Error::caused(Kind::Usage, format!("pattern {pattern:?}"), e))?);
    }
    builder.build().map_err(|e| Error::caused(Kind::Usage, "patterns", e))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn picker(paths: &[&str], globs: &[&str], excludes: &[&str]) -> Result<Picker> {
        let owned = |list: &[&str]| list.iter().map(ToString::to_string).collect();
        let paths = paths.iter().map(PathBuf::from).collect();
        Picker::new(&Pick { paths, globs: owned(globs), excludes: owned(excludes) })
    }

    #[test]
    fn what_lies_below_another_base_is_found_from_there() {
        let picker =
            picker(&["/srv/a/b", "/srv/a/", "/srv/ab"], &["/var/lib/*/data", "/*.conf"], &[]).unwrap();
        assert_eq!(picker.bases(), [Path::new("/")]);
        let picker =
            super::tests::picker(&["/srv/a/b", "/srv/a/", "/srv/ab"], &["/var/lib/*/data"], &[]).unwrap();
        assert_eq!(picker.bases(), ["/srv/a", "/srv/ab", "/var/lib"].map(Path::new));
        assert!(picker.picks(Path::new("/var/lib/x/data")) && picker.picks(Path::new("/srv/a/b")));
        assert!(!picker.picks(Path::new("/var/lib/x/y/data")) && !picker.picks(Path::new("/srv/a/c")));
    }

    #[test]
    fn a_name_is_excluded_anywhere_and_a_path_as_a_whole() {
        let picker =
            picker(&["/srv"], &[], &["*.tmp", "node_modules", "/srv/cache/", "/srv/**/old"]).unwrap();
        for out in ["/srv/a.tmp", "/srv/x/node_modules", "/srv/cache", "/srv/old", "/srv/x/y/old"] {
            assert!(picker.excludes(Path::new(out)), "{out}");
        }
        for stays in ["/srv/a.tmpx", "/srv/x/cache", "/srv/cache2", "/srv/older"] {
            assert!(!picker.excludes(Path::new(stays)), "{stays}");
        }
    }

    #[test]
    fn nonsense_is_refused() {
        for (paths, globs, excludes) in [
            (&[][..], &[][..], &[][..]),
            (&["a"], &[], &[]),
            (&["/a/../b"], &[], &[]),
            (&["/a"], &[], &["[x"]),
        ] {
            assert_eq!(picker(paths, globs, excludes).unwrap_err().kind(), Kind::Usage);
        }
        assert!(picker(&[], &["*.x"], &[]).is_err(), "a glob is a whole path");
    }
}
