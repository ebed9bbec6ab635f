//! What floods there are, and what each sends. Owns the connections that pour and never rest; what others feel of it is `quiet`'s to measure
//! and `floods`' to judge.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use hark_tests::{Broker, Op, RawWs};
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpSocket, TcpStream};
use tokio::task::JoinSet;

/// What a flood sends again and again has about so many bytes, so that the broker and not the flood has most of the work.
const UNIT_BYTES: usize = 64 * 1024;
/// One message that never ends has so many.
const HALF_BYTES: usize = 1 << 20;
/// In pieces of this size.
const FRAGMENT_BYTES: usize = 16 * 1024;
/// Who does not read has so little room for what it is sent.
const UNREAD_BYTES: u32 = 4 * 1024;
/// Who was ended while it only held its place comes again after this.
const COME_AGAIN: Duration = Duration::from_millis(100);
/// Each connection of `subscribes` asks for so many topics.
const SUBSCRIBES: usize = 1_000;
/// The history that is asked for and not read: about as much as one answer has at most.
const HISTORY: &str = "history";
const HISTORY_MESSAGES: usize = 64;
const HISTORY_MESSAGE_BYTES: usize = 15 * 1024;
const MIB: u64 = 1 << 20;

const UPGRADE: &str = "GET /ws HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
     Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";

/// One kind of flood.
#[derive(Debug)]
pub(crate) struct Flood {
    pub(crate) name: &'static str,
    /// On so many connections: each number is a flood of its own.
    pub(crate) connections: &'static [usize],
    /// What Hark may hold for all of it by its stated bounds, beside what a connection costs.
    pub(crate) may_hold_bytes: u64,
    does: Does,
}

#[derive(Debug)]
enum Does {
    /// Writes `begin`, and then `unit` over and over, or so many `times`: then it waits for its end.
    Pours {
        begin: Vec<u8>,
        unit: Vec<u8>,
        times: Option<usize>,
        reads: bool,
    },
    /// Subscribes to very many topics, waits for the answers, and leaves.
    Subscribes,
    /// Opens an event stream and leaves: at once, or with the answer read; in good order, or not.
    ComesAndGoes,
    /// Breaks the WebSocket protocol on each new connection.
    Violates,
}

/// What a flood has come to.
#[derive(Debug, Default)]
pub(crate) struct Done {
    bytes: AtomicU64,
    connections: AtomicU64,
}

impl Done {
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    pub(crate) fn connections(&self) -> u64 {
        self.connections.load(Ordering::Relaxed)
    }

    fn wrote(&self, bytes: usize) {
        self.bytes.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    fn connected(&self) -> u64 {
        self.connections.fetch_add(1, Ordering::Relaxed)
    }
}

impl Flood {
    /// All that there are.
    pub(crate) fn all() -> Vec<Self> {
        let socket = || UPGRADE.as_bytes().to_vec();
        let bad_frames = {
            // The tenth in a row would end the session.
            let mut ten = RawWs::fragment(Op::TEXT, true, b"{").repeat(9);
            ten.extend(RawWs::fragment(Op::TEXT, true, b"{\"type\":\"ping\"}"));
            ten
        };
        let extension = format!("1;{}=\"{}\"\r\n\n\r\n", "x".repeat(64), "y".repeat(64));
        let fragment = RawWs::fragment(Op::CONTINUATION, false, &[b' '; FRAGMENT_BYTES]);
        let half_body = format!(
            "POST /v1/topics/half/messages HTTP/1.1\r\nHost: localhost\r\nContent-Length: {HALF_BYTES}\r\n\r\n"
        );
        let half_message = {
            let mut begin = socket();
            begin.extend(RawWs::fragment(Op::TEXT, false, b" "));
            begin
        };
        vec![
            Self::pours("pings", socket(), RawWs::fragment(Op::PING, true, b"")),
            Self::pours("bad-frames", socket(), bad_frames),
            Self::pours("chunks-to-404", post("/nope"), b"1\r\nx\r\n".to_vec()),
            Self::pours("chunk-extensions", post("/v1/messages"), extension.into()),
            Self::pours("newlines", post("/v1/messages"), chunk(&[b'\n'; 16 * 1024])),
            Self::pours("healthz", Vec::new(), get("/healthz")),
            Self {
                connections: &[100],
                may_hold_bytes: 100 * MIB / 4,
                ..Self::unread("healthz-unread", get("/healthz"))
            },
            Self {
                connections: &[200],
                // What answers may hold together, and what each connection's buffers do.
                may_hold_bytes: 64 * MIB + 200 * MIB / 4,
                ..Self::unread(
                    "history-unread",
                    get(&format!("/v1/topics/{HISTORY}/messages?limit=1000")),
                )
            },
            Self::half("half-fragments", half_message, fragment),
            Self::half("half-bodies", half_body.into(), vec![b' '; FRAGMENT_BYTES]),
            Self {
                name: "subscribes",
                connections: &[20],
                // Rooms and seats of 20,000 topics.
                may_hold_bytes: 20 * SUBSCRIBES as u64 * 6 * 1024,
                does: Does::Subscribes,
            },
            Self {
                name: "event-streams",
                connections: &[16],
                may_hold_bytes: 16 * MIB / 4,
                does: Does::ComesAndGoes,
            },
            Self {
                name: "violations",
                connections: &[8],
                may_hold_bytes: 8 * MIB / 4,
                does: Does::Violates,
            },
        ]
    }

