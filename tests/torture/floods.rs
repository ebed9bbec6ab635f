//! `make torture`, the floods: what quiet clients feel of connections that never rest, in the measure of two processes that burn both cores.
//! Owns the order, the table and the verdict; what is sent is `flood`'s, what is waited for `quiet`'s.

use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use hark_tests::{Broker, Setup};
use rand::SeedableRng as _;
use rand::rngs::StdRng;
use rand::seq::SliceRandom as _;

use crate::flood::{Done, Flood};
use crate::quiet::{MEMORY_TOPICS, Quiet, Waits, at, median};

/// Rounds beside each flood; medians count.
const ROUNDS: usize = 3;
/// The others' p99 beside a flood is at most so many times what it is beside processes that burn all cores.
const MOST_RATIO: f64 = 4.0;
/// What the broker's memory may grow by, beside what it may hold for the flood: caches, and what the allocator does not give back at once.
const MEMORY_MARGIN_BYTES: u64 = 48 << 20;
/// What may be left of it when the flood is over, beside half of what it held, which the allocator keeps until it is used again; and how long
/// giving back may take.
const MAY_LEAVE_BYTES: u64 = 32 << 20;
const GIVE_BACK: Duration = Duration::from_secs(10);
/// What a flood may write into the log.
const MOST_LOG_BYTES: usize = 256 * 1024;
/// A burning process ends by itself, should nobody end it.
const BURN: Duration = Duration::from_secs(120);

/// One flood, measured.
struct Row {
    name: String,
    waits: Vec<Waits>,
    /// By how much the broker's memory grew at most, what it was to hold, and by how much it had grown when the flood was over.
    grew_bytes: u64,
    may_hold_bytes: u64,
    left_bytes: u64,
    log_bytes: usize,
    /// Cores that the broker used.
    cores: f64,
    poured_bytes: u64,
    connections: u64,
    wrong: Vec<String>,
}

/// Runs all floods, or one.
pub(crate) fn run(seed: u64, only: Option<&str>) -> Result<(), String> {
    let mut rng = StdRng::seed_from_u64(seed);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .expect("threads");
    let mut floods: Vec<(Arc<Flood>, usize)> = Flood::all()
        .into_iter()
        .map(Arc::new)
        .filter(|flood| only.is_none_or(|name| name == flood.name))
        .flat_map(|flood| {
            flood
                .connections
                .iter()
                .map(move |&connections| (flood.clone(), connections))
        })
        .collect();
    floods.shuffle(&mut rng);

    let mut alone = Vec::new();
    let mut burning = Vec::new();
    let mut rows = Vec::new();
    for (flood, connections) in floods {
        let broker = Setup::new().flag("memory-topics", MEMORY_TOPICS).start();
        flood.prepare(&broker);
        let mut quiet = Quiet::begin(&broker, &mut rng);
        if alone.is_empty() {
            alone = (0..ROUNDS).map(|_| quiet.round()).collect();
        }
        // Once before each flood, so that whatever else the machine does is in both.
        let burners = Burners::start();
        burning.push(quiet.round());
        drop(burners);
        let row = beside(&flood, connections, &broker, &mut quiet, &runtime);
        println!(
            "  {}: receipts {}",
            row.name,
            Figures::of(&row.waits, |waits| &waits.receipts)
        );
        rows.push(row);
    }
    judge(&alone, &burning, rows)
}

