//! The tracked devices as metrics and page show them.
//!
//! Looking costs time that grows with the device (its bitmap is read), so one look serves everybody for some seconds.

use crate::diff;
use crate::tracker::{DeviceState, Places};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// A look is good for so long.
const GOOD: Duration = Duration::from_secs(5);

/// One device.
#[derive(Clone, Debug, Default)]
pub struct Seen {
    /// Its path.
    pub path: String,
    /// Bytes.
    pub size: u64,
    /// Bytes on the difference list.
    pub changed: u64,
    /// Unix milliseconds: tracked since.
    pub since: u64,
    /// Unix milliseconds: the list holds what changed since.
    pub list_since: u64,
    /// Why it is suspect.
    pub suspect: Vec<String>,
    /// Bitmaps that wait for a point.
    pub sealed: u64,
    /// Bytes of bitmaps in the kernel.
    pub memory: u64,
    /// The last point.
    pub base: Option<String>,
}

/// A program in the kernel, which serves all devices.
#[derive(Clone, Debug, Default)]
pub struct Program {
    /// Its name.
    pub name: String,
    /// Runs, while the kernel counts them.
    pub runs: u64,
    /// Time in it.
    pub nanoseconds: u64,
    /// Events that it could not see.
    pub skipped: u64,
}

/// Everything seen.
#[derive(Clone, Debug, Default)]
pub struct Scene {
    /// By path.
    pub devices: Vec<Seen>,
    /// By name.
    pub programs: Vec<Program>,
}

/// Looks, not too often.
#[derive(Debug, Default)]
pub struct Lookout(Mutex<Option<(Instant, Arc<Scene>)>>);

impl Lookout {
    /// What is there now, or was a moment ago.
    pub fn look(&self) -> Arc<Scene> {
        let mut last = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((at, scene)) = &*last
            && at.elapsed() < GOOD
        {
            return Arc::clone(scene);
        }
        let scene = Arc::new(Scene::now());
        *last = Some((Instant::now(), Arc::clone(&scene)));
        scene
    }
}

impl Scene {
    fn now() -> Self {
        let places = Places::from_env();
        let mut programs = BTreeMap::new();
        let states = DeviceState::all(&places).unwrap_or_default();
        let mut devices: Vec<Seen> =
            states.into_iter().map(|state| seen(&places, state, &mut programs)).collect();
        devices.sort_by(|a, b| a.path.cmp(&b.path));
        Self { devices, programs: programs.into_values().collect() }
    }
}

fn seen(places: &Places, state: DeviceState, programs: &mut BTreeMap<String, Program>) -> Seen {
    let known = Seen {
        path: state.path.display().to_string(),
        size: state.identity.size,
        changed: state.identity.size,
        since: state.since_ms,
        list_since: state.difference_since_ms,
        suspect: Vec::new(),
        sealed: state.sealed.len() as u64,
        memory: state.memory(),
        base: state.base.as_ref().map(|base| base.point.clone()),
    };
    match diff::look(places, &state.path) {
        Ok(look) => {
            for p in look.reading.programs {
                let (name, runs, nanoseconds, skipped) = (p.program, p.runs, p.nanoseconds, p.skipped);
                programs.insert(name.clone(), Program { name, runs, nanoseconds, skipped });
            }
            let (changed, suspect) = (look.difference.extents.total(), look.difference.suspect);
            Seen { changed, suspect, list_since: look.difference.since_ms, ..known }
        }
        Err(error) => Seen { suspect: vec![error.in_full()], ..known },
    }
}
