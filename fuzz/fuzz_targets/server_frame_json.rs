//! Runs `targets::server_frame_json`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| hark_fuzz::targets::server_frame_json(bytes));
