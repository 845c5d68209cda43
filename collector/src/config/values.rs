//! Texts of the configuration and of the command line that mean something: sizes, times, rates, parts, schedules.
//!
//! What must stay true: a text that is not understood is an error that says what would be; nothing is guessed.

use crate::block::Granularity;
use crate::format::Compression;
use crate::job::Since;
use croner::Cron;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::net::SocketAddr;
use std::ops::Deref;
use std::path::PathBuf;
use std::time::Duration;

/// What a text can mean.
pub trait Meaning: Sized {
    /// Understands it.
    ///
    /// # Errors
    /// What is wrong with it.
    fn read(text: &str) -> Result<Self, String>;
}

/// A text and what it means.
#[derive(Clone, Debug)]
pub struct Said<T> {
    text: String,
    value: T,
}

impl<T: Meaning> Said<T> {
    /// Understands it.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn new(text: &str) -> Result<Self, String> {
        Ok(Self { value: T::read(text)?, text: text.to_owned() })
    }

    /// One of our own defaults.
    pub(super) fn default_of(text: &str) -> Self {
        Self::new(text).expect("a default is well-formed")
    }
}

impl<T> Said<T> {
    /// As it was written.
    pub fn text(&self) -> &str {
        &self.text
    }
}

impl<T> Deref for Said<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.value
    }
}

impl<T> PartialEq for Said<T> {
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text
    }
}

impl<T> Serialize for Said<T> {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        self.text.serialize(to)
    }
}

impl<'de, T: Meaning> Deserialize<'de> for Said<T> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        Self::new(&String::deserialize(from)?).map_err(serde::de::Error::custom)
    }
}

fn split(text: &str) -> (&str, &str) {
    let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    text.split_at(end)
}

/// A number of bytes: `4096`, `64K`, `64KiB`, `1M`, `1MiB`, `20GiB`, `1TiB`.
///
/// # Errors
/// If it is none.
pub fn size(text: &str) -> Result<u64, String> {
    let (number, unit) = split(text);
    let factor = match unit.to_ascii_lowercase().as_str() {
        "" | "b" => 1,
        "k" | "kib" => 1 << 10,
        "m" | "mib" => 1 << 20,
        "g" | "gib" => 1 << 30,
        "t" | "tib" => 1 << 40,
        _ => return Err(format!("{unit:?} is not a unit: KiB, MiB, GiB or TiB")),
    };
    let number: u64 = number.parse().map_err(|_| format!("{text:?} is not a size such as 64KiB"))?;
    number.checked_mul(factor).ok_or_else(|| format!("{text} is too large"))
}

/// A time: `500ms`, `10s`, `5m`, `1h`, `30d`, `10` (seconds).
///
/// # Errors
/// If it is none, or nothing at all.
pub fn duration(text: &str) -> Result<Duration, String> {
    let (number, unit) = split(text);
    let millis = match unit {
        "ms" => 1,
        "" | "s" => 1000,
        "m" | "min" => 60_000,
        "h" => 3_600_000,
        "d" => 86_400_000,
        _ => return Err(format!("{unit:?} is not a unit: ms, s, m, h or d")),
    };
    let number: u64 = number.parse().map_err(|_| format!("{text:?} is not a time such as 10s"))?;
    match number.checked_mul(millis) {
        None | Some(0) => Err(format!("{text:?}: must be more than nothing, and not for ever")),
        Some(millis) => Ok(Duration::from_millis(millis)),
    }
}

/// As a duration, but nothing is allowed.
///
/// # Errors
/// If it is none.
pub fn grace(text: &str) -> Result<Duration, String> {
    if text == "0" { Ok(Duration::ZERO) } else { duration(text) }
}

/// A part of a whole: `1%`, `3.4%`.
///
/// # Errors
/// If it is none, or nothing, or more than all.
pub fn part(text: &str) -> Result<f64, String> {
    let percent: Option<f64> = text.strip_suffix('%').and_then(|n| n.parse().ok());
    match percent.filter(|n| *n > 0.0 && *n <= 100.0) {
        Some(percent) => Ok(percent / 100.0),
        None => Err(format!("{text:?} is not a part such as 3.4%")),
    }
}

/// Bytes a second: `50MiB/s`, `50MiB`.
///
/// # Errors
/// If it is none, or nothing.
pub fn bandwidth(text: &str) -> Result<u64, String> {
    match size(text.strip_suffix("/s").unwrap_or(text))? {
        0 => Err("nothing would ever go".into()),
        rate => Ok(rate),
    }
}

/// What one bit stands for: 4KiB to 1MiB.
///
/// # Errors
/// If it is no power of two in that range.
pub fn granularity(text: &str) -> Result<Granularity, String> {
    Granularity::try_from(size(text)?)
}

/// `none`, or a level of zstd.
///
/// # Errors
/// If it is neither.
pub fn compression(text: &str) -> Result<Compression, String> {
    match (text, text.parse()) {
        ("none", _) => Ok(Compression::None),
        (_, Ok(level @ 1..=19)) => Ok(Compression::Zstd(level)),
        _ => Err("`none`, or a level from 1 to 19".into()),
    }
}

/// Bytes a second.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate(pub u64);

/// A part of a whole, 0 to 1.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Part(pub f64);

