// A dedicated, a shared and a service worker that follows a topic for the pages that speak to it.
import { follow } from "./follow.js";

const pages = new Set();
let follower;

function hear(page, { options, publish }) {
  if (options) {
    pages.add(page);
    follower ??= follow(options, (list, item) => {
      for (const each of pages) each.postMessage([list, item]);
    });
  }
  if (publish) follower.publish(...publish);
}

self.onmessage = ({ data, source }) => hear(source ?? self, data);
self.onconnect = ({ ports: [port] }) => (port.onmessage = ({ data }) => hear(port, data));
self.oninstall = () => self.skipWaiting();
