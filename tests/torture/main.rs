//! `make torture`: real brokers, many clients, and one fault after the other, drawn from a seed; a model in plain maps judges. Then floods, by
//! the clock, and a drain with a crowd. Owns the command line, the order of the faults and the summary. Ends with 1 when a rule was violated, says
//! which, and keeps what it takes to find out why.

#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a program for people"
)]
#![allow(
    clippy::expect_used,
    reason = "its own files and processes; a failing harness is a failing test"
)]

mod drain;
mod fault;
mod flood;
mod floods;
mod judge;
mod publisher;
mod quiet;
mod reader;
mod run;
mod server;
mod subscriber;
mod tally;
mod world;

#[cfg(test)]
mod tests;

use std::panic::AssertUnwindSafe;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use futures_util::FutureExt as _;
use rand::rngs::StdRng;
use rand::seq::SliceRandom as _;
use rand::{RngExt as _, SeedableRng as _};

use fault::{Fault, Then};
use flood::Flood;
use judge::{Judged, Violation};
use run::Run;
use tally::Tally;

const USAGE: &str = "\
hark-torture [--cycles N] [--minutes N] [--seed N] [--only PART]
  --cycles N     until so many kills have hit messages in flight and every fault has come (with --only FAULT: so many cycles); 500
  --minutes N    for so long instead
  --seed N       draws the same faults, and the same order of floods, again
  --only PART    nothing but the hunt, the floods or the drain; or one fault, or one flood, by its name";

/// A run has so many cycles, drawn anew each time.
const CYCLES_A_RUN: std::ops::RangeInclusive<usize> = 12..=30;
/// How often it says how far it is.
const SAY_EVERY: Duration = Duration::from_secs(20);

/// What was asked for.
#[derive(Debug)]
struct Hunt {
    cycles: u64,
    time: Option<Duration>,
    seed: u64,
    part: Part,
}

/// Which part.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Part {
    All,
    Hunt,
    Fault(Fault),
    Floods,
    Flood(&'static str),
    Drain,
}

impl Part {
    fn by_name(name: &str) -> Result<Self, String> {
        match name {
            "hunt" => return Ok(Self::Hunt),
            "floods" => return Ok(Self::Floods),
            "drain" => return Ok(Self::Drain),
            _ => {}
        }
        let floods: Vec<&str> = Flood::all().iter().map(|flood| flood.name).collect();
        let flood = floods.iter().find(|flood| **flood == name);
        match (Fault::by_name(name), flood) {
            (Some(fault), _) => Ok(Self::Fault(fault)),
            (None, Some(flood)) => Ok(Self::Flood(flood)),
            (None, None) => {
                let faults = Fault::ALL.iter().map(|(_, name, _)| *name);
                let known: Vec<&str> = ["hunt", "floods", "drain"]
                    .into_iter()
                    .chain(faults)
                    .chain(floods)
                    .collect();
                Err(format!("{name} is no part; there are {}", known.join(", ")))
            }
        }
    }

    fn hunts(self) -> bool {
        matches!(self, Self::All | Self::Hunt | Self::Fault(_))
    }
}

impl Hunt {
    fn parse(mut args: impl Iterator<Item = String>) -> Result<Self, String> {
        let mut hunt = Self {
            cycles: 500,
            time: None,
            // Short enough to be typed.
            seed: rand::rng().random_range(0..1_000_000_000),
            part: Part::All,
        };
        while let Some(flag) = args.next() {
            let value = args.next().ok_or(format!("{flag} wants a value"))?;
            let number = || {
                value
                    .parse::<u64>()
                    .map_err(|e| format!("{flag} {value}: {e}"))
            };
            match flag.as_str() {
                "--cycles" => hunt.cycles = number()?,
                "--minutes" => hunt.time = Some(Duration::from_secs(60 * number()?)),
                "--seed" => hunt.seed = number()?,
                "--only" => hunt.part = Part::by_name(&value)?,
                _ => return Err(format!("{flag} is unknown")),
            }
        }
        Ok(hunt)
    }
}

fn main() -> ExitCode {
    if std::env::args()
        .nth(1)
        .is_some_and(|word| word == floods::BURN_COMMAND)
    {
        floods::burn();
        return ExitCode::SUCCESS;
    }
    let hunt = match Hunt::parse(std::env::args().skip(1)) {
        Ok(hunt) => hunt,
        Err(wrong) => {
            eprintln!("{wrong}\n{USAGE}");
            return ExitCode::from(2);
        }
    };
    let (seed, part) = (hunt.seed, hunt.part);
    println!("seed: {seed}");
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build();
    let runtime = runtime.expect("threads");
    let mut ends = Vec::new();
    if part.hunts() {
        ends.push(run_hunt(hunt, &runtime));
    }
    if matches!(part, Part::All | Part::Floods | Part::Flood(_)) {
        let only = match part {
            Part::Flood(name) => Some(name),
            _ => None,
        };
        println!("\nfloods:");
        ends.push(unless_given_up(|| floods::run(seed, only)));
    }
    if matches!(part, Part::All | Part::Drain) {
        println!();
        ends.push(unless_given_up(|| runtime.block_on(drain::run())));
    }
    let violated = ends.into_iter().filter_map(Result::err);
    let violated: Vec<String> = violated
        .map(|violation| format!("VIOLATED, seed {seed}, {violation}"))
        .collect();
    for violation in &violated {
        eprintln!("{violation}");
    }
    match violated.is_empty() {
        true => ExitCode::SUCCESS,
        false => ExitCode::FAILURE,
    }
}

