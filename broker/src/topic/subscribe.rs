//! Joining, pulling and leaving. Owns where a subscription starts and when a subscriber is live; feeding the live ones is
//! `fan_out`'s.
//!
//! ```text
//! subscribe ──at the head──▶ live ──cannot take more──▶ lagging
//!      └──────behind──────▶ lagging ──pull: the rest was in the tail──▶ live
//! ```
//! All of it happens in the room's turn, so nothing falls between history and live.

use std::sync::Arc;

use actix::prelude::*;
use hark_protocol::{
    Cursor, Epoch, ErrorCode, GapReason, ServerFrame, Subprotocol, SubscribeFrom, TopicName, codec,
};
use slab::Slab;

use super::tail::frame_bytes;
use super::{PageFrame, Place, Room, RoomNews, Seat, SeatNumber, Seating, Subscriber, tell_room};
use crate::message_log::{LogError, MessageLog, Page, PageItem, Read};

/// A page has at most so many bytes (but at least one message).
pub(super) const PAGE_MAX_BYTES: usize = 64 * 1024;
/// A page has at most so many messages, so that small ones do not hold up the reader pool.
pub(super) const PAGE_MAX_RECORDS: usize = 1024;

/// Order: let me join.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct Subscribe {
    owed: AnswerOwed,
    from: SubscribeFrom,
    subprotocol: Subprotocol,
}

impl Subscribe {
    /// An order whose answer goes to `subscriber`, under its own name `key` for the subscription.
    pub fn new(
        subscriber: Arc<dyn Subscriber>,
        key: u32,
        from: SubscribeFrom,
        subprotocol: Subprotocol,
    ) -> Self {
        Self {
            owed: AnswerOwed {
                subscriber: Some(subscriber),
                key,
            },
            from,
            subprotocol,
        }
    }
}

impl Subscribe {
    /// Answers that it cannot be.
    pub(super) fn refuse(self, code: ErrorCode, message: String) {
        let key = self.owed.key;
        if let Some(subscriber) = self.owed.settle() {
            subscriber.tell(RoomNews::NotSubscribed { key, code, message });
        }
    }
}

/// Order: let me leave. Given by a [`Seat`] that is dropped, and answered with `Unsubscribed`.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct Unsubscribe {
    pub(super) seat: SeatNumber,
}

/// Order: the next page, I have everything up to `position`.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct Pull {
    pub(super) seat: SeatNumber,
    /// What it has.
    pub(super) position: Cursor,
}

/// A subscriber in its seat.
pub(super) struct Seated {
    pub(super) subscriber: Arc<dyn Subscriber>,
    pub(super) key: u32,
    generation: u64,
    pub(super) subprotocol: Subprotocol,
    /// The sequence it is in. Another than the topic's: it has not been told yet that it was deleted.
    pub(super) epoch: Epoch,
    /// Everything up to here has been sent to it, or given up by a gap. While lagging: as of its last pull.
    pub(super) sent_up_to: u64,
    pub(super) live: bool,
}

/// An answer to `Subscribe` that is owed. Dropped without one, the subscriber hears that the room is gone.
struct AnswerOwed {
    subscriber: Option<Arc<dyn Subscriber>>,
    key: u32,
}

impl AnswerOwed {
    fn settle(mut self) -> Option<Arc<dyn Subscriber>> {
        self.subscriber.take()
    }
}

impl std::fmt::Debug for AnswerOwed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("AnswerOwed")
            .field("key", &self.key)
            .finish_non_exhaustive()
    }
}

impl Drop for AnswerOwed {
    fn drop(&mut self) {
        if let Some(subscriber) = self.subscriber.take() {
            subscriber.tell(RoomNews::Gone { key: self.key });
        }
    }
}

/// The log's answer to "where does that time begin?".
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub(super) struct TimeFound {
    order: Subscribe,
    /// Of which sequence.
    epoch: Epoch,
    position: Result<u64, LogError>,
}

/// Where a reader starts.
#[derive(Debug, Clone, Copy)]
pub(super) struct Start {
    /// The position asked for.
    pub(super) asked: Cursor,
    /// The position that can be had.
    pub(super) position: u64,
    pub(super) gap: Option<Missing>,
}

/// What a reader cannot have.
#[derive(Debug, Clone, Copy)]
pub(super) struct Missing {
    pub(super) reason: GapReason,
    pub(super) range: Option<(u64, u64)>,
}

impl Missing {
    pub(super) fn frame(self, topic: &TopicName, cursor: Cursor) -> ServerFrame {
        ServerFrame::Gap {
            topic: topic.clone(),
            reason: self.reason,
            from: self.range.map(|(from, _)| from),
            to: self.range.map(|(_, to)| to),
            cursor,
        }
    }
}

