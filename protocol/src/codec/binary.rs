//! Frames as bytes (`hark.v1.bincode`): one byte that says the type, then the fields in bincode 2's standard form. Owns
//! the frozen structs; `checks` owns what the fields may hold.
//!
//! Nothing here may ever change its order or its types: bincode has neither names nor lengths to skip by. What is new
//! gets a new type byte and a new struct. `golden/` holds the bytes.

use bincode::config::{Configuration, Limit, LittleEndian, Varint};
use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::checks::{self, HeaderMap, HeaderPairs, List, Number, bad_frame, refuse};
use crate::{
    ClientFrame, Destination, ErrorCode, FrameError, GapReason, Idempotency, IdempotencyInEach,
    Identity, JsonText, MAX_FRAME_BYTES, Message, Payload, PublishAll, Record, ServerFrame,
    SubscribeFrom, TopicName, TopicOutcome, TopicReceipt,
};

/// The first byte of each frame: a client's below 0x80, Hark's from there on. Frozen.
mod kind {
    pub(super) const AUTH: u8 = 0x01;
    pub(super) const SUBSCRIBE: u8 = 0x02;
    pub(super) const UNSUBSCRIBE: u8 = 0x03;
    pub(super) const PUBLISH: u8 = 0x04;
    pub(super) const PING: u8 = 0x05;
    pub(super) const PUBLISH_ALL: u8 = 0x06;
    pub(super) const SUBSCRIBE_WITH_TOKEN: u8 = 0x07;

    pub(super) const WELCOME: u8 = 0x81;
    pub(super) const AUTHENTICATED: u8 = 0x82;
    pub(super) const SUBSCRIBED: u8 = 0x83;
    pub(super) const MESSAGE: u8 = 0x84;
    pub(super) const CAUGHT_UP: u8 = 0x85;
    pub(super) const GAP: u8 = 0x86;
    pub(super) const UNSUBSCRIBED: u8 = 0x87;
    pub(super) const PUBLISHED: u8 = 0x88;
    pub(super) const ERROR: u8 = 0x89;
    pub(super) const GOODBYE: u8 = 0x8a;
    pub(super) const PONG: u8 = 0x8b;
    pub(super) const LAGGING: u8 = 0x8c;
    pub(super) const PUBLISHED_ALL: u8 = 0x8d;
    pub(super) const MESSAGE_V2: u8 = 0x8e;
}

/// What a payload is, as a byte. Frozen.
const PAYLOAD_BYTES: u8 = 0;
const PAYLOAD_JSON: u8 = 1;

/// The most a frame may claim while it is read. bincode counts what a value takes in memory, not on the wire, so the
/// largest legal frame needs some headroom.
const DECODE_LIMIT: usize = 4 * MAX_FRAME_BYTES;

const fn wire_config() -> Configuration<LittleEndian, Varint, Limit<DECODE_LIMIT>> {
    bincode::config::standard().with_limit::<DECODE_LIMIT>()
}

#[derive(Serialize, Deserialize)]
struct AuthV1<'a> {
    id: Option<u64>,
    token: &'a str,
}

#[derive(Serialize, Deserialize)]
struct SubscribeV1<'a> {
    id: Option<u64>,
    topic: &'a str,
    /// As in a query: `now`, `earliest`, `last:50`, `since:5m`, or a cursor.
    from: &'a str,
}

#[derive(Serialize, Deserialize)]
struct SubscribeWithTokenV1<'a> {
    id: Option<u64>,
    topic: &'a str,
    from: &'a str,
    token: &'a str,
}

#[derive(Serialize, Deserialize)]
struct UnsubscribeV1<'a> {
    id: Option<u64>,
    topic: &'a str,
}

#[derive(Serialize, Deserialize)]
struct PublishV1<'a, H> {
    id: Option<u64>,
    topic: &'a str,
    payload_kind: u8,
    #[serde(with = "serde_bytes")]
    payload: &'a [u8],
    content_type: Option<&'a str>,
    headers: H,
    producer: Option<&'a str>,
    seq: Option<u64>,
    message_id: Option<&'a str>,
}

