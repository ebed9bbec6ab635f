//! `make badline`: the broker and its clients at the two ends of a bad line. Owns the command line and the table of scenarios: what the line is
//! like, what is done on it, and what must hold. Ends with 1 when something does not.

#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a program for people"
)]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::unwrap_in_result,
    reason = "its own files and processes; a failing harness is a failing test"
)]

mod catching_up;
mod clients;
mod figure;
mod line;
mod raw;
mod silence;
mod slow;
mod unread;

use std::panic::AssertUnwindSafe;
use std::process::ExitCode;
use std::time::Instant;

use futures_util::FutureExt as _;
use futures_util::future::LocalBoxFuture;
use rand::RngExt as _;

use catching_up::{Pairs, Transport};
use figure::Figure;
use hark_tests::{Broker, Setup};
use line::{FAR, Line};

const USAGE: &str = "\
hark-badline [--seed N] [--only NAME] [--congestion NAME]
  --seed N           what the line loses is drawn from this number again (which packets that hits, the machine's timing has a part in)
  --only NAME        nothing but the scenarios whose names begin so
  --congestion NAME  how TCP controls its congestion, instead of as the machine does: cubic, bbr, …";

/// One scenario.
struct Scenario {
    name: &'static str,
    /// What the line is told, in the words of `line.c`, once what does not count has been done on a good one.
    line: &'static [&'static str],
    /// What is done, and what must hold.
    what: &'static str,
    run: for<'a> fn(&'a World) -> LocalBoxFuture<'a, Vec<Figure>>,
}

/// A line of 100 ms is 50 there and 50 back.
const RTT_100: &[&str] = &["both delay 50"];
const RTT_300: &[&str] = &["both delay 150"];
const CLEAN: Pairs = Pairs {
    count: 3,
    at_most: 1.3,
};
const LOSSY: Pairs = Pairs {
    count: 9,
    at_most: 1.6,
};

