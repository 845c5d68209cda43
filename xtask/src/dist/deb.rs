//! The Debian package, made by dpkg-deb. No crate does it: what is to be done is a folder of files, four small texts
//! and one program that every Debian has.
//!
//! ```text
//!   /usr/bin/blkdelta                       /etc/blkdelta/config.toml   (the administrator's: kept over upgrades)
//!   /usr/lib/systemd/system/blkdelta*       /usr/share/man/man8/blkdelta*.8.gz
//!   /usr/share/{bash-completion/completions,zsh/vendor-completions,fish/vendor_completions.d}/
//!   /usr/share/doc/blkdelta/                README, docs/, examples/, copyright, changelog, LICENSES
//! ```
//! What its scripts do is in `packaging/debian`. docs/PACKAGING.md tells why.

use super::product::Product;
use super::{copy, files, licences, settle, stage};
use crate::command::{quiet, text, which};
use crate::workspace::write_file;
use anyhow::{Context, Result, ensure};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

const SCRIPTS: [&str; 3] = ["postinst", "prerm", "postrm"];
const CONFIGURATION: &str = "etc/blkdelta/config.toml";
const DOCUMENTS: &str = "usr/share/doc/blkdelta";
/// Of Debian, for what is built for `linked::TARGET`.
const ARCHITECTURE: &str = "amd64";
const MAINTAINER: &str = "The blkdelta founders <blkdelta@localhost>";
const DESCRIPTION: &str = "changed-block backup without a kernel module
 Small eBPF programs on the block layer's tracepoints mark every changed area of
 a disk; a backup copies the areas that were marked since the last one, and
 nothing else. It works on disks in use, keeps tracking with no process running,
 and checks its own list against the kernel's counters.
 .
 Tracking needs a kernel with BTF, which Debian's have. Restoring needs nothing
 of that and works on any machine.
";

/// Makes it below `into`.
pub fn build(product: &Product, into: &Path) -> Result<PathBuf> {
    ensure!(which("dpkg-deb").is_some(), "a Debian package is made by dpkg-deb, which is not here");
    let tree = stage(into, "deb")?;
    program(product, &tree)?;
    papers(product, &tree)?;
    documents(product, &tree)?;
    control(product, &tree)?;
    let package = into.join(format!("blkdelta_{}_{ARCHITECTURE}.deb", product.version));
    let mut build = product.dated("dpkg-deb");
    // several threads would divide what they compress by their number
    build.env("DPKG_DEB_THREADS_MAX", "1").args(["--root-owner-group", "-Zxz", "-z6", "--build"]);
    quiet(build.arg(&tree).arg(&package)).context("build the package")?;
    Ok(package)
}

fn program(product: &Product, tree: &Path) -> Result<()> {
    let packaging = product.source.root.join("packaging");
    copy(&product.program, &tree.join("usr/bin/blkdelta"))?;
    copy(&packaging.join("config.toml"), &tree.join(CONFIGURATION))?;
    for unit in files(&packaging.join("systemd"))? {
        let name = unit.file_name().context("name of a unit")?;
        let place = match unit.extension().is_some_and(|e| e == "conf") {
            true => tree.join(DOCUMENTS).join("examples"),
            false => tree.join("usr/lib/systemd/system"),
        };
        copy(&unit, &place.join(name))?;
    }
    Ok(())
}

fn papers(product: &Product, tree: &Path) -> Result<()> {
    for page in files(&product.papers.join("man8"))? {
        let to = tree.join("usr/share/man/man8").join(page.file_name().context("name of a page")?);
        copy(&page, &to)?;
        pack(&to)?;
    }
    for (name, place) in [
        ("blkdelta", "usr/share/bash-completion/completions"),
        ("_blkdelta", "usr/share/zsh/vendor-completions"),
        ("blkdelta.fish", "usr/share/fish/vendor_completions.d"),
    ] {
        copy(&product.papers.join("completions").join(name), &tree.join(place).join(name))?;
    }
    Ok(())
}

fn documents(product: &Product, tree: &Path) -> Result<()> {
    let (root, to) = (&product.source.root, tree.join(DOCUMENTS));
    for name in ["README.md", "CHANGELOG.md"] {
        copy(&root.join(name), &to.join(name))?;
    }
    for file in files(&root.join("docs"))? {
        copy(&file, &to.join("docs").join(file.file_name().context("name of a document")?))?;
    }
    copy(&root.join("packaging/config.toml"), &to.join("examples/config.toml"))?;
    licences::write(&product.source, &to.join("LICENSES"))?;
    pack(&to.join("LICENSES"))?;
    let licence = fs::read_to_string(root.join("LICENSE")).context("read LICENSE")?;
    let copyright = format!(
        "{licence}\n\nThe program is linked statically; what is in it besides, and under which licences: LICENSES.gz \
         beside this file.\nThe GNU C Library in it is under the LGPL, version 2.1 or later \
         (/usr/share/common-licenses/LGPL-2.1);\nits source is Debian's: {}.\n",
        libc()?
    );
    write_file(&to.join("copyright"), copyright.as_bytes())?;
    let mut date = product.dated("date");
    let date = text(date.args(["-u", "-R", &format!("--date=@{}", product.source.time)]))?;
    let changes = format!(
        "blkdelta ({}) unstable; urgency=medium\n\n  * See CHANGELOG.md beside this file.\n\n -- {MAINTAINER}  {date}",
        product.version
    );
    write_file(&to.join("changelog"), changes.as_bytes())?;
    pack(&to.join("changelog"))
}

