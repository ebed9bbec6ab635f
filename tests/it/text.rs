//! Text stays text: whatever way it comes and whatever way it goes, in JSON it is `text` with its type, and what is no text, or would be
//! longer in that way, is base64.

use hark_tests::{Broker, Cli, EventStream, Setup, Ws};
use serde_json::{Value, json};

const MESSAGES: &str = "/v1/topics/a/messages";
const PLAIN: &str = "text/plain; charset=utf-8";

/// The content of a message, and its type.
fn content(message: &Value) -> Value {
    let fields = ["data", "text", "data_base64", "content_type"];
    let there = |name: &&str| message.get(name).is_some();
    fields
        .into_iter()
        .filter(there)
        .map(|name| (name.to_owned(), message[name].clone()))
        .collect::<serde_json::Map<_, _>>()
        .into()
}

/// Publishes by HTTP, by the command line and by both subprotocols; what is to be read of it.
async fn publish_all(broker: &Broker) -> Vec<Value> {
    let form = "application/x-www-form-urlencoded";
    // The first is a million control characters, the second just as long as text as in base64.
    let million = "\u{1}".repeat(1_000_000);
    let third = "aa\n".repeat(1000);
    let as_text =
        |text: &str, content_type: &str| json!({"text": text, "content_type": content_type});
    let posts: [(&str, &[u8], Value); 11] = [
        (form, b"hello", as_text("hello", PLAIN)),
        (form, b"17", json!({"data": 17})),
        (form, b"\xff", json!({"data_base64": "/w=="})),
        ("text/plain", b"", as_text("", "text/plain")),
        (
            "text/markdown",
            "# Grüße\n".as_bytes(),
            as_text("# Grüße\n", "text/markdown"),
        ),
        (
            "Text/HTML; Charset=\"UTF-8\"",
            b"<p>",
            as_text("<p>", "Text/HTML; Charset=\"UTF-8\""),
        ),
        (
            "text/plain; charset=us-ascii",
            b"a",
            as_text("a", "text/plain; charset=us-ascii"),
        ),
        (
            "text/plain; charset=iso-8859-1",
            b"a",
            json!({"data_base64": "YQ==", "content_type": "text/plain; charset=iso-8859-1"}),
        ),
        (
            "text/plain",
            b"\xff",
            json!({"data_base64": "/w==", "content_type": "text/plain"}),
        ),
        (
            "text/plain",
            third.as_bytes(),
            as_text(&third, "text/plain"),
        ),
        (
            "text/plain",
            million.as_bytes(),
            json!({"data_base64": format!("{}AQ==", "AQEB".repeat(333_333)), "content_type": "text/plain"}),
        ),
    ];
    let mut expected = Vec::new();
    for (content_type, body, read) in posts {
        let content_type = [("content-type", content_type)];
        broker.http().post(MESSAGES, &content_type, body).ok();
        expected.push(read);
    }
    broker.http().post(MESSAGES, &[], "no type").ok();
    expected.push(as_text("no type", PLAIN));
    let lines = "{\"topic\":\"a\",\"text\":\"a line\"}\n{\"topic\":\"a\",\"text\":\"x\",\"content_type\":\"text/csv\"}\n";
    broker.http().post("/v1/messages", &[], lines).ok();
    expected.extend([as_text("a line", PLAIN), as_text("x", "text/csv")]);

    let published = Cli::run(broker, &["pub", "a", "hi"]);
    assert_eq!(published.code, Some(0), "{published:?}");
    let published = Cli::run(broker, &["pub", "a", "--content-type", "text/css", "p {}"]);
    assert_eq!(published.code, Some(0), "{published:?}");
    expected.extend([as_text("hi", PLAIN), as_text("p {}", "text/css")]);

    for subprotocol in hark_protocol::Subprotocol::ALL {
        let mut ws = Ws::connect_as(broker, subprotocol).await;
        ws.publish_frame(json!({"topic": "a", "text": "two\nlines"}))
            .await;
        ws.publish_frame(json!({"topic": "a", "text": "a,b", "content_type": "text/csv"}))
            .await;
        ws.publish_frame(json!({"topic": "a", "data": "JSON"}))
            .await;
        expected.extend([
            as_text("two\nlines", PLAIN),
            as_text("a,b", "text/csv"),
            json!({"data": "JSON"}),
        ]);
    }
    expected
}

#[track_caller]
fn check<'m>(way: &str, messages: impl IntoIterator<Item = &'m Value>, expected: &[Value]) {
    let mut messages = messages.into_iter();
    for (offset, expected) in (1..).zip(expected) {
        let message = messages
            .next()
            .unwrap_or_else(|| panic!("{way}: {offset} is missing"));
        assert_eq!(message["offset"], offset, "{way}");
        let found = content(message);
        // Not `assert_eq!`: one has a million characters.
        assert!(
            &found == expected,
            "{way}: {found:.500} is not {expected:.500}"
        );
    }
    assert_eq!(messages.next(), None, "{way}");
}

