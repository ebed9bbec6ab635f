//! A TCP connection to a name that has several addresses (RFC 8305). Owns the order of the addresses, the race between them, and which of
//! them are doubted for a while. What is said over the connection is the caller's.

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::future::BoxFuture;
use futures_util::stream::FuturesUnordered;
use tokio::net::TcpStream;
use tokio::time::Instant;

use crate::figures::ADDRESS_HEAD_START;

/// How long an address that failed, or was slow, stands behind those that did not.
const DOUBTED_FOR: Duration = Duration::from_secs(300);
/// More addresses than that of one name are not looked at.
const MOST_ADDRESSES: usize = 32;

/// Finds the addresses of a host.
pub(crate) type Resolver =
    Arc<dyn Fn(String, u16) -> BoxFuture<'static, io::Result<Vec<SocketAddr>>> + Send + Sync>;

/// The system's.
pub(crate) fn system_resolver() -> Resolver {
    Arc::new(|host, port| {
        Box::pin(async move { Ok(tokio::net::lookup_host((host, port)).await?.collect()) })
    })
}

/// The addresses that failed or were slow lately, and since when. Bound: those of the last answer about one name.
#[derive(Debug, Clone, Default)]
pub struct Doubts(Arc<Mutex<HashMap<SocketAddr, Instant>>>);

impl Doubts {
    fn lock(&self) -> MutexGuard<'_, HashMap<SocketAddr, Instant>> {
        // No code that can panic runs under the lock.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// It is not to be the first again at once.
    pub(crate) fn doubt(&self, address: SocketAddr) {
        self.lock().insert(address, Instant::now());
    }

    fn trust(&self, address: SocketAddr) {
        self.lock().remove(&address);
    }

    /// In the resolver's order with the families by turns (RFC 8305, section 4); behind them those that are doubted, the longest
    /// doubted first.
    fn order(&self, found: Vec<SocketAddr>) -> Vec<SocketAddr> {
        let mut doubts = self.lock();
        doubts.retain(|address, since| found.contains(address) && since.elapsed() < DOUBTED_FOR);
        let (mut doubted, trusted): (Vec<_>, Vec<_>) = found
            .into_iter()
            .take(MOST_ADDRESSES)
            .partition(|address| doubts.contains_key(address));
        doubted.sort_by_key(|address| doubts.get(address).copied());
        let mut order = by_turns(trusted);
        order.extend(doubted);
        order
    }
}

/// The families by turns, beginning with that of the first address.
fn by_turns(addresses: Vec<SocketAddr>) -> Vec<SocketAddr> {
    let Some(first) = addresses.first().map(SocketAddr::is_ipv6) else {
        return addresses;
    };
    let (one, other): (Vec<_>, Vec<_>) = addresses.into_iter().partition(|a| a.is_ipv6() == first);
    let (mut one, mut other) = (one.into_iter(), other.into_iter());
    let mut order = Vec::with_capacity(one.len() + other.len());
    loop {
        let before = order.len();
        order.extend(one.next());
        order.extend(other.next());
        if order.len() == before {
            return order;
        }
    }
}

/// The addresses under way. However the race ends, those that had their head start and did not arrive are doubted.
struct UnderWay<'a> {
    doubts: &'a Doubts,
    since: HashMap<SocketAddr, Instant>,
}

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        for (address, since) in &self.since {
            if since.elapsed() >= ADDRESS_HEAD_START {
                self.doubts.doubt(*address);
            }
        }
    }
}

