//! Where a repository is: a folder, a bucket, a web server. Words in, parts out; nothing is touched.
//!
//! ```text
//!   /folder   file:///folder
//!   s3://BUCKET/PREFIX?endpoint=URL&region=NAME&style=path|host&profile=NAME     all after ? may be left out
//!   http://HOST/PATH   https://HOST/PATH                                          read-only
//! ```

use crate::error::{Error, Kind, Result};
use std::path::PathBuf;

/// Where a repository is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Location {
    /// A folder of this machine.
    Folder(PathBuf),
    /// A bucket of S3 or something compatible.
    Bucket(Bucket),
    /// A folder of a web server that lists by WebDAV; read-only.
    Web(String),
}

/// A bucket and how it is reached; what is `None` comes from the environment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Bucket {
    /// Its name.
    pub name: String,
    /// What the repository's keys begin with; may be empty.
    pub prefix: String,
    /// The server, for other stores than Amazon's.
    pub endpoint: Option<String>,
    /// Its region.
    pub region: Option<String>,
    /// Whose credentials to take from the shared files.
    pub profile: Option<String>,
    /// The bucket's name is part of the host's, not of the path.
    pub host_style: Option<bool>,
}

impl Location {
    /// Reads a location as a person gives it.
    ///
    /// # Errors
    /// [`Kind::Usage`] for what is no location; [`Kind::Unsupported`] for a store that is not known.
    pub fn parse(text: &str) -> Result<Self> {
        let wrong = |why: &str| Error::new(Kind::Usage, format!("repository {text:?}: {why}"));
        let Some((scheme, rest)) = scheme_of(text) else {
            return folder(text);
        };
        match scheme.to_ascii_lowercase().as_str() {
            "file" if rest.starts_with('/') => folder(rest),
            "file" => Err(wrong("a folder's full path follows file://")),
            "s3" => bucket(rest).map(Self::Bucket).map_err(|why| wrong(&why)),
            "http" | "https" if rest.split('/').next().is_some_and(|host| host.contains('@')) => {
                Err(wrong("a password in an address would be seen in every process list"))
            }
            "http" | "https" if rest.is_empty() => Err(wrong("a host is missing")),
            "http" | "https" => Ok(Self::Web(text.trim_end_matches('/').to_owned())),
            other => {
                Err(Error::new(Kind::Unsupported, format!("repository {text}: store {other:?} is not known"))
                    .hint("give a folder, s3://bucket/prefix, or https://host/path for reading"))
            }
        }
    }

    /// The folder, if it is one.
    pub fn folder(&self) -> Option<&std::path::Path> {
        match self {
            Self::Folder(path) => Some(path),
            Self::Bucket(_) | Self::Web(_) => None,
        }
    }
}

impl std::fmt::Display for Location {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Folder(path) => write!(f, "{}", path.display()),
            Self::Bucket(bucket) if bucket.prefix.is_empty() => write!(f, "s3://{}", bucket.name),
            Self::Bucket(bucket) => write!(f, "s3://{}/{}", bucket.name, bucket.prefix),
            Self::Web(url) => f.write_str(url),
        }
    }
}

/// `scheme://rest`; a path with `://` in it somewhere is none.
fn scheme_of(text: &str) -> Option<(&str, &str)> {
    let (scheme, rest) = text.split_once("://")?;
    (!scheme.is_empty() && scheme.chars().all(|c| c.is_ascii_alphanumeric())).then_some((scheme, rest))
}

fn folder(path: &str) -> Result<Location> {
    if path.is_empty() {
        return Err(Error::new(Kind::Usage, "repository location is empty"));
    }
    if std::fs::metadata(path).is_ok_and(|found| !found.is_dir()) {
        let what = format!("repository {path}: there is something, but no folder");
        return Err(Error::new(Kind::Usage, what).hint("give the path of a folder, existing or new"));
    }
    Ok(Location::Folder(PathBuf::from(path)))
}

fn bucket(rest: &str) -> Result<Bucket, String> {
    let (place, query) = rest.split_once('?').unwrap_or((rest, ""));
    let (name, prefix) = place.split_once('/').unwrap_or((place, ""));
    let prefix = prefix.trim_matches('/').to_owned();
    let plain = |c: char| c.is_ascii_alphanumeric() || ".-_".contains(c);
    if name.is_empty() || !name.chars().all(plain) {
        return Err(format!("{name:?} is no bucket's name"));
    }
    if prefix.split('/').any(|part| part == "." || part == "..") || prefix.contains("//") {
        return Err("empty parts, . and .. have no meaning in a bucket".into());
    }
    let mut bucket = Bucket { name: name.to_owned(), prefix, ..Bucket::default() };
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        match pair.split_once('=') {
            Some(("endpoint", url)) => bucket.endpoint = Some(endpoint(url)?),
            Some(("region", region)) => bucket.region = Some(region.to_owned()),
            Some(("profile", profile)) => bucket.profile = Some(profile.to_owned()),
            Some(("style", "path")) => bucket.host_style = Some(false),
            Some(("style", "host")) => bucket.host_style = Some(true),
            _ => {
                return Err(format!(
                    "{pair:?} is not endpoint=, region=, profile=, style=path or style=host"
                ));
            }
        }
    }
    Ok(bucket)
}

/// The address of a server of S3: scheme and host.
pub fn endpoint(url: &str) -> Result<String, String> {
    let rest = url.strip_prefix("https://").or_else(|| url.strip_prefix("http://"));
    match rest {
        Some(host) if !host.is_empty() && !host.contains('@') => Ok(url.trim_end_matches('/').to_owned()),
        _ => Err(format!("endpoint {url:?} is no address such as https://s3.example.org")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_form_is_understood() {
        assert_eq!(Location::parse("a/b").unwrap(), Location::Folder("a/b".into()));
        assert_eq!(Location::parse("file:///a/b").unwrap(), Location::Folder("/a/b".into()));
        assert_eq!(Location::parse("https://h/p/").unwrap(), Location::Web("https://h/p".into()));
        let Location::Bucket(bucket) =
            Location::parse("s3://bu.ck/a/b/?endpoint=http://h:9/&style=host&region=r&profile=p").unwrap()
        else {
            panic!("a bucket");
        };
        assert_eq!((bucket.name.as_str(), bucket.prefix.as_str()), ("bu.ck", "a/b"));
        assert_eq!(bucket.endpoint.as_deref(), Some("http://h:9"));
        assert_eq!(bucket.host_style, Some(true));
        assert_eq!((bucket.region.as_deref(), bucket.profile.as_deref()), (Some("r"), Some("p")));
        assert_eq!(Location::Bucket(bucket).to_string(), "s3://bu.ck/a/b");
    }

    #[test]
    fn nonsense_is_wrong_usage() {
        for bad in [
            "",
            "s3://",
            "s3:///a",
            "s3://b/../c",
            "s3://b/a//c",
            "s3://b?x=y",
            "s3://b?endpoint=h",
            "http://",
            "http://user:word@host/",
            "file://host/a",
        ] {
            assert_eq!(Location::parse(bad).unwrap_err().kind(), Kind::Usage, "{bad}");
        }
        assert_eq!(Location::parse("ftp://h/p").unwrap_err().kind(), Kind::Unsupported);
    }
}
