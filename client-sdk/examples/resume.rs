//! A worker that remembers where it was: it keeps its cursor in a file, and after its own restart it gets exactly what it
//! missed.
//!
//! `cargo run --release -p hark-client --example resume -- orders.eu`, stop it with Ctrl-C (or kill -9), publish something
//! (`hark pub orders.eu '{"id":1}'`), start it again. A second argument is the file (`resume.cursor`), a third the broker.
#![allow(clippy::print_stdout, clippy::print_stderr)] // an example speaks

use std::io::Write;
use std::path::Path;

use futures_util::TryStreamExt;
use hark_client::{Client, Cursor, Event, SubscribeFrom};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut args = std::env::args().skip(1);
    let Some(topic) = args.next() else {
        return Err("say which topic: resume TOPIC [FILE [URL]]".into());
    };
    let file = args.next().unwrap_or_else(|| "resume.cursor".to_owned());
    let url = args
        .next()
        .unwrap_or_else(|| "ws://127.0.0.1:4275/ws".to_owned());
    let file = Path::new(&file);

    let from = match load(file)? {
        Some(cursor) => SubscribeFrom::After(cursor),
        None => SubscribeFrom::Earliest,
    };
    eprintln!("-- {topic} from {from}");
    let client = Client::connect(url).await?;
    let mut orders = client.subscribe(&topic).from(from).await?;
    while let Some(event) = orders.try_next().await? {
        match event {
            Event::Message(message) => {
                // The work. It comes before the cursor is stored: a crash in between does this one message again, and
                // none is left out.
                println!(
                    "{} {}",
                    message.offset(),
                    String::from_utf8_lossy(message.bytes())
                );
            }
            // What is missing is known here and now; a real worker would tell somebody, or fetch it from elsewhere.
            Event::Gap(gap) => eprintln!("-- {gap}"),
            Event::CaughtUp(_) => eprintln!("-- caught up"),
        }
        // The position behind what was just done, also behind a gap.
        store(file, orders.cursor())?;
    }
    Ok(())
}

fn load(file: &Path) -> Result<Option<Cursor>, Box<dyn std::error::Error>> {
    match std::fs::read_to_string(file) {
        Ok(text) => Ok(Some(text.trim().parse()?)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// Writes beside the file and renames, so that there is always a whole cursor, the old one or the new one. (The cursor of
/// every message is the simplest; a worker with many a second stores it once in a while.)
fn store(file: &Path, cursor: Cursor) -> std::io::Result<()> {
    let beside = file.with_extension("new");
    let mut writing = std::fs::File::create(&beside)?;
    writeln!(writing, "{cursor}")?;
    writing.sync_all()?;
    std::fs::rename(beside, file)
}