#[derive(Serialize, Deserialize)]
struct PublishAllV1<'a, T, H, S> {
    id: Option<u64>,
    topics: T,
    payload_kind: u8,
    #[serde(with = "serde_bytes")]
    payload: &'a [u8],
    content_type: Option<&'a str>,
    headers: H,
    producer: Option<&'a str>,
    seqs: Option<S>,
    message_id: Option<&'a str>,
}

#[derive(Serialize, Deserialize)]
struct PingV1 {
    id: Option<u64>,
}

#[derive(Serialize, Deserialize)]
struct WelcomeV1<'a> {
    session: &'a str,
    version: &'a str,
    heartbeat_ms: u64,
    max_message_bytes: u64,
    max_inflight: u64,
}

#[derive(Serialize, Deserialize)]
struct AuthenticatedV1<'a> {
    id: Option<u64>,
    identity: &'a str,
    expires_at_ms: Option<u64>,
}

#[derive(Serialize, Deserialize)]
struct SubscribedV1<'a> {
    id: Option<u64>,
    topic: &'a str,
    cursor: &'a str,
    head: u64,
    resumed: bool,
}

#[derive(Serialize, Deserialize)]
struct MessageV1<'a, H> {
    topic: &'a str,
    offset: u64,
    prev: Option<u64>,
    time_ms: u64,
    payload_kind: u8,
    #[serde(with = "serde_bytes")]
    payload: &'a [u8],
    content_type: Option<&'a str>,
    headers: H,
}

/// A message of which more is told than `MessageV1` has room for. Sent only where one of the last three is there.
#[derive(Serialize, Deserialize)]
struct MessageV2<'a, H> {
    topic: &'a str,
    offset: u64,
    prev: Option<u64>,
    time_ms: u64,
    payload_kind: u8,
    #[serde(with = "serde_bytes")]
    payload: &'a [u8],
    content_type: Option<&'a str>,
    headers: H,
    #[serde(borrow)]
    identity: Option<IdentityV1<'a>>,
    /// Not sent yet: where the message stands among those of all topics.
    position: Option<u64>,
    /// Not sent yet: what the message is the newest state of.
    key: Option<&'a str>,
}

#[derive(Serialize, Deserialize)]
struct IdentityV1<'a> {
    issuer: &'a str,
    subject: &'a str,
}

#[derive(Serialize, Deserialize)]
struct CaughtUpV1<'a> {
    topic: &'a str,
    cursor: &'a str,
}

#[derive(Serialize, Deserialize)]
struct GapV1<'a> {
    topic: &'a str,
    reason: &'a str,
    from: Option<u64>,
    to: Option<u64>,
    cursor: &'a str,
}

#[derive(Serialize, Deserialize)]
struct UnsubscribedV1<'a> {
    id: Option<u64>,
    topic: &'a str,
}

#[derive(Serialize, Deserialize)]
struct PublishedV1<'a> {
    id: u64,
    topic: &'a str,
    cursor: &'a str,
    duplicate: bool,
}

#[derive(Serialize, Deserialize)]
struct PublishedAllV1<R> {
    id: u64,
    receipts: R,
}

/// One of several; either the first two are there, or the next two.
#[derive(Serialize, Deserialize)]
struct ReceiptV1<'a> {
    topic: &'a str,
    cursor: Option<&'a str>,
    duplicate: Option<bool>,
    code: Option<&'a str>,
    message: Option<&'a str>,
    expected_seq: Option<u64>,
}

#[derive(Serialize, Deserialize)]
struct ErrorV1<'a> {
    id: Option<u64>,
    code: &'a str,
    message: &'a str,
    expected_seq: Option<u64>,
    retry_after_ms: Option<u64>,
}

#[derive(Serialize, Deserialize)]
struct GoodbyeV1<'a> {
    reason: &'a str,
    retry_after_ms: u64,
}

#[derive(Serialize, Deserialize)]
struct PongV1 {
    id: Option<u64>,
}

#[derive(Serialize, Deserialize)]
struct LaggingV1<'a> {
    topic: &'a str,
    cursor: &'a str,
    behind: Option<u64>,
}

