//! The first connection, lost connections, and the end.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use futures_util::{StreamExt, TryStreamExt};
use hark_client::{
    Client, ClientError, CloseCode, ConnectionEvent, Event, FirstConnection, PublishError,
    Reconnect, Subprotocol, SubscribeError, Unanswered,
};
use hark_protocol::{ClientFrame, ErrorCode, ServerFrame};
use tokio_tungstenite::tungstenite::Message as WsMessage;

use crate::fake::{Fake, cursor, event, pends, topic, within};

fn is_connected(event: &ConnectionEvent) -> Option<()> {
    matches!(event, ConnectionEvent::Connected { .. }).then_some(())
}

#[tokio::test]
async fn a_url_that_is_none() {
    for url in [
        "",
        "127.0.0.1:4275",
        "http://127.0.0.1:4275/ws",
        "ws://",
        "ws:///ws",
        "hark",
        "ws://a b/",
    ] {
        let error = Client::connect(url).await.unwrap_err();
        assert!(
            matches!(error, ClientError::BadUrl { .. }),
            "{url:?}: {error}"
        );
    }
}

#[cfg(not(feature = "tls"))]
#[tokio::test]
async fn wss_without_tls_says_what_to_do() {
    let error = Client::connect("wss://example.org/ws").await.unwrap_err();
    assert!(error.to_string().contains("feature `tls`"), "{error}");
}

#[tokio::test]
async fn nobody_listens() {
    let url = Fake::start().await.url; // and gone
    let error = Client::connect(&url).await.unwrap_err();
    assert!(matches!(error, ClientError::Unreachable { .. }));
    assert!(error.to_string().contains(&url), "{error}");
}

#[tokio::test]
async fn harks_own_refusal_is_final() {
    let fake = Fake::start().await;
    let builder = fake.builder().first_connection(FirstConnection::Retried);
    let refuse = fake.answer_http(
        "403 Forbidden",
        r#"{"code":"forbidden","message":"no such origin"}"#,
    );
    let (connected, ()) = tokio::join!(builder.connect(), refuse);
    let ClientError::Refused {
        status, message, ..
    } = connected.unwrap_err()
    else {
        panic!("refused")
    };
    assert_eq!((status, message.as_str()), (403, "no such origin"));
}

/// A proxy whose broker is away, a page to sign in, another server on the port: each may pass.
#[tokio::test]
async fn what_somebody_else_says_is_not_final() {
    for (head, body) in [
        ("404 Not Found", "<html>"),
        (
            "404 Not Found",
            r#"{"code":"bad_frame","message":"no such route"}"#,
        ),
        ("401 Unauthorized", "<html>Sign in</html>"),
        ("403 Forbidden", "<html>"),
        ("200 OK", "<html>"),
        (
            "101 Switching Protocols\r\nupgrade: websocket\r\nconnection: upgrade\r\nsec-websocket-accept: x",
            "",
        ),
    ] {
        let fake = Fake::start().await;
        // Of the first attempt it is told at once …
        let (connected, ()) = tokio::join!(fake.builder().connect(), fake.answer_http(head, body));
        assert!(connected.is_err(), "{head}");
        // … and a client that has been connected goes on.
        let (client, session) = fake.connect(fake.builder()).await;
        drop(session);
        fake.answer_http(head, body).await;
        let _session = fake.accept().await;
        let connections = async {
            while client.stats().connections < 2 {
                tokio::task::yield_now().await;
            }
        };
        within("the second connection", connections).await;
    }
}

#[tokio::test]
async fn a_broker_without_room_is_tried_again() {
    let fake = Fake::start().await;
    let builder = fake.builder().first_connection(FirstConnection::Retried);
    let (client, _) = within("a connection", async {
        tokio::join!(builder.connect(), async {
            fake.answer_http("503 Service Unavailable\r\nretry-after: 0", "")
                .await;
            fake.accept().await
        })
    })
    .await;
    assert_eq!(client.unwrap().stats().connections, 1);
}

#[tokio::test]
async fn an_attempt_does_not_take_for_ever() {
    let fake = Fake::start().await;
    let builder = fake.builder().connect_timeout(Duration::from_millis(500));
    // Upgraded, but nobody says welcome.
    let (connected, _session) = tokio::join!(builder.connect(), fake.accept_silently());
    assert!(
        connected
            .unwrap_err()
            .to_string()
            .contains("no connection within 500ms")
    );
}

