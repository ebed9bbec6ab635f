//! What a room remembers of those who publish: how far each producer has counted, where its newest messages are, and which keys were
//! used lately. Owns what is forgotten, and when; that all rooms together keep within their bound is `remembered`'s.
//!
//! A producer is forgotten when it has been silent for a day; where its topic has too many, if it is of the tenth that has been silent the
//! longest; and where all topics together have too much, if it has been silent for ten minutes. Never while something of it is unanswered.
//! Its times are milliseconds that have passed (`Clock::passed_ms`), so that nothing is remembered for longer when the clock is set.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use actix::prelude::*;
use hark_protocol::ErrorCode;

use super::publish::Refusal;
use super::{Place, Room};
use crate::clock::Clock;
use crate::message_log::{
    KEY_MEMORY_MS, KeyMark, KnownBy, Lately, MAX_PRODUCERS, MAX_RECENT_KEYS, MessageKey,
    PRODUCER_MEMORY_MS, Places, Producer, ProducerMark, give_back,
};
use crate::remembered::{Forget, Remembered, Share, YOUNG_MS};

/// What a producer costs beside its name: its place in the maps, and in the log's of what it has yet to write down.
const PRODUCER_BYTES: usize = 320;
/// What a key costs beside itself.
const KEY_BYTES: usize = 200;
/// What a run of numbers costs.
const RUN_BYTES: usize = 24;
/// A producer's runs that are kept: several windows of unanswered messages, even if each of them is a run of its own. Twice as many are
/// there before the oldest go.
const RUNS_EACH: usize = 4 * 1024;
/// The most runs of all producers of a topic; beyond it the older half of each one's go.
const MAX_RUNS: usize = 64 * 1024;

/// How a room is told to forget.
pub(super) type Tell = Arc<dyn Fn(Forget) + Send + Sync>;

/// What a room remembers of producers and keys.
pub(super) struct Producers {
    counts: HashMap<Producer, Count>,
    keys: HashMap<MessageKey, Key>,
    /// Keys in the order they were used, to forget the oldest.
    key_order: VecDeque<(MessageKey, u64)>,
    /// Runs beside the newest of each producer.
    runs: usize,
    remembered: Remembered,
    tell: Tell,
    /// What of the bytes of all rooms this one has; most have nothing.
    share: Option<Share>,
}

#[derive(Debug, Default)]
struct Count {
    /// The newest number taken: staged, on its way, or kept.
    taken_seq: u64,
    /// Where the newest numbers that were kept are.
    kept: Places,
    used_ms: u64,
}

impl Count {
    fn is_unanswered(&self) -> bool {
        self.taken_seq > self.kept.last_seq()
    }
}

#[derive(Debug, Clone, Copy)]
struct Key {
    /// `None` while on its way.
    offset: Option<u64>,
    used_ms: u64,
}

/// What a message is to those that came before.
pub(super) enum Look {
    New,
    /// It came before, and is on its way.
    OnItsWay,
    /// It came before, and was kept; `None`: where, is not known any more.
    Kept {
        offset: Option<u64>,
    },
    Refused(Refusal),
}

impl Producers {
    /// Nothing. `tell` tells the room what to forget.
    pub(super) fn new(remembered: Remembered, tell: Tell) -> Self {
        Self {
            counts: HashMap::new(),
            keys: HashMap::new(),
            key_order: VecDeque::new(),
            runs: 0,
            remembered,
            tell,
            share: None,
        }
    }

    /// Forgets everything, and begins with what the log found of earlier lives.
    pub(super) fn begin(
        &mut self,
        producers: Vec<ProducerMark>,
        mut keys: Vec<KeyMark>,
        mut lately: Lately,
        clock: &Clock,
    ) {
        let count = |mark: ProducerMark| {
            let count = Count {
                taken_seq: mark.seq,
                kept: lately.take(&mark.producer, mark.seq, mark.offset),
                used_ms: clock.passed_at_ms(mark.time_ms),
            };
            (mark.producer, count)
        };
        self.counts = producers.into_iter().map(count).collect();
        keys.sort_by_key(|mark| mark.offset);
        (self.keys, self.key_order) = (HashMap::new(), VecDeque::new());
        for mark in keys {
            let known = Key {
                offset: Some(mark.offset),
                used_ms: clock.passed_at_ms(mark.time_ms),
            };
            self.key_order.push_back((mark.key.clone(), known.used_ms));
            self.keys.insert(mark.key, known);
        }
        self.count_again();
        self.remembered.keep_within_limit();
    }

