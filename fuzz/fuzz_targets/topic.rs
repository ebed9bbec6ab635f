//! Runs `targets::topic`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| hark_fuzz::targets::topic(bytes));
