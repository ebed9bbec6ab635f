//! Runs `targets::http_head`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| hark_fuzz::targets::http_head(bytes));
