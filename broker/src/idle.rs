//! What is open and not used just now, the longest unused first. Owns the order; leaves to the holders how much of it may be, and
//! what becomes of the rest.

use std::collections::BTreeMap;

/// What is not used just now. Entering, leaving and taking the longest unused are all as cheap in a crowd as alone.
#[derive(Debug)]
pub(crate) struct Idle<T> {
    by_since: BTreeMap<Since, T>,
    next: Since,
}

/// When something entered, as a number: the later, the larger.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Since(u64);

impl<T> Default for Idle<T> {
    fn default() -> Self {
        Self {
            by_since: BTreeMap::new(),
            next: Since(0),
        }
    }
}

impl<T> Idle<T> {
    /// `item` is not used from now on. Whoever uses it again gives what is returned to [`Self::leave`].
    pub(crate) fn enter(&mut self, item: T) -> Since {
        let since = self.next;
        self.next = Since(since.0 + 1);
        self.by_since.insert(since, item);
        since
    }

    /// What entered then is used again, or gone.
    pub(crate) fn leave(&mut self, since: Since) {
        self.by_since.remove(&since);
    }

    /// Takes out what has been unused the longest, if there is more than `most`.
    pub(crate) fn take_beyond(&mut self, most: usize) -> Option<T> {
        match self.by_since.len() > most {
            true => self.by_since.pop_first().map(|(_, item)| item),
            false => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_unused_goes_first() {
        let mut idle = Idle::default();
        idle.enter("a");
        let b = idle.enter("b");
        idle.enter("c");
        assert_eq!(idle.take_beyond(3), None);
        idle.leave(b);
        idle.enter("b");
        assert_eq!(idle.take_beyond(2), Some("a"));
        assert_eq!(idle.take_beyond(2), None);
        assert_eq!(idle.take_beyond(0), Some("c"));
        assert_eq!(idle.take_beyond(0), Some("b"));
        assert_eq!(idle.take_beyond(0), None);
    }
}
