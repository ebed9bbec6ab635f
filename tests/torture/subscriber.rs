//! Subscribers over WebSocket and readers of history over HTTP, in several manners. Own when they ask, from where, and how fast they read;
//! what they are told goes to their `Reader`.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use futures_util::FutureExt as _;
use hark_protocol::Subprotocol;
use hark_tests::Ws;
use rand::RngExt as _;
use rand::rngs::StdRng;
use serde_json::{Value, json};

use crate::judge::{Known, Place, Violation};
use crate::reader::{From, Reader};
use crate::world::{Phase, Trouble, World, name_of};

/// How a subscriber behaves.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Manner {
    /// Stays, and comes back with its cursor.
    Steady,
    /// The same, and now and then does not read for so long.
    Slow(Duration),
    /// Comes and goes: from here, from there, or where it was.
    Visitor,
}

/// Between two attempts to connect.
const RETRY: Duration = Duration::from_millis(3);
/// How many frames are judged at most before others get their turn.
const MANY: usize = 256;

/// Reads a topic until told to end, and then to its head.
pub(crate) async fn subscribe(
    world: Arc<World>,
    topic: usize,
    manner: Manner,
    subprotocol: Option<Subprotocol>,
    mut rng: StdRng,
) {
    let mut place = None;
    loop {
        let visit = Visit {
            world: &world,
            topic,
            manner,
            subprotocol,
        };
        match visit.session(&mut place, &mut rng).await {
            Ok(()) | Err(Trouble::Violated) => return,
            Err(Trouble::Broken) => tokio::time::sleep(RETRY).await,
        }
    }
}

/// Reads from `place` (`None`: from the beginning) until all is read that is known when it is asked for. Comes back when the connection is lost.
pub(crate) async fn read_to_head(
    world: &World,
    topic: usize,
    mut place: Option<Place>,
) -> Result<Place, Trouble> {
    loop {
        match read_once(world, topic, &mut place).await {
            Err(Trouble::Broken) => tokio::time::sleep(RETRY).await,
            Ok(()) => return place.ok_or(Trouble::Broken),
            Err(violated) => return Err(violated),
        }
    }
}

async fn read_once(world: &World, topic: usize, place: &mut Option<Place>) -> Result<(), Trouble> {
    let mut ws = connect(world, None).await?;
    let from = place.clone().map_or(From::Earliest, From::After);
    let mut reader = join(world, &mut ws, topic, &from).await?;
    while !reader.caught_up {
        let frame = ws.next().await.map_err(|ended| world.ended(&ended))?;
        take(world, &mut reader, &frame)?;
        *place = Some(reader.place.clone());
    }
    *place = Some(reader.place);
    Ok(())
}

struct Visit<'a> {
    world: &'a World,
    topic: usize,
    manner: Manner,
    subprotocol: Option<Subprotocol>,
}

impl Visit<'_> {
    /// Reads on one connection. Ends when all is read that there will be.
    async fn session(&self, place: &mut Option<Place>, rng: &mut StdRng) -> Result<(), Trouble> {
        let world = self.world;
        let mut phases = world.phases();
        let mut ws = connect(world, self.subprotocol).await?;
        loop {
            let last = world.phase() == Phase::Reading;
            let from = self.from(place.clone(), last, rng);
            let mut reader = join(world, &mut ws, self.topic, &from).await?;
            *place = Some(reader.place.clone());
            let mut to_read = match self.manner {
                Manner::Visitor if !last => rng.random_range(0..2000),
                _ => usize::MAX,
            };
            while to_read > 0 {
                if world.phase() == Phase::Reading {
                    let known = world.tell(|judge| judge.known(self.topic));
                    if reader.caught_up
                        && reader.place.offset >= known.head
                        && known.epoch.as_ref() == Some(&reader.place.epoch)
                    {
                        return Ok(());
                    }
                }
                let mut taken = 0;
                let mut next = tokio::select! {
                    frame = ws.next() => Some(frame),
                    _ = phases.changed() => None,
                };
                while let Some(frame) = next.take() {
                    let frame = frame.map_err(|ended| world.ended(&ended))?;
                    take(world, &mut reader, &frame)?;
                    *place = Some(reader.place.clone());
                    (taken, to_read) = (taken + 1, to_read - 1);
                    if taken < MANY && to_read > 0 {
                        next = ws.next().now_or_never();
                    }
                }
                self.rest(rng).await;
                tokio::task::yield_now().await;
            }
            if rng.random() {
                return Err(Trouble::Broken); // Leaves without a word.
            }
            self.leave(&mut ws, &mut reader).await?;
            *place = Some(reader.place.clone());
        }
    }

    fn from(&self, place: Option<Place>, last: bool, rng: &mut StdRng) -> From {
        let first = match self.manner {
            Manner::Visitor => From::Now,
            Manner::Steady | Manner::Slow(_) => From::Earliest,
        };
        let resume = place.map_or(first, From::After);
        if last || !matches!(self.manner, Manner::Visitor) {
            return resume;
        }
        match rng.random_range(0..8) {
            0 => From::Now,
            1 => From::Earliest,
            2 => From::Last(rng.random_range(0..3000)),
            3 | 4 => {
                let cursors = self.world.tell(|judge| judge.cursors(self.topic));
                match cursors.len() {
                    0 => resume,
                    many => {
                        let Place { epoch, offset } = cursors[rng.random_range(0..many)].clone();
                        let offset = rng.random_range(0..=offset);
                        From::After(Place { epoch, offset })
                    }
                }
            }
            _ => resume,
        }
    }

    async fn rest(&self, rng: &mut StdRng) {
        if let Manner::Slow(rest) = self.manner
            && self.world.phase() == Phase::Running
            && rng.random_ratio(1, 20)
        {
            tokio::time::sleep(rest).await;
        }
    }

    /// Unsubscribes, and takes what comes until that is answered.
    async fn leave(&self, ws: &mut Ws, reader: &mut Reader) -> Result<(), Trouble> {
        let world = self.world;
        let id = ws.new_id();
        let leave = json!({"type": "unsubscribe", "id": id, "topic": name_of(self.topic)});
        ws.try_feed(&leave)
            .await
            .map_err(|ended| world.ended(&ended))?;
        ws.flush().await.map_err(|ended| world.ended(&ended))?;
        loop {
            let frame = ws.next().await.map_err(|ended| world.ended(&ended))?;
            match frame["id"] == id {
                false => take(world, reader, &frame)?,
                true if frame["type"] == "unsubscribed" => return Ok(()),
                true => {
                    return Err(
                        world.violated(Violation(format!("unsubscribing was answered {frame}")))
                    );
                }
            }
        }
    }
}

