//! A judge that cannot find anybody guilty is no judge: what is right passes, and each kind of violation is noticed.

use serde_json::{Value, json};

use crate::judge::{Id, Judge, Judged, Kind, Place};
use crate::reader::{From, Reader};

const TOPIC: usize = 0;

fn place(cursor: &str) -> Place {
    Place::parse(&json!(cursor)).unwrap()
}

/// A judge of one topic with one publisher, which has sent so many messages.
fn sent(kind: Kind, messages: u64) -> Judge {
    let mut judge = Judge::new(1);
    judge.join(TOPIC, kind);
    for n in 1..=messages {
        judge.sending(id(n));
    }
    judge
}

/// … and has had the receipts for all of them, in epoch `e`, from offset 1.
fn kept(messages: u64) -> Judge {
    let mut judge = sent(Kind::Numbered, messages);
    for n in 1..=messages {
        judge
            .receipt(id(n), &place(&format!("e:{n}")), false)
            .unwrap();
    }
    judge
}

fn id(n: u64) -> Id {
    Id { publisher: 0, n }
}

fn after(cursor: &str) -> From {
    From::After(place(cursor))
}

/// A subscription that is answered so.
fn subscribe(
    judge: &mut Judge,
    from: &From,
    cursor: &str,
    head: u64,
    resumed: bool,
) -> Judged<Reader> {
    let known = judge.known(TOPIC);
    let said = json!({"type": "subscribed", "cursor": cursor, "head": head, "resumed": resumed});
    Reader::subscribed(judge, TOPIC, from, known, &said)
}

fn message(offset: u64, n: u64) -> Value {
    json!({"type": "message", "offset": offset, "time": 1, "data": id(n).data()})
}

fn gap(reason: &str, from: u64, to: u64, cursor: &str) -> Value {
    json!({"type": "gap", "reason": reason, "from": from, "to": to, "cursor": cursor})
}

fn caught_up(cursor: &str) -> Value {
    json!({"type": "caught_up", "cursor": cursor})
}

/// Reads from the beginning; message `n` lies at offset `n`.
fn read_all(judge: &mut Judge, epoch: &str, head: u64) -> Judged {
    let mut reader = subscribe(judge, &From::Earliest, &format!("{epoch}:0"), head, false)?;
    for n in 1..=head {
        reader.take(judge, &message(n, n))?;
    }
    reader.take(judge, &caught_up(&format!("{epoch}:{head}")))
}

#[track_caller]
fn noticed<T: std::fmt::Debug>(judged: Judged<T>, what: &str) {
    let violation = judged.expect_err("this violates a rule");
    assert!(
        violation.0.contains(what),
        "noticed for another reason: {violation:?}"
    );
}

#[test]
fn what_is_right_passes() {
    let mut judge = kept(10);
    judge.sending(id(11));
    judge.sending(id(11));
    judge.receipt(id(11), &place("e:11"), true).unwrap();
    read_all(&mut judge, "e", 11).unwrap();
    let mut reader = subscribe(&mut judge, &after("e:4"), "e:4", 11, true).unwrap();
    reader.take(&mut judge, &message(5, 5)).unwrap();
    let lagging = |cursor: &str| json!({"type": "lagging", "cursor": cursor, "behind": 6});
    let early = reader.take(&mut judge, &lagging("e:5"));
    noticed(early, "is said to lag");
    for n in 6..=11 {
        reader.take(&mut judge, &message(n, n)).unwrap();
    }
    reader.take(&mut judge, &caught_up("e:11")).unwrap();
    reader.take(&mut judge, &lagging("e:11")).unwrap();
    let elsewhere = reader.take(&mut judge, &lagging("e:10"));
    noticed(elsewhere, "is said to lag");
    subscribe(&mut judge, &From::Now, "e:11", 11, false).unwrap();
    subscribe(&mut judge, &From::Last(3), "e:8", 11, false).unwrap();
    judge.look_over(TOPIC, true).unwrap();
}

