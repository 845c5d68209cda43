//! `cargo xtask build`: the program as users get it.

use crate::command::{cargo, run};
use crate::workspace::Workspace;
use anyhow::{Context, Result, bail};
use std::path::{Path, PathBuf};

/// How a test build is told which faults to plant, and which points to die at. What users get knows neither.
const TESTS_ONLY: [&str; 2] = ["BLKDELTA_PLANT", "BLKDELTA_FAILPOINT"];

/// Builds the optimised program; where it is.
pub fn build(ws: &Workspace) -> Result<PathBuf> {
    let mut build = cargo();
    build.current_dir(&ws.root).env("CARGO_TARGET_DIR", &ws.target);
    run(build.args(["build", "--locked", "--release", "--package", "collector", "--bin", "blkdelta"]))?;
    let program = ws.target.join("release/blkdelta");
    refuse_faults(&program)?;
    Ok(program)
}

/// An error if a program can be told to fail: it was built for tests.
pub fn refuse_faults(program: &Path) -> Result<()> {
    let bytes = std::fs::read(program).with_context(|| format!("read {}", program.display()))?;
    let found = TESTS_ONLY.iter().find(|word| holds(&bytes, word));
    match found {
        Some(word) => bail!("{} knows {word}: it was built for tests", program.display()),
        None => Ok(()),
    }
}

fn holds(bytes: &[u8], word: &str) -> bool {
    bytes.windows(word.len()).any(|window| window == word.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_that_can_be_told_to_fail_is_not_given_away() {
        // this very program holds the words
        let us = std::env::current_exe().unwrap();
        assert!(refuse_faults(&us).is_err());
        assert!(refuse_faults(Path::new("/bin/sh")).is_ok());
    }
}
