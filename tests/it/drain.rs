//! A broker that ends and is started again at once: a crowd that was told to come back does, each when it was told, and nobody misses
//! anything. What it takes of time is `make torture`'s.

use std::time::Duration;

use hark_tests::{Drain, Setup};

const SESSIONS: usize = 200;
const SPREAD: Duration = Duration::from_secs(1);

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_crowd_that_comes_back_by_its_hints_has_everything_once() {
    let mut broker = Setup::new().flag("drain", "1s").restarts().start();
    let drain = Drain {
        sessions: SESSIONS,
        messages: 100,
        per_second: 50,
    };

    let drained = drain.run(&mut broker).await;

    println!(
        "ended after {:?}, all caught up after {:?}, {} attempts in vain",
        drained.ended_after,
        drained.caught_up_after.last(),
        drained.in_vain
    );
    assert_eq!(drained.without_goodbye, 0);
    assert_eq!(drained.caught_up_after.len(), SESSIONS);
    assert_eq!(drained.hints.len(), SESSIONS);
    // They were not told to come all at once.
    let tenths = drained.hints_in_tenths_of(SPREAD);
    assert!(
        tenths.iter().all(|&told| told <= SESSIONS / 5),
        "each tenth of the time has its share: {tenths:?}"
    );
    assert!(drained.hints.iter().all(|&hint| hint <= SPREAD));
}
