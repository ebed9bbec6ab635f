// The real broker, named by HARK_BIN, with a folder and a port of its own. It can be killed and started again on both.

import { spawn } from "node:child_process";
import { existsSync, mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";

export class Broker {
  #folder = mkdtempSync(join(tmpdir(), "hark-js-"));
  #process;
  #log = "";
  #arguments;
  /** `http://host:port` */
  url = "";

  static async start(...more) {
    const broker = new Broker();
    broker.#arguments = more;
    await broker.#spawn("127.0.0.1:0");
    return broker;
  }

  async #spawn(listen) {
    const program = process.env.HARK_BIN;
    if (!program || !existsSync(program)) {
      throw new Error(
        `HARK_BIN must name the broker to test with (cargo build --release makes target/release/hark), not ${program}`,
      );
    }
    const child = spawn(program, ["serve", "--listen", listen, "--data-dir", this.#folder, ...this.#arguments], {
      stdio: ["ignore", "pipe", "pipe"],
    });
    this.#process = child;
    child.stderr.on("data", (text) => (this.#log += text));
    this.url = await new Promise((resolve, reject) => {
      let said = "";
      child.stdout.on("data", (text) => {
        said += text;
        const found = /http:\/\/[\w.:]+/.exec(said);
        if (found) resolve(found[0]);
      });
      child.once("exit", (code) => reject(new Error(`the broker ended with ${code} before it served: ${this.#log}`)));
    });
  }

  /** kill -9 */
  async kill() {
    await this.#end("SIGKILL");
  }

  /** Asks it to end, and waits. */
  async stop() {
    await this.#end("SIGTERM");
  }

  async #end(signal) {
    const child = this.#process;
    if (child.exitCode !== null || child.signalCode !== null) return;
    const gone = new Promise((resolve) => child.once("exit", resolve));
    child.kill(signal);
    await gone;
  }

  /** On the same folder and port. */
  async restart() {
    await this.#spawn(new URL(this.url).host);
  }

  async delete() {
    await this.kill();
    rmSync(this.#folder, { recursive: true });
  }

  /** Publishes all of these without the client, in one request. */
  async publishMany(topic, all) {
    const response = await fetch(`${this.url}/v1/messages`, {
      method: "POST",
      headers: { "content-type": "application/x-ndjson" },
      body: all.map((data, id) => JSON.stringify({ id, topic, data })).join("\n"),
    });
    const answers = (await response.text()).trim().split("\n");
    const failed = answers.filter((line) => !JSON.parse(line).cursor);
    if (failed.length || answers.length !== all.length) throw new Error(`${answers.length} answers, of them ${failed}`);
  }

  /** Publishes without the client. */
  async publish(topic, data) {
    const response = await fetch(`${this.url}/v1/topics/${topic}/messages`, {
      method: "POST",
      headers: { "content-type": "application/json" },
      body: JSON.stringify(data),
    });
    if (!response.ok) throw new Error(`${response.status}: ${await response.text()}`);
    return response.json();
  }

  /** All that is kept of a topic, in its order. */
  async history(topic) {
    const kept = [];
    for (let query = "from=earliest"; ;) {
      const response = await fetch(`${this.url}/v1/topics/${topic}/messages?limit=1000&${query}`);
      const page = await response.json();
      kept.push(...page.messages.map(({ data }) => data));
      if (page.caught_up) return kept;
      query = `after=${page.cursor}`;
    }
  }
}
