//! Following topics live, as an event stream does. Owns that all topics are joined before the first word, and writes what their rooms
//! say as events; the life of each subscription is `topic::Subscription`. The pace is the socket's: nothing is asked for before what
//! was written is taken, and live messages come against a credit.
//!
//! What a session is for a WebSocket; here there is one task instead of an actor, and nobody unsubscribes.

use std::borrow::Cow;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use hark_protocol::{ErrorCode, Subprotocol, SubscribeFrom, TopicName};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::time::Instant;

use super::event_writer::EventWriter;
use crate::identity::Identity;
use crate::session::{About, Goodbye, Leave};
use crate::topic::{
    Access, Asked, Credit, Delivery, PageFrame, Pulls, Refusal, Refused, RoomNews, Seat, Seating,
    Subscriber, Subscription,
};

/// So much is written before the socket has its turn.
const CHUNK_BYTES: usize = 64 * 1024;
/// When a client whose topic cannot be had just now is to come back.
const TRY_AGAIN_AFTER: Duration = Duration::from_secs(1);

/// Subscriptions to some topics, written as events.
#[derive(Debug)]
pub(super) struct Follower {
    access: Access,
    /// What others know of it.
    about: Arc<About>,
    inbox: Arc<Inbox>,
    heard: UnboundedReceiver<Heard>,
    topics: Vec<Followed>,
    next_key: u32,
    pulls: Pulls,
    /// What live messages have taken of the credit, and the socket has not yet taken.
    owed_bytes: i64,
    /// A delivery or a page that is not all written yet.
    rest: Option<Rest>,
    /// All have joined, and the client has been told.
    begun: bool,
    ended: bool,
}

/// One topic's subscription.
#[derive(Debug)]
struct Followed {
    subscription: Subscription,
    /// Stands for one joining; 0 while there is none.
    key: u32,
    /// Where the first joining was seated, until all have joined.
    seating: Option<Seating>,
    /// What is to be tried again, and when.
    later: Option<(Instant, Later)>,
}

#[derive(Debug, Clone, Copy)]
enum Later {
    Join,
    Pull,
}

/// What is written frame by frame, as much at a time as the socket is given.
#[derive(Debug)]
enum Rest {
    /// The next frame of it.
    Live(Delivery, usize),
    Page {
        at: usize,
        frames: std::vec::IntoIter<PageFrame>,
        position: u64,
        behind: Option<u64>,
        live: bool,
    },
}

/// What rooms, and the end of Hark, reach a follower by.
#[derive(Debug)]
pub(super) struct Inbox {
    /// Live messages are bounded by the credit, news by what was asked for.
    heard: UnboundedSender<Heard>,
    credit: Credit,
    /// Whether live messages are taken yet.
    open: AtomicBool,
    /// `Unacknowledged` is on its way.
    unacknowledged: AtomicBool,
    /// `Reconsider` is.
    doubted: AtomicBool,
}

#[derive(Debug)]
enum Heard {
    Live(Delivery),
    News(RoomNews),
    Unacknowledged,
    Reconsider,
    Goodbye(Goodbye),
}

impl Subscriber for Inbox {
    fn try_deliver(&self, delivery: Delivery) -> Result<(), Refused> {
        let bytes = delivery.bytes as i64;
        if !self.open.load(Ordering::Acquire) || !self.credit.take(bytes) {
            return Err(Refused);
        }
        self.heard.send(Heard::Live(delivery)).map_err(|_| Refused)
    }

    fn tell(&self, news: RoomNews) {
        // A stream that has ended no longer cares.
        drop(self.heard.send(Heard::News(news)));
    }

    fn is_connected(&self) -> bool {
        !self.heard.is_closed()
    }
}

impl Leave for Inbox {
    fn leave(&self, goodbye: Goodbye) {
        drop(self.heard.send(Heard::Goodbye(goodbye)));
    }

    fn reconsider(&self) {
        if !self.doubted.swap(true, Ordering::AcqRel) {
            drop(self.heard.send(Heard::Reconsider));
        }
    }