#[tokio::test]
async fn connects_in_the_background() {
    let fake = Fake::start().await;
    let client = fake
        .builder()
        .first_connection(FirstConnection::InBackground)
        .connect()
        .await
        .unwrap();
    // Before there is any connection.
    let receipt = client.publish("t", &1).send().await.unwrap();
    let mut session = fake.accept().await;
    let (id, text, seq) = session.next_publish().await;
    assert_eq!((text.as_str(), seq), ("1", 1));
    session.published(id, 1).await;
    assert_eq!(
        within("the receipt", receipt).await.unwrap().cursor,
        cursor(1)
    );
}

#[tokio::test]
async fn a_connect_that_nobody_waits_for_ends() {
    let fake = Fake::start().await;
    let connect = fake
        .builder()
        .first_connection(FirstConnection::Retried)
        .connect();
    assert!(pends(connect).await); // and is dropped
    let mut stream = fake.accept_tcp().await;
    let mut request = Vec::new();
    let read = tokio::io::AsyncReadExt::read_to_end(&mut stream, &mut request);
    within("the end of the attempt", read).await.unwrap();
}

#[tokio::test]
async fn a_terminal_close_is_seen_everywhere() {
    let fake = Fake::start().await;
    let (client, mut session) = fake.connect(fake.builder()).await;
    let mut events = client.events();
    let pending = client.publish("t", &1).send().await.unwrap();
    session.next_publish().await;
    let (subscription, ()) = tokio::join!(client.subscribe("t").into_future(), async {
        let (id, _) = session.next_subscribe().await;
        session.subscribed(id, 0).await;
    });
    let mut subscription = subscription.unwrap();

    session.close(CloseCode::BAD_FRAMES, "ten bad frames").await;

    let expected = ClientError::ClosedByBroker {
        code: CloseCode(4400),
        reason: "ten bad frames".into(),
    };
    assert_eq!(pending.await, Err(PublishError::Ended(expected.clone())));
    assert_eq!(
        subscription.next().await,
        Some(Err(SubscribeError::Ended(expected.clone())))
    );
    assert_eq!(subscription.next().await, None);
    assert_eq!(
        client.publish("t", &2).receipt().await,
        Err(PublishError::Ended(expected.clone()))
    );
    assert_eq!(
        client.subscribe("u").await.unwrap_err(),
        SubscribeError::Ended(expected.clone())
    );
    let error = event(&mut events, |event| match event {
        ConnectionEvent::Ended { error } => Some(error.clone()),
        _ => None,
    })
    .await;
    assert_eq!(error, expected);
    assert_eq!(events.next().await, None);
    assert_eq!(
        client.events().next().await,
        Some(ConnectionEvent::Ended { error })
    );
}

#[tokio::test]
async fn a_token_that_is_no_good_is_final() {
    let fake = Fake::start().await;
    let builder = fake
        .builder()
        .first_connection(FirstConnection::Retried)
        .token("bad");
    let (connected, ()) = tokio::join!(builder.connect(), async {
        let session = fake.accept_silently().await;
        assert_eq!(session.authorization.as_deref(), Some("Bearer bad"));
        session.close(CloseCode::UNAUTHENTICATED, "bad token").await;
    });
    let ClientError::ClosedByBroker {
        code: CloseCode(4401),
        ..
    } = connected.unwrap_err()
    else {
        panic!("final")
    };
}

#[tokio::test]
async fn a_token_that_runs_out_is_renewed() {
    let fake = Fake::start().await;
    let asked = Arc::new(AtomicU32::new(0));
    let counter = Arc::clone(&asked);
    let builder = fake.builder().token_with(move || {
        let n = counter.fetch_add(1, Ordering::Relaxed);
        async move { Ok(format!("token {n}")) }
    });
    let (_client, mut session) = fake.connect(builder).await;
    assert_eq!(session.authorization.as_deref(), Some("Bearer token 0"));

    // On the living connection.
    for _ in 0..2 {
        let (code, message) = (ErrorCode::Expiring, "soon".to_owned());
        session
            .say(ServerFrame::Error {
                id: None,
                code,
                message,
                expected_seq: None,
                retry_after_ms: None,
            })
            .await;
    }
    let ClientFrame::Auth { id: Some(_), token } = session.next().await else {
        panic!("expected a token")
    };
    assert_eq!(token, "token 1");

    // It ran out after all: one more chance, and no more.
    session.close(CloseCode::UNAUTHENTICATED, "expired").await;
    let session = fake.accept().await;
    assert!(session.authorization.as_deref() > Some("Bearer token 1"));
    session
        .close(CloseCode::UNAUTHENTICATED, "still no good")
        .await;
    assert!(pends(fake.accept_tcp()).await);
}

