//! `cargo xtask ebpf [--check]`: builds the kernel side into the object that the collector embeds.
//!
//! The object is committed, so that users need stable Rust and nothing else. It must be a function of
//! the source, Cargo.lock and the rustc release alone: paths are remapped, the DWARF sections (which
//! the kernel does not read) dropped, the BTF kept. `--check` compares byte for byte.

mod elf;

use crate::command::{cargo, run, say};
use crate::setup::toolchain::Toolchain;
use crate::workspace::{Workspace, write_file};
use anyhow::{Context, Result, bail};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

const TARGET: &str = "bpfel-unknown-none";
const BINARY: &str = "blkdelta-ebpf";
/// Set here and not in Cargo.toml: no other build may use them, and they are part of the object.
const PROFILE: [&str; 7] = [
    "inherits=\"release\"",
    "opt-level=3",
    "lto=\"fat\"",
    "codegen-units=1",
    "panic=\"abort\"",
    "debug=2",
    "overflow-checks=false",
];

/// Builds the object and writes or compares it.
pub fn ebpf(ws: &Workspace, check: bool) -> Result<()> {
    let toolchain = Toolchain::ensure(ws)?;
    let built = build(ws, &toolchain, "kernel")?;
    let committed = ws.ebpf_object();
    let old = fs::read(&committed).unwrap_or_default();
    let name = ws.relative(&committed);
    if old == built {
        say(format!("{name} is what the source gives ({} bytes)", built.len()));
        return Ok(());
    }
    if check {
        let fresh = ws.target.join("ebpf/built.bpf.o");
        write_file(&fresh, &built)?;
        bail!(
            "{name} ({} bytes) is not what the source gives ({} bytes, kept at {}): run `cargo xtask ebpf` and commit {name}",
            old.len(),
            built.len(),
            fresh.display()
        );
    }
    write_file(&committed, &built)?;
    say(format!("wrote {name} ({} bytes)", built.len()));
    Ok(())
}

/// Builds the programs that can have faults planted, for tests alone: never committed, never embedded. Where they are.
pub fn planted(ws: &Workspace) -> Result<PathBuf> {
    let built = build(ws, &Toolchain::ensure(ws)?, "kernel,planted")?;
    let path = ws.target.join("ebpf/planted.bpf.o");
    write_file(&path, &built)?;
    Ok(path)
}

/// Lints the programs themselves, which a lint of the workspace does not compile.
pub fn clippy(ws: &Workspace) -> Result<()> {
    let toolchain = Toolchain::ensure(ws)?;
    for features in ["kernel", "kernel,planted"] {
        let mut clippy = prepare(ws, &toolchain, "clippy", features)?;
        run(clippy.args(["--", "-D", "warnings"])).context("lint the kernel side")?;
    }
    Ok(())
}

fn build(ws: &Workspace, toolchain: &Toolchain, features: &str) -> Result<Vec<u8>> {
    run(&mut prepare(ws, toolchain, "build", features)?).context("build the kernel side")?;
    let object = ws.target.join("ebpf").join(TARGET).join("ebpf").join(BINARY);
    let bytes = fs::read(&object).with_context(|| format!("read {}", object.display()))?;
    elf::without_debug(&bytes).with_context(|| format!("strip {}", object.display()))
}

/// A cargo verb on the programs, with everything that the object depends on.
fn prepare(ws: &Workspace, toolchain: &Toolchain, verb: &str, features: &str) -> Result<Command> {
    let target = ws.target.join("ebpf");
    let mut build = cargo();
    build.current_dir(&ws.root).arg(verb).args(["--locked", "--package", BINARY, "--bin", BINARY]);
    build.args(["--features", features, "--profile", "ebpf", "-Z", "build-std=core", "--target", TARGET]);
    for setting in PROFILE {
        build.arg("--config").arg(format!("profile.ebpf.{setting}"));
    }
    // core is built from source by a stable compiler: only for this build, never for the collector
    build.env("RUSTC_BOOTSTRAP", "1").env("RUSTC", &toolchain.rustc).env("CARGO_TARGET_DIR", &target);
    build.env("CARGO_ENCODED_RUSTFLAGS", flags(ws, toolchain)?.join("\u{1f}"));
    // the bindings are chosen by the kernel's architecture; the block layer's hooks do not differ by it
    build.env("AYA_BPF_TARGET_ARCH", "x86_64");
    for name in ["RUSTFLAGS", "RUSTC_WRAPPER", "RUSTC_WORKSPACE_WRAPPER"] {
        build.env_remove(name);
    }
    Ok(build)
}

fn flags(ws: &Workspace, toolchain: &Toolchain) -> Result<Vec<String>> {
    let mut flags = vec![format!("-Clinker={}", toolchain.linker.display()), "-Clink-arg=--btf".into()];
    let mut remap =
        |from: &Path, to: &str| flags.push(format!("--remap-path-prefix={}={to}", from.display()));
    // the last prefix that fits wins: wider ones first
    remap(&ws.root, "/blkdelta");
    remap(&ws.target, "/target");
    remap(&toolchain.source, "/rust");
    for folder in unpacked_crates()? {
        remap(&folder, "/crates");
    }
    Ok(flags)
}

/// Folders of unpacked crates; their names differ with the registry's address. There is at least one,
/// because xtask itself was built from it.
fn unpacked_crates() -> Result<Vec<PathBuf>> {
    let home = match std::env::var_os("CARGO_HOME") {
        Some(home) => PathBuf::from(home),
        None => PathBuf::from(std::env::var_os("HOME").context("neither CARGO_HOME nor HOME is set")?)
            .join(".cargo"),
    };
    let sources = home.join("registry/src");
    let Ok(entries) = fs::read_dir(&sources) else { return Ok(Vec::new()) };
    let mut folders: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
    folders.sort();
    Ok(folders)
}
