//! The page's text.

use super::charts;
use super::style::STYLE;
use crate::config::words::{bytes, duration, time};
use crate::daemon::devices::{Scene, Seen};
use crate::daemon::report::Report;
use crate::daemon::shown::{JobShown, Shown};
use std::fmt::Write;
use std::time::Duration;

/// Text that cannot be anything else.
pub(super) fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out += "&amp;",
            '<' => out += "&lt;",
            '>' => out += "&gt;",
            '"' => out += "&quot;",
            '\'' => out += "&#39;",
            c => out.push(c),
        }
    }
    out
}

fn document(title: &str, refresh: bool, body: &str) -> String {
    let refresh = if refresh { "<meta http-equiv=\"refresh\" content=\"30\">" } else { "" };
    format!(
        "<!doctype html><html lang=\"en\"><head><meta charset=\"utf-8\"><title>{}</title>\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\
         <meta name=\"color-scheme\" content=\"light dark\">{refresh}<style>{STYLE}</style></head>\
         <body>{body}</body></html>\n",
        escaped(title)
    )
}

/// Who asks must give the token.
pub(super) fn form(wrong: bool) -> String {
    let wrong = if wrong { "<p class=\"bad\">That is not the token.</p>" } else { "" };
    let body = format!(
        "<main><h1>blkdelta</h1>{wrong}<form method=\"post\" action=\"/\"><p><label for=\"token\">Token (the first \
         line of <code>page_token_file</code>)</label></p><p><input id=\"token\" name=\"token\" type=\"password\" \
         autocomplete=\"off\" required> <button>Show</button></p></form></main>"
    );
    document("blkdelta", false, &body)
}

/// The whole page.
pub(super) fn page(shown: &Shown, scene: &Scene) -> String {
    let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
    let host = escaped(&host);
    let mut body = format!(
        "<header><h1>blkdelta on {host}</h1><p class=\"soft\">{} UTC, version {}</p></header><main>",
        time(shown.now),
        env!("CARGO_PKG_VERSION")
    );
    attention(&mut body, shown, scene);
    jobs(&mut body, shown);
    body += "<h2>Devices</h2>";
    if scene.devices.is_empty() {
        body += "<p>Nothing is tracked.</p>";
    }
    for seen in &scene.devices {
        device(&mut body, seen, shown);
    }
    body += "</main>";
    document(&format!("blkdelta on {host}"), true, &body)
}

/// What somebody should look at, first.
fn attention(body: &mut String, shown: &Shown, scene: &Scene) {
    let mut lines = Vec::new();
    for seen in &scene.devices {
        let name = escaped(&seen.path);
        for why in &seen.suspect {
            let why = escaped(why);
            lines.push(format!("<b>{name}</b> is suspect: {why}. The next backup compares everything."));
        }
    }
    for job in &shown.jobs {
        let (name, last) = (escaped(&job.name), job.runs.back());
        if let Some(error) = last.and_then(|run| run.error.as_deref()) {
            let times = job.memory.failures;
            lines.push(format!(
                "<b>{name}</b> failed, {times} in a row; its difference is kept: {}",
                escaped(error)
            ));
        }
        for why in last.map(|run| run.suspect.as_slice()).unwrap_or_default() {
            lines.push(format!("<b>{name}</b>: the last point is suspect: {}", escaped(why)));
        }
    }
    lines.extend(
        shown.unwritten.iter().map(|why| format!("The daemon's memory cannot be written: {}", escaped(why))),
    );
    if lines.is_empty() {
        *body += "<p class=\"good\">Nothing needs attention.</p>";
        return;
    }
    *body +=
        "<section class=\"card\" aria-label=\"Needs attention\"><h2 class=\"bad\">Needs attention</h2><ul>";
    for line in lines {
        let _ = write!(body, "<li>{line}</li>");
    }
    *body += "</ul></section>";
}

const COLUMNS: [&str; 7] = ["Job", "Of", "To", "When (UTC)", "Next", "Last", "Stored"];

fn jobs(body: &mut String, shown: &Shown) {
    *body += "<h2>Jobs</h2><div class=\"wide\"><table><thead><tr>";
    for name in COLUMNS {
        let _ = write!(body, "<th scope=\"col\"{}>{name}</th>", class_of(name));
    }
    *body += "</tr></thead><tbody>";
    for job in &shown.jobs {
        let last = job.runs.back();
        let stored =
            last.filter(|run| run.point.is_some()).map(|run| bytes(run.stored_bytes)).unwrap_or_default();
        let cells = [
            escaped(&job.name),
            escaped(&job.device),
            escaped(&job.repository),
            escaped(&job.when),
            next(job, shown.now),
            last.map(ended).unwrap_or_default(),
            stored,
        ];
        *body += "<tr>";
        for (name, cell) in COLUMNS.iter().zip(cells) {
            let cell = if cell.is_empty() { cell } else { format!("<span>{cell}</span>") };
            let _ = write!(body, "<td{} data-name=\"{name}\">{cell}</td>", class_of(name));
        }
        *body += "</tr>";
    }
    *body += "</tbody></table></div>";
}

