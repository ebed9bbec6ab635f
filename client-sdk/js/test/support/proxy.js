// A proxy in front of a broker that can be as unkind as proxies are: refuse WebSockets, swallow them, hold streams back, cut
// what is under way.

import http from "node:http";
import net from "node:net";

export class Proxy {
  /** What becomes of WebSockets: pass, refuse (with 400), swallow (no answer). */
  websockets = "pass";
  /** Keep the bodies of event streams until they end. */
  holdsStreams = false;
  /** Requests that came, as `METHOD /path`. */
  requests = [];
  #sockets = new Set();
  #server;

  static async start(base) {
    const proxy = new Proxy();
    const target = new URL(base);
    proxy.#server = http.createServer((request, response) => {
      proxy.requests.push(`${request.method} ${request.url}`);
      const { method, url: path, headers } = request;
      const onward = http.request({ host: target.hostname, port: target.port, method, path, headers }, (answer) => {
        const holds = proxy.holdsStreams && /event-stream/.test(answer.headers["content-type"] ?? "");
        if (holds) return answer.resume();
        response.writeHead(answer.statusCode, answer.headers);
        answer.pipe(response);
        answer.on("error", () => response.destroy());
      });
      onward.on("error", () => response.destroy());
      response.on("close", () => onward.destroy());
      request.pipe(onward);
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
