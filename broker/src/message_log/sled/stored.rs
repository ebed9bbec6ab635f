//! How records are written into values: bincode, and how many records share a value. Owns the stored form of a record;
//! leaves where values lie and how they are guarded to `layout`.
//!
//! ```text
//! of nobody        idempotency (which begins with 0, 1 or 2) | headers | payload     all there was until format 3
//! of an identity   BY_IDENTITY (3) | identity | the same
//! ```
//! Who publishes much, alone or by turns with others of the same issuer, is named once in a value.

use bytes::Bytes;
use bytestring::ByteString;
use hark_protocol::{
    Headers, Idempotency, Identity, JsonText, MAX_FRAME_BYTES, Message, MessageId, Payload,
    ProducerId,
};
use serde::{Deserialize, Serialize};

use super::layout::{HEADER_BYTES, Header, KEY_BYTES, Key, MAX_VALUE_BYTES, TopicId};
use crate::message_log::{KnownBy, NewRecord};

/// No claim of a stored length is believed beyond this. Bincode counts sizes in memory, hence far above the largest message.
const DECODE_LIMIT: usize = 16 * MAX_FRAME_BYTES;
const MAX_BODY_BYTES: usize = MAX_VALUE_BYTES - HEADER_BYTES;
/// No payload is larger. Eight times what the protocol lets in.
pub(super) const MAX_PAYLOAD_BYTES: usize = DECODE_LIMIT / 2;

fn bincode_config() -> impl bincode::config::Config {
    bincode::config::standard().with_limit::<DECODE_LIMIT>()
}

/// The first byte of a record that somebody with an identity published. That of others says how they are known again.
const BY_IDENTITY: u8 = 3;

/// Who published a record, frozen.
#[derive(Serialize, Deserialize)]
enum StoredIdentity<'a> {
    /// The one of the identified record before, in the same value.
    Same,
    /// Another subject of that one's issuer.
    Subject(&'a str),
    Whole {
        issuer: &'a str,
        subject: &'a str,
    },
}

/// A record without its identity, frozen. What knows a message again comes first, so that of a record in parts one part is enough.
#[derive(Serialize, Deserialize)]
struct StoredRecord<'a> {
    #[serde(borrow)]
    idempotency: StoredIdempotency<'a>,
    headers: Vec<(&'a str, &'a str)>,
    payload: StoredPayload<'a>,
}

