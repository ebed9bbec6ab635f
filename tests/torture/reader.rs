//! One reader's view of one topic: what it may be told next, from where it is. Owns density (every offset is shown, or named in a
//! gap, once and in order) and what a cursor becomes; what it saw it passes on to the judge.

use serde_json::{Value, json};

use crate::judge::{Judge, Judged, Known, Place, violated};

/// Where a reader asked to begin.
#[derive(Debug, Clone)]
pub(crate) enum From {
    Now,
    Earliest,
    Last(u64),
    After(Place),
}

impl From {
    /// As a `subscribe` says it.
    pub(crate) fn json(&self) -> Value {
        match self {
            Self::Now => json!("now"),
            Self::Earliest => json!("earliest"),
            Self::Last(n) => json!({"last": n}),
            Self::After(place) => json!({"after": place.to_string()}),
        }
    }
}

/// A subscription, or the reading of history, from its beginning to its end.
#[derive(Debug)]
pub(crate) struct Reader {
    topic: usize,
    /// What was known when it asked.
    known: Known,
    /// Everything up to here it has.
    pub(crate) place: Place,
    /// The head it was told at its beginning.
    head: u64,
    /// It was told that it cannot have what follows its cursor, and not yet why.
    owed_a_gap: bool,
    pub(crate) caught_up: bool,
    last_time_ms: u64,
}

impl Reader {
    /// Begins with what `subscribed` says. `known` is what was known when it was asked for.
    pub(crate) fn subscribed(
        judge: &mut Judge,
        topic: usize,
        from: &From,
        known: Known,
        said: &Value,
    ) -> Judged<Self> {
        let place = Place::parse(&said["cursor"])?;
        let (Some(head), Some(resumed)) = (said["head"].as_u64(), said["resumed"].as_bool()) else {
            violated!("{said} lacks a field");
        };
        let reader = Self {
            topic,
            known,
            place,
            head,
            owed_a_gap: matches!(from, From::After(_)) && !resumed,
            caught_up: false,
            last_time_ms: 0,
        };
        reader.judge_start(judge, from, said)?;
        if !reader.owed_a_gap {
            reader.judge_head(said)?;
        }
        Ok(reader)
    }

    fn judge_start(&self, judge: &mut Judge, from: &From, said: &Value) -> Judged {
        let (topic, place) = (self.topic, &self.place);
        match from {
            From::After(asked) if asked == place => {}
            From::After(asked) if asked.offset == place.offset && !self.owed_a_gap => {
                return judge.resumed_across(topic, asked, &place.epoch);
            }
            From::After(asked) => {
                violated!("{asked} of topic {topic} was resumed elsewhere: {said}")
            }
            From::Now if place.offset == self.head => {}
            From::Now => violated!("topic {topic} does not begin at its head: {said}"),
            From::Earliest => self.judge_first(judge)?,
            From::Last(n) => {
                let expected = self.head.saturating_sub(*n);
                if place.offset < expected {
                    violated!("topic {topic} begins with more than the last {n}: {said}");
                }
                if place.offset > expected {
                    self.judge_first(judge)?;
                }
            }
        }
        judge.epoch(topic, &place.epoch)
    }

    /// It begins where the topic does: what is before has expired.
    fn judge_first(&self, judge: &mut Judge) -> Judged {
        let same_epoch = self.known.epoch.as_ref() == Some(&self.place.epoch);
        if same_epoch && self.place.offset < self.known.expired {
            violated!(
                "topic {} begins behind {}, though all up to {} had expired: that was named too much",
                self.topic,
                self.place,
                self.known.expired
            );
        }
        judge.expired(self.topic, &self.place)
    }

    /// Nothing that was known is gone from the end.
    fn judge_head(&self, said: &Value) -> Judged {
        if self.known.epoch.as_ref() == Some(&self.place.epoch) && self.head < self.known.head {
            violated!(
                "topic {} has its head at {} of epoch {}, where {} had been answered or shown: {said}",
                self.topic,
                self.head,
                self.place.epoch,
                self.known.head
            );
        }
        if self.place.offset > self.head {
            violated!(
                "topic {} has its head at {}, behind the position {}: {said}",
                self.topic,
                self.head,
                self.place
            );
        }
        Ok(())
    }

    /// The next frame of the subscription.
    pub(crate) fn take(&mut self, judge: &mut Judge, frame: &Value) -> Judged {
        match frame["type"].as_str() {
            Some("message") => self.message(judge, frame),
            Some("gap") => self.gap(judge, frame),
            Some("caught_up") => self.caught_up(frame),
            Some("lagging") => self.lagging(frame),
            _ => violated!("not a frame of a subscription: {frame}"),
        }
    }

    fn message(&mut self, judge: &mut Judge, frame: &Value) -> Judged {
        let (Some(offset), Some(time_ms)) = (frame["offset"].as_u64(), frame["time"].as_u64())
        else {
            violated!("{frame} lacks a field");
        };
        let topic = self.topic;
        if self.owed_a_gap {
            violated!(
                "topic {topic} said that it cannot resume {}, and not why: offset {offset} follows",
                self.place
            );
        }
        if offset != self.place.offset + 1 {
            let what = if offset > self.place.offset {
                "a hole that nobody named"
            } else {
                "out of order"
            };
            violated!(
                "{what}: after {} of topic {topic} came offset {offset}",
                self.place
            );
        }
        if time_ms < self.last_time_ms {
            violated!(
                "time goes back in topic {topic}: {time_ms} at offset {offset}, {} before",
                self.last_time_ms
            );
        }
        self.place.offset = offset;
        self.last_time_ms = time_ms;
        judge.read(topic, &self.place, &frame["data"], &self.known)
    }

