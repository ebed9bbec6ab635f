//! A publisher over WebSocket, in the plainest way the wire allows: a window of unanswered messages, and after every loss of the
//! connection what is unanswered once more, in order, if its kind can be known again. Owns what is sent when; the judge hears of each sending.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use futures_util::FutureExt as _;
use hark_protocol::Subprotocol;
use hark_tests::Ws;
use rand::RngExt as _;
use rand::rngs::StdRng;
use serde_json::{Value, json};

use crate::judge::{Id, Kind, Place, Violation};
use crate::world::{Phase, Trouble, World, name_of};

/// How a publisher behaves.
#[derive(Debug, Clone)]
pub(crate) struct Manner {
    /// Its place among the run's publishers.
    pub(crate) slot: usize,
    pub(crate) topic: usize,
    pub(crate) kind: Kind,
    pub(crate) subprotocol: Option<Subprotocol>,
    /// The most messages that are unanswered.
    pub(crate) window: usize,
    /// It leaves, and comes back on another connection, when no answer has come for so long.
    pub(crate) patience: Duration,
    /// Between two rounds of sending.
    pub(crate) rest: Duration,
    /// It disconnects when it rests.
    pub(crate) leaves: bool,
    /// It sends a window of messages, and when all are answered it goes on to another topic, now and then a new one. Rests then, and not
    /// before: what it has been told of a topic must be known when the broker's files are damaged.
    pub(crate) wanders: bool,
}

/// A message that was sent, and whose answer is still to come.
#[derive(Debug)]
struct Unanswered {
    n: u64,
    /// Of its last sending; `None`: it is to be sent (again).
    frame: Option<(u64, Instant)>,
}

#[derive(Debug)]
struct Publisher {
    world: Arc<World>,
    manner: Manner,
    /// As the judge knows it.
    id: usize,
    producer: String,
    /// The producer's numbers begin behind this one of ours.
    numbers_from: u64,
    last: u64,
    unanswered: VecDeque<Unanswered>,
    next_frame: u64,
    /// Something was refused that may be taken later.
    refused: bool,
    rng: StdRng,
}

/// After a refusal that may pass.
const SETBACK: Duration = Duration::from_millis(20);

