//! `hark pub`, `hark sub` and `hark topics` as people and scripts use them.

use hark_tests::{Broker, Cli, Exit, Setup, Ws};
use serde_json::{Value, json};

/// The messages among the lines that `hark sub` printed.
fn messages(lines: impl IntoIterator<Item = String>) -> Vec<Value> {
    let read =
        |line: String| serde_json::from_str(&line).unwrap_or_else(|e| panic!("{e} in {line:?}"));
    lines
        .into_iter()
        .map(read)
        .filter(|line: &Value| line.get("offset").is_some())
        .collect()
}

/// Reads lines until so many messages have come.
fn take(sub: &mut Cli, count: usize) -> Vec<Value> {
    let mut found = Vec::new();
    while found.len() < count {
        found.extend(messages([sub.line()]));
    }
    found
}

#[track_caller]
fn done(exit: &Exit) {
    assert_eq!(exit.code, Some(0), "{exit:#?}");
}

async fn data_of(broker: &Broker, topic: &str) -> Vec<Value> {
    let page = broker
        .http()
        .history(topic, "from=earliest&limit=1000")
        .ok()
        .json();
    page["messages"].as_array().unwrap().clone()
}

#[tokio::test]
async fn pub_publishes_what_it_is_given() {
    let broker = Broker::start();

    done(&Cli::run(&broker, &["pub", "a", r#"{"n": 1}"#]));
    done(&Cli::run(&broker, &["pub", "a", "hello"]));

    let kept = data_of(&broker, "a").await;
    assert_eq!(kept.len(), 2);
    assert_eq!(kept[0]["data"], json!({"n": 1}));
    assert_eq!(kept[1]["text"], "hello");
}

#[tokio::test]
async fn pub_publishes_to_several_topics_and_tells_of_each() {
    let broker = Broker::start();

    let one = Cli::run(&broker, &["pub", "a,b,c", "1", "-H", "k=v", "--json"]);
    done(&one);
    let told: Vec<serde_json::Value> = one
        .stdout
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let topics: Vec<_> = told.iter().map(|receipt| &receipt["topic"]).collect();
    assert_eq!(topics, ["a", "b", "c"]);
    assert!(told.iter().all(|receipt| receipt["type"] == "published"));

    let mut lines = Cli::hark(&broker, &["pub", "a,b", "-", "--json"]);
    lines.write(b"2\n3\n");
    lines.end_input();
    let exit = lines.wait();
    done(&exit);
    assert!(exit.stdout.contains(r#""kept":4"#), "{exit:#?}");
    for (topic, expected) in [("a", 3), ("b", 3), ("c", 1)] {
        let kept = data_of(&broker, topic).await;
        let data: Vec<_> = kept.iter().map(|message| message["data"].clone()).collect();
        assert_eq!(data, (1..=expected).map(|n| json!(n)).collect::<Vec<_>>());
        assert_eq!(kept[0]["headers"]["k"], "v");
    }

    // Each fails by itself.
    let some = Cli::run(&broker, &["pub", "a,$sys", "4"]);
    assert_eq!(some.code, Some(1), "{some:#?}");
    assert!(some.stdout.contains(r#""topic":"a""#), "{some:#?}");
    assert!(some.stderr.contains("$sys"), "{some:#?}");
    assert_eq!(data_of(&broker, "a").await.len(), 4);
    let twice = Cli::run(&broker, &["pub", "a,b,a", "5"]);
    assert_eq!(twice.code, Some(1), "{twice:#?}");
    assert!(twice.stderr.contains("twice"), "{twice:#?}");
}

#[tokio::test]
async fn pub_reads_lines_from_stdin() {
    let broker = Broker::start();
    let mut publisher = Cli::hark(&broker, &["pub", "a", "-"]);

    let input: String = (1..=20_000).map(|n| format!("{{\"n\":{n}}}\n")).collect();
    publisher.write(input.as_bytes());
    done(&publisher.wait());

    let seen = Ws::connect(&broker)
        .await
        .watch_to_caught_up("a", json!("earliest"))
        .await;
    seen.expect(1..=20_000);
    assert!(
        seen.data()
            .into_iter()
            .eq((1..=20_000).map(|n| format!("{{\"n\":{n}}}")))
    );
}

#[tokio::test]
async fn the_last_line_needs_no_line_break_and_an_empty_input_is_fine() {
    let broker = Broker::start();

    done(&Cli::run(&broker, &["pub", "a", "-"]));
    let mut publisher = Cli::hark(&broker, &["pub", "a", "-"]);
    publisher.write(b"1\n2");
    done(&publisher.wait());

    let seen = Ws::connect(&broker)
        .await
        .watch_to_caught_up("a", json!("earliest"))
        .await;
    assert_eq!(seen.data(), ["1", "2"]);
}

/// Each line is published when it comes, not when the input ends: `tail -f … | hark pub …`.
#[tokio::test]
async fn a_line_is_published_when_it_comes() {
    let broker = Broker::start();
    let mut reader = Ws::connect(&broker).await;
    reader.subscribe("a", json!("now")).await;
    reader.expect("caught_up").await;
    let mut publisher = Cli::hark(&broker, &["pub", "a", "-"]);

    for n in 0..5 {
        publisher.write(format!("{n}\n").as_bytes());
        assert_eq!(reader.message().await["data"], n);
    }
    done(&publisher.wait());
}

#[tokio::test]
async fn sub_prints_one_json_line_a_message() {
    let broker = Broker::start();
    let mut ws = Ws::connect(&broker).await;
    for n in 1..=3 {
        ws.publish("a", json!({"n": n})).await;
    }
    ws.publish_frame(json!({"topic": "a", "data_base64": "AAECGw=="}))
        .await;
    ws.publish("a", json!("\u{1b}[31mred\r\n")).await;

    for args in [
        &["sub", "a", "--from", "earliest", "--json"][..],
        &["sub", "a", "--from", "earliest"],
    ] {
        let mut sub = Cli::hark(&broker, args);
        let lines = take(&mut sub, 5);
        let offsets: Vec<_> = lines
            .iter()
            .map(|line| line["offset"].as_u64().unwrap())
            .collect();
        assert_eq!(offsets, [1, 2, 3, 4, 5], "{args:?}");
        assert_eq!(lines[2]["data"], json!({"n": 3}));
        assert_eq!(lines[3]["data_base64"], "AAECGw==");
        assert_eq!(lines[4]["data"], "\u{1b}[31mred\r\n");
    }
}

#[tokio::test]
async fn sub_starts_where_it_is_told_to() {
    let broker = Broker::start();
    let mut ws = Ws::connect(&broker).await;
    let mut cursors = Vec::new();
    for n in 1..=10 {
        cursors.push(
            ws.publish("a", json!(n)).await["cursor"]
                .as_str()
                .unwrap()
                .to_owned(),
        );
    }

    for (from, first) in [
        ("earliest", 1),
        ("last:3", 8),
        (&*cursors[5], 7),
        ("since:1h", 1),
    ] {
        let mut sub = Cli::hark(&broker, &["sub", "a", "--from", from, "--json"]);
        assert_eq!(take(&mut sub, 1)[0]["offset"], first, "{from}");
    }
}

#[tokio::test]
async fn sub_goes_on_by_itself_when_the_broker_comes_back() {
    let mut broker = Setup::new().restarts().start();
    let mut sub = Cli::hark(&broker, &["sub", "a", "--from", "earliest", "--json"]);
    let mut ws = Ws::connect(&broker).await;
    ws.publish("a", json!(1)).await;
    assert_eq!(take(&mut sub, 1)[0]["offset"], 1);

    for (round, how) in [Broker::kill9, Broker::stop, Broker::kill9]
        .into_iter()
        .enumerate()
    {
        how(&mut broker);
        assert!(sub.is_running(), "it gave up: {}", sub.said());
        broker.start_again();
        let mut ws = Ws::connect(&broker).await;
        for n in 0..100 {
            ws.publish("a", json!(n)).await;
        }
        let first = 2 + round as u64 * 100;
        let offsets: Vec<_> = take(&mut sub, 100)
            .iter()
            .map(|line| line["offset"].as_u64().unwrap())
            .collect();
        assert_eq!(offsets, (first..first + 100).collect::<Vec<_>>());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pub_sends_again_what_a_killed_broker_did_not_answer() {
    const LINES: u64 = 30_000;
    let mut broker = Setup::new().restarts().start();
    let mut publisher = Cli::hark(&broker, &["pub", "a", "-"]);
    let mut stdin = publisher.take_stdin();
    let writing = std::thread::spawn(move || {
        use std::io::Write as _;
        for n in 1..=LINES {
            writeln!(stdin, "{n}").unwrap();
        }
    });

    for kill in 1..=3 {
        hark_tests::subscribe_surely(broker.addr(), "a", None, |seen| {
            seen.position >= kill * LINES / 5
        })
        .await;
        broker.kill9();
        broker.start_again();
    }
    writing.join().unwrap();
    done(&publisher.wait());

    let seen = Ws::connect(&broker)
        .await
        .watch_to_caught_up("a", json!("earliest"))
        .await;
    seen.expect(1..=LINES);
    assert!(
        seen.data()
            .into_iter()
            .eq((1..=LINES).map(|n| n.to_string()))
    );
}

#[tokio::test]
async fn topics_lists_the_topics() {
    let broker = Broker::start();
    let mut ws = Ws::connect(&broker).await;
    for topic in ["orders.eu", "orders.us"] {
        ws.publish(topic, json!(1)).await;
    }

    let exit = Cli::run(&broker, &["topics"]);

    done(&exit);
    assert!(
        exit.stdout.contains("orders.eu") && exit.stdout.contains("orders.us"),
        "{exit:#?}"
    );
}

#[tokio::test]
async fn what_fails_says_why_and_ends_with_1() {
    let mut broker = Setup::new().restarts().start();
    for args in [
        &["pub", "$sys", "1"][..],
        &["sub", "a..b"],
        &["pub", "a b", "1"],
    ] {
        let exit = Cli::run(&broker, args);
        assert!(matches!(exit.code, Some(1 | 2)), "{args:?}: {exit:#?}");
        assert!(
            !exit.stderr.is_empty() && !exit.stderr.contains("panicked"),
            "{args:?}: {exit:#?}"
        );
    }
    let exit = Cli::run(&broker, &["sub", "a", "--from", "soon"]);
    assert_eq!(exit.code, Some(2), "{exit:#?}");

    broker.kill9();
    let exit = Cli::run(&broker, &["topics"]);
    assert_eq!(exit.code, Some(1), "nobody there: {exit:#?}");
    assert!(
        exit.stderr.contains(&broker.addr().to_string()),
        "{exit:#?}"
    );
}
