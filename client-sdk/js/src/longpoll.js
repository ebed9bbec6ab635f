// @ts-check
// A line that reads page by page, where nothing else gets through. Owns nothing: pages are `pages.js`, and the rest is as for
// event streams.

import { HttpLine } from "./http.js";
import { readPages } from "./pages.js";

/** @type {import("./line.js").Open} */
export const openLongPoll = (dial, listener) => new HttpLine(dial, listener, readPages);
