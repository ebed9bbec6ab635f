//! A WebSocket client for well-behaved sessions in either subprotocol. Frames are JSON values in both, so that a test
//! says the same in either. Broken frames are `RawWs`'s.

use std::collections::VecDeque;
use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::{FutureExt as _, SinkExt as _, StreamExt as _};
use hark_protocol::{Subprotocol, codec};
use rustls::ClientConfig;
use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;
use tokio_tungstenite::tungstenite::{Error, Message};

use crate::tls::server_name;
use crate::{Broker, Seen, Tls, within};

/// A socket, or TLS over one.
trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}

impl<T: AsyncRead + AsyncWrite + Unpin + Send> Stream for T {}

/// A session.
pub struct Ws {
    socket: WebSocketStream<Box<dyn Stream>>,
    subprotocol: Subprotocol,
    next_id: u64,
    /// Frames that came while another one was looked for, in their order.
    waiting: VecDeque<Value>,
    /// The first frame.
    pub welcome: Value,
}

/// How a session ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ended {
    /// The close code; `None` when the connection just broke.
    pub code: Option<u16>,
    /// The close reason, or how the connection broke.
    pub reason: String,
}

impl From<Error> for Ended {
    fn from(error: Error) -> Self {
        Self {
            code: None,
            reason: error.to_string(),
        }
    }
}

impl fmt::Debug for Ws {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ws")
            .field("welcome", &self.welcome)
            .finish_non_exhaustive()
    }
}

impl Ws {
    /// As a plain client: no subprotocol, JSON.
    pub async fn connect(broker: &Broker) -> Self {
        Self::connect_as(broker, None).await
    }

    /// Asks for this subprotocol, and checks that it is chosen.
    pub async fn connect_as(broker: &Broker, subprotocol: impl Into<Option<Subprotocol>>) -> Self {
        let subprotocol = subprotocol.into();
        let client = broker.tls().map(Tls::client);
        let ws = Self::connect_with(broker.addr(), subprotocol, client).await;
        ws.unwrap_or_else(|e| panic!("no session with {subprotocol:?}: {e}"))
    }

    /// Like `connect_as`, for a broker that may be down. Never panics.
    pub async fn try_connect(
        addr: SocketAddr,
        subprotocol: Option<Subprotocol>,
    ) -> Result<Self, Error> {
        Self::connect_with(addr, subprotocol, None).await
    }

    /// Over TLS by these rules, if there are some.
    pub async fn connect_with(
        addr: SocketAddr,
        subprotocol: Option<Subprotocol>,
        tls: Option<ClientConfig>,
    ) -> Result<Self, Error> {
        let mut request = format!("ws://{addr}/ws").into_client_request()?;
        if let Some(subprotocol) = subprotocol {
            let name = subprotocol.name().parse().expect("a header value");
            request.headers_mut().insert("sec-websocket-protocol", name);
        }
        let connected = async {
            let tcp = TcpStream::connect(addr).await?;
            tcp.set_nodelay(true)?;
            let stream: Box<dyn Stream> = match tls {
                None => Box::new(tcp),
                Some(config) => {
                    let connector = TlsConnector::from(Arc::new(config));
                    Box::new(connector.connect(server_name(), tcp).await?)
                }
            };
            tokio_tungstenite::client_async(request, stream).await
        };
        let (socket, _) = within("a connection", connected).await?;
        let subprotocol = subprotocol.unwrap_or(Subprotocol::Json);
        let mut ws = Self {
            socket,
            subprotocol,
            next_id: 1000,
            waiting: VecDeque::new(),
            welcome: Value::Null,
        };
        ws.welcome = ws.next().await.map_err(|_| Error::ConnectionClosed)?;
        assert_eq!(
            ws.welcome["type"], "welcome",
            "the first frame is a welcome"
        );
        Ok(ws)
    }

    /// Sends a frame.
    pub async fn send(&mut self, frame: &Value) {
        self.try_feed(frame).await.unwrap();
        self.flush().await.unwrap();
    }

    /// Sends what was fed.
    pub async fn flush(&mut self) -> Result<(), Ended> {
        within("room to send", self.socket.flush())
            .await
            .map_err(Ended::from)
    }

    /// Sends a text that may be no frame.
    pub async fn send_text(&mut self, text: &str) {
        within("room to send", self.socket.send(Message::text(text)))
            .await
            .unwrap();
    }

