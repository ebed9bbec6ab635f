//! A drain with a crowd: many light subscribers of one topic, a publisher that goes on, SIGTERM, and a broker that serves again at once. Each
//! subscriber comes back when it was told to, with its cursor, and must get every message once, in order. Owns the crowd; how long
//! it may take is for the caller to say.

use std::borrow::Cow;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use futures_util::{SinkExt as _, StreamExt as _};
use serde::Deserialize;
use serde_json::json;
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;

use crate::{Broker, publish_paced, until};

const TOPIC: &str = "drain";
/// So many of the crowd connect at a time, at first. They come back as they were told.
const CONNECT_AT_A_TIME: usize = 64;
/// What a client waits that was told nothing, doubled each time, with a random part.
const BACKOFF: Duration = Duration::from_millis(100);
const MOST_BACKOFF: Duration = Duration::from_secs(2);

/// What is done.
#[derive(Debug, Clone, Copy)]
pub struct Drain {
    /// Subscribers.
    pub sessions: usize,
    /// Messages in all. The broker is told to end when everybody has a tenth of them.
    pub messages: u64,
    /// At what pace.
    pub per_second: u32,
}

/// What came of it.
#[derive(Debug)]
pub struct Drained {
    /// From SIGTERM until the broker had ended.
    pub ended_after: Duration,
    /// From SIGTERM until it served again.
    pub served_after: Duration,
    /// From SIGTERM until each had caught up again, sorted.
    pub caught_up_after: Vec<Duration>,
    /// What `goodbye` told each, sorted.
    pub hints: Vec<Duration>,
    /// How many connections ended without a goodbye and 1012 behind it.
    pub without_goodbye: usize,
    /// How many attempts to come back found no broker, or one that was about to end.
    pub in_vain: usize,
}

impl Drain {
    /// Does it; panics where a message is missing, comes twice or out of order. The broker must have been started with `Setup::restarts`.
    pub async fn run(self, broker: &mut Broker) -> Drained {
        let crowd = Arc::new(Crowd {
            addr: broker.addr(),
            messages: self.messages,
            connecting: Semaphore::new(CONNECT_AT_A_TIME),
            subscribed: AtomicUsize::new(0),
            warm: AtomicUsize::new(0),
        });
        let mut clients = JoinSet::new();
        for _ in 0..self.sessions {
            clients.spawn(Client::new(crowd.clone()).live());
        }
        let all = |count: &AtomicUsize| count.load(Ordering::Relaxed) == self.sessions;
        until("all have subscribed", async || {
            all(&crowd.subscribed).then_some(())
        })
        .await;
        let publishing = tokio::spawn(publish_paced(
            crowd.addr,
            TOPIC,
            1,
            self.messages,
            self.per_second,
        ));
        until("all have the first messages", async || {
            all(&crowd.warm).then_some(())
        })
        .await;

        let told = Instant::now();
        broker.signal("TERM");
        let exit = tokio::task::block_in_place(|| broker.wait());
        assert_eq!(exit.code, Some(0), "{exit:#?}");
        let ended_after = told.elapsed();
        tokio::task::block_in_place(|| broker.start_again());
        let served_after = told.elapsed();

        let mut lives = Vec::new();
        while let Some(life) = clients.join_next().await {
            lives.push(life.unwrap_or_else(|e| std::panic::resume_unwind(e.into_panic())));
        }
        let kept = publishing.await.unwrap();
        assert_eq!(kept.len() as u64, self.messages);

        let mut caught_up_after: Vec<_> = lives
            .iter()
            .filter_map(|life| Some(life.caught_up_again?.duration_since(told)))
            .collect();
        caught_up_after.sort_unstable();
        let mut hints: Vec<_> = lives.iter().filter_map(|life| life.hint).collect();
        hints.sort_unstable();
        Drained {
            ended_after,
            served_after,
            caught_up_after,
            hints,
            without_goodbye: lives.iter().map(|life| life.without_goodbye).sum(),
            in_vain: lives.iter().map(|life| life.in_vain).sum(),
        }
    }
}

impl Drained {
    /// How many were told to come back in each tenth of this time.
    pub fn hints_in_tenths_of(&self, spread: Duration) -> [usize; 10] {
        let mut tenths = [0; 10];
        for hint in &self.hints {
            let tenth = hint.as_millis() * 10 / spread.as_millis().max(1);
            tenths[usize::try_from(tenth).unwrap_or(9).min(9)] += 1;
        }
        tenths
    }
}

/// What all of them share.
#[derive(Debug)]
struct Crowd {
    addr: SocketAddr,
    messages: u64,
    connecting: Semaphore,
    subscribed: AtomicUsize,
    /// Who has a tenth of the messages.
    warm: AtomicUsize,
}

/// What one of them has seen.
#[derive(Debug, Default)]
struct Life {
    /// The first that it was told.
    hint: Option<Duration>,
    caught_up_again: Option<Instant>,
    without_goodbye: usize,
    in_vain: usize,
}

struct Client {
    crowd: Arc<Crowd>,
    life: Life,
    /// Its position: the epoch, and the newest offset.
    epoch: Option<String>,
    offset: u64,
}

/// How a connection ended.
enum Ended {
    /// With everything there was.
    Done,
    /// As it should: it is to come back after this.
    Goodbye(Duration),
    /// Otherwise, before or after `welcome`.
    Broken { welcomed: bool },
}