#[test]
fn retention_that_is_told_passes() {
    let mut judge = kept(10);
    read_all(&mut judge, "e", 10).unwrap();
    judge.retention(4);
    let mut reader = subscribe(&mut judge, &after("e:2"), "e:2", 10, false).unwrap();
    reader
        .take(&mut judge, &gap("expired", 3, 6, "e:6"))
        .unwrap();
    reader.take(&mut judge, &message(7, 7)).unwrap();
    subscribe(&mut judge, &From::Earliest, "e:6", 10, false).unwrap();
    subscribe(&mut judge, &From::Last(9), "e:6", 10, false).unwrap();
    judge.look_over(TOPIC, true).unwrap();
}

#[test]
fn a_tail_that_damage_took_passes_when_it_is_named() {
    let mut judge = kept(10);
    judge.damaged();
    let mut reader = subscribe(&mut judge, &after("e:9"), "e:9", 7, false).unwrap();
    reader.take(&mut judge, &gap("lost", 8, 9, "f:7")).unwrap();
    reader.take(&mut judge, &caught_up("f:7")).unwrap();
    judge.settled();
    subscribe(&mut judge, &after("e:5"), "f:5", 7, true).unwrap();
    judge.sending(id(11));
    judge.receipt(id(11), &place("f:8"), false).unwrap();
    let mut reader = subscribe(&mut judge, &From::Earliest, "f:0", 8, false).unwrap();
    for n in 1..=7 {
        reader.take(&mut judge, &message(n, n)).unwrap();
    }
    reader.take(&mut judge, &message(8, 11)).unwrap();
    judge.look_over(TOPIC, true).unwrap();
}

#[test]
fn a_lost_tail_is_noticed() {
    let mut judge = kept(10);
    noticed(
        subscribe(&mut judge, &From::Earliest, "e:0", 9, false),
        "has its head at 9",
    );
    noticed(
        subscribe(&mut judge, &after("e:9"), "e:9", 8, true),
        "has its head at 8",
    );
}

#[test]
fn a_message_that_was_shown_and_is_gone_is_noticed() {
    let mut judge = sent(Kind::Plain, 3);
    read_all(&mut judge, "e", 3).unwrap();
    noticed(
        subscribe(&mut judge, &From::Now, "e:2", 2, false),
        "has its head at 2",
    );
}

#[test]
fn another_message_in_the_place_of_a_lost_one_is_noticed() {
    let mut judge = kept(10);
    judge.sending(id(11));
    let mut reader = subscribe(&mut judge, &after("e:9"), "e:9", 10, true).unwrap();
    noticed(
        reader.take(&mut judge, &message(10, 11)),
        "one place, two messages",
    );
}

#[test]
fn a_place_that_is_given_out_twice_is_noticed() {
    let mut judge = kept(10);
    judge.sending(id(11));
    noticed(
        judge.receipt(id(11), &place("e:10"), false),
        "one place, two messages",
    );
}

#[test]
fn a_place_that_has_another_message_in_a_later_epoch_is_noticed() {
    let mut judge = kept(10);
    judge.damaged();
    subscribe(&mut judge, &after("e:8"), "f:8", 9, true).unwrap();
    let mut reader = subscribe(&mut judge, &after("f:2"), "f:2", 9, true).unwrap();
    judge.sending(id(11));
    reader.take(&mut judge, &message(3, 11)).unwrap();
    noticed(
        judge.look_over(TOPIC, false),
        "in an earlier one that it goes on from",
    );
}

#[test]
fn a_message_that_is_kept_twice_is_noticed() {
    let mut judge = kept(10);
    judge.sending(id(10));
    noticed(
        judge.receipt(id(10), &place("e:11"), false),
        "answered as new twice",
    );
    let mut reader = subscribe(&mut judge, &after("e:10"), "e:10", 11, true).unwrap();
    noticed(
        reader.take(&mut judge, &message(11, 4)),
        "twice in one epoch",
    );
}

