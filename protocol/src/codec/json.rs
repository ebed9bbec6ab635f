//! Frames as JSON text (`hark.v1.json`), one object on one line. Owns the shapes and their field order; `checks` owns
//! what the fields may hold.

mod fields;
mod out;

use base64::Engine;
use base64::alphabet;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use bytes::Bytes;
use bytestring::ByteString;
use serde::Deserialize;
use serde_json::value::RawValue;

use self::fields::{
    ClientFields, IdentityFields, ReceiptFields, ServerFields, read_id, read_object,
};
use self::out::Out;
use super::checks::{self, List, Text, bad_frame, refuse};
use crate::{
    ClientFrame, ErrorCode, FrameError, GapReason, Idempotency, IdempotencyInEach, Identity,
    JsonText, Message, Payload, PublishAll, Record, ServerFrame, SubscribeFrom, TopicName,
    TopicOutcome, TopicReceipt,
};

/// RFC 4648, section 4; written with padding, read with or without.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// What a `publish` asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Publish {
    /// Where to.
    pub topic: TopicName,
    /// What.
    pub message: Message,
    /// How it is known if it comes again.
    pub idempotency: Idempotency,
}

/// What a `publish` asks for, whether it names one topic or several.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AnyPublish {
    /// `topic`.
    One(Publish),
    /// `topics`.
    All(PublishAll),
}

/// Writes what a client says.
pub fn encode_client(frame: &ClientFrame) -> ByteString {
    out::to_text(|out| match frame {
        ClientFrame::Auth { id, token } => {
            out.begin("auth");
            out.number("id", *id);
            out.string("token", Some(token));
            out.end();
        }
        ClientFrame::Subscribe {
            id,
            topic,
            from,
            token,
        } => {
            out.begin("subscribe");
            out.number("id", *id);
            out.topic(topic);
            write_from(out, from);
            out.string("token", token.as_deref());
            out.end();
        }
        ClientFrame::Unsubscribe { id, topic } => {
            out.begin("unsubscribe");
            out.number("id", *id);
            out.topic(topic);
            out.end();
        }
        ClientFrame::Publish {
            id,
            topic,
            message,
            idempotency,
        } => {
            out.begin("publish");
            out.number("id", *id);
            out.topic(topic);
            write_payload(out, &message.payload);
            out.headers(&message.headers);
            match idempotency {
                Idempotency::None => {}
                Idempotency::Sequence { producer, seq } => {
                    out.string("producer", Some(producer.as_str()));
                    out.number("seq", Some(*seq));
                }
                Idempotency::Key(key) => out.string("message_id", Some(key.as_str())),
            }
            out.end();
        }
        ClientFrame::PublishAll { id, publish } => {
            out.begin("publish");
            out.number("id", *id);
            let topics = publish.topics().iter();
            out.list("topics", topics, |out, topic| out.quoted(topic.as_str()));
            write_payload(out, &publish.message().payload);
            out.headers(&publish.message().headers);
            match publish.idempotency() {
                IdempotencyInEach::None => {}
                IdempotencyInEach::Sequences { producer, seqs } => {
                    out.string("producer", Some(producer.as_str()));
                    out.list("seqs", seqs.iter(), |out, seq| out.digits(*seq));
                }
                IdempotencyInEach::Key(key) => out.string("message_id", Some(key.as_str())),
            }
            out.end();
        }
        ClientFrame::Ping { id } => {
            out.begin("ping");
            out.number("id", *id);
            out.end();
        }
    })
}