/// What a `from` comes to.
pub(super) enum Resolved {
    Start(Start),
    /// The log has to be asked where records of this time begin.
    AskLog {
        since_ms: u64,
    },
}

impl Place {
    /// Finds the position for `from`, and what is missing before it.
    pub(super) fn resolve(&self, from: SubscribeFrom, now_ms: u64) -> Resolved {
        let at = |position| Start {
            asked: self.cursor(position),
            position,
            gap: None,
        };
        Resolved::Start(match from {
            SubscribeFrom::Now => at(self.head),
            SubscribeFrom::Earliest => at(self.first - 1),
            SubscribeFrom::Last(n) => at(self.head.saturating_sub(n).max(self.first - 1)),
            SubscribeFrom::After(cursor) => self.after(cursor),
            SubscribeFrom::SinceTime(since_ms) => return Resolved::AskLog { since_ms },
            SubscribeFrom::SinceAgo(ms) => {
                return Resolved::AskLog {
                    since_ms: now_ms.saturating_sub(ms),
                };
            }
        })
    }

    fn after(&self, asked: Cursor) -> Start {
        let oldest = self.first - 1;
        let start = |position, reason, range| Start {
            asked,
            position,
            gap: Some(Missing { reason, range }),
        };
        let Some(kept_up_to) = self.kept_up_to(asked.epoch) else {
            return match self.deleted.contains(&asked.epoch) {
                // From the very beginning of what came in its place: if that has expired, the first page says so.
                true => start(0, GapReason::Deleted, None),
                false => start(oldest, GapReason::OtherEpoch, None),
            };
        };
        if asked.offset > kept_up_to {
            return match asked.epoch == self.epoch {
                true => start(self.head, GapReason::Ahead, None),
                // The tail the reader had part of is gone; what came in its place it gets. If some of that has expired, the first page
                // says so.
                false => start(
                    kept_up_to,
                    GapReason::Lost,
                    Some((kept_up_to + 1, asked.offset)),
                ),
            };
        }
        if asked.offset < oldest {
            return start(oldest, GapReason::Expired, Some((asked.offset + 1, oldest)));
        }
        // Under the topic's own epoch, also where an earlier one was asked for: the place is the same, and what follows has it.
        Start {
            asked: self.cursor(asked.offset),
            position: asked.offset,
            gap: None,
        }
    }

    /// Up to where cursors of `epoch` hold here; `None` for a sequence this topic does not descend from.
    fn kept_up_to(&self, epoch: Epoch) -> Option<u64> {
        if epoch == self.epoch {
            return Some(self.head);
        }
        self.lineage
            .iter()
            .find(|earlier| earlier.epoch == epoch)
            .map(|earlier| earlier.kept_up_to)
    }
}

impl Room {
    pub(super) fn subscribe(&mut self, order: Subscribe, ctx: &mut Context<Self>) {
        match self.place.resolve(order.from, self.settings.clock.now_ms()) {
            Resolved::Start(start) => self.seat(order, start),
            Resolved::AskLog { since_ms } => {
                let room: Recipient<TimeFound> = ctx.address().recipient();
                let epoch = self.place.epoch;
                let found = move |position| TimeFound {
                    order,
                    epoch,
                    position,
                };
                let done = Box::new(move |position| tell_room(&room, found(position)));
                self.log
                    .find_time(self.topic.clone(), since_ms, self.place.head, done);
            }
        }
    }

    /// The position was found in an earlier turn, and still holds: what was published since comes after it. If the topic was deleted
    /// since, it has to be looked for again.
    pub(super) fn time_found(&mut self, found: TimeFound, ctx: &mut Context<Self>) {
        let TimeFound {
            order,
            epoch,
            position,
        } = found;
        if epoch != self.place.epoch {
            self.subscribe(order, ctx);
            return;
        }
        match position {
            Ok(position) => {
                let position = position.max(self.place.first - 1);
                self.seat(
                    order,
                    Start {
                        asked: self.place.cursor(position),
                        position,
                        gap: None,
                    },
                );
            }
            Err(error) => {
                order.refuse(ErrorCode::Busy, error.to_string());
            }
        }
    }

