//! The time without a connection that has proven itself: when one has, how long to wait before the next attempt, and which endings are final.
//! Owns "only Hark ends it for good", "open is not useful" and the waits of protocol/README.md; knows no sockets and no clocks.

use std::time::Duration;

use hark_protocol::{CloseCode, ConnectAgain};
use tokio::time::Instant;

use crate::backoff;
use crate::figures::{
    FIRST_MINUTE, LONGEST_RETRY_AFTER, PROOF, TRIES_BEFORE_A_CLOSE_CODE_IS_FINAL,
};
use crate::options::Reconnect;

/// Since when a connection has served.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Proof(Option<Instant>);

impl Proof {
    /// It brought `subscribed` or a receipt, or a `pong` when there was nothing to answer. Until when it has to go on, if that was the first.
    pub(crate) fn served(&mut self, now: Instant) -> Option<Instant> {
        if self.0.is_some() {
            return None;
        }
        self.0 = Some(now);
        Some(now + PROOF)
    }

    /// Whether a connection that served until then has proven itself.
    pub(crate) fn holds(self, until: Instant) -> bool {
        self.0
            .is_some_and(|since| until.saturating_duration_since(since) >= PROOF)
    }
}

#[derive(Debug)]
pub(crate) struct Outage {
    /// Attempts that failed, and connections that were lost unproven.
    failures: u32,
    /// When the last proven connection was lost.
    since: Instant,
    /// What was asked for when the last connection ended, or the last attempt was refused.
    retry_after: Option<Duration>,
    /// Endings in a row that speak of a broken protocol.
    broken: u32,
    /// A token was refused. The callback has one chance to give a better one.
    token_doubted: bool,
}

impl Outage {
    pub(crate) fn new(now: Instant) -> Self {
        Self {
            failures: 0,
            since: now,
            retry_after: None,
            broken: 0,
            token_doubted: false,
        }
    }

    /// A connection that had proven itself is lost.
    pub(crate) fn begins(&mut self, now: Instant) {
        let retry_after = self.retry_after;
        *self = Self {
            retry_after,
            ..Self::new(now)
        };
    }

    /// Hark, or what stands before it, asked for a while.
    pub(crate) fn asked_to_wait(&mut self, wait: Option<Duration>) {
        self.retry_after = wait.map(|wait| wait.min(LONGEST_RETRY_AFTER));
    }

    /// The wait before the next attempt. What was asked for is waited for in full, and the draw spreads those who were asked together.
    pub(crate) fn next_wait(&mut self, reconnect: &Reconnect, now: Instant) -> Duration {
        let bound = self.bound(reconnect, now);
        self.failures = self.failures.saturating_add(1);
        self.retry_after.take().unwrap_or_default() + backoff::draw(0, bound, bound)
    }

    fn bound(&self, reconnect: &Reconnect, now: Instant) -> Duration {
        let longest = match now.saturating_duration_since(self.since) < FIRST_MINUTE {
            true => reconnect
                .longest_wait
                .min(reconnect.longest_wait_in_the_first_minute),
            false => reconnect.longest_wait,
        };
        backoff::bound(self.failures, reconnect.first_wait, longest)
    }

    /// A connection ended, and nobody said why. `welcomed`: it had been Hark's.
    pub(crate) fn ended_without_code(&mut self, welcomed: bool) {
        if welcomed {
            self.broken = 0;
        }
    }

    /// Hark has accepted the token.
    pub(crate) fn token_is_good(&mut self) {
        self.token_doubted = false;
    }

    /// Whether a connection that was closed with `code` was the last. `welcomed`: it had been Hark's.
    pub(crate) fn is_final(&mut self, code: CloseCode, welcomed: bool, renewable: bool) -> bool {
        match code.connect_again() {
            ConnectAgain::Always => {
                self.ended_without_code(welcomed);
                false
            }
            ConnectAgain::Never => true,
            ConnectAgain::OnceWithFreshToken => {
                self.ended_without_code(welcomed);
                self.refused_token_is_final(renewable)
            }
            ConnectAgain::NotAfterTheThird => {
                self.broken += u32::from(welcomed);
                self.broken >= TRIES_BEFORE_A_CLOSE_CODE_IS_FINAL
            }
        }
    }

