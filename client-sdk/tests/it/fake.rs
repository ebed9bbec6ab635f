//! A broker that does what a test says, one session at a time.

use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use hark_client::{
    Client, ClientBuilder, CloseCode, ConnectionEvent, ConnectionEvents, Cursor, Headers, JsonText,
    Payload, Reconnect, Subprotocol, SubscribeFrom, TopicName,
};
use hark_protocol::{
    ClientFrame, Encoded, Epoch, ErrorCode, Idempotency, Message, Record, ServerFrame, codec,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::handshake::server::{Request, Response};
use tokio_tungstenite::tungstenite::protocol::CloseFrame;
use tokio_tungstenite::tungstenite::{self, Message as WsMessage};

/// How long anything may take before it counts as hanging.
pub(crate) const DEADLINE: Duration = Duration::from_secs(20);

/// Awaits `future`; panics, saying what was awaited, when it takes too long.
pub(crate) async fn within<T>(what: &str, future: impl Future<Output = T>) -> T {
    tokio::time::timeout(DEADLINE, future)
        .await
        .unwrap_or_else(|_| panic!("waited in vain for {what}"))
}

/// Whether `future` is still not ready after a while that is long for a computer.
pub(crate) async fn pends<T>(future: impl Future<Output = T>) -> bool {
    tokio::time::timeout(Duration::from_millis(100), future)
        .await
        .is_err()
}

/// The listening end.
pub(crate) struct Fake {
    listener: TcpListener,
    pub(crate) url: String,
    pub(crate) heartbeat_ms: u64,
    pub(crate) version: &'static str,
    pub(crate) max_message_bytes: u64,
}

/// One accepted connection.
pub(crate) struct Session {
    socket: WebSocketStream<TcpStream>,
    pub(crate) subprotocol: Subprotocol,
    /// The `Authorization` header of the upgrade.
    pub(crate) authorization: Option<String>,
}

impl Fake {
    pub(crate) async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("ws://{}/ws", listener.local_addr().unwrap());
        Self {
            listener,
            url,
            heartbeat_ms: 25_000,
            version: "0.1.0",
            max_message_bytes: 1024 * 1024,
        }
    }

    /// A client that tries again quickly, so that tests are quick.
    pub(crate) fn builder(&self) -> ClientBuilder {
        let quickly = Reconnect {
            first_wait: Duration::from_millis(5),
            longest_wait: Duration::from_millis(20),
            ..Reconnect::default()
        };
        Client::builder(&self.url).reconnect(quickly)
    }

    /// A connected client and its session.
    pub(crate) async fn connect(&self, builder: ClientBuilder) -> (Client, Session) {
        let (client, session) = within("a connection", async {
            tokio::join!(builder.connect(), self.accept())
        })
        .await;
        (client.unwrap(), session)
    }

    /// The next connection, welcomed.
    pub(crate) async fn accept(&self) -> Session {
        let mut session = self.accept_silently().await;
        session
            .say(ServerFrame::Welcome {
                session: "s1".into(),
                version: self.version.into(),
                heartbeat_ms: self.heartbeat_ms,
                max_message_bytes: self.max_message_bytes,
                max_inflight: 1024,
            })
            .await;
        session
    }

    pub(crate) async fn accept_tcp(&self) -> TcpStream {
        within("a TCP connection", self.listener.accept())
            .await
            .unwrap()
            .0
    }

    /// The next connection, upgraded but not welcomed.
    pub(crate) async fn accept_silently(&self) -> Session {
        let stream = self.accept_tcp().await;
        let mut subprotocol = Subprotocol::Json;
        let mut authorization = None;
        #[allow(clippy::result_large_err)] // the callback's type is tungstenite's
        let choose = |request: &Request, mut response: Response| {
            let header = |name| request.headers().get(name);
            if let Some(offered) = header("sec-websocket-protocol") {
                subprotocol = Subprotocol::by_name(offered.to_str().unwrap()).unwrap();
                response
                    .headers_mut()
                    .insert("sec-websocket-protocol", offered.clone());
            }
            authorization = header("authorization").map(|value| value.to_str().unwrap().to_owned());
            Ok(response)
        };
        let socket = tokio_tungstenite::accept_hdr_async(stream, choose)
            .await
            .unwrap();
        Session {
            socket,
            subprotocol,
            authorization,
        }
    }

    /// Answers the next request for an upgrade with an HTTP error.
    pub(crate) async fn answer_http(&self, head: &str, body: &str) {
        let mut stream = self.accept_tcp().await;
        let mut request = Vec::new();
        while !request.ends_with(b"\r\n\r\n") {
            request.push(stream.read_u8().await.unwrap());
        }
        let response = format!(
            "HTTP/1.1 {head}\r\ncontent-length: {}\r\n\r\n{body}",
            body.len()
        );
        stream.write_all(response.as_bytes()).await.unwrap();
    }
}

impl Session {
    /// The next frame; pings are answered on the way.
    pub(crate) async fn next(&mut self) -> ClientFrame {
        match within("a frame", self.try_next()).await {
            Ok(frame) => frame,
            Err(closed) => panic!("expected a frame, but the client is gone: {closed:?}"),
        }
    }

