//! A request's head, as it comes from the network. Owns how long it is, what follows it, and why it is refused. It is read again by
//! actix-http, so it must never take for a body's end what actix-http takes for something else: what the two could read in different
//! ways is refused (request smuggling; RFC 9112, section 11.2). A test compares the two.

use actix_web::http::Uri;
use httparse::Status;

/// The most bytes of a request's head.
pub(super) const MAX_HEAD_BYTES: usize = 32 * 1024;
/// The most header lines of a head; actix-http takes no more.
const MAX_HEADERS: usize = 96;

/// A head that is whole and in order.
#[derive(Debug, PartialEq, Eq)]
pub struct Head {
    /// How many bytes it has, with the empty line behind it.
    pub bytes: usize,
    /// What follows it.
    pub body: BodyLength,
    /// What is handed on in its place, where that is not what came.
    pub rewritten: Option<Vec<u8>>,
    /// Whether it asks for an event stream.
    pub wants_events: bool,
}

/// What follows a head (RFC 9112, section 6.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BodyLength {
    /// Nothing, or so many bytes.
    Bytes(u64),
    /// Chunks.
    Chunked,
    /// Whatever comes belongs to it: an upgrade.
    Endless,
}

/// Why a head is refused: a status, a code and a sentence.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Refusal {
    /// The status.
    pub status: &'static str,
    /// The code of the protocol.
    pub code: &'static str,
    /// For people.
    pub message: &'static str,
}

impl Refusal {
    const fn bad(message: &'static str) -> Self {
        Self {
            status: "400 Bad Request",
            code: "bad_frame",
            message,
        }
    }

    pub(super) const TOO_LARGE: Self = Self {
        status: "431 Request Header Fields Too Large",
        code: "too_large",
        message: "a request's head has at most 32768 bytes and 96 header lines",
    };
    pub(super) const TOO_SLOW: Self = Self {
        status: "408 Request Timeout",
        code: "bad_frame",
        message: "the request's head did not come in time; send it without a pause",
    };
    pub(super) const NO_ROOM: Self = Self {
        status: "503 Service Unavailable",
        code: "busy",
        message: "there are as many connections as there may be; try again in a moment",
    };
    pub(super) const TOO_MANY: Self = Self {
        status: "429 Too Many Requests",
        code: "rate_limited",
        message: "too many connections from this address, or too many new ones; try again later",
    };
    pub(super) const NOT_ENCRYPTED: Self = Self {
        status: "400 Bad Request",
        code: "unsupported",
        message: "TLS is spoken at this port, and this request came in plain text; ask for https:// or wss://",
    };
    pub(super) const ENCRYPTED: Self = Self {
        status: "400 Bad Request",
        code: "unsupported",
        message: "no TLS is spoken at this port; ask for http:// or ws://",
    };
    const LENGTH_REQUIRED: Self = Self {
        status: "411 Length Required",
        code: "bad_frame",
        message: "a POST by HTTP/1.0 needs a Content-Length",
    };
    const UPGRADE_WITH_BODY: Self = Self {
        status: "400 Bad Request",
        code: "unsupported",
        message: "a request to upgrade to a WebSocket has no body",
    };
    const UNKNOWN_CODING: Self = Self {
        status: "501 Not Implemented",
        code: "unsupported",
        message: "of the transfer codings Hark knows chunked alone",
    };
}

