//! Measures the sled engine: records a second and latency of appends, with the disk's own `fdatasync` beside them.
//! `cargo run --release -p hark-broker --example log_bench [DIR [SHAPE]]`; DIR decides which disk is measured,
//! SHAPE (`100 x 1:`) which line.

#![allow(clippy::print_stdout, reason = "a program that prints figures")]

use std::fs::File;
use std::io::{Seek, Write};
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, Instant};

use hark_broker::message_log::sled::{SledLog, SledOptions};
use hark_broker::message_log::{Append, LogError, MessageLog, NewRecord, OpenedTopic, Read};
use hark_protocol::{
    Epoch, Headers, Idempotency, JsonText, Message, Payload, ProducerId, TopicName,
};

/// As the broker does.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

type Failure = Box<dyn std::error::Error>;

const RUN: Duration = Duration::from_secs(3);

fn main() -> Result<(), Failure> {
    let mut args = std::env::args().skip(1);
    let parent = args.next().unwrap_or_else(|| ".".into());
    let only = args.next().unwrap_or_default();
    let dir = Path::new(&parent).join(format!("hark-log-bench-{}", std::process::id()));
    std::fs::create_dir(&dir)?;
    let measured = measure_all(&dir, &only);
    std::fs::remove_dir_all(&dir)?;
    measured
}

fn measure_all(dir: &Path, only: &str) -> Result<(), Failure> {
    let (p50, p99) = fdatasync(&dir.join("probe"))?;
    println!("fdatasync of 4 KiB                     p50 {p50:>9.3?}   p99 {p99:>9.3?}");
    let shapes = [
        (1, 1),
        (1, 10),
        (1, 100),
        (1, 1000),
        (100, 1),
        (100, 10),
        (1000, 10),
    ];
    for (topics, records) in shapes {
        let what = format!("{topics} x {records}: topics x records an append");
        if what.starts_with(only) {
            measure(dir, &what, topics, records)?;
        }
    }
    Ok(())
}

/// What a sync costs without the log: the floor of an append's latency.
fn fdatasync(path: &Path) -> Result<(Duration, Duration), Failure> {
    let mut file = File::create(path)?;
    let mut took = Vec::new();
    for n in 0..1000u32 {
        file.seek(std::io::SeekFrom::Start(u64::from(n % 256) * 4096))?;
        file.write_all(&[n.to_le_bytes()[0]; 4096])?;
        let began = Instant::now();
        file.sync_data()?;
        took.push(began.elapsed());
    }
    Ok(percentiles(&mut took))
}

/// Keeps one append of each topic in flight, as rooms do, and measures.
fn measure(dir: &Path, what: &str, topics: usize, records: usize) -> Result<(), Failure> {
    let dir = dir.join(format!("{topics}-{records}"));
    let log = Arc::new(SledLog::open(SledOptions::new(&dir))?);
    let topics: Vec<(TopicName, OpenedTopic)> = (0..topics)
        .map(|n| {
            let topic = TopicName::parse(&format!("bench.{n}"))?;
            let opened = open(&log, &topic)?;
            Ok::<_, Failure>((topic, opened))
        })
        .collect::<Result<_, _>>()?;
    let (tell, told) = channel();
    let producer = ProducerId::parse("bench")?;
    let mut seq = 0;
    let mut send = |topic: usize, tell: &Sender<Told>| {
        let (name, opened) = &topics[topic];
        let batch = (0..records).map(|_| {
            seq += 1;
            record(&producer, seq)
        });
        let batch = batch.collect();
        let (tell, began) = (tell.clone(), Instant::now());
        let done = Box::new(move |answer: Result<_, LogError>| {
            // Nobody listens any more once the time is up.
            drop(tell.send((topic, began.elapsed(), answer.err())));
        });
        log.append(Append {
            topic: name.clone(),
            generation: opened.generation,
            records: batch,
            done,
        });
    };

    let (began, cpu) = (Instant::now(), cpu_time()?);
    let mut took = Vec::new();
    for topic in 0..topics.len() {
        send(topic, &tell);
    }
    let mut in_flight = topics.len();
    while in_flight > 0 {
        let (topic, latency, error) = next(&told)?;
        if let Some(error) = error {
            return Err(error.into());
        }
        took.push(latency);
        in_flight -= 1;
        if began.elapsed() < RUN {
            send(topic, &tell);
            in_flight += 1;
        }
    }
    let elapsed = began.elapsed();
    let cpu = cpu_time()? - cpu;
    let count = took.len() * records;
    let rate = count as f64 / elapsed.as_secs_f64();
    let cpu_ns = cpu.as_nanos() as f64 / count as f64;
    let (p50, p99) = percentiles(&mut took);
    println!(
        "{what:<38} p50 {p50:>9.3?}   p99 {p99:>9.3?}   {rate:>9.0} records/s   {cpu_ns:>7.0} ns CPU each"
    );
    read_back(&log, &topics[0].0, topics[0].1.epoch)?;
    log.shutdown();
    Ok(())
}

/// How fast history is read, in pages of 64 KiB.
fn read_back(log: &Arc<SledLog>, topic: &TopicName, epoch: Epoch) -> Result<(), Failure> {
    let began = Instant::now();
    let (mut after, mut records) = (0, 0);
    loop {
        let (tell, told) = channel();
        let read = Read {
            topic: topic.clone(),
            epoch,
            after,
            up_to: u64::MAX,
            max_bytes: 64 * 1024,
            max_records: 10_000,
            tell_identity: false,
        };
        log.read(read, Box::new(move |page| drop(tell.send(page))));
        let page = next(&told)??;
        if page.reached == after {
            break;
        }
        (after, records) = (page.reached, records + page.items.len());
    }
    let rate = records as f64 / began.elapsed().as_secs_f64();
    println!(
        "{:<38} {rate:>9.0} records/s",
        "    read back, page by page"
    );
    Ok(())
}

type Told = (usize, Duration, Option<LogError>);

fn open(log: &SledLog, topic: &TopicName) -> Result<OpenedTopic, Failure> {
    let (tell, told) = channel();
    log.open(
        topic.clone(),
        Arc::new(|_| {}),
        Box::new(move |opened| drop(tell.send(opened))),
    );
    Ok(next(&told)??)
}

fn next<T>(told: &Receiver<T>) -> Result<T, Failure> {
    Ok(told.recv_timeout(Duration::from_secs(60))?)
}

fn record(producer: &ProducerId, seq: u64) -> NewRecord {
    static DATA: &[u8; 128] = &[b'1'; 128];
    let payload = JsonText::from_checked(bytes::Bytes::from_static(DATA)).map(Payload::Json);
    let payload = payload.unwrap_or(Payload::Bytes {
        data: Default::default(),
        content_type: None,
    });
    NewRecord {
        message: Message {
            payload,
            headers: Headers::default(),
        },
        identity: None,
        idempotency: Idempotency::Sequence {
            producer: producer.clone(),
            seq,
        },
    }
}

fn percentiles(took: &mut [Duration]) -> (Duration, Duration) {
    took.sort_unstable();
    (took[took.len() / 2], took[took.len() * 99 / 100])
}

/// What this process has used, in all threads (Linux: proc(5), `/proc/self/schedstat` is of one thread only).
fn cpu_time() -> Result<Duration, Failure> {
    let mut nanos = 0;
    for task in std::fs::read_dir("/proc/self/task")? {
        let text = std::fs::read_to_string(task?.path().join("schedstat"))?;
        nanos += text.split(' ').next().unwrap_or_default().parse::<u64>()?;
    }
    Ok(Duration::from_nanos(nanos))
}
