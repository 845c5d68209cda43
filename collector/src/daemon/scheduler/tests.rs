//! Weeks in seconds: random jobs, runs that fail and take their time, stores that are away for hours, crashes, reloads,
//! pauses, clocks that jump. The seed is printed; `BLKDELTA_SEED=N` runs that one again.
//!
//! Checked all the time: no device twice, never too many. After every stretch of peace: every moment is covered by a run
//! that began at or after it and succeeded. Between two runs that succeeded lies a moment, or a reason.

use super::super::clock::{Clock, Feigned};
use super::*;

const SECOND: u64 = 1000;
const MINUTE: u64 = 60 * SECOND;
const HOUR: u64 = 60 * MINUTE;
const WEEK: u64 = 7 * 24 * HOUR;

/// A stream of numbers from a seed.
struct Dice(u64);

impl Dice {
    fn roll(&mut self) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 ^ self.0 >> 33).wrapping_mul(0xff51_afd7_ed55_8ccd) >> 16
    }

    fn below(&mut self, n: u64) -> u64 {
        self.roll() % n
    }

    fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }
}

/// What a job does in the simulation, and its moments, reckoned in another way than the scheduler's.
struct Model {
    name: String,
    plan: Plan,
    /// The last moment at or before a time.
    last: fn(u64) -> u64,
    takes: u64,
    /// Starts of runs that succeeded, and whether something since the one before excuses a second one for a moment.
    done: Vec<(u64, bool)>,
    /// So many more runs are: after a jump, a crash, or when somebody asked.
    excused: u32,
}

fn models(dice: &mut Dice) -> Vec<Model> {
    type Kind = (When, fn(u64) -> u64, u64);
    let kinds: [Kind; 6] = [
        (When::Every(10 * SECOND), |t| t / (10 * SECOND) * (10 * SECOND), 15 * SECOND),
        (When::Every(5 * MINUTE), |t| t / (5 * MINUTE) * (5 * MINUTE), 4 * MINUTE),
        (cron("15 * * * *"), |t| t.saturating_sub(15 * MINUTE) / HOUR * HOUR + 15 * MINUTE, 40 * MINUTE),
        (cron("0 3 * * *"), |t| t.saturating_sub(3 * HOUR) / (24 * HOUR) * (24 * HOUR) + 3 * HOUR, 3 * HOUR),
        (When::Every(90 * SECOND), |t| t / (90 * SECOND) * (90 * SECOND), 10 * SECOND),
        (cron("*/2 * * * *"), |t| t / (2 * MINUTE) * (2 * MINUTE), MINUTE),
    ];
    let mut made = Vec::new();
    for (n, (when, last, takes)) in kinds.into_iter().enumerate() {
        let jitter = [0, 5 * SECOND, MINUTE][dice.below(3) as usize];
        let night = Window { from: 20 * 60, to: 8 * 60 };
        let windows = if n == 4 { vec![night] } else { Vec::new() };
        // some share a device
        let claims = [format!("disk{}", [0, 1, 1, 2, 2, 3][n])].into();
        let plan = Plan { when, jitter: if n == 0 { 0 } else { jitter }, windows, claims };
        let (name, takes) = (format!("job{n}"), 1 + dice.below(takes));
        made.push(Model { name, plan, last, takes, done: Vec::new(), excused: 0 });
    }
    made
}

fn cron(text: &str) -> When {
    When::Cron(Box::new(text.parse().unwrap()))
}

/// The world around the scheduler.
struct World {
    dice: Dice,
    clock: Feigned,
    scheduler: Scheduler,
    models: Vec<Model>,
    limits: Limits,
    /// What a crash finds: it is written before a run begins and after it ended.
    saved: BTreeMap<String, Memory>,
    /// What runs, until when (true time), whether it will succeed.
    running: BTreeMap<String, (u64, bool)>,
    /// Nothing succeeds until then (true time).
    store_away: u64,
    peace: bool,
    counts: [u64; 6],
}

