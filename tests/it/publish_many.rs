//! `POST /v1/messages`: messages for many topics in one request, each answered by itself.

use hark_tests::{Broker, Ws};
use serde_json::{Value, json};

const MANY: &str = "/v1/messages";
const JSON: [(&str, &str); 1] = [("content-type", "application/json")];
const NDJSON: [(&str, &str); 1] = [("content-type", "application/x-ndjson")];

/// What the messages of a topic hold.
pub(crate) fn data(broker: &Broker, topic: &str) -> Vec<Value> {
    let page = broker.http().history(topic, "limit=1000").ok().json();
    let messages = page["messages"].as_array().unwrap();
    messages
        .iter()
        .map(|message| message["data"].clone())
        .collect()
}

#[test]
fn every_line_is_kept_in_its_topic_and_answered_in_its_place() {
    let broker = Broker::start();
    let lines: String = (0..2000)
        .map(|n| format!("{{\"id\":{n},\"topic\":\"t{}\",\"data\":{n}}}\n", n % 7))
        .collect();

    let answers = broker.http().post(MANY, &NDJSON, lines).ok();
    assert_eq!(answers.headers["content-type"], "application/x-ndjson");
    let answers = answers.json_lines();

    assert_eq!(answers.len(), 2000);
    for (n, answer) in (0_u64..).zip(&answers) {
        assert_eq!(answer["id"], n);
        assert_eq!(answer["topic"], format!("t{}", n % 7));
        let cursor = answer["cursor"].as_str().unwrap();
        assert!(cursor.ends_with(&format!(":{}", n / 7 + 1)), "{answer}");
    }
    for topic in 0..7 {
        let expected: Vec<Value> = (0..2000)
            .filter(|n| n % 7 == topic)
            .map(Value::from)
            .collect();
        assert_eq!(data(&broker, &format!("t{topic}")), expected);
    }
}

#[test]
fn what_is_wrong_with_one_line_is_nothing_to_the_others() {
    let broker = Broker::start();
    let long = format!("{{\"topic\":\"a\",\"data\":\"{}\"}}", "x".repeat(1 << 20));
    let lines = [
        r#"{"topic":"a","data":1}"#,
        "rubbish",
        r#"{"id":3,"topic":"$sys","data":1}"#,
        "",
        r#"{"id":4,"topic":"a"}"#,
        r#"{"type":"ping","id":5}"#,
        r#"{"data":1}"#,
        &long,
        r#"{"type":"publish","topic":"b","data_base64":"AAE=","content_type":"image/png","headers":{"k":"v"}}"#,
        r#"{"topic":"a","data":2,"producer":"p","seq":2}"#,
        r#"{"topic":"a","data":3}"#,
    ];

    let answers = broker
        .http()
        .post(MANY, &NDJSON, lines.join("\n"))
        .ok()
        .json_lines();

    let codes: Vec<&str> = answers
        .iter()
        .map(|answer| answer["code"].as_str().unwrap_or("kept"))
        .collect();
    assert_eq!(
        codes,
        [
            "kept",
            "bad_frame",
            "bad_topic",
            "bad_frame",
            "bad_frame",
            "bad_frame",
            "too_large",
            "kept",
            "out_of_sequence",
            "kept"
        ]
    );
    assert_eq!(answers[2]["id"], 3);
    assert_eq!(answers[3]["id"], 4);
    assert_eq!(answers[8]["expected_seq"], 1);
    for answer in answers.iter().filter(|answer| answer.get("code").is_some()) {
        assert!(answer["message"].as_str().is_some_and(|m| !m.is_empty()));
        assert_eq!(answer.get("cursor"), None);
    }
    assert_eq!(data(&broker, "a"), [json!(1), json!(3)]);
    let page = broker.http().history("b", "").ok().json();
    assert_eq!(page["messages"][0]["content_type"], "image/png");
    assert_eq!(page["messages"][0]["headers"], json!({"k": "v"}));
}

#[test]
fn sent_again_it_is_kept_once() {
    let broker = Broker::start();
    let line = |topic: &str, seq: u64| {
        json!({"topic": topic, "data": seq, "producer": "p", "seq": seq}).to_string() + "\n"
    };
    let keyed = json!({"topic": "c", "data": 1, "message_id": "k"}).to_string() + "\n";
    let first = line("a", 1) + &line("b", 1) + &line("a", 2) + &keyed;
    broker.http().post(MANY, &NDJSON, first.clone()).ok();

    let answers = broker
        .http()
        .post(MANY, &NDJSON, first + &line("a", 3))
        .ok()
        .json_lines();

    let duplicates: Vec<bool> = answers
        .iter()
        .map(|answer| answer["duplicate"].as_bool().unwrap())
        .collect();
    assert_eq!(duplicates, [true, true, true, true, false]);
    assert_eq!(data(&broker, "a"), [json!(1), json!(2), json!(3)]);
    assert_eq!(data(&broker, "b"), [json!(1)]);
    assert_eq!(data(&broker, "c"), [json!(1)]);
}

#[tokio::test]
async fn a_list_is_answered_by_a_list() {
    let broker = Broker::start();
    let mut reader = Ws::connect(&broker).await;
    reader.subscribe("a", json!("now")).await;
    reader.expect("caught_up").await;
    let http = broker.http();

    let list = json!([{"id": 1, "topic": "a", "data": "x"}, {"topic": "b..", "data": 1}]);
    let answers = http.post(MANY, &JSON, list.to_string()).ok().json();
    assert_eq!(answers[0]["id"], 1);
    assert_eq!(answers[0]["duplicate"], false);
    assert_eq!(answers[1]["code"], "bad_topic");
    assert_eq!(reader.message().await["data"], "x");

    let one = json!({"topic": "a", "data": "y"});
    let answers = http.post(MANY, &JSON, one.to_string()).ok().json();
    assert_eq!(answers.as_array().map(Vec::len), Some(1));
    assert_eq!(reader.message().await["data"], "y");
    assert_eq!(http.post(MANY, &JSON, "[]").ok().json(), json!([]));
}

