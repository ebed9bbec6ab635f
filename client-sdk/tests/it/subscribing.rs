//! Subscriptions: positions, reconnects, gaps, holes, and applications that are slow.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures_util::{StreamExt, TryStreamExt};
use hark_client::{
    Client, ConnectionEvent, Cursor, ErrorCode, Event, Gap, GapReason, NextMessageError,
    Subprotocol, SubscribeError, SubscribeFrom, Subscription,
};
use hark_protocol::{ClientFrame, Epoch, Payload, ServerFrame};
use tokio_tungstenite::tungstenite::Message as WsMessage;

use crate::fake::{Fake, Session, cursor, event, message, pends, topic, within};

/// Subscribes to the topic; the broker says it starts at `offset`.
async fn subscribe(
    client: &Client,
    session: &mut Session,
    from: SubscribeFrom,
    offset: u64,
) -> Subscription {
    let subscribe = client.subscribe("t").from(from).into_future();
    let (subscription, ()) = within("the subscription", async {
        tokio::join!(subscribe, async {
            let (id, asked) = session.next_subscribe().await;
            assert_eq!(asked, from);
            session.subscribed(id, offset).await;
        })
    })
    .await;
    subscription.unwrap()
}

/// The offset of the next event, which is a message.
async fn next_offset(subscription: &mut Subscription) -> u64 {
    match within("a message", subscription.try_next()).await {
        Ok(Some(Event::Message(message))) => message.offset(),
        other => panic!("expected a message: {other:?}"),
    }
}

#[tokio::test]
async fn the_cursor_follows_what_was_taken() {
    let fake = Fake::start().await;
    let (client, mut session) = fake.connect(fake.builder()).await;
    let mut subscription = subscribe(&client, &mut session, SubscribeFrom::Now, 41).await;
    assert_eq!(subscription.cursor(), cursor(41));
    session.message(42).await;
    session.message(43).await;
    session
        .say(ServerFrame::CaughtUp {
            topic: topic(),
            cursor: cursor(43),
        })
        .await;
    assert_eq!(next_offset(&mut subscription).await, 42);
    assert_eq!(
        subscription.cursor(),
        cursor(42),
        "43 is received, but not taken"
    );
    assert_eq!(next_offset(&mut subscription).await, 43);
    assert_eq!(
        within("caught up", subscription.next()).await,
        Some(Ok(Event::CaughtUp(cursor(43))))
    );
}

#[tokio::test]
async fn that_it_lags_is_told_and_moves_nothing() {
    for subprotocol in Subprotocol::ALL {
        let fake = Fake::start().await;
        let (client, mut session) = fake.connect(fake.builder().subprotocol(subprotocol)).await;
        let mut events = client.events();
        let mut subscription = subscribe(&client, &mut session, SubscribeFrom::Now, 41).await;
        session.message(42).await;
        let lagging = |topic: &str, behind| ServerFrame::Lagging {
            topic: topic.parse().unwrap(),
            cursor: cursor(42),
            behind,
        };
        // Of a topic that is not subscribed to nothing is said.
        session.say(lagging("another", Some(1))).await;
        session.say(lagging("t", Some(3400))).await;
        session.say(lagging("t", None)).await;
        session.message(43).await;
        for expected in [Some(3400), None] {
            let told = event(&mut events, |event| match event {
                ConnectionEvent::Lagging {
                    topic: of,
                    cursor,
                    behind,
                } => Some((of.clone(), *cursor, *behind)),
                _ => None,
            });
            assert_eq!(told.await, (topic(), cursor(42), expected));
        }
        assert_eq!(next_offset(&mut subscription).await, 42);
        assert_eq!(next_offset(&mut subscription).await, 43);
    }
}

#[tokio::test]
async fn a_reconnect_goes_on_after_what_was_received() {
    let fake = Fake::start().await;
    let (client, mut session) = fake.connect(fake.builder()).await;
    let mut subscription = subscribe(&client, &mut session, SubscribeFrom::Last(3), 7).await;
    session.message(8).await;
    session.message(9).await;
    drop(session); // both are queued, none is taken

    let mut session = fake.accept().await;
    let (id, from) = session.next_subscribe().await;
    assert_eq!(from, SubscribeFrom::After(cursor(9)));
    session.subscribed(id, 9).await;
    session.message(9).await; // a broker that repeats itself
    session.message(10).await;
    for offset in 8..=10 {
        assert_eq!(next_offset(&mut subscription).await, offset);
    }
    assert_eq!(client.stats().repeated_messages, 1);
}

