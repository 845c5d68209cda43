//! What time it is.

use crate::tracker::now_ms;

/// Something that tells the time; it may jump.
pub trait Clock {
    /// Milliseconds since 1970.
    fn now(&self) -> u64;
}

/// The system's.
#[derive(Clone, Copy, Debug, Default)]
pub struct System;

impl Clock for System {
    fn now(&self) -> u64 {
        now_ms()
    }
}

/// One that goes as it is told.
#[cfg(test)]
#[derive(Debug)]
pub struct Feigned {
    truth: u64,
    off: i64,
}

#[cfg(test)]
impl Feigned {
    /// It shows this.
    pub fn at(unix_ms: u64) -> Self {
        Self { truth: unix_ms, off: 0 }
    }

    /// Time passes.
    pub fn pass(&mut self, ms: u64) {
        self.truth += ms;
    }

    /// Somebody sets it.
    pub fn jump(&mut self, ms: i64) {
        self.off += ms;
    }

    /// The time that nobody sets.
    pub fn truth(&self) -> u64 {
        self.truth
    }
}

#[cfg(test)]
impl Clock for Feigned {
    fn now(&self) -> u64 {
        self.truth.saturating_add_signed(self.off)
    }
}
