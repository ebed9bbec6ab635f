//! What happens behind the application's back: connections that come and go, and what the client does about it.

use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::Stream;
use futures_util::stream::{self, BoxStream, StreamExt};
use hark_protocol::{Cursor, ErrorCode, TopicName};
use tokio::sync::broadcast;

use crate::ClientError;

/// Events kept for a listener that does not keep up; then the oldest go, and `Lagged` says how many.
pub(crate) const EVENTS_KEPT: usize = 256;

/// One thing that happened to the client's connection.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum ConnectionEvent {
    /// There is a connection, and the broker has said `welcome`.
    Connected {
        /// The session's name in the broker's logs.
        session: String,
        /// The broker's version.
        version: String,
    },
    /// The connection is gone.
    Disconnected {
        /// How.
        reason: String,
    },
    /// There is no connection, and there will be another attempt.
    Reconnecting {
        /// Why the last attempt, or the last connection, failed.
        reason: String,
        /// After so long.
        wait: Duration,
    },
    /// A subscription goes on where it was.
    Resumed {
        /// Which topic.
        topic: TopicName,
        /// From where.
        cursor: Cursor,
    },
    /// The broker could not keep a message just now; it and those after it are sent again.
    PublishDelayed {
        /// Which topic.
        topic: TopicName,
        /// What the broker said.
        code: ErrorCode,
        /// After so long.
        wait: Duration,
    },
    /// The broker says that this client takes a topic's messages more slowly than they come, so that it is behind. It misses
    /// nothing, and goes on as fast as it can; the broker says so when it begins, and every 10 s while it lasts.
    Lagging {
        /// Which topic.
        topic: TopicName,
        /// The last message the client has.
        cursor: Cursor,
        /// How many messages are kept behind it, if the broker knows.
        behind: Option<u64>,
    },
    /// The application does not take a topic's messages: the client has told the broker to stop sending them, and asks for them
    /// again when there is room.
    Paused {
        /// Which topic.
        topic: TopicName,
    },
    /// What comes after a subscription's position does not come through: so many connections in a row broke when the broker was about to send it.
    /// A message that something in between does not let pass, perhaps. The subscription stays, and is tried again every minute;
    /// [`Subscribe::from`](crate::Subscribe::from) another place goes round it.
    Stuck {
        /// Which topic.
        topic: TopicName,
        /// The last message the client has.
        cursor: Cursor,
        /// How many connections.
        tries: u32,
    },
    /// A message came that does not follow the one before. The client asks again from its position.
    Hole {
        /// Which topic.
        topic: TopicName,
        /// The last message the client has.
        after: Cursor,
        /// The message that came.
        found: u64,
    },
    /// The broker sent something that this client cannot read. It was ignored.
    Unreadable {
        /// What is wrong with it.
        reason: String,
    },
    /// The broker asked for a new token, and the callback gave none.
    TokenFailed {
        /// What it said.
        reason: String,
    },
    /// The client has ended. The last event.
    Ended {
        /// Why.
        error: ClientError,
    },
    /// This listener was too slow, and so many events are gone.
    Lagged {
        /// How many.
        missed: u64,
    },
}

/// What happens to a client's connection, from the call of [`Client::events`](crate::Client::events) on.
pub struct ConnectionEvents(BoxStream<'static, ConnectionEvent>);

impl ConnectionEvents {
    pub(crate) fn new(receiver: broadcast::Receiver<ConnectionEvent>) -> Self {
        let next = |receiver: Option<broadcast::Receiver<ConnectionEvent>>| async move {
            let mut receiver = receiver?;
            match receiver.recv().await {
                Ok(last @ ConnectionEvent::Ended { .. }) => Some((last, None)),
                Ok(event) => Some((event, Some(receiver))),
                Err(broadcast::error::RecvError::Lagged(missed)) => {
                    Some((ConnectionEvent::Lagged { missed }, Some(receiver)))
                }
                Err(broadcast::error::RecvError::Closed) => None,
            }
        };
        Self(stream::unfold(Some(receiver), next).boxed())
    }

    /// Of a client that has ended already.
    pub(crate) fn ended(error: ClientError) -> Self {
        Self(stream::iter([ConnectionEvent::Ended { error }]).boxed())
    }
}

impl Stream for ConnectionEvents {
    type Item = ConnectionEvent;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.0.poll_next_unpin(cx)
    }
}

impl std::fmt::Debug for ConnectionEvents {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ConnectionEvents").finish_non_exhaustive()
    }
}

/// Counts since the client was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct Stats {
    /// Connections made, the first included.
    pub connections: u64,
    /// Publishes sent again.
    pub publishes_resent: u64,
    /// Answers to an earlier sending of a message that has been sent again since. Expected after a setback.
    pub stale_answers: u64,
    /// Messages that did not follow the one before (see [`ConnectionEvent::Hole`]).
    pub holes: u64,
    /// Messages that the client had already, and did not deliver again.
    pub repeated_messages: u64,
}

#[derive(Debug, Default)]
pub(crate) struct Counters {
    pub(crate) connections: AtomicU64,
    pub(crate) publishes_resent: AtomicU64,
    pub(crate) stale_answers: AtomicU64,
    pub(crate) holes: AtomicU64,
    pub(crate) repeated_messages: AtomicU64,
}

impl Counters {
    pub(crate) fn stats(&self) -> Stats {
        Stats {
            connections: self.connections.load(Ordering::Relaxed),
            publishes_resent: self.publishes_resent.load(Ordering::Relaxed),
            stale_answers: self.stale_answers.load(Ordering::Relaxed),
            holes: self.holes.load(Ordering::Relaxed),
            repeated_messages: self.repeated_messages.load(Ordering::Relaxed),
        }
    }
}

/// Tells and counts what happens. Shared by everything the client's task owns.
#[derive(Debug)]
pub(crate) struct Reporter {
    pub(crate) events: broadcast::Sender<ConnectionEvent>,
    pub(crate) counters: Counters,
}

impl Reporter {
    pub(crate) fn new() -> Self {
        Self {
            events: broadcast::Sender::new(EVENTS_KEPT),
            counters: Counters::default(),
        }
    }

    /// Tells whoever listens; nobody has to.
    pub(crate) fn tell(&self, event: ConnectionEvent) {
        tracing::debug!(?event, "hark client");
        self.events.send(event).ok();
    }

    pub(crate) fn count(&self, counter: impl FnOnce(&Counters) -> &AtomicU64) {
        counter(&self.counters).fetch_add(1, Ordering::Relaxed);
    }
}
