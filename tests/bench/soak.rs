//! `hark-bench soak`: a day of publishing and retention in a minute. What the directory and the broker's memory level off at.

use std::path::Path;
use std::time::{Duration, Instant};

use crate::machine::{Server, file_mib};
use crate::publisher::Publisher;

const BOTH_CORES: &str = "0,1";
const TOPICS: usize = 8;
const RETENTION_BYTES: usize = 4 << 20;
/// Of messages of these sizes each topic gets its own: what shares a value, what fills one, what lies in parts.
const PAYLOAD_BYTES: [usize; 4] = [100, 1_000, 7_000, 50_000];
const BURST_BYTES: usize = 256 * 1024;
const SAMPLES: u32 = 12;

/// `HARK_SOAK_SECONDS` says how long (default 60), `HARK_SOAK_MIB_PER_SECOND` how fast (default: as fast as it goes).
pub(crate) async fn run(dir: &Path) {
    let seconds = number("HARK_SOAK_SECONDS").unwrap_or(60);
    let rate = number("HARK_SOAK_MIB_PER_SECOND");
    let data = dir.join("soak");
    let flags = ["--retention-bytes", &RETENTION_BYTES.to_string()];
    let server = Server::serve(&data, BOTH_CORES, &flags);
    let (began, run) = (Instant::now(), Duration::from_secs(seconds));
    let published = std::rc::Rc::new(std::cell::Cell::new(0));
    let mut tasks = Vec::new();
    for topic in 0..TOPICS {
        let mut publisher = Publisher::connect(&server.address).await;
        let payload = PAYLOAD_BYTES[topic % PAYLOAD_BYTES.len()];
        let burst = (BURST_BYTES / payload).max(1);
        let bursts_per_second =
            rate.map(|mib| (mib << 20) as f64 / (TOPICS * burst * payload) as f64);
        let published = published.clone();
        tasks.push(tokio::task::spawn_local(async move {
            for bursts in 0.. {
                let due =
                    bursts_per_second.map(|rate| Duration::from_secs_f64(f64::from(bursts) / rate));
                tokio::time::sleep(due.unwrap_or_default().saturating_sub(began.elapsed())).await;
                if began.elapsed() >= run {
                    return;
                }
                let topics = std::iter::repeat_n(format!("soak.{topic}"), burst);
                let count = |_| published.set(published.get() + payload);
                publisher.publish(topics, payload, 200, count).await;
            }
        }));
    }
    let live = (TOPICS * RETENTION_BYTES) as f64 / f64::from(1 << 20);
    println!("{TOPICS} topics that keep {live:.0} MiB together");
    for sample in 1..=SAMPLES {
        let at = run * sample / SAMPLES;
        tokio::time::sleep(at.saturating_sub(began.elapsed())).await;
        let db = file_mib(&data.join("db"));
        println!(
            "{:>4} s: published {:>6.0} MiB, db {db:>5.0} MiB ({:.1} × live), RSS {} MiB",
            at.as_secs(),
            published.get() as f64 / f64::from(1 << 20),
            db / live,
            server.rss_mib(),
        );
    }
    for task in tasks {
        task.await.unwrap();
    }
}

fn number(variable: &str) -> Option<u64> {
    std::env::var(variable).ok()?.parse().ok()
}