/// A time that may be nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Grace(pub Duration);

/// Where somebody listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Listen {
    /// `127.0.0.1:9464`
    Tcp(SocketAddr),
    /// `unix:/run/blkdelta/page.sock`
    Unix(PathBuf),
}

/// Part of a day, UTC, in minutes: from, and to (less than from: over midnight).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Window {
    /// First minute.
    pub from: u32,
    /// The minute after the last.
    pub to: u32,
}

impl Window {
    /// A moment is in it.
    pub const fn holds(self, unix_ms: u64) -> bool {
        let minute = (unix_ms / 60_000 % 1440) as u32;
        if self.from < self.to {
            minute >= self.from && minute < self.to
        } else {
            minute >= self.from || minute < self.to
        }
    }
}

impl Meaning for Duration {
    fn read(text: &str) -> Result<Self, String> {
        duration(text)
    }
}

impl Meaning for Grace {
    fn read(text: &str) -> Result<Self, String> {
        grace(text).map(Self)
    }
}

impl Meaning for Rate {
    fn read(text: &str) -> Result<Self, String> {
        bandwidth(text).map(Self)
    }
}

impl Meaning for Part {
    fn read(text: &str) -> Result<Self, String> {
        part(text).map(Self)
    }
}

impl Meaning for Granularity {
    fn read(text: &str) -> Result<Self, String> {
        granularity(text)
    }
}

impl Meaning for Compression {
    fn read(text: &str) -> Result<Self, String> {
        compression(text)
    }
}

impl Meaning for Since {
    fn read(text: &str) -> Result<Self, String> {
        text.parse().map_err(|_| format!("{text:?} is neither a point's id nor `latest-full` nor `latest`"))
    }
}

impl Meaning for Cron {
    fn read(text: &str) -> Result<Self, String> {
        let why =
            |e: croner::errors::CronError| format!("{text:?} is not a schedule such as `15 2 * * *`: {e}");
        let cron: Self = text.parse().map_err(why)?;
        // a day that no year has: found now, not when it is waited for
        let now = chrono::DateTime::<chrono::Utc>::UNIX_EPOCH + chrono::TimeDelta::days(20_000);
        cron.find_next_occurrence(&now, false).map_err(|e| format!("{text:?} never comes: {e}"))?;
        Ok(cron)
    }
}

impl Meaning for Listen {
    fn read(text: &str) -> Result<Self, String> {
        if let Some(path) = text.strip_prefix("unix:") {
            let path = PathBuf::from(path);
            return if path.is_absolute() {
                Ok(Self::Unix(path))
            } else {
                Err("an absolute path is wanted".into())
            };
        }
        let wanted = || format!("{text:?} is neither ADDRESS:PORT, such as 127.0.0.1:9464, nor unix:/PATH");
        text.parse().map(Self::Tcp).map_err(|_| wanted())
    }
}

impl Meaning for Window {
    fn read(text: &str) -> Result<Self, String> {
        let wanted = || format!("{text:?} is not a part of the day such as 22:00-06:00");
        let minutes = |text: &str| -> Option<u32> {
            let (hour, minute) = text.trim().split_once(':')?;
            let (hour, minute): (u32, u32) = (hour.parse().ok()?, minute.parse().ok()?);
            let whole = hour * 60 + minute;
            (minute < 60 && whole <= 1440).then_some(whole)
        };
        let (from, to) = text.split_once('-').ok_or_else(wanted)?;
        let (from, to) = (minutes(from).ok_or_else(wanted)?, minutes(to).ok_or_else(wanted)?);
        if from == to || from == 1440 { Err(wanted()) } else { Ok(Self { from, to }) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bandwidth_is_a_size_a_second() {
        assert_eq!(bandwidth("50MiB/s"), Ok(50 << 20));
        assert_eq!(bandwidth("800K"), Ok(800 << 10));
        assert!(bandwidth("0").is_err() && bandwidth("fast").is_err() && bandwidth("1MiB/h").is_err());
    }

    #[test]
    fn a_window_may_go_over_midnight() {
        let hours = |h: u64| h * 3_600_000;
        let night = Window::read("22:00-06:00").unwrap();
        assert!(night.holds(hours(23)) && night.holds(hours(24)) && night.holds(hours(24 + 5)));
        assert!(!night.holds(hours(6)) && !night.holds(hours(12)));
        let day = Window::read("08:30-24:00").unwrap();
        assert!(day.holds(hours(9)) && !day.holds(hours(8)) && !day.holds(hours(24)));
        for wrong in ["", "8-9", "08:00", "08:00-08:00", "25:00-26:00", "08:60-09:00", "24:00-01:00"] {
            assert!(Window::read(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn texts_that_mean_nothing_are_refused() {
        assert!(Cron::read("15 2 * * *").is_ok() && Cron::read("*/10 * * * * *").is_ok());
        assert!(Cron::read("often").is_err() && Cron::read("0 0 31 2 *").is_err() && Cron::read("").is_err());
        assert!(Listen::read("127.0.0.1:80").is_ok() && Listen::read("unix:/a").is_ok());
        assert!(Listen::read("unix:a").is_err() && Listen::read("localhost").is_err());
        assert!(Since::read("latest-full").is_ok() && Since::read("yesterday").is_err());
    }
}