#[derive(Deserialize)]
struct Frame<'a> {
    #[serde(rename = "type")]
    kind: &'a str,
    #[serde(borrow)]
    cursor: Option<Cow<'a, str>>,
    offset: Option<u64>,
    resumed: Option<bool>,
    retry_after_ms: Option<u64>,
    data: Option<Data>,
}

#[derive(Deserialize)]
struct Data {
    n: u64,
}

impl Client {
    fn new(crowd: Arc<Crowd>) -> Self {
        Self {
            crowd,
            life: Life::default(),
            epoch: None,
            offset: 0,
        }
    }

    async fn live(mut self) -> Life {
        let mut backoff = BACKOFF;
        loop {
            match self.one_connection().await {
                Ended::Done => return self.life,
                Ended::Goodbye(hint) => {
                    self.life.hint.get_or_insert(hint);
                    tokio::time::sleep(hint).await;
                    backoff = BACKOFF;
                    continue;
                }
                Ended::Broken { welcomed: true } => self.life.without_goodbye += 1,
                Ended::Broken { welcomed: false } => self.life.in_vain += 1,
            }
            tokio::time::sleep(backoff.mul_f64(rand::random_range(0.5..1.0))).await;
            backoff = (backoff * 2).min(MOST_BACKOFF);
        }
    }

    async fn one_connection(&mut self) -> Ended {
        let Some(mut socket) = self.connect().await else {
            return Ended::Broken { welcomed: false };
        };
        let from = match &self.epoch {
            Some(epoch) => json!({"after": format!("{epoch}:{}", self.offset)}),
            None => json!("earliest"),
        };
        let subscribe = json!({"type": "subscribe", "id": 1, "topic": TOPIC, "from": from});
        let mut welcomed = false;
        if socket
            .send(Message::text(subscribe.to_string()))
            .await
            .is_err()
        {
            return Ended::Broken { welcomed };
        }
        let mut goodbye = None;
        loop {
            match socket.next().await {
                Some(Ok(Message::Text(text))) => {
                    welcomed = true;
                    let frame = serde_json::from_str(text.as_str());
                    let frame: Frame<'_> = frame.unwrap_or_else(|e| panic!("{e} in {text}"));
                    goodbye = goodbye.or(self.take(&frame, text.as_str()));
                    if self.offset == self.crowd.messages && self.life.caught_up_again.is_some() {
                        return Ended::Done;
                    }
                }
                Some(Ok(Message::Close(close))) => {
                    let code = close.map(|close| u16::from(close.code));
                    return match goodbye {
                        Some(hint) if code == Some(1012) => Ended::Goodbye(hint),
                        // It came while Hark was about to end.
                        None if code == Some(1012) && self.epoch.is_some() => {
                            Ended::Broken { welcomed: false }
                        }
                        _ => Ended::Broken { welcomed: true },
                    };
                }
                Some(Ok(_)) => {}
                Some(Err(_)) | None => return Ended::Broken { welcomed },
            }
        }
    }

    async fn connect(&self) -> Option<WebSocketStream<TcpStream>> {
        let first = match self.epoch {
            None => Some(self.crowd.connecting.acquire().await),
            Some(_) => None,
        };
        // Thousands of the usual buffers would be a gigabyte.
        let config = WebSocketConfig::default()
            .read_buffer_size(4 * 1024)
            .write_buffer_size(0);
        let tcp = TcpStream::connect(self.crowd.addr).await.ok()?;
        let url = format!("ws://{}/ws", self.crowd.addr);
        let connected = tokio_tungstenite::client_async_with_config(url, tcp, Some(config)).await;
        drop(first);
        connected.ok().map(|(socket, _)| socket)
    }

    /// Takes a frame down; panics where it is not the next. Gives what `goodbye` says.
    fn take(&mut self, frame: &Frame<'_>, text: &str) -> Option<Duration> {
        match frame.kind {
            "welcome" => {}
            "subscribed" => self.subscribed(frame, text),
            "message" => {
                let next = self.offset + 1;
                let n = frame.data.as_ref().map(|data| data.n);
                assert_eq!(
                    (frame.offset, n),
                    (Some(next), Some(next)),
                    "message {next} was to come, not {text}"
                );
                self.offset = next;
                if next == (self.crowd.messages / 10).max(1) {
                    self.crowd.warm.fetch_add(1, Ordering::Relaxed);
                }
            }
            "caught_up" => {
                if self.life.hint.is_some() || self.life.without_goodbye > 0 {
                    self.life.caught_up_again.get_or_insert_with(Instant::now);
                }
            }
            "goodbye" => return frame.retry_after_ms.map(Duration::from_millis),
            _ => panic!("nothing like it was to come: {text}"),
        }
        None
    }

    fn subscribed(&mut self, frame: &Frame<'_>, text: &str) {
        let cursor = frame
            .cursor
            .as_deref()
            .and_then(|text| text.rsplit_once(':'));
        let (epoch, offset) = cursor.unwrap_or_else(|| panic!("no cursor in {text}"));
        match &self.epoch {
            None => {
                self.epoch = Some(epoch.to_owned());
                self.crowd.subscribed.fetch_add(1, Ordering::Relaxed);
            }
            Some(own) => {
                assert!(own == epoch && frame.resumed == Some(true), "{text}");
                assert_eq!(offset, self.offset.to_string(), "resumed elsewhere: {text}");
            }
        }
    }
}
