//! The figures of protocol/README.md, "How a client keeps its connection", as far as a client with one transport goes by them. The page is
//! the rule; the test holds this file to it.

use std::time::Duration;

/// A connection has proven itself when it has served for so long.
pub(crate) const PROOF: Duration = Duration::from_secs(10);
/// The bound of the first wait before another attempt; it doubles with each failure …
pub(crate) const FIRST_WAIT: Duration = Duration::from_millis(250);
/// … up to this while the outage is younger than [`FIRST_MINUTE`] …
pub(crate) const LONGEST_WAIT_IN_THE_FIRST_MINUTE: Duration = Duration::from_secs(5);
/// … and up to this afterwards.
pub(crate) const LONGEST_WAIT: Duration = Duration::from_secs(20);
pub(crate) const FIRST_MINUTE: Duration = Duration::from_secs(60);
/// The most that is waited for because somebody asked for it.
pub const LONGEST_RETRY_AFTER: Duration = Duration::from_secs(300);
/// A command that has no answer for so long makes the client ask whether Hark is there.
pub(crate) const ASK_WHEN_UNANSWERED_FOR: Duration = Duration::from_secs(5);
/// How long the answer to that may take while no byte moves.
pub(crate) const ANSWER_WITHIN: Duration = Duration::from_secs(3);
/// What each address of a name has before the next is tried beside it.
pub(crate) const ADDRESS_HEAD_START: Duration = Duration::from_millis(250);
/// The so-manieth time in a row, a close code that speaks of a broken protocol is final.
pub(crate) const TRIES_BEFORE_A_CLOSE_CODE_IS_FINAL: u32 = 3;
/// So many connections in a row that were lost without bringing something through, and it is stuck.
pub(crate) const LOSSES_BEFORE_STUCK: u32 = 5;
/// How long a stuck subscription is left alone, about.
pub(crate) const STUCK_RETRY: Duration = Duration::from_secs(60);

#[cfg(test)]
mod tests {
    use super::*;

    fn written(value: &str) -> Duration {
        let (number, unit) = value.split_once(' ').unwrap_or((value, "times"));
        let number: u64 = number.parse().unwrap();
        match unit {
            "ms" => Duration::from_millis(number),
            "s" => Duration::from_secs(number),
            other => panic!("{other} is no unit"),
        }
    }

    #[test]
    fn they_are_those_of_the_page() {
        let page = include_str!("../../protocol/README.md");
        let rows = page
            .lines()
            .skip_while(|line| *line != "| figure | value |")
            .skip(2)
            .take_while(|line| line.starts_with('|'));
        let mut seen = 0;
        for row in rows {
            let mut cells = row.split('|').map(str::trim).skip(1);
            let (figure, value) = (cells.next().unwrap(), cells.next().unwrap());
            let here = match figure.trim_matches('`') {
                "proof" => PROOF,
                "first_wait" => FIRST_WAIT,
                "longest_wait_in_the_first_minute" => LONGEST_WAIT_IN_THE_FIRST_MINUTE,
                "longest_wait" => LONGEST_WAIT,
                "longest_retry_after" => LONGEST_RETRY_AFTER,
                "ask_when_unanswered_for" => ASK_WHEN_UNANSWERED_FOR,
                "answer_within" => ANSWER_WITHIN,
                "address_head_start" => ADDRESS_HEAD_START,
                "stuck_retry" => STUCK_RETRY,
                "losses_before_stuck" => {
                    assert_eq!(value, LOSSES_BEFORE_STUCK.to_string());
                    seen += 1;
                    continue;
                }
                "tries_before_a_close_code_is_final" => {
                    assert_eq!(value, TRIES_BEFORE_A_CLOSE_CODE_IS_FINAL.to_string());
                    seen += 1;
                    continue;
                }
                // Of clients that have several transports.
                "losses_before_the_next_transport" | "losses_before_an_event_stream" => continue,
                other => panic!("{other} is nobody's"),
            };
            assert_eq!(written(value), here, "{figure}");
            seen += 1;
        }
        assert_eq!(seen, 11);
    }
}