#[tokio::test]
async fn text_is_text_whatever_way_it_comes_and_goes() {
    let mut broker = Setup::new().restarts().start();
    let mut live = Vec::new();
    for subprotocol in hark_protocol::Subprotocol::ALL {
        let mut ws = Ws::connect_as(&broker, subprotocol).await;
        ws.subscribe("a", json!("now")).await;
        ws.expect("caught_up").await;
        live.push(ws);
    }
    let expected = publish_all(&broker).await;
    let last = expected.len();

    for mut ws in live {
        let mut messages = Vec::new();
        for _ in 0..last {
            messages.push(ws.message().await);
        }
        check("live", &messages, &expected);
    }
    let mut stream = EventStream::open(&broker, "/v1/topics/a/events?from=earliest");
    stream.expect("welcome");
    stream.expect("subscribed");
    let events: Vec<Value> = (0..last).map(|_| stream.expect("message").data).collect();
    check("event stream", &events, &expected);
    let count = last.to_string();
    let sub = Cli::run(
        &broker,
        &["sub", "a", "--from", "earliest", "--count", &count],
    );
    check("hark sub", &json_lines(&sub.stdout), &expected);
    let exported = Cli::run(&broker, &["log", "export"]).stdout;
    check("export of a broker", &json_lines(&exported), &expected);
    check("history", &history(&broker), &expected);
    let page = broker
        .http()
        .get("/v1/messages?topic=a&from=earliest&wait=1")
        .ok()
        .json();
    check(
        "long-poll",
        page["pages"][0]["messages"].as_array().unwrap(),
        &expected,
    );

    broker.kill9();
    broker.start_again();
    check("after a restart", &history(&broker), &expected);
    broker.stop();
    let exported = run_log("export", broker.data_dir(), "");
    check("export of a directory", &json_lines(&exported), &expected);

    // As it is exported, and as it was before text had a name of its own.
    let before = json_lines(&exported).into_iter().map(|mut line| {
        let fields = line.as_object_mut().unwrap();
        if let Some(text) = fields.remove("text") {
            let base64 = base64_of(text.as_str().unwrap());
            fields.insert("data_base64".into(), base64.into());
        }
        format!("{line}\n")
    });
    for input in [exported.clone(), before.collect()] {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path().join("data");
        run_log("import", &dir, &input);
        let imported = Setup::new().data_dir(&dir).start();
        check("imported", &history(&imported), &expected);
    }
}

#[test]
fn text_that_says_it_is_something_else_is_refused() {
    let broker = Broker::start();
    let line = |fields: &str| format!("{{\"topic\":\"a\",{fields}}}");
    for (fields, told) in [
        (r#""text":"a","content_type":"image/png""#, "image/png"),
        (
            r#""text":"a","content_type":"text/plain; charset=latin1""#,
            "latin1",
        ),
        (r#""text":"a","data":"a""#, "exactly one"),
        (r#""text":"a","data_base64":"YQ==""#, "exactly one"),
        (r#""content_type":"text/plain""#, "exactly one"),
    ] {
        let answer = broker
            .http()
            .post("/v1/messages", &[], line(fields))
            .ok()
            .json();
        assert_eq!(answer["code"], "bad_frame", "{fields}: {answer}");
        assert!(
            answer["message"].as_str().unwrap().contains(told),
            "{fields}: {answer}"
        );
    }
    let tab = [("content-type", "text/plain;\tformat=flowed")];
    broker
        .http()
        .post(MESSAGES, &tab, "a")
        .expect_error(400, "bad_frame");
    assert_eq!(history(&broker), Vec::<Value>::new());
}

fn json_lines(text: &str) -> Vec<Value> {
    text.lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

fn history(broker: &Broker) -> Vec<Value> {
    let page = broker
        .http()
        .history("a", "from=earliest&limit=1000")
        .ok()
        .json();
    page["messages"].as_array().unwrap().clone()
}

fn base64_of(text: &str) -> String {
    use base64::Engine as _;
    base64::prelude::BASE64_STANDARD.encode(text)
}

/// Runs `hark log COMMAND` over the directory, with `input` on stdin.
fn run_log(command: &str, dir: &std::path::Path, input: &str) -> String {
    let mut hark = hark_tests::hark();
    hark.args(["log", command]).arg("--data-dir").arg(dir);
    let mut cli = Cli::spawn(hark);
    let mut stdin = cli.take_stdin();
    let input = input.to_owned();
    let writer =
        std::thread::spawn(move || std::io::Write::write_all(&mut stdin, input.as_bytes()));
    let exit = cli.wait();
    writer.join().unwrap().unwrap();
    assert_eq!(exit.code, Some(0), "{exit:?}");
    exit.stdout
}
