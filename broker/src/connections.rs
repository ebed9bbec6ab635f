//! The list of connections, and ending those that hold their place and do nothing with it. Owns what is known of each connection beside
//! its socket, which is the guarded stream's (`edge`): who it is, whether a request of it is being answered, what it was given and has not
//! taken. While a socket is blocked nothing that serves it runs, so it is ended from outside: by a flag that the stream looks at when it is
//! woken.
//!
//! Ended is a client that takes next to nothing of what it was given. The kernel ends a peer that takes nothing at all
//! (`TCP_USER_TIMEOUT`, set on the listener), but one that takes a byte now and then starts that clock anew each time.

use std::collections::{HashMap, VecDeque};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::task::{Poll, Waker};
use std::time::{Duration, Instant, SystemTime};

use actix_web::HttpRequest;
use futures_util::task::AtomicWaker;
use slab::Slab;

use crate::certificate::Certificate;
use crate::listen::Routes;
use crate::output::Output;
use crate::unsent::Unsent;

/// What must move within the stall timeout.
const PAGE_BYTES: usize = 64 * 1024;

/// How many whole pages so many bytes are.
pub fn pages(bytes: usize) -> u32 {
    u32::try_from(bytes / PAGE_BYTES).unwrap_or(u32::MAX)
}

/// A client is behind when something it was sent is not acknowledged for so long.
const BEHIND_AFTER: Duration = Duration::from_secs(2);
/// So many moments of what is owed are remembered of a connection; of more, those in the middle are left out.
const MAX_OWED: usize = 64;
/// Who asked to know is told again while it lasts.
const TELL_BEHIND_EVERY: Duration = Duration::from_secs(4);

/// Who was to go is cut after this.
const GONE_WITHIN_MS: u64 = 500;

/// Milliseconds since 1970.
pub(crate) fn unix_ms(time: SystemTime) -> u64 {
    let since = time.duration_since(SystemTime::UNIX_EPOCH);
    since.map_or(0, |since| {
        u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
    })
}

/// Who is connected, however.
#[derive(Debug)]
pub struct Connections {
    list: Mutex<Slab<Arc<Connection>>>,
    stall_timeout: Duration,
}

/// By which listener a connection came in, and how.
#[derive(Debug, Clone, Default)]
pub(crate) struct Entrance {
    /// The listener's port.
    pub(crate) port: u16,
    /// What it serves.
    pub(crate) routes: Routes,
    /// By TLS of Hark's own.
    pub(crate) is_encrypted: bool,
    /// What the client has shown, signed by whom the listener believes.
    pub(crate) certificate: Option<Arc<Certificate>>,
}

/// One connection, as all who have to do with it share it.
#[derive(Debug)]
pub struct Connection {
    peer: Option<SocketAddr>,
    /// Known as soon as there may be requests.
    entrance: OnceLock<Entrance>,
    began: Instant,
    /// Requests that were handed to actix-http, and those of them that have been answered.
    requests: AtomicU64,
    answers: AtomicU64,
    /// The stream has to end, and what was written and not sent is thrown away.
    cut: AtomicBool,
    /// Both sides have said that the WebSocket is closed: nothing more is waited for (RFC 6455, section 7.1.1).
    closed: AtomicBool,
    /// All that had come was read: what comes next has been waited for.
    waited: AtomicBool,
    /// The task that serves the connection.
    task: AtomicWaker,
    input: Mutex<Input>,
    output: Mutex<Output>,
    /// Bytes that the kernel has taken of what was written.
    written_bytes: AtomicU64,
    /// Milliseconds after `began` since when the kernel takes no more; 0: it does.
    blocked_since_ms: AtomicU64,
    /// The kernel took no more at some time since it was last looked.
    was_blocked: AtomicBool,
    /// When it was last seen that a page had moved, or that nothing waited: milliseconds after `began`, and what had been written by then.
    page_moved: Mutex<(u64, u64)>,
    /// Bytes of a whole answer that wait to be written.
    answer_bytes: AtomicUsize,
    acknowledged: Mutex<Acknowledged>,
    /// Who is told that it is behind.
    bell: Mutex<Option<Bell>>,
    /// When what its client has shown runs out, in Unix milliseconds; 0: never.
    ends_at_ms: AtomicU64,
}

