// A window for frameworks that mount, of jsdom's. Imported first, before what looks for one.
import { JSDOM } from "jsdom";

const { window } = new JSDOM('<!doctype html><div id="app"></div>', { url: "http://localhost/", pretendToBeVisual: true });
for (const name of ["window", "document", "location", "Node", "Text", "Comment", "Element", "HTMLElement", "SVGElement", "ShadowRoot", "MutationObserver"])
  globalThis[name] = window[name];
