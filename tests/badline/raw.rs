//! Transfers that cost their reader next to nothing, so that the line and the broker are what is measured: bytes by bare TCP, and what a
//! subscriber is sent by either transport.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener};
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::line::{FAR, Line};

/// A server of nothing but bytes, with the kernel's defaults: told how many, it sends them.
pub(crate) struct Bare {
    address: SocketAddr,
}

impl Bare {
    /// Serves at the far end until the program ends.
    pub(crate) fn serve(line: &Line) -> Self {
        let address = line.far(|| {
            let listener = TcpListener::bind((FAR, 0)).expect("a port");
            let address = listener.local_addr().expect("an address");
            // It stays at the far end, where it is started.
            std::thread::spawn(move || {
                for mut client in listener.incoming().map_while(Result::ok) {
                    let mut asked = [0; 8];
                    let bytes = vec![b'x'; 64 * 1024];
                    // A client that has gone meanwhile is no matter.
                    if client.read_exact(&mut asked).is_err() {
                        continue;
                    }
                    let mut left = u64::from_be_bytes(asked) as usize;
                    while left > 0 {
                        let piece = left.min(bytes.len());
                        if client.write_all(&bytes[..piece]).is_err() {
                            break;
                        }
                        left -= piece;
                    }
                }
            });
            address
        });
        Self { address }
    }

    /// How long so many bytes take, from being asked for to the last of them.
    pub(crate) async fn transfer(&self, bytes: u64) -> Duration {
        let mut stream = TcpStream::connect(self.address).await.expect("bare TCP");
        stream.set_nodelay(true).expect("a socket");
        let began = Instant::now();
        stream
            .write_all(&bytes.to_be_bytes())
            .await
            .expect("bare TCP");
        let mut buffer = vec![0; 256 * 1024];
        let mut came = 0;
        while came < bytes {
            match stream.read(&mut buffer).await.expect("bare TCP") {
                0 => panic!("bare TCP ended after {came} of {bytes} bytes"),
                more => came += more as u64,
            }
        }
        began.elapsed()
    }
}

/// A subscriber that only looks for what it waits for.
pub(crate) struct Subscriber {
    stream: TcpStream,
    began: Instant,
    came: u64,
    /// The end of what came.
    tail: Vec<u8>,
}

/// So much of what came is looked at.
const TAIL_BYTES: usize = 1024;

impl Subscriber {
    /// Subscribes by WebSocket to all of a topic.
    pub(crate) async fn by_websocket(address: SocketAddr, topic: &str) -> Self {
        let mut new = Self::connect(address).await;
        let upgrade = format!(
            "GET /ws HTTP/1.1\r\nHost: {address}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
             Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
        );
        new.write(upgrade.as_bytes()).await;
        new.read_to("\"welcome\"").await;
        let subscribe =
            format!(r#"{{"type":"subscribe","id":1,"topic":"{topic}","from":"earliest"}}"#);
        let length = u8::try_from(subscribe.len()).expect("a short name");
        assert!(length < 126, "a short name");
        // Masked with zeros (RFC 6455, section 5.3).
        let mut frame = vec![0x81, 0x80 | length, 0, 0, 0, 0];
        frame.extend_from_slice(subscribe.as_bytes());
        (new.began, new.came) = (Instant::now(), 0);
        new.write(&frame).await;
        new
    }

    /// Subscribes by an event stream to all of a topic.
    pub(crate) async fn by_events(address: SocketAddr, topic: &str) -> Self {
        let mut new = Self::connect(address).await;
        let request = format!(
            "GET /v1/topics/{topic}/events?from=earliest HTTP/1.1\r\nHost: {address}\r\n\r\n"
        );
        new.write(request.as_bytes()).await;
        new
    }

    async fn connect(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).await.expect("the broker");
        stream.set_nodelay(true).expect("a socket");
        Self {
            stream,
            began: Instant::now(),
            came: 0,
            tail: Vec::new(),
        }
    }

    async fn write(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).await.expect("the broker");
    }

    /// The port that the broker knows it by.
    pub(crate) fn port(&self) -> u16 {
        self.stream.local_addr().expect("an address").port()
    }

    /// Reads until at least so many bytes have come since it subscribed.
    pub(crate) async fn read_bytes(&mut self, bytes: u64) {
        while self.came < bytes {
            self.read().await;
        }
    }

    /// Reads until this text comes; gives how many bytes came and how long it took, since it subscribed.
    pub(crate) async fn read_to(&mut self, text: &str) -> (u64, Duration) {
        let text = text.as_bytes();
        loop {
            if self.tail.windows(text.len()).any(|found| found == text) {
                return (self.came, self.began.elapsed());
            }
            self.read().await;
        }
    }

    async fn read(&mut self) {
        let mut buffer = vec![0; 256 * 1024];
        let bytes = self.stream.read(&mut buffer).await.expect("the broker");
        assert!(bytes > 0, "the broker ended it after {} bytes", self.came);
        self.came += bytes as u64;
        self.tail
            .extend_from_slice(&buffer[bytes.saturating_sub(TAIL_BYTES)..bytes]);
        let old = self.tail.len().saturating_sub(TAIL_BYTES);
        self.tail.drain(..old);
    }
}
