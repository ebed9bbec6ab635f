//! Runs `targets::http_lines`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| hark_fuzz::targets::http_lines(bytes));
