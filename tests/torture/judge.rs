//! The judge: a model in plain maps of what was sent, answered and read, and the rules that Hark promised for it. Owns the rules over
//! all clients and all lives of the broker; what one reader may be told next is `reader`'s. Knows no connections and no clocks.
//!
//! Everything is told to it in the order in which it happened: a sending before the frame goes out, an answer after it came.
//!
//! 1. **A place has one meaning.** (epoch, offset) never names two messages, over all epochs ever seen.
//! 2. **Once.** A message that can be known again (or was sent once) has one place.
//! 3. **Order.** A publisher's messages lie in the order in which it sent them.
//! 4. **Kept.** What was answered or shown is there after any restart: the head never falls behind it, and what lies there is it.
//! 5. **A duplicate was sent before**, and the message it stands for is there: at the place that is named, or where none is, anywhere.
//! 6. **Expired** is only what retention may take. Where a subscription was told so at its beginning, it never comes back; in the midst of
//!    reading it is told of what is just being taken, and a kill may undo that.
//! 7. **Lost** is nothing, and no epoch changes, unless the files were damaged; then up to one place, the same for everybody (or all of it, where
//!    not even the topic's name was left). What was called lost is not shown to the next who asks, until the broker has been started again.

use std::collections::{BTreeMap, HashMap};
use std::fmt;

use serde_json::{Value, json};

/// What was violated, for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Violation(pub(crate) String);

pub(crate) type Judged<T = ()> = Result<T, Violation>;

/// Ends with a violation.
macro_rules! violated {
    ($($what:tt)*) => { return Err(crate::judge::Violation(format!($($what)*))) };
}
pub(crate) use violated;

/// A cursor.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Place {
    pub(crate) epoch: String,
    pub(crate) offset: u64,
}

impl Place {
    /// Reads `epoch:offset`.
    pub(crate) fn parse(cursor: &Value) -> Judged<Self> {
        let parts = cursor.as_str().and_then(|text| text.split_once(':'));
        let place = parts.and_then(|(epoch, offset)| {
            let (epoch, offset) = (epoch.to_owned(), offset.parse().ok()?);
            Some(Self { epoch, offset })
        });
        place.ok_or_else(|| Violation(format!("{cursor} is no cursor")))
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.epoch, self.offset)
    }
}

/// A message, by its publisher and the publisher's own count from 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Id {
    pub(crate) publisher: usize,
    pub(crate) n: u64,
}

impl fmt::Display for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "message {} of publisher {}", self.n, self.publisher)
    }
}

impl Id {
    /// What the message says: its name, and letters that follow from it, mostly few, sometimes many.
    pub(crate) fn data(self) -> Value {
        // splitmix64: any mixing would do, as long as it is the same everywhere.
        let mut state = (self.publisher as u64) << 40 ^ self.n;
        let mut draw = || {
            state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mixed = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            mixed ^ (mixed >> 31)
        };
        let words = match draw() % 2000 {
            0 => 25_000, // several parts in the log
            1..=20 => 1_000,
            n => n % 16,
        };
        let text: String = (0..words)
            .map(|_| format!("{:08x}", draw() as u32))
            .collect();
        json!({"p": self.publisher, "n": self.n, "x": text})
    }

    fn of(data: &Value) -> Option<Self> {
        let publisher = usize::try_from(data["p"].as_u64()?).ok()?;
        let n = data["n"].as_u64()?;
        Some(Self { publisher, n })
    }
}

/// What a client does so that its messages may be sent again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Counts them; sends again, in order, what was not answered.
    Numbered,
    /// Gives each a key; sends again what was not answered.
    Keyed,
    /// Nothing: sends once.
    Plain,
}

/// What was known of a topic at some moment. What is promised of a request holds from when it was made.
#[derive(Debug, Clone, Default)]
pub(crate) struct Known {
    /// The newest epoch seen, if any was.
    pub(crate) epoch: Option<String>,
    /// The newest offset that was answered or shown in it.
    pub(crate) head: u64,
    /// Up to where a reader was told that it has expired, for good.
    pub(crate) expired: u64,
    /// The same, as long as the broker is not killed.
    expired_in_this_life: u64,
    ever_expired: u64,
    /// How many ranges had been called lost.
    lost: usize,
    /// Which of the broker's lives it was.
    life: u32,
}

