//! Cursors of several topics as one string: what a reader of several hands back to go on with all of them. Owns the text form;
//! leaves what a place means to the broker's rooms.

use std::fmt::Write as _;

use crate::{Cursor, TopicName};

/// The text form of one cursor for each of some topics: `k3f9a1:12,5,q9:3~5ad3e4c1`.
///
/// The cursors stand in the order of the topics' names, an epoch only where it is another than the one before. Behind `~` is a hash of the
/// names, so that it is not taken for another set of topics. Of a single topic it is the plain cursor. Opaque to clients.
///
/// ```
/// use hark_protocol::{Cursor, CursorSet, TopicName};
/// let topics = [TopicName::parse("b")?, TopicName::parse("a")?];
/// let cursors: [Cursor; 2] = ["k3f9a1:7".parse()?, "k3f9a1:12".parse()?];
/// let set = CursorSet::of(&topics);
/// let mut text = String::new();
/// set.write(&cursors, &mut text);
/// assert!(text.starts_with("k3f9a1:12,7~"));
/// assert_eq!(set.read(&text)?, cursors);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CursorSet {
    /// Which topic stands where.
    order: Vec<usize>,
    hash: u32,
}

/// Why a string is no cursor of a set of topics.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum CursorSetError {
    /// It is nothing that Hark gave out.
    #[error(
        "it is no cursor as Hark gave it out: of one topic it looks like `k3f9a1:1042`, of several like `k3f9a1:12,7~5ad3e4c1`"
    )]
    Malformed,
    /// It is that of another set of topics.
    #[error(
        "it belongs to another set of topics: go on with the topics it was given out for, or give `from` once for each topic"
    )]
    OtherTopics,
}

impl CursorSet {
    /// The form for these topics, each named once.
    pub fn of(topics: &[TopicName]) -> Self {
        let mut order: Vec<usize> = (0..topics.len()).collect();
        order.sort_by_key(|&at| &topics[at]);
        // FNV-1a; no name holds a zero.
        let mut hash = 0x811c_9dc5_u32;
        for &at in &order {
            for byte in topics[at].as_str().bytes().chain([0]) {
                hash = (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193);
            }
        }
        Self { order, hash }
    }

    /// Writes one cursor for each of the topics, in their order.
    pub fn write(&self, cursors: &[Cursor], out: &mut String) {
        debug_assert_eq!(cursors.len(), self.order.len());
        let mut epoch = None;
        let mut write = || {
            for (nth, &at) in self.order.iter().enumerate() {
                let cursor = cursors[at];
                let comma = if nth == 0 { "" } else { "," };
                match epoch.replace(cursor.epoch) == Some(cursor.epoch) {
                    true => write!(out, "{comma}{}", cursor.offset)?,
                    false => write!(out, "{comma}{cursor}")?,
                }
            }
            match self.order.len() {
                0 | 1 => Ok(()),
                _ => write!(out, "~{:x}", self.hash),
            }
        };
        let written: std::fmt::Result = write();
        debug_assert!(written.is_ok(), "a string takes all");
    }

    /// Reads what `write` wrote for the same topics.
    pub fn read(&self, text: &str) -> Result<Vec<Cursor>, CursorSetError> {
        let (list, hash) = match text.split_once('~') {
            Some((list, hash)) => (list, Some(hash)),
            None => (text, None),
        };
        let mut epoch = None;
        let read = |text: &str| -> Result<Cursor, CursorSetError> {
            let cursor: Cursor = match (text.contains(':'), epoch) {
                (false, Some(before)) => format!("{before}:{text}").parse(),
                _ => text.parse(),
            }
            .map_err(|_| CursorSetError::Malformed)?;
            epoch = Some(cursor.epoch);
            Ok(cursor)
        };
        let found: Vec<Cursor> = list.split(',').map(read).collect::<Result<_, _>>()?;
        let meant = match self.order.len() {
            1 => hash.is_none(),
            _ => hash == Some(format!("{:x}", self.hash).as_str()),
        };
        if !meant || found.len() != self.order.len() {
            return Err(CursorSetError::OtherTopics);
        }
        let mut cursors = found.clone();
        for (cursor, &at) in found.into_iter().zip(&self.order) {
            cursors[at] = cursor;
        }
        Ok(cursors)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn topics(names: &[&str]) -> Vec<TopicName> {
        let parse = |name: &&str| TopicName::parse(name).unwrap();
        names.iter().map(parse).collect()
    }

    fn cursors(texts: &[&str]) -> Vec<Cursor> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    fn text(set: &CursorSet, cursors: &[Cursor]) -> String {
        let mut text = String::new();
        set.write(cursors, &mut text);
        text
    }

    #[test]
    fn a_set_is_read_as_it_was_written_in_whatever_order_it_is_asked_for() {
        let there = cursors(&["k3:12", "k3:5", "q9:0", "k3:7"]);
        let set = CursorSet::of(&topics(&["a", "b", "c.d", "e"]));
        let written = text(&set, &there);
        assert!(written.starts_with("k3:12,5,q9:0,k3:7~"), "{written}");
        assert_eq!(set.read(&written), Ok(there.clone()));
        let back = CursorSet::of(&topics(&["e", "c.d", "b", "a"]));
        assert_eq!(
            back.read(&written),
            Ok(there.into_iter().rev().collect::<Vec<_>>())
        );
    }

    #[test]
    fn of_one_topic_it_is_the_cursor() {
        let set = CursorSet::of(&topics(&["a"]));
        assert_eq!(text(&set, &cursors(&["k3:12"])), "k3:12");
        assert_eq!(set.read("k3:12"), Ok(cursors(&["k3:12"])));
    }

    #[test]
    fn another_set_and_what_is_no_set_are_refused() {
        let set = CursorSet::of(&topics(&["a", "b"]));
        let of_others = CursorSet::of(&topics(&["a", "c"]));
        let written = text(&of_others, &cursors(&["k3:12", "k3:5"]));
        let hash = written.split_once('~').unwrap().1;
        for other in [
            written.as_str(),
            "k3:1",
            "k3:1,2",
            "k3:1,2~0",
            &format!("k3:1,2,3~{hash}"),
        ] {
            assert_eq!(set.read(other), Err(CursorSetError::OtherTopics), "{other}");
        }
        for bad in ["", "~", "12", ",", "k3:1,", "k3:1,-2~0", "k3:1,02~0", "ü"] {
            assert_eq!(set.read(bad), Err(CursorSetError::Malformed), "{bad}");
        }
        let single = CursorSet::of(&topics(&["a"]));
        assert_eq!(single.read(&written), Err(CursorSetError::OtherTopics));
    }
}
