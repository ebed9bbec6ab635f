//! Connections that speak raw WebSocket frames, or read events: on one core the load must be able to outrun the broker it measures.

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};

pub(crate) async fn connect(address: &str, path: &str) -> (Reader, OwnedWriteHalf) {
    connect_as(address, path, "").await
}

/// With these header lines, each of which ends in `\r\n`, in the upgrade.
pub(crate) async fn connect_as(
    address: &str,
    path: &str,
    headers: &str,
) -> (Reader, OwnedWriteHalf) {
    let upgrade = "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n\
         Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n";
    open(address, path, &format!("{upgrade}{headers}"), 101).await
}

/// An event stream, whose events are read as frames are.
pub(crate) async fn connect_events(address: &str, path: &str) -> (Reader, OwnedWriteHalf) {
    let (reader, writer) = open(address, path, "", 200).await;
    let reader = Reader {
        events: true,
        ..reader
    };
    (reader, writer)
}

async fn open(address: &str, path: &str, headers: &str, status: u16) -> (Reader, OwnedWriteHalf) {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.set_nodelay(true).unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nHost: {address}\r\n{headers}\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    // Looked at first, so that nothing of what follows is taken.
    let mut head = [0; 4096];
    let end = loop {
        let there = stream.peek(&mut head).await.unwrap();
        assert!(there > 0, "the broker closed the connection");
        let end = head[..there].windows(4).position(|end| end == b"\r\n\r\n");
        if let Some(end) = end {
            break end + 4;
        }
    };
    stream.read_exact(&mut head[..end]).await.unwrap();
    assert!(
        head.starts_with(format!("HTTP/1.1 {status}").as_bytes()),
        "{}",
        String::from_utf8_lossy(&head[..end])
    );
    let (read, write) = stream.into_split();
    (
        Reader {
            read,
            buffer: Vec::with_capacity(256 * 1024),
            done: 0,
            events: false,
        },
        write,
    )
}

/// The first byte of a whole text frame (RFC 6455, section 5.2).
pub(crate) const TEXT: u8 = 0x81;
/// The first byte of a whole binary frame.
pub(crate) const BINARY: u8 = 0x82;

/// A frame, masked with zeros.
pub(crate) fn frame(frames: &mut Vec<u8>, first: u8, text: &[u8]) {
    frames.push(first);
    match text.len() {
        length @ 0..126 => frames.push(0x80 | length as u8),
        length @ 126..=0xffff => {
            frames.push(0x80 | 126);
            frames.extend_from_slice(&(length as u16).to_be_bytes());
        }
        length => {
            frames.push(0x80 | 127);
            frames.extend_from_slice(&(length as u64).to_be_bytes());
        }
    }
    frames.extend_from_slice(&[0; 4]);
    frames.extend_from_slice(text);
}

pub(crate) struct Reader {
    read: OwnedReadHalf,
    buffer: Vec<u8>,
    /// Bytes of the buffer that have been looked at.
    done: usize,
    /// It reads events, not frames.
    events: bool,
}

impl Reader {
    /// Reads once, and calls `see` with each data frame that is whole. Returns how often it said yes.
    pub(crate) async fn some_frames(&mut self, see: impl FnMut(&[u8]) -> bool) -> u64 {
        let counted = self.try_some_frames(see).await;
        counted.expect("the broker closed the connection")
    }

    /// `None` when the broker has closed the connection.
    async fn try_some_frames(&mut self, mut see: impl FnMut(&[u8]) -> bool) -> Option<u64> {
        let read = self.read.read_buf(&mut self.buffer).await;
        if !read.is_ok_and(|bytes| bytes > 0) {
            return None;
        }
        let next = match self.events {
            true => event_at,
            false => frame_at,
        };
        let mut counted = 0;
        while let Some((opcode, start, end)) = next(&self.buffer[self.done..]) {
            let frame = &self.buffer[self.done + start..self.done + end];
            if matches!(opcode, 1 | 2) && see(frame) {
                counted += 1;
            }
            self.done += end;
        }
        if self.done > self.buffer.capacity() / 2 || self.done == self.buffer.len() {
            self.buffer.drain(..self.done);
            self.done = 0;
        }
        Some(counted)
    }

    /// Until the broker ends.
    pub(crate) async fn each_frame(&mut self, mut see: impl FnMut(&[u8])) {
        let mut see = |frame: &[u8]| {
            see(frame);
            true
        };
        while self.try_some_frames(&mut see).await.is_some() {}
    }

    pub(crate) async fn frame_containing(&mut self, wanted: &[u8]) {
        while self
            .some_frames(|frame| frame.windows(wanted.len()).any(|bytes| bytes == wanted))
            .await
            == 0
        {}
    }
}

/// The first frame, if it is whole: its opcode, and where its payload begins and ends.
fn frame_at(bytes: &[u8]) -> Option<(u8, usize, usize)> {
    let [first, second, rest @ ..] = bytes else {
        return None;
    };
    let (length, start) = match second & 0x7f {
        126 => (u16::from_be_bytes(*rest.first_chunk()?) as usize, 4),
        127 => (u64::from_be_bytes(*rest.first_chunk()?) as usize, 10),
        length => (length as usize, 2),
    };
    (bytes.len() >= start + length).then_some((first & 0x0f, start, start + length))
}

/// The first event, if it is whole, as `frame_at` gives a text frame. (The lines of the transfer coding before it are counted in.)
fn event_at(bytes: &[u8]) -> Option<(u8, usize, usize)> {
    let end = bytes.windows(2).position(|two| two == b"\n\n")? + 2;
    Some((1, 0, end))
}
