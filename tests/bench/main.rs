//! `make bench`: what a delivery and a receipt cost, with the machine's fdatasync beside them. Owns the load; the broker is the real
//! binary, pinned to core 0 where its CPU is measured, the load to core 1, both on loopback. Prints figures and judges nothing.
//!
//! With `HARK_BENCH_NATS` naming a nats-server, its WebSocket carries the same fan-out in the same run (from memory: it keeps nothing).
//! The load speaks raw WebSocket frames, so that on one core it can outrun the broker it measures.
//!
//! `hark-bench growth` (many topics), `fairness` (a quiet topic beside floods) and `soak` (retention) are tables of their own; so is
//! `fan-out`, `receipts`, `many` and `auth`, what a delivery, a receipt, a message to a thousand topics and authentication cost, which are
//! part of the first run too.

#![allow(clippy::print_stdout, clippy::unwrap_used)] // a program for people; what goes wrong may end it

mod auth;
mod fairness;
mod growth;
mod load;
mod machine;
mod many;
mod publisher;
mod soak;
mod wire;

use std::path::Path;
use std::time::Duration;

use load::{FanOut, Peer, Receipts};
use machine::{Server, fdatasync, pin_to_core};

/// Where the broker runs: taskset's list.
const ONE_CORE: &str = "0";
const BOTH_CORES: &str = "0,1";
const RUN: Duration = Duration::from_secs(5);

fn main() {
    let dir =
        tempfile::tempdir_in(std::env::var_os("HARK_BENCH_DIR").unwrap_or_else(|| "target".into()))
            .unwrap();
    let dir = dir.path();
    let repeats = std::env::var("HARK_BENCH_REPEATS").ok();
    let repeats = repeats.and_then(|n| n.parse().ok()).unwrap_or(2);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let local = tokio::task::LocalSet::new();
    match std::env::args().nth(1).as_deref() {
        None => costs(&runtime, dir, repeats),
        Some("fan-out") => {
            pin_to_core(1);
            for _ in 0..repeats {
                tokio::task::LocalSet::new().block_on(&runtime, fan_out(dir, None));
            }
        }
        Some("auth") => {
            pin_to_core(1);
            local.block_on(&runtime, auth::run(dir, ONE_CORE));
        }
        Some("growth") => local.block_on(&runtime, growth::run(dir)),
        Some("fairness") => local.block_on(&runtime, fairness::run(dir, repeats)),
        Some("many") => local.block_on(&runtime, many::run(dir, ONE_CORE, 100)),
        Some("receipts") => {
            pin_to_core(1);
            local.block_on(&runtime, receipts(dir));
        }
        Some("soak") => local.block_on(&runtime, soak::run(dir)),
        Some(other) => {
            panic!("{other:?} is not auth, fan-out, growth, fairness, many, receipts or soak")
        }
    }
}

/// What a delivery costs.
async fn fan_out(dir: &Path, nats: Option<&Path>) {
    let load = |peer| FanOut {
        peer,
        shown: String::new(),
        subscribers: 1000,
        payload_bytes: 128,
        window: 64,
    };
    for peer in [Peer::Hark, Peer::HarkEvents] {
        let server = Server::start(dir, ONE_CORE);
        load(peer).run(&server, RUN).await;
    }
    if let Some(nats) = nats {
        let server = Server::start_nats(nats, dir, ONE_CORE).await;
        load(Peer::Nats).run(&server, RUN).await;
    }
}

/// What a receipt costs, of one topic and of many.
async fn receipts(dir: &Path) {
    for topics in [1, 100] {
        let server = Server::start(dir, ONE_CORE);
        let load = Receipts {
            connections: 100,
            in_flight: 10,
            topics,
            payload_bytes: 128,
        };
        load.run(&server, RUN).await;
    }
}

/// What a delivery and a receipt cost.
fn costs(runtime: &tokio::runtime::Runtime, dir: &Path, repeats: u32) {
    let sync = fdatasync(dir);
    println!(
        "fdatasync of 4 KiB on this disk: p50 {:?}, p99 {:?}",
        sync.at(0.5),
        sync.at(0.99)
    );
    pin_to_core(1);
    let nats = std::env::var_os("HARK_BENCH_NATS").map(std::path::PathBuf::from);
    for _ in 0..repeats {
        let local = tokio::task::LocalSet::new();
        local.block_on(runtime, async {
            fan_out(dir, nats.as_deref()).await;
            receipts(dir).await;
            many::run(dir, ONE_CORE, 100).await;
            auth::run(dir, ONE_CORE).await;

            // Alone, it is the time that counts, not the CPU: the broker may use both cores, as it would.
            let server = Server::start(dir, BOTH_CORES);
            let sync = fdatasync(dir);
            let load = Receipts {
                connections: 1,
                in_flight: 1,
                topics: 1,
                payload_bytes: 128,
            };
            let lone = load.run(&server, RUN).await;
            let syncs = lone.at(0.5).as_secs_f64() / sync.at(0.5).as_secs_f64();
            println!(
                "  a lone receipt takes {syncs:.1} fdatasyncs of 4 KiB ({:?}; p50 by p50)",
                sync.at(0.5)
            );
        });
    }
}
