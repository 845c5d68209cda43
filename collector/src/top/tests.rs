//! What is drawn, in cells: of made-up looks, at several sizes.

use super::draw::{draw, text};
use super::keys::{Deed, press};
use super::model::{Cost, Model};
use super::snapshot::{Backup, Cuts, Glimpse, Runs, Snapshot, Writes, grain};
use crate::block::{Extent, ExtentSet};
use crate::diff::Health;
use crossterm::event::{KeyCode, KeyEvent, KeyModifiers};
use ratatui::Terminal;
use ratatui::backend::TestBackend;
use ratatui::buffer::Buffer;
use ratatui::style::Color;
use std::time::Duration;

const GIB: u64 = 1 << 30;
const SECOND: Duration = Duration::from_secs(1);
const SIZES: [(u16, u16); 4] = [(80, 24), (40, 10), (200, 60), (20, 4)];

fn cells(model: &Model, (width, height): (u16, u16)) -> Buffer {
    let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
    terminal.draw(|frame| draw(model, frame.area(), frame.buffer_mut())).unwrap();
    terminal.backend().buffer().clone()
}

fn lines(model: &Model, size: (u16, u16)) -> Vec<String> {
    let buffer = cells(model, size);
    let line = |y| (0..size.0).map(|x| buffer[(x, y)].symbol().to_owned()).collect::<String>();
    (0..size.1).map(line).collect()
}

fn glimpse(n: u64, list: &[(u64, u64)]) -> Glimpse {
    let list: ExtentSet = list.iter().map(|(at, length)| Extent::new(*at, *length)).collect();
    Glimpse {
        path: format!("/dev/disk{n}"),
        session: n.to_string(),
        size: GIB,
        area: 4096,
        list,
        health: Health::Proven,
        cuts: Cuts { epoch: 3, ..Cuts::default() },
        seen: Some(Writes::default()),
        ..Glimpse::default()
    }
}

fn snapshot(devices: Vec<Glimpse>) -> Snapshot {
    Snapshot { now_ms: 1_795_380_307_000, devices, ..Snapshot::default() }
}

/// A model that has looked once.
fn model(devices: Vec<Glimpse>) -> Model {
    let mut model = Model::new(SECOND);
    model.take(snapshot(devices), Duration::ZERO);
    model
}

/// Writes of so many bytes at a place.
fn writes(at: u64, bytes: u64) -> Option<Writes> {
    let grains = (at / grain(GIB)..(at + bytes).div_ceil(grain(GIB))).map(|n| (n, grain(GIB)));
    Some(Writes { count: bytes / 4096, bytes, grains: grains.collect() })
}

fn key(code: KeyCode) -> KeyEvent {
    KeyEvent::new(code, KeyModifiers::NONE)
}

/// The line of the map with this mark, without its frame: columns only.
fn map_line(lines: &[String], mark: &str) -> String {
    let line = lines.iter().find(|line| line.contains(mark)).unwrap_or_else(|| panic!("{mark}: {lines:#?}"));
    line.split('|').nth(1).unwrap().to_owned()
}

#[test]
fn with_nothing_tracked_it_says_what_to_do() {
    for size in SIZES {
        let shown = lines(&model(Vec::new()), size);
        assert!(shown[0].contains("blkdelta top"), "{shown:?}");
        assert!(shown[1].starts_with("nothing is tracked"), "{shown:?}");
        assert!(shown.last().unwrap().contains("q quit"), "{shown:?}");
    }
    assert!(text(&mut model(Vec::new()), 80).contains("nothing is tracked"));
}

#[test]
fn the_map_shows_where_writes_fall_and_moves_with_them() {
    let mut model = model(vec![glimpse(1, &[(0, GIB / 4)])]);
    let shown = lines(&model, (80, 24));
    let list = map_line(&shown, "list ");
    let quarter = list.len() / 4;
    assert!(list[..quarter].chars().all(|c| c == '@'), "{list}");
    assert!(list[quarter + 1..].trim().is_empty(), "{list}");
    for (n, at) in [GIB / 2, GIB / 4 * 3].into_iter().enumerate() {
        let now = Glimpse { seen: writes(at, 64 << 20), ..glimpse(1, &[(0, GIB / 4), (at, 64 << 20)]) };
        model.take(snapshot(vec![now]), SECOND);
        let shown = lines(&model, (80, 24));
        let newest = map_line(&shown, ">|");
        let hot = newest.find(|c| c != ' ').expect("something is shown");
        let wanted = newest.len() * (n + 2) / 4;
        assert!(hot.abs_diff(wanted) <= 1, "{at}: column {hot}, not {wanted}: {newest}");
        assert!(shown.iter().any(|l| l.contains("64.0 MiB/s") && l.contains("16384/s")), "{shown:#?}");
    }
}