/// Writes what a client says.
pub fn encode_client(frame: &ClientFrame) -> Bytes {
    match frame {
        ClientFrame::Auth { id, token } => write(kind::AUTH, &AuthV1 { id: *id, token }),
        ClientFrame::Subscribe {
            id,
            topic,
            from,
            token,
        } => {
            let (id, topic, from) = (*id, topic.as_str(), &from.to_string());
            match token {
                None => write(kind::SUBSCRIBE, &SubscribeV1 { id, topic, from }),
                Some(token) => write(
                    kind::SUBSCRIBE_WITH_TOKEN,
                    &SubscribeWithTokenV1 {
                        id,
                        topic,
                        from,
                        token,
                    },
                ),
            }
        }
        ClientFrame::Unsubscribe { id, topic } => write(
            kind::UNSUBSCRIBE,
            &UnsubscribeV1 {
                id: *id,
                topic: topic.as_str(),
            },
        ),
        ClientFrame::Publish {
            id,
            topic,
            message,
            idempotency,
        } => {
            let (payload_kind, payload, content_type) = payload_parts(&message.payload);
            let (producer, seq, message_id) = match idempotency {
                Idempotency::None => (None, None, None),
                Idempotency::Sequence { producer, seq } => {
                    (Some(producer.as_str()), Some(*seq), None)
                }
                Idempotency::Key(key) => (None, None, Some(key.as_str())),
            };
            let headers = HeaderMap(&message.headers);
            let topic = topic.as_str();
            write(
                kind::PUBLISH,
                &PublishV1 {
                    id: *id,
                    topic,
                    payload_kind,
                    payload,
                    content_type,
                    headers,
                    producer,
                    seq,
                    message_id,
                },
            )
        }
        ClientFrame::PublishAll { id, publish } => encode_publish_all(*id, publish),
        ClientFrame::Ping { id } => write(kind::PING, &PingV1 { id: *id }),
    }
}

fn encode_publish_all(id: Option<u64>, publish: &PublishAll) -> Bytes {
    let (payload_kind, payload, content_type) = payload_parts(&publish.message().payload);
    let (producer, seqs, message_id) = match publish.idempotency() {
        IdempotencyInEach::None => (None, None, None),
        IdempotencyInEach::Sequences { producer, seqs } => {
            (Some(producer.as_str()), Some(seqs.as_slice()), None)
        }
        IdempotencyInEach::Key(key) => (None, None, Some(key.as_str())),
    };
    let topics: Vec<&str> = publish.topics().iter().map(Destination::as_str).collect();
    write(
        kind::PUBLISH_ALL,
        &PublishAllV1 {
            id,
            topics,
            payload_kind,
            payload,
            content_type,
            headers: HeaderMap(&publish.message().headers),
            producer,
            seqs,
            message_id,
        },
    )
}

