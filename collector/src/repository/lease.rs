//! The writer's lock of a store over the network: an object that its holder renews while it lives.
//!
//! ```text
//!   lock/<device>   {"token":…, "owner":"process 7 on host", …, "expires_after_s":600, "renewed":3}
//! ```
//! Must stay true: only one of several takes a lock (the store writes it only if absent, or only in place of the
//! version that was seen); its age is judged by the store's own clock, so no host's clock matters; a holder looks
//! again before it commits or removes anything, and does neither once another has taken over. A machine that slept in
//! the middle of that looks again after it.

use super::lock::Owner;
use super::store::Store;
use crate::error::{Error, Kind, Result};
use bytes::Bytes;
use crossbeam_channel::{RecvTimeoutError, Sender, bounded};
use object_store::ObjectMeta;
use serde::{Deserialize, Serialize};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime};

/// How often a living holder renews.
const EVERY: Duration = Duration::from_secs(60);

/// A lock that was not renewed for so long is nobody's.
const EXPIRES: Duration = Duration::from_secs(600);

/// For so long a look is good: much less than a lock lives without its holder.
const FRESH: Duration = Duration::from_secs(20);

/// No lock is longer.
const LIMIT: u64 = 4096;

/// What a lock object says.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Words {
    token: String,
    #[serde(flatten)]
    owner: Owner,
    expires_after_s: u64,
    renewed: u64,
}

impl Words {
    fn bytes(&self) -> Result<Bytes> {
        let text = serde_json::to_vec(self).map_err(|e| Error::caused(Kind::Bug, "encode a lock", e))?;
        Ok(text.into())
    }
}

/// A lock held; it ends when this is dropped.
pub(super) struct Lease {
    shared: Arc<Shared>,
    stop: Option<Sender<()>>,
    renewing: Option<JoinHandle<()>>,
}

struct Shared {
    store: Arc<Store>,
    key: String,
    now: Mutex<(Words, ObjectMeta)>,
    lost: AtomicBool,
    seen: Mutex<Option<Look>>,
}

/// When it was seen to be held last: by the clock that sleeps with the machine, and by the one that does not.
struct Look(Instant, SystemTime);

impl Look {
    fn is_fresh(&self) -> bool {
        self.0.elapsed() < FRESH && self.1.elapsed().is_ok_and(|passed| passed < FRESH)
    }
}

impl std::fmt::Debug for Lease {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Lease({})", self.shared.key)
    }
}

impl Lease {
    /// Takes the lock, and says from whom, if its holder had died.
    pub fn take(store: &Arc<Store>, key: &str, owner: Owner) -> Result<(Self, Option<String>)> {
        let token = ulid::Ulid::generate().to_string();
        let expires_after_s = EXPIRES.as_secs();
        let words = Words { token, owner, expires_after_s, renewed: 0 };
        let mut taken_over = None;
        for _ in 0..8 {
            match store.put_new(key, words.bytes()?) {
                Ok(()) => {}
                Err(e) if e.kind() == Kind::Exists => match over(store, key, &words)? {
                    Some(from) => taken_over = Some(from),
                    None => continue,
                },
                Err(e) => return Err(e),
            }
            // a store that does not know conditions would have written over another's
            let (there, meta) = read(store, key)?;
            if there.as_ref().is_none_or(|there| there.token != words.token) {
                return Err(busy(key, there.as_ref(), "took it at the same moment"));
            }
            return Ok((Self::start(store, key, words, meta)?, taken_over));
        }
        Err(Error::new(Kind::Busy, format!("{key}: others take it again and again")))
    }

    fn start(store: &Arc<Store>, key: &str, words: Words, meta: ObjectMeta) -> Result<Self> {
        let (store, key) = (Arc::clone(store), key.to_owned());
        let (now, lost, seen) = (Mutex::new((words, meta)), AtomicBool::new(false), Mutex::new(None));
        let shared = Arc::new(Shared { store, key, now, lost, seen });
        let (stop, stopped) = bounded::<()>(0);
        let renewed = Arc::clone(&shared);
        let renew = move || {
            while stopped.recv_timeout(EVERY) == Err(RecvTimeoutError::Timeout) {
                if let Err(e) = renewed.renew() {
                    log::warn!("{}: not renewed: {}", renewed.key, e.in_full());
                }
            }
        };
        let thread = std::thread::Builder::new().name("blkdelta-lock".into()).spawn(renew);
        let renewing = Some(thread.map_err(|e| Error::os("start the lock's thread", e))?);
        Ok(Self { shared, stop: Some(stop), renewing })
    }