#[derive(Debug)]
pub(crate) struct Judge {
    topics: Vec<Topic>,
    publishers: Vec<Publisher>,
    /// The newest so many messages of a topic are never taken by retention.
    keeps: Option<u64>,
    damage: Damage,
    life: u32,
    /// Messages that were shown after they had been called expired in an earlier life.
    pub(crate) back_after_kill: u64,
    /// Messages that were called lost and had been sent after the last damage.
    pub(crate) lost_after_damage: u64,
}

/// What damage excuses.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Damage {
    /// The files have been damaged at least once.
    ever: bool,
    /// They have just been: topics may be found to go on in another epoch.
    fresh: bool,
}

#[derive(Debug, Default)]
struct Topic {
    /// Its sequences, in the order in which they were seen.
    sequences: Vec<Sequence>,
    /// How many messages were sent to it, each counted once.
    sent: u64,
    /// Messages that may have been kept twice, since their producer was forgotten.
    doubled: u64,
    /// What damage may have cost in the midst of the sequence: nothing beyond this place.
    damaged_up_to: u64,
}

/// A topic's messages in one epoch.
#[derive(Debug)]
struct Sequence {
    epoch: String,
    messages: BTreeMap<u64, Entry>,
    places: HashMap<Id, u64>,
    expired: u64,
    expired_in_this_life: u64,
    /// The furthest that was ever called expired.
    ever_expired: u64,
    /// Ranges that were told to be lost.
    lost: Vec<Lost>,
    /// Of cursors of this epoch in each later one: some offset that was resumed exactly, and the one behind which all is lost.
    heirs: HashMap<String, Kept>,
}

/// What a reader was told to be lost in the midst of a sequence.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Lost {
    from: u64,
    to: u64,
    life: u32,
}

impl Lost {
    fn holds(&self, offset: u64) -> bool {
        (self.from..=self.to).contains(&offset)
    }
}

#[derive(Debug, Clone, Copy, Default)]
struct Kept {
    at_least: u64,
    exactly: Option<u64>,
}

#[derive(Debug, Clone, Copy)]
struct Entry {
    id: Id,
    /// Somebody was shown it, and not only its receipt.
    read: bool,
}

#[derive(Debug)]
struct Publisher {
    topic: usize,
    kind: Kind,
    /// By number, from 1.
    messages: Vec<Message>,
}

#[derive(Debug, Clone, Default)]
struct Message {
    sendings: u32,
    /// Answered as kept, at its place.
    kept: bool,
    /// Answered as a duplicate whose place is not known: it lies somewhere in this epoch.
    duplicate_in: Option<String>,
    /// Refused once, and sent again behind later ones: its order says nothing.
    out_of_order: bool,
    /// Its producer was forgotten meanwhile: it may be there twice.
    forgotten: bool,
}

impl Judge {
    /// For so many topics at first, of which nothing expires.
    pub(crate) fn new(topics: usize) -> Self {
        Self {
            topics: (0..topics).map(|_| Topic::default()).collect(),
            publishers: Vec::new(),
            keeps: None,
            damage: Damage::default(),
            life: 0,
            back_after_kill: 0,
            lost_after_damage: 0,
        }
    }

    pub(crate) fn topics(&self) -> usize {
        self.topics.len()
    }

    /// One more topic, of which nothing was known before.
    pub(crate) fn begin_topic(&mut self) -> usize {
        self.topics.push(Topic::default());
        self.topics.len() - 1
    }

    /// From now on retention may take all but the newest so many messages of a topic.
    pub(crate) fn retention(&mut self, keeps: u64) {
        self.keeps = Some(self.keeps.map_or(keeps, |before| before.min(keeps)));
    }

