//! What no single key shows: names that must exist, keys that exclude each other.

use super::place::{Places, Problem};
use super::tables::{Config, DeviceTable, GroupTable, JobTable};
use super::values::Listen;
use std::collections::BTreeMap;

/// Every problem of a file that could be read.
pub(super) fn problems(config: &Config, places: &Places<'_>) -> Vec<Problem> {
    let mut found = Found { places, problems: Vec::new() };
    found.names(config);
    found.daemon(config);
    for (name, table) in &config.repository {
        if table.location.is_empty() {
            found.at(
                &["repository", name, "location"],
                "nothing is named",
                "a folder, or s3://BUCKET/PREFIX",
            );
        }
        if table.key_file.is_some() && table.passphrase_file.is_some() {
            let key = ["repository", name.as_str(), "passphrase_file"];
            found.at(&key, "a key file is named too", "name the one of them that opens the repository");
        }
    }
    found.devices(&config.device);
    for (name, table) in &config.group {
        found.group(name, table);
    }
    for (name, table) in &config.job {
        found.job(config, name, table);
    }
    found.problems
}

struct Found<'a> {
    places: &'a Places<'a>,
    problems: Vec<Problem>,
}

impl Found<'_> {
    fn at(&mut self, key: &[&str], what: impl Into<String>, hint: impl Into<String>) {
        let (line, key) = (self.places.line_of(key), key.join("."));
        self.problems.push(Problem { line, key, what: what.into(), hint: hint.into() });
    }

    fn names(&mut self, config: &Config) {
        let all = (config.repository.keys().map(|n| ("repository", n)))
            .chain(config.device.keys().map(|n| ("device", n)))
            .chain(config.group.keys().map(|n| ("group", n)))
            .chain(config.job.keys().map(|n| ("job", n)));
        for (table, name) in all {
            let fits = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
            if name.is_empty() || name.starts_with('.') || !name.chars().all(fits) {
                let hint = "letters, digits, `-`, `_` and `.`, which is not the first";
                self.at(&[table, name], "not a name that a file can have", hint);
            }
        }
    }

    fn daemon(&mut self, config: &Config) {
        let daemon = &config.daemon;
        if daemon.at_once == 0 {
            self.at(&["daemon", "at_once"], "no job could ever run", "1 or more");
        }
        if *daemon.retry_most < *daemon.retry_first {
            self.at(&["daemon", "retry_most"], "less than retry_first", "the same or more");
        }
        if let Some(page) = &daemon.page {
            if daemon.page_token_file.is_none() {
                let hint =
                    "page_token_file = \"/etc/blkdelta/page.token\": the page is shown only to who has it";
                self.at(&["daemon", "page"], "page_token_file is not there", hint);
            }
            if let Listen::Tcp(address) = **page
                && !address.ip().is_loopback()
            {
                let hint = "127.0.0.1:PORT or unix:/PATH; for others put a server with TLS before it";
                self.at(&["daemon", "page"], "others could read it on the way", hint);
            }
        }
    }

    fn devices(&mut self, devices: &BTreeMap<String, DeviceTable>) {
        let mut seen: BTreeMap<String, &str> = BTreeMap::new();
        for (name, table) in devices {
            match (&table.path, &table.id) {
                (Some(path), None) if path.is_absolute() => {}
                (Some(_), None) => {
                    self.at(&["device", name, "path"], "not an absolute path", "such as /dev/disk/by-id/…");
                }
                (None, Some(_)) => {}
                (None, None) => self.at(&["device", name], "neither path nor id", "say which device it is"),
                (Some(_), Some(_)) => {
                    self.at(&["device", name, "id"], "there is a path too", "name one of them")
                }
            }
            if let Some(other) = seen.insert(table.named(), name) {
                let hint = format!("`{other}` is the same: use that name");
                self.at(&["device", name], "the same device has two names", hint);
            }
        }
    }

    fn group(&mut self, name: &str, table: &GroupTable) {
        if table.paths.is_empty() && table.globs.is_empty() {
            self.at(&["group", name], "neither paths nor globs", "say which files belong to it");
        }
        if table.paths.iter().any(|path| !path.is_absolute()) {
            self.at(&["group", name, "paths"], "not all are absolute paths", "such as /srv/www");
        }
        if table.globs.iter().any(|glob| !glob.starts_with('/')) {
            self.at(&["group", name, "globs"], "not all are absolute patterns", "such as /srv/*/data");
        }
    }

    fn job(&mut self, config: &Config, name: &str, table: &JobTable) {
        self.subject(config, name, table);
        if !config.repository.contains_key(&table.repository) {
            let known = list(&config.repository);
            let what = format!("no repository is called {:?}", table.repository);
            self.at(
                &["job", name, "repository"],
                what,
                format!("[repository.NAME] tables there are: {known}"),
            );
        }
        if table.schedule.is_some() && table.every.is_some() {
            self.at(&["job", name, "every"], "there is a schedule too", "name one of them");
        }
        if let (Some(jitter), Some(every)) = (&table.jitter, &table.every)
            && **jitter >= **every
        {
            self.at(&["job", name, "jitter"], "not less than every", "the next one would be due already");
        }
        if table.merge_every == Some(0) {
            self.at(&["job", name, "merge_every"], "nothing could be below a point", "1 or more");
        }
        let hooks = [("pre", "pre_limit", &table.pre), ("post", "post_limit", &table.post)];
        for (hook, limit, command) in hooks {
            if command.as_ref().is_some_and(|c| c.trim().is_empty()) {
                let hint = format!("a command of the shell; {limit} is the time it may take");
                self.at(&["job", name, hook], "an empty command", hint);
            }
        }
    }

    /// What it backs up.
    fn subject(&mut self, config: &Config, name: &str, table: &JobTable) {
        match (&table.device, &table.group) {
            (Some(_), Some(_)) => {
                self.at(&["job", name, "group"], "there is a device too", "name one of them")
            }
            (None, None) => self.at(&["job", name], "neither device nor group", "say what it backs up"),
            (Some(device), None) if !config.device.contains_key(device) => {
                let hint = format!("[device.NAME] tables there are: {}", list(&config.device));
                self.at(&["job", name, "device"], format!("no device is called {device:?}"), hint);
            }
            (None, Some(group)) if !config.group.contains_key(group) => {
                let hint = format!("[group.NAME] tables there are: {}", list(&config.group));
                self.at(&["job", name, "group"], format!("no group is called {group:?}"), hint);
            }
            _ => {}
        }
    }
}

fn list<T>(tables: &BTreeMap<String, T>) -> String {
    if tables.is_empty() {
        return "none".into();
    }
    tables.keys().map(String::as_str).collect::<Vec<_>>().join(", ")
}
