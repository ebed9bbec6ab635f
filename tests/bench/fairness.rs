//! `hark-bench fairness`: what a quiet topic's publisher waits for its receipt, alone and beside others that do not rest.

use std::cell::{Cell, RefCell};
use std::path::Path;
use std::rc::Rc;
use std::time::{Duration, Instant};

use crate::machine::{Server, Timings, fdatasync};
use crate::publisher::Publisher;

const BOTH_CORES: &str = "0,1";
const RUN: Duration = Duration::from_secs(5);
const LARGE_BYTES: usize = (1 << 20) - 200;
const SMALL_BYTES: usize = 128;
const FLOODING: usize = 4;
const SMALL_IN_FLIGHT: usize = 200;

/// Each line names the floods, the quiet one's receipts, and what the floods came to.
pub(crate) async fn run(dir: &Path, repeats: u32) {
    for _ in 0..repeats {
        let sync = fdatasync(dir);
        println!(
            "fdatasync of 4 KiB: p50 {:?}, p99 {:?}",
            sync.at(0.5),
            sync.at(0.99)
        );
        for (large, small) in [(false, false), (true, false), (false, true), (true, true)] {
            let data = dir.join("fairness");
            let server = Server::serve(&data, BOTH_CORES, &["--retention-bytes", "67108864"]);
            line(&server, large, small).await;
            drop(server);
            std::fs::remove_dir_all(&data).unwrap();
        }
    }
}

async fn line(server: &Server, large: bool, small: bool) {
    let floods = [
        (large, "large", LARGE_BYTES, 1),
        (small, "small", SMALL_BYTES, SMALL_IN_FLIGHT),
    ];
    let end = Instant::now() + RUN;
    let bytes = Rc::new(Cell::new(0_usize));
    let mut tasks = Vec::new();
    let mut names = Vec::new();
    for (_, topic, payload, in_flight) in floods.into_iter().filter(|flood| flood.0) {
        names.push(topic);
        for _ in 0..FLOODING {
            let mut publisher = Publisher::connect(&server.address).await;
            let bytes = bytes.clone();
            tasks.push(tokio::task::spawn_local(async move {
                let topics = std::iter::repeat_with(|| topic.to_owned());
                let topics = topics.take_while(|_| Instant::now() < end);
                let count = |_| bytes.set(bytes.get() + payload);
                publisher.publish(topics, payload, in_flight, count).await;
            }));
        }
    }
    let timings = Rc::new(RefCell::new(Timings::default()));
    let mut quiet = Publisher::connect(&server.address).await;
    // Not in step with the floods.
    while Instant::now() < end {
        let topic = ["quiet".to_owned()];
        quiet
            .publish(topic, SMALL_BYTES, 1, |took| timings.borrow_mut().add(took))
            .await;
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    for task in tasks {
        task.await.unwrap();
    }
    let mut timings = timings.take();
    timings.sort();
    let beside = match names.is_empty() {
        true => "alone".to_owned(),
        false => format!("beside a flood of {} messages", names.join(" and ")),
    };
    println!(
        "a quiet topic's receipt {beside}: p50 {:.2?}, p99 {:.2?}, longest {:.2?} (flood: {:.1} MB/s)",
        timings.at(0.5),
        timings.at(0.99),
        timings.at(1.0),
        bytes.get() as f64 / RUN.as_secs_f64() / 1e6,
    );
}