    /// Says whether a message is new, and if so counts it as taken.
    pub(super) fn look_at(&mut self, known_by: &KnownBy, now_ms: u64) -> Look {
        match known_by {
            KnownBy::Nothing => Look::New,
            KnownBy::Sequence(producer, seq) => self.look_at_sequence(producer, *seq, now_ms),
            KnownBy::Key(key) => self.look_at_key(key, now_ms),
        }
    }

    fn look_at_sequence(&mut self, producer: &Producer, seq: u64, now_ms: u64) -> Look {
        let Some(count) = self.counts.get_mut(producer) else {
            if seq != 1 {
                return Look::Refused(out_of_sequence(seq, 1));
            }
            self.make_room_for_producer(now_ms);
            if !self.has_room() {
                return Look::Refused(no_room());
            }
            self.take_producer(producer, seq, now_ms);
            return Look::New;
        };
        count.used_ms = now_ms;
        if seq == count.taken_seq + 1 {
            count.taken_seq = seq;
            Look::New
        } else if seq > count.taken_seq {
            Look::Refused(out_of_sequence(seq, count.taken_seq + 1))
        } else if seq > count.kept.last_seq() {
            Look::OnItsWay
        } else {
            Look::Kept {
                offset: count.kept.find(seq),
            }
        }
    }

    fn look_at_key(&mut self, key: &MessageKey, now_ms: u64) -> Look {
        self.forget_old_keys(now_ms);
        match self.keys.get(key) {
            Some(Key {
                offset: Some(offset),
                ..
            }) => Look::Kept {
                offset: Some(*offset),
            },
            Some(Key { offset: None, .. }) => Look::OnItsWay,
            None if !self.has_room() => Look::Refused(no_room()),
            None => {
                self.take_key(key, now_ms);
                Look::New
            }
        }
    }

    fn take_producer(&mut self, producer: &Producer, seq: u64, now_ms: u64) {
        self.add(producer_bytes(producer));
        let count = Count {
            taken_seq: seq,
            kept: Places::default(),
            used_ms: now_ms,
        };
        self.counts.insert(producer.clone(), count);
    }

    fn take_key(&mut self, key: &MessageKey, used_ms: u64) {
        self.add(key_bytes(key));
        let on_its_way = Key {
            offset: None,
            used_ms,
        };
        self.keys.insert(key.clone(), on_its_way);
        self.key_order.push_back((key.clone(), used_ms));
    }

    /// A message was kept.
    pub(super) fn kept(&mut self, known_by: &KnownBy, offset: u64, now_ms: u64) {
        match known_by {
            KnownBy::Nothing => {}
            KnownBy::Sequence(producer, seq) => {
                if let Some(count) = self.counts.get_mut(producer) {
                    let before = count.kept.earlier_runs();
                    count.kept.push(*seq, offset);
                    if count.kept.earlier_runs() > 2 * RUNS_EACH {
                        count.kept.forget_earlier(RUNS_EACH);
                    }
                    count.used_ms = now_ms;
                    let after = count.kept.earlier_runs();
                    self.runs_change(before, after);
                }
            }
            KnownBy::Key(key) => {
                if let Some(known) = self.keys.get_mut(key) {
                    known.offset = Some(offset);
                }
            }
        }
    }

    fn runs_change(&mut self, before: usize, after: usize) {
        self.runs = self.runs + after - before;
        if after > before {
            self.add((after - before) * RUN_BYTES);
        } else if after < before {
            self.give_back((before - after) * RUN_BYTES);
        }
        if self.runs > MAX_RUNS {
            self.forget_runs(|runs| runs / 2);
        }
    }

    fn forget_runs(&mut self, leave: impl Fn(usize) -> usize) {
        for count in self.counts.values_mut() {
            count.kept.forget_earlier(leave(count.kept.earlier_runs()));
        }
        self.count_again();
    }

    /// Counts a message as taken that is staged, where all that had been kept is forgotten.
    pub(super) fn take_again(&mut self, known_by: &KnownBy, now_ms: u64) {
        match known_by {
            KnownBy::Nothing => {}
            KnownBy::Sequence(producer, seq) => match self.counts.get_mut(producer) {
                Some(count) => count.taken_seq = *seq,
                None => {
                    self.take_producer(producer, *seq, now_ms);
                    // What it had sent before was kept, in what is deleted: not on its way.
                    if let Some(count) = self.counts.get_mut(producer)
                        && *seq > 1
                    {
                        count.kept = Places::at(seq - 1, 0);
                    }
                }
            },
            KnownBy::Key(key) => self.take_key(key, now_ms),
        }
    }

