//! The rules by which a client keeps its connection, on a clock that stands until everybody waits: both ends are in this process, and the
//! bytes between them in memory.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use hark_protocol::{CloseCode, Subprotocol};
use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, DuplexStream, ReadBuf};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, timeout};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::handshake::server::{Request, Response};
use tokio_tungstenite::tungstenite::protocol::CloseFrame;

use crate::{
    Client, ClientBuilder, ClientError, ConnectionEvent, ConnectionEvents, FirstConnection,
    Producer, PublishError, Reconnect,
};

const MS: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);
const HOUR: Duration = Duration::from_secs(3_600);

/// What stands in for the network and the broker.
struct Net(mpsc::UnboundedReceiver<DuplexStream>);

/// The broker's end of a connection.
struct Peer<S = DuplexStream> {
    socket: WebSocketStream<S>,
    welcomed: bool,
}

/// A client in this network.
fn network() -> (ClientBuilder, Net) {
    let (sender, receiver) = mpsc::unbounded_channel();
    let mut builder = Client::builder("ws://hark.test/ws")
        .subprotocol(Subprotocol::Json)
        .first_connection(FirstConnection::InBackground);
    builder.options_mut().memory = Some(sender);
    (builder, Net(receiver))
}

impl Net {
    async fn tcp(&mut self) -> DuplexStream {
        timeout(HOUR, self.0.recv())
            .await
            .expect("another attempt")
            .expect("the client goes on")
    }

    /// Upgraded, but not welcomed.
    async fn upgraded(&mut self) -> Peer {
        Peer::upgrade(self.tcp().await).await
    }

    async fn welcomed(&mut self) -> Peer {
        let mut peer = self.upgraded().await;
        peer.welcome(json!({})).await;
        peer
    }