/// Numbers stand below each other.
fn class_of(column: &str) -> &'static str {
    if column == "Stored" { " class=\"n\"" } else { "" }
}

fn next(job: &JobShown, now: u64) -> String {
    match (job.memory.running, job.next) {
        (Some(since), _) => format!("runs for {}", span(now.saturating_sub(since))),
        (None, Some(at)) if at <= now => "waits for its turn".into(),
        (None, Some(at)) => format!("in {}, {}", span(at - now), time(at)),
        (None, None) if job.memory.paused => "paused".into(),
        (None, None) => "when asked".into(),
    }
}

fn ended(run: &Report) -> String {
    let class = if run.result == "ok" { "good" } else { "bad" };
    let took = span(run.ended.saturating_sub(run.began));
    format!("<span class=\"{class}\">{}</span> {}, {took}", escaped(&run.result), time(run.began))
}

fn span(ms: u64) -> String {
    duration(Duration::from_millis(ms))
}

fn device(body: &mut String, seen: &Seen, shown: &Shown) {
    let state = if seen.suspect.is_empty() {
        "<span class=\"good\">proved</span>"
    } else {
        "<span class=\"bad\">suspect</span>"
    };
    let _ = write!(
        body,
        "<section class=\"card\"><h3>{}</h3><p>{}, {state}; {} changed in {}; tracked since {} UTC; bitmaps {}; last point {}</p>",
        escaped(&seen.path),
        bytes(seen.size),
        bytes(seen.changed),
        span(shown.now.saturating_sub(seen.list_since)),
        time(seen.since),
        bytes(seen.memory),
        seen.base.as_deref().map_or_else(|| "none".into(), escaped)
    );
    let of_it = |run: &&Report| run.device == seen.path && run.point.is_some();
    let mut runs: Vec<&Report> = shown.jobs.iter().flat_map(|job| job.runs.iter()).filter(of_it).collect();
    runs.sort_by_key(|run| run.began);
    if runs.is_empty() {
        *body += "<p class=\"soft\">No point was made by the daemon yet.</p></section>";
        return;
    }
    *body += &charts::timeline(&runs);
    *body += &charts::heat(&runs);
    *body += "</section>";
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::daemon::metrics::tests::example;

    /// Tags are closed in order, attributes quoted: what a strict reader wants.
    fn ensure_nested(html: &str) {
        let mut open: Vec<String> = Vec::new();
        let mut rest = html.strip_prefix("<!doctype html>").unwrap();
        while let Some(at) = rest.find('<') {
            let end = at + rest[at..].find('>').expect("a tag is not closed");
            let tag = &rest[at + 1..end];
            rest = &rest[end + 1..];
            let name = tag.trim_start_matches('/').split([' ', '/']).next().unwrap().to_owned();
            assert!(tag.matches('"').count().is_multiple_of(2), "<{tag}>");
            if name == "style" && !tag.starts_with('/') {
                rest = &rest[rest.find("</style>").unwrap() + 8..];
            } else if tag.starts_with('/') {
                assert_eq!(open.pop().as_deref(), Some(name.as_str()), "<{tag}> closes another");
            } else if !tag.ends_with('/') && !["meta", "input"].contains(&name.as_str()) {
                open.push(name);
            }
        }
        assert!(open.is_empty(), "{open:?} are not closed");
    }

    #[test]
    fn the_page_says_what_is_wrong_what_comes_and_holds_no_foreign_text() {
        let (shown, scene) = example();
        let page = page(&shown, &scene);
        ensure_nested(&page);
        for wanted in [
            "/dev/sd&quot;a",
            "no &lt;b&gt;space&lt;/b&gt;",
            "a &lt;program&gt; was detached",
            "Needs attention",
            "in 10.0 s",
            "paused",
            "prefers-color-scheme:dark",
            "<svg",
        ] {
            assert!(page.contains(wanted), "{wanted}");
        }
        for foreign in ["<script", "http://", "https://", "<b>space", "<program>", "src="] {
            assert!(!page.contains(foreign), "{foreign}");
        }
        ensure_nested(&form(true));
        ensure_nested(&super::page(&Shown::default(), &Scene::default()));
        assert!(super::page(&Shown::default(), &Scene::default()).contains("Nothing needs attention"));
    }
}