#[test]
fn one_line_changes_at_a_look() {
    let mut model = model(vec![glimpse(1, &[])]);
    for n in 0..40 {
        model.take(snapshot(vec![Glimpse { seen: writes(n << 20, 1 << 20), ..glimpse(1, &[]) }]), SECOND);
        let before = lines(&model, (80, 24));
        model.take(snapshot(vec![Glimpse { seen: writes(n << 20, 1 << 20), ..glimpse(1, &[]) }]), SECOND);
        let after = lines(&model, (80, 24));
        let changed = before.iter().zip(&after).filter(|(a, b)| a != b).count();
        // its own line, the mark of the one before, and the words about the place where most changes
        assert!(changed <= 3, "{changed} lines: {before:#?} {after:#?}");
    }
}

#[test]
fn without_events_places_come_from_what_the_list_gained() {
    let blind = |list| Glimpse { seen: None, writes: 10, bytes: 40_960, part: true, ..glimpse(1, list) };
    let mut model = model(vec![blind(&[])]);
    let mut after = snapshot(vec![Glimpse { writes: 30, bytes: 122_880, ..blind(&[(GIB / 2, 1 << 20)]) }]);
    after.no_events = Some("another blkdelta is at work on it".into());
    model.take(after, SECOND);
    let shown = lines(&model, (100, 30));
    let newest = map_line(&shown, ">|");
    assert_eq!(newest.find(|c| c != ' ').unwrap(), newest.len() / 2, "{newest}");
    let all = shown.join("\n");
    for wanted in ["20 writes/s", "80.0 KiB/s (of its whole disk)", "events: none (another blkdelta"] {
        assert!(all.contains(wanted), "{wanted}: {all}");
    }
    assert_eq!(model.notes().len(), 1);
}

#[test]
fn what_is_suspect_or_lost_is_said_in_words_at_every_size() {
    let reason = "programs were skipped and nobody can tell whether all was seen";
    let bad = Glimpse { health: Health::Suspect, suspect: vec![reason.into()], ..glimpse(1, &[]) };
    let mut model = model(vec![bad.clone()]);
    model.take(Snapshot { lost: 1234, ..snapshot(vec![bad]) }, SECOND);
    assert!(model.is_suspect());
    for size in &SIZES[..3] {
        let shown = lines(&model, *size);
        assert!(shown.iter().any(|l| l.contains("SUSPECT")), "{size:?}: {shown:#?}");
    }
    let shown = lines(&model, (80, 24)).join("\n");
    assert!(shown.contains("1234 LOST") && shown.contains(reason), "{shown}");
    let text = text(&mut model, 80);
    assert!(text.contains("1234 LOST") && text.contains(reason), "{text}");
    assert!(model.notes()[0].contains("1234"));
}

#[test]
fn many_devices_are_walked_and_the_chosen_one_is_in_sight() {
    let mut model = model((0..50).map(|n| glimpse(n, &[])).collect());
    for size in &SIZES[..3] {
        for n in 0..50 {
            model.selected = n;
            let shown = lines(&model, *size);
            let marked: Vec<&String> = shown.iter().filter(|l| l.starts_with('>')).collect();
            assert!(marked.len() == 1 && marked[0].contains(&format!("disk{n} ")), "{n}: {shown:#?}");
        }
    }
    model.selected = 49;
    press(&mut model, key(KeyCode::Tab));
    assert_eq!(model.selected, 0);
    press(&mut model, key(KeyCode::BackTab));
    assert_eq!(model.selected, 49);
    // the chosen one stays chosen when others go
    model.take(snapshot((30..50).map(|n| glimpse(n, &[])).collect()), SECOND);
    assert_eq!(model.current().unwrap().now.path, "/dev/disk49");
    assert_eq!(text(&mut model, 80).matches("one column is").count(), 20);
}

#[test]
fn nothing_is_told_by_colour_alone() {
    let now = Glimpse { health: Health::Suspect, suspect: vec!["x".into()], ..glimpse(1, &[(0, 64 << 20)]) };
    let mut model = model(vec![now]);
    let coloured = lines(&model, (80, 24));
    let colours = |model: &Model| {
        let buffer = cells(model, (80, 24));
        buffer.content().iter().filter(|cell| cell.fg != Color::Reset).count()
    };
    assert!(colours(&model) > 0);
    model.plain = true;
    assert_eq!((lines(&model, (80, 24)), colours(&model)), (coloured, 0));
    press(&mut model, key(KeyCode::Char('n')));
    assert!(map_line(&lines(&model, (80, 24)), "list ").contains('9'));
    assert!(text(&mut model, 120).is_ascii());
}

