//! The fields of a JSON frame, of whatever type, read in one pass without copies. Owns how a frame is taken apart;
//! leaves to `json` which fields a type needs.

use std::fmt;

use serde::de::{Deserialize, Deserializer, Error, IgnoredAny, MapAccess, Unexpected, Visitor};
use serde_json::value::RawValue;

use crate::FrameError;
use crate::codec::checks::{Clipped, HeaderPairs, List, Number, Text, bad_frame};

/// A struct of optional fields that reads itself from one JSON object. Unknown fields are skipped, so that a newer peer
/// can say more; `optional` and `number` take null for absent, `value` takes it for what it is.
///
/// By hand and not derived, so that a refusal can name the field and that a JSON array is no frame.
macro_rules! fields {
    ($(#[doc = $doc:literal])* $name:ident { $($key:literal => $take:ident $field:ident: $type:ty,)* }) => {
        $(#[doc = $doc])*
        #[derive(Debug, Default)]
        pub(super) struct $name<'a> {
            $(pub(super) $field: Option<$type>,)*
        }

        impl<'a> Deserialize<'a> for $name<'a> {
            fn deserialize<D: Deserializer<'a>>(deserializer: D) -> Result<Self, D::Error> {
                struct Fields;
                impl<'a> Visitor<'a> for Fields {
                    type Value = $name<'a>;

                    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                        f.write_str(r#"an object such as {"type":"ping","id":1}"#)
                    }

                    fn visit_str<E: Error>(self, _: &str) -> Result<$name<'a>, E> {
                        // The default would quote the string, however long it is.
                        Err(E::invalid_type(Unexpected::Other("a string"), &self))
                    }

                    fn visit_map<A: MapAccess<'a>>(self, mut map: A) -> Result<$name<'a>, A::Error> {
                        let mut fields = $name::default();
                        while let Some(key) = map.next_key::<Text<'a>>()? {
                            match key.as_ref() {
                                $($key => $take($key, &mut fields.$field, &mut map)?,)*
                                _ => {
                                    map.next_value::<IgnoredAny>()?;
                                }
                            }
                        }
                        Ok(fields)
                    }
                }
                deserializer.deserialize_any(Fields)
            }
        }
    };
}

fields! {
    /// Whatever a client can say.
    ClientFields {
        "type" => optional kind: Text<'a>,
        "id" => number id: u64,
        "token" => optional token: Text<'a>,
        "topic" => optional topic: Text<'a>,
        "topics" => optional topics: List<Text<'a>>,
        "from" => value from: &'a RawValue,
        "data" => value data: &'a RawValue,
        "data_base64" => optional data_base64: Text<'a>,
        "text" => optional text: Text<'a>,
        "content_type" => optional content_type: Text<'a>,
        "headers" => optional headers: HeaderPairs<'a>,
        "producer" => optional producer: Text<'a>,
        "seq" => number seq: u64,
        "seqs" => optional seqs: List<Number>,
        "message_id" => optional message_id: Text<'a>,
    }
}

fields! {
    /// Whatever Hark can say.
    ServerFields {
        "type" => optional kind: Text<'a>,
        "id" => number id: u64,
        "session" => optional session: Text<'a>,
        "version" => optional version: Text<'a>,
        "heartbeat_ms" => number heartbeat_ms: u64,
        "max_message_bytes" => number max_message_bytes: u64,
        "max_inflight" => number max_inflight: u64,
        // A name in one frame, issuer and subject in another.
        "identity" => value identity: &'a RawValue,
        "expires_at" => optional expires_at: Text<'a>,
        "topic" => optional topic: Text<'a>,
        "cursor" => optional cursor: Text<'a>,
        "head" => number head: u64,
        "resumed" => optional resumed: bool,
        "offset" => number offset: u64,
        "prev" => number prev: u64,
        "time" => number time: u64,
        "headers" => optional headers: HeaderPairs<'a>,
        "data" => value data: &'a RawValue,
        "data_base64" => optional data_base64: Text<'a>,
        "text" => optional text: Text<'a>,
        "content_type" => optional content_type: Text<'a>,
        "behind" => number behind: u64,
        "reason" => optional reason: Text<'a>,
        "from" => number from: u64,
        "to" => number to: u64,
        "duplicate" => optional duplicate: bool,
        "receipts" => optional receipts: List<ReceiptFields<'a>>,
        "code" => optional code: Text<'a>,
        "message" => optional message: Text<'a>,
        "expected_seq" => number expected_seq: u64,
        "retry_after_ms" => number retry_after_ms: u64,
    }
}

