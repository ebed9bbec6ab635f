//! A wall clock that somebody sets, while publishers and subscribers go on: nobody loses anything, nothing is kept twice, and time
//! never goes back within a topic.

use std::time::{Duration, Instant};

use hark_tests::{Broker, Preload, Seen, Setup, Ws, publish_surely, subscribe_surely, until};
use serde_json::{Value, json};

use crate::restart::each_publisher_in_order;

const DAY_MS: i64 = 24 * 60 * 60 * 1000;
const YEAR_MS: i64 = 365 * DAY_MS;
/// So many that they are not through before the clock is set back: every commit takes 40 ms and more.
const EACH: u64 = 12_000;
const COMMIT: Duration = Duration::from_millis(40);

/// The times of a topic's messages.
async fn times(broker: &Broker, topic: &str) -> Vec<u64> {
    let mut ws = Ws::connect(broker).await;
    ws.subscribe(topic, json!("earliest")).await;
    let mut times = Vec::new();
    loop {
        let frame = ws.recv().await;
        match frame["type"].as_str() {
            Some("message") => times.push(frame["time"].as_u64().expect("a time")),
            Some("caught_up") => return times,
            _ => panic!("nothing is missing: {frame}"),
        }
    }
}

/// Publishes with a producer's number, and by a key of the sender's own; gives whether each had been kept before.
async fn publish_known(broker: &Broker, ws: &mut Ws, seq: u64) -> [Value; 2] {
    let numbered = json!({"topic": "known", "data": seq, "producer": "p", "seq": seq});
    let numbered = ws.publish_frame(numbered).await["duplicate"].clone();
    let key = format!("m{seq}");
    let headers = [
        ("content-type", "application/json"),
        ("hark-message-id", &*key),
    ];
    let path = "/v1/topics/keyed/messages";
    let keyed = broker.http().post(path, &headers, "1").ok().json()["duplicate"].clone();
    [numbered, keyed]
}

/// Sets the clock in the midst of everything, by these steps in turn, and back in the end.
async fn step_through(steps_ms: &[i64]) {
    let clock = Preload::new();
    // Ages far below the steps, and far above what the test takes.
    let broker = clock
        .under(Setup::new().restarts().flag("retention-age", "1h"))
        .start();
    clock.expect_loaded(1);
    let addr = broker.addr();
    let mut ws = Ws::connect(&broker).await;
    for n in 1..=50 {
        ws.publish("quiet", json!({"n": n})).await;
    }
    for seq in 1..=5 {
        assert_eq!(publish_known(&broker, &mut ws, seq).await, [false, false]);
    }
    let mut live = Ws::connect(&broker).await;
    let mut seen = live.watch_to_caught_up("steps", json!("now")).await;
    clock.slow_syncs(COMMIT);
    let publishers = [0, 1].map(|p| tokio::spawn(publish_surely(addr, "busy", p, EACH)));
    let all = |seen: &Seen| seen.messages.len() as u64 == 2 * EACH;
    let subscriber = tokio::spawn(async move { subscribe_surely(addr, "busy", None, all).await });

    let back: Vec<i64> = steps_ms.iter().copied().chain([0]).collect();
    for (step, ms) in back.into_iter().enumerate() {
        let goal = (step as u64 + 1) * 2 * EACH / (steps_ms.len() as u64 + 3);
        subscribe_surely(addr, "busy", None, |seen| seen.position >= goal).await;
        let asked = clock.clock_asked();
        clock.shift_clock_ms(ms);
        until("the broker has seen the time", async || {
            (clock.clock_asked() > asked + 10).then_some(())
        })
        .await;

        // Who sends again is known, who sends anew is new, and who listens hears.
        assert_eq!(
            publish_known(&broker, &mut ws, 5).await,
            [true, true],
            "at {ms}"
        );
        let seq = 6 + step as u64;
        assert_eq!(
            publish_known(&broker, &mut ws, seq).await,
            [false, false],
            "at {ms}"
        );
        assert_eq!(
            publish_known(&broker, &mut ws, 3).await,
            [true, true],
            "at {ms}"
        );
        ws.publish("steps", json!({"step": step})).await;
        live.follow(&mut seen, |seen| seen.messages.len() == step + 1)
            .await;
        // Records are looked at for their age every five seconds, also those of topics where nothing happens.
        let looked = Instant::now();
        until("the broker has looked for old records", async || {
            (looked.elapsed() > Duration::from_secs(6)).then_some(())
        })
        .await;
        let old = ws.watch_to_caught_up("quiet", json!("earliest")).await;
        old.expect(1..=50);
        ws.unsubscribe("quiet").await;
    }

    clock.slow_syncs(Duration::ZERO);
    for publisher in publishers {
        let receipts = publisher.await.unwrap();
        assert!(
            receipts
                .iter()
                .all(|(_, receipt)| receipt["duplicate"] == false)
        );
    }
    let busy = subscriber.await.unwrap();
    busy.expect(1..=2 * EACH);
    each_publisher_in_order(&busy.messages, 2, EACH);
    for topic in ["busy", "known", "keyed", "steps", "quiet"] {
        let times = times(&broker, topic).await;
        assert!(times.is_sorted(), "{topic}: time goes back");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_clock_that_is_a_year_ahead_for_a_while_costs_nothing() {
    step_through(&[YEAR_MS]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_clock_that_goes_back_by_a_day_costs_nothing() {
    step_through(&[-DAY_MS]).await;
}