    /// Answers with HTTP.
    async fn refuse(&mut self, head: &str, body: &str) {
        let mut stream = self.tcp().await;
        let answer = format!(
            "HTTP/1.1 {head}\r\ncontent-length: {}\r\n\r\n{body}",
            body.len()
        );
        stream.write_all(answer.as_bytes()).await.unwrap();
        // Until the client has read it and is gone.
        let mut rest = Vec::new();
        tokio::io::AsyncReadExt::read_to_end(&mut stream, &mut rest)
            .await
            .ok();
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Peer<S> {
    async fn upgrade(stream: S) -> Self {
        #[allow(clippy::result_large_err)] // the callback's type is tungstenite's
        let choose = |request: &Request, mut response: Response| {
            let name = "sec-websocket-protocol";
            let offered = request.headers()[name].clone();
            response.headers_mut().insert(name, offered);
            Ok(response)
        };
        Self {
            socket: tokio_tungstenite::accept_hdr_async(stream, choose)
                .await
                .unwrap(),
            welcomed: false,
        }
    }

    async fn say(&mut self, frame: Value) {
        self.socket
            .send(Message::text(frame.to_string()))
            .await
            .unwrap();
    }

    /// `welcome`, but for these fields as ever.
    async fn welcome(&mut self, fields: Value) {
        let mut welcome = json!({
            "type": "welcome", "session": "s1", "version": "0.2.0", "heartbeat_ms": 25_000,
            "max_message_bytes": 1_048_576, "max_inflight": 1024,
        });
        let fields = fields.as_object().unwrap().clone();
        welcome.as_object_mut().unwrap().extend(fields);
        self.say(welcome).await;
        self.welcomed = true;
    }

    /// The next message of the WebSocket; an end is none.
    async fn message(&mut self) -> Option<Message> {
        timeout(HOUR, self.socket.next())
            .await
            .expect("the client does something")
            .and_then(Result::ok)
    }

    /// The next frame that is no ping. Pings of both kinds are answered on the way.
    async fn frame(&mut self) -> Value {
        timeout(HOUR, self.next_frame()).await.expect("a frame")
    }

    async fn next_frame(&mut self) -> Value {
        loop {
            let message = self.message().await.expect("a frame");
            let Message::Text(text) = message else {
                continue;
            };
            let frame: Value = serde_json::from_str(&text).unwrap();
            if frame["type"] != "ping" {
                return frame;
            }
            // Hark says nothing before `welcome`.
            if self.welcomed {
                self.say(json!({"type": "pong", "id": frame["id"]})).await;
            }
        }
    }

    async fn publish(&mut self) -> Value {
        let frame = self.frame().await;
        assert_eq!(frame["type"], "publish");
        frame
    }

    async fn published(&mut self, publish: &Value, offset: u64) {
        let (id, topic) = (&publish["id"], &publish["topic"]);
        let cursor = format!("7:{offset}");
        self.say(json!({"type": "published", "id": id, "topic": topic, "cursor": cursor, "duplicate": false}))
            .await;
    }

    /// Answers the next frame, which is a `subscribe`.
    async fn subscribe(&mut self) -> Value {
        let frame = self.frame().await;
        assert_eq!(frame["type"], "subscribe");
        let (id, topic) = (&frame["id"], &frame["topic"]);
        self.say(json!({"type": "subscribed", "id": id, "topic": topic, "cursor": "7:0", "head": 0, "resumed": false}))
            .await;
        self.say(json!({"type": "caught_up", "topic": topic, "cursor": "7:0"}))
            .await;
        frame
    }

    async fn close(mut self, code: u16) {
        let close = CloseFrame {
            code: code.into(),
            reason: "said the other side".into(),
        };
        self.socket.close(Some(close)).await.unwrap();
        while self.message().await.is_some() {}
    }

    /// Reads and answers until the client is gone. When the first ping of the WebSocket came, and when the client was gone.
    async fn ignore(mut self) -> (Option<Instant>, Instant) {
        let mut asked = None;
        // Not by reading as a WebSocket, which would answer.
        let stream = self.socket.get_mut();
        let mut buffer = [0; 64 * 1024];
        loop {
            match timeout(HOUR, tokio::io::AsyncReadExt::read(stream, &mut buffer)).await {
                Ok(Ok(0) | Err(_)) => return (asked, Instant::now()),
                // The first byte of a ping (RFC 6455, section 5.2).
                Ok(Ok(_)) if buffer[0] == 0x89 => asked = asked.or(Some(Instant::now())),
                Ok(Ok(_)) => {}
                Err(_) => panic!("the client never gives it up"),
            }
        }
    }
}

async fn event<T>(
    events: &mut ConnectionEvents,
    pick: impl Fn(&ConnectionEvent) -> Option<T>,
) -> T {
    let found = async {
        loop {
            let event = events.next().await.expect("the client goes on");
            if let Some(picked) = pick(&event) {
                return picked;
            }
        }
    };
    timeout(HOUR, found).await.expect("an event")
}

fn wait_of(event: &ConnectionEvent) -> Option<Duration> {
    match event {
        ConnectionEvent::Reconnecting { wait, .. } => Some(*wait),
        _ => None,
    }
}

fn reason_of(event: &ConnectionEvent) -> Option<String> {
    match event {
        ConnectionEvent::Disconnected { reason } => Some(reason.clone()),
        _ => None,
    }
}

fn end_of(event: &ConnectionEvent) -> Option<ClientError> {
    match event {
        ConnectionEvent::Ended { error } => Some(error.clone()),
        _ => None,
    }
}

/// A client with a subscription to `t`, and the broker's end.
async fn subscriber() -> (Client, Net, Peer, crate::Subscription) {
    let (builder, mut net) = network();
    let client = builder.connect().await.unwrap();
    let (subscription, peer) = tokio::join!(client.subscribe("t").into_future(), async {
        let mut peer = net.welcomed().await;
        peer.subscribe().await;
        peer
    });
    (client, net, peer, subscription.unwrap())
}

// ---- the first flight

#[tokio::test(start_paused = true)]
async fn nobody_waits_for_welcome() {
    let (builder, mut net) = network();
    let client = builder.connect().await.unwrap();
    let receipt = client.publish("t", &1).send().await.unwrap();
    let subscriber = client.clone();
    let subscription = tokio::spawn(async move { subscriber.subscribe("t").await });
    tokio::task::yield_now().await;

    // All at once: it is there as soon as the upgrade is answered.
    let mut peer = net.upgraded().await;
    let mut said = Vec::new();
    while said.len() < 3 {
        let Some(Message::Text(text)) = peer.message().await else {
            panic!("a frame");
        };
        said.push(serde_json::from_str::<Value>(&text).unwrap());
    }
    let kinds: Vec<_> = said.iter().map(|frame| &frame["type"]).collect();
    assert_eq!(kinds, ["ping", "subscribe", "publish"]);
    // But to be connected is to be welcomed.
    assert_eq!(client.stats().connections, 0);

    peer.welcome(json!({})).await;
    peer.published(&said[2], 1).await;
    let (id, topic) = (&said[1]["id"], &said[1]["topic"]);
    peer.say(json!({"type": "subscribed", "id": id, "topic": topic, "cursor": "7:0", "head": 0, "resumed": false})).await;
    receipt.await.unwrap();
    let subscription = subscription.await.unwrap().unwrap();
    assert_eq!(client.stats().connections, 1);
    drop(subscription);
}

#[tokio::test(start_paused = true)]
async fn the_first_flight_is_small_and_the_rest_follows_welcome_in_order() {
    let (builder, mut net) = network();
    let client = builder.connect().await.unwrap();
    let large = "x".repeat(70_000);
    let mut receipts = Vec::new();
    for data in ["a", &large, "b"] {
        receipts.push(client.publish("t", data).send().await.unwrap());
    }
    let mut peer = net.upgraded().await;
    let first = peer.publish().await;
    assert_eq!(first["data"], "a");
    let more = timeout(9 * SECOND, peer.socket.next()).await;
    assert!(more.is_err(), "{more:?}");
    peer.welcome(json!({})).await;
    let (second, third) = (peer.publish().await, peer.publish().await);
    assert_eq!(second["data"], large);
    assert_eq!((&second["seq"], &third["seq"]), (&json!(2), &json!(3)));
    for (offset, publish) in [first, second, third].iter().enumerate() {
        peer.published(publish, offset as u64 + 1).await;
    }
    for (offset, receipt) in receipts.into_iter().enumerate() {
        assert_eq!(receipt.await.unwrap().cursor.offset, offset as u64 + 1);
    }
}

#[tokio::test(start_paused = true)]
async fn what_was_held_back_and_is_too_large_for_this_broker_fails_alone() {
    let (builder, mut net) = network();
    let client = builder.connect().await.unwrap();
    let large = client
        .publish("t", &"x".repeat(70_000))
        .send()
        .await
        .unwrap();
    let small = client.publish("t", "b").send().await.unwrap();
    let mut peer = net.upgraded().await;
    peer.message().await.expect("the first flight");
    peer.welcome(json!({"max_message_bytes": 66_000})).await;
    let publish = peer.publish().await;
    assert_eq!(publish["data"], "b");
    assert!(large.await.is_err());
    // Its number is spent, so the next one finds its way as it always does.
    peer.say(json!({"type": "error", "id": publish["id"], "code": "out_of_sequence", "message": "expected 1", "expected_seq": 1})).await;
    let publish = peer.publish().await;
    assert_eq!(
        (&publish["data"], &publish["seq"]),
        (&json!("b"), &json!(1))
    );
    peer.published(&publish, 1).await;
    small.await.unwrap();
}

/// What listens answers the upgrade, but is something else.
#[tokio::test(start_paused = true)]
async fn what_was_said_to_something_else_than_hark_is_neither_lost_nor_doubled() {
    let (builder, mut net) = network();
    let client = builder.connect().await.unwrap();
    let receipt = client.publish("t", &1).send().await.unwrap();
    let mut first = Value::Null;
    for _ in 0..6 {
        let mut other = net.upgraded().await;
        first = other.publish().await;
        other.published(&first, 99).await; // not even if it should say so
    }
    let mut peer = net.welcomed().await;
    let again = peer.publish().await;
    assert_eq!(
        (&again["producer"], &again["seq"]),
        (&first["producer"], &first["seq"])
    );
    peer.published(&again, 1).await;
    assert_eq!(receipt.await.unwrap().cursor.offset, 1);
    assert_eq!(client.stats().connections, 1);
}

#[tokio::test(start_paused = true)]
async fn what_cannot_be_said_twice_waits_for_welcome() {
    let (builder, mut net) = network();
    let client = builder.producer(Producer::None).connect().await.unwrap();
    let receipt = client.publish("t", &1).send().await.unwrap();
    let peer = net.upgraded().await;
    drop(peer);
    let mut peer = net.welcomed().await;
    let publish = peer.publish().await;
    peer.published(&publish, 1).await;
    receipt.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn connect_waits_for_welcome_and_says_what_came_instead() {
    let (builder, mut net) = network();
    let builder = builder.first_connection(FirstConnection::Required);
    let (connected, ()) = tokio::join!(builder.connect(), async {
        let mut peer = net.upgraded().await;
        peer.say(json!({"type": "hello"})).await;
    });
    let error = connected.unwrap_err();
    assert!(
        matches!(error, ClientError::Unreachable { .. }),
        "{error:?}"
    );
    assert!(error.to_string().contains("no Hark"), "{error}");
}

#[tokio::test(start_paused = true)]
async fn the_window_is_what_welcome_allows() {
    for (set, allowed) in [(None, 3_000), (Some(5), 5)] {
        let (mut builder, mut net) = network();
        if let Some(window) = set {
            builder = builder.window(window);
        }
        let client = builder.connect().await.unwrap();
        let mut peer = net.upgraded().await;
        peer.welcome(json!({"max_inflight": 3_000})).await;
        let publishing = tokio::spawn(async move {
            let mut receipts = Vec::new();
            loop {
                receipts.push(client.publish("t", &1).send().await.unwrap());
            }
        });
        for _ in 0..allowed {
            peer.publish().await;
        }
        let more = timeout(SECOND, peer.publish()).await;
        assert!(more.is_err(), "{more:?}");
        publishing.abort();
    }
}

// ---- silence

#[tokio::test(start_paused = true)]
async fn a_quiet_subscriber_asks_after_a_heartbeat_and_gives_up_three_seconds_later() {
    let (client, mut net, mut peer, _subscription) = subscriber().await;
    let mut events = client.events();
    let start = Instant::now();
    timeout(11 * SECOND, peer.frame()).await.unwrap_err();
    let (asked, gone) = peer.ignore().await; // the network is gone
    // It had asked whether the connection proves itself, and heard the answer.
    let asked = asked.expect("it asks") - start;
    assert!(asked >= 35 * SECOND && asked < 36 * SECOND, "{asked:?}");
    let gone = gone - start;
    assert!(gone >= 38 * SECOND && gone < 39 * SECOND, "{gone:?}");
    let reason = event(&mut events, reason_of).await;
    assert!(reason.contains("nothing heard"), "{reason}");
    // And comes back.
    let mut peer = net.welcomed().await;
    assert_eq!(peer.subscribe().await["topic"], "t");
}

#[tokio::test(start_paused = true)]
async fn whoever_answers_is_there() {
    let (client, _net, mut peer, _subscription) = subscriber().await;
    let mut pings = 0;
    let end = Instant::now() + 600 * SECOND;
    while let Ok(message) = tokio::time::timeout_at(end, peer.socket.next()).await {
        pings += u32::from(matches!(message, Some(Ok(Message::Ping(_)))));
    }
    assert_eq!(client.stats().connections, 1);
    assert!((20..=24).contains(&pings), "{pings} in ten minutes");
}

#[tokio::test(start_paused = true)]
async fn a_publish_that_nobody_answers_is_noticed_within_eight_seconds() {
    let (client, mut net, peer, _subscription) = subscriber().await;
    let receipt = client.publish("t", &1).send().await.unwrap();
    let start = Instant::now();
    let (asked, gone) = peer.ignore().await;
    assert_eq!((asked.expect("it asks") - start).as_secs(), 5);
    assert_eq!((gone - start).as_secs(), 8);
    let mut peer = net.welcomed().await;
    peer.subscribe().await;
    let publish = peer.publish().await;
    peer.published(&publish, 1).await;
    receipt.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_broker_whose_log_is_slow_is_asked_and_not_left() {
    let (client, _net, mut peer, _subscription) = subscriber().await;
    let receipt = client.publish("t", &1).send().await.unwrap();
    let publish = peer.publish().await;
    let mut asked = 0;
    let end = Instant::now() + 61 * SECOND;
    while let Ok(message) = tokio::time::timeout_at(end, peer.socket.next()).await {
        asked += u32::from(matches!(message, Some(Ok(Message::Ping(_)))));
    }
    assert_eq!(asked, 12, "each five seconds");
    peer.published(&publish, 1).await;
    receipt.await.unwrap();
    assert_eq!(client.stats().connections, 1);
}

// ---- progress is bytes

/// 12 KB a second, in either direction.
struct Slow {
    inner: DuplexStream,
    next: Pin<Box<tokio::time::Sleep>>,
}

const SLOW_BYTES: usize = 1_200;

impl AsyncRead for Slow {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        std::task::ready!(self.next.as_mut().poll(cx));
        let mut part = buffer.take(SLOW_BYTES);
        std::task::ready!(Pin::new(&mut self.inner).poll_read(cx, &mut part))?;
        let read = part.filled().len();
        buffer.advance(read);
        self.next.as_mut().reset(Instant::now() + 100 * MS);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Slow {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}

#[tokio::test(start_paused = true)]
async fn a_large_message_arrives_at_a_broker_behind_a_slow_line() {
    let (builder, mut net) = network();
    let client = builder.connect().await.unwrap();
    let inner = net.tcp().await;
    let next = Box::pin(sleep(Duration::ZERO));
    let mut peer = Peer::upgrade(Slow { inner, next }).await;
    peer.welcome(json!({})).await;
    let large = "x".repeat(900_000);
    let start = Instant::now();
    let receipt = client.publish("t", &large).send().await.unwrap();
    let publish = peer.publish().await;
    assert!(start.elapsed() > 70 * SECOND, "{:?}", start.elapsed());
    assert_eq!(publish["data"], large);
    peer.published(&publish, 1).await;
    receipt.await.unwrap();
    assert_eq!(client.stats().connections, 1);
    assert_eq!(client.stats().publishes_resent, 0);
}

#[tokio::test(start_paused = true)]
async fn a_large_message_arrives_at_a_subscriber_behind_a_slow_line() {
    let (client, _net, mut peer, mut subscription) = subscriber().await;
    // A publish is waiting meanwhile, so that the client asks; the answer stands behind the message.
    let receipt = client.publish("t", &1).send().await.unwrap();
    let publish = peer.publish().await;
    let data = "x".repeat(900_000);
    let message =
        json!({"type": "message", "topic": "t", "offset": 1, "time": 1, "data": data}).to_string();
    let mut bytes = vec![0x81, 127];
    bytes.extend_from_slice(&(message.len() as u64).to_be_bytes());
    bytes.extend_from_slice(message.as_bytes());
    let start = Instant::now();
    let stream = peer.socket.get_mut();
    for part in bytes.chunks(SLOW_BYTES) {
        stream.write_all(part).await.unwrap();
        sleep(100 * MS).await;
    }
    assert!(start.elapsed() > 70 * SECOND);
    peer.published(&publish, 2).await;
    let message = timeout(HOUR, subscription.next_message()).await.unwrap();
    assert_eq!(message.unwrap().json::<String>().unwrap(), data);
    receipt.await.unwrap();
    assert_eq!(client.stats().connections, 1);
}

// ---- proof and waits

#[tokio::test(start_paused = true)]
async fn what_is_cut_right_after_subscribed_is_tried_with_growing_waits() {
    let (client, mut net, peer, _subscription) = subscriber().await;
    let mut events = client.events();
    drop(peer);
    let start = Instant::now();
    let mut tries = 0;
    let mut waits = Vec::new();
    while start.elapsed() < 60 * SECOND {
        waits.push(event(&mut events, wait_of).await);
        let mut peer = net.welcomed().await;
        peer.subscribe().await;
        sleep(5 * MS).await;
        drop(peer);
        tries += 1;
    }
    // Full jitter: the mean of the waits is 2.5 s once they have grown.
    assert!((12..=60).contains(&tries), "{tries} in a minute");
    for (failures, wait) in waits.iter().enumerate() {
        let bound = (250 * MS * 2u32.pow(failures.min(10) as u32)).min(5 * SECOND);
        assert!(*wait <= bound, "{failures}: {wait:?}");
    }
    // And one that serves for ten seconds has proven itself.
    event(&mut events, wait_of).await;
    let mut peer = net.welcomed().await;
    peer.subscribe().await;
    timeout(10 * SECOND + MS, peer.frame()).await.unwrap_err();
    drop(peer);
    let wait = event(&mut events, wait_of).await;
    assert!(wait <= 250 * MS, "{wait:?}");
}

/// Whether the wait behind this connection is one of the first.
async fn proves_itself(serve: impl AsyncFn(&Client, &mut Peer)) -> bool {
    // A wait is drawn, so it is tried until one is drawn that tells.
    for _ in 0..50 {
        let (builder, mut net) = network();
        let client = builder.connect().await.unwrap();
        let mut events = client.events();
        for _ in 0..6 {
            drop(net.tcp().await);
            event(&mut events, wait_of).await;
        }
        let mut peer = net.welcomed().await;
        serve(&client, &mut peer).await;
        drop(peer);
        if event(&mut events, wait_of).await > 250 * MS {
            return false;
        }
        drop(client);
    }
    true
}

#[tokio::test(start_paused = true)]
async fn open_is_not_proven() {
    let for_an_hour = async |_: &Client, _: &mut Peer| sleep(20 * SECOND).await;
    assert!(!proves_itself(for_an_hour).await, "it answers nothing");
    let pongs = async |_: &Client, peer: &mut Peer| {
        timeout(9 * SECOND, peer.frame()).await.unwrap_err();
    };
    assert!(!proves_itself(pongs).await, "too short");
    let pongs = async |_: &Client, peer: &mut Peer| {
        timeout(11 * SECOND, peer.frame()).await.unwrap_err();
    };
    assert!(proves_itself(pongs).await, "there was nothing to answer");
    let only_pongs = async |client: &Client, peer: &mut Peer| {
        let _receipt = client.publish("t", &1).send().await.unwrap();
        peer.publish().await;
        timeout(11 * SECOND, peer.frame()).await.unwrap_err();
    };
    assert!(!proves_itself(only_pongs).await, "a publish has no receipt");
    let receipt = async |client: &Client, peer: &mut Peer| {
        let _receipt = client.publish("t", &1).send().await.unwrap();
        let publish = peer.publish().await;
        peer.published(&publish, 1).await;
        timeout(11 * SECOND, peer.frame()).await.unwrap_err();
    };
    assert!(proves_itself(receipt).await);
}

/// Swallowed right after `subscribed`: that it takes a while to notice is no proof.
#[tokio::test(start_paused = true)]
async fn a_swallowed_connection_has_served_for_as_long_as_something_came() {
    let (client, mut net, peer, _subscription) = subscriber().await;
    let mut events = client.events();
    peer.ignore().await;
    let mut longest = event(&mut events, wait_of).await;
    for _ in 0..8 {
        let mut peer = net.welcomed().await;
        peer.subscribe().await;
        peer.ignore().await;
        longest = longest.max(event(&mut events, wait_of).await);
    }
    assert!(longest > SECOND, "{longest:?}");
}

/// Nor is it proof that who swallows everything ends it later.
#[tokio::test(start_paused = true)]
async fn a_connection_that_was_swallowed_and_then_ended_has_served_for_as_long_as_something_came() {
    let swallowed = async |client: &Client, peer: &mut Peer| {
        let _receipt = client.publish("t", &1).send().await.unwrap();
        let publish = peer.publish().await;
        peer.published(&publish, 1).await;
        sleep(12 * SECOND).await; // and it is dropped, before the client has given it up
    };
    assert!(!proves_itself(swallowed).await);
    let quiet = async |client: &Client, peer: &mut Peer| {
        let _receipt = client.publish("t", &1).send().await.unwrap();
        let publish = peer.publish().await;
        peer.published(&publish, 1).await;
        timeout(12 * SECOND, peer.frame()).await.unwrap_err();
    };
    assert!(proves_itself(quiet).await, "it answers when it is asked");
}

/// A subscription that is stuck is not asked for; there is nothing else to be answered.
#[tokio::test(start_paused = true)]
async fn where_nothing_was_asked_for_a_pong_is_proof() {
    let (client, mut net, peer, _subscription) = subscriber().await;
    let mut events = client.events();
    drop(peer);
    for _ in 0..5 {
        let mut peer = net.welcomed().await;
        let frame = peer.frame().await;
        let (id, topic) = (&frame["id"], &frame["topic"]);
        peer.say(json!({"type": "subscribed", "id": id, "topic": topic, "cursor": "7:0", "head": 0, "resumed": false}))
            .await;
        sleep(MS).await;
        drop(peer);
    }
    let stuck =
        |event: &ConnectionEvent| matches!(event, ConnectionEvent::Stuck { .. }).then_some(());
    event(&mut events, stuck).await;
    event(&mut events, wait_of).await;
    for _ in 0..3 {
        let mut peer = net.welcomed().await;
        timeout(11 * SECOND, peer.frame()).await.unwrap_err();
        drop(peer);
        let wait = event(&mut events, wait_of).await;
        assert!(wait <= 250 * MS, "{wait:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn retry_after_is_waited_for_in_full_but_not_for_an_hour() {
    let (builder, mut net) = network();
    let client = builder.connect().await.unwrap();
    let mut events = client.events();
    let mut waits = Vec::new();
    for asked in ["3600", "3600", "Sun, 06 Nov 1994 09:49:37 GMT"] {
        let head = format!(
            "503 Service Unavailable\r\ndate: Sun, 06 Nov 1994 08:49:37 GMT\r\nretry-after: {asked}"
        );
        net.refuse(&head, "").await;
        let refused = Instant::now();
        waits.push(event(&mut events, wait_of).await);
        drop(net.tcp().await);
        assert!(refused.elapsed() >= 300 * SECOND);
        event(&mut events, wait_of).await;
    }
    assert!(waits.iter().all(|wait| *wait < 321 * SECOND), "{waits:?}");
    assert!(waits[0] != waits[1], "all in the same moment: {waits:?}");
}

#[tokio::test(start_paused = true)]
async fn goodbye_is_obeyed_and_its_wait_is_no_date() {
    let (client, mut net, mut peer, _subscription) = subscriber().await;
    let mut events = client.events();
    peer.say(json!({"type": "goodbye", "reason": "restart", "retry_after_ms": u64::MAX}))
        .await;
    peer.close(1012).await;
    let wait = event(&mut events, wait_of).await;
    assert!(wait >= 300 * SECOND && wait < 301 * SECOND, "{wait:?}");
    net.welcomed().await;
}

// ---- endings

/// A client whose connections end one after the other with these codes: how it ended, if it did.
async fn closed_with(codes: &[u16], builder: ClientBuilder, net: &mut Net) -> Option<ClientError> {
    let client = builder.connect().await.unwrap();
    let mut events = client.events();
    for code in codes {
        net.welcomed().await.close(*code).await;
    }
    tokio::select! {
        error = event(&mut events, end_of) => Some(error),
        Some(_) = net.0.recv() => None,
    }
}

#[tokio::test(start_paused = true)]
async fn only_hark_ends_it_for_good() {
    for (codes, is_final) in [
        (&[1000, 1000, 1000, 1000][..], false),
        (&[1008, 1008, 1008, 1008], false),
        (&[1010, 1010, 1010, 1010], false),
        (&[1001, 1011, 1012, 1013, 4500, 4501, 4503], false),
        (&[4400], true),
        (&[4401], true),
        (&[4403], true),
        (&[4499], true),
        (&[1002, 1002], false),
        (&[1002, 1002, 1002], true),
        (&[1009, 1007, 1003], true),
        (&[1009, 1007, 1000, 1003, 1002], false),
    ] {
        let (builder, mut net) = network();
        let ended = closed_with(codes, builder, &mut net).await;
        assert_eq!(ended.is_some(), is_final, "{codes:?}: {ended:?}");
        if let Some(error) = ended {
            let code = CloseCode(*codes.last().unwrap());
            assert!(
                matches!(error, ClientError::ClosedByBroker { code: c, .. } if c == code),
                "{error:?}"
            );
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_refused_token_is_final_only_if_there_is_no_other() {
    let (builder, mut net) = network();
    assert!(
        closed_with(&[4401], builder.token("t"), &mut net)
            .await
            .is_some()
    );
    for (codes, is_final) in [(&[4401][..], false), (&[4401, 4401], true)] {
        let (builder, mut net) = network();
        let builder = builder.token_with(|| async { Ok("t".to_owned()) });
        let ended = closed_with(codes, builder, &mut net).await;
        assert_eq!(ended.is_some(), is_final, "{codes:?}: {ended:?}");
    }
    // By HTTP too, if it is Hark that says so.
    let body = r#"{"code":"unauthenticated","message":"a bad token"}"#;
    let asked = Arc::new(AtomicU32::new(0));
    let counter = Arc::clone(&asked);
    let (builder, mut net) = net_with_token(counter);
    let client = builder.connect().await.unwrap();
    let mut events = client.events();
    net.refuse("401 Unauthorized", "<html>Sign in</html>").await;
    net.refuse("401 Unauthorized", body).await;
    net.refuse("401 Unauthorized", body).await;
    let error = event(&mut events, end_of).await;
    assert!(
        matches!(
            error,
            ClientError::Refused {
                status: 401,
                code: Some(hark_protocol::ErrorCode::Unauthenticated),
                ..
            }
        ),
        "{error:?}"
    );
    assert_eq!(asked.load(Ordering::Relaxed), 3);
}

#[tokio::test(start_paused = true)]
async fn a_token_that_was_accepted_gives_the_next_its_chance() {
    for accepted in [true, false] {
        let (builder, mut net) = network();
        let builder = builder.token_with(|| async { Ok("t".to_owned()) });
        let client = builder.connect().await.unwrap();
        let mut events = client.events();
        net.welcomed().await.close(4401).await;
        let mut peer = net.welcomed().await;
        if accepted {
            let _receipt = client.publish("t", &1).send().await.unwrap();
            let publish = peer.publish().await;
            peer.published(&publish, 1).await;
        }
        peer.close(4401).await;
        let goes_on = tokio::select! {
            _ = event(&mut events, end_of) => false,
            Some(_) = net.0.recv() => true,
        };
        assert_eq!(goes_on, accepted);
    }
}

/// What is unanswered when the application closes is so for that reason, and for no other.
#[tokio::test(start_paused = true)]
async fn who_closes_is_told_of_all_that_is_unanswered() {
    let (builder, mut net) = network();
    let client = builder.producer(Producer::None).connect().await.unwrap();
    let mut peer = net.welcomed().await;
    let receipt = client.publish("t", &1).send().await.unwrap();
    peer.publish().await;
    let (closed, ()) = tokio::join!(client.close(SECOND), async {
        while peer.message().await.is_some() {}
    });
    assert_eq!(closed, Err(crate::Unanswered(1)));
    let error = receipt.await.unwrap_err();
    assert!(
        matches!(error, PublishError::Ended(ClientError::Closed)),
        "{error:?}"
    );
}

fn net_with_token(asked: Arc<AtomicU32>) -> (ClientBuilder, Net) {
    let (builder, net) = network();
    let builder = builder.token_with(move || {
        asked.fetch_add(1, Ordering::Relaxed);
        async { Ok("t".to_owned()) }
    });
    (builder, net)
}

// ---- every wait has an end

#[tokio::test(start_paused = true)]
async fn giving_up_does_not_wait_for_a_wait_or_an_attempt() {
    let give_up = |after| Reconnect {
        give_up_after: Some(after),
        ..Reconnect::default()
    };
    // In the midst of a wait.
    let (builder, mut net) = network();
    let client = builder
        .reconnect(give_up(200 * MS))
        .connect()
        .await
        .unwrap();
    let mut events = client.events();
    let start = Instant::now();
    let refuse = net.refuse("503 Service Unavailable\r\nretry-after: 60", "");
    let (error, ()) = tokio::join!(event(&mut events, end_of), refuse);
    assert!(matches!(error, ClientError::Refused { .. }), "{error:?}");
    assert!(start.elapsed() < 210 * MS, "{:?}", start.elapsed());

    // In the midst of an attempt: nobody answers the upgrade, or says `welcome`.
    for upgraded in [false, true] {
        let (builder, mut net) = network();
        let client = builder
            .reconnect(give_up(200 * MS))
            .connect()
            .await
            .unwrap();
        let mut events = client.events();
        let start = Instant::now();
        let stream = net.tcp().await;
        let (mut silent, mut peer) = (None, None);
        match upgraded {
            true => peer = Some(Peer::upgrade(stream).await),
            false => silent = Some(stream),
        }
        let error = event(&mut events, end_of).await;
        assert!(
            matches!(error, ClientError::Unreachable { .. }),
            "{error:?}"
        );
        assert!(start.elapsed() < 210 * MS, "{:?}", start.elapsed());
        drop((silent.take(), peer.take()));
    }

    // Counted from the last connection.
    let (builder, mut net) = network();
    let client = builder.reconnect(give_up(SECOND)).connect().await.unwrap();
    let mut peer = net.welcomed().await;
    timeout(60 * SECOND, peer.frame()).await.unwrap_err();
    drop(peer);
    net.welcomed().await;
    assert_eq!(client.stats().connections, 1);
}

/// Everything is answered, and the broker is far away: its close is not waited for.
#[tokio::test(start_paused = true)]
async fn close_ends_when_the_close_has_left() {
    let (client, _net, mut peer, _subscription) = subscriber().await;
    let start = Instant::now();
    client.close(60 * SECOND).await.unwrap();
    assert_eq!(start.elapsed(), Duration::ZERO);
    let close = peer.message().await;
    assert!(matches!(close, Some(Message::Close(_))), "{close:?}");
}

#[tokio::test(start_paused = true)]
async fn a_token_that_never_comes_is_not_waited_for_for_ever() {
    let (builder, mut net) = network();
    let asked = Arc::new(AtomicU32::new(0));
    let counter = Arc::clone(&asked);
    let client = builder
        .token_with(move || {
            let before = counter.fetch_add(1, Ordering::Relaxed);
            async move {
                if before == 0 {
                    std::future::pending::<()>().await;
                }
                Ok(format!("t{before}"))
            }
        })
        .connect()
        .await
        .unwrap();
    let start = Instant::now();
    let mut peer = net.welcomed().await;
    assert!(start.elapsed() >= 10 * SECOND && start.elapsed() < 11 * SECOND);
    // On a living connection too.
    peer.say(json!({"type": "error", "code": "expiring", "message": "soon"}))
        .await;
    assert_eq!(peer.frame().await["type"], "auth");
    drop(client);
}

#[tokio::test(start_paused = true)]
async fn a_token_that_is_asked_for_is_not_asked_for_twice() {
    let (builder, mut net) = network();
    let asked = Arc::new(AtomicU32::new(0));
    let given = Arc::new(tokio::sync::Semaphore::new(1));
    let (counter, gate) = (Arc::clone(&asked), Arc::clone(&given));
    let client = builder
        .token_with(move || {
            let before = counter.fetch_add(1, Ordering::Relaxed);
            let gate = Arc::clone(&gate);
            async move {
                gate.acquire().await?.forget();
                Ok(format!("t{before}"))
            }
        })
        .connect()
        .await
        .unwrap();
    let mut peer = net.welcomed().await;
    for _ in 0..3 {
        peer.say(json!({"type": "error", "code": "expiring", "message": "soon"}))
            .await;
    }
    sleep(SECOND).await;
    assert_eq!(asked.load(Ordering::Relaxed), 2);
    given.add_permits(3);
    assert_eq!(peer.frame().await["type"], "auth");
    timeout(SECOND, peer.frame()).await.unwrap_err();
    drop(client);
}

/// The broker would take it, and say at once that it runs out.
#[tokio::test(start_paused = true)]
async fn a_token_that_is_in_use_is_not_sent_again() {
    let fixed = |builder: ClientBuilder| builder.token("t");
    let same = |builder: ClientBuilder| builder.token_with(|| async { Ok("t".to_owned()) });
    let giving: [&dyn Fn(ClientBuilder) -> ClientBuilder; 2] = [&fixed, &same];
    for give in giving {
        let (builder, mut net) = network();
        let client = give(builder).connect().await.unwrap();
        let mut peer = net.welcomed().await;
        for _ in 0..3 {
            peer.say(json!({"type": "error", "code": "expiring", "message": "soon"}))
                .await;
            timeout(SECOND, peer.frame()).await.unwrap_err();
        }
        drop(client);
    }
}

#[tokio::test(start_paused = true)]
async fn one_that_was_sent_is_in_use() {
    let (builder, mut net) = network();
    let asked = AtomicU32::new(0);
    let client = builder
        .token_with(move || {
            let first = asked.fetch_add(1, Ordering::Relaxed) == 0;
            async move { Ok(if first { "first" } else { "second" }.to_owned()) }
        })
        .connect()
        .await
        .unwrap();
    let mut peer = net.welcomed().await;
    let expiring = json!({"type": "error", "code": "expiring", "message": "soon"});
    peer.say(expiring.clone()).await;
    assert_eq!(peer.frame().await["token"], "second");
    peer.say(expiring).await;
    timeout(SECOND, peer.frame()).await.unwrap_err();
    drop(client);
}

#[tokio::test(start_paused = true)]
async fn no_time_is_too_long() {
    let (builder, mut net) = network();
    let client = builder
        .reconnect(Reconnect {
            first_wait: Duration::MAX,
            longest_wait_in_the_first_minute: Duration::from_millis(1),
            longest_wait: Duration::MAX,
            give_up_after: Some(Duration::MAX),
        })
        .connect_timeout(Duration::MAX)
        .request_timeout(Duration::MAX)
        .token_with(|| async { Ok("t".to_owned()) })
        .connect()
        .await
        .unwrap();
    drop(net.tcp().await);
    let mut peer = net.upgraded().await;
    peer.welcome(
        json!({"heartbeat_ms": u64::MAX, "max_inflight": u64::MAX, "max_message_bytes": u64::MAX}),
    )
    .await;
    let receipt = client.publish("t", &1).send().await.unwrap();
    let publish = peer.publish().await;
    let closing = client.close(Duration::MAX);
    let (closed, ()) = tokio::join!(closing, async {
        sleep(SECOND).await;
        peer.published(&publish, 1).await;
        while peer.message().await.is_some() {}
    });
    closed.unwrap();
    receipt.await.unwrap();
    let refused = client.publish("t", &1).receipt().await.unwrap_err();
    assert_eq!(refused, PublishError::Ended(ClientError::Closed));
}

// ---- real sockets

/// An address that swallows what is sent there: a listener that never accepts, and whose queue is full.
#[cfg(target_os = "linux")]
struct BlackHole {
    address: std::net::SocketAddr,
    _held: Vec<socket2::Socket>,
}

#[cfg(target_os = "linux")]
fn black_hole() -> BlackHole {
    use socket2::{Domain, SockAddr, Socket, Type};
    let socket = || Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    let listener = socket();
    let any: std::net::SocketAddr = "127.0.0.1:0".parse().unwrap();
    listener.bind(&any.into()).unwrap();
    listener.listen(0).unwrap();
    let address = listener.local_addr().unwrap();
    let mut held = vec![listener];
    // Until one is left waiting.
    for _ in 0..8 {
        let client = socket();
        let full = client
            .connect_timeout(&SockAddr::clone(&address), 200 * MS)
            .is_err();
        held.push(client);
        if full {
            let address = address.as_socket().unwrap();
            return BlackHole {
                address,
                _held: held,
            };
        }
    }
    panic!("the queue is never full");
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn a_dead_first_address_does_not_keep_the_client_away() {
    let hole = tokio::task::spawn_blocking(black_hole).await.unwrap();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let found = vec![hole.address, listener.local_addr().unwrap()];
    let mut builder = Client::builder("ws://hark.test/ws").subprotocol(Subprotocol::Json);
    builder.options_mut().resolver = Arc::new(move |host, port| {
        assert_eq!((host.as_str(), port), ("hark.test", 80));
        let found = found.clone();
        Box::pin(async move { Ok(found) })
    });
    let accept = async {
        let (stream, _) = listener.accept().await.unwrap();
        let mut peer = Peer::upgrade(stream).await;
        peer.welcome(json!({})).await;
        peer
    };
    let (client, peer) = tokio::join!(builder.connect(), accept);
    let client = client.unwrap();
    // And again, as often as it has to.
    let mut peer = Some(peer);
    for connections in 2..5 {
        drop(peer.take());
        let (stream, _) = listener.accept().await.unwrap();
        let mut next = Peer::upgrade(stream).await;
        next.welcome(json!({})).await;
        peer = Some(next);
        let deadline = std::time::Instant::now() + 20 * SECOND;
        while client.stats().connections < connections {
            assert!(std::time::Instant::now() < deadline);
            tokio::task::yield_now().await;
        }
    }
}

/// What lies in the kernel's queue has not left, and a question behind it is not answered before it has.
#[tokio::test]
async fn what_lies_in_the_kernel_is_no_silence() {
    use tokio::io::AsyncReadExt;
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("ws://{}/ws", listener.local_addr().unwrap());
    let builder = Client::builder(url).subprotocol(Subprotocol::Json);
    let accept = async {
        let (stream, _) = listener.accept().await.unwrap();
        let mut peer = Peer::upgrade(stream).await;
        peer.welcome(json!({})).await;
        peer
    };
    let (client, mut peer) = tokio::join!(builder.connect(), accept);
    let client = client.unwrap();
    let mut events = client.events();
    let _receipt = client
        .publish("t", &"x".repeat(1_000_000))
        .send()
        .await
        .unwrap();
    // 80 KB a second, so that it takes longer than a question and its answer may.
    let reading = async {
        let stream = peer.socket.get_mut();
        let mut part = vec![0; 8_000];
        let mut read = 0;
        while read < 1_000_000 {
            read += stream.read_exact(&mut part).await.unwrap();
            sleep(100 * MS).await;
        }
    };
    tokio::select! {
        () = reading => {}
        reason = event(&mut events, reason_of) => panic!("given up: {reason}"),
    }
    assert_eq!(client.stats().connections, 1);
}