const SCENARIOS: &[Scenario] = &[
    Scenario {
        name: "catch-up-100ms-websocket",
        line: RTT_100,
        what: "100,000 messages of 200 bytes take a subscriber no longer than 1.3 × what bare TCP takes for the same bytes",
        run: |world| Box::pin(catching_up::pairs(world, Transport::WebSocket, CLEAN)),
    },
    Scenario {
        name: "catch-up-100ms-events",
        line: RTT_100,
        what: "the same by an event stream",
        run: |world| Box::pin(catching_up::pairs(world, Transport::Events, CLEAN)),
    },
    Scenario {
        name: "catch-up-300ms-websocket",
        line: RTT_300,
        what: "the same on a line of 300 ms",
        run: |world| Box::pin(catching_up::pairs(world, Transport::WebSocket, CLEAN)),
    },
    Scenario {
        name: "catch-up-300ms-events",
        line: RTT_300,
        what: "the same by an event stream",
        run: |world| Box::pin(catching_up::pairs(world, Transport::Events, CLEAN)),
    },
    Scenario {
        name: "catch-up-2%-websocket",
        line: &["both delay 50", "both loss 2"],
        what: "where 2 % are lost, no longer than 1.6 ×: the median of nine pairs",
        run: |world| Box::pin(catching_up::pairs(world, Transport::WebSocket, LOSSY)),
    },
    Scenario {
        name: "catch-up-2%-events",
        line: &["both delay 50", "both loss 2"],
        what: "the same by an event stream",
        run: |world| Box::pin(catching_up::pairs(world, Transport::Events, LOSSY)),
    },
    Scenario {
        name: "catch-up-5%-websocket",
        line: &["both delay 50", "both loss 5"],
        what: "where 5 % are lost, no longer than 1.6 ×: the median of nine pairs",
        run: |world| Box::pin(catching_up::pairs(world, Transport::WebSocket, LOSSY)),
    },
    Scenario {
        name: "catch-up-5%-events",
        line: &["both delay 50", "both loss 5"],
        what: "the same by an event stream",
        run: |world| Box::pin(catching_up::pairs(world, Transport::Events, LOSSY)),
    },
    Scenario {
        name: "not-reading",
        line: &["both delay 50"],
        what: "clients that stop reading cost the kernel and the broker a bounded number of bytes each",
        run: |world| Box::pin(unread::not_reading(world)),
    },
    Scenario {
        name: "vanished",
        line: &["both delay 50"],
        what: "what clients that vanish cost the kernel stays within --max-unsent-bytes; they are ended, and others are served",
        run: |world| Box::pin(unread::vanished(world)),
    },
    Scenario {
        name: "stopped-broker",
        line: &["both delay 10"],
        what: "a broker that is stopped for five heartbeats ends no healthy client when it goes on, and answers what waited",
        run: |world| Box::pin(silence::stopped_broker(world)),
    },
    Scenario {
        name: "slow-upload",
        // A short queue: a long one would itself be silent for a heartbeat or two whenever it has lost something.
        line: &["both delay 20", "up rate 12000", "up queue 6000"],
        what: "who sends for twenty heartbeats without a pause is not silent: no upload is ended, by WebSocket or by HTTP",
        run: |world| Box::pin(slow::upload(world)),
    },
    Scenario {
        name: "kept-connection",
        line: RTT_300,
        what: "the second batch of lines of an HTTP client costs one round trip, on the connection of the first",
        run: |world| Box::pin(slow::kept_connection(world)),
    },
    Scenario {
        name: "lagging",
        line: &["both delay 50", "down rate 20000"],
        what: "a subscriber on a line that is slower than its topic is told that it lags, and still has every message",
        run: |world| Box::pin(slow::lagging(world)),
    },
    Scenario {
        name: "small-packets-only",
        line: &["both delay 10", "down mtu 1280"],
        what: "where large packets vanish without a word, net.ipv4.tcp_mtu_probing=1 on the broker's machine gets everything through",
        run: |world| Box::pin(slow::small_packets_only(world)),
    },
    Scenario {
        name: "lost-nat-state",
        line: &["both delay 20"],
        what: "when a connection loses its state on the way, both SDK clients resume exactly, and the broker lets go of the old ones in time",
        run: |world| Box::pin(silence::lost_nat_state(world)),
    },
    Scenario {
        name: "second-address",
        line: &["both delay 20"],
        what: "where the first address of a name is dead, the second is tried 250 to 500 ms after it",
        run: |world| Box::pin(clients::second_address(world)),
    },
    Scenario {
        name: "round-trips",
        line: RTT_300,
        what: "the first replayed message takes three round trips by WebSocket and two by HTTP; the command line does not wait for goodbyes",
        run: |world| Box::pin(clients::round_trips(world)),
    },
    Scenario {
        name: "http-publishing",
        line: RTT_300,
        what: "20,000 publishes by HTTP take no longer than 1.5 × what they take by WebSocket",
        run: |world| Box::pin(clients::http_publishing(world)),
    },
    Scenario {
        name: "failover",
        line: &["both delay 20"],
        what: "a failover is noticed by a quiet subscriber within 1.2 heartbeats and 3 s, by a publisher within 8 s",
        run: |world| Box::pin(clients::failover(world)),
    },
    Scenario {
        name: "outage",
        line: &["both delay 20"],
        what: "after an outage of less than a minute clients are back within some five seconds",
        run: |world| Box::pin(clients::outage(world)),
    },
    Scenario {
        name: "large-on-narrow",
        line: &[
            "both delay 20",
            "down rate 24000",
            "up rate 24000",
            "both queue 12000",
        ],
        what: "a message that takes many heartbeats on its way arrives, by each transport, and by few connections",
        run: |world| Box::pin(clients::large_on_narrow(world)),
    },
    Scenario {
        name: "holes",
        line: &[
            "both delay 20",
            "both loss 2",
            "both reorder 5",
            "both double 1",
        ],
        what: "through black holes, loss, reordering and doubled packets a subscriber has every message once, in order",
        run: |world| Box::pin(silence::holes(world)),
    },
];

/// What a scenario happens in.
struct World {
    line: Line,
    seed: u64,
    settings: &'static [&'static str],
}

impl World {
    /// Starts a broker at the far end.
    fn start(&self, setup: Setup) -> Broker {
        self.line.far(|| setup.listen(FAR).start())
    }

    /// Starts it again there, after it was stopped.
    fn start_again(&self, broker: &mut Broker) {
        self.line.far(|| broker.start_again());
    }

    /// From now on the line is what the scenario says.
    fn worsen(&self) {
        for order in self.settings {
            self.line.tell(order);
        }
    }

    /// What the line loses is drawn anew, for the `n`th time in this scenario.
    fn draw_again(&self, n: u64) {
        self.line
            .tell(&format!("seed {}", self.seed.wrapping_add(n)));
    }
}

