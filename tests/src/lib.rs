//! The harness: starts and kills the real binary, speaks to it in every way a client can, and compares what clients saw
//! with what the broker promised.
//!
//! A test reads given, when, then:
//!
//! ```no_run
//! # async fn test() {
//! use hark_tests::{Broker, Ws};
//! use serde_json::json;
//!
//! let broker = Broker::start();
//! let mut ana = Ws::connect(&broker).await;
//! ana.subscribe("orders", json!("now")).await;
//!
//! Ws::connect(&broker).await.publish("orders", json!({"n": 1})).await;
//!
//! assert_eq!(ana.message().await["data"], json!({"n": 1}));
//! # }
//! ```
//!
//! Everything here panics when it fails, since a failing harness is a failing test. Every wait has a deadline, which is
//! long: it tells a hanging broker from a busy machine, and measures nothing.
#![allow(
    clippy::unwrap_used,
    clippy::print_stderr,
    reason = "a failing harness is a failing test"
)]

mod broker;
mod browser;
mod cli;
mod curl;
mod drain;
mod event_stream;
mod http;
mod model;
mod names;
mod nginx;
pub mod peers;
mod power;
mod preload;
mod raw;
mod steady;
mod tap;
mod tls;
mod tls_front;
mod wire;
mod ws;

use std::path::Path;
use std::time::{Duration, Instant};

pub use broker::{Broker, Exit, Setup, hark, quiet_port};
pub use browser::{Browser, Tab};
pub use cli::Cli;
pub use curl::{Curl, Sse};
pub use drain::{Drain, Drained};
pub use event_stream::{Event, EventStream};
pub use http::{Http, Response};
pub use model::{Acked, Range, Seen};
pub use names::Names;
pub use nginx::{NGINX_CONF, Nginx};
pub use power::{Disk, Fate, Record};
pub use preload::Preload;
pub use raw::{Op, RawWs, raw_http, upgrade};
pub use steady::{publish_paced, publish_surely, subscribe_surely};
pub use tap::Tap;
pub use tls::{Ca, Names as CertificateNames, Pair, Tls, over_tls};
pub use tls_front::{Authority, TlsFront};
pub use wire::Wire;
pub use ws::{Ended, Ws};

/// How long anything may take before it counts as hanging.
pub const DEADLINE: Duration = Duration::from_secs(60);

/// Awaits `future`; panics, saying what was awaited, when it takes longer than [`DEADLINE`].
pub async fn within<T>(what: &str, future: impl Future<Output = T>) -> T {
    match tokio::time::timeout(DEADLINE, future).await {
        Ok(done) => done,
        Err(_) => panic!("waited {DEADLINE:?} in vain for {what}"),
    }
}

/// Copies a folder with all that is in it into `to`, which may exist.
pub fn copy_folder(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        if entry.path().is_dir() {
            copy_folder(&entry.path(), &to.join(entry.file_name()));
        } else {
            std::fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
        }
    }
}

/// Looks again and again until `condition` gives a value; panics after [`DEADLINE`].
pub async fn until<T>(what: &str, mut condition: impl AsyncFnMut() -> Option<T>) -> T {
    let end = Instant::now() + DEADLINE;
    loop {
        if let Some(value) = condition().await {
            return value;
        }
        assert!(
            Instant::now() < end,
            "waited {DEADLINE:?} in vain until {what}"
        );
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Like [`until`], for tests without a runtime.
pub fn wait_until<T>(what: &str, mut condition: impl FnMut() -> Option<T>) -> T {
    let end = Instant::now() + DEADLINE;
    loop {
        if let Some(value) = condition() {
            return value;
        }
        assert!(
            Instant::now() < end,
            "waited {DEADLINE:?} in vain until {what}"
        );
        pause(Duration::from_millis(10));
    }
}

/// Waits a little, where no more depends on it than which of several right ways things go.
#[allow(
    clippy::disallowed_methods,
    reason = "a step of a loop with a deadline, or a chance for others to come first"
)]
pub fn pause(time: Duration) {
    std::thread::sleep(time);
}
