//! Runs `targets::edge_head`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| hark_fuzz::targets::edge_head(bytes));
