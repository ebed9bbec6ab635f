//! Who published a message: told to readers where the rule of the topic says so, kept with the message in any case; and that the names
//! publishers choose, of producers and of messages, count within their identity. On every transport, over restarts, and in a directory that an
//! earlier Hark wrote, in which nobody had an identity yet.

use std::path::Path;
use std::process::Command;
use std::time::{SystemTime, UNIX_EPOCH};

use hark_protocol::Subprotocol;
use hark_tests::{Broker, Cli, EventStream, Exit, Preload, Setup, Ws, hark};
use serde_json::{Value, json};

use crate::identity::{Issuers, SECRET, by_secret, claims};

const ISSUER: &str = "https://one.example";
/// Its secret is the same: what a subject is called proves nothing of whose it is.
const OTHER: &str = "https://two.example";
const RULES: &str = r#"
[[issuer]]
name = "https://one.example"
audience = ["hark"]
algorithm = "HS256"
secret_file = "secret"

[[issuer]]
name = "https://two.example"
audience = ["hark"]
algorithm = "HS256"
secret_file = "secret"

[[rule]]
who = "anonymous"
publish = [">"]
subscribe = [">"]

[[topic]]
pattern = "chat.mute.>"
identity = false

[[topic]]
pattern = "chat.>"
identity = true
"#;

/// Whoever publishes; `None` shows nothing.
type Who = Option<(&'static str, &'static str)>;
const ANA: Who = Some((ISSUER, "ana"));
const BOB: Who = Some((ISSUER, "bob"));
const OTHER_ANA: Who = Some((OTHER, "ana"));
const ALL: [Who; 4] = [ANA, BOB, OTHER_ANA, None];

fn token(who: Who) -> Option<String> {
    who.map(|(issuer, subject)| by_secret(SECRET, &claims(issuer, subject)))
}

/// What a message says of its publisher.
fn told(who: Who) -> Value {
    who.map_or(
        Value::Null,
        |(issuer, subject)| json!({"issuer": issuer, "subject": subject}),
    )
}

async fn connect(broker: &Broker, who: Who, subprotocol: Subprotocol) -> Ws {
    let mut ws = Ws::connect_as(broker, subprotocol).await;
    if let Some(token) = token(who) {
        let answer = ws.ask(json!({"type": "auth", "token": token})).await;
        assert_eq!(answer["type"], "authenticated", "{answer}");
    }
    ws
}

/// The ways a message is published. Each gives the receipts of messages to one topic.
#[derive(Debug, Clone, Copy)]
enum Way {
    Json,
    Bincode,
    /// With `topics`, one of them.
    Several,
    Post,
    /// Lines of any topics.
    Lines,
}

const WAYS: [Way; 5] = [Way::Json, Way::Bincode, Way::Several, Way::Post, Way::Lines];

