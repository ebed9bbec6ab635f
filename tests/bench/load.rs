//! The load of `make bench`: one publisher with many subscribers, and many publishers, and what they count.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;
use std::time::{Duration, Instant};

use tokio::io::AsyncWriteExt;
use tokio::net::tcp::OwnedWriteHalf;
use tokio::sync::Notify;

use crate::machine::{Server, Timings};
use crate::wire::{BINARY, Reader, TEXT, connect, connect_as, connect_events, frame};

/// One in so many deliveries is timed: reading the clock for each would cost more than the delivery.
const TIMED_ONE_IN: u64 = 8;

/// Both sides touch their buffers for the first time before anything is measured.
const WARM_UP: Duration = Duration::from_secs(1);

/// Whom the load speaks to.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Peer {
    /// JSON frames, one message each.
    Hark,
    /// The same, read as Server-Sent Events.
    HarkEvents,
    /// The NATS protocol in binary frames, as many messages in one as the server likes.
    Nats,
}

impl Peer {
    fn name(self) -> &'static str {
        match self {
            Self::Hark => "hark",
            Self::HarkEvents => "hark, event streams",
            Self::Nats => "nats-server",
        }
    }

    async fn connect(self, address: &str, shown: &str) -> (Reader, OwnedWriteHalf) {
        match self {
            Self::Hark | Self::HarkEvents => connect_as(address, "/ws", shown).await,
            Self::Nats => {
                let (reader, mut writer) = connect(address, "/").await;
                let hello = b"CONNECT {\"verbose\":false,\"pedantic\":false}\r\n";
                self.send(&mut writer, hello).await;
                (reader, writer)
            }
        }
    }

    async fn send(self, writer: &mut OwnedWriteHalf, text: &[u8]) {
        let mut frames = Vec::new();
        self.frame(&mut frames, text);
        writer.write_all(&frames).await.unwrap();
    }

    fn frame(self, frames: &mut Vec<u8>, text: &[u8]) {
        frame(frames, if self == Self::Nats { BINARY } else { TEXT }, text);
    }

    /// A connection that reads what is published from now on.
    async fn subscriber(self, address: &str, shown: &str) -> (Reader, OwnedWriteHalf) {
        let (mut reader, mut writer) = match self {
            Self::HarkEvents => connect_events(address, "/v1/topics/fan-out/events").await,
            _ => self.connect(address, shown).await,
        };
        self.subscribe(&mut reader, &mut writer).await;
        (reader, writer)
    }

    async fn subscribe(self, reader: &mut Reader, writer: &mut OwnedWriteHalf) {
        let (command, done): (&[u8], &[u8]) = match self {
            Self::HarkEvents => {
                reader.frame_containing(b"caught_up").await;
                return;
            }
            Self::Hark => (
                br#"{"type":"subscribe","id":1,"topic":"fan-out"}"#,
                b"caught_up",
            ),
            Self::Nats => (b"SUB fan-out 1\r\nPING\r\n", b"PONG"),
        };
        self.send(writer, command).await;
        reader.frame_containing(done).await;
    }

    fn publish(self, frames: &mut Vec<u8>, id: u64, payload: &str) {
        let command = match self {
            Self::Hark | Self::HarkEvents => {
                format!(r#"{{"type":"publish","id":{id},"topic":"fan-out","data":{payload}}}"#)
            }
            Self::Nats => format!("PUB fan-out {}\r\n{payload}\r\n", payload.len()),
        };
        self.frame(frames, command.as_bytes());
    }

    /// How many bytes of the stream are one message; `None`: each frame is one.
    fn message_bytes(self, payload_bytes: usize) -> Option<usize> {
        let header = format!("MSG fan-out 1 {payload_bytes}\r\n");
        (self == Self::Nats).then_some(header.len() + payload_bytes + 2)
    }
}

/// One publisher, many subscribers of its topic.
pub(crate) struct FanOut {
    pub(crate) peer: Peer,
    /// The header lines by which WebSockets say who they are; each ends in `\r\n`.
    pub(crate) shown: String,
    pub(crate) subscribers: u64,
    pub(crate) payload_bytes: usize,
    /// Messages that may be on their way, not yet delivered to every subscriber.
    pub(crate) window: u64,
}