#[test]
fn a_message_that_nobody_answered_and_that_is_there_twice_is_noticed() {
    let mut judge = sent(Kind::Plain, 2);
    let mut reader = subscribe(&mut judge, &From::Earliest, "e:0", 3, false).unwrap();
    reader.take(&mut judge, &message(1, 1)).unwrap();
    noticed(
        reader.take(&mut judge, &message(2, 1)),
        "twice in one epoch",
    );
}

#[test]
fn a_message_that_damage_took_may_be_kept_again() {
    let mut judge = sent(Kind::Keyed, 10);
    for n in 1..=10 {
        judge
            .receipt(id(n), &place(&format!("e:{n}")), false)
            .unwrap();
    }
    judge.damaged();
    let mut reader = subscribe(&mut judge, &after("e:5"), "e:5", 11, true).unwrap();
    reader.take(&mut judge, &gap("lost", 6, 9, "f:9")).unwrap();
    reader.take(&mut judge, &message(10, 10)).unwrap();
    reader.take(&mut judge, &message(11, 7)).unwrap();
    judge.look_over(TOPIC, false).unwrap();
}

#[test]
fn a_tail_that_is_lost_over_two_damages_is_lost() {
    let mut judge = kept(10);
    judge.damaged();
    // Nobody who was so far sees the first that comes after it.
    subscribe(&mut judge, &after("e:5"), "f:5", 10, true).unwrap();
    judge.damaged();
    let mut reader = subscribe(&mut judge, &after("e:10"), "e:10", 7, false).unwrap();
    reader.take(&mut judge, &gap("lost", 8, 10, "g:7")).unwrap();
    reader.take(&mut judge, &message(8, 9)).unwrap();
    judge.look_over(TOPIC, false).unwrap();
}

#[test]
fn a_lost_message_whose_receipt_came_late_is_lost() {
    let mut judge = sent(Kind::Numbered, 11);
    for n in 1..=9 {
        judge
            .receipt(id(n), &place(&format!("e:{n}")), false)
            .unwrap();
    }
    judge.damaged();
    subscribe(&mut judge, &after("e:9"), "f:9", 9, true).unwrap();
    judge.settled();
    judge.receipt(id(10), &place("e:10"), false).unwrap();
    let mut reader = subscribe(&mut judge, &after("f:9"), "f:9", 10, true).unwrap();
    reader.take(&mut judge, &message(10, 11)).unwrap();
    judge.look_over(TOPIC, false).unwrap();
}

#[test]
fn a_message_that_is_kept_again_after_damage_is_noticed() {
    let mut judge = kept(10);
    judge.damaged();
    subscribe(&mut judge, &after("e:10"), "f:10", 11, true).unwrap();
    let mut reader = subscribe(&mut judge, &after("f:10"), "f:10", 11, true).unwrap();
    reader.take(&mut judge, &message(11, 10)).unwrap();
    noticed(judge.look_over(TOPIC, false), "twice");
}

#[test]
fn a_wrong_order_is_noticed() {
    for kind in [Kind::Numbered, Kind::Keyed, Kind::Plain] {
        let mut judge = sent(kind, 2);
        judge.receipt(id(2), &place("e:1"), false).unwrap();
        judge.receipt(id(1), &place("e:2"), false).unwrap();
        noticed(judge.look_over(TOPIC, false), "out of order");
    }
    let mut judge = sent(Kind::Keyed, 2);
    judge.out_of_order(id(1));
    judge.receipt(id(2), &place("e:1"), false).unwrap();
    judge.receipt(id(1), &place("e:2"), false).unwrap();
    judge.look_over(TOPIC, false).unwrap();
}

