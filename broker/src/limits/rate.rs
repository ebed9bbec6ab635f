//! Rates, and what is left of one. Owns the arithmetic: how much may be had at once, how it comes back, and how long somebody waits for it.

use std::fmt;
use std::str::FromStr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Who waits, waits for what comes back in so long, and not for the next unit alone: or he would be refused again for each of many.
const WORTH_WAITING_FOR: Duration = Duration::from_millis(500);

/// So many units in so long: as many may be had at once, and they come back evenly.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rate {
    units: u64,
    period: Duration,
}

impl Rate {
    /// `units`, at least 1, in `period`.
    pub fn new(units: u64, period: Duration) -> Self {
        Self {
            units: units.max(1),
            period,
        }
    }

    /// Reads `100/s`, `20/m` or `5/h`; `units` reads what stands before the stroke.
    pub(super) fn parse(
        text: &str,
        units: impl FnOnce(&str) -> Option<u64>,
    ) -> Result<Self, String> {
        let wrong =
            || format!("{text:?} is no rate of at least 1, such as 100/s (a second), 20/m or 5/h");
        let (before, unit) = text.split_once('/').ok_or_else(wrong)?;
        let seconds = match unit.trim() {
            "s" => 1,
            "m" => 60,
            "h" => 3600,
            _ => return Err(wrong()),
        };
        let units = units(before.trim()).filter(|&units| units > 0);
        let units = units.ok_or_else(wrong)?;
        Ok(Self::new(units, Duration::from_secs(seconds)))
    }

    /// How long it takes until so many have come back.
    fn time_of(self, units: u64) -> u64 {
        let nanos = u128::from(units) * self.period.as_nanos() / u128::from(self.units);
        u64::try_from(nanos).unwrap_or(u64::MAX)
    }

    fn period_nanos(self) -> u64 {
        nanos(self.period)
    }
}

impl FromStr for Rate {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Self::parse(text, |units| units.parse().ok())
    }
}

impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let unit = match self.period.as_secs() {
            1 => "s",
            60 => "m",
            _ => "h",
        };
        write!(f, "{}/{unit}", self.units)
    }
}

/// Nanoseconds, as buckets count them.
pub(super) fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

/// What is left of a rate. Held is only when the bucket will be full again: it fills by itself, and costs nobody a lock.
#[derive(Debug, Default)]
pub(super) struct Bucket {
    full_at: AtomicU64,
}

impl Bucket {
    /// Takes so many units at `now`, or says how long to wait for them. More than the bucket holds are taken from a full one, and the debt
    /// is waited for by whoever comes next.
    pub(super) fn try_take(&self, units: u64, rate: Rate, now: u64) -> Result<(), Duration> {
        let (time, period) = (rate.time_of(units), rate.period_nanos());
        let mut full_at = self.full_at.load(Ordering::Relaxed);
        loop {
            let missing = full_at.saturating_sub(now);
            if missing.saturating_add(time.min(period)) > period {
                let comes_back = time.max(nanos(WORTH_WAITING_FOR)).min(period);
                let wait = missing.saturating_sub(period - comes_back);
                return Err(Duration::from_nanos(wait));
            }
            let taken = full_at.max(now).saturating_add(time);
            match self.full_at.compare_exchange_weak(
                full_at,
                taken,
                Ordering::Relaxed,
                Ordering::Relaxed,
            ) {
                Ok(_) => return Ok(()),
                Err(changed) => full_at = changed,
            }
        }
    }

    /// Gives units back that were taken for something that was refused after all.
    pub(super) fn give_back(&self, units: u64, rate: Rate) {
        let time = rate.time_of(units);
        let less = |full_at: u64| Some(full_at.saturating_sub(time));
        // It is never refused, so there is always an answer.
        self.full_at
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, less)
            .ok();
    }

    /// Whether it is full, so that nothing is lost with it.
    pub(super) fn is_full(&self, now: u64) -> bool {
        self.full_at.load(Ordering::Relaxed) <= now
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rate(text: &str) -> Rate {
        text.parse().unwrap()
    }

    fn ms(ms: u64) -> u64 {
        nanos(Duration::from_millis(ms))
    }

    #[test]
    fn so_many_at_once_and_then_as_they_come_back() {
        let (bucket, rate) = (Bucket::default(), rate("10/s"));
        let begin = ms(5000);
        for n in 0..10 {
            assert_eq!(bucket.try_take(1, rate, begin), Ok(()), "number {n}");
        }
        // Until five are there again, which is what comes back in half a second.
        let wait = bucket.try_take(1, rate, begin).unwrap_err();
        assert_eq!(wait, Duration::from_millis(500));
        assert!(bucket.try_take(1, rate, begin + ms(99)).is_err());
        let then = begin + ms(500);
        for n in 0..5 {
            assert_eq!(bucket.try_take(1, rate, then), Ok(()), "number {n}");
        }
        assert!(bucket.try_take(1, rate, then).is_err());
        // However long nothing is taken, there are never more than ten.
        let later = begin + ms(60_000);
        assert!(bucket.is_full(later));
        let taken = (0..20).filter(|_| bucket.try_take(1, rate, later).is_ok());
        assert_eq!(taken.count(), 10);
    }

    #[test]
    fn more_than_a_bucket_holds_is_had_at_last_and_owed() {
        let (bucket, rate) = (Bucket::default(), rate("10/s"));
        assert_eq!(bucket.try_take(30, rate, 0), Ok(()));
        let wait = bucket.try_take(30, rate, 0).unwrap_err();
        assert_eq!(wait, Duration::from_secs(3));
        assert!(bucket.try_take(1, rate, ms(2000)).is_err());
        assert_eq!(bucket.try_take(1, rate, ms(2100)), Ok(()));
    }

    #[test]
    fn what_is_given_back_can_be_taken_again() {
        let (bucket, rate) = (Bucket::default(), rate("3/m"));
        for _ in 0..3 {
            bucket.try_take(1, rate, 0).unwrap();
        }
        bucket.give_back(2, rate);
        bucket.try_take(2, rate, 0).unwrap();
        let wait = bucket.try_take(1, rate, 0).unwrap_err();
        assert_eq!(wait, Duration::from_secs(20));
        bucket.give_back(100, rate);
        assert!(bucket.is_full(0));
    }

    #[test]
    fn extremes_do_not_overflow() {
        let (bucket, slow) = (Bucket::default(), rate("1/h"));
        bucket.try_take(u64::MAX, slow, u64::MAX / 2).unwrap();
        assert!(bucket.try_take(1, slow, u64::MAX / 2).is_err());
        let owing = Bucket::default();
        owing.try_take(u64::MAX, slow, 0).unwrap();
        assert!(owing.try_take(1, slow, 0).is_err());
        let fast = rate("18446744073709551615/s");
        assert_eq!(Bucket::default().try_take(u64::MAX, fast, 0), Ok(()));
    }

    #[test]
    fn rates_are_read_and_said() {
        for text in ["1/s", "20/m", "5/h"] {
            assert_eq!(rate(text).to_string(), text);
        }
        for bad in [
            "", "10", "0/s", "-1/s", "10/", "/s", "10/d", "1.5/s", "10 per s",
        ] {
            assert!(bad.parse::<Rate>().is_err(), "{bad}");
        }
    }
}