/// Writes what Hark says.
pub fn encode_server(frame: &ServerFrame) -> ByteString {
    out::to_text(|out| match frame {
        ServerFrame::Welcome {
            session,
            version,
            heartbeat_ms,
            max_message_bytes,
            max_inflight,
        } => {
            out.begin("welcome");
            out.string("session", Some(session));
            out.string("version", Some(version));
            out.number("heartbeat_ms", Some(*heartbeat_ms));
            out.number("max_message_bytes", Some(*max_message_bytes));
            out.number("max_inflight", Some(*max_inflight));
            out.end();
        }
        ServerFrame::Authenticated {
            id,
            identity,
            expires_at_ms,
        } => {
            out.begin("authenticated");
            out.number("id", *id);
            out.string("identity", Some(identity));
            out.string("expires_at", expires_at_ms.map(time_text).as_deref());
            out.end();
        }
        ServerFrame::Subscribed {
            id,
            topic,
            cursor,
            head,
            resumed,
        } => {
            out.begin("subscribed");
            out.number("id", *id);
            out.topic(topic);
            out.cursor(cursor);
            out.number("head", Some(*head));
            out.flag("resumed", *resumed);
            out.end();
        }
        ServerFrame::Message { topic, record } => write_message(out, topic, record),
        ServerFrame::CaughtUp { topic, cursor } => {
            out.begin("caught_up");
            out.topic(topic);
            out.cursor(cursor);
            out.end();
        }
        ServerFrame::Lagging {
            topic,
            cursor,
            behind,
        } => {
            out.begin("lagging");
            out.topic(topic);
            out.cursor(cursor);
            out.number("behind", *behind);
            out.end();
        }
        ServerFrame::Gap {
            topic,
            reason,
            from,
            to,
            cursor,
        } => {
            out.begin("gap");
            out.topic(topic);
            out.string("reason", Some(reason.as_str()));
            out.number("from", *from);
            out.number("to", *to);
            out.cursor(cursor);
            out.end();
        }
        ServerFrame::Unsubscribed { id, topic } => {
            out.begin("unsubscribed");
            out.number("id", *id);
            out.topic(topic);
            out.end();
        }
        ServerFrame::Published {
            id,
            topic,
            cursor,
            duplicate,
        } => {
            out.begin("published");
            out.number("id", Some(*id));
            out.topic(topic);
            out.cursor(cursor);
            out.flag("duplicate", *duplicate);
            out.end();
        }
        ServerFrame::PublishedAll { id, receipts } => {
            out.begin("published_all");
            out.number("id", Some(*id));
            out.list("receipts", receipts.iter(), write_receipt);
            out.end();
        }
        ServerFrame::Error {
            id,
            code,
            message,
            expected_seq,
            retry_after_ms,
        } => {
            out.begin("error");
            out.number("id", *id);
            out.string("code", Some(code.as_str()));
            out.string("message", Some(message));
            out.number("expected_seq", *expected_seq);
            out.number("retry_after_ms", *retry_after_ms);
            out.end();
        }
        ServerFrame::Goodbye {
            reason,
            retry_after_ms,
        } => {
            out.begin("goodbye");
            out.string("reason", Some(reason));
            out.number("retry_after_ms", Some(*retry_after_ms));
            out.end();
        }
        ServerFrame::Pong { id } => {
            out.begin("pong");
            out.number("id", *id);
            out.end();
        }
    })
}

/// Writes a `message` frame: one allocation of the exact size, the payload spliced in as it is kept.
pub fn encode_message(topic: &TopicName, record: &Record) -> ByteString {
    out::to_text(|out| write_message(out, topic, record))
}

fn write_message(out: &mut dyn Out, topic: &TopicName, record: &Record) {
    out.begin("message");
    out.topic(topic);
    out.number("offset", Some(record.offset));
    out.number("prev", record.prev);
    out.number("time", Some(record.time_ms));
    out.identity(record.identity.as_ref());
    out.headers(&record.message.headers);
    write_payload(out, &record.message.payload);
    out.end();
}

