//! How a client behaves: every setting with its default, its unit and when to change it.

use std::fmt;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use hark_protocol::{ProducerId, Subprotocol};

use crate::{Client, ClientError};

/// Sets up a [`Client`]. Made by [`Client::builder`].
#[derive(Debug)]
#[must_use = "call `connect`"]
pub struct ClientBuilder {
    options: Options,
}

/// The name the broker counts this client's messages under, so that sending again is safe.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Producer {
    /// A random name. What almost everybody wants.
    #[default]
    Random,
    /// This name, counted from 1 in every topic. It must never have been used before: a client that begins again under an old
    /// name has its messages taken for duplicates ([`PublishError::ProducerInUse`](crate::PublishError::ProducerInUse)).
    Named(ProducerId),
    /// No name: a message is sent at most once, and one whose connection broke before the receipt came fails with
    /// [`PublishError::Interrupted`](crate::PublishError::Interrupted).
    None,
}

/// When and how long a client tries to connect again after it lost its connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reconnect {
    /// The first wait is drawn between zero and this; each further bound is twice as long. 250 ms.
    pub first_wait: Duration,
    /// No bound is longer than this. 20 s.
    pub longest_wait: Duration,
    /// Give up when there was no connection for so long. Never by default.
    pub give_up_after: Option<Duration>,
}

impl Default for Reconnect {
    fn default() -> Self {
        Self {
            first_wait: Duration::from_millis(250),
            longest_wait: Duration::from_secs(20),
            give_up_after: None,
        }
    }
}

/// What [`ClientBuilder::connect`] waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum FirstConnection {
    /// The first attempt must succeed: a wrong URL or a broker that is not there is told at once.
    #[default]
    Required,
    /// Tries again, as after a lost connection, until it succeeds or the broker says that it never will.
    Retried,
    /// Waits for nothing. Publishes and subscriptions wait for the connection.
    InBackground,
}

/// What a token callback may fail with.
pub type TokenError = Box<dyn std::error::Error + Send + Sync>;

type TokenCallback = Arc<dyn Fn() -> BoxFuture<'static, Result<String, TokenError>> + Send + Sync>;

pub(crate) struct Options {
    pub(crate) url: String,
    pub(crate) token: Option<TokenCallback>,
    pub(crate) subprotocol: Subprotocol,
    pub(crate) producer: Producer,
    pub(crate) reconnect: Option<Reconnect>,
    pub(crate) first_connection: FirstConnection,
    pub(crate) window_messages: usize,
    pub(crate) window_bytes: usize,
    pub(crate) queue_messages: usize,
    pub(crate) queue_bytes: usize,
    pub(crate) request_timeout: Option<Duration>,
    pub(crate) connect_timeout: Duration,
}

impl fmt::Debug for Options {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The token stays out: it may end up in a log.
        f.debug_struct("Options")
            .field("url", &self.url)
            .finish_non_exhaustive()
    }
}

impl ClientBuilder {
    pub(crate) fn new(url: String) -> Self {
        Self {
            options: Options {
                url,
                token: None,
                subprotocol: Subprotocol::Bincode,
                producer: Producer::Random,
                reconnect: Some(Reconnect::default()),
                first_connection: FirstConnection::Required,
                window_messages: 1024,
                window_bytes: 1024 * 1024,
                queue_messages: 1024,
                queue_bytes: 1024 * 1024,
                request_timeout: None,
                connect_timeout: Duration::from_secs(10),
            },
        }
    }

    /// A token that does not change. None by default.
    pub fn token(self, token: impl Into<String>) -> Self {
        let token = token.into();
        self.token_with(move || {
            let token = token.clone();
            async move { Ok(token) }
        })
    }

    /// A callback that is asked for a token before every connection, and again when the broker says that the token runs
    /// out. Never called twice at the same time.
    pub fn token_with<F, T>(mut self, callback: F) -> Self
    where
        F: Fn() -> T + Send + Sync + 'static,
        T: Future<Output = Result<String, TokenError>> + Send + 'static,
    {
        self.options.token = Some(Arc::new(move || Box::pin(callback())));
        self
    }

    /// How frames are written. Bincode by default; JSON to see with other tools what is said.
    pub fn subprotocol(mut self, subprotocol: Subprotocol) -> Self {
        self.options.subprotocol = subprotocol;
        self
    }

    /// The name the broker counts this client's messages under. Random by default.
    pub fn producer(mut self, producer: Producer) -> Self {
        self.options.producer = producer;
        self
    }

    /// When to connect again. See [`Reconnect`] for the defaults.
    pub fn reconnect(mut self, reconnect: Reconnect) -> Self {
        self.options.reconnect = Some(reconnect);
        self
    }

    /// Lets the client end with its first lost connection.
    pub fn no_reconnect(mut self) -> Self {
        self.options.reconnect = None;
        self
    }

    /// What [`connect`](Self::connect) waits for. The first attempt by default.
    pub fn first_connection(mut self, first: FirstConnection) -> Self {
        self.options.first_connection = first;
        self
    }

    /// How many messages may be published and unanswered; further ones wait. 1,024 by default, at least 1. More than the
    /// broker's `max_inflight` brings nothing but memory.
    pub fn window(mut self, messages: usize) -> Self {
        self.options.window_messages = messages.max(1);
        self
    }

    /// How many bytes of messages may be published and unanswered, though always one message. 1 MiB by default.
    pub fn window_bytes(mut self, bytes: usize) -> Self {
        self.options.window_bytes = bytes.max(1);
        self
    }

    /// How many messages and bytes may wait in a subscription for the application to take them. 1,024 messages and 1 MiB by
    /// default; one message may go over it. What happens when it is full: see [`Subscription`](crate::Subscription).
    pub fn queue(mut self, messages: usize, bytes: usize) -> Self {
        self.options.queue_messages = messages.max(1);
        self.options.queue_bytes = bytes.max(1);
        self
    }

    /// How long to wait for a place in the window, for a receipt and for the answer to a subscription. No limit by default:
    /// the client goes on trying across reconnects.
    pub fn request_timeout(mut self, timeout: Duration) -> Self {
        self.options.request_timeout = Some(timeout);
        self
    }

    /// How long one attempt to connect may take, from the name's look-up to `welcome`. 10 s by default.
    pub fn connect_timeout(mut self, timeout: Duration) -> Self {
        self.options.connect_timeout = timeout;
        self
    }

    /// Connects. Must be called within a tokio runtime: the client's one task runs there.
    pub async fn connect(self) -> Result<Client, ClientError> {
        Client::start(self.options).await
    }
}
