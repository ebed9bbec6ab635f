//! The checker: what was acknowledged, what each subscriber saw, and what Hark promised about the two. Owns the rules;
//! knows nothing of connections.

use std::collections::{BTreeMap, HashMap};
use std::fmt;

use serde_json::Value;

/// The messages that were acknowledged in one topic and epoch.
#[derive(Debug, Default)]
pub struct Acked {
    epoch: Option<String>,
    by_offset: BTreeMap<u64, String>,
}

/// Offsets a subscriber cannot have, both ends included.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Range {
    /// The first.
    pub from: u64,
    /// The last.
    pub to: u64,
}

/// What one subscriber saw of one topic, checked as it comes: offsets dense within an epoch, unless a gap says otherwise.
#[derive(Debug, Clone)]
pub struct Seen {
    topic: String,
    /// The epoch the subscriber is in.
    pub epoch: String,
    /// The offset behind which the subscription began.
    pub start: u64,
    /// The subscriber's position: it has everything up to here.
    pub position: u64,
    /// Offset and data of each message, in the order of arrival.
    pub messages: Vec<(u64, String)>,
    /// The gaps, as they were told.
    pub gaps: Vec<Value>,
    /// How often `caught_up` was said since the last `subscribed`.
    pub caught_up: u32,
    /// How often it was told that it lags, and what.
    pub lagging: Vec<Value>,
}

/// Takes a cursor apart.
pub(crate) fn split(cursor: &Value) -> (String, u64) {
    let text = cursor
        .as_str()
        .unwrap_or_else(|| panic!("a cursor is a string: {cursor}"));
    let (epoch, offset) = text
        .split_once(':')
        .unwrap_or_else(|| panic!("a cursor is epoch:offset: {text}"));
    (
        epoch.to_owned(),
        offset
            .parse()
            .unwrap_or_else(|_| panic!("a cursor is epoch:offset: {text}")),
    )
}

impl Seen {
    /// Begins with what `subscribed` said.
    pub fn start(topic: &str, subscribed: &Value) -> Self {
        assert_eq!(subscribed["topic"], topic, "{subscribed}");
        let (epoch, start) = split(&subscribed["cursor"]);
        Self {
            topic: topic.to_owned(),
            epoch,
            start,
            position: start,
            messages: Vec::new(),
            gaps: Vec::new(),
            caught_up: 0,
            lagging: Vec::new(),
        }
    }

    /// Goes on after a reconnect, which must resume exactly where this subscriber was.
    pub fn resume(&mut self, subscribed: &Value) {
        assert_eq!(
            subscribed["cursor"],
            self.cursor(),
            "resumed elsewhere: {subscribed}"
        );
        self.caught_up = 0;
    }

    /// The subscriber's position as a cursor.
    pub fn cursor(&self) -> String {
        format!("{}:{}", self.epoch, self.position)
    }

    /// What a subscriber gives as `from` to go on.
    pub fn after(&self) -> Value {
        serde_json::json!({"after": self.cursor()})
    }

    /// Takes a frame down; panics if it may not come now.
    #[track_caller]
    pub fn take(&mut self, frame: &Value) {
        assert_eq!(frame["topic"], self.topic.as_str(), "{frame}");
        match frame["type"].as_str() {
            Some("message") => {
                let offset = frame["offset"]
                    .as_u64()
                    .unwrap_or_else(|| panic!("no offset: {frame}"));
                assert_eq!(
                    offset,
                    self.position + 1,
                    "out of order or lost, after {}: {frame}",
                    self.cursor()
                );
                self.position = offset;
                self.messages.push((offset, frame["data"].to_string()));
            }
            Some("gap") => {
                let (epoch, position) = split(&frame["cursor"]);
                if frame["reason"] == "expired" {
                    // Within one sequence a gap begins behind the position and ends at its own cursor.
                    assert_eq!(
                        frame["from"],
                        self.position + 1,
                        "after {}: {frame}",
                        self.cursor()
                    );
                    assert_eq!(
                        (&epoch, &frame["to"]),
                        (&self.epoch, &position.into()),
                        "{frame}"
                    );
                }
                (self.epoch, self.position) = (epoch, position);
                self.gaps.push(frame.clone());
            }
            Some("caught_up") => {
                assert_eq!(
                    frame["cursor"],
                    self.cursor(),
                    "caught up elsewhere: {frame}"
                );
                self.caught_up += 1;
                assert_eq!(
                    self.caught_up, 1,
                    "caught_up comes once per subscribe: {frame}"
                );
            }
            Some("lagging") => {
                assert_eq!(frame["cursor"], self.cursor(), "lagging elsewhere: {frame}");
                assert_eq!(self.caught_up, 1, "it has not been live yet: {frame}");
                self.lagging.push(frame.clone());
            }
            _ => panic!("not a frame of a subscription: {frame}"),
        }
    }