struct Asked {
    seed: u64,
    only: Option<String>,
    congestion: Option<String>,
}

impl Asked {
    fn parse(mut arguments: impl Iterator<Item = String>) -> Result<Self, String> {
        let mut asked = Self {
            // Short enough to be typed.
            seed: rand::rng().random_range(0..1_000_000_000),
            only: None,
            congestion: None,
        };
        while let Some(flag) = arguments.next() {
            let value = arguments.next().ok_or(format!("{flag} wants a value"))?;
            match flag.as_str() {
                "--seed" => {
                    let seed = value.parse();
                    asked.seed = seed.map_err(|error| format!("{flag} {value}: {error}"))?;
                }
                "--only" if SCENARIOS.iter().any(|one| one.name.starts_with(&value)) => {
                    asked.only = Some(value);
                }
                "--only" => {
                    let names: Vec<&str> = SCENARIOS.iter().map(|one| one.name).collect();
                    return Err(format!(
                        "there is no scenario {value}; there are {}",
                        names.join(", ")
                    ));
                }
                "--congestion" => asked.congestion = Some(value),
                _ => return Err(format!("{flag} is unknown")),
            }
        }
        Ok(asked)
    }
}

fn main() -> ExitCode {
    let asked = match Asked::parse(std::env::args().skip(1)) {
        Ok(asked) => asked,
        Err(wrong) => {
            eprintln!("{wrong}\n{USAGE}");
            return ExitCode::from(2);
        }
    };
    println!("seed: {}", asked.seed);
    let line = match Line::start(asked.seed) {
        Ok(line) => line,
        Err(missing) => {
            eprintln!("make badline cannot run here: {missing}");
            return ExitCode::FAILURE;
        }
    };
    line.enter();
    // What was learnt about the path in one transfer must not speed up or slow down the next.
    line::sysctl("net.ipv4.tcp_no_metrics_save", "1");
    line.far_sysctl("net.ipv4.tcp_no_metrics_save", "1");
    if let Some(congestion) = &asked.congestion {
        line::sysctl(line::CONGESTION, congestion);
        line.far_sysctl(line::CONGESTION, congestion);
    }
    println!(
        "congestion control: {}",
        line::read_sysctl(line::CONGESTION)
    );
    let world = World {
        line,
        seed: asked.seed,
        settings: &[],
    };
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .expect("threads");
    let end = runtime.block_on(async {
        tokio::select! {
            biased; // or the first scenario would begin before anybody listens for a signal
            () = told_to_end() => None,
            failed = run_all(world, asked.only.as_deref()) => Some(failed),
        }
    });
    runtime.shutdown_background();
    match end {
        Some(0) => {
            println!("all hold");
            ExitCode::SUCCESS
        }
        Some(failed) => {
            println!(
                "{failed} do not hold; the same again: BADLINE=\"--seed {}\"",
                asked.seed
            );
            ExitCode::FAILURE
        }
        None => {
            eprintln!("told to end");
            ExitCode::FAILURE
        }
    }
}

/// Resolves at Ctrl-C or SIGTERM.
async fn told_to_end() {
    use tokio::signal::unix::{SignalKind, signal};
    let mut terminate = signal(SignalKind::terminate()).expect("a signal");
    let mut interrupt = signal(SignalKind::interrupt()).expect("a signal");
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
}

/// Runs the scenarios, and gives how many do not hold.
async fn run_all(mut world: World, only: Option<&str>) -> usize {
    let mut failed = 0;
    let chosen = SCENARIOS
        .iter()
        .filter(|one| only.is_none_or(|only| one.name.starts_with(only)));
    for scenario in chosen {
        println!("\n{}: {}", scenario.name, scenario.what);
        println!("  line: {}", scenario.line.join(", "));
        world.line.tell("clear");
        world.draw_again(0);
        world.settings = scenario.line;
        let began = Instant::now();
        let found = AssertUnwindSafe((scenario.run)(&world))
            .catch_unwind()
            .await;
        let seconds = began.elapsed().as_secs();
        let holds = match found {
            Ok(figures) => {
                for figure in &figures {
                    println!("  {figure}");
                }
                figures.iter().all(Figure::holds)
            }
            Err(_) => false,
        };
        let verdict = if holds { "holds" } else { "DOES NOT HOLD" };
        println!("  {verdict} ({seconds} s)");
        failed += usize::from(!holds);
    }
    failed
}
