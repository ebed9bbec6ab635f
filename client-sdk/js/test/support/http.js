// A `fetch` whose other end is the test, and a line over it: what is asked is seen, and answered as the test likes.

/** @param {unknown} body */
export const json = (body, status = 200, headers = {}) =>
  new Response(JSON.stringify(body), { status, headers: { "content-type": "application/json", ...headers } });

export const refusal = (status, code, headers) => json({ code, message: `says ${code}` }, status, headers);

export const html = (status = 200, headers = {}) =>
  new Response("<!doctype html>\n<h1>Please sign in</h1>\n", {
    status,
    headers: { "content-type": "text/html", ...headers },
  });

/** Hark's answer to a request that publishes nothing. */
export const nothing = () => new Response("", { headers: { "content-type": "application/x-ndjson" } });

/** Receipts for all that a request publishes. */
export const receipts = ({ body }) =>
  body === ""
    ? nothing()
    : new Response(
        body
          .split("\n")
          .map((line) => JSON.parse(line))
          .map(({ id, topic, seq = id }) => `${JSON.stringify({ id, topic, cursor: `e:${seq}`, duplicate: false })}\n`)
          .join(""),
        { headers: { "content-type": "application/x-ndjson" } },
      );

export const welcome = {
  type: "welcome",
  session: "s1",
  version: "1.2.3",
  heartbeat_ms: 25_000,
  max_message_bytes: 1 << 20,
  max_inflight: 1024,
};

/** A body that the test writes. */
export const streamed = (type, status = 200) => {
  const stream = { cancelled: false };
  const body = new ReadableStream({
    start: (controller) => (stream.controller = controller),
    cancel: () => void (stream.cancelled = true),
  });
  stream.response = new Response(body, { status, headers: { "content-type": type } });
  stream.write = (text) => stream.cancelled || stream.controller.enqueue(new TextEncoder().encode(text));
  stream.end = () => stream.controller.close();
  return stream;
};

/** An event stream that the test writes. */
export const eventStream = () => {
  const stream = streamed("text/event-stream");
  stream.say = (frame, event) =>
    stream.write(`${event ? `event: ${event}\n` : ""}id: x\ndata: ${JSON.stringify(frame)}\n\n`);
  /** Where one topic or several start. */
  stream.begin = (...topics) => {
    stream.say(welcome, "welcome");
    for (const topic of topics) stream.say({ type: "subscribed", topic, cursor: "e:0", head: 0, resumed: false });
  };
  return stream;
};

export const page = (topic, ...messages) => ({
  topic,
  messages: messages.map((data, at) => ({ type: "message", topic, offset: at + 1, time: 1, data })),
  cursor: `e:${messages.length}`,
  caught_up: true,
});
export const pages = (...pages) => json({ pages, cursor: "c" });

/**
 * A `fetch` that keeps what it was asked, and is answered by `answer.get` and `answer.post`; without an answer a request hangs
 * until it is aborted.
 */
export const scriptedFetch = (answer) => {
  const requests = [];
  const fetch = (url, init) => {
    const { method = "GET", body, headers, signal } = init;
    const { pathname, searchParams: query } = new URL(url);
    const request = { method, pathname, query, body, headers, signal, init };
    requests.push(request);
    return new Promise((resolve, reject) => {
      const abort = () => reject(new DOMException("aborted", "AbortError"));
      if (signal.aborted) return abort();
      signal.addEventListener("abort", abort);
      Promise.resolve(answer[method.toLowerCase()]?.(request, requests.length) ?? new Promise(() => {})).then(
        resolve,
        reject,
      );
    });
  };
  return { fetch, requests };
};

/** A line that says `wanted` as soon as it may. */
export const openLine = (t, open, answer, wanted = () => {}, dial = {}) => {
  const { fetch, requests } = scriptedFetch(answer);
  const heard = [];
  const told = { ready: 0, opened: [], lost: [] };
  const line = open(
    { base: "http://hark.test", token: undefined, WebSocket: undefined, fetch, patienceMs: 6000, ...dial },
    {
      ready: () => {
        told.ready++;
        wanted(line);
      },
      open: (version) => told.opened.push(version),
      hear: (frame) => heard.push(frame),
      alive: () => {},
      lost: (loss) => told.lost.push(loss),
    },
  );
  t.after(() => line.close());
  return { line, requests, heard, told };
};

export const subscribe = (topic, from = "now", id = 1) => ({ type: "subscribe", id, topic, from });