#[tokio::test]
async fn a_subscription_without_a_position_asks_again_as_it_did() {
    let fake = Fake::start().await;
    let (client, mut session) = fake.connect(fake.builder()).await;
    let subscribe = client
        .subscribe("t")
        .from(SubscribeFrom::SinceAgo(5))
        .into_future();
    let (subscription, _session) = within("the subscription", async {
        tokio::join!(subscribe, async {
            session.next_subscribe().await;
            drop(session);
            let mut session = fake.accept().await;
            let (id, from) = session.next_subscribe().await;
            assert_eq!(from, SubscribeFrom::SinceAgo(5));
            session.subscribed(id, 3).await;
            session
        })
    })
    .await;
    assert_eq!(subscription.unwrap().cursor(), cursor(3));
}

#[tokio::test]
async fn an_idle_subscription_to_now_resumes_with_its_cursor() {
    let fake = Fake::start().await;
    let (client, mut session) = fake.connect(fake.builder()).await;
    let _subscription = subscribe(&client, &mut session, SubscribeFrom::Now, 0).await;
    drop(session);
    let mut session = fake.accept().await;
    assert_eq!(
        session.next_subscribe().await.1,
        SubscribeFrom::After(cursor(0))
    );
}

#[tokio::test]
async fn a_gap_moves_the_position_also_to_another_epoch() {
    let fake = Fake::start().await;
    let (client, mut session) = fake.connect(fake.builder()).await;
    let mut subscription = subscribe(
        &client,
        &mut session,
        SubscribeFrom::After(cursor(100)),
        100,
    )
    .await;
    let elsewhere = |offset| Cursor {
        epoch: Epoch::new(8),
        offset,
    };
    let gap = Gap {
        reason: GapReason::OtherEpoch,
        from: None,
        to: None,
        cursor: elsewhere(2),
    };
    session
        .say(ServerFrame::Gap {
            topic: topic(),
            reason: gap.reason,
            from: None,
            to: None,
            cursor: gap.cursor,
        })
        .await;
    session.message(3).await;
    assert_eq!(
        within("the gap", subscription.next_message()).await,
        Err(NextMessageError::Gap(gap))
    );
    assert_eq!(subscription.cursor(), elsewhere(2));
    let message = within("the message", subscription.next_message())
        .await
        .unwrap();
    assert_eq!(message.cursor, elsewhere(3));

    drop(session);
    let mut session = fake.accept().await;
    assert_eq!(
        session.next_subscribe().await.1,
        SubscribeFrom::After(elsewhere(3))
    );
}

#[tokio::test]
async fn a_gap_whose_reason_only_a_newer_hark_knows_is_a_gap() {
    for subprotocol in Subprotocol::ALL {
        let fake = Fake::start().await;
        let (client, mut session) = fake.connect(fake.builder().subprotocol(subprotocol)).await;
        let mut subscription = subscribe(&client, &mut session, SubscribeFrom::Now, 41).await;
        // The topic goes on with smaller offsets: what follows would be taken for repeats if the gap were dropped.
        let gap = match subprotocol {
            Subprotocol::Json => WsMessage::text(
                r#"{"type":"gap","topic":"t","reason":"eaten_by_moths","cursor":"7:2"}"#,
            ),
            Subprotocol::Bincode => {
                WsMessage::binary(&b"\x86\x01t\x0eeaten_by_moths\x00\x00\x037:2"[..])
            }
        };
        session.say_raw(gap).await;
        session.message(3).await;
        let told = within("the gap", subscription.try_next()).await;
        let expected = Gap {
            reason: GapReason::Unknown,
            from: None,
            to: None,
            cursor: cursor(2),
        };
        assert_eq!(told, Ok(Some(Event::Gap(expected))));
        assert_eq!(next_offset(&mut subscription).await, 3);
    }
}

