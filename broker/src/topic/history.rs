//! Reading without joining: one page, for HTTP. Starts where a subscription would and reads what one would.

use std::sync::Arc;

use actix::prelude::*;
use hark_protocol::{Cursor, SubscribeFrom};
use tokio::sync::oneshot;

use super::subscribe::{Missing, Resolved, Start};
use super::{Place, Room};
use crate::message_log::{LogError, MessageLog, Page, PageItem, Read};
use hark_protocol::{ServerFrame, TopicName};

/// Order: read a page. Answered through `reply`; dropped unanswered if the room dies.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct History {
    /// Where to start.
    pub from: SubscribeFrom,
    /// The most messages; 0: only where the reader would start.
    pub max_records: usize,
    /// The most bytes of payload (but at least one message).
    pub max_bytes: usize,
    /// Where the answer goes.
    pub reply: oneshot::Sender<Result<HistoryPage, LogError>>,
}

/// A page of a topic's history.
#[derive(Debug)]
pub struct HistoryPage {
    /// What cannot be had before the page begins: a `gap` frame.
    pub gap: Option<ServerFrame>,
    /// Records and further gaps.
    pub page: Page,
    /// The reader's position after the page.
    pub cursor: Cursor,
    /// Whether there was nothing more when the page was read.
    pub caught_up: bool,
}

impl Room {
    pub(super) fn history(&mut self, order: History, _: &mut Context<Self>) {
        self.last_used = std::time::Instant::now();
        let reading = Reading {
            topic: self.topic.clone(),
            place: self.place.clone(),
            log: self.log.clone(),
            tell_identity: self.tells_identity(),
            order,
        };
        match self
            .place
            .resolve(reading.order.from, self.settings.clock.now_ms())
        {
            Resolved::Start(start) => {
                let (max_bytes, max_records) = (reading.order.max_bytes, reading.order.max_records);
                match self.page_of_tail(start.position, max_bytes, max_records) {
                    Some(page) => reading.answer(start, Ok(page)),
                    None => reading.read(start),
                }
            }
            Resolved::AskLog { since_ms } => {
                let (topic, head) = (self.topic.clone(), self.place.head);
                let done = Box::new(move |found: Result<u64, LogError>| match found {
                    Ok(position) => {
                        let position = position.max(reading.place.first - 1);
                        let asked = reading.place.cursor(position);
                        reading.read(Start {
                            asked,
                            position,
                            gap: None,
                        });
                    }
                    Err(error) => reading.refuse(error),
                });
                self.log.find_time(topic, since_ms, head, done);
            }
        }
    }

    /// The page after `position`, if the tail reaches back so far: what many readers ask for who wait at the head.
    fn page_of_tail(&self, position: u64, max_bytes: usize, max_records: usize) -> Option<Page> {
        if position + 1 < self.place.first || !self.tail.covers(position) {
            return None;
        }
        let mut items = Vec::new();
        let mut reached = position;
        let mut bytes = 0;
        let batches = self.tail.after(position);
        for record in batches.flat_map(|batch| &batch.records()[batch.start_after(position)..]) {
            bytes += record.message.size_bytes();
            if items.len() == max_records || (bytes > max_bytes && !items.is_empty()) {
                break;
            }
            items.push(PageItem::Record(record.clone()));
            reached = record.offset;
        }
        Some(Page { items, reached })
    }
}

/// A page on its way; goes on by itself, the room has nothing to add.
struct Reading {
    topic: TopicName,
    place: Place,
    log: Arc<dyn MessageLog>,
    tell_identity: bool,
    order: History,
}

impl Reading {
    fn read(self, start: Start) {
        if self.order.max_records == 0 {
            let (items, reached) = (Vec::new(), start.position);
            return self.answer(start, Ok(Page { items, reached }));
        }
        let read = Read {
            topic: self.topic.clone(),
            epoch: self.place.epoch,
            after: start.position,
            up_to: self.place.head,
            max_bytes: self.order.max_bytes,
            max_records: self.order.max_records,
            tell_identity: self.tell_identity,
        };
        let log = self.log.clone();
        log.read(read, Box::new(move |found| self.answer(start, found)));
    }

    fn answer(self, start: Start, found: Result<Page, LogError>) {
        let page = match found {
            Ok(page) => page,
            Err(error) => return self.refuse(error),
        };
        let found = HistoryPage {
            gap: start
                .gap
                .map(|gap: Missing| gap.frame(&self.topic, self.place.cursor(start.position))),
            cursor: self.place.cursor(page.reached),
            caught_up: page.reached >= self.place.head,
            page,
        };
        // The request may have been given up meanwhile.
        drop(self.order.reply.send(Ok(found)));
    }

    fn refuse(self, error: LogError) {
        drop(self.order.reply.send(Err(error)));
    }
}
