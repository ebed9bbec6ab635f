//! The Rust client for Hark, a pub/sub message broker that remembers.
//!
//! ```
//! # #[path = "../tests/it/mini.rs"] mod mini;
//! use futures_util::TryStreamExt;
//! use hark_client::{Client, Event, SubscribeFrom};
//! use serde_json::json;
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let url = mini::start().await;
//! # /*
//! let url = "ws://127.0.0.1:4275/ws";
//! # */
//! let client = Client::connect(url).await?;
//!
//! // Publish, and know that it is kept.
//! let receipt = client.publish("orders.eu", &json!({"id": 1, "total": 42})).receipt().await?;
//! println!("kept at {}", receipt.cursor);
//!
//! // Publish many: `send` waits for a place in the window, the receipts come later.
//! let mut pending = Vec::new();
//! for id in 2..=100 {
//!     pending.push(client.publish("orders.eu", &json!({"id": id})).header("shop", "7").send().await?);
//! }
//! for receipt in pending {
//!     receipt.await?;
//! }
//!
//! // One message to several topics: a receipt for each.
//! for receipt in client.publish_all(["orders.us", "audit"], "closed").receipts().await? {
//!     receipt?;
//! }
//!
//! // Read everything that is kept, then what comes.
//! let mut orders = client.subscribe("orders.eu").from(SubscribeFrom::Earliest).await?;
//! while let Some(event) = orders.try_next().await? {
//!     match event {
//!         Event::Message(message) => {
//!             let order: serde_json::Value = message.json()?;
//!             println!("{} {order}", message.cursor);
//!         }
//!         Event::Gap(gap) => eprintln!("{gap}"),
//!         Event::CaughtUp(_) => break, // live from here on; this example has seen enough
//!     }
//! }
//! # assert_eq!(orders.cursor().offset, 100);
//!
//! // Later, perhaps in another process: go on exactly there.
//! let position = orders.cursor().to_string();
//! # orders.unsubscribe().await;
//! let mut orders = client.subscribe("orders.eu").after(position.parse()?).await?;
//! # client.publish("orders.eu", "one more").receipt().await?;
//! let next = orders.next_message().await?; // a gap would be an error here
//! # assert_eq!(next.json::<String>()?, "one more");
//! # client.close(std::time::Duration::from_secs(5)).await?;
//! # Ok(())
//! # }
//! ```
//!
//! (The examples on these pages run against a small in-memory stand-in for the broker.)
//!
//! # What is promised
//!
//! - **Kept once, in order.** A message that was not answered is sent again after a reconnect, or when the broker says
//!   that it was busy, before anything that was published later to the same topic. The broker knows it by its number and keeps
//!   it once. It ends with a [`Receipt`], or with a [`PublishError`] that says whether it may have been kept.
//! - **Received once, in order.** A subscription goes on after the last message it has received, across reconnects and
//!   restarts of the broker. What cannot be had is a [`Gap`], never a silent skip.
//! - **Bounded.** At most 1,024 messages (more where the broker allows more) and 1 MiB are unanswered ([`ClientBuilder::window`]);
//!   at most 1,024 messages and 1 MiB wait in
//!   a subscription ([`ClientBuilder::queue`]; what happens then: [`Subscription`]).
//! - **Nothing happens in secret.** [`Client::events`] tells of every lost connection, every hole, every delay, that the broker finds it
//!   slow ([`ConnectionEvent::Lagging`]), and that what comes next does not come through ([`ConnectionEvent::Stuck`]);
//!   [`Client::stats`] counts them.
//!
//! # What an application has to do
//!
//! - To survive its own restart, a subscriber stores [`Subscription::cursor`] (or a message's) *after* it has done its work with the
//!   message, and goes on with [`Subscribe::after`]: see `examples/resume.rs`. Work that was done just before a crash and
//!   whose cursor was not stored yet is done again.
//! - A publisher that restarts does not know which of its unanswered messages were kept. Where that matters, it gives them a
//!   [`message_id`](Publish::message_id) of its own.
//!
//! # Features
//!
//! - `tls`: `wss://`, with rustls, the system's root certificates and those of [`ClientBuilder::authorities`], and with a certificate of the
//!   client's own ([`ClientBuilder::certificate`]). Off by default; without it a `wss` URL is an error.

// The tests' helpers that the tests of `tests/it` have too know this crate by its name.
#[cfg(test)]
extern crate self as hark_client;

mod backoff;
mod client;
mod clock;
mod connection;
mod dial;
mod error;
mod events;
mod figures;
mod heard;
mod inbox;
pub mod inner;
mod kernel;
mod line;
mod liveness;
mod losses;
mod message;
mod options;
mod outage;
mod outbox;
mod publish;
mod publish_all;
mod queue;
mod race;
#[cfg(test)]
mod script;
mod stream;
mod subscription;
#[cfg(feature = "tls")]
mod tls;
mod world;

pub use client::Client;
pub use error::{ClientError, Gap, NextMessageError, PublishError, SubscribeError, Unanswered};
pub use events::{ConnectionEvent, ConnectionEvents, Stats};
pub use hark_protocol::{
    CloseCode, Cursor, ErrorCode, GapReason, Headers, Identity, JsonText, Payload, ProducerId,
    Subprotocol, SubscribeFrom, TopicName,
};
pub use message::{Event, Message};
pub use options::{ClientBuilder, FirstConnection, Producer, Reconnect, TokenError};
pub use publish::{PendingReceipt, Publish, Receipt};
pub use publish_all::{PendingReceipts, PublishAll};
pub use subscription::{Subscribe, Subscription};

/// The example on the project's front page compiles, or `cargo test` says so.
#[cfg(doctest)]
#[doc = include_str!("../../README.md")]
struct FrontPage;
