//! Credentials and settings from the files that Amazon's own tools keep: `~/.aws/credentials` and `~/.aws/config`.
//!
//! Only keys that stand there. What must be asked for elsewhere (`sso`, `role_arn`, `credential_process`) is refused
//! by name; the environment, a container's and an instance's own credentials are object_store's part.

use crate::error::{Context, Error, Kind, Result};
use ini::Ini;
use std::path::PathBuf;

/// What a profile holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Profile {
    pub key: Option<(String, String)>,
    pub token: Option<String>,
    pub region: Option<String>,
    pub endpoint: Option<String>,
}

/// The profile `wanted`, else `$AWS_PROFILE`, else `default`, which alone may be missing.
pub(super) fn load(wanted: Option<&str>) -> Result<Profile> {
    let named = wanted.map(str::to_owned).or_else(|| env("AWS_PROFILE"));
    let name = named.as_deref().unwrap_or("default");
    let credentials = read("AWS_SHARED_CREDENTIALS_FILE", "credentials")?;
    let config = read("AWS_CONFIG_FILE", "config")?;
    let section = if name == "default" { name.to_owned() } else { format!("profile {name}") };
    let sections = [
        credentials.as_ref().and_then(|file| file.section(Some(name))),
        config.as_ref().and_then(|file| file.section(Some(section))),
    ];
    if named.is_some() && sections.iter().all(Option::is_none) {
        let text = format!("profile {name:?} stands neither in the credentials file nor in the config file");
        return Err(
            Error::new(Kind::Usage, text).hint("~/.aws, or AWS_SHARED_CREDENTIALS_FILE, AWS_CONFIG_FILE")
        );
    }
    let get = |key: &str| sections.iter().flatten().find_map(|s| s.get(key)).map(str::to_owned);
    let key = get("aws_access_key_id").zip(get("aws_secret_access_key"));
    let elsewhere = ["credential_process", "sso_session", "sso_start_url", "role_arn", "source_profile"];
    if let (None, Some(way), true) = (&key, elsewhere.iter().find(|way| get(way).is_some()), named.is_some())
    {
        let text = format!("profile {name:?} holds no key but {way}, which is not followed here");
        let hint =
            "eval \"$(aws configure export-credentials --format env)\" puts its keys into the environment";
        return Err(Error::new(Kind::Unsupported, text).hint(hint));
    }
    let token = key.as_ref().and_then(|_| get("aws_session_token"));
    Ok(Profile { key, token, region: get("region"), endpoint: get("endpoint_url") })
}

fn env(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

/// One of the two files; `None` if there is none where nobody said that there is.
fn read(variable: &str, file: &str) -> Result<Option<Ini>> {
    let said = env(variable).map(PathBuf::from);
    let usual = || env("HOME").map(|home| PathBuf::from(home).join(".aws").join(file));
    let Some(path) = said.clone().or_else(usual) else { return Ok(None) };
    let what = || format!("read {}", path.display());
    match std::fs::read_to_string(&path) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound && said.is_none() => Ok(None),
        text => {
            let text = text.os_context(what)?;
            Ini::load_from_str_noescape(&text).map(Some).map_err(|e| Error::caused(Kind::Usage, what(), e))
        }
    }
}
