//! All tests against the real binary, one module per theme, in one test binary so that it is linked once.
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a failing helper is a failing test"
)]

mod bad_input;
mod basics;
mod cli;
mod damage;
mod delete;
mod disk;
mod faults;
#[cfg(feature = "peers")]
mod flights;
mod handshake;
mod http;
mod limits;
mod log_tools;
mod memory_topics;
mod process;
mod producers;
mod races;
mod restart;
mod resume;
mod sdk;
mod slow_client;
mod tidy;
mod torture;
