// Begins to follow a topic, in this page or in a worker of its own. Leaves the events in `seen`, what became of what it published in `receipts` and
// `failed`, and each state of the connection in `states`; `publish(name, count)` publishes.
import { follow } from "./follow.js";

for (const list of ["seen", "receipts", "failed", "states", "told"]) window[list] = [];
const tell = (list, item) => window[list].push(item);
const type = "module";

const beginners = {
  page(options) {
    const { hark, publish } = follow(options, tell);
    Object.assign(window, { hark, publish });
  },
  worker(options) {
    const worker = new Worker("worker.js", { type });
    speak(worker, worker, options);
  },
  sharedworker(options) {
    const { port } = new SharedWorker("worker.js", { type });
    speak(port, port, options);
  },
  async serviceworker(options) {
    await navigator.serviceWorker.register("worker.js", { type });
    const { active } = await navigator.serviceWorker.ready;
    speak(active, navigator.serviceWorker, options);
    navigator.serviceWorker.startMessages();
    // One that nobody speaks to is ended by the browser.
    setInterval(() => active.postMessage({}), 5_000);
  },
};

function speak(to, from, options) {
  from.onmessage = ({ data }) => tell(...data);
  to.onerror = ({ message }) => tell("failed", String(message));
  to.postMessage({ options });
  window.publish = (...publish) => to.postMessage({ publish });
}

window.begin = (kind, options) => beginners[kind](options);

// What the browser says of its network, and of the page's time in its cache.
for (const kind of ["online", "offline", "pageshow"]) {
  addEventListener(kind, ({ persisted }) => tell("told", persisted ? "restored" : kind));
}
