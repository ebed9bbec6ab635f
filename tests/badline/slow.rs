//! Lines that are slow, long or narrow, and clients that are well all the same: who uploads slowly is not silent, a connection is kept, a
//! subscriber knows that it lags, and large packets that vanish are got around.

use std::time::{Duration, Instant};

use hark_tests::{Broker, Setup, Ws};
use serde_json::json;

use crate::World;
use crate::catching_up::{fill, topic};
use crate::figure::Figure;
use crate::raw::Subscriber;

pub(crate) async fn upload(world: &World) -> Vec<Figure> {
    const UPLOAD_BYTES: usize = 240 * 1024;
    let broker = world.start(Setup::new().flag("heartbeat", "1s"));
    let mut session = Ws::connect(&broker).await;
    world.worsen();
    let data = "u".repeat(UPLOAD_BYTES);

    let began = Instant::now();
    let publish = json!({"type": "publish", "topic": "by-websocket", "data": data});
    let answer = session.try_ask(publish).await;
    let by_websocket = began.elapsed();
    if let Err(ended) = &answer {
        println!("  the session ended: {ended:?}");
    }
    drop(session);

    let began = Instant::now();
    let (http, body) = (broker.http(), json!(data));
    let posted = tokio::task::spawn_blocking(move || http.publish("by-http", &body)).await;
    let by_http = began.elapsed();
    vec![
        Figure::shown("each uploads", UPLOAD_BYTES as f64 / 1000.0, " KB"),
        Figure::must(
            "kept, by WebSocket",
            answer.is_ok_and(|answer| answer["type"] == "published"),
        ),
        Figure::shown("after", by_websocket.as_secs_f64(), " s"),
        Figure::must(
            "kept, by HTTP",
            posted.is_ok_and(|answer| answer.status == 200),
        ),
        Figure::shown("after", by_http.as_secs_f64(), " s"),
    ]
}

pub(crate) async fn kept_connection(world: &World) -> Vec<Figure> {
    const RTT: f64 = 0.3;
    let broker = world.start(Setup::new());
    world.worsen();
    let begun = world.line.connections_begun();
    let seconds = {
        let http = broker.http();
        let batch = || {
            let began = Instant::now();
            let answer = http.post(
                "/v1/topics/lines/messages",
                &[("content-type", "application/x-ndjson")],
                "1\n2\n3\n",
            );
            assert_eq!(answer.body.matches("\"cursor\"").count(), 3, "{answer:?}");
            began.elapsed().as_secs_f64()
        };
        tokio::task::block_in_place(|| [batch(), batch(), batch()])
    };
    let begun = world.line.connections_begun() - begun;
    vec![
        Figure::shown("the first batch", seconds[0] / RTT, " round trips"),
        Figure::shown("the second batch", seconds[1] / RTT, " round trips").at_most(1.5),
        Figure::shown("the third batch", seconds[2] / RTT, " round trips").at_most(1.5),
        Figure::shown("connections", begun as f64, "").at_most(1.0),
    ]
}

pub(crate) async fn lagging(world: &World) -> Vec<Figure> {
    // Twice what the line carries, for so long.
    const STEP: Duration = Duration::from_millis(100);
    const STEPS: usize = 150;
    const MESSAGES_A_STEP: usize = 15;
    const MESSAGES: usize = STEPS * MESSAGES_A_STEP;
    let broker = world.start(Setup::new());
    let mut session = Ws::connect(&broker).await;
    session.subscribe(topic(), json!("now")).await;
    world.worsen();
    let began = Instant::now();
    // Published where the broker is, so that nothing else is on the line.
    let http = broker.http();
    let publishing = world.line.far(|| {
        std::thread::spawn(move || {
            for _ in 0..STEPS {
                fill(&http, MESSAGES_A_STEP);
                hark_tests::pause(STEP);
            }
        })
    });
    let (mut told, mut first, mut next, mut out_of_order) = (0, None, 1, 0);
    while next <= MESSAGES {
        let frame = session.recv().await;
        match frame["type"].as_str() {
            Some("lagging") => {
                told += 1;
                first.get_or_insert_with(|| began.elapsed());
                println!("  after {:.1} s: {frame}", began.elapsed().as_secs_f64());
            }
            Some("message") => {
                out_of_order += usize::from(frame["offset"] != next);
                next += 1;
            }
            _ => {}
        }
    }
    publishing.join().expect("all is published");
    let mut figures = vec![
        Figure::shown("told that it lags, times", told as f64, "").at_least(1.0),
        Figure::shown(
            "everything was there after",
            began.elapsed().as_secs_f64(),
            " s",
        ),
        Figure::none("messages out of order", out_of_order),
    ];
    if let Some(first) = first {
        // It has been behind for two seconds when it is said, and what lies in front of it in the kernel takes seven.
        let after = Figure::shown("for the first time after", first.as_secs_f64(), " s");
        figures.insert(1, after.at_most(15.0));
    }
    figures
}

pub(crate) async fn small_packets_only(world: &World) -> Vec<Figure> {
    const MESSAGES: usize = 5_000;
    const WITHOUT: Duration = Duration::from_secs(8);
    const WITH: Duration = Duration::from_secs(30);
    let broker = world.start(Setup::new());
    fill(&broker.http(), MESSAGES);
    world.worsen();
    let mut figures = Vec::new();
    for (probing, patience) in [("0", WITHOUT), ("1", WITH)] {
        world.line.far_sysctl("net.ipv4.tcp_mtu_probing", probing);
        for events in [false, true] {
            let by = if events { "event stream" } else { "WebSocket" };
            let seconds = catch_up(&broker, events, patience).await;
            figures.push(match probing {
                // Or the line would show nothing.
                "0" => Figure::must(format!("hangs without probing, {by}"), seconds.is_none()),
                _ => {
                    let seconds = seconds.unwrap_or(f64::INFINITY);
                    let what = format!("everything is there with probing, {by}, after");
                    Figure::shown(what, seconds, " s").at_most(WITH.as_secs_f64())
                }
            });
        }
    }
    world.line.far_sysctl("net.ipv4.tcp_mtu_probing", "0");
    figures
}

/// How long it takes to have everything; `None`: longer than that.
async fn catch_up(broker: &Broker, events: bool, patience: Duration) -> Option<f64> {
    let caught_up = async {
        let mut subscriber = match events {
            false => Subscriber::by_websocket(broker.addr(), topic()).await,
            true => Subscriber::by_events(broker.addr(), topic()).await,
        };
        subscriber.read_to("\"caught_up\"").await
    };
    let done = tokio::time::timeout(patience, caught_up).await;
    done.ok().map(|(_, took)| took.as_secs_f64())
}
