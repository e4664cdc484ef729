//! Target `amqp091-script`: see `tests/fuzz/amqp091_script.rs`.

#![no_main]

#[path = "../../tests/fuzz/amqp091_script.rs"]
mod amqp091_script;

libfuzzer_sys::fuzz_target!(|data: &[u8]| amqp091_script::check(data));
