//! `make growth`: what many topics with three small messages each cost: disk, time to open, memory, and a receipt.

use std::path::Path;
use std::time::{Duration, Instant};

use crate::machine::{Server, Timings, file_mib};
use crate::publisher::Publisher;

const BOTH_CORES: &str = "0,1";
const PAYLOAD_BYTES: usize = 100;
const MESSAGES_EACH: usize = 3;
const CONNECTIONS: usize = 4;
const IN_FLIGHT: usize = 1000;
/// Rooms must be able to leave memory while the table is made: sessions let go of those they published to at every other heartbeat.
const FLAGS: [&str; 4] = ["--room-idle", "1s", "--heartbeat", "5s"];
/// How many receipts are timed, one after the other.
const TIMED: usize = 500;

/// One line for each number of topics, the first of which the others are compared with. `HARK_GROWTH_TOPICS` says which.
pub(crate) async fn run(dir: &Path) {
    let topics = std::env::var("HARK_GROWTH_TOPICS");
    let topics = topics.unwrap_or_else(|_| "10,1000,10000,100000,1000000".into());
    println!(
        "Topics with {MESSAGES_EACH} messages of {PAYLOAD_BYTES} bytes each. Opening: until it serves, after a clean stop with two thirds of the\n\
         messages written since the start before, after kill -9 under load with one third, and after a clean stop again.\n\
         RSS, in MiB: served at last, the most while one message went to each topic, and after that, once rooms have retired.\n\
         A lone receipt: of a topic in use, and of topics whose rooms had retired; p50 and the broker's CPU."
    );
    println!(
        "{:>9} | {:>8} | {:>9} {:>9} {:>9} | {:>9} {:>9} {:>9} | {:>10} {:>9} | {:>10} {:>9}",
        "topics",
        "db",
        "clean",
        "kill -9",
        "again",
        "RSS open",
        "peak",
        "retired",
        "in use",
        "CPU",
        "retired",
        "CPU"
    );
    for topics in topics.split(',') {
        let topics = topics.trim().parse().unwrap();
        let data = dir.join(format!("growth-{topics}"));
        line(&data, topics).await;
        std::fs::remove_dir_all(&data).unwrap();
    }
}

async fn line(data: &Path, topics: usize) {
    let (server, _) = open(data);
    for _ in 1..MESSAGES_EACH {
        fill(&server, topics).await;
    }
    server.stop();

    let (server, after_clean) = open(data);
    fill(&server, topics).await;
    let rss_peak = server.peak_rss_mib();
    let rss_retired = settled_rss_mib(&server).await;
    let db = file_mib(&data.join("db"));
    let (in_use, in_use_cpu) = lone_receipts(&server, topics, 1).await;
    settled_rss_mib(&server).await;
    let (retired, retired_cpu) = lone_receipts(&server, topics, TIMED).await;
    kill_under_load(server, topics).await;

    let (server, after_kill) = open(data);
    server.stop();
    let (server, again) = open(data);
    let rss_open = server.rss_mib();
    server.stop();
    println!(
        "{topics:>9} | {:>4.0} MiB | {:>9.2?} {:>9.2?} {:>9.2?} | {rss_open:>5} MiB {rss_peak:>5} MiB {rss_retired:>5} MiB | {:>10.1?} {:>9.1?} | {:>10.1?} {:>9.1?}",
        db,
        after_clean,
        after_kill,
        again,
        in_use.at(0.5),
        in_use_cpu,
        retired.at(0.5),
        retired_cpu,
    );
}

/// Starts a broker and says how long it took until it served.
fn open(data: &Path) -> (Server, Duration) {
    let began = Instant::now();
    let server = Server::serve(data, BOTH_CORES, &FLAGS);
    (server, began.elapsed())
}

fn name(topic: usize) -> String {
    format!("users.{topic:07}.inbox")
}

/// One message to each topic.
async fn fill(server: &Server, topics: usize) {
    let mut tasks = Vec::new();
    for connection in 0..CONNECTIONS {
        let mut publisher = Publisher::connect(&server.address).await;
        tasks.push(tokio::task::spawn_local(async move {
            let names = (connection..topics).step_by(CONNECTIONS).map(name);
            publisher
                .publish(names, PAYLOAD_BYTES, IN_FLIGHT, |_| {})
                .await;
        }));
    }
    for task in tasks {
        task.await.unwrap();
    }
}

/// What is in memory once that has not changed for a while: rooms have retired, and the allocator has given back.
async fn settled_rss_mib(server: &Server) -> u64 {
    let mut samples = vec![server.rss_mib()];
    for _ in 0..120 {
        tokio::time::sleep(Duration::from_millis(500)).await;
        samples.push(server.rss_mib());
        let last = samples.last_chunk::<8>();
        if last.is_some_and(|last| last.iter().max().unwrap() - last.iter().min().unwrap() <= 1) {
            break;
        }
    }
    *samples.last().unwrap()
}

/// One after the other, to so many of the topics in turn.
async fn lone_receipts(server: &Server, topics: usize, distinct: usize) -> (Timings, Duration) {
    let mut publisher = Publisher::connect(&server.address).await;
    let mut timings = Timings::default();
    // Where there are fewer topics than that, their rooms retire in between.
    let rounds = match distinct {
        1 => TIMED,
        _ => (distinct / topics).clamp(1, 5),
    };
    let mut used = Duration::ZERO;
    let mut count = 0;
    for _ in 0..rounds {
        if distinct > 1 && rounds > 1 {
            tokio::time::sleep(Duration::from_secs(3)).await;
        }
        let cpu = server.cpu();
        let some = distinct.min(topics);
        let names = (0..some).map(|n| name(n * (topics / some)));
        publisher
            .publish(names, PAYLOAD_BYTES, 1, |took| timings.add(took))
            .await;
        used += server.cpu() - cpu;
        count += some;
    }
    timings.sort();
    (timings, used / u32::try_from(count).unwrap())
}

async fn kill_under_load(server: Server, topics: usize) {
    let mut publisher = Publisher::connect(&server.address).await;
    let load = tokio::task::spawn_local(async move {
        let names = (0..).map(|n| name(n * 7919 % topics));
        publisher
            .publish(names, PAYLOAD_BYTES, IN_FLIGHT, |_| {})
            .await;
    });
    tokio::time::sleep(Duration::from_secs(1)).await;
    // Kills it and waits, before the load can notice.
    drop(server);
    load.abort();
}
