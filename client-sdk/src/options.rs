//! How a client behaves: every setting with its default, its unit and when to change it.

use std::fmt;
use std::future::Future;
#[cfg(feature = "tls")]
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use hark_protocol::{ProducerId, Subprotocol};

use crate::clock::Clock;
use crate::figures::{FIRST_WAIT, LONGEST_WAIT, LONGEST_WAIT_IN_THE_FIRST_MINUTE};
use crate::race::{self, Resolver};
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
///
/// A wait is drawn between zero and a bound that grows with each failure in a row. The count begins anew when a connection has *proven
/// itself*: it has served for 10 s since it brought the first answer to a subscription or a publish (or, with nothing to answer, to
/// a ping). So a connection that is cut as soon as it stands is not tried again and again without a pause. What the broker, or a proxy in
/// front of it, asks for is waited for before that, up to five minutes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reconnect {
    /// The first wait is drawn between zero and this; each further bound is twice as long. 250 ms.
    pub first_wait: Duration,
    /// No bound is longer than this while the last connection that had proven itself was lost less than a minute ago. 5 s.
    pub longest_wait_in_the_first_minute: Duration,
    /// No bound is longer than this. 20 s.
    pub longest_wait: Duration,
    /// Give up when there was no connection for so long, in the midst of a wait or an attempt too. Never by default.
    pub give_up_after: Option<Duration>,
}

impl Default for Reconnect {
    fn default() -> Self {
        Self {
            first_wait: FIRST_WAIT,
            longest_wait_in_the_first_minute: LONGEST_WAIT_IN_THE_FIRST_MINUTE,
            longest_wait: LONGEST_WAIT,
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

/// Where tokens come from.
pub(crate) struct Token {
    callback: TokenCallback,
    /// The callback may give another one the next time.
    pub(crate) renewable: bool,
}

type TokenCallback = Arc<dyn Fn() -> BoxFuture<'static, Result<String, TokenError>> + Send + Sync>;

pub(crate) struct Options {
    pub(crate) url: String,
    pub(crate) token: Option<Token>,
    pub(crate) subprotocol: Subprotocol,
    pub(crate) producer: Producer,
    pub(crate) reconnect: Option<Reconnect>,
    pub(crate) first_connection: FirstConnection,
    /// `None`: as many as the broker's `welcome` allows.
    pub(crate) window_messages: Option<usize>,
    pub(crate) window_bytes: usize,
    pub(crate) queue_messages: usize,
    pub(crate) queue_bytes: usize,
    pub(crate) request_timeout: Option<Duration>,
    pub(crate) connect_timeout: Duration,
    #[cfg(feature = "tls")]
    pub(crate) tls_files: crate::tls::TlsFiles,
    pub(crate) resolver: Resolver,
    pub(crate) clock: Clock,
    /// In a test: who gets the other end of each connection, in place of a network.
    #[cfg(test)]
    pub(crate) memory: Option<tokio::sync::mpsc::UnboundedSender<tokio::io::DuplexStream>>,
}

impl Options {
    /// Asks for a token, if there are any. The callback has as long as a connection has.
    pub(crate) fn ask_for_token(&self) -> Option<BoxFuture<'static, Result<String, TokenError>>> {
        let asked = (self.token.as_ref()?.callback)();
        let within = self.connect_timeout;
        Some(Box::pin(async move {
            tokio::time::timeout(within, asked)
                .await
                .unwrap_or_else(|_| Err(format!("the callback gave none within {within:?}").into()))
        }))
    }

    /// Whether there may be another token in place of one that was refused.
    pub(crate) fn token_is_renewable(&self) -> bool {
        self.token.as_ref().is_some_and(|token| token.renewable)
    }
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
                window_messages: None,
                window_bytes: 1024 * 1024,
                queue_messages: 1024,
                queue_bytes: 1024 * 1024,
                request_timeout: None,
                connect_timeout: Duration::from_secs(10),
                #[cfg(feature = "tls")]
                tls_files: Default::default(),
                resolver: race::system_resolver(),
                clock: Clock::default(),
                #[cfg(test)]
                memory: None,
            },
        }
    }

    /// A token that does not change. None by default.
    pub fn token(mut self, token: impl Into<String>) -> Self {
        let token = token.into();
        self = self.token_with(move || {
            let token = token.clone();
            async move { Ok(token) }
        });
        if let Some(token) = &mut self.options.token {
            token.renewable = false;
        }
        self
    }

    /// A callback that is asked for a token before every connection, and again when the broker says that the token runs
    /// out; the token that is in use is then not sent again. Never called twice at the same time. It has as long as [`connect_timeout`](Self::connect_timeout) says. When the broker
    /// refuses a token, the callback is asked once more before the client ends.
    pub fn token_with<F, T>(mut self, callback: F) -> Self
    where
        F: Fn() -> T + Send + Sync + 'static,
        T: Future<Output = Result<String, TokenError>> + Send + 'static,
    {
        self.options.token = Some(Token {
            callback: Arc::new(move || Box::pin(callback())),
            renewable: true,
        });
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

    /// How many messages may be published and unanswered; further ones wait. At least 1. By default 1,024, and as many as the
    /// broker allows once it has said so, if that is more. More than the broker's `max_inflight` brings nothing but memory.
    pub fn window(mut self, messages: usize) -> Self {
        self.options.window_messages = Some(messages.max(1));
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

    /// How long one attempt to connect may take, from the name's look-up to `welcome`; the callback for a token has as long
    /// before that. 10 s by default.
    pub fn connect_timeout(mut self, timeout: Duration) -> Self {
        self.options.connect_timeout = timeout;
        self
    }

    /// Trusts the certificates in this file too, in PEM form, beside the system's root certificates: those of a company's own authority, or a
    /// server's own. None by default. The file is read anew for every connection.
    #[cfg(feature = "tls")]
    pub fn authorities(mut self, file: impl Into<PathBuf>) -> Self {
        self.options.tls_files.authorities = Some(file.into());
        self
    }

    /// Shows this certificate to a broker that asks for one: a file with the certificate, and behind it those that lead to its root, and a file
    /// with its key, both in PEM form. None by default. The files are read anew for every connection, so that a renewed certificate counts with
    /// the next.
    #[cfg(feature = "tls")]
    pub fn certificate(mut self, chain: impl Into<PathBuf>, key: impl Into<PathBuf>) -> Self {
        self.options.tls_files.client = Some((chain.into(), key.into()));
        self
    }

    /// Connects. Must be called within a tokio runtime: the client's one task runs there.
    pub async fn connect(self) -> Result<Client, ClientError> {
        Client::start(self.options).await
    }

    #[cfg(test)]
    pub(crate) fn options_mut(&mut self) -> &mut Options {
        &mut self.options
    }
}
