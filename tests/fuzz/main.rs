//! The fuzz targets of `fuzz/` without a fuzzer: their corpus, and inputs made of it by chance.
//!
//! `FLUXMQ_FUZZ_CASES` says how many inputs are made for each target (default 300), `FLUXMQ_FUZZ_SEED` which. An input that fails is
//! printed as it must be written to `fuzz/corpus/<target>/` to be tried for ever after.

#![allow(clippy::unwrap_used, reason = "a test that panics says where")]

mod amqp091;
mod amqp091_script;
mod codec;
mod script;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

/// Bytes of an input that was made, at most.
const INPUT_BYTES_MAX: usize = 2_000;

#[test]
fn the_codec_survives_its_corpus_and_what_is_made_of_it() {
    replay_and_mutate("codec", codec::check);
}

#[test]
fn the_codec_of_amqp_survives_its_corpus_and_what_is_made_of_it() {
    replay_and_mutate("amqp091", amqp091::check);
}

#[test]
fn a_connection_of_amqp_survives_scripts_of_methods_and_answers() {
    replay_and_mutate("amqp091-script", amqp091_script::check);
}

#[test]
fn the_broker_survives_scripts_of_several_connections() {
    replay_and_mutate("script", script::check);
}

fn replay_and_mutate(target: &str, check: fn(&[u8])) {
    let corpus = corpus(target);
    assert!(corpus.len() >= 10, "the corpus of {target} is where it is looked for");
    for (path, input) in &corpus {
        run(check, input, &path.display().to_string());
    }
    let inputs: Vec<&[u8]> = corpus.iter().map(|(_, input)| &input[..]).collect();
    let seed = variable("FLUXMQ_FUZZ_SEED").unwrap_or(1);
    let cases = variable("FLUXMQ_FUZZ_CASES").unwrap_or(300);
    let mut chance = Chance(seed);
    for case in 0..cases {
        let input = chance.input(&inputs);
        run(check, &input, &format!("case {case} of seed {seed}"));
    }
}

fn run(check: fn(&[u8]), input: &[u8], name: &str) {
    if catch_unwind(AssertUnwindSafe(|| check(input))).is_err() {
        let hex: String = input.iter().map(|byte| format!("{byte:02x}")).collect();
        panic!("{name} fails; printf {hex} | xxd -r -p");
    }
}

fn corpus(target: &str) -> Vec<(PathBuf, Vec<u8>)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(target);
    let entries = std::fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path());
    let mut files: Vec<(PathBuf, Vec<u8>)> =
        entries.map(|path| (path.clone(), std::fs::read(&path).unwrap())).collect();
    files.sort();
    files
}

fn variable(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|value| value.parse().expect("it is a number"))
}

/// Numbers that look like chance and are the same every time (SplitMix64).
struct Chance(u64);

impl Chance {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, end: usize) -> usize {
        (self.next() % end.max(1) as u64) as usize
    }

    /// One of the inputs, changed in a few places; or nothing but chance.
    fn input(&mut self, inputs: &[&[u8]]) -> Vec<u8> {
        if self.below(10) == 0 {
            return (0..self.below(300)).map(|_| self.next() as u8).collect();
        }
        let mut input = inputs[self.below(inputs.len())].to_vec();
        for _ in 0..=self.below(8) {
            self.change(&mut input, inputs);
        }
        input.truncate(INPUT_BYTES_MAX);
        input
    }

    fn change(&mut self, input: &mut Vec<u8>, inputs: &[&[u8]]) {
        let at = self.below(input.len() + 1);
        match self.below(6) {
            0 if at < input.len() => input[at] ^= 1 << self.below(8),
            1 if at < input.len() => input[at] = self.next() as u8,
            2 if at < input.len() => {
                input.remove(at);
            }
            3 => input.insert(at, self.next() as u8),
            4 => {
                // Another one's end, from anywhere in it.
                let other = inputs[self.below(inputs.len())];
                let from = self.below(other.len());
                input.truncate(at);
                input.extend_from_slice(&other[from..]);
            }
            _ => {
                // A part of it once more.
                let end = (at + self.below(40)).min(input.len());
                let part = input[at..end].to_vec();
                input.splice(at..at, part);
            }
        }
    }
}
