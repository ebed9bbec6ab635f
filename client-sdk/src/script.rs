//! Plays the scripts of `client-sdk/script` on the outbox and the inbox, without sockets: the clock, chance and producers are
//! the script's. What `connection` does between them is done here in its simplest form.

#[path = "../tests/it/steps.rs"]
mod steps;

use std::collections::HashMap;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use hark_protocol::{
    ClientFrame, Headers, JsonText, MessageId, Payload, ServerFrame, Subprotocol, TopicName, codec,
};
use serde_json::json;
use tokio::sync::{Semaphore, broadcast, oneshot};
use tokio::time::Instant;

use self::steps::{Names, Script, Seen, Step};
use crate::events::Reporter;
use crate::heard::{self, Heard};
use crate::inbox::{Inbox, Subscribe, ToSay};
use crate::options::Producer;
use crate::outbox::{Limits, Outbox, Outgoing, Permits, Together};
use crate::queue::{Queue, Taken};
use crate::world::World;
use crate::{ConnectionEvent, PublishError, Receipt};

#[test]
fn every_script_holds() {
    let mut failed = Vec::new();
    for script in steps::all() {
        let holds = script.head.script.clone();
        if let Err(reason) = play(&script) {
            failed.push(format!("{reason}\n    ({holds})"));
        }
    }
    assert!(failed.is_empty(), "\n{}", failed.join("\n"));
}

fn play(script: &Script) -> Result<(), String> {
    let mut adapter = Adapter::new(script.head.random);
    adapter.hark_is_newer = script.head.script.contains("newer Hark");
    for (line, step) in &script.steps {
        adapter
            .step(step)
            .map_err(|reason| format!("{}:{line}: {reason}", script.name))?;
    }
    Ok(())
}

struct Adapter {
    /// The script says that Hark may say what cannot be read.
    hark_is_newer: bool,
    world: World,
    outbox: Outbox,
    inbox: Inbox,
    to_say: ToSay,
    /// Of the connection, if there is one.
    limits: Option<Limits>,
    events: broadcast::Receiver<ConnectionEvent>,
    publishes: Vec<Pending>,
    subscriptions: HashMap<String, Subscribed>,
    names: Names,
    seen: Seen,
}

struct Pending {
    of: String,
    topic: String,
    receipt: oneshot::Receiver<Result<Receipt, PublishError>>,
}

struct Subscribed {
    topic: TopicName,
    queue: Arc<Queue>,
}

impl Adapter {
    fn new(random: f64) -> Self {
        let world = World::given(random);
        let reporter = Arc::new(Reporter::new());
        Self {
            hark_is_newer: false,
            events: reporter.events.subscribe(),
            outbox: Outbox::new(&Producer::Random, Arc::clone(&reporter), world.clone()),
            inbox: Inbox::new(reporter, world.clone()),
            world,
            to_say: ToSay::default(),
            limits: None,
            publishes: Vec::new(),
            subscriptions: HashMap::new(),
            names: Names::with_given_producers(),
            seen: Seen::default(),
        }
    }

    fn now(&self) -> Instant {
        self.world.clock.now().monotonic
    }