/// Writes what Hark says.
pub fn encode_server(frame: &ServerFrame) -> Bytes {
    match frame {
        ServerFrame::Welcome {
            session,
            version,
            heartbeat_ms,
            max_message_bytes,
            max_inflight,
        } => write(
            kind::WELCOME,
            &WelcomeV1 {
                session,
                version,
                heartbeat_ms: *heartbeat_ms,
                max_message_bytes: *max_message_bytes,
                max_inflight: *max_inflight,
            },
        ),
        ServerFrame::Authenticated {
            id,
            identity,
            expires_at_ms,
        } => write(
            kind::AUTHENTICATED,
            &AuthenticatedV1 {
                id: *id,
                identity,
                expires_at_ms: *expires_at_ms,
            },
        ),
        ServerFrame::Subscribed {
            id,
            topic,
            cursor,
            head,
            resumed,
        } => {
            let (topic, cursor) = (topic.as_str(), &cursor.to_string());
            write(
                kind::SUBSCRIBED,
                &SubscribedV1 {
                    id: *id,
                    topic,
                    cursor,
                    head: *head,
                    resumed: *resumed,
                },
            )
        }
        ServerFrame::Message { topic, record } => encode_message(topic, record),
        ServerFrame::CaughtUp { topic, cursor } => write(
            kind::CAUGHT_UP,
            &CaughtUpV1 {
                topic: topic.as_str(),
                cursor: &cursor.to_string(),
            },
        ),
        ServerFrame::Lagging {
            topic,
            cursor,
            behind,
        } => write(
            kind::LAGGING,
            &LaggingV1 {
                topic: topic.as_str(),
                cursor: &cursor.to_string(),
                behind: *behind,
            },
        ),
        ServerFrame::Gap {
            topic,
            reason,
            from,
            to,
            cursor,
        } => {
            let (topic, reason, cursor) = (topic.as_str(), reason.as_str(), &cursor.to_string());
            write(
                kind::GAP,
                &GapV1 {
                    topic,
                    reason,
                    from: *from,
                    to: *to,
                    cursor,
                },
            )
        }
        ServerFrame::Unsubscribed { id, topic } => write(
            kind::UNSUBSCRIBED,
            &UnsubscribedV1 {
                id: *id,
                topic: topic.as_str(),
            },
        ),
        ServerFrame::Published {
            id,
            topic,
            cursor,
            duplicate,
        } => {
            let (topic, cursor) = (topic.as_str(), &cursor.to_string());
            write(
                kind::PUBLISHED,
                &PublishedV1 {
                    id: *id,
                    topic,
                    cursor,
                    duplicate: *duplicate,
                },
            )
        }
        ServerFrame::PublishedAll { id, receipts } => encode_published_all(*id, receipts),
        ServerFrame::Error {
            id,
            code,
            message,
            expected_seq,
            retry_after_ms,
        } => write(
            kind::ERROR,
            &ErrorV1 {
                id: *id,
                code: code.as_str(),
                message,
                expected_seq: *expected_seq,
                retry_after_ms: *retry_after_ms,
            },
        ),
        ServerFrame::Goodbye {
            reason,
            retry_after_ms,
        } => write(
            kind::GOODBYE,
            &GoodbyeV1 {
                reason,
                retry_after_ms: *retry_after_ms,
            },
        ),
        ServerFrame::Pong { id } => write(kind::PONG, &PongV1 { id: *id }),
    }
}

fn encode_published_all(id: u64, receipts: &[TopicReceipt]) -> Bytes {
    let cursor = |receipt: &TopicReceipt| match &receipt.outcome {
        TopicOutcome::Kept { cursor, .. } => Some(cursor.to_string()),
        TopicOutcome::Refused { .. } => None,
    };
    let cursors: Vec<Option<String>> = receipts.iter().map(cursor).collect();
    let receipts = receipts.iter().zip(&cursors);
    let receipts: Vec<ReceiptV1<'_>> = receipts
        .map(|(receipt, cursor)| receipt_parts(receipt, cursor.as_deref()))
        .collect();
    write(kind::PUBLISHED_ALL, &PublishedAllV1 { id, receipts })
}

fn receipt_parts<'a>(receipt: &'a TopicReceipt, cursor: Option<&'a str>) -> ReceiptV1<'a> {
    let (duplicate, code, message, expected_seq) = match &receipt.outcome {
        TopicOutcome::Kept { duplicate, .. } => (Some(*duplicate), None, None, None),
        TopicOutcome::Refused {
            code,
            message,
            expected_seq,
        } => (None, Some(code.as_str()), Some(message), *expected_seq),
    };
    ReceiptV1 {
        topic: receipt.topic.as_str(),
        cursor,
        duplicate,
        code,
        message: message.map(String::as_str),
        expected_seq,
    }
}

/// Writes a `message` frame: one allocation of the exact size.
pub fn encode_message(topic: &TopicName, record: &Record) -> Bytes {
    let (payload_kind, payload, content_type) = payload_parts(&record.message.payload);
    if let Some(identity) = &record.identity {
        return write(
            kind::MESSAGE_V2,
            &MessageV2 {
                topic: topic.as_str(),
                offset: record.offset,
                prev: record.prev,
                time_ms: record.time_ms,
                payload_kind,
                payload,
                content_type,
                headers: HeaderMap(&record.message.headers),
                identity: Some(IdentityV1 {
                    issuer: identity.issuer(),
                    subject: identity.subject(),
                }),
                position: None,
                key: None,
            },
        );
    }
    write(
        kind::MESSAGE,
        &MessageV1 {
            topic: topic.as_str(),
            offset: record.offset,
            prev: record.prev,
            time_ms: record.time_ms,
            payload_kind,
            payload,
            content_type,
            headers: HeaderMap(&record.message.headers),
        },
    )
}

