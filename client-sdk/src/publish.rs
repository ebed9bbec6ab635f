//! Publishing: what a message is made of, the place in the window, and the receipt.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use bytestring::ByteString;
use hark_protocol::{
    Cursor, Headers, JsonText, Message, MessageId, Payload, TopicName, check_content_type,
};
use serde::Serialize;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};
use tokio::time::Sleep;

use crate::client::{Command, Shared};
use crate::outbox::{Outgoing, Permits};
use crate::{Client, PublishError};

/// The message is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Receipt {
    /// Its place in the topic. For a duplicate whose place the broker does not know any more the offset is 0, which is no message's.
    pub cursor: Cursor,
    /// The message had been kept by an earlier sending, before a connection broke. It is kept once.
    pub duplicate: bool,
}

/// A message that is about to be published. Nothing happens before [`send`](Self::send).
#[derive(Debug)]
#[must_use = "nothing is published before `send`"]
pub struct Publish<'a> {
    topic: &'a str,
    draft: Draft<'a>,
}

/// What is to be published, to one topic or to several, as the application gave it.
#[derive(Debug)]
pub(crate) struct Draft<'a> {
    pub(crate) client: &'a Client,
    pub(crate) payload: Result<Payload, PublishError>,
    pub(crate) headers: Vec<(ByteString, ByteString)>,
    pub(crate) message_id: Option<&'a str>,
}

impl<'a> Draft<'a> {
    pub(crate) fn new(client: &'a Client, payload: Result<Payload, PublishError>) -> Self {
        Self {
            client,
            payload,
            headers: Vec::new(),
            message_id: None,
        }
    }

    /// The message and its key, if a broker can take them.
    pub(crate) fn check(self) -> Result<(Message, Option<MessageId>), PublishError> {
        let payload = self.payload?;
        if let Payload::Bytes {
            content_type: Some(content_type),
            ..
        } = &payload
            && check_content_type(content_type).is_err()
        {
            return Err(PublishError::BadContentType);
        }
        let headers = Headers::new(self.headers)?;
        let message_id = self.message_id.map(MessageId::parse).transpose()?;
        Ok((Message { payload, headers }, message_id))
    }
}

impl Client {
    /// A message whose content is `data` as JSON.
    pub fn publish<'a>(&'a self, topic: &'a str, data: &(impl Serialize + ?Sized)) -> Publish<'a> {
        Publish::new(self, topic, json_of(data))
    }

    /// A message whose content is this text: `text/plain; charset=utf-8`. Text of another type, such as `text/markdown`, is published
    /// as bytes of that type.
    pub fn publish_text<'a>(&'a self, topic: &'a str, text: impl Into<ByteString>) -> Publish<'a> {
        Publish::new(self, topic, Ok(Payload::plain_text(text)))
    }

    /// A message whose content are these bytes, with what they are (such as `image/png`), if that is to be known.
    pub fn publish_bytes<'a>(
        &'a self,
        topic: &'a str,
        data: impl Into<Bytes>,
        content_type: Option<&str>,
    ) -> Publish<'a> {
        Publish::new(self, topic, Ok(bytes_of(data.into(), content_type)))
    }

    /// A message whose content is JSON text already, checked with [`JsonText::check`].
    pub fn publish_json<'a>(&'a self, topic: &'a str, json: JsonText) -> Publish<'a> {
        Publish::new(self, topic, Ok(Payload::Json(json)))
    }

    /// A message whose content is that of another one, say, or [`Payload::undeclared`].
    pub fn publish_payload<'a>(&'a self, topic: &'a str, payload: Payload) -> Publish<'a> {
        Publish::new(self, topic, Ok(payload))
    }
}

/// Any value as JSON.
pub(crate) fn json_of(data: &(impl Serialize + ?Sized)) -> Result<Payload, PublishError> {
    serde_json::to_vec(data)
        .map_err(|e| PublishError::BadPayload(e.to_string()))
        // What serde_json has written is JSON; only a `RawValue` in it may hold line breaks.
        .and_then(|json| {
            JsonText::from_checked(json.into()).map_err(|e| PublishError::BadPayload(e.to_string()))
        })
        .map(Payload::Json)
}

pub(crate) fn bytes_of(data: Bytes, content_type: Option<&str>) -> Payload {
    Payload::Bytes {
        data,
        content_type: content_type.map(ByteString::from),
    }
}

/// The topic of that name, if it can be published to.
pub(crate) fn check_topic(name: &str) -> Result<TopicName, PublishError> {
    let topic = TopicName::parse(name)?;
    match topic.is_system() {
        true => Err(PublishError::SystemTopic(topic)),
        false => Ok(topic),
    }
}

impl<'a> Publish<'a> {
    fn new(client: &'a Client, topic: &'a str, payload: Result<Payload, PublishError>) -> Self {
        let draft = Draft::new(client, payload);
        Self { topic, draft }
    }

    /// A name and a value beside the content. At most 32 pairs and 4 KiB in all.
    pub fn header(mut self, name: impl Into<ByteString>, value: impl Into<ByteString>) -> Self {
        self.draft.headers.push((name.into(), value.into()));
        self
    }

