//! A stand-in for the broker: topics in memory, the real frames, and producers counted as the design says. It keeps
//! everything, so it never says `gap`. For examples and for tests that need no faults.
#![allow(
    dead_code,
    missing_docs,
    clippy::unwrap_used,
    unreachable_pub,
    reason = "a test's helper, of which the doctest uses a part"
)]

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use futures_util::{SinkExt, StreamExt};
use hark_client::{Cursor, ErrorCode, ProducerId, Subprotocol, SubscribeFrom, TopicName};
use hark_protocol::{
    ClientFrame, Destination, Encoded, Epoch, Idempotency, PublishAll, Record, ServerFrame,
    TopicOutcome, TopicReceipt, codec,
};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::handshake::server::{Request, Response};

/// All topics.
#[derive(Debug, Default)]
pub struct Mini {
    topics: Mutex<HashMap<TopicName, Topic>>,
    /// Moved with every record.
    changed: watch::Sender<()>,
}

#[derive(Debug, Default)]
pub struct Topic {
    pub records: Vec<Record>,
    /// The last number kept of each producer.
    pub producers: HashMap<ProducerId, u64>,
}

const EPOCH: Epoch = Epoch::new(7);

/// Serves on a free port of the loopback address, until the runtime ends. The URL.
pub async fn start() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("ws://{}/ws", listener.local_addr().unwrap());
    let mini = Arc::new(Mini::default());
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(serve(Arc::clone(&mini), stream));
        }
    });
    url
}

async fn serve(mini: Arc<Mini>, stream: TcpStream) {
    let mut subprotocol = Subprotocol::Json;
    #[allow(clippy::result_large_err)] // the callback's type is tungstenite's
    let choose = |request: &Request, mut response: Response| {
        if let Some(offered) = request.headers().get("sec-websocket-protocol") {
            subprotocol = Subprotocol::by_name(offered.to_str().unwrap()).unwrap();
            response
                .headers_mut()
                .insert("sec-websocket-protocol", offered.clone());
        }
        Ok(response)
    };
    let Ok(mut socket) = tokio_tungstenite::accept_hdr_async(stream, choose).await else {
        return;
    };
    let mut out = vec![ServerFrame::Welcome {
        session: "s1".into(),
        version: env!("CARGO_PKG_VERSION").into(),
        heartbeat_ms: 25_000,
        max_message_bytes: 1024 * 1024,
        max_inflight: 1024,
    }];
    let mut positions: HashMap<TopicName, u64> = HashMap::new();
    let mut changed = mini.changed.subscribe();
    loop {
        for (topic, position) in &mut positions {
            let news = mini.after(topic, *position);
            *position += news.len() as u64;
            out.extend(news);
        }
        for frame in out.drain(..) {
            let message = match codec::encode_server(&frame, subprotocol) {
                Encoded::Text(text) => Message::text(&*text),
                Encoded::Binary(bytes) => Message::Binary(bytes),
            };
            if socket.feed(message).await.is_err() {
                return;
            }
        }
        if socket.flush().await.is_err() {
            return;
        }
        let bytes = tokio::select! {
            message = socket.next() => match message {
                Some(Ok(message)) if message.is_text() || message.is_binary() => message.into_data(),
                Some(Ok(_)) => continue,
                Some(Err(_)) | None => return,
            },
            _ = changed.changed() => continue,
        };
        match codec::decode_client(&bytes, subprotocol).unwrap() {
            ClientFrame::Subscribe {
                id, topic, from, ..
            } => {
                let head = mini.head(&topic);
                let start = match from {
                    SubscribeFrom::Now => head,
                    SubscribeFrom::After(cursor) => cursor.offset,
                    SubscribeFrom::Last(n) => head.saturating_sub(n),
                    SubscribeFrom::Earliest
                    | SubscribeFrom::SinceTime(_)
                    | SubscribeFrom::SinceAgo(_) => 0,
                };
                let cursor = |offset| Cursor {
                    epoch: EPOCH,
                    offset,
                };
                let resumed = matches!(from, SubscribeFrom::After(_));
                out.push(ServerFrame::Subscribed {
                    id,
                    topic: topic.clone(),
                    cursor: cursor(start),
                    head,
                    resumed,
                });
                let history = mini.after(&topic, start);
                let position = start + history.len() as u64;
                out.extend(history);
                out.push(ServerFrame::CaughtUp {
                    topic: topic.clone(),
                    cursor: cursor(position),
                });
                positions.insert(topic, position);
            }
            ClientFrame::Unsubscribe { id, topic } => {
                positions.remove(&topic);
                out.push(ServerFrame::Unsubscribed { id, topic });
            }
            ClientFrame::Publish {
                id,
                topic,
                message,
                idempotency,
            } => {
                out.push(mini.publish(id.unwrap(), topic, message, idempotency));
            }
            ClientFrame::PublishAll { id, publish } => {
                out.push(mini.publish_all(id.unwrap(), &publish));
            }
            ClientFrame::Ping { id } => out.push(ServerFrame::Pong { id }),
            ClientFrame::Auth { .. } => {}
        }
    }
}

