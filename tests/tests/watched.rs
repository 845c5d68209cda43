//! Promise: metrics and page show what there is, in the forms that others expect, to who may see it.

use anyhow::{Context, Result, ensure};
use std::io::{Read, Write};
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use tests::daemon::Scene;
use tests::device::{Loop, O_DIRECT, open_with, put};
use tests::host::{self, run, say};
use tests::image::{Aligned, fill};
use tests::product::Ended;
use tests::random::Random;
use tests::scratch::Scratch;
use tests::skip_if;

/// What a client gets at a unix socket.
fn fetch(socket: &Path, head: &str) -> Result<String> {
    let mut stream =
        UnixStream::connect(socket).with_context(|| format!("connect to {}", socket.display()))?;
    stream.write_all(format!("{head}\r\nhost: localhost\r\n\r\n").as_bytes())?;
    let mut said = String::new();
    stream.read_to_string(&mut said)?;
    Ok(said)
}

#[test]
fn metrics_and_page_show_what_there_is_to_who_may_see_it() -> Result<()> {
    const NAME: &str = "watched::metrics_and_page_show_what_there_is_to_who_may_see_it";
    skip_if!(host::no_tracking(), NAME);
    let mut scene = Scene::new("daemon-page")?;
    let disk = Loop::new(&scene.scratch, "disk", 8 << 20)?;
    let mut random = Random::for_test(NAME);
    fill(disk.path(), &mut random)?;
    let at = |name: &str| scene.home.path().join(name);
    let (metrics, page, token) = (at("metrics.sock"), at("page.sock"), at("token"));
    put(&token, b"0123456789abcdef0123\n")?;
    let head = format!(
        "[daemon]\nmetrics = \"unix:{}\"\npage = \"unix:{}\"\npage_token_file = {token:?}",
        metrics.display(),
        page.display()
    );
    scene.configure(&[disk.path()], &head, "every = \"1s\"")?;
    scene.start()?;
    scene.successes(&["job0"], 1)?;
    scribble(disk.path(), &mut random)?;
    scene.successes(&["job0"], 3)?;
    ensure!(!open(&metrics) && !open(&page), "others may connect");
    let device = disk.path().display();
    ensure_metrics(&metrics, disk.path(), &scene.scratch)?;
    ensure!(fetch(&page, "GET / HTTP/1.1")?.starts_with("HTTP/1.1 401"), "shown without the token");
    let wrong = fetch(&page, "GET / HTTP/1.1\r\nauthorization: Bearer 0123456789abcdef0124")?;
    ensure!(wrong.starts_with("HTTP/1.1 401") && !wrong.contains(&device.to_string()), "{wrong}");
    let shown = fetch(&page, "GET / HTTP/1.1\r\nauthorization: Bearer 0123456789abcdef0123")?;
    for wanted in ["HTTP/1.1 200", &device.to_string(), "<svg", "every 1s", "Nothing needs attention"] {
        ensure!(shown.contains(wanted), "{wanted:?} is not in {shown}");
    }
    let html = shown.split_once("\r\n\r\n").context("no body")?.1;
    screenshots(NAME, html, &scene.scratch)?;
    scene.stop()
}

/// What Prometheus asks for.
fn ensure_metrics(socket: &Path, device: &Path, scratch: &Scratch) -> Result<()> {
    let text = fetch(socket, "GET /metrics HTTP/1.1")?;
    let device = device.display();
    for wanted in [
        "HTTP/1.1 200",
        "application/openmetrics-text",
        "blkdelta_job_runs_total{job=\"job0\",result=\"ok\"}",
        &format!("blkdelta_device_suspect{{device=\"{device}\"}} 0"),
        "# EOF\n",
    ] {
        ensure!(text.contains(wanted), "{wanted:?} is not in {text}");
    }
    parsed_by_prometheus(&text, scratch)
}

/// Something to be seen: here and there, for some seconds.
fn scribble(device: &Path, random: &mut Random) -> Result<()> {
    let file = open_with(device, O_DIRECT)?;
    let blocks = tests::device::size_of(device)? / 4096;
    for round in 0..60 {
        let block = if round % 2 == 0 { random.below(blocks) } else { blocks / 3 + random.below(64) };
        file.write_all_at(&Aligned::random(4096, random), block * 4096)?;
        std::thread::sleep(std::time::Duration::from_millis(100));
    }
    Ok(())
}

/// Others than its owner may do something with it.
fn open(socket: &Path) -> bool {
    std::fs::metadata(socket).is_ok_and(|meta| meta.permissions().mode() & 0o77 > 0)
}

/// Prometheus' own parser accepts the text.
fn parsed_by_prometheus(text: &str, scratch: &Scratch) -> Result<()> {
    const NAME: &str = "watched::metrics_and_page_show_what_there_is_to_who_may_see_it: prometheus_client";
    if run("python3", ["-c", "import prometheus_client"]).is_err() {
        host::skipped(NAME, "no Python package prometheus_client");
        return Ok(());
    }
    let file = scratch.path().join("metrics.txt");
    put(&file, text.split_once("\r\n\r\n").context("no body")?.1.as_bytes())?;
    let program = "import sys; from prometheus_client.openmetrics import parser; \
        f = list(parser.text_string_to_metric_families(open(sys.argv[1]).read())); print(len(f)); assert len(f) > 15";
    let families = run("python3", ["-c".as_ref(), program.as_ref(), file.as_os_str()])?;
    say(&format!("  {families} families, as Prometheus' own parser reads them"));
    Ok(())
}

/// The page in a browser: light, dark, narrow. Pictures are kept where `BLKDELTA_SHOTS` says.
fn screenshots(test: &str, html: &str, scratch: &Scratch) -> Result<()> {
    let name = format!("{test}: screenshots");
    let browsers = ["chromium", "chromium-browser", "google-chrome"];
    let Some(browser) = browsers.into_iter().find(|b| run(b, ["--version"]).is_ok()) else {
        host::skipped(&name, "no Chromium");
        return Ok(());
    };
    let file = scratch.path().join("page.html");
    put(&file, html.as_bytes())?;
    let folder = std::env::var_os("BLKDELTA_SHOTS").map_or_else(|| scratch.path().to_owned(), PathBuf::from);
    let dark = "--blink-settings=preferredColorScheme=0";
    for (name, size, more) in [
        ("light", "1200,1000", "--blink-settings=preferredColorScheme=1"),
        ("dark", "1200,1000", dark),
        ("narrow", "500,1400", dark),
    ] {
        let shot = folder.join(format!("page-{name}.png"));
        let profile = scratch.fresh("profile");
        let mut command = Command::new(browser);
        command.args([
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--hide-scrollbars",
            "--disable-dev-shm-usage",
            more,
        ]);
        command.arg(format!("--window-size={size}")).arg(format!("--screenshot={}", shot.display()));
        command
            .arg(format!("--user-data-dir={}", profile.display()))
            .arg(format!("file://{}", file.display()));
        let ended = Ended::of(&mut command)?;
        let bytes = std::fs::metadata(&shot).map_or(0, |meta| meta.len());
        ensure!(bytes > 5000, "{name}: {bytes} bytes: {ended}");
    }
    Ok(())
}