/// Reads the head that `bytes` begin with; `None` while it is not whole.
pub fn read(bytes: &[u8]) -> Result<Option<Head>, Refusal> {
    let mut headers = [httparse::EMPTY_HEADER; MAX_HEADERS];
    let mut request = httparse::Request::new(&mut headers);
    let length = match request.parse(bytes) {
        Ok(Status::Complete(length)) if length <= MAX_HEAD_BYTES => length,
        Ok(Status::Complete(_)) | Err(httparse::Error::TooManyHeaders) => {
            return Err(Refusal::TOO_LARGE);
        }
        Ok(Status::Partial) if bytes.len() >= MAX_HEAD_BYTES => return Err(Refusal::TOO_LARGE),
        Ok(Status::Partial) => return Ok(None),
        Err(_) => {
            return Err(Refusal::bad(
                "this is no HTTP request (RFC 9112, section 3)",
            ));
        }
    };
    let (Some(method), Some(target), Some(version)) =
        (request.method, request.path, request.version)
    else {
        return Ok(None);
    };
    if target.parse::<Uri>().is_err() {
        return Err(Refusal::bad("the request's target is no URI"));
    }
    let fields = Fields::of(request.headers, version)?;
    let body = fields.body(method, version)?;
    let rewritten = fields
        .is_websocket_among_others(method, version)
        .then(|| with_websocket_alone(method, target, request.headers));
    let body = if rewritten.is_some() {
        BodyLength::Endless
    } else {
        body
    };
    let path = target.split(['?', '#']).next().unwrap_or_default();
    Ok(Some(Head {
        bytes: length,
        body,
        rewritten,
        wants_events: method == "GET" && path.ends_with("/events"),
    }))
}

/// Those of the header lines that decide what follows.
#[derive(Debug, Default)]
struct Fields {
    hosts: usize,
    content_length: Option<u64>,
    chunked: bool,
    upgrade_lines: usize,
    /// One of the lines says `websocket` and nothing else: what actix-http takes for an upgrade.
    upgrade_is_websocket: bool,
    /// `websocket` is among what they name (RFC 9110, section 7.8).
    upgrade_names_websocket: bool,
}