    fn lag(&self) {
        // Once until it is read: nobody reads while the socket takes nothing.
        if !self.unacknowledged.swap(true, Ordering::AcqRel) {
            drop(self.heard.send(Heard::Unacknowledged));
        }
    }
}

impl Follower {
    /// Begins to join the topics, where all of them may be read.
    pub(super) fn new(
        access: &Access,
        about: Arc<About>,
        starts: impl Iterator<Item = (TopicName, SubscribeFrom)>,
    ) -> Result<Self, Refusal> {
        let (sender, heard) = unbounded_channel();
        let inbox = Inbox {
            heard: sender,
            credit: Credit::default(),
            open: AtomicBool::new(false),
            unacknowledged: AtomicBool::new(false),
            doubted: AtomicBool::new(false),
        };
        let followed = |(topic, from)| {
            let subscription = Subscription::new(access, topic, from)?;
            Ok(Followed {
                subscription,
                key: 0,
                seating: None,
                later: None,
            })
        };
        let topics: Vec<Followed> = starts.map(followed).collect::<Result<_, Refusal>>()?;
        let mut follower = Self {
            access: access.clone(),
            about,
            topics,
            inbox: Arc::new(inbox),
            heard,
            next_key: 0,
            pulls: Pulls::default(),
            owed_bytes: 0,
            rest: None,
            begun: false,
            ended: false,
        };
        for at in 0..follower.topics.len() {
            follower.join(at);
        }
        Ok(follower)
    }

    /// How it is told to go.
    pub(super) fn inbox(&self) -> &Arc<Inbox> {
        &self.inbox
    }

    /// Who reads.
    pub(super) fn identity(&self) -> &Identity {
        self.access.identity()
    }

    /// Whether nothing more will be written.
    pub(super) fn has_ended(&self) -> bool {
        self.ended
    }

    /// Writes what there is, or what comes first until `end`. To be called when the socket has taken what was written before, or nearly.
    pub(super) async fn turn(&mut self, out: &mut EventWriter, end: Instant) {
        let owed = std::mem::take(&mut self.owed_bytes);
        self.inbox.credit.give_back(owed);
        self.write_rest(out);
        while out.is_empty() && !self.ended {
            self.do_what_is_due();
            self.pull_next();
            let due = self.topics.iter().filter_map(|one| one.later);
            let due = due.map(|(due, _)| due).min();
            let wake = due.map_or(end, |due| due.min(end));
            match tokio::time::timeout_at(wake, self.heard.recv()).await {
                Ok(Some(heard)) => self.take(heard, out),
                Ok(None) => return,
                Err(_) if wake == end => return,
                Err(_) => {}
            }
            while self.rest.is_none()
                && out.len() < CHUNK_BYTES
                && !self.ended
                && let Ok(heard) = self.heard.try_recv()
            {
                self.take(heard, out);
            }
        }
    }

    fn join(&mut self, at: usize) {
        self.next_key = self.next_key.wrapping_add(1);
        let one = &mut self.topics[at];
        one.key = self.next_key;
        let inbox = self.inbox.clone();
        one.subscription.join(inbox, one.key, Subprotocol::Json);
    }

    fn do_what_is_due(&mut self) {
        let now = Instant::now();
        for at in 0..self.topics.len() {
            match self.topics[at].later {
                Some((due, later)) if due <= now => {
                    self.topics[at].later = None;
                    match later {
                        Later::Join => self.join(at),
                        Later::Pull => self.pulls.add(self.topics[at].key),
                    }
                }
                _ => {}
            }
        }
    }

    /// Asks for the next page, if one is wanted and none is under way.
    fn pull_next(&mut self) {
        while self.begun
            && let Some(key) = self.pulls.whose_turn()
        {
            let asked = self
                .at(key)
                .map(|at| (at, self.topics[at].subscription.pull()));
            match asked {
                Some((_, Asked::Room)) => return,
                Some((at, Asked::Later(wait))) => self.later(at, wait, Later::Pull),
                Some((_, Asked::Nobody)) | None => {}
            }
            self.pulls.answered(key);
        }
    }

