//! Backups that yield: while applications wait too long for their I/O, the copying slows down.
//!
//! ```text
//!   every 200 ms: pressure of others = system's io "some" - our own cgroup's      over a budget: half the share
//!                 latency of writes = Δ(ms writing) / Δ(writes) of the disk       else: a quarter more, up to all
//!   after each piece: rest for as long as the share says (share 1/4: rest three times as long as was worked)
//! ```
//! We do not write to the disk that is backed up, so the latency of its writes is the applications' alone. The system's
//! pressure counts our own waiting too: in a service's cgroup that is subtracted, else it counts as theirs, and the
//! backup is slower than it would have to be.
//!
//! What must stay true: a backup always gets on, with a twentieth of its speed at worst; nothing is held back while file
//! systems are frozen (passes in a freeze do not call [`Watch::advance`]); a stop is heeded at once.

use crate::copy::Watch;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// What applications may suffer.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Budget {
    /// Part of the time in which tasks wait for I/O.
    pub pressure: Option<f64>,
    /// Mean time of a write.
    pub latency: Option<Duration>,
}

/// Time between two looks.
const LOOK: Duration = Duration::from_millis(200);
/// The smallest share of its speed that a backup keeps.
const LEAST: f64 = 0.05;
/// The longest rest at once.
const REST: Duration = Duration::from_secs(2);

/// A watcher that holds back whoever reports to it.
pub struct Yielding<'a, W> {
    inner: &'a W,
    eyes: Eyes,
    budget: Budget,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    share: f64,
    looked: Instant,
    seen: Seen,
    /// End of the last rest.
    woke: Instant,
    yielded: Duration,
}

impl<'a, W: Watch> Yielding<'a, W> {
    /// Over the disk with this kernel number.
    pub fn new(inner: &'a W, disk: u32, budget: Budget) -> Self {
        let eyes = Eyes::of(disk);
        let now = Instant::now();
        let seen = eyes.look();
        let state = State { share: 1.0, looked: now, seen, woke: now, yielded: Duration::ZERO };
        Self { inner, eyes, budget, state: Mutex::new(state) }
    }

    /// Who is told besides.
    pub const fn inner(&self) -> &W {
        self.inner
    }

    /// How long it has held back so far.
    pub fn yielded(&self) -> Duration {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).yielded
    }

    /// How long to rest now.
    fn rest(&self) -> Duration {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        let elapsed = now - state.looked;
        if elapsed >= LOOK {
            let seen = self.eyes.look();
            let over = seen.over(&state.seen, elapsed, self.budget);
            state.share = next_share(state.share, over);
            (state.looked, state.seen) = (now, seen);
        }
        let worked = now - state.woke;
        worked.mul_f64(1.0 / state.share - 1.0).min(REST)
    }
}

/// Half of it while somebody suffers, then slowly more.
fn next_share(share: f64, over: bool) -> f64 {
    if over { (share / 2.0).max(LEAST) } else { (share * 1.25).min(1.0) }
}

impl<W: Watch> Watch for Yielding<'_, W> {
    fn advance(&self, bytes: u64) {
        self.inner.advance(bytes);
        if self.budget == Budget::default() {
            return;
        }
        let (rest, began) = (self.rest(), Instant::now());
        while began.elapsed() < rest && !self.stopped() {
            std::thread::sleep((rest - began.elapsed().min(rest)).min(Duration::from_millis(50)));
        }
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.woke = Instant::now();
        if !rest.is_zero() {
            state.yielded += began.elapsed();
        }
    }

    fn stopped(&self) -> bool {
        self.inner.stopped()
    }

    fn held_back(&self) -> Duration {
        self.yielded()
    }
}

/// Where to look.
#[derive(Debug)]
struct Eyes {
    stat: PathBuf,
    own: Option<PathBuf>,
}

/// Counters at one moment; `None`: the kernel does not tell.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Seen {
    /// Microseconds in which some task waited, the system's and our cgroup's.
    waited: Option<u64>,
    own: u64,
    writes: u64,
    /// Milliseconds of all writes together.
    writing: u64,
}