    /// Sends a WebSocket message of any kind.
    pub async fn send_message(&mut self, message: Message) {
        within("room to send", self.socket.send(message))
            .await
            .unwrap();
    }

    /// Takes a frame to be sent with the next `flush`.
    pub async fn try_feed(&mut self, frame: &Value) -> Result<(), Ended> {
        let text = frame.to_string();
        let message = match self.subprotocol {
            Subprotocol::Json => Message::text(text),
            Subprotocol::Bincode => {
                let frame = codec::json::decode_client(&Bytes::from(text))
                    .expect("a frame that can be sent");
                Message::binary(codec::binary::encode_client(&frame))
            }
        };
        within("room to send", self.socket.feed(message))
            .await
            .map_err(Ended::from)
    }

    /// The next frame, or how the session ended.
    pub async fn next(&mut self) -> Result<Value, Ended> {
        match self.waiting.pop_front() {
            Some(frame) => Ok(frame),
            None => within("a frame", self.read()).await,
        }
    }

    async fn read(&mut self) -> Result<Value, Ended> {
        loop {
            match self.socket.next().await {
                Some(Ok(message @ (Message::Text(_) | Message::Binary(_)))) => {
                    return Ok(self.decode(message));
                }
                Some(Ok(Message::Close(close))) => {
                    let close = close.expect("Hark closes with a code");
                    return Err(Ended {
                        code: Some(close.code.into()),
                        reason: close.reason.to_string(),
                    });
                }
                Some(Ok(Message::Ping(_) | Message::Pong(_) | Message::Frame(_))) => {}
                Some(Err(error)) => return Err(error.into()),
                None => {
                    return Err(Ended {
                        code: None,
                        reason: "the stream ended".to_owned(),
                    });
                }
            }
        }
    }

    fn decode(&self, message: Message) -> Value {
        let json = match (self.subprotocol, message) {
            (Subprotocol::Json, Message::Text(text)) => Bytes::copy_from_slice(text.as_bytes()),
            (Subprotocol::Bincode, Message::Binary(bytes)) => {
                let frame =
                    codec::binary::decode_server(&bytes).expect("a frame of hark.v1.bincode");
                codec::json::encode_server(&frame).into_bytes()
            }
            (subprotocol, message) => {
                panic!("a frame of the wrong kind for {subprotocol:?}: {message:?}")
            }
        };
        assert!(!json.contains(&b'\n'), "a frame on one line: {json:?}");
        serde_json::from_slice(&json).unwrap_or_else(|e| panic!("{e} in {json:?}"))
    }

    /// The next frame; panics if the session ended.
    pub async fn recv(&mut self) -> Value {
        self.next()
            .await
            .unwrap_or_else(|ended| panic!("a frame was expected, not {ended:?}"))
    }

    /// The next frame, which must be of this type. That the session lags, as a slow machine may make it, is passed over unless it is asked for.
    pub async fn expect(&mut self, kind: &str) -> Value {
        let mut frame = self.recv().await;
        while kind != "lagging" && frame["type"] == "lagging" {
            frame = self.recv().await;
        }
        assert_eq!(frame["type"], kind, "{frame}");
        frame
    }

    /// The next frame, which must be a message.
    pub async fn message(&mut self) -> Value {
        self.expect("message").await
    }

    /// The frame with this `id`. What comes before it stays to be received.
    pub async fn answer(&mut self, id: u64) -> Value {
        let answer = self.try_answer(id).await;
        answer.unwrap_or_else(|ended| panic!("answer {id} was expected, not {ended:?}"))
    }

    /// Like `answer`, for a session that may end.
    pub async fn try_answer(&mut self, id: u64) -> Result<Value, Ended> {
        let skipped = self.waiting.iter().position(|frame| frame["id"] == id);
        if let Some(frame) = skipped.and_then(|at| self.waiting.remove(at)) {
            return Ok(frame);
        }
        loop {
            let frame = within("an answer", self.read()).await?;
            if frame["id"] == id {
                return Ok(frame);
            }
            self.waiting.push_back(frame);
        }
    }

    /// Sends a command under a new id and gives the answer.
    pub async fn ask(&mut self, command: Value) -> Value {
        let answer = self.try_ask(command.clone()).await;
        answer.unwrap_or_else(|ended| panic!("an answer to {command} was expected, not {ended:?}"))
    }