#[test]
fn bodies_that_are_no_messages_are_refused() {
    let broker = Broker::start();
    let http = broker.http();
    for body in ["[1,", "", "{", "[] []"] {
        http.post(MANY, &JSON, body).expect_error(400, "bad_frame");
    }
    let answers = http.post(MANY, &JSON, "[1]").ok().json();
    assert_eq!(answers[0]["code"], "bad_frame");
    let long = format!("[{{\"topic\":\"a\",\"data\":\"{}\"}}]", "x".repeat(1 << 20));
    http.post(MANY, &JSON, long).expect_error(413, "too_large");
    http.post(MANY, &[("content-type", "text/xml")], "<a/>")
        .expect_error(415, "unsupported");
    assert_eq!(http.post(MANY, &NDJSON, "\n\n").ok().body, "");
    let foreign = [("origin", "https://evil.example")];
    http.post(MANY, &foreign, "{\"topic\":\"a\",\"data\":1}")
        .expect_error(403, "forbidden");
    assert_eq!(data(&broker, "a"), Vec::<Value>::new());
}

#[test]
fn a_message_for_several_topics_is_answered_by_one_line() {
    let broker = Broker::start();
    let http = broker.http();
    let lines = [
        r#"{"id":1,"topics":["a","b..","c"],"data":1,"producer":"p","seqs":[1,1,2]}"#,
        r#"{"topic":"a","data":2,"producer":"p","seq":2}"#,
        r#"{"id":3,"topics":["a","a"],"data":1}"#,
        r#"{"topics":["c","a"],"data_base64":"AAE=","message_id":"k"}"#,
    ];
    let answers = http.post(MANY, &NDJSON, lines.join("\n")).ok().json_lines();
    assert_eq!(answers.len(), 4);
    let receipts = &answers[0]["receipts"];
    assert_eq!(
        (&answers[0]["id"], answers[0].get("topic")),
        (&json!(1), None)
    );
    let text = answers[0].to_string();
    assert!(
        receipts[0]["cursor"].as_str().unwrap().ends_with(":1"),
        "{text}"
    );
    assert_eq!(
        receipts[0],
        json!({"topic": "a", "cursor": receipts[0]["cursor"], "duplicate": false})
    );
    assert_eq!(
        (&receipts[1]["topic"], &receipts[1]["code"]),
        (&json!("b.."), &json!("bad_topic"))
    );
    assert_eq!(
        (&receipts[2]["code"], &receipts[2]["expected_seq"]),
        (&json!("out_of_sequence"), &json!(1))
    );
    assert!(
        answers[1]["cursor"].as_str().unwrap().ends_with(":2"),
        "{}",
        answers[1]
    );
    assert_eq!(
        (&answers[2]["id"], &answers[2]["code"]),
        (&json!(3), &json!("bad_frame"))
    );
    assert_eq!(answers[3].as_object().unwrap().len(), 1, "no id, no id");
    assert_eq!(answers[3]["receipts"][1]["topic"], "a");
    assert_eq!(data(&broker, "a").len(), 3);

    // In a list each topic counts.
    let topics: Vec<String> = (0..1024).map(|n| format!("t{n}")).collect();
    let all = json!({"topics": topics, "data": "x"});
    let answers = http.post(MANY, &JSON, json!([all]).to_string()).ok().json();
    assert_eq!(answers[0]["receipts"].as_array().map(Vec::len), Some(1024));
    let more = json!([all, {"topic": "a", "data": 1}]);
    http.post(MANY, &JSON, more.to_string())
        .expect_error(413, "too_large");
    // As lines, as many as one likes.
    let lines = format!("{all}\n").repeat(5);
    let answers = http.post(MANY, &NDJSON, lines).ok().json_lines();
    assert_eq!(answers.len(), 5);
    let offsets = answers
        .iter()
        .map(|answer| answer["receipts"][1023]["cursor"].as_str().unwrap());
    let offsets: Vec<&str> = offsets
        .map(|cursor| cursor.split_once(':').unwrap().1)
        .collect();
    assert_eq!(offsets, ["2", "3", "4", "5", "6"]);

    // One topic is one topic: elsewhere it is in the path.
    let page = http
        .post("/v1/topics/a/messages", &[], all.to_string())
        .ok()
        .json();
    assert!(page["cursor"].as_str().unwrap().ends_with(":4"), "{page}");
}

#[test]
fn what_is_meant_for_one_message_is_not_passed_over() {
    let broker = Broker::start();
    let http = broker.http();
    for header in [
        "hark-message-id",
        "hark-producer",
        "hark-seq",
        "hark-header-trace",
    ] {
        http.post(MANY, &[(header, "1")], "{\"topic\":\"a\",\"data\":1}")
            .expect_error(400, "bad_frame");
    }
    let long = format!("[{}1]", "1,".repeat(1024));
    http.post(MANY, &JSON, long).expect_error(413, "too_large");
    let answers = http
        .post(MANY, &[], "[{\"topic\":\"a\",\"data\":1}]")
        .ok()
        .json_lines();
    assert!(
        answers[0]["message"]
            .as_str()
            .unwrap()
            .contains("application/json"),
        "{answers:?}"
    );
    assert_eq!(data(&broker, "a"), Vec::<Value>::new());
}
