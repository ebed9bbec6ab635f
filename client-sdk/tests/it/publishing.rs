//! Publishing over a real socket. The rules of sending again are tested beside `outbox`; here, that they are obeyed.

use std::time::Duration;

use hark_client::{
    ConnectionEvent, ErrorCode, FirstConnection, JsonText, Producer, PublishError, Subprotocol,
    SubscribeError,
};
use hark_protocol::{ClientFrame, Idempotency, Payload, ServerFrame, TopicOutcome, TopicReceipt};
use serde_json::json;

use crate::fake::{Fake, cursor, event, message_of, pends, within};

#[tokio::test]
async fn a_message_in_both_subprotocols() {
    for subprotocol in Subprotocol::ALL {
        let fake = Fake::start().await;
        let (client, mut session) = fake.connect(fake.builder().subprotocol(subprotocol)).await;
        assert_eq!(session.subprotocol, subprotocol);
        let (receipt, ()) = tokio::join!(
            client
                .publish("t", &json!({"a": [1, 2]}))
                .header("trace", "7")
                .message_id("m1")
                .receipt(),
            async {
                let ClientFrame::Publish {
                    id: Some(id),
                    topic,
                    message,
                    idempotency,
                } = session.next().await
                else {
                    panic!("expected a publish");
                };
                assert_eq!(topic.as_str(), "t");
                assert_eq!(message.headers.get("trace"), Some("7"));
                let Payload::Json(text) = message.payload else {
                    panic!("expected JSON")
                };
                assert_eq!(text.as_str(), r#"{"a":[1,2]}"#);
                assert!(matches!(idempotency, Idempotency::Key(key) if key.as_str() == "m1"));
                session.published(id, 5).await;
            }
        );
        let receipt = receipt.unwrap();
        assert_eq!((receipt.cursor, receipt.duplicate), (cursor(5), false));
    }
}

#[tokio::test]
async fn text_in_both_subprotocols() {
    for subprotocol in Subprotocol::ALL {
        let fake = Fake::start().await;
        let (client, mut session) = fake.connect(fake.builder().subprotocol(subprotocol)).await;
        let pending = client.publish_text("t", "Grüße\n").send().await.unwrap();
        let ClientFrame::Publish { message, .. } = session.next().await else {
            panic!("expected a publish")
        };
        assert_eq!(message.payload, Payload::plain_text("Grüße\n"));
        drop(pending);

        let (subscription, ()) = tokio::join!(client.subscribe("t"), async {
            let (id, _) = session.next_subscribe().await;
            session.subscribed(id, 0).await;
        });
        let mut subscription = subscription.unwrap();
        // As it came, and as Hark would pass on what is longer as text.
        let payloads = [message.payload, Payload::plain_text("\0\u{1}")];
        for (offset, payload) in (1..).zip(payloads) {
            session.say(message_of(offset, payload)).await;
        }
        for expected in ["Grüße\n", "\0\u{1}"] {
            let message = within("a message", subscription.next_message()).await;
            assert_eq!(message.unwrap().text(), Some(expected));
        }
    }
}

#[tokio::test]
async fn one_message_to_several_topics_goes_in_one_frame_where_the_broker_knows_it() {
    for subprotocol in Subprotocol::ALL {
        let mut fake = Fake::start().await;
        fake.version = "0.2.0";
        let (client, mut session) = fake.connect(fake.builder().subprotocol(subprotocol)).await;
        let (receipts, ()) = tokio::join!(
            client
                .publish_all(["a", "b..", "c"], &json!({"a": 1}))
                .header("trace", "7")
                .receipts(),
            async {
                let ClientFrame::PublishAll {
                    id: Some(id),
                    publish,
                } = session.next().await
                else {
                    panic!("expected a publish to several topics");
                };
                let topics: Vec<&str> = publish.topics().iter().map(|t| t.as_str()).collect();
                assert_eq!(topics, ["a", "c"], "what is no topic is not sent");
                assert_eq!(publish.message().headers.get("trace"), Some("7"));
                for at in 0..2 {
                    let numbered = publish.idempotency_at(at);
                    assert!(matches!(numbered, Idempotency::Sequence { seq: 1, .. }));
                }
                let kept = TopicOutcome::Kept {
                    cursor: cursor(5),
                    duplicate: false,
                };
                let refused = TopicOutcome::Refused {
                    code: ErrorCode::Forbidden,
                    message: "no".into(),
                    expected_seq: None,
                };
                let receipts = publish.into_topics().into_iter().zip([kept, refused]);
                let receipts = receipts
                    .map(|(topic, outcome)| TopicReceipt { topic, outcome })
                    .collect();
                session
                    .say(ServerFrame::PublishedAll { id, receipts })
                    .await;
            }
        );
        let receipts = receipts.unwrap();
        assert_eq!(receipts[0].as_ref().unwrap().cursor, cursor(5));
        assert!(matches!(receipts[1], Err(PublishError::BadTopic(_))));
        assert!(matches!(
            receipts[2],
            Err(PublishError::Refused {
                code: ErrorCode::Forbidden,
                ..
            })
        ));
        let twice = client.publish_all(["a", "a"], "x").send().await;
        assert!(matches!(twice, Err(PublishError::TopicTwice(_))));
        let none: [&str; 0] = [];
        assert_eq!(client.publish_all(none, "x").receipts().await, Ok(vec![]));
    }
}

#[tokio::test]
async fn to_an_older_broker_one_message_to_several_topics_is_one_for_each() {
    let fake = Fake::start().await;
    let (client, mut session) = fake.connect(fake.builder()).await;
    let pending = client.publish_all(["a", "b"], "x").send().await.unwrap();
    for expected in ["a", "b"] {
        let ClientFrame::Publish {
            id: Some(id),
            topic,
            ..
        } = session.next().await
        else {
            panic!("expected a publish to one topic");
        };
        assert_eq!(topic.as_str(), expected);
        session.published(id, 1).await;
    }
    assert!(pending.await.iter().all(Result::is_ok));
}

#[tokio::test]
async fn receipts_that_do_not_come_in_time_fail_alone_and_each_topic_has_a_place() {
    let mut fake = Fake::start().await;
    fake.version = "0.2.0";
    let builder = fake
        .builder()
        .window(3)
        .request_timeout(Duration::from_millis(300));
    let (client, mut session) = fake.connect(builder).await;
    let pending = client.publish_all(["a", "b"], "x").send().await.unwrap();
    assert!(matches!(
        session.next().await,
        ClientFrame::PublishAll { .. }
    ));
    let full = client.publish_all(["c", "d"], "x").send().await;
    assert!(matches!(full, Err(PublishError::WindowFull(_))), "{full:?}");
    let late = pending.await;
    assert!(
        late.iter()
            .all(|receipt| matches!(receipt, Err(PublishError::TimedOut(_))))
    );
    // More topics than places: it takes all of them, when they are free. Not before the first is answered.
    let (client, _session) = fake.connect(fake.builder().window(3)).await;
    drop(
        client
            .publish_all(["a", "b", "c", "d", "e"], "x")
            .send()
            .await
            .unwrap(),
    );
}

#[tokio::test]
async fn bytes_and_checked_json() {
    let fake = Fake::start().await;
    let (client, mut session) = fake.connect(fake.builder()).await;
    let json = JsonText::check(" {\n\"a\" : 1}".into()).unwrap();
    let pending = [
        client
            .publish_bytes("t", vec![0, 255], Some("image/png"))
            .send()
            .await
            .unwrap(),
        client.publish_json("t", json).send().await.unwrap(),
    ];
    let ClientFrame::Publish { message, .. } = session.next().await else {
        panic!("expected a publish")
    };
    let Payload::Bytes { data, content_type } = message.payload else {
        panic!("expected bytes")
    };
    assert_eq!(
        (&data[..], content_type.as_deref()),
        (&[0, 255][..], Some("image/png"))
    );
    assert_eq!(session.next_publish().await.1, r#"{"a" : 1}"#);
    drop(pending);
}

#[tokio::test]
async fn what_no_broker_takes_is_refused_here() {
    let fake = Fake::start().await;
    let (client, mut session) = fake.connect(fake.builder()).await;
    let many = (0..33).fold(client.publish("t", &1), |publish, n| {
        publish.header(format!("h{n}"), "")
    });
    assert!(matches!(
        many.send().await,
        Err(PublishError::BadHeaders(_))
    ));
    assert!(matches!(
        client.publish("a..b", &1).send().await,
        Err(PublishError::BadTopic(_))
    ));
    assert!(matches!(
        client.publish("$sys", &1).send().await,
        Err(PublishError::SystemTopic(_))
    ));
    assert!(matches!(
        client.publish("t", &1).message_id("").send().await,
        Err(PublishError::BadMessageId(_))
    ));
    assert!(matches!(
        client.publish_bytes("t", "", Some("a\nb")).send().await,
        Err(PublishError::BadContentType)
    ));
    let not_json = std::collections::HashMap::from([((1, 2), 3)]);
    assert!(matches!(
        client.publish("t", &not_json).send().await,
        Err(PublishError::BadPayload(_))
    ));
    let large = client
        .publish_bytes("t", vec![0; 1024 * 1024], None)
        .receipt()
        .await;
    assert!(matches!(
        large,
        Err(PublishError::TooLarge {
            limit: 1_048_576,
            ..
        })
    ));
    // None of these has taken a number.
    let _pending = client.publish("t", &2).send().await.unwrap();
    assert_eq!(session.next_publish().await.2, 1);
}

#[tokio::test]
async fn a_name_that_is_no_topic_is_refused_at_once() {
    // Given a client that has no connection, and no place in its window,
    let fake = Fake::start().await;
    let builder = fake.builder().window(1);
    let in_background = builder.first_connection(FirstConnection::InBackground);
    let client = in_background.connect().await.unwrap();
    let _waits = client.publish("t", &1).send().await.unwrap();
    // then nobody waits for what can be told now.
    for name in ["", "a..b", ".a", "a b", "ä"] {
        let one = within("the refusal", client.publish(name, &1).send()).await;
        assert!(matches!(one, Err(PublishError::BadTopic(_))), "{name:?}");
        let subscription = within("the refusal", client.subscribe(name).into_future()).await;
        assert!(
            matches!(subscription, Err(SubscribeError::BadTopic(_))),
            "{name:?}"
        );
    }
}

#[tokio::test]
async fn a_message_that_does_not_come_through_fails_and_those_behind_it_go_on() {
    let fake = Fake::start().await;
    let (client, mut session) = fake.connect(fake.builder()).await;
    let lost = client.publish("t", &1).send().await.unwrap();
    let next = client.publish("t", &2).send().await.unwrap();
    for tries in 1..=5 {
        let (_, text, seq) = session.next_publish().await;
        assert_eq!((text.as_str(), seq), ("1", 1), "try {tries}");
        drop(session);
        session = fake.accept().await;
    }
    assert!(matches!(
        within("the answer", lost).await,
        Err(PublishError::Lost(_))
    ));
    let (id, text, seq) = session.next_publish().await;
    assert_eq!((text.as_str(), seq), ("2", 2));
    session.published(id, 2).await;
    assert!(within("the receipt", next).await.is_ok());
}

#[tokio::test]
async fn the_window_holds_publishers_back() {
    let fake = Fake::start().await;
    let (client, mut session) = fake.connect(fake.builder().window(2)).await;
    let first = client.publish("t", &1).send().await.unwrap();
    let _second = client.publish("t", &2).send().await.unwrap();
    assert!(pends(client.publish("t", &3).send()).await);
    let (id, ..) = session.next_publish().await;
    session.published(id, 1).await;
    assert!(first.await.is_ok());
    let _fourth = within("a place", client.publish("t", &4).send())
        .await
        .unwrap();
}

#[tokio::test]
async fn the_window_counts_bytes_too() {
    let fake = Fake::start().await;
    let (client, mut session) = fake.connect(fake.builder().window_bytes(1000)).await;
    // Larger than the window, but alone.
    let large = client
        .publish_bytes("t", vec![0; 5000], None)
        .send()
        .await
        .unwrap();
    assert!(pends(client.publish("t", &2).send()).await);
    let (id, ..) = session.next_publish().await;
    session.published(id, 1).await;
    assert!(large.await.is_ok());
    let _next = within("a place", client.publish("t", &3).send())
        .await
        .unwrap();
}

#[tokio::test]
async fn timeouts_tell_what_is_known() {
    let fake = Fake::start().await;
    let timeout = Duration::from_millis(300);
    let (client, mut session) = fake
        .connect(fake.builder().window(1).request_timeout(timeout))
        .await;
    let first = client.publish("t", &1).send().await.unwrap();
    assert_eq!(
        client.publish("t", &2).receipt().await,
        Err(PublishError::WindowFull(timeout))
    );
    assert_eq!(first.await, Err(PublishError::TimedOut(timeout)));
    // It keeps its place: it may be kept.
    let (id, text, seq) = session.next_publish().await;
    session.published(id, 1).await;
    let second = within("a place", client.publish("t", &3).send()).await;
    assert_eq!(
        (text.as_str(), seq, session.next_publish().await.2),
        ("1", 1, 2)
    );
    drop(second);
}

#[tokio::test]
async fn a_lost_connection_sends_again_in_order_before_anything_new() {
    let fake = Fake::start().await;
    let (client, mut session) = fake.connect(fake.builder()).await;
    let mut pending = Vec::new();
    for n in 1..=4 {
        pending.push(client.publish("t", &n).send().await.unwrap());
    }
    for n in 1..=4 {
        let (id, ..) = session.next_publish().await;
        if n == 1 {
            session.published(id, 1).await;
        }
    }
    assert!(pending.remove(0).await.is_ok());
    drop(session);
    pending.push(client.publish("t", &5).send().await.unwrap());

    let mut session = fake.accept().await;
    for n in 2..=5 {
        let (id, text, seq) = session.next_publish().await;
        assert_eq!((text, seq), (n.to_string(), n));
        session.published(id, n).await;
    }
    for receipt in pending {
        assert!(within("the receipt", receipt).await.is_ok());
    }
    // 5 may have been written before the loss was noticed.
    assert!((3..=4).contains(&client.stats().publishes_resent));
}

#[tokio::test]
async fn busy_is_waited_out() {
    let fake = Fake::start().await;
    let (client, mut session) = fake.connect(fake.builder()).await;
    let mut events = client.events();
    let pending = client.publish("t", &1).send().await.unwrap();
    let (id, ..) = session.next_publish().await;
    session.refuse(id, ErrorCode::Busy).await;
    let code = event(&mut events, |event| match event {
        ConnectionEvent::PublishDelayed { code, .. } => Some(*code),
        _ => None,
    })
    .await;
    assert_eq!(code, ErrorCode::Busy);
    let (again, _, seq) = session.next_publish().await;
    assert!(again > id && seq == 1);
    session.published(again, 1).await;
    assert!(pending.await.is_ok());
}

#[tokio::test]
async fn without_a_producer_nothing_is_sent_twice() {
    let fake = Fake::start().await;
    let (client, mut session) = fake.connect(fake.builder().producer(Producer::None)).await;
    let pending = client.publish("t", &1).send().await.unwrap();
    session.next_publish().await;
    drop(session);
    assert_eq!(
        within("the answer", pending).await,
        Err(PublishError::Interrupted)
    );
    let mut session = fake.accept().await;
    let _pending = client.publish("t", &2).send().await.unwrap();
    assert_eq!(session.next_publish().await.1, "2");
}