fn payload_parts(payload: &Payload) -> (u8, &[u8], Option<&str>) {
    match payload {
        Payload::Json(text) => (PAYLOAD_JSON, text.as_bytes(), None),
        Payload::Bytes { data, content_type } => (PAYLOAD_BYTES, data, content_type.as_deref()),
    }
}

/// Measures, then writes into exactly as many bytes.
fn write(kind: u8, body: &impl Serialize) -> Bytes {
    let mut size = bincode::enc::write::SizeWriter::default();
    bincode::serde::encode_into_writer(body, &mut size, wire_config())
        .expect("structs of numbers, strings and bytes can always be measured");
    let mut frame = Vec::with_capacity(1 + size.bytes_written);
    frame.push(kind);
    bincode::serde::encode_into_std_write(body, &mut frame, wire_config())
        .expect("structs of numbers, strings and bytes can always be written to memory");
    frame.into()
}

/// Reads what a client says.
pub fn decode_client(bytes: &Bytes) -> Result<ClientFrame, FrameError> {
    client_frame(bytes).map_err(|error| FrameError {
        id: read_id(bytes),
        ..error
    })
}

fn client_frame(bytes: &[u8]) -> Result<ClientFrame, FrameError> {
    let (kind, body) = split(bytes)?;
    match kind {
        kind::AUTH => {
            let AuthV1 { id, token } = read(body)?;
            Ok(ClientFrame::Auth {
                id,
                token: token.to_owned(),
            })
        }
        kind::SUBSCRIBE => {
            let SubscribeV1 { id, topic, from } = read(body)?;
            subscribe(id, topic, from, None)
        }
        kind::SUBSCRIBE_WITH_TOKEN => {
            let f: SubscribeWithTokenV1<'_> = read(body)?;
            subscribe(f.id, f.topic, f.from, Some(f.token))
        }
        kind::UNSUBSCRIBE => {
            let UnsubscribeV1 { id, topic } = read(body)?;
            Ok(ClientFrame::Unsubscribe {
                id,
                topic: checks::topic(topic)?,
            })
        }
        kind::PUBLISH => {
            let f: PublishV1<'_, HeaderPairs<'_>> = read(body)?;
            Ok(ClientFrame::Publish {
                id: f.id,
                topic: checks::topic_to_publish(f.topic)?,
                message: Message {
                    payload: published_payload(f.payload_kind, f.payload, f.content_type)?,
                    headers: checks::headers(Some(f.headers))?,
                },
                idempotency: checks::idempotency(f.producer, f.seq, f.message_id)?,
            })
        }
        kind::PUBLISH_ALL => {
            let f: PublishAllV1<'_, List<&str>, HeaderPairs<'_>, List<Number>> = read(body)?;
            let message = Message {
                payload: published_payload(f.payload_kind, f.payload, f.content_type)?,
                headers: checks::headers(Some(f.headers))?,
            };
            let seqs = f.seqs.map(checks::seqs).transpose()?;
            let idempotency = checks::idempotency_in_each(f.producer, seqs, f.message_id)?;
            Ok(ClientFrame::PublishAll {
                id: f.id,
                publish: checks::publish_all(&f.topics, message, idempotency)?,
            })
        }
        kind::PING => {
            let PingV1 { id } = read(body)?;
            Ok(ClientFrame::Ping { id })
        }
        unknown => Err(bad_frame(format_args!(
            "a client's frame begins with a byte from 0x01 (auth) to 0x07 (subscribe with a token); 0x{unknown:02x} is none of them"
        ))),
    }
}

fn subscribe(
    id: Option<u64>,
    topic: &str,
    from: &str,
    token: Option<&str>,
) -> Result<ClientFrame, FrameError> {
    let topic = checks::topic(topic)?;
    let from = from
        .parse::<SubscribeFrom>()
        .map_err(|e| refuse(ErrorCode::BadCursor, format_args!("`from`: {e}")))?;
    Ok(ClientFrame::Subscribe {
        id,
        topic,
        from,
        token: token.map(str::to_owned),
    })
}

