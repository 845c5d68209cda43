//! The read-only page: devices, points over time, what changes where, what is wrong and why, what comes next.
//!
//! What must stay true: nothing is shown without the token; it can be read without scripts, pictures from elsewhere, or
//! colours; every text that comes from a device, a file or an error is escaped.

mod charts;
mod html;
mod style;

use super::devices::Lookout;
use super::http::{Answerer, Asked, Reply};
use super::shown::Showcase;
use crate::error::{Context, Error, Kind, Result};
use std::path::Path;
use std::sync::Arc;

const HTML: &str = "text/html; charset=utf-8";

/// Who answers for the page.
///
/// # Errors
/// If the token cannot be read, or is too short to be one.
pub fn answerer(token_file: &Path, showcase: Arc<Showcase>, lookout: Arc<Lookout>) -> Result<Answerer> {
    let what = || format!("read the page's token {}", token_file.display());
    let text = std::fs::read_to_string(token_file)
        .os_context(what)
        .map_err(|e| e.hint("make one: (umask 077; head -c 24 /dev/urandom | base64 > FILE)"))?;
    let token = text.lines().next().unwrap_or_default().trim().to_owned();
    if token.len() < 16 {
        return Err(Error::new(Kind::Usage, format!("{}: less than 16 characters", what()))
            .hint("make one: (umask 077; head -c 24 /dev/urandom | base64 > FILE)"));
    }
    let token = Token(blake3::hash(token.as_bytes()));
    Ok(Arc::new(move |asked: &Asked| token.answer(asked, || html::page(&showcase.look(), &lookout.look()))))
}

/// The token's hash: comparing hashes takes the same time wherever they differ.
struct Token(blake3::Hash);

impl Token {
    fn fits(&self, said: &str) -> bool {
        blake3::hash(said.trim().as_bytes()) == self.0
    }

    /// It was given as `Authorization: Bearer …` or in our cookie.
    fn given(&self, asked: &Asked) -> bool {
        let bearer = asked.authorization.as_deref().and_then(|a| a.strip_prefix("Bearer "));
        let cookies = asked.cookie.as_deref().unwrap_or_default().split(';');
        let cookie = cookies.filter_map(|c| c.trim().strip_prefix("blkdelta=")).next().map(decoded);
        bearer.is_some_and(|said| self.fits(said)) || cookie.is_some_and(|said| self.fits(&said))
    }

    fn answer(&self, asked: &Asked, page: impl FnOnce() -> String) -> Reply {
        if asked.path != "/" {
            return Reply::refused(404, "there is only /");
        }
        if asked.post {
            let said = asked.body.split('&').find_map(|field| field.strip_prefix("token="));
            return match said.map(decoded).filter(|said| self.fits(said)) {
                Some(token) => {
                    let cookie =
                        format!("blkdelta={}; HttpOnly; SameSite=Strict; Path=/", encoded(token.trim()));
                    let headers = vec![("set-cookie", cookie), ("location", "/".into())];
                    Reply { headers, ..Reply::refused(303, "see /") }
                }
                None => Reply { status: 401, ..Reply::fine(HTML, html::form(true)) },
            };
        }
        if self.given(asked) {
            Reply::fine(HTML, page())
        } else {
            Reply { status: 401, ..Reply::fine(HTML, html::form(false)) }
        }
    }
}

/// A field of a form, or a cookie of ours, as it was meant.
fn decoded(field: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = field.as_bytes();
    while let Some((&first, after)) = rest.split_first() {
        let hex = after.get(..2).and_then(|two| std::str::from_utf8(two).ok());
        match (first, hex.and_then(|two| u8::from_str_radix(two, 16).ok())) {
            (b'%', Some(byte)) => {
                bytes.push(byte);
                rest = &after[2..];
            }
            (b'+', _) => {
                bytes.push(b' ');
                rest = after;
            }
            _ => {
                bytes.push(first);
                rest = after;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

fn encoded(text: &str) -> String {
    let plain = |b: &u8| b.is_ascii_alphanumeric();
    text.bytes().map(|b| if plain(&b) { (b as char).to_string() } else { format!("%{b:02X}") }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token() -> Token {
        Token(blake3::hash(b"a+b/c=0123456789 x"))
    }

    fn get(authorization: Option<&str>, cookie: Option<&str>) -> Asked {
        let own = |text: Option<&str>| text.map(ToOwned::to_owned);
        Asked { path: "/".into(), authorization: own(authorization), cookie: own(cookie), ..Asked::default() }
    }

    #[test]
    fn nothing_is_shown_without_the_token() {
        let shown = |asked: &Asked| {
            let reply = token().answer(asked, || "SECRET".into());
            assert_eq!(reply.body.contains("SECRET"), reply.status == 200);
            reply.status
        };
        assert_eq!(shown(&get(None, None)), 401);
        assert_eq!(shown(&get(Some("Bearer wrong"), Some("blkdelta="))), 401);
        assert_eq!(shown(&get(Some("Bearer a+b/c=0123456789 x"), None)), 200);
        assert_eq!(shown(&Asked { path: "/x".into(), ..get(Some("Bearer a+b/c=0123456789 x"), None) }), 404);
        let form = |body: &str| Asked { post: true, path: "/".into(), body: body.into(), ..Asked::default() };
        assert_eq!(shown(&form("token=wrong")), 401);
        let reply = token().answer(&form("a=1&token=a%2Bb%2Fc%3D0123456789+x%0D%0A"), String::new);
        assert_eq!(reply.status, 303);
        let cookie = reply.headers.iter().find(|(name, _)| *name == "set-cookie").unwrap().1.clone();
        assert!(cookie.contains("HttpOnly") && cookie.contains("SameSite=Strict"));
        let cookie = cookie.split(';').next().unwrap().to_owned();
        assert_eq!(shown(&get(None, Some(&format!("other=1; {cookie}")))), 200);
    }

    #[test]
    fn a_token_that_is_none_is_refused() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let answerer = || answerer(file.path(), Arc::default(), Arc::default());
        assert_eq!(answerer().err().unwrap().kind(), Kind::Usage);
        std::io::Write::write_all(&mut file.as_file(), b"0123456789abcdef\nmore").unwrap();
        let answer = answerer().unwrap();
        assert_eq!(answer(&get(Some("Bearer 0123456789abcdef"), None)).status, 200);
    }
}