    /// A key of the application's own choosing, 1 to 64 bytes, for a message that the application itself may publish again (after
    /// its own restart, say). The broker remembers it for two minutes or 10,000 keys. It takes the place of the client's
    /// own numbering, which needs no key and forgets nothing.
    ///
    /// Without a number only its turn keeps its place among the topic's messages: it is sent when all before it are answered, and what comes
    /// behind it when it is, so messages with keys cost a round trip each. What is not answered within 100 s is not sent again
    /// ([`PublishError::Lost`]): the broker might have forgotten the key.
    pub fn message_id(mut self, id: &'a str) -> Self {
        self.draft.message_id = Some(id);
        self
    }

    /// Hands the message over, as soon as it has a place in the window of unanswered messages. Messages to a topic are
    /// kept in the order in which their `send` was first awaited by one task.
    ///
    /// Awaiting this does not mean that the message is kept: the [`PendingReceipt`] tells.
    pub async fn send(self) -> Result<PendingReceipt, PublishError> {
        let topic = check_topic(self.topic)?;
        let Client { shared, commands } = self.draft.client;
        let (message, message_id) = self.draft.check()?;
        let (place, bytes) = shared.place_in_window(1, message.payload.len()).await?;
        let (reply, answer) = oneshot::channel();
        let permits = Permits {
            _message: Some(place),
            _bytes: Arc::new(bytes),
        };
        let outgoing = Outgoing {
            topic,
            message,
            message_id,
            reply,
            permits,
            together: None,
        };
        match commands.send(Command::Publish(outgoing)) {
            Ok(()) => Ok(PendingReceipt::new(answer, shared)),
            Err(_) => Err(shared.ended().into()),
        }
    }

    /// Publishes and waits until the message is kept. One message at a time: where many are published, keep the
    /// [`PendingReceipt`]s of [`send`](Self::send) and await them later.
    pub async fn receipt(self) -> Result<Receipt, PublishError> {
        self.send().await?.await
    }
}

/// A receipt that has not come yet. Dropping it does not take the message back.
#[must_use = "await it to know that the message is kept"]
pub struct PendingReceipt {
    answer: oneshot::Receiver<Result<Receipt, PublishError>>,
    timeout: Option<(Pin<Box<Sleep>>, Duration)>,
    shared: Arc<Shared>,
}

impl PendingReceipt {
    fn new(answer: oneshot::Receiver<Result<Receipt, PublishError>>, shared: &Arc<Shared>) -> Self {
        let timeout = shared
            .request_timeout
            .map(|after| (Box::pin(tokio::time::sleep(after)), after));
        Self {
            answer,
            timeout,
            shared: Arc::clone(shared),
        }
    }
}

impl Future for PendingReceipt {
    type Output = Result<Receipt, PublishError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        if let Poll::Ready(answer) = Pin::new(&mut self.answer).poll(cx) {
            return Poll::Ready(answer.unwrap_or_else(|_| Err(self.shared.ended().into())));
        }
        match &mut self.timeout {
            Some((sleep, after)) => {
                ready!(sleep.as_mut().poll(cx));
                Poll::Ready(Err(PublishError::TimedOut(*after)))
            }
            None => Poll::Pending,
        }
    }
}

impl std::fmt::Debug for PendingReceipt {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PendingReceipt").finish_non_exhaustive()
    }
}

/// The window of unanswered messages. Full: `send` waits.
#[derive(Debug)]
pub(crate) struct Window {
    messages: Arc<Semaphore>,
    most_messages: AtomicU32,
    bytes: Arc<Semaphore>,
    most_bytes: u32,
}

impl Window {
    pub(crate) fn new(messages: usize, bytes: usize) -> Self {
        let most_messages = u32::try_from(messages).unwrap_or(u32::MAX);
        let most_bytes = u32::try_from(bytes).unwrap_or(u32::MAX);
        Self {
            messages: Arc::new(Semaphore::new(messages.min(Semaphore::MAX_PERMITS))),
            most_messages: AtomicU32::new(most_messages),
            bytes: Arc::new(Semaphore::new(most_bytes as usize)),
            most_bytes,
        }
    }

    /// Has at least so many places from now on.
    pub(crate) fn grow_to(&self, messages: u32) {
        let before = self.most_messages.fetch_max(messages, Ordering::Relaxed);
        let more = messages.saturating_sub(before) as usize;
        self.messages.add_permits(more);
    }

    /// Nobody waits for a place any more.
    pub(crate) fn close(&self) {
        self.messages.close();
        self.bytes.close();
    }
}

impl Shared {
    /// Places for so many messages of the same content.
    pub(crate) async fn place_in_window(
        &self,
        messages: usize,
        bytes: usize,
    ) -> Result<(OwnedSemaphorePermit, OwnedSemaphorePermit), PublishError> {
        let Window {
            messages: window_messages,
            most_messages,
            bytes: window_bytes,
            most_bytes,
        } = &self.window;
        // What is larger than the window takes all of it, so that it goes alone.
        let messages = u32::try_from(messages)
            .unwrap_or(u32::MAX)
            .min(most_messages.load(Ordering::Relaxed));
        let bytes = u32::try_from(bytes).unwrap_or(u32::MAX).min(*most_bytes);
        let place = async {
            let messages = Arc::clone(window_messages)
                .acquire_many_owned(messages)
                .await?;
            Ok((
                messages,
                Arc::clone(window_bytes).acquire_many_owned(bytes).await?,
            ))
        };
        let place = match self.request_timeout {
            None => place.await,
            Some(after) => tokio::time::timeout(after, place)
                .await
                .map_err(|_| PublishError::WindowFull(after))?,
        };
        place.map_err(|_: tokio::sync::AcquireError| self.ended().into())
    }
}
