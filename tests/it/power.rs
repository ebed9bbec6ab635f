//! Power loss: everything a real broker writes under load is recorded, the disk is rebuilt as of many moments, the real broker
//! is started on it, and a model judges what it says.
//!
//! `HARK_POWER_CUTS=1000` asks for that many moments, `HARK_POWER_SEED=7` for one recording's dice, `HARK_POWER_KEEP=1` keeps the
//! directories of those that were refused or lost something.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::net::SocketAddr;
use std::panic::AssertUnwindSafe;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::FutureExt as _;
use hark_tests::{Broker, Disk, Ended, Fate, Preload, Record, Setup, Ws, until};
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use serde_json::{Value, json};

use crate::disk::expect_not_ready;

/// Small, so that segments are used again and again.
const KEPT_MESSAGES: u64 = 300;
const KEPT_BYTES: u64 = 1_500_000;
/// Moments in one recording at most; more of them ask for more recordings.
const CUTS_PER_RECORDING: usize = 100;
const WINDOW: u64 = 32;

fn settings() -> Setup {
    Setup::new()
        .flag("retention-messages", KEPT_MESSAGES)
        .flag("retention-bytes", KEPT_BYTES)
}

// ---- what happened while the power was on ----

/// A message that its publisher or a subscriber knows to be kept.
#[derive(Debug, Clone)]
struct Kept {
    text: u64,
    bytes: u64,
    /// How long the record was when the receipt or the message came: power lost earlier may have come before it.
    noted: u64,
}

#[derive(Debug, Default)]
struct Topic {
    epoch: Option<String>,
    kept: BTreeMap<u64, Kept>,
    /// All that was ever sent, answered or not.
    sent: HashSet<u64>,
    /// What was sent again and had been kept before, and when that was said.
    duplicates: Vec<(u64, u64)>,
}

type Notes = Arc<Mutex<HashMap<String, Topic>>>;

fn digest(text: &str) -> u64 {
    let mut hasher = DefaultHasher::new();
    text.hash(&mut hasher);
    hasher.finish()
}

fn split(cursor: &Value) -> (String, u64) {
    let (epoch, offset) = cursor.as_str().unwrap().split_once(':').unwrap();
    (epoch.to_owned(), offset.parse().unwrap())
}

impl Topic {
    fn keep(&mut self, epoch: String, offset: u64, text: &str, noted: u64) {
        assert_eq!(
            self.epoch.get_or_insert_with(|| epoch.clone()),
            &epoch,
            "another epoch without any power loss"
        );
        let kept = self.kept.entry(offset).or_insert(Kept {
            text: digest(text),
            bytes: text.len() as u64,
            noted,
        });
        assert_eq!(kept.text, digest(text), "two messages at {offset}");
        kept.noted = kept.noted.min(noted);
    }

    /// What must be there after a power loss when the record was so long.
    fn kept_at(&self, len: u64) -> BTreeMap<u64, &Kept> {
        let known = self.kept.iter().filter(|(_, kept)| kept.noted <= len);
        known.map(|(offset, kept)| (*offset, kept)).collect()
    }
}

/// One publisher of one topic.
#[derive(Debug, Clone, Copy)]
struct Load {
    topic: &'static str,
    publisher: u64,
    messages: u64,
    /// Of padding, from and to.
    bytes: (usize, usize),
}

const LOADS: [Load; 5] = [
    Load {
        topic: "small",
        publisher: 1,
        messages: 1500,
        bytes: (0, 200),
    },
    Load {
        topic: "small",
        publisher: 2,
        messages: 1500,
        bytes: (0, 200),
    },
    Load {
        topic: "middle",
        publisher: 3,
        messages: 800,
        bytes: (1000, 7000),
    },
    Load {
        topic: "large",
        publisher: 4,
        messages: 24,
        bytes: (50_000, 900_000),
    },
    Load {
        topic: "mixed",
        publisher: 5,
        messages: 150,
        bytes: (0, 60_000),
    },
];