fn run_hunt(hunt: Hunt, runtime: &tokio::runtime::Runtime) -> Result<(), String> {
    let mut hunting = Hunting::new(hunt);
    let end = runtime.block_on(hunting.go());
    let (seed, cycles, tally) = (hunting.hunt.seed, hunting.cycles, &hunting.tally);
    let seconds = hunting.begun.elapsed().as_secs();
    println!("\nseed: {seed}; {cycles} cycles in {seconds} s\n{tally}");
    end
}

/// The harness panics where something is not as it must be, and has said what.
fn unless_given_up(part: impl FnOnce() -> Result<(), String>) -> Result<(), String> {
    let end = std::panic::catch_unwind(AssertUnwindSafe(part));
    end.unwrap_or_else(|_| Err("something was not as it must be, as said above".to_owned()))
}

/// A hunt under way.
struct Hunting {
    hunt: Hunt,
    /// Faults still to come before the deck is shuffled anew.
    deck: Vec<Fault>,
    rng: StdRng,
    begun: Instant,
    said: Instant,
    cycles: u64,
    tally: Tally,
    knows_recover: bool,
}

impl Hunting {
    fn new(hunt: Hunt) -> Self {
        Self {
            rng: StdRng::seed_from_u64(hunt.seed),
            deck: Vec::new(),
            begun: Instant::now(),
            said: Instant::now(),
            cycles: 0,
            tally: Tally::default(),
            knows_recover: knows_recover(),
            hunt,
        }
    }

    /// Run after run, until enough has been seen or something was violated.
    async fn go(&mut self) -> Result<(), String> {
        for number in 1_u32.. {
            let work = tempfile::Builder::new()
                .prefix("hark-torture-")
                .tempdir()
                .expect("a folder for temporary files");
            let (seed, cycles) = (self.rng.random(), self.rng.random_range(CYCLES_A_RUN));
            let mut run = Run::new(seed, work.path(), self.knows_recover);
            let judged = AssertUnwindSafe(self.one_run(&mut run, cycles))
                .catch_unwind()
                .await;
            let judged = judged.unwrap_or_else(|_| {
                Err(Violation(
                    "the hunt itself gave up, as said above".to_owned(),
                ))
            });
            self.tally.take(&run.world.tally);
            if let Err(Violation(what)) = judged {
                run.keep_evidence();
                let kept = work.keep();
                let cycles = self.cycles;
                return Err(format!(
                    "run {number}, cycle {cycles}: {what}\nevidence: {}",
                    kept.display()
                ));
            }
            if self.is_enough() {
                return Ok(());
            }
        }
        Ok(())
    }

    async fn one_run(&mut self, run: &mut Run, cycles: usize) -> Judged {
        run.begin().await?;
        for _ in 0..cycles {
            let fault = self.next_fault();
            let then = run.cycle(fault).await;
            self.cycles += 1;
            self.say(run);
            let then = match then {
                Err(_) if run.is_closed_by_damage() => return run.recover_closed().await,
                then => then?,
            };
            if then == Then::RunIsOver {
                return Ok(());
            }
            // The hits of this run are counted in at its end.
            if self.would_be_enough(run) {
                break;
            }
        }
        match run.finish().await {
            Err(_) if run.is_closed_by_damage() => run.recover_closed().await,
            end => end,
        }
    }

    fn next_fault(&mut self) -> Fault {
        if let Part::Fault(only) = self.hunt.part {
            return only;
        }
        if self.deck.is_empty() {
            let deck = Fault::ALL
                .iter()
                .flat_map(|(fault, _, times)| std::iter::repeat_n(*fault, *times));
            self.deck = deck.collect();
            self.deck.shuffle(&mut self.rng);
        }
        self.deck.pop().expect("the deck is full")
    }

    fn is_enough(&self) -> bool {
        self.enough(self.hits())
    }

    fn would_be_enough(&self, run: &Run) -> bool {
        self.enough(self.hits() + run.world.tally.get(HITS))
    }

    fn hits(&self) -> u64 {
        self.tally.get(HITS)
    }

    fn enough(&self, hits: u64) -> bool {
        match (self.hunt.time, self.hunt.part) {
            (Some(time), _) => self.begun.elapsed() >= time,
            (None, Part::Fault(_)) => self.cycles >= self.hunt.cycles,
            (None, _) => hits >= self.hunt.cycles && self.deck.is_empty(),
        }
    }

    fn say(&mut self, run: &Run) {
        if self.said.elapsed() < SAY_EVERY {
            return;
        }
        self.said = Instant::now();
        let hits = self.hits() + run.world.tally.get(HITS);
        println!(
            "{:>4} s: {} cycles, {hits} kills hit messages in flight",
            self.begun.elapsed().as_secs(),
            self.cycles
        );
    }
}

const HITS: &str = "kills that hit messages in flight";

fn knows_recover() -> bool {
    let help = hark_tests::hark()
        .args(["serve", "--help"])
        .output()
        .expect("the broker's program can be run");
    String::from_utf8_lossy(&help.stdout).contains("--recover")
}
