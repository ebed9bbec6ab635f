//! How fast a subscriber catches up on a long line, beside bare TCP with the kernel's defaults on the same line, in turn.

use std::time::Duration;

use hark_tests::{Broker, Http, Setup};

use crate::World;
use crate::figure::{Figure, median};
use crate::raw::{Bare, Subscriber};

const MESSAGES: usize = 100_000;
const MESSAGE_BYTES: usize = 200;
const TOPIC: &str = "past";
/// Lines in one request.
const BATCH: usize = 10_000;

/// Where it does not hold, so many times as many pairs are added, and all are counted. On a line that loses, one transfer in four is three
/// times as slow as the others, with or without Hark (bbr takes a loss at the beginning for the line's limit): a fault stays, bad luck does not.
const MORE: usize = 2;

/// How a subscriber is connected.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Transport {
    WebSocket,
    Events,
}

/// How often the two are compared, and what must hold of the median.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Pairs {
    pub(crate) count: usize,
    pub(crate) at_most: f64,
}

pub(crate) async fn pairs(world: &World, transport: Transport, pairs: Pairs) -> Vec<Figure> {
    let broker = world.start(Setup::new());
    fill(&broker.http(), MESSAGES);
    // On the good line: how many bytes it is, and everything is there.
    let (bytes, _) = catch_up(&broker, transport).await;
    let bare = Bare::serve(&world.line);
    world.worsen();
    let (mut bare_seconds, mut seconds, mut ratios) = (Vec::new(), Vec::new(), Vec::new());
    for pair in 0..pairs.count * (1 + MORE) {
        let decided = !ratios.is_empty() && ratios.len() % pairs.count == 0;
        if decided && median(&ratios) <= pairs.at_most {
            break;
        }
        world.draw_again(pair as u64);
        let of_bare = bare.transfer(bytes).await;
        world.draw_again(pair as u64);
        let (_, of_hark) = catch_up(&broker, transport).await;
        bare_seconds.push(of_bare.as_secs_f64());
        seconds.push(of_hark.as_secs_f64());
        ratios.push(of_hark.as_secs_f64() / of_bare.as_secs_f64());
    }
    vec![
        Figure::shown("on the wire", bytes as f64 / 1e6, " MB"),
        middle("bare TCP", &bare_seconds, " s"),
        middle("catching up", &seconds, " s"),
        middle("ratio", &ratios, " ×").at_most(pairs.at_most),
    ]
}

/// The median, beside all.
fn middle(what: &str, values: &[f64], unit: &'static str) -> Figure {
    let all: Vec<String> = values.iter().map(|value| format!("{value:.2}")).collect();
    let what = format!("{what}, median of {}", all.join(" "));
    Figure::shown(what, median(values), unit)
}

async fn catch_up(broker: &Broker, transport: Transport) -> (u64, Duration) {
    let mut subscriber = match transport {
        Transport::WebSocket => Subscriber::by_websocket(broker.addr(), TOPIC).await,
        Transport::Events => Subscriber::by_events(broker.addr(), TOPIC).await,
    };
    subscriber.read_to("\"caught_up\"").await
}

/// Publishes so many messages.
pub(crate) fn fill(http: &Http, messages: usize) {
    let line = format!("\"{}\"\n", "m".repeat(MESSAGE_BYTES - 2));
    let mut left = messages;
    while left > 0 {
        let lines = left.min(BATCH);
        let answer = http.post(
            &format!("/v1/topics/{TOPIC}/messages"),
            &[("content-type", "application/x-ndjson")],
            line.repeat(lines),
        );
        let kept = answer.body.matches("\"cursor\"").count();
        assert_eq!(kept, lines, "{} of {lines} lines were kept", kept);
        left -= lines;
    }
}

/// The topic that `fill` fills.
pub(crate) fn topic() -> &'static str {
    TOPIC
}
