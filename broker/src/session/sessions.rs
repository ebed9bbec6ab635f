//! The list of who is connected and stays: all can be told when Hark is about to end, each can be ended by an administrator, and who is no longer
//! what it was is told to look at itself. Owns who is there and what is known of each; when something happens is decided outside.

use std::borrow::Cow;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use hark_protocol::CloseCode;
use slab::Slab;

use super::ending::ANSWERS_WITHIN;
use super::{Goodbye, new_name};
use crate::connections::Connection;
use crate::identity::{Identity, MayAdmin, MayMonitor};

/// A client that is told to go, and does not read, is cut so long after (and what `connections` adds).
const GONE_WITHIN: Duration = Duration::from_millis(500);
/// Who is ended for now comes back after this at the soonest …
const BACK_AFTER_MS: u64 = 1000;
/// … and if there are many, each a little later than the one before.
const BACK_APART_MS: u64 = 10;
/// At the latest after this.
const BACK_WITHIN_MS: u64 = 60_000;
/// So much of what a client calls itself is kept.
const USER_AGENT_CHARS: usize = 200;

/// Who is connected, and stays: sessions, and readers that are served as long (event streams, long-polls).
#[derive(Debug, Default)]
pub struct Sessions(Mutex<List>);

#[derive(Debug, Default)]
struct List {
    present: Slab<(Arc<dyn Leave>, Arc<About>)>,
    closed: bool,
}

/// Somebody who is told when it is time to go.
pub trait Leave: std::fmt::Debug + Send + Sync {
    /// Says goodbye; what is said after the first time does not count.
    fn leave(&self, goodbye: Goodbye);

    /// What its client may do has changed, or it is nobody any more: looks at it again. While that has not been done, once is enough.
    fn reconsider(&self);

    /// What the client was given has lain unacknowledged for too long: tells it that it lags, of each topic at most every 10 s. To
    /// be called again while that lasts, but not more often than every few seconds. Who has nothing to lag with says nothing.
    fn lag(&self) {}
}

/// Why somebody is told to go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Why {
    /// Hark is about to end.
    Restart,
    /// An administrator has said so. It may come back.
    EndedForNow,
    /// An administrator has said so, for good.
    Ended,
}

impl Why {
    /// What the close frame says.
    pub(crate) fn close(self) -> (CloseCode, &'static str) {
        match self {
            Self::Restart => (CloseCode::RESTART, "hark is about to end"),
            Self::EndedForNow => (CloseCode::ENDED_FOR_NOW, "ended by an administrator"),
            Self::Ended => (CloseCode::ENDED, "ended by an administrator, for good"),
        }
    }

    /// The `reason` of the `goodbye` in front of it. None: nobody is to come back.
    pub(crate) fn goodbye(self) -> Option<&'static str> {
        match self {
            Self::Restart => Some("restart"),
            Self::EndedForNow => Some("administrator"),
            Self::Ended => None,
        }
    }
}

/// How somebody is connected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transport {
    /// A WebSocket.
    WebSocket,
    /// Server-Sent Events.
    EventStream,
    /// One request that waits for the first message.
    LongPoll,
}

impl Transport {
    /// Its name in lists.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::WebSocket => "websocket",
            Self::EventStream => "event_stream",
            Self::LongPoll => "long_poll",
        }
    }
}

/// What is known of somebody who is connected.
#[derive(Debug)]
pub struct About {
    /// Its name in logs and in `welcome`, and what it can be ended by.
    pub(crate) id: String,
    pub(crate) transport: Transport,
    /// Where it comes from, as far as that is known.
    pub(crate) address: String,
    /// What its client calls itself.
    pub(crate) user_agent: Option<String>,
    pub(crate) since: SystemTime,
    /// The connection that it is on.
    pub(crate) connection: Option<Arc<Connection>>,
    identity: Mutex<Identity>,
    subscriptions: AtomicUsize,
    /// Its client has shown tokens for one topic each, which only it can judge again.
    has_topic_tokens: AtomicBool,
    /// It is in the list.
    is_present: AtomicBool,
}

impl About {
    /// Of somebody who comes just now.
    pub(crate) fn new(
        transport: Transport,
        address: String,
        user_agent: Option<&str>,
        identity: Identity,
        connection: Option<Arc<Connection>>,
    ) -> Self {
        let clipped = |name: &str| name.chars().take(USER_AGENT_CHARS).collect();
        Self {
            id: new_name(),
            transport,
            address,
            user_agent: user_agent.map(clipped),
            since: SystemTime::now(),
            connection,
            identity: Mutex::new(identity),
            subscriptions: AtomicUsize::new(0),
            has_topic_tokens: AtomicBool::new(false),
            is_present: AtomicBool::new(false),
        }
    }

    /// Who its client is.
    pub(crate) fn identity(&self) -> Identity {
        self.lock().clone()
    }

    /// Who its client is from now on.
    pub(crate) fn becomes(&self, identity: Identity) {
        *self.lock() = identity;
    }

    /// How many subscriptions it has.
    pub(crate) fn subscriptions(&self) -> usize {
        self.subscriptions.load(Ordering::Relaxed)
    }

