//! Subscribing: what the application holds of a subscription. The positions are `inbox`'s.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use futures_util::future::BoxFuture;
use futures_util::{Stream, StreamExt};
use hark_protocol::{Cursor, SubscribeFrom, TopicName};
use tokio::sync::{mpsc, oneshot};

use crate::client::Command;
use crate::error::NextMessageError;
use crate::inbox;
use crate::queue::{Queue, Taken};
use crate::{Client, Event, Message, SubscribeError};

/// A subscription that is about to be made. Awaiting it subscribes, and waits until the broker has said where delivery
/// starts.
#[derive(Debug)]
#[must_use = "nothing is subscribed before it is awaited"]
pub struct Subscribe<'a> {
    client: &'a Client,
    topic: &'a str,
    from: SubscribeFrom,
    token: Option<inbox::ForTopic>,
}

impl Client {
    /// A subscription to `topic`, from now on unless [`from`](Subscribe::from) says otherwise. One per topic and client.
    pub fn subscribe<'a>(&'a self, topic: &'a str) -> Subscribe<'a> {
        Subscribe {
            client: self,
            topic,
            from: SubscribeFrom::Now,
            token: None,
        }
    }
}

impl<'a> Subscribe<'a> {
    /// Where to start.
    pub fn from(mut self, from: SubscribeFrom) -> Self {
        self.from = from;
        self
    }

    /// A token that lets this connection read this topic, signed by the back end. It is shown whenever the topic is asked for; when it has run
    /// out the subscription ends with `unauthenticated`, and another with a fresh token goes on from its cursor.
    pub fn token(mut self, token: impl Into<String>) -> Self {
        self.token = Some(inbox::ForTopic(token.into()));
        self
    }

    /// Where to start: with what comes after this cursor.
    pub fn after(self, cursor: Cursor) -> Self {
        self.from(SubscribeFrom::After(cursor))
    }

    async fn open(self) -> Result<Subscription, SubscribeError> {
        let topic = TopicName::parse(self.topic)?;
        let shared = &self.client.shared;
        let queue = Queue::new(shared.queue_messages, shared.queue_bytes);
        let (reply, answer) = oneshot::channel();
        let subscribe = inbox::Subscribe {
            topic: topic.clone(),
            from: self.from,
            token: self.token,
            queue: Arc::clone(&queue),
            reply,
        };
        // From here on dropping this future unsubscribes.
        let handle = Handle {
            topic,
            queue,
            commands: self.client.commands.clone(),
        };
        if handle.commands.send(Command::Subscribe(subscribe)).is_err() {
            return Err(shared.ended().into());
        }
        let answer = match shared.request_timeout {
            None => answer.await,
            Some(after) => tokio::time::timeout(after, answer)
                .await
                .map_err(|_| SubscribeError::TimedOut(after))?,
        };
        let cursor = answer.unwrap_or_else(|_| Err(shared.ended().into()))?;
        Ok(Subscription {
            handle,
            cursor,
            ended: false,
        })
    }
}

impl<'a> IntoFuture for Subscribe<'a> {
    type Output = Result<Subscription, SubscribeError>;
    type IntoFuture = BoxFuture<'a, Self::Output>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(self.open())
    }
}

/// A topic's messages, in order, each once. A [`Stream`] of [`Event`]s.
///
/// A lost connection is not seen here: the client connects again and goes on after the last message it has received, as
/// [`Client::events`] tells. What cannot be had is told as a gap, never skipped. An error is the last item: the
/// subscription or the client has ended.
///
/// Dropping it unsubscribes.
///
/// # An application that is slow
///
/// Up to 1,024 messages or 1 MiB wait for the application (see [`ClientBuilder::queue`](crate::ClientBuilder::queue)). When that is
/// full the client reads nothing more from its socket, which slows the broker down for this client alone; but it stalls the
/// client's other subscriptions and its receipts too. When one of them waits for 100 ms (or nobody for 10 s) the client stops the slow
/// subscription at the broker, reads on, and lets it go on from its position when the application has taken half of what
/// waits. So nothing is lost and nobody waits for ever, but the way round costs time. Where one topic is slow by nature,
/// give it a client of its own.
#[derive(Debug)]
#[must_use = "dropping a subscription ends it"]
pub struct Subscription {
    handle: Handle,
    cursor: Cursor,
    ended: bool,
}

/// Ends the subscription when it is dropped.
#[derive(Debug)]
struct Handle {
    topic: TopicName,
    queue: Arc<Queue>,
    commands: mpsc::UnboundedSender<Command>,
}

impl Handle {
    fn leave(&self, reply: Option<oneshot::Sender<()>>) {
        let (topic, queue) = (self.topic.clone(), Arc::clone(&self.queue));
        // A client that has ended has no subscriptions.
        self.commands
            .send(Command::Unsubscribe {
                topic,
                queue,
                reply,
            })
            .ok();
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.leave(None);
    }
}

impl Subscription {
    /// The topic.
    pub fn topic(&self) -> &TopicName {
        &self.handle.topic
    }

    /// The position behind what the application has taken from the stream. [`Subscribe::after`] goes on there, also in another
    /// process and after days. Store it when what was taken is done with.
    pub fn cursor(&self) -> Cursor {
        self.cursor
    }

    /// The next message. A gap is an error here, so that it cannot be overlooked; asking again goes on behind it.
    pub async fn next_message(&mut self) -> Result<Message, NextMessageError> {
        loop {
            match self.next().await {
                Some(Ok(Event::Message(message))) => return Ok(message),
                Some(Ok(Event::Gap(gap))) => return Err(NextMessageError::Gap(gap)),
                Some(Ok(Event::CaughtUp(_))) => {}
                Some(Err(error)) => {
                    // Asking again gives the same answer.
                    self.ended = false;
                    return Err(NextMessageError::Ended(error));
                }
                None => self.ended = false,
            }
        }
    }

    /// Ends the subscription and waits until the broker has confirmed it (or the connection is gone). What is queued is
    /// dropped.
    pub async fn unsubscribe(self) {
        let (reply, done) = oneshot::channel();
        self.handle.leave(Some(reply));
        // An error means that the client has ended, and with it the subscription.
        done.await.ok();
    }
}

impl Stream for Subscription {
    type Item = Result<Event, SubscribeError>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if self.ended {
            return Poll::Ready(None);
        }
        match self.handle.queue.poll_take(cx) {
            Poll::Pending => Poll::Pending,
            Poll::Ready(Taken::End(error)) => {
                self.ended = true;
                Poll::Ready(Some(Err(error)))
            }
            Poll::Ready(Taken::Event { event, drained }) => {
                if drained {
                    self.handle
                        .commands
                        .send(Command::Drained {
                            topic: self.handle.topic.clone(),
                            queue: Arc::clone(&self.handle.queue),
                        })
                        .ok();
                }
                match &event {
                    Event::Message(message) => self.cursor = message.cursor,
                    Event::Gap(gap) => self.cursor = gap.cursor,
                    Event::CaughtUp(_) => {}
                }
                Poll::Ready(Some(Ok(event)))
            }
        }
    }
}
