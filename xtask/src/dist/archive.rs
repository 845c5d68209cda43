//! The archive: for any Linux, unpacked anywhere.

use super::product::Product;
use super::{copy, licences, settle, stage};
use crate::command::quiet;
use crate::linked::TARGET;
use anyhow::Result;
use std::path::{Path, PathBuf};
use std::process::Command;

const DOCUMENTS: [&str; 3] = ["README.md", "CHANGELOG.md", "LICENSE"];

/// Makes it below `into`.
pub fn build(product: &Product, into: &Path) -> Result<PathBuf> {
    let root = &product.source.root;
    let name = format!("blkdelta-{}-{TARGET}", product.version);
    let folder = stage(into, &name)?;
    copy(&product.program, &folder.join("blkdelta"))?;
    for document in DOCUMENTS {
        copy(&root.join(document), &folder.join(document))?;
    }
    for (from, to) in [
        (root.join("docs"), "docs"),
        (root.join("packaging/systemd"), "systemd"),
        (product.papers.join("man8"), "man8"),
        (product.papers.join("completions"), "completions"),
    ] {
        quiet(Command::new("cp").arg("-r").arg(from).arg(folder.join(to)))?;
    }
    copy(&root.join("packaging/config.toml"), &folder.join("config.toml"))?;
    licences::write(&product.source, &folder.join("LICENSES"))?;
    settle(&folder, &|path| path.ends_with("blkdelta") && path.parent() == Some(&folder))?;
    let archive = into.join(format!("{name}.tar.gz"));
    let mut tar = product.dated("tar");
    tar.current_dir(into).args(["--sort=name", "--owner=0", "--group=0", "--numeric-owner", "--format=gnu"]);
    tar.arg(format!("--mtime=@{}", product.source.time));
    quiet(tar.args(["--use-compress-program", "gzip -9n", "-cf"]).arg(&archive).arg(&name))?;
    Ok(archive)
}