#[tokio::test]
async fn a_topic_that_does_not_come_through_is_told_and_left_alone() {
    let fake = Fake::start().await;
    let (client, mut session) = fake.connect(fake.builder()).await;
    let mut events = client.events();
    let subscription = subscribe(&client, &mut session, SubscribeFrom::Now, 41).await;
    for _ in 0..4 {
        drop(session);
        session = fake.accept().await;
        let (id, from) = session.next_subscribe().await;
        assert_eq!(from, SubscribeFrom::After(cursor(41)));
        session.subscribed(id, 41).await;
        // The client has it before the connection is lost.
        event(&mut events, |event| {
            matches!(event, ConnectionEvent::Resumed { .. }).then_some(())
        })
        .await;
    }
    drop(session);
    let stuck = event(&mut events, |event| match event {
        ConnectionEvent::Stuck {
            topic,
            cursor,
            tries,
        } => Some((topic.clone(), *cursor, *tries)),
        _ => None,
    });
    assert_eq!(stuck.await, (topic(), cursor(41), 5));

    // The client goes on with everything else, and does not ask for this topic on the next connection.
    let mut session = fake.accept().await;
    let _pending = client.publish("u", &1).send().await.unwrap();
    session.next_publish().await;
    // Dropped and subscribed again, it is asked for at once.
    drop(subscription);
    let _again = subscribe(&client, &mut session, SubscribeFrom::After(cursor(42)), 42).await;
}

#[tokio::test]
async fn a_queue_that_is_full_does_not_grow_with_every_reconnect() {
    let fake = Fake::start().await;
    let (client, mut session) = fake.connect(fake.builder().queue(1, 1 << 20)).await;
    let mut subscription = subscribe(&client, &mut session, SubscribeFrom::Now, 0).await;
    session.message(1).await;
    for connection in 0..5 {
        // A receipt that was said behind the message has come: so has the message.
        let pending = client.publish("u", &connection).send().await.unwrap();
        // What is said of subscriptions goes before what is published.
        let (id, ..) = session.next_publish().await;
        session.published(id, 1).await;
        assert!(within("the receipt", pending).await.is_ok());
        drop(session);
        session = fake.accept().await;
    }
    assert_eq!(next_offset(&mut subscription).await, 1);
    let (id, from) = session.next_subscribe().await;
    assert_eq!(from, SubscribeFrom::After(cursor(1)));
    session.subscribed(id, 1).await;
    session.message(2).await;
    assert_eq!(next_offset(&mut subscription).await, 2);
}

#[tokio::test]
async fn what_waits_for_a_subscription_that_is_dropped_is_nobodys() {
    let fake = Fake::start().await;
    let (client, mut session) = fake.connect(fake.builder()).await;
    let mut first = subscribe(&client, &mut session, SubscribeFrom::Now, 0).await;
    for offset in 1..=3 {
        session.message(offset).await;
    }
    assert_eq!(next_offset(&mut first).await, 1);
    assert_eq!(first.cursor(), cursor(1), "of what was taken alone");
    drop(first);
    let id = session.next_unsubscribe().await;
    session.message(4).await;
    session.unsubscribed(id).await;
    let mut second = subscribe(&client, &mut session, SubscribeFrom::After(cursor(1)), 1).await;
    assert_eq!(second.cursor(), cursor(1));
    session.message(2).await;
    assert_eq!(next_offset(&mut second).await, 2);
    assert_eq!(second.cursor(), cursor(2));
}

#[tokio::test]
async fn another_epoch_without_a_word_is_a_gap_too() {
    let fake = Fake::start().await;
    let (client, mut session) = fake.connect(fake.builder()).await;
    let mut subscription = subscribe(&client, &mut session, SubscribeFrom::Now, 5).await;
    drop(session);
    let mut session = fake.accept().await;
    let (id, _) = session.next_subscribe().await;
    let cursor = Cursor {
        epoch: Epoch::new(8),
        offset: 1,
    };
    session
        .say(ServerFrame::Subscribed {
            id: Some(id),
            topic: topic(),
            cursor,
            head: 1,
            resumed: false,
        })
        .await;
    let event = within("the gap", subscription.next()).await;
    assert!(
        matches!(event, Some(Ok(Event::Gap(Gap { reason: GapReason::OtherEpoch, cursor: c, .. }))) if c == cursor)
    );
}

