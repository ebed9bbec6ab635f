//! What a subscriber keeps of a subscription while rooms come and go: its room, its seat, its position, and how often something
//! failed. Owns when to try again and when to give up; leaves to each transport who waits, and how what it is told is written.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use hark_protocol::{Cursor, Epoch, Subprotocol, SubscribeFrom, TopicName};

use super::{Access, MayRead, Pull, Refusal, Seat, Seating, Subscribe, Subscriber};

/// How often a subscription tries to join again when rooms die under it.
const MAX_JOIN_ATTEMPTS: u32 = 10;
/// Pages in a row that could not be read before a subscriber gives up: with the waits between them, about a minute.
const MAX_PAGE_FAILURES: u32 = 18;
/// How long to wait before asking again, where a room's mailbox or the reader pool is full.
const RETRY: Duration = Duration::from_millis(20);

/// A client that lags is told so no more often than this, for each subscription.
const SAY_LAGGING_EVERY: Duration = Duration::from_secs(10);

/// How long to wait before asking the registry again after so many rooms in a row have died; `None`: give up.
pub fn join_again_after(attempts: u32) -> Option<Duration> {
    (attempts <= MAX_JOIN_ATTEMPTS).then(|| Duration::from_millis(5 << attempts))
}

/// One topic's subscription, as who subscribes keeps it.
#[derive(Debug)]
pub struct Subscription {
    topic: TopicName,
    right: MayRead,
    /// Where it sits; `None` while joining.
    seat: Option<Seat>,
    /// Where it wants to start, while joining.
    from: SubscribeFrom,
    /// What the client has been sent: meaningful once seated.
    pub position: Cursor,
    lag: Lag,
    /// Messages came live since the client was last asked whether it takes them.
    was_fed: bool,
    /// Joinings that failed in a row.
    failed_joinings: u32,
    /// Pages that could not be read, in a row.
    failed_pages: u32,
}

/// What came of asking a room for a page.
#[derive(Debug, PartialEq, Eq)]
pub enum Asked {
    /// The room or the reader pool will answer.
    Room,
    /// The room's mailbox is full: ask again after this.
    Later(Duration),
    /// There is no seat, or its room has gone and will say so.
    Nobody,
}

impl Subscription {
    /// A subscription that is yet to join, where that is granted.
    pub fn new(access: &Access, topic: TopicName, from: SubscribeFrom) -> Result<Self, Refusal> {
        Ok(Self {
            right: access.read_in_turn(&topic)?,
            topic,
            seat: None,
            from,
            position: Cursor {
                epoch: Epoch::new(1),
                offset: 0,
            },
            lag: Lag::default(),
            was_fed: false,
            failed_joinings: 0,
            failed_pages: 0,
        })
    }

    /// Which topic's.
    pub fn topic(&self) -> &TopicName {
        &self.topic
    }

    /// Whether it has joined a room.
    pub fn is_seated(&self) -> bool {
        self.seat.is_some()
    }

    /// Asks the topic's room for a seat. The answer is given to the subscriber under `key`, which stands for this one joining: what
    /// is on its way to an earlier one must not be taken for this one's.
    pub fn join(&mut self, subscriber: Arc<dyn Subscriber>, key: u32, subprotocol: Subprotocol) {
        self.seat = None;
        self.right.renew_in_turn();
        let order = Subscribe::new(subscriber, key, self.from, subprotocol);
        self.right.subscribe(order);
    }

    /// It has joined.
    pub fn seated(&mut self, seat: Seat, seating: &Seating) {
        self.seat = Some(seat);
        self.position = seating.position;
        self.failed_joinings = 0;
    }

    /// Asks for the page after the position.
    pub fn pull(&self) -> Asked {
        let pull = |seat: &Seat| Pull {
            seat: seat.number,
            position: self.position,
        };
        match &self.seat {
            Some(seat) if self.right.room().order(pull(seat)) => Asked::Room,
            Some(_) if self.right.room().is_connected() => Asked::Later(RETRY),
            _ => Asked::Nobody,
        }
    }

    /// Gives up the seat, as dropping the subscription does. Says whether the room will answer that nothing of it follows; if not, it
    /// has gone.
    pub fn leave(&mut self) -> bool {
        drop(self.seat.take());
        self.right.room().is_connected()
    }

    /// A page was read, up to this offset.
    pub fn page_read(&mut self, offset: u64) {
        self.position.offset = offset;
        self.failed_pages = 0;
    }

    /// The topic was deleted, and this is where it begins again.
    pub fn deleted(&mut self, position: Cursor) {
        self.position = position;
        self.failed_pages = 0;
    }

    /// A page could not be read: how long to wait before asking again; `None`: give up.
    pub fn page_failed(&mut self) -> Option<Duration> {
        self.failed_pages += 1;
        (self.failed_pages <= MAX_PAGE_FAILURES).then(|| RETRY * (1 << self.failed_pages.min(8)))
    }

    /// How many pages in a row could not be read.
    pub fn failed_pages(&self) -> u32 {
        self.failed_pages
    }

