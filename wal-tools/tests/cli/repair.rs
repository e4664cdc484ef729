//! What one replica lost comes back from another's directory as it was, or stays lost and told; nothing else changes.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use super::state::content;
use super::stored::Stored;
use super::{exit_code, stderr, stdout, wal_tools};

fn repair(dir: &Path, from: &Path, options: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_wal-tools"));
    command.arg("repair").arg(dir).arg("--from").arg(from).args(options).output().unwrap()
}

/// A directory and another replica's, whose files hold the same.
fn replicas() -> (Stored, tempfile::TempDir) {
    let stored = Stored::new();
    let other = stored.copy();
    (stored, other)
}

fn from(other: &tempfile::TempDir) -> PathBuf {
    other.path().join("p0001")
}

fn assert_repaired(stored: &Stored, other: &tempfile::TempDir, what: &str) {
    let dry = content(stored.path());
    let output = repair(&stored.partition(), &from(other), &["--dry-run"]);
    assert_eq!(exit_code(&output), 0, "{what}: {}{}", stdout(&output), stderr(&output));
    assert!(stdout(&output).contains("would be replaced"), "{what}: {}", stdout(&output));
    assert!(dry == content(stored.path()), "{what}: a dry run writes nothing");

    let output = repair(&stored.partition(), &from(other), &[]);
    assert_eq!(exit_code(&output), 0, "{what}: {}{}", stdout(&output), stderr(&output));
    let verified = wal_tools(&["verify"], stored.path());
    assert_eq!(exit_code(&verified), 0, "{what}: {}", stdout(&verified));
    let mut diff = Command::new(env!("CARGO_BIN_EXE_wal-tools"));
    let same = diff.arg("diff").arg(stored.path()).arg(other.path()).output().unwrap();
    assert!(stdout(&same).starts_with("p0001 same: "), "{what}: {}", stdout(&same));
    assert_eq!(exit_code(&wal_tools(&["rebuild", "--verify"], stored.path())), 0, "{what}");
}

#[test]
fn a_frame_a_header_a_file_and_a_snapshot_come_back() {
    type Damage = fn(&Stored);
    let damages: [(&str, Damage); 6] = [
        ("a body", |stored| Stored::flip(&stored.segment(1), 4096 + 300)),
        ("two frames", |stored| {
            Stored::flip(&stored.segment(1), 4096 + 300);
            Stored::flip(&stored.segment(2), 4096 + 9000);
        }),
        ("a frame's header", |stored| Stored::flip(&stored.segment(2), 4096 + 20)),
        ("a segment's header", |stored| Stored::flip(&stored.segment(1), 50)),
        ("a file", |stored| fs::remove_file(stored.segment(1)).unwrap()),
        ("a snapshot", |stored| Stored::flip(&stored.snapshots()[1], 30)),
    ];
    for (what, damage) in damages {
        let (stored, other) = replicas();
        damage(&stored);
        assert_ne!(exit_code(&wal_tools(&["verify"], stored.path())), 0, "{what}");
        assert_repaired(&stored, &other, what);
    }
}

#[test]
fn what_is_replaced_is_kept() {
    let (stored, other) = replicas();
    Stored::flip(&stored.segment(1), 4096 + 300);
    let damaged = fs::read(stored.segment(1)).unwrap();

    let output = repair(&stored.partition(), &from(&other), &[]);

    let name = format!("{:020}.seg.before-repair-1", 1);
    let kept = stored.partition().join("quarantine").join(&name);
    assert!(stdout(&output).contains(&name), "{}", stdout(&output));
    assert!(fs::read(kept).unwrap() == damaged);
    assert_eq!(exit_code(&repair(&stored.partition(), &from(&other), &[])), 0, "and again");
}

#[test]
fn what_the_other_lost_too_stays_lost_and_the_rest_comes_back() {
    let (stored, other) = replicas();
    for at in [4096 + 300, 4096 + 9000] {
        Stored::flip(&stored.segment(1), at);
    }
    Stored::flip(&from(&other).join(format!("log/{:020}.seg", 1)), 4096 + 9000);
    let unchanged = content(other.path());

    let output = repair(&stored.partition(), &from(&other), &[]);

    assert_eq!(exit_code(&output), 2);
    let text = stdout(&output);
    assert!(
        text.contains("2 places are damaged, 1 are put back") && text.contains("LOST"),
        "{text}"
    );
    assert!(text.contains("meets what is lost"), "{text}");
    assert!(unchanged == content(other.path()), "the other directory is only read");
    let third = Stored::new();
    assert_eq!(exit_code(&repair(&stored.partition(), &third.partition(), &[])), 0);
}

#[test]
fn any_flipped_bits_come_back_or_change_nothing() {
    let (stored, other) = replicas();
    let whole = content(stored.path());
    let mut seed = 0x9e37_79b9_7f4a_7c15u64;
    let mut random = |below: usize| {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (seed >> 33) as usize % below
    };
    for round in 0..25 {
        let mut flipped = Vec::new();
        for _ in 0..1 + random(4) {
            let at = (random(4) as u64, random(16_000));
            Stored::flip(&stored.segment(at.0), at.1);
            flipped.push(at);
        }
        let output = repair(&stored.partition(), &from(&other), &[]);
        assert_eq!(exit_code(&output), 0, "{round} {flipped:?}: {}", stdout(&output));
        let code = exit_code(&wal_tools(&["verify"], stored.path()));
        // Zeros behind a segment's end are nobody's to bring back.
        assert!(code < 2, "{round} {flipped:?}");
        for (path, bytes) in &whole {
            fs::write(path, bytes).unwrap();
        }
    }
}

#[test]
fn what_is_of_another_log_is_refused() {
    let (stored, other) = replicas();
    Stored::flip(&stored.segment(1), 4096 + 300);
    let before = content(stored.path());

    let (foreign, _) = super::fixture::Data::with_three_segments();
    let output = repair(&stored.partition(), &foreign.partition(), &[]);
    assert_eq!(exit_code(&output), 3);
    assert!(stderr(&output).contains("another cluster"), "{}", stderr(&output));
    let output = repair(&stored.partition(), &stored.partition(), &[]);
    assert_eq!(exit_code(&output), 3);
    let output = repair(&stored.partition(), other.path(), &[]);
    assert_eq!(exit_code(&output), 3);
    assert!(stderr(&output).contains("name one, such as data/p0001"), "{}", stderr(&output));
    fs::write(stored.partition().join("hs.bin"), [0; 8192]).unwrap();
    let output = repair(&stored.partition(), &from(&other), &[]);
    assert_eq!(exit_code(&output), 2);
    assert!(stderr(&output).contains("term and vote"), "{}", stderr(&output));

    for (path, bytes) in &before {
        if path.file_name().unwrap() != "hs.bin" {
            assert!(fs::read(path).unwrap() == *bytes, "{} has changed", path.display());
        }
    }
}

#[test]
fn without_another_directory_it_says_what_can_be_done() {
    let stored = Stored::new();
    let clean = wal_tools(&["repair"], &stored.partition());
    assert_eq!((exit_code(&clean), stdout(&clean)), (0, "p0001: nothing is damaged\n".to_owned()));
    Stored::flip(&stored.segment(1), 4096 + 300);
    let before = content(stored.path());

    let output = wal_tools(&["repair"], &stored.partition());

    assert_eq!(exit_code(&output), 2);
    let text = stdout(&output);
    for part in
        [&*stored.segment(1).display().to_string(), "offsets ", "--from ", "wal-tools extract"]
    {
        assert!(text.contains(part), "no {part} in\n{text}");
    }
    assert!(before == content(stored.path()));
}
