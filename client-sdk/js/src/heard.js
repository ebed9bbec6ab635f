// @ts-check
// What Hark says of messages and subscriptions, handed on to those whom it is for. Owns which frame is for the outbox and which for the
// inbox; what a frame says of the connection itself is for the client.

/**
 * @param {any} frame
 * @param {number} size
 * @param {import("./inbox.js").Inbox} inbox
 * @param {import("./outbox.js").Outbox} outbox
 * @returns {unknown}
 */
export const handOn = (frame, size, inbox, outbox) => {
  switch (frame.type) {
    case "message":
      return inbox.message(frame, size);
    case "published":
      return outbox.published(frame);
    case "published_all":
      return outbox.publishedAll(frame);
    case "subscribed":
      return inbox.subscribed(frame);
    case "unsubscribed":
      return inbox.unsubscribed(frame);
    case "caught_up":
      return inbox.caughtUp(frame);
    case "lagging":
      return inbox.lagging(frame);
    case "gap":
      return inbox.gap(frame);
    case "error":
      return inbox.refused(frame) || outbox.refused(frame);
  }
  // What is not known comes of a newer Hark.
};