#[derive(Serialize, Deserialize)]
enum StoredIdempotency<'a> {
    None,
    Sequence { producer: &'a str, seq: u64 },
    Key(&'a str),
}

#[derive(Serialize, Deserialize)]
enum StoredPayload<'a> {
    Json(#[serde(borrow, with = "serde_bytes")] &'a [u8]),
    Bytes(#[serde(borrow, with = "serde_bytes")] &'a [u8]),
    Typed(&'a str, #[serde(borrow, with = "serde_bytes")] &'a [u8]),
}

/// Why bytes are no record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Malformed;

/// Why records cannot be written.
#[derive(Debug)]
pub(super) enum PackError<E> {
    /// The message with this many bytes is more than the format can hold. The protocol's limits are far below.
    TooLarge(usize),
    /// Whoever takes the values failed.
    Put(E),
}

/// Packs the records of one append into values. Kept by the writer, for its buffers.
#[derive(Debug, Default)]
pub(super) struct Packer {
    value: Vec<u8>,
    other: Vec<u8>,
}

/// Where the value that is being filled belongs.
struct Place {
    topic: TopicId,
    time_ms: u64,
    base: u64,
    count: u16,
}

impl Packer {
    /// Hands `put` the keys and values of `records`, the first of which gets the offset `base`. Returns how many bytes
    /// there were, keys included.
    pub(super) fn pack<E>(
        &mut self,
        topic: TopicId,
        base: u64,
        time_ms: u64,
        records: &[NewRecord],
        mut put: impl FnMut(&[u8; KEY_BYTES], &[u8]) -> Result<(), E>,
    ) -> Result<u64, PackError<E>> {
        let mut bytes = 0;
        let mut put = |key: Key, header: Header, value: &mut Vec<u8>| {
            let key = key.to_bytes();
            header.seal(&key, value);
            bytes += (KEY_BYTES + value.len()) as u64;
            put(&key, value).map_err(PackError::Put)
        };
        let mut place = Place {
            topic,
            time_ms,
            base,
            count: 0,
        };
        self.value.clear();
        self.value.resize(HEADER_BYTES, 0);
        // The newest identity in the value.
        let mut named = None;
        for (offset, record) in (base..).zip(records) {
            let end = self.value.len();
            let payload = record.message.payload.len();
            let too_large = |_| PackError::TooLarge(payload);
            if payload > MAX_PAYLOAD_BYTES {
                return Err(PackError::TooLarge(payload));
            }
            encode(record, named, &mut self.value).map_err(too_large)?;
            if self.value.len() <= MAX_VALUE_BYTES && place.count < u16::MAX {
                place.count += 1;
                named = record.identity.as_ref().or(named);
                continue;
            }
            // The value was full without this record: write it, and begin another with this one.
            if place.count > 0 {
                self.value.truncate(end);
                put(place.key(), place.header(), &mut self.value)?;
                self.value.clear();
                self.value.resize(HEADER_BYTES, 0);
                encode(record, None, &mut self.value).map_err(too_large)?;
            }
            place.base = offset;
            place.count = 1;
            named = record.identity.as_ref();
            if self.value.len() > MAX_VALUE_BYTES {
                let body = self.value.len() - HEADER_BYTES;
                let parts = body.div_ceil(MAX_BODY_BYTES);
                let parts = u16::try_from(parts).map_err(|_| PackError::TooLarge(body))?;
                let header = Header {
                    count: parts,
                    is_part: true,
                    time_ms,
                };
                for (part, chunk) in (0..).zip(self.value[HEADER_BYTES..].chunks(MAX_BODY_BYTES)) {
                    self.other.clear();
                    self.other.resize(HEADER_BYTES, 0);
                    self.other.extend_from_slice(chunk);
                    put(Key::new(topic, offset, part), header, &mut self.other)?;
                }
                place.base = offset + 1;
                place.count = 0;
                named = None;
                self.value.truncate(HEADER_BYTES);
            }
        }
        if place.count > 0 {
            put(place.key(), place.header(), &mut self.value)?;
        }
        self.forget_large_buffers();
        Ok(bytes)
    }

    fn forget_large_buffers(&mut self) {
        for buffer in [&mut self.value, &mut self.other] {
            if buffer.capacity() > 16 * MAX_VALUE_BYTES {
                *buffer = Vec::new();
            }
        }
    }
}

impl Place {
    fn key(&self) -> Key {
        Key::new(self.topic, self.base, 0)
    }

    fn header(&self) -> Header {
        Header {
            count: self.count,
            is_part: false,
            time_ms: self.time_ms,
        }
    }
}

/// `named`: whom a record before it in the same value names.
fn encode(
    record: &NewRecord,
    named: Option<&Identity>,
    into: &mut Vec<u8>,
) -> Result<(), Malformed> {
    if let Some(identity) = &record.identity {
        into.push(BY_IDENTITY);
        write(&StoredIdentity::of(identity, named), into)?;
    }
    let stored = StoredRecord {
        idempotency: match &record.idempotency {
            Idempotency::None => StoredIdempotency::None,
            Idempotency::Sequence { producer, seq } => StoredIdempotency::Sequence {
                producer: producer.as_str(),
                seq: *seq,
            },
            Idempotency::Key(key) => StoredIdempotency::Key(key.as_str()),
        },
        headers: record.message.headers.iter().collect(),
        payload: match &record.message.payload {
            Payload::Json(text) => StoredPayload::Json(text.as_bytes()),
            Payload::Bytes {
                data,
                content_type: None,
            } => StoredPayload::Bytes(data),
            Payload::Bytes {
                data,
                content_type: Some(typ),
            } => StoredPayload::Typed(typ, data),
        },
    };
    write(&stored, into)
}

fn write(stored: &impl Serialize, into: &mut Vec<u8>) -> Result<(), Malformed> {
    bincode::serde::encode_into_writer(stored, Behind(into), bincode_config())
        .map_err(|_| Malformed)
}

impl<'a> StoredIdentity<'a> {
    fn of(identity: &'a Identity, named: Option<&Identity>) -> Self {
        match named {
            Some(named) if named == identity => Self::Same,
            Some(named) if named.issuer() == identity.issuer() => Self::Subject(identity.subject()),
            _ => Self::Whole {
                issuer: identity.issuer(),
                subject: identity.subject(),
            },
        }
    }

    fn resolved(&self, named: Option<&Identity>) -> Result<Identity, Malformed> {
        match *self {
            Self::Same => named.cloned().ok_or(Malformed),
            Self::Subject(subject) => {
                let issuer = named.ok_or(Malformed)?.issuer();
                Ok(Identity::new(issuer, subject))
            }
            Self::Whole { issuer, subject } => Ok(Identity::new(issuer, subject)),
        }
    }
}

/// Lets bincode write behind what a buffer holds already.
struct Behind<'a>(&'a mut Vec<u8>);

impl bincode::enc::write::Writer for Behind<'_> {
    fn write(&mut self, bytes: &[u8]) -> Result<(), bincode::error::EncodeError> {
        self.0.extend_from_slice(bytes);
        Ok(())
    }
}