    /// The offsets of all messages.
    pub fn offsets(&self) -> Vec<u64> {
        self.messages.iter().map(|(offset, _)| *offset).collect()
    }

    /// The data of all messages.
    pub fn data(&self) -> Vec<&str> {
        self.messages
            .iter()
            .map(|(_, data)| data.as_str())
            .collect()
    }

    /// Checks that exactly these offsets were seen, and no gap.
    #[track_caller]
    pub fn expect(&self, offsets: impl IntoIterator<Item = u64>) {
        assert_eq!(self.gaps, Vec::<Value>::new());
        assert_eq!(self.offsets(), offsets.into_iter().collect::<Vec<_>>());
    }
}

impl Acked {
    /// Takes down that `data` was acknowledged with this receipt.
    #[track_caller]
    pub fn receipt(&mut self, receipt: &Value, data: &Value) {
        assert_eq!(receipt["type"], "published", "{receipt} for {data}");
        self.kept(&receipt["cursor"], data);
    }

    /// Takes down that `data` was acknowledged at `cursor`.
    #[track_caller]
    pub fn kept(&mut self, cursor: &Value, data: &Value) {
        let (epoch, offset) = split(cursor);
        assert_eq!(
            self.epoch.get_or_insert_with(|| epoch.clone()),
            &epoch,
            "another epoch in {cursor}"
        );
        let before = self.by_offset.insert(offset, data.to_string());
        assert_eq!(before, None, "one offset, two messages: {cursor}");
    }

    /// How many were acknowledged.
    pub fn len(&self) -> usize {
        self.by_offset.len()
    }

    /// Whether none was.
    pub fn is_empty(&self) -> bool {
        self.by_offset.is_empty()
    }

    /// The newest acknowledged offset.
    pub fn head(&self) -> u64 {
        self.by_offset
            .last_key_value()
            .map_or(0, |(offset, _)| *offset)
    }

    /// The cursor at `offset`.
    pub fn cursor(&self, offset: u64) -> String {
        format!(
            "{}:{offset}",
            self.epoch.as_deref().expect("something was acknowledged")
        )
    }

    /// Checks what a subscriber saw against what was acknowledged: everything from its start to its position, once,
    /// with the right content. What was never acknowledged may be seen too (it was kept, and only its receipt lost).
    #[track_caller]
    pub fn check(&self, seen: &Seen) {
        assert_eq!(
            Some(&seen.epoch),
            self.epoch.as_ref(),
            "another epoch than the receipts'"
        );
        let mut times = HashMap::new();
        for (offset, data) in &seen.messages {
            if let Some(kept) = self.by_offset.get(offset) {
                assert_eq!(
                    kept, data,
                    "another message than the one acknowledged at {offset}"
                );
            }
            let before = times.insert(data.as_str(), offset);
            assert_eq!(
                before, None,
                "{data} came twice, the second time at {offset}"
            );
        }
        let has: std::collections::HashSet<u64> =
            seen.messages.iter().map(|(offset, _)| *offset).collect();
        let named: Vec<Range> = seen.gaps.iter().filter_map(range_of).collect();
        for (offset, data) in self.by_offset.range(seen.start + 1..) {
            if *offset > seen.position {
                break;
            }
            let in_gap = named
                .iter()
                .any(|range| (range.from..=range.to).contains(offset));
            assert!(
                has.contains(offset) != in_gap,
                "{data} at {offset}: seen, or named in a gap, and not both"
            );
        }
    }

