//! A chat in the terminal, over one topic: what you type is published, the last 20 lines are shown when you come, and a
//! lost connection loses nothing.
//!
//! `cargo run --release -p hark-client --example chat -- ana` in one terminal, with another name in the next. A second
//! argument is the topic (`chat.lobby`), a third the broker (`ws://127.0.0.1:4275/ws`).
#![allow(clippy::print_stdout, clippy::print_stderr)] // a chat speaks

use std::time::Duration;

use futures_util::{StreamExt, TryStreamExt};
use hark_client::{Client, ConnectionEvent, Event, SubscribeFrom};
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt, BufReader};

#[derive(Debug, Serialize, Deserialize)]
struct Line {
    from: String,
    text: String,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut args = std::env::args().skip(1);
    let Some(name) = args.next() else {
        return Err("say who you are: chat NAME [TOPIC [URL]]".into());
    };
    let topic = args.next().unwrap_or_else(|| "chat.lobby".to_owned());
    let url = args
        .next()
        .unwrap_or_else(|| "ws://127.0.0.1:4275/ws".to_owned());

    let client = Client::connect(url).await?;
    let mut events = client.events();
    let mut chat = client
        .subscribe(&topic)
        .from(SubscribeFrom::Last(20))
        .await?;
    let mut typed = BufReader::new(tokio::io::stdin()).lines();
    eprintln!("-- {topic}; Ctrl-D to leave");
    loop {
        tokio::select! {
            event = chat.try_next() => match event? {
                Some(Event::Message(message)) => match message.json::<Line>() {
                    Ok(line) => println!("{}: {}", printable(&line.from), printable(&line.text)),
                    // Of `hark pub`, or curl.
                    Err(_) => match message.text() {
                        Some(text) => println!("{}", printable(text)),
                        None => println!("(something that is no line of a chat)"),
                    },
                },
                Some(Event::Gap(gap)) => eprintln!("-- {gap}"),
                Some(Event::CaughtUp(_)) => {}
                None => break,
            },
            line = typed.next_line() => match line? {
                Some(text) if text.is_empty() => {}
                Some(text) => {
                    // The receipt is left alone: everybody, the author too, sees the line come back when it is kept.
                    drop(client.publish(&topic, &Line { from: name.clone(), text }).send().await?);
                }
                None => break,
            },
            Some(event) = events.next() => match event {
                ConnectionEvent::Disconnected { reason } => eprintln!("-- {reason}; what you type is sent later"),
                ConnectionEvent::Connected { .. } => eprintln!("-- connected again"),
                _ => {}
            },
        }
    }
    client.close(Duration::from_secs(5)).await?;
    Ok(())
}

/// Others must not be able to move your cursor.
fn printable(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).collect()
}
