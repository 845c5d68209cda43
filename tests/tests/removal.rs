//! Promise: what is removed leaves nothing in the kernel, whatever became of the devices: the package's removal stands on it.

use anyhow::{Result, ensure};
use tests::device::Loop;
use tests::product::Home;
use tests::scratch::Scratch;
use tests::{host, skip_if};

/// One device is there, one is gone, the name of one leads to a device that is not tracked.
#[test]
fn untrack_all_leaves_nothing_pinned() -> Result<()> {
    const NAME: &str = "removal::untrack_all_leaves_nothing_pinned";
    skip_if!(host::no_tracking(), NAME);
    let scratch = Scratch::new("removal")?;
    let home = Home::new(&scratch)?;
    let devices = ["there", "gone", "renamed", "stranger"].map(|name| Loop::new(&scratch, name, 8 << 20));
    let [there, gone, renamed, stranger] = devices;
    let (there, gone, renamed, stranger) = (there?, gone?, renamed?, stranger?);
    let name = scratch.path().join("by-name");
    std::os::unix::fs::symlink(renamed.path(), &name)?;
    for device in [there.path(), gone.path(), &name] {
        home.ok(["track".as_ref(), device.as_os_str()])?;
    }
    gone.vanish()?;
    std::fs::remove_file(&name)?;
    std::os::unix::fs::symlink(stranger.path(), &name)?;
    let pins = home.path().join("bpf");
    ensure!(std::fs::read_dir(&pins)?.next().is_some(), "nothing was pinned in {}", pins.display());
    let said = home.ok(["untrack", "--all"])?;
    ensure!(said.lines().count() == 3, "untrack --all said {said:?}");
    // some kernels put iterators of their own there (kernel/bpf/preload)
    let ours = |path: &std::path::PathBuf| path.extension().is_none_or(|end| end != "debug");
    let left: Vec<_> = std::fs::read_dir(&pins)?.flatten().map(|entry| entry.path()).filter(ours).collect();
    ensure!(left.is_empty(), "still pinned: {left:?}");
    let status = home.json(["status"])?;
    ensure!(status.as_array().is_some_and(Vec::is_empty), "still tracked: {status}");
    // with nothing tracked it is done at once
    home.ok(["untrack", "--all"]).map(drop)
}