    /// Checks that of messages such as `{"p": publisher, "n": number}` each publisher's are kept in the order of their
    /// numbers, each number once.
    #[track_caller]
    pub fn check_publishers(&self) {
        let mut last: BTreeMap<u64, u64> = BTreeMap::new();
        for (offset, data) in &self.by_offset {
            let data: Value = serde_json::from_str(data).expect("JSON");
            let (p, n) = (
                data["p"].as_u64().expect("p"),
                data["n"].as_u64().expect("n"),
            );
            let before = last.insert(p, n);
            assert!(
                before < Some(n),
                "publisher {p}: {n} is kept after {before:?}, at {offset}"
            );
        }
    }
}

fn range_of(gap: &Value) -> Option<Range> {
    Some(Range {
        from: gap["from"].as_u64()?,
        to: gap["to"].as_u64()?,
    })
}

impl fmt::Display for Range {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}..={}", self.from, self.to)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn seen() -> Seen {
        Seen::start("a", &json!({"topic": "a", "cursor": "e:10"}))
    }

    fn message(offset: u64) -> Value {
        json!({"type": "message", "topic": "a", "offset": offset, "data": offset})
    }

    fn acked(offsets: impl IntoIterator<Item = u64>) -> Acked {
        let mut acked = Acked::default();
        for offset in offsets {
            acked.kept(&json!(format!("e:{offset}")), &json!(offset));
        }
        acked
    }

    #[test]
    fn what_is_right_passes() {
        let mut seen = seen();
        seen.take(&message(11));
        seen.take(&json!({"type": "caught_up", "topic": "a", "cursor": "e:11"}));
        seen.take(&json!({"type": "gap", "topic": "a", "reason": "expired", "from": 12, "to": 13, "cursor": "e:13"}));
        seen.take(&message(14));
        seen.take(&json!({"type": "lagging", "topic": "a", "cursor": "e:14", "behind": 2}));
        assert_eq!(seen.offsets(), [11, 14]);
        acked(9..=14).check(&seen);
    }

    #[test]
    #[should_panic(expected = "out of order or lost")]
    fn a_skip_is_noticed() {
        seen().take(&message(12));
    }

    #[test]
    #[should_panic(expected = "out of order or lost")]
    fn a_repetition_is_noticed() {
        let mut seen = seen();
        seen.take(&message(11));
        seen.take(&message(11));
    }

    #[test]
    #[should_panic(expected = "lagging elsewhere")]
    fn a_lag_at_another_place_is_noticed() {
        let mut seen = seen();
        seen.take(&json!({"type": "caught_up", "topic": "a", "cursor": "e:10"}));
        seen.take(&json!({"type": "lagging", "topic": "a", "cursor": "e:11"}));
    }

    #[test]
    #[should_panic(expected = "once per subscribe")]
    fn a_second_caught_up_is_noticed() {
        let mut seen = seen();
        seen.take(&json!({"type": "caught_up", "topic": "a", "cursor": "e:10"}));
        seen.take(&json!({"type": "caught_up", "topic": "a", "cursor": "e:10"}));
    }

    #[test]
    #[should_panic(expected = "left: Number(13)")]
    fn a_gap_that_names_too_little_is_noticed() {
        seen().take(&json!({"type": "gap", "topic": "a", "reason": "expired", "from": 13, "to": 14, "cursor": "e:14"}));
    }

    #[test]
    #[should_panic(expected = "another message than the one acknowledged")]
    fn another_content_is_noticed() {
        let mut seen = seen();
        seen.take(&json!({"type": "message", "topic": "a", "offset": 11, "data": "other"}));
        acked([11]).check(&seen);
    }

    #[test]
    #[should_panic(expected = "seen, or named in a gap")]
    fn an_acknowledged_message_that_a_gap_hides_is_noticed() {
        let mut seen = seen();
        seen.take(&json!({"type": "gap", "topic": "a", "reason": "ahead", "cursor": "e:12"}));
        acked([11, 12]).check(&seen);
    }

    #[test]
    #[should_panic(expected = "one offset, two messages")]
    fn an_offset_given_twice_is_noticed() {
        acked([11, 11]);
    }

    #[test]
    #[should_panic(expected = "is kept after")]
    fn a_publisher_out_of_order_is_noticed() {
        let mut acked = Acked::default();
        acked.kept(&json!("e:1"), &json!({"p": 0, "n": 2}));
        acked.kept(&json!("e:2"), &json!({"p": 0, "n": 1}));
        acked.check_publishers();
    }
}
