//! What a dm or md device is put together from: its content changes without a write when that does.
//!
//! dm: the live table (`DM_TABLE_STATUS`, include/uapi/linux/dm-ioctl.h, unchanged 5.17 to 7.3). Only its hash
//! is kept: a dm-crypt table may hold the key. md: the members as the array holds them, told apart by the inode
//! number of their folder in sysfs, which the kernel never uses again for one made later (`kernfs_new_node`).

use super::{BlockDevice, Driver, dev_of, names_in};
use crate::error::{Context, Error, Kind, Result};
use crate::sys::ioctl;
use serde::{Deserialize, Serialize};
use std::os::unix::fs::MetadataExt;

/// What a device is put together from; empty for one that is not put together.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Makeup {
    /// dm: hash of the live table.
    table: Option<String>,
    /// dm: the kinds of its targets, in order, each once.
    targets: Vec<String>,
    /// md: its level.
    level: Option<String>,
    /// md: its members.
    members: Vec<u64>,
}

/// One line of a dm table.
pub(crate) struct TableLine {
    pub(crate) start: u64,
    pub(crate) length: u64,
    pub(crate) target: String,
    pub(crate) parameters: Vec<u8>,
}

impl Makeup {
    /// Of a whole disk, as it is now.
    ///
    /// # Errors
    /// If the kernel does not tell.
    pub fn of(disk: &BlockDevice) -> Result<Self> {
        match disk.driver {
            Driver::DeviceMapper => Self::of_dm(disk),
            Driver::Md => Self::of_md(disk),
            _ => Ok(Self::default()),
        }
    }

    fn of_dm(disk: &BlockDevice) -> Result<Self> {
        let lines = ioctl::dm_table(disk.dev >> 20, disk.dev & 0xf_ffff)
            .os_context(|| format!("read the table of {}", disk.path.display()))?;
        Ok(Self::of_table(&lines))
    }

    fn of_table(lines: &[TableLine]) -> Self {
        let mut hash = blake3::Hasher::new();
        let mut targets: Vec<String> = Vec::new();
        for line in lines {
            hash.update(
                format!("{} {} {} {}:", line.start, line.length, line.target, line.parameters.len())
                    .as_bytes(),
            );
            hash.update(&line.parameters);
            if !targets.contains(&line.target) {
                targets.push(line.target.clone());
            }
        }
        Self { table: Some(hash.finalize().to_hex().to_string()), targets, ..Self::default() }
    }

    fn of_md(disk: &BlockDevice) -> Result<Self> {
        let folder = disk.sysfs().join("md");
        let level = std::fs::read_to_string(folder.join("level"));
        let level = level.os_context(|| format!("read {}/level", folder.display()))?.trim().to_owned();
        let names = names_in(&folder).into_iter().filter(|name| name.starts_with("dev-"));
        let members =
            names.filter_map(|name| Some(std::fs::metadata(folder.join(name)).ok()?.ino())).collect();
        Ok(Self { level: Some(level), members, ..Self::default() })
    }

    /// Hash of a dm device's live table.
    pub fn table(&self) -> Option<&str> {
        self.table.as_deref()
    }

    /// Kinds of a dm device's targets.
    pub fn targets(&self) -> &[String] {
        &self.targets
    }

    /// Level of an md array (`raid1`, `linear`, …).
    pub fn level(&self) -> Option<&str> {
        self.level.as_deref()
    }

    /// Why the device may hold something else than when it was `before`, if so. An md array keeps its content
    /// while members come and go, as long as one stays all the time.
    pub fn change_since(&self, before: &Self) -> Option<String> {
        if self.table != before.table {
            return Some("its device-mapper table was changed".into());
        }
        let stayed = self.members.iter().any(|member| before.members.contains(member));
        (self.members != before.members && !stayed)
            .then(|| "its md array was stopped and put together again".into())
    }

    /// An error unless there is anything to be put together from.
    ///
    /// # Errors
    /// `Unsupported` for a dm device without a live table, or an md array without members.
    pub fn ensure_complete(&self, disk: &BlockDevice) -> Result<()> {
        let empty = match disk.driver {
            Driver::DeviceMapper => self.targets.is_empty(),
            Driver::Md => self.members.is_empty(),
            _ => false,
        };
        match empty {
            true => Err(Error::new(
                Kind::Unsupported,
                format!("{} is put together from nothing", disk.path.display()),
            )),
            false => Ok(()),
        }
    }
}

/// The multipath device that `disk` is a path of, if so. By its UUID, which multipathd gives it
/// (`mpath-…`); one without a UUID by its table, where we are let to see that.
pub fn multipath_above(disk: &BlockDevice) -> Option<String> {
    let folder = disk.sysfs().join("holders");
    disk.holders().into_iter().find(|name| {
        let above = dev_of(&folder.join(name)).and_then(BlockDevice::of_number);
        above.is_ok_and(|above| match &above.uuid {
            Some(uuid) => uuid.starts_with("mpath-"),
            None => Makeup::of(&above).is_ok_and(|makeup| makeup.targets.iter().any(|t| t == "multipath")),
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(start: u64, target: &str, parameters: &str) -> TableLine {
        TableLine { start, length: 8, target: target.into(), parameters: parameters.into() }
    }

    #[test]
    fn a_changed_table_is_told_and_no_key_is_kept() {
        let one = Makeup::of_table(&[line(0, "crypt", "aes 5ec2e7 0 8:0 0"), line(8, "linear", "8:0 9")]);
        let same = Makeup::of_table(&[line(0, "crypt", "aes 5ec2e7 0 8:0 0"), line(8, "linear", "8:0 9")]);
        let other = Makeup::of_table(&[line(0, "crypt", "aes 5ec2e7 0 8:0 1"), line(8, "linear", "8:0 9")]);
        assert_eq!(one.change_since(&same), None);
        assert!(other.change_since(&one).unwrap().contains("table"));
        assert!(Makeup::of_table(&[]).change_since(&one).is_some());
        assert_eq!(one.targets(), ["crypt", "linear"]);
        assert!(!serde_json::to_string(&one).unwrap().contains("5ec2e7"));
    }

    #[test]
    fn an_array_lives_while_one_member_stays() {
        let of = |members: &[u64]| Makeup {
            level: Some("raid1".into()),
            members: members.into(),
            ..Makeup::default()
        };
        assert_eq!(of(&[1, 2]).change_since(&of(&[1, 2])), None);
        assert_eq!(of(&[2, 3]).change_since(&of(&[1, 2])), None);
        assert!(of(&[3, 4]).change_since(&of(&[1, 2])).is_some());
        assert!(of(&[]).change_since(&of(&[1, 2])).is_some());
        assert_eq!(Makeup::default().change_since(&Makeup::default()), None);
    }
}