    /// Live messages were sent, up to this offset.
    pub fn fed(&mut self, offset: u64) {
        self.position.offset = offset;
        self.was_fed = true;
    }

    /// Whether live messages were sent since this was last asked.
    pub fn was_fed(&mut self) -> bool {
        std::mem::take(&mut self.was_fed)
    }

    /// The client takes less than comes. Whether it is to be told now.
    pub fn falls_behind(&mut self) -> bool {
        self.lag.begins(Instant::now())
    }

    /// A page was read, and there is more to read. Whether the client is to be told now that it lags.
    pub fn stays_behind(&mut self) -> bool {
        self.lag.goes_on(Instant::now())
    }

    /// The subscriber has caught up. Whether it is for the first time, and so to be said.
    pub fn catches_up(&mut self) -> bool {
        self.lag.ends()
    }

    /// The room has gone, or would not have it: how long to wait before joining again; `None`: give up. It then goes on from its
    /// position, if the client `was_told` one; otherwise it begins as it did first.
    pub fn room_gone(&mut self, was_told: bool) -> Option<Duration> {
        self.seat = None;
        if was_told {
            self.from = SubscribeFrom::After(self.position);
        }
        self.failed_joinings += 1;
        join_again_after(self.failed_joinings)
    }
}

/// Whether a client that was live takes less than comes, and when it was told. One that has only just begun is catching up, and knows.
#[derive(Debug, Default)]
struct Lag {
    was_live: bool,
    lags: bool,
    said: Option<Instant>,
}

impl Lag {
    fn begins(&mut self, now: Instant) -> bool {
        self.lags = self.was_live;
        self.goes_on(now)
    }

    fn goes_on(&mut self, now: Instant) -> bool {
        let lately = |said| now.duration_since(said) < SAY_LAGGING_EVERY;
        if !self.lags || self.said.is_some_and(lately) {
            return false;
        }
        self.said = Some(now);
        true
    }

    /// Whether it is live for the first time.
    fn ends(&mut self) -> bool {
        self.lags = false;
        !std::mem::replace(&mut self.was_live, true)
    }
}

/// Which of a subscriber's subscriptions read pages, in turn: one page at a time.
#[derive(Debug, Default)]
pub struct Pulls {
    waiting: VecDeque<u32>,
    outstanding: Option<u32>,
}

impl Pulls {
    /// A subscription wants a page, if none of it is on its way.
    pub fn add(&mut self, key: u32) {
        if self.outstanding != Some(key) && !self.waiting.contains(&key) {
            self.waiting.push_back(key);
        }
    }

    /// Forgets a subscription; a page of it that is still on its way will not be waited for.
    pub fn remove(&mut self, key: u32) {
        self.answered(key);
        self.waiting.retain(|&waiting| waiting != key);
    }

    /// The page has come, or will not.
    pub fn answered(&mut self, key: u32) {
        if self.outstanding == Some(key) {
            self.outstanding = None;
        }
    }

    /// Whose page is to be asked for now.
    pub fn whose_turn(&mut self) -> Option<u32> {
        if self.outstanding.is_none() {
            self.outstanding = self.waiting.pop_front();
            return self.outstanding;
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_are_asked_for_in_turn_and_one_at_a_time() {
        let mut pulls = Pulls::default();
        for key in [1, 2, 1, 3] {
            pulls.add(key);
        }
        assert_eq!(pulls.whose_turn(), Some(1));
        assert_eq!(pulls.whose_turn(), None);
        // What is on its way already is not asked for twice.
        pulls.add(1);
        pulls.answered(1);
        pulls.add(1);
        assert_eq!(pulls.whose_turn(), Some(2));
        // An answer to somebody else frees nothing.
        pulls.answered(1);
        assert_eq!(pulls.whose_turn(), None);
        pulls.remove(2);
        pulls.remove(3);
        assert_eq!(pulls.whose_turn(), Some(1));
    }

    #[test]
    fn a_client_is_told_that_it_lags_when_it_begins_and_now_and_then() {
        let begin = Instant::now();
        let at = |seconds| begin + Duration::from_secs(seconds);
        let mut lag = Lag::default();
        // Catching up at first is no lagging, however long it takes.
        assert!(!lag.goes_on(at(0)));
        assert!(!lag.begins(at(1)));
        assert!(!lag.goes_on(at(60)));
        assert!(lag.ends());

        assert!(lag.begins(at(100)));
        assert!(!lag.goes_on(at(109)));
        assert!(lag.goes_on(at(110)));
        assert!(!lag.ends());
        assert!(!lag.goes_on(at(200)));
        // Back and forth: it is not said more often for that, nor forgotten.
        assert!(lag.begins(at(201)));
        assert!(!lag.ends());
        assert!(!lag.begins(at(202)));
        assert!(lag.goes_on(at(211)));
    }

    #[test]
    fn a_room_that_cannot_be_had_is_given_up_after_ten_seconds() {
        let waits: Vec<_> = (1..).map_while(join_again_after).collect();
        assert!(waits.is_sorted());
        let all: Duration = waits.iter().sum();
        assert!((5..20).contains(&all.as_secs()), "{all:?}");
    }
}