    /// Looks whether it is still held.
    pub fn holds(&self) -> Result<()> {
        let shared = &self.shared;
        // before the store is asked: the answer may be late
        let look = Look(Instant::now(), SystemTime::now());
        let there = match read(&shared.store, &shared.key) {
            Ok((there, _)) => there,
            Err(e) if e.kind() == Kind::NotFound => None,
            Err(e) => return Err(e),
        };
        let ours = shared.now.lock().unwrap_or_else(PoisonError::into_inner).0.token.clone();
        if !shared.lost.load(Ordering::Relaxed) && there.as_ref().is_some_and(|there| there.token == ours) {
            *shared.seen.lock().unwrap_or_else(PoisonError::into_inner) = Some(look);
            return Ok(());
        }
        shared.lost.store(true, Ordering::Relaxed);
        Err(busy(&shared.key, there.as_ref(), "took it over meanwhile; nothing of this run was committed"))
    }

    /// The same, unless it was looked at a moment ago.
    pub fn still_holds(&self) -> Result<()> {
        let fresh = self
            .shared
            .seen
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .as_ref()
            .is_some_and(Look::is_fresh);
        if fresh && !self.shared.lost.load(Ordering::Relaxed) { Ok(()) } else { self.holds() }
    }
}

impl Shared {
    fn renew(&self) -> Result<()> {
        let mut now = self.now.lock().unwrap_or_else(PoisonError::into_inner);
        let next = Words { renewed: now.0.renewed + 1, ..now.0.clone() };
        let replaced =
            !self.lost.load(Ordering::Relaxed) && self.store.replace(&self.key, next.bytes()?, &now.1)?;
        let (there, meta) = read(&self.store, &self.key)?;
        if there.is_none_or(|there| there.token != next.token) {
            self.lost.store(true, Ordering::Relaxed);
            return Err(Error::new(Kind::Busy, "another process took it over"));
        }
        *now = (if replaced { next } else { now.0.clone() }, meta);
        Ok(())
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.stop = None;
        if let Some(thread) = self.renewing.take() {
            let _ = thread.join();
        }
        if self.holds().is_ok()
            && let Err(e) = self.shared.store.delete(&self.shared.key)
        {
            log::warn!("{}: it stays until it expires: {}", self.shared.key, e.in_full());
        }
    }
}

/// Takes a lock over whose holder is dead, and says who it was; `None` if it changed meanwhile.
fn over(store: &Arc<Store>, key: &str, ours: &Words) -> Result<Option<String>> {
    let (there, meta) = match read(store, key) {
        Err(e) if e.kind() == Kind::NotFound => return Ok(None),
        read => read?,
    };
    let who = there.as_ref().map_or_else(|| "somebody unknown".into(), |there| there.owner.to_string());
    let why = if there.as_ref().is_some_and(|there| there.owner.is_dead()) {
        format!("{who} died while it was writing")
    } else if store.access.break_lock {
        format!("{who} held the lock; it was broken because --break-lock said so")
    } else {
        let silent = silence(store, &meta)?;
        let limit = there.as_ref().map_or(EXPIRES.as_secs(), |there| there.expires_after_s);
        if silent.as_secs() <= limit {
            return Err(busy(key, there.as_ref(), &format!("was heard of {} s ago", silent.as_secs())));
        }
        format!("{who} was not heard of for {} s: its lock was taken over", silent.as_secs())
    };
    log::warn!("{key}: {why}");
    Ok(store.replace(key, ours.bytes()?, &meta)?.then_some(why))
}

fn busy(key: &str, there: Option<&Words>, why: &str) -> Error {
    let who = there.map_or_else(|| "another process".to_owned(), |there| there.owner.to_string());
    Error::new(Kind::Busy, format!("{key}: {who} is writing: it {why}")).hint(
        "wait for it to end; a lock expires 10 minutes after its holder died, or say --break-lock if you know that",
    )
}

fn read(store: &Store, key: &str) -> Result<(Option<Words>, ObjectMeta)> {
    let (bytes, meta) = store.get_dated(key, LIMIT)?;
    Ok((serde_json::from_slice(&bytes).ok(), meta))
}

/// For how long the lock was not renewed, by the store's clock: that of an object made now.
fn silence(store: &Arc<Store>, lock: &ObjectMeta) -> Result<Duration> {
    let key = format!("lock/.clock-{}", ulid::Ulid::generate());
    store.put_new(&key, Bytes::from_static(b"now\n"))?;
    let seen = store.get_dated(&key, LIMIT);
    if let Err(e) = store.delete(&key) {
        log::info!("{}", e.in_full());
    }
    let since = seen?.1.last_modified - lock.last_modified;
    Ok(since.to_std().unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A machine that slept: one clock stood still, the other went on. One that was set back tells nothing.
    #[test]
    fn a_look_is_good_only_if_both_clocks_say_so() {
        let (now, wall) = (Instant::now(), SystemTime::now());
        let (long, short) = (FRESH + Duration::from_secs(1), Duration::from_secs(1));
        assert!(Look(now, wall).is_fresh() && Look(now - short, wall - short).is_fresh());
        for stale in
            [Look(now, wall - long), Look(now - long, wall), Look(now, wall + Duration::from_secs(60))]
        {
            assert!(!stale.is_fresh());
        }
    }
}
