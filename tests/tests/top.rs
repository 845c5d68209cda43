//! Promise: `top` shows on a real terminal where writes fall, and gives the terminal back as it was, whatever ends it.

use anyhow::{Context, Result, ensure};
use collector::tracker::{DeviceState, Live, Places};
use rustix::process::{Pid, Signal, kill_process};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use tests::device::{Loop, O_DIRECT, open_with};
use tests::host;
use tests::image::Aligned;
use tests::product::{Ended, Home};
use tests::random::Random;
use tests::scratch::Scratch;
use tests::skip_if;
use tests::terminal::Terminal;

const SIZE: u64 = 64 << 20;

/// What a program that makes sessions is missing, if so.
fn no_setsid() -> Option<String> {
    host::run("setsid", ["--version"]).err().map(|e| format!("no setsid: {e:#}"))
}

fn top(home: &Home, words: &[&str]) -> Result<Terminal> {
    let words = ["top", "--interval", "200ms"].iter().chain(words);
    Terminal::with(&home.command(words)?)
}

/// Writes to a place again and again while `work` is done; `at` may be moved meanwhile.
fn under_writes<T>(device: &Path, at: &AtomicU64, work: impl FnOnce() -> Result<T>) -> Result<T> {
    let (file, stop) = (open_with(device, O_DIRECT)?, AtomicBool::new(false));
    let block = Aligned::random(1 << 20, &mut Random::for_test("top"));
    std::thread::scope(|scope| {
        let writer = scope.spawn(|| -> Result<()> {
            while !stop.load(Ordering::Relaxed) {
                file.write_all_at(&block, at.load(Ordering::Relaxed)).context("write")?;
                std::thread::sleep(std::time::Duration::from_millis(20));
            }
            Ok(())
        });
        let done = work();
        stop.store(true, Ordering::Relaxed);
        writer.join().expect("the writer")?;
        done
    })
}

/// The columns of the map in the line with this mark.
fn map<'a>(lines: &'a [String], mark: &str) -> Option<&'a str> {
    lines.iter().find(|line| line.contains(mark))?.split('|').nth(1)
}

/// The newest line of the map has something here, a part of the device, and nowhere else.
fn hot_at(lines: &[String], part: f64) -> bool {
    let Some(map) = map(lines, ">|") else { return false };
    let hot: Vec<usize> = map.char_indices().filter(|(_, c)| *c != ' ').map(|(n, _)| n).collect();
    let wanted = part * map.len() as f64;
    !hot.is_empty() && hot.iter().all(|n| (*n as f64 - wanted).abs() <= 3.0)
}

#[test]
fn the_map_moves_with_the_writes_and_the_terminal_is_given_back() -> Result<()> {
    const NAME: &str = "top::the_map_moves_with_the_writes_and_the_terminal_is_given_back";
    skip_if!(host::no_tracking().or_else(no_setsid), NAME);
    let scratch = Scratch::new("top")?;
    let home = Home::new(&scratch)?;
    let device = Loop::new(&scratch, "disk", SIZE)?;
    let name = device.path().display().to_string();
    home.ok(["track", &name])?;
    let mut terminal = top(&home, &[&name])?;
    terminal.wait("the device", |lines| lines.iter().any(|l| l.contains(&name)))?;
    let at = AtomicU64::new(SIZE / 4 * 3);
    under_writes(device.path(), &at, || {
        terminal.wait("the writes at three quarters", |lines| hot_at(lines, 0.75))?;
        at.store(SIZE / 4, Ordering::Relaxed);
        terminal.wait("the writes at one quarter", |lines| hot_at(lines, 0.25))?;
        terminal.wait("a proof", |lines| lines.iter().any(|l| l.starts_with("health: proven")))?;
        terminal.wait("the cost", |lines| lines.iter().any(|l| l.contains("ns an event")))?;
        terminal
            .wait("events", |lines| lines.iter().any(|l| l.contains("events: every write, none lost")))?;
        let list = |lines: &[String]| map(lines, "list ").map(|l| l.trim().matches(' ').count() > 10);
        terminal.wait("both on the list", |lines| list(lines) == Some(true))?;
        terminal.press("p")?;
        terminal.wait("the pause", |lines| lines[0].contains("PAUSED"))?;
        terminal.press("p")?;
        terminal.wait("the end of the pause", |lines| !lines[0].contains("PAUSED"))?;
        // in a small window the map goes on
        terminal.resize(40, 10)?;
        terminal.wait("the small window", |lines| lines.len() == 10 && hot_at(lines, 0.25))
    })?;
    second_reader(&home, &device)?;
    terminal.press("q")?;
    let status = terminal.ended()?;
    ensure!(status.code() == Some(0), "{status}");
    // the ring buffer is free again, and nobody pays for events any more
    let places = Places::under(home.path());
    Live::start(&places, &DeviceState::all(&places)?)?;
    home.ok(["untrack", &name]).map(drop)
}

