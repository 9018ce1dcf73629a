//! The `tenpak` command. Everything it does is in the library.

use std::process::ExitCode;

fn main() -> ExitCode {
    tenpak::cli::main()
}
