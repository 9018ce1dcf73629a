//! The Python package: its own tests, run over a build of it (`python/tests/run.sh`).

#![cfg(feature = "cli")]

use std::path::Path;
use std::process::Command;

#[test]
fn the_python_package_passes_its_tests() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let output = Command::new(root.join("python/tests/run.sh"))
        .current_dir(root)
        .env("TENPAK_COMMAND", env!("CARGO_BIN_EXE_tenpak"))
        .output()
        .unwrap();
    let told = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{told}{}", String::from_utf8_lossy(&output.stderr));
    // Nothing was left out: what is missing here is a failure, not a skip.
    assert!(told.contains(" passed") && !told.contains("skipped"), "{told}");
}
