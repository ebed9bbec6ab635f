//! What no script holds (`client-sdk/script`): queues that are full, and what is left of an earlier subscription.

use std::task::{Context, Poll, Waker};

use hark_protocol::{Epoch, Headers, JsonText, Payload};

use super::*;
use crate::queue::Taken;

struct Given {
    inbox: Inbox,
    to_say: ToSay,
    now: Instant,
}

fn topic() -> TopicName {
    TopicName::parse("t").unwrap()
}

fn at(offset: u64) -> Cursor {
    Cursor {
        epoch: Epoch::new(7),
        offset,
    }
}

impl Given {
    /// An inbox with a connection.
    fn connected() -> Self {
        let mut given = Self {
            inbox: Inbox::new(Arc::new(Reporter::new()), World::given(1.0)),
            to_say: ToSay::default(),
            now: Instant::now(),
        };
        given.connect();
        given
    }

    fn connect(&mut self) {
        self.to_say.connected = true;
        self.inbox.connected(&mut self.to_say);
    }

    fn lose_connection(&mut self) {
        self.to_say = ToSay {
            last_id: self.to_say.last_id,
            ..ToSay::default()
        };
        self.inbox.disconnected(true, self.now);
    }

    fn subscribe(&mut self, most_events: usize) -> Arc<Queue> {
        let queue = Queue::new(most_events, usize::MAX);
        let subscribe = Subscribe {
            topic: topic(),
            from: SubscribeFrom::Earliest,
            token: None,
            queue: Arc::clone(&queue),
            reply: oneshot::channel().0,
        };
        self.inbox.subscribe(subscribe, &mut self.to_say);
        queue
    }

    /// Whether the client asks for the topic; then it has it.
    fn is_asked(&mut self) -> bool {
        let Some(frame) = self.to_say.frames.pop_front() else {
            return false;
        };
        let ClientFrame::Subscribe { id, from, .. } = frame else {
            panic!("no subscribe: {frame:?}");
        };
        let cursor = match from {
            SubscribeFrom::After(cursor) => cursor,
            _ => at(0),
        };
        let (now, to_say) = (self.now, &mut self.to_say);
        assert!(self.inbox.subscribed(id, cursor, true, now, to_say));
        true
    }

    /// A message comes, if the socket is read.
    fn message(&mut self, offset: u64) {
        if !self.inbox.may_read() {
            return;
        }
        let payload = Payload::Json(JsonText::from_checked("1".into()).unwrap());
        let record = Record {
            offset,
            prev: None,
            time_ms: 1,
            identity: None,
            message: hark_protocol::Message {
                payload,
                headers: Headers::default(),
            },
        };
        let (now, to_say) = (self.now, &mut self.to_say);
        self.inbox.message(topic(), record, now, to_say);
    }

    /// The application takes one event. Whether that drained the queue.
    fn take(&mut self, queue: &Arc<Queue>) -> Option<bool> {
        match queue.poll_take(&Context::from_waker(Waker::noop())) {
            Poll::Ready(Taken::Event { drained, .. }) => {
                if drained {
                    self.inbox.drained(&topic(), queue, &mut self.to_say);
                }
                Some(drained)
            }
            _ => None,
        }
    }
}

#[test]
fn a_queue_that_is_full_takes_nothing_on_the_next_connection_either() {
    for most in [1, 3] {
        let mut given = Given::connected();
        let queue = given.subscribe(most);
        let mut offset = 0;
        for _ in 0..20 {
            if given.is_asked() {
                for _ in 0..5 {
                    given.message(offset + 1);
                    offset = queue.len() as u64;
                }
            }
            given.lose_connection();
            given.connect();
        }
        assert_eq!(queue.len(), most);
        // It goes on when the application has taken half of it.
        while given.take(&queue) == Some(false) {}
        assert!(given.is_asked(), "a queue of {most}");
    }
}

#[test]
fn what_is_no_message_takes_a_place_in_the_queue_too() {
    let mut given = Given::connected();
    let queue = given.subscribe(1);
    assert!(given.is_asked());
    given.inbox.caught_up(&topic(), at(0), given.now);
    assert!(!given.inbox.may_read(), "it is full");
    assert_eq!(given.take(&queue), Some(true));
    assert!(given.inbox.may_read());
    let gap = Gap {
        reason: GapReason::Expired,
        from: None,
        to: None,
        cursor: at(3),
    };
    given.inbox.gap(&topic(), gap, given.now);
    assert!(!given.inbox.may_read(), "it is full");
}

#[test]
fn what_is_left_of_a_subscription_that_ended_opens_no_queue_of_the_next() {
    // Given one that Hark ended, of which two messages are not taken yet,
    let mut given = Given::connected();
    let first = given.subscribe(2);
    assert!(given.is_asked());
    given.message(1);
    given.message(2);
    given.inbox.unsubscribed(None, &topic(), &mut given.to_say);
    let asked = given.to_say.frames.pop_front().unwrap().id().unwrap();
    let (now, to_say) = (given.now, &mut given.to_say);
    given.inbox.refused(
        asked,
        ErrorCode::Forbidden,
        String::new(),
        None,
        now,
        to_say,
    );

    // and another one, whose queue is full,
    let second = given.subscribe(2);
    assert!(given.is_asked());
    given.message(1);
    given.message(2);
    assert!(!given.inbox.may_read());

    // when the application takes what is left of the first,
    while given.take(&first).is_some() {}

    // then the second's is as full as before.
    assert!(!given.inbox.may_read());
    given.message(3);
    assert_eq!(second.len(), 2);
}
