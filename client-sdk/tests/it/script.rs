//! Plays the scripts of `client-sdk/script` that say so over a real socket: the real client, and a server that says what the script does.

use std::collections::HashMap;
use std::future::poll_fn;
use std::task::Poll;

use futures_util::StreamExt;
use hark_client::{
    Client, ConnectionEvent, Event, FirstConnection, PublishError, Receipt, Subprotocol,
    SubscribeError, TopicName,
};
use hark_protocol::{ClientFrame, codec};
use serde_json::json;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_tungstenite::tungstenite::Message as WsMessage;

use crate::fake::{DEADLINE, Fake, Session, within};
use crate::steps::{self, Expect, Names, Script, Seen, Step};

#[tokio::test]
async fn every_script_for_sockets_holds_over_one() {
    let scripts = steps::all().into_iter().filter(|s| s.head.socket);
    let played = scripts.map(|script| async move { (play(&script).await, script.head.script) });
    let played: Vec<_> = futures_util::future::join_all(played).await;
    assert!(played.len() >= 20, "{} scripts", played.len());
    let failed = played.into_iter().filter_map(|(result, holds)| {
        result
            .err()
            .map(|reason| format!("{reason}\n    ({holds})"))
    });
    let failed: Vec<_> = failed.collect();
    assert!(failed.is_empty(), "\n{}", failed.join("\n"));
}

async fn play(script: &Script) -> Result<(), String> {
    let mut adapter = Adapter::new().await;
    for (line, step) in &script.steps {
        let result = adapter.step(step).await;
        result.map_err(|reason| format!("{}:{line}: {reason}", script.name))?;
    }
    Ok(())
}

/// What the application has got.
enum Got {
    Answer(String, String, Result<Receipt, PublishError>),
    Event(String, TopicName, Event),
    Ended(String, SubscribeError),
    OfConnection(ConnectionEvent),
}

struct Adapter {
    fake: Fake,
    client: Client,
    session: Option<Session>,
    subscriptions: HashMap<String, (TopicName, JoinHandle<()>)>,
    application: mpsc::UnboundedSender<Got>,
    got: mpsc::UnboundedReceiver<Got>,
    names: Names,
    seen: Seen,
}

impl Adapter {
    async fn new() -> Self {
        let fake = Fake::start().await;
        let builder = fake
            .builder()
            .subprotocol(Subprotocol::Json)
            .first_connection(FirstConnection::InBackground);
        let client = builder.connect().await.unwrap();
        let (application, got) = mpsc::unbounded_channel();
        let mut events = client.events();
        let told = application.clone();
        tokio::spawn(async move {
            while let Some(event) = events.next().await {
                told.send(Got::OfConnection(event)).ok();
            }
        });
        Self {
            fake,
            client,
            session: None,
            subscriptions: HashMap::new(),
            application,
            got,
            names: Names::default(),
            seen: Seen::default(),
        }
    }