/// Measures beside one flood.
fn beside(
    flood: &Arc<Flood>,
    connections: usize,
    broker: &Broker,
    quiet: &mut Quiet,
    runtime: &tokio::runtime::Runtime,
) -> Row {
    let mut wrong = Vec::new();
    let (rss_bytes, log_bytes) = (broker.rss_bytes(), broker.log().len());
    let (begun, cpu) = (Instant::now(), broker.cpu_time());
    let done = Arc::new(Done::default());
    let pouring = {
        let _inside = runtime.enter();
        flood.begin(broker.addr(), connections, &done)
    };
    let mut waits = Vec::new();
    for round in 1..=ROUNDS {
        let before = (done.bytes(), done.connections());
        waits.push(quiet.round());
        if flood.goes_on() && before == (done.bytes(), done.connections()) {
            wrong.push(format!("the flood itself stood still in round {round}"));
        }
    }
    let cores = (broker.cpu_time() - cpu).as_secs_f64() / begun.elapsed().as_secs_f64();
    runtime.block_on(async move {
        let mut pouring = pouring;
        pouring.shutdown().await;
    });
    if done.connections() < connections as u64 {
        wrong.push(format!("only {} connections came", done.connections()));
    }
    let grew_bytes = broker.peak_rss_bytes().saturating_sub(rss_bytes);
    let over = Instant::now();
    let left_bytes = loop {
        let left_bytes = broker.rss_bytes().saturating_sub(rss_bytes);
        if left_bytes <= may_leave_bytes(flood.may_hold_bytes) || over.elapsed() > GIVE_BACK {
            break left_bytes;
        }
        // An allocator gives back while it is used.
        quiet.round();
    };
    let log = broker.log();
    if let Some(line) = log.lines().find(|line| line.contains("panicked")) {
        wrong.push(format!("the broker panicked: {line}"));
    }
    Row {
        name: format!("{} × {connections}", flood.name),
        waits,
        grew_bytes,
        may_hold_bytes: flood.may_hold_bytes,
        left_bytes,
        log_bytes: log.len() - log_bytes,
        cores,
        poured_bytes: done.bytes(),
        connections: done.connections(),
        wrong,
    }
}

/// Prints the table; says what is wrong.
fn judge(alone: &[Waits], burning: &[Waits], rows: Vec<Row>) -> Result<(), String> {
    let receipts = |rounds: &[Waits]| Figures::of(rounds, |waits| &waits.receipts);
    let deliveries = |rounds: &[Waits]| Figures::of(rounds, |waits| &waits.deliveries);
    let in_memory = |rounds: &[Waits]| Figures::of(rounds, |waits| &waits.in_memory);
    println!(
        "\nWhat quiet clients wait, from publish to receipt and to delivery, and for either of topics in memory (medians of rounds); memory grown at most, and left"
    );
    println!(
        "{:<24} {:>19} {:>19} {:>7} {:>19} {:>9} {:>9} {:>8} {:>6}   the flood itself",
        "beside",
        "receipt p50 / p99",
        "delivery p50 / p99",
        "ratio",
        "in memory p50 / p99",
        "grew",
        "left",
        "log",
        "cores"
    );
    for (name, rounds) in [("nobody", alone), ("all cores burning", burning)] {
        println!(
            "{name:<24} {:>19} {:>19} {:>7} {:>19}",
            receipts(rounds).to_string(),
            deliveries(rounds).to_string(),
            "",
            in_memory(rounds).to_string()
        );
    }
    let mut all_wrong = Vec::new();
    for mut row in rows {
        let (receipts_here, deliveries_here) = (receipts(&row.waits), deliveries(&row.waits));
        let ratio = f64::max(
            receipts_here.ratio(&receipts(burning)),
            deliveries_here.ratio(&deliveries(burning)),
        );
        println!(
            "{:<24} {:>19} {:>19} {ratio:>7.1} {:>19} {:>9} {:>9} {:>8} {:>6.1}   {}, {} connections",
            row.name,
            receipts_here.to_string(),
            deliveries_here.to_string(),
            in_memory(&row.waits).to_string(),
            mib(row.grew_bytes),
            mib(row.left_bytes),
            format!("{} KB", row.log_bytes / 1000),
            row.cores,
            mib(row.poured_bytes),
            row.connections,
        );
        if ratio > MOST_RATIO {
            row.wrong.push(format!(
                "p99 is {ratio:.1} times what it is beside burning cores; {MOST_RATIO} is the most"
            ));
        }
        let most = row.may_hold_bytes + MEMORY_MARGIN_BYTES;
        if row.grew_bytes > most {
            row.wrong.push(format!(
                "memory grew by {}; {} is the most",
                mib(row.grew_bytes),
                mib(most)
            ));
        }
        let may_leave_bytes = may_leave_bytes(row.may_hold_bytes);
        if row.left_bytes > may_leave_bytes {
            row.wrong.push(format!(
                "{} were left in memory; {} is the most",
                mib(row.left_bytes),
                mib(may_leave_bytes)
            ));
        }
        if row.log_bytes > MOST_LOG_BYTES {
            row.wrong.push(format!(
                "{} bytes of log; {MOST_LOG_BYTES} is the most",
                row.log_bytes
            ));
        }
        all_wrong.extend(
            row.wrong
                .iter()
                .map(|wrong| format!("beside {}: {wrong}", row.name)),
        );
    }
    match all_wrong.is_empty() {
        true => Ok(()),
        false => Err(all_wrong.join("\n")),
    }
}