    fn seat(&mut self, order: Subscribe, start: Start) {
        let Subscribe {
            owed,
            from,
            subprotocol,
        } = order;
        let key = owed.key;
        let subscriber = owed.settle();
        let Some(subscriber) = subscriber.filter(|one| one.is_connected()) else {
            return; // It went while the order waited.
        };
        self.last_used = std::time::Instant::now();
        self.next_seat_generation += 1;
        let generation = self.next_seat_generation;
        let live = start.position >= self.place.head;
        let position = self.place.cursor(start.position);
        let encode_gap = |missing: Missing| {
            codec::encode_server(&missing.frame(&self.topic, position), subprotocol)
        };
        let index = self.seats.insert(Seated {
            subscriber: subscriber.clone(),
            key,
            generation,
            subprotocol,
            epoch: self.place.epoch,
            sent_up_to: start.position,
            live,
        });
        let seat = Seat {
            room: self.address.clone(),
            number: SeatNumber { index, generation },
        };
        let seating = Seating {
            cursor: start.asked,
            position,
            head: self.place.head,
            resumed: matches!(from, SubscribeFrom::After(_)) && start.gap.is_none(),
            gap: start.gap.map(encode_gap),
            live,
        };
        subscriber.tell(RoomNews::Subscribed { key, seat, seating });
    }

    pub(super) fn unsubscribe(&mut self, Unsubscribe { seat }: Unsubscribe) {
        if self.seated(seat).is_some() {
            let left = self.seats.remove(seat.index);
            left.subscriber
                .tell(RoomNews::Unsubscribed { key: left.key });
            self.last_used = std::time::Instant::now();
        }
        if self.seats.is_empty() {
            // After a crowd the empty places would be kept for ever.
            self.seats = Slab::new();
        }
    }

    fn seated(&mut self, seat: SeatNumber) -> Option<&mut Seated> {
        self.seats
            .get_mut(seat.index)
            .filter(|seated| seated.generation == seat.generation)
    }

    /// Answers with a page: from the tail if it reaches back far enough, and then the subscriber may be live; else
    /// the reader pool answers it straight. If the topic was deleted since the last one, a gap says so in its place.
    pub(super) fn pull(&mut self, Pull { seat, position }: Pull) {
        let (head, oldest) = (self.place.head, self.place.first - 1);
        let epoch = self.place.epoch;
        if position.epoch != epoch {
            if self.seated(seat).is_some_and(|seated| !seated.live) {
                self.tell_deleted(seat.index);
            }
            return;
        }
        let position = position.offset;
        let tell_identity = self.tells_identity();
        let covered = self.tail.covers(position.max(oldest));
        let Some(seated) = self.seated(seat).filter(|seated| !seated.live) else {
            return;
        };
        seated.sent_up_to = position;
        let (key, subprotocol) = (seated.key, seated.subprotocol);
        let subscriber = seated.subscriber.clone();
        let page = PageTurn {
            topic: self.topic.clone(),
            epoch,
            key,
            subprotocol,
            subscriber,
            place: (self.place.first, head),
            log: self.log.clone(),
        };
        if covered {
            self.page_from_tail(seat, page, position.max(oldest), position);
            return;
        }
        let read = Read {
            topic: self.topic.clone(),
            epoch,
            after: position,
            up_to: head,
            max_bytes: PAGE_MAX_BYTES,
            max_records: PAGE_MAX_RECORDS,
            tell_identity,
        };
        self.log.read(read, Box::new(move |found| page.tell(found)));
    }

    fn page_from_tail(&mut self, seat: SeatNumber, page: PageTurn, from: u64, asked: u64) {
        let mut frames = Vec::new();
        let mut reached = from;
        let mut bytes = 0;
        if asked < from {
            let missing = Missing {
                reason: GapReason::Expired,
                range: Some((asked + 1, from)),
            };
            frames.push(page.gap(missing, from));
        }
        'batches: for batch in self.tail.after(from) {
            let start = batch.start_after(from);
            let sent = batch.frames(page.subprotocol)[start..]
                .iter()
                .zip(&batch.records()[start..]);
            for (frame, record) in sent {
                if bytes > 0 && bytes + frame_bytes(frame) > PAGE_MAX_BYTES {
                    break 'batches;
                }
                bytes += frame_bytes(frame);
                reached = record.offset;
                frames.push(PageFrame {
                    frame: frame.clone(),
                    position: reached,
                    is_gap: false,
                });
            }
        }
        let seated = &mut self.seats[seat.index];
        seated.sent_up_to = reached;
        seated.live = reached >= self.place.head;
        page.subscriber.tell(RoomNews::Page {
            key: page.key,
            frames,
            position: reached,
            behind: page.behind(reached),
            live: seated.live,
        });
    }
}

/// A page on its way to one subscriber.
struct PageTurn {
    topic: TopicName,
    epoch: Epoch,
    key: u32,
    subprotocol: Subprotocol,
    subscriber: Arc<dyn Subscriber>,
    /// The oldest offset and the newest, as the room knows them.
    place: (u64, u64),
    log: Arc<dyn MessageLog>,
}