    /// Nothing that was on its way arrived.
    pub(super) fn forget_staged(&mut self) {
        for count in self.counts.values_mut() {
            count.taken_seq = count.kept.last_seq();
        }
        self.counts.retain(|_, count| count.taken_seq > 0);
        self.keys.retain(|_, key| key.offset.is_some());
        self.key_order
            .retain(|(key, _)| self.keys.contains_key(key));
        self.count_again();
    }

    /// Forgets who has been silent for a day; where that is not enough, the tenth that has been silent longest.
    fn make_room_for_producer(&mut self, now_ms: u64) {
        if self.counts.len() < MAX_PRODUCERS {
            return;
        }
        let mut used: Vec<u64> = self.counts.values().map(|count| count.used_ms).collect();
        used.sort_unstable();
        let oldest_tenth_ms = used.get(MAX_PRODUCERS / 10).copied().unwrap_or(0);
        let limit_ms = now_ms
            .saturating_sub(PRODUCER_MEMORY_MS)
            .max(oldest_tenth_ms);
        self.counts
            .retain(|_, count| count.used_ms > limit_ms || count.is_unanswered());
        self.count_again();
    }

    fn forget_old_keys(&mut self, now_ms: u64) {
        while let Some((key, used_ms)) = self.key_order.front() {
            let old = now_ms.saturating_sub(*used_ms) > KEY_MEMORY_MS
                || self.key_order.len() > MAX_RECENT_KEYS;
            let on_its_way = self
                .keys
                .get(key)
                .is_some_and(|known| known.offset.is_none());
            if !old || on_its_way {
                break;
            }
            let same_use = self
                .keys
                .get(key)
                .is_some_and(|known| known.used_ms == *used_ms);
            let bytes = key_bytes(key);
            if same_use {
                self.keys.remove(key);
            }
            self.key_order.pop_front();
            self.give_back(bytes);
        }
    }

    /// Comes down to what all topics together have room for, as far as may be: who has been silent for the longest is forgotten first, and
    /// nobody who is young. Where that is not enough, it is forgotten where earlier messages are.
    pub(super) fn forget(&mut self, level_bytes: usize, now_ms: u64) {
        self.forget_old_keys(now_ms);
        let held_bytes = || self.share.as_ref().map_or(0, Share::bytes);
        let mut too_many = held_bytes().saturating_sub(level_bytes);
        if too_many == 0 {
            return;
        }
        let is_silent = |count: &Count| {
            !count.is_unanswered() && count.used_ms.saturating_add(YOUNG_MS) <= now_ms
        };
        let mut silent: Vec<(u64, Producer)> = self
            .counts
            .iter()
            .filter(|(_, count)| is_silent(count))
            .map(|(producer, count)| (count.used_ms, producer.clone()))
            .collect();
        silent.sort_unstable();
        for (_, producer) in silent {
            if too_many == 0 {
                break;
            }
            if let Some(count) = self.counts.remove(&producer) {
                let runs_bytes = count.kept.earlier_runs() * RUN_BYTES;
                too_many = too_many.saturating_sub(producer_bytes(&producer) + runs_bytes);
            }
        }
        match too_many {
            0 => self.count_again(),
            _ => self.forget_runs(|_| 0),
        }
        give_back(&mut self.counts);
        give_back(&mut self.keys);
    }

    /// Whether there is room for somebody new among what all topics together remember.
    fn has_room(&self) -> bool {
        self.remembered.keep_within_limit();
        self.remembered.has_room()
    }

    fn add(&mut self, bytes: usize) {
        let enter = || {
            let tell = self.tell.clone();
            self.remembered.enter(move |forget| tell(forget))
        };
        self.share.get_or_insert_with(enter).add(bytes);
    }

    fn give_back(&self, bytes: usize) {
        if let Some(share) = &self.share {
            share.give_back(bytes);
        }
    }

    /// Counts the bytes again, where much has changed at once.
    fn count_again(&mut self) {
        self.runs = self.counts.values().map(|c| c.kept.earlier_runs()).sum();
        let producers: usize = self.counts.keys().map(producer_bytes).sum();
        let keys: usize = self.key_order.iter().map(|(key, _)| key_bytes(key)).sum();
        let bytes = producers + keys + self.runs * RUN_BYTES;
        let before = self.share.as_ref().map_or(0, Share::bytes);
        if bytes > before {
            self.add(bytes - before);
        } else if bytes < before {
            self.give_back(before - bytes);
        }
    }