/// Connects to the first address that answers. The next one is tried beside it when [`ADDRESS_HEAD_START`] is over, or at once when one
/// has failed. The others are dropped.
async fn race<T, F>(
    found: Vec<SocketAddr>,
    doubts: &Doubts,
    connect: impl Fn(SocketAddr) -> F,
) -> io::Result<(SocketAddr, T)>
where
    F: Future<Output = io::Result<T>>,
{
    let mut waiting = doubts.order(found).into_iter();
    let mut under_way = UnderWay {
        doubts,
        since: HashMap::new(),
    };
    let mut attempts = FuturesUnordered::new();
    let mut failures: Vec<(SocketAddr, io::Error)> = Vec::new();
    loop {
        if let Some(address) = waiting.next() {
            under_way.since.insert(address, Instant::now());
            let attempt = connect(address);
            attempts.push(async move { (address, attempt.await) });
        }
        let head_start = tokio::time::sleep(ADDRESS_HEAD_START);
        tokio::select! {
            biased;
            arrived = attempts.next() => match arrived {
                Some((address, Ok(connection))) => {
                    under_way.since.remove(&address);
                    doubts.trust(address);
                    return Ok((address, connection));
                }
                Some((address, Err(error))) => {
                    under_way.since.remove(&address);
                    doubts.doubt(address);
                    failures.push((address, error));
                }
                None => return Err(all_failed(failures)),
            },
            () = head_start, if waiting.len() > 0 => {}
        }
    }
}

/// One sentence for all addresses; the kind is that of the last.
fn all_failed(mut failures: Vec<(SocketAddr, io::Error)>) -> io::Error {
    match failures.len() {
        0 => io::Error::new(io::ErrorKind::NotFound, "the name has no address"),
        1 => failures.remove(0).1,
        last => {
            let kind = failures[last - 1].1.kind();
            let reasons: Vec<_> = failures
                .iter()
                .map(|(address, error)| format!("{address}: {error}"))
                .collect();
            io::Error::new(kind, reasons.join("; "))
        }
    }
}

/// Looks the host up and connects to the address of it that answers first.
pub(crate) async fn connect(
    host: &str,
    port: u16,
    resolver: &Resolver,
    doubts: &Doubts,
) -> io::Result<(SocketAddr, TcpStream)> {
    // Of an IPv6 address in a URL.
    let host = host.trim_start_matches('[').trim_end_matches(']');
    let found = resolver(host.to_owned(), port).await?;
    let (address, stream) = first(found, doubts).await?;
    stream.set_nodelay(true)?;
    Ok((address, stream))
}

