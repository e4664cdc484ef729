//! `wal-tools` on the directory of a broker that has ended, run as users run it.

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
        if is_stale(&path) {
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

/// Returns true when the tool is not there, or older than its sources.
fn is_stale(tool: &Path) -> bool {
    let changed = |path: &Path| std::fs::metadata(path).and_then(|found| found.modified()).ok();
    let Some(built) = changed(tool) else { return true };
    let sources = Path::new(env!("CARGO_MANIFEST_DIR")).join("wal-tools/src");
    let mut sources = std::fs::read_dir(sources).unwrap().map(|entry| entry.unwrap().path());
    sources.any(|source| changed(&source).is_some_and(|changed| changed > built))
}

/// Panics unless the tool's exit code is one of `codes`, and what is derived from the log is what the log makes. Needs the directory for
/// itself.
pub fn assert_verifies(data: &Path, codes: &[i32]) {
    assert_reads(data, codes);
    assert_rebuilds(data);
}

/// Panics unless the tool's exit code is one of `codes`; beside a broker, too.
pub fn assert_reads(data: &Path, codes: &[i32]) {
    let output = verify(data);
    let code = output.status.code();
    assert!(
        code.is_some_and(|code| codes.contains(&code)),
        "wal-tools verify ended with {code:?}, not one of {codes:?}:\n{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr),
    );
}

/// Panics unless snapshots, the state that the next start begins with, and indexes are those that the whole log makes.
fn assert_rebuilds(data: &Path) {
    let output =
        Command::new(wal_tools()).args(["rebuild", "--verify"]).arg(data).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert_eq!(
        output.status.code(),
        Some(0),
        "wal-tools rebuild --verify:\n{text}{}",
        String::from_utf8_lossy(&output.stderr)
    );
    assert!(text.lines().any(|line| line.contains(": equal: state ")), "{text}");
}