/// The records of a body whose checksum held, one by one. What they hold is shared with the body, not copied.
#[derive(Debug)]
pub(super) struct Body {
    bytes: Bytes,
    at: usize,
    /// The newest identity that was met.
    named: Option<Identity>,
}

impl Body {
    pub(super) fn new(bytes: Bytes) -> Self {
        Self {
            bytes,
            at: 0,
            named: None,
        }
    }

    /// The next record, with who published it and how it is known again.
    pub(super) fn next_record(
        &mut self,
    ) -> Result<(Message, Option<Identity>, Idempotency), Malformed> {
        let identity = self.next_identity()?;
        let (stored, bytes) = self.take::<StoredRecord<'_>>()?;
        let idempotency = stored.idempotency.checked()?;
        Ok((message(stored, bytes)?, identity, idempotency))
    }

    /// The next record's message, and who published it.
    pub(super) fn next_message(&mut self) -> Result<(Message, Option<Identity>), Malformed> {
        let identity = self.next_identity()?;
        let (stored, bytes) = self.take::<StoredRecord<'_>>()?;
        Ok((message(stored, bytes)?, identity))
    }

    /// What the next record is known by; its message is passed over.
    pub(super) fn next_known_by(&mut self) -> Result<KnownBy, Malformed> {
        let identity = self.next_identity()?;
        let (stored, _) = self.take::<StoredRecord<'_>>()?;
        Ok(KnownBy::new(identity, stored.idempotency.checked()?))
    }

    /// Passes over the next record.
    pub(super) fn skip(&mut self) -> Result<(), Malformed> {
        self.next_identity()?;
        self.take::<StoredRecord<'_>>().map(|_| ())
    }

    /// Who published the next record, which is not passed over.
    fn next_identity(&mut self) -> Result<Option<Identity>, Malformed> {
        if self.bytes.get(self.at) != Some(&BY_IDENTITY) {
            return Ok(None);
        }
        self.at += 1;
        let named = self.named.take();
        let (stored, _) = self.take::<StoredIdentity<'_>>()?;
        let identity = stored.resolved(named.as_ref())?;
        self.named = Some(identity.clone());
        Ok(Some(identity))
    }

    fn take<'a, T: Deserialize<'a>>(&'a mut self) -> Result<(T, &'a Bytes), Malformed> {
        let rest = self.bytes.get(self.at..).ok_or(Malformed)?;
        let (stored, used) = bincode::serde::borrow_decode_from_slice(rest, bincode_config())
            .map_err(|_| Malformed)?;
        self.at += used;
        Ok((stored, &self.bytes))
    }
}

