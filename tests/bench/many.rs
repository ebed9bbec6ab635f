//! One message to a thousand topics: what each topic costs the broker, published one by one and as one.

use std::path::Path;
use std::time::Duration;

use tokio::io::AsyncWriteExt;

use crate::machine::{Server, Timings};
use crate::wire::{TEXT, connect, frame};

const TOPICS: usize = 1000;
const PAYLOAD_BYTES: usize = 500;
/// Rounds before those that count: they make the topics.
const WARM_UP: usize = 3;

/// On disk and in memory, each in one run of its own broker.
pub(crate) async fn run(dir: &Path, cores: &str, rounds: usize) {
    for (kept, flags) in [
        ("on disk", &[][..]),
        ("in memory", &["--memory-topics", "many.>"]),
    ] {
        for (as_what, as_one) in [("one by one", false), ("as one", true)] {
            let data = tempfile::tempdir_in(dir).unwrap();
            let server = Server::serve(data.path(), cores, flags);
            let (cpu, timings) = publish(&server, as_one, rounds).await;
            println!(
                "a message of {PAYLOAD_BYTES} bytes to {TOPICS} topics, {kept}, {as_what}: {:.1} µs of server CPU a topic; all receipts within p50 {:?}, p99 {:?}",
                cpu.as_secs_f64() * 1e6 / (rounds * TOPICS) as f64,
                timings.at(0.5),
                timings.at(0.99),
            );
        }
    }
}

async fn publish(server: &Server, as_one: bool, rounds: usize) -> (Duration, Timings) {
    let (mut reader, mut writer) = connect(&server.address, "/ws").await;
    let topics: Vec<String> = (0..TOPICS).map(|n| format!(r#""many.{n}""#)).collect();
    let filler = "x".repeat(PAYLOAD_BYTES - 2);
    let message = |id: usize, named: &str, topics: &str, number: &str| {
        format!(
            r#"{{"type":"publish","id":{id},"{named}":{topics},"data":"{filler}","producer":"p",{number}}}"#
        )
    };
    let mut timings = Timings::default();
    let mut cpu = Duration::ZERO;
    for seq in 1..=WARM_UP + rounds {
        if seq == WARM_UP + 1 {
            cpu = server.cpu();
        }
        let mut frames = Vec::new();
        if as_one {
            let seqs = vec![seq.to_string(); TOPICS].join(",");
            let all = format!("[{}]", topics.join(","));
            let publish = message(1, "topics", &all, &format!(r#""seqs":[{seqs}]"#));
            frame(&mut frames, TEXT, publish.as_bytes());
        } else {
            for (id, topic) in topics.iter().enumerate() {
                let publish = message(id, "topic", topic, &format!(r#""seq":{seq}"#));
                frame(&mut frames, TEXT, publish.as_bytes());
            }
        }
        let began = std::time::Instant::now();
        writer.write_all(&frames).await.unwrap();
        let expected = if as_one { 1 } else { TOPICS as u64 };
        let mut answered = 0;
        while answered < expected {
            answered += reader
                .some_frames(|frame| {
                    let refused = frame.windows(7).any(|bytes| bytes == br#""code":"#);
                    assert!(!refused, "{}", String::from_utf8_lossy(frame));
                    frame.starts_with(br#"{"type":"published"#)
                })
                .await;
        }
        if seq > WARM_UP {
            timings.add(began.elapsed());
        }
    }
    timings.sort();
    (server.cpu() - cpu, timings)
}
