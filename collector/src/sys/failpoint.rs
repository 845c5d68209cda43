//! Named points at which a test makes the process die or an operation fail.
//!
//! `BLKDELTA_FAILPOINT="name[=kill|error|stop][@N]"`: at the N-th hit (default 1) of `name`, SIGKILL the process
//! (`kill`, the default), return an error once (`error`) or SIGSTOP it until somebody lets it go on (`stop`). Several are
//! separated by commas. Compiled in only with the cargo feature `failpoints`; without it the call is empty and inlined.
//!
//! A test can also stand at the gate: `gated` calls it at every point that this thread reaches, so that it can hold
//! the thread there until another one has made its step.

use crate::error::Result;

/// Dies or fails here if a test asked for it.
///
/// # Errors
/// Only with the feature `failpoints` and a matching `BLKDELTA_FAILPOINT`.
#[cfg(not(feature = "failpoints"))]
#[inline(always)]
pub const fn failpoint(_name: &'static str) -> Result<()> {
    Ok(())
}

/// Dies or fails here if a test asked for it.
///
/// # Errors
/// Only with a matching `BLKDELTA_FAILPOINT`.
#[cfg(feature = "failpoints")]
pub fn failpoint(name: &'static str) -> Result<()> {
    armed::hit(name)
}

#[cfg(feature = "failpoints")]
pub use armed::gated;

#[cfg(feature = "failpoints")]
mod armed {
    use crate::error::{Error, Kind, Result};
    use rustix::process::Signal;
    use std::cell::RefCell;
    use std::sync::OnceLock;
    use std::sync::atomic::{AtomicU64, Ordering};

    struct Point {
        name: String,
        action: Action,
        at: u64,
        hits: AtomicU64,
    }

    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    enum Action {
        Kill,
        Error,
        Stop,
    }

    type Gate = Box<dyn FnMut(&'static str)>;

    thread_local! {
        static GATE: RefCell<Option<Gate>> = const { RefCell::new(None) };
    }

    /// Does `work` with `gate` called at every point on its way. Points of threads that it starts are not gated.
    pub fn gated<T>(gate: impl FnMut(&'static str) + 'static, work: impl FnOnce() -> T) -> T {
        GATE.set(Some(Box::new(gate)));
        let done = work();
        GATE.set(None);
        done
    }

    pub(super) fn hit(name: &'static str) -> Result<()> {
        // taken out meanwhile: the gate may wait long
        if let Some(mut gate) = GATE.take() {
            gate(name);
            GATE.set(Some(gate));
        }
        static POINTS: OnceLock<Vec<Point>> = OnceLock::new();
        let points = POINTS.get_or_init(|| {
            let text = std::env::var("BLKDELTA_FAILPOINT").unwrap_or_default();
            text.split(',').filter(|s| !s.is_empty()).map(parse).collect()
        });
        for point in points.iter().filter(|p| p.name == name) {
            if point.hits.fetch_add(1, Ordering::SeqCst) + 1 != point.at {
                continue;
            }
            let signal = match point.action {
                Action::Kill => Some(Signal::KILL),
                Action::Stop => Some(Signal::STOP),
                Action::Error => None,
            };
            if let Some(signal) = signal {
                eprintln!("failpoint {name}: {:?}", point.action);
                let _ = rustix::process::kill_process(rustix::process::getpid(), signal);
            }
            if point.action == Action::Stop {
                continue;
            }
            return Err(Error::new(Kind::Io, format!("failpoint {name}")));
        }
        Ok(())
    }

    fn parse(text: &str) -> Point {
        let (rest, at) = text.split_once('@').unwrap_or((text, "1"));
        let (name, action) = rest.split_once('=').unwrap_or((rest, "kill"));
        let at = at.parse().ok().filter(|&n| n > 0);
        let known = [("kill", Action::Kill), ("error", Action::Error), ("stop", Action::Stop)];
        let action = known.iter().find(|(word, _)| *word == action).map(|(_, action)| *action);
        let (Some(at), Some(action)) = (at, action) else {
            panic!("BLKDELTA_FAILPOINT: {text:?} is not name[=kill|error|stop][@N]");
        };
        Point { name: name.into(), action, at, hits: AtomicU64::new(0) }
    }

    #[cfg(test)]
    mod tests {
        use super::*;

        #[test]
        fn names_carry_action_and_count() {
            let of = |text| (parse(text).name, parse(text).action, parse(text).at);
            assert_eq!(of("a.b"), ("a.b".into(), Action::Kill, 1));
            assert_eq!(of("a=error@3"), ("a".into(), Action::Error, 3));
            assert!(std::panic::catch_unwind(|| parse("a=explode")).is_err());
            assert!(std::panic::catch_unwind(|| parse("a@0")).is_err());
        }
    }
}
