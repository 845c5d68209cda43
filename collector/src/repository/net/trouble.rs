//! What a store's failure means, in words, and whether it may pass by itself.

use crate::error::{Error, Kind};
use object_store::client::HttpError;
use std::error::Error as _;

/// The error's kind from the store's, or from the operating system's error deep inside it.
pub(in crate::repository) fn classify(error: object_store::Error, context: String) -> Error {
    use object_store::Error as E;
    let seen = Seen::of(&error);
    if let Some(known) = KNOWN.iter().find(|known| seen.is(known)) {
        let told = Error::caused(known.kind, known.words, seen.brief());
        return told.within(context).hint(known.hint);
    }
    let kind = match &error {
        E::NotFound { .. } => Kind::NotFound,
        E::AlreadyExists { .. } | E::Precondition { .. } => Kind::Exists,
        E::NotSupported { .. } | E::NotImplemented { .. } => Kind::Unsupported,
        E::PermissionDenied { .. } | E::Unauthenticated { .. } => Kind::Denied,
        _ if seen.transport || seen.status.is_some_and(|s| s >= 500) => Kind::Unreachable,
        _ => seen.os.map_or(Kind::Io, |os| Error::os("", std::io::Error::from(os)).kind()),
    };
    let told = match seen.remote() {
        true => Error::caused(kind, context, seen.brief()),
        false => Error::caused(kind, context, error),
    };
    match kind {
        Kind::Unreachable => told.hint(
            "look at the network and the server; nothing is lost: what was not stored is part of the next backup",
        ),
        Kind::NoSpace => told.hint(
            "the store is full: make room (prune, compact) or give it more, and do the same again; what is listed is whole, and \
             nothing is lost",
        ),
        Kind::Denied if seen.remote() => told.hint("the key needs the right to do this; see docs/STORES.md"),
        _ => told,
    }
}

/// Another try may succeed: the line broke, the store was busy, or an answer was garbled.
pub(super) fn fleeting(error: &object_store::Error) -> bool {
    let seen = Seen::of(error);
    let garbled = ["XAmzContentSHA256Mismatch", "BadDigest", "IncompleteBody", "RequestTimeout"];
    if !matches!(error, object_store::Error::Generic { .. }) || seen.own_credentials() {
        return false;
    }
    match seen.status {
        Some(501 | 507) => false,
        Some(status) => status >= 500 || matches!(status, 408 | 429) || garbled.contains(&seen.code.as_str()),
        None => !seen.text.contains("without LOCATION"),
    }
}

/// A failure that is known by the store's own word for it.
struct Known {
    code: &'static str,
    kind: Kind,
    words: &'static str,
    hint: &'static str,
}

const fn known(code: &'static str, kind: Kind, words: &'static str, hint: &'static str) -> Known {
    Known { code, kind, words, hint }
}

/// A code of letters is the store's; one of digits the status of a request without one.
const KNOWN: [Known; 12] = [
    known(
        "NoSuchBucket",
        Kind::Unreachable,
        "there is no such bucket",
        "make it, or look at its name and region",
    ),
    known(
        "RequestTimeTooSkewed",
        Kind::Denied,
        "the clock of this machine and that of the store differ too much",
        "set this machine's clock; nothing was stored or lost",
    ),
    known("InvalidAccessKeyId", Kind::Denied, "the store does not know this access key", KEYS),
    known("SignatureDoesNotMatch", Kind::Denied, "the secret key is not the one of this access key", KEYS),
    known("ExpiredToken", Kind::Denied, "the credentials have expired", KEYS),
    known("InvalidToken", Kind::Denied, "the session token is not valid", KEYS),
    known(
        "PermanentRedirect",
        Kind::Usage,
        "the bucket is in another region",
        "name it: AWS_REGION, or ?region= in the location",
    ),
    known("QuotaExceeded", Kind::NoSpace, "the store's quota is used up", "prune, or ask for more"),
    known("XMinioStorageFull", Kind::NoSpace, "the store is full", "prune, or give it more room"),
    known("507", Kind::NoSpace, "the store is full", "prune, or give it more room"),
    known(
        "credentials",
        Kind::Denied,
        "no credentials: neither in the environment, nor in a profile, nor from this instance",
        KEYS,
    ),
    known(
        "405",
        Kind::Unsupported,
        "the web server does not list its folders (WebDAV's PROPFIND)",
        "let it serve WebDAV read-only, or copy the repository",
    ),
];

const KEYS: &str = "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE; see docs/STORES.md";

/// What can be seen of a failure.
struct Seen {
    text: String,
    /// What lies deepest.
    last: String,
    status: Option<u16>,
    /// The store's own word.
    code: String,
    os: Option<std::io::ErrorKind>,
    transport: bool,
}

impl Seen {
    fn of(error: &object_store::Error) -> Self {
        let (mut text, mut os, mut transport) = (error.to_string(), None, false);
        let mut last = text.clone();
        let mut cause = error.source();
        while let Some(e) = cause {
            os = e.downcast_ref::<std::io::Error>().map(std::io::Error::kind).or(os);
            transport |= e.is::<HttpError>();
            last = e.to_string();
            text += &format!("\n{last}");
            cause = e.source();
        }
        let after = |mark: &str| text.split_once(mark).map(|(_, rest)| rest);
        let status = after("status code: ").and_then(|rest| rest.get(..3)?.parse().ok());
        let code =
            after("<Code>").and_then(|rest| Some(rest.split_once('<')?.0.to_owned())).unwrap_or_default();
        Self { status, code, os, transport, last, text }
    }

    /// What was asked, and what came of it: the store's answers are pages long, and each layer repeats them.
    fn brief(&self) -> String {
        let mut asked = self.text.split_once("performing ").map_or("", |(_, rest)| rest).split(' ');
        let asked = format!("{} {}", asked.next().unwrap_or_default(), asked.next().unwrap_or_default());
        let told = self.text.split_once("<Message>").and_then(|(_, rest)| Some(rest.split_once('<')?.0));
        match self.status {
            Some(status) => {
                let words = [self.code.as_str(), told.unwrap_or_default()].join(" ");
                format!("{asked}: the store answered {status} {}", words.trim()).trim_end().to_owned()
            }
            None => format!("{asked}: {}", self.last.lines().next().unwrap_or_default()),
        }
    }

    fn remote(&self) -> bool {
        self.status.is_some() || self.transport
    }

    /// The request for an instance's own credentials, which stands at a fixed address, failed.
    fn own_credentials(&self) -> bool {
        self.text.contains("//169.254.169.254") && self.text.contains("/latest/")
    }

    fn is(&self, known: &Known) -> bool {
        match known.code {
            "credentials" => self.own_credentials(),
            "405" => matches!(self.status, Some(405 | 501)) && self.text.contains("PROPFIND"),
            digits if digits.starts_with(char::is_numeric) => {
                self.status.is_some_and(|s| s.to_string() == digits)
            }
            code => self.code == code,
        }
    }
}