    fn later(&mut self, at: usize, wait: Duration, what: Later) {
        self.topics[at].later = Some((Instant::now() + wait, what));
    }

    fn take(&mut self, heard: Heard, out: &mut EventWriter) {
        match heard {
            Heard::Live(delivery) => {
                self.rest = Some(Rest::Live(delivery, 0));
                self.write_rest(out);
            }
            Heard::News(news) => self.news(news, out),
            Heard::Unacknowledged => self.all_fall_behind(out),
            Heard::Reconsider => self.reconsider(out),
            Heard::Goodbye(goodbye) => match goodbye.why.goodbye() {
                Some(reason) => {
                    out.goodbye(reason, goodbye.retry_after_ms);
                    self.ended = true;
                }
                None => {
                    let (_, message) = goodbye.why.close();
                    self.end_with(ErrorCode::Forbidden, message.to_owned(), out);
                }
            },
        }
    }

    /// Keys, rules or revocations may have changed: whoever may not read all of it any more reads nothing more.
    fn reconsider(&mut self, out: &mut EventWriter) {
        self.inbox.doubted.store(false, Ordering::Release);
        let current = self.identity().current().map(Cow::into_owned);
        let granted = current.map_err(Refusal::from).and_then(|identity| {
            let expires_at = identity.expires_at();
            self.about.becomes(identity.clone());
            self.access.becomes(identity);
            if let Some(connection) = &self.about.connection {
                connection.ends_at(expires_at);
            }
            let mut topics = self.topics.iter();
            topics.try_for_each(|one| self.access.check_read(one.subscription.topic()))
        });
        if let Err(Refusal { code, message, .. }) = granted {
            self.end_with(code, message, out);
        }
    }

    /// Goes on with what is not all written, until there is enough for the socket.
    fn write_rest(&mut self, out: &mut EventWriter) {
        match self.rest.take() {
            Some(Rest::Live(delivery, next)) => self.live(delivery, next, out),
            Some(Rest::Page {
                at,
                frames,
                position,
                behind,
                live,
            }) => self.page(at, frames, position, behind, live, out),
            None => {}
        }
    }

    fn live(&mut self, delivery: Delivery, mut next: usize, out: &mut EventWriter) {
        if let Some(at) = self.at(delivery.key) {
            let subscription = &mut self.topics[at].subscription;
            let records = &delivery.batch.records()[delivery.start..];
            let frames = delivery.frames().iter().zip(records);
            out.reserve(delivery.bytes.min(CHUNK_BYTES));
            for (frame, record) in frames.skip(next) {
                if out.len() >= CHUNK_BYTES {
                    self.rest = Some(Rest::Live(delivery, next));
                    return;
                }
                subscription.fed(record.offset);
                out.frame(at, false, subscription.position, frame);
                next += 1;
            }
        }
        self.owed_bytes += delivery.bytes as i64;
    }

    fn page(
        &mut self,
        at: usize,
        mut frames: std::vec::IntoIter<PageFrame>,
        position: u64,
        behind: Option<u64>,
        live: bool,
        out: &mut EventWriter,
    ) {
        let subscription = &mut self.topics[at].subscription;
        while out.len() < CHUNK_BYTES
            && let Some(page) = frames.next()
        {
            subscription.position.offset = page.position;
            out.frame(at, page.is_gap, subscription.position, &page.frame);
        }
        if frames.len() > 0 {
            self.rest = Some(Rest::Page {
                at,
                frames,
                position,
                behind,
                live,
            });
            return;
        }
        subscription.page_read(position);
        if !live && subscription.stays_behind() {
            out.lagging(at, behind);
        }
        self.pull_unless(live, at, out);
    }