    fn gap(&mut self, judge: &mut Judge, frame: &Value) -> Judged {
        let topic = self.topic;
        let after = Place::parse(&frame["cursor"])?;
        let (Some(from), Some(to)) = (frame["from"].as_u64(), frame["to"].as_u64()) else {
            if frame["reason"] != "other_epoch" || !self.owed_a_gap {
                violated!(
                    "after {} of topic {topic} a gap without a range: {frame}",
                    self.place
                );
            }
            judge.nothing_left(topic, &self.place.epoch, &after.epoch)?;
            return self.goes_on_at(after, frame);
        };
        if from > to {
            violated!(
                "after {} of topic {topic} a gap that names nothing: {frame}",
                self.place
            );
        }
        let same_epoch = after.epoch == self.place.epoch;
        match frame["reason"].as_str() {
            Some("expired") => {
                if from != self.place.offset + 1 || to != after.offset {
                    violated!(
                        "after {} of topic {topic} a gap that names something else: {frame}",
                        self.place
                    );
                }
                if !same_epoch {
                    judge.resumed_across(topic, &self.place, &after.epoch)?;
                }
                match self.owed_a_gap {
                    true => judge.expired(topic, &after)?,
                    false => judge.expired_meanwhile(topic, &after, &self.known)?,
                }
            }
            // A hole behind the place it came back with, whose epoch another has followed since, has the new one's cursor.
            Some("lost") if same_epoch || from > self.place.offset => {
                if from != self.place.offset + 1 || to != after.offset {
                    violated!(
                        "after {} of topic {topic} a gap that names something else: {frame}",
                        self.place
                    );
                }
                if !same_epoch {
                    judge.resumed_across(topic, &self.place, &after.epoch)?;
                }
                let first = Place {
                    epoch: after.epoch.clone(),
                    offset: from,
                };
                judge.lost_range(topic, &first, to, &self.known)?;
            }
            Some("lost") => {
                if to != self.place.offset || after.offset + 1 < from {
                    violated!(
                        "after {} of topic {topic} a gap that names something else: {frame}",
                        self.place
                    );
                }
                judge.lost_tail(topic, &self.place.epoch, &after.epoch, from - 1)?;
                if after.offset + 1 > from {
                    judge.expired(topic, &after)?;
                }
            }
            _ => violated!(
                "after {} of topic {topic} a gap that nothing explains: {frame}",
                self.place
            ),
        }
        self.goes_on_at(after, frame)
    }

    fn goes_on_at(&mut self, after: Place, frame: &Value) -> Judged {
        self.place = after;
        match std::mem::take(&mut self.owed_a_gap) {
            true => self.judge_head(frame),
            false => Ok(()),
        }
    }

    fn caught_up(&mut self, frame: &Value) -> Judged {
        let topic = self.topic;
        let place = Place::parse(&frame["cursor"])?;
        if self.owed_a_gap || place != self.place {
            violated!(
                "topic {topic} was caught up with at {place}, by a reader at {}",
                self.place
            );
        }
        if std::mem::replace(&mut self.caught_up, true) {
            violated!("topic {topic} was caught up with twice in one subscription: {frame}");
        }
        if place.offset < self.head {
            violated!(
                "topic {topic} was caught up with at {place}, before its head {}",
                self.head
            );
        }
        Ok(())
    }

    fn lagging(&self, frame: &Value) -> Judged {
        let place = Place::parse(&frame["cursor"])?;
        if !self.caught_up || place != self.place {
            let (topic, here) = (self.topic, &self.place);
            violated!("topic {topic} is said to lag at {place}, to a reader at {here}: {frame}");
        }
        Ok(())
    }

    /// A page of history: what comes after a place, or from the beginning, asked for when `known` was known. Gives where the next one begins,
    /// and whether this was the last.
    pub(crate) fn page(
        judge: &mut Judge,
        topic: usize,
        after: Option<&Place>,
        known: Known,
        page: &Value,
    ) -> Judged<(Place, bool)> {
        let cursor = Place::parse(&page["cursor"])?;
        let (Some(messages), Some(caught_up)) =
            (page["messages"].as_array(), page["caught_up"].as_bool())
        else {
            violated!("a page lacks a field: {page}");
        };
        let gap = page.get("gap");
        // A page says only at its end in which epoch it is, and where it began only by what it begins with.
        let start = match (after, gap, messages.first()) {
            (Some(after), Some(_), _) => after.clone(),
            (Some(after), None, _) => Place {
                epoch: cursor.epoch.clone(),
                offset: after.offset,
            },
            (None, gap, first) => {
                let begins = gap
                    .and_then(|gap| gap["from"].as_u64())
                    .or_else(|| first.and_then(|first| first["offset"].as_u64()));
                Place {
                    epoch: cursor.epoch.clone(),
                    offset: begins.map_or(cursor.offset, |offset| offset.saturating_sub(1)),
                }
            }
        };
        let from = after.cloned().map_or(From::Earliest, From::After);
        let was_known = known.clone();
        // The head is not told: the page that says it is the last must reach it.
        let said = json!({"cursor": start.to_string(), "head": u64::MAX, "resumed": gap.is_none()});
        let mut reader = Self::subscribed(judge, topic, &from, known, &said)?;
        for frame in gap.into_iter().chain(messages) {
            reader.take(judge, frame)?;
        }
        if reader.place != cursor {
            violated!(
                "a page of topic {topic} ends at {}, and says {cursor}",
                reader.place
            );
        }
        if caught_up
            && was_known.epoch.as_ref() == Some(&cursor.epoch)
            && cursor.offset < was_known.head
        {
            violated!(
                "a page of topic {topic} says that it ends at the head, at {cursor}, where {} had been answered or shown",
                was_known.head
            );
        }
        Ok((cursor, caught_up))
    }
}