#[tokio::test]
async fn an_epoch_that_shares_the_beginning_is_taken_over() {
    let fake = Fake::start().await;
    let (client, mut session) = fake.connect(fake.builder()).await;
    let mut subscription = subscribe(&client, &mut session, SubscribeFrom::Now, 5).await;
    drop(session);
    let mut session = fake.accept().await;
    let (id, _) = session.next_subscribe().await;
    let elsewhere = |offset| Cursor {
        epoch: Epoch::new(8),
        offset,
    };
    session
        .say(ServerFrame::Subscribed {
            id: Some(id),
            topic: topic(),
            cursor: elsewhere(5),
            head: 6,
            resumed: true,
        })
        .await;
    session.message(6).await;
    let event = within("the message", subscription.next()).await;
    assert!(matches!(event, Some(Ok(Event::Message(m))) if m.cursor == elsewhere(6)));
    assert_eq!(subscription.cursor(), elsewhere(6));
}

#[tokio::test]
async fn a_hole_is_asked_about() {
    let fake = Fake::start().await;
    let (client, mut session) = fake.connect(fake.builder()).await;
    let mut subscription = subscribe(&client, &mut session, SubscribeFrom::Now, 0).await;
    session.message(1).await;
    session.message(4).await;
    session.message(5).await;
    let id = session.next_unsubscribe().await;
    session.message(6).await; // was on its way
    session.unsubscribed(id).await;
    let (id, from) = session.next_subscribe().await;
    assert_eq!(from, SubscribeFrom::After(cursor(1)));
    session.subscribed(id, 1).await;
    for offset in 2..=6 {
        session.message(offset).await;
    }
    for offset in 1..=6 {
        assert_eq!(next_offset(&mut subscription).await, offset);
    }
    assert_eq!(client.stats().holes, 1);
}

#[tokio::test]
async fn a_hole_that_stays_becomes_a_gap() {
    let fake = Fake::start().await;
    let (client, mut session) = fake.connect(fake.builder()).await;
    let mut subscription = subscribe(&client, &mut session, SubscribeFrom::Now, 0).await;
    for _ in 0..3 {
        session.message(3).await;
        let id = session.next_unsubscribe().await;
        session.unsubscribed(id).await;
        let (id, _) = session.next_subscribe().await;
        session.subscribed(id, 0).await;
    }
    session.message(3).await;
    let gap = Gap {
        reason: GapReason::Lost,
        from: Some(1),
        to: Some(2),
        cursor: cursor(2),
    };
    assert_eq!(
        within("the gap", subscription.next()).await,
        Some(Ok(Event::Gap(gap)))
    );
    assert_eq!(next_offset(&mut subscription).await, 3);
}

#[tokio::test]
async fn offsets_that_skip_are_no_holes_when_the_broker_says_so() {
    let fake = Fake::start().await;
    let (client, mut session) = fake.connect(fake.builder()).await;
    let mut subscription = subscribe(&client, &mut session, SubscribeFrom::Now, 10).await;
    let ServerFrame::Message { topic, mut record } = message(50) else {
        panic!("a message")
    };
    record.prev = Some(8); // before the position: nothing of this topic lies in between
    session.say(ServerFrame::Message { topic, record }).await;
    assert_eq!(next_offset(&mut subscription).await, 50);
    assert_eq!(client.stats().holes, 0);
}

#[tokio::test]
async fn one_subscription_for_each_topic() {
    let fake = Fake::start().await;
    let (client, mut session) = fake.connect(fake.builder()).await;
    let first = subscribe(&client, &mut session, SubscribeFrom::Now, 0).await;
    assert_eq!(
        client.subscribe("t").await.unwrap_err(),
        SubscribeError::AlreadySubscribed(topic())
    );
    drop(first);

    // The next one waits until the broker has ended the first, and gets nothing of it.
    let again = client
        .subscribe("t")
        .from(SubscribeFrom::Earliest)
        .into_future();
    let (again, ()) = within("the subscription", async {
        tokio::join!(again, async {
            let id = session.next_unsubscribe().await;
            assert!(pends(session.try_next()).await);
            session.message(1).await;
            session.unsubscribed(id).await;
            let (id, from) = session.next_subscribe().await;
            assert_eq!(from, SubscribeFrom::Earliest);
            session.subscribed(id, 0).await;
            session.message(1).await;
        })
    })
    .await;
    assert_eq!(next_offset(&mut again.unwrap()).await, 1);
    assert_eq!(client.stats().repeated_messages, 0);
}

