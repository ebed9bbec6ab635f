//! A publisher of large messages and a topic with a flood do not hold up a quiet topic: its receipts come within a commit or
//! two. Counted in commits, which the witness tells, since time belongs to the machine; `hark-bench fairness` has the times.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use hark_tests::{Broker, Setup, Ws};
use serde_json::json;

const QUIET: usize = 100;
/// The commit that is under way when the message comes, its own, and what passes while the message and the receipt travel.
const MOST_COMMITS: u64 = 5;

/// How many commits were answered (`<data>/witness`: two slots of 16 bytes, each of which begins with the number).
fn commits(broker: &Broker) -> u64 {
    let witness = std::fs::read(broker.data_dir().join("witness")).unwrap();
    let slots = witness.chunks(16).filter_map(|slot| slot.first_chunk());
    slots
        .map(|commits| u64::from_le_bytes(*commits))
        .max()
        .unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn large_messages_hold_up_a_quiet_topic_by_few_commits() {
    let broker = Setup::new().flag("retention-bytes", 32 << 20).start();
    let (stop, flooded) = (
        Arc::new(AtomicBool::new(false)),
        Arc::new(AtomicU64::new(0)),
    );
    let mut floods = Vec::new();
    for n in 0..6 {
        let mut ws = Ws::connect(&broker).await;
        let (stop, flooded) = (stop.clone(), flooded.clone());
        floods.push(tokio::spawn(async move {
            // Of several topics too, so that not one room but the log has to be fair.
            let topic = format!("large.{}", n % 3);
            let data = json!("x".repeat((1 << 20) - 300));
            while !stop.load(Ordering::Relaxed) {
                let publish = json!({"type": "publish", "topic": topic, "data": data});
                let answer = ws.ask(publish).await;
                assert!(
                    answer["type"] == "published" || answer["code"] == "busy",
                    "{answer}"
                );
                flooded.fetch_add(1, Ordering::Relaxed);
            }
        }));
    }
    let mut ws = Ws::connect(&broker).await;
    let mut counts = Vec::new();
    while counts.len() < QUIET {
        let (before, flooded_before) = (commits(&broker), flooded.load(Ordering::Relaxed));
        ws.publish("quiet", json!(counts.len())).await;
        counts.push(commits(&broker) - before);
        // The next one not before the flood has gone on: so it is there all the time.
        hark_tests::until("the flood goes on", async || {
            (flooded.load(Ordering::Relaxed) > flooded_before).then_some(())
        })
        .await;
    }
    stop.store(true, Ordering::Relaxed);
    for flood in floods {
        flood.await.unwrap();
    }
    counts.sort_unstable();
    println!(
        "commits until a quiet receipt: median {}, most {}",
        counts[QUIET / 2],
        counts[QUIET - 1]
    );
    assert!(counts[QUIET / 2] <= MOST_COMMITS, "{counts:?}");
}
