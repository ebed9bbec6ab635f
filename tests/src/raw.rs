//! A WebSocket client that can do everything wrong: it writes frames byte by byte over its own TCP connection, and reads
//! only when told to. Also HTTP requests written by hand.

use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, Shutdown};

use serde_json::Value;

use crate::{Broker, DEADLINE, Response, Wire};

/// What kind of frame it is (RFC 6455, section 5.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Op(pub u8);

impl Op {
    /// A further fragment.
    pub const CONTINUATION: Self = Self(0);
    /// UTF-8.
    pub const TEXT: Self = Self(1);
    /// Bytes.
    pub const BINARY: Self = Self(2);
    /// The end.
    pub const CLOSE: Self = Self(8);
    /// Are you there?
    pub const PING: Self = Self(9);
    /// Yes.
    pub const PONG: Self = Self(10);
}

/// The mask all frames of this client are masked with. Any will do.
const MASK: [u8; 4] = [0x37, 0xfa, 0x21, 0x3d];

/// A session over a bare connection: TCP, or TLS where the broker serves it.
#[derive(Debug)]
pub struct RawWs {
    tcp: Wire,
    read: Vec<u8>,
}

/// An upgrade request as a client sends it, without these headers' own additions: each line of `headers` ends in `\r\n`.
pub fn upgrade(broker: &Broker, headers: &str) -> String {
    format!(
        "GET /ws HTTP/1.1\r\nHost: {}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n{headers}\r\n",
        broker.addr()
    )
}

/// Sends a request written by hand and reads the answer's head, and its body where it has one.
pub fn raw_http(broker: &Broker, request: &str) -> Response {
    let mut raw = RawWs::dial(broker, None);
    raw.write(request.as_bytes());
    raw.read_response()
}

impl RawWs {
    /// A session with the JSON subprotocol, `welcome` read.
    pub fn connect(broker: &Broker) -> Self {
        Self::open(broker, "", None)
    }

    /// A session whose client has next to no room for what it does not read.
    pub fn connect_small(broker: &Broker) -> Self {
        Self::open(broker, "", Some(4096))
    }

    /// A session with these header lines in the upgrade, and this much room to receive; the first frame read.
    pub fn open(broker: &Broker, headers: &str, receive_buffer_bytes: Option<usize>) -> Self {
        let mut raw = Self::dial(broker, receive_buffer_bytes);
        raw.begin(upgrade(broker, headers).as_bytes());
        raw.read_frame();
        raw
    }

    /// A session that begins with exactly these bytes, an `upgrade` and perhaps frames; no frame read.
    pub fn open_with(broker: &Broker, request: &[u8]) -> Self {
        let mut raw = Self::dial(broker, None);
        raw.begin(request);
        raw
    }

    /// A connection on which nothing has been said yet, from this address of the local network (127.0.0.0/8).
    pub fn connect_bare(broker: &Broker, from: Option<Ipv4Addr>) -> Self {
        Self::dial_from(broker, from, None)
    }

    /// Begins a session on a bare connection; the first frame read.
    pub fn upgrade(&mut self, broker: &Broker) {
        self.begin(upgrade(broker, "").as_bytes());
        self.read_frame();
    }

    /// Shuts the writing side; what comes can still be read.
    pub fn shut_writing(&mut self) {
        self.tcp.shutdown(Shutdown::Write).unwrap();
    }

    fn begin(&mut self, request: &[u8]) {
        self.write(request);
        let response = self.read_response();
        assert_eq!(response.status, 101, "{response:#?}");
        // RFC 6455, section 1.3, gives the answer to this very key.
        assert_eq!(
            response.headers["sec-websocket-accept"],
            "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="
        );
    }

    fn dial(broker: &Broker, receive_buffer_bytes: Option<usize>) -> Self {
        Self::dial_from(broker, None, receive_buffer_bytes)
    }

    fn dial_from(
        broker: &Broker,
        from: Option<Ipv4Addr>,
        receive_buffer_bytes: Option<usize>,
    ) -> Self {
        Self {
            tcp: broker.dial(from, receive_buffer_bytes),
            read: Vec::new(),
        }
    }

    /// Writes bytes as they are.
    pub fn write(&mut self, bytes: &[u8]) {
        self.try_write(bytes).unwrap();
    }

    /// Writes bytes as they are, to a broker that may hang up meanwhile.
    pub fn try_write(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        self.tcp.write_all(bytes)
    }

    /// Sends a good frame.
    pub fn send(&mut self, op: Op, payload: &[u8]) {
        self.write(&frame(0x80 | op.0, payload));
    }

    /// Sends a JSON text.
    pub fn send_json(&mut self, value: &Value) {
        self.send(Op::TEXT, value.to_string().as_bytes());
    }

    /// Sends a frame whose first byte (FIN, reserved bits, kind) is this.
    pub fn send_with_first_byte(&mut self, first: u8, payload: &[u8]) {
        self.write(&frame(first, payload));
    }

    /// Sends a fragment: the first names the kind, the others are continuations, the last one says so.
    pub fn send_fragment(&mut self, op: Op, last: bool, payload: &[u8]) {
        self.write(&Self::fragment(op, last, payload));
    }

    /// A fragment's bytes.
    pub fn fragment(op: Op, last: bool, payload: &[u8]) -> Vec<u8> {
        frame(if last { 0x80 } else { 0 } | op.0, payload)
    }

    /// Sends a frame without a mask, as only a server may.
    pub fn send_unmasked(&mut self, op: Op, payload: &[u8]) {
        let mut bytes = head(0x80 | op.0, payload.len() as u64);
        bytes[1] &= 0x7f;
        bytes.truncate(bytes.len() - MASK.len());
        bytes.extend_from_slice(payload);
        self.write(&bytes);
    }