    /// The broker has ended: what it said in the midst of reading need not have been committed, unless it had time to.
    pub(crate) fn ended(&mut self, gracefully: bool) {
        self.life += 1;
        for sequence in self
            .topics
            .iter_mut()
            .flat_map(|topic| &mut topic.sequences)
        {
            let told = std::mem::take(&mut sequence.expired_in_this_life);
            if gracefully {
                sequence.expired = sequence.expired.max(told);
            }
        }
    }

    /// The files have been damaged: what is found at the next start may be less, and is then named. Gives what was excused before.
    pub(crate) fn damaged(&mut self) -> Damage {
        for topic in &mut self.topics {
            topic.damaged_up_to = topic.sent + topic.doubled;
        }
        let now = Damage {
            ever: true,
            fresh: true,
        };
        std::mem::replace(&mut self.damage, now)
    }

    /// The files have been put back as they were before the damage, and nobody saw them meanwhile.
    pub(crate) fn restored(&mut self, before: Damage) {
        self.damage = before;
    }

    /// Every topic has been looked at since the damage: from here on the rules are as before.
    pub(crate) fn settled(&mut self) {
        self.damage.fresh = false;
    }

    /// A new publisher.
    pub(crate) fn join(&mut self, topic: usize, kind: Kind) -> usize {
        self.publishers.push(Publisher {
            topic,
            kind,
            messages: Vec::new(),
        });
        self.publishers.len() - 1
    }

    /// A message is about to be sent. Says whether it was before.
    pub(crate) fn sending(&mut self, id: Id) -> bool {
        let publisher = &mut self.publishers[id.publisher];
        let at = index(id.n - 1);
        if at == publisher.messages.len() {
            publisher.messages.push(Message::default());
            self.topics[publisher.topic].sent += 1;
        }
        let message = &mut publisher.messages[at];
        message.sendings += 1;
        message.sendings > 1
    }

    /// A message was refused, and will be sent again although later ones may have been taken.
    pub(crate) fn out_of_order(&mut self, id: Id) {
        self.message(id).out_of_order = true;
    }

    /// The broker does not know a producer's numbers any more: what was sent under them, and is sent again under new ones, may be kept twice.
    pub(crate) fn producer_forgotten(
        &mut self,
        publisher: usize,
        unanswered: impl Iterator<Item = u64>,
    ) -> Judged {
        if !self.damage.ever {
            violated!(
                "the producer of publisher {publisher} was forgotten, and nothing was damaged"
            );
        }
        for n in unanswered {
            self.message(Id { publisher, n }).forgotten = true;
            let topic = self.publishers[publisher].topic;
            self.topics[topic].doubled += 1;
        }
        Ok(())
    }

    /// A receipt has come.
    pub(crate) fn receipt(&mut self, id: Id, place: &Place, duplicate: bool) -> Judged {
        let Publisher { topic, kind, .. } = self.publishers[id.publisher];
        let message = self.message(id);
        if duplicate {
            if message.sendings < 2 {
                violated!("{id} was sent once, and answered as a duplicate at {place}");
            }
            if place.offset == 0 {
                if kind == Kind::Keyed && !message.forgotten {
                    violated!("{id} has a key that is known, and its place is not");
                }
                message.duplicate_in = Some(place.epoch.clone());
            } else if !message.forgotten {
                self.put(topic, place, id, false)?;
            }
            return self.epoch(topic, &place.epoch);
        }
        if message.kept && !message.forgotten {
            violated!("{id} was answered as new twice, the second time at {place}");
        }
        message.kept = true;
        self.put(topic, place, id, false)
    }

    /// What is known of a topic by now.
    pub(crate) fn known(&self, topic: usize) -> Known {
        self.topics[topic]
            .newest()
            .map_or_else(Known::default, |newest| Known {
                epoch: Some(newest.epoch.clone()),
                head: newest.head(),
                expired: newest.expired,
                expired_in_this_life: newest.expired_in_this_life,
                ever_expired: newest.ever_expired,
                lost: newest.lost.len(),
                life: self.life,
            })
    }

