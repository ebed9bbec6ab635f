// A proxy in front of a broker that can be as unkind as proxies and lines are: refuse WebSockets, swallow them, hold streams
// back, answer with pages of its own, let bodies die, let through only so many bytes a second, cut what is under way.

import http from "node:http";
import net from "node:net";

export class Proxy {
  /** What becomes of WebSockets: pass, refuse (with 400), swallow (no answer). */
  websockets = "pass";
  /** Keep the bodies of event streams until they end. */
  holdsStreams = false;
  /** Answers in the broker's place, if it returns true. @type {(request: http.IncomingMessage, response: http.ServerResponse) => boolean} */
  intercept = () => false;
  /** How many bytes of its answer's body a request gets; then nothing comes, and nothing ends. @type {(request: http.IncomingMessage) => number} */
  passesBytes = () => Infinity;
  /** In each direction of each request. */
  bytesPerSecond = Infinity;
  /** Requests that came, as `METHOD /path`. */
  requests = [];
  #sockets = new Set();
  #server;

  static async start(base) {
    const proxy = new Proxy();
    const target = new URL(base);
    proxy.#server = http.createServer((request, response) => {
      proxy.requests.push(`${request.method} ${request.url}`);
      if (proxy.intercept(request, response)) return request.resume();
      const { method, url: path, headers } = request;
      const onward = http.request({ host: target.hostname, port: target.port, method, path, headers }, (answer) => {
        const holds = proxy.holdsStreams && /event-stream/.test(answer.headers["content-type"] ?? "");
        if (holds) return answer.resume();
        response.writeHead(answer.statusCode, answer.headers);
        pass(answer, response, proxy.bytesPerSecond, proxy.passesBytes(request)).catch(() => response.destroy());
      });
      onward.on("error", () => response.destroy());
      response.on("close", () => onward.destroy());
      pass(request, onward, proxy.bytesPerSecond, Infinity).catch(() => onward.destroy());
    });
    proxy.#server.on("upgrade", (request, socket, head) => {
      proxy.requests.push(`UPGRADE ${request.url}`);
      if (proxy.websockets === "refuse") return socket.end("HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n");
      if (proxy.websockets === "swallow") return;
      const onward = net.connect(target.port, target.hostname, () => {
        const lines = [`GET ${request.url} HTTP/1.1`];
        for (let at = 0; at < request.rawHeaders.length; at += 2)
          lines.push(`${request.rawHeaders[at]}: ${request.rawHeaders[at + 1]}`);
        onward.write(`${lines.join("\r\n")}\r\n\r\n`);
        onward.write(head);
        onward.pipe(socket).pipe(onward);
      });
      onward.on("error", () => socket.destroy());
      onward.on("close", () => socket.destroy());
      socket.on("error", () => onward.destroy());
      socket.on("close", () => onward.destroy());
    });
    proxy.#server.on("connection", (socket) => {
      proxy.#sockets.add(socket);
      socket.on("close", () => proxy.#sockets.delete(socket));
    });
    await new Promise((resolve) => proxy.#server.listen(0, "127.0.0.1", resolve));
    proxy.url = `http://127.0.0.1:${proxy.#server.address().port}`;
    return proxy;
  }

  /** Cuts every connection. */
  cut() {
    for (const socket of this.#sockets) socket.destroy();
  }

  async close() {
    const closed = new Promise((resolve) => this.#server.close(resolve));
    this.cut();
    await closed;
  }
}

const SLICES_PER_SECOND = 20;

/**
 * Passes a body on, at most so many bytes a second, and so many at all.
 *
 * @param {import("node:stream").Readable} from
 * @param {import("node:stream").Writable} to
 */
const pass = async (from, to, bytesPerSecond, most) => {
  const slice = bytesPerSecond / SLICES_PER_SECOND;
  for await (const piece of from) {
    for (let at = 0; at < piece.length && most > 0; at += slice) {
      const part = piece.subarray(at, Math.min(at + slice, at + most));
      most -= part.length;
      to.write(part);
      if (slice < Infinity) await new Promise((resolve) => setTimeout(resolve, 1000 / SLICES_PER_SECOND));
    }
    if (most <= 0) return;
  }
  to.end();
};