#[tokio::test]
async fn comes_back_when_the_broker_said() {
    let fake = Fake::start().await;
    let (client, mut session) = fake.connect(fake.builder()).await;
    let mut events = client.events();
    session
        .say(ServerFrame::Goodbye {
            reason: "restart".into(),
            retry_after_ms: 123,
        })
        .await;
    session.close(CloseCode::RESTART, "restart").await;
    let started = Instant::now();
    let wait = event(&mut events, |event| match event {
        ConnectionEvent::Reconnecting { wait, .. } => Some(*wait),
        _ => None,
    })
    .await;
    // In full, and a little more, so that those who were told the same do not come together.
    let asked = Duration::from_millis(123);
    assert!(
        wait >= asked && wait <= asked + Duration::from_millis(20),
        "{wait:?}"
    );
    let _session = fake.accept().await;
    event(&mut events, is_connected).await;
    assert!(started.elapsed() >= Duration::from_millis(120));
    assert_eq!(client.stats().connections, 2);
}

#[tokio::test]
async fn without_reconnect_the_first_loss_is_the_end() {
    let fake = Fake::start().await;
    let (client, session) = fake.connect(fake.builder().no_reconnect()).await;
    let pending = client.publish("t", &1).send().await.unwrap();
    drop(session);
    let error = within("the end", pending).await.unwrap_err();
    assert!(
        matches!(error, PublishError::Ended(ClientError::Lost { .. })),
        "{error}"
    );
}

#[tokio::test]
async fn gives_up_after_a_while() {
    let fake = Fake::start().await;
    let reconnect = Reconnect {
        first_wait: Duration::from_millis(5),
        longest_wait: Duration::from_millis(5),
        give_up_after: Some(Duration::from_millis(100)),
        ..Reconnect::default()
    };
    let (client, session) = fake
        .connect(Client::builder(&fake.url).reconnect(reconnect))
        .await;
    drop((session, fake));
    let error = within("the end", client.publish("t", &1).receipt())
        .await
        .unwrap_err();
    assert!(
        matches!(error, PublishError::Ended(ClientError::Unreachable { .. })),
        "{error}"
    );
}

#[tokio::test]
async fn a_silent_connection_is_dead() {
    let mut fake = Fake::start().await;
    fake.heartbeat_ms = 400;
    let (client, mut session) = fake.connect(fake.builder()).await;
    let mut events = client.events();
    // As long as something comes it lives.
    for _ in 0..15 {
        tokio::time::sleep(Duration::from_millis(100)).await;
        session.say_raw(WsMessage::Ping(Vec::new().into())).await;
    }
    assert_eq!(client.stats().connections, 1);
    let silent_since = Instant::now();
    let reason = event(&mut events, |event| match event {
        ConnectionEvent::Disconnected { reason } => Some(reason.clone()),
        _ => None,
    })
    .await;
    assert!(reason.contains("nothing heard"), "{reason}");
    assert!(silent_since.elapsed() >= Duration::from_millis(950));
    fake.accept().await;
}

#[tokio::test]
async fn pings_are_answered() {
    let fake = Fake::start().await;
    let (_client, mut session) = fake.connect(fake.builder()).await;
    session
        .say_raw(WsMessage::Ping(b"42".to_vec().into()))
        .await;
    loop {
        match session.next_raw().await {
            WsMessage::Pong(data) => break assert_eq!(&data[..], b"42"),
            other => assert!(other.is_binary(), "{other:?}"), // the client's own first ping
        }
    }
}