/// Publishes until told to end.
pub(crate) async fn publish(world: Arc<World>, manner: Manner, rng: StdRng) {
    let mut publisher = Publisher {
        id: 0,
        producer: String::new(),
        numbers_from: 0,
        last: 0,
        unanswered: VecDeque::new(),
        next_frame: 0,
        refused: false,
        world,
        manner,
        rng,
    };
    publisher.start_anew();
    loop {
        match publisher.session().await {
            Ok(()) | Err(Trouble::Violated) => {
                return publisher.world.set_done(publisher.manner.slot);
            }
            Err(Trouble::Broken) => publisher.lose_connection(),
        }
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

impl Publisher {
    /// Goes on to a topic that nobody has used, or to one that was begun a while ago.
    fn wander(&mut self) {
        let begun = self.world.begun_topics();
        let anew = begun.is_empty() || self.rng.random_ratio(1, 8);
        let new = anew.then(|| self.world.begin_topic()).flatten();
        self.manner.topic = new.unwrap_or_else(|| self.rng.random_range(begun));
        self.start_anew();
    }

    /// Becomes a publisher that the judge does not know yet.
    fn start_anew(&mut self) {
        let Manner { topic, kind, .. } = self.manner;
        self.id = self.world.tell(|judge| judge.join(topic, kind));
        self.last = 0;
        self.numbers_from = 0;
        self.name_producer();
    }

    fn name_producer(&mut self) {
        self.producer = format!("p{:016x}", self.rng.random::<u64>());
    }

    fn lose_connection(&mut self) {
        self.world.count_disconnected(self.manner.slot);
        let sent = self.unanswered.iter().filter_map(|message| message.frame);
        self.world.broken_with(sent.map(|(_, at)| at));
        if self.manner.kind == Kind::Plain {
            // They are there or not. What follows on another connection may overtake them.
            self.unanswered.clear();
            self.start_anew();
        }
        self.send_all_again();
    }

    fn send_all_again(&mut self) {
        for message in &mut self.unanswered {
            message.frame = None;
        }
    }

    /// Publishes on one connection.
    async fn session(&mut self) -> Result<(), Trouble> {
        let world = Arc::clone(&self.world);
        let connected = Ws::try_connect(world.addr(), self.manner.subprotocol).await;
        let mut ws = connected.map_err(|_| Trouble::Broken)?;
        loop {
            let running = world.phase() == Phase::Running;
            if !running && self.unanswered.is_empty() {
                return Ok(());
            }
            let more = running && (self.unanswered.is_empty() || !self.manner.wanders);
            self.send(&mut ws, more).await?;
            world.set_unanswered(self.manner.slot, self.unanswered.len());
            let Ok(answer) = tokio::time::timeout(self.manner.patience, ws.next()).await else {
                world.tally.add("connections left for want of an answer", 1);
                return Err(Trouble::Broken);
            };
            self.take(&answer.map_err(|ended| world.ended(&ended))?)?;
            while let Some(answer) = ws.next().now_or_never() {
                self.take(&answer.map_err(|ended| world.ended(&ended))?)?;
            }
            world.set_unanswered(self.manner.slot, self.unanswered.len());
            let rest = match std::mem::take(&mut self.refused) {
                true => SETBACK,
                false => self.manner.rest,
            };
            if self.manner.leaves && self.unanswered.is_empty() {
                drop(ws);
                tokio::time::sleep(rest).await;
                return Err(Trouble::Broken);
            }
            if self.manner.wanders && self.unanswered.is_empty() && running {
                tokio::time::sleep(rest).await;
                self.wander();
            } else if !rest.is_zero() && !self.manner.wanders {
                tokio::time::sleep(rest).await;
            }
        }
    }

    /// Sends what is to be sent again, and new messages behind it.
    async fn send(&mut self, ws: &mut Ws, more: bool) -> Result<(), Trouble> {
        // A message with a key that was refused goes out once all behind it are answered, so that only its own order suffers.
        let refused = self
            .unanswered
            .iter()
            .any(|message| message.frame.is_none());
        let waits = self.manner.kind == Kind::Keyed
            && refused
            && self
                .unanswered
                .iter()
                .any(|message| message.frame.is_some());
        if waits {
            return Ok(());
        }
        while more && self.unanswered.len() < self.manner.window {
            self.last += 1;
            self.unanswered.push_back(Unanswered {
                n: self.last,
                frame: None,
            });
        }
        for at in 0..self.unanswered.len() {
            if self.unanswered[at].frame.is_some() {
                continue;
            }
            let n = self.unanswered[at].n;
            self.next_frame += 1;
            let frame = self.frame(n);
            self.unanswered[at].frame = Some((self.next_frame, Instant::now()));
            let id = Id {
                publisher: self.id,
                n,
            };
            if self.world.tell(|judge| judge.sending(id)) {
                self.world.tally.add("messages sent again", 1);
            }
            ws.try_feed(&frame)
                .await
                .map_err(|ended| self.world.ended(&ended))?;
        }
        ws.flush().await.map_err(|ended| self.world.ended(&ended))
    }

    fn frame(&self, n: u64) -> Value {
        let data = Id {
            publisher: self.id,
            n,
        }
        .data();
        let topic = name_of(self.manner.topic);
        let mut frame =
            json!({"type": "publish", "id": self.next_frame, "topic": topic, "data": data});
        match self.manner.kind {
            Kind::Numbered => {
                frame["producer"] = json!(self.producer);
                frame["seq"] = json!(n - self.numbers_from);
            }
            Kind::Keyed => frame["message_id"] = json!(format!("{}-{n}", self.producer)),
            Kind::Plain => {}
        }
        frame
    }

    fn take(&mut self, answer: &Value) -> Result<(), Trouble> {
        match answer["type"].as_str() {
            Some("published" | "error") => {}
            Some("goodbye") => return Ok(()),
            _ => return Err(self.wrong("not an answer to a publish", answer)),
        }
        let is_meant = |message: &Unanswered| {
            message
                .frame
                .is_some_and(|(frame, _)| answer["id"] == frame)
        };
        let Some(at) = self.unanswered.iter().position(is_meant) else {
            // An earlier sending of something that was sent again since.
            return match answer["id"]
                .as_u64()
                .is_some_and(|id| id <= self.next_frame)
            {
                true => Ok(()),
                false => Err(self.wrong("an answer to nothing", answer)),
            };
        };
        match answer["type"] == "published" {
            true => self.receipt(at, answer),
            false => self.refusal(at, answer),
        }
    }

    fn receipt(&mut self, at: usize, answer: &Value) -> Result<(), Trouble> {
        let id = Id {
            publisher: self.id,
            n: self.unanswered[at].n,
        };
        let duplicate = answer["duplicate"] == true;
        self.world.judge(|judge| {
            let place = Place::parse(&answer["cursor"])?;
            judge.receipt(id, &place, duplicate)
        })?;
        self.world.tally.add(
            if duplicate {
                "messages acknowledged as duplicates"
            } else {
                "messages acknowledged"
            },
            1,
        );
        self.unanswered.remove(at);
        self.world.count_answer(self.manner.slot);
        Ok(())
    }

    fn refusal(&mut self, at: usize, answer: &Value) -> Result<(), Trouble> {
        let world = Arc::clone(&self.world);
        self.refused = true;
        match answer["code"].as_str() {
            Some("busy") => world.tally.add("publishes refused as busy", 1),
            Some("log_unavailable") if world.may_refuse_writes() => {
                world.tally.add("publishes refused as log_unavailable", 1);
                world.unavailable.fetch_add(1, Ordering::SeqCst);
            }
            Some("out_of_sequence") if self.manner.kind == Kind::Numbered => {
                return self.go_back(answer);
            }
            _ => return Err(self.wrong("an error without a reason", answer)),
        }
        match self.manner.kind {
            // Those behind it are out of sequence.
            Kind::Numbered => self.send_all_again(),
            Kind::Keyed => {
                self.unanswered[at].frame = None;
                let id = Id {
                    publisher: self.id,
                    n: self.unanswered[at].n,
                };
                world.tell(|judge| judge.out_of_order(id));
            }
            // It may have been kept.
            Kind::Plain => drop(self.unanswered.remove(at)),
        }
        Ok(())
    }

    /// The broker expects another number.
    fn go_back(&mut self, answer: &Value) -> Result<(), Trouble> {
        let Some(expected) = answer["expected_seq"].as_u64() else {
            return Err(self.wrong("no number", answer));
        };
        let oldest = self
            .unanswered
            .front()
            .map_or(self.last + 1, |oldest| oldest.n);
        let expected = expected + self.numbers_from;
        if expected > self.last + 1 {
            return Err(self.wrong("a number that was never sent is expected", answer));
        }
        if expected < oldest {
            let unanswered: Vec<u64> = self.unanswered.iter().map(|message| message.n).collect();
            let id = self.id;
            self.world
                .judge(|judge| judge.producer_forgotten(id, unanswered.into_iter()))?;
            self.world.tally.add("producers forgotten after damage", 1);
            self.name_producer();
            self.numbers_from = oldest - 1;
        }
        self.send_all_again();
        Ok(())
    }

    fn wrong(&self, what: &str, answer: &Value) -> Trouble {
        let Manner { topic, kind, .. } = self.manner;
        let unanswered = self.unanswered.iter().map(|message| message.n);
        self.world.violated(Violation(format!(
            "{what}: publisher {} ({kind:?}, topic {topic}, with {:?} unanswered of {}) was told {answer}",
            self.id,
            (unanswered.clone().min(), unanswered.max()),
            self.last
        )))
    }
}
