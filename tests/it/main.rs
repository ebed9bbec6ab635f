//! All tests against the real binary, one module per theme, in one test binary so that it is linked once.
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a failing helper is a failing test"
)]

/// The same tests once more, with brokers that serve TLS: whatever holds beneath HTTP holds beneath it, too.
macro_rules! also_over_tls {
    ($($test:ident),+ $(,)?) => {
        mod over_tls {
            $(
                #[test]
                fn $test() {
                    hark_tests::over_tls(super::$test);
                }
            )+
        }
    };
}

mod admin;
mod assets;
mod bad_input;
mod basics;
#[cfg(feature = "peers")]
mod browser;
#[cfg(feature = "peers")]
mod browsers;
mod cli;
mod cli_credentials;
mod cli_end;
mod cli_help;
mod cli_url;
mod clock;
mod connections;
mod credentials;
mod cursor_file;
mod damage;
mod data_dir;
mod delete;
mod descriptors;
mod disk;
mod drain;
mod edge;
mod ends;
mod events;
mod fairness;
mod faults;
#[cfg(feature = "peers")]
mod flights;
#[cfg(feature = "peers")]
mod foreign;
mod given_back;
mod growth;
mod handshake;
mod http;
mod http_rules;
mod identity;
#[cfg(feature = "peers")]
mod journey;
#[cfg(feature = "peers")]
mod let_in;
mod limits;
mod log_tools;
mod long_poll;
mod memory_topics;
#[cfg(feature = "peers")]
mod nginx;
mod origins;
#[cfg(feature = "peers")]
mod pages;
mod patience;
mod power;
mod process;
mod producers;
mod publish_all;
mod publish_many;
mod publisher;
mod races;
mod rates;
mod receiving;
mod restart;
mod resume;
mod retention;
mod rfc6455;
mod saying;
mod sdk;
mod secrets;
mod serve;
mod settings;
mod slow_client;
mod soak;
mod text;
mod tidy;
mod tls;
mod torture;