    fn pours(name: &'static str, begin: Vec<u8>, unit: Vec<u8>) -> Self {
        Self {
            name,
            connections: &[1, 4],
            may_hold_bytes: 4 * MIB,
            does: Does::Pours {
                begin,
                unit: unit.repeat(UNIT_BYTES.div_ceil(unit.len())),
                times: None,
                reads: true,
            },
        }
    }

    fn unread(name: &'static str, unit: Vec<u8>) -> Self {
        let mut flood = Self::pours(name, Vec::new(), unit);
        if let Does::Pours { reads, .. } = &mut flood.does {
            *reads = false;
        }
        flood
    }

    fn half(name: &'static str, begin: Vec<u8>, unit: Vec<u8>) -> Self {
        Self {
            name,
            connections: &[300],
            // What messages that have come in part may hold together (--receiving-total-bytes), and as much again while buffers grow by being
            // copied; and what reading costs on each connection, at most 128 KiB in actix-http and what it decodes of it.
            may_hold_bytes: 2 * 64 * MIB + 300 * MIB / 4,
            does: Does::Pours {
                begin,
                unit,
                times: Some(HALF_BYTES / FRAGMENT_BYTES - 1),
                reads: true,
            },
        }
    }

    /// Whether it goes on without end, however the broker answers.
    pub(crate) fn goes_on(&self) -> bool {
        !matches!(
            self.does,
            Does::Pours { reads: false, .. } | Does::Pours { times: Some(_), .. }
        )
    }

    /// What has to be there before it begins.
    pub(crate) fn prepare(&self, broker: &Broker) {
        if self.name == "history-unread" {
            let message = json!("x".repeat(HISTORY_MESSAGE_BYTES));
            for _ in 0..HISTORY_MESSAGES {
                broker.http().publish(HISTORY, &message).ok();
            }
        }
    }

    /// Begins it; it goes on until what is given is dropped.
    pub(crate) fn begin(
        self: &Arc<Self>,
        addr: SocketAddr,
        connections: usize,
        done: &Arc<Done>,
    ) -> JoinSet<()> {
        let mut all = JoinSet::new();
        for nth in 0..connections {
            let (flood, done) = (self.clone(), done.clone());
            all.spawn(async move {
                loop {
                    // However a connection ends, there is a next one.
                    if flood.one_connection(addr, nth, &done).await.is_err() {
                        tokio::task::yield_now().await;
                    }
                }
            });
        }
        all
    }

