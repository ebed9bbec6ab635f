//! One name, one topic: which topics there are in all engines together, and what is done with a topic on disk whose name the memory
//! topics cover. Owns the rule; which engine keeps a name is with `settings`.
//!
//! Such a topic is left over from before its name was given to memory. It is hidden: nobody can reach it, so it is not listed, and
//! whoever describes, reads or exports the name gets the one in memory. Retention goes on with it. Deleting the name deletes both. It
//! comes back when the broker is started without the pattern.

use std::sync::Arc;

use hark_protocol::{TopicName, TopicPattern};
use tokio::sync::oneshot;

use super::Registry;
use crate::message_log::{Done, List, LogError, MessageLog, TopicInfo};
use crate::settings::Engines;

/// How many names of one engine are asked for at a time, at most.
const MAX_PAGE: usize = 1000;
/// How many hidden topics are named when the broker starts.
const NAMED: usize = 5;
/// How often a hidden topic is deleted anew that the log has opened for itself meanwhile.
const TRIES: usize = 5;

/// Lists topics of all engines, each name once, by name.
pub(super) async fn list(engines: &Engines, order: List) -> Result<Vec<TopicInfo>, LogError> {
    let in_memory = ask(|done| engines.memory.list(order.clone(), done)).await?;
    let limit = order.limit;
    let is_shown = |info: &TopicInfo| !engines.keeps_in_memory(&info.topic);
    let mut found = on_disk(engines, order, is_shown).await?;
    found.extend(in_memory);
    found.sort_unstable_by(|a, b| a.topic.cmp(&b.topic));
    found.truncate(limit);
    Ok(found)
}

/// Lists topics on disk, as many as are asked for of those that are wanted.
async fn on_disk(
    engines: &Engines,
    order: List,
    is_wanted: impl Fn(&TopicInfo) -> bool,
) -> Result<Vec<TopicInfo>, LogError> {
    let mut found = Vec::new();
    let mut after = order.after;
    loop {
        let limit = (order.limit - found.len()).min(MAX_PAGE);
        let next = List {
            prefix: order.prefix.clone(),
            after,
            limit,
        };
        let page = ask(|done| engines.synced.list(next, done)).await?;
        let is_last = page.len() < limit;
        after = page.last().map(|info| info.topic.clone());
        found.extend(page.into_iter().filter(&is_wanted));
        if is_last || found.len() >= order.limit {
            return Ok(found);
        }
    }
}

/// Deletes what the disk holds under a name that is kept in memory. Says whether there was anything.
pub(super) async fn delete_hidden(engines: &Engines, topic: &TopicName) -> Result<bool, LogError> {
    if !engines.keeps_in_memory(topic) {
        return Ok(false);
    }
    let log = &engines.synced;
    for _ in 0..TRIES {
        match delete_on_disk(log, topic).await {
            // Another has opened it since: whoever else deletes it, or the log, to trim it.
            Err(LogError::StaleGeneration) => {}
            deleted => return deleted,
        }
    }
    Err(LogError::Busy)
}

/// No room serves the topic, so it is opened here.
async fn delete_on_disk(log: &Arc<dyn MessageLog>, topic: &TopicName) -> Result<bool, LogError> {
    let news = Arc::new(|_| ());
    let opened = ask(|done| log.open(topic.clone(), news, done)).await?;
    if opened.head == 0 {
        log.close(topic.clone(), opened.generation);
        return Ok(false);
    }
    let deleted = ask(|done| log.delete(topic.clone(), opened.generation, done)).await;
    let generation = deleted
        .as_ref()
        .map_or(opened.generation, |now| now.generation);
    log.close(topic.clone(), generation);
    Ok(deleted?.epoch != opened.epoch)
}

/// Says which topics on disk are hidden, if any are.
pub async fn warn_of_hidden(registry: &Registry) {
    let engines = registry.engines();
    let mut hidden = Vec::new();
    for pattern in engines.memory_topics.iter() {
        let order = List {
            prefix: literal_prefix(pattern).to_owned(),
            after: None,
            limit: NAMED + 1,
        };
        match on_disk(engines, order, |info| pattern.matches(&info.topic)).await {
            Ok(found) => hidden.extend(found.into_iter().map(|info| info.topic)),
            Err(error) => {
                tracing::warn!(%error, "it could not be found out whether --memory-topics hides topics on disk");
                return;
            }
        }
    }
    hidden.sort_unstable();
    hidden.dedup();
    if hidden.is_empty() {
        return;
    }
    let names: Vec<&str> = hidden.iter().take(NAMED).map(TopicName::as_str).collect();
    let more = match hidden.len() > NAMED {
        true => ", …",
        false => "",
    };
    tracing::warn!(
        topics = format!("{}{more}", names.join(", ")),
        "topics on disk are hidden, since --memory-topics covers their names: delete them (DELETE /v1/topics/NAME takes both), or start \
         without the pattern to have them back"
    );
}

/// What every name begins with that the pattern stands for.
fn literal_prefix(pattern: &TopicPattern) -> &str {
    let text = pattern.as_str();
    text.split(['*', '>']).next().unwrap_or_default()
}

/// Asks an engine, and awaits its answer.
async fn ask<T: Send + 'static>(question: impl FnOnce(Done<T>)) -> Result<T, LogError> {
    let (send, answer) = oneshot::channel();
    // Whoever asked may have given up meanwhile.
    question(Box::new(move |found| drop(send.send(found))));
    let unanswered = || LogError::Unreadable("the log did not answer".to_owned());
    answer.await.unwrap_or_else(|_| Err(unanswered()))
}
