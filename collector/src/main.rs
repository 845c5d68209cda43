//! The program: everything is in the library, `collector::cli`.

use std::process::ExitCode;

fn main() -> ExitCode {
    collector::cli::main()
}
