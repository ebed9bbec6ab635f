//! Silence that is nobody's fault: a broker that was stopped, connections whose state is lost on the way, and black holes.

use std::collections::HashSet;
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use hark_client::{Client, SubscribeFrom};
use hark_tests::{Broker, DEADLINE, Ended, Setup, Ws};
use serde_json::json;

use crate::World;
use crate::figure::Figure;

/// How often the broker asks whether its clients are there.
const HEARTBEAT: Duration = Duration::from_secs(1);

pub(crate) async fn stopped_broker(world: &World) -> Vec<Figure> {
    const CLIENTS: usize = 20;
    const PUBLISHES: usize = 350;
    let broker = world.start(Setup::new().flag("heartbeat", "1s"));
    world.worsen();
    let mut clients = Vec::new();
    for n in 0..CLIENTS {
        let mut client = Ws::connect(&broker).await;
        client.subscribe(&format!("heard.{n}"), json!("now")).await;
        clients.push(client);
    }
    // All have been asked, and have answered, before the pause.
    let clients = join_all(
        clients
            .into_iter()
            .map(|client| listen(client, 2 * HEARTBEAT)),
    )
    .await;
    broker.signal("STOP");
    let going_on = async {
        tokio::time::sleep(5 * HEARTBEAT).await;
        broker.signal("CONT");
    };
    // Half of them publish meanwhile, half only listen.
    let living = clients
        .into_iter()
        .enumerate()
        .map(|(n, client)| async move {
            let mut client = client?;
            if n % 2 == 0 {
                publish(&mut client, n, PUBLISHES).await?;
            }
            listen(client, 9 * HEARTBEAT).await
        });
    let ((), living) = tokio::join!(going_on, join_all(living));
    let ended: Vec<Ended> = living.into_iter().filter_map(Result::err).collect();
    for one in &ended {
        println!("  ended: {one:?}");
    }
    vec![
        Figure::shown("clients", CLIENTS as f64, ""),
        Figure::shown(
            "publishes of each second one while it was stopped",
            PUBLISHES as f64,
            "",
        ),
        Figure::none(
            "ended with 4500",
            ended.iter().filter(|one| one.code == Some(4500)).count(),
        ),
        Figure::none("ended at all", ended.len()),
    ]
}

/// Publishes that many at once and reads that many receipts.
async fn publish(client: &mut Ws, n: usize, count: usize) -> Result<(), Ended> {
    let mut ids = Vec::new();
    for value in 0..count {
        let id = client.new_id();
        let topic = format!("told.{n}");
        let publish = json!({"type": "publish", "id": id, "topic": topic, "data": value});
        client.try_feed(&publish).await?;
        ids.push(id);
    }
    client.flush().await?;
    for id in ids {
        let answer = client.try_answer(id).await?;
        assert_eq!(answer["type"], "published", "{answer}");
    }
    Ok(())
}

/// Reads, and so answers when it is asked, for so long.
async fn listen(mut client: Ws, time: Duration) -> Result<Ws, Ended> {
    let end = tokio::time::Instant::now() + time;
    loop {
        match tokio::time::timeout_at(end, client.next()).await {
            Err(_) => return Ok(client),
            Ok(frame) => frame.map(drop)?,
        }
    }
}

pub(crate) async fn lost_nat_state(world: &World) -> Vec<Figure> {
    const MESSAGES: u64 = 3_000;
    const STALL_TIMEOUT: Duration = Duration::from_secs(5);
    let setup = Setup::new()
        .flag("heartbeat", "1s")
        .flag("stall-timeout", "5s");
    let broker = world.start(setup);
    world.worsen();
    let port = broker.addr().port();
    let talk = talk(&broker, MESSAGES);
    let losing = async {
        let mut longest = Duration::ZERO;
        for _ in 0..2 {
            tokio::time::sleep(Duration::from_secs(2)).await;
            let ports = |sockets: Vec<crate::line::SocketMemory>| -> HashSet<u16> {
                sockets.into_iter().map(|one| one.peer_port).collect()
            };
            let old = ports(world.line.sockets(port));
            assert_eq!(old.len(), 2, "the publisher's and the subscriber's");
            world.line.tell("forget");
            let lost = Instant::now();
            while !ports(world.line.sockets(port)).is_disjoint(&old) {
                assert!(lost.elapsed() < DEADLINE, "the old connections stay");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
            longest = longest.max(lost.elapsed());
        }
        longest
    };
    let (seen, longest) = tokio::join!(talk, losing);
    let bound = STALL_TIMEOUT + 3 * HEARTBEAT;
    vec![
        Figure::shown("messages", MESSAGES as f64, ""),
        Figure::none("missing, doubled or out of order", seen.wrong),
        Figure::shown(
            "the longest silence",
            seen.longest_silence.as_secs_f64(),
            " s",
        ),
        Figure::shown(
            "old connections are gone after",
            longest.as_secs_f64(),
            " s",
        )
        .at_most(bound.as_secs_f64()),
    ]
}

pub(crate) async fn holes(world: &World) -> Vec<Figure> {
    const MESSAGES: u64 = 3_000;
    let broker = world.start(Setup::new().flag("heartbeat", "1s"));
    world.worsen();
    let talk = talk(&broker, MESSAGES);
    let digging = async {
        for seconds in [1, 4] {
            tokio::time::sleep(Duration::from_secs(2)).await;
            world.line.tell("both drop 1");
            tokio::time::sleep(Duration::from_secs(seconds)).await;
            world.line.tell("both drop 0");
        }
    };
    let (seen, ()) = tokio::join!(talk, digging);
    vec![
        Figure::shown("messages", MESSAGES as f64, ""),
        Figure::none("missing, doubled or out of order", seen.wrong),
        Figure::shown(
            "the longest silence",
            seen.longest_silence.as_secs_f64(),
            " s",
        ),
    ]
}

/// What a subscriber has seen.
struct SeenBySdk {
    wrong: usize,
    longest_silence: Duration,
}

/// A publisher and a subscriber with the SDK: some 300 messages a second, so many in all.
async fn talk(broker: &Broker, messages: u64) -> SeenBySdk {
    const EVERY: Duration = Duration::from_millis(3);
    const TOPIC: &str = "talk";
    let publisher = Client::connect(broker.ws_url()).await.expect("a client");
    let subscriber = Client::connect(broker.ws_url()).await.expect("a client");
    let mut subscription = subscriber
        .subscribe(TOPIC)
        .from(SubscribeFrom::Earliest)
        .await
        .expect("a subscription");
    let publishing = async {
        let mut receipts = Vec::new();
        let mut ticks = tokio::time::interval(EVERY);
        for n in 1..=messages {
            ticks.tick().await;
            let sent = publisher.publish(TOPIC, &n).send().await;
            receipts.push(sent.expect("a place in the window"));
        }
        for receipt in receipts {
            receipt.await.expect("a receipt");
        }
    };
    let reading = async {
        let (mut wrong, mut longest_silence) = (0, Duration::ZERO);
        for n in 1..=messages {
            let asked = Instant::now();
            let next = tokio::time::timeout(2 * DEADLINE, subscription.next_message()).await;
            longest_silence = longest_silence.max(asked.elapsed());
            let message = next.expect("the next message").expect("no gap");
            wrong += usize::from((message.offset(), message.json().ok()) != (n, Some(n)));
        }
        SeenBySdk {
            wrong,
            longest_silence,
        }
    };
    let ((), seen) = tokio::join!(publishing, reading);
    seen
}