fn published_payload(
    kind: u8,
    payload: &[u8],
    content_type: Option<&str>,
) -> Result<Payload, FrameError> {
    let data = Bytes::copy_from_slice(payload);
    match (kind, content_type) {
        (PAYLOAD_BYTES, content_type) => Ok(Payload::Bytes {
            data,
            content_type: checks::content_type(content_type)?,
        }),
        (PAYLOAD_JSON, None) => JsonText::check(data).map(Payload::Json).map_err(bad_frame),
        (PAYLOAD_JSON, Some(_)) => Err(bad_frame(
            "`content_type` goes with bytes; a payload of kind 1 is JSON",
        )),
        _ => Err(bad_frame(format_args!(
            "a payload is of kind 0 (bytes) or 1 (JSON); this one is of kind {kind}"
        ))),
    }
}

/// Reads what Hark says.
pub fn decode_server(bytes: &Bytes) -> Result<ServerFrame, FrameError> {
    let (kind, body) = split(bytes)?;
    match kind {
        kind::WELCOME => {
            let f: WelcomeV1<'_> = read(body)?;
            Ok(ServerFrame::Welcome {
                session: f.session.to_owned(),
                version: f.version.to_owned(),
                heartbeat_ms: f.heartbeat_ms,
                max_message_bytes: f.max_message_bytes,
                max_inflight: f.max_inflight,
            })
        }
        kind::AUTHENTICATED => {
            let AuthenticatedV1 {
                id,
                identity,
                expires_at_ms,
            } = read(body)?;
            Ok(ServerFrame::Authenticated {
                id,
                identity: identity.to_owned(),
                expires_at_ms,
            })
        }
        kind::SUBSCRIBED => {
            let SubscribedV1 {
                id,
                topic,
                cursor,
                head,
                resumed,
            } = read(body)?;
            let (topic, cursor) = (checks::topic(topic)?, checks::cursor(cursor)?);
            Ok(ServerFrame::Subscribed {
                id,
                topic,
                cursor,
                head,
                resumed,
            })
        }
        kind::MESSAGE => {
            let f: MessageV1<'_, HeaderPairs<'_>> = read(body)?;
            Ok(ServerFrame::Message {
                topic: checks::topic(f.topic)?,
                record: Record {
                    offset: f.offset,
                    prev: f.prev,
                    time_ms: f.time_ms,
                    identity: None,
                    message: Message {
                        payload: received_payload(f.payload_kind, f.payload, f.content_type)?,
                        headers: checks::headers(Some(f.headers))?,
                    },
                },
            })
        }
        kind::MESSAGE_V2 => {
            let f: MessageV2<'_, HeaderPairs<'_>> = read(body)?;
            let identity = |f: IdentityV1<'_>| Identity::new(f.issuer, f.subject);
            Ok(ServerFrame::Message {
                topic: checks::topic(f.topic)?,
                record: Record {
                    offset: f.offset,
                    prev: f.prev,
                    time_ms: f.time_ms,
                    identity: f.identity.map(identity),
                    message: Message {
                        payload: received_payload(f.payload_kind, f.payload, f.content_type)?,
                        headers: checks::headers(Some(f.headers))?,
                    },
                },
            })
        }
        kind::CAUGHT_UP => {
            let CaughtUpV1 { topic, cursor } = read(body)?;
            Ok(ServerFrame::CaughtUp {
                topic: checks::topic(topic)?,
                cursor: checks::cursor(cursor)?,
            })
        }
        kind::LAGGING => {
            let LaggingV1 {
                topic,
                cursor,
                behind,
            } = read(body)?;
            Ok(ServerFrame::Lagging {
                topic: checks::topic(topic)?,
                cursor: checks::cursor(cursor)?,
                behind,
            })
        }
        kind::GAP => {
            let GapV1 {
                topic,
                reason,
                from,
                to,
                cursor,
            } = read(body)?;
            let (topic, cursor) = (checks::topic(topic)?, checks::cursor(cursor)?);
            Ok(ServerFrame::Gap {
                topic,
                reason: GapReason::by_name(reason),
                from,
                to,
                cursor,
            })
        }
        kind::UNSUBSCRIBED => {
            let UnsubscribedV1 { id, topic } = read(body)?;
            Ok(ServerFrame::Unsubscribed {
                id,
                topic: checks::topic(topic)?,
            })
        }
        kind::PUBLISHED => {
            let PublishedV1 {
                id,
                topic,
                cursor,
                duplicate,
            } = read(body)?;
            let (topic, cursor) = (checks::topic(topic)?, checks::cursor(cursor)?);
            Ok(ServerFrame::Published {
                id,
                topic,
                cursor,
                duplicate,
            })
        }
        kind::PUBLISHED_ALL => {
            let f: PublishedAllV1<List<ReceiptV1<'_>>> = read(body)?;
            let receipt = |f: &ReceiptV1<'_>| {
                let (kept, refused) = ((f.cursor, f.duplicate), (f.code, f.message));
                checks::receipt(f.topic, kept, refused, f.expected_seq)
            };
            Ok(ServerFrame::PublishedAll {
                id: f.id,
                receipts: checks::receipts(f.receipts, receipt)?,
            })
        }
        kind::ERROR => {
            let ErrorV1 {
                id,
                code,
                message,
                expected_seq,
                retry_after_ms,
            } = read(body)?;
            let (code, message) = (ErrorCode::by_name(code), message.to_owned());
            Ok(ServerFrame::Error {
                id,
                code,
                message,
                expected_seq,
                retry_after_ms,
            })
        }
        kind::GOODBYE => {
            let GoodbyeV1 {
                reason,
                retry_after_ms,
            } = read(body)?;
            Ok(ServerFrame::Goodbye {
                reason: reason.to_owned(),
                retry_after_ms,
            })
        }
        kind::PONG => {
            let PongV1 { id } = read(body)?;
            Ok(ServerFrame::Pong { id })
        }
        unknown => Err(bad_frame(format_args!(
            "this build knows no frame that begins with 0x{unknown:02x}"
        ))),
    }
}