/// A topic's name is written once: damage may take it alone, and leave the epoch that names without a topic share.
#[test]
fn a_topic_begun_later_that_is_back_at_its_beginning_is_noticed() {
    let begun = || {
        let mut judge = kept(10);
        let later = judge.begin_topic();
        let publisher = judge.join(later, Kind::Numbered);
        for n in 1..=3 {
            let id = Id { publisher, n };
            judge.sending(id);
            judge.receipt(id, &place(&format!("e:{n}")), false).unwrap();
        }
        judge.damaged();
        (judge, later, publisher)
    };
    let subscribe = |judge: &mut Judge, later, from: &From, cursor: &str| {
        let known = judge.known(later);
        let said = json!({"type": "subscribed", "cursor": cursor, "head": 0, "resumed": false});
        Reader::subscribed(judge, later, from, known, &said)
    };
    // Whoever has not been there.
    let (mut judge, later, _) = begun();
    noticed(
        subscribe(&mut judge, later, &From::Earliest, "e:0"),
        "has its head at 0",
    );
    // Whoever comes back.
    let (mut judge, later, _) = begun();
    let mut reader = subscribe(&mut judge, later, &after("e:3"), "e:3").unwrap();
    let ahead = json!({"type": "gap", "reason": "ahead", "from": 1, "to": 3, "cursor": "e:0"});
    noticed(
        reader.take(&mut judge, &ahead),
        "a gap that nothing explains",
    );
    // Whoever publishes.
    let (mut judge, _, publisher) = begun();
    let next = Id { publisher, n: 4 };
    judge.sending(next);
    noticed(
        judge.receipt(next, &place("e:1"), false),
        "one place, two messages",
    );
    // In another epoch, and named, it is right.
    let (mut judge, later, publisher) = begun();
    let mut reader = subscribe(&mut judge, later, &after("e:3"), "e:3").unwrap();
    let another = json!({"type": "gap", "reason": "other_epoch", "cursor": "f:0"});
    reader.take(&mut judge, &another).unwrap();
    judge.settled();
    let next = Id { publisher, n: 4 };
    judge.sending(next);
    judge.receipt(next, &place("f:1"), false).unwrap();
}

#[test]
fn delivery_out_of_order_is_noticed() {
    let mut judge = kept(10);
    let mut reader = subscribe(&mut judge, &after("e:5"), "e:5", 10, true).unwrap();
    reader.take(&mut judge, &message(6, 6)).unwrap();
    noticed(reader.take(&mut judge, &message(6, 6)), "out of order");
    noticed(reader.take(&mut judge, &message(5, 5)), "out of order");
}

#[test]
fn a_hole_that_nobody_named_is_noticed() {
    let mut judge = kept(10);
    let mut reader = subscribe(&mut judge, &after("e:5"), "e:5", 10, true).unwrap();
    noticed(
        reader.take(&mut judge, &message(7, 7)),
        "a hole that nobody named",
    );
    noticed(
        reader.take(&mut judge, &caught_up("e:5")),
        "before its head",
    );
}

#[test]
fn a_gap_without_damage_or_retention_is_noticed() {
    let mut judge = kept(10);
    let reader = |judge: &mut Judge| subscribe(judge, &after("e:5"), "e:5", 10, false).unwrap();
    for reason in ["ahead", "other_epoch", "deleted", "skipped"] {
        noticed(
            reader(&mut judge).take(&mut judge, &gap(reason, 6, 7, "e:7")),
            "a gap that nothing explains",
        );
    }
    let without_range = json!({"type": "gap", "reason": "ahead", "cursor": "e:10"});
    noticed(
        reader(&mut judge).take(&mut judge, &without_range),
        "a gap without a range",
    );
    let another = json!({"type": "gap", "reason": "other_epoch", "cursor": "f:0"});
    noticed(
        reader(&mut judge).take(&mut judge, &another),
        "nothing was damaged",
    );
    noticed(
        reader(&mut judge).take(&mut judge, &gap("expired", 6, 7, "e:7")),
        "nothing ever does",
    );
    noticed(
        reader(&mut judge).take(&mut judge, &gap("lost", 6, 7, "e:7")),
        "nothing was damaged",
    );
    noticed(
        reader(&mut judge).take(&mut judge, &gap("lost", 4, 5, "f:3")),
        "nothing was damaged",
    );
}

