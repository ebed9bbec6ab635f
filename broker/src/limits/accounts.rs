//! Accounts: what one identity, one address, or everybody has had and has. Owns the tables of them, their bound, and who is forgotten.
//!
//! Forgotten is only what is as good as new: nobody has anything of it, and all that was taken has come back. Where there is none such,
//! newcomers share one account. So nobody who is at his limit is let go of it by a crowd.

use std::collections::HashMap;
use std::hash::{BuildHasher as _, Hash, RandomState};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::rate::{Bucket, nanos};
use super::{Counted, Rated};
use crate::message_log::give_back;

/// Accounts that a table has at most. More than there may be connections, mostly; each is about 200 bytes.
const MAX_ACCOUNTS: usize = 256 * 1024;
/// A table is locked in so many parts.
const SHARDS: usize = 16;
/// A part that is full is looked through for what can be forgotten at most this often.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// What somebody has had, and has.
#[derive(Debug, Default)]
pub(super) struct Account {
    rates: [Bucket; Rated::COUNT],
    held: [AtomicUsize; Counted::COUNT],
}

impl Account {
    pub(super) fn bucket(&self, of: Rated) -> &Bucket {
        &self.rates[of as usize]
    }

    /// Takes `count` of what is had at a time, if there are no more than `limit` then.
    pub(super) fn try_hold(&self, what: Counted, count: usize, limit: usize) -> bool {
        let held = &self.held[what as usize];
        let is_within = held.fetch_add(count, Ordering::Relaxed) + count <= limit;
        if !is_within {
            held.fetch_sub(count, Ordering::Relaxed);
        }
        is_within
    }

    pub(super) fn let_go(&self, what: Counted, count: usize) {
        self.held[what as usize].fetch_sub(count, Ordering::Relaxed);
    }

    fn is_as_new(&self, now: u64) -> bool {
        self.rates.iter().all(|bucket| bucket.is_full(now))
            && (self.held.iter()).all(|held| held.load(Ordering::Relaxed) == 0)
    }
}

/// Accounts by whose they are.
#[derive(Debug)]
pub(super) struct Table<K> {
    name: &'static str,
    max_in_shard: usize,
    shards: [Mutex<Shard<K>>; SHARDS],
    hasher: RandomState,
    /// Of all for whom there is no room.
    common: Arc<Account>,
}

#[derive(Debug)]
struct Shard<K> {
    accounts: HashMap<K, Arc<Account>>,
    /// When it may be looked through again.
    look_at: u64,
}

impl<K> Default for Shard<K> {
    fn default() -> Self {
        Self {
            accounts: HashMap::new(),
            look_at: 0,
        }
    }
}

impl<K: Eq + Hash + Clone> Table<K> {
    /// `name` is what it is called in logs.
    pub(super) fn new(name: &'static str) -> Self {
        Self::of(name, MAX_ACCOUNTS)
    }

    fn of(name: &'static str, max_accounts: usize) -> Self {
        Self {
            name,
            max_in_shard: max_accounts.div_ceil(SHARDS),
            shards: std::array::from_fn(|_| Mutex::default()),
            hasher: RandomState::new(),
            common: Arc::default(),
        }
    }

    /// The account of `key`.
    pub(super) fn account(&self, key: &K, now: u64) -> Arc<Account> {
        let shard = self.hasher.hash_one(key) as usize % SHARDS;
        let mut shard = lock(&self.shards[shard]);
        if let Some(account) = shard.accounts.get(key) {
            return account.clone();
        }
        if shard.accounts.len() >= self.max_in_shard && now >= shard.look_at {
            shard.look_at = now + nanos(LOOK_EVERY);
            shard.forget_what_is_as_new(now);
            if shard.accounts.len() >= self.max_in_shard {
                tracing::warn!(
                    table = self.name,
                    limit = self.max_in_shard * SHARDS,
                    "limits are kept for as many as there may be; newcomers share one until others have come to rest"
                );
            }
        }
        if shard.accounts.len() >= self.max_in_shard {
            return self.common.clone();
        }
        let account = Arc::<Account>::default();
        shard.accounts.insert(key.clone(), account.clone());
        account
    }