#[tokio::test]
async fn an_answer_to_a_dropped_subscribe_is_not_taken_for_the_next() {
    let fake = Fake::start().await;
    let (client, mut session) = fake.connect(fake.builder()).await;
    assert!(pends(client.subscribe("t").into_future()).await); // and dropped
    let (first, _) = session.next_subscribe().await;
    let again = client
        .subscribe("t")
        .from(SubscribeFrom::Earliest)
        .into_future();
    let (again, ()) = within("the subscription", async {
        tokio::join!(again, async {
            session.subscribed(first, 77).await;
            let id = session.next_unsubscribe().await;
            session.unsubscribed(id).await;
            let (id, from) = session.next_subscribe().await;
            assert_eq!(from, SubscribeFrom::Earliest);
            session.subscribed(id, 0).await;
        })
    })
    .await;
    assert_eq!(again.unwrap().cursor(), cursor(0));
}

#[tokio::test]
async fn unsubscribe_waits_for_the_broker() {
    let fake = Fake::start().await;
    let (client, mut session) = fake.connect(fake.builder()).await;
    let subscription = subscribe(&client, &mut session, SubscribeFrom::Now, 0).await;
    within("the end", async {
        tokio::join!(subscription.unsubscribe(), async {
            let id = session.next_unsubscribe().await;
            session.unsubscribed(id).await;
        })
    })
    .await;
    // And does not hang without a connection.
    let subscription = subscribe(&client, &mut session, SubscribeFrom::Now, 0).await;
    drop((session, fake));
    within("the end", subscription.unsubscribe()).await;
}

#[tokio::test]
async fn refused_for_good_or_for_now() {
    let fake = Fake::start().await;
    let (client, mut session) = fake.connect(fake.builder()).await;
    let (refused, ()) = tokio::join!(client.subscribe("t").into_future(), async {
        for code in [ErrorCode::Busy, ErrorCode::Internal, ErrorCode::Forbidden] {
            let (id, _) = session.next_subscribe().await;
            session.refuse(id, code).await;
        }
    });
    let Err(SubscribeError::Refused {
        code: ErrorCode::Forbidden,
        ..
    }) = refused
    else {
        panic!("{refused:?}")
    };

    // A right that is gone after a reconnect ends the stream.
    let mut subscription = subscribe(&client, &mut session, SubscribeFrom::Now, 0).await;
    drop(session);
    let mut session = fake.accept().await;
    let (id, _) = session.next_subscribe().await;
    session.refuse(id, ErrorCode::Forbidden).await;
    let end = within("the end", subscription.next()).await;
    assert!(
        matches!(
            end,
            Some(Err(SubscribeError::Refused {
                code: ErrorCode::Forbidden,
                ..
            }))
        ),
        "{end:?}"
    );
    assert_eq!(subscription.next().await, None);
}

#[tokio::test]
async fn a_subscription_that_the_broker_ended_is_made_again() {
    let fake = Fake::start().await;
    let (client, mut session) = fake.connect(fake.builder()).await;
    let _subscription = subscribe(&client, &mut session, SubscribeFrom::Now, 4).await;
    session
        .say(ServerFrame::Unsubscribed {
            id: None,
            topic: topic(),
        })
        .await;
    assert_eq!(
        session.next_subscribe().await.1,
        SubscribeFrom::After(cursor(4))
    );
}

#[tokio::test]
async fn a_broker_that_knows_the_subscription_already_is_told_to_forget_it() {
    let fake = Fake::start().await;
    let (client, mut session) = fake.connect(fake.builder()).await;
    let (subscription, ()) = tokio::join!(client.subscribe("t").into_future(), async {
        let (id, _) = session.next_subscribe().await;
        session.refuse(id, ErrorCode::AlreadySubscribed).await;
        let id = session.next_unsubscribe().await;
        session.unsubscribed(id).await;
        let (id, _) = session.next_subscribe().await;
        session.subscribed(id, 2).await;
    });
    assert_eq!(subscription.unwrap().cursor(), cursor(2));
}

