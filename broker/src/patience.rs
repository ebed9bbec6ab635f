//! Patience with those who are silent. Owns when a verdict on somebody's silence may fall; what is done to them is with whoever judges.
//!
//! A judge who slept knows nothing: while the process or the machine stood still, nobody could be heard. So a look that comes late by more
//! than half the time between two looks convicts nobody who has not been asked since he was last heard; the next look does.

use std::time::{Duration, Instant};

/// Looks now and then whether one peer is still there. The clock is the caller's, so that tests can move it.
#[derive(Debug)]
pub struct Judge {
    every: Duration,
    due: Instant,
    asked: Option<Instant>,
}

/// What a look came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Nothing is wrong.
    InTime,
    /// It is overdue, as far as a judge can say who slept himself: ask it, and look again.
    AskFirst,
    /// It is to be ended.
    Overdue,
}

impl Judge {
    /// A judge who looks `every` so often, for the first time when that is over.
    pub fn new(every: Duration, now: Instant) -> Self {
        Self {
            every,
            due: now + every,
            asked: None,
        }
    }

    /// When the next look is due.
    pub fn due(&self) -> Instant {
        self.due
    }

    /// The next look is due then, where that is not always the same time after the last.
    pub fn look_at(&mut self, due: Instant) {
        self.due = due;
    }

    /// The look that was due, at `now`. The peer was last heard at `heard`, and is overdue or not by the judge's own rule. The next
    /// look is due when the time between two is over.
    pub fn look(&mut self, now: Instant, heard: Instant, is_overdue: bool) -> Verdict {
        let slept = self.has_slept(now);
        self.due = now + self.every;
        if !is_overdue {
            return Verdict::InTime;
        }
        let is_asked = self.asked.is_some_and(|asked| asked >= heard);
        if slept && !is_asked {
            self.asked = Some(now);
            return Verdict::AskFirst;
        }
        Verdict::Overdue
    }

    /// Whether a look at `now` comes so late that others may have had no chance to be heard.
    pub fn has_slept(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.due) > self.every / 2
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EVERY: Duration = Duration::from_secs(10);

    /// A judge at work, and what becomes of a peer that is overdue after 25 seconds.
    struct Court {
        began: Instant,
        judge: Judge,
        heard: Instant,
    }

    impl Court {
        fn sits() -> Self {
            let began = Instant::now();
            Self {
                began,
                judge: Judge::new(EVERY, began),
                heard: began,
            }
        }

        fn hears_at(&mut self, seconds: u64) {
            self.heard = self.began + Duration::from_secs(seconds);
        }

        fn looks_at(&mut self, seconds: u64) -> Verdict {
            let now = self.began + Duration::from_secs(seconds);
            let is_overdue = now - self.heard > EVERY * 5 / 2;
            self.judge.look(now, self.heard, is_overdue)
        }
    }

    #[test]
    fn who_is_silent_before_a_judge_who_is_awake_is_overdue() {
        let mut court = Court::sits();
        for seconds in [10, 20] {
            assert_eq!(court.looks_at(seconds), Verdict::InTime);
        }
        // A little late is not asleep.
        assert_eq!(court.looks_at(35), Verdict::Overdue);
    }

    #[test]
    fn a_judge_who_slept_asks_first_and_once() {
        let mut court = Court::sits();
        assert_eq!(court.looks_at(10), Verdict::InTime);
        assert_eq!(court.looks_at(80), Verdict::AskFirst);
        assert_eq!(court.looks_at(90), Verdict::Overdue);

        // Also where each look is late: who has been asked and says nothing is overdue.
        let mut court = Court::sits();
        assert_eq!(court.looks_at(60), Verdict::AskFirst);
        assert_eq!(court.looks_at(120), Verdict::Overdue);
    }

    #[test]
    fn who_answers_stays_however_often_the_judge_sleeps() {
        let mut court = Court::sits();
        for nap in 1..100 {
            let woke = nap * 100;
            assert_eq!(court.looks_at(woke), Verdict::AskFirst);
            court.hears_at(woke + 1);
            assert_eq!(court.looks_at(woke + 10), Verdict::InTime);
        }
    }

    #[test]
    fn who_is_not_overdue_is_in_time_whenever_the_judge_wakes() {
        let mut court = Court::sits();
        court.hears_at(70);
        assert_eq!(court.looks_at(80), Verdict::InTime);
        assert_eq!(court.looks_at(90), Verdict::InTime);
        assert_eq!(court.looks_at(100), Verdict::Overdue);
    }
}