    /// Forgets what is as good as new in one part, another each time. To be called every second or so.
    pub(super) fn look_through(&self, turn: usize, now: u64) {
        lock(&self.shards[turn % SHARDS]).forget_what_is_as_new(now);
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        let shards = self.shards.iter();
        shards.map(|shard| lock(shard).accounts.len()).sum()
    }
}

impl<K: Eq + Hash> Shard<K> {
    fn forget_what_is_as_new(&mut self, now: u64) {
        // Who has the account in hand may be about to take of it.
        let is_needed =
            |account: &Arc<Account>| Arc::strong_count(account) > 1 || !account.is_as_new(now);
        self.accounts.retain(|_, account| is_needed(account));
        give_back(&mut self.accounts);
    }
}

/// A part is whole after each step: poison does not matter.
fn lock<K>(shard: &Mutex<Shard<K>>) -> MutexGuard<'_, Shard<K>> {
    shard.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::super::rate::Rate;
    use super::*;

    const MINUTE: u64 = 60_000_000_000;

    fn table() -> Table<u32> {
        Table::of("test", 16 * SHARDS)
    }

    fn rate() -> Rate {
        "1/m".parse().unwrap()
    }

    fn take(table: &Table<u32>, key: u32, now: u64) -> bool {
        let account = table.account(&key, now);
        let bucket = account.bucket(Rated::FailedAuths);
        bucket.try_take(1, rate(), now).is_ok()
    }

    /// However many others come, whoever is at his limit stays there.
    #[test]
    fn a_full_table_lets_nobody_go_who_is_at_his_limit() {
        let table = table();
        assert!(take(&table, 0, 0));
        // Each of them has taken something too.
        let newcomers = (1..100_000).filter(|&key| take(&table, key, 0)).count();
        assert!(table.len() <= 16 * SHARDS);
        // Those for whom there was room, and the one who was first of all the others.
        assert!(
            (15 * SHARDS..=16 * SHARDS).contains(&newcomers),
            "{newcomers}"
        );
        assert!(!take(&table, 0, 0), "the first was forgotten");
        assert!(!take(&table, 99_999, 0), "newcomers share one account");
    }

    #[test]
    fn what_has_come_to_rest_is_forgotten_first() {
        let table = table();
        let holds = table.account(&0, 0);
        assert!(holds.try_hold(Counted::Connections, 1, 1));
        drop(holds);
        for key in 1..100_000 {
            take(&table, key, 0);
        }
        // A minute later all but the one who holds something are as new, and there is room.
        let later = MINUTE + 1;
        let newcomers = (200_000..200_100).filter(|&key| take(&table, key, later));
        assert_eq!(newcomers.count(), 100);
        let holds = table.account(&0, later);
        assert!(
            !holds.try_hold(Counted::Connections, 1, 1),
            "it was forgotten"
        );
    }

    #[test]
    fn who_has_an_account_in_hand_keeps_it() {
        let table = table();
        let in_hand = table.account(&7, 0);
        for turn in 0..SHARDS {
            table.look_through(turn, 0);
        }
        assert!(Arc::ptr_eq(&in_hand, &table.account(&7, 0)));
        drop(in_hand);
        for turn in 0..SHARDS {
            table.look_through(turn, 0);
        }
        assert_eq!(table.len(), 0);
    }

    #[test]
    fn only_so_many_are_held_at_a_time() {
        let account = Account::default();
        assert!(account.try_hold(Counted::Subscriptions, 3, 5));
        assert!(!account.try_hold(Counted::Subscriptions, 3, 5));
        assert!(account.try_hold(Counted::Subscriptions, 2, 5));
        account.let_go(Counted::Subscriptions, 5);
        assert!(account.is_as_new(0));
    }
}