    fn news(&mut self, news: RoomNews, out: &mut EventWriter) {
        match news {
            RoomNews::Subscribed { key, seat, seating } => {
                self.subscribed(key, seat, seating, out);
            }
            RoomNews::NotSubscribed { key, code, message } => match self.at(key) {
                Some(at) if self.begun => self.room_gone(at, out),
                Some(_) => self.end_with(code, message, out),
                None => {}
            },
            RoomNews::Lagging { key, behind } => {
                if let Some(at) = self.at(key) {
                    if self.topics[at].subscription.falls_behind() {
                        out.lagging(at, behind);
                    }
                    self.pulls.add(key);
                    if let Some(seating) = &mut self.topics[at].seating {
                        seating.live = false;
                    }
                }
            }
            RoomNews::Page {
                key,
                frames,
                position,
                behind,
                live,
            } => {
                let Some(at) = self.page_answered(key) else {
                    return;
                };
                self.rest = Some(Rest::Page {
                    at,
                    frames: frames.into_iter(),
                    position,
                    behind,
                    live,
                });
                self.write_rest(out);
            }
            RoomNews::Deleted { key, gap, position } => {
                let Some(at) = self.page_answered(key) else {
                    return;
                };
                if !self.begun {
                    // The client has heard nothing yet: it begins with what is there now.
                    self.topics[at].seating = None;
                    self.join(at);
                    return;
                }
                self.topics[at].subscription.deleted(position);
                out.frame(at, true, position, &gap);
                self.pulls.add(key);
            }
            RoomNews::PageFailed { key, reason } => {
                let Some(at) = self.page_answered(key) else {
                    return;
                };
                match self.topics[at].subscription.page_failed() {
                    Some(wait) => self.later(at, wait, Later::Pull),
                    None => self.end_with(ErrorCode::LogUnavailable, reason, out),
                }
            }
            RoomNews::Gone { key } => {
                if let Some(at) = self.at(key) {
                    self.room_gone(at, out);
                }
            }
            RoomNews::Unsubscribed { .. } => {}
        }
    }

    fn subscribed(&mut self, key: u32, seat: Seat, seating: Seating, out: &mut EventWriter) {
        let Some(at) = self.at(key) else { return };
        let one = &mut self.topics[at];
        one.subscription.seated(seat, &seating);
        if self.begun {
            self.seated(at, seating, out);
            return;
        }
        one.seating = Some(seating);
        if self.topics.iter().all(|one| one.seating.is_some()) {
            self.begin(out);
        }
    }

    /// All have joined: an id has a cursor of every topic, so nothing is said before this.
    fn begin(&mut self, out: &mut EventWriter) {
        let seatings: Vec<Seating> = self
            .topics
            .iter_mut()
            .filter_map(|one| one.seating.take())
            .collect();
        out.begin(seatings.iter().map(|seating| seating.cursor).collect());
        self.begun = true;
        self.inbox.open.store(true, Ordering::Release);
        for (at, seating) in seatings.into_iter().enumerate() {
            out.subscribed(at, seating.cursor, seating.head, seating.resumed);
            self.seated(at, seating, out);
        }
    }

    fn seated(&mut self, at: usize, seating: Seating, out: &mut EventWriter) {
        if let Some(gap) = &seating.gap {
            out.frame(at, true, seating.position, gap);
        }
        self.pull_unless(seating.live, at, out);
    }

    fn pull_unless(&mut self, live: bool, at: usize, out: &mut EventWriter) {
        let one = &mut self.topics[at];
        if !live {
            self.pulls.add(one.key);
        } else if one.subscription.catches_up() {
            out.caught_up(at);
        }
    }

    /// What the client was given lies unacknowledged: tells it of every topic that messages have come by.
    fn all_fall_behind(&mut self, out: &mut EventWriter) {
        self.inbox.unacknowledged.store(false, Ordering::Release);
        for (at, one) in self.topics.iter_mut().enumerate() {
            if one.subscription.was_fed() && one.subscription.falls_behind() {
                // How much of it the client has not got nobody knows: it is on its way.
                out.lagging(at, None);
            }
        }
    }

