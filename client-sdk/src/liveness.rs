//! Whether the other side is there: when it is asked, and when silence is a verdict. Owns "silence is asked about" and "progress is bytes" of
//! protocol/README.md; knows no sockets and no clocks: it is told what moved and what time it is.
//!
//! ```text
//!            nothing came for a heartbeat,                   nothing moved for `ANSWER_WITHIN`
//!            or a command waits for 5 s
//!   quiet ───────────────────────────────► asked ──────────────────────────────────────────► dead
//!     ▲                                     │  ▲ │
//!     └────────────── pong ─────────────────┘  └─┘ a byte moved, or the verdict would come late (the machine slept)
//! ```
//!
//! What lies in the kernel's queue has not left, and on a slow line much may lie there for long. So outgoing bytes count as moving while
//! what was said before the question is on its way, as the kernel tells; once the other side's kernel has that, only what comes counts, or
//! a client that goes on saying things into nothing would never notice. Where the kernel says nothing, as much time is given as a very
//! slow line needs for what may lie there.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::time::Instant;

use crate::clock::{self, Moment};
use crate::figures::{ANSWER_WITHIN, ASK_WHEN_UNANSWERED_FOR};
use crate::kernel::Look;
use crate::stream::Traffic;

/// While an answer is awaited the kernel is looked at so often.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// A verdict that is later than that is not spoken.
const LATE: Duration = Duration::from_secs(1);
/// The slowest line that is thought of where the kernel does not say what has left, and the longest time that is given for it.
const SLOWEST_BYTES_A_SECOND: u64 = 4 * 1024;
const LONGEST_ALLOWANCE: Duration = Duration::from_secs(60);

#[derive(Debug)]
pub(crate) struct Liveness {
    heartbeat: Duration,
    /// When the last byte came.
    heard: Moment,
    traffic: Traffic,
    /// Of what was written, so much is known to have arrived.
    arrived_bytes: u64,
    /// Commands without an answer: when each was said, and how much had been written before.
    commands: BTreeMap<u64, (Instant, u64)>,
    /// The number of the last question.
    asked: u64,
    asked_at: Option<Instant>,
    /// If nothing comes from then on, it is asked then.
    ask_at_the_latest: Option<Instant>,
    question: Option<Question>,
}

#[derive(Debug)]
struct Question {
    number: u64,
    state: State,
    /// The time for the answer counts from here.
    since: Moment,
    look: Option<Look>,
    looked_at: Instant,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// To be written.
    Due,
    /// The kernel has it: it is what ends with this byte.
    Written(u64),
    /// The other side's kernel has it.
    Left,
}

impl Question {
    /// What the kernel says, if it says anything, before the question has left as much as when it lies in its queue.
    fn look_at(&mut self, look: Option<Look>, traffic: Traffic, now: Moment) {
        let Some(look) = look else { return };
        let arrived = (traffic.written_bytes).saturating_sub(look.unacknowledged_bytes);
        if matches!(self.state, State::Written(end) if arrived >= end) {
            self.state = State::Left;
        }
        // With the first look nothing can be compared, but the time that is over says nothing either.
        if self
            .look
            .is_none_or(|before| before.segments_in != look.segments_in)
        {
            self.since = now;
        }
        self.look = Some(look);
    }
}

/// What is to be done about the other side.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    Alive,
    Dead,
}

impl Liveness {
    pub(crate) fn new(heartbeat: Duration, traffic: Traffic, now: Moment) -> Self {
        Self {
            heartbeat,
            heard: now,
            traffic,
            arrived_bytes: 0,
            commands: BTreeMap::new(),
            asked: 0,
            asked_at: None,
            ask_at_the_latest: None,
            question: None,
        }
    }

    pub(crate) fn set_heartbeat(&mut self, heartbeat: Duration) {
        self.heartbeat = heartbeat;
    }

    /// Something is to be heard then, or later.
    pub(crate) fn ask_at_the_latest(&mut self, at: Instant) {
        self.ask_at_the_latest = Some(at);
    }

    /// When the last byte came.
    pub(crate) fn heard(&self) -> Instant {
        self.heard.monotonic
    }