/// Sends the messages up to `until`, each of `size` bytes, as fast as the client takes them, and obeys its commands. Counts
/// what was sent.
async fn flood(mut session: Session, until: u64, size: usize, sent: Arc<AtomicU64>) {
    let mut next = Some(1);
    loop {
        let waiting = next.filter(|offset| *offset <= until);
        tokio::select! {
            biased;
            frame = session.try_next() => match frame {
                Ok(ClientFrame::Unsubscribe { id: Some(id), .. }) => {
                    session.unsubscribed(id).await;
                    next = None;
                }
                Ok(ClientFrame::Subscribe { id: Some(id), from: SubscribeFrom::After(at), .. }) => {
                    session.subscribed(id, at.offset).await;
                    next = Some(at.offset + 1);
                }
                Ok(ClientFrame::Publish { id: Some(id), .. }) => session.published(id, 1).await,
                Ok(other) => panic!("{other:?}"),
                Err(_) => return,
            },
            () = std::future::ready(()), if waiting.is_some() => {
                let Some(offset) = waiting else { continue };
                session.say(message_of(offset, size)).await;
                sent.fetch_add(1, Ordering::Relaxed);
                next = Some(offset + 1);
            }
        }
    }
}

fn message_of(offset: u64, size: usize) -> ServerFrame {
    let ServerFrame::Message { topic, mut record } = message(offset) else {
        panic!("a message")
    };
    record.message.payload = Payload::Bytes {
        data: vec![b'x'; size].into(),
        content_type: None,
    };
    ServerFrame::Message { topic, record }
}

#[tokio::test]
async fn a_receipt_awaited_between_two_messages_does_not_hang() {
    // Given a queue of 4 and a broker that has 2,000 messages,
    let fake = Fake::start().await;
    let (client, mut session) = fake.connect(fake.builder().queue(4, 1024 * 1024)).await;
    let mut events = client.events();
    let mut subscription = subscribe(&client, &mut session, SubscribeFrom::Earliest, 0).await;
    let broker = tokio::spawn(flood(session, 2_000, 10, Arc::default()));

    // when the application publishes one message for each of some that it reads,
    for offset in 1..=10 {
        assert_eq!(next_offset(&mut subscription).await, offset);
        within("the receipt", client.publish("t", &offset).receipt())
            .await
            .unwrap();
    }

    // then nobody waits for ever, and nothing is lost or repeated.
    let paused =
        |event: &ConnectionEvent| matches!(event, ConnectionEvent::Paused { .. }).then_some(());
    event(&mut events, paused).await;
    for offset in 11..=2_000 {
        assert_eq!(next_offset(&mut subscription).await, offset);
    }
    assert_eq!(client.stats().repeated_messages, 0);
    broker.abort();
}

#[tokio::test]
async fn a_slow_subscription_does_not_starve_its_neighbour() {
    let fake = Fake::start().await;
    let (client, mut session) = fake.connect(fake.builder().queue(4, 1024 * 1024)).await;
    let slow = subscribe(&client, &mut session, SubscribeFrom::Earliest, 0).await;
    let (other, ()) = tokio::join!(client.subscribe("other").into_future(), async {
        let (id, _) = session.next_subscribe().await;
        session.subscribed(id, 0).await;
    });
    let mut other = other.unwrap();
    for offset in 1..=20 {
        session.message(offset).await;
    }
    let ServerFrame::Message { record, .. } = message(1) else {
        panic!("a message")
    };
    session
        .say(ServerFrame::Message {
            topic: other.topic().clone(),
            record,
        })
        .await;
    assert_eq!(next_offset(&mut other).await, 1);
    session.next_unsubscribe().await;
    assert_eq!(slow.cursor(), cursor(0));
}

#[tokio::test]
async fn a_lone_slow_application_slows_the_broker_down() {
    // Given 40 MB, more than the sockets of both sides hold, and an application that takes nothing,
    let fake = Fake::start().await;
    let (client, mut session) = fake.connect(fake.builder().queue(16, 64 * 1024)).await;
    let mut subscription = subscribe(&client, &mut session, SubscribeFrom::Earliest, 0).await;
    let sent = Arc::new(AtomicU64::new(0));
    let broker = tokio::spawn(flood(session, 4_000, 10_000, Arc::clone(&sent)));

    // when the broker cannot send any more,
    let mut before = u64::MAX;
    within("the broker to be held back", async {
        while sent.load(Ordering::Relaxed) != before {
            before = sent.load(Ordering::Relaxed);
            tokio::time::sleep(Duration::from_millis(300)).await;
        }
    })
    .await;
    assert!((1..4_000).contains(&before), "held back after {before}");

    // then everything arrives once the application takes it, and nothing had to be sent twice.
    for offset in 1..=4_000 {
        assert_eq!(next_offset(&mut subscription).await, offset);
    }
    assert_eq!(sent.load(Ordering::Relaxed), 4_000);
    broker.abort();
}
