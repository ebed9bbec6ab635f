//! A page of a topic's history as it is answered.

use hark_protocol::{Cursor, ServerFrame, TopicName, codec};

use crate::message_log::PageItem;
use crate::topic::HistoryPage;

/// A page as it is answered: at most one gap, and that before the messages. What comes behind a second one is the next page's.
pub(super) struct Page {
    topic: TopicName,
    gap: Option<String>,
    messages: Vec<String>,
    pub(super) cursor: Cursor,
    pub(super) caught_up: bool,
}

impl Page {
    pub(super) fn cut(found: HistoryPage, topic: &TopicName) -> Self {
        let HistoryPage {
            gap,
            page,
            cursor,
            caught_up,
        } = found;
        let at = |offset| Cursor {
            epoch: cursor.epoch,
            offset,
        };
        let gap_frame = |frame: &ServerFrame| codec::json::encode_server(frame).to_string();
        let mut cut = Self {
            topic: topic.clone(),
            gap: gap.as_ref().map(gap_frame),
            messages: Vec::new(),
            cursor,
            caught_up,
        };
        let mut position = match gap {
            Some(ServerFrame::Gap { cursor, .. }) => Some(cursor),
            _ => None,
        };
        for item in page.items {
            match item {
                PageItem::Record(record) => {
                    position = Some(at(record.offset));
                    cut.messages
                        .push(codec::json::encode_message(topic, &record).to_string());
                }
                PageItem::Gap { reason, from, to }
                    if cut.gap.is_none() && cut.messages.is_empty() =>
                {
                    position = Some(at(to));
                    let (topic, cursor) = (topic.clone(), at(to));
                    cut.gap = Some(gap_frame(&ServerFrame::Gap {
                        topic,
                        reason,
                        from: Some(from),
                        to: Some(to),
                        cursor,
                    }));
                }
                PageItem::Gap { .. } => {
                    cut.cursor = position.unwrap_or(cursor);
                    cut.caught_up = false;
                    break;
                }
            }
        }
        cut
    }

    /// Whether it says nothing but where the reader is.
    pub(super) fn is_empty(&self) -> bool {
        self.messages.is_empty() && self.gap.is_none()
    }

    /// What it takes in an answer, roughly.
    pub(super) fn bytes(&self) -> usize {
        self.messages.iter().map(String::len).sum()
    }

    /// The page as JSON; with its topic where there are several.
    pub(super) fn json(&self, with_topic: bool) -> String {
        // A topic's name holds nothing that JSON would escape.
        let topic = match with_topic {
            true => format!("\"topic\":\"{}\",", self.topic),
            false => String::new(),
        };
        let gap = self
            .gap
            .as_ref()
            .map(|gap| format!(",\"gap\":{gap}"))
            .unwrap_or_default();
        let messages = self.messages.join(",");
        format!(
            "{{{topic}\"messages\":[{messages}],\"cursor\":\"{}\",\"caught_up\":{}{gap}}}",
            self.cursor, self.caught_up
        )
    }
}
