//! `monitor`: says at once when something detaches the tracking, and has the next cut know of it.

use super::args::Monitor;
use super::output::{Ending, print_json_line, say};
use super::show::time;
use crate::job;
use crate::tracker::{Change, ChangeKind, DeviceState, Guard, Places, find_tracked, now_ms};
use anyhow::Result;
use serde::Serialize;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

/// Looks at every tracked device, or at those named, until told to stop.
pub fn monitor(args: Monitor) -> Result<Ending> {
    let places = Places::from_env();
    // checked now: a slip in the command line is not something that broke
    for device in &args.devices {
        find_tracked(&places, device)?;
    }
    let guard = Arc::new(Mutex::new(Guard::default()));
    if args.once {
        look(&mut Guard::default(), &places, &args).map(|alarmed| match alarmed {
            true => Ending::Suspect,
            false => Ending::Fine,
        })
    } else {
        let interval = args.interval;
        let rounds = job::watch(interval, move || {
            let Ok(mut guard) = guard.lock() else { return false };
            if let Err(error) = look(&mut guard, &places, &args) {
                say(&super::output::explain(&error));
            }
            true
        })?;
        say(&format!("stopped after {rounds} looks"));
        Ok(Ending::Fine)
    }
}

/// One look; true if something is wrong.
fn look(guard: &mut Guard, places: &Places, args: &Monitor) -> Result<bool> {
    for change in guard.round(places, &states(places, &args.devices)?)? {
        if args.json {
            print_json_line(&Line::of(&change))?;
        } else {
            say(&words(&change));
        }
    }
    Ok(guard.alarmed())
}

/// The states of these devices, or of all.
fn states(places: &Places, devices: &[PathBuf]) -> Result<Vec<DeviceState>> {
    let mut states = DeviceState::all(places)?;
    if !devices.is_empty() {
        states.retain(|s| devices.contains(&s.path) || devices.iter().any(|d| is(d, s)));
    }
    Ok(states)
}

fn is(path: &Path, state: &DeviceState) -> bool {
    crate::sys::device::BlockDevice::open(path).is_ok_and(|d| d.dev == state.identity.dev)
}

fn words(change: &Change) -> String {
    let device = change.device.display();
    match &change.kind {
        ChangeKind::Watched => format!("{device}: watched"),
        ChangeKind::Wrong(why) => format!("{device}: SUSPECT: {why}; the next backup compares everything"),
        ChangeKind::Gone(why) => {
            format!("{device}: no longer: {why}; the next backup compares everything all the same")
        }
        ChangeKind::Untracked => format!("{device}: tracked no more"),
    }
}

/// A line of `--json`.
#[derive(Serialize)]
struct Line<'a> {
    time: String,
    time_unix_ms: u64,
    device: &'a Path,
    event: &'static str,
    reason: Option<&'a str>,
}

impl<'a> Line<'a> {
    fn of(change: &'a Change) -> Self {
        let (event, reason) = match &change.kind {
            ChangeKind::Watched => ("watched", None),
            ChangeKind::Wrong(why) => ("wrong", Some(why.as_str())),
            ChangeKind::Gone(why) => ("gone", Some(why.as_str())),
            ChangeKind::Untracked => ("untracked", None),
        };
        let now = now_ms();
        Self { time: time(now), time_unix_ms: now, device: &change.device, event, reason }
    }
}

/// A monitor of one device beside `watch`, until dropped.
pub struct Beside {
    stop: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Beside {
    /// How often it looks.
    const INTERVAL: Duration = Duration::from_secs(5);

    /// Starts it.
    ///
    /// # Errors
    /// If no thread can be had.
    pub fn start(device: PathBuf) -> std::io::Result<Self> {
        let (stop, told) = channel();
        let thread = std::thread::Builder::new().name("monitor".into()).spawn(move || {
            let (places, mut guard) = (Places::from_env(), Guard::default());
            let devices = [device];
            loop {
                let states = states(&places, &devices);
                match states.and_then(|states| Ok(guard.round(&places, &states)?)) {
                    Ok(changes) => {
                        changes.iter().filter(|c| c.kind != ChangeKind::Watched).for_each(|c| say(&words(c)));
                    }
                    Err(error) => say(&super::output::explain(&error)),
                }
                if told.recv_timeout(Self::INTERVAL) != Err(RecvTimeoutError::Timeout) {
                    return;
                }
            }
        })?;
        Ok(Self { stop: Some(stop), thread: Some(thread) })
    }
}

impl Drop for Beside {
    fn drop(&mut self) {
        self.stop = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
