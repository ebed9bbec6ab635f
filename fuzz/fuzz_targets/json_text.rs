//! Runs `targets::json_text`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| hark_fuzz::targets::json_text(bytes));