/// Connects to that one of the addresses that answers first.
pub async fn first(
    addresses: Vec<SocketAddr>,
    doubts: &Doubts,
) -> io::Result<(SocketAddr, TcpStream)> {
    race(addresses, doubts, TcpStream::connect).await
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::rc::Rc;

    use super::*;

    fn address(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    fn addresses(texts: &[&str]) -> Vec<SocketAddr> {
        texts.iter().copied().map(address).collect()
    }

    /// What an address does, after so many milliseconds.
    #[derive(Clone, Copy)]
    enum Does {
        Answer(u64),
        Refuse(u64),
        Swallow,
    }

    /// A race on a paused clock: what came of it, after how many milliseconds, and when each address was tried.
    async fn run(
        doubts: &Doubts,
        does: &[(&str, Does)],
    ) -> (Result<SocketAddr, io::Error>, u64, Vec<(SocketAddr, u64)>) {
        let start = Instant::now();
        let ms = move || start.elapsed().as_millis() as u64;
        let tried = Rc::new(RefCell::new(Vec::new()));
        let found = does.iter().map(|(text, _)| address(text)).collect();
        let connect = |to: SocketAddr| {
            tried.borrow_mut().push((to, ms()));
            let does = does.iter().find(|(text, _)| address(text) == to).unwrap().1;
            async move {
                match does {
                    Does::Answer(after) => tokio::time::sleep(Duration::from_millis(after)).await,
                    Does::Refuse(after) => {
                        tokio::time::sleep(Duration::from_millis(after)).await;
                        return Err(io::ErrorKind::ConnectionRefused.into());
                    }
                    Does::Swallow => std::future::pending().await,
                }
                Ok(())
            }
        };
        let within = tokio::time::timeout(Duration::from_secs(10), race(found, doubts, connect));
        let won = within
            .await
            .unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
            .map(|(address, ())| address);
        let tried = tried.borrow().clone();
        (won, ms(), tried)
    }

    const A: &str = "[2001:db8::1]:1";
    const B: &str = "192.0.2.1:1";
    const C: &str = "192.0.2.2:1";

    #[test]
    fn families_take_turns() {
        let (six, four) = ("[2001:db8::2]:1", "192.0.2.3:1");
        let found = addresses(&[A, six, B, C, four]);
        assert_eq!(by_turns(found), addresses(&[A, B, six, C, four]));
        assert_eq!(by_turns(addresses(&[B, C, A])), addresses(&[B, A, C]));
        assert!(by_turns(Vec::new()).is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn a_dead_first_address_costs_a_head_start() {
        let doubts = Doubts::default();
        let does = [
            (A, Does::Swallow),
            (B, Does::Answer(30)),
            (C, Does::Answer(1)),
        ];
        let (won, ms, tried) = run(&doubts, &does).await;
        assert_eq!((won.unwrap(), ms), (address(B), 280));
        assert_eq!(tried, [(address(A), 0), (address(B), 250)]);
        // It is not the first again at once: it is last, and is not even tried.
        let (won, ms, tried) = run(&doubts, &does).await;
        assert_eq!((won.unwrap(), ms), (address(B), 30));
        assert_eq!(tried, [(address(B), 0)]);
        // But after a while it may be well again.
        tokio::time::advance(DOUBTED_FOR).await;
        let (.., tried) = run(&doubts, &does).await;
        assert_eq!(tried[0], (address(A), 0));
    }

    #[tokio::test(start_paused = true)]
    async fn a_refusal_is_followed_at_once() {
        let does = [(A, Does::Refuse(3)), (B, Does::Answer(4))];
        let (won, ms, _) = run(&Doubts::default(), &does).await;
        assert_eq!((won.unwrap(), ms), (address(B), 7));
    }

    #[tokio::test(start_paused = true)]
    async fn a_slow_one_may_still_win() {
        let does = [(A, Does::Answer(600)), (B, Does::Swallow)];
        let doubts = Doubts::default();
        let (won, ms, _) = run(&doubts, &does).await;
        assert_eq!((won.unwrap(), ms), (address(A), 600));
        assert_eq!(doubts.order(addresses(&[B, A])), addresses(&[A, B]));
    }

    #[tokio::test(start_paused = true)]
    async fn one_that_had_no_head_start_is_not_doubted() {
        let does = [(A, Does::Answer(260)), (B, Does::Answer(260))];
        let doubts = Doubts::default();
        let (won, ..) = run(&doubts, &does).await;
        assert_eq!(won.unwrap(), address(A));
        assert!(doubts.lock().is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn a_race_that_is_given_up_leaves_its_doubts() {
        let doubts = Doubts::default();
        let does = [(B, Does::Swallow), (C, Does::Swallow), (A, Does::Refuse(0))];
        let (won, ms, tried) = run(&doubts, &does).await;
        assert_eq!(
            (won.unwrap_err().kind(), ms),
            (io::ErrorKind::TimedOut, 10_000)
        );
        assert_eq!(
            tried,
            [(address(B), 0), (address(A), 250), (address(C), 250)]
        );
        assert_eq!(doubts.lock().len(), 3);
        // All are doubted: the one that failed first has its turn first.
        assert_eq!(doubts.order(addresses(&[B, C, A]))[0], address(A));
    }

    #[tokio::test(start_paused = true)]
    async fn all_refuse_and_all_are_named() {
        let does = [(A, Does::Refuse(1)), (B, Does::Refuse(1))];
        let (won, ms, _) = run(&Doubts::default(), &does).await;
        let error = won.unwrap_err();
        assert_eq!((error.kind(), ms), (io::ErrorKind::ConnectionRefused, 2));
        let sentence = error.to_string();
        assert!(sentence.contains(A) && sentence.contains(B), "{sentence}");
        let (won, ..) = run(&Doubts::default(), &[]).await;
        assert_eq!(won.unwrap_err().kind(), io::ErrorKind::NotFound);
    }
}
