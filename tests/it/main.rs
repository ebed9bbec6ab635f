//! All tests against the real binary, one module per theme, in one test binary so that it is linked once.
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a failing helper is a failing test"
)]

mod assets;
mod bad_input;
mod basics;
#[cfg(feature = "peers")]
mod browser;
mod cli;
mod clock;
mod connections;
mod damage;
mod delete;
mod disk;
mod events;
mod fairness;
mod faults;
#[cfg(feature = "peers")]
mod flights;
#[cfg(feature = "peers")]
mod foreign;
mod growth;
mod handshake;
mod http;
#[cfg(feature = "peers")]
mod journey;
mod limits;
mod log_tools;
mod long_poll;
mod memory_topics;
#[cfg(feature = "peers")]
mod nginx;
mod power;
mod process;
mod producers;
mod publish_all;
mod publish_many;
mod races;
mod restart;
mod resume;
mod retention;
mod sdk;
mod slow_client;
mod soak;
mod tidy;
mod torture;
