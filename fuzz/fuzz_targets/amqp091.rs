//! Target `amqp091`: see `tests/fuzz/amqp091.rs`.

#![no_main]

#[path = "../../tests/fuzz/amqp091.rs"]
mod amqp091;

libfuzzer_sys::fuzz_target!(|data: &[u8]| amqp091::check(data));
