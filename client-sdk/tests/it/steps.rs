//! The scripts of `client-sdk/script`, read, and what they expect compared with what was seen. Owns the format, which
//! `client-sdk/script/README.md` describes; who plays the steps is an adapter's affair: without sockets (`src/script.rs`), and with one (`script.rs`).
#![allow(dead_code, reason = "each adapter uses a part")]

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::path::Path;

use hark_client::{
    ConnectionEvent, Event, Gap, GapReason, PublishError, Receipt, Subprotocol, SubscribeError,
    TopicName,
};
use hark_protocol::{Record, ServerFrame, codec};
use serde::Deserialize;
use serde_json::{Map, Value, json};

pub(crate) type Fields = Map<String, Value>;

pub(crate) struct Script {
    pub(crate) name: String,
    pub(crate) head: Head,
    /// With the number of its line.
    pub(crate) steps: Vec<(usize, Step)>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Head {
    /// What is held.
    pub(crate) script: String,
    #[serde(default)]
    pub(crate) socket: bool,
    #[serde(default = "always")]
    pub(crate) random: f64,
}

fn always() -> f64 {
    1.0
}

#[derive(Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Step {
    Publish(Publish),
    Subscribe(Subscribe),
    Unsubscribe(Unsubscribe),
    Hear(Fields),
    Lost(Lost),
    Advance(Advance),
    Expect(Expect),
    Note(String),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Publish {
    pub(crate) r#as: String,
    pub(crate) topic: Option<String>,
    pub(crate) topics: Option<Vec<String>>,
    pub(crate) data: Value,
    pub(crate) message_id: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Subscribe {
    pub(crate) r#as: String,
    pub(crate) topic: String,
    pub(crate) from: Value,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Unsubscribe {
    pub(crate) r#as: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Lost {
    #[serde(default)]
    pub(crate) proven: bool,
}

#[derive(Deserialize)]
#[serde(untagged)]
pub(crate) enum Advance {
    Both(u64),
    Each(Clocks),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Clocks {
    #[serde(default)]
    monotonic: u64,
    #[serde(default)]
    wall: i64,
}

impl Advance {
    /// Milliseconds on the monotonic clock, and on the one on the wall.
    pub(crate) fn ms(&self) -> (u64, i64) {
        match self {
            Self::Both(ms) => (*ms, i64::try_from(*ms).unwrap()),
            Self::Each(clocks) => (clocks.monotonic, clocks.wall),
        }
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Expect {
    Say(Fields),
    Receipt(Fields),
    Failed(Fields),
    Event(Fields),
    Ended(Fields),
    Nothing(bool),
}

/// All scripts, by name.
pub(crate) fn all() -> Vec<Script> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("script");
    let files = std::fs::read_dir(&folder).unwrap();
    let files = files.map(|file| file.unwrap().path());
    let mut scripts: Vec<_> = files
        .filter(|path| path.extension().is_some_and(|ext| ext == "jsonl"))
        .map(|path| read(&path))
        .collect();
    scripts.sort_by(|a, b| a.name.cmp(&b.name));
    assert!(scripts.len() > 20, "the scripts are in {folder:?}");
    scripts
}

fn read(path: &Path) -> Script {
    let name = path.file_name().unwrap().to_str().unwrap().to_owned();
    let text = std::fs::read_to_string(path).unwrap();
    let numbered = (1..).zip(text.lines());
    let mut lines = numbered.filter(|(_, line)| !line.trim().is_empty());
    let (_, head) = lines.next().unwrap_or_else(|| panic!("{name} is empty"));
    let head = serde_json::from_str(head).unwrap_or_else(|e| panic!("{name}: its head: {e}"));
    let step = |(number, line)| {
        let step = serde_json::from_str(line).unwrap_or_else(|e| panic!("{name}:{number}: {e}"));
        (number, step)
    };
    let steps = lines.map(step).collect();
    Script { name, head, steps }
}

/// A frame that Hark says, with the ids that the client gave for their names, and the fields that `welcome` leaves out.
pub(crate) fn heard(fields: &Fields, names: &Names) -> Value {
    let mut frame = match fields["type"] == "welcome" {
        true => {
            json!({"session": "s1", "version": "0.2.0", "heartbeat_ms": 25000, "max_message_bytes": 1_048_576, "max_inflight": 1024})
        }
        false => json!({}),
    };
    for (name, value) in fields {
        frame[name] = match (name.as_str(), value) {
            ("id", Value::String(id)) => names.learned[id].clone(),
            _ => value.clone(),
        };
    }
    frame
}

/// Whether the client's frame is one that no script expects.
pub(crate) fn is_left_out(frame: &Value) -> bool {
    frame["type"] == "ping" || frame["type"] == "auth"
}

/// What the client has done that no step has expected yet.
#[derive(Default)]
pub(crate) struct Seen {
    said: VecDeque<Value>,
    /// Receipts, failures, events and ends.
    given: VecDeque<(&'static str, Value)>,
}

/// The values that stand for names: of ids (`$1`), and of producers (`p1`).
#[derive(Default)]
pub(crate) struct Names {
    learned: HashMap<String, Value>,
}

impl Names {
    /// Producers are really named so.
    pub(crate) fn with_given_producers() -> Self {
        let names = (1..10).map(|n| format!("p{n}"));
        let learned = names.map(|name| (name.clone(), json!(name))).collect();
        Self { learned }
    }

    fn is(&mut self, name: &str, value: &Value) -> bool {
        match self.learned.get(name) {
            Some(known) => known == value,
            None if value.is_null() || self.learned.values().any(|other| other == value) => false,
            None => {
                self.learned.insert(name.to_owned(), value.clone());
                true
            }
        }
    }
}

impl Seen {
    /// A frame of the client, as JSON.
    pub(crate) fn said(&mut self, frame: &[u8]) {
        let frame: Value = serde_json::from_slice(frame).unwrap();
        if !is_left_out(&frame) {
            self.said.push_back(frame);
        }
    }

    /// A publish got its answer.
    pub(crate) fn answered(
        &mut self,
        of: &str,
        topic: &str,
        answer: &Result<Receipt, PublishError>,
    ) {
        let (code, maybe_kept) = match answer {
            Ok(Receipt { cursor, duplicate }) => {
                let cursor = cursor.to_string();
                let receipt =
                    json!({"as": of, "topic": topic, "cursor": cursor, "duplicate": duplicate});
                self.given.push_back(("receipt", receipt));
                return;
            }
            Err(PublishError::Refused {
                code, maybe_kept, ..
            }) => (code.as_str(), *maybe_kept),
            Err(PublishError::TooLarge { .. }) => ("too_large", false),
            Err(PublishError::Lost(_)) => ("lost", true),
            Err(other) => panic!("no script expects {other}"),
        };
        let failed = json!({"as": of, "topic": topic, "code": code, "maybe_kept": maybe_kept});
        self.given.push_back(("failed", failed));
    }

    /// A subscription had something to say.
    pub(crate) fn event(&mut self, of: &str, topic: &TopicName, event: Event) {
        let topic = topic.clone();
        let (frame, cursor) = match event {
            Event::Message(message) => {
                let content = hark_protocol::Message {
                    payload: message.payload,
                    headers: message.headers,
                };
                let record = Record {
                    offset: message.cursor.offset,
                    prev: None,
                    time_ms: message.time_ms,
                    identity: message.identity,
                    message: content,
                };
                (ServerFrame::Message { topic, record }, message.cursor)
            }
            Event::Gap(Gap {
                reason,
                from,
                to,
                cursor,
            }) => {
                let gap = ServerFrame::Gap {
                    topic,
                    reason,
                    from,
                    to,
                    cursor,
                };
                (gap, cursor)
            }
            Event::CaughtUp(cursor) => (ServerFrame::CaughtUp { topic, cursor }, cursor),
        };
        // As on the wire.
        let frame = codec::encode_server(&frame, Subprotocol::Json);
        let mut frame: Value = serde_json::from_slice(frame.as_bytes()).unwrap();
        frame["as"] = json!(of);
        frame["cursor"] = json!(cursor.to_string());
        self.given.push_back(("event", frame));
    }

    /// What this client says of a subscription beside its events.
    pub(crate) fn connection_event<'a>(
        &mut self,
        event: &ConnectionEvent,
        mut subscriptions: impl Iterator<Item = (&'a str, &'a TopicName)>,
    ) {
        let (topic, mut value) = match event {
            ConnectionEvent::Lagging {
                topic,
                cursor,
                behind,
            } => (
                topic,
                json!({"type": "lagging", "cursor": cursor.to_string(), "behind": behind}),
            ),
            ConnectionEvent::Stuck {
                topic,
                cursor,
                tries,
            } => (
                topic,
                json!({"type": "stuck", "cursor": cursor.to_string(), "tries": tries}),
            ),
            _ => return,
        };
        let (of, _) = subscriptions
            .find(|(_, its)| *its == topic)
            .expect("a subscription to that topic");
        value["as"] = json!(of);
        self.given.push_back(("event", value));
    }

    pub(crate) fn ended(&mut self, of: &str, error: &SubscribeError) {
        let SubscribeError::Refused { code, .. } = error else {
            panic!("no script expects {error}");
        };
        let ended = json!({"as": of, "code": code.as_str()});
        self.given.push_back(("ended", ended));
    }

    /// Takes what is expected. `None`: it has not happened (yet).
    pub(crate) fn take(
        &mut self,
        expect: &Expect,
        names: &mut Names,
    ) -> Option<Result<(), String>> {
        let (kind, fields) = match expect {
            Expect::Nothing(_) => return Some(self.is_empty()),
            Expect::Say(fields) => {
                let at = self.said.iter().position(|said| is_next_of(fields, said))?;
                let said = self.said.remove(at)?;
                return Some(compare(fields, &said, names));
            }
            Expect::Receipt(fields) => ("receipt", fields),
            Expect::Failed(fields) => ("failed", fields),
            Expect::Event(fields) => ("event", fields),
            Expect::Ended(fields) => ("ended", fields),
        };
        let is_next = |(of, value): &(&str, Value)| {
            let same = |name: &str| fields.get(name).is_none_or(|field| *field == value[name]);
            // In which order these come among the others is the client's own affair.
            let besides =
                |value: &Value| ["lagging", "stuck"].iter().find(|t| value["type"] == **t);
            let same_order =
                kind != "event" || besides(value) == besides(&Value::Object(fields.clone()));
            *of == kind && same("as") && (kind == "event" || same("topic")) && same_order
        };
        let at = self.given.iter().position(is_next)?;
        let (_, value) = self.given.remove(at)?;
        Some(compare(fields, &value, names))
    }

    fn is_empty(&self) -> Result<(), String> {
        match self.said.is_empty() && self.given.is_empty() {
            true => Ok(()),
            false => Err(format!("not expected: {self}")),
        }
    }
}

impl std::fmt::Display for Seen {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for said in &self.said {
            writeln!(f, "said {said}")?;
        }
        for (kind, value) in &self.given {
            writeln!(f, "{kind} {value}")?;
        }
        Ok(())
    }
}

/// Whether the frame is in the order that the expected one is in: publishes, or commands, about this topic.
fn is_next_of(expected: &Fields, said: &Value) -> bool {
    let topic = match expected.get("topics") {
        Some(Value::Array(topics)) => &topics[0],
        _ => expected.get("topic").expect("a `say` names its topic"),
    };
    let about = said["topic"] == *topic
        || said["topics"]
            .as_array()
            .is_some_and(|topics| topics.contains(topic));
    about && (expected["type"] == "publish") == (said["type"] == "publish")
}

fn compare(expected: &Fields, found: &Value, names: &mut Names) -> Result<(), String> {
    for (name, value) in expected {
        let is = &found[name];
        let holds = match (name.as_str(), value) {
            ("id" | "producer", Value::String(wanted)) => names.is(wanted, is),
            ("topics", Value::Array(_)) | ("seqs", Value::Array(_)) => {
                by_topic(&Value::Object(expected.clone())) == by_topic(found)
            }
            // This client's word for each reason that it does not know.
            ("reason", Value::String(reason)) => GapReason::by_name(reason).as_str() == is,
            _ => is == value,
        };
        if !holds {
            return Err(format!("{name} is not {value} in {found}"));
        }
    }
    Ok(())
}

/// The topics of a publish with their numbers, if it has them.
fn by_topic(frame: &Value) -> BTreeMap<String, Value> {
    let topics = frame["topics"].as_array().map_or(&[][..], Vec::as_slice);
    let pair = |(at, topic): (usize, &Value)| (topic.to_string(), frame["seqs"][at].clone());
    topics.iter().enumerate().map(pair).collect()
}