fn write_receipt(out: &mut dyn Out, receipt: &TopicReceipt) {
    out.raw(r#"{"topic":"#);
    out.quoted(receipt.topic.as_str());
    match &receipt.outcome {
        TopicOutcome::Kept { cursor, duplicate } => {
            out.cursor(cursor);
            out.flag("duplicate", *duplicate);
        }
        TopicOutcome::Refused {
            code,
            message,
            expected_seq,
        } => {
            out.string("code", Some(code.as_str()));
            out.string("message", Some(message));
            out.number("expected_seq", *expected_seq);
        }
    }
    out.end();
}

fn write_payload(out: &mut dyn Out, payload: &Payload) {
    match payload {
        Payload::Json(text) => out.json("data", text),
        Payload::Bytes { data, content_type } => {
            match payload.text().filter(|text| is_short(text)) {
                Some(text) => out.string("text", Some(text)),
                None => out.bytes("data_base64", data),
            }
            out.string("content_type", content_type.as_deref());
        }
    }
}

/// Whether text takes no more room with its escapes than as base64 (a control character may have six bytes): so the bound on what a
/// message grows by holds for text too.
fn is_short(text: &str) -> bool {
    out::escaped_len(text) <= out::base64_len(text.as_bytes())
}

fn write_from(out: &mut dyn Out, from: &SubscribeFrom) {
    match from {
        SubscribeFrom::Now => out.raw(r#","from":"now""#),
        SubscribeFrom::Earliest => out.raw(r#","from":"earliest""#),
        // A cursor and a `since` hold nothing that JSON would escape.
        SubscribeFrom::After(cursor) => out.raw(&format!(r#","from":{{"after":"{cursor}"}}"#)),
        SubscribeFrom::Last(n) => out.raw(&format!(r#","from":{{"last":{n}}}"#)),
        SubscribeFrom::SinceTime(_) | SubscribeFrom::SinceAgo(_) => {
            let since = from.since_text().unwrap_or_default();
            out.raw(&format!(r#","from":{{"since":"{since}"}}"#));
        }
    }
}

/// A time of RFC 3339. One beyond what that can say (the year 9999) becomes the last it can.
fn time_text(unix_ms: u64) -> String {
    let ms = i64::try_from(unix_ms).unwrap_or(i64::MAX);
    jiff::Timestamp::from_millisecond(ms)
        .unwrap_or(jiff::Timestamp::MAX)
        .to_string()
}

/// Reads what a client says.
pub fn decode_client(bytes: &Bytes) -> Result<ClientFrame, FrameError> {
    client_frame(bytes).map_err(|error| FrameError {
        id: read_id(bytes),
        ..error
    })
}

/// Reads a `publish` where nothing else can stand, so that `type` may be left out. Gives its `id` too.
pub fn decode_publish(bytes: &Bytes) -> Result<(Option<u64>, AnyPublish), FrameError> {
    let read = || {
        let f: ClientFields<'_> = read_object(bytes)?;
        match f.kind.as_ref().map(AsRef::as_ref) {
            None | Some("publish") => Ok((f.id, published(f)?)),
            Some(other) => Err(bad_frame(format_args!(
                "a message to be published has the type publish, or none; it is {other:?}"
            ))),
        }
    };
    read().map_err(|error| FrameError {
        id: read_id(bytes),
        ..error
    })
}

fn client_frame(bytes: &[u8]) -> Result<ClientFrame, FrameError> {
    let f: ClientFields<'_> = read_object(bytes)?;
    let kind = need(f.kind.as_ref(), "a frame", "type")?.as_ref();
    match kind {
        "auth" => Ok(ClientFrame::Auth {
            id: f.id,
            token: need(f.token, kind, "token")?.into_string(),
        }),
        "subscribe" => Ok(ClientFrame::Subscribe {
            id: f.id,
            topic: checks::topic(need(f.topic.as_ref(), kind, "topic")?.as_ref())?,
            from: f.from.map_or(Ok(SubscribeFrom::Now), read_from)?,
            token: f.token.map(Text::into_string),
        }),
        "unsubscribe" => Ok(ClientFrame::Unsubscribe {
            id: f.id,
            topic: checks::topic(need(f.topic.as_ref(), kind, "topic")?.as_ref())?,
        }),
        "publish" => {
            let id = f.id;
            Ok(match published(f)? {
                AnyPublish::One(Publish {
                    topic,
                    message,
                    idempotency,
                }) => ClientFrame::Publish {
                    id,
                    topic,
                    message,
                    idempotency,
                },
                AnyPublish::All(publish) => ClientFrame::PublishAll { id, publish },
            })
        }
        "ping" => Ok(ClientFrame::Ping { id: f.id }),
        unknown => Err(bad_frame(format_args!(
            "a client says auth, subscribe, unsubscribe, publish or ping; {unknown:?} is none of them"
        ))),
    }
}

fn published(mut f: ClientFields<'_>) -> Result<AnyPublish, FrameError> {
    match (f.topic.take(), f.topics.take()) {
        (None, Some(topics)) => published_all(&topics, f).map(AnyPublish::All),
        (Some(_), Some(_)) => Err(bad_frame("a publish has either `topic` or `topics`")),
        (_, None) if f.seqs.is_some() => Err(bad_frame(
            "`seqs` goes with `topics`; a publish to one `topic` has `seq`",
        )),
        (topic, None) => {
            let topic = need(topic, "publish", "topic")?;
            Ok(AnyPublish::One(Publish {
                topic: checks::topic_to_publish(topic.as_ref())?,
                message: Message {
                    payload: published_payload(&mut f)?,
                    headers: checks::headers(f.headers)?,
                },
                idempotency: checks::idempotency(
                    f.producer.as_ref().map(AsRef::as_ref),
                    f.seq,
                    f.message_id.as_ref().map(AsRef::as_ref),
                )?,
            }))
        }
    }
}

fn published_all(
    topics: &List<Text<'_>>,
    mut f: ClientFields<'_>,
) -> Result<PublishAll, FrameError> {
    if f.seq.is_some() {
        return Err(bad_frame(
            "`seq` goes with one `topic`; a publish to `topics` has `seqs`, a number for each",
        ));
    }
    let message = Message {
        payload: published_payload(&mut f)?,
        headers: checks::headers(f.headers)?,
    };
    let idempotency = checks::idempotency_in_each(
        f.producer.as_ref().map(AsRef::as_ref),
        f.seqs.map(checks::seqs).transpose()?,
        f.message_id.as_ref().map(AsRef::as_ref),
    )?;
    checks::publish_all(topics, message, idempotency)
}

fn published_payload(f: &mut ClientFields<'_>) -> Result<Payload, FrameError> {
    let content_type = f.content_type.as_ref().map(AsRef::as_ref);
    match (f.data, &f.data_base64, f.text.take()) {
        (Some(_), None, None) if content_type.is_some() => Err(bad_frame(
            "`content_type` goes with `data_base64` or `text`; what is in `data` is JSON",
        )),
        (Some(json), None, None) => Ok(Payload::Json(JsonText::from_raw(json))),
        (None, Some(base64), None) => Ok(Payload::Bytes {
            data: read_base64(base64)?,
            content_type: checks::content_type(content_type)?,
        }),
        (None, None, Some(text)) => checks::text(text, content_type),
        _ => Err(bad_frame(
            "a publish has exactly one of `data` (any JSON value), `text` and `data_base64` (bytes as base64)",
        )),
    }
}

/// Reads what Hark says.
pub fn decode_server(bytes: &Bytes) -> Result<ServerFrame, FrameError> {
    server_frame(bytes).map_err(|error| FrameError {
        id: read_id(bytes),
        ..error
    })
}

fn server_frame(bytes: &[u8]) -> Result<ServerFrame, FrameError> {
    let f: ServerFields<'_> = read_object(bytes)?;
    let kind = need(f.kind.as_ref(), "a frame", "type")?.as_ref();
    let text = |field: Option<Text<'_>>, name| need(field, kind, name).map(Text::into_string);
    let number = |field: Option<u64>, name| need(field, kind, name);
    let flag = |field: Option<bool>, name| need(field, kind, name);
    let topic = || checks::topic(need(f.topic.as_ref(), kind, "topic")?.as_ref());
    let cursor = || checks::cursor(need(f.cursor.as_ref(), kind, "cursor")?.as_ref());
    match kind {
        "welcome" => Ok(ServerFrame::Welcome {
            session: text(f.session, "session")?,
            version: text(f.version, "version")?,
            heartbeat_ms: number(f.heartbeat_ms, "heartbeat_ms")?,
            max_message_bytes: number(f.max_message_bytes, "max_message_bytes")?,
            max_inflight: number(f.max_inflight, "max_inflight")?,
        }),
        "authenticated" => Ok(ServerFrame::Authenticated {
            id: f.id,
            identity: need(f.identity.map(read_name).transpose()?, kind, "identity")?,
            expires_at_ms: f.expires_at.as_ref().map(read_time).transpose()?,
        }),
        "subscribed" => Ok(ServerFrame::Subscribed {
            id: f.id,
            topic: topic()?,
            cursor: cursor()?,
            head: number(f.head, "head")?,
            resumed: flag(f.resumed, "resumed")?,
        }),
        "message" => Ok(ServerFrame::Message {
            topic: topic()?,
            record: Record {
                offset: number(f.offset, "offset")?,
                prev: f.prev,
                time_ms: number(f.time, "time")?,
                identity: f.identity.map(read_identity).transpose()?.flatten(),
                message: Message {
                    payload: received_payload(f.data, &f.data_base64, f.text, &f.content_type)?,
                    headers: checks::headers(f.headers)?,
                },
            },
        }),
        "caught_up" => Ok(ServerFrame::CaughtUp {
            topic: topic()?,
            cursor: cursor()?,
        }),
        "lagging" => Ok(ServerFrame::Lagging {
            topic: topic()?,
            cursor: cursor()?,
            behind: f.behind,
        }),
        "gap" => Ok(ServerFrame::Gap {
            topic: topic()?,
            reason: GapReason::by_name(need(f.reason.as_ref(), kind, "reason")?.as_ref()),
            from: f.from,
            to: f.to,
            cursor: cursor()?,
        }),
        "unsubscribed" => Ok(ServerFrame::Unsubscribed {
            id: f.id,
            topic: topic()?,
        }),
        "published" => Ok(ServerFrame::Published {
            id: number(f.id, "id")?,
            topic: topic()?,
            cursor: cursor()?,
            duplicate: flag(f.duplicate, "duplicate")?,
        }),
        "published_all" => Ok(ServerFrame::PublishedAll {
            id: number(f.id, "id")?,
            receipts: checks::receipts(need(f.receipts, kind, "receipts")?, read_receipt)?,
        }),
        "error" => Ok(ServerFrame::Error {
            id: f.id,
            code: ErrorCode::by_name(need(f.code.as_ref(), kind, "code")?.as_ref()),
            message: text(f.message, "message")?,
            expected_seq: f.expected_seq,
            retry_after_ms: f.retry_after_ms,
        }),
        "goodbye" => Ok(ServerFrame::Goodbye {
            reason: text(f.reason, "reason")?,
            retry_after_ms: number(f.retry_after_ms, "retry_after_ms")?,
        }),
        "pong" => Ok(ServerFrame::Pong { id: f.id }),
        unknown => Err(bad_frame(format_args!(
            "this build knows no frame of type {unknown:?}"
        ))),
    }
}

fn read_receipt(f: &ReceiptFields<'_>) -> Result<TopicReceipt, FrameError> {
    checks::receipt(
        need(f.topic.as_ref(), "a receipt", "topic")?.as_ref(),
        (f.cursor.as_ref().map(AsRef::as_ref), f.duplicate),
        (
            f.code.as_ref().map(AsRef::as_ref),
            f.message.as_ref().map(AsRef::as_ref),
        ),
        f.expected_seq,
    )
}

/// A client trusts its server to call only text `text`.
fn received_payload(
    data: Option<&RawValue>,
    data_base64: &Option<Text<'_>>,
    text: Option<Text<'_>>,
    content_type: &Option<Text<'_>>,
) -> Result<Payload, FrameError> {
    let content_type = content_type.as_ref().map(|text| text.as_ref().into());
    match (data, data_base64, text) {
        (Some(json), None, None) => Ok(Payload::Json(JsonText::from_raw(json))),
        (None, Some(base64), None) => Ok(Payload::Bytes {
            data: read_base64(base64)?,
            content_type,
        }),
        (None, None, Some(text)) => {
            let text = text.into_byte_string();
            Ok(match content_type {
                None => Payload::plain_text(text),
                content_type => Payload::Bytes {
                    data: text.into_bytes(),
                    content_type,
                },
            })
        }
        _ => Err(bad_frame(
            "a message has exactly one of `data`, `text` and `data_base64`",
        )),
    }
}

fn need<T>(field: Option<T>, frame: &str, name: &str) -> Result<T, FrameError> {
    field.ok_or_else(|| bad_frame(format_args!("{frame} needs `{name}`, which is missing")))
}

fn read_from(raw: &RawValue) -> Result<SubscribeFrom, FrameError> {
    #[derive(Deserialize)]
    #[serde(rename_all = "snake_case")]
    enum Form {
        After(String),
        Last(u64),
        Since(String),
    }

    let parsed = match raw.get() {
        "null" => Some(SubscribeFrom::Now),
        object if object.starts_with('{') => {
            serde_json::from_str(object)
                .ok()
                .and_then(|form| match form {
                    Form::After(cursor) => cursor.parse().ok().map(SubscribeFrom::After),
                    Form::Last(n) => Some(SubscribeFrom::Last(n)),
                    Form::Since(since) => SubscribeFrom::parse_since(&since),
                })
        }
        word => match serde_json::from_str(word).as_ref().map(Text::as_ref) {
            Ok("now") => Some(SubscribeFrom::Now),
            Ok("earliest") => Some(SubscribeFrom::Earliest),
            _ => None,
        },
    };
    parsed.ok_or_else(|| {
        refuse(
            ErrorCode::BadCursor,
            format_args!(
                r#"`from` is "now", "earliest", {{"after":"k3f9a1:1042"}}, {{"last":50}}, {{"since":"5m"}} or {{"since":"2026-01-31T12:00:00Z"}}; it was {raw}"#
            ),
        )
    })
}

/// What `authenticated` calls the client.
fn read_name(raw: &RawValue) -> Result<String, FrameError> {
    let name: Result<Text<'_>, _> = serde_json::from_str(raw.get());
    name.map(Text::into_string)
        .map_err(|e| bad_frame(format_args!("`identity`: {e}")))
}

/// Who published a message.
fn read_identity(raw: &RawValue) -> Result<Option<Identity>, FrameError> {
    if raw.get() == "null" {
        return Ok(None);
    }
    let f: IdentityFields<'_> = read_object(raw.get().as_bytes())?;
    let issuer = need(f.issuer, "an identity", "issuer")?;
    let subject = need(f.subject, "an identity", "subject")?;
    Ok(Some(Identity::new(issuer.as_ref(), subject.as_ref())))
}

fn read_base64(text: &Text<'_>) -> Result<Bytes, FrameError> {
    BASE64.decode(text.as_ref()).map(Bytes::from).map_err(|e| {
        bad_frame(format_args!(
            "`data_base64` is not base64 (RFC 4648, section 4): {e}"
        ))
    })
}

fn read_time(text: &Text<'_>) -> Result<u64, FrameError> {
    let time = text
        .as_ref()
        .parse::<jiff::Timestamp>()
        .map_err(|e| bad_frame(format_args!("`expires_at`: {e}")))?;
    u64::try_from(time.as_millisecond()).map_err(|_| bad_frame("`expires_at` is before 1970"))
}