/// A connection ends at a time only as long as this is there.
#[derive(Debug)]
pub struct Ends(Arc<Connection>);

impl Drop for Ends {
    fn drop(&mut self) {
        self.0.ends_at(None);
    }
}

/// Somebody who wants to know that a client is behind.
struct Bell(Box<dyn Fn() + Send + Sync>);

impl std::fmt::Debug for Bell {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Bell")
    }
}

/// What the kernel said of a connection when it was last asked.
#[derive(Debug, Default)]
struct Acknowledged {
    /// What had been written by when, as far as it is owed: milliseconds after the beginning, and bytes.
    owed: VecDeque<(u64, u64)>,
    /// When last somebody was told that the client is behind.
    told_ms: Option<u64>,
}

/// What has come of the request that is being answered.
#[derive(Debug, Default)]
struct Input {
    /// Bytes of its body that were handed on.
    body_bytes: u64,
    /// The client has closed its side, and no more of the body will come.
    ended: bool,
    /// The client has closed its side.
    closed: bool,
    waiting: Option<Waker>,
}

impl Input {
    /// `waker` is called when the client closes its side. Mostly it is the same as before, and nothing is copied.
    fn wait(&mut self, waker: &Waker) {
        match &mut self.waiting {
            Some(waiting) => waiting.clone_from(waker),
            None => self.waiting = Some(waker.clone()),
        }
    }
}

/// A connection's place in the list, kept by its stream.
#[derive(Debug)]
pub struct Listed {
    connections: Arc<Connections>,
    at: usize,
    connection: Arc<Connection>,
}

impl Drop for Listed {
    fn drop(&mut self) {
        self.connections.lock().try_remove(self.at);
    }
}

impl std::ops::Deref for Listed {
    type Target = Arc<Connection>;

    fn deref(&self) -> &Arc<Connection> {
        &self.connection
    }
}

impl Connections {
    /// An empty list. A page must move within `stall_timeout`.
    pub fn new(stall_timeout: Duration) -> Arc<Self> {
        Arc::new(Self {
            list: Mutex::default(),
            stall_timeout,
        })
    }

    /// To be called when a connection is accepted.
    pub fn enter(self: &Arc<Self>, peer: Option<SocketAddr>) -> Listed {
        self.enter_at(peer, Instant::now())
    }

    fn enter_at(self: &Arc<Self>, peer: Option<SocketAddr>, began: Instant) -> Listed {
        let connection = Arc::new(Connection {
            peer: peer.map(canonical),
            entrance: OnceLock::new(),
            began,
            requests: AtomicU64::new(0),
            answers: AtomicU64::new(0),
            cut: AtomicBool::new(false),
            closed: AtomicBool::new(false),
            waited: AtomicBool::new(false),
            task: AtomicWaker::new(),
            input: Mutex::default(),
            output: Mutex::default(),
            written_bytes: AtomicU64::new(0),
            blocked_since_ms: AtomicU64::new(0),
            was_blocked: AtomicBool::new(false),
            page_moved: Mutex::default(),
            answer_bytes: AtomicUsize::new(0),
            acknowledged: Mutex::default(),
            bell: Mutex::default(),
            ends_at_ms: AtomicU64::new(0),
        });
        let at = self.lock().insert(connection.clone());
        Listed {
            connections: self.clone(),
            at,
            connection,
        }
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.lock().len()
    }

    /// Cuts the connections that have taken next to nothing for too long. To be called every second or so; `slept`: much later than that.
    pub fn end_overdue(&self, slept: bool) {
        let mut stalled = self.all();
        stalled.retain(|connection| {
            connection.is_stalled(connection.now_ms(), self.stall_timeout, slept)
        });
        let ended = stalled.iter().filter(|connection| connection.cut()).count();
        if ended > 0 {
            tracing::info!(
                connections = ended,
                "ended: they took less than a page within the stall timeout"
            );
        }
    }

    /// Cuts the connections whose client was to have gone, and told so, a while ago: it does not read. To be called every second or so.
    pub(crate) fn end_expired(&self, now: SystemTime) {
        let now_ms = unix_ms(now);
        let expired = |connection: &&Arc<Connection>| {
            let ends_at_ms = connection.ends_at_ms.load(Ordering::Relaxed);
            ends_at_ms != 0 && now_ms >= ends_at_ms.saturating_add(GONE_WITHIN_MS)
        };
        let all = self.all();
        let expired = all.iter().filter(expired);
        let ended = expired.filter(|connection| connection.cut()).count();
        if ended > 0 {
            tracing::info!(
                connections = ended,
                "ended: what their clients had shown has run out, and they do not read"
            );
        }
    }

