//! Runs `targets::http_messages`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| hark_fuzz::targets::http_messages(bytes));