    /// Like `ask`, for a session that may end.
    pub async fn try_ask(&mut self, mut command: Value) -> Result<Value, Ended> {
        let id = self.new_id();
        command["id"] = json!(id);
        self.try_feed(&command).await?;
        self.flush().await?;
        self.try_answer(id).await
    }

    /// An id this session has not used.
    pub fn new_id(&mut self) -> u64 {
        self.next_id += 1;
        self.next_id
    }

    /// Subscribes and gives the `subscribed`.
    pub async fn subscribe(&mut self, topic: &str, from: Value) -> Value {
        let answer = self
            .ask(json!({"type": "subscribe", "topic": topic, "from": from}))
            .await;
        assert_eq!(answer["type"], "subscribed", "{answer}");
        answer
    }

    /// Subscribes and begins to take down what is seen.
    pub async fn watch(&mut self, topic: &str, from: Value) -> Seen {
        Seen::start(topic, &self.subscribe(topic, from).await)
    }

    /// Takes frames down until `done`.
    pub async fn follow(&mut self, seen: &mut Seen, done: impl Fn(&Seen) -> bool) {
        while !done(seen) {
            let frame = self.recv().await;
            seen.take(&frame);
        }
    }

    /// Subscribes and takes down everything until `caught_up`.
    pub async fn watch_to_caught_up(&mut self, topic: &str, from: Value) -> Seen {
        let mut seen = self.watch(topic, from).await;
        self.follow(&mut seen, |seen| seen.caught_up == 1).await;
        seen
    }

    /// Unsubscribes and gives the `unsubscribed`.
    pub async fn unsubscribe(&mut self, topic: &str) -> Value {
        let answer = self
            .ask(json!({"type": "unsubscribe", "topic": topic}))
            .await;
        assert_eq!(answer["type"], "unsubscribed", "{answer}");
        answer
    }

    /// Publishes JSON and gives the receipt.
    pub async fn publish(&mut self, topic: &str, data: Value) -> Value {
        self.publish_frame(json!({"topic": topic, "data": data}))
            .await
    }

    /// Publishes with what `frame` says (topic, data, headers, producer, …) and gives the receipt.
    pub async fn publish_frame(&mut self, mut frame: Value) -> Value {
        frame["type"] = json!("publish");
        let answer = self.ask(frame).await;
        assert_eq!(answer["type"], "published", "{answer}");
        answer
    }

    /// Publishes many, at most `window` of them unanswered at any time, and gives the answers (receipts or errors) in
    /// order. Frames that are no answers stay to be received.
    pub async fn publish_all(
        &mut self,
        frames: impl IntoIterator<Item = Value>,
        window: u64,
    ) -> Vec<Value> {
        let mut answers = Vec::new();
        let first = self.next_id + 1;
        for mut frame in frames {
            frame["type"] = json!("publish");
            frame["id"] = json!(self.new_id());
            if self.next_id - first - answers.len() as u64 >= window {
                self.flush().await.unwrap();
                answers.push(self.answer(first + answers.len() as u64).await);
                // What else has come meanwhile is taken without waiting, so that the next flush sends many.
                while let Some(Some(Ok(message))) = self.socket.next().now_or_never() {
                    if message.is_text() || message.is_binary() {
                        let frame = self.decode(message);
                        self.waiting.push_back(frame);
                    } else {
                        assert!(!message.is_close(), "closed while publishing: {message:?}");
                    }
                }
                while let Some(at) = self.position(first + answers.len() as u64) {
                    answers.extend(self.waiting.remove(at));
                }
            }
            self.try_feed(&frame).await.unwrap();
        }
        self.flush().await.unwrap();
        while first + (answers.len() as u64) <= self.next_id {
            answers.push(self.answer(first + answers.len() as u64).await);
        }
        answers
    }

    fn position(&self, id: u64) -> Option<usize> {
        self.waiting.iter().position(|frame| frame["id"] == id)
    }

    /// Checks that the session is alive and that nothing is left to be received: everything Hark had to say before the
    /// `pong` is in front of it.
    pub async fn expect_quiet(&mut self) {
        let id = self.new_id();
        self.send(&json!({"type": "ping", "id": id})).await;
        assert_eq!(self.recv().await, json!({"type": "pong", "id": id}));
    }

    /// Waits for the end of the session, passing over what else comes.
    pub async fn expect_close(&mut self) -> Ended {
        loop {
            if let Err(ended) = self.next().await {
                return ended;
            }
        }
    }
}