    /// Where somebody may have been who comes back: some epoch that was seen, with the newest offset that was seen of it.
    pub(crate) fn cursors(&self, topic: usize) -> Vec<Place> {
        let newest = |sequence: &Sequence| Place {
            epoch: sequence.epoch.clone(),
            offset: sequence.head(),
        };
        self.topics[topic].sequences.iter().map(newest).collect()
    }

    /// An epoch was named as the topic's own.
    pub(crate) fn epoch(&mut self, topic: usize, epoch: &str) -> Judged {
        let damage = self.damage.fresh;
        let sequences = &mut self.topics[topic].sequences;
        if sequences.iter().any(|known| known.epoch == epoch) {
            return Ok(());
        }
        if let Some(newest) = sequences.last().filter(|_| !damage) {
            violated!(
                "topic {topic} goes on in epoch {epoch} instead of {}, and nothing was damaged",
                newest.epoch
            );
        }
        sequences.push(Sequence::new(epoch));
        Ok(())
    }

    /// A message was shown to a reader that had asked when `known` was known.
    pub(crate) fn read(
        &mut self,
        topic: usize,
        place: &Place,
        data: &Value,
        known: &Known,
    ) -> Judged {
        let Some(id) = Id::of(data) else {
            violated!(
                "topic {topic} has at {place} what nobody sent: {}",
                short(data)
            );
        };
        let sender = self.publishers.get(id.publisher);
        let sent = sender.and_then(|sender| sender.messages.get(index(id.n.wrapping_sub(1))));
        if sent.is_none() || sender.is_some_and(|sender| sender.topic != topic) {
            violated!(
                "topic {topic} has at {place} what nobody sent there: {}",
                short(data)
            );
        }
        if *data != id.data() {
            violated!(
                "{id} was changed: topic {topic} has at {place} {}",
                short(data)
            );
        }
        if known.epoch.as_ref() == Some(&place.epoch) {
            let expired = match known.life == self.life {
                true => known.expired.max(known.expired_in_this_life),
                false => known.expired,
            };
            if place.offset <= expired {
                violated!(
                    "topic {topic} shows {place}, though all up to {expired} had expired: that was named too much"
                );
            }
            self.back_after_kill += u64::from(place.offset <= known.ever_expired);
            let life = self.life;
            let told = self.topics[topic].sequence(&place.epoch).lost.iter();
            let mut told = told.take(known.lost).filter(|lost| lost.life == life);
            if let Some(lost) = told.find(|lost| known.life == life && lost.holds(place.offset)) {
                violated!(
                    "topic {topic} shows {place}, though {} to {} had been called lost: that was named too much",
                    lost.from,
                    lost.to
                );
            }
        }
        self.put(topic, place, id, true)
    }

    /// A reader was told, when it began, that everything up to here has expired.
    pub(crate) fn expired(&mut self, topic: usize, up_to: &Place) -> Judged {
        self.may_expire(topic, up_to)?;
        let sequence = self.topics[topic].sequence(&up_to.epoch);
        sequence.expired = sequence.expired.max(up_to.offset);
        Ok(())
    }

    /// A reader that had asked when `known` was known was told in the midst of reading that everything up to here has expired.
    pub(crate) fn expired_meanwhile(
        &mut self,
        topic: usize,
        up_to: &Place,
        known: &Known,
    ) -> Judged {
        self.may_expire(topic, up_to)?;
        if known.life == self.life {
            let sequence = self.topics[topic].sequence(&up_to.epoch);
            sequence.expired_in_this_life = sequence.expired_in_this_life.max(up_to.offset);
        }
        Ok(())
    }

    fn may_expire(&mut self, topic: usize, up_to: &Place) -> Judged {
        self.epoch(topic, &up_to.epoch)?;
        if up_to.offset == 0 {
            return Ok(());
        }
        let Some(keeps) = self.keeps else {
            violated!(
                "topic {topic} says that all up to {up_to} has expired, and nothing ever does"
            );
        };
        // There cannot be more than was sent.
        let most = self.topics[topic].sent + self.topics[topic].doubled;
        if up_to.offset + keeps > most {
            violated!(
                "topic {topic} says that all up to {up_to} has expired, but the newest {keeps} are kept, and {most} were sent"
            );
        }
        let sequence = self.topics[topic].sequence(&up_to.epoch);
        sequence.ever_expired = sequence.ever_expired.max(up_to.offset);
        Ok(())
    }

