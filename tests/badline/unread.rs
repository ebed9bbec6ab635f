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
    let broker = filled(world, Setup::new()).await;
    world.worsen();
    let before = broker.rss_bytes();
    let mut stopped = Vec::new();
    for n in 0..CLIENTS {
        stopped.push(subscribe(&broker, n).await);
    }
    let sockets = settled(world, &broker).await;
    let grown = broker.rss_bytes().saturating_sub(before);
    let (_, took) = read_all(&broker).await;
    drop(stopped);
    vec![
        Figure::shown("clients that do not read", sockets.len() as f64, "")
            .at_least(CLIENTS as f64),
        each("not acknowledged, each", &sockets, |one| one.unsent_bytes),
        // What may be written and not sent, with the kernel's own additions.
        each("the kernel's memory, each", &sockets, |one| {
            one.memory_bytes
        })
        .at_most(256.0),
        Figure::shown(
            "the broker's memory, each",
            grown as f64 / CLIENTS as f64 / KB,
            " KB",
        )
        .at_most(512.0),
        Figure::shown("another has everything after", took.as_secs_f64(), " s"),
    ]
}

pub(crate) async fn vanished(world: &World) -> Vec<Figure> {
    // What three have on their way at full speed is within the budget, what six have is not.
    const CLIENTS: usize = 3;
    const CROWDS: usize = 4;
    const BUDGET: u64 = 16 * 1024 * 1024;
    let broker = filled(world, Setup::new().flag("max-unsent-bytes", BUDGET)).await;
    let port = broker.addr().port();
    world.worsen();
    let before = broker.rss_bytes();

    let mut crowds: Vec<HashSet<u16>> = Vec::new();
    // What one of the first crowd costs, before anybody is ended.
    let mut first = Vec::new();
    let (mut out_of_turn, mut grown) = (0, 0);
    for _ in 0..CROWDS {
        crowds.push(vanish(world, &broker, CLIENTS).await);
        // The broker looks every second.
        let end = Instant::now() + Duration::from_secs(3);
        while Instant::now() < end {
            let sockets = world.line.sockets(port);
            let left = crowds.iter().map(|crowd| {
                let there = sockets.iter().filter(|one| crowd.contains(&one.peer_port));
                there.count()
            });
            let left: Vec<usize> = left.collect();
            // Nobody goes before all are gone that were silent for longer.
            out_of_turn += left
                .windows(2)
                .filter(|pair| pair[0] > 0 && pair[1] < CLIENTS)
                .count();
            if crowds.len() == 1 && unsent(&sockets) > unsent(&first) {
                grown = broker.rss_bytes().saturating_sub(before);
                first = sockets;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
    let held = world.line.sockets(port);
    let vanished = CROWDS * CLIENTS;
    let (_, took) = read_all(&broker).await;
    vec![
        Figure::shown("clients that vanish", vanished as f64, ""),
        each("not acknowledged, each", &first, |one| one.unsent_bytes),
        each("the kernel's memory, each", &first, |one| one.memory_bytes),
        Figure::shown(
            "the broker's memory, each",
            grown as f64 / CLIENTS as f64 / KB,
            " KB",
        ),
        Figure::shown(
            "not acknowledged in all, at the end",
            unsent(&held) as f64 / KB,
            " KB",
        )
        .at_most(BUDGET as f64 / KB),
        Figure::shown("ended by then", (vanished - held.len()) as f64, "").at_least(1.0),
        Figure::none("ended before those who were silent for longer", out_of_turn),
        Figure::shown("another has everything after", took.as_secs_f64(), " s"),
    ]
}

/// A broker that holds a topic of 28 MB, and nothing yet of what it took to fill it.
async fn filled(world: &World, setup: Setup) -> Broker {
    let mut broker = world.start(setup.restarts());
    fill(&broker.http(), 100_000);
    broker.stop();
    world.start_again(&mut broker);
    read_all(&broker).await;
    broker
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
        reader
    });
    let readers = join_all(readers).await;
    world.line.tell("forget");
    let ports = readers.iter().map(Subscriber::port).collect();
    // Nobody is told: the line drops what they say as well.
    drop(readers);
    ports
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