    async fn one_connection(
        &self,
        addr: SocketAddr,
        nth: usize,
        done: &Done,
    ) -> std::io::Result<()> {
        match &self.does {
            Does::Pours {
                begin,
                unit,
                times,
                reads,
            } => {
                let stream = dial(addr, (!reads).then_some(UNREAD_BYTES)).await?;
                done.connected();
                reset_on_close(&stream)?;
                let (mut read, mut write) = stream.into_split();
                let pour = async {
                    write.write_all(begin).await?;
                    let mut poured = 0;
                    while times.is_none_or(|times| poured < times) {
                        write.write_all(unit).await?;
                        done.wrote(unit.len());
                        poured += 1;
                    }
                    std::future::pending().await
                };
                let ended = match reads {
                    true => tokio::select! {
                        ended = pour => ended,
                        ended = to_the_end(&mut read) => ended,
                    },
                    false => pour.await,
                };
                if times.is_some() {
                    tokio::time::sleep(COME_AGAIN).await;
                }
                ended
            }
            Does::Subscribes => subscribe(addr, nth, done).await,
            Does::ComesAndGoes => come_and_go(addr, done).await,
            Does::Violates => violate(addr, done).await,
        }
    }
}

async fn subscribe(addr: SocketAddr, nth: usize, done: &Done) -> std::io::Result<()> {
    const ANSWERED: &[u8] = b"\"caught_up\"";
    let mut stream = dial(addr, None).await?;
    done.connected();
    reset_on_close(&stream)?;
    let mut request = UPGRADE.as_bytes().to_vec();
    for topic in 0..SUBSCRIBES {
        let subscribe = json!({"type": "subscribe", "topic": format!("crowd.{nth}.{topic}")});
        request.extend(RawWs::fragment(
            Op::TEXT,
            true,
            subscribe.to_string().as_bytes(),
        ));
    }
    let (mut read, mut write) = stream.split();
    let write = async {
        write.write_all(&request).await?;
        done.wrote(request.len());
        Ok(())
    };
    let answers = async {
        let mut bytes = Vec::new();
        let mut answered = 0;
        while answered < SUBSCRIBES {
            if read.read_buf(&mut bytes).await? == 0 {
                return Err(std::io::ErrorKind::UnexpectedEof.into());
            }
            let mut looked_at = 0;
            while let Some(at) = find(&bytes[looked_at..], ANSWERED) {
                looked_at += at + ANSWERED.len();
                answered += 1;
            }
            // An answer may lie in two reads.
            let keep = looked_at.max(bytes.len().saturating_sub(ANSWERED.len() - 1));
            bytes.drain(..keep);
        }
        Ok(())
    };
    tokio::try_join!(write, answers).map(drop)
}

fn find(bytes: &[u8], wanted: &[u8]) -> Option<usize> {
    bytes.windows(wanted.len()).position(|some| some == wanted)
}

async fn come_and_go(addr: SocketAddr, done: &Done) -> std::io::Result<()> {
    let mut stream = dial(addr, None).await?;
    let nth = done.connected();
    let request = get(&format!("/v1/topics/come-and-go.{}/events", nth % 10));
    if nth.is_multiple_of(2) {
        reset_on_close(&stream)?;
    }
    stream.write_all(&request).await?;
    done.wrote(request.len());
    let mut answer = Vec::new();
    let wanted: &[u8] = match nth % 3 {
        0 => return Ok(()),
        1 => b"200 OK",
        _ => b"caught_up",
    };
    while find(&answer, wanted).is_none() {
        if stream.read_buf(&mut answer).await? == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
    }
    Ok(())
}

async fn violate(addr: SocketAddr, done: &Done) -> std::io::Result<()> {
    let mut stream = dial(addr, None).await?;
    let nth = done.connected();
    reset_on_close(&stream)?;
    let mut request = UPGRADE.as_bytes().to_vec();
    request.extend(match nth % 4 {
        // Not masked; a kind that there is not; a ping in fragments; more than any message may have.
        0 => vec![0x81, 1, b'x'],
        1 => RawWs::fragment(Op(3), true, b""),
        2 => RawWs::fragment(Op::PING, false, b""),
        _ => vec![0x81, 0xff, 0x3f, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
    });
    stream.write_all(&request).await?;
    done.wrote(request.len());
    // Until the broker's close frame has come.
    let mut answer = Vec::new();
    while find(&answer, &[0x88]).is_none() {
        if stream.read_buf(&mut answer).await? == 0 {
            break;
        }
    }
    Ok(())
}

async fn dial(addr: SocketAddr, receive_buffer_bytes: Option<u32>) -> std::io::Result<TcpStream> {
    let socket = TcpSocket::new_v4()?;
    if let Some(bytes) = receive_buffer_bytes {
        socket.set_recv_buffer_size(bytes)?;
    }
    socket.connect(addr).await
}

/// So that ten thousands of connections leave no ports behind that wait.
fn reset_on_close(stream: &TcpStream) -> std::io::Result<()> {
    socket2::SockRef::from(stream).set_linger(Some(Duration::ZERO))
}

async fn to_the_end(read: &mut (impl tokio::io::AsyncRead + Unpin)) -> std::io::Result<()> {
    let mut thrown_away = vec![0; UNIT_BYTES];
    while read.read(&mut thrown_away).await? > 0 {}
    Ok(())
}

fn get(path: &str) -> Vec<u8> {
    format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n").into_bytes()
}

/// The head of a request with lines of JSON in chunks.
fn post(path: &str) -> Vec<u8> {
    format!(
        "POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/x-ndjson\r\nTransfer-Encoding: chunked\r\n\r\n"
    )
    .into_bytes()
}

fn chunk(bytes: &[u8]) -> Vec<u8> {
    let mut chunk = format!("{:x}\r\n", bytes.len()).into_bytes();
    chunk.extend_from_slice(bytes);
    chunk.extend_from_slice(b"\r\n");
    chunk
}
