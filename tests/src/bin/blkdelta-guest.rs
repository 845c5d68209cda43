//! The guest's init and its cases, one static program: `cargo xtask vm` puts it there.

use anyhow::{Result, bail};
use std::process::ExitCode;
use tests::guest::{cases, init, power, power_load, trial};

fn main() -> ExitCode {
    if std::process::id() == 1 {
        init::main();
    }
    let words: Vec<String> = std::env::args().skip(1).collect();
    match act(&words.iter().map(String::as_str).collect::<Vec<_>>()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("blkdelta-guest: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn act(words: &[&str]) -> Result<()> {
    match words {
        ["wire"] => init::wire(),
        ["list"] => cases::list(),
        ["keep-programs"] => trial::keep_programs(),
        ["power", "prepare", seed] => power::prepare(seed.parse()?),
        ["power", "warm"] => power::warm(),
        ["power", "awake", seconds, boot] => power::awake(seconds, boot),
        ["power", "verify"] => power::verify(false),
        ["power", "verify", "prune"] => power::verify(true),
        ["power", "write", seed] => power_load::write(seed.parse()?),
        ["power", "stop", seed, ms] => power_load::stop(seed.parse()?, ms.parse()?),
        ["case", name] => cases::run(name),
        _ => bail!("this runs in guests of `cargo xtask vm`: list | keep-programs | case NAME | power …"),
    }
}