    /// A reader that had asked when `known` was known was told that a range in the midst of a sequence is lost.
    pub(crate) fn lost_range(
        &mut self,
        topic: usize,
        from: &Place,
        to: u64,
        known: &Known,
    ) -> Judged {
        if !self.damage.ever {
            violated!("topic {topic} says that {from} to {to} is lost, and nothing was damaged");
        }
        // In a file that is damaged sled can lose what was kept later, too (ARCHITECTURE.md): it has to be named all the same.
        let damaged_up_to = self.topics[topic].damaged_up_to;
        self.lost_after_damage += to.saturating_sub(damaged_up_to.max(from.offset - 1));
        self.epoch(topic, &from.epoch)?;
        let lost = Lost {
            from: from.offset,
            to,
            life: known.life,
        };
        let told = &mut self.topics[topic].sequence(&from.epoch).lost;
        if !told.contains(&lost) {
            told.push(lost);
        }
        Ok(())
    }

    /// A cursor of an earlier epoch was resumed exactly in a later one.
    pub(crate) fn resumed_across(&mut self, topic: usize, old: &Place, new: &str) -> Judged {
        let kept = self.heir(topic, &old.epoch, new)?;
        kept.at_least = kept.at_least.max(old.offset);
        if let Some(exactly) = kept.exactly.filter(|exactly| *exactly < old.offset) {
            violated!(
                "topic {topic} resumed {old} in epoch {new}, where all beyond {exactly} was said to be lost"
            );
        }
        Ok(())
    }

    /// A reader was told that everything behind `kept` of an epoch is lost, and that it goes on in another.
    pub(crate) fn lost_tail(
        &mut self,
        topic: usize,
        old: &str,
        new: &str,
        kept_up_to: u64,
    ) -> Judged {
        let kept = self.heir(topic, old, new)?;
        if kept.exactly.is_some_and(|exactly| exactly != kept_up_to) || kept.at_least > kept_up_to {
            violated!(
                "topic {topic} says that of epoch {old} all beyond {kept_up_to} is lost in {new}, and said otherwise before: {kept:?}"
            );
        }
        kept.exactly = Some(kept_up_to);
        Ok(())
    }

    /// A reader was told that the topic is another sequence now: damage has left so little that not even the topic's name was found, and nobody
    /// can say how far it had come.
    pub(crate) fn nothing_left(&mut self, topic: usize, old: &str, new: &str) -> Judged {
        if !self.damage.ever {
            violated!(
                "topic {topic} is another sequence, {new} after {old}, and nothing was damaged"
            );
        }
        self.lost_tail(topic, old, new, 0)
    }

    fn heir(&mut self, topic: usize, old: &str, new: &str) -> Judged<&mut Kept> {
        self.epoch(topic, new)?;
        let place = |epoch| {
            self.topics[topic]
                .sequences
                .iter()
                .position(|known| known.epoch == epoch)
        };
        match (place(old), place(new)) {
            (Some(before), Some(after)) if before < after => {}
            _ => violated!(
                "topic {topic} goes on from epoch {old} in {new}, which does not come after it"
            ),
        }
        Ok(self.topics[topic]
            .sequence(old)
            .heirs
            .entry(new.to_owned())
            .or_default())
    }

    fn message(&mut self, id: Id) -> &mut Message {
        &mut self.publishers[id.publisher].messages[index(id.n - 1)]
    }

    /// Rules 1 and 2 within an epoch.
    fn put(&mut self, topic: usize, place: &Place, id: Id, read: bool) -> Judged {
        self.epoch(topic, &place.epoch)?;
        let may_be_twice = self.message(id).forgotten;
        let sequence = self.topics[topic].sequence(&place.epoch);
        let entry = sequence
            .messages
            .entry(place.offset)
            .or_insert(Entry { id, read });
        entry.read |= read;
        if entry.id != id {
            violated!(
                "one place, two messages: topic {topic} has {id} at {place}, where {} was",
                entry.id
            );
        }
        let at = *sequence.places.entry(id).or_insert(place.offset);
        if at != place.offset && !may_be_twice {
            violated!("topic {topic} has {id} twice in one epoch: at {place} and at offset {at}");
        }
        Ok(())
    }

