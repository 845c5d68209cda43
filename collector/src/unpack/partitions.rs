//! Where in a device's image its file systems lie: the whole of it, or partitions.

use crate::block::Extent;
use crate::error::{Context, Error, Kind, Result};
use serde::Deserialize;
use std::path::Path;
use std::process::Command;

/// A file system in an image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Found {
    /// Number of the partition; `None`: the whole device.
    pub partition: Option<u32>,
    /// Where.
    pub extent: Extent,
    /// Its type, as blkid(8) names it.
    pub kind: String,
}

/// What sfdisk(8) prints with `--json`.
#[derive(Deserialize)]
struct Printed {
    partitiontable: Table,
}

#[derive(Deserialize)]
struct Table {
    #[serde(default)]
    partitions: Vec<Partition>,
}

#[derive(Deserialize)]
struct Partition {
    node: String,
    start: u64,
    size: u64,
}

/// The file system that is meant: that of the partition asked for, else the only one there is.
///
/// # Errors
/// [`Kind::NotFound`] if there is none; [`Kind::Usage`] if there are several.
pub(super) fn find(image: &Path, size: u64, asked: Option<u32>) -> Result<Found> {
    let whole = Extent::new(0, size);
    let mut all = Vec::new();
    if asked.is_none()
        && let Some(kind) = kind(image, whole)?
    {
        all.push(Found { partition: None, extent: whole, kind });
    }
    if all.is_empty() {
        for (number, extent) in partitions(image)?.into_iter().filter(|(n, _)| asked.is_none_or(|a| a == *n))
        {
            if let Some(kind) = kind(image, extent)? {
                all.push(Found { partition: Some(number), extent, kind });
            }
        }
    }
    choose(all, asked)
}

fn choose(mut all: Vec<Found>, asked: Option<u32>) -> Result<Found> {
    match (all.len(), asked) {
        (1, _) => Ok(all.remove(0)),
        (0, Some(number)) => {
            let text = format!("the point has no partition {number} with a file system that can be mounted");
            Err(Error::new(Kind::NotFound, text))
        }
        (0, None) => Err(Error::new(Kind::NotFound, "the point holds no file system that can be mounted")
            .hint("restore it to a device or file, and look there")),
        _ => {
            let name = |found: &Found| format!("{} ({})", found.partition.unwrap_or(0), found.kind);
            let names = all.iter().map(name).collect::<Vec<_>>().join(", ");
            let text = format!("the point holds file systems on partitions {names}");
            Err(Error::new(Kind::Usage, text).hint("say which one with --partition"))
        }
    }
}

/// Partitions of an image with a table, by their numbers.
fn partitions(image: &Path) -> Result<Vec<(u32, Extent)>> {
    let what = || "look for partitions: run sfdisk (Debian: fdisk)".to_owned();
    let output = Command::new("sfdisk").arg("--json").arg(image).output().os_context(what)?;
    // without a table it fails
    if !output.status.success() {
        return Ok(Vec::new());
    }
    let printed: Printed = serde_json::from_slice(&output.stdout)
        .map_err(|e| Error::caused(Kind::Damaged, "what sfdisk printed cannot be read", e))?;
    Ok(printed.partitiontable.partitions.iter().filter_map(|p| located(image, p)).collect())
}

/// `FILE1`, or `FILEp1` where the file's name ends with a digit; in sectors of 512 bytes.
fn located(image: &Path, partition: &Partition) -> Option<(u32, Extent)> {
    let tail = partition.node.strip_prefix(image.to_str()?)?;
    let number = tail.trim_start_matches('p').parse().ok()?;
    Some((number, Extent::new(partition.start.checked_mul(512)?, partition.size.checked_mul(512)?)))
}

/// The type of the file system there, if it is one.
fn kind(image: &Path, extent: Extent) -> Result<Option<String>> {
    let what = || "look for a file system: run blkid (Debian: util-linux)".to_owned();
    let mut blkid = Command::new("blkid");
    blkid.args(["-p", "-u", "filesystem", "-o", "value", "-s", "TYPE"]);
    blkid.args(["-O", &extent.offset.to_string(), "-S", &extent.length.to_string()]).arg(image);
    let output = blkid.output().os_context(what)?;
    let said = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    Ok(Some(said).filter(|kind| output.status.success() && !kind.is_empty()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_is_a_number() {
        let part = |node: &str| Partition { node: node.into(), start: 2048, size: 10 };
        let at = Extent::new(1 << 20, 5120);
        assert_eq!(located(Path::new("/x/image"), &part("/x/image2")), Some((2, at)));
        assert_eq!(located(Path::new("/x/image0"), &part("/x/image0p12")), Some((12, at)));
        assert_eq!(located(Path::new("/x/image"), &part("/y/image2")), None);
    }

    #[test]
    fn one_file_system_is_meant_and_several_are_named() {
        let found = |n| Found { partition: Some(n), extent: Extent::new(0, 1), kind: "ext4".into() };
        assert_eq!(choose(vec![found(3)], None).unwrap(), found(3));
        assert_eq!(choose(Vec::new(), None).unwrap_err().kind(), Kind::NotFound);
        let error = choose(vec![found(1), found(2)], None).unwrap_err();
        assert_eq!(error.kind(), Kind::Usage);
        assert!(error.to_string().contains("1 (ext4), 2 (ext4)"), "{error}");
    }
}
