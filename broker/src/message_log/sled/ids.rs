//! The order in which topics get their ids. Owns the rule; the counter of draws lies in `meta`.
//!
//! sled cuts a leaf in two when its 17th row comes, and 9 rows stay in the left half. Where each key is larger than all before it,
//! nothing ever comes to them; and a leaf costs some 500 bytes of memory, cached or not. So over a span of ids 9 of every 16 are
//! given out first, and then the 7 between them, which fill the leaves: a quiet topic is one row.

use super::layout::TopicId;

const SPAN: u64 = 256;
/// What a leaf holds, and how much of that is left in it after it was cut.
const LEAF: u64 = 16;
const LEFT: u64 = 9;

/// The id that a draw gives. Each span of draws gives the ids of that span.
pub(super) fn drawn(draw: u64) -> TopicId {
    let (span, at) = (draw / SPAN * SPAN, draw % SPAN);
    let first = SPAN / LEAF * LEFT;
    let (leaf, place) = match at.checked_sub(first) {
        None => (at / LEFT, (2 * (at % LEFT)).min(LEAF - 1)),
        Some(later) => {
            let between = LEAF - LEFT;
            (later / between, 2 * (later % between) + 1)
        }
    };
    TopicId(span + leaf * LEAF + place)
}

/// The first draw of the next span, where `draw` is not the first of one: no draw before `draw` has given an id from there on.
pub(super) fn next_span(draw: u64) -> u64 {
    draw.div_ceil(SPAN) * SPAN
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::super::layout::Key;
    use super::super::raw::RawPages;
    use super::*;

    #[test]
    fn every_id_is_drawn_once_and_none_beyond_the_span() {
        let mut given = BTreeSet::new();
        for draw in 0..4 * SPAN {
            assert!(given.insert(drawn(draw)));
            let behind = next_span(draw + 1);
            assert!(given.iter().all(|id| id.0 < behind));
        }
        assert_eq!(given.len() as u64, 4 * SPAN);
        assert_eq!(
            (next_span(0), next_span(1), next_span(SPAN)),
            (0, SPAN, SPAN)
        );
    }

    #[test]
    fn the_rows_of_quiet_topics_fill_their_leaves() {
        let rows_of_a_leaf = |id: fn(u64) -> TopicId| {
            let dir = tempfile::tempdir().unwrap();
            let db = sled::Config::new().path(dir.path()).open().unwrap();
            for draw in 0..16 * SPAN {
                let key = Key::new(id(draw), 1, 0).to_bytes();
                db.insert(key, b"row").unwrap();
            }
            db.flush().unwrap();
            drop(db);
            let pages = RawPages::find(dir.path()).unwrap();
            let leaves = pages.entries().map(|entries| entries.unwrap().len());
            let leaves: Vec<usize> = leaves.filter(|rows| *rows > 0).collect();
            leaves.iter().sum::<usize>() / leaves.len()
        };
        assert_eq!(rows_of_a_leaf(TopicId), 9);
        assert_eq!(rows_of_a_leaf(drawn), 15);
    }
}
