//! Topics that are kept in memory only: the same promises while the broker runs, and a new epoch when it starts.

use hark_tests::{Acked, Broker, Cli, Seen, Setup, Ws};
use serde_json::{Value, json};

fn setup() -> Setup {
    Setup::new().flag("memory-topics", "mem.>").restarts()
}

#[tokio::test]
async fn a_memory_topic_resumes_while_the_broker_runs() {
    let broker = setup().start();
    let mut ws = Ws::connect(&broker).await;
    let mut acked = Acked::default();
    for n in 1..=50 {
        let data = json!({"n": n});
        acked.receipt(&ws.publish("mem.a", data.clone()).await, &data);
    }

    for position in [0, 1, 30, 50] {
        let mut reader = Ws::connect(&broker).await;
        let seen = reader
            .watch_to_caught_up("mem.a", json!({"after": acked.cursor(position)}))
            .await;
        seen.expect(position + 1..=50);
        acked.check(&seen);
        reader.expect_quiet().await;
    }
}

#[tokio::test]
async fn a_memory_topic_begins_a_new_epoch_at_every_start() {
    let mut broker = setup().start();
    let mut ws = Ws::connect(&broker).await;
    for topic in ["mem.a", "disk.a"] {
        for n in 1..=5 {
            ws.publish(topic, json!(n)).await;
        }
    }
    let memory = ws.watch_to_caught_up("mem.a", json!("earliest")).await;
    let disk = ws.watch_to_caught_up("disk.a", json!("earliest")).await;
    let idle = ws.watch_to_caught_up("mem.idle", json!("now")).await;

    broker.stop();
    broker.start_again();

    let mut ws = Ws::connect(&broker).await;
    for (topic, before) in [("mem.a", &memory), ("mem.idle", &idle)] {
        let subscribed = ws.subscribe(topic, before.after()).await;
        let gap = ws.expect("gap").await;
        assert_eq!(
            (&subscribed["cursor"], &subscribed["resumed"]),
            (&json!(before.cursor()), &json!(false))
        );
        assert_eq!(
            (&gap["reason"], &gap["from"], &gap["to"]),
            (&json!("other_epoch"), &Value::Null, &Value::Null)
        );
        assert_eq!(ws.expect("caught_up").await["cursor"], gap["cursor"]);
        let receipt = ws.publish(topic, json!("new")).await;
        assert_eq!(ws.message().await["offset"], 1);
        assert!(
            !receipt["cursor"]
                .as_str()
                .unwrap()
                .starts_with(&format!("{}:", before.epoch)),
            "{receipt}"
        );
    }
    let subscribed = ws.subscribe("disk.a", disk.after()).await;
    assert_eq!(
        subscribed["resumed"], true,
        "only memory topics forget: {subscribed}"
    );
}

#[tokio::test]
async fn an_idle_memory_topic_keeps_its_history_or_says_that_it_is_gone() {
    let broker = setup().flag("room-idle", "20ms").start();
    let mut ws = Ws::connect(&broker).await;
    for n in 1..=10 {
        ws.publish("mem.a", json!(n)).await;
    }
    let before = ws.watch_to_caught_up("mem.a", json!({"last": 5})).await;
    let middle = format!("{}:7", before.epoch);
    drop(ws);

    for pause_ms in [0, 10, 20, 30, 50, 200] {
        tokio::time::sleep(std::time::Duration::from_millis(pause_ms)).await;
        let mut reader = Ws::connect(&broker).await;
        let seen: Seen = reader
            .watch_to_caught_up("mem.a", json!({"after": middle}))
            .await;
        assert!(
            !seen.gaps.is_empty() || seen.offsets() == [8, 9, 10],
            "a silent skip: {seen:?}"
        );
    }
}

