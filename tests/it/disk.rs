//! A disk that runs full: what was acknowledged is kept, nothing more is acknowledged, and everybody is told.

use hark_tests::{Acked, Broker, Preload, Seen, Setup, Ws, until};
use serde_json::{Value, json};

/// What a broker says when it takes no writes: never a crash, always a reason.
#[track_caller]
pub(crate) fn expect_not_ready(broker: &Broker) -> String {
    let ready = broker.http().get("/readyz");
    assert_eq!(ready.status, 503, "{ready:#?}");
    let said = ready.json();
    assert!(said["status"].is_string(), "{said}");
    let reason = said["reason"].as_str().unwrap_or_default().to_owned();
    assert!(!reason.is_empty(), "no reason: {said}");
    reason
}

/// Publishes to `topic` until the broker refuses; gives the error. What was answered is in `acked`.
pub(crate) async fn publish_until_refused(ws: &mut Ws, topic: &str, acked: &mut Acked) -> Value {
    for n in 1_000_u64.. {
        let frames: Vec<_> = (0..16).map(|i| message(topic, n * 16 + i)).collect();
        let answers = ws.publish_all(frames.clone(), 16).await;
        for (answer, frame) in answers.iter().zip(&frames) {
            match answer["type"].as_str() {
                Some("published") => acked.receipt(answer, &frame["data"]),
                _ => {
                    assert_eq!(answer["code"], "log_unavailable", "{answer}");
                    return answer.clone();
                }
            }
        }
    }
    unreachable!("numbers do not end")
}

pub(crate) fn message(topic: &str, n: u64) -> Value {
    json!({"topic": topic, "data": {"n": n, "x": "x".repeat(300)}})
}

/// Reads a topic from its beginning and checks it against what was acknowledged.
pub(crate) async fn read_all(broker: &Broker, topic: &str, acked: &Acked) -> Seen {
    let mut ws = Ws::connect(broker).await;
    let seen = ws.watch_to_caught_up(topic, json!("earliest")).await;
    assert!(
        seen.position >= acked.head(),
        "{topic} ends at {}",
        seen.cursor()
    );
    assert_eq!(seen.gaps, Vec::<Value>::new());
    acked.check(&seen);
    seen
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_disk_costs_nothing_that_was_acknowledged() {
    // Once as disks are that write in place, once as those that do not; and once so full that nothing fits at all.
    for room in [Some(700_000), Some(3_000_000), None] {
        let disk = Preload::new();
        let mut broker = disk.under(Setup::new().restarts()).start();
        disk.expect_loaded(1);
        let mut ws = Ws::connect(&broker).await;
        let mut acked = [Acked::default(), Acked::default()];
        for (acked, topic) in acked.iter_mut().zip(["a", "b"]) {
            let frames: Vec<_> = (1..=2000).map(|n| message(topic, n)).collect();
            let answers = ws.publish_all(frames.clone(), 64).await;
            for (answer, frame) in answers.iter().zip(&frames) {
                acked.receipt(answer, &frame["data"]);
            }
        }

        match room {
            Some(bytes) => disk.room(Some(bytes)),
            None => disk.room_for_any_write(0),
        }
        let refused = publish_until_refused(&mut ws, "a", &mut acked[0]).await;
        assert!(disk.refused_writes() > 0);

        assert!(refused["message"].is_string(), "{refused}");
        let reason = expect_not_ready(&broker);
        assert!(broker.log().contains("closed for writing"), "{reason}");
        for topic in ["a", "b", "new"] {
            let answer = ws
                .ask(json!({"type": "publish", "topic": topic, "data": 1}))
                .await;
            assert_eq!(answer["code"], "log_unavailable", "{answer}");
        }
        let mut readable = 0;
        for (acked, topic) in acked.iter().zip(["a", "b"]) {
            let history = broker.http().history(topic, "from=earliest&limit=1000");
            println!(
                "{room:?} {topic} of {}: {} {:.200} ({reason})",
                acked.len(),
                history.status,
                history.body
            );
            readable += u32::from(history.status == 200);
        }
        println!("{readable} topics can still be read");

        // Room alone does not open it again, since sled remembers the error: what it wrote nobody knows.
        disk.room(None);
        broker.kill9();
        broker.start_again();
        until("it is ready", async || {
            (broker.http().get("/readyz").status == 200).then_some(())
        })
        .await;
        let mut ws = Ws::connect(&broker).await;
        for (acked, topic) in acked.iter_mut().zip(["a", "b"]) {
            let seen = read_all(&broker, topic, acked).await;
            let data = json!("later");
            let later = ws.publish(topic, data.clone()).await;
            assert_eq!(
                later["cursor"],
                format!("{}:{}", seen.epoch, seen.position + 1)
            );
            acked.receipt(&later, &data);
        }
    }
}
