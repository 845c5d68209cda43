//! Judging devices: what could be tracked, what is, and how far that can be trusted.

use super::facts::{Disk, Facts, Tracked, Trouble};
use super::finding::{Finding, Level};
use crate::config::words::duration;
use std::collections::BTreeMap;
use std::time::Duration;

/// An epoch that waits longer than this was forgotten.
const LONG: Duration = Duration::from_secs(24 * 3600);

/// All of it.
pub fn judge(facts: &Facts) -> Vec<Finding> {
    let mut findings = disks(&facts.disks);
    match &facts.tracked {
        Some(Ok(tracked)) => {
            findings.extend(facts.unread_events.then(unread_events));
            findings.extend(tracked.is_empty().then(nothing));
            findings.extend(tracked.iter().flat_map(device));
        }
        Some(Err(trouble)) => findings.push(unread(trouble)),
        None => {}
    }
    findings
}

const TRACKED: &str = "the state files and pins of what is tracked";

fn nothing() -> Finding {
    Finding::new("tracking", TRACKED, "what is not tracked has no increments").is(
        Level::Wrong,
        "nothing is tracked",
        "blkdelta track /dev/DISK",
    )
}

fn unread_events() -> Finding {
    Finding::new(
        "tracking",
        "which disks' writes go into the ring buffer",
        "every write of these takes longer",
    )
    .is(
        Level::Note,
        "events are on, and nobody reads them: `watch` or `top` was killed",
        "blkdelta top, and q: it switches them off",
    )
}

fn unread(trouble: &Trouble) -> Finding {
    let level = if trouble.denied { Level::Unknown } else { Level::Wrong };
    Finding::new("tracking", TRACKED, "tracking is believed only with them").is(
        level,
        trouble.what.clone(),
        trouble.advice_or("run as root"),
    )
}

/// Disks that are not tracked: those that could be, together; those that are refused, by their reason.
fn disks(disks: &[Disk]) -> Vec<Finding> {
    let about = || {
        Finding::new(
            "disk",
            "every disk in /sys/block that has a medium",
            "only what is tracked has increments",
        )
    };
    let mut findings = Vec::new();
    let free: Vec<&str> =
        disks.iter().filter(|d| !d.tracked && d.refused.is_none()).map(|d| d.path.as_str()).collect();
    if !free.is_empty() {
        findings.push(about().is(
            Level::Note,
            format!("could be tracked and is not: {}", free.join(", ")),
            format!("blkdelta track {}, if it is to be backed up", free.join(" ")),
        ));
    }
    let mut refused: BTreeMap<(String, String), Vec<&str>> = BTreeMap::new();
    for disk in disks.iter().filter(|d| !d.tracked) {
        if let Some(trouble) = &disk.refused {
            // the reason without the device's name in front of it
            let reason = trouble
                .what
                .split_once(&format!("{}: ", disk.path))
                .map_or(trouble.what.as_str(), |(_, why)| why);
            let key = (reason.to_owned(), trouble.advice_or("track another device"));
            refused.entry(key).or_default().push(&disk.path);
        }
    }
    findings.extend(refused.into_iter().map(|((reason, advice), paths)| {
        about().is(Level::Note, format!("cannot be tracked: {}: {reason}", paths.join(", ")), advice)
    }));
    findings
}

fn device(device: &Tracked) -> Vec<Finding> {
    let mut findings = vec![proof(device)];
    findings.extend(unsaved(device));
    findings.extend(device.beside.iter().map(|who| beside(&device.path, who)));
    findings.extend(moving(device));
    findings
}

fn about(looked_at: &str, why: &str) -> Finding {
    Finding::new("tracking", looked_at, why)
}

/// Nothing of it is in a point, or what changed waits for too long.
fn unsaved(device: &Tracked) -> Vec<Finding> {
    let path = &device.path;
    let mut findings = Vec::new();
    if !device.has_base {
        findings.push(about("its last point", "nothing of it can be restored").is(
            Level::Wrong,
            format!("{path} was never backed up since it is tracked"),
            format!("blkdelta backup {path} --repo REPO, or a job of the configuration"),
        ));
    }
    let since = device.since_cut.map(Duration::from_millis).filter(|since| *since > LONG);
    if let (Some(since), 1.., false) = (since, device.sealed, device.held) {
        let why = "they hold memory until a backup succeeds";
        findings.push(about("its epochs and the time of the last cut", why).is(
            Level::Wrong,
            format!("{} epochs of {path} wait for their point, for {}", device.sealed, duration(since)),
            "a backup failed and was not made again: make one, or look why it fails",
        ));
    }
    findings
}

fn beside(path: &str, who: &str) -> Finding {
    let looked_at = "loop devices and open files of its backing file";
    about(looked_at, "such writes pass no block device of ours: they are not noticed").is(
        Level::Wrong,
        format!("{path} may be changed past the block layer: {who}"),
        "end it, and compare: blkdelta audit DEVICE --repo REPO --all",
    )
}

/// What does not stand still for a backup.
fn moving(device: &Tracked) -> Vec<Finding> {
    let path = &device.path;
    let kinds = device.unfreezable.iter().map(|(at, kind)| {
        let why = "a point of one that moves is consistent only as far as its manifest says";
        about("file systems mounted on it", why).is(
            Level::Note,
            format!("{kind} at {} on {path} cannot be frozen", at.display()),
            "use ext4, XFS or btrfs, or stop what writes to it while a backup runs (a job's `pre`)",
        )
    });
    let own = device.never_frozen.iter().map(|reason| {
        let why = "a backup that freezes its own files would wait for itself";
        about("where our own folders lie", why).is(
            Level::Note,
            format!("backups of {path} do not freeze: {reason}"),
            "its points are consistent as after a power cut; put the folder on another disk for more",
        )
    });
    kinds.chain(own).collect()
}

fn proof(device: &Tracked) -> Finding {
    let path = &device.path;
    let finding = Finding::new(
        "tracking",
        format!("programs, maps, bitmaps, counters and settings of {path}"),
        "a difference that cannot be proved complete is not used as one",
    );
    if device.suspect.is_empty() {
        return finding.fine(format!("{path} is tracked, and nothing is in doubt"));
    }
    finding.is(
        Level::Wrong,
        format!("{path} is suspect: {}", device.suspect.join("; ")),
        "the next backup compares everything, and all is well after it; if the reason comes back, look for who does it (`blkdelta monitor`)",
    )
}