    /// Whether a key is remembered that the next room of the topic would not be told of: the log looks for keys among its newest
    /// records alone.
    pub(super) fn know_more_than_the_log(&mut self, place: &Place, now_ms: u64) -> bool {
        self.forget_old_keys(now_ms);
        let newest = (place.head + 1).saturating_sub(MAX_RECENT_KEYS as u64);
        let looked_at_from = place.first.max(newest);
        let is_found = |key: &Key| key.offset.is_some_and(|offset| offset >= looked_at_from);
        !self.keys.values().all(is_found)
    }
}

impl Handler<Forget> for Room {
    type Result = ();

    fn handle(&mut self, order: Forget, _: &mut Self::Context) {
        let now_ms = self.settings.clock.passed_ms();
        self.producers.forget(order.level_bytes, now_ms);
    }
}

fn producer_bytes(producer: &Producer) -> usize {
    producer.bytes() + PRODUCER_BYTES
}

fn key_bytes(key: &MessageKey) -> usize {
    key.bytes() + KEY_BYTES
}

fn out_of_sequence(seq: u64, expected_seq: u64) -> Refusal {
    Refusal {
        code: ErrorCode::OutOfSequence,
        message: format!("seq {seq} is not the producer's next; {expected_seq} is"),
        expected_seq: Some(expected_seq),
        retry_after: None,
    }
}

fn no_room() -> Refusal {
    Refusal::new(
        ErrorCode::Busy,
        "too many producers and keys have published within the last ten minutes; send it again in a moment, or give Hark a larger \
         --max-producers-bytes",
    )
}

#[cfg(test)]
mod tests {
    use hark_protocol::{Identity, MessageId, ProducerId};

    use super::*;

    const ROOM_FOR_ALL: usize = 1 << 30;

    fn producers() -> Producers {
        producers_within(&Remembered::new(ROOM_FOR_ALL, Clock::manual(0)))
    }

    fn producers_within(remembered: &Remembered) -> Producers {
        Producers::new(remembered.clone(), Arc::new(drop))
    }

    fn sequence(seq: u64) -> KnownBy {
        sequence_of("p", seq)
    }

    fn sequence_of(producer: &str, seq: u64) -> KnownBy {
        KnownBy::Sequence(ProducerId::parse(producer).unwrap().into(), seq)
    }

    fn key(text: &str) -> KnownBy {
        KnownBy::Key(MessageId::parse(text).unwrap().into())
    }

    /// The same, published by that subject.
    fn by(subject: &str, known_by: KnownBy) -> KnownBy {
        let identity = Some(Identity::new("issuer", subject));
        match known_by {
            KnownBy::Nothing => KnownBy::Nothing,
            KnownBy::Sequence(producer, seq) => {
                let producer = Producer {
                    identity,
                    ..producer
                };
                KnownBy::Sequence(producer, seq)
            }
            KnownBy::Key(key) => KnownBy::Key(MessageKey { identity, ..key }),
        }
    }

    #[test]
    fn equal_names_of_two_identities_have_nothing_to_do_with_each_other() {
        let mut producers = producers();
        for (offset, whose) in (1..).zip([None, Some("ana"), Some("bob")]) {
            let whose = |known_by| match whose {
                Some(subject) => by(subject, known_by),
                None => known_by,
            };
            keep(&mut producers, &whose(sequence(1)), 2 * offset, 0);
            keep(&mut producers, &whose(key("k")), 2 * offset + 1, 0);
        }
        for (offset, whose) in (1..).zip(["ana", "bob"]) {
            let (sequence, key) = (by(whose, sequence(1)), by(whose, key("k")));
            assert_eq!(kept_at(&mut producers, &sequence), Some(2 * offset + 2));
            assert_eq!(kept_at(&mut producers, &key), Some(2 * offset + 3));
        }
        assert_eq!(kept_at(&mut producers, &sequence(1)), Some(2));
        check_bytes(&mut producers);
    }