impl PageTurn {
    /// How many messages are kept behind this one, where the log knows.
    fn behind(&self, position: u64) -> Option<u64> {
        let (first, head) = self.place;
        self.log.count(&self.topic, position.max(first - 1), head)
    }

    /// Encodes what the reader pool found, on its thread, and sends it straight to the subscriber. The room may have gone on
    /// meanwhile, but not with this subscriber, which says nothing to the room until it has the page.
    fn tell(self, found: Result<Page, LogError>) {
        let news = match found {
            Ok(page) => {
                let frames = page.items.iter().map(|item| self.frame(item)).collect();
                RoomNews::Page {
                    key: self.key,
                    frames,
                    position: page.reached,
                    behind: self.behind(page.reached),
                    live: false,
                }
            }
            Err(error) => RoomNews::PageFailed {
                key: self.key,
                reason: error.to_string(),
            },
        };
        self.subscriber.tell(news);
    }

    fn frame(&self, item: &PageItem) -> PageFrame {
        match item {
            PageItem::Record(record) => PageFrame {
                frame: codec::encode_message(&self.topic, record, self.subprotocol),
                position: record.offset,
                is_gap: false,
            },
            PageItem::Gap { reason, from, to } => self.gap(
                Missing {
                    reason: *reason,
                    range: Some((*from, *to)),
                },
                *to,
            ),
        }
    }

    fn gap(&self, missing: Missing, position: u64) -> PageFrame {
        let cursor = Cursor {
            epoch: self.epoch,
            offset: position,
        };
        PageFrame {
            frame: codec::encode_server(&missing.frame(&self.topic, cursor), self.subprotocol),
            position,
            is_gap: true,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message_log::Lineage;

    fn place() -> Place {
        let earlier = |epoch, kept_up_to| Lineage {
            epoch: Epoch::new(epoch),
            kept_up_to,
        };
        Place {
            epoch: Epoch::new(7),
            lineage: vec![earlier(4, 20), earlier(5, 60)],
            deleted: vec![Epoch::new(2), Epoch::new(3)],
            first: 41,
            head: 100,
        }
    }

    fn start(from: SubscribeFrom) -> Start {
        match place().resolve(from, 0) {
            Resolved::Start(start) => start,
            Resolved::AskLog { .. } => panic!("the log was asked"),
        }
    }

    fn after(epoch: u64, offset: u64) -> Start {
        start(SubscribeFrom::After(Cursor {
            epoch: Epoch::new(epoch),
            offset,
        }))
    }

    type Told = Option<(GapReason, Option<(u64, u64)>)>;

    fn told(start: Start) -> (u64, Told) {
        (
            start.position,
            start.gap.map(|missing| (missing.reason, missing.range)),
        )
    }

    #[test]
    fn every_cursor_is_resumed_exactly_or_told_what_is_missing() {
        let expired = |from, to| Some((GapReason::Expired, Some((from, to))));
        let lost = |from, to| Some((GapReason::Lost, Some((from, to))));
        let cases = [
            (after(7, 100), (100, None)),
            (after(7, 99), (99, None)),
            (after(7, 40), (40, None)),
            (after(7, 39), (40, expired(40, 40))),
            (after(7, 0), (40, expired(1, 40))),
            (after(7, 101), (100, Some((GapReason::Ahead, None)))),
            (after(5, 60), (60, None)),
            (after(5, 61), (60, lost(61, 61))),
            (after(5, 500), (60, lost(61, 500))),
            (after(5, 10), (40, expired(11, 40))),
            (after(4, 30), (20, lost(21, 30))),
            (after(9, 50), (40, Some((GapReason::OtherEpoch, None)))),
            (after(3, 0), (0, Some((GapReason::Deleted, None)))),
            (after(3, 50), (0, Some((GapReason::Deleted, None)))),
            (after(2, 500), (0, Some((GapReason::Deleted, None)))),
        ];
        for (start, expected) in cases {
            assert_eq!(told(start), expected, "{}", start.asked);
        }
    }

    #[test]
    fn the_other_forms_start_inside_the_log() {
        assert_eq!(start(SubscribeFrom::Now).position, 100);
        assert_eq!(start(SubscribeFrom::Earliest).position, 40);
        assert_eq!(start(SubscribeFrom::Last(0)).position, 100);
        assert_eq!(start(SubscribeFrom::Last(10)).position, 90);
        assert_eq!(start(SubscribeFrom::Last(u64::MAX)).position, 40);
        assert!(matches!(
            place().resolve(SubscribeFrom::SinceAgo(5), 8),
            Resolved::AskLog { since_ms: 3 }
        ));
    }
}
