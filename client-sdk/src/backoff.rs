//! How long to wait before trying again: full jitter, so that a thousand clients do not come back in the same moment.

use std::time::Duration;

/// No wait is drawn from more than that, whatever was asked for.
const LONGEST: Duration = Duration::from_secs(86_400);

/// Draws a wait between zero and a bound that starts at `first` and doubles with every failure up to `longest`.
///
/// Drawn from the whole range ("full jitter"): it spreads a crowd best, and the mean is still half the bound.
pub fn draw(failures: u32, first: Duration, longest: Duration) -> Duration {
    bound(failures, first, longest).mul_f64(rand::random::<f64>())
}

pub(crate) fn bound(failures: u32, first: Duration, longest: Duration) -> Duration {
    first
        .saturating_mul(2u32.saturating_pow(failures.min(30)))
        .min(longest)
        .min(LONGEST)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bound_doubles_up_to_the_longest() {
        let (first, longest) = (Duration::from_millis(250), Duration::from_secs(20));
        for (failures, bound_ms) in [
            (0, 250),
            (1, 500),
            (3, 2_000),
            (6, 16_000),
            (7, 20_000),
            (4_000_000, 20_000),
        ] {
            let bound = bound(failures, first, longest);
            assert_eq!(bound.as_millis(), bound_ms, "{failures} failures");
            let drawn = (0..2_000).map(|_| draw(failures, first, longest));
            let seen = drawn.max().unwrap().as_millis();
            assert!(
                seen <= bound_ms && seen > bound_ms * 9 / 10,
                "{failures} failures: {seen} ms"
            );
        }
    }

    #[test]
    fn no_setting_is_too_long() {
        for failures in [0, 1, u32::MAX] {
            assert!(draw(failures, Duration::MAX, Duration::MAX) <= LONGEST);
        }
    }
}