/// A recording, and what was acknowledged while it was made.
struct Recording {
    record: Record,
    topics: HashMap<String, Topic>,
}

/// Runs a broker under load, through kills and stops, and takes down everything.
async fn record(seed: u64) -> Recording {
    let mut dice = StdRng::seed_from_u64(seed);
    let preload = Arc::new(Preload::recording());
    let mut broker = preload.under(settings().restarts()).start();
    let addr = broker.addr();
    let notes = Notes::default();
    let publishers: Vec<_> = LOADS
        .iter()
        .map(|load| {
            let (notes, preload, seed) = (notes.clone(), preload.clone(), dice.random());
            tokio::spawn(publish_noting(addr, *load, seed, notes, preload))
        })
        .collect();
    let subscribers: Vec<_> = ["small", "middle", "mixed"]
        .into_iter()
        .map(|topic| {
            tokio::spawn(subscribe_noting(
                addr,
                topic,
                notes.clone(),
                preload.clone(),
            ))
        })
        .collect();

    let all: u64 = LOADS.iter().map(|load| load.messages).sum();
    let kept = || -> u64 {
        notes
            .lock()
            .unwrap()
            .values()
            .map(|topic| topic.kept.len() as u64)
            .sum()
    };
    for opening in 1..=5_u64 {
        let goal = all * opening / 6 + dice.random_range(0..all / 12);
        until("more messages are kept", async || {
            (kept() >= goal).then_some(())
        })
        .await;
        // A stop so early that it takes no signals yet is not what is tested here.
        until("it says that it serves", async || {
            broker.log().contains("hark serves").then_some(())
        })
        .await;
        let is_killed = dice.random_bool(0.6);
        if is_killed {
            broker.kill9();
        } else {
            broker.stop();
        }
        preload.settle(is_killed);
        broker.start_again();
    }
    for publisher in publishers {
        publisher.await.unwrap();
    }
    for subscriber in subscribers {
        subscriber.abort();
    }
    broker.stop();
    preload.settle(false);
    let record = Record::read(&preload);
    let topics = std::mem::take(&mut *notes.lock().unwrap());
    Recording { record, topics }
}