#[test]
fn keys_zoom_pace_pause_and_end() {
    let mut model = model(vec![glimpse(1, &[(GIB / 8 * 7, 4096)])]);
    assert_eq!(press(&mut model, key(KeyCode::Char('x'))), Deed::Draw);
    press(&mut model, key(KeyCode::Char('+')));
    assert_eq!(model.current().unwrap().window, Extent::new(GIB / 8 * 3, GIB / 4));
    press(&mut model, key(KeyCode::Char('m')));
    let window = model.current().unwrap().window;
    assert!(window.intersect(&Extent::new(GIB / 8 * 7, 4096)).is_some() && window.length == GIB / 4);
    for _ in 0..20 {
        press(&mut model, key(KeyCode::Char('+')));
    }
    for _ in 0..10_000 {
        press(&mut model, key(KeyCode::Right));
    }
    assert_eq!(model.current().unwrap().window, Extent::new(GIB - 64 * 4096, 64 * 4096), "it stays inside");
    assert!(lines(&model, (80, 24)).iter().any(|l| l.contains("MiB to 1.0 GiB")));
    press(&mut model, key(KeyCode::Char('0')));
    for _ in 0..40 {
        press(&mut model, key(KeyCode::Char('-')));
    }
    assert_eq!(model.current().unwrap().window, Extent::new(0, GIB));
    for _ in 0..40 {
        press(&mut model, key(KeyCode::Char('f')));
    }
    assert_eq!(model.interval, Duration::from_millis(100));
    press(&mut model, key(KeyCode::Char('s')));
    assert_eq!(model.interval, Duration::from_millis(200));
    press(&mut model, key(KeyCode::Char(' ')));
    assert!(model.paused && lines(&model, (80, 24))[0].contains("PAUSED"));
    press(&mut model, key(KeyCode::Char('?')));
    assert!(lines(&model, (80, 24)).iter().any(|l| l.contains("zoom in on a quarter")));
    assert_eq!(press(&mut model, key(KeyCode::Esc)), Deed::Draw, "the first one leaves the help");
    assert_eq!(press(&mut model, key(KeyCode::Esc)), Deed::Quit);
    assert_eq!(press(&mut model, key(KeyCode::Char('q'))), Deed::Quit);
    let control = |c| KeyEvent::new(KeyCode::Char(c), KeyModifiers::CONTROL);
    assert_eq!(press(&mut model, control('c')), Deed::Quit);
    assert_eq!(press(&mut model, control('l')), Deed::Redraw);
}

#[test]
fn what_tracking_costs_is_figured_or_called_unknown() {
    let runs = |count, nanoseconds| {
        vec![
            Runs { name: "rq_issue".into(), count, nanoseconds, skipped: 0 },
            Runs { name: "rq_complete".into(), count, nanoseconds: nanoseconds * 2, skipped: 0 },
        ]
    };
    let at = |count, nanoseconds| Snapshot {
        programs: runs(count, nanoseconds),
        ..snapshot(vec![glimpse(1, &[])])
    };
    let mut model = Model::new(SECOND);
    model.take(at(100, 10_000), Duration::ZERO);
    assert_eq!(model.cost, Cost::NotYet);
    model.take(at(100, 10_000), SECOND);
    assert_eq!(model.cost, Cost::Idle);
    model.take(at(1100, 110_000), Duration::from_secs(2));
    let dearest = ("rq_complete".into(), 200.0);
    assert_eq!(model.cost, Cost::Known { each: 150.0, dearest, runs: 1000.0, share: 0.000_15 });
    let shown = lines(&model, (100, 30)).join("\n");
    assert!(
        shown.contains("150 ns an event, 1000 events/s, 0.015 % of a core; dearest rq_complete 200 ns"),
        "{shown}"
    );
    model.take(Snapshot { uncounted: Some("no right".into()), ..at(2000, 1) }, SECOND);
    assert!(lines(&model, (100, 30)).join("\n").contains("cost: unknown: no right"));
}

#[test]
fn cuts_and_backups_are_told_newest_first() {
    let cuts = Cuts {
        epoch: 9,
        began_ms: Some(1_795_380_300_000),
        sealed: vec![(7, 0), (8, 2)],
        ahead: true,
        holder: Some(4711),
    };
    let backup = |result: &str, why: Option<&str>| Backup {
        at_ms: 1_795_380_200_000,
        took_ms: Some(1500),
        result: result.into(),
        kind: "incremental".into(),
        stored: Some(1 << 20),
        what: "job system".into(),
        why: why.map(ToOwned::to_owned),
    };
    let backups = vec![backup("ok", None), backup("failed", Some("no space"))];
    let shown = lines(&model(vec![Glimpse { cuts, backups, ..glimpse(1, &[]) }]), (200, 60)).join("\n");
    for wanted in [
        "epoch 9 runs since 2026-11-22 20:45:00; waiting for their point: 7, 8 (1 SUSPECT)",
        "process 4711 is at work on it",
        "job system incremental, ok, 1.0 MiB stored, 1.5 s",
        "failed, 1.0 MiB stored, 1.5 s, no space",
        " 2* ",
    ] {
        assert!(shown.contains(wanted), "{wanted}: {shown}");
    }
}

#[test]
fn no_name_moves_the_cursor() {
    let now = Glimpse { path: "/dev/\u{1b}[2Jx\ny".into(), ..glimpse(1, &[]) };
    let mut model = model(vec![now]);
    assert!(lines(&model, (80, 24)).iter().all(|l| !l.contains(char::is_control)));
    let text = text(&mut model, 80);
    assert!(!text.contains('\u{1b}') && !text.contains("\ny"), "{text:?}");
}
