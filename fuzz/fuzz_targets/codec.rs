//! Target `codec`: see `tests/fuzz/codec.rs`.

#![no_main]

#[path = "../../tests/fuzz/codec.rs"]
mod codec;

libfuzzer_sys::fuzz_target!(|data: &[u8]| codec::check(data));