    /// Sends the head of a frame that announces this many bytes, and nothing of them.
    pub fn announce(&mut self, op: Op, bytes: u64) {
        self.write(&head(0x80 | op.0, bytes));
    }

    /// Takes this many bytes from the connection, whatever they are, to be read as frames later.
    pub fn take_bytes(&mut self, bytes: usize) {
        let have = self.read.len();
        self.fill_by(have + bytes, bytes);
    }

    /// The next frame: its first byte and its payload. `None` when the broker hung up.
    pub fn try_read_frame(&mut self) -> Option<(Op, Vec<u8>)> {
        self.fill(2)?;
        let (first, second) = (self.read[0], self.read[1]);
        assert_eq!(
            first & 0xf0,
            0x80,
            "Hark sends whole frames without reserved bits"
        );
        assert_eq!(
            second & 0x80,
            0,
            "a server does not mask (RFC 6455, section 5.1)"
        );
        let (skip, len) = match second {
            126 => {
                self.fill(4)?;
                (
                    4,
                    usize::from(u16::from_be_bytes([self.read[2], self.read[3]])),
                )
            }
            127 => {
                self.fill(10)?;
                (
                    10,
                    usize::try_from(u64::from_be_bytes(self.read[2..10].try_into().unwrap()))
                        .unwrap(),
                )
            }
            len => (2, usize::from(len)),
        };
        self.fill(skip + len)?;
        let payload = self.read[skip..skip + len].to_vec();
        self.read.drain(..skip + len);
        Some((Op(first & 0x0f), payload))
    }

    /// The next frame; panics if the broker hung up.
    pub fn read_frame(&mut self) -> (Op, Vec<u8>) {
        self.try_read_frame().expect("a frame, not the end")
    }

    /// The next JSON frame; pings in between are passed over.
    pub fn read_json(&mut self) -> Value {
        loop {
            match self.read_frame() {
                (Op::TEXT, payload) => return serde_json::from_slice(&payload).unwrap(),
                (Op::PING, _) => {}
                (op, payload) => panic!("a text was expected, not {op:?} {payload:?}"),
            }
        }
    }

    /// Reads until Hark closes; gives the code.
    pub fn expect_close(&mut self) -> u16 {
        loop {
            match self.try_read_frame() {
                Some((Op::CLOSE, payload)) => {
                    assert!(payload.len() >= 2, "Hark closes with a code");
                    return u16::from_be_bytes([payload[0], payload[1]]);
                }
                Some(_) => {}
                None => panic!("the connection ended without a close frame"),
            }
        }
    }

    /// Reads until the broker hangs up, however it does.
    pub fn expect_end(&mut self) {
        while self.try_read_frame().is_some() {}
    }

    /// The same connection, for another thread to write to.
    pub fn second_hand(&self) -> Self {
        Self {
            tcp: self.tcp.try_clone().unwrap(),
            read: Vec::new(),
        }
    }

    /// Makes sure that `n` bytes are there; `None` at the end.
    fn fill(&mut self, n: usize) -> Option<()> {
        self.fill_by(n, 16 * 1024)
    }

    /// Like `fill`, with at most `chunk` bytes at a time taken from the system.
    fn fill_by(&mut self, n: usize, chunk: usize) -> Option<()> {
        let mut chunk = vec![0; chunk];
        while self.read.len() < n {
            match self.tcp.read(&mut chunk) {
                Ok(0) => return None,
                Ok(n) => self.read.extend_from_slice(&chunk[..n]),
                Err(e) if e.kind() == ErrorKind::ConnectionReset => return None,
                Err(e) => panic!("nothing to read within {DEADLINE:?}: {e}"),
            }
        }
        Some(())
    }

    /// Reads an answer's head, and its body where it has one.
    pub fn read_response(&mut self) -> Response {
        let end = loop {
            if let Some(at) = self.read.windows(4).position(|bytes| bytes == b"\r\n\r\n") {
                break at;
            }
            let have = self.read.len();
            self.fill(have + 1).unwrap_or_else(|| {
                panic!("no answer but {:?}", String::from_utf8_lossy(&self.read))
            });
        };
        let head = String::from_utf8(self.read[..end].to_vec()).unwrap();
        self.read.drain(..end + 4);
        let mut lines = head.split("\r\n");
        let status = lines
            .next()
            .and_then(|line| line.split(' ').nth(1))
            .expect("a status line")
            .parse()
            .unwrap();
        let headers: std::collections::HashMap<String, String> = lines
            .filter_map(|line| line.split_once(':'))
            .map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned()))
            .collect();
        let length = headers
            .get("content-length")
            .map_or(0, |length| length.parse().unwrap());
        let body = if status == 101 {
            String::new()
        } else {
            self.fill(length).expect("the whole body");
            String::from_utf8(self.read.drain(..length).collect()).unwrap()
        };
        Response {
            status,
            headers,
            body,
        }
    }
}

fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    let mut bytes = head(first, payload.len() as u64);
    bytes.extend(
        payload
            .iter()
            .zip(MASK.iter().cycle())
            .map(|(byte, mask)| byte ^ mask),
    );
    bytes
}

fn head(first: u8, len: u64) -> Vec<u8> {
    let mut bytes = vec![first];
    match (u8::try_from(len), u16::try_from(len)) {
        (Ok(len @ 0..126), _) => bytes.push(0x80 | len),
        (_, Ok(len)) => {
            bytes.push(0x80 | 126);
            bytes.extend_from_slice(&len.to_be_bytes());
        }
        _ => {
            bytes.push(0x80 | 127);
            bytes.extend_from_slice(&len.to_be_bytes());
        }
    }
    bytes.extend_from_slice(&MASK);
    bytes
}