/// Beside the terminal that has the ring buffer: one frame as text, which says so.
fn second_reader(home: &Home, device: &Loop) -> Result<()> {
    let at = AtomicU64::new(SIZE / 2);
    let frame = under_writes(device.path(), &at, || {
        Ended::of(&mut home.command(["top", "--once", "--interval", "500ms", "--columns", "100"])?)
    })?;
    ensure!(frame.code == Some(0) && frame.out.is_ascii(), "{frame}");
    ensure!(frame.err.contains("another blkdelta is at work"), "{frame}");
    let lines: Vec<String> = frame.out.lines().map(ToOwned::to_owned).collect();
    let list = map(&lines, "list ").context("no map")?;
    ensure!(list.as_bytes()[list.len() / 2 + 1] != b' ', "the list has no middle: {frame}");
    Ok(())
}

#[test]
fn every_way_out_gives_the_terminal_back() -> Result<()> {
    const NAME: &str = "top::every_way_out_gives_the_terminal_back";
    skip_if!(no_setsid(), NAME);
    let scratch = Scratch::new("top-ends")?;
    let ways: [(&str, Option<Signal>, &str, i32); 8] = [
        ("q", None, "", 0),
        ("\u{1b}", None, "", 0),
        ("\u{3}", None, "", 0),
        ("", Some(Signal::TERM), "", 0),
        ("", Some(Signal::INT), "", 0),
        ("", Some(Signal::HUP), "", 0),
        ("", None, "top.draw=error@3", 1),
        ("", None, "top.panic=error@3", 101),
    ];
    for (keys, signal, failpoint, code) in ways {
        let mut home = Home::new(&scratch)?;
        home.set("BLKDELTA_FAILPOINT", failpoint);
        // a backtrace would push what stood there before off the screen
        home.set("RUST_BACKTRACE", "0");
        let mut terminal = top(&home, &[])?;
        if failpoint.is_empty() {
            terminal.wait("the first frame", |lines| lines[1].starts_with("nothing is tracked"))?;
        } else {
            // it draws when a key wants it
            terminal.wait("the first frame or the end", |lines| {
                lines
                    .iter()
                    .any(|l| l.contains("tracked") || l.contains("failpoint") || l.contains("purpose"))
            })?;
        }
        terminal.press(keys)?;
        if let Some(signal) = signal {
            let process = Pid::from_raw(terminal.process().try_into()?).context("process")?;
            kill_process(process, signal)?;
        }
        let status = terminal.ended().with_context(|| format!("{keys:?} {signal:?} {failpoint}"))?;
        ensure!(status.code() == Some(code), "{keys:?} {signal:?} {failpoint}: {status}");
        let said = terminal.lines().join("\n");
        ensure!(failpoint.is_empty() || said.contains("failpoint") || said.contains("on purpose"), "{said}");
    }
    Ok(())
}

/// Nobody can give a terminal back after SIGKILL: what judges the other ways out must see that.
#[test]
fn a_terminal_that_is_not_given_back_is_noticed() -> Result<()> {
    const NAME: &str = "top::a_terminal_that_is_not_given_back_is_noticed";
    skip_if!(no_setsid(), NAME);
    let scratch = Scratch::new("top-killed")?;
    let mut terminal = top(&Home::new(&scratch)?, &[])?;
    terminal.wait("the first frame", |lines| lines[1].starts_with("nothing is tracked"))?;
    kill_process(Pid::from_raw(terminal.process().try_into()?).context("process")?, Signal::KILL)?;
    let why = terminal.ended().err().context("a terminal in raw mode counts as given back")?;
    ensure!(why.to_string().contains("modes"), "{why:#}");
    Ok(())
}

#[test]
fn without_a_terminal_it_says_what_to_use() -> Result<()> {
    let scratch = Scratch::new("top-pipe")?;
    let home = Home::new(&scratch)?;
    let ended = home.run(["top"])?.expect(2, "top in a pipe")?;
    ensure!(ended.out.is_empty() && ended.err.contains("status --json"), "{ended}");
    let frame = home.run(["top", "--once", "--interval", "100ms"])?.expect(0, "one frame")?;
    ensure!(frame.out.contains("nothing is tracked"), "{frame}");
    let missing = home.run(["top", "/dev/null", "--once"])?;
    ensure!(missing.code != Some(0), "{missing}");
    Ok(())
}