    /// Cuts up to `count` connections that hold a whole answer and have taken nothing of it for `patience`: those first that have not for
    /// the longest.
    pub(crate) fn end_unread_answers(&self, count: usize, patience: Duration) {
        let unread = |connection: &Arc<Connection>| {
            let holds = connection.answer_bytes.load(Ordering::Relaxed) > 0;
            connection
                .blocked_for()
                .filter(|&blocked| holds && blocked >= patience)
        };
        let mut unread: Vec<_> = self
            .all()
            .into_iter()
            .filter_map(|connection| unread(&connection).map(|blocked| (blocked, connection)))
            .collect();
        unread.sort_by_key(|(blocked, _)| std::cmp::Reverse(*blocked));
        let ended = unread
            .into_iter()
            .take(count)
            .filter(|(_, connection)| connection.cut())
            .count();
        if ended > 0 {
            tracing::info!(
                connections = ended,
                "ended: they do not read their answers, and others wait for the room"
            );
        }
    }

    /// Takes in what the kernel holds of each connection. Where that is more than `total_bytes` in all, those are cut that have owed something
    /// for the longest; not what is merely on its way to clients that take it. To be called every second.
    pub(crate) fn count_unsent(&self, unsent: &[Unsent], total_bytes: u64) {
        let unsent: HashMap<(SocketAddr, u16), u32> = unsent
            .iter()
            .map(|one| ((one.peer, one.port), one.bytes))
            .collect();
        let mut owing = Vec::new();
        let mut total = 0;
        for connection in self.all() {
            let port = connection.entrance().port;
            let bytes = connection.peer.and_then(|peer| unsent.get(&(peer, port)));
            let bytes = u64::from(bytes.copied().unwrap_or(0));
            let now_ms = connection.now_ms();
            let owed_ms = connection.acknowledged_all_but(bytes, now_ms);
            total += bytes;
            if owed_ms >= BEHIND_AFTER.as_millis() as u64 {
                owing.push((owed_ms, bytes, connection));
            }
        }
        if total <= total_bytes {
            return;
        }
        owing.sort_by_key(|&(owed_ms, bytes, _)| std::cmp::Reverse((owed_ms, bytes)));
        let mut ended = 0;
        for (_, bytes, connection) in owing {
            if total <= total_bytes {
                break;
            }
            total -= bytes;
            ended += u32::from(connection.cut());
        }
        if ended > 0 {
            tracing::warn!(
                connections = ended,
                limit_bytes = total_bytes,
                "ended: the kernel holds too much that clients have not acknowledged; these had not for the longest"
            );
        }
    }

    /// All that there are just now.
    pub(crate) fn all(&self) -> Vec<Arc<Connection>> {
        let list = self.lock();
        list.iter()
            .map(|(_, connection)| connection.clone())
            .collect()
    }

    fn lock(&self) -> MutexGuard<'_, Slab<Arc<Connection>>> {
        self.list.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What rules over time.
impl Connection {
    /// The connection of a request; `None` only in tests that have none.
    pub fn of(request: &HttpRequest) -> Option<Arc<Self>> {
        request.conn_data::<Arc<Self>>().cloned()
    }

    /// The other side of the socket.
    pub(crate) fn peer(&self) -> Option<SocketAddr> {
        self.peer
    }

    /// How it came in; once, before its first request.
    pub(crate) fn came_by(&self, entrance: Entrance) {
        if self.entrance.set(entrance).is_err() {
            tracing::warn!("a connection came in twice");
        }
    }

    fn entrance(&self) -> &Entrance {
        static UNKNOWN: Entrance = Entrance {
            port: 0,
            routes: Routes::All,
            is_encrypted: false,
            certificate: None,
        };
        self.entrance.get().unwrap_or(&UNKNOWN)
    }

    /// Whether it is encrypted by Hark itself, so that nobody on the way can read it.
    pub(crate) fn is_encrypted(&self) -> bool {
        self.entrance().is_encrypted
    }

