//! Runs `targets::websocket`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| hark_fuzz::targets::websocket(bytes));
