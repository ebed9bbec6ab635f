//! What the outbox and the inbox have from outside: what time it is, chance, and names that nobody else has. A script gives its own
//! (`client-sdk/script`).

use std::time::Duration;

use hark_protocol::ProducerId;

use crate::backoff;
use crate::clock::Clock;

#[derive(Debug, Clone, Default)]
pub(crate) struct World {
    pub(crate) clock: Clock,
    #[cfg(test)]
    given: Option<std::sync::Arc<Given>>,
}

impl World {
    pub(crate) fn new(clock: Clock) -> Self {
        Self {
            clock,
            #[cfg(test)]
            given: None,
        }
    }

    /// From 0 to 1.
    fn chance(&self) -> f64 {
        #[cfg(test)]
        if let Some(given) = &self.given {
            return given.chance;
        }
        rand::random()
    }

    /// A wait with full jitter: see [`backoff`].
    pub(crate) fn draw(&self, failures: u32, first: Duration, longest: Duration) -> Duration {
        backoff::bound(failures, first, longest).mul_f64(self.chance())
    }

    /// About so long: up to a tenth less or more.
    pub(crate) fn about(&self, wait: Duration) -> Duration {
        wait.mul_f64(0.9 + 0.2 * self.chance())
    }

    /// A producer's name of 128 random bits: two clients never draw the same.
    pub(crate) fn producer(&self) -> ProducerId {
        #[cfg(test)]
        if let Some(given) = &self.given {
            return given.producer();
        }
        let name = format!("p{:032x}", rand::random::<u128>());
        ProducerId::parse(&name).expect("33 letters and digits are a producer's name")
    }
}

/// What a script gives.
#[cfg(test)]
#[derive(Debug)]
struct Given {
    chance: f64,
    producers: std::sync::atomic::AtomicU64,
}

#[cfg(test)]
impl Given {
    fn producer(&self) -> ProducerId {
        let before = self
            .producers
            .fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        ProducerId::parse(&format!("p{}", before + 1)).unwrap()
    }
}

#[cfg(test)]
impl World {
    /// One in which time stands until the clock is advanced, chance is always the same, and producers are `p1`, `p2` ….
    pub(crate) fn given(chance: f64) -> Self {
        let given = Given {
            chance,
            producers: Default::default(),
        };
        Self {
            clock: Clock::given(),
            given: Some(std::sync::Arc::new(given)),
        }
    }
}
