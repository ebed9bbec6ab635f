// @ts-check
// The figures of protocol/README.md, "How a client keeps its connection", by the names they have there: the same in every client,
// and a test compares them with that page.

export const PROOF_MS = 10_000;
export const FIRST_WAIT_MS = 250;
export const LONGEST_WAIT_IN_THE_FIRST_MINUTE_MS = 5000;
export const LONGEST_WAIT_MS = 20_000;
export const LONGEST_RETRY_AFTER_MS = 300_000;
export const ASK_WHEN_UNANSWERED_FOR_MS = 5000;
export const ANSWER_WITHIN_MS = 3000;
export const LOSSES_BEFORE_THE_NEXT_TRANSPORT = 2;
export const LOSSES_BEFORE_AN_EVENT_STREAM = 2;
export const LOSSES_BEFORE_STUCK = 5;
export const STUCK_RETRY_MS = 60_000;
export const TRIES_BEFORE_A_CLOSE_CODE_IS_FINAL = 3;