    async fn step(&mut self, step: &Step) -> Result<(), String> {
        match step {
            Step::Note(_) => {}
            Step::Advance(_) => return Err("time passes by itself over a socket".into()),
            Step::Publish(publish) => self.publish(publish).await,
            Step::Subscribe(subscribe) => self.subscribe(subscribe).await,
            Step::Unsubscribe(unsubscribe) => {
                let ended = self.subscriptions.remove(&unsubscribe.r#as);
                let (_, task) = ended.expect("a subscription of that name");
                task.abort();
                // Until it is dropped. An error says that it was.
                task.await.ok();
            }
            Step::Hear(fields) => {
                if fields["type"] == "welcome" {
                    self.session = Some(self.fake.accept_silently().await);
                }
                let frame = steps::heard(fields, &self.names).to_string();
                let session = self.session.as_mut().expect("a connection");
                session.say_raw(WsMessage::text(frame)).await;
            }
            // Without a word, as a cable that is cut.
            Step::Lost(_) => self.session = None,
            Step::Expect(Expect::Nothing(_)) => self.see_all().await,
            Step::Expect(_) => {}
        }
        let Step::Expect(expect) = step else {
            return Ok(());
        };
        loop {
            if let Some(compared) = self.seen.take(expect, &mut self.names) {
                return compared;
            }
            let frame = async {
                match &mut self.session {
                    Some(session) => session.next_raw().await,
                    None => std::future::pending().await,
                }
            };
            let more = async {
                tokio::select! {
                    got = self.got.recv() => Ok(got),
                    frame = frame => Err(frame),
                }
            };
            let Ok(more) = tokio::time::timeout(DEADLINE, more).await else {
                return Err(format!("it did not happen; there is\n{}", self.seen));
            };
            match more {
                Ok(got) => self.sort(got.expect("this adapter holds a sender")),
                Err(WsMessage::Text(text)) => self.seen.said(text.as_bytes()),
                Err(_) => {}
            }
        }
    }

    fn sort(&mut self, got: Got) {
        match got {
            Got::Answer(of, topic, answer) => self.seen.answered(&of, &topic, &answer),
            Got::Event(of, topic, event) => self.seen.event(&of, &topic, event),
            Got::Ended(of, error) => self.seen.ended(&of, &error),
            Got::OfConnection(event) => {
                let subscriptions = self.subscriptions.iter();
                let named = subscriptions.map(|(name, (topic, _))| (name.as_str(), topic));
                self.seen.connection_event(&event, named);
            }
        }
    }

    /// Everything that the client does for what it has heard. It reads in order and writes in order, so what comes behind the
    /// answer to a second ping is not for anything that was said before the first.
    async fn see_all(&mut self) {
        let Some(session) = &mut self.session else {
            return;
        };
        for round in [&b"first"[..], b"second"] {
            session.say_raw(WsMessage::Ping(round.into())).await;
            loop {
                match session.next_raw().await {
                    WsMessage::Pong(answer) if answer == round => break,
                    WsMessage::Text(text) => self.seen.said(text.as_bytes()),
                    _ => {}
                }
            }
        }
        while let Ok(got) = self.got.try_recv() {
            self.sort(got);
        }
    }

    async fn publish(&mut self, publish: &steps::Publish) {
        let (of, told) = (publish.r#as.clone(), self.application.clone());
        if let Some(topics) = publish.topics.clone() {
            let mut all = self.client.publish_all(&topics, &publish.data);
            if let Some(id) = &publish.message_id {
                all = all.message_id(id);
            }
            let pending = within("a place in the window", all.send()).await.unwrap();
            tokio::spawn(async move {
                for (topic, answer) in topics.into_iter().zip(pending.await) {
                    told.send(Got::Answer(of.clone(), topic, answer)).ok();
                }
            });
            return;
        }
        let topic = publish.topic.clone().expect("a topic");
        let mut one = self.client.publish(&topic, &publish.data);
        if let Some(id) = &publish.message_id {
            one = one.message_id(id);
        }
        let pending = within("a place in the window", one.send()).await.unwrap();
        tokio::spawn(async move { told.send(Got::Answer(of, topic, pending.await)).ok() });
    }

    async fn subscribe(&mut self, subscribe: &steps::Subscribe) {
        let frame = json!({"type": "subscribe", "topic": subscribe.topic, "from": subscribe.from});
        let frame = codec::decode_client(&frame.to_string().into(), Subprotocol::Json);
        let Ok(ClientFrame::Subscribe { topic, from, .. }) = frame else {
            panic!("no subscribe: {frame:?}");
        };
        let (client, told) = (self.client.clone(), self.application.clone());
        let (name, its_topic) = (subscribe.r#as.clone(), topic.clone());
        let mut taking = Box::pin(async move {
            let mut subscription = match client.subscribe(its_topic.as_str()).from(from).await {
                Ok(subscription) => subscription,
                Err(error) => {
                    told.send(Got::Ended(name, error)).ok();
                    return;
                }
            };
            while let Some(taken) = subscription.next().await {
                let got = match taken {
                    Ok(event) => Got::Event(name.clone(), its_topic.clone(), event),
                    Err(error) => Got::Ended(name.clone(), error),
                };
                told.send(got).ok();
            }
        });
        // It is asked for before the next step.
        poll_fn(|cx| Poll::Ready(taking.as_mut().poll(cx).is_ready())).await;
        let task = tokio::spawn(taking);
        self.subscriptions
            .insert(subscribe.r#as.clone(), (topic, task));
    }
}
