//! Writing one JSON object as text. Owns escaping and sizes; leaves to `json` which fields there are.
//!
//! Everything is written twice: once to measure, once into an allocation of exactly that size. A frame is so one
//! allocation, and no second bookkeeping of lengths can drift from what is written.

use std::fmt::{self, Write};

use base64::Engine;
use bytestring::ByteString;

use super::BASE64;
use crate::{Cursor, Headers, Identity, JsonText, TopicName};

/// Writes with `write` into a text that holds exactly what was written.
pub(super) fn to_text(write: impl Fn(&mut dyn Out)) -> ByteString {
    let mut length = Length(0);
    write(&mut length);
    let mut text = String::with_capacity(length.0);
    write(&mut text);
    debug_assert_eq!(text.len(), length.0, "measured and written alike");
    text.into()
}

/// Where a JSON object goes, field by field. A field whose value is `None` is left out.
pub(super) trait Out {
    /// Puts `text` as it is.
    fn raw(&mut self, text: &str);

    /// Puts `data` as base64, which needs no escapes.
    fn base64(&mut self, data: &[u8]);

    /// Begins an object with its `type`.
    fn begin(&mut self, kind: &str) {
        self.raw(r#"{"type":""#);
        self.raw(kind);
        self.raw("\"");
    }

    /// Ends the object.
    fn end(&mut self) {
        self.raw("}");
    }

    /// Begins a field. Never the first of an object: that is the type.
    fn name(&mut self, name: &str) {
        self.raw(",\"");
        self.raw(name);
        self.raw("\":");
    }

    /// A field that is a number.
    fn number(&mut self, name: &str, value: Option<u64>) {
        let Some(value) = value else { return };
        self.name(name);
        self.digits(value);
    }

    /// A number by itself.
    fn digits(&mut self, value: u64) {
        self.raw(Digits::of(value).as_str());
    }

    /// A field that is true or false.
    fn flag(&mut self, name: &str, value: bool) {
        self.name(name);
        self.raw(if value { "true" } else { "false" });
    }

    /// A field that is any string.
    fn string(&mut self, name: &str, value: Option<&str>) {
        let Some(value) = value else { return };
        self.name(name);
        self.quoted(value);
    }

    /// The field `topic`, whose grammar holds nothing that JSON would escape.
    fn topic(&mut self, topic: &TopicName) {
        self.name("topic");
        self.raw("\"");
        self.raw(topic.as_str());
        self.raw("\"");
    }

    /// The field `cursor`.
    fn cursor(&mut self, cursor: &Cursor) {
        self.string("cursor", Some(&cursor.to_string()));
    }

    /// The field `headers`, left out where there are none.
    fn headers(&mut self, headers: &Headers) {
        if headers.is_empty() {
            return;
        }
        self.name("headers");
        for (at, (name, value)) in headers.iter().enumerate() {
            self.raw(if at == 0 { "{" } else { "," });
            self.quoted(name);
            self.raw(":");
            self.quoted(value);
        }
        self.raw("}");
    }

    /// The field `identity` of a message, left out where there is none.
    fn identity(&mut self, identity: Option<&Identity>) {
        let Some(identity) = identity else { return };
        self.name("identity");
        self.raw(r#"{"issuer":"#);
        self.quoted(identity.issuer());
        self.string("subject", Some(identity.subject()));
        self.raw("}");
    }

    /// A field whose value is JSON already.
    fn json(&mut self, name: &str, value: &JsonText) {
        self.name(name);
        self.raw(value.as_str());
    }

    /// A field of bytes.
    fn bytes(&mut self, name: &str, value: &[u8]) {
        self.name(name);
        self.raw("\"");
        self.base64(value);
        self.raw("\"");
    }

    /// A string in quotation marks, escaped where it must be (RFC 8259, section 7), as short as can be.
    fn quoted(&mut self, value: &str) {
        self.raw("\"");
        let mut plain = 0;
        for (at, byte) in value.bytes().enumerate() {
            let escape = match byte {
                0x08 => "\\b",
                b'\t' => "\\t",
                b'\n' => "\\n",
                0x0c => "\\f",
                b'\r' => "\\r",
                b'"' => "\\\"",
                b'\\' => "\\\\",
                0..0x20 => "\\u00",
                _ => continue,
            };
            // What is escaped is ASCII, so it borders on whole characters.
            self.raw(&value[plain..at]);
            self.raw(escape);
            if escape.len() > 2 {
                let at = 2 * usize::from(byte);
                self.raw(&CONTROL_DIGITS[at..at + 2]);
            }
            plain = at + 1;
        }
        self.raw(&value[plain..]);
        self.raw("\"");
    }
}

/// The two hexadecimal digits of each control character.
const CONTROL_DIGITS: &str = "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f";

/// How many bytes a string has between its quotation marks, as `quoted` writes it.
pub(super) fn escaped_len(value: &str) -> usize {
    let with_escape = |byte| match byte {
        0x08 | b'\t' | b'\n' | 0x0c | b'\r' | b'"' | b'\\' => 2,
        0..0x20 => 6,
        _ => 1,
    };
    value.bytes().map(with_escape).sum()
}

/// How many characters bytes have in base64: four for each three bytes begun (RFC 4648, section 4).
pub(super) fn base64_len(data: &[u8]) -> usize {
    data.len().div_ceil(3) * 4
}

impl dyn Out + '_ {
    /// A field that is a list; `write` writes one item of it.
    pub(super) fn list<T>(
        &mut self,
        name: &str,
        items: impl Iterator<Item = T>,
        write: impl Fn(&mut dyn Out, T),
    ) {
        self.name(name);
        self.raw("[");
        for (at, item) in items.enumerate() {
            if at > 0 {
                self.raw(",");
            }
            write(self, item);
        }
        self.raw("]");
    }
}

/// Only measures.
struct Length(usize);

impl Out for Length {
    fn raw(&mut self, text: &str) {
        self.0 += text.len();
    }

    fn base64(&mut self, data: &[u8]) {
        self.0 += base64_len(data);
    }
}

impl Out for String {
    fn raw(&mut self, text: &str) {
        self.push_str(text);
    }

    fn base64(&mut self, data: &[u8]) {
        BASE64.encode_string(data, self);
    }
}

/// A number's decimal digits, without an allocation.
struct Digits {
    text: [u8; 20], // u64::MAX has twenty
    len: usize,
}

impl Digits {
    fn of(value: u64) -> Self {
        let mut digits = Self {
            text: [0; 20],
            len: 0,
        };
        // Twenty bytes are enough for every u64: the `Err` cannot be.
        match write!(digits, "{value}") {
            Ok(()) | Err(fmt::Error) => digits,
        }
    }

    fn as_str(&self) -> &str {
        std::str::from_utf8(&self.text[..self.len]).unwrap_or_default()
    }
}

impl fmt::Write for Digits {
    fn write_str(&mut self, s: &str) -> fmt::Result {
        let end = self.len + s.len();
        self.text
            .get_mut(self.len..end)
            .ok_or(fmt::Error)?
            .copy_from_slice(s.as_bytes());
        self.len = end;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escapes_are_those_of_serde_json_and_their_length_is_known() {
        let ascii: String = (0..0x80_u8).map(char::from).collect();
        for text in ["", "plain", "ü\n日本\"\\", &ascii] {
            let mut written = String::new();
            written.quoted(text);
            assert_eq!(written, serde_json::to_string(text).unwrap());
            assert_eq!(escaped_len(text), written.len() - 2, "{text:?}");
        }
    }
}
