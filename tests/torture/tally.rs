//! What is counted, and how it is told at the end.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Mutex, PoisonError};

/// Counts by name, in the order of the names.
#[derive(Debug, Default)]
pub(crate) struct Tally(Mutex<BTreeMap<String, u64>>);

impl Tally {
    pub(crate) fn add(&self, what: &str, more: u64) {
        let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match counts.get_mut(what) {
            Some(count) => *count += more,
            None => drop(counts.insert(what.to_owned(), more)),
        }
    }

    pub(crate) fn get(&self, what: &str) -> u64 {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .get(what)
            .copied()
            .unwrap_or(0)
    }

    /// Adds another one's counts.
    pub(crate) fn take(&self, other: &Self) {
        let other = std::mem::take(&mut *other.0.lock().unwrap_or_else(PoisonError::into_inner));
        for (what, count) in other {
            self.add(&what, count);
        }
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (what, count) in &*self.0.lock().unwrap_or_else(PoisonError::into_inner) {
            writeln!(f, "  {what}: {count}")?;
        }
        Ok(())
    }
}