#[test]
fn a_topic_of_which_damage_left_nothing_is_another_sequence_for_all() {
    let mut judge = kept(10);
    judge.damaged();
    let another = json!({"type": "gap", "reason": "other_epoch", "cursor": "f:0"});
    for place in ["e:5", "e:10"] {
        let mut reader = subscribe(&mut judge, &after(place), place, 0, false).unwrap();
        reader.take(&mut judge, &another).unwrap();
    }
    let mut reader = subscribe(&mut judge, &after("e:7"), "e:7", 10, false).unwrap();
    noticed(
        reader.take(&mut judge, &gap("lost", 6, 7, "f:5")),
        "said otherwise before",
    );
}

#[test]
fn a_gap_that_names_too_much_is_noticed() {
    let mut judge = kept(10);
    judge.retention(4);
    let mut reader = subscribe(&mut judge, &after("e:5"), "e:5", 10, false).unwrap();
    noticed(
        reader.take(&mut judge, &gap("expired", 6, 7, "e:7")),
        "the newest 4 are kept",
    );
    noticed(
        subscribe(&mut judge, &From::Earliest, "e:7", 10, false),
        "the newest 4 are kept",
    );
    // What was expired for one is there for another.
    let mut reader = subscribe(&mut judge, &after("e:2"), "e:2", 10, false).unwrap();
    reader
        .take(&mut judge, &gap("expired", 3, 6, "e:6"))
        .unwrap();
    noticed(
        subscribe(&mut judge, &From::Earliest, "e:4", 10, false),
        "named too much",
    );
    let mut reader = subscribe(&mut judge, &after("e:5"), "e:5", 10, true).unwrap();
    noticed(reader.take(&mut judge, &message(6, 6)), "named too much");
}

#[test]
fn what_expired_in_the_midst_of_reading_may_come_back_after_a_kill_alone() {
    let in_the_midst = || {
        let mut judge = kept(10);
        judge.retention(4);
        let mut reader = subscribe(&mut judge, &after("e:2"), "e:2", 10, true).unwrap();
        reader
            .take(&mut judge, &gap("expired", 3, 6, "e:6"))
            .unwrap();
        judge
    };
    let show = |judge: &mut Judge| {
        let mut reader = subscribe(judge, &after("e:4"), "e:4", 10, true).unwrap();
        reader.take(judge, &message(5, 5))
    };
    let mut judge = in_the_midst();
    noticed(show(&mut judge), "named too much");
    let mut judge = in_the_midst();
    judge.ended(true);
    noticed(show(&mut judge), "named too much");
    let mut judge = in_the_midst();
    judge.ended(false);
    show(&mut judge).unwrap();
    assert_eq!(judge.back_after_kill, 1);
}

#[test]
fn a_gap_that_names_too_little_or_something_else_is_noticed() {
    let mut judge = kept(10);
    judge.retention(1);
    judge.damaged();
    for (reason, from, to, cursor) in [
        ("expired", 7, 8, "e:8"),
        ("expired", 6, 7, "e:8"),
        ("lost", 7, 8, "e:8"),
        ("lost", 4, 4, "f:3"),
        ("lost", 4, 5, "f:2"),
    ] {
        let mut reader = subscribe(&mut judge, &after("e:5"), "e:5", 10, false).unwrap();
        noticed(
            reader.take(&mut judge, &gap(reason, from, to, cursor)),
            "a gap that names something else",
        );
    }
}

#[test]
fn a_resume_that_says_there_is_a_gap_and_shows_none_is_noticed() {
    let mut judge = kept(10);
    let mut reader = subscribe(&mut judge, &after("e:5"), "e:5", 10, false).unwrap();
    noticed(reader.take(&mut judge, &message(6, 6)), "cannot resume");
    noticed(
        subscribe(&mut judge, &after("e:5"), "e:6", 10, true),
        "resumed elsewhere",
    );
}