/// A client trusts its server to have checked what it marks as JSON.
fn received_payload(
    kind: u8,
    payload: &[u8],
    content_type: Option<&str>,
) -> Result<Payload, FrameError> {
    let data = Bytes::copy_from_slice(payload);
    match kind {
        PAYLOAD_BYTES => Ok(Payload::Bytes {
            data,
            content_type: content_type.map(Into::into),
        }),
        PAYLOAD_JSON => JsonText::from_checked(data)
            .map(Payload::Json)
            .map_err(bad_frame),
        _ => Err(bad_frame(format_args!(
            "a payload is of kind 0 (bytes) or 1 (JSON); this one is of kind {kind}"
        ))),
    }
}

fn split(bytes: &[u8]) -> Result<(u8, &[u8]), FrameError> {
    match bytes.split_first() {
        Some((&kind, body)) => Ok((kind, body)),
        None => Err(bad_frame(
            "a frame begins with the byte of its type; this one is empty",
        )),
    }
}

/// Reads one struct and nothing else: bytes left over are an error, not a second frame.
fn read<'a, T: Deserialize<'a>>(body: &'a [u8]) -> Result<T, FrameError> {
    match bincode::serde::borrow_decode_from_slice(body, wire_config()) {
        Ok((fields, used)) if used == body.len() => Ok(fields),
        Ok((_, used)) => Err(bad_frame(format_args!(
            "the frame's fields end after {used} bytes, but {} bytes follow its type",
            body.len()
        ))),
        Err(e) => Err(bad_frame(format_args!(
            "the bytes are not the fields of the frame's type in bincode: {e}"
        ))),
    }
}

/// The `id` of what is no frame, as far as it can be read: it is the first field of whatever a client says.
fn read_id(bytes: &[u8]) -> Option<u64> {
    match bytes.split_first() {
        Some((&(kind::AUTH..=kind::SUBSCRIBE_WITH_TOKEN), body)) => {
            let (id, _) =
                bincode::serde::borrow_decode_from_slice::<Option<u64>, _>(body, wire_config())
                    .ok()?;
            id
        }
        _ => None,
    }
}
