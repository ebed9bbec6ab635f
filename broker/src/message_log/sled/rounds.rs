//! Rounds: a walk over all topics, open or not, again and again. Owns how often and how fast; finds topics that retention has
//! to look at though nobody has them open, how much all topics keep together and which are the largest, and what may be
//! forgotten. What is taken, `retention` takes, from topics that the log opens itself for that: it *tends* them.
//!
//! ```text
//! step ─► reader: the next few hundred topics ─► tend those over a bound ─► pause ─► step … ─► end ─► rest ─► step …
//! ```
//! While all topics together keep too much, rounds are quick (only sizes are looked at), and each ends with a level: no topic
//! keeps more than that, so the largest give first.

use std::collections::{BinaryHeap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use hark_protocol::TopicName;

use super::meta::{Identity, MetaError, Numbers};
use super::reader::Job;
use super::retention::{Bounds, oldest_extent};
use super::scan::is_damage;
use super::store::Store;
use super::writer::{Slot, Writer};
use crate::message_log::{LogError, Retention, RetentionFor};

/// How many topics a step looks at, and a step of a quick round.
const STEP: usize = 256;
const QUICK_STEP: usize = 4096;
/// How long readers are left alone between two steps.
const PAUSE: Duration = Duration::from_millis(20);
/// How many topics are tended at a time: each of them has a reader look at it.
const MAX_TENDING: usize = 16;
/// How many of the largest topics are known by name.
const LARGEST: usize = 256;
/// How much below the bound all topics together are brought, as a fraction: so that not every commit brings them over it again.
const SLACK: u64 = 64;
/// A quick round that was not enough is followed by another after this, or after ten times what it took.
const QUICK_REST: Duration = Duration::from_secs(1);
/// A topic that has had no record for so long is forgotten, and so is that it was deleted.
pub(super) const FORGET_AFTER_MS: u64 = 30 * 24 * 60 * 60 * 1000;
/// An epoch for names that were never used is drawn at most once in this time, for those that are forgotten: with it, cursors of topics
/// that were never used lose their meaning.
const DRAW_EVERY_MS: u64 = 24 * 60 * 60 * 1000;
/// How many topics, and how many deletions, a round forgets. If there are more, the next one follows at once.
const MAX_FORGOTTEN: usize = 10_000;
/// Of how many names is remembered that they were deleted.
const MAX_DELETIONS: usize = 100_000;

/// What the writer knows of rounds.
#[derive(Debug)]
pub(super) struct Rounds {
    /// When the next step may begin.
    due: Instant,
    began: Instant,
    /// The round has come so far.
    at: Option<TopicName>,
    /// A reader is looking.
    looking: bool,
    quick: bool,
    /// What the topics up to `at` keep.
    sum: u64,
    /// The largest topics up to `at`, largest first; of a round that has ended, all.
    largest: Vec<(u64, TopicName)>,
    forgettable: Vec<TopicName>,
    /// Topics to be tended.
    waiting: VecDeque<TopicName>,
    /// How many topics the log has open for itself.
    pub(super) tending: usize,
    /// What all topics keep together; known when a round has ended.
    total: Option<u64>,
    /// The level, while all topics together keep too much.
    level: Option<u64>,
    drew_ms: u64,
    /// The log is closed for writing: there are no more rounds.
    stopped: bool,
}

impl Default for Rounds {
    fn default() -> Self {
        let now = Instant::now();
        Self {
            due: now,
            began: now,
            at: None,
            looking: false,
            quick: true,
            sum: 0,
            largest: Vec::new(),
            forgettable: Vec::new(),
            waiting: VecDeque::new(),
            tending: 0,
            total: None,
            level: None,
            drew_ms: 0,
            stopped: false,
        }
    }
}

impl Rounds {
    /// The most bytes a topic keeps at present, whatever its own retention says.
    pub(super) fn level(&self) -> u64 {
        self.level.unwrap_or(u64::MAX)
    }

    /// How long the writer may wait for something to do.
    pub(super) fn patience(&self) -> Duration {
        match self.looking || self.tending > 0 || self.stopped {
            true => Duration::MAX,
            false => self.due.saturating_duration_since(Instant::now()),
        }
    }

    /// A topic keeps other bytes than before.
    pub(super) fn count(&mut self, topic: &TopicName, before: u64, after: u64) {
        let change = |sum: u64| sum.saturating_sub(before).saturating_add(after);
        self.total = self.total.map(change);
        if self.at.as_ref().is_some_and(|at| topic <= at) {
            self.sum = change(self.sum);
        }
    }

    fn begin(&mut self, quick: bool) {
        self.began = Instant::now();
        self.quick = quick;
        self.at = None;
        self.sum = 0;
        self.largest.clear();
        self.forgettable.clear();
    }

    fn is_at_work(&self) -> bool {
        self.looking || self.tending > 0 || !self.waiting.is_empty()
    }
}

/// What a reader is to look at.
pub(super) struct Survey {
    after: Option<TopicName>,
    quick: bool,
    bounds: Bounds,
    retention: RetentionFor,
}

/// What a reader found.
#[derive(Debug, Default)]
pub(super) struct Surveyed {
    /// The last topic looked at; `None` if there are no more.
    last: Option<TopicName>,
    bytes: u64,
    /// Topics over a bound of their own.
    over_bound: Vec<TopicName>,
    largest: Vec<(u64, TopicName)>,
    /// Topics without a record for long.
    forgettable: Vec<TopicName>,
    /// Names of which it may be forgotten that they were deleted.
    old_deletions: Vec<TopicName>,
}

impl Writer {
    /// What all topics together are brought down to once they keep too much.
    fn target_bytes(&self) -> u64 {
        self.max_total_bytes - self.max_total_bytes / SLACK
    }

    /// Does what is due.
    pub(super) fn keep_rounds(&mut self) {
        if self.store.is_closed() {
            self.state.rounds.stopped = true;
            return;
        }
        self.tend();
        let target = self.target_bytes();
        let rounds = &mut self.state.rounds;
        if let Some(total) = rounds.total {
            if total <= target {
                rounds.level = None;
            } else if total > self.max_total_bytes && rounds.level.is_none() && !rounds.quick {
                if !rounds.looking {
                    rounds.begin(true);
                    rounds.due = Instant::now();
                }
            } else if rounds.level.is_some() {
                // Not enough yet: but what the last round found is to be taken first.
                rounds.quick |= rounds.at.is_none();
                if !self.state.over_bound.is_empty() {
                    return;
                }
            }
        }
        if self.state.rounds.is_at_work() || Instant::now() < self.state.rounds.due {
            return;
        }
        let bounds = self.bounds();
        let rounds = &mut self.state.rounds;
        if rounds.at.is_none() {
            rounds.begin(rounds.quick);
        }
        let survey = Survey {
            after: rounds.at.clone(),
            quick: rounds.quick,
            bounds,
            retention: Arc::clone(&self.retention),
        };
        match self.jobs.push(Job::Survey(Box::new(survey)), 0) {
            Ok(()) => rounds.looking = true,
            // The readers have too much to do already.
            Err(_) => rounds.due = Instant::now() + QUICK_REST,
        }
    }

    /// A reader has looked.
    pub(super) fn surveyed(&mut self, found: Result<Box<Surveyed>, LogError>) {
        let rounds = &mut self.state.rounds;
        rounds.looking = false;
        let found = match found {
            Ok(found) => *found,
            Err(error) => {
                tracing::warn!(%error, "not all topics could be looked at; they will be later");
                rounds.at = None;
                rounds.due = Instant::now() + self.rounds_every.max(QUICK_REST);
                return;
            }
        };
        rounds.sum += found.bytes;
        rounds.waiting.extend(found.over_bound);
        rounds.largest.extend(found.largest);
        keep_largest(&mut rounds.largest);
        rounds.forgettable.extend(found.forgettable);
        rounds.forgettable.truncate(MAX_FORGOTTEN);
        match found.last {
            Some(last) => {
                rounds.at = Some(last);
                rounds.due = Instant::now() + if rounds.quick { Duration::ZERO } else { PAUSE };
            }
            None => self.end_round(found.old_deletions),
        }
        self.tend();
    }

    fn end_round(&mut self, old_deletions: Vec<TopicName>) {
        let took = self.state.rounds.began.elapsed();
        let was_quick = self.state.rounds.quick;
        let target = self.target_bytes();
        let rounds = &mut self.state.rounds;
        rounds.at = None;
        rounds.quick = false;
        rounds.total = Some(rounds.sum);
        // A quick round has looked at sizes alone: one that looks at all follows, as after a start with smaller bounds.
        let rest = if was_quick {
            QUICK_REST
        } else {
            self.rounds_every
        };
        rounds.due = Instant::now() + rest.max(took);
        let limit = if rounds.level.is_some() {
            target
        } else {
            self.max_total_bytes
        };
        if rounds.sum > limit {
            let level = level(&rounds.largest, rounds.sum - target);
            let above = rounds
                .largest
                .iter()
                .take_while(|(bytes, _)| *bytes > level);
            let above: Vec<TopicName> = above.map(|(_, topic)| topic.clone()).collect();
            tracing::info!(
                bytes = rounds.sum,
                bound = self.max_total_bytes,
                level,
                topics = above.len(),
                "all topics together keep too much: the largest give"
            );
            rounds.level = Some(level);
            rounds.due = Instant::now() + QUICK_REST.max(took * 10);
            rounds.waiting.extend(above);
        }
        if !was_quick || self.state.rounds.level.is_none() {
            let topics = std::mem::take(&mut self.state.rounds.forgettable);
            let there_are_more = topics.len().max(old_deletions.len()) >= MAX_FORGOTTEN;
            match self.forget_topics(topics, old_deletions) {
                Ok(forgotten) if there_are_more && forgotten > 0 => {
                    self.state.rounds.due = Instant::now() + QUICK_REST.max(took);
                }
                forgotten => self.check(forgotten.map(drop)),
            }
        }
    }

    /// Looks at the topics that wait for it; those that nobody has open are opened.
    fn tend(&mut self) {
        while self.state.rounds.tending < MAX_TENDING && !self.store.is_closed() {
            let Some(name) = self.state.rounds.waiting.pop_front() else {
                return;
            };
            match self.state.topics.get(&name) {
                Some(Slot::Open(_)) => self.look_at_retention(&name),
                // `look_at_retention` will see it: whatever is opened is looked at after its next commit.
                Some(Slot::Opening(_)) => {}
                None => self.open_for(name, Arc::new(|_| ()), Box::new(|_| ()), true),
            }
        }
    }

    /// Closes a topic that the log has open for itself, once there is nothing more to take.
    pub(super) fn end_tending(&mut self, name: &TopicName) {
        let has_ended =
            |slot: &Slot| matches!(slot, Slot::Open(topic) if topic.tended && !topic.over_bound);
        if self.state.topics.get(name).is_some_and(has_ended) {
            self.leave(name);
        }
    }

    /// Forgets topics without records, and that others were deleted. Their names begin anew, so it must be with an epoch that
    /// they have not had: names that were never used share one, and it is drawn again if that is long ago. Otherwise those that
    /// have had it wait. Says how many were forgotten.
    fn forget_topics(
        &mut self,
        topics: Vec<TopicName>,
        deletions: Vec<TopicName>,
    ) -> Result<u64, MetaError> {
        let now_ms = self.store.clock.settled_ms();
        if topics.is_empty() && deletions.is_empty() {
            return Ok(0);
        }
        let mut directory = (*self.store.directory()).clone();
        if now_ms.saturating_sub(self.state.rounds.drew_ms) >= DRAW_EVERY_MS {
            self.state.rounds.drew_ms = now_ms;
            directory.forget();
            self.store.meta.set_directory(&directory)?;
            self.store.set_directory(directory.clone());
            self.state.commit.wrote = true;
        }
        let mut forgotten = 0;
        for name in topics {
            if self.state.topics.contains_key(&name) {
                continue;
            }
            // Since the reader looked at it, somebody may have come and gone.
            let Some(identity) = self.store.meta.identity(&name)? else {
                continue;
            };
            let numbers = self.store.meta.numbers(identity.id())?;
            let deletions = self.store.meta.deletions(&name)?;
            let epoch = directory.epoch();
            let had_it = identity.has_had(epoch)
                || deletions
                    .as_ref()
                    .is_some_and(|found| found.have_had(epoch));
            if had_it || !is_forgettable(&numbers, &(self.retention)(&name), now_ms) {
                continue;
            }
            // Before the name goes: what a deletion holds ready for it is the epoch that it has now.
            if deletions.is_some() {
                self.store.meta.remove_deletions(&name)?;
            }
            self.throw_away(&name, identity.id())?;
            forgotten += 1;
        }
        for name in deletions {
            let Some(deletions) = self.store.meta.deletions(&name)? else {
                continue;
            };
            if !self.state.topics.contains_key(&name) && !deletions.have_had(directory.epoch()) {
                self.store.meta.remove_deletions(&name)?;
                forgotten += 1;
            }
        }
        if forgotten > 0 {
            self.state.commit.wrote = true;
            tracing::info!(
                forgotten,
                "topics that have had no record for long, or were deleted long ago, are forgotten"
            );
        }
        Ok(forgotten)
    }
}

/// Whether a topic has been without a record for long: of one whose records went by age, since they went. One that has no time yet was
/// about to have its first record when a crash came, and may be used at any moment.
fn is_forgettable(numbers: &Numbers, retention: &Retention, now_ms: u64) -> bool {
    let kept_ms = retention.max_age_ms.saturating_add(FORGET_AFTER_MS);
    let times = 1..now_ms.saturating_sub(kept_ms);
    numbers.first > numbers.head && times.contains(&numbers.last_time_ms)
}

fn keep_largest(largest: &mut Vec<(u64, TopicName)>) {
    largest.sort_unstable_by(|a, b| b.cmp(a));
    largest.truncate(LARGEST);
}

/// What the largest topics may keep each, so that together they give `excess` bytes. `largest` is sorted, the largest first.
fn level(largest: &[(u64, TopicName)], excess: u64) -> u64 {
    let mut sum = 0;
    for (n, (bytes, _)) in (1..).zip(largest) {
        sum += bytes;
        let next = largest.get(usize::try_from(n).unwrap_or(usize::MAX));
        let level = sum.saturating_sub(excess) / n;
        if next.is_none_or(|(next, _)| level >= *next) {
            // Where not even all of those that are known by name suffice, the next round knows others.
            return level.max(if next.is_none() {
                largest_unknown(largest)
            } else {
                0
            });
        }
    }
    u64::MAX
}

/// What topics may have that are not known by name, since there are only so many who are; where all are alike, a little less, so that
/// those who are known give.
fn largest_unknown(largest: &[(u64, TopicName)]) -> u64 {
    match (largest.first(), largest.last()) {
        (Some((most, _)), Some((least, _))) if largest.len() >= LARGEST => {
            (*least).min(most.saturating_sub(1))
        }
        _ => 0,
    }
}

/// Looks at the next topics. Runs on the reader pool.
pub(super) fn survey(store: &Store, order: &Survey) -> Result<Surveyed, LogError> {
    let mut found = Surveyed::default();
    let step = if order.quick { QUICK_STEP } else { STEP };
    let mut looked = 0;
    for entry in store.meta.identities("", order.after.as_ref()).take(step) {
        looked += 1;
        let (name, identity) = match entry {
            Ok(entry) => entry,
            Err(e @ MetaError::Sled(_)) => return Err(e.into()),
            Err(error) => {
                tracing::warn!(%error, "a topic could not be looked at");
                continue;
            }
        };
        found.last = Some(name.clone());
        match look_at(store, order, &name, &identity, &mut found) {
            Ok(()) => {}
            Err(MetaError::Sled(e)) if !is_damage(&e) => return Err(MetaError::Sled(e).into()),
            Err(error) => tracing::warn!(topic = %name, %error, "a topic could not be looked at"),
        }
    }
    keep_largest(&mut found.largest);
    if looked < step {
        found.last = None;
        let before_ms = order.bounds.now_ms.saturating_sub(FORGET_AFTER_MS);
        found.old_deletions = old_deletions(store, before_ms)?;
    }
    Ok(found)
}

fn look_at(
    store: &Store,
    order: &Survey,
    name: &TopicName,
    identity: &Identity,
    found: &mut Surveyed,
) -> Result<(), MetaError> {
    let numbers = store.meta.numbers(identity.id())?;
    found.bytes += numbers.bytes;
    let retention = (order.retention)(name);
    if numbers.first > numbers.head {
        if is_forgettable(&numbers, &retention, order.bounds.now_ms) {
            found.forgettable.push(name.clone());
        }
        return Ok(());
    }
    found.largest.push((numbers.bytes, name.clone()));
    if found.largest.len() > 4 * LARGEST {
        keep_largest(&mut found.largest);
    }
    if order.quick {
        return Ok(());
    }
    let is_over = order.bounds.is_too_old(&retention, numbers.last_time_ms)
        || oldest_extent(store, identity.id(), numbers.head)?
            .is_none_or(|oldest| order.bounds.are_exceeded(&retention, oldest, &numbers));
    if is_over {
        found.over_bound.push(name.clone());
    }
    Ok(())
}

/// The oldest deletions, if they were long ago or there are too many.
fn old_deletions(store: &Store, before_ms: u64) -> Result<Vec<TopicName>, LogError> {
    let mut count = 0_usize;
    let mut oldest: BinaryHeap<(u64, TopicName)> = BinaryHeap::new();
    for found in store.meta.all_deletions() {
        match found {
            Ok((name, deletions)) => {
                count += 1;
                oldest.push((deletions.time_ms, name));
                if oldest.len() > MAX_FORGOTTEN {
                    oldest.pop();
                }
            }
            Err(e @ MetaError::Sled(_)) => return Err(e.into()),
            Err(error) => tracing::warn!(%error, "a deletion could not be looked at"),
        }
    }
    let too_many = count.saturating_sub(MAX_DELETIONS);
    let oldest = oldest.into_sorted_vec().into_iter().enumerate();
    let old = oldest.filter(|(n, (time_ms, _))| *n < too_many || *time_ms < before_ms);
    Ok(old.map(|(_, (_, name))| name).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sizes(sizes: &[u64]) -> Vec<(u64, TopicName)> {
        let topic = TopicName::parse("a").unwrap();
        sizes.iter().map(|bytes| (*bytes, topic.clone())).collect()
    }

    #[test]
    fn the_largest_give_first_and_alike() {
        assert_eq!(level(&sizes(&[100, 10, 10]), 20), 80);
        assert_eq!(level(&sizes(&[100, 90, 10]), 20), 85);
        assert_eq!(level(&sizes(&[100, 100, 100]), 90), 70);
        assert_eq!(level(&sizes(&[100]), 100), 0);
        assert_eq!(level(&sizes(&[100, 50]), 200), 0);
        assert_eq!(level(&[], 1), u64::MAX);
    }

    #[test]
    fn topics_that_are_not_known_by_name_are_no_larger_than_the_level() {
        let mut known = sizes(&[50; LARGEST]);
        known[0].0 = 60;
        assert_eq!(level(&known, 1_000_000), 50);
        known[0].0 = 50;
        assert_eq!(level(&known, 1_000_000), 49, "somebody has to give");
    }
}
