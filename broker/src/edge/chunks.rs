//! A body in chunks (RFC 9112, section 7.1). Owns where it ends, and what it may hold beside its data: actix-http reads extensions and
//! trailers of any length, and throws them away.

/// The most bytes of a body that are not data or the plain lines around it: extensions of all its chunks, and trailers.
const MAX_ORNAMENT_BYTES: usize = 16 * 1024;
/// A chunk's size has at most so many digits: no body has more bytes than that.
const MAX_SIZE_DIGITS: u8 = 12;

/// Where in a chunked body one is.
#[derive(Debug)]
pub(super) struct Chunks {
    state: State,
    ornament_bytes: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// In the digits of a chunk's size.
    Size {
        digits: u8,
        size: u64,
    },
    /// Behind the digits, in white space or an extension.
    Extension {
        size: u64,
        begun: bool,
    },
    /// A CR has come, an LF must follow.
    SizeLf {
        size: u64,
    },
    Data {
        left: u64,
    },
    DataCr,
    DataLf,
    /// At the beginning of a line behind the last chunk.
    TrailerStart,
    Trailer,
    TrailerLf,
    EndLf,
    End,
}

/// What is in front.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Step {
    /// So many bytes belong to the body.
    pub(super) bytes: usize,
    /// So many of these are data.
    pub(super) data_bytes: u64,
}

/// It is no body in chunks, or holds more beside its data than it may.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct BadChunks;

impl Chunks {
    pub(super) fn new() -> Self {
        Self {
            state: State::Size { digits: 0, size: 0 },
            ornament_bytes: 0,
        }
    }

    pub(super) fn ended(&self) -> bool {
        self.state == State::End
    }

    /// Reads on, up to the body's end.
    pub(super) fn step(&mut self, input: &[u8]) -> Result<Step, BadChunks> {
        let mut at = 0;
        let mut data_bytes = 0;
        while at < input.len() && self.state != State::End {
            if let State::Data { left } = self.state {
                let data = left.min((input.len() - at) as u64);
                at += data as usize;
                data_bytes += data;
                self.state = match left - data {
                    0 => State::DataCr,
                    left => State::Data { left },
                };
                continue;
            }
            self.state = self.after(input[at])?;
            at += 1;
        }
        Ok(Step {
            bytes: at,
            data_bytes,
        })
    }

    fn after(&mut self, byte: u8) -> Result<State, BadChunks> {
        if matches!(
            self.state,
            State::Extension { .. } | State::Trailer | State::TrailerStart
        ) {
            self.ornament_bytes += 1;
            if self.ornament_bytes > MAX_ORNAMENT_BYTES {
                return Err(BadChunks);
            }
        }
        let next = match (self.state, byte) {
            (State::Size { digits, size }, _) if byte.is_ascii_hexdigit() => {
                let digit = (byte as char).to_digit(16).unwrap_or_default();
                if digits == MAX_SIZE_DIGITS {
                    return Err(BadChunks);
                }
                State::Size {
                    digits: digits + 1,
                    size: size * 16 + u64::from(digit),
                }
            }
            (State::Size { digits: 0, .. }, _) => return Err(BadChunks),
            (State::Size { size, .. } | State::Extension { size, .. }, b'\r') => {
                State::SizeLf { size }
            }
            (State::Size { size, .. } | State::Extension { size, begun: false }, b' ' | b'\t') => {
                State::Extension { size, begun: false }
            }
            (State::Size { size, .. } | State::Extension { size, begun: false }, b';') => {
                State::Extension { size, begun: true }
            }
            (State::Extension { size, begun: true }, b'\t' | b' '..=0x7e | 0x80..) => {
                State::Extension { size, begun: true }
            }
            (State::SizeLf { size: 0 }, b'\n') => State::TrailerStart,
            (State::SizeLf { size }, b'\n') => State::Data { left: size },
            (State::DataCr, b'\r') => State::DataLf,
            (State::DataLf, b'\n') => State::Size { digits: 0, size: 0 },
            (State::TrailerStart, b'\r') => State::EndLf,
            (State::TrailerStart | State::Trailer, b'\t' | b' '..=0x7e | 0x80..) => State::Trailer,
            (State::Trailer, b'\r') => State::TrailerLf,
            (State::TrailerLf, b'\n') => State::TrailerStart,
            (State::EndLf, b'\n') => State::End,
            _ => return Err(BadChunks),
        };
        Ok(next)
    }
}

