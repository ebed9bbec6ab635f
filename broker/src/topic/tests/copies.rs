//! Messages that come again: the receipt names the place of the first, whatever came between.

use hark_protocol::{Idempotency, MessageId, ProducerId};

use super::gated::Gated;
use super::{MANY, Outcome, message, outcomes, registry_over, send, until};
use crate::clock::Clock;

fn numbered(producer: &str, seq: u64) -> (hark_protocol::Message, Idempotency) {
    let producer = ProducerId::parse(producer).unwrap();
    (message(&[]), Idempotency::Sequence { producer, seq })
}

fn keyed(key: &str) -> (hark_protocol::Message, Idempotency) {
    let key = MessageId::parse(key).unwrap();
    (message(&[]), Idempotency::Key(key))
}

/// Where messages are, and whether they had been kept before.
fn places(outcomes: &[Outcome]) -> Vec<(u64, bool)> {
    let place = |outcome: &Outcome| match outcome {
        Outcome::Kept { cursor, duplicate } => (cursor.offset, *duplicate),
        refused @ Outcome::Refused(_) => panic!("{refused:?}"),
    };
    outcomes.iter().map(place).collect()
}

/// Copies of what is staged, of what is in flight, and of what was kept; behind and in front of others of the same producer.
#[actix_web::test]
async fn a_copy_of_what_is_on_its_way_has_its_place() {
    let clock = Clock::system();
    let log = Gated::new(&clock);
    let registry = registry_over(log.clone(), clock, false, MANY);
    log.appends.shut();
    let in_flight = send(
        &registry,
        "a",
        vec![numbered("p", 1), numbered("q", 1), numbered("p", 2)],
    );
    until("an append is in flight", || log.appends.held() == 1).await;
    let staged = send(
        &registry,
        "a",
        vec![numbered("p", 3), keyed("k"), numbered("p", 4)],
    );
    let copies = || {
        let messages = vec![
            numbered("p", 1),
            numbered("p", 2),
            numbered("p", 3),
            keyed("k"),
            numbered("q", 1),
            numbered("p", 4),
        ];
        send(&registry, "a", messages)
    };
    let (first, second) = (copies(), copies());
    let behind = send(&registry, "a", vec![numbered("p", 5), numbered("p", 1)]);
    log.appends.open();

    assert_eq!(
        places(&outcomes(in_flight).await),
        [(1, false), (2, false), (3, false)]
    );
    assert_eq!(
        places(&outcomes(staged).await),
        [(4, false), (5, false), (6, false)]
    );
    let expected = [1, 3, 4, 5, 2, 6].map(|offset| (offset, true));
    for copies in [first, second, copies()] {
        assert_eq!(places(&outcomes(copies).await), expected);
    }
    assert_eq!(places(&outcomes(behind).await), [(7, false), (1, true)]);
}

/// More than one append holds, of two producers by turns, all of it sent twice before the first answer.
#[actix_web::test]
async fn thousands_of_copies_have_each_its_own_place() {
    let clock = Clock::system();
    let log = Gated::new(&clock);
    let registry = registry_over(log.clone(), clock, false, MANY);
    let all = || (1..=10_000).flat_map(|seq| [numbered("p", seq), numbered("q", seq)]);
    log.appends.shut();
    let firsts = send(&registry, "a", all().collect());
    until("an append is in flight", || log.appends.held() == 1).await;
    let copies = send(&registry, "a", all().rev().collect());
    log.appends.open();
    let firsts = places(&outcomes(firsts).await);
    assert!(
        firsts
            .iter()
            .copied()
            .eq((1..=20_000).map(|offset| (offset, false)))
    );
    let copies = places(&outcomes(copies).await);
    assert!(
        copies
            .iter()
            .copied()
            .eq((1..=20_000).rev().map(|offset| (offset, true)))
    );
    // When all is kept, what came last is still exact, and nothing is said that is not so.
    let again = places(&outcomes(send(&registry, "a", all().collect())).await);
    for (offset, found) in (1..).zip(again) {
        let may_be_forgotten = offset < 10_000;
        assert!(
            found == (offset, true) || may_be_forgotten && found == (0, true),
            "{offset}: {found:?}"
        );
    }
}
