//! What one client may: it has its accounts in hand, so that a command costs no look at a table. Owns which scopes count where.
//!
//! | | identity | address | all |
//! |---|---|---|---|
//! | a connection that is accepted | | of a client's own | handshakes; how many, `--max-connections` |
//! | a WebSocket, an event stream, a long-poll | yes | behind a trusted proxy | |
//! | everything else | yes | yes | yes |
//!
//! Who is not known has no identity that anything could be counted by.

use std::sync::{Arc, OnceLock};

use super::accounts::Account;
use super::rate::Rate;
use super::{Counted, Limits, Network, Rated, Scope, TooMuch, UNTIL_ONE_ENDS, What};
use crate::identity::Who;

/// Where a connection is counted by address and in all: when it is accepted.
const ACCEPTED: [Scope; 2] = [Scope::Address, Scope::All];

/// What one client may, by its identity, its address and in all. Clones are the same.
#[derive(Debug, Clone)]
pub struct Meter(Arc<Client>);

#[derive(Debug)]
struct Client {
    limits: Arc<Limits>,
    who: Option<Who>,
    address: Option<Network>,
    is_behind_proxy: bool,
    /// Looked up when they are first needed.
    of_identity: OnceLock<Arc<Account>>,
    of_address: OnceLock<Arc<Account>>,
}

/// What is held as long as this is there.
#[derive(Debug)]
#[must_use = "what is dropped is not counted any more"]
pub struct Held {
    accounts: Vec<Arc<Account>>,
    what: Counted,
    count: usize,
}

impl Drop for Held {
    fn drop(&mut self) {
        for account in &self.accounts {
            account.let_go(self.what, self.count);
        }
    }
}

impl Meter {
    pub(super) fn new(
        limits: Arc<Limits>,
        address: Option<Network>,
        is_behind_proxy: bool,
    ) -> Self {
        Self(Arc::new(Client {
            limits,
            who: None,
            address,
            is_behind_proxy,
            of_identity: OnceLock::new(),
            of_address: OnceLock::new(),
        }))
    }

    /// A client that nothing is counted of, where there is no broker around.
    #[cfg(test)]
    pub(crate) fn unlimited() -> Self {
        Limits::new(super::Settings::default()).of_client(None, false)
    }

    /// The same client, now that it is known who it is.
    pub(crate) fn of(&self, who: &Who) -> Self {
        let who = (!who.is_anonymous()).then(|| who.clone());
        if who == self.0.who {
            return self.clone();
        }
        let Client {
            limits,
            address,
            is_behind_proxy,
            ..
        } = &*self.0;
        Self(Arc::new(Client {
            limits: limits.clone(),
            who,
            address: *address,
            is_behind_proxy: *is_behind_proxy,
            of_identity: OnceLock::new(),
            of_address: self.0.of_address.clone(),
        }))
    }

    /// Takes all that is asked for, in every scope; or nothing, and says when to ask again.
    pub fn take(&self, wanted: &[(Rated, u64)]) -> Result<(), TooMuch> {
        self.take_in(&Scope::EACH, wanted)
    }

    /// Holds so many as long as what is given is there.
    pub fn hold(&self, what: Counted, count: usize) -> Result<Held, TooMuch> {
        self.hold_in(&Scope::EACH, what, count)
    }

    /// A WebSocket or an event stream begins.
    pub fn connect(&self) -> Result<Held, TooMuch> {
        self.enter(self.of_what_stays())
    }

    /// What was begun by nobody known has become somebody's.
    pub fn connect_as_known(&self) -> Result<Held, TooMuch> {
        self.enter(&[Scope::Identity])
    }

    /// As many as somebody not known has had have become somebody's.
    pub fn hold_as_known(&self, what: Counted, count: usize) -> Result<Held, TooMuch> {
        self.hold_in(&[Scope::Identity], what, count)
    }

    /// A long-poll waits.
    pub fn stay(&self) -> Result<Held, TooMuch> {
        self.hold_in(self.of_what_stays(), Counted::Connections, 1)
    }

    pub(super) fn accept(&self) -> Result<Held, TooMuch> {
        self.enter(&ACCEPTED)
    }

    fn of_what_stays(&self) -> &'static [Scope] {
        match self.0.is_behind_proxy {
            true => &[Scope::Identity, Scope::Address],
            false => &[Scope::Identity],
        }
    }

    fn enter(&self, scopes: &[Scope]) -> Result<Held, TooMuch> {
        let held = self.hold_in(scopes, Counted::Connections, 1)?;
        self.take_in(scopes, &[(Rated::Handshakes, 1)])?;
        Ok(held)
    }

    fn take_in(&self, scopes: &[Scope], wanted: &[(Rated, u64)]) -> Result<(), TooMuch> {
        let mut now = None;
        for (at, &(of, units)) in wanted.iter().enumerate() {
            for (place, &whose) in scopes.iter().enumerate() {
                let Some((rate, account)) = self.limited(of, whose) else {
                    continue;
                };
                let now = *now.get_or_insert_with(|| self.0.limits.now());
                let Err(retry_after) = account.bucket(of).try_take(units, rate, now) else {
                    continue;
                };
                self.give_back(scopes, &wanted[..at]);
                self.give_back(&scopes[..place], &wanted[at..=at]);
                return Err(TooMuch {
                    what: What::Rated(of),
                    whose,
                    retry_after,
                });
            }
        }
        Ok(())
    }

    fn give_back(&self, scopes: &[Scope], taken: &[(Rated, u64)]) {
        for &(of, units) in taken {
            for &whose in scopes {
                if let Some((rate, account)) = self.limited(of, whose) {
                    account.bucket(of).give_back(units, rate);
                }
            }
        }
    }

    fn limited(&self, of: Rated, whose: Scope) -> Option<(Rate, &Arc<Account>)> {
        let rate = self.0.limits.settings.rate(of).of(whose)?;
        Some((rate, self.account(whose)?))
    }

    fn hold_in(&self, scopes: &[Scope], what: Counted, count: usize) -> Result<Held, TooMuch> {
        // Dropped where there is no more, it lets go of what it has so far.
        let mut held = Held {
            accounts: Vec::new(),
            what,
            count,
        };
        let limit = self.0.limits.settings.count(what);
        if limit.is_none() {
            return Ok(held);
        }
        for &whose in scopes {
            let Some((limit, account)) = limit.of(whose).zip(self.account(whose)) else {
                continue;
            };
            if !account.try_hold(what, count, limit) {
                return Err(TooMuch {
                    what: What::Counted(what),
                    whose,
                    retry_after: UNTIL_ONE_ENDS,
                });
            }
            held.accounts.push(account.clone());
        }
        Ok(held)
    }

    fn account(&self, whose: Scope) -> Option<&Arc<Account>> {
        let client = &*self.0;
        let limits = &client.limits;
        match whose {
            Scope::Identity => {
                let who = client.who.as_ref()?;
                let look_up = || limits.identities.account(who, limits.now());
                Some(client.of_identity.get_or_init(look_up))
            }
            Scope::Address => {
                let address = client.address.as_ref()?;
                let look_up = || limits.addresses.account(address, limits.now());
                Some(client.of_address.get_or_init(look_up))
            }
            Scope::All => Some(&limits.all),
        }
    }
}