/// The message of a stored record; what it holds is shared with `bytes`, in which it lies.
fn message(stored: StoredRecord<'_>, bytes: &Bytes) -> Result<Message, Malformed> {
    let shared = |part: &[u8]| bytes.slice_ref(part);
    let shared_text = |part: &str| ByteString::try_from(shared(part.as_bytes()));
    let payload = match stored.payload {
        // Was checked before it was stored, and has a checksum since.
        StoredPayload::Json(text) => {
            Payload::Json(JsonText::from_checked(shared(text)).map_err(|_| Malformed)?)
        }
        StoredPayload::Bytes(data) => Payload::Bytes {
            data: shared(data),
            content_type: None,
        },
        StoredPayload::Typed(content_type, data) => Payload::Bytes {
            data: shared(data),
            content_type: Some(shared_text(content_type).map_err(|_| Malformed)?),
        },
    };
    let headers = match stored.headers.is_empty() {
        true => Headers::default(),
        false => {
            let pair = |(name, value): (&str, &str)| {
                Ok((
                    shared_text(name).map_err(|_| Malformed)?,
                    shared_text(value).map_err(|_| Malformed)?,
                ))
            };
            let pairs = stored
                .headers
                .into_iter()
                .map(pair)
                .collect::<Result<_, Malformed>>()?;
            Headers::new(pairs).map_err(|_| Malformed)?
        }
    };
    Ok(Message { payload, headers })
}

/// What the record is known by whose first part this is.
pub(super) fn known_by_first_part(body: Bytes) -> Result<KnownBy, Malformed> {
    let mut body = Body::new(body);
    let identity = body.next_identity()?;
    let (stored, _) = body.take::<StoredIdempotency<'_>>()?;
    Ok(KnownBy::new(identity, stored.checked()?))
}