impl World {
    fn new(seed: u64) -> Self {
        let mut dice = Dice(seed);
        let clock = Feigned::at(1_700_000_000_000 + dice.below(WEEK));
        let models = models(&mut dice);
        let limits =
            Limits { at_once: 1 + dice.below(4) as usize, retry_first: 5 * SECOND, retry_most: 5 * MINUTE };
        let now = clock.now();
        let scheduler = Scheduler::new(plans(&models), limits, BTreeMap::new(), now);
        let saved = scheduler.memory().clone();
        Self {
            dice,
            clock,
            scheduler,
            models,
            limits,
            saved,
            running: BTreeMap::new(),
            store_away: 0,
            peace: false,
            counts: [0; 6],
        }
    }

    fn model(&mut self, name: &str) -> &mut Model {
        self.models.iter_mut().find(|m| m.name == name).unwrap()
    }

    /// Goes to the next event, at most a second... or a minute where nothing is near.
    fn step(&mut self) {
        let (now, truth) = (self.clock.now(), self.clock.truth());
        let end = self.running.values().map(|(end, _)| end.saturating_sub(truth)).min();
        let wake = self.scheduler.wake(now).map(|at| at - now);
        let wait = [end, wake].into_iter().flatten().min().unwrap_or(MINUTE).clamp(1, MINUTE);
        self.clock.pass(wait);
        self.end_runs();
        if !self.peace {
            self.disturb();
        }
        self.start_runs();
    }

    fn end_runs(&mut self) {
        let truth = self.clock.truth();
        let over: Vec<String> =
            self.running.iter().filter(|(_, (end, _))| *end <= truth).map(|(name, _)| name.clone()).collect();
        for name in over {
            let (_, good) = self.running.remove(&name).unwrap();
            let good = good && truth >= self.store_away;
            let began = self.scheduler.memory()[&name].running.unwrap();
            self.scheduler.ended(&name, good, self.clock.now());
            self.saved = self.scheduler.memory().clone();
            self.counts[usize::from(good)] += 1;
            if good {
                let model = self.model(&name);
                model.done.push((began, model.excused > 0));
                model.excused = model.excused.saturating_sub(1);
            }
        }
    }

    fn start_runs(&mut self) {
        for name in self.scheduler.start(self.clock.now()) {
            let failing = !self.peace && self.dice.one_in(6);
            let takes = self.model(&name).takes;
            let takes = 1 + self.dice.below(takes);
            self.saved = self.scheduler.memory().clone();
            let before = self.running.insert(name.clone(), (self.clock.truth() + takes, !failing));
            assert!(before.is_none(), "{name} runs twice");
        }
        assert!(self.running.len() <= self.limits.at_once, "{:?} run", self.running.keys());
        let mut seen = BTreeSet::new();
        for name in self.running.keys() {
            let claims = &self.models.iter().find(|m| &m.name == name).unwrap().plan.claims;
            assert!(
                claims.iter().all(|c| seen.insert(c.clone())),
                "a device is held twice: {:?}",
                self.running
            );
        }
    }

    fn disturb(&mut self) {
        match self.dice.below(60_000) {
            0..20 => self.store_away = self.clock.truth() + self.dice.below(6 * HOUR),
            20..60 => self.crash(),
            60..90 => self.reload(),
            90..100 => self.jump(),
            100..130 => {
                let name = self.models[self.dice.below(6) as usize].name.clone();
                assert!(self.scheduler.ask(&name));
                self.model(&name).excused = 2;
                self.saved = self.scheduler.memory().clone();
            }
            130..160 => {
                let (name, paused) =
                    (self.models[self.dice.below(6) as usize].name.clone(), self.dice.one_in(2));
                self.scheduler.pause(&name, paused);
                self.saved = self.scheduler.memory().clone();
            }
            _ => {}
        }
    }

    /// Killed: runs die with it, what was remembered is what was written; sometimes a run had just been done.
    fn crash(&mut self) {
        self.counts[2] += 1;
        for name in std::mem::take(&mut self.running).into_keys() {
            if self.dice.one_in(4) {
                let began = self.saved[&name].running.unwrap();
                let model = self.model(&name);
                model.done.push((began, model.excused > 0));
                model.excused = 2;
            }
        }
        let most = if self.dice.one_in(10) { 10 * HOUR } else { MINUTE };
        let away = self.dice.below(most);
        self.clock.pass(away);
        let text = serde_json::to_string(&self.saved).unwrap();
        let memory = serde_json::from_str(&text).unwrap();
        self.scheduler = Scheduler::new(plans(&self.models), self.limits, memory, self.clock.now());
        self.saved = self.scheduler.memory().clone();
    }