    /// The next frame, or the code of a close. `None`: it ended without.
    pub(crate) async fn try_next(&mut self) -> Result<ClientFrame, Option<u16>> {
        loop {
            let bytes = match self.socket.next().await {
                Some(Ok(WsMessage::Text(text))) if self.subprotocol == Subprotocol::Json => {
                    text.into()
                }
                Some(Ok(WsMessage::Binary(bytes))) if self.subprotocol == Subprotocol::Bincode => {
                    bytes
                }
                Some(Ok(WsMessage::Close(close))) => {
                    return Err(close.map(|close| close.code.into()));
                }
                Some(Ok(WsMessage::Ping(_) | WsMessage::Pong(_))) => continue,
                Some(Ok(other)) => panic!("not of the subprotocol: {other:?}"),
                Some(Err(_)) | None => return Err(None),
            };
            match codec::decode_client(&bytes, self.subprotocol).unwrap() {
                ClientFrame::Ping { id } => self.say(ServerFrame::Pong { id }).await,
                frame => return Ok(frame),
            }
        }
    }

    /// The next frame, which is a publish: its id, its JSON and its number.
    pub(crate) async fn next_publish(&mut self) -> (u64, String, u64) {
        match self.next().await {
            ClientFrame::Publish {
                id: Some(id),
                message,
                idempotency,
                ..
            } => {
                let text = match message.payload {
                    Payload::Json(text) => text.as_str().to_owned(),
                    Payload::Bytes { data, .. } => format!("{} bytes", data.len()),
                };
                let seq = match idempotency {
                    Idempotency::Sequence { seq, .. } => seq,
                    Idempotency::None | Idempotency::Key(_) => 0,
                };
                (id, text, seq)
            }
            other => panic!("expected a publish: {other:?}"),
        }
    }

    /// The next frame, which is a subscribe: its id and where from.
    pub(crate) async fn next_subscribe(&mut self) -> (u64, SubscribeFrom) {
        match self.next().await {
            ClientFrame::Subscribe {
                id: Some(id), from, ..
            } => (id, from),
            other => panic!("expected a subscribe: {other:?}"),
        }
    }

    /// The next frame, which is an unsubscribe: its id.
    pub(crate) async fn next_unsubscribe(&mut self) -> u64 {
        match self.next().await {
            ClientFrame::Unsubscribe { id: Some(id), .. } => id,
            other => panic!("expected an unsubscribe: {other:?}"),
        }
    }

    pub(crate) async fn say(&mut self, frame: ServerFrame) {
        self.try_say(frame).await.unwrap();
    }

    pub(crate) async fn try_say(&mut self, frame: ServerFrame) -> Result<(), tungstenite::Error> {
        let message = match codec::encode_server(&frame, self.subprotocol) {
            Encoded::Text(text) => WsMessage::text(&*text),
            Encoded::Binary(bytes) => WsMessage::Binary(bytes),
        };
        self.socket.send(message).await
    }

    pub(crate) async fn say_raw(&mut self, message: WsMessage) {
        self.socket.send(message).await.unwrap();
    }

    pub(crate) async fn next_raw(&mut self) -> WsMessage {
        within("a frame", self.socket.next())
            .await
            .unwrap()
            .unwrap()
    }

    pub(crate) async fn published(&mut self, id: u64, offset: u64) {
        let topic = topic();
        self.say(ServerFrame::Published {
            id,
            topic,
            cursor: cursor(offset),
            duplicate: false,
        })
        .await;
    }

    pub(crate) async fn refuse(&mut self, id: u64, code: ErrorCode) {
        let message = code.to_string();
        self.say(ServerFrame::Error {
            id: Some(id),
            code,
            message,
            expected_seq: None,
            retry_after_ms: None,
        })
        .await;
    }

    pub(crate) async fn subscribed(&mut self, id: u64, offset: u64) {
        let (id, topic, cursor) = (Some(id), topic(), cursor(offset));
        self.say(ServerFrame::Subscribed {
            id,
            topic,
            cursor,
            head: offset,
            resumed: false,
        })
        .await;
    }

    pub(crate) async fn unsubscribed(&mut self, id: u64) {
        self.say(ServerFrame::Unsubscribed {
            id: Some(id),
            topic: topic(),
        })
        .await;
    }

    pub(crate) async fn message(&mut self, offset: u64) {
        self.say(message(offset)).await;
    }

    pub(crate) async fn close(mut self, code: CloseCode, reason: &'static str) {
        let close = CloseFrame {
            code: code.0.into(),
            reason: reason.into(),
        };
        self.socket
            .send(WsMessage::Close(Some(close)))
            .await
            .unwrap();
        // Until the client has answered and gone.
        within("the end of the connection", async {
            while let Some(Ok(_)) = self.socket.next().await {}
        })
        .await;
    }
}

/// The topic all of these tests use.
pub(crate) fn topic() -> TopicName {
    TopicName::parse("t").unwrap()
}

pub(crate) fn cursor(offset: u64) -> Cursor {
    Cursor {
        epoch: Epoch::new(7),
        offset,
    }
}

/// The message at `offset`; its content is the offset.
pub(crate) fn message(offset: u64) -> ServerFrame {
    let payload = Payload::Json(JsonText::from_checked(offset.to_string().into()).unwrap());
    message_of(offset, payload)
}

/// The message at `offset` with this content.
pub(crate) fn message_of(offset: u64, payload: Payload) -> ServerFrame {
    let message = Message {
        payload,
        headers: Headers::default(),
    };
    ServerFrame::Message {
        topic: topic(),
        record: Record {
            offset,
            prev: None,
            time_ms: 1,
            identity: None,
            message,
        },
    }
}

/// Waits for an event that `pick` takes.
pub(crate) async fn event<T>(
    events: &mut ConnectionEvents,
    pick: impl Fn(&ConnectionEvent) -> Option<T>,
) -> T {
    within("an event", async {
        loop {
            let event = events.next().await.expect("the client goes on");
            if let Some(picked) = pick(&event) {
                return picked;
            }
        }
    })
    .await
}