    /// A token was refused. `renewable`: there may be another one.
    pub(crate) fn refused_token_is_final(&mut self, renewable: bool) -> bool {
        !renewable || std::mem::replace(&mut self.token_doubted, true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn reconnect() -> Reconnect {
        Reconnect::default()
    }

    #[test]
    fn served_for_ten_seconds_is_proven() {
        let now = Instant::now();
        let mut proof = Proof::default();
        assert!(!proof.holds(now + 3_600 * SECOND), "it was merely open");
        proof.served(now);
        proof.served(now + 9 * SECOND);
        assert!(!proof.holds(now + PROOF - Duration::from_millis(1)));
        assert!(proof.holds(now + PROOF));
    }

    #[test]
    fn the_bounds_of_the_first_minute_and_later() {
        let now = Instant::now();
        let mut outage = Outage::new(now);
        let mut bounds = Vec::new();
        for _ in 0..7 {
            bounds.push(outage.bound(&reconnect(), now + 59 * SECOND).as_millis());
            let wait = outage.next_wait(&reconnect(), now);
            assert!(wait.as_millis() <= *bounds.last().unwrap());
        }
        assert_eq!(bounds, [250, 500, 1_000, 2_000, 4_000, 5_000, 5_000]);
        assert_eq!(outage.bound(&reconnect(), now + 60 * SECOND), 20 * SECOND);
        // A proven connection begins anew.
        outage.begins(now + 70 * SECOND);
        assert_eq!(
            outage.bound(&reconnect(), now + 71 * SECOND).as_millis(),
            250
        );
    }

    #[test]
    fn what_was_asked_for_is_waited_for_in_full_and_no_longer_than_five_minutes() {
        let now = Instant::now();
        let mut outage = Outage::new(now);
        let mut waits = Vec::new();
        for _ in 0..20 {
            outage.begins(now);
            outage.asked_to_wait(Some(3_600 * SECOND));
            let wait = outage.next_wait(&reconnect(), now);
            assert!(wait >= 300 * SECOND && wait <= 300 * SECOND + Duration::from_millis(250));
            waits.push(wait);
        }
        waits.sort();
        waits.dedup();
        assert!(waits.len() > 10, "all at the same moment");
        // Once, and behind a proven connection too.
        assert!(outage.next_wait(&reconnect(), now) < SECOND);
        outage.asked_to_wait(Some(7 * SECOND));
        outage.begins(now);
        assert!(outage.next_wait(&reconnect(), now) >= 7 * SECOND);
        outage.asked_to_wait(Some(Duration::MAX));
        assert!(outage.next_wait(&reconnect(), now) < 301 * SECOND);
    }

    #[test]
    fn which_endings_are_final() {
        let now = Instant::now();
        for code in [
            1000, 1001, 1006, 1008, 1010, 1011, 1012, 1013, 4500, 4503, 4599,
        ] {
            let mut outage = Outage::new(now);
            for _ in 0..10 {
                assert!(!outage.is_final(CloseCode(code), true, false), "{code}");
            }
        }
        for code in [4400, 4402, 4403, 4499] {
            assert!(
                Outage::new(now).is_final(CloseCode(code), true, true),
                "{code}"
            );
            assert!(
                Outage::new(now).is_final(CloseCode(code), false, true),
                "{code}"
            );
        }
        for code in [1002, 1003, 1007, 1009] {
            let (mut outage, code) = (Outage::new(now), CloseCode(code));
            for _ in 0..5 {
                assert!(!outage.is_final(code, false, false), "not before `welcome`");
            }
            assert!(!outage.is_final(code, true, false));
            assert!(!outage.is_final(code, true, false));
            outage.begins(now); // one that had proven itself
            assert!(!outage.is_final(code, true, false));
            assert!(!outage.is_final(code, true, false));
            assert!(outage.is_final(code, true, false), "the third in a row");
            for otherwise in [1000, 1011, 4401] {
                let mut outage = Outage::new(now);
                for _ in 0..5 {
                    assert!(!outage.is_final(code, true, true));
                    assert!(!outage.is_final(code, true, true));
                    assert!(!outage.is_final(CloseCode(1001), false, true), "not Hark's");
                    assert!(!outage.is_final(CloseCode(otherwise), true, true));
                    outage.token_is_good();
                    assert!(!outage.is_final(code, true, true), "not in a row");
                    outage.ended_without_code(true);
                }
            }
        }
    }

    #[test]
    fn a_refused_token_is_final_unless_there_may_be_another() {
        let (now, code) = (Instant::now(), CloseCode::UNAUTHENTICATED);
        assert!(Outage::new(now).is_final(code, true, false));
        let mut outage = Outage::new(now);
        assert!(!outage.is_final(code, true, true));
        assert!(outage.is_final(code, true, true), "the fresh one too");
        let mut outage = Outage::new(now);
        assert!(!outage.refused_token_is_final(true));
        outage.token_is_good();
        assert!(!outage.is_final(code, true, true), "it had been accepted");
        let mut outage = Outage::new(now);
        assert!(!outage.refused_token_is_final(true));
        outage.begins(now);
        assert!(!outage.is_final(code, true, true), "it had run out");
    }
}