/// What tells a message that comes again.
#[derive(Debug, Clone, Copy)]
enum Known {
    Not,
    Sequence(&'static str, u64),
    Key(&'static str),
}

impl Way {
    /// Publishes `data`, and gives the cursor and whether it had been kept before.
    async fn publish(self, broker: &Broker, who: Who, topic: &str, known: Known) -> (String, bool) {
        let receipt = match self {
            Self::Json | Self::Bincode => {
                let subprotocol = match self {
                    Self::Bincode => Subprotocol::Bincode,
                    _ => Subprotocol::Json,
                };
                let mut ws = connect(broker, who, subprotocol).await;
                ws.publish_frame(frame(topic, known)).await
            }
            Self::Several => {
                let mut ws = connect(broker, who, Subprotocol::Json).await;
                let mut frame = frame(topic, known);
                let fields = frame.as_object_mut().unwrap();
                fields.remove("topic");
                fields.insert("topics".to_owned(), json!([topic]));
                if let Some(seq) = fields.remove("seq") {
                    fields.insert("seqs".to_owned(), json!([seq]));
                }
                fields.insert("type".to_owned(), json!("publish"));
                ws.ask(frame).await["receipts"][0].clone()
            }
            Self::Post => {
                let mut headers = vec![("content-type", "application/json".to_owned())];
                match known {
                    Known::Not => {}
                    Known::Sequence(producer, seq) => {
                        headers.push(("hark-producer", producer.to_owned()));
                        headers.push(("hark-seq", seq.to_string()));
                    }
                    Known::Key(key) => headers.push(("hark-message-id", key.to_owned())),
                }
                post(
                    broker,
                    who,
                    &format!("/v1/topics/{topic}/messages"),
                    headers,
                    "1",
                )
            }
            Self::Lines => {
                let headers = vec![("content-type", "application/x-ndjson".to_owned())];
                let line = frame(topic, known).to_string();
                post(broker, who, "/v1/messages", headers, &line)
            }
        };
        let cursor = receipt["cursor"].as_str();
        let cursor = cursor.unwrap_or_else(|| panic!("{self:?}, {who:?}: {receipt}"));
        (cursor.to_owned(), receipt["duplicate"] == true)
    }
}

fn frame(topic: &str, known: Known) -> Value {
    match known {
        Known::Not => json!({"topic": topic, "data": 1}),
        Known::Sequence(producer, seq) => {
            json!({"topic": topic, "data": 1, "producer": producer, "seq": seq})
        }
        Known::Key(key) => json!({"topic": topic, "data": 1, "message_id": key}),
    }
}

fn post(
    broker: &Broker,
    who: Who,
    path: &str,
    mut headers: Vec<(&str, String)>,
    body: &str,
) -> Value {
    if let Some(token) = token(who) {
        headers.push(("authorization", format!("Bearer {token}")));
    }
    let headers: Vec<(&str, &str)> = headers
        .iter()
        .map(|(name, value)| (*name, &**value))
        .collect();
    broker.http().post(path, &headers, body).ok().json()
}

/// Who published the messages of a topic, as each transport tells it from the log.
async fn read_everywhere(broker: &Broker, topic: &str, count: usize) -> Vec<(String, Vec<Value>)> {
    let mut told = Vec::new();
    for subprotocol in Subprotocol::ALL {
        let mut ws = Ws::connect_as(broker, subprotocol).await;
        ws.subscribe(topic, json!("earliest")).await;
        let mut messages = Vec::new();
        for _ in 0..count {
            messages.push(ws.message().await);
        }
        told.push((subprotocol.name().to_owned(), messages));
    }
    let mut stream = EventStream::open(broker, &format!("/v1/events?topic={topic}&from=earliest"));
    stream.expect("welcome");
    stream.expect("subscribed");
    let events = (0..count).map(|_| stream.expect("message").data);
    told.push(("an event stream".to_owned(), events.collect()));
    let list = |value: &Value| value["messages"].as_array().unwrap().clone();
    let page = broker.http().history(topic, "from=earliest").ok().json();
    told.push(("a page".to_owned(), list(&page)));
    let path = format!("/v1/messages?topic={topic}&from=earliest&wait=55");
    let wait = broker.http().get(&path).ok().json();
    told.push(("a long-poll".to_owned(), list(&wait["pages"][0])));
    let last = format!("last:{count}");
    let mut sub = Cli::hark(broker, &["sub", topic, "--from", &last, "--json"]);
    let lines = (0..count).map(|_| serde_json::from_str(&sub.line()).unwrap());
    told.push(("hark sub".to_owned(), lines.collect()));
    told
}

#[tokio::test]
async fn who_published_is_told_on_every_transport_where_the_rule_says_so() {
    let issuers = Issuers::with(RULES);
    let setup = issuers
        .setup()
        .restarts()
        .flag("memory-topics", "chat.memory");
    let mut broker = setup.start();
    let topics = ["chat.eu", "chat.mute.eu", "orders", "chat.memory"];
    let count = WAYS.len() * ALL.len();
    let mut live = Vec::new();
    for topic in topics {
        for subprotocol in Subprotocol::ALL {
            let mut ws = Ws::connect_as(&broker, subprotocol).await;
            ws.subscribe(topic, json!("now")).await;
            ws.expect("caught_up").await;
            live.push((topic, ws));
        }
    }
    for topic in topics {
        for way in WAYS {
            for who in ALL {
                way.publish(&broker, who, topic, Known::Not).await;
            }
        }
    }
    let expected = |topic: &str| -> Vec<Value> {
        let is_told = matches!(topic, "chat.eu" | "chat.memory");
        let all = WAYS.iter().flat_map(|_| ALL);
        all.map(|who| told(who.filter(|_| is_told))).collect()
    };
    let check = |topic: &str, how: &str, messages: &[Value]| {
        let identities: Vec<Value> = messages.iter().map(|m| m["identity"].clone()).collect();
        assert_eq!(identities, expected(topic), "{topic}, {how}");
        // Left out where it is not told, and not empty.
        let untold = messages
            .iter()
            .filter(|message| message["identity"].is_null());
        for message in untold {
            assert!(!message.as_object().unwrap().contains_key("identity"));
        }
    };
    for (topic, ws) in &mut live {
        let mut messages = Vec::new();
        for _ in 0..count {
            messages.push(ws.message().await);
        }
        check(topic, "live", &messages);
    }
    // From what rooms hold in memory, then from the disk.
    for topic in topics {
        for (how, messages) in read_everywhere(&broker, topic, count).await {
            check(topic, &how, &messages);
        }
    }
    broker.kill9();
    broker.start_again();
    for topic in &topics[..3] {
        for (how, messages) in read_everywhere(&broker, topic, count).await {
            check(topic, &how, &messages);
        }
    }
}

#[tokio::test]
async fn equal_names_of_two_identities_do_not_suppress_each_other() {
    let issuers = Issuers::with(RULES);
    let setup = issuers.setup().restarts().flag("memory-topics", "memory.>");
    let mut broker = setup.start();
    let mut kept = Vec::new();
    for (n, way) in WAYS.into_iter().enumerate() {
        for place in ["disk", "memory"] {
            let topic = format!("{place}.{n}");
            for known in [
                Known::Sequence("p", 1),
                Known::Key("k"),
                Known::Sequence("p", 2),
            ] {
                for who in ALL {
                    let (cursor, duplicate) = way.publish(&broker, who, &topic, known).await;
                    assert!(!duplicate, "{way:?}, {topic}, {who:?}, {known:?}");
                    kept.push((way, topic.clone(), who, known, cursor));
                }
            }
        }
    }
    // What comes again is told its own place, by whatever way it comes.
    for (_, topic, who, known, cursor) in &kept {
        for way in WAYS {
            let again = way.publish(&broker, *who, topic, *known).await;
            assert_eq!(
                again,
                (cursor.clone(), true),
                "{way:?}, {topic}, {who:?}, {known:?}"
            );
        }
    }
    broker.kill9();
    broker.start_again();
    for (way, topic, who, known, cursor) in kept {
        if topic.starts_with("memory") {
            continue;
        }
        let again = way.publish(&broker, who, &topic, known).await;
        assert_eq!(
            again,
            (cursor, true),
            "{way:?}, {topic}, {who:?}, {known:?}"
        );
    }
}

/// A message is whose it was when it was said, also where the answers to both are on their way together.
#[tokio::test]
async fn who_becomes_somebody_publishes_as_that_from_then_on() {
    let issuers = Issuers::with(RULES);
    let broker = issuers.setup().start();
    for subprotocol in Subprotocol::ALL {
        let topic = format!("chat.{}", subprotocol.name());
        let mut ws = Ws::connect_as(&broker, subprotocol).await;
        let publish = |id: u64| json!({"type": "publish", "id": id, "topic": topic, "data": id, "producer": "p", "seq": 1});
        for _ in 0..2 {
            ws.try_feed(&publish(1)).await.unwrap();
        }
        let auth = json!({"type": "auth", "id": 2, "token": token(ANA)});
        ws.try_feed(&auth).await.unwrap();
        for _ in 0..2 {
            ws.try_feed(&publish(3)).await.unwrap();
        }
        ws.flush().await.unwrap();
        assert_eq!(ws.answer(2).await["type"], "authenticated");
        let mut duplicates = Vec::new();
        for id in [1, 1, 3, 3] {
            duplicates.push(ws.answer(id).await["duplicate"].clone());
        }
        assert_eq!(duplicates, [false, true, false, true]);
        ws.subscribe(&topic, json!("earliest")).await;
        for who in [None, ANA] {
            let message = ws.message().await;
            assert_eq!(message["identity"], told(who), "{message}");
        }
    }
}

/// Runs `hark ARGS… --data-dir DIR`.
fn log(args: &[&str], dir: &Path) -> String {
    let mut command = hark();
    command.arg("log").args(args).arg("--data-dir").arg(dir);
    let mut cli = Cli::spawn(command);
    cli.end_input();
    let exit = cli.wait();
    assert_eq!(exit.code, Some(0), "{exit:#?}");
    exit.stdout
}

#[tokio::test]
async fn an_export_holds_who_published_and_an_import_keeps_it() {
    let issuers = Issuers::with(RULES);
    let mut broker = issuers.setup().start();
    for who in ALL {
        for topic in ["chat.eu", "orders"] {
            Way::Post
                .publish(&broker, who, topic, Known::Sequence("p", 1))
                .await;
            Way::Post
                .publish(&broker, who, topic, Known::Key("k"))
                .await;
        }
    }
    broker.kill9();
    log(&["verify"], broker.data_dir());
    let exported = log(&["export"], broker.data_dir());
    let identities: Vec<Value> = exported
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap()["identity"].clone())
        .collect();
    let expected: Vec<Value> = ALL
        .iter()
        .flat_map(|who| [told(*who), told(*who)])
        .collect();
    // Also in topics whose readers are not told: it is the directory of whoever exports.
    assert_eq!(identities, [expected.clone(), expected].concat());

    let dir = tempfile::tempdir().unwrap();
    let (lines, copy) = (dir.path().join("lines"), dir.path().join("copy"));
    std::fs::write(&lines, &exported).unwrap();
    log(&["import", lines.to_str().unwrap()], &copy);
    log(&["verify"], &copy);
    let without_epochs = |text: &str| -> Vec<Value> {
        let lines = text.lines().map(|line| {
            let mut line: Value = serde_json::from_str(line).unwrap();
            line.as_object_mut().unwrap().remove("epoch");
            line
        });
        lines.collect()
    };
    let again = log(&["export"], &copy);
    assert_eq!(without_epochs(&again), without_epochs(&exported));
    // And each goes on as who it was.
    let broker = issuers.setup().data_dir(&copy).start();
    for who in ALL {
        for topic in ["chat.eu", "orders"] {
            let known = Known::Sequence("p", 1);
            assert!(
                Way::Post.publish(&broker, who, topic, known).await.1,
                "{who:?}"
            );
            let known = Known::Sequence("p", 2);
            assert!(
                !Way::Post.publish(&broker, who, topic, known).await.1,
                "{who:?}"
            );
        }
    }
}

/// The time at which `fixtures/format2.tar.gz` was written, in milliseconds since 1970, by the last Hark in which nobody had an identity.
/// It holds the topics `orders` (a producer `p` up to 5), `keyed` (keys k1 to k3) and `large` (a message in parts of a producer `q`, then a
/// text), and one that was deleted; and the broker was killed.
const FORMAT_2_MS: i64 = 1_796_008_570_000;

/// A broker's disk and clock, with the directory of an earlier Hark.
fn format_2() -> Preload {
    let preload = Preload::new();
    let packed = Path::new(env!("CARGO_MANIFEST_DIR")).join("it/fixtures/format2.tar.gz");
    std::fs::create_dir(preload.data_dir()).unwrap();
    let mut unpack = Command::new("tar");
    unpack
        .arg("-xzf")
        .arg(packed)
        .arg("-C")
        .arg(preload.data_dir());
    assert!(unpack.status().unwrap().success());
    preload
}

/// Starts a broker at the time at which the directory was written, at which its keys are remembered.
fn start(preload: &Preload, setup: Setup) -> Result<Broker, Exit> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    preload.shift_clock_ms(FORMAT_2_MS - i64::try_from(now.as_millis()).unwrap());
    preload.under(setup).try_start()
}

