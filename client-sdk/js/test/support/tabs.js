// The pages of an origin in one browser: they share six connections, and locks if they have them. Each page is a line of its own.

/** `navigator.locks`, as far as it is used: exclusive locks in the order they were asked for. */
export const fakeLocks = () => {
  const queues = new Map();
  const grantNext = (name) => {
    const queue = queues.get(name);
    const [first] = queue;
    if (!first || first.isHeld) return;
    first.isHeld = true;
    const release = () => {
      queue.splice(queue.indexOf(first), 1);
      grantNext(name);
    };
    Promise.resolve()
      .then(() => first.work({ name, mode: "exclusive" }))
      .then(first.resolve, first.reject)
      .finally(release);
  };
  return {
    request: async (name, options, work) => {
      // The browser answers later.
      await undefined;
      options.signal?.throwIfAborted();
      const queue = queues.get(name) ?? [];
      queues.set(name, queue);
      if (options.ifAvailable && queue.length) return work(null);
      return new Promise((resolve, reject) => {
        const entry = { work, resolve, reject, isHeld: false };
        queue.push(entry);
        options.signal?.addEventListener("abort", () => {
          if (entry.isHeld) return;
          queue.splice(queue.indexOf(entry), 1);
          reject(options.signal.reason);
        });
        grantNext(name);
      });
    },
    held: () => [...queues].filter(([, queue]) => queue.some(({ isHeld }) => isHeld)).map(([name]) => name),
  };
};

/** A `fetch` with six connections (or fewer, where others hold some), each taken until its answer has been read to the end or was aborted. */
export const connections = (fetch, most = 6) => {
  const pool = { busy: 0, most: 0, waiting: [] };
  const next = () => {
    while (pool.busy < most && pool.waiting.length) pool.waiting.shift()();
  };
  const free = () => {
    pool.busy--;
    next();
  };
  pool.fetch = async (url, init) => {
    const { signal } = init;
    await new Promise((resolve, reject) => {
      const go = () => {
        pool.busy++;
        pool.most = Math.max(pool.most, pool.busy);
        resolve();
      };
      pool.waiting.push(go);
      signal.addEventListener("abort", () => {
        const at = pool.waiting.indexOf(go);
        if (at >= 0) pool.waiting.splice(at, 1);
        reject(new DOMException("aborted", "AbortError"));
      });
      next();
    });
    let isFree = false;
    const done = () => {
      if (isFree) return;
      isFree = true;
      free();
    };
    signal.addEventListener("abort", done);
    try {
      const response = await fetch(url, init);
      const watched = response.body.pipeThrough(new TransformStream({ flush: done }));
      return new Response(watched, { status: response.status, headers: response.headers });
    } catch (error) {
      done();
      throw error;
    }
  };
  return pool;
};

/** `BroadcastChannel`, as far as it is used. */
export const fakeChannels = () => {
  const channels = new Set();
  return class {
    constructor(name) {
      this.name = name;
      channels.add(this);
    }
    postMessage(data) {
      for (const other of channels)
        if (other !== this && other.name === this.name) queueMicrotask(() => other.onmessage?.({ data }));
    }
    close() {
      channels.delete(this);
    }
  };
};

/** Makes this a page: it has an address, and what else a browser gives it, or not. */
export const beAPage = (t, { locks, BroadcastChannel } = {}) => {
  const globals = {
    location: { origin: "http://hark.test", href: "http://hark.test/" },
    navigator: { locks },
    BroadcastChannel,
  };
  for (const [name, value] of Object.entries(globals)) {
    const before = Object.getOwnPropertyDescriptor(globalThis, name);
    Object.defineProperty(globalThis, name, { value, configurable: true, writable: true });
    t.after(() => (before ? Object.defineProperty(globalThis, name, before) : delete globalThis[name]));
  }
};
