//! One connection that publishes as fast as it is answered, and says how long each receipt took.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use tokio::io::AsyncWriteExt;
use tokio::net::tcp::OwnedWriteHalf;

use crate::wire::{Reader, TEXT, connect, frame};

pub(crate) struct Publisher {
    reader: Reader,
    writer: OwnedWriteHalf,
    last_id: u64,
}

impl Publisher {
    pub(crate) async fn connect(address: &str) -> Self {
        let (reader, writer) = connect(address, "/ws").await;
        Self {
            reader,
            writer,
            last_id: 0,
        }
    }

    /// Publishes to each of the topics in turn, so many unanswered at a time, and waits for every receipt. What is answered
    /// `busy` is sent again.
    pub(crate) async fn publish(
        &mut self,
        topics: impl IntoIterator<Item = String>,
        payload_bytes: usize,
        in_flight: usize,
        mut receipt: impl FnMut(Duration),
    ) {
        let filler = "x".repeat(payload_bytes.saturating_sub(2));
        let mut topics = topics.into_iter();
        let mut again: Vec<String> = Vec::new();
        let mut unanswered: HashMap<u64, (String, Instant)> = HashMap::new();
        loop {
            let mut frames = Vec::new();
            while unanswered.len() < in_flight {
                let Some(topic) = again.pop().or_else(|| topics.next()) else {
                    break;
                };
                self.last_id += 1;
                let id = self.last_id;
                let publish = format!(
                    r#"{{"type":"publish","id":{id},"topic":"{topic}","data":"{filler}"}}"#
                );
                frame(&mut frames, TEXT, publish.as_bytes());
                unanswered.insert(id, (topic, Instant::now()));
            }
            if unanswered.is_empty() {
                return;
            }
            self.writer.write_all(&frames).await.unwrap();
            self.reader
                .some_frames(|frame| {
                    let Some((topic, sent)) = id_in(frame).and_then(|id| unanswered.remove(&id))
                    else {
                        return false;
                    };
                    if frame.starts_with(br#"{"type":"published""#) {
                        receipt(sent.elapsed());
                    } else {
                        let text = String::from_utf8_lossy(frame);
                        assert!(text.contains(r#""code":"busy""#), "{text}");
                        again.push(topic);
                    }
                    true
                })
                .await;
        }
    }
}

fn id_in(frame: &[u8]) -> Option<u64> {
    let text = std::str::from_utf8(frame).ok()?;
    let (_, rest) = text.split_once(r#""id":"#)?;
    let end = rest.find(|c: char| !c.is_ascii_digit())?;
    rest[..end].parse().ok()
}