    /// Other limits, in the middle of whatever runs.
    fn reload(&mut self) {
        self.counts[3] += 1;
        self.limits.at_once = self.limits.at_once.max(1 + self.dice.below(4) as usize);
        self.scheduler.replan(plans(&self.models), self.limits, self.clock.now());
    }

    fn jump(&mut self) {
        self.counts[4] += 1;
        let by = [SECOND, MINUTE, HOUR, 30 * HOUR][self.dice.below(4) as usize];
        let by = self.dice.below(by) as i64;
        self.clock.jump(if self.dice.one_in(2) { by } else { -by });
        for model in &mut self.models {
            model.excused = 2;
            // times before and after a jump cannot be compared
            model.done.clear();
        }
    }

    /// Everything works again for a day: then nothing may be missing, and nothing was done twice.
    fn make_peace(&mut self) {
        self.peace = true;
        self.store_away = 0;
        let names: Vec<String> = self.models.iter().map(|m| m.name.clone()).collect();
        names.iter().for_each(|name| assert!(self.scheduler.pause(name, false)));
        let (peace, until) = (self.clock.now() + HOUR, self.clock.truth() + 26 * HOUR);
        while self.clock.truth() < until {
            self.step();
        }
        let now = self.clock.now();
        for model in &self.models {
            // whoever waits in line does so behind runs of all others
            let moment = (model.last)(now - 8 * HOUR);
            let success = self.scheduler.memory()[&model.name].last_success;
            let windowed = if model.plan.windows.is_empty() { moment } else { moment.min(now - 21 * HOUR) };
            let found = success.is_some_and(|s| s >= windowed && s <= now);
            assert!(found, "{}: {moment} is lost: {success:?}", model.name);
            // one by one: none waits longer than runs of all others take
            let mut moment = moment;
            while model.plan.windows.is_empty() && moment > peace {
                let found = model.done.iter().any(|(start, _)| (moment..moment + 8 * HOUR).contains(start));
                assert!(found, "{}: {moment} was not covered in time", model.name);
                moment = (model.last)(moment - 1).min(moment - 10 * MINUTE);
            }
            for pair in model.done.windows(2) {
                let ((a, _), (b, excused)) = (pair[0], pair[1]);
                assert!(excused || (model.last)(b) > a, "{}: {a} and {b}: one moment, two runs", model.name);
            }
        }
        self.counts[5] += 1;
        self.peace = false;
    }
}

fn plans(models: &[Model]) -> BTreeMap<String, Plan> {
    models.iter().map(|m| (m.name.clone(), m.plan.clone())).collect()
}

#[test]
fn in_a_week_of_failures_no_job_is_lost_and_none_doubled() {
    let seed = std::env::var("BLKDELTA_SEED").ok().and_then(|s| s.parse().ok());
    let time = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_nanos() as u64;
    for round in 0..2 {
        let seed = seed.unwrap_or(time.wrapping_add(round));
        println!("seed {seed}");
        let mut world = World::new(seed);
        let end = world.clock.truth() + WEEK;
        while world.clock.truth() < end {
            let stretch = world.clock.truth() + 6 * HOUR + world.dice.below(24 * HOUR);
            while world.clock.truth() < stretch {
                world.step();
            }
            world.make_peace();
        }
        let [failed, good, crashes, reloads, jumps, peace] = world.counts;
        println!(
            "  {good} good, {failed} failed, {crashes} crashes, {reloads} reloads, {jumps} jumps, {peace} looks"
        );
        assert!(good > 1000 && failed > 100 && peace >= 3, "the week was too quiet to say anything");
    }
}

fn one(when: When) -> (BTreeMap<String, Plan>, Limits) {
    let plan = Plan { when, jitter: 0, windows: Vec::new(), claims: ["d".to_owned()].into() };
    let limits = Limits { at_once: 1, retry_first: 5 * SECOND, retry_most: MINUTE };
    ([("j".to_owned(), plan)].into(), limits)
}

