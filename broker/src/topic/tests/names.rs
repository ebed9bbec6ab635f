//! The topics of both engines together: how many are looked at for a page.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use hark_protocol::{Idempotency, JsonText, TopicPattern};

use super::gated::Gated;
use super::*;
use crate::message_log::{Append, List, NewRecord};
use crate::topic::names;

fn keep_one(log: &Gated, name: &str) {
    let (send, opened) = std::sync::mpsc::channel();
    log.open(
        topic(name),
        Arc::new(|_| ()),
        Box::new(move |opened| send.send(opened.unwrap().generation).unwrap()),
    );
    let message = Message {
        payload: hark_protocol::Payload::Json(JsonText::check("1".into()).unwrap()),
        headers: Headers::default(),
    };
    log.append(Append {
        topic: topic(name),
        generation: opened.recv().unwrap(),
        records: vec![NewRecord {
            message,
            identity: None,
            idempotency: Idempotency::None,
        }],
        done: Box::new(|kept| drop(kept.unwrap())),
    });
}

#[tokio::test]
async fn a_page_of_topics_costs_what_it_shows_and_shows_each_name_once() {
    let clock = Clock::system();
    let (synced, memory) = (Gated::new(&clock), Gated::new(&clock));
    for n in 0..400 {
        keep_one(&synced, &format!("t{n:03}.disk"));
        keep_one(&memory, &format!("t{n:03}.mem"));
    }
    for name in ["both.a.mem", "both.b.mem", "both.c.mem", "both.d"] {
        keep_one(&synced, name);
    }
    keep_one(&memory, "both.b.mem");
    let engines = Engines {
        synced: synced.clone(),
        memory: memory.clone(),
        memory_topics: Arc::new([TopicPattern::parse("both.*.mem").unwrap()]),
    };
    let listed = || synced.listed.load(Ordering::Relaxed) + memory.listed.load(Ordering::Relaxed);
    let list = async |prefix: &str, after: Option<&str>, limit: usize| {
        let before = listed();
        let order = List {
            prefix: prefix.to_owned(),
            after: after.map(topic),
            limit,
        };
        let found = names::list(&engines, order).await.unwrap();
        let found: Vec<_> = found
            .into_iter()
            .map(|info| info.topic.to_string())
            .collect();
        (found, listed() - before)
    };

    let (found, looked_at) = list("t2", None, 3).await;
    assert_eq!(found, ["t200.disk", "t200.mem", "t201.disk"]);
    assert!(looked_at <= 6, "{looked_at}");
    let (found, looked_at) = list("t399", Some("t399.disk"), 2).await;
    assert_eq!(found, ["t399.mem"]);
    assert!(looked_at <= 2, "{looked_at}");
    let (found, looked_at) = list("none", None, 2).await;
    assert_eq!((found.len(), looked_at), (0, 0));

    // However many are hidden, a page is as full as it can be.
    assert_eq!(list("both", None, 1).await.0, ["both.b.mem"]);
    assert_eq!(list("both", None, 9).await.0, ["both.b.mem", "both.d"]);
    let after = Some("both.b.mem");
    assert_eq!(list("both", after, 1).await.0, ["both.d"]);
}