#[test]
fn another_epoch_after_a_plain_kill_is_noticed() {
    let mut judge = kept(10);
    noticed(
        subscribe(&mut judge, &From::Earliest, "f:0", 10, false),
        "goes on in epoch f instead of e",
    );
    noticed(
        subscribe(&mut judge, &after("e:10"), "f:10", 10, true),
        "goes on in epoch f instead of e",
    );
    judge.sending(id(11));
    noticed(
        judge.receipt(id(11), &place("f:11"), false),
        "goes on in epoch f instead of e",
    );
    judge.damaged();
    subscribe(&mut judge, &after("e:10"), "f:10", 10, true).unwrap();
    judge.settled();
    noticed(
        subscribe(&mut judge, &after("f:10"), "g:10", 10, true),
        "goes on in epoch g instead of f",
    );
}

#[test]
fn lost_is_the_same_for_everybody() {
    let mut judge = kept(10);
    judge.damaged();
    let mut reader = subscribe(&mut judge, &after("e:9"), "e:9", 7, false).unwrap();
    reader.take(&mut judge, &gap("lost", 8, 9, "f:7")).unwrap();
    let mut reader = subscribe(&mut judge, &after("e:10"), "e:10", 7, false).unwrap();
    noticed(
        reader.take(&mut judge, &gap("lost", 9, 10, "f:8")),
        "said otherwise before",
    );
    noticed(
        subscribe(&mut judge, &after("e:8"), "f:8", 8, true),
        "was said to be lost",
    );
}

#[test]
fn what_was_sent_after_the_damage_and_is_lost_with_it_is_counted() {
    let mut judge = kept(10);
    judge.damaged();
    for n in 11..=20 {
        judge.sending(id(n));
        judge
            .receipt(id(n), &place(&format!("e:{n}")), false)
            .unwrap();
    }
    let mut reader = subscribe(&mut judge, &after("e:5"), "e:5", 20, true).unwrap();
    reader.take(&mut judge, &gap("lost", 6, 9, "e:9")).unwrap();
    reader
        .take(&mut judge, &gap("lost", 10, 12, "e:12"))
        .unwrap();
    assert_eq!(judge.lost_after_damage, 2);
}

#[test]
fn what_was_called_lost_and_is_there_is_noticed() {
    let mut judge = kept(10);
    judge.damaged();
    let mut reader = subscribe(&mut judge, &after("e:3"), "e:3", 10, true).unwrap();
    reader.take(&mut judge, &gap("lost", 4, 9, "e:9")).unwrap();
    let mut reader = subscribe(&mut judge, &after("e:6"), "e:6", 10, true).unwrap();
    noticed(
        reader.take(&mut judge, &message(7, 7)),
        "had been called lost",
    );
    // Another life of the broker may find more.
    judge.ended(false);
    let mut reader = subscribe(&mut judge, &after("e:6"), "e:6", 10, true).unwrap();
    reader.take(&mut judge, &message(7, 7)).unwrap();
}

#[test]
fn a_duplicate_that_was_not_sent_before_is_noticed() {
    let mut judge = sent(Kind::Numbered, 2);
    judge.receipt(id(1), &place("e:1"), false).unwrap();
    noticed(judge.receipt(id(2), &place("e:2"), true), "was sent once");
}

#[test]
fn a_duplicate_of_what_is_not_there_is_noticed() {
    // Answered as a duplicate whose place is not known: it never was kept.
    let told = || {
        let mut judge = sent(Kind::Numbered, 2);
        judge.receipt(id(1), &place("e:1"), false).unwrap();
        judge.sending(id(2));
        judge.receipt(id(2), &place("e:0"), true).unwrap();
        judge
    };
    let mut judge = told();
    read_all(&mut judge, "e", 1).unwrap();
    noticed(judge.look_over(TOPIC, true), "and is not there");
    let mut judge = told();
    read_all(&mut judge, "e", 2).unwrap();
    judge.look_over(TOPIC, true).unwrap();
}

#[test]
fn a_duplicate_at_another_place_than_its_own_is_noticed() {
    let mut judge = sent(Kind::Numbered, 2);
    judge.receipt(id(1), &place("e:1"), false).unwrap();
    judge.sending(id(2));
    // Where another lies.
    let told = judge.receipt(id(2), &place("e:1"), true);
    noticed(told, "one place, two messages");
    // Where it does not lie itself.
    judge.receipt(id(2), &place("e:3"), true).unwrap();
    let mut reader = subscribe(&mut judge, &From::Earliest, "e:0", 3, false).unwrap();
    reader.take(&mut judge, &message(1, 1)).unwrap();
    let shown = reader.take(&mut judge, &message(2, 2));
    noticed(shown, "twice in one epoch");
}

