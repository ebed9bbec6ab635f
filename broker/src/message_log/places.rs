//! Where a producer's newest messages are, by their numbers: so that the receipt of one that comes again names its own place. Owns
//! how they are kept; how many are, is for who keeps them.

use std::collections::{HashMap, VecDeque};

use super::Producer;

/// The places of a producer's newest numbers. Numbers that follow each other at offsets that do are one *run*, so that a producer that
/// has its topic for itself has one, however much it sends.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Places {
    /// Runs before the newest, oldest first. Each goes up to where the next begins.
    earlier: VecDeque<Run>,
    newest: Run,
    /// The newest number; 0: there is none.
    last_seq: u64,
}

/// The number `seq + n` is at `offset + n`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Run {
    seq: u64,
    offset: u64,
}

impl Run {
    fn offset_of(self, seq: u64) -> u64 {
        self.offset + (seq - self.seq)
    }
}

impl Places {
    /// One number and its place.
    pub fn at(seq: u64, offset: u64) -> Self {
        Self {
            earlier: VecDeque::new(),
            newest: Run { seq, offset },
            last_seq: seq,
        }
    }

    /// The newest number; 0 if there is none.
    pub fn last_seq(&self) -> u64 {
        self.last_seq
    }

    /// The place of the newest number.
    fn last_offset(&self) -> u64 {
        self.newest.offset_of(self.last_seq)
    }

    /// Takes a message down that was kept. One that does not follow the newest begins anew: what was before says nothing of what
    /// lies between.
    pub fn push(&mut self, seq: u64, offset: u64) {
        if self.last_seq == 0 || seq != self.last_seq + 1 {
            *self = Self::at(seq, offset);
            return;
        }
        if offset != self.last_offset() + 1 {
            self.earlier.push_back(self.newest);
            self.newest = Run { seq, offset };
        }
        self.last_seq = seq;
    }

    /// Where a number is, if that is known.
    pub fn find(&self, seq: u64) -> Option<u64> {
        if seq == 0 || seq > self.last_seq {
            return None;
        }
        if seq >= self.newest.seq {
            return Some(self.newest.offset_of(seq));
        }
        let later = self.earlier.partition_point(|run| run.seq <= seq);
        let run = self.earlier.get(later.checked_sub(1)?)?;
        Some(run.offset_of(seq))
    }

    /// How many runs there are beside the newest.
    pub fn earlier_runs(&self) -> usize {
        self.earlier.len()
    }

    /// Leaves so many of them, the newest.
    pub fn forget_earlier(&mut self, leave: usize) {
        self.earlier
            .drain(..self.earlier.len().saturating_sub(leave));
        if self.earlier.capacity() > 2 * leave.max(4) {
            self.earlier.shrink_to(leave);
        }
    }
}

/// Where producers' newest messages are, as the newest records of a topic tell.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Lately(HashMap<Producer, Places>);

impl Lately {
    /// Takes a record down; they come in their order.
    pub(crate) fn push(&mut self, producer: Producer, seq: u64, offset: u64) {
        self.0.entry(producer).or_default().push(seq, offset);
    }

    /// The places of a producer whose newest number, as the log has it, is at this offset.
    pub fn take(&mut self, producer: &Producer, seq: u64, offset: u64) -> Places {
        let found = self.0.remove(producer);
        let is_its = |places: &Places| places.last_seq == seq && places.last_offset() == offset;
        found
            .filter(is_its)
            .unwrap_or_else(|| Places::at(seq, offset))
    }
}

#[cfg(test)]
mod tests {
    use hark_protocol::ProducerId;

    use super::*;

    fn places(kept: &[(u64, u64)]) -> Places {
        let mut places = Places::default();
        for &(seq, offset) in kept {
            places.push(seq, offset);
        }
        places
    }

    #[test]
    fn every_number_has_its_own_place() {
        let kept = [(3, 10), (4, 11), (5, 15), (6, 20), (7, 21), (8, 22)];
        let mut places = places(&kept);
        for (seq, offset) in kept {
            assert_eq!(places.find(seq), Some(offset), "{seq}");
        }
        for unknown in [0, 1, 2, 9, u64::MAX] {
            assert_eq!(places.find(unknown), None, "{unknown}");
        }
        assert_eq!((places.last_seq(), places.earlier_runs()), (8, 2));
        places.forget_earlier(1);
        assert_eq!((places.find(4), places.find(5)), (None, Some(15)));
        places.forget_earlier(0);
        assert_eq!((places.find(5), places.find(6)), (None, Some(20)));
    }

    #[test]
    fn one_that_has_its_topic_for_itself_has_one_run() {
        let all: Vec<(u64, u64)> = (1..=10_000).map(|seq| (seq, seq + 7)).collect();
        let places = places(&all);
        assert_eq!(places.earlier_runs(), 0);
        assert_eq!(places.find(5000), Some(5007));
    }

    #[test]
    fn what_does_not_follow_begins_anew() {
        assert_eq!(places(&[(1, 1), (2, 2), (7, 9)]), Places::at(7, 9));
        assert_eq!(places(&[(5, 1), (1, 9)]), Places::at(1, 9));
        assert_eq!(Places::default().find(0), None);
    }

    #[test]
    fn what_records_tell_counts_only_up_to_what_the_log_has() {
        let p = Producer::from(ProducerId::parse("p").unwrap());
        let lately = || {
            let mut lately = Lately::default();
            for (seq, offset) in [(1, 4), (2, 6)] {
                lately.push(p.clone(), seq, offset);
            }
            lately
        };
        assert_eq!(lately().take(&p, 2, 6).find(1), Some(4));
        assert_eq!(lately().take(&p, 5, 3), Places::at(5, 3));
        assert_eq!(Lately::default().take(&p, 5, 3), Places::at(5, 3));
    }
}
