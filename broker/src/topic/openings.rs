//! Rooms that wait to be opened, and how many are at a time. Owns whose turn it is; the starting is the registry's.
//!
//! Opening a room costs the thread it lives on, the log and whoever waits for it a turn each. Where a crowd of topics is asked for at once,
//! all of these turns would come before anybody else's; so the crowd has them one after the other. Whoever publishes or reads goes before
//! those who subscribe, since a client may subscribe to a thousand topics in one breath.

use std::collections::VecDeque;

use hark_protocol::TopicName;

/// So many rooms are opened at a time: enough to keep the log's readers busy, and over in a few milliseconds.
pub(super) const MAX_OPENING: usize = 128;

/// Where a room that is to be opened stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Line {
    /// Somebody publishes, or reads.
    First,
    /// Somebody subscribes.
    Crowd,
}

/// Rooms that wait to be opened. Bounded by the handles to them, whose holders are.
#[derive(Debug, Default)]
pub(super) struct Openings {
    first: VecDeque<TopicName>,
    crowd: VecDeque<TopicName>,
    under_way: usize,
}

impl Openings {
    /// A room is to be opened. One that stands in both lines is opened when its first turn comes.
    pub(super) fn wait(&mut self, topic: TopicName, line: Line) {
        match line {
            Line::First => self.first.push_back(topic),
            Line::Crowd => self.crowd.push_back(topic),
        }
    }

    /// Whose turn it is, if one more may be opened and `begin` can. It counts until [`Self::over`].
    pub(super) fn next<T>(&mut self, mut begin: impl FnMut(&TopicName) -> Option<T>) -> Option<T> {
        while self.under_way < MAX_OPENING {
            let next = self.first.pop_front().or_else(|| self.crowd.pop_front());
            let Some(topic) = next else {
                // After a crowd its memory would be kept for ever.
                (self.first, self.crowd) = Default::default();
                return None;
            };
            if let Some(begun) = begin(&topic) {
                self.under_way += 1;
                return Some(begun);
            }
        }
        None
    }

    /// One has been opened, or will not be.
    pub(super) fn over(&mut self) {
        self.under_way -= 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn so_many_at_a_time_and_whoever_publishes_first() {
        let name = |n: usize| TopicName::parse(&format!("t.{n}")).unwrap();
        let mut openings = Openings::default();
        for n in 0..=MAX_OPENING {
            openings.wait(name(n), Line::Crowd);
        }
        let next = |openings: &mut Openings| openings.next(|topic| Some(topic.clone()));
        for n in 0..MAX_OPENING {
            assert_eq!(next(&mut openings), Some(name(n)));
        }
        assert_eq!(next(&mut openings), None);
        openings.wait(name(1000), Line::First);
        openings.over();
        assert_eq!(next(&mut openings), Some(name(1000)));
        assert_eq!(next(&mut openings), None);
        openings.over();
        // What cannot begin any more costs nobody a turn.
        openings.wait(name(1001), Line::Crowd);
        let begun = openings.next(|topic| (*topic == name(1001)).then(|| topic.clone()));
        assert_eq!(begun, Some(name(1001)));
    }
}