    /// The certificate that its client has shown, and that is signed by whom its listener believes.
    pub(crate) fn client_certificate(&self) -> Option<Arc<Certificate>> {
        self.entrance().certificate.clone()
    }

    /// Whether its listener serves this path.
    pub(crate) fn serves(&self, path: &str) -> bool {
        self.entrance().routes.serve(path)
    }

    /// Its client's credential runs out then. It is told by whoever serves it; where that cannot be, the connection is cut.
    pub(crate) fn ends_at(&self, time: Option<SystemTime>) {
        self.ends_at_ms
            .store(time.map_or(0, unix_ms), Ordering::Relaxed);
    }

    /// [`Self::ends_at`], as long as what is given is there.
    pub(crate) fn ends_while(self: &Arc<Self>, time: Option<SystemTime>) -> Ends {
        self.ends_at(time);
        Ends(self.clone())
    }

    fn now_ms(&self) -> u64 {
        // 0 has a meaning of its own.
        (self.began.elapsed().as_millis() as u64).max(1)
    }

    /// Whether it has taken less than a page of what waited for it in `timeout`; whoever `slept` knows nothing, and begins to look anew.
    fn is_stalled(&self, now_ms: u64, timeout: Duration, slept: bool) -> bool {
        let written = self.written_bytes.load(Ordering::Relaxed);
        let waits = self.was_blocked.swap(false, Ordering::Relaxed)
            || self.blocked_since_ms.load(Ordering::Relaxed) != 0;
        let mut moved = self
            .page_moved
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let (at_ms, before) = *moved;
        if !waits || slept || written - before >= PAGE_BYTES as u64 {
            *moved = (now_ms, written);
            return false;
        }
        u128::from(now_ms.saturating_sub(at_ms)) > timeout.as_millis()
    }

    /// Ends it; what is still in the kernel's buffer is thrown away. Says whether it had not been cut already.
    pub(crate) fn cut(&self) -> bool {
        let first = !self.cut.swap(true, Ordering::AcqRel);
        self.task.wake();
        first
    }
}

/// What the guarded stream tells, and asks.
impl Connection {
    pub(crate) fn is_cut(&self) -> bool {
        self.cut.load(Ordering::Acquire)
    }

    /// Who is to be woken when it is cut, or when an answer has ended that the stream waits for.
    pub(crate) fn is_served_by(&self, task: &Waker) {
        self.task.register(task);
    }

    /// A request is handed to actix-http.
    pub(crate) fn request_begins(&self) {
        self.requests.fetch_add(1, Ordering::AcqRel);
        let mut input = self.input();
        (input.body_bytes, input.ended) = (0, false);
    }

    /// Whether all requests that were handed on have been answered.
    pub(crate) fn all_answered(&self) -> bool {
        self.requests.load(Ordering::Acquire) == self.answers.load(Ordering::Acquire)
    }

    /// The socket has no more just now.
    pub(crate) fn waits_for_the_socket(&self) {
        self.waited.store(true, Ordering::Relaxed);
    }

    /// More of the body was handed on.
    pub(crate) fn handed_on(&self, bytes: u64) {
        self.input().body_bytes += bytes;
    }

    /// The client has closed its side; `in_body`: though the body is not whole, or has no end.
    pub(crate) fn input_closed(&self, in_body: bool) {
        let mut input = self.input();
        input.closed = true;
        input.ended = in_body;
        if let Some(waiting) = input.waiting.take() {
            waiting.wake();
        }
    }

    /// Whether the WebSocket has been closed by both sides.
    pub(crate) fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Acquire)
    }

    /// The kernel took so many bytes of what was written, or takes no more.
    pub(crate) fn wrote(&self, bytes: Option<usize>) {
        match bytes {
            Some(bytes) => {
                self.written_bytes
                    .fetch_add(bytes as u64, Ordering::Relaxed);
                if self.blocked_since_ms.load(Ordering::Relaxed) != 0 {
                    self.blocked_since_ms.store(0, Ordering::Relaxed);
                }
            }
            None if self.blocked_since_ms.load(Ordering::Relaxed) == 0 => {
                self.was_blocked.store(true, Ordering::Relaxed);
                self.blocked_since_ms
                    .store(self.now_ms(), Ordering::Relaxed);
            }
            None => {}
        }
    }

    /// Since when the kernel has taken nothing more.
    fn blocked_for(&self) -> Option<Duration> {
        let since_ms = self.blocked_since_ms.load(Ordering::Relaxed);
        (since_ms != 0).then(|| Duration::from_millis(self.now_ms().saturating_sub(since_ms)))
    }

    /// What it was given past actix-http.
    pub(crate) fn output(&self) -> MutexGuard<'_, Output> {
        self.output.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn input(&self) -> MutexGuard<'_, Input> {
        self.input.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What the kernel says of it.