    /// After a deletion what is staged is taken again; what was kept before it went with the topic, and nobody waits for it.
    #[test]
    fn what_was_kept_before_a_deletion_is_not_on_its_way() {
        let mut producers = producers();
        producers.take_again(&sequence(5), 0);
        producers.take_again(&sequence(6), 0);
        for seq in 1..5 {
            let place = kept_at(&mut producers, &sequence(seq));
            assert!(place.is_none_or(|offset| offset == 0), "{seq}: {place:?}");
        }
        for seq in [5, 6] {
            let look = producers.look_at(&sequence(seq), 0);
            assert!(matches!(look, Look::OnItsWay), "{seq}");
        }
        for (seq, offset) in [(5, 1), (6, 2)] {
            producers.kept(&sequence(seq), offset, 0);
            assert_eq!(kept_at(&mut producers, &sequence(seq)), Some(offset));
        }
        assert!(matches!(producers.look_at(&sequence(7), 0), Look::New));
    }

    /// Takes a message that is new, and keeps it.
    fn keep(producers: &mut Producers, known_by: &KnownBy, offset: u64, now_ms: u64) {
        assert!(matches!(producers.look_at(known_by, now_ms), Look::New));
        producers.kept(known_by, offset, now_ms);
    }

    fn kept_at(producers: &mut Producers, known_by: &KnownBy) -> Option<u64> {
        match producers.look_at(known_by, 0) {
            Look::Kept { offset } => offset,
            _ => panic!("{known_by:?} was not kept"),
        }
    }

    /// What is counted of all is what there is.
    fn check_bytes(producers: &mut Producers) {
        let counted = producers.remembered.used();
        producers.count_again();
        assert_eq!(counted, producers.remembered.used());
    }

    #[test]
    fn a_producer_counts_one_by_one() {
        let mut producers = producers();
        assert!(
            matches!(producers.look_at(&sequence(2), 0), Look::Refused(r) if r.expected_seq == Some(1))
        );
        assert!(matches!(producers.look_at(&sequence(1), 0), Look::New));
        assert!(matches!(producers.look_at(&sequence(1), 0), Look::OnItsWay));
        assert!(
            matches!(producers.look_at(&sequence(3), 0), Look::Refused(r) if r.expected_seq == Some(2))
        );
        producers.kept(&sequence(1), 7, 0);
        assert!(matches!(
            producers.look_at(&sequence(1), 0),
            Look::Kept { offset: Some(7) }
        ));
        assert!(matches!(producers.look_at(&sequence(2), 0), Look::New));
        producers.forget_staged();
        assert!(
            matches!(producers.look_at(&sequence(2), 0), Look::New),
            "what did not arrive may come again"
        );
    }

    #[test]
    fn a_key_is_remembered_for_its_window() {
        let mut producers = producers();
        assert!(matches!(producers.look_at(&key("a"), 0), Look::New));
        assert!(matches!(producers.look_at(&key("a"), 0), Look::OnItsWay));
        producers.kept(&key("a"), 3, 0);
        assert!(matches!(
            producers.look_at(&key("a"), KEY_MEMORY_MS),
            Look::Kept { offset: Some(3) }
        ));
        assert!(matches!(
            producers.look_at(&key("a"), KEY_MEMORY_MS + 1),
            Look::New
        ));
    }

    #[test]
    fn a_room_stays_for_keys_that_the_log_would_not_find() {
        let place = |first, head| Place {
            epoch: hark_protocol::Epoch::new(1),
            lineage: Vec::new(),
            deleted: Vec::new(),
            first,
            head,
        };
        let newest = MAX_RECENT_KEYS as u64;
        let mut producers = producers();
        assert!(!producers.know_more_than_the_log(&place(1, 5), 0));
        producers.look_at(&key("a"), 0);
        assert!(
            producers.know_more_than_the_log(&place(1, 5), 0),
            "it is on its way"
        );
        producers.kept(&key("a"), 6, 0);
        assert!(!producers.know_more_than_the_log(&place(1, 6), 0));
        assert!(!producers.know_more_than_the_log(&place(6, newest + 5), 0));
        assert!(
            producers.know_more_than_the_log(&place(1, newest + 6), 0),
            "too many records have come since"
        );
        assert!(
            producers.know_more_than_the_log(&place(7, 6), 0),
            "its record was taken out"
        );
        assert!(!producers.know_more_than_the_log(&place(7, 6), KEY_MEMORY_MS + 1));
    }

    #[test]
    fn memory_of_producers_and_keys_is_bounded() {
        let mut producers = producers();
        for n in 0..(MAX_PRODUCERS as u64 * 2) {
            keep(&mut producers, &sequence_of(&format!("p{n}"), 1), n, n);
            keep(&mut producers, &key(&format!("k{n}")), n, n);
        }
        assert!(producers.counts.len() <= MAX_PRODUCERS);
        assert!(producers.keys.len() <= MAX_RECENT_KEYS + 1);
        assert_eq!(producers.keys.len(), producers.key_order.len());
        check_bytes(&mut producers);
        let remembered = producers.remembered.clone();
        drop(producers);
        assert_eq!(remembered.used(), 0);
    }

