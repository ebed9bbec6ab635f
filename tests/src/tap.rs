//! A wire tap: a TCP proxy in front of the broker that counts WebSocket frames in both directions, so that a test can
//! prove what was under way when the broker died. It changes nothing.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

/// The proxy. It lives until it is dropped.
#[derive(Debug)]
pub struct Tap {
    addr: SocketAddr,
    connections: Arc<Mutex<Vec<Arc<Counts>>>>,
    stopped: Arc<AtomicBool>,
}

/// Data frames (not control frames) that went through one connection.
#[derive(Debug, Default)]
struct Counts {
    sent: AtomicU64,
    received: AtomicU64,
    /// Directions that have ended: two, and nothing more is counted.
    ended: AtomicU64,
}

impl Tap {
    /// Listens, and passes every connection on to `broker`.
    pub fn in_front_of(broker: SocketAddr) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let addr = listener.local_addr().unwrap();
        let connections = Arc::new(Mutex::new(Vec::new()));
        let stopped = Arc::new(AtomicBool::new(false));
        let (kept, stop) = (Arc::clone(&connections), Arc::clone(&stopped));
        std::thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                if stop.load(Ordering::Relaxed) {
                    return;
                }
                // Nobody there: the client is hung up on, as it would be without the tap.
                let Ok(server) = TcpStream::connect(broker) else {
                    continue;
                };
                let counts = Arc::new(Counts::default());
                kept.lock().unwrap().push(Arc::clone(&counts));
                let up = (
                    client.try_clone().unwrap(),
                    server.try_clone().unwrap(),
                    Arc::clone(&counts),
                );
                std::thread::spawn(move || pass(up.0, up.1, &up.2, |counts| &counts.sent));
                std::thread::spawn(move || {
                    pass(server, client, &counts, |counts| &counts.received)
                });
            }
        });
        Self {
            addr,
            connections,
            stopped,
        }
    }

    /// The WebSocket's URL through the tap.
    pub fn ws_url(&self) -> String {
        format!("ws://{}/ws", self.addr)
    }

    /// Of the newest connection: how many frames the client sent, and how many it received. A frame counts as sent before
    /// the broker gets it, and as received before the client does.
    pub fn frames(&self) -> (u64, u64) {
        self.newest(|counts| {
            (
                counts.sent.load(Ordering::SeqCst),
                counts.received.load(Ordering::SeqCst),
            )
        })
    }

    /// Whether the newest connection has ended in both directions.
    pub fn has_ended(&self) -> bool {
        self.newest(|counts| counts.ended.load(Ordering::SeqCst) == 2)
    }

    /// How many frames all clients sent.
    pub fn sent_in_all(&self) -> u64 {
        self.connections
            .lock()
            .unwrap()
            .iter()
            .map(|counts| counts.sent.load(Ordering::SeqCst))
            .sum()
    }

    fn newest<T>(&self, read: impl Fn(&Counts) -> T) -> T {
        read(
            self.connections
                .lock()
                .unwrap()
                .last()
                .expect("there has been a connection"),
        )
    }
}

impl Drop for Tap {
    fn drop(&mut self) {
        self.stopped.store(true, Ordering::Relaxed);
        // Wakes the listener, which is not worth waiting for.
        drop(TcpStream::connect(self.addr));
    }
}

/// Passes everything on until one side ends, then ends the other.
fn pass(mut from: TcpStream, mut to: TcpStream, counts: &Counts, side: fn(&Counts) -> &AtomicU64) {
    let mut walk = Walk::Head(Vec::new());
    let mut buffer = vec![0; 64 * 1024];
    while let Ok(n @ 1..) = from.read(&mut buffer) {
        side(counts).fetch_add(walk.count(&buffer[..n]), Ordering::SeqCst);
        if to.write_all(&buffer[..n]).is_err() {
            break;
        }
    }
    for side in [from, to] {
        // Fails when that side has ended by itself.
        drop(side.shutdown(Shutdown::Both));
    }
    counts.ended.fetch_add(1, Ordering::SeqCst);
}

/// Where in the stream the next byte stands.
enum Walk {
    /// In the HTTP head, which ends in an empty line; its last bytes.
    Head(Vec<u8>),
    /// In a frame's header, of which this has come.
    Header(Vec<u8>),
    /// In a payload, with so many bytes to go.
    Payload(u64),
}

impl Walk {
    /// How many data frames begin in these bytes.
    fn count(&mut self, mut bytes: &[u8]) -> u64 {
        let mut data_frames = 0;
        while let Some((&byte, rest)) = bytes.split_first() {
            match self {
                Self::Payload(left) => {
                    let skip = (*left).min(bytes.len() as u64);
                    *left -= skip;
                    bytes = &bytes[usize::try_from(skip).unwrap()..];
                    if *left == 0 {
                        *self = Self::Header(Vec::new());
                    }
                    continue;
                }
                Self::Head(tail) => {
                    tail.push(byte);
                    if tail.ends_with(b"\r\n\r\n") {
                        *self = Self::Header(Vec::new());
                    }
                }
                Self::Header(header) => {
                    header.push(byte);
                    if let Some(len) = payload_len(header) {
                        data_frames += u64::from(header[0] & 0x0f < 8);
                        *self = if len == 0 {
                            Self::Header(Vec::new())
                        } else {
                            Self::Payload(len)
                        };
                    }
                }
            }
            bytes = rest;
        }
        data_frames
    }
}

/// How long the payload behind this header is; `None` while the header is not complete (RFC 6455, section 5.2).
fn payload_len(header: &[u8]) -> Option<u64> {
    let second = *header.get(1)?;
    let extended = match second & 0x7f {
        126 => 2,
        127 => 8,
        _ => 0,
    };
    let mask = if second & 0x80 == 0 { 0 } else { 4 };
    if header.len() < 2 + extended + mask {
        return None;
    }
    Some(match extended {
        0 => u64::from(second & 0x7f),
        _ => header[2..2 + extended]
            .iter()
            .fold(0, |len, byte| len << 8 | u64::from(*byte)),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn data_frames_are_counted_however_they_are_cut() {
        let mut stream = b"HTTP/1.1 101 Switching Protocols\r\n\r\n".to_vec();
        stream.extend([0x81, 2, b'h', b'i']); // a text
        stream.extend([0x89, 0]); // a ping
        stream.extend([0x82, 0x80 | 1, 1, 2, 3, 4, 0xff]); // a masked binary
        stream.extend([0x81, 126, 1, 0]); // a text of 256 bytes
        stream.extend([0x81; 256]);
        stream.extend([0x82, 0]); // an empty binary
        for size in [1, 2, 3, 7, 64, stream.len()] {
            let mut walk = Walk::Head(Vec::new());
            let count: u64 = stream.chunks(size).map(|bytes| walk.count(bytes)).sum();
            assert_eq!(count, 4, "in pieces of {size} bytes");
        }
    }
}