impl Eyes {
    fn of(disk: u32) -> Self {
        let (major, minor) = (disk >> 20, disk & 0xf_ffff);
        let groups = std::fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
        // the root's pressure is the system's
        let group = groups.lines().find_map(|line| line.strip_prefix("0::/")).filter(|path| !path.is_empty());
        Self {
            stat: format!("/sys/dev/block/{major}:{minor}/stat").into(),
            own: group.map(|path| format!("/sys/fs/cgroup/{path}/io.pressure").into()),
        }
    }

    fn look(&self) -> Seen {
        let read = |path: &PathBuf| std::fs::read_to_string(path).ok();
        let stat = read(&self.stat).unwrap_or_default();
        let field = |n: usize| stat.split_ascii_whitespace().nth(n).and_then(|f| f.parse().ok()).unwrap_or(0);
        Seen {
            waited: read(&"/proc/pressure/io".into()).and_then(|text| waited(&text)),
            own: self.own.as_ref().and_then(read).and_then(|text| waited(&text)).unwrap_or(0),
            writes: field(4),
            writing: field(7),
        }
    }
}

/// The `total` of the line `some`.
fn waited(pressure: &str) -> Option<u64> {
    let some = pressure.lines().find(|line| line.starts_with("some "))?;
    some.split_ascii_whitespace().find_map(|word| word.strip_prefix("total="))?.parse().ok()
}

impl Seen {
    /// Somebody suffered more than they may since then.
    fn over(&self, before: &Self, elapsed: Duration, budget: Budget) -> bool {
        let pressure = match (self.waited, before.waited) {
            (Some(now), Some(then)) => {
                let theirs = now.saturating_sub(then).saturating_sub(self.own.saturating_sub(before.own));
                theirs as f64 / elapsed.as_micros().max(1) as f64
            }
            _ => 0.0,
        };
        let writes = self.writes.saturating_sub(before.writes);
        let writing = Duration::from_millis(self.writing.saturating_sub(before.writing));
        let latency = if writes == 0 { Duration::ZERO } else { writing.div_f64(writes as f64) };
        budget.pressure.is_some_and(|most| pressure > most)
            || budget.latency.is_some_and(|most| latency > most)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicBool;

    #[test]
    fn it_slows_down_at_once_and_speeds_up_slowly_and_never_stops() {
        let mut share = 1.0;
        (0..20).for_each(|_| share = next_share(share, true));
        assert!((share - LEAST).abs() < 1e-9);
        let mut looks = 0;
        while share < 1.0 {
            share = next_share(share, false);
            looks += 1;
        }
        assert!((10..20).contains(&looks), "{looks}");
    }

    #[test]
    fn only_what_others_suffer_counts() {
        let second = Duration::from_secs(1);
        let before = Seen::default();
        let before = Seen { waited: Some(0), ..before };
        let busy = Seen { waited: Some(600_000), own: 500_000, writes: 10, writing: 300 };
        let budget = |pressure, ms: Option<u64>| Budget { pressure, latency: ms.map(Duration::from_millis) };
        assert!(!busy.over(&before, second, budget(Some(0.4), None)), "most of it is our own");
        assert!(busy.over(&before, second, budget(Some(0.05), None)));
        assert!(
            busy.over(&before, second, budget(None, Some(20)))
                && !busy.over(&before, second, budget(None, Some(40)))
        );
        assert!(!busy.over(&before, second, Budget::default()));
        assert!(
            !Seen::default().over(&Seen::default(), second, budget(Some(0.01), Some(1))),
            "unknown is no reason"
        );
        assert_eq!(
            waited("some avg10=0.03 avg60=1.48 avg300=2.56 total=21\nfull avg10=0 total=2\n"),
            Some(21)
        );
        assert_eq!(waited("garbage"), None);
    }

    #[test]
    fn without_a_budget_nothing_is_held_back_and_a_stop_ends_a_rest() {
        let flag = AtomicBool::new(false);
        let free = Yielding::new(&flag, 0, Budget::default());
        (0..1000).for_each(|_| free.advance(1));
        assert_eq!(free.yielded(), Duration::ZERO);
        let tight = Yielding::new(&flag, 0, Budget { pressure: Some(1.0), latency: None });
        tight.state.lock().unwrap().share = LEAST;
        std::thread::sleep(Duration::from_millis(5));
        tight.advance(1);
        assert!(tight.yielded() >= Duration::from_millis(50), "{:?}", tight.yielded());
        flag.store(true, std::sync::atomic::Ordering::Relaxed);
        assert!(tight.stopped());
    }
}