impl Mini {
    fn head(&self, topic: &TopicName) -> u64 {
        self.topics
            .lock()
            .unwrap()
            .get(topic)
            .map_or(0, |topic| topic.records.len() as u64)
    }

    fn after(&self, topic: &TopicName, offset: u64) -> Vec<ServerFrame> {
        let topics = self.topics.lock().unwrap();
        let Some(kept) = topics.get(topic) else {
            return Vec::new();
        };
        let records = kept.records.iter().skip(offset as usize);
        records
            .map(|record| ServerFrame::Message {
                topic: topic.clone(),
                record: record.clone(),
            })
            .collect()
    }

    /// Keeps a message that is the next of its producer; the answer.
    pub fn publish(
        &self,
        id: u64,
        topic: TopicName,
        message: hark_protocol::Message,
        idempotency: Idempotency,
    ) -> ServerFrame {
        let mut topics = self.topics.lock().unwrap();
        let kept = topics.entry(topic.clone()).or_default();
        let mut duplicate = false;
        if let Idempotency::Sequence { producer, seq } = idempotency {
            let last = kept.producers.entry(producer).or_default();
            if seq > *last + 1 {
                return ServerFrame::Error {
                    id: Some(id),
                    code: ErrorCode::OutOfSequence,
                    message: format!("expected {}", *last + 1),
                    expected_seq: Some(*last + 1),
                    retry_after_ms: None,
                };
            }
            duplicate = seq <= *last;
            *last = seq.max(*last);
        }
        if !duplicate {
            let offset = kept.records.len() as u64 + 1;
            kept.records.push(Record {
                offset,
                prev: None,
                time_ms: 1_764_230_400_000 + offset,
                identity: None,
                message,
            });
            self.changed.send_replace(());
        }
        let cursor = Cursor {
            epoch: EPOCH,
            offset: kept.records.len() as u64,
        };
        ServerFrame::Published {
            id,
            topic,
            cursor,
            duplicate,
        }
    }

    /// Keeps a message in each of its topics.
    fn publish_all(&self, id: u64, publish: &PublishAll) -> ServerFrame {
        let receipt = |(at, topic): (usize, &Destination)| {
            let message = publish.message().clone();
            let idempotency = publish.idempotency_at(at);
            let name = topic.topic().unwrap().clone();
            let outcome = match self.publish(id, name, message, idempotency) {
                ServerFrame::Published {
                    cursor, duplicate, ..
                } => TopicOutcome::Kept { cursor, duplicate },
                ServerFrame::Error {
                    code,
                    message,
                    expected_seq,
                    ..
                } => TopicOutcome::Refused {
                    code,
                    message,
                    expected_seq,
                },
                other => panic!("no answer to a publish: {other:?}"),
            };
            TopicReceipt {
                topic: topic.clone(),
                outcome,
            }
        };
        let receipts = publish.topics().iter().enumerate().map(receipt).collect();
        ServerFrame::PublishedAll { id, receipts }
    }

    /// The messages of a topic, as text.
    pub fn kept(&self, topic: &str) -> Vec<String> {
        let topics = self.topics.lock().unwrap();
        let Some(topic) = topics.get(topic) else {
            return Vec::new();
        };
        let text = |record: &Record| match &record.message.payload {
            hark_client::Payload::Json(text) => text.as_str().to_owned(),
            hark_client::Payload::Bytes { data, .. } => String::from_utf8_lossy(data).into_owned(),
        };
        topic.records.iter().map(text).collect()
    }
}