async fn publish_noting(
    addr: SocketAddr,
    load: Load,
    seed: u64,
    notes: Notes,
    preload: Arc<Preload>,
) {
    let mut answered = 0;
    while answered < load.messages {
        if publish_until_trouble(addr, load, seed, &notes, &preload, &mut answered)
            .await
            .is_err()
        {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}

fn message(load: Load, seed: u64, n: u64) -> Value {
    let mut dice = StdRng::seed_from_u64(seed ^ n);
    let len = dice.random_range(load.bytes.0..=load.bytes.1);
    let letter = char::from(b'a' + dice.random_range(0..26));
    json!({"p": load.publisher, "n": n, "x": letter.to_string().repeat(len)})
}

async fn publish_until_trouble(
    addr: SocketAddr,
    load: Load,
    seed: u64,
    notes: &Notes,
    preload: &Preload,
    answered: &mut u64,
) -> Result<(), Ended> {
    let Load {
        topic,
        publisher,
        messages,
        ..
    } = load;
    let mut ws = Ws::try_connect(addr, None).await.map_err(Ended::from)?;
    let mut sent = *answered;
    let mut texts: BTreeMap<u64, String> = BTreeMap::new();
    while *answered < messages {
        while sent < messages && sent - *answered < WINDOW {
            sent += 1;
            let data = message(load, seed, sent);
            let text = data.to_string();
            notes
                .lock()
                .unwrap()
                .entry(topic.to_owned())
                .or_default()
                .sent
                .insert(digest(&text));
            texts.insert(sent, text);
            ws.try_feed(&json!({
                "type": "publish", "id": sent, "topic": topic, "data": data,
                "producer": format!("p{publisher}"), "seq": sent
            }))
            .await?;
        }
        ws.flush().await?;
        let answer = ws.next().await?;
        let noted = preload.record_len();
        match answer["type"].as_str() {
            Some("published") => {
                *answered += 1;
                assert_eq!(answer["id"], *answered, "in order: {answer}");
                let text = texts.remove(answered).expect("sent");
                let mut notes = notes.lock().unwrap();
                let topic = notes.get_mut(topic).expect("noted");
                if answer["duplicate"] == true {
                    topic.duplicates.push((digest(&text), noted));
                } else {
                    let (epoch, offset) = split(&answer["cursor"]);
                    topic.keep(epoch, offset, &text, noted);
                }
            }
            Some("goodbye") => {}
            _ => {
                assert_eq!(answer["type"], "error", "{answer}");
                return Ok(());
            }
        }
    }
    Ok(())
}

/// Takes down what is delivered, which is kept, too: also where the receipt was lost.
async fn subscribe_noting(
    addr: SocketAddr,
    topic: &'static str,
    notes: Notes,
    preload: Arc<Preload>,
) {
    let mut from = json!("earliest");
    loop {
        let ended = subscribe_until_trouble(addr, topic, &notes, &preload, &mut from).await;
        assert!(ended.is_err(), "it goes on until there is trouble");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

async fn subscribe_until_trouble(
    addr: SocketAddr,
    topic: &str,
    notes: &Notes,
    preload: &Preload,
    from: &mut Value,
) -> Result<(), Ended> {
    let mut ws = Ws::try_connect(addr, None).await.map_err(Ended::from)?;
    let subscribed = ws
        .try_ask(json!({"type": "subscribe", "topic": topic, "from": from}))
        .await?;
    let (epoch, _) = split(&subscribed["cursor"]);
    loop {
        let frame = ws.next().await?;
        let noted = preload.record_len();
        match frame["type"].as_str() {
            Some("message") => {
                let offset = frame["offset"].as_u64().expect("an offset");
                let mut notes = notes.lock().unwrap();
                let topic = notes.entry(topic.to_owned()).or_default();
                topic.keep(epoch.clone(), offset, &frame["data"].to_string(), noted);
                *from = json!({"after": format!("{epoch}:{offset}")});
            }
            Some("gap") => {
                assert_eq!(frame["reason"], "expired", "{frame}");
                *from = json!({"after": frame["cursor"]});
            }
            _ => {}
        }
    }
}

// ---- what is said when it is on again ----

/// What became of a power loss.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Verdict {
    /// Nothing is missing.
    Whole,
    /// So many acknowledged messages are missing, and named.
    Lost(usize),
    /// The broker does not start, and says why.
    Refused(String),
    /// What it says is not true. The panic has been shown.
    Wrong,
}

/// Starts the broker on what the power loss left and judges what it says. Panics where it says anything wrong.
async fn judge(topics: &HashMap<String, Topic>, len: u64, dir: &Path) -> Verdict {
    let mut broker = match settings().data_dir(dir).restarts().try_start() {
        Ok(broker) => broker,
        Err(exit) => {
            assert_eq!(exit.code, Some(1), "{exit:#?}");
            assert!(
                exit.stderr.contains(&*dir.to_string_lossy()),
                "it does not say why: {exit:#?}"
            );
            return Verdict::Refused(
                exit.stderr
                    .replace(&*dir.to_string_lossy(), "DIR")
                    .lines()
                    .last()
                    .unwrap_or_default()
                    .to_owned(),
            );
        }
    };
    let mut lost = 0;
    let mut heads = HashMap::new();
    for (name, topic) in topics {
        let (head, missing) = judge_topic(&broker, name, topic, len).await;
        lost += missing;
        heads.insert(name.clone(), head);
    }
    // Another kill right after changes nothing any more.
    broker.kill9();
    broker.start_again();
    for (name, topic) in topics {
        let (_, missing) = judge_topic(&broker, name, topic, len).await;
        assert!(missing <= lost, "{name}: more is lost after another start");
        let mut ws = Ws::connect(&broker).await;
        let later = ws.publish(name, json!({"p": 0, "n": 0})).await;
        assert_eq!(later["cursor"], heads[name], "{name}: the next one's place");
    }
    match lost {
        0 => Verdict::Whole,
        lost => Verdict::Lost(lost),
    }
}

/// Gives the cursor of the next message, and how many acknowledged ones are missing and named as lost.
async fn judge_topic(broker: &Broker, name: &str, topic: &Topic, len: u64) -> (String, usize) {
    let kept = topic.kept_at(len);
    let mut ws = Ws::connect(broker).await;
    let seen = ws.watch_to_caught_up(name, json!("earliest")).await;
    let (start, head) = (seen.start, seen.position);
    let found: BTreeMap<u64, &str> = seen
        .messages
        .iter()
        .map(|(o, text)| (*o, text.as_str()))
        .collect();

    // Nobody sent anything else, and nothing is there twice.
    let mut once = HashSet::new();
    for (offset, text) in &found {
        assert!(
            topic.sent.contains(&digest(text)),
            "{name}: nobody sent what is at {offset}"
        );
        assert!(
            once.insert(digest(text)),
            "{name}: what is at {offset} is there twice"
        );
    }

    // A subscriber that was somewhere goes on from there, and is told what it cannot have.
    let mut gaps = seen.gaps.clone();
    let mut resumed_whole = true;
    if let (Some((newest, _)), Some(epoch)) = (kept.last_key_value(), &topic.epoch) {
        for position in [*newest, newest.saturating_sub(10), newest / 2] {
            let from = json!({"after": format!("{epoch}:{position}")});
            let mut ws = Ws::connect(broker).await;
            let resumed = ws.watch_to_caught_up(name, from.clone()).await;
            assert_eq!(resumed.position, head, "{name} from {from}");
            let expected: Vec<u64> = found
                .range(position + 1..)
                .map(|(offset, _)| *offset)
                .collect();
            assert_eq!(resumed.offsets(), expected, "{name} from {from}");
            if position >= start {
                resumed_whole &= resumed.gaps.is_empty();
            }
            gaps.extend(resumed.gaps);
        }
    }

    // Everything that was acknowledged is there, or has expired as it may, or is named.
    let mut lost = 0;
    for (offset, was) in &kept {
        if let Some(text) = found.get(offset) {
            assert_eq!(
                digest(text),
                was.text,
                "{name}: another message at {offset}"
            );
        } else if *offset <= start {
            let later =
                (offset + 1..=head).map(|later| match (found.get(&later), kept.get(&later)) {
                    (Some(text), _) => text.len() as u64,
                    (None, Some(kept)) => kept.bytes,
                    (None, None) => KEPT_BYTES, // Its receipt was lost and it has expired, too: it may be large.
                });
            let later_bytes: u64 = later.map(|bytes| bytes + bytes / 20 + 200).sum();
            let last = head.max(*kept.keys().next_back().expect("this one"));
            assert!(
                last - offset >= KEPT_MESSAGES || later_bytes >= KEPT_BYTES || last > head,
                "{name}: {offset} has expired, and the head is {head}, with {later_bytes} bytes"
            );
        } else {
            let names_it = |gap: &Value| {
                gap["reason"] == "lost"
                    && gap["from"].as_u64().is_some_and(|from| from <= *offset)
                    && gap["to"].as_u64().is_some_and(|to| *offset <= to)
            };
            assert!(
                gaps.iter().any(names_it),
                "{name}: {offset} is missing, and not named: {gaps:?}"
            );
            assert!(
                *offset <= head || Some(&seen.epoch) != topic.epoch.as_ref(),
                "{name}: {offset} is lost, and may be given out again"
            );
            lost += 1;
        }
    }
    if lost == 0 {
        assert!(
            resumed_whole,
            "{name}: nothing is lost, and subscribers are told so: {gaps:?}"
        );
        assert!(
            kept.is_empty() || Some(&seen.epoch) == topic.epoch.as_ref(),
            "{name}: another epoch, and nothing is lost"
        );
        // Who has sent again was told what is true.
        if start == 0 {
            for (text, _) in topic.duplicates.iter().filter(|(_, noted)| *noted <= len) {
                assert!(
                    once.contains(text),
                    "{name}: what was said to be there is not"
                );
            }
        }
    }
    (format!("{}:{}", seen.epoch, head + 1), lost)
}

// ---- the tests ----

fn number(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(
        text.parse()
            .unwrap_or_else(|_| panic!("{name}={text} is no number")),
    )
}

/// The moments at which the power goes: anywhere, and one in four while the directory is being opened.
fn draw_cuts(record: &Record, count: usize, dice: &mut StdRng) -> Vec<usize> {
    let starts = record.opened("lock");
    let mut cuts: Vec<usize> = (0..count)
        .map(|_| match dice.random_range(0..4) {
            0 => starts[dice.random_range(0..starts.len())] + dice.random_range(0..60),
            _ => dice.random_range(1..=record.len()),
        })
        .map(|cut| cut.min(record.len()))
        .collect();
    cuts.sort_unstable();
    cuts
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_power_loss_takes_nothing_that_was_acknowledged() {
    let mut cuts_left = usize::try_from(number("HARK_POWER_CUTS").unwrap_or(50)).unwrap();
    // Two recordings at least: one with dice that are always the same, and a fresh one.
    let cuts_each = cuts_left.div_ceil(2).min(CUTS_PER_RECORDING);
    let seeds = number("HARK_POWER_SEED").into_iter().chain([1]);
    let mut seeds = seeds.chain(std::iter::repeat_with(rand::random::<u64>));
    let mut verdicts: BTreeMap<String, usize> = BTreeMap::new();
    let mut bad = Vec::new();
    while cuts_left > 0 {
        let seed = seeds.next().unwrap();
        let started = std::time::Instant::now();
        let Recording { record, topics } = record(seed).await;
        println!(
            "seed {seed}: {} events, {} MiB of db, {} writes over older ones, {} blobs, in {:?}",
            record.len(),
            record.written_bytes("db") >> 20,
            record.written_over("db"),
            record.made("blobs/"),
            started.elapsed()
        );
        let mut dice = StdRng::seed_from_u64(seed);
        let cuts = draw_cuts(&record, cuts_each.min(cuts_left), &mut dice);
        cuts_left -= cuts.len();
        let mut disk = Disk::new(&record, seed);
        for cut in cuts {
            disk.advance(cut);
            let fate = Fate::draw(&mut dice);
            let home = tempfile::tempdir().unwrap();
            let dir = home.path().join("data");
            let what = disk.lose_power(&dir, fate, &mut dice);
            println!("seed {seed}, event {cut}: {what}");
            let copy = home.path().join("copy");
            if number("HARK_POWER_KEEP").is_some() {
                hark_tests::copy_folder(&dir, &copy);
            }
            let len = record.end_of(cut - 1);
            let judged = AssertUnwindSafe(judge(&topics, len, &dir)).catch_unwind();
            let verdict = judged.await.unwrap_or(Verdict::Wrong);
            if verdict != Verdict::Whole {
                println!("  {verdict:?}");
                bad.push((seed, cut, verdict.clone()));
                if number("HARK_POWER_KEEP").is_some() {
                    println!("  kept in {}", home.keep().display());
                }
            }
            let kind = match verdict {
                Verdict::Whole => "whole".to_owned(),
                Verdict::Lost(_) => "lost, and named".to_owned(),
                Verdict::Refused(why) => format!("refused: {why}"),
                Verdict::Wrong => "wrong".to_owned(),
            };
            *verdicts.entry(kind).or_default() += 1;
        }
        println!("so far, in {:?}: {verdicts:#?}", started.elapsed());
    }
    assert!(bad.is_empty(), "{bad:#?}");
}

/// What a sync that failed had to write may be on the disk or not, and is not written again: so nothing is acknowledged any more,
/// and what was acknowledged before is there whatever happens.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_a_sync_that_failed_nothing_is_acknowledged() {
    let seed = number("HARK_POWER_SEED").unwrap_or_else(rand::random);
    println!("seed {seed}");
    let mut dice = StdRng::seed_from_u64(seed);
    for round in 0..4 {
        let preload = Preload::recording();
        let mut broker = preload.under(settings().restarts()).start();
        let mut ws = Ws::connect(&broker).await;
        let mut topics = HashMap::from([
            ("a".to_owned(), Topic::default()),
            ("b".to_owned(), Topic::default()),
        ]);
        let mut n = 0;
        publish_some(&mut ws, &mut topics, &preload, &mut n, 20, &mut dice).await;

        // Once, as a disk that has one bad moment does; in the last round for good.
        preload.fail_syncs(dice.random_range(0..6), (round < 3).then_some(1));
        let mut refused = None;
        while refused.is_none() {
            refused = publish_some(&mut ws, &mut topics, &preload, &mut n, 1, &mut dice).await;
        }
        assert!(preload.failed_syncs() > 0);
        let failed_at = preload.record_len();

        // However often they try, and wherever: nothing is acknowledged; everybody is told why; who reads goes on as far as sled can.
        let mut other = Ws::connect(&broker).await;
        for n in 0..50 {
            for topic in ["a", "b", "new"] {
                let answer = other
                    .ask(json!({"type": "publish", "topic": topic, "data": n}))
                    .await;
                assert_eq!(answer["code"], "log_unavailable", "{answer}");
            }
        }
        let reason = expect_not_ready(&broker);
        assert!(reason.contains("failed"), "{reason}");
        assert!(
            broker.log().contains(&reason),
            "the log does not say {reason:?}"
        );
        for (name, topic) in &topics {
            let history = broker.http().history(name, "from=earliest&limit=1000");
            if history.status == 200 {
                let messages = history.json()["messages"].as_array().unwrap().clone();
                let newest = messages.last().map(|message| message["offset"].as_u64());
                let kept = topic.kept.keys().next_back().copied();
                assert_eq!(
                    newest.flatten(),
                    kept,
                    "{name}: what is kept, and nothing else"
                );
            } else {
                // sled remembers an error of its own, and may read no more.
                history.expect_error(503, "log_unavailable");
            }
        }

        broker.kill9();
        preload.settle(true);
        let record = Record::read(&preload);
        let mut disk = Disk::new(&record, dice.random());
        disk.advance(record.events_before(failed_at));
        for _ in 0..5 {
            let home = tempfile::tempdir().unwrap();
            let dir = home.path().join("data");
            let what = disk.lose_power(&dir, Fate::draw(&mut dice), &mut dice);
            println!("round {round}: {what}");
            assert_eq!(judge(&topics, failed_at, &dir).await, Verdict::Whole);
        }
        // A start without a power loss finds everything, too.
        preload.heal_syncs();
        assert_eq!(
            judge(&topics, failed_at, preload.data_dir()).await,
            Verdict::Whole
        );
    }
}

/// Publishes so many windows to each topic; gives the first error.
async fn publish_some(
    ws: &mut Ws,
    topics: &mut HashMap<String, Topic>,
    preload: &Preload,
    n: &mut u64,
    windows: usize,
    dice: &mut StdRng,
) -> Option<Value> {
    for _ in 0..windows {
        for (name, topic) in &mut *topics {
            let data: Vec<Value> = (0..WINDOW)
                .map(|_| {
                    *n += 1;
                    json!({"n": *n, "x": "x".repeat(dice.random_range(0..500))})
                })
                .collect();
            topic
                .sent
                .extend(data.iter().map(|data| digest(&data.to_string())));
            let frames = data.iter().map(|data| json!({"topic": name, "data": data}));
            let answers = ws.publish_all(frames, WINDOW).await;
            let noted = preload.record_len();
            for (answer, data) in answers.iter().zip(&data) {
                if answer["type"] != "published" {
                    assert_eq!(answer["code"], "log_unavailable", "{answer}");
                    return Some(answer.clone());
                }
                let (epoch, offset) = split(&answer["cursor"]);
                topic.keep(epoch, offset, &data.to_string(), noted);
            }
        }
    }
    None
}
