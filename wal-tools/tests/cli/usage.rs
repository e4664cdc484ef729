//! What happens when the question is wrong.

use super::{exit_code, stderr, stdout, wal_tools};

#[test]
fn wrong_arguments_exit_with_three() {
    let data = super::fixture::Data::new();
    let wrong: [&[&str]; 5] = [
        &["frobnicate"],
        &["dump", "--from", "yesterday"],
        &["dump", "--format", "xml"],
        &["dump", "--queue", "a", "--topic", "b"],
        &["verify", "--repair"],
    ];
    for arguments in wrong {
        let output = wal_tools(arguments, data.path());

        assert_eq!(exit_code(&output), 3, "{arguments:?}");
        assert!(!stderr(&output).is_empty(), "{arguments:?}");
    }
}

#[test]
fn help_is_no_mistake() {
    let commands = [
        "dump", "verify", "stat", "index", "diff", "state", "rebuild", "grep", "extract", "repair",
    ];
    for command in commands {
        let output = wal_tools(&[command, "--help"], std::path::Path::new("."));
        assert!(stdout(&output).contains(&format!("Examples:\n  wal-tools {command} ")));

        assert_eq!(exit_code(&output), 0);
        assert!(stdout(&output).contains("Usage: wal-tools"));
    }
}

#[test]
fn a_path_that_is_no_log_is_named() {
    let dir = tempfile::tempdir().unwrap();
    for command in ["dump", "verify", "stat", "state", "rebuild", "grep"] {
        for path in [dir.path().to_owned(), dir.path().join("missing")] {
            let output = wal_tools(&[command], &path);

            assert_eq!(exit_code(&output), 3, "{command} {}", path.display());
            assert!(stderr(&output).contains(&path.display().to_string()));
        }
    }
}