#[tokio::test]
async fn nothing_of_a_memory_topic_reaches_the_disk() {
    let broker = setup().start();
    let mut ws = Ws::connect(&broker).await;
    let secret = "a-string-that-stands-nowhere-else";
    let witness = "another-string-that-should-be-found";

    ws.publish("mem.a", json!(secret)).await;
    ws.publish("disk.a", json!(witness)).await;

    assert!(!on_disk(&broker, secret), "a memory topic touched the disk");
    assert!(on_disk(&broker, witness), "the search finds what is there");
}

fn on_disk(broker: &Broker, text: &str) -> bool {
    let mut folders = vec![broker.data_dir().to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if std::fs::read(&path)
                .unwrap()
                .windows(text.len())
                .any(|bytes| bytes == text.as_bytes())
            {
                return true;
            }
        }
    }
    false
}

/// Page by page, two at a time.
fn listed(broker: &Broker, prefix: &str) -> Vec<(String, Value)> {
    let (mut found, mut after) = (Vec::new(), String::new());
    loop {
        let url = format!("/v1/topics?limit=2&prefix={prefix}{after}");
        let page = broker.http().get(&url).ok().json();
        let topics = page["topics"].as_array().unwrap();
        assert!(topics.len() <= 2, "{page}");
        let name = |topic: &Value| topic["topic"].as_str().unwrap().to_owned();
        found.extend(
            topics
                .iter()
                .map(|topic| (name(topic), topic["head"].clone())),
        );
        match page["next"].as_str() {
            Some(next) => after = format!("&after={next}"),
            None => return found,
        }
    }
}

#[tokio::test]
async fn a_name_that_is_kept_in_memory_hides_what_the_disk_has_under_it() {
    let home = tempfile::tempdir().unwrap();
    let dir = home.path().join("data");
    let without = || Setup::new().data_dir(&dir);
    let mut broker = without().start();
    let mut ws = Ws::connect(&broker).await;
    let topics = ["a", "mem.a", "mem.b", "mem.c", "z"];
    for topic in topics {
        ws.publish(topic, json!(1)).await;
        ws.publish(topic, json!(2)).await;
    }
    let epoch = broker.http().get("/v1/topics/mem.a").ok().json()["epoch"].clone();
    broker.stop();

    let mut broker = without().flag("memory-topics", "mem.>").start();
    hark_tests::until("it says which are hidden", async || {
        broker.log().contains("mem.a, mem.b, mem.c").then_some(())
    })
    .await;
    let two = json!(2);
    let on_disk = [("a".to_owned(), two.clone()), ("z".to_owned(), two.clone())];
    assert_eq!(listed(&broker, ""), on_disk);
    let mut ws = Ws::connect(&broker).await;
    ws.publish("mem.b", json!("in memory")).await;
    assert_eq!(
        listed(&broker, ""),
        [
            &on_disk[..1],
            &[("mem.b".to_owned(), json!(1))],
            &on_disk[1..]
        ]
        .concat()
    );
    assert_eq!(listed(&broker, "mem."), [("mem.b".to_owned(), json!(1))]);
    let described = broker.http().get("/v1/topics/mem.a").ok().json();
    assert_eq!(described["head"], 0);
    assert_ne!(described["epoch"], epoch);
    let exported = Cli::run(&broker, &["log", "export"]);
    assert_eq!(
        (exported.code, exported.stdout.lines().count()),
        (Some(0), 5),
        "{exported:?}"
    );

    // What is deleted is deleted wherever it is, and only once.
    for (topic, deleted) in [
        ("mem.a", true),
        ("mem.b", true),
        ("mem.a", false),
        ("mem.d", false),
    ] {
        let answer = broker
            .http()
            .request("DELETE", &format!("/v1/topics/{topic}"), &[], b"")
            .ok()
            .json();
        assert_eq!(answer["deleted"], deleted, "{answer}");
    }
    assert_eq!(listed(&broker, ""), on_disk);
    broker.stop();

    let broker = without().start();
    let back = ("mem.c".to_owned(), two);
    assert_eq!(
        listed(&broker, ""),
        [&on_disk[..1], &[back], &on_disk[1..]].concat()
    );
}