impl StoredIdempotency<'_> {
    fn checked(&self) -> Result<Idempotency, Malformed> {
        Ok(match *self {
            Self::None => Idempotency::None,
            Self::Sequence { producer, seq } => {
                let producer = ProducerId::parse(producer).map_err(|_| Malformed)?;
                Idempotency::Sequence { producer, seq }
            }
            Self::Key(key) => Idempotency::Key(MessageId::parse(key).map_err(|_| Malformed)?),
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn payloads() -> impl Strategy<Value = Payload> {
        let json = prop_oneof![
            any::<i64>().prop_map(|n| n.to_string()),
            "[a-zü€ ]{0,40}".prop_map(|s| format!("{{\"s\":\"{s}\"}}")),
        ];
        let content_type = proptest::option::of("[a-z/+;= -]{0,255}".prop_map(ByteString::from));
        prop_oneof![
            json.prop_map(|text| Payload::Json(JsonText::check(text.into()).unwrap())),
            (
                proptest::collection::vec(any::<u8>(), 0..20_000),
                content_type
            )
                .prop_map(|(data, content_type)| Payload::Bytes {
                    data: data.into(),
                    content_type
                }),
        ]
    }

    fn records() -> impl Strategy<Value = NewRecord> {
        let headers =
            proptest::collection::btree_map("[a-z]{1,9}", "[ -~é]{0,30}", 0..5).prop_map(|pairs| {
                let pairs = pairs
                    .into_iter()
                    .map(|(k, v)| (k.into(), v.into()))
                    .collect();
                Headers::new(pairs).unwrap()
            });
        let idempotency = prop_oneof![
            Just(Idempotency::None),
            ("[a-zß]{1,30}", any::<u64>()).prop_map(|(producer, seq)| Idempotency::Sequence {
                producer: ProducerId::parse(&producer).unwrap(),
                seq
            }),
            "[a-zß]{1,30}".prop_map(|key| Idempotency::Key(MessageId::parse(&key).unwrap())),
        ];
        // Few, so that they come again; the issuer's name is as long as one may be, so that a record may not fit into its value.
        let identity = proptest::option::of(("[ab]{0,255}", "[ab]"))
            .prop_map(|parts| parts.map(|(issuer, subject)| Identity::new(&issuer, &subject)));
        (payloads(), headers, identity, idempotency).prop_map(
            |(payload, headers, identity, idempotency)| NewRecord {
                message: Message { payload, headers },
                identity,
                idempotency,
            },
        )
    }

    fn packed_bytes(identities: &[Option<Identity>]) -> u64 {
        let record = |identity: &Option<Identity>| NewRecord {
            message: Message {
                payload: Payload::Json(JsonText::check("1".into()).unwrap()),
                headers: Headers::default(),
            },
            identity: identity.clone(),
            idempotency: Idempotency::None,
        };
        let records: Vec<NewRecord> = identities.iter().map(record).collect();
        let packed = Packer::default().pack(TopicId(1), 1, 1, &records, |_, _| Ok::<(), ()>(()));
        packed.unwrap()
    }

    /// Without an identity a record is what it was before there were any.
    #[test]
    fn an_identity_costs_little_where_it_comes_again_and_nothing_where_there_is_none() {
        let of = |subject: &str| Some(Identity::new("https://login.example", subject));
        let around = (KEY_BYTES + HEADER_BYTES) as u64;
        assert_eq!(packed_bytes(&[None]), around + 5);
        assert_eq!(packed_bytes(&vec![None; 10]), around + 50);
        let first = around + 5 + 2 + 22 + 4;
        assert_eq!(packed_bytes(&[of("ana")]), first);
        assert_eq!(packed_bytes(&[of("ana"), None, of("ana")]), first + 5 + 7);
        assert_eq!(packed_bytes(&[of("ana"), of("bob")]), first + 7 + 4);
    }

    proptest! {
        #[test]
        fn what_is_packed_is_found_again(records in proptest::collection::vec(records(), 1..40)) {
            let mut values = Vec::new();
            let topic = TopicId(9);
            let bytes = Packer::default()
                .pack(topic, 100, 5, &records, |key, value| {
                    values.push((Key::parse(key).unwrap(), value.to_vec()));
                    Ok::<(), ()>(())
                })
                .unwrap();

            prop_assert_eq!(bytes, values.iter().map(|(_, v)| (KEY_BYTES + v.len()) as u64).sum::<u64>());
            let mut next = 100;
            let mut at = 0;
            while at < values.len() {
                let (key, value) = &values[at];
                let header = Header::check(&key.to_bytes(), value).unwrap();
                prop_assert_eq!((key.base, key.part, header.time_ms), (next, 0, 5));
                let mut body = value[HEADER_BYTES..].to_vec();
                let mut count = header.count;
                if header.is_part {
                    let first = &records[usize::try_from(next - 100).unwrap()];
                    let known = known_by_first_part(body.clone().into()).unwrap();
                    prop_assert_eq!(known, first.known_by());
                    for part in 1..header.count {
                        at += 1;
                        let (key, value) = &values[at];
                        prop_assert_eq!((key.base, key.part), (next, part));
                        prop_assert_eq!(Header::check(&key.to_bytes(), value), Some(header));
                        body.extend_from_slice(&value[HEADER_BYTES..]);
                    }
                    count = 1;
                }
                prop_assert!(values[at].1.len() <= MAX_VALUE_BYTES);
                let body = Bytes::from(body);
                let [mut messages, mut marks, mut whole] = [(); 3].map(|()| Body::new(body.clone()));
                for _ in 0..count {
                    let record = &records[usize::try_from(next - 100).unwrap()];
                    let (message, identity) = messages.next_message().unwrap();
                    prop_assert_eq!((&message, &identity), (&record.message, &record.identity));
                    prop_assert_eq!(marks.next_known_by().unwrap(), record.known_by());
                    let expected = (message, identity, record.idempotency.clone());
                    prop_assert_eq!(whole.next_record().unwrap(), expected);
                    next += 1;
                }
                prop_assert_eq!(messages.next_message(), Err(Malformed));
                at += 1;
            }
            prop_assert_eq!(next, 100 + records.len() as u64);
        }

        #[test]
        fn any_bytes_are_a_record_or_an_error(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let bytes = Bytes::from(bytes);
            let _is_part = known_by_first_part(bytes.clone());
            let mut body = Body::new(bytes);
            while body.next_message().is_ok() {}
        }
    }
}
