//! A day of publishing and retention, shortened by small bounds: the directory and memory level off, and a reader that
//! retention overtakes is told. Longer, with figures: `hark-bench soak`.

use std::path::Path;
use std::time::Duration;

use hark_tests::{Setup, Ws};
use serde_json::{Value, json};

const RETENTION_BYTES: u64 = 8 << 20;
/// What shares a value of the log, what fills one, and what lies in several; a topic each.
const SIZES: [usize; 4] = [100, 1_000, 7_000, 50_000];
const BURST_BYTES: usize = 256 * 1024;
/// To each topic: so that all together publish 7 times what is kept.
const BURSTS: usize = 230;
/// After each burst, however long that took: some 12 MiB a second in all, and less on a machine that has other work. Whoever caught up with a
/// pace would publish as fast as it goes just there, and sled, which rewrites what is left of half-empty segments twice a second, would
/// be left behind (ARCHITECTURE.md has the figures).
const REST: Duration = Duration::from_millis(60);
/// How many times what is kept the file may have grown to. It levels off at 2.2 times; the rest is for a machine that has other work.
const MOST_ON_DISK: u64 = 3;
/// sled's cache, and what the rooms of these topics keep in memory of their newest batches.
const CACHES: u64 = (16 << 20) + SIZES.len() as u64 * (512 << 10);
const MOST_MEMORY: u64 = CACHES + 100_000_000;

fn folder_bytes(dir: &Path) -> u64 {
    let entries = std::fs::read_dir(dir).unwrap().map(Result::unwrap);
    let bytes = |entry: std::fs::DirEntry| match entry.metadata() {
        Ok(metadata) if metadata.is_dir() => folder_bytes(&entry.path()),
        Ok(metadata) => metadata.len(),
        Err(_) => 0, // gone again
    };
    entries.map(bytes).sum()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn the_directory_and_memory_level_off_and_who_is_overtaken_is_told() {
    let broker = Setup::new()
        .flag("retention-bytes", RETENTION_BYTES)
        .flag("stall-timeout", "10m")
        .start();
    // Reads nothing until the end.
    let mut lagging = Ws::connect(&broker).await;
    let mut seen = lagging.watch("soak.1", json!("earliest")).await;

    let mut publishers = Vec::new();
    for (topic, size) in SIZES.into_iter().enumerate() {
        let mut ws = Ws::connect(&broker).await;
        publishers.push(tokio::spawn(async move {
            let publish = json!({"topic": format!("soak.{topic}"), "data": "x".repeat(size)});
            let burst = BURST_BYTES / size;
            let mut published = 0;
            for _ in 0..BURSTS {
                let answers = ws
                    .publish_all(std::iter::repeat_n(publish.clone(), burst), 200)
                    .await;
                assert!(
                    answers.iter().all(|answer| answer["type"] == "published"),
                    "{:?}",
                    answers.last()
                );
                published += answers.len() as u64;
                tokio::time::sleep(REST).await;
            }
            published
        }));
    }
    let (mut most_on_disk, mut most_memory) = (0, 0);
    while publishers.iter().any(|publisher| !publisher.is_finished()) {
        most_on_disk = most_on_disk.max(folder_bytes(broker.data_dir()));
        most_memory = most_memory.max(broker.rss_bytes());
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    let mut heads = Vec::new();
    for publisher in publishers {
        heads.push(publisher.await.unwrap());
    }

    let http = broker.http();
    let live = hark_tests::until("retention has done its work", async || {
        let topics = http.get("/v1/topics").ok().json();
        let bytes = |topic: &Value| topic["bytes"].as_u64().unwrap();
        let topics = topics["topics"].as_array().unwrap();
        // The value in which the bound lies stays.
        let is_done = topics
            .iter()
            .all(|topic| bytes(topic) <= RETENTION_BYTES + 64 * 1024);
        is_done.then(|| topics.iter().map(bytes).sum::<u64>())
    })
    .await;
    let published: u64 = heads
        .iter()
        .zip(SIZES)
        .map(|(head, size)| head * size as u64)
        .sum();
    // sled gives back hardly anything, so this is about the most that there ever was.
    let on_disk = folder_bytes(broker.data_dir());
    println!(
        "published {} MiB, keeps {} MiB; {} MiB on disk at the end, {} at most, and {} MiB in memory",
        published >> 20,
        live >> 20,
        on_disk >> 20,
        most_on_disk >> 20,
        most_memory >> 20
    );
    assert!(
        on_disk <= MOST_ON_DISK * live,
        "{on_disk} bytes on disk, of which {live} are kept"
    );
    assert!(most_memory <= MOST_MEMORY, "{most_memory} bytes in memory");
    // sled puts leaves that are too large into files of their own, which it neither syncs nor always removes.
    assert_eq!(
        std::fs::read_dir(broker.data_dir().join("blobs"))
            .unwrap()
            .count(),
        0
    );

    // What the lagging reader had not got when retention came is told where it would be, and it goes on to the end.
    let head = heads[1];
    lagging
        .follow(&mut seen, |seen| seen.position == head)
        .await;
    assert!(
        seen.gaps.iter().any(|gap| gap["reason"] == "expired"),
        "{:?}",
        seen.gaps
    );
    assert!(
        seen.gaps.iter().all(|gap| gap["reason"] == "expired"),
        "{:?}",
        seen.gaps
    );
    assert_eq!(seen.messages.last().map(|(offset, _)| *offset), Some(head));
    lagging.publish("soak.1", json!("after")).await;
    lagging
        .follow(&mut seen, |seen| seen.position == head + 1)
        .await;
}
