//! Runs `targets::subscribe_from`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| hark_fuzz::targets::subscribe_from(bytes));