/// Medians of rounds.
struct Figures {
    p50: Duration,
    p99: Duration,
}

impl Figures {
    fn of(rounds: &[Waits], which: impl Fn(&Waits) -> &Vec<Duration>) -> Self {
        let quantile = |quantile| median(rounds.iter().map(|waits| at(which(waits), quantile)));
        Self {
            p50: quantile(0.5),
            p99: quantile(0.99),
        }
    }

    fn ratio(&self, to: &Self) -> f64 {
        self.p99.as_secs_f64() / to.p99.as_secs_f64()
    }
}

impl std::fmt::Display for Figures {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let ms = |time: Duration| time.as_secs_f64() * 1000.0;
        write!(f, "{:.1} / {:.1} ms", ms(self.p50), ms(self.p99))
    }
}

fn may_leave_bytes(may_hold_bytes: u64) -> u64 {
    MAY_LEAVE_BYTES + may_hold_bytes / 2
}

fn mib(bytes: u64) -> String {
    format!("{} MiB", bytes >> 20)
}

/// A process for each core, that does nothing but burn it.
struct Burners(Vec<Child>);

impl Burners {
    fn start() -> Self {
        let cores = std::thread::available_parallelism().map_or(2, usize::from);
        let burner = |_| {
            let program = std::env::current_exe().expect("a program");
            let burner = Command::new(program)
                .arg(BURN_COMMAND)
                .stdin(Stdio::null())
                .spawn();
            burner.expect("this program can be run")
        };
        Self((0..cores).map(burner).collect())
    }
}

impl Drop for Burners {
    fn drop(&mut self) {
        for burner in &mut self.0 {
            if let Err(error) = burner.kill().and_then(|()| burner.wait()) {
                eprintln!("a burning process could not be ended: {error}");
            }
        }
    }
}

/// What this program is told to be one.
pub(crate) const BURN_COMMAND: &str = "burn";

/// Burns a core.
pub(crate) fn burn() {
    let begun = Instant::now();
    while begun.elapsed() < BURN {
        std::hint::spin_loop();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Rounds in which everything takes so long.
    fn rounds(ms: u64) -> Vec<Waits> {
        let waits = Waits {
            receipts: vec![Duration::from_millis(ms); 100],
            deliveries: vec![Duration::from_millis(ms); 100],
            in_memory: vec![Duration::from_millis(ms); 100],
        };
        vec![waits; ROUNDS]
    }

    fn row(ms: u64) -> Row {
        Row {
            name: "a flood × 1".to_owned(),
            waits: rounds(ms),
            grew_bytes: MEMORY_MARGIN_BYTES + 8,
            may_hold_bytes: 8,
            left_bytes: MAY_LEAVE_BYTES + 4,
            log_bytes: MOST_LOG_BYTES,
            cores: 1.0,
            poured_bytes: 1,
            connections: 1,
            wrong: Vec::new(),
        }
    }

    /// What is said to be wrong with one.
    fn wrong(row: Row) -> String {
        judge(&rounds(1), &rounds(10), vec![row]).expect_err("it is wrong")
    }

    #[test]
    fn what_is_within_its_bounds_passes() {
        judge(&rounds(1), &rounds(10), vec![row(40)]).expect("nothing is wrong");
    }

    #[test]
    fn whatever_is_beyond_its_bound_is_told() {
        assert!(wrong(row(41)).contains("4.1 times"));
        let mut late_only = row(40);
        late_only.waits[1].deliveries[99] = Duration::from_millis(50);
        late_only.waits[2].deliveries[99] = Duration::from_millis(50);
        assert!(wrong(late_only).contains("5.0 times"));
        let (mut grew, mut left, mut log, mut stood_still) = (row(40), row(40), row(40), row(40));
        grew.grew_bytes += 1;
        assert!(wrong(grew).contains("memory grew"));
        left.left_bytes += 1;
        assert!(wrong(left).contains("left in memory"));
        log.log_bytes += 1;
        assert!(wrong(log).contains("of log"));
        stood_still.wrong.push("it stood still".to_owned());
        assert!(wrong(stood_still).contains("beside a flood × 1: it stood still"));
    }
}