#[test]
fn a_key_whose_place_is_not_known_is_noticed() {
    let mut judge = sent(Kind::Keyed, 1);
    judge.receipt(id(1), &place("e:1"), false).unwrap();
    judge.sending(id(1));
    noticed(
        judge.receipt(id(1), &place("e:0"), true),
        "its place is not",
    );
}

#[test]
fn what_was_answered_and_never_shown_is_noticed() {
    let judge = kept(10);
    judge.look_over(TOPIC, false).unwrap();
    noticed(judge.look_over(TOPIC, true), "nobody was shown it");
}

#[test]
fn what_nobody_sent_is_noticed() {
    let mut judge = kept(10);
    judge.join(TOPIC, Kind::Plain);
    let mut reader = subscribe(&mut judge, &after("e:9"), "e:9", 10, true).unwrap();
    noticed(
        reader.take(&mut judge, &message(10, 12)),
        "what nobody sent",
    );
    let mut changed = message(10, 10);
    changed["data"]["x"] = json!("changed");
    let mut reader = subscribe(&mut judge, &after("e:9"), "e:9", 10, true).unwrap();
    noticed(reader.take(&mut judge, &changed), "was changed");
}

#[test]
fn a_producer_that_is_forgotten_without_damage_is_noticed() {
    let mut judge = kept(10);
    noticed(judge.producer_forgotten(0, 5..=10), "was forgotten");
}

#[test]
fn time_that_goes_back_is_noticed() {
    let mut judge = kept(2);
    let mut reader = subscribe(&mut judge, &From::Earliest, "e:0", 2, false).unwrap();
    reader.take(&mut judge, &message(1, 1)).unwrap();
    let mut earlier = message(2, 2);
    earlier["time"] = json!(0);
    noticed(reader.take(&mut judge, &earlier), "time goes back");
}

#[test]
fn pages_of_history_are_judged_the_same_way() {
    let page = |cursor: &str, caught_up: bool, messages: &[Value]| json!({"cursor": cursor, "caught_up": caught_up, "messages": messages});
    let read = |judge: &mut Judge, after: Option<&str>, page: &Value| {
        let known = judge.known(TOPIC);
        Reader::page(judge, TOPIC, after.map(place).as_ref(), known, page)
    };
    let mut judge = kept(3);
    let right = read(
        &mut judge,
        None,
        &page("e:2", false, &[message(1, 1), message(2, 2)]),
    )
    .unwrap();
    assert_eq!(right, (place("e:2"), false));
    read(
        &mut judge,
        Some("e:2"),
        &page("e:3", true, &[message(3, 3)]),
    )
    .unwrap();

    noticed(
        read(
            &mut judge,
            Some("e:1"),
            &page("e:3", true, &[message(3, 3)]),
        ),
        "a hole that nobody named",
    );
    noticed(
        read(
            &mut judge,
            Some("e:1"),
            &page("e:3", true, &[message(2, 2)]),
        ),
        "ends at e:2, and says e:3",
    );
    noticed(
        read(
            &mut judge,
            Some("e:1"),
            &page("e:2", true, &[message(2, 2)]),
        ),
        "says that it ends at the head",
    );
    noticed(
        read(&mut judge, Some("e:3"), &page("f:3", true, &[])),
        "goes on in epoch f",
    );
    // The same with a gap.
    judge.retention(1);
    let mut with_gap = page("e:3", true, &[message(3, 3)]);
    with_gap["gap"] = gap("expired", 2, 2, "e:2");
    read(&mut judge, Some("e:1"), &with_gap).unwrap();
    with_gap["gap"] = gap("expired", 1, 2, "e:2");
    noticed(
        read(&mut judge, Some("e:1"), &with_gap),
        "a gap that names something else",
    );
}