    /// What has moved by now.
    pub(crate) fn moved(&mut self, traffic: Traffic, now: Moment) {
        let came = traffic.read_bytes != self.traffic.read_bytes;
        let drained = traffic.drained_bytes != self.traffic.drained_bytes;
        self.traffic = traffic;
        if came {
            self.heard = now;
            self.ask_at_the_latest
                .take_if(|latest| now.monotonic >= *latest);
        }
        if let Some(question) = &mut self.question
            && (came || drained && question.state != State::Left)
        {
            question.since = now;
        }
    }

    /// The socket is not read, so that nothing can be heard.
    pub(crate) fn not_reading(&mut self, now: Moment) {
        self.heard = now;
        if let Some(question) = &mut self.question {
            question.since = now;
        }
    }

    /// A command was said, and its answer is awaited.
    pub(crate) fn said(&mut self, id: u64, now: Instant) {
        self.commands.insert(id, (now, self.traffic.written_bytes));
    }

    /// The command with that id was answered.
    pub(crate) fn answered(&mut self, id: u64) {
        if let Some((_, written_bytes)) = self.commands.remove(&id) {
            self.arrived_bytes = self.arrived_bytes.max(written_bytes);
        }
    }

    /// When the next question is due, if none waits for its answer.
    fn ask_at(&self) -> Option<Instant> {
        if self.question.is_some() {
            return None;
        }
        let silent = clock::after(self.heard.monotonic, self.heartbeat);
        // Ids grow, so the first was said first.
        let unanswered = self.commands.first_key_value().map(|(_, (said, _))| {
            let from = self.asked_at.map_or(*said, |asked| asked.max(*said));
            from + ASK_WHEN_UNANSWERED_FOR
        });
        let at = unanswered.into_iter().chain(self.ask_at_the_latest);
        Some(at.fold(silent, Instant::min))
    }

    /// The number of the question that is to be written now. It is asked again for as long as it is not [`written`](Self::written).
    pub(crate) fn next_question(&mut self, now: Moment) -> Option<u64> {
        let slept = now.since(self.heard) >= self.heartbeat;
        if self.ask_at().is_some_and(|at| now.monotonic >= at || slept) {
            self.ask(now);
        }
        let question = self.question.as_ref()?;
        (question.state == State::Due).then_some(question.number)
    }

    fn ask(&mut self, now: Moment) {
        self.asked += 1;
        self.asked_at = Some(now.monotonic);
        self.question = Some(Question {
            number: self.asked,
            state: State::Due,
            since: now,
            look: None,
            looked_at: now.monotonic,
        });
    }

    /// The question lies in the kernel, and nothing behind it.
    pub(crate) fn written(&mut self, traffic: Traffic, look: Option<Look>, now: Moment) {
        self.moved(traffic, now);
        if let Some(question) = &mut self.question {
            question.state = State::Written(traffic.written_bytes);
            question.since = now;
            question.look = look;
            question.looked_at = now.monotonic;
        }
    }

    /// A pong came, with what the ping had said.
    pub(crate) fn pong(&mut self, payload: &[u8]) {
        if let Some(question) = &self.question
            && payload == question.number.to_be_bytes()
        {
            if let State::Written(bytes) = question.state {
                self.arrived_bytes = self.arrived_bytes.max(bytes);
            }
            self.question = None;
        }
    }

    /// When [`judge`](Self::judge) or [`next_question`](Self::next_question) is to be called at the latest.
    pub(crate) fn next_wakeup(&self, now: Instant) -> Option<Instant> {
        match &self.question {
            None => self.ask_at(),
            Some(question) => {
                let judged = question.since.monotonic + self.patience(question);
                let look = (question.looked_at + LOOK_EVERY).max(now);
                Some(match question.state {
                    State::Left => judged,
                    State::Due | State::Written(_) => judged.min(look),
                })
            }
        }
    }