impl Connection {
    /// All that was written is acknowledged but for `unsent_bytes`. Gives for how many milliseconds something has been owed.
    fn acknowledged_all_but(&self, unsent_bytes: u64, now_ms: u64) -> u64 {
        let written = self.written_bytes.load(Ordering::Relaxed);
        let acknowledged = written.saturating_sub(unsent_bytes);
        let mut known = self
            .acknowledged
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let owed = &mut known.owed;
        while owed
            .front()
            .is_some_and(|&(_, bytes)| bytes <= acknowledged)
        {
            owed.pop_front();
        }
        if unsent_bytes > 0 && owed.back().is_none_or(|&(_, bytes)| bytes < written) {
            if owed.len() == MAX_OWED {
                owed.remove(1);
            }
            owed.push_back((now_ms, written));
        }
        if owed.is_empty() {
            *owed = VecDeque::new();
        }
        let owed_ms = owed
            .front()
            .map_or(0, |&(at_ms, _)| now_ms.saturating_sub(at_ms));
        let tell_again = TELL_BEHIND_EVERY.as_millis() as u64;
        let tell = owed_ms >= BEHIND_AFTER.as_millis() as u64
            && known
                .told_ms
                .is_none_or(|told_ms| now_ms >= told_ms + tell_again);
        if tell {
            known.told_ms = Some(now_ms);
        }
        drop(known);
        if tell && let Some(Bell(ring)) = &*self.bell() {
            ring();
        }
        owed_ms
    }

    /// From now on `ring` is called when something that was written two seconds ago has not been acknowledged, and every few seconds
    /// while that lasts.
    pub fn when_behind(&self, ring: impl Fn() + Send + Sync + 'static) {
        *self.bell() = Some(Bell(Box::new(ring)));
    }

    fn bell(&self) -> MutexGuard<'_, Option<Bell>> {
        self.bell.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What those ask who answer.
impl Connection {
    /// Whether the socket had no more at some time since this was last asked: then others have had their turn, and one's own begins anew.
    pub(crate) fn has_waited_for_the_socket(&self) -> bool {
        self.waited.swap(false, Ordering::Relaxed)
    }

    /// Whether nothing more will come of the body that is being read, of which `received` bytes have been taken: the client has closed its
    /// side in its midst. Otherwise `waker` is called when it does.
    ///
    /// actix-http is told so only when the request has been answered, since it would end the connection at once.
    pub fn body_ends_after(&self, received: u64, waker: &Waker) -> bool {
        let mut input = self.input();
        if input.ended && input.body_bytes == received {
            return true;
        }
        input.wait(waker);
        false
    }

    /// Resolves when the client has closed its side: it may still read, or be gone.
    pub async fn client_closes(&self) {
        std::future::poll_fn(|cx| {
            let mut input = self.input();
            if input.closed {
                return Poll::Ready(());
            }
            input.wait(cx.waker());
            Poll::Pending
        })
        .await;
    }

    /// Both sides have said that the WebSocket is closed: when what is written has been sent, so is the connection.
    pub fn close_when_sent(&self) {
        self.closed.store(true, Ordering::Release);
    }

    /// The body of an answer has ended, or has been given up.
    pub(crate) fn answer_ends(&self) {
        self.answers.fetch_add(1, Ordering::AcqRel);
        // The stream may hold what came behind the request, and begins to wait for the next.
        self.task.wake();
    }

