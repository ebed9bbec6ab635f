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

/// A line's cursor is where `--from` goes on, and what was printed can be imported.
#[tokio::test]
async fn sub_shows_the_cursor_of_each_message() {
    let broker = Broker::start();
    let mut ws = Ws::connect(&broker).await;
    let mut cursors = Vec::new();
    for data in [json!({"n": 1}), json!("two"), json!([])] {
        cursors.push(ws.publish("a", data).await["cursor"].clone());
    }
    ws.publish_frame(json!({"topic": "a", "data_base64": "AAECGw=="}))
        .await;

    let all = Cli::run(&broker, &["sub", "a", "--from", "earliest", "--count", "4"]);
    done(&all);
    let lines = messages(all.stdout.lines().map(str::to_owned));
    for (line, cursor) in lines.iter().zip(&cursors) {
        assert_eq!(line["cursor"], *cursor);
    }
    assert_eq!(lines.len(), 4);
    let from = lines[1]["cursor"].as_str().unwrap();
    let rest = Cli::run(&broker, &["sub", "a", "--from", from, "--count", "2"]);
    let rest = messages(rest.stdout.lines().map(str::to_owned));
    assert_eq!(rest, lines[2..]);

    let dir = tempfile::tempdir().unwrap();
    let mut command = hark_tests::hark();
    command.args(["log", "import", "--data-dir"]);
    command.arg(dir.path().join("data"));
    let mut import = Cli::spawn(command);
    import.write(all.stdout.as_bytes());
    let imported = import.wait();
    done(&imported);
    assert!(imported.stdout.contains(r#""imported":4"#), "{imported:#?}");

    // For people, on a terminal.
    let script = format!(
        "{} sub a --from earliest --count 1 --url {}",
        hark_tests::hark().get_program().display(),
        broker.ws_url()
    );
    let mut terminal = std::process::Command::new("script");
    terminal.args(["-qec", &script, "/dev/null"]);
    let shown = Cli::spawn(terminal).wait();
    assert!(
        shown
            .stdout
            .contains(&format!("  a  {}  ", cursors[0].as_str().unwrap())),
        "{shown:#?}"
    );
}

#[tokio::test]
async fn pub_publishes_a_file_as_one_message() {
    let broker = Broker::start();
    let dir = tempfile::tempdir().unwrap();
    let file = |name: &str, bytes: &[u8]| {
        let path = dir.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let lines = file("lines", b"one\ntwo\n");
    let json = file("json", b"{\n \"a\": 1\n}\n");
    let bytes = file("bytes", &[0, 1, 2, 0xff]);
    let whole = vec![b'x'; 1024 * 1024];

    done(&Cli::run(&broker, &["pub", "a", "--file", &lines]));
    done(&Cli::run(&broker, &["pub", "a", "--file", &json]));
    done(&Cli::run(
        &broker,
        &[
            "pub",
            "a,b",
            "--file",
            &bytes,
            "--content-type",
            "image/png",
        ],
    ));
    let mut stdin = Cli::hark(&broker, &["pub", "a", "--file", "-", "-H", "k=v"]);
    stdin.write(b"three\nfour\n");
    done(&stdin.wait());

    let kept = data_of(&broker, "a").await;
    assert_eq!(kept[0]["text"], "one\ntwo\n");
    assert_eq!(kept[1]["data"], json!({"a": 1}));
    assert_eq!(kept[2]["data_base64"], "AAEC/w==");
    assert_eq!(kept[2]["content_type"], "image/png");
    assert_eq!(kept[3]["text"], "three\nfour\n");
    assert_eq!(kept[3]["headers"]["k"], "v");
    assert_eq!(kept.len(), 4);
    assert_eq!(data_of(&broker, "b").await.len(), 1);

    let too_large = file("large", &[whole.as_slice(), b"y"].concat());
    let folder = dir.path().to_str().unwrap();
    for (path, said) in [
        (&*too_large, "1048576"),
        (folder, "directory"),
        ("/nowhere/at/all", "No such file"),
    ] {
        let exit = Cli::run(&broker, &["pub", "a", "--file", path]);
        assert_eq!(exit.code, Some(1), "{exit:#?}");
        assert!(exit.stderr.contains(path), "{exit:#?}");
        assert!(exit.stderr.contains(said), "{exit:#?}");
    }
    let both = Cli::run(&broker, &["pub", "a", "1", "--file", &json]);
    assert_eq!(both.code, Some(2), "{both:#?}");
    assert_eq!(data_of(&broker, "a").await.len(), 4);
}

#[tokio::test]
async fn a_content_type_is_of_one_message() {
    let broker = Broker::start();
    for args in [
        &["pub", "a", "--content-type", "image/png"][..],
        &["pub", "a", "-", "--content-type", "image/png"],
    ] {
        let mut publisher = Cli::hark(&broker, args);
        // It may have ended before it reads them.
        drop(publisher.take_stdin());
        let exit = publisher.wait();
        assert_eq!(exit.code, Some(2), "{exit:#?}");
        assert!(
            exit.stderr.contains("--content-type") && exit.stderr.contains("--file"),
            "{exit:#?}"
        );
    }
    done(&Cli::run(
        &broker,
        &["pub", "a", "<a/>", "--content-type", "image/svg+xml"],
    ));
    assert_eq!(data_of(&broker, "a").await.len(), 1);
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
async fn topics_list_lists_them_too() {
    let broker = Broker::start();
    let mut ws = Ws::connect(&broker).await;
    for topic in ["audit", "orders.eu", "orders.us"] {
        ws.publish(topic, json!(1)).await;
    }
    let list = |args: &[&str]| {
        let exit = Cli::run(&broker, args);
        done(&exit);
        let names = exit.stdout.lines().map(|line| {
            let topic: Value = serde_json::from_str(line).unwrap();
            topic["topic"].as_str().unwrap().to_owned()
        });
        names.collect::<Vec<_>>()
    };
    let orders = ["orders.eu", "orders.us"];
    assert_eq!(list(&["topics"]), ["audit", "orders.eu", "orders.us"]);
    assert_eq!(
        list(&["topics", "list"]),
        ["audit", "orders.eu", "orders.us"]
    );
    assert_eq!(list(&["topics", "--prefix", "orders."]), orders);
    assert_eq!(list(&["topics", "list", "--prefix", "orders."]), orders);
    assert_eq!(list(&["topics", "--prefix", "orders.", "list"]), orders);
    // What no name can begin with is no part of the question.
    assert!(list(&["topics", "list", "--prefix", "x&prefix=audit"]).is_empty());
    let described = Cli::run(&broker, &["topics", "--prefix", "a", "describe", "audit"]);
    assert_eq!(described.code, Some(2), "{described:#?}");
    done(&Cli::run(&broker, &["topics", "describe", "audit"]));
}

/// As help says of `--topic`: a name, or a pattern; more than once.
#[tokio::test]
async fn an_export_takes_patterns() {
    let mut broker = Setup::new().restarts().start();
    let mut ws = Ws::connect(&broker).await;
    for topic in ["audit", "orders", "orders.eu", "orders.eu.de", "orders.us"] {
        ws.publish(topic, json!(1)).await;
    }
    let url = broker.ws_url();
    let dir = broker.data_dir().to_str().unwrap().to_owned();
    let cases: [(&[&str], &[&str]); 6] = [
        (&["orders"], &["orders"]),
        (&["orders.*"], &["orders.eu", "orders.us"]),
        (&["orders.>"], &["orders.eu", "orders.eu.de", "orders.us"]),
        (&["*.eu"], &["orders.eu"]),
        (&["audit", "*.*.de"], &["audit", "orders.eu.de"]),
        (&["nothing.>"], &[]),
    ];
    let check = |from: &[&str]| {
        for (patterns, expected) in cases {
            let mut command = hark_tests::hark();
            command.args(["log", "export"]).args(from);
            command.args(patterns.iter().flat_map(|pattern| ["--topic", pattern]));
            let exit = Cli::spawn(command).wait();
            done(&exit);
            let mut topics: Vec<String> = exit
                .stdout
                .lines()
                .map(|line| {
                    let line: Value = serde_json::from_str(line).unwrap();
                    line["topic"].as_str().unwrap().to_owned()
                })
                .collect();
            topics.sort();
            assert_eq!(topics, expected, "{patterns:?} {from:?}");
        }
    };
    check(&["--url", &url]);
    broker.stop();
    check(&["--data-dir", &dir]);
    let mut bad = hark_tests::hark();
    bad.args(["log", "export", "--topic", "orders.>.x"]);
    assert_eq!(Cli::spawn(bad).wait().code, Some(2));
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