#[tokio::test]
async fn what_cannot_be_read_is_told_and_ignored() {
    let fake = Fake::start().await;
    let (client, mut session) = fake
        .connect(fake.builder().subprotocol(Subprotocol::Json))
        .await;
    let mut events = client.events();
    session
        .say_raw(WsMessage::text(r#"{"type":"weather","sunny":true}"#))
        .await;
    let unreadable =
        |event: &ConnectionEvent| matches!(event, ConnectionEvent::Unreadable { .. }).then_some(());
    event(&mut events, unreadable).await;
    let (receipt, ()) = tokio::join!(client.publish("t", &1).receipt(), async {
        let (id, ..) = session.next_publish().await;
        session.published(id, 1).await;
    });
    assert_eq!(receipt.unwrap().cursor, cursor(1));
}

#[tokio::test]
async fn frames_of_nearly_two_mib_are_taken() {
    let fake = Fake::start().await;
    let (client, mut session) = fake
        .connect(fake.builder().subprotocol(Subprotocol::Json))
        .await;
    let (subscription, ()) = tokio::join!(client.subscribe("t").into_future(), async {
        let (id, _) = session.next_subscribe().await;
        session.subscribed(id, 0).await;
    });
    let large = "x".repeat(2_000_000);
    session
        .say_raw(WsMessage::text(format!(
            r#"{{"type":"message","topic":"t","offset":1,"time":1,"data":"{large}"}}"#
        )))
        .await;
    let message = within("the message", subscription.unwrap().next_message())
        .await
        .unwrap();
    assert_eq!(message.json::<String>().unwrap(), large);
}

#[tokio::test]
async fn close_waits_for_what_was_published() {
    let fake = Fake::start().await;
    let (client, mut session) = fake.connect(fake.builder()).await;
    let pending = client.publish("t", &1).send().await.unwrap();
    let closing = client.close(Duration::from_secs(20));
    let (closed, ended) = within("the end", async {
        tokio::join!(closing, async {
            let (id, ..) = session.next_publish().await;
            assert!(
                pends(session.try_next()).await,
                "it does not close before the answer"
            );
            session.published(id, 1).await;
            session.try_next().await
        })
    })
    .await;
    assert_eq!((closed, ended), (Ok(()), Err(Some(1000))));
    assert!(pending.await.is_ok());
    assert_eq!(
        client.publish("t", &2).receipt().await,
        Err(PublishError::Ended(ClientError::Closed))
    );
}

#[tokio::test]
async fn close_does_not_wait_for_ever() {
    let fake = Fake::start().await;
    let (client, mut session) = fake.connect(fake.builder()).await;
    let pending = client.publish("t", &1).send().await.unwrap();
    session.next_publish().await;
    let (closed, _) = tokio::join!(client.close(Duration::from_millis(50)), session.try_next());
    assert_eq!(closed, Err(Unanswered(1)));
    assert_eq!(pending.await, Err(PublishError::Ended(ClientError::Closed)));
}

#[tokio::test]
async fn close_ends_a_client_without_a_connection() {
    let fake = Fake::start().await;
    let (client, session) = fake.connect(fake.builder()).await;
    drop((session, fake));
    let pending = client.publish("t", &1).send().await.unwrap();
    let closed = within("the end", client.close(Duration::from_millis(50))).await;
    assert_eq!(closed, Err(Unanswered(1)));
    assert!(pending.await.is_err());
}

#[tokio::test]
async fn the_last_handle_ends_the_client_when_all_is_answered() {
    let fake = Fake::start().await;
    let (client, mut session) = fake.connect(fake.builder()).await;
    let pending = client.publish("t", &1).send().await.unwrap();
    drop(client);
    let (id, ..) = session.next_publish().await;
    session.published(id, 1).await;
    assert!(pending.await.is_ok());
    assert_eq!(
        within("the close", session.try_next()).await,
        Err(Some(1000))
    );
}

#[tokio::test]
async fn a_subscription_keeps_the_client_alive() {
    let fake = Fake::start().await;
    let (client, mut session) = fake.connect(fake.builder()).await;
    let (subscription, ()) = tokio::join!(client.subscribe("t").into_future(), async {
        let (id, _) = session.next_subscribe().await;
        session.subscribed(id, 0).await;
    });
    let mut subscription = subscription.unwrap();
    drop(client);
    session.message(1).await;
    let event = within("a message", subscription.try_next())
        .await
        .unwrap()
        .unwrap();
    assert!(
        matches!(event, Event::Message(message) if message.offset() == 1 && message.topic == topic())
    );
    drop(subscription);
    session.next_unsubscribe().await;
    assert_eq!(
        within("the close", session.try_next()).await,
        Err(Some(1000))
    );
}