async fn connect(world: &World, subprotocol: Option<Subprotocol>) -> Result<Ws, Trouble> {
    let connected = Ws::try_connect(world.addr(), subprotocol).await;
    connected.map_err(|_| Trouble::Broken)
}

/// Subscribes, trying again while the broker is busy, or cannot read what was damaged.
async fn join(world: &World, ws: &mut Ws, topic: usize, from: &From) -> Result<Reader, Trouble> {
    loop {
        let known = world.tell(|judge| judge.known(topic));
        let ask = json!({"type": "subscribe", "topic": name_of(topic), "from": from.json()});
        let said = ws.try_ask(ask).await.map_err(|ended| world.ended(&ended))?;
        match (said["type"].as_str(), said["code"].as_str()) {
            (Some("subscribed"), _) => {
                world.tally.add("subscriptions", 1);
                return world.judge(|judge| Reader::subscribed(judge, topic, from, known, &said));
            }
            (_, Some("busy")) => tokio::time::sleep(RETRY).await,
            (_, Some("log_unavailable")) if world.may_be_unavailable.load(Ordering::SeqCst) => {
                tokio::time::sleep(RETRY).await;
            }
            _ => {
                return Err(world.violated(Violation(format!(
                    "subscribing to topic {topic} from {from:?} was answered {said}"
                ))));
            }
        }
    }
}

fn take(world: &World, reader: &mut Reader, frame: &Value) -> Result<(), Trouble> {
    if frame["type"] == "goodbye" {
        return Ok(());
    }
    if let Some(reason) = frame["reason"].as_str() {
        world.tally.add(&format!("gaps told: {reason}"), 1);
    }
    world.judge(|judge| reader.take(judge, frame))
}

/// Reads a topic's history over HTTP, page by page, until told to end, and then to its head. Begins anew now and then.
pub(crate) async fn page(world: Arc<World>, topic: usize, mut rng: StdRng) {
    let config = ureq::Agent::config_builder()
        .http_status_as_error(false)
        .timeout_global(Some(hark_tests::DEADLINE))
        .build();
    let agent = ureq::Agent::from(config);
    let mut after: Option<Place> = None;
    loop {
        let last = world.phase() == Phase::Reading;
        let known = world.tell(|judge| judge.known(topic));
        let limit = rng.random_range(1..=1000);
        match get(&world, &agent, topic, after.as_ref(), known.clone(), limit).await {
            Err(Trouble::Violated) => return,
            Err(Trouble::Broken) => tokio::time::sleep(RETRY).await,
            Ok((place, caught_up)) => {
                if last
                    && caught_up
                    && known
                        .epoch
                        .as_ref()
                        .is_none_or(|epoch| *epoch == place.epoch)
                {
                    return;
                }
                let anew = !last && rng.random_ratio(1, 200);
                after = (!anew).then_some(place);
                if caught_up && !last {
                    tokio::time::sleep(Duration::from_millis(rng.random_range(1..60))).await;
                }
            }
        }
    }
}

async fn get(
    world: &World,
    agent: &ureq::Agent,
    topic: usize,
    after: Option<&Place>,
    known: Known,
    limit: u32,
) -> Result<(Place, bool), Trouble> {
    let from = after.map_or("from=earliest".to_owned(), |place| format!("after={place}"));
    let url = format!(
        "http://{}/v1/topics/{}/messages?{from}&limit={limit}",
        world.addr(),
        name_of(topic)
    );
    let agent = agent.clone();
    let asked = tokio::task::spawn_blocking(move || -> Result<(u16, String), ureq::Error> {
        let mut response = agent.get(&url).call()?;
        let body = response
            .body_mut()
            .with_config()
            .limit(256 << 20)
            .read_to_string()?;
        Ok((response.status().as_u16(), body))
    });
    let (status, body) = asked
        .await
        .map_err(|_| Trouble::Broken)?
        .map_err(|_| Trouble::Broken)?;
    match (status, serde_json::from_str::<Value>(&body)) {
        (200, Ok(page)) => {
            world.tally.add("pages of history", 1);
            if let Some(reason) = page["gap"]["reason"].as_str() {
                world.tally.add(&format!("gaps told: {reason}"), 1);
            }
            world.judge(|judge| Reader::page(judge, topic, after, known, &page))
        }
        // Busy, or ending: what it says is the HTTP tests' matter.
        (503, Ok(_)) => Err(Trouble::Broken),
        _ => Err(world.violated(Violation(format!(
            "a page of topic {topic} after {after:?} was answered {status}: {body}"
        )))),
    }
}
