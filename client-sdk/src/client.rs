//! The handle an application holds. The work is done by the task in `connection`; this sends it commands.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use hark_protocol::TopicName;
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

use crate::clock;
use crate::connection::Connection;
use crate::error::Unanswered;
use crate::events::{ConnectionEvents, Reporter, Stats};
use crate::options::{FirstConnection, Options};
use crate::outbox::Outgoing;
use crate::publish::Window;
use crate::queue::Queue;
use crate::{ClientBuilder, ClientError, inbox};

/// The window of unanswered messages, until the broker has said how many it allows.
const DEFAULT_WINDOW: usize = 1024;

/// A connection to a Hark broker that comes back by itself. Cheap to clone; all clones are one client, with one socket and one
/// task.
///
/// When the last clone, subscription and pending receipt are gone, unanswered messages have five more seconds to be
/// answered. [`close`](Self::close) does the same where it can be seen.
#[derive(Debug, Clone)]
pub struct Client {
    pub(crate) shared: Arc<Shared>,
    /// Bound: a publish needs a place in the window, and there are at most three other commands for each subscription.
    pub(crate) commands: mpsc::UnboundedSender<Command>,
}

/// What the handles and the task share.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) window: Window,
    pub(crate) queue_messages: usize,
    pub(crate) queue_bytes: usize,
    pub(crate) request_timeout: Option<Duration>,
    pub(crate) reporter: Arc<Reporter>,
    /// Why the client has ended, once it has.
    pub(crate) ended: OnceLock<ClientError>,
}

impl Shared {
    /// Why the client has ended, for those who find out by a channel that is gone.
    pub(crate) fn ended(&self) -> ClientError {
        self.ended.get().cloned().unwrap_or(ClientError::Closed)
    }
}

/// What the handles ask of the task.
#[derive(Debug)]
pub(crate) enum Command {
    Publish(Outgoing),
    /// One message to several topics.
    PublishAll(Vec<Outgoing>),
    Subscribe(inbox::Subscribe),
    Unsubscribe {
        topic: TopicName,
        queue: Arc<Queue>,
        reply: Option<oneshot::Sender<()>>,
    },
    Drained {
        topic: TopicName,
        queue: Arc<Queue>,
    },
    Close {
        deadline: Instant,
        reply: oneshot::Sender<usize>,
    },
}

impl Command {
    /// The client is about to end, or has ended.
    pub(crate) fn refuse(self, error: &ClientError) {
        match self {
            Self::Publish(outgoing) => {
                outgoing.reply.send(Err(error.clone().into())).ok();
            }
            Self::PublishAll(all) => {
                for outgoing in all {
                    outgoing.reply.send(Err(error.clone().into())).ok();
                }
            }
            Self::Subscribe(subscribe) => {
                subscribe.reply.send(Err(error.clone().into())).ok();
            }
            Self::Unsubscribe { .. } | Self::Drained { .. } | Self::Close { .. } => {}
        }
    }
}

impl Client {
    /// Connects to a broker, such as `ws://127.0.0.1:4275/ws`, with all settings at their defaults.
    ///
    /// Must be called within a tokio runtime: the client's one task runs there.
    pub async fn connect(url: impl Into<String>) -> Result<Self, ClientError> {
        Self::builder(url).connect().await
    }

    /// A client with other settings.
    pub fn builder(url: impl Into<String>) -> ClientBuilder {
        ClientBuilder::new(url.into())
    }

    pub(crate) async fn start(options: Options) -> Result<Self, ClientError> {
        let (commands, receiver) = mpsc::unbounded_channel();
        let shared = Arc::new(Shared {
            window: Window::new(
                options.window_messages.unwrap_or(DEFAULT_WINDOW),
                options.window_bytes,
            ),
            queue_messages: options.queue_messages,
            queue_bytes: options.queue_bytes,
            request_timeout: options.request_timeout,
            reporter: Arc::new(Reporter::new()),
            ended: OnceLock::new(),
        });
        let waits = options.first_connection != FirstConnection::InBackground;
        let (connected, first) = oneshot::channel();
        let connection = Connection::new(options, Arc::clone(&shared), receiver, connected)?;
        tokio::spawn(connection.run());
        let client = Self { shared, commands };
        if waits && first.await.is_err() {
            return Err(client.shared.ended());
        }
        Ok(client)
    }

    /// What happens to the connection from now on.
    pub fn events(&self) -> ConnectionEvents {
        let receiver = self.shared.reporter.events.subscribe();
        match self.shared.ended.get() {
            Some(error) => ConnectionEvents::ended(error.clone()),
            None => ConnectionEvents::new(receiver),
        }
    }

    /// Counts since the client was made.
    pub fn stats(&self) -> Stats {
        self.shared.reporter.counters.stats()
    }

    /// Ends the client: waits until everything that was published before is answered, but not longer than `patience`, then says
    /// to the broker that it closes. It does not wait for the broker to say so too. All clones and subscriptions end with [`ClientError::Closed`].
    pub async fn close(&self, patience: Duration) -> Result<(), Unanswered> {
        let (reply, done) = oneshot::channel();
        let deadline = clock::after(Instant::now(), patience);
        if self
            .commands
            .send(Command::Close { deadline, reply })
            .is_err()
        {
            return Ok(()); // It has ended before, and whoever waited has been told.
        }
        match done.await {
            Ok(0) | Err(_) => Ok(()),
            Ok(unanswered) => Err(Unanswered(unanswered)),
        }
    }
}
