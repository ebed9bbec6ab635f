//! Runs `targets::client_frame_json`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| hark_fuzz::targets::client_frame_json(bytes));