fields! {
    /// Who published a message.
    IdentityFields {
        "issuer" => optional issuer: Text<'a>,
        "subject" => optional subject: Text<'a>,
    }
}

fields! {
    /// What Hark says of one topic in `published_all`.
    ReceiptFields {
        "topic" => optional topic: Text<'a>,
        "cursor" => optional cursor: Text<'a>,
        "duplicate" => optional duplicate: bool,
        "code" => optional code: Text<'a>,
        "message" => optional message: Text<'a>,
        "expected_seq" => number expected_seq: u64,
    }
}

fn optional<'a, A: MapAccess<'a>, T: Deserialize<'a>>(
    name: &str,
    slot: &mut Option<T>,
    map: &mut A,
) -> Result<(), A::Error> {
    once(name, slot)?;
    *slot = read(name, map)?;
    Ok(())
}

fn value<'a, A: MapAccess<'a>, T: Deserialize<'a>>(
    name: &str,
    slot: &mut Option<T>,
    map: &mut A,
) -> Result<(), A::Error> {
    once(name, slot)?;
    *slot = Some(read(name, map)?);
    Ok(())
}

fn number<'a, A: MapAccess<'a>>(
    name: &str,
    slot: &mut Option<u64>,
    map: &mut A,
) -> Result<(), A::Error> {
    once(name, slot)?;
    let raw: &RawValue = read(name, map)?;
    *slot = match raw.get() {
        "null" => None,
        digits => Some(digits.parse().map_err(|_| {
            let found = Clipped(digits);
            A::Error::custom(format_args!(
                "`{name}` is a whole number from 0 to 2^64 - 1, not {found}"
            ))
        })?),
    };
    Ok(())
}

fn once<T, E: Error>(name: &str, slot: &Option<T>) -> Result<(), E> {
    match slot {
        Some(_) => Err(E::custom(format_args!("`{name}` stands twice"))),
        None => Ok(()),
    }
}

fn read<'a, A: MapAccess<'a>, T: Deserialize<'a>>(name: &str, map: &mut A) -> Result<T, A::Error> {
    map.next_value()
        .map_err(|e| A::Error::custom(format_args!("`{name}`: {e}")))
}

/// Reads the fields of one frame.
pub(super) fn read_object<'a, T: Deserialize<'a>>(bytes: &'a [u8]) -> Result<T, FrameError> {
    let text =
        std::str::from_utf8(bytes).map_err(|e| bad_frame(format_args!("a frame is UTF-8: {e}")))?;
    serde_json::from_str(text).map_err(|e| match e.is_data() {
        true => bad_frame(e),
        false => bad_frame(format_args!(
            "a frame is one JSON object, and this is not JSON: {e}"
        )),
    })
}

/// The `id` of what is no frame, as far as it can be read, so that the refusal can be matched.
pub(super) fn read_id(bytes: &[u8]) -> Option<u64> {
    struct IdVisitor<'i>(&'i mut Option<u64>);
    impl<'de> Visitor<'de> for IdVisitor<'_> {
        type Value = ();

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("an object")
        }

        fn visit_str<E>(self, _: &str) -> Result<(), E> {
            Ok(())
        }

        fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
            while let Some(key) = map.next_key::<Text<'de>>()? {
                match key.as_ref() {
                    "id" => *self.0 = map.next_value::<&RawValue>()?.get().parse().ok(),
                    _ => {
                        map.next_value::<IgnoredAny>()?;
                    }
                }
            }
            Ok(())
        }
    }

    let mut id = None;
    let mut reader = serde_json::Deserializer::from_slice(bytes);
    // Where the text ends in an error, what was found before it counts.
    match reader.deserialize_any(IdVisitor(&mut id)) {
        Ok(()) | Err(_) => id,
    }
}