fn pack(file: &Path) -> Result<()> {
    quiet(Command::new("gzip").arg("-9nf").arg(file)).map(drop)
}

/// The C library that is linked in.
fn libc() -> Result<String> {
    let shown = "--showformat=${source:Package} (= ${source:Version})";
    text(Command::new("dpkg-query").args(["--show", shown, "libc6-dev"]))
        .context("ask for the C library's version")
}

fn control(product: &Product, tree: &Path) -> Result<()> {
    let folder = tree.join("DEBIAN");
    for script in SCRIPTS {
        copy(&product.source.root.join("packaging/debian").join(script), &folder.join(script))?;
    }
    write_file(&folder.join("conffiles"), format!("/{CONFIGURATION}\n").as_bytes())?;
    let executable = |path: &Path| {
        path.ends_with("usr/bin/blkdelta")
            || path.parent() == Some(&folder) && SCRIPTS.iter().any(|s| path.ends_with(s))
    };
    let mut all = settle(tree, &executable)?;
    all.retain(|path| !path.starts_with(&folder));
    let size = all.iter().map(|path| Ok(fs::metadata(path)?.len().div_ceil(1024))).sum::<Result<u64>>()?;
    let names = all.iter().map(|path| path.strip_prefix(tree).map(Path::to_owned));
    let names: Vec<PathBuf> = names.collect::<Result<_, _>>().context("name of a packed file")?;
    let sums = text(Command::new("md5sum").current_dir(tree).args(names))?;
    write_file(&folder.join("md5sums"), sums.as_bytes())?;
    let control = format!(
        "Package: blkdelta\nVersion: {}\nArchitecture: {ARCHITECTURE}\nMaintainer: {MAINTAINER}\n\
         Installed-Size: {size}\nBuilt-Using: {}\nSuggests: python3, qemu-utils\nSection: admin\nPriority: optional\n\
         Description: {DESCRIPTION}",
        product.version,
        libc()?
    );
    write_file(&folder.join("control"), control.as_bytes())?;
    settle(&folder, &executable).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dist::product::Source;

    /// A package of a program that is not ours, with everything else as it is shipped.
    fn package(version: &str, into: &Path) -> PathBuf {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").canonicalize().unwrap();
        let papers = into.join("papers");
        for name in
            ["man8/blkdelta.8", "completions/blkdelta", "completions/_blkdelta", "completions/blkdelta.fish"]
        {
            copy(Path::new("/bin/true"), &papers.join(name)).unwrap();
        }
        let source = Source { root, time: 1_700_000_000 };
        let product = Product { source, program: "/bin/true".into(), papers, version: version.into() };
        build(&product, into).unwrap()
    }

    #[test]
    fn a_package_has_every_unit_and_the_same_bytes_each_time() {
        if which("dpkg-deb").is_none() || which("dpkg-query").is_none() {
            println!("SKIPPED: dist::deb: there is no dpkg here");
            return;
        }
        let scratch = std::env::temp_dir().join(format!("blkdelta-deb-{}", std::process::id()));
        let made = ["a", "deeper/b"].map(|name| package("1.2", &scratch.join(name)));
        let bytes = made.each_ref().map(|path| fs::read(path).unwrap());
        let list = text(Command::new("dpkg-deb").arg("--contents").arg(&made[0])).unwrap();
        let info = text(Command::new("dpkg-deb").arg("--info").arg(&made[0])).unwrap();
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        let units = files(&root.join("packaging/systemd")).unwrap();
        let scripts = SCRIPTS.map(|script| root.join("packaging/debian").join(script));
        fs::remove_dir_all(&scratch).unwrap();
        assert!(bytes[0] == bytes[1], "two packages of the same differ");
        assert!(info.contains(" Version: 1.2\n"), "{info}");
        for unit in units.iter().filter(|unit| unit.extension().is_some_and(|e| e != "conf")) {
            let name = unit.file_name().unwrap().to_string_lossy().into_owned();
            assert!(
                list.contains(&format!("./usr/lib/systemd/system/{name}\n")),
                "{name} is not packed: {list}"
            );
        }
        let line = |name: &str| list.lines().find(|line| line.ends_with(name)).unwrap_or_default().to_owned();
        assert!(line("/usr/bin/blkdelta").starts_with("-rwxr-xr-x root/root"), "{list}");
        assert!(line("/etc/blkdelta/config.toml").starts_with("-rw-r--r-- root/root"), "{list}");
        assert!(list.lines().all(|line| line.contains("2023-11-14")), "something is dated otherwise: {list}");
        for script in scripts {
            quiet(Command::new("sh").arg("-n").arg(script)).unwrap();
        }
    }
}