    /// A whole answer of so many bytes waits to be written; 0: no more.
    pub(crate) fn holds_answer(&self, bytes: usize) {
        self.answer_bytes.store(bytes, Ordering::Relaxed);
    }
}

/// IPv4 addresses as such, also where a socket for both names them in IPv6 (RFC 4291, section 2.5.5.2).
fn canonical(peer: SocketAddr) -> SocketAddr {
    SocketAddr::new(peer.ip().to_canonical(), peer.port())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer(port: u16) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], port))
    }

    fn unsent(port: u16, bytes: u32) -> Unsent {
        Unsent {
            peer: peer(port),
            port: 0,
            bytes,
        }
    }

    #[test]
    fn beyond_the_bound_goes_who_has_owed_something_for_the_longest() {
        let connections = Connections::new(Duration::from_secs(60));
        let an_hour_ago = Instant::now() - Duration::from_secs(3600);
        let [vanished, slow, quick] =
            [1, 2, 3].map(|n| connections.enter_at(Some(peer(n)), an_hour_ago));
        let all = [&vanished, &slow, &quick];
        let look = |unsent: [u32; 3], limit: u64| {
            // As if the three seconds had passed that make a debt an old one.
            for one in all {
                for (at_ms, _) in &mut one.acknowledged.lock().unwrap().owed {
                    *at_ms = at_ms.saturating_sub(3000);
                }
            }
            let unsent = [1, 2, 3].map(|n: u16| self::unsent(n, unsent[usize::from(n) - 1]));
            connections.count_unsent(&unsent, limit);
            all.map(|one| one.is_cut())
        };
        for one in all {
            one.wrote(Some(1000));
        }
        assert_eq!(
            look([1000, 900, 1000], 1),
            [false; 3],
            "it was just written"
        );
        slow.wrote(Some(500));
        quick.wrote(Some(4000));
        assert_eq!(
            look([1000, 1000, 4000], 6000),
            [false; 3],
            "within the bound"
        );
        assert_eq!(look([1000, 1000, 4000], 5999), [true, false, false]);
        quick.wrote(Some(9000));
        assert_eq!(
            look([0, 1000, 9000], 1),
            [true, true, false],
            "what is on its way is not cut"
        );
    }

    #[test]
    fn who_takes_less_than_a_page_in_time_is_stalled() {
        let connections = Connections::new(Duration::from_secs(60));
        let one = connections.enter(Some(peer(1)));
        let is_stalled = |second: u64, slept: bool| {
            one.is_stalled(second * 1000, Duration::from_secs(60), slept)
        };
        let blocked_after = |bytes: usize| {
            one.wrote(Some(bytes));
            one.wrote(None);
        };
        assert!(!is_stalled(100, false), "nothing waits for it");
        blocked_after(1000);
        assert!(!is_stalled(160, false), "a minute is not over");
        blocked_after(PAGE_BYTES - 1001);
        assert!(is_stalled(161, false), "not quite a page has moved");
        blocked_after(1);
        assert!(!is_stalled(161, false), "a page has");
        assert!(is_stalled(222, false), "and nothing since");
        assert!(!is_stalled(222, true), "whoever slept has not seen it");
        assert!(!is_stalled(282, false));
        assert!(is_stalled(283, false));
        one.wrote(Some(1));
        blocked_after(1);
        one.wrote(Some(1));
        assert!(is_stalled(284, false), "it was blocked until a moment ago");
        assert!(!is_stalled(285, false), "nothing waits any more");
    }

    #[test]
    fn who_owes_what_was_sent_two_seconds_ago_is_behind() {
        let connections = Connections::new(Duration::from_secs(60));
        let one = connections.enter(Some(peer(1)));
        let rung = Arc::new(AtomicUsize::new(0));
        let counter = rung.clone();
        one.when_behind(move || {
            counter.fetch_add(1, Ordering::Relaxed);
        });
        one.wrote(Some(1000));
        for (unsent, now_ms, more, expected, why) in [
            (1000, 10_000, 500, 0, "it was just written"),
            (1001, 11_000, 0, 0, "it was written a second ago"),
            (501, 12_000, 0, 1, "a byte of the first is owed"),
            (500, 12_500, 0, 1, "what is owed was written later"),
            (500, 13_000, 0, 1, "it has been told"),
            (500, 16_000, 0, 2, "it is told again while it lasts"),
            (0, 21_000, 0, 2, "nothing is owed"),
            (0, 31_000, 0, 2, "nothing is written"),
        ] {
            one.acknowledged_all_but(unsent, now_ms);
            assert_eq!(rung.load(Ordering::Relaxed), expected, "{why}");
            one.wrote(Some(more));
        }
    }
}
