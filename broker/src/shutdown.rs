//! Ending: SIGTERM and SIGINT drain alike. Owns the order: nobody new, goodbye to all, the log committed, exit.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use actix_web::dev::Server;
use actix_web::web;
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::http::Gate;
use crate::listeners::Listeners;
use crate::logging;

/// How often the drain looks whether everybody has gone.
const LOOK_EVERY: Duration = Duration::from_millis(10);

/// SIGHUP: a terminal has gone, or somebody wants settings to be read again. Neither is a reason to end.
#[derive(Debug)]
pub(crate) struct HangUps(Signal);

impl HangUps {
    /// From here on a hang-up ends nothing. Before anything that may take long, as opening the log does.
    pub(crate) fn survive() -> io::Result<Self> {
        Ok(Self(signal(SignalKind::hangup())?))
    }
}

/// What tells Hark to end.
#[derive(Debug)]
pub(crate) struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hang_ups: HangUps,
    listeners: Arc<Listeners>,
}

impl Signals {
    /// From here on the signals are Hark's to act on.
    pub(crate) fn listen(hang_ups: HangUps, listeners: Arc<Listeners>) -> io::Result<Self> {
        Ok(Self {
            listeners,
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hang_ups,
        })
    }

    async fn told(&mut self) {
        loop {
            tokio::select! {
                _ = self.terminate.recv() => return,
                _ = self.interrupt.recv() => return,
                _ = self.hang_ups.0.recv() => self.read_again(),
            }
        }
    }
}

impl Signals {
    fn read_again(&self) {
        match self.listeners.reload() {
            Ok(()) => tracing::info!(
                "SIGHUP: the certificates have been read again, and no other settings; to change those, start hark anew"
            ),
            Err(error) => tracing::warn!(
                error,
                "SIGHUP: the certificates could not be read again: those from before are served"
            ),
        }
    }
}

/// Runs the server until a signal comes, then drains for at most `drain`. A second signal ends it at once.
pub(crate) async fn run_until_told(
    server: Server,
    gate: web::Data<Gate>,
    drain: Duration,
    mut signals: Signals,
) -> io::Result<()> {
    let handle = server.handle();
    let mut running = actix::spawn(server);
    tokio::select! {
        ended = &mut running => return ended.unwrap_or_else(|error| Err(io::Error::other(error))),
        () = signals.told() => {}
    }
    tracing::info!(
        sessions = gate.sessions.count(),
        drain_ms = drain.as_millis() as u64,
        "hark was told to end"
    );
    // Connections are still taken: who comes is told that Hark ends, and a load balancer that asks `/readyz` sees it.
    gate.stopping.store(true, Ordering::Relaxed);
    gate.sessions.say_goodbye(drain.as_millis() as u64);
    tokio::select! {
        () = everybody_gone(&gate, drain) => {}
        () = signals.told() => tracing::warn!("told again: hark ends without waiting"),
    }
    // Requests that are being answered are; what was taken is committed, whoever still waits for the answer.
    handle.stop(true).await;
    let committing = gate.clone();
    let committed = web::block(move || committing.registry.shut_down());
    tokio::select! {
        committed = committed => committed.map_err(io::Error::other)?,
        () = signals.told() => end_at_once(),
    }
    tracing::info!("hark has ended");
    Ok(())
}

/// Ends although the log is still committing: what is not answered may be lost.
#[allow(clippy::exit)] // the thread that commits cannot be asked to stop
fn end_at_once() -> ! {
    tracing::error!("told again while the log was committing: hark ends at once");
    logging::finish();
    std::process::exit(1)
}

/// Waits until every session has ended and every publish is answered; a client that does not read cannot be waited for.
async fn everybody_gone(gate: &Gate, drain: Duration) {
    let staged = &gate.registry.settings().staged_budget;
    let look = async {
        while gate.sessions.count() > 0 || staged.used() > 0 {
            tokio::time::sleep(LOOK_EVERY).await;
        }
    };
    if tokio::time::timeout(drain, look).await.is_err() {
        tracing::warn!(
            sessions = gate.sessions.count(),
            "not everybody has heard that hark ends"
        );
    }
}