    /// It has so many subscriptions from now on.
    pub(crate) fn has_subscriptions(&self, count: usize) {
        self.subscriptions.store(count, Ordering::Relaxed);
    }

    /// Whether tokens for one topic each count there from now on. To be said before what one of them adds is asked for.
    pub(crate) fn has_topic_tokens(&self, has: bool) {
        self.has_topic_tokens.swap(has, Ordering::SeqCst);
    }

    /// Its client is told to go; if it does not read, its connection is cut a moment later. To be called before it is told: whoever has gone
    /// leaves the connection to others.
    pub(crate) fn has_to_go(&self) {
        if let Some(connection) = &self.connection {
            connection.ends_at(Some(SystemTime::now() + GONE_WITHIN));
            if !self.is_present.load(Ordering::SeqCst) {
                self.has_gone();
            }
        }
    }

    /// It is not in the list any more. The next request on its connection may be another's; what was a WebSocket has no next.
    fn has_gone(&self) {
        self.is_present.store(false, Ordering::SeqCst);
        if let Some(connection) = &self.connection
            && self.transport != Transport::WebSocket
        {
            connection.ends_at(None);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Identity> {
        self.identity.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A place in the list, held while its holder is there.
#[derive(Debug)]
pub struct Present {
    sessions: Arc<Sessions>,
    at: usize,
}

impl Drop for Present {
    fn drop(&mut self) {
        let gone = self.sessions.lock().present.try_remove(self.at);
        if let Some((_, about)) = gone {
            about.has_gone();
        }
    }
}

impl Sessions {
    /// Enters somebody; `None` if Hark is about to end and takes no more. What was granted to it may have changed since it was judged: it
    /// looks at that again once it is in the list.
    pub fn enter(self: &Arc<Self>, who: Arc<dyn Leave>, about: Arc<About>) -> Option<Present> {
        let mut list = self.lock();
        if list.closed {
            return None;
        }
        about.is_present.store(true, Ordering::SeqCst);
        let at = list.present.insert((who, about));
        Some(Present {
            sessions: self.clone(),
            at,
        })
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.lock().present.len()
    }

    /// Takes no more, and tells those that are there; each when to come back: spread evenly over `spread_ms`.
    pub fn say_goodbye(&self, spread_ms: u64) {
        let mut list = self.lock();
        list.closed = true;
        let count = list.present.len().max(1) as u64;
        // Within the drain, and so that there is time left to hear the end.
        let answers_within = ANSWERS_WITHIN.min(Duration::from_millis(spread_ms / 2));
        for (at, (_, (who, _))) in list.present.iter().enumerate() {
            let jitter_ms = rand::random_range(0..=spread_ms / count);
            who.leave(Goodbye {
                why: Why::Restart,
                retry_after_ms: spread_ms * at as u64 / count + jitter_ms,
                answers_within,
            });
        }
    }

    /// What is known of those that are there, by their ids: up to `limit` that fit, behind the id `after`.
    pub(crate) fn page(
        &self,
        _: &MayMonitor,
        after: &str,
        limit: usize,
        fits: impl Fn(&About) -> bool,
    ) -> Vec<Arc<About>> {
        let mut found: Vec<Arc<About>> = self
            .all()
            .into_iter()
            .map(|(_, about)| about)
            .filter(|about| about.id.as_str() > after && fits(about))
            .collect();
        found.sort_by(|one, other| one.id.cmp(&other.id));
        found.truncate(limit);
        found
    }

    /// Ends those that fit; says how many that were.
    pub(crate) fn end(&self, _: &MayAdmin, for_good: bool, fits: impl Fn(&About) -> bool) -> usize {
        let mut ended = self.all();
        ended.retain(|(_, about)| fits(about));
        let why = match for_good {
            true => Why::Ended,
            false => Why::EndedForNow,
        };
        for (at, (who, about)) in ended.iter().enumerate() {
            about.has_to_go();
            let apart_ms = (BACK_APART_MS * at as u64).min(BACK_WITHIN_MS);
            who.leave(Goodbye {
                why,
                retry_after_ms: BACK_AFTER_MS + rand::random_range(0..=apart_ms),
                answers_within: ANSWERS_WITHIN,
            });
        }
        ended.len()
    }

    /// Keys, rules or revocations have changed: tells those that are no longer what they were. Says how many are nobody any more. Nobody
    /// waits for it: each looks at itself in its own turn.
    pub(crate) fn judge_again(&self) -> usize {
        let mut ended = 0;
        for (who, about) in self.all() {
            match about.identity().current() {
                Ok(Cow::Borrowed(_)) if !about.has_topic_tokens.load(Ordering::SeqCst) => continue,
                Ok(Cow::Borrowed(_)) => {}
                Ok(Cow::Owned(_)) => {}
                Err(_) => {
                    ended += 1;
                    about.has_to_go();
                }
            }
            who.reconsider();
        }
        ended
    }

    fn all(&self) -> Vec<(Arc<dyn Leave>, Arc<About>)> {
        let list = self.lock();
        list.present.iter().map(|(_, one)| one.clone()).collect()
    }

    fn lock(&self) -> MutexGuard<'_, List> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
