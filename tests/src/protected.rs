//! A device under the product's care, through the binary alone: track, back up, restore, compare.

use crate::image::Image;
use crate::product::{Ended, Home};
use crate::scratch::Scratch;
use anyhow::{Context, Result, bail, ensure};
use collector::block::{Extent, ExtentSet};
use serde_json::Value;
use std::path::{Path, PathBuf};

/// A tracked device, its repository and its home.
#[derive(Debug)]
pub struct Protected<'a> {
    scratch: &'a Scratch,
    /// Where pins and state are.
    pub home: Home,
    /// The device.
    pub device: PathBuf,
    /// The repository.
    pub repo: PathBuf,
}

/// What `backup --json` says about a new point.
#[derive(Clone, Debug)]
pub struct Point {
    /// Its id.
    pub id: String,
    /// Everything that was printed.
    pub json: Value,
    /// Exit code: 0, or 3 if suspect.
    pub code: i32,
}

impl<'a> Protected<'a> {
    /// Starts tracking `device`; the repository is a new folder in the scratch folder.
    pub fn new(scratch: &'a Scratch, device: &Path) -> Result<Self> {
        let home = Home::new(scratch)?;
        home.ok(["track".as_ref(), device.as_os_str()])?;
        Ok(Self { scratch, home, device: device.into(), repo: scratch.fresh("repo") })
    }

    /// A device that is tracked already, with a new repository.
    pub fn adopt(scratch: &'a Scratch, home: Home, device: &Path) -> Self {
        Self { scratch, home, device: device.into(), repo: scratch.fresh("repo") }
    }

    /// The words of a backup command.
    pub fn backup_words(&self, more: &[&str]) -> Vec<String> {
        let mut words = vec!["backup".to_string(), self.device.display().to_string()];
        words.extend(["--repo".to_string(), self.repo.display().to_string()]);
        words.extend(more.iter().map(ToString::to_string));
        words
    }

    /// Makes a point; an error unless the exit code is 0 or 3.
    pub fn backup(&self, more: &[&str]) -> Result<Point> {
        let mut words = self.backup_words(more);
        words.push("--json".into());
        let ended = self.home.run(&words)?;
        let code = match ended.code {
            Some(code @ (0 | 3)) => code,
            _ => bail!("blkdelta {}: {ended}", words.join(" ")),
        };
        let json: Value = serde_json::from_str(&ended.out)
            .with_context(|| format!("backup --json printed {:?}", ended.out))?;
        let id = json["point"].as_str().with_context(|| format!("no point in {json}"))?.to_string();
        Ok(Point { id, json, code })
    }

    /// Makes a point and insists that it is a trustworthy incremental.
    pub fn incremental(&self) -> Result<Point> {
        let point = self.backup(&[])?;
        ensure!(point.code == 0, "called suspect: {}", point.json);
        ensure!(point.kind() == "incremental", "wanted an incremental: {}", point.json);
        Ok(point)
    }

    /// Restores a point (or `latest`) to a new file; its path.
    pub fn restore_file(&self, point: &str) -> Result<PathBuf> {
        let target = self.scratch.fresh("restored");
        let ended = self.restore(point, &target)?;
        // 3: the point is suspect; whether it is right all the same is what the caller finds out
        ensure!(matches!(ended.code, Some(0 | 3)), "restore of {point}: {ended}");
        if ended.code == Some(3) {
            crate::host::say(&format!("restore of {point}: {ended}"));
        }
        Ok(target)
    }

    /// Restores a point to a new file; what is in it.
    pub fn restored(&self, point: &str) -> Result<Image> {
        let target = self.restore_file(point)?;
        let image = Image::of_file(&target)?;
        std::fs::remove_file(target)?;
        Ok(image)
    }

    /// Runs a restore to its end, whatever that is.
    pub fn restore(&self, point: &str, target: &Path) -> Result<Ended> {
        let repo = self.repo.display().to_string();
        let target = target.display().to_string();
        self.home.run(["restore", "--repo", &repo, "--point", point, &target])
    }

    /// Ids of all points of the repository, oldest first.
    pub fn points(&self) -> Result<Vec<String>> {
        let list = self.home.json(["list", "--repo", &self.repo.display().to_string()])?;
        let points = list.as_array().with_context(|| format!("list: {list}"))?;
        points.iter().map(|p| Ok(p["id"].as_str().with_context(|| format!("no id in {p}"))?.into())).collect()
    }

    /// Every stored byte is sound.
    pub fn ensure_sound(&self) -> Result<()> {
        let repo = self.repo.display().to_string();
        self.home.run(["check", "--repo", &repo, "--read-data"])?.expect(0, "check --read-data").map(|_| ())
    }

    /// The pending difference list, and why it is suspect.
    pub fn diff(&self) -> Result<(ExtentSet, Vec<String>)> {
        let json = self.home.json(["diff".as_ref(), self.device.as_os_str()])?;
        let extents = json["extents"].as_array().with_context(|| format!("no extents in {json}"))?;
        let extent = |e: &Value| Some(Extent::new(e["offset"].as_u64()?, e["length"].as_u64()?));
        let set: Option<Vec<Extent>> = extents.iter().map(extent).collect();
        let set = set.with_context(|| format!("extents of an unknown shape in {json}"))?;
        let suspect = json["suspect"].as_array().into_iter().flatten().map(ToString::to_string).collect();
        Ok((ExtentSet::from_unsorted(set), suspect))
    }

    /// An error unless the restored image of `point` is, byte for byte, `wanted`.
    pub fn ensure_restores_to(&self, point: &str, wanted: &Image, what: &str) -> Result<()> {
        ensure_same(&self.restored(point)?, wanted, what)
    }
}

impl Point {
    /// `full` or `incremental`.
    pub fn kind(&self) -> String {
        self.json["kind"].as_str().unwrap_or_default().to_lowercase()
    }
}

/// An error that names the first blocks in which two images differ.
pub fn ensure_same(got: &Image, wanted: &Image, what: &str) -> Result<()> {
    ensure!(got.size() == wanted.size(), "{what}: {} bytes instead of {}", got.size(), wanted.size());
    let differ = got.difference(wanted);
    let first: Vec<_> = differ.iter().take(6).map(|e| (e.offset, e.length)).collect();
    ensure!(differ.is_empty(), "{what}: {} bytes differ, first (offset, length) {first:?}", differ.total());
    Ok(())
}
