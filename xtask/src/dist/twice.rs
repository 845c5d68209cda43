//! `cargo xtask dist --check`: the same source in another folder, built into another target folder, gives the same bytes.

use super::product::Source;
use crate::command::{say, text};
use crate::workspace::fresh_dir;
use anyhow::{Context, Result, bail};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Builds a second time and compares with what was made. What differs is kept; the rest of the second build goes.
pub fn check(source: &Source, place: &Path, made: &[PathBuf]) -> Result<()> {
    let second = place.join("second");
    fresh_dir(&second)?;
    let elsewhere = second.join("a/longer/path/to/source");
    fs::create_dir_all(&elsewhere).context("make a second place")?;
    copy_source(&source.root, &elsewhere)?;
    say("building it again, elsewhere");
    let again = super::make(&Source { root: elsewhere, time: source.time }, &second);
    let kept = again.and_then(|again| differing(made, &again));
    let differ = match kept {
        Ok(differ) => differ,
        Err(error) => {
            let _ = fs::remove_dir_all(&second);
            return Err(error);
        }
    };
    if differ.is_empty() {
        fs::remove_dir_all(&second).context("remove the second build")?;
        say(format!("two builds, in two places: the same {} files", made.len()));
        return Ok(());
    }
    // the build itself takes more than a gigabyte
    fs::remove_dir_all(second.join("build")).context("remove the second build")?;
    bail!("two builds differ:\n{}", differ.join("\n"))
}

/// What differs, in words.
fn differing(made: &[PathBuf], again: &[PathBuf]) -> Result<Vec<String>> {
    let mut differ = Vec::new();
    for (one, other) in made.iter().zip(again) {
        let read = |path: &Path| fs::read(path).with_context(|| format!("read {}", path.display()));
        let (a, b) = (read(one)?, read(other)?);
        if a != b {
            let at = a.iter().zip(&b).take_while(|(a, b)| a == b).count();
            differ.push(format!("{} and {} from byte {at} on", one.display(), other.display()));
        }
    }
    Ok(differ)
}

/// The files that git knows or would add, as they are now.
fn copy_source(root: &Path, to: &Path) -> Result<()> {
    let mut list = Command::new("git");
    list.current_dir(root).args(["ls-files", "--cached", "--others", "--exclude-standard", "--deduplicate"]);
    let list = text(&mut list).context("list the source")?;
    let there: String =
        list.lines().filter(|path| root.join(path).exists()).map(|path| format!("{path}\n")).collect();
    let names = to.with_extension("names");
    crate::workspace::write_file(&names, there.as_bytes())?;
    let mut pack = Command::new("tar");
    pack.current_dir(root).args(["-c", "--no-recursion", "-T"]).arg(&names).stdout(Stdio::piped());
    let mut pack = pack.spawn().context("start tar")?;
    let out = pack.stdout.take().context("output of tar")?;
    let mut unpack = Command::new("tar");
    let unpacked = unpack.current_dir(to).arg("-x").stdin(out).status().context("start tar")?;
    let packed = pack.wait().context("wait for tar")?;
    if !(packed.success() && unpacked.success()) {
        bail!("copying the source: tar ended with {packed} and {unpacked}");
    }
    fs::remove_file(&names).context("remove the list of the source")
}
