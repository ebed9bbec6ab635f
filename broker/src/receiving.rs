//! Messages that have come in part, on whatever transport. Owns how much all of them may hold together, and who goes when it is more.
//!
//! Whoever waits for the rest of a message leaves what there is of it here meanwhile, and takes it back when more has come. So one that is
//! to go loses it at once, also where its task does not run because its socket is blocked.
//!
//! Who goes first: whoever has been slower than `SLOW_BYTES_A_SECOND` over `PACE_WINDOW`; then the slowest of the address that holds
//! most. So somebody who sends slowly but steadily from an address of his own outlives a crowd that only holds its place. Behind a proxy
//! that Hark was not told of all have one address, and the pace alone decides.

use std::cmp::Reverse;
use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Waker;
use std::time::{Duration, Instant};

use bytes::BytesMut;

use crate::budget::Budget;
use crate::limits::Network;

/// Who is slower than this over [`PACE_WINDOW`] goes before all others.
const SLOW_BYTES_A_SECOND: u64 = 4 * 1024;
/// The pace is that of the last so many seconds, at least.
const PACE_WINDOW: Duration = Duration::from_secs(10);
/// Less is not worth a place in the list: the connection costs more.
const WORTH_COUNTING_BYTES: usize = 4 * 1024;

/// All messages that have come in part. Clones are the same.
#[derive(Debug, Clone)]
pub struct Receivings {
    budget: Budget,
    list: Arc<Mutex<List>>,
}

#[derive(Debug, Default)]
struct List {
    waiting: HashMap<u64, Waiting>,
    next: u64,
}

/// What there is of a message whose rest is waited for.
#[derive(Debug)]
struct Waiting {
    holder: Option<Network>,
    part: Part,
    bytes: usize,
    pace: Pace,
    waker: Waker,
}

/// What there is of a message.
#[derive(Debug, Default)]
pub struct Part {
    /// As it came: a part of a frame, of a line, of a body.
    pub raw: BytesMut,
    /// The fragments before it.
    pub fragments: BytesMut,
    /// Bytes that were cut from the memory `raw` lies in, and that it may hold still.
    cut_bytes: usize,
}

impl Part {
    /// Cuts off what has come whole.
    pub fn cut(&mut self, bytes: usize) -> BytesMut {
        self.cut_bytes += bytes;
        self.raw.split_to(bytes)
    }

    /// What is left of a megabyte would hold all of it.
    fn let_go_of_memory(&mut self) {
        if self.cut_bytes > self.raw.len() {
            self.raw = BytesMut::from(&self.raw[..]);
            self.cut_bytes = 0;
        }
    }

    /// What it takes in memory.
    fn bytes(&self) -> usize {
        self.raw.capacity() + self.fragments.capacity()
    }
}

/// Who holds it, as far as can be known, by what a client is called in logs: an address, with or without a port.
fn holder_of(client: &str) -> Option<Network> {
    let with_port = || client.parse().map(|client: SocketAddr| client.ip());
    let address: IpAddr = client.parse().or_else(|_| with_port()).ok()?;
    Some(Network::of(address))
}

/// How fast something comes.
#[derive(Debug, Clone)]
struct Pace {
    began: Instant,
    last: Instant,
    received: u64,
    /// What had been received at two moments, a window apart; the pace is that since the earlier one.
    earlier: (Instant, u64),
    later: (Instant, u64),
}

impl Pace {
    fn begin(now: Instant) -> Self {
        Self {
            began: now,
            last: now,
            received: 0,
            earlier: (now, 0),
            later: (now, 0),
        }
    }

    fn came(&mut self, bytes: usize, now: Instant) {
        if now.saturating_duration_since(self.later.0) >= PACE_WINDOW {
            self.earlier = std::mem::replace(&mut self.later, (now, self.received));
        }
        self.received += bytes as u64;
        self.last = now;
    }

    fn bytes_a_second(&self, now: Instant) -> u64 {
        if now.saturating_duration_since(self.last) >= PACE_WINDOW {
            return 0;
        }
        let (since, before) = self.earlier;
        let passed_ms = now.saturating_duration_since(since).as_millis().max(1);
        (self.received - before) * 1000 / u64::try_from(passed_ms).unwrap_or(u64::MAX)
    }

    fn is_slow(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.began) >= PACE_WINDOW
            && self.bytes_a_second(now) < SLOW_BYTES_A_SECOND
    }
}

/// It was among those that had to go: what there was of its message is gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("too many messages had come in part, and this one was slow; send it again in a moment")]
pub struct NoRoom;

impl Receivings {
    /// A list of messages that may hold `limit_bytes` together.
    pub fn new(limit_bytes: usize) -> Self {
        Self {
            budget: Budget::new("receiving", limit_bytes),
            list: Arc::default(),
        }
    }