    /// Judges a topic as it is now, over all its epochs: rules 1 to 5 as far as they need more than one message. `complete`: everything has
    /// been answered, and a reader has gone from the first offset to the head.
    pub(crate) fn look_over(&self, topic: usize, complete: bool) -> Judged {
        let log = self.topics[topic].log()?;
        self.judge_once_and_order(topic, &log)?;
        if complete {
            self.judge_read(topic, &log)?;
            self.judge_duplicates(topic, &log)?;
        }
        Ok(())
    }

    fn judge_once_and_order(&self, topic: usize, log: &Log) -> Judged {
        let mut seen: HashMap<Id, u64> = HashMap::new();
        let mut last: HashMap<usize, (u64, u64)> = HashMap::new();
        for (&offset, entry) in &log.messages {
            let id = entry.id;
            let message = &self.publishers[id.publisher].messages[index(id.n - 1)];
            if message.forgotten {
                continue;
            }
            if let Some(before) = seen.insert(id, offset) {
                // What damage took is kept again when it is sent again, behind what was left. Of a hole that expired before anybody came to it,
                // nobody was told that it was lost.
                if self.damage.ever && log.is_named(before) {
                    continue;
                }
                violated!("topic {topic} has {id} twice: at {before} and at {offset}");
            }
            if message.out_of_order {
                continue;
            }
            let before = last.insert(id.publisher, (id.n, offset));
            if let Some((n, at)) = before.filter(|(n, _)| *n > id.n) {
                violated!(
                    "out of order: topic {topic} has {id} at {offset}, and its message {n} before, at {at}"
                );
            }
        }
        Ok(())
    }

    /// Rule 4: what was answered has been shown, or named as expired or lost.
    fn judge_read(&self, topic: usize, log: &Log) -> Judged {
        for (&offset, entry) in &log.messages {
            if !entry.read && !log.is_named(offset) {
                violated!(
                    "{} was answered at offset {offset} of topic {topic}, and nobody was shown it or told why not",
                    entry.id
                );
            }
        }
        Ok(())
    }

    /// Rule 5: what was answered as a duplicate of no named place is there. What has a place was put there.
    fn judge_duplicates(&self, topic: usize, log: &Log) -> Judged {
        let places: HashMap<Id, u64> = log
            .messages
            .iter()
            .map(|(offset, entry)| (entry.id, *offset))
            .collect();
        let head = log.messages.keys().next_back().copied().unwrap_or(0);
        let lost = log.lost.iter().map(|lost| lost.to).max().unwrap_or(0);
        let end = head.max(log.expired).max(lost);
        let publishers = self.publishers.iter().enumerate();
        for (publisher, sender) in publishers.filter(|(_, sender)| sender.topic == topic) {
            // Where the one before lies, as far as is known: a duplicate that nobody saw must be behind it.
            let mut behind = 0;
            for (n, message) in (1..).zip(&sender.messages) {
                let id = Id { publisher, n };
                let at = places.get(&id).copied();
                behind = at.unwrap_or(behind);
                let Some(epoch) = message.duplicate_in.as_ref().filter(|_| !message.forgotten)
                else {
                    continue;
                };
                // In the tail that an epoch has lost, and that is named, it may have been.
                let is_whole = log.epochs.get(epoch) == Some(&u64::MAX);
                if at.is_none() && is_whole && !log.may_hide(behind, end) {
                    violated!(
                        "{id} was answered as a duplicate in epoch {epoch} of topic {topic}, and is not there"
                    );
                }
            }
        }
        Ok(())
    }
}

/// A topic as it reads now: the beginnings of earlier sequences as far as they are kept, and the newest.
#[derive(Debug, Default)]
struct Log {
    messages: BTreeMap<u64, Entry>,
    expired: u64,
    lost: Vec<Lost>,
    /// Up to where each epoch's places still hold.
    epochs: HashMap<String, u64>,
}