    /// Joins again, from the position, a little later each time it fails.
    fn room_gone(&mut self, at: usize, out: &mut EventWriter) {
        let one = &mut self.topics[at];
        self.pulls.remove(one.key);
        // What an earlier joining is still told does not count.
        one.key = 0;
        // A client that has heard nothing yet begins anew, with all that it has to be told.
        one.seating = None;
        match one.subscription.room_gone(self.begun) {
            Some(wait) => self.later(at, wait, Later::Join),
            None => {
                let topic = one.subscription.topic();
                let message = format!("the room of {topic} cannot be had");
                tracing::error!("{message}");
                self.end_with(ErrorCode::Internal, message, out);
            }
        }
    }

    /// Ends the stream; where trying again makes sense, the client is told when.
    pub(super) fn end_with(&mut self, code: ErrorCode, message: String, out: &mut EventWriter) {
        if code.try_again() {
            out.retry(TRY_AGAIN_AFTER);
        }
        out.error(code, message);
        self.ended = true;
    }

    fn at(&self, key: u32) -> Option<usize> {
        self.topics.iter().position(|one| one.key == key)
    }

    /// A page has come, if it is of a joining that still counts.
    fn page_answered(&mut self, key: u32) -> Option<usize> {
        self.pulls.answered(key);
        self.at(key)
    }
}

#[cfg(test)]
mod tests {
    use hark_protocol::{Headers, Idempotency, Message, Payload};

    use super::*;
    use crate::http::publishing;
    use crate::limits::Meter;
    use crate::session::Transport;
    use crate::topic::tests::registry_of_few;

    /// What a stream has been given, up to what is looked for.
    struct Stream {
        follower: Follower,
        out: EventWriter,
        text: String,
    }

    impl Stream {
        async fn until(&mut self, what: &str, times: usize) {
            while self.text.matches(what).count() < times {
                let end = Instant::now() + Duration::from_secs(60);
                self.follower.turn(&mut self.out, end).await;
                assert!(!self.out.is_empty(), "{what} does not come: {}", self.text);
                self.text += std::str::from_utf8(&self.out.take()).unwrap();
            }
        }
    }

    #[actix_web::test]
    async fn what_lies_unacknowledged_is_told_of_the_topics_it_came_by() {
        let access = registry_of_few(10).access(Identity::unrestricted(), Meter::unlimited());
        let topics = ["a", "b"].map(|name| TopicName::parse(name).unwrap());
        let starts = topics
            .clone()
            .map(|topic| (topic, SubscribeFrom::Now))
            .into_iter();
        let identity = Identity::unrestricted();
        let about = About::new(Transport::EventStream, String::new(), None, identity, None);
        let mut stream = Stream {
            follower: Follower::new(&access, Arc::new(about), starts).unwrap(),
            out: EventWriter::new(topics.to_vec()),
            text: String::new(),
        };
        stream.until("event: caught_up\n", 2).await;
        let publish = async |at: usize| {
            let message = Message {
                payload: Payload::plain_text("hello"),
                headers: Headers::default(),
            };
            let topic = topics[at].clone();
            publishing::publish_one(&access, topic, message, Idempotency::None)
                .await
                .unwrap();
        };
        publish(0).await;
        stream.until("\"text\":\"hello\"", 1).await;

        for _ in 0..3 {
            stream.follower.inbox().lag();
        }
        stream.until("event: lagging\n", 1).await;

        // Not again so soon, of whatever topic there was nothing new of; of the other when something has come by it.
        stream.follower.inbox().lag();
        publish(1).await;
        stream.until("\"text\":\"hello\"", 2).await;
        stream.follower.inbox().lag();
        stream.until("event: lagging\n", 2).await;
        for topic in ["a", "b"] {
            let told = format!(
                "event: lagging\ndata: {{\"type\":\"lagging\",\"topic\":\"{topic}\",\"cursor\":\""
            );
            assert_eq!(stream.text.matches(&told).count(), 1, "{}", stream.text);
        }
    }
}