    /// For the messages of one connection of `client`, as it is called in logs.
    pub fn of(&self, client: &str) -> Receiving {
        Receiving {
            all: self.clone(),
            holder: holder_of(client),
            place: None,
            pace: None,
        }
    }

    /// What all of them hold.
    #[cfg(test)]
    pub(crate) fn used(&self) -> usize {
        self.budget.used()
    }

    /// Tells all to go.
    #[cfg(test)]
    pub(crate) fn let_go_of_all(&self) {
        let waiting = std::mem::take(&mut self.lock().waiting);
        for (_, waiting) in waiting {
            self.budget.give_back(waiting.bytes);
            waiting.waker.wake();
        }
    }

    fn lock(&self) -> MutexGuard<'_, List> {
        self.list.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Enters what there is of a message, and tells those to go without whom the rest is within the limit.
    fn enter(&self, waiting: Waiting, now: Instant) -> u64 {
        let mut gone = Vec::new();
        let mut list = self.lock();
        let place = list.next;
        list.next += 1;
        let mut is_within = self.budget.take_even_if_over(waiting.bytes);
        list.waiting.insert(place, waiting);
        while !is_within
            && let Some(first) = first_to_go(&list.waiting, now)
            && let Some(waiting) = list.waiting.remove(&first)
        {
            self.budget.give_back(waiting.bytes);
            is_within = self.budget.take_even_if_over(0);
            gone.push(waiting);
        }
        drop(list);
        for waiting in gone {
            drop(waiting.part);
            waiting.waker.wake();
        }
        place
    }

    fn leave(&self, place: u64) -> Option<Waiting> {
        let waiting = self.lock().waiting.remove(&place);
        if let Some(waiting) = &waiting {
            self.budget.give_back(waiting.bytes);
        }
        waiting
    }
}

/// Who is to go when all hold too much.
fn first_to_go(waiting: &HashMap<u64, Waiting>, now: Instant) -> Option<u64> {
    let slowest_where = |belongs: &dyn Fn(&Waiting) -> bool| {
        let candidates = waiting.iter().filter(|(_, one)| belongs(one));
        candidates
            .min_by_key(|(_, one)| (one.pace.bytes_a_second(now), Reverse(one.bytes)))
            .map(|(place, _)| *place)
    };
    if let Some(slow) = slowest_where(&|one| one.pace.is_slow(now)) {
        return Some(slow);
    }
    let mut held: HashMap<Option<Network>, usize> = HashMap::new();
    for one in waiting.values() {
        *held.entry(one.holder).or_default() += one.bytes;
    }
    let (most, _) = held.into_iter().max_by_key(|(_, bytes)| *bytes)?;
    slowest_where(&|one| one.holder == most)
}

/// One connection's messages, one after the other.
#[derive(Debug)]
pub struct Receiving {
    all: Receivings,
    holder: Option<Network>,
    /// Where its part waits, while it does.
    place: Option<u64>,
    /// Since something is half received.
    pace: Option<Pace>,
}

impl Receiving {
    /// Bytes have come.
    pub fn came(&mut self, bytes: usize) {
        let now = Instant::now();
        let pace = self.pace.get_or_insert_with(|| Pace::begin(now));
        pace.came(bytes, now);
    }

    /// Whatever came before does not count for the pace.
    pub fn pace_anew(&mut self) {
        self.pace = None;
    }

    /// Leaves what there is of a message, until there is more. If it has to go meanwhile `waker` is called.
    pub fn leave(&mut self, part: &mut Part, waker: &Waker) {
        part.let_go_of_memory();
        let bytes = part.bytes();
        if bytes < WORTH_COUNTING_BYTES {
            self.pace = None;
            return;
        }
        let now = Instant::now();
        let waiting = Waiting {
            holder: self.holder,
            part: std::mem::take(part),
            bytes,
            pace: self.pace.get_or_insert_with(|| Pace::begin(now)).clone(),
            waker: waker.clone(),
        };
        self.place = Some(self.all.enter(waiting, now));
    }

    /// Takes back what was left, if anything was.
    pub fn take_back(&mut self, part: &mut Part) -> Result<(), NoRoom> {
        let Some(place) = self.place.take() else {
            return Ok(());
        };
        *part = self.all.leave(place).ok_or(NoRoom)?.part;
        Ok(())
    }

    /// Forgets what was left, if anything was.
    pub fn forget(&mut self) {
        if let Some(place) = self.place.take() {
            drop(self.all.leave(place));
        }
    }
}