    /// Two that publish by turns: each message is a run of its own.
    #[test]
    fn places_are_exact_for_what_came_lately_and_bounded() {
        let mut producers = producers();
        let (each, two) = (4 * RUNS_EACH as u64, ["p", "q"]);
        for seq in 1..=each {
            for (n, producer) in (0..).zip(two) {
                let offset = 2 * seq + n;
                keep(&mut producers, &sequence_of(producer, seq), offset, 0);
            }
            assert!(producers.runs <= 4 * RUNS_EACH + 2);
        }
        check_bytes(&mut producers);
        for (n, producer) in (0..).zip(two) {
            let place =
                |producers: &mut Producers, seq| kept_at(producers, &sequence_of(producer, seq));
            for seq in each - RUNS_EACH as u64..=each {
                assert_eq!(place(&mut producers, seq), Some(2 * seq + n));
            }
            assert_eq!(place(&mut producers, 1), None, "it was kept, somewhere");
        }
    }

    #[test]
    fn all_producers_of_a_topic_have_a_bounded_number_of_runs() {
        let mut producers = producers();
        let names: Vec<String> = (0..100).map(|n| format!("p{n}")).collect();
        let mut offset = 0;
        for seq in 1..=1000 {
            for name in &names {
                offset += 1;
                keep(&mut producers, &sequence_of(name, seq), offset, 0);
            }
            assert!(producers.runs <= MAX_RUNS);
        }
        check_bytes(&mut producers);
        let newest = kept_at(&mut producers, &sequence_of("p0", 990));
        assert_eq!(newest, Some(989 * 100 + 1));
    }

    #[test]
    fn who_is_silent_the_longest_goes_first_and_nobody_who_is_young() {
        let mut producers = producers();
        let now_ms = 10 * YOUNG_MS;
        let old = |n: u64| sequence_of(&format!("old{n}"), 1);
        for n in 0..10 {
            keep(&mut producers, &old(n), n + 1, n);
        }
        // Old as well, but not answered.
        producers.look_at(&sequence_of("waits", 1), 0);
        keep(
            &mut producers,
            &sequence_of("young", 1),
            20,
            now_ms - YOUNG_MS + 1,
        );
        keep(&mut producers, &key("k"), 21, now_ms);
        let all = producers.remembered.used();

        producers.forget(all, now_ms);
        assert_eq!(producers.counts.len(), 12);
        producers.forget(
            all - producer_bytes(&ProducerId::parse("old0").unwrap().into()) - 1,
            now_ms,
        );
        assert_eq!(producers.counts.len(), 10);
        check_bytes(&mut producers);
        for n in 0..10 {
            let is_known = producers
                .counts
                .keys()
                .any(|p| p.name.as_str() == format!("old{n}"));
            assert_eq!(is_known, n >= 2, "{n}");
        }
        producers.forget(0, now_ms);
        let mut left: Vec<&str> = producers.counts.keys().map(|p| p.name.as_str()).collect();
        left.sort_unstable();
        assert_eq!(left, ["waits", "young"]);
        assert_eq!(producers.keys.len(), 1);
        check_bytes(&mut producers);
    }

    #[test]
    fn only_where_all_are_young_is_somebody_new_refused() {
        let remembered = Remembered::new(100 * (PRODUCER_BYTES + 4), Clock::manual(0));
        let mut producers = producers_within(&remembered);
        let busy = |look: Look| matches!(look, Look::Refused(r) if r.code == ErrorCode::Busy);
        let mut n = 0;
        let refused = loop {
            let next = sequence_of(&format!("{n:04}"), 1);
            match producers.look_at(&next, 0) {
                Look::New => producers.kept(&next, n, 0),
                look => break look,
            }
            n += 1;
        };
        assert!(busy(refused));
        assert_eq!(n, 100);
        assert!(busy(producers.look_at(&key("k"), 0)), "a key is no less");
        // Those who are known go on.
        keep(&mut producers, &sequence_of("0000", 2), n, 0);
        assert_eq!(kept_at(&mut producers, &sequence_of("0000", 1)), Some(0));

        producers.forget(0, YOUNG_MS);
        keep(&mut producers, &sequence_of("new", 1), n, YOUNG_MS);
    }
}
