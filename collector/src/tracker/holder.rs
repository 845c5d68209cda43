//! Who holds a lock, without trying to take it: whoever looks must not make a backup fail.
//!
//! `/proc/locks` (`lock_get_status`, fs/locks.c, 6.1 to 7.3): `1: FLOCK  ADVISORY  WRITE 708 00:1a:131 0 EOF`.

use std::path::Path;

/// The process that holds the lock at `path`; `None`: nobody, or it cannot be seen from here.
pub fn holder(path: &Path) -> Option<u32> {
    let stat = rustix::fs::stat(path).ok()?;
    let file = (rustix::fs::major(stat.st_dev), rustix::fs::minor(stat.st_dev), stat.st_ino);
    find(&std::fs::read_to_string("/proc/locks").ok()?, file)
}

/// Device (major, minor) and inode of the lock's file.
fn find(locks: &str, file: (u32, u32, u64)) -> Option<u32> {
    let held = locks.lines().filter_map(|line| {
        // a waiter's line has `->` in the second place
        let words: Vec<&str> = line.split_ascii_whitespace().collect();
        let ["FLOCK", _, _, process, place, ..] = words.get(1..)? else { return None };
        let mut parts = place.split(':');
        let hex = |part: Option<&str>| u32::from_str_radix(part?, 16).ok();
        let found = (hex(parts.next())?, hex(parts.next())?, parts.next()?.parse().ok()?);
        (found == file).then(|| process.parse().ok())?
    });
    held.into_iter().next()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tracker::Lock;

    #[test]
    fn holders_are_told_from_waiters_and_other_files() {
        let locks = "1: FLOCK  ADVISORY  WRITE 708 00:1a:131 0 EOF\n2: POSIX  ADVISORY  WRITE 7 00:1a:9 0 EOF\n\
                     3: FLOCK  ADVISORY  WRITE 9 fd:01:131 0 EOF\n3: -> FLOCK  ADVISORY  WRITE 10 fd:01:132 0 EOF\nx\n";
        assert_eq!(find(locks, (0, 0x1a, 131)), Some(708));
        assert_eq!(find(locks, (0xfd, 1, 131)), Some(9));
        assert_eq!(find(locks, (0xfd, 1, 132)), None);
        assert_eq!(find(locks, (0, 0x1a, 9)), None);
    }

    #[test]
    fn our_own_lock_is_seen_and_stays_ours() {
        let dir = tempfile::tempdir_in("/dev/shm").unwrap();
        let path = dir.path().join("lock");
        assert_eq!(holder(&path), None);
        let lock = Lock::take(&path, "test", false).unwrap();
        assert_eq!(holder(&path), Some(std::process::id()));
        drop(lock);
        assert_eq!(holder(&path), None);
    }
}
