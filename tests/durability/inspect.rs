//! `wal-tools verify` on the directory of a broker, run as users run it.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::OnceLock;

/// Checks every file under `data`.
pub fn verify(data: &Path) -> Output {
    Command::new(wal_tools()).arg("verify").arg(data).output().unwrap()
}

/// Returns the tool beside the broker's binary; building it when only this test was asked for.
pub fn wal_tools() -> &'static Path {
    static PATH: OnceLock<PathBuf> = OnceLock::new();
    PATH.get_or_init(|| {
        let broker = Path::new(env!("CARGO_BIN_EXE_fluxmq"));
        let dir = broker.parent().unwrap();
        let path = dir.join("wal-tools");
        if !path.exists() {
            let name = dir.file_name().unwrap().to_str().unwrap();
            let profile = if name == "debug" { "dev" } else { name };
            let built = Command::new(env!("CARGO"))
                .args(["build", "--quiet", "-p", "wal-tools", "--profile", profile])
                .arg("--target-dir")
                .arg(dir.parent().unwrap())
                .current_dir(env!("CARGO_MANIFEST_DIR"))
                .status()
                .unwrap();
            assert!(built.success(), "wal-tools does not build");
        }
        path
    })
}

/// Panics unless the tool's exit code is one of `codes`.
pub fn assert_verifies(data: &Path, codes: &[i32]) {
    let output = verify(data);
    let code = output.status.code();
    assert!(
        code.is_some_and(|code| codes.contains(&code)),
        "wal-tools verify ended with {code:?}, not one of {codes:?}:\n{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr),
    );
}