impl Log {
    /// Whether readers were told that they cannot have this.
    fn is_named(&self, offset: u64) -> bool {
        offset <= self.expired || self.lost.iter().any(|lost| lost.holds(offset))
    }

    /// Whether there is a place behind the one and up to the other that nobody could see into.
    fn may_hide(&self, behind: u64, up_to: u64) -> bool {
        (behind + 1..=up_to)
            .any(|offset| self.is_named(offset) && !self.messages.contains_key(&offset))
    }
}

impl Topic {
    fn newest(&self) -> Option<&Sequence> {
        self.sequences.last()
    }

    fn sequence(&mut self, epoch: &str) -> &mut Sequence {
        let at = self.sequences.iter().position(|known| known.epoch == epoch);
        &mut self.sequences[at.expect("the epoch has been noted")]
    }

    /// Lays the sequences over each other. Where they share offsets, they must share messages.
    fn log(&self) -> Judged<Log> {
        let mut log = Log::default();
        // In which sequence each message was seen last.
        let mut seen_in: HashMap<u64, usize> = HashMap::new();
        for (at, sequence) in self.sequences.iter().enumerate() {
            if let Some(before) = at.checked_sub(1).map(|before| &self.sequences[before]) {
                let kept = before
                    .heirs
                    .get(&sequence.epoch)
                    .copied()
                    .unwrap_or_default();
                let kept_up_to = kept.exactly.unwrap_or(u64::MAX);
                log.messages.split_off(&kept_up_to.saturating_add(1));
                log.lost.retain(|lost| lost.from <= kept_up_to);
                for up_to in log.epochs.values_mut() {
                    *up_to = kept_up_to.min(*up_to);
                }
            }
            // Of an earlier one, too, it may have been told what is left: where the one between was seen by nobody who was so far.
            for (earlier, before) in self.sequences[..at].iter().enumerate() {
                let kept = before.heirs.get(&sequence.epoch);
                if let Some(kept_up_to) = kept.and_then(|kept| kept.exactly) {
                    log.messages.retain(|offset, _| {
                        *offset <= kept_up_to || seen_in.get(offset) != Some(&earlier)
                    });
                }
            }
            log.epochs.insert(sequence.epoch.clone(), u64::MAX);
            log.expired = log.expired.max(sequence.ever_expired);
            log.lost.extend(&sequence.lost);
            for (&offset, entry) in &sequence.messages {
                let earlier = seen_in.insert(offset, at);
                let merged = log.messages.entry(offset).or_insert(*entry);
                merged.read |= entry.read;
                let kept =
                    earlier.and_then(|earlier| self.sequences[earlier].heirs.get(&sequence.epoch));
                let may_be_lost =
                    kept.is_none_or(|kept| kept.exactly.is_none() && offset > kept.at_least);
                if merged.id != entry.id && may_be_lost {
                    // Nobody has asked for what came after the one it was last seen in: its receipt arrived when all had been asked for.
                    *merged = *entry;
                }
                if merged.id != entry.id {
                    violated!(
                        "offset {offset} has {} in epoch {}, and {} in an earlier one that it goes on from",
                        entry.id,
                        sequence.epoch,
                        merged.id
                    );
                }
            }
        }
        Ok(log)
    }
}

impl Sequence {
    fn new(epoch: &str) -> Self {
        Self {
            epoch: epoch.to_owned(),
            messages: BTreeMap::new(),
            places: HashMap::new(),
            expired: 0,
            expired_in_this_life: 0,
            ever_expired: 0,
            lost: Vec::new(),
            heirs: HashMap::new(),
        }
    }

    fn head(&self) -> u64 {
        self.messages
            .last_key_value()
            .map_or(0, |(offset, _)| *offset)
    }
}

fn index(n: u64) -> usize {
    usize::try_from(n).unwrap_or(usize::MAX)
}

/// Enough of it to know it by.
fn short(data: &Value) -> String {
    data.to_string().chars().take(120).collect()
}
