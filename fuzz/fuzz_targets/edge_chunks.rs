//! Runs `targets::edge_chunks`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| hark_fuzz::targets::edge_chunks(bytes));
