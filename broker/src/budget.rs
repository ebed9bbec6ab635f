//! Budgets: bytes that many share, with a bound. Owns the counting; leaves to the holders what happens when one is used up.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// A bounded number of bytes that many share. Clones share the same bytes.
#[derive(Debug, Clone)]
pub struct Budget(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    name: &'static str,
    limit_bytes: usize,
    used_bytes: AtomicUsize,
}

/// Bytes taken from a budget; given back when dropped.
#[derive(Debug)]
pub struct Taken {
    budget: Budget,
    bytes: usize,
}

impl Budget {
    /// A budget of `limit_bytes`, called `name` in logs.
    pub fn new(name: &'static str, limit_bytes: usize) -> Self {
        Self(Arc::new(Inner {
            name,
            limit_bytes,
            used_bytes: AtomicUsize::new(0),
        }))
    }

    /// Takes `bytes`, or nothing if that would be over the limit.
    pub fn try_take(&self, bytes: usize) -> Option<Taken> {
        let taken = Taken {
            budget: self.clone(),
            bytes,
        };
        if self.take_even_if_over(bytes) {
            return Some(taken);
        }
        tracing::debug!(budget = self.0.name, bytes, "a budget is used up");
        drop(taken);
        None
    }

    /// Takes `bytes` whatever the limit, and says whether the limit still holds.
    pub fn take_even_if_over(&self, bytes: usize) -> bool {
        self.0.used_bytes.fetch_add(bytes, Ordering::Relaxed) + bytes <= self.0.limit_bytes
    }

    /// Gives back what was taken.
    pub fn give_back(&self, bytes: usize) {
        self.0.used_bytes.fetch_sub(bytes, Ordering::Relaxed);
    }

    /// How many bytes are taken just now.
    pub fn used(&self) -> usize {
        self.0.used_bytes.load(Ordering::Relaxed)
    }
}

impl Drop for Taken {
    fn drop(&mut self) {
        self.budget.give_back(self.bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn takes_up_to_its_limit_and_gives_back() {
        let budget = Budget::new("test", 10);
        let held = budget.try_take(10).unwrap();
        assert!(budget.try_take(1).is_none());
        assert_eq!(budget.used(), 10);
        drop(held);
        assert_eq!(budget.used(), 0);
    }
}