fn mark(dir: &Path) -> String {
    std::fs::read_to_string(dir.join("FORMAT")).unwrap()
}

async fn goes_on_as_it_was(broker: &Broker) {
    let publish = async |topic, known| Way::Post.publish(broker, None, topic, known).await;
    for seq in 1..=5 {
        let (cursor, duplicate) = publish("orders", Known::Sequence("p", seq)).await;
        assert!(duplicate, "{seq}");
        let offset: u64 = cursor.split_once(':').unwrap().1.parse().unwrap();
        assert_eq!(offset, seq);
    }
    for key in ["k1", "k2", "k3"] {
        assert!(publish("keyed", Known::Key(key)).await.1, "{key}");
    }
    let mut ws = Ws::connect(broker).await;
    ws.subscribe("large", json!("earliest")).await;
    let large = ws.message().await;
    assert_eq!(large["headers"]["trace"], "00-4bf9");
    assert_eq!(large["content_type"], "image/png");
    assert_eq!(large["data_base64"].as_str().unwrap().len(), 26_668);
    assert_eq!(ws.message().await["text"], "hello");
}

#[tokio::test]
async fn a_directory_of_an_earlier_hark_is_brought_along() {
    let issuers = Issuers::with(RULES);
    let preload = format_2();
    assert_eq!(mark(preload.data_dir()), "hark message log 2\n");
    let exported = log(&["export"], preload.data_dir());
    log(&["verify"], preload.data_dir());
    assert_eq!(
        mark(preload.data_dir()),
        "hark message log 2\n",
        "who only looks changes nothing"
    );

    let mut broker = start(&preload, issuers.setup()).unwrap();
    assert_eq!(mark(preload.data_dir()), "hark message log 3\n");
    goes_on_as_it_was(&broker).await;
    // Whoever has an identity now is somebody else than those who had none.
    for who in ALL {
        let seq = if who.is_none() { 6 } else { 1 };
        let known = Known::Sequence("p", seq);
        assert!(
            !Way::Json.publish(&broker, who, "orders", known).await.1,
            "{who:?}"
        );
        assert_eq!(
            Way::Json
                .publish(&broker, who, "keyed", Known::Key("k1"))
                .await
                .1,
            who.is_none()
        );
    }
    broker.kill9();
    let mut broker = start(&preload, issuers.setup()).unwrap();
    goes_on_as_it_was(&broker).await;
    broker.kill9();
    log(&["verify"], preload.data_dir());
    let again = log(&["export"], preload.data_dir());
    for line in exported.lines() {
        assert!(again.lines().any(|other| other == line), "{line}");
    }
}

/// Killed before and after the mark is given its name, and at every name before and after that.
#[tokio::test]
async fn a_start_that_is_killed_while_it_brings_a_directory_along_is_made_good() {
    let mut killed_at = Vec::new();
    for moment in 1..=8 {
        let preload = format_2();
        preload.kill_at_name_change(moment);
        let started = start(&preload, Setup::new());
        let mark = mark(preload.data_dir());
        assert!(
            mark == "hark message log 2\n" || mark == "hark message log 3\n",
            "{mark}"
        );
        if matches!(&started, Err(exit) if exit.code.is_none()) {
            killed_at.push(mark);
        }
        preload.kill_at_name_change(0);
        drop(started);
        let broker = start(&preload, Setup::new()).unwrap();
        goes_on_as_it_was(&broker).await;
    }
    for mark in ["hark message log 2\n", "hark message log 3\n"] {
        assert!(killed_at.iter().any(|at| at == mark), "{killed_at:?}");
    }
}