#[derive(Default)]
struct Counted {
    began: Cell<Option<Instant>>,
    published: Cell<u64>,
    delivered: Cell<u64>,
    /// How many subscribers have each message that not all have; the oldest first.
    had_by: RefCell<VecDeque<u64>>,
    /// Messages that every subscriber has.
    complete: Cell<u64>,
    timings: RefCell<Timings>,
    progress: Notify,
}

impl FanOut {
    /// Prints what it found, and gives the microseconds of the server's CPU that a delivery took.
    pub(crate) async fn run(&self, server: &Server, run: Duration) -> f64 {
        let counted = Rc::new(Counted::default());
        counted.began.set(Some(Instant::now()));
        let message_bytes = self.peer.message_bytes(self.payload_bytes);
        let subscribers = self.subscribers;
        for _ in 0..self.subscribers {
            let (mut reader, writer) = self.peer.subscriber(&server.address, &self.shown).await;
            let counted = counted.clone();
            tokio::task::spawn_local(async move {
                let _kept_open = writer;
                let (mut bytes, mut seen) = (0, 0);
                let see = |frame: &[u8]| {
                    bytes += frame.len();
                    let messages = message_bytes.map_or(1, |of_one| bytes / of_one);
                    bytes = message_bytes.map_or(0, |of_one| bytes % of_one);
                    counted.deliveries(seen, messages as u64, subscribers, frame);
                    seen += messages as u64;
                };
                reader.each_frame(see).await;
            });
        }
        let (mut answers, mut writer) = self.peer.connect(&server.address, &self.shown).await;
        tokio::task::spawn_local(async move {
            let refused = |frame: &[u8]| {
                let error = frame.starts_with(br#"{"type":"error""#) || frame.starts_with(b"-ERR");
                assert!(!error, "{}", String::from_utf8_lossy(frame));
            };
            answers.each_frame(refused).await;
        });

        let mut measured = Measured::from_now(server, &counted);
        let mut warming_up = true;
        let filler = "x".repeat(self.payload_bytes - r#"{"t":"000000000000000","x":""}"#.len());
        while measured.began.elapsed() < run {
            if warming_up && measured.began.elapsed() > WARM_UP {
                warming_up = false;
                measured = Measured::from_now(server, &counted);
            }
            let mut frames = Vec::new();
            while counted.published.get() < counted.complete.get() + self.window {
                let nanos = counted.began.get().unwrap().elapsed().as_nanos();
                let id = counted.published.get() + 1;
                let payload = format!(r#"{{"t":"{nanos:015}","x":"{filler}"}}"#);
                self.peer.publish(&mut frames, id, &payload);
                counted.published.set(id);
            }
            match frames.is_empty() {
                true => counted.progress.notified().await,
                false => writer.write_all(&frames).await.unwrap(),
            }
        }
        while counted.complete.get() < counted.published.get() {
            counted.progress.notified().await;
        }
        let (took, cpu) = (measured.began.elapsed(), server.cpu() - measured.cpu);
        let delivered = (counted.delivered.get() - measured.delivered) as f64;
        let cpu_each = cpu.as_secs_f64() * 1e6 / delivered;
        let mut timings = counted.timings.borrow_mut();
        timings.sort();
        println!(
            "{}, fan-out 1 → {}, {} bytes, window {}: {:.2} M deliveries/s, {:.3} µs of server CPU each; p50 {:?}, p99 {:?}, p999 {:?}",
            self.peer.name(),
            self.subscribers,
            self.payload_bytes,
            self.window,
            delivered / took.as_secs_f64() / 1e6,
            cpu_each,
            timings.at(0.5),
            timings.at(0.99),
            timings.at(0.999),
        );
        cpu_each
    }
}

/// What there was when the measurement began.
struct Measured {
    began: Instant,
    cpu: Duration,
    delivered: u64,
}

impl Measured {
    fn from_now(server: &Server, counted: &Counted) -> Self {
        counted.timings.take();
        Self {
            began: Instant::now(),
            cpu: server.cpu(),
            delivered: counted.delivered.get(),
        }
    }
}

impl Counted {
    /// Counts messages that came in one frame to a subscriber that has `seen` so many, and times one of them now and then.
    fn deliveries(&self, seen: u64, messages: u64, subscribers: u64, frame: &[u8]) {
        let before = self.delivered.get();
        let delivered = before + messages;
        self.delivered.set(delivered);
        let stamp = |at: usize| frame.get(at + 6..at + 21);
        if delivered / TIMED_ONE_IN > before / TIMED_ONE_IN
            && let Some(at) = frame.windows(6).position(|bytes| bytes == br#"{"t":""#)
            && let Some(nanos) = stamp(at)
        {
            let nanos: u64 = std::str::from_utf8(nanos).unwrap().parse().unwrap();
            let now = self.began.get().unwrap().elapsed();
            let took = now.saturating_sub(Duration::from_nanos(nanos));
            self.timings.borrow_mut().add(took);
        }
        let mut had_by = self.had_by.borrow_mut();
        for message in seen..seen + messages {
            let at = (message - self.complete.get()) as usize;
            if had_by.len() <= at {
                had_by.resize(at + 1, 0);
            }
            had_by[at] += 1;
            // Subscribers get messages in order, so only the oldest can be the next that all have.
            if at == 0 && had_by[0] == subscribers {
                had_by.pop_front();
                self.complete.set(self.complete.get() + 1);
                self.progress.notify_one();
            }
        }
    }
}

/// Many publishers that wait for receipts.
pub(crate) struct Receipts {
    pub(crate) connections: usize,
    pub(crate) in_flight: u64,
    pub(crate) topics: usize,
    pub(crate) payload_bytes: usize,
}

impl Receipts {
    pub(crate) async fn run(&self, server: &Server, run: Duration) -> Timings {
        let timings = Rc::new(RefCell::new(Timings::default()));
        let mut connections = Vec::new();
        for n in 0..self.connections {
            connections.push((
                connect(&server.address, "/ws").await,
                format!("receipts-{}", n % self.topics),
            ));
        }
        let (cpu, began) = (server.cpu(), Instant::now());
        let filler = "x".repeat(self.payload_bytes.saturating_sub(2));
        let tasks: Vec<_> = connections
            .into_iter()
            .map(|((mut reader, mut writer), topic)| {
                let (in_flight, filler, timings) = (self.in_flight, filler.clone(), timings.clone());
                tokio::task::spawn_local(async move {
                    let mut sent = VecDeque::new();
                    let mut id = 0;
                    let mut answered = 0_u64;
                    while began.elapsed() < run {
                        let mut frames = Vec::new();
                        while (sent.len() as u64) < in_flight {
                            id += 1;
                            let publish = format!(r#"{{"type":"publish","id":{id},"topic":"{topic}","data":"{filler}"}}"#);
                            frame(&mut frames, TEXT, publish.as_bytes());
                            sent.push_back(Instant::now());
                        }
                        writer.write_all(&frames).await.unwrap();
                        let timings = &timings;
                        let sent = &mut sent;
                        answered += reader
                            .some_frames(|frame| {
                                if frame.starts_with(br#"{"type":"published""#) {
                                    timings.borrow_mut().add(sent.pop_front().unwrap().elapsed());
                                    return true;
                                }
                                assert!(frame.starts_with(br#"{"type":"welcome""#), "{}", String::from_utf8_lossy(frame));
                                false
                            })
                            .await;
                    }
                    answered
                })
            })
            .collect();
        let mut answered = 0;
        for task in tasks {
            answered += task.await.unwrap();
        }
        let (took, cpu) = (began.elapsed(), server.cpu() - cpu);
        let mut timings = timings.take();
        timings.sort();
        println!(
            "receipts, {} connections × {} in flight on {} topic(s): {:.1} k/s, {:.2} µs of server CPU each; p50 {:?}, p99 {:?}",
            self.connections,
            self.in_flight,
            self.topics,
            answered as f64 / took.as_secs_f64() / 1e3,
            cpu.as_secs_f64() * 1e6 / answered as f64,
            timings.at(0.5),
            timings.at(0.99),
        );
        timings
    }
}