#[cfg(test)]
mod tests {
    use actix_http::h1::Message;
    use bytes::BytesMut;
    use proptest::prelude::*;
    use tokio_util::codec::Decoder as _;

    use super::super::tests::actix_codec;
    use super::*;

    /// How many bytes of data, and how many behind the body; `None` if it is refused or not whole.
    fn by_us(body: &[u8], at_a_time: usize) -> Option<(u64, usize)> {
        let mut chunks = Chunks::new();
        let (mut at, mut data) = (0, 0);
        while at < body.len() && !chunks.ended() {
            let piece = &body[at..body.len().min(at + at_a_time)];
            let step = chunks.step(piece).ok()?;
            at += step.bytes;
            data += step.data_bytes;
        }
        chunks.ended().then_some((data, body.len() - at))
    }

    fn by_actix(body: &[u8]) -> Option<(u64, usize)> {
        let mut codec = actix_codec();
        let head = b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n";
        let mut buffer = BytesMut::from(&head[..]);
        buffer.extend_from_slice(body);
        let mut data = 0;
        loop {
            match codec.decode(&mut buffer).ok()?? {
                Message::Item(_) => {}
                Message::Chunk(Some(chunk)) => data += chunk.len() as u64,
                Message::Chunk(None) => return Some((data, buffer.len())),
            }
        }
    }

    #[test]
    fn a_body_ends_where_it_ends() {
        for (body, expected) in [
            ("0\r\n\r\n", Some((0, 0))),
            ("5\r\nhello\r\n0\r\n\r\nGET", Some((5, 3))),
            ("00a\r\n0123456789\r\n0\r\n\r\n", Some((10, 0))),
            ("A;x=\"y\"\r\n0123456789\r\n0\r\n\r\n", Some((10, 0))),
            (
                "5 \r\nhello\r\n0\r\nTrailer: x\r\nB: c\r\n\r\n",
                Some((5, 0)),
            ),
            ("5\r\nhello\r\n0\r\n", None),
            ("\r\n\r\n", None),
            ("5\nhello\r\n0\r\n\r\n", None),
            ("5\r\nhelloX\r\n0\r\n\r\n", None),
            ("-5\r\nhello\r\n0\r\n\r\n", None),
            ("5;\x01\r\nhello\r\n0\r\n\r\n", None),
            ("ffffffffffffffff\r\nhello", None),
        ] {
            for at_a_time in [1, 3, 1000] {
                assert_eq!(by_us(body.as_bytes(), at_a_time), expected, "{body:?}");
            }
            if expected.is_some() {
                assert_eq!(by_actix(body.as_bytes()), expected, "{body:?}");
            }
        }
    }

    #[test]
    fn what_is_no_data_has_a_bound() {
        let short = format!("1;{}\r\nx\r\n0\r\n\r\n", "y".repeat(1000));
        assert_eq!(by_us(short.as_bytes(), 7), Some((1, 0)));
        let long = format!("1;{}", "y".repeat(MAX_ORNAMENT_BYTES + 1));
        assert_eq!(Chunks::new().step(long.as_bytes()), Err(BadChunks));
        let many = "1;y\r\nx\r\n".repeat(MAX_ORNAMENT_BYTES);
        assert_eq!(Chunks::new().step(many.as_bytes()), Err(BadChunks));
        let trailers = format!("0\r\n{}", "a: b\r\n".repeat(MAX_ORNAMENT_BYTES / 4));
        assert_eq!(Chunks::new().step(trailers.as_bytes()), Err(BadChunks));
    }

    proptest! {
        /// Whatever the guard takes for a whole body, actix-http takes for the same.
        #[test]
        fn the_guard_and_actix_find_the_same_end(
            pieces in proptest::collection::vec(
                "[0-3]\r\n|;x|[a ]|\r\n|\n|0\r\n\r\n|1\r\nx\r\n|2;y\r\nzz\r\n|\t|:", 0..12),
            at_a_time in 1_usize..9,
        ) {
            let body = pieces.concat();
            if let Some(found) = by_us(body.as_bytes(), at_a_time) {
                prop_assert_eq!(Some(found), by_actix(body.as_bytes()), "{:?}", body);
            }
        }
    }
}
