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
        // Who reads goes on as far as sled can: what is read is true, and what cannot be read is said.
        for (acked, topic) in acked.iter().zip(["a", "b"]) {
            let history = broker.http().history(topic, "from=earliest&limit=1000");
            if history.status == 200 {
                let messages = history.json()["messages"].as_array().unwrap().clone();
                assert_eq!(messages.len(), 1000.min(acked.len()), "{topic}");
                assert!(
                    (1..)
                        .zip(&messages)
                        .all(|(n, message)| message["offset"] == n)
                );
            } else {
                history.expect_error(503, "log_unavailable");
            }
        }

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

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn publishes_are_refused_before_the_disk_is_full() {
    const KEPT_FREE: u64 = 1_000_000_000;
    let disk = Preload::new();
    disk.free_bytes(Some(2 * KEPT_FREE));
    let setup = Setup::new().restarts().flag("min-free-bytes", KEPT_FREE);
    let mut broker = disk.under(setup).start();
    let mut ws = Ws::connect(&broker).await;
    let mut live = Ws::connect(&broker).await;
    let mut seen = live.watch_to_caught_up("a", json!("now")).await;
    let mut acked = Acked::default();
    let mut n = 0;
    let mut publish = async |ws: &mut Ws, acked: &mut Acked| {
        n += 1;
        let frame = message("a", n);
        let mut publish = frame.clone();
        publish["type"] = json!("publish");
        let answer = ws.ask(publish).await;
        let is_kept = answer["type"] == "published";
        match is_kept {
            true => acked.receipt(&answer, &frame["data"]),
            false => assert_eq!(answer["code"], "log_unavailable", "{answer}"),
        }
        is_kept
    };
    for times in 1..=3 {
        for _ in 0..100 {
            assert!(publish(&mut ws, &mut acked).await);
        }
        assert_eq!(broker.http().get("/readyz").status, 200);
        assert!(
            disk.free_asked() > 0,
            "the broker does not ask, or asks in a way that this test does not see"
        );

        disk.free_bytes(Some(KEPT_FREE / 2));
        until("publishes are refused", async || {
            (!publish(&mut ws, &mut acked).await).then_some(())
        })
        .await;

        // Everybody is told, and who only reads does not mind.
        let reason = expect_not_ready(&broker);
        assert!(reason.contains("free"), "{reason}");
        let http = broker.http().publish("a", &json!(1));
        http.expect_error(503, "log_unavailable");
        assert!(!publish(&mut ws, &mut acked).await);
        live.follow(&mut seen, |seen| seen.position == acked.head())
            .await;
        acked.check(&read_all(&broker, "a", &acked).await);

        // Once by a start on a disk that has no room, else by itself.
        if times == 2 {
            broker.kill9();
            broker.start_again();
            expect_not_ready(&broker);
            acked.check(&read_all(&broker, "a", &acked).await);
            ws = Ws::connect(&broker).await;
            live = Ws::connect(&broker).await;
            assert!(!publish(&mut ws, &mut acked).await);
            seen.resume(&live.subscribe("a", seen.after()).await);
            live.follow(&mut seen, |seen| seen.caught_up == 1).await;
        }
        disk.free_bytes(Some(2 * KEPT_FREE));
        // Nobody publishes: it looks by itself.
        until("it is ready", async || {
            (broker.http().get("/readyz").status == 200).then_some(())
        })
        .await;
        assert!(publish(&mut ws, &mut acked).await);
    }
    acked.check(&read_all(&broker, "a", &acked).await);
    broker.stop();
}