impl Fields {
    fn of(headers: &[httparse::Header<'_>], version: u8) -> Result<Self, Refusal> {
        let mut fields = Self::default();
        for header in headers {
            let is = |name: &str| header.name.eq_ignore_ascii_case(name);
            if is("host") {
                fields.hosts += 1;
            } else if is("content-length") {
                let length = content_length(header.value)?;
                if fields.content_length.replace(length).is_some() {
                    return Err(Refusal::bad("Content-Length stands there twice"));
                }
            } else if is("transfer-encoding") {
                if std::mem::replace(&mut fields.chunked, true) || version == 0 {
                    return Err(Refusal::bad(
                        "Transfer-Encoding stands there twice, or in a request by HTTP/1.0",
                    ));
                }
                if !header.value.trim_ascii().eq_ignore_ascii_case(b"chunked") {
                    return Err(Refusal::UNKNOWN_CODING);
                }
            } else if is("upgrade") {
                fields.upgrade_lines += 1;
                let is_websocket =
                    |name: &[u8]| name.trim_ascii().eq_ignore_ascii_case(b"websocket");
                fields.upgrade_is_websocket |= is_websocket(header.value);
                fields.upgrade_names_websocket |=
                    header.value.split(|&byte| byte == b',').any(is_websocket);
            }
        }
        if fields.chunked && fields.content_length.is_some() {
            return Err(Refusal::bad(
                "Content-Length and Transfer-Encoding do not go together",
            ));
        }
        if fields.hosts > 1 || (fields.hosts == 0 && version == 1) {
            return Err(Refusal::bad("a request has one Host"));
        }
        Ok(fields)
    }

    fn body(&self, method: &str, version: u8) -> Result<BodyLength, Refusal> {
        if version == 0 && method == "POST" && self.content_length.is_none() {
            return Err(Refusal::LENGTH_REQUIRED);
        }
        if self.chunked {
            return Ok(BodyLength::Chunked);
        }
        let length = self.content_length.unwrap_or(0);
        if self.upgrade_is_websocket {
            // actix-http would take what Content-Length names for what comes after the upgrade.
            if length > 0 {
                return Err(Refusal::UPGRADE_WITH_BODY);
            }
            return Ok(BodyLength::Endless);
        }
        if method == "CONNECT" && length == 0 {
            return Ok(BodyLength::Endless);
        }
        Ok(BodyLength::Bytes(length))
    }

    /// Whether it asks for a WebSocket in a way that is legal, and that actix-http does not see: in a list, or in one of several lines.
    fn is_websocket_among_others(&self, method: &str, version: u8) -> bool {
        let plain = self.upgrade_lines == 1 && self.upgrade_is_websocket;
        let no_body = !self.chunked && self.content_length.unwrap_or(0) == 0;
        self.upgrade_names_websocket && !plain && no_body && method == "GET" && version == 1
    }
}

/// Digits and nothing else (RFC 9110, section 8.6).
fn content_length(value: &[u8]) -> Result<u64, Refusal> {
    let value = value.trim_ascii();
    let digits = !value.is_empty() && value.iter().all(u8::is_ascii_digit);
    std::str::from_utf8(value)
        .ok()
        .filter(|_| digits)
        .and_then(|value| value.parse().ok())
        .ok_or(Refusal::bad("Content-Length is no number of bytes"))
}

/// The same head, with one line that says `Upgrade: websocket`.
fn with_websocket_alone(method: &str, target: &str, headers: &[httparse::Header<'_>]) -> Vec<u8> {
    let mut head = format!("{method} {target} HTTP/1.1\r\nUpgrade: websocket\r\n").into_bytes();
    for header in headers {
        if header.name.eq_ignore_ascii_case("upgrade") {
            continue;
        }
        head.extend_from_slice(header.name.as_bytes());
        head.extend_from_slice(b": ");
        head.extend_from_slice(header.value);
        head.extend_from_slice(b"\r\n");
    }
    head.extend_from_slice(b"\r\n");
    head
}

#[cfg(test)]
mod tests {
    use actix_http::HttpMessage as _;
    use actix_http::h1::{Message, MessageType};
    use actix_web::http::header::HeaderName;
    use bytes::BytesMut;
    use proptest::prelude::*;
    use tokio_util::codec::Decoder as _;

    use super::super::tests::actix_codec;
    use super::*;

    /// What actix-http takes a head for: what follows it, and how many bytes it leaves.
    fn by_actix(bytes: &[u8]) -> Option<(BodyLength, usize)> {
        let mut codec = actix_codec();
        let mut buffer = BytesMut::from(bytes);
        let Ok(Some(Message::Item(request))) = codec.decode(&mut buffer) else {
            return None;
        };
        let length = request.headers().get("content-length");
        let length = length.and_then(|length| length.to_str().ok()?.trim().parse().ok());
        let body = match codec.message_type() {
            MessageType::None => BodyLength::Bytes(0),
            MessageType::Stream => BodyLength::Endless,
            MessageType::Payload if request.chunked().unwrap_or(false) => BodyLength::Chunked,
            MessageType::Payload => BodyLength::Bytes(length.unwrap_or(0)),
        };
        Some((body, buffer.len()))
    }

    /// Whatever the guard hands on, actix-http reads as the guard did.
    fn compare(bytes: &[u8]) {
        let Ok(Some(head)) = read(bytes) else { return };
        let rest = &bytes[head.bytes..];
        let handed_on = match &head.rewritten {
            Some(rewritten) => [&rewritten[..], rest].concat(),
            None => bytes.to_vec(),
        };
        let actix = by_actix(&handed_on);
        assert_eq!(
            actix,
            Some((head.body, rest.len())),
            "{}",
            String::from_utf8_lossy(bytes)
        );
    }

    fn head_of(lines: &[&str]) -> String {
        format!("{}\r\n\r\n", lines.join("\r\n"))
    }

    fn body_of(lines: &[&str]) -> Result<BodyLength, &'static str> {
        let head = head_of(lines);
        compare(head.as_bytes());
        read(head.as_bytes())
            .map(|head| head.unwrap().body)
            .map_err(|refusal| &refusal.status[..3])
    }

    #[test]
    fn what_follows_a_head_is_known_or_it_is_refused() {
        use BodyLength::*;
        let post = "POST / HTTP/1.1";
        let host = "Host: a";
        let ws = "GET /ws HTTP/1.1";
        for (lines, expected) in [
            (&["GET / HTTP/1.1", host][..], Ok(Bytes(0))),
            (&["GET / HTTP/1.0"], Ok(Bytes(0))),
            (&["GET / HTTP/1.1"], Err("400")),
            (&["GET / HTTP/1.1", host, host], Err("400")),
            (&["GET / HTTP/2.0", host], Err("400")),
            (&["GET http://[ HTTP/1.1", host], Err("400")),
            (&[post, host], Ok(Bytes(0))),
            (&[post, host, "Content-Length: 7"], Ok(Bytes(7))),
            (&[post, host, "content-length:  7 "], Ok(Bytes(7))),
            (
                &[post, host, "Content-Length: 7", "Content-Length: 7"],
                Err("400"),
            ),
            (&[post, host, "Content-Length: 7, 7"], Err("400")),
            (&[post, host, "Content-Length: +7"], Err("400")),
            (&[post, host, "Content-Length: -7"], Err("400")),
            (&[post, host, "Content-Length: 0x7"], Err("400")),
            (&[post, host, "Content-Length:"], Err("400")),
            (
                &[post, host, "Content-Length: 99999999999999999999"],
                Err("400"),
            ),
            (&[post, host, "Transfer-Encoding: chunked"], Ok(Chunked)),
            (&[post, host, "transfer-encoding: CHUNKED"], Ok(Chunked)),
            (
                &[post, host, "Transfer-Encoding: gzip, chunked"],
                Err("501"),
            ),
            (&[post, host, "Transfer-Encoding: identity"], Err("501")),
            (
                &[
                    post,
                    host,
                    "Transfer-Encoding: chunked",
                    "Content-Length: 7",
                ],
                Err("400"),
            ),
            (
                &[
                    post,
                    host,
                    "Transfer-Encoding: chunked",
                    "Transfer-Encoding: chunked",
                ],
                Err("400"),
            ),
            (
                &["POST / HTTP/1.0", "Transfer-Encoding: chunked"],
                Err("400"),
            ),
            (&["POST / HTTP/1.0"], Err("411")),
            (&[ws, host, "Upgrade: websocket"], Ok(Endless)),
            (
                &[ws, host, "Upgrade: WebSocket", "Content-Length: 0"],
                Ok(Endless),
            ),
            (
                &[ws, host, "Upgrade: websocket", "Content-Length: 7"],
                Err("400"),
            ),
            (
                &[ws, host, "Upgrade: websocket", "Transfer-Encoding: chunked"],
                Ok(Chunked),
            ),
            (&[ws, host, "Upgrade: h2c"], Ok(Bytes(0))),
            (&[ws, host, "Upgrade: notwebsocket"], Ok(Bytes(0))),
            (&[ws, host, "Upgrade: websocket/13"], Ok(Bytes(0))),
            (&[ws, host, "Upgrade: websocket, h2c"], Ok(Endless)),
            (&[ws, host, "Upgrade: h2c,WebSocket"], Ok(Endless)),
            (
                &[ws, host, "Upgrade: h2c", "Upgrade: websocket"],
                Ok(Endless),
            ),
            (
                &[ws, host, "Upgrade: h2c, websocket", "Content-Length: 7"],
                Ok(Bytes(7)),
            ),
            (
                &["GET /ws HTTP/1.0", "Upgrade: h2c, websocket"],
                Ok(Bytes(0)),
            ),
            (&["CONNECT a:1 HTTP/1.1", host], Ok(Endless)),
            (&["GET / HTTP/1.1", host, "A B: c"], Err("400")),
            (&["GET / HTTP/1.1", host, "A: b", " folded"], Err("400")),
        ] {
            assert_eq!(body_of(lines), expected, "{lines:?}");
        }
    }

    #[test]
    fn of_several_upgrades_the_websocket_is_handed_on() {
        let head = head_of(&[
            "GET /ws HTTP/1.1",
            "Host: a",
            "Upgrade: h2c, websocket",
            "X: y",
        ]);
        let rewritten = read(head.as_bytes()).unwrap().unwrap().rewritten.unwrap();
        let expected = "GET /ws HTTP/1.1\r\nUpgrade: websocket\r\nHost: a\r\nX: y\r\n\r\n";
        assert_eq!(String::from_utf8(rewritten).unwrap(), expected);
    }

    #[test]
    fn a_head_has_a_bound_in_bytes_and_lines() {
        let name = format!(
            "GET / HTTP/1.1\r\nHost: a\r\n{}",
            "x".repeat(MAX_HEAD_BYTES)
        );
        assert_eq!(read(name.as_bytes()), Err(Refusal::TOO_LARGE));
        let lines = "A: b\r\n".repeat(MAX_HEADERS);
        let many = format!("GET / HTTP/1.1\r\nHost: a\r\n{lines}\r\n");
        assert_eq!(read(many.as_bytes()), Err(Refusal::TOO_LARGE));
        let value = "y".repeat(MAX_HEAD_BYTES - 40);
        let large = format!("GET / HTTP/1.1\r\nHost: a\r\nX: {value}\r\n\r\n");
        compare(large.as_bytes());
        assert!(read(large.as_bytes()).unwrap().is_some());
        assert_eq!(read(b"GET / HTTP/1.1\r\nHost: a\r\n"), Ok(None));
    }

    /// actix-http takes for granted that what httparse calls a header's name is one.
    #[test]
    fn every_name_that_is_read_is_a_name() {
        for byte in 0..=255_u8 {
            let mut head = b"GET / HTTP/1.1\r\nHost: a\r\nA".to_vec();
            head.push(byte);
            head.extend_from_slice(b": b\r\n\r\n");
            if matches!(read(&head), Ok(Some(_))) {
                let name = [b'A', byte];
                assert!(
                    byte == b':' || HeaderName::from_bytes(&name).is_ok(),
                    "{byte:#x}"
                );
                compare(&head);
            }
        }
    }

    fn line() -> impl Strategy<Value = String> {
        let names = prop_oneof![
            Just("Host"),
            Just("Content-Length"),
            Just("content-length "),
            Just("Transfer-Encoding"),
            Just("Upgrade"),
            Just("Connection"),
            Just("Expect"),
            Just(" X"),
        ];
        let values = prop_oneof![
            Just("a"),
            Just("0"),
            Just("7"),
            Just("07"),
            Just("+7"),
            Just("7\t"),
            Just("chunked"),
            Just("identity"),
            Just("chunked, chunked"),
            Just("websocket"),
            Just("h2c, websocket"),
            Just("close"),
            Just("upgrade"),
            Just("100-continue"),
            Just("\u{e9}"),
            Just(""),
        ];
        let ends = prop_oneof![Just("\r\n"), Just("\n"), Just("\r")];
        (names, values, ends).prop_map(|(name, value, end)| format!("{name}: {value}{end}"))
    }

    proptest! {
        #[test]
        fn the_guard_and_actix_read_the_same(
            method in "GET|POST|HEAD|CONNECT|DELETE|X",
            target in "/|/ws|\\*|a:1|/\u{e9}|//|/\\?x#y",
            version in "HTTP/1\\.[01]",
            lines in proptest::collection::vec(line(), 0..6),
            rest in "[\r\n a0:]{0,12}",
        ) {
            let head = format!("{method} {target} {version}\r\nHost: a\r\n{}\r\n{rest}", lines.concat());
            compare(head.as_bytes());
        }

        #[test]
        fn any_bytes_are_read(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            compare(&bytes);
        }
    }
}