    fn step(&mut self, step: &Step) -> Result<(), String> {
        match step {
            Step::Note(_) => {}
            Step::Publish(publish) => self.publish(publish),
            Step::Subscribe(subscribe) => self.subscribe(subscribe),
            Step::Unsubscribe(unsubscribe) => {
                let ended = self.subscriptions.remove(&unsubscribe.r#as);
                let Subscribed { topic, queue } = ended.expect("a subscription of that name");
                let to_say = &mut self.to_say;
                self.inbox.unsubscribe(&topic, &queue, None, to_say);
            }
            Step::Hear(fields) => {
                let frame = steps::heard(fields, &self.names).to_string();
                match codec::decode_server(&frame.into(), Subprotocol::Json) {
                    Ok(frame) => self.hear(frame),
                    // It is ignored, as in `connection`.
                    Err(_) if self.hark_is_newer => {}
                    Err(error) => return Err(format!("Hark does not say that: {error}")),
                }
            }
            Step::Lost(lost) => {
                self.limits = None;
                self.to_say.connected = false;
                self.to_say.frames.clear();
                self.outbox.disconnected(lost.proven);
                self.inbox.disconnected(lost.proven, self.now());
            }
            Step::Advance(advance) => self.advance(advance),
            Step::Expect(expect) => {
                return match self.seen.take(expect, &mut self.names) {
                    Some(compared) => compared,
                    None => Err(format!("it did not happen; there is\n{}", self.seen)),
                };
            }
        }
        self.settle();
        Ok(())
    }

    /// The client says all that it may say, and the application takes all that is there.
    fn settle(&mut self) {
        if let Some(limits) = self.limits {
            while let Some(frame) = self.to_say.frames.pop_front() {
                let frame = codec::encode_client(&frame, Subprotocol::Json);
                self.seen.said(frame.as_bytes());
            }
            let ids = &mut self.to_say.last_id;
            while let Some(frame) = self.outbox.next_frame(ids, limits, Subprotocol::Json) {
                self.seen.said(frame.as_bytes());
            }
        }
        self.take_receipts();
        self.take_events();
    }

    fn take_receipts(&mut self) {
        let seen = &mut self.seen;
        self.publishes.retain_mut(|pending| {
            let answer = match pending.receipt.try_recv() {
                Ok(answer) => answer,
                Err(oneshot::error::TryRecvError::Empty) => return true,
                Err(oneshot::error::TryRecvError::Closed) => panic!("{} got no answer", pending.of),
            };
            seen.answered(&pending.of, &pending.topic, &answer);
            false
        });
    }

    fn take_events(&mut self) {
        let cx = Context::from_waker(Waker::noop());
        let mut ended = Vec::new();
        for (name, Subscribed { topic, queue }) in &self.subscriptions {
            while let Poll::Ready(taken) = queue.poll_take(&cx) {
                match taken {
                    Taken::Event { event, drained } => {
                        self.seen.event(name, topic, event);
                        if drained {
                            self.inbox.drained(topic, queue, &mut self.to_say);
                        }
                    }
                    Taken::End(error) => {
                        self.seen.ended(name, &error);
                        ended.push(name.clone());
                        break;
                    }
                }
            }
        }
        for name in ended {
            self.subscriptions.remove(&name);
        }
        while let Ok(event) = self.events.try_recv() {
            let subscriptions = self.subscriptions.iter();
            let named = subscriptions.map(|(name, of)| (name.as_str(), &of.topic));
            self.seen.connection_event(&event, named);
        }
    }

    fn publish(&mut self, publish: &steps::Publish) {
        let one = publish.topic.iter().cloned();
        let all: Vec<String> = one
            .chain(publish.topics.iter().flatten().cloned())
            .collect();
        let topics: Vec<TopicName> = all.iter().map(|name| name.parse().unwrap()).collect();
        let together = publish.topics.is_some().then(|| {
            Arc::new(Together {
                topics: topics.clone(),
            })
        });
        let json = JsonText::from_checked(publish.data.to_string().into()).unwrap();
        let window = Arc::new(Semaphore::new(topics.len() + 1));
        let bytes = Arc::new(Arc::clone(&window).try_acquire_owned().unwrap());
        for topic in topics {
            let (reply, receipt) = oneshot::channel();
            self.publishes.push(Pending {
                of: publish.r#as.clone(),
                topic: topic.to_string(),
                receipt,
            });
            self.outbox.publish(Outgoing {
                topic,
                message: hark_protocol::Message {
                    payload: Payload::Json(json.clone()),
                    headers: Headers::default(),
                },
                message_id: publish
                    .message_id
                    .as_ref()
                    .map(|id| MessageId::parse(id).unwrap()),
                reply,
                permits: Permits {
                    _message: Some(Arc::clone(&window).try_acquire_owned().unwrap()),
                    _bytes: Arc::clone(&bytes),
                },
                together: together.clone(),
            });
        }
    }

    fn subscribe(&mut self, subscribe: &steps::Subscribe) {
        let frame = json!({"type": "subscribe", "topic": subscribe.topic, "from": subscribe.from});
        let bytes = frame.to_string().into();
        let Ok(ClientFrame::Subscribe { topic, from, .. }) =
            codec::decode_client(&bytes, Subprotocol::Json)
        else {
            panic!("no subscribe: {frame}");
        };
        let queue = Queue::new(1024, 1024 * 1024);
        let (reply, _) = oneshot::channel();
        let subscribed = Subscribed {
            topic: topic.clone(),
            queue: Arc::clone(&queue),
        };
        self.subscriptions
            .insert(subscribe.r#as.clone(), subscribed);
        let subscribe = Subscribe {
            topic,
            from,
            token: None,
            queue,
            reply,
        };
        self.inbox.subscribe(subscribe, &mut self.to_say);
    }

    /// Timers that are due run in order, each at its own time.
    fn advance(&mut self, advance: &steps::Advance) {
        let (monotonic_ms, wall_ms) = advance.ms();
        let end = self.now() + Duration::from_millis(monotonic_ms);
        let mut wall_ms = wall_ms;
        loop {
            let others_wait = self.outbox.unanswered() > 0;
            let due = [
                self.outbox.next_wakeup(),
                self.inbox.next_wakeup(others_wait),
            ];
            // Without a connection nobody wakes them.
            let due = due.into_iter().flatten().filter(|_| self.limits.is_some());
            let next = due.min().filter(|due| *due <= end).unwrap_or(end);
            let step = next.saturating_duration_since(self.now());
            let wall_step_ms = match next == end {
                true => wall_ms,
                false => wall_ms.min(step.as_millis() as i64),
            };
            wall_ms -= wall_step_ms;
            self.world.clock.advance(step, wall_step_ms);
            if self.limits.is_some() {
                self.wake_up();
            }
            if next == end {
                return;
            }
        }
    }

    fn wake_up(&mut self) {
        let now = self.now();
        self.outbox.wake_up(now);
        let others_wait = self.outbox.unanswered() > 0;
        self.inbox.wake_up(now, others_wait, &mut self.to_say);
        self.settle();
    }

    fn hear(&mut self, frame: ServerFrame) {
        let now = self.now();
        let (outbox, inbox, to_say) = (&mut self.outbox, &mut self.inbox, &mut self.to_say);
        match heard::hand_on(frame, outbox, inbox, to_say, now) {
            Heard::Taken | Heard::Served => {}
            Heard::Connection(ServerFrame::Welcome {
                version,
                max_message_bytes,
                max_inflight,
                ..
            }) => {
                self.limits = Some(Limits::told(&version, max_message_bytes, max_inflight));
                to_say.connected = true;
                inbox.connected(to_say);
                self.wake_up();
            }
            Heard::Connection(other) => panic!("the adapter does not play {other:?}"),
        }
    }
}
