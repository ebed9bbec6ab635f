//! What clients cost that take nothing more: those that stop reading, and those that vanish.

use std::collections::HashSet;
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use hark_tests::{Broker, DEADLINE, Setup};

use crate::World;
use crate::catching_up::{fill, topic};
use crate::figure::Figure;
use crate::line::SocketMemory;
use crate::raw::Subscriber;

const KB: f64 = 1000.0;

pub(crate) async fn not_reading(world: &World) -> Vec<Figure> {
    const CLIENTS: usize = 100;
    let broker = world.start(Setup::new());
    fill(&broker.http(), 100_000);
    read_all(&broker).await;
    world.worsen();
    let before = broker.rss_bytes();
    let mut stopped = Vec::new();
    for n in 0..CLIENTS {
        stopped.push(subscribe(&broker, n).await);
    }
    let sockets = settled(world, &broker).await;
    let grown = broker.rss_bytes().saturating_sub(before);
    let (other, took) = read_all(&broker).await;
    drop(stopped);
    vec![
        Figure::shown("clients that do not read", sockets.len() as f64, "").at_least(CLIENTS as f64),
        each("not acknowledged, each", &sockets, |one| one.unsent_bytes),
        // What may be written and not sent, with the kernel's own additions, and what was on its way to a window that has closed.
        each("the kernel's memory, each", &sockets, |one| {
            one.memory_bytes
        })
        .at_most(400.0),
        // A page being written and a page behind it, with the session.
        Figure::shown(
            "the broker's memory, each",
            grown as f64 / CLIENTS as f64 / KB,
            " KB",
        )
        .at_most(500.0),
        Figure::shown("another catches up meanwhile", took.as_secs_f64(), " s"),
        Figure::shown("with", other as f64 / 1e6, " MB"),
    ]
}

pub(crate) async fn vanished(world: &World) -> Vec<Figure> {
    const CLIENTS: usize = 10;
    const BUDGET: u64 = 8 * 1024 * 1024;
    let broker = world.start(Setup::new().flag("max-unsent-bytes", BUDGET));
    fill(&broker.http(), 100_000);
    read_all(&broker).await;
    world.worsen();
    let before = broker.rss_bytes();

    let first = vanish(world, &broker, CLIENTS).await;
    // What they hold at most, before the broker looks at them for the first time.
    let mut highest = Vec::new();
    let end = Instant::now() + Duration::from_secs(3);
    while Instant::now() < end {
        let sockets = world.line.sockets(broker.addr().port());
        if unsent(&sockets) > unsent(&highest) {
            highest = sockets;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let grown = broker.rss_bytes().saturating_sub(before);
    let after_first = world.line.sockets(broker.addr().port());

    let second = vanish(world, &broker, CLIENTS).await;
    let reading = read_all(&broker);
    let watching = async {
        let (mut out_of_turn, mut last) = (0, Vec::new());
        let end = Instant::now() + Duration::from_secs(5);
        while Instant::now() < end {
            last = world.line.sockets(broker.addr().port());
            let left = |ports: &HashSet<u16>| {
                let there = last.iter().filter(|one| ports.contains(&one.peer_port));
                there.count()
            };
            // Nobody of those who have been silent for less goes before those who have been for longer.
            out_of_turn += usize::from(left(&second) < CLIENTS && left(&first) > 0);
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        (out_of_turn, last)
    };
    let ((read_bytes, took), (out_of_turn, last)) = tokio::join!(reading, watching);
    let last: Vec<SocketMemory> = last
        .into_iter()
        .filter(|one| first.contains(&one.peer_port) || second.contains(&one.peer_port))
        .collect();
    vec![
        Figure::shown("clients that vanish, twice", CLIENTS as f64, ""),
        each("not acknowledged, each, before any is cut", &highest, |one| one.unsent_bytes),
        each("the kernel's memory, each, before any is cut", &highest, |one| one.memory_bytes),
        Figure::shown(
            "the broker's memory, each",
            grown as f64 / CLIENTS as f64 / KB,
            " KB",
        ),
        Figure::shown(
            "not acknowledged in all, three seconds later",
            unsent(&after_first) as f64 / KB,
            " KB",
        )
        .at_most(BUDGET as f64 / KB),
        Figure::shown(
            "not acknowledged in all, when the others have vanished too",
            unsent(&last) as f64 / KB,
            " KB",
        )
        .at_most(BUDGET as f64 / KB),
        Figure::none("seen cut before those who were silent for longer", out_of_turn),
        Figure::shown("another catches up meanwhile", took.as_secs_f64(), " s"),
        Figure::shown("with", read_bytes as f64 / 1e6, " MB"),
    ]
}

async fn subscribe(broker: &Broker, n: usize) -> Subscriber {
    match n % 2 {
        0 => Subscriber::by_websocket(broker.addr(), topic()).await,
        _ => Subscriber::by_events(broker.addr(), topic()).await,
    }
}

async fn read_all(broker: &Broker) -> (u64, Duration) {
    let mut subscriber = Subscriber::by_websocket(broker.addr(), topic()).await;
    subscriber.read_to("\"caught_up\"").await
}

/// So many subscribers, whose connections lose their state when all of them read at full speed. Gives their ports.
async fn vanish(world: &World, broker: &Broker, clients: usize) -> HashSet<u16> {
    const FULL_SPEED_AFTER: u64 = 4_000_000;
    let readers = (0..clients).map(|n| async move {
        let mut reader = subscribe(broker, n).await;
        reader.read_bytes(FULL_SPEED_AFTER).await;
        // Read on until the others are as far; who vanishes does so in the midst of it.
        reader
    });
    let readers = join_all(readers).await;
    world.line.tell("forget");
    readers.iter().map(Subscriber::port).collect()
}

/// The sockets, when what they hold has stopped growing.
async fn settled(world: &World, broker: &Broker) -> Vec<SocketMemory> {
    let end = Instant::now() + DEADLINE;
    let mut before = Vec::new();
    loop {
        tokio::time::sleep(Duration::from_secs(1)).await;
        let now = world.line.sockets(broker.addr().port());
        if unsent(&now) == unsent(&before) && now.len() == before.len() {
            return now;
        }
        assert!(Instant::now() < end, "the queues grow and grow");
        before = now;
    }
}

fn unsent(sockets: &[SocketMemory]) -> u64 {
    sockets.iter().map(|one| one.unsent_bytes).sum()
}

fn each(what: &str, sockets: &[SocketMemory], of: impl Fn(&SocketMemory) -> u64) -> Figure {
    let all: u64 = sockets.iter().map(of).sum();
    Figure::shown(what, all as f64 / sockets.len().max(1) as f64 / KB, " KB")
}