impl Drop for Receiving {
    fn drop(&mut self) {
        self.forget();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: usize = 1024 * 1024;

    fn part(bytes: usize) -> Part {
        Part {
            raw: BytesMut::with_capacity(bytes),
            ..Part::default()
        }
    }

    /// A list of parts, each with its address, and what came when.
    struct Crowd {
        began: Instant,
        waiting: HashMap<u64, Waiting>,
    }

    impl Crowd {
        fn gathers() -> Self {
            Self {
                began: Instant::now(),
                waiting: HashMap::new(),
            }
        }

        /// Somebody at `address` holds so much, which came at these times after the beginning.
        fn with(&mut self, place: u64, address: &str, came: &[(u64, usize)]) {
            let at = |ms| self.began + Duration::from_millis(ms);
            let mut pace = Pace::begin(at(came[0].0));
            for &(ms, bytes) in came {
                pace.came(bytes, at(ms));
            }
            let bytes = came.iter().map(|(_, bytes)| bytes).sum();
            let waiting = Waiting {
                holder: holder_of(address),
                part: Part::default(),
                bytes,
                pace,
                waker: Waker::noop().clone(),
            };
            self.waiting.insert(place, waiting);
        }

        /// Who goes at this time, one after the other.
        fn go_at(mut self, ms: u64) -> Vec<u64> {
            let now = self.began + Duration::from_millis(ms);
            let mut gone = Vec::new();
            while let Some(first) = first_to_go(&self.waiting, now) {
                self.waiting.remove(&first);
                gone.push(first);
            }
            gone
        }
    }

    #[test]
    fn the_slowest_of_the_address_that_holds_most_goes_first() {
        let mut crowd = Crowd::gathers();
        crowd.with(1, "192.0.2.1:80", &[(0, 10), (1000, 600_000)]);
        crowd.with(2, "192.0.2.1:81", &[(0, 10), (1000, 500_000)]);
        crowd.with(3, "192.0.2.2", &[(0, 10), (1000, 700_000)]);
        crowd.with(4, "192.0.2.3", &[(0, 10), (1000, 12_000)]);
        // The first address holds most until its slowest has gone, then the second does.
        assert_eq!(crowd.go_at(2000), [2, 3, 1, 4]);
    }

    #[test]
    fn whoever_was_slow_for_ten_seconds_goes_before_all() {
        let steady: Vec<(u64, usize)> = (0..20).map(|n| (n * 1000, 12_000)).collect();
        let trickle: Vec<(u64, usize)> = (0..20).map(|n| (n * 1000, 100)).collect();
        let mut crowd = Crowd::gathers();
        crowd.with(1, "192.0.2.1", &steady);
        crowd.with(2, "192.0.2.2", &trickle);
        crowd.with(3, "192.0.2.3", &[(0, MIB)]);
        crowd.with(4, "192.0.2.1", &[(18_000, 1000)]);
        // Who sends nothing any more is slower than who trickles, whatever he sent at first; who has just begun is not slow yet.
        assert_eq!(crowd.go_at(20_000)[..2], [3, 2]);
    }

    #[test]
    fn behind_one_address_the_pace_alone_decides() {
        let steady: Vec<(u64, usize)> = (0..20).map(|n| (n * 1000, 12_000)).collect();
        let mut crowd = Crowd::gathers();
        crowd.with(0, "127.0.0.1", &steady);
        for place in 1..50 {
            crowd.with(place, "127.0.0.1", &[(0, MIB), (1, 10)]);
        }
        let gone = crowd.go_at(20_000);
        assert_eq!(gone.last(), Some(&0), "{gone:?}");
    }

    #[test]
    fn a_household_of_ipv6_is_one_address() {
        let of = holder_of;
        assert_eq!(of("[2001:db8::1]:80"), of("2001:db8::2:3:4:5"));
        assert_ne!(of("2001:db8::1"), of("2001:db8:0:1::1"));
        assert_eq!(of("[::ffff:192.0.2.7]:80"), of("192.0.2.7"));
        assert_ne!(of("192.0.2.7"), of("192.0.2.8"));
        assert_eq!(of(""), None);
    }

    #[test]
    fn what_all_hold_stays_within_the_limit_and_what_goes_is_given_back() {
        let all = Receivings::new(10 * MIB);
        let mut crowd: Vec<Receiving> = (0..30).map(|n| all.of(&format!("192.0.2.{n}"))).collect();
        for one in &mut crowd {
            one.came(MIB);
            one.leave(&mut part(MIB), Waker::noop());
            assert!(all.budget.used() <= 10 * MIB);
        }
        let took = |one: &mut Receiving| one.take_back(&mut Part::default());
        let stayed = crowd.iter_mut().map(took).filter(Result::is_ok).count();
        assert_eq!(stayed, 10);
        assert_eq!(all.budget.used(), 0);

        let mut one = all.of("");
        one.leave(&mut part(MIB), Waker::noop());
        assert_eq!(all.budget.used(), MIB);
        drop(one);
        assert_eq!((all.budget.used(), all.lock().waiting.len()), (0, 0));
    }

    #[test]
    fn a_few_bytes_are_not_counted() {
        let all = Receivings::new(0);
        let mut one = all.of("192.0.2.1");
        let mut few = part(100);
        one.leave(&mut few, Waker::noop());
        assert!(few.raw.capacity() >= 100);
        assert_eq!(one.take_back(&mut few), Ok(()));
    }
}