    /// How long nothing may move.
    fn patience(&self, question: &Question) -> Duration {
        match (question.state, question.look) {
            (State::Left, _) | (_, Some(_)) => ANSWER_WITHIN,
            (State::Due | State::Written(_), None) => {
                let may_lie_there = self.traffic.written_bytes - self.arrived_bytes;
                let allowance = Duration::from_secs(may_lie_there / SLOWEST_BYTES_A_SECOND);
                ANSWER_WITHIN + allowance.min(LONGEST_ALLOWANCE)
            }
        }
    }

    /// Whether the time for the answer is over. `look` asks the kernel.
    pub(crate) fn judge(&mut self, now: Moment, look: impl FnOnce() -> Option<Look>) -> Verdict {
        let Some(question) = &mut self.question else {
            return Verdict::Alive;
        };
        if question.state != State::Left && now.monotonic >= question.looked_at + LOOK_EVERY {
            question.looked_at = now.monotonic;
            question.look_at(look(), self.traffic, now);
        }
        let (since, number) = (question.since, question.number);
        let patience = match &self.question {
            Some(question) => self.patience(question),
            None => return Verdict::Alive,
        };
        // The larger of what two clocks say finds that somebody slept, and nothing else: one of them may be set.
        let over = now.since(since);
        if over >= patience + LATE {
            tracing::debug!(
                number,
                ?over,
                "nobody was awake to hear the answer: asking again"
            );
            self.ask(now);
            return Verdict::Alive;
        }
        let waited = now.monotonic.saturating_duration_since(since.monotonic);
        match waited >= patience {
            true => Verdict::Dead,
            false => Verdict::Alive,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Clock;

    const HEARTBEAT: Duration = Duration::from_secs(25);
    const MS: Duration = Duration::from_millis(1);
    const SECOND: Duration = Duration::from_secs(1);

    /// A line with its clock, its bytes and its kernel.
    struct Line {
        clock: Clock,
        live: Liveness,
        traffic: Traffic,
        look: Option<Look>,
        dead: bool,
        pings: Vec<u64>,
        start: Instant,
    }

    impl Line {
        fn new(look: Option<Look>) -> Self {
            let clock = Clock::given();
            let now = clock.now();
            Self {
                live: Liveness::new(HEARTBEAT, Traffic::default(), now),
                clock,
                traffic: Traffic::default(),
                look,
                dead: false,
                pings: Vec::new(),
                start: now.monotonic,
            }
        }

        /// On a system where the kernel tells.
        fn told() -> Self {
            Self::new(Some(Look {
                unacknowledged_bytes: 0,
                segments_in: 1,
            }))
        }

        fn seconds(&self) -> f64 {
            (self.clock.now().monotonic - self.start).as_secs_f64()
        }

        /// What the client's task does in a turn.
        fn turn(&mut self) {
            let now = self.clock.now();
            self.live.moved(self.traffic, now);
            if let Some(number) = self.live.next_question(now) {
                self.pings.push(number);
                self.write(6);
                self.live.written(self.traffic, self.look, now);
            }
            let look = self.look;
            self.dead |= self.live.judge(now, || look) == Verdict::Dead;
        }

        fn write(&mut self, bytes: u64) {
            self.traffic.written_bytes += bytes;
            if let Some(look) = &mut self.look {
                look.unacknowledged_bytes += bytes;
            }
        }

        /// The other side's kernel has them.
        fn acknowledge(&mut self, bytes: u64) {
            let look = self.look.as_mut().unwrap();
            look.unacknowledged_bytes = look.unacknowledged_bytes.saturating_sub(bytes);
            look.segments_in += 1;
        }

        /// Time passes, in small steps in which `happens` happens, until the verdict, if that comes first.
        fn pass(&mut self, time: Duration, mut happens: impl FnMut(&mut Self)) {
            let mut left = time;
            while !left.is_zero() && !self.dead {
                let step = left.min(100 * MS);
                self.clock.advance(step, step.as_millis() as i64);
                left -= step;
                happens(self);
                self.turn();
            }
        }

        fn say(&mut self, id: u64, bytes: u64) {
            let now = self.clock.now();
            self.live.said(id, now.monotonic);
            self.write(bytes);
            self.turn();
        }

        fn pong(&mut self) {
            self.traffic.read_bytes += 10;
            self.live.moved(self.traffic, self.clock.now());
            let number = *self.pings.last().unwrap();
            self.live.pong(&number.to_be_bytes());
        }
    }

    #[test]
    fn a_quiet_line_is_asked_after_a_heartbeat_and_judged_three_seconds_later() {
        for mut line in [Line::told(), Line::new(None)] {
            line.pass(HEARTBEAT - 100 * MS, |_| {});
            assert!(line.pings.is_empty());
            line.pass(100 * MS, |_| {});
            assert_eq!(line.pings, [1]);
            line.pass(60 * SECOND, |_| {});
            assert!(line.dead && line.pings == [1]);
            assert!(line.seconds() < 28.2, "{}", line.seconds());
            assert!(line.seconds() >= 28.0);
        }
    }

    #[test]
    fn what_comes_keeps_it_quiet_and_an_answer_makes_it_so() {
        let mut line = Line::told();
        line.pass(600 * SECOND, |line| line.traffic.read_bytes += 1);
        assert!(!line.dead && line.pings.is_empty());
        line.pass(HEARTBEAT + SECOND, |_| {});
        assert_eq!(line.pings, [1]);
        line.pong();
        line.pass(HEARTBEAT - SECOND, |_| {});
        assert!(!line.dead && line.pings == [1]);
    }

    #[test]
    fn an_unanswered_command_is_asked_about_each_five_seconds() {
        let mut line = Line::told();
        line.pass(SECOND, |line| line.traffic.read_bytes += 1);
        line.say(7, 100);
        line.acknowledge(100);
        // Hark is there, but its log is slow.
        for asked in 1..=4 {
            line.pass(5 * SECOND - 100 * MS, |_| {});
            assert_eq!(line.pings.len(), asked - 1);
            line.pass(100 * MS, |_| {});
            assert_eq!(line.pings.len(), asked);
            line.acknowledge(6);
            line.pong();
        }
        line.live.answered(7);
        line.pass(HEARTBEAT - SECOND, |_| {});
        assert_eq!(line.pings.len(), 4);
    }

    #[test]
    fn a_publisher_notices_within_eight_seconds_though_it_goes_on_saying_things() {
        let mut line = Line::told();
        line.pass(SECOND, |line| line.traffic.read_bytes += 1);
        let start = line.seconds();
        let mut id = 0;
        line.pass(60 * SECOND, |line| {
            id += 1;
            line.live.said(id, line.clock.now().monotonic);
            line.write(1_000); // into nothing
        });
        assert!(line.dead);
        let took = line.seconds() - start;
        assert!((8.0..8.5).contains(&took), "{took}");
    }

    /// Also where the first kernel on the way takes everything and says so.
    #[test]
    fn a_swallowing_proxy_is_noticed_though_it_acknowledges() {
        let mut line = Line::told();
        let mut id = 0;
        line.pass(60 * SECOND, |line| {
            id += 1;
            line.live.said(id, line.clock.now().monotonic);
            line.write(1_000);
            line.acknowledge(u64::MAX);
        });
        assert!(line.dead);
        assert!(line.seconds() < 10.0, "{}", line.seconds());
    }

    /// 900 KB lie in the kernel's queue, and the line takes 12 KB a second of them; what has left is acknowledged.
    #[test]
    fn a_large_message_on_a_slow_line_is_no_silence() {
        let mut line = Line::told();
        line.say(1, 900_000);
        line.pass(75 * SECOND, |line| line.acknowledge(1_200));
        assert!(!line.dead);
        // Everything has left. From here on the time for the answer counts.
        line.acknowledge(u64::MAX);
        line.turn();
        let left = line.seconds();
        line.pass(10 * SECOND, |_| {});
        assert!(line.dead);
        assert!(
            (3.0..4.2).contains(&(line.seconds() - left)),
            "{}",
            line.seconds() - left
        );
    }

    /// What was lost is sent again behind a router's long queue: for long the same bytes are missing, but the acknowledgements go on.
    #[test]
    fn acknowledgements_that_do_not_grow_are_signs_of_life() {
        let mut line = Line::told();
        line.say(1, 900_000);
        line.pass(40 * SECOND, |line| line.acknowledge(0));
        assert!(!line.dead);
    }

    #[test]
    fn where_the_kernel_says_nothing_a_slow_line_has_its_time() {
        let mut line = Line::new(None);
        line.say(1, 200_000);
        line.pass(5 * SECOND, |_| {});
        assert_eq!(line.pings, [1]);
        line.pass(200_000 / 12_000 * SECOND, |_| {}); // with bytes that the kernel took at once
        assert!(!line.dead);
        line.pong();
        line.live.answered(1);
        // That has arrived, and no longer gives time to what comes after.
        line.pass(HEARTBEAT, |_| {});
        assert_eq!(line.pings, [1, 2]);
        line.pass(4 * SECOND, |_| {});
        assert!(line.dead);
        // A dead line is noticed in the end.
        let mut line = Line::new(None);
        line.say(1, 900_000_000);
        line.pass(600 * SECOND, |_| {});
        assert!(line.dead && line.seconds() < 69.0, "{}", line.seconds());
    }

    #[test]
    fn bytes_of_a_message_that_is_coming_give_the_answer_its_time_anew() {
        let mut line = Line::told();
        line.say(1, 50);
        line.acknowledge(50);
        // 900 KB of 12 KB a second, and the answer behind them.
        line.pass(75 * SECOND, |line| line.traffic.read_bytes += 1_200);
        assert!(!line.dead);
        assert_eq!(line.pings, [1], "one question waits");
        line.pass(4 * SECOND, |_| {});
        assert!(line.dead);
    }

    #[test]
    fn a_verdict_that_comes_late_is_not_spoken_and_asks_once_more() {
        let mut line = Line::told();
        line.pass(HEARTBEAT + SECOND, |_| {});
        assert_eq!(line.pings, [1]);
        line.clock.advance(MS, 3_600_000); // the machine slept, and its own clock with it
        line.turn();
        line.turn();
        assert!(!line.dead);
        assert_eq!(line.pings, [1, 2]);
        line.pass(2 * SECOND, |_| {});
        assert!(!line.dead);
        line.pass(2 * SECOND, |_| {});
        assert!(line.dead);
        // A process that stood still notices by the clock that went on.
        let mut line = Line::told();
        line.pass(HEARTBEAT, |_| {});
        line.clock.advance(3_600 * SECOND, 0);
        line.turn();
        assert!(!line.dead);
    }

    #[test]
    fn a_machine_that_slept_asks_at_once_and_one_whose_clock_is_set_back_as_ever() {
        let mut line = Line::told();
        line.clock.advance(SECOND, 3_600_000);
        line.turn();
        assert_eq!(line.pings, [1]);
        let mut line = Line::told();
        line.clock.advance(Duration::ZERO, -3_600_000);
        line.pass(60 * SECOND, |_| {});
        assert!(line.dead && line.seconds() < 28.2);
    }

    #[test]
    fn a_clock_that_is_set_takes_nothing_of_the_time_for_the_answer() {
        let mut line = Line::told();
        line.pass(HEARTBEAT, |_| {});
        assert_eq!(line.pings, [1]);
        line.clock.advance(100 * MS, 3_500); // set ahead, by less than what looks like a sleep
        line.turn();
        assert!(!line.dead);
        line.pass(10 * SECOND, |_| {});
        assert!(line.dead && line.seconds() >= 28.0);
    }

    #[test]
    fn something_is_heard_by_the_time_at_which_it_is_to_be_heard() {
        for came in [9 * SECOND, 10 * SECOND] {
            let mut line = Line::told();
            line.live.ask_at_the_latest(line.start + 10 * SECOND);
            line.pass(12 * SECOND, |line| {
                let comes = line.clock.now().monotonic == line.start + came;
                line.traffic.read_bytes += u64::from(comes);
            });
            assert_eq!(line.pings.len(), usize::from(came < 10 * SECOND));
        }
    }

    #[test]
    fn a_socket_that_is_not_read_is_not_judged() {
        let mut line = Line::told();
        line.pass(600 * SECOND, |line| line.live.not_reading(line.clock.now()));
        assert!(!line.dead && line.pings.is_empty());
    }
}
