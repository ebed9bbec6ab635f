//! Connections that use up all file descriptors: what the log needs it has, or has again when they leave, without a restart.

use std::net::TcpStream;

use hark_tests::{Acked, Broker, Preload, Setup, Ws, until};
use serde_json::{Value, json};

const LIMIT: u32 = 256;

fn setup() -> Setup {
    Setup::new().descriptors(LIMIT).restarts()
}

/// Connections, more than there are descriptors: those that cannot be accepted wait.
async fn crowd(broker: &Broker) -> Vec<TcpStream> {
    let crowd = (0..LIMIT)
        .map(|_| TcpStream::connect(broker.addr()).unwrap())
        .collect();
    let mut before = 0;
    until("as many are accepted as can be", async || {
        let now = broker.descriptors();
        let is_all = now == before && now > LIMIT as usize / 2;
        before = now;
        is_all.then_some(())
    })
    .await;
    crowd
}

async fn publish(ws: &mut Ws, n: u64) -> Value {
    ws.ask(json!({"type": "publish", "topic": "a", "data": {"n": n}}))
        .await
}

#[tokio::test]
async fn connections_that_use_all_descriptors_do_not_close_the_log() {
    let mut broker = setup().start();
    let mut acked = Acked::default();
    let mut n = 0;
    // Each time the first commits after a start, and a crowd that has come before them.
    for _ in 0..3 {
        let mut ws = Ws::connect(&broker).await;
        let crowd = crowd(&broker).await;

        for _ in 0..20 {
            n += 1;
            let receipt = publish(&mut ws, n).await;
            acked.receipt(&receipt, &json!({"n": n}));
        }

        assert!(!broker.log().contains("closed for writing"));
        drop((crowd, ws));
        broker.kill9();
        broker.start_again();
    }
    let mut ws = Ws::connect(&broker).await;
    let seen = ws.watch_to_caught_up("a", json!("earliest")).await;
    acked.check(&seen);
    seen.expect(1..=n);
}

#[tokio::test]
async fn where_files_must_be_opened_publishes_are_taken_or_wait_until_the_crowd_has_left() {
    let mut broker = setup().start();
    let mut ws = Ws::connect(&broker).await;
    let mut acked = Acked::default();
    acked.receipt(&publish(&mut ws, 1).await, &json!({"n": 1}));
    let crowd = crowd(&broker).await;

    // Such files hold what is too large for sled's log. Each is synced before the next commit is answered.
    for n in 2..=20 {
        std::fs::write(broker.data_dir().join("blobs").join(n.to_string()), "large").unwrap();
        let answer = publish(&mut ws, n).await;
        match answer["type"].as_str() {
            Some("published") => acked.receipt(&answer, &json!({"n": n})),
            _ => assert_eq!(answer["code"], "log_unavailable", "{answer}"),
        }
    }
    drop(crowd);
    until("it is ready, by itself", async || {
        (broker.http().get("/readyz").status == 200).then_some(())
    })
    .await;

    acked.receipt(&publish(&mut ws, 21).await, &json!({"n": 21}));
    assert!(!broker.log().contains("closed for writing"));
    let seen = ws.watch_to_caught_up("a", json!("earliest")).await;
    acked.check(&seen);
    broker.kill9();
    broker.start_again();
    let mut ws = Ws::connect(&broker).await;
    let again = ws.watch_to_caught_up("a", json!("earliest")).await;
    assert_eq!(again.offsets(), seen.offsets());
    assert_eq!(again.epoch, seen.epoch);
}

#[tokio::test]
async fn a_lack_that_passes_is_waited_for_and_told_meanwhile() {
    let disk = Preload::new();
    let mut broker = disk.under(Setup::new().restarts()).start();
    disk.expect_loaded(1);
    let mut acked = Acked::default();
    let mut ws = Ws::connect(&broker).await;
    acked.receipt(&publish(&mut ws, 1).await, &json!({"n": 1}));
    // The system's own table of open files is full; nor is there memory; nor room for another name.
    for (n, errno) in [(2, 23), (4, 12), (6, 28)] {
        disk.fail_opens(Some(errno));
        let tried = disk.refused_opens();
        std::fs::write(broker.data_dir().join("blobs").join(n.to_string()), "large").unwrap();
        let waiting = tokio::spawn(async move {
            let receipt = publish(&mut ws, n).await;
            (ws, receipt)
        });
        let reason = until("it says that it waits, and tries again", async || {
            let ready = broker.http().get("/readyz");
            let has_tried = disk.refused_opens() > tried + 1;
            (ready.status == 503 && has_tried).then(|| ready.json()["reason"].to_string())
        })
        .await;
        assert!(reason.contains(&format!("os error {errno}")), "{reason}");
        let refused = broker.http().publish("b", &json!(1));
        refused.expect_error(503, "log_unavailable");
        let history = broker.http().history("a", "from=earliest").ok().json();
        assert_eq!(history["messages"][0]["data"]["n"], 1, "who reads goes on");
        assert!(!waiting.is_finished());

        disk.fail_opens(None);

        let receipt;
        (ws, receipt) = waiting.await.unwrap();
        acked.receipt(&receipt, &json!({"n": n}));
        until("it is ready, by itself", async || {
            (broker.http().get("/readyz").status == 200).then_some(())
        })
        .await;
        acked.receipt(&publish(&mut ws, n + 1).await, &json!({"n": n + 1}));
    }
    broker.kill9();
    broker.start_again();
    let mut ws = Ws::connect(&broker).await;
    let seen = ws.watch_to_caught_up("a", json!("earliest")).await;
    acked.check(&seen);
    seen.expect(1..=7);
}