#[test]
fn what_was_missed_is_caught_up_once() {
    let (plans, limits) = one(When::Every(10 * SECOND));
    let memory = [("j".to_owned(), Memory { covered: HOUR, ..Memory::default() })].into();
    let now = 2 * HOUR + 1;
    let mut s = Scheduler::new(plans, limits, memory, now);
    assert_eq!(s.start(now), ["j"]);
    s.ended("j", true, now + 1);
    assert!(s.start(now + 2).is_empty());
    assert_eq!(s.wake(now + 2), Some(2 * HOUR + 10 * SECOND));
}

#[test]
fn a_moment_that_comes_during_a_run_is_not_covered_by_it() {
    let (plans, limits) = one(When::Every(HOUR));
    let mut s = Scheduler::new(plans, limits, BTreeMap::new(), 1);
    assert!(s.ask("j"));
    assert_eq!(s.start(HOUR - SECOND), ["j"]);
    s.ended("j", true, HOUR + SECOND);
    assert_eq!(s.start(HOUR + 2 * SECOND), ["j"]);
    // and who asks during a run gets another one
    assert!(s.ask("j"));
    s.ended("j", true, HOUR + 3 * SECOND);
    assert_eq!(s.start(HOUR + 4 * SECOND), ["j"]);
    s.ended("j", true, HOUR + 5 * SECOND);
    assert!(s.start(HOUR + 6 * SECOND).is_empty());
}

#[test]
fn a_failure_is_tried_again_later_and_later_but_not_for_ever_later() {
    let (plans, limits) = one(When::Every(SECOND));
    let mut now = HOUR;
    let mut s = Scheduler::new(plans, limits, BTreeMap::new(), now);
    let mut pauses = Vec::new();
    for _ in 0..9 {
        let at = s.wake(now).unwrap();
        pauses.push(at - now);
        now = at;
        assert_eq!(s.start(now), ["j"]);
        s.ended("j", false, now);
    }
    let within = |ms: u64, base: u64| ms >= base && ms <= base + base / 8;
    assert!(within(pauses[1], 5 * SECOND) && within(pauses[2], 10 * SECOND), "{pauses:?}");
    assert!(within(pauses[8], MINUTE), "{pauses:?}");
    assert_eq!(s.memory()["j"].failures, 9);
    assert!(s.ask("j") && !s.ask("k"));
    assert_eq!(s.start(now), ["j"], "asked: not later");
}

#[test]
fn a_clock_set_back_does_not_stop_backups() {
    let (plans, limits) = one(When::Every(10 * SECOND));
    let year = 365 * 24 * HOUR;
    let memory = [("j".to_owned(), Memory { covered: year, ..Memory::default() })].into();
    let mut s = Scheduler::new(plans, limits, memory, HOUR);
    assert!(s.start(HOUR).is_empty());
    assert_eq!(s.wake(HOUR), Some(HOUR + 10 * SECOND));
    // a little: the same moment does not come twice
    let now = HOUR + 10 * SECOND;
    assert_eq!(s.start(now), ["j"]);
    s.ended("j", true, now + 1);
    assert!(s.start(now - 2 * SECOND).is_empty() && s.start(now).is_empty());
    assert_eq!(s.wake(now - 2 * SECOND), Some(now + 10 * SECOND));
}

#[test]
fn a_pause_holds_and_its_end_catches_up() {
    let (plans, limits) = one(When::Every(10 * SECOND));
    let mut s = Scheduler::new(plans, limits, BTreeMap::new(), 0);
    s.pause("j", true);
    assert!(s.start(HOUR).is_empty() && s.wake(HOUR).is_none());
    s.pause("j", false);
    assert_eq!(s.start(HOUR), ["j"]);
}

#[test]
fn a_job_that_is_taken_out_while_it_runs_holds_its_device_to_the_end() {
    let (plans, limits) = one(When::Every(SECOND));
    let limits = Limits { at_once: 9, ..limits };
    let mut s = Scheduler::new(plans.clone(), limits, BTreeMap::new(), 0);
    assert_eq!(s.start(SECOND), ["j"]);
    let other = [("k".to_owned(), plans["j"].clone())].into();
    s.replan(other, limits, SECOND);
    assert!(s.start(3 * SECOND).is_empty());
    s.ended("j", true, 3 * SECOND);
    assert_eq!(s.start(3 * SECOND), ["k"]);
    assert!(!s.memory().contains_key("j"));
}
