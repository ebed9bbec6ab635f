// What any runtime is to do with the client, whichever it is: connect by each transport it has, subscribe, publish, receive, come back after the broker
// has been started again, and close. Asks nothing of a runtime but what the client asks.

/**
 * @param {object} how
 * @param {typeof import("../hark.js").connect} how.connect
 * @param {any} [how.WebSocket] for a runtime without one
 * @param {string} how.url the broker's
 * @param {() => Promise<void>} how.restart starts the broker again
 * @param {import("../hark.js").Transport[]} [how.transports] those it has
 * @returns {Promise<string[]>} the transports that did it
 */
export async function smoke({ connect, WebSocket = globalThis.WebSocket, url, restart, transports }) {
  transports ??= [...(WebSocket ? ["websocket"] : []), ...(globalThis.fetch ? ["sse", "longpoll"] : [])];
  for (const transport of transports) await live(connect({ url, WebSocket, transports: [transport] }), transport, restart);
  return transports;
}

const SENT = [{ any: "json", n: 1 }, "a text ☃", new Uint8Array([0, 1, 254, 255]), null];

async function live(hark, transport, restart) {
  const topic = `smoke.${transport}`;
  const events = hark.subscribe(topic, { from: "earliest" });
  const received = [];
  const receive = async () => {
    for (let left = SENT.length; left; ) {
      const { value } = await events.next();
      if (value.type === "gap") throw new Error(`a gap: ${value.reason}`);
      if (value.type === "message" && left--) received.push(value.data);
    }
  };
  const publish = () =>
    Promise.all(SENT.map((data) => hark.publish(topic, data, typeof data === "string" ? { contentType: "text/plain" } : {})));

  const first = await publish();
  await receive();
  if (hark.state !== "open" || hark.transport !== transport) throw new Error(`${hark.state} by ${hark.transport}, not ${transport}`);
  await restart();
  const second = await publish();
  await receive();
  hark.close();

  const expected = JSON.stringify([...SENT, ...SENT].map(plain));
  if (JSON.stringify(received.map(plain)) !== expected) throw new Error(`received ${JSON.stringify(received)}`);
  const offsets = [...first, ...second].map(({ cursor }) => +cursor.split(":")[1]);
  if (offsets.join() !== "1,2,3,4,5,6,7,8") throw new Error(`kept at ${offsets}`);
}

const plain = (data) => (data instanceof Uint8Array ? { bytes: [...data] } : data);

/** Starts the broker again by a POST to this URL. */
export const restartBy = (url, fetch = globalThis.fetch) => async () => {
  const answer = await fetch(url, { method: "POST" });
  if (!answer.ok) throw new Error(await answer.text());
};
